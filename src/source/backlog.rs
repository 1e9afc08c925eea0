//! How much waits in a table, for people: counted while it is little, estimated when it is much.
//!
//! Promises: never a scan of a large table. Does not know: which rows are whose.

use super::database::Database;
use super::look::Trouble;
use super::outbox::State;
use crate::model::{Backlog, OutboxIx};
use crate::ports::SourceError;

/// Counted up to here; above, the span of the rowids is all there is to go by.
const EXACT_ROWS: i64 = 10_000;

impl Database {
    pub(super) fn backlog_now(&mut self, outbox: OutboxIx) -> Result<Backlog, SourceError> {
        self.open_for(outbox)?;
        let counted = self.with_link(|database, link| {
            let State::Fit(table) = &database.outboxes[usize::from(outbox.0)].state else {
                return Err(Trouble::Source(SourceError::Busy("its schema is not known yet".to_owned())));
            };
            let mut count = link.connection.prepare_cached(&table.count)?;
            let rows: i64 = count.query_row([EXACT_ROWS + 1], |row| row.get(0))?;
            if rows <= EXACT_ROWS {
                return Ok(Backlog { rows: rows as u64, exact: true });
            }
            let mut ends = link.connection.prepare_cached(&table.ends)?;
            let (high, low): (i64, i64) = ends.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            Ok(Backlog { rows: high.abs_diff(low).saturating_add(1).max(rows as u64), exact: false })
        });
        counted.map_err(|trouble| match trouble {
            Trouble::Source(error) => error,
            Trouble::Sqlite(error) => self.error(outbox, "counting its rows", &error),
        })
    }
}
