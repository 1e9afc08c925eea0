//! The house put together: threads spawned and joined, supervision, drain.
//!
//! Promises: every database is checked before anything is relayed; a thread that fails stops the daemon loudly, rows untouched;
//! a drain ends within its time. Does not know: SQL, Kafka, what an event is.

mod error;
pub mod signals;
mod start;
pub mod wiring;

pub use error::DaemonError;

use crate::config::Config;
use crate::relay::Summary;
use crate::telemetry::health::Health;
use crate::telemetry::http::HttpServer;
use crate::telemetry::notify::Notifier;
use crossbeam_channel::{Receiver, after, never, select};
use start::{Relays, Running, SinkThreads};
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

/// Where the records go.
pub enum Output {
    /// To the config's brokers, with plans in the state file.
    Kafka,
    /// As lines of JSON to this writer, without plans: after a kill a row may be written again.
    Lines(Box<dyn Write + Send>),
}

/// Of the drain's time: what is kept for ending the sink's threads after the relays have ended.
const SINK_SHARE: f64 = 0.05;
/// How far beyond the drain's time a thread that is stuck in the system is waited for.
const GRACE: Duration = Duration::from_millis(200);

/// Runs until `stop` says so and the drain has ended, or until something breaks.
pub fn run(config: &Config, output: Output, stop: &Receiver<()>) -> Result<Summary, DaemonError> {
    let databases = config.databases();
    // The databases first: whoever holds one already holds the other things too, and is what a second daemon should be told of.
    let checked = start::check(&databases)?;
    let health = Health::new(databases.iter().map(wiring::figures).collect::<Vec<_>>());
    let http = match &config.http.listen {
        None => None,
        Some(listen) => {
            let server = HttpServer::start(listen, health.clone())
                .map_err(|error| DaemonError::Listen { address: listen.clone(), error })?;
            log::info!("listening on http://{}/metrics", server.address());
            Some(server)
        }
    };
    let Running { relays, sink } = start::start(config, &databases, checked, &health, output)?;
    let notifier = Notifier::ready(health.clone());
    let supervised = supervise(&relays, stop, &notifier, config.daemon.drain_timeout);
    sink.stop(supervised.until);
    drop((notifier, http));
    if supervised.failure.is_none() {
        say_goodbye(&supervised.summary, &databases, &health, supervised.stuck);
    }
    supervised.failure.map_or(Ok(supervised.summary), Err)
}

struct Supervised {
    summary: Summary,
    /// Relays that did not come back.
    stuck: usize,
    failure: Option<DaemonError>,
    /// When the sink's threads must have ended.
    until: Instant,
}

/// Waits for the first signal or the first failure, tells every relay to drain, and waits for them.
fn supervise(relays: &Relays, stop: &Receiver<()>, notifier: &Notifier, drain_timeout: Duration) -> Supervised {
    let mut stop = stop.clone();
    let mut give_up = never();
    let mut running = relays.drains.len();
    let mut until = None;
    let mut summary = Summary::default();
    let mut failure = None;
    while running > 0 {
        select! {
            recv(relays.ended) -> ended => {
                running -= 1;
                match ended {
                    Ok(Ok(one)) => add(&mut summary, &one),
                    Ok(Err(error)) => {
                        log::error!("{error}; the daemon stops, the rows stay in their tables");
                        failure.get_or_insert(error);
                    }
                    // Every thread sends before it ends, whatever happens in it.
                    Err(_) => break,
                }
                // A relay ends by itself only after a failure.
                if until.is_some() {
                    continue;
                }
            }
            recv(stop) -> _ => {}
            recv(give_up) -> _ => break,
        }
        stop = never();
        notifier.stopping();
        let now = Instant::now();
        until = Some(now + drain_timeout);
        give_up = after(drain_timeout + GRACE);
        log::info!("draining, for {} ms at most", drain_timeout.as_millis());
        for drain in &relays.drains {
            // A relay that has ended needs no telling.
            let _ = drain.try_send(now + drain_timeout.mul_f64(1.0 - SINK_SHARE));
        }
    }
    Supervised { summary, stuck: running, failure, until: until.unwrap_or_else(Instant::now) }
}

fn add(sum: &mut Summary, one: &Summary) {
    sum.published += one.published;
    sum.deleted += one.deleted;
    sum.left_in_flight += one.left_in_flight;
    sum.left_acknowledged += one.left_acknowledged;
}

/// The last line: what was done and what is left.
fn say_goodbye(summary: &Summary, databases: &[crate::config::Database], health: &Health, stuck: usize) {
    let waiting = wiring::waiting(databases, health);
    let mut line =
        format!("drained: published {}, deleted {}, left in the tables: {waiting}", summary.published, summary.deleted);
    if summary.left_in_flight > 0 {
        let _ = write!(line, "; {} of them were in flight and are sent again", summary.left_in_flight);
    }
    if summary.left_acknowledged > 0 {
        let _ = write!(
            line,
            "; {} of them are published, were not deleted in time, and are sent again",
            summary.left_acknowledged
        );
    }
    if stuck > 0 {
        let _ = write!(line, "; {stuck} relay threads did not come back in time");
    }
    log::info!("{line}");
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
