//! Looking: rows in rowid order in one short read transaction, under a known version of the database.
//!
//! Promises: in rollback-journal modes never begins while another process writes, and reads for at most a millisecond.
//! Does not know: what is done with a row.

use super::content::Content;
use super::database::{Database, Link, Replaced};
use super::outbox::State;
use super::scan::{Gather, WithoutLarge, apart, recycle};
use super::schema::Table;
use super::{failure, handle};
use crate::model::{
    Budget, Flow, Glance, JournalMode, Look, LookEnd, OutboxIx, RowMark, RowView, Start, Unreadable, Version,
};
use crate::ports::SourceError;
use rusqlite::{Connection, OptionalExtension};
use std::time::{Duration, Instant};

/// In rollback-journal modes an open SELECT makes the application's COMMIT wait or fail.
const JOURNAL_READ_MAX: Duration = Duration::from_millis(1);

/// A row of this size is not read again and again only to see that it is still there: its size, and its smaller values, tell.
const MARK_BYTES: usize = 16 << 10;

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
        let (read, version) =
            self.in_transaction(|database, connection| database.rows(connection, outbox, start, budget, began, each))?;
        let (rows, end) = read;
        Ok(Look { rows, end, version, held: began.elapsed() })
    }

    /// One read transaction, and the version it saw.
    fn in_transaction<T>(
        &mut self,
        work: impl FnOnce(&mut Database, &Connection) -> Result<T, Trouble>,
    ) -> Result<(T, Version), Trouble> {
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
            database.reads += 1;
            let done = work(database, &link.connection)?;
            Ok((done, Version { connection: link.number, counter }))
        });
        if let (Some(link), Some(checked)) = (&mut self.link, checked) {
            link.checked = Some(checked);
        }
        result
    }

    pub(super) fn glance_now(&mut self, starts: &[(OutboxIx, Start)], time: Duration) -> Result<Glance, SourceError> {
        let first = starts.first().map_or(OutboxIx(0), |(outbox, _)| *outbox);
        self.open_to(first, Content::Doubtful)?;
        let began = Instant::now();
        let result = self.in_transaction(|database, connection| {
            let time_max = match database.mode {
                JournalMode::Wal => time,
                JournalMode::Rollback => time.min(JOURNAL_READ_MAX),
            };
            let budget = Budget { rows: 1, time, before: None };
            let mut stirred = Vec::new();
            for (at, (outbox, start)) in starts.iter().enumerate() {
                if at > 0 && began.elapsed() >= time_max {
                    return Ok((at, stirred));
                }
                match database.rows(connection, *outbox, *start, budget, began, &mut |_| Flow::Stop) {
                    Ok((_, LookEnd::End)) => {}
                    // The look says what there is to say.
                    Ok(_) | Err(Trouble::Source(_)) => stirred.push(*outbox),
                    Err(error) => return Err(error),
                }
            }
            Ok((starts.len(), stirred))
        });
        self.gather.shrink();
        match result {
            Ok(((done, stirred), version)) => {
                self.busy_since = None;
                self.note_how_it_was_left();
                self.note_log();
                Ok(Glance { done, stirred, version, held: began.elapsed() })
            }
            Err(Trouble::Source(error)) => Err(self.abandoned().unwrap_or(error)),
            Err(Trouble::Sqlite(error)) => Err(self.error(first, "looking for new rows", &error)),
        }
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
        let time_max = match self.mode {
            JournalMode::Wal => budget.time,
            JournalMode::Rollback => budget.time.min(JOURNAL_READ_MAX),
        };
        let (mut from, mut mark) = match start {
            Start::Lowest => (i64::MIN, None),
            Start::From(rowid) => (rowid, None),
            Start::After(mark) => (mark.rowid, Some(mark)),
        };
        let known = &mut self.large[usize::from(outbox.0)];
        if let Some(marked) = mark
            && known.as_ref().is_some_and(|(known, _)| *known == marked)
        {
            let now = apart(connection, &mut self.gather, table, marked.rowid)?;
            if now != known.map(|(_, apart)| apart) {
                *known = None;
                return Ok((0, LookEnd::MarkGone));
            }
            let Some(above) = marked.rowid.checked_add(1) else { return Ok((0, LookEnd::End)) };
            (from, mark) = (above, None);
        }
        let mut pass = Pass::new(budget, began, time_max);
        loop {
            let stopped = scan(connection, &mut self.gather, table, from, mark, &mut pass, each)?;
            let error = match stopped {
                Stopped::Failed(error) => error,
                Stopped::End(end) => {
                    if let (Start::After(marked), true, false) = (start, pass.mark_is_large, end == LookEnd::MarkGone) {
                        let sizes = apart(connection, &mut self.gather, table, marked.rowid)?;
                        self.large[usize::from(outbox.0)] = sizes.map(|sizes| (marked, sizes));
                    }
                    return Ok((pass.given, end));
                }
            };
            // One row can't be read as the others are. It stands alone, and what is behind it is gone on with. The mark was met
            // unless this is the one.
            mark = mark.filter(|_| pass.last.is_none());
            let above = pass.last.map_or(Some(from), |last| last.checked_add(1));
            let mut next = connection.prepare_cached(&table.next)?;
            let rowid = match above {
                Some(above) => next.query_row([above], |row| row.get::<_, i64>(0)).optional()?,
                None => None,
            };
            let Some(rowid) = rowid else { return Err(error.into()) };
            if budget.before.is_some_and(|before| rowid >= before) {
                return Ok((pass.given, LookEnd::End));
            }
            let row_bytes_max = self.row_bytes_max;
            let alone = alone(connection, &mut self.gather, table, rowid, row_bytes_max, mark, &mut pass, each)?;
            if let Some(end) = alone {
                return Ok((pass.given, end));
            }
            mark = None;
            match rowid.checked_add(1) {
                Some(above) => from = above,
                None => return Ok((pass.given, LookEnd::End)),
            }
        }
    }
}

/// How far a look has come.
struct Pass {
    budget: Budget,
    began: Instant,
    time_max: Duration,
    given: usize,
    bytes: usize,
    clock_at: (usize, usize),
    /// The last row that was read.
    last: Option<i64>,
    /// The row that the look starts behind takes long to read.
    mark_is_large: bool,
}

/// Why a statement gives no further rows.
enum Stopped {
    End(LookEnd),
    /// It can't read the row behind the last one.
    Failed(rusqlite::Error),
}

impl Pass {
    fn new(budget: Budget, began: Instant, time_max: Duration) -> Pass {
        let clock_at = (CLOCK_EVERY_ROWS, CLOCK_EVERY_BYTES);
        Pass { budget, began, time_max, given: 0, bytes: 0, clock_at, last: None, mark_is_large: false }
    }

    /// A row was given; what ends the look with it.
    fn gave(&mut self, rowid: i64, flow: Flow) -> Option<LookEnd> {
        if flow == Flow::Stop {
            return Some(LookEnd::Stopped);
        }
        self.last = Some(rowid);
        self.given += 1;
        if self.given == self.budget.rows.max(1) {
            return Some(LookEnd::Budget { last: rowid });
        }
        if self.given >= self.clock_at.0 || self.bytes >= self.clock_at.1 {
            self.clock_at = (self.given + CLOCK_EVERY_ROWS, self.bytes + CLOCK_EVERY_BYTES);
            if self.began.elapsed() >= self.time_max {
                return Some(LookEnd::Budget { last: rowid });
            }
        }
        None
    }
}

/// Rows from this rowid on, until one can't be read. `mark`: the first has to be this one.
fn scan(
    connection: &Connection,
    gather: &mut Gather,
    table: &Table,
    from: i64,
    mark: Option<RowMark>,
    pass: &mut Pass,
    each: &mut dyn FnMut(&RowView<'_>) -> Flow,
) -> rusqlite::Result<Stopped> {
    let _without_large = WithoutLarge::new(connection)?;
    let failed = |error| match failure::class(&error) {
        failure::Class::Statement => Ok(Stopped::Failed(error)),
        _ => Err(error),
    };
    let mut statement = connection.prepare_cached(&table.scan)?;
    let mut rows = statement.query([from])?;
    if let Some(mark) = mark {
        match rows.next() {
            Ok(Some(row)) if row.get::<_, i64>(0)? == mark.rowid && gather.row(row, table, None)? == mark.print => {
                pass.last = Some(mark.rowid);
                pass.mark_is_large = gather.content_bytes() > MARK_BYTES;
            }
            Ok(_) => return Ok(Stopped::End(LookEnd::MarkGone)),
            Err(error) => return failed(error),
        }
    }
    let mut fields = Vec::with_capacity(table.fields.len());
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(Stopped::End(LookEnd::End)),
            Err(error) => return failed(error),
        };
        let rowid: i64 = row.get(0)?;
        if pass.budget.before.is_some_and(|before| rowid >= before) {
            return Ok(Stopped::End(LookEnd::End));
        }
        let print = gather.row(row, table, Some(connection))?;
        pass.bytes += gather.content_bytes();
        let mut view = recycle(fields);
        gather.fields(row, table, &mut view);
        let flow = each(&RowView { rowid, print, fields: &view, unreadable: None });
        fields = recycle(view);
        if let Some(end) = pass.gave(rowid, flow) {
            return Ok(Stopped::End(end));
        }
    }
}

/// One row that a scan could not read: with its large values, if they are not too large, or why not. `mark`: it has to be this one, and is
/// not given.
#[allow(clippy::too_many_arguments)] // a look in the middle
fn alone(
    connection: &Connection,
    gather: &mut Gather,
    table: &Table,
    rowid: i64,
    row_bytes_max: u64,
    mark: Option<RowMark>,
    pass: &mut Pass,
    each: &mut dyn FnMut(&RowView<'_>) -> Flow,
) -> rusqlite::Result<Option<LookEnd>> {
    let Some(sizes) = apart(connection, gather, table, rowid)? else { return Ok(None) };
    let mut give = |view: &RowView<'_>, pass: &mut Pass| match mark {
        Some(mark) if mark.rowid == rowid && mark.print == view.print => {
            pass.last = Some(rowid);
            pass.mark_is_large = true;
            None
        }
        Some(_) => Some(LookEnd::MarkGone),
        None => pass.gave(rowid, each(view)),
    };
    let fields = vec![None; table.fields.len()];
    let unreadable = if sizes.bytes > row_bytes_max {
        (sizes.wanted, Unreadable::TooLarge { bytes: sizes.bytes })
    } else {
        let mut statement = connection.prepare_cached(&table.range)?;
        let mut rows = statement.query([rowid, rowid])?;
        match rows.next() {
            Ok(None) => return Ok(None),
            Ok(Some(row)) => {
                let print = gather.row(row, table, Some(connection))?;
                pass.bytes += gather.content_bytes();
                let mut fields = Vec::with_capacity(table.fields.len());
                gather.fields(row, table, &mut fields);
                return Ok(give(&RowView { rowid, print, fields: &fields, unreadable: None }, pass));
            }
            Err(error) if failure::class(&error) == failure::Class::Statement => {
                (sizes.all, Unreadable::Failed(failure::text(&error)))
            }
            Err(error) => return Err(error),
        }
    };
    let (print, unreadable) = unreadable;
    Ok(give(&RowView { rowid, print, fields: &fields, unreadable: Some(&unreadable) }, pass))
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
