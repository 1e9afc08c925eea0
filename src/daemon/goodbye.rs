//! The last line of a drain: what was done, and what is left for the next start.
//!
//! Promises: what is left is counted afresh, or said not to be. Does not know: relays, sinks.

use super::wiring;
use crate::config;
use crate::model::{Backlog, OutboxIx};
use crate::ports::{Source, SourceError};
use crate::relay::Summary;
use crate::source::Database;
use crate::telemetry::health::Health;
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a database that someone else has locked is asked again, within the drain's time.
const BUSY_PATIENCE: Duration = Duration::from_secs(1);
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// `stuck`: relays that did not come back. `until`: when the process wants to be gone.
pub fn line(
    summary: &Summary,
    databases: &[config::Database],
    health: &Health,
    stuck: usize,
    until: Instant,
) -> String {
    let waiting = waiting(databases, health, until.min(Instant::now() + BUSY_PATIENCE));
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
    line
}

/// The rows of all tables together. A table that can't be counted is named, with the last figure if there is one: a sum with a
/// stale part would look like a count.
fn waiting(databases: &[config::Database], health: &Health, until: Instant) -> String {
    let (mut rows, mut exact, mut uncounted) = (0, true, String::new());
    for (database, figures) in databases.iter().zip(health.relays()) {
        let mut source = Database::open_read_only(wiring::database_options(database), wiring::outbox_specs(database));
        for (index, (name, last)) in figures.names.iter().zip(&figures.outboxes).enumerate() {
            match count(&mut source, OutboxIx(index as u16), until) {
                Ok(backlog) => {
                    rows += backlog.rows;
                    exact &= backlog.exact;
                }
                Err(SourceError::NotThere(_)) => {}
                Err(error) => {
                    let last = last.backlog_rows.load(Relaxed);
                    let known = if last > 0 { format!(", about {last} rows at the last look") } else { String::new() };
                    let _ =
                        write!(uncounted, ", and those of outbox {name}, which can't be counted now ({error}){known}");
                }
            }
        }
    }
    let about = if exact { "" } else { "about " };
    format!("{about}{rows} row{}{uncounted}", if rows == 1 { "" } else { "s" })
}

fn count(source: &mut Database, outbox: OutboxIx, until: Instant) -> Result<Backlog, SourceError> {
    loop {
        // Reads the schema; what is wrong with it shows in the count.
        let _ = source.check();
        match source.backlog(outbox) {
            Err(SourceError::Busy(_) | SourceError::Replaced { .. }) if Instant::now() < until => {
                std::thread::sleep(BUSY_PAUSE);
            }
            counted => return counted,
        }
    }
}
