//! How much waits in a table, for people: counted while it is little, estimated when it is much.
//!
//! Promises: never a scan of a large table, and in rollback-journal modes never a long one. Does not know: which rows are whose.

use super::database::Database;
use super::look::Trouble;
use super::outbox::State;
use super::schema::Table;
use crate::model::{Backlog, JournalMode, OutboxIx};
use crate::ports::SourceError;
use rusqlite::{Connection, OptionalExtension, Result};

/// Counted up to here.
const EXACT_ROWS: i64 = 10_000;
/// The same in rollback-journal modes, where whoever reads keeps the application's COMMIT out: 10,000 rows are 14 ms.
const EXACT_ROWS_ROLLBACK: i64 = 500;
/// Above, so many stretches of the table are looked at, and so many rows of each.
const STRETCHES: i64 = 16;
const STRETCH_ROWS: i64 = 32;

impl Database {
    pub(super) fn backlog_now(&mut self, outbox: OutboxIx) -> std::result::Result<Backlog, SourceError> {
        self.open_for(outbox)?;
        let counted = self.with_link(|database, link| {
            let table = match &database.outboxes[usize::from(outbox.0)].state {
                State::Fit(table) => table,
                State::NotThere(why) => return Err(Trouble::Source(SourceError::NotThere(why.clone()))),
                State::Unfit(why) => {
                    return Err(Trouble::Source(SourceError::NotAnOutbox { outbox, why: why.clone() }));
                }
                State::Unknown => {
                    return Err(Trouble::Source(SourceError::Busy("its schema is not known yet".to_owned())));
                }
            };
            let most = match database.mode {
                JournalMode::Wal => EXACT_ROWS,
                JournalMode::Rollback => EXACT_ROWS_ROLLBACK,
            };
            let mut count = link.connection.prepare_cached(&table.count)?;
            let rows: i64 = count.query_row([most + 1], |row| row.get(0))?;
            if rows <= most {
                return Ok(Backlog { rows: rows as u64, exact: true });
            }
            Ok(Backlog { rows: estimate(&link.connection, table)?.max(rows as u64), exact: false })
        });
        counted.map_err(|trouble| match trouble {
            Trouble::Source(error) => error,
            Trouble::Sqlite(error) => self.error(outbox, "counting its rows", &error),
        })
    }
}

/// From how close to each other rows lie in some stretches of the table: ids need not follow on each other.
fn estimate(connection: &Connection, table: &Table) -> Result<u64> {
    let mut ends = connection.prepare_cached(&table.ends)?;
    let (high, low): (i64, i64) = ends.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let (high, low) = (i128::from(high), i128::from(low));
    let width = (high - low + 1) / i128::from(STRETCHES);
    let mut stretch = connection.prepare_cached(&table.stretch)?;
    let mut rows = 0.0;
    for at in 0..STRETCHES {
        let first = low + width * i128::from(at);
        let Ok(from) = i64::try_from(first) else { continue };
        let found: Option<(i64, Option<i64>)> =
            stretch.query_row([from, STRETCH_ROWS], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let Some((count, Some(last))) = found else { continue };
        let span = i128::from(last) - first + 1;
        rows += (count as f64) * (width as f64 / span as f64).max(0.0);
    }
    Ok(rows.min((high - low + 1) as f64) as u64)
}
