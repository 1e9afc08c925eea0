//! The last line of a drain: what was done, and what is left for the next start.
//!
//! Promises: what is left is counted afresh, or said not to be. Does not know: relays, sinks, how the next start settles it.

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

/// `plans`: what was in flight is in the state file. `stuck`: relays that did not come back. `until`: when the process wants to be
/// gone.
pub fn line(
    summary: &Summary,
    plans: bool,
    databases: &[config::Database],
    health: &Health,
    stuck: usize,
    until: Instant,
) -> String {
    let waiting = waiting(databases, health, until.min(Instant::now() + BUSY_PATIENCE));
    let mut line =
        format!("drained: published {}, deleted {}, left in the tables: {waiting}", summary.published, summary.deleted);
    line.push_str(&unfinished(summary, plans));
    if stuck > 0 {
        let _ = write!(line, "; {stuck} relay threads did not come back in time");
    }
    line
}

/// What was on its way and did not come to its end, and what of it may be there twice.
fn unfinished(summary: &Summary, plans: bool) -> String {
    let (in_flight, acknowledged) = if plans {
        ("in flight, which the next start settles", "published and not deleted in time, which the next start does")
    } else {
        ("not known to be written and may be written again", "written, not deleted in time, and will be written again")
    };
    let mut text = String::new();
    for (rows, what) in [(summary.left_in_flight, in_flight), (summary.left_acknowledged, acknowledged)] {
        if rows > 0 {
            let _ = write!(text, "; {rows} row{} {what}", if rows == 1 { " is" } else { "s are" });
        }
    }
    if summary.unsure > 0 {
        let _ = write!(text, "; unsure: {}, sent again since the start, may be there twice", summary.unsure);
    }
    text
}

/// The rows of all tables together. A table that can't be counted is named, with the last figure if there is one: a sum with a
/// stale part would look like a count.
fn waiting(databases: &[config::Database], health: &Health, until: Instant) -> String {
    let (mut rows, mut exact, mut uncounted) = (None, true, Vec::new());
    for (database, figures) in databases.iter().zip(health.relays()) {
        let mut source = Database::open_read_only(wiring::database_options(database), wiring::outbox_specs(database))
            .without_remarks();
        for (index, (name, last)) in figures.names.iter().zip(&figures.outboxes).enumerate() {
            match count(&mut source, OutboxIx(index as u16), until) {
                Ok(backlog) => {
                    *rows.get_or_insert(0) += backlog.rows;
                    exact &= backlog.exact;
                }
                Err(SourceError::NotThere(_)) => _ = rows.get_or_insert(0),
                Err(error) => {
                    let last = last.backlog_rows.load(Relaxed);
                    let known = if last > 0 { format!(", about {last} rows at the last look") } else { String::new() };
                    uncounted.push(format!("those of outbox {name}, which can't be counted now ({error}){known}"));
                }
            }
        }
    }
    let about = if exact { "" } else { "about " };
    // Where nothing was counted no number would be right.
    let counted = rows.map(|rows| format!("{about}{rows} row{}", if rows == 1 { "" } else { "s" }));
    counted.into_iter().chain(uncounted).collect::<Vec<_>>().join(", and ")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(left_in_flight: u64, left_acknowledged: u64, unsure: u64) -> Summary {
        Summary { left_in_flight, left_acknowledged, unsure, ..Summary::default() }
    }

    #[test]
    fn a_clean_end_has_nothing_unfinished() {
        for plans in [true, false] {
            assert_eq!(unfinished(&summary(0, 0, 0), plans), "");
        }
    }

    #[test]
    fn what_is_left_is_settled_by_the_next_start_where_there_are_plans() {
        assert_eq!(
            unfinished(&summary(3, 1, 12), true),
            "; 3 rows are in flight, which the next start settles; 1 row is published and not deleted in time, which the next start \
             does; unsure: 12, sent again since the start, may be there twice"
        );
        assert_eq!(
            unfinished(&summary(1, 2, 0), false),
            "; 1 row is not known to be written and may be written again; 2 rows are written, not deleted in time, and will be \
             written again"
        );
    }
}
