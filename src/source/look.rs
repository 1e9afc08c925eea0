//! Looking: rows in rowid order in one short read transaction, under a known version of the database.
//!
//! Promises: in rollback-journal modes never begins while another process writes, and reads for at most a millisecond.
//! Does not know: what is done with a row.

use super::content::Content;
use super::database::{Database, Link, Replaced};
use super::handle;
use super::outbox::State;
use super::scan::recycle;
use crate::model::{Budget, Flow, JournalMode, Look, LookEnd, OutboxIx, RowView, Start, Version};
use crate::ports::SourceError;
use rusqlite::Connection;
use std::time::{Duration, Instant};

/// In rollback-journal modes an open SELECT makes the application's COMMIT wait or fail.
const JOURNAL_READ_MAX: Duration = Duration::from_millis(1);

/// The clock is read once for so many rows, or so many bytes.
const CLOCK_EVERY_ROWS: usize = 16;
const CLOCK_EVERY_BYTES: usize = 16 * 1024;

impl Database {
    pub(super) fn look_now(
        &mut self,
        outbox: OutboxIx,
        start: Start,
        budget: Budget,
        each: &mut dyn FnMut(&RowView<'_>) -> Flow,
    ) -> Result<Look, SourceError> {
        self.open_to(outbox, Content::Doubtful)?;
        let began = Instant::now();
        let result = self.read(outbox, start, budget, began, each);
        self.gather.shrink();
        match result {
            Ok(look) => {
                self.busy_since = None;
                self.unsynced |= look.rows > 0;
                self.note_how_it_was_left();
                self.note_log();
                Ok(look)
            }
            Err(Trouble::Source(error)) => Err(self.abandoned().unwrap_or(error)),
            Err(Trouble::Sqlite(error)) => {
                let doing = format!("reading {}", self.outboxes[usize::from(outbox.0)].spec.table);
                Err(self.error(outbox, &doing, &error))
            }
        }
    }

    pub(super) fn version_now(&mut self) -> Result<Option<Version>, SourceError> {
        if self.link.is_none() {
            return Ok(None);
        }
        self.open_for(OutboxIx(0))?;
        match self.counter() {
            Ok(counter) => Ok(Some(self.version_of(counter))),
            Err(error) => Err(self.error(OutboxIx(0), "reading its version", &error)),
        }
    }

    /// A connection, and no writer in the way of a reader.
    pub(super) fn open_for(&mut self, outbox: OutboxIx) -> Result<(), SourceError> {
        self.open_to(outbox, Content::Ours)
    }

    /// `enough`: what the content has to be known as, at least.
    fn open_to(&mut self, outbox: OutboxIx, enough: Content) -> Result<(), SourceError> {
        self.ready().map_err(|not_ready| not_ready.for_outbox(outbox, &self.options.path.display().to_string()))?;
        if let Some(replaced) = self.replaced.take() {
            return Err(replaced.into());
        }
        if self.mode == JournalMode::Wal {
            let content = if enough == Content::Ours { self.content_in_wal() } else { self.content_at_a_glance() };
            // In doubt it is being checkpointed, most of the time.
            if !matches!(content, Content::Ours | Content::Doubtful) {
                return Err(self.abandon(content));
            }
        }
        if self.someone_writes() {
            return Err(self.busy());
        }
        Ok(())
    }

    /// Rollback-journal modes: another process holds RESERVED. A SELECT begun now could be what its COMMIT fails on.
    pub(super) fn someone_writes(&self) -> bool {
        self.mode == JournalMode::Rollback
            && self.link.as_ref().is_some_and(|link| link.unix && handle::reserved(&link.connection))
    }

    pub(super) fn counter(&self) -> rusqlite::Result<i64> {
        let Some(link) = &self.link else { return Err(rusqlite::Error::QueryReturnedNoRows) };
        link.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
    }

    /// Checks the schema against the file as it is now, outside of a look.
    pub(super) fn inspect_now(&mut self) -> Result<(), SourceError> {
        if self.someone_writes() {
            return Err(self.busy());
        }
        let result = self.with_link(|database, link| {
            let mut statement = link.connection.prepare_cached("PRAGMA data_version")?;
            let mut rows = statement.raw_query();
            let counter = rows.next()?.map_or(Ok(0), |row| row.get(0))?;
            database.inspect(&link.connection, link.checked.is_some())?;
            Ok(counter)
        });
        match result {
            Ok(counter) => {
                if let Some(link) = &mut self.link {
                    link.checked = Some(counter);
                }
                Ok(())
            }
            Err(Trouble::Source(error)) => Err(error),
            Err(Trouble::Sqlite(error)) => Err(self.error(OutboxIx(0), "reading the schema", &error)),
        }
    }

    /// The link is taken out while it is worked with, so that the rest of the database can be changed beside it.
    pub(super) fn with_link<T>(
        &mut self,
        work: impl FnOnce(&mut Database, &Link) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let Some(link) = self.link.take() else {
            return Err(Trouble::Source(SourceError::Busy(format!("{} was closed", self.subject()))));
        };
        let result = work(self, &link);
        self.link = Some(link);
        result
    }

    /// Inside a read or write transaction, after someone else has committed (or on a new connection): the journal mode, and, if
    /// the schema is another, every outbox again. `in_wal`: an earlier inspection on this connection found the mode to be WAL.
    pub(super) fn inspect(&mut self, connection: &Connection, in_wal: bool) -> Result<(), Trouble> {
        // Only while it can change: a connection that has once read in WAL mode keeps everyone else from leaving it.
        if !(in_wal && self.mode == JournalMode::Wal)
            && let Some(Ok(Some(header))) = self.lock.as_ref().map(super::lock::Lock::header)
        {
            self.mode = header.mode;
        }
        let version: i64 = connection.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get(0))?;
        let changed = self.schema_version.is_some_and(|known| known != version);
        for (at, outbox) in self.outboxes.iter_mut().enumerate() {
            if changed || matches!(outbox.state, State::Unknown) {
                // Kept aside at once: an error at the next outbox must not swallow it.
                if let Some(replaced) = outbox.inspect(connection, OutboxIx(at as u16), version)? {
                    self.replaced = Some(match self.replaced.take() {
                        None => replaced,
                        Some(said) => Replaced {
                            text: said.text + "; " + &replaced.text,
                            another: said.another.or(replaced.another),
                        },
                    });
                }
            }
        }
        self.books.inspect(connection, changed)?;
        self.schema_version = Some(version);
        if changed {
            self.work.forget_refused();
        }
        match self.replaced.take() {
            Some(replaced) => Err(Trouble::Source(replaced.into())),
            None => Ok(()),
        }
    }

    fn read(
        &mut self,
        outbox: OutboxIx,
        start: Start,
        budget: Budget,
        began: Instant,
        each: &mut dyn FnMut(&RowView<'_>) -> Flow,
    ) -> Result<Look, Trouble> {
        let mut checked = None;
        let result = self.with_link(|database, link| {
            // The row of this statement is held until the look ends: it opens the read transaction, the other statements run in
            // it, and so the version is that of exactly the rows seen.
            let mut statement = link.connection.prepare_cached("PRAGMA data_version")?;
            let mut version = statement.raw_query();
            let counter: i64 = version.next()?.map_or(Ok(0), |row| row.get(0))?;
            database.trust_in_journal(link, counter).map_err(Trouble::Source)?;
            let unknown = database.outboxes.iter().any(|outbox| matches!(outbox.state, State::Unknown));
            if link.checked != Some(counter) || unknown {
                let inspected = database.inspect(&link.connection, link.checked.is_some());
                if !matches!(inspected, Err(Trouble::Sqlite(_))) {
                    checked = Some(counter);
                }
                inspected?;
            }
            let (rows, end) = database.rows(&link.connection, outbox, start, budget, began, each)?;
            let version = Version { connection: link.number, counter };
            Ok(Look { rows, end, version, held: began.elapsed() })
        });
        if let (Some(link), Some(checked)) = (&mut self.link, checked) {
            link.checked = Some(checked);
        }
        result
    }

    fn rows(
        &mut self,
        connection: &Connection,
        outbox: OutboxIx,
        start: Start,
        budget: Budget,
        began: Instant,
        each: &mut dyn FnMut(&RowView<'_>) -> Flow,
    ) -> Result<(usize, LookEnd), Trouble> {
        if let Some(why) = self.books_unfit() {
            // Nothing may be published whose delete could not be booked.
            return Err(Trouble::Source(SourceError::NotAnOutbox { outbox, why }));
        }
        let table = match &self.outboxes[usize::from(outbox.0)].state {
            State::Fit(table) => table,
            State::NotThere(why) => return Err(Trouble::Source(SourceError::NotThere(why.clone()))),
            State::Unfit(why) => {
                return Err(Trouble::Source(SourceError::NotAnOutbox { outbox, why: why.clone() }));
            }
            State::Unknown => unreachable!("inspected just before"),
        };
        let rows_max = budget.rows.max(1);
        let time_max = match self.mode {
            JournalMode::Wal => budget.time,
            JournalMode::Rollback => budget.time.min(JOURNAL_READ_MAX),
        };
        let (from, mark) = match start {
            Start::Lowest => (i64::MIN, None),
            Start::From(rowid) => (rowid, None),
            Start::After(mark) => (mark.rowid, Some(mark)),
        };
        let mut statement = connection.prepare_cached(&table.scan)?;
        let mut rows = statement.query([from])?;
        if let Some(mark) = mark {
            let known = match rows.next()? {
                Some(row) => row.get::<_, i64>(0)? == mark.rowid && self.gather.row(row, table, None)? == mark.print,
                None => false,
            };
            if !known {
                return Ok((0, LookEnd::MarkGone));
            }
        }
        let mut fields = Vec::with_capacity(table.fields.len());
        let mut given = 0;
        let mut bytes = 0;
        let mut clock_at = (CLOCK_EVERY_ROWS, CLOCK_EVERY_BYTES);
        while let Some(row) = rows.next()? {
            let rowid: i64 = row.get(0)?;
            if budget.before.is_some_and(|before| rowid >= before) {
                break;
            }
            let print = self.gather.row(row, table, Some(connection))?;
            bytes += self.gather.content_bytes();
            let mut view = recycle(fields);
            self.gather.fields(table, &mut view);
            let flow = each(&RowView { rowid, print, fields: &view });
            fields = recycle(view);
            if flow == Flow::Stop {
                return Ok((given, LookEnd::Stopped));
            }
            given += 1;
            if given == rows_max {
                return Ok((given, LookEnd::Budget { last: rowid }));
            }
            if given >= clock_at.0 || bytes >= clock_at.1 {
                clock_at = (given + CLOCK_EVERY_ROWS, bytes + CLOCK_EVERY_BYTES);
                if began.elapsed() >= time_max {
                    return Ok((given, LookEnd::Budget { last: rowid }));
                }
            }
        }
        Ok((given, LookEnd::End))
    }
}

/// An error on its way out of a statement.
#[derive(Debug)]
pub(super) enum Trouble {
    Sqlite(rusqlite::Error),
    Source(SourceError),
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Self {
        Trouble::Sqlite(error)
    }
}
