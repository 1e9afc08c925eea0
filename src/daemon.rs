//! The house put together: threads spawned and joined, supervision, drain.
//!
//! Promises: every database is checked before anything is relayed; a thread that fails stops the daemon loudly, rows untouched;
//! a drain ends within its time. Does not know: SQL, Kafka, what an event is.

mod error;
mod goodbye;
mod limits;
mod output;
pub mod signals;
mod start;
mod supervise;
pub mod wiring;

pub use error::DaemonError;

use crate::config::Config;
use crate::relay::Summary;
use crate::telemetry::health::Health;
use crate::telemetry::http;
use crate::telemetry::notify::Notifier;
use crossbeam_channel::Receiver;
use start::{Running, SinkThreads};
use std::io::Write;
use std::time::Instant;

/// Where the records go.
pub enum Output {
    /// To the config's brokers, with plans in the state file.
    Kafka,
    /// As lines of JSON to this writer, without plans: after a kill a row may be written again.
    Lines(Box<dyn Write + Send>),
}

/// Runs until `stop` says so and the drain has ended, or until something breaks.
pub fn run(config: &Config, output: Output, stop: &Receiver<()>) -> Result<Summary, DaemonError> {
    let databases = config.databases();
    limits::raise_open_files(databases.len());
    // The databases first: whoever holds one already holds the other things too, and is what a second daemon should be told of.
    let checked = start::check(config, &databases)?;
    let health = Health::new(databases.iter().map(wiring::figures).collect::<Vec<_>>());
    let http = match &config.http.listen {
        None => None,
        Some(listen) => {
            let server = http::start(listen, health.clone())
                .map_err(|error| DaemonError::Listen { address: listen.clone(), error })?;
            log::info!("listening on http://{}/metrics", server.address());
            Some(server)
        }
    };
    let plans = matches!(output, Output::Kafka);
    let Running { relays, sink } = start::start(config, &databases, checked, &health, output)?;
    let notifier = Notifier::ready(health.clone());
    let supervised = supervise::supervise(&relays, stop, config.daemon.drain_timeout, || notifier.stopping());
    sink.stop(supervised.until);
    drop((notifier, http));
    if supervised.failure.is_none() {
        let (done, stuck) = (&supervised.summary, supervised.stuck);
        log::info!("{}", goodbye::line(done, plans, &databases, &health, stuck, supervised.until));
    }
    supervised.failure.map_or(Ok(supervised.summary), Err)
}

impl SinkThreads {
    fn stop(self, until: Instant) {
        let ended = match self {
            SinkThreads::Kafka(sink) => sink.stop(until),
            SinkThreads::Lines(sink) => sink.stop(until),
        };
        if !ended {
            log::warn!("a thread of the sink is still stuck in the system");
        }
    }
}
