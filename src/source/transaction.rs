//! The delete transaction: polite to begin with, all or nothing, confirmed by hooks and COMMIT together.
//!
//! Promises: on any error nothing was deleted, except `CommitUnknown`, which says so; what is deleted was compared in the same
//! transaction, on the same snapshot. Does not know: why rows are deleted.

use super::content::Known;
use super::database::{Database, Link};
use super::delete::{Care, Deleter, Stop, Wanted};
use super::durability::{Companions, Salts};
use super::failure::{self, Class};
use super::handle;
use super::look::Trouble;
use super::outbox::State;
use crate::failpoint;
use crate::model::{Deletion, Fingerprint, JournalMode, LeftOut, Origin, OutboxIx, RowKey, Why};
use crate::ports::{DeleteGroup, DeleteOrder, JournalError, SourceError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a transaction may be begun again in one call because a trigger rolled it back. What was learned stays for the next.
const ROLLBACKS_MAX: usize = 16;

/// Rows that took a whole transaction with them; more than this are found anew.
const REFUSED_MAX: usize = 10_000;

/// After so many comparisons that someone else's commit made worthless, the write lock is taken first: a busy application must
/// not keep us from deleting.
pub(super) const OVERTAKEN_MAX: usize = 3;

/// First wait before a BUSY COMMIT is tried again; doubles.
const COMMIT_RETRY_FIRST: Duration = Duration::from_micros(50);
const COMMIT_RETRY_MAX: Duration = Duration::from_millis(2);

/// What lives from one delete to the next.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// All groups' rows, by outbox, then rowid.
    rows: Vec<(RowKey, Fingerprint)>,
    wanted: Vec<Wanted>,
    /// By outbox: what the comparison found is kept until its table's turn to be deleted from.
    deleters: Vec<Deleter>,
    /// For a row on its own.
    single: Deleter,
    /// Groups whose rows are not in `rows`.
    left_out: Vec<LeftOut>,
    /// Rows whose trigger rolls everything back: not tried again while they are the same.
    refused: BTreeMap<RowKey, Fingerprint>,
    care: Option<Care>,
    /// Transactions so far.
    pub begun: u64,
}

impl Work {
    /// The schema changed: perhaps the trigger is gone.
    pub fn forget_refused(&mut self) {
        self.refused.clear();
        self.care = None;
    }
}

/// When a transaction takes the write lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Locking {
    /// With its first DELETE, when all rows are compared. The application is kept waiting for half as long, and the pages are
    /// in our cache by then. If someone commits in between SQLite refuses the DELETE, so that the comparison always holds.
    Late,
    /// With BEGIN IMMEDIATE. Nothing can come in between.
    Early,
}

/// What an attempt learned about its connection, whatever became of it.
#[derive(Debug, Default)]
struct Learned {
    checked: Option<i64>,
    synchronous_for: Option<JournalMode>,
}

/// How one attempt ended other than well.
enum Failed {
    Again,
    /// Someone committed between our comparison and our first DELETE.
    Overtaken,
    Trouble(Trouble),
    /// Some groups can't be deleted now; the others can.
    LeaveOut(Unable),
    /// The path leads to another file, or to none.
    Moved,
    /// COMMIT answered something else than OK or BUSY.
    Unknown(String),
}

/// What can't be deleted now.
#[derive(Debug, Default)]
struct Unable {
    /// No table, or not one to delete from.
    outboxes: Vec<(OutboxIx, Why)>,
    /// Rows that would take others along. Sorted.
    rows: Vec<RowKey>,
}

impl Unable {
    fn why(&self, group: &DeleteGroup, subject: &str) -> Option<Why> {
        group.rows().find_map(|(key, _)| {
            if let Some((_, why)) = self.outboxes.iter().find(|(outbox, _)| *outbox == key.outbox) {
                return Some(why.clone());
            }
            self.rows.binary_search(&key).ok().map(|_| {
                Why::new(format!("{subject}: deleting rowid {} would delete or change rows that were not sent", key.rowid))
                    .hint("a trigger or a foreign key of the application's; what is published stays in the table until they are sent too")
            })
        })
    }
}

impl<T: Into<Trouble>> From<T> for Failed {
    fn from(trouble: T) -> Self {
        Failed::Trouble(trouble.into())
    }
}

impl From<SourceError> for Trouble {
    fn from(error: SourceError) -> Self {
        Trouble::Source(error)
    }
}

impl Database {
    pub(super) fn delete_now(
        &mut self,
        order: &DeleteOrder<'_>,
        before_commit: &mut dyn FnMut(&Deletion) -> Result<(), JournalError>,
    ) -> Result<Deletion, SourceError> {
        if self.is_read_only() {
            return Err(SourceError::Failed(Why::new(format!("{} is open for reading only", self.subject()))));
        }
        let first = order.groups.iter().flat_map(DeleteGroup::rows).next();
        let Some((RowKey { outbox: first, .. }, _)) = first else { return Ok(Deletion::default()) };
        self.open_for(first)?;
        if self.known.as_ref().is_some_and(Known::is_doubtful) {
            return Err(SourceError::Busy(format!("{} is being checkpointed", self.subject())));
        }
        self.work.left_out.clear();
        self.ask_for(order);
        let mut overtaken = 0;
        for _ in 0..ROLLBACKS_MAX {
            match self.attempt(order, self.locking(order, overtaken), before_commit) {
                Ok(deletion) => {
                    self.busy_since = None;
                    self.unsynced |= deletion.deleted > 0;
                    self.work.care = None;
                    return Ok(deletion);
                }
                Err(Failed::Again) => {}
                Err(Failed::LeaveOut(unable)) => {
                    self.leave_out(order, &unable);
                    if self.work.rows.is_empty() {
                        return Ok(Deletion { left_out: self.work.left_out.clone(), ..Deletion::default() });
                    }
                }
                Err(Failed::Overtaken) => {
                    overtaken += 1;
                    log::debug!("{}: overtaken while comparing {} rows", self.subject(), self.work.rows.len());
                }
                Err(Failed::Moved) => {
                    self.close();
                    // Says that it was replaced, or that nothing is there; if the file is back already, that was a short absence.
                    self.open_for(first)?;
                    return Err(SourceError::Busy(format!("{} was moved away and back", self.subject())));
                }
                Err(Failed::Unknown(text)) => {
                    // It may have happened or not, and SQLite's own idea of it is not to be relied on: only a new connection's
                    // look tells.
                    self.close();
                    self.unsynced = true;
                    return Err(SourceError::CommitUnknown(text));
                }
                Err(Failed::Trouble(Trouble::Source(error))) => return Err(self.abandoned().unwrap_or(error)),
                Err(Failed::Trouble(Trouble::Sqlite(error))) => return Err(self.error(first, "deleting", &error)),
            }
        }
        self.work.care = None;
        let Some(why) = self.work.left_out.last().map(|left| left.why.clone()) else {
            return Err(SourceError::Yielded);
        };
        // One takes the next along, and so on: another time.
        let left_out = (0..order.groups.len()).map(|group| LeftOut { group, why: why.clone() }).collect();
        Ok(Deletion { left_out, ..Deletion::default() })
    }

    /// The rows of this order's groups, but for those that were left out, are what is to be deleted.
    fn ask_for(&mut self, order: &DeleteOrder<'_>) {
        let Work { rows, left_out, .. } = &mut self.work;
        rows.clear();
        for group in taken(order, left_out) {
            rows.extend(group.rows());
        }
        rows.sort_unstable_by_key(|(key, _)| *key);
    }

    /// A group is deleted whole or not at all.
    fn leave_out(&mut self, order: &DeleteOrder<'_>, unable: &Unable) {
        for (at, group) in order.groups.iter().enumerate() {
            let Err(place) = LeftOut::place_of(&self.work.left_out, at) else { continue };
            let Some((first, _)) = group.rows().next() else { continue };
            if let Some(why) = unable.why(group, &self.outboxes[usize::from(first.outbox.0)].spec.table) {
                self.work.left_out.insert(place, LeftOut { group: at, why });
            }
        }
        self.ask_for(order);
    }

    /// Early in rollback-journal modes: there our SHARED lock would make the application's COMMIT fail or wait instead, and most
    /// of the time under the lock goes into COMMIT's syncs. Early too when others have gone first for long enough: an application
    /// that never pauses would overtake every comparison.
    fn locking(&self, order: &DeleteOrder<'_>, overtaken: usize) -> Locking {
        let late = self.mode == JournalMode::Wal && order.yields && overtaken < OVERTAKEN_MAX;
        if late { Locking::Late } else { Locking::Early }
    }

    fn attempt(
        &mut self,
        order: &DeleteOrder<'_>,
        locking: Locking,
        before_commit: &mut dyn FnMut(&Deletion) -> Result<(), JournalError>,
    ) -> Result<Deletion, Failed> {
        let Some(mut link) = self.link.take() else { return Err(Failed::Again) };
        let rows = std::mem::take(&mut self.work.rows);
        let mut learned = Learned::default();
        let result = self.transaction(&link, order, locking, &rows, before_commit, &mut learned);
        let broken = result.is_err() && !roll_back(&link.connection);
        self.work.rows = rows;
        link.checked = learned.checked.or(link.checked);
        link.synchronous_for = learned.synchronous_for.or(link.synchronous_for);
        self.link = Some(link);
        if result.is_err() {
            // What did not fit into the cache was written and written back.
            self.note_own_content();
        }
        if broken {
            log::warn!("{}: a ROLLBACK failed; opening anew", self.subject());
            self.close();
        }
        result
    }

    fn transaction(
        &mut self,
        link: &Link,
        order: &DeleteOrder<'_>,
        locking: Locking,
        rows: &[(RowKey, Fingerprint)],
        before_commit: &mut dyn FnMut(&Deletion) -> Result<(), JournalError>,
        learned: &mut Learned,
    ) -> Result<Deletion, Failed> {
        let connection = &link.connection;
        self.prepare(link, rows, learned)?;
        let begin = match locking {
            Locking::Late => "BEGIN",
            Locking::Early => "BEGIN IMMEDIATE",
        };
        connection.prepare_cached(begin)?.execute([])?;
        let _undo = Undo(connection);
        self.work.begun += 1;
        let began = Instant::now();
        let mut locked = began;
        let counter: i64 = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        self.trust_in_journal(link, counter)?;
        if link.checked != Some(counter) {
            let inspected = self.inspect(connection, link.checked.is_some());
            // What the schema check says is said once: also when it says that rows must be matched anew.
            if !matches!(inspected, Err(Trouble::Sqlite(_))) {
                learned.checked = Some(counter);
            }
            inspected?;
        }
        if locking == Locking::Late && self.mode != JournalMode::Wal {
            return Err(Failed::Again);
        }
        let unable = self.unable(rows);
        if !unable.outboxes.is_empty() {
            return Err(Failed::LeaveOut(unable));
        }
        let names = self.outboxes.iter().enumerate().map(|(at, outbox)| {
            let name = outbox.table().map_or(&outbox.spec.table, |table| &table.name);
            (OutboxIx(at as u16), name.as_str())
        });
        link.hooks.begin(self.schema_version, names);
        self.work.deleters.iter_mut().for_each(Deleter::clear);
        for rows in by_outbox(rows) {
            self.compare(link, rows)?;
        }
        if locking == Locking::Late {
            // Whoever is there now would be refused by our commit, or is about to overtake us.
            if self.makes_way(link, order) {
                return Err(SourceError::Yielded.into());
            }
            locked = Instant::now();
        }
        let mut deletion = Deletion { left_out: self.work.left_out.clone(), ..Deletion::default() };
        self.delete_rows(link, rows, &mut deletion)?;
        if self.options.foreign_keys && self.work.care.is_none() && handle::owes_foreign_keys(connection) {
            // A COMMIT would fail for the whole order. Asked here and not answered there, so that the state file is told once.
            self.work.care = Some(Care::Halving);
            return Err(Failed::Again);
        }
        if deletion.deleted == 0 {
            roll_back(connection);
            (deletion.held, deletion.took) = (locked.elapsed(), began.elapsed());
            return Ok(deletion);
        }
        self.book(link, order, &deletion.left_out)?;
        if self.makes_way(link, order) {
            return Err(SourceError::Yielded.into());
        }
        let log = self.companions.as_ref().filter(|_| self.mode == JournalMode::Wal).and_then(Companions::wal_file);
        deletion.origin = self.lock.as_ref().map(|lock| Origin { file: lock.file(), log });
        before_commit(&deletion).map_err(SourceError::Journal)?;
        if self.link_has_moved(link) {
            // In WAL mode a moved or unlinked file would still take the COMMIT. The next call says what is there now.
            return Err(Failed::Moved);
        }
        let commits = link.hooks.record().commits;
        let log = self.log_begun();
        failpoint::hit("committing");
        self.commit(connection, order.commit_patience)?;
        failpoint::hit("committed");
        self.books_committed();
        deletion.written = link.hooks.record().written();
        (deletion.held, deletion.took) = (locked.elapsed(), began.elapsed());
        self.note_own_content();
        // The third witness: a COMMIT that was none would be a broken connection, and the rows are not to be called deleted.
        assert!(link.hooks.record().commits > commits, "COMMIT returned OK and the commit hook did not fire");
        self.note_own_commit(link, log);
        Ok(deletion)
    }

    /// Whatever need not happen inside the transaction.
    fn prepare(&mut self, link: &Link, rows: &[(RowKey, Fingerprint)], learned: &mut Learned) -> Result<(), Failed> {
        let connection = &link.connection;
        if link.synchronous_for != Some(self.mode) {
            // NORMAL in a rollback-journal mode could corrupt the application's file in a power cut; FULL in WAL mode would sync
            // at every delete, which `make_durable` does once for many.
            let level = if self.mode == JournalMode::Wal { "NORMAL" } else { "FULL" };
            connection.execute_batch(&format!("PRAGMA synchronous = {level}"))?;
            learned.synchronous_for = Some(self.mode);
        }
        // What can't be prepared is for the inspection inside the transaction to explain.
        for rows in by_outbox(rows) {
            if let Some(table) = self.outboxes[usize::from(rows[0].0.outbox.0)].table() {
                let _ = (connection.prepare_cached(&table.range), connection.prepare_cached(&table.delete));
            }
        }
        let _ = connection.prepare_cached("COMMIT");
        Ok(())
    }

    /// Whether somebody else is at it, and is to go first.
    fn makes_way(&self, link: &Link, order: &DeleteOrder<'_>) -> bool {
        order.yields && self.mode == JournalMode::Wal && link.unix && handle::external_reader(&link.connection)
    }

    /// Outboxes of these rows from which nothing can be deleted at the moment: what is the matter with a table may be over soon,
    /// and its rows are neither gone nor changed.
    fn unable(&self, rows: &[(RowKey, Fingerprint)]) -> Unable {
        let outboxes = by_outbox(rows).filter_map(|rows| {
            let outbox = rows[0].0.outbox;
            let why = match &self.outboxes[usize::from(outbox.0)].state {
                State::Fit(_) => return None,
                State::NotThere(why) | State::Unfit(why) => why.clone(),
                State::Unknown => Why::new("its table was not read yet"),
            };
            Some((outbox, why))
        });
        Unable { outboxes: outboxes.collect(), rows: Vec::new() }
    }

    /// The rows of one outbox, against what the table holds.
    fn compare(&mut self, link: &Link, rows: &[(RowKey, Fingerprint)]) -> Result<(), Failed> {
        let outbox = usize::from(rows[0].0.outbox.0);
        if self.work.deleters.len() <= outbox {
            self.work.deleters.resize_with(outbox + 1, Deleter::default);
        }
        let mut deleter = std::mem::take(&mut self.work.deleters[outbox]);
        let result = self.compare_with(link, rows, &mut deleter);
        self.work.deleters[outbox] = deleter;
        result
    }

    fn compare_with(
        &mut self,
        link: &Link,
        rows: &[(RowKey, Fingerprint)],
        deleter: &mut Deleter,
    ) -> Result<(), Failed> {
        let Some(table) = self.outboxes[usize::from(rows[0].0.outbox.0)].table() else { return Err(Failed::Again) };
        let work = &mut self.work;
        work.wanted.clear();
        work.wanted.extend(rows.iter().map(|(key, print)| Wanted { rowid: key.rowid, print: *print }));
        let spared: Vec<i64> =
            rows.iter().filter(|(key, print)| work.refused.get(key) == Some(print)).map(|(key, _)| key.rowid).collect();
        Ok(deleter.compare(link, table, &work.wanted, &spared)?)
    }

    /// Table by table, so that what a trigger of one outbox does to another is seen when that one's turn comes.
    fn delete_rows(
        &mut self,
        link: &Link,
        rows: &[(RowKey, Fingerprint)],
        deletion: &mut Deletion,
    ) -> Result<(), Failed> {
        let before = link.connection.total_changes();
        let mut unable = Unable::default();
        for rows in by_outbox(rows) {
            // More was changed than we asked for: a trigger or a foreign key, and it may have been this table's rows.
            if link.connection.total_changes() - before != deletion.deleted as u64 {
                self.compare(link, rows)?;
            }
            if self.work.care == Some(Care::Single) {
                let mut single = std::mem::take(&mut self.work.single);
                for row in rows.chunk_by(|a, b| a.0 == b.0) {
                    self.compare_with(link, row, &mut single)?;
                    self.delete_compared(link, row, &mut single, deletion)?;
                    unable.rows.extend(single.takes_others.iter().map(|rowid| RowKey { rowid: *rowid, ..row[0].0 }));
                }
                self.work.single = single;
            } else {
                let outbox = usize::from(rows[0].0.outbox.0);
                let mut deleter = std::mem::take(&mut self.work.deleters[outbox]);
                let result = self.delete_compared(link, rows, &mut deleter, deletion);
                self.work.deleters[outbox] = deleter;
                result?;
            }
        }
        if unable.rows.is_empty() { Ok(()) } else { Err(Failed::LeaveOut(unable)) }
    }

    /// What `deleter` has compared of `rows`.
    fn delete_compared(
        &mut self,
        link: &Link,
        rows: &[(RowKey, Fingerprint)],
        deleter: &mut Deleter,
        deletion: &mut Deletion,
    ) -> Result<(), Failed> {
        let outbox = rows[0].0.outbox;
        let Some(table) = self.outboxes[usize::from(outbox.0)].table() else { return Err(Failed::Again) };
        let work = &mut self.work;
        match deleter.delete(link, outbox, table, work.care.unwrap_or(Care::Quick), &work.deleters) {
            Ok(()) => {
                let keys =
                    |rowids: &[i64]| rowids.iter().map(|rowid| RowKey { outbox, rowid: *rowid }).collect::<Vec<_>>();
                deletion.deleted += deleter.removed;
                deletion.changed.extend(keys(&deleter.changed));
                deletion.gone.extend(keys(&deleter.gone));
                deletion.kept.extend(keys(&deleter.kept));
                Ok(())
            }
            Err(Stop::Sqlite(error)) if failure::is_overtaken(&error) => Err(Failed::Overtaken),
            Err(Stop::Sqlite(error)) => Err(error.into()),
            Err(Stop::BeCareful) => {
                work.care = Some(Care::Halving);
                Err(Failed::Again)
            }
            Err(Stop::TookOthers) => {
                work.care = Some(Care::Single);
                Err(Failed::Again)
            }
            Err(Stop::RolledBack { rowids }) => {
                work.care = Some(Care::Single);
                if let [rowid] = rowids[..] {
                    log::warn!("{} rowid {rowid} can't be deleted: a trigger rolls the transaction back", table.name);
                    if work.refused.len() >= REFUSED_MAX {
                        work.refused.clear();
                    }
                    work.refused.extend(rows.iter().filter(|(key, _)| key.rowid == rowid).copied());
                }
                Err(Failed::Again)
            }
        }
    }

    fn commit(&self, connection: &Connection, patience: Duration) -> Result<(), Failed> {
        let began = Instant::now();
        let mut pause = COMMIT_RETRY_FIRST;
        loop {
            let Err(error) = connection.prepare_cached("COMMIT").and_then(|mut commit| commit.execute([])) else {
                return Ok(());
            };
            match failure::class(&error) {
                // Readers in a rollback-journal mode. Nothing has happened, the transaction is still open, and meanwhile our
                // PENDING lock keeps out every new reader: the one bounded wait in here.
                Class::Busy if !connection.is_autocommit() => {
                    if began.elapsed() + pause > patience {
                        return Err(error.into());
                    }
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(COMMIT_RETRY_MAX);
                }
                // A deferred constraint that no row of ours is the reason of (`delete_rows` keeps those): a trigger's doing. Nothing
                // was written, the transaction is still open.
                Class::Statement if !connection.is_autocommit() => {
                    let why = failure::why(&format!("{}: committing a delete", self.subject()), &error);
                    return Err(SourceError::Failed(why.hint(
                        "a deferred foreign key refers to outbox rows; set foreign_keys = false or let it cascade",
                    ))
                    .into());
                }
                _ if failure::rolls_back(&error) => return Err(error.into()),
                _ => return Err(Failed::Unknown(format!("{}: COMMIT: {}", self.subject(), failure::text(&error)))),
            }
        }
    }

    fn link_has_moved(&self, link: &Link) -> bool {
        let mut moved = 0;
        let asked = link.connection.file_control(Some(c"main"), rusqlite::FileControl::HasMoved(&mut moved));
        let there = super::lock::file_id(&self.options.path).ok().flatten();
        let log = self.companions.as_ref().and_then(super::durability::Companions::wal_file);
        let without_log = self.known.as_ref().is_some_and(|known| known.lost_its_log(log));
        without_log || asked.is_err() || moved != 0 || there != self.lock.as_ref().map(super::lock::Lock::file)
    }

    /// Which log the next commit goes to, if it does not begin it anew.
    pub(super) fn log_begun(&mut self) -> Option<Salts> {
        let companions = self.companions.as_mut().filter(|_| self.mode == JournalMode::Wal)?;
        companions.wal_salts()
    }

    /// Tells the watch where our commit ended. `before`: the log while nobody else could write to it. One that was begun anew since
    /// then, by our commit or by somebody after it, may have another's commit where ours would be: our own costs an empty look then, as it
    /// does in rollback-journal modes, where files say nothing of who wrote them.
    fn note_own_commit(&mut self, link: &Link, before: Option<Salts>) {
        let frames = link.hooks.record().wal_frames.take();
        if let (Some(frame), Some(salts)) = (frames, before) {
            self.name_own_commit(frame, salts);
        }
    }

    pub(super) fn name_own_commit(&mut self, frame: u32, before: Salts) {
        if self.log_begun() == Some(before) {
            let [a, b, c, d, ..] = before;
            self.own.note_frame(u32::from_be_bytes([a, b, c, d]), frame);
        }
    }
}

/// Ends the transaction with its scope, also in a panic: with the connection and its hooks still whole.
struct Undo<'a>(&'a Connection);

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        roll_back(self.0);
    }
}

/// The order's groups, but for those that were left out.
pub(super) fn taken<'a>(order: &DeleteOrder<'a>, left_out: &'a [LeftOut]) -> impl Iterator<Item = &'a DeleteGroup> {
    let groups = order.groups.iter().enumerate();
    groups.filter(|(at, _)| LeftOut::place_of(left_out, *at).is_err()).map(|(_, group)| group)
}

fn by_outbox(rows: &[(RowKey, Fingerprint)]) -> impl Iterator<Item = &[(RowKey, Fingerprint)]> {
    rows.chunk_by(|a, b| a.0.outbox == b.0.outbox)
}

/// Leaves no transaction open. Some errors (disk full, I/O, RAISE(ROLLBACK)) have already ended it.
fn roll_back(connection: &Connection) -> bool {
    connection.is_autocommit()
        || connection.prepare_cached("ROLLBACK").and_then(|mut rollback| rollback.execute([])).is_ok()
        || connection.is_autocommit()
}
