//! The delete transaction: polite to begin with, all or nothing, confirmed by hooks and COMMIT together.
//!
//! Promises: on any error nothing was deleted, except `CommitUnknown`, which says so. Does not know: why rows are deleted.

use super::content::Known;
use super::database::{Database, Link};
use super::delete::{Care, Stop, Wanted};
use super::failure::{self, Class};
use super::handle;
use super::look::Trouble;
use super::outbox::State;
use crate::failpoint;
use crate::model::{Deletion, Fingerprint, JournalMode, RowKey, Why};
use crate::ports::{DeleteOrder, JournalError, SourceError};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How often a transaction may be begun again in one call because a trigger rolled it back. What was learned stays for the next.
const ROLLBACKS_MAX: usize = 16;

/// Rows that took a whole transaction with them; more than this are found anew.
const REFUSED_MAX: usize = 10_000;

/// First wait before a BUSY COMMIT is tried again; doubles.
const COMMIT_RETRY_FIRST: Duration = Duration::from_micros(50);
const COMMIT_RETRY_MAX: Duration = Duration::from_millis(2);

/// What lives from one delete to the next.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// All plans' rows, by outbox, then rowid.
    rows: Vec<(RowKey, Fingerprint)>,
    wanted: Vec<Wanted>,
    /// Rows whose trigger rolls everything back: not tried again while they are the same.
    refused: BTreeMap<RowKey, Fingerprint>,
    care: Option<Care>,
}

impl Work {
    /// The schema changed: perhaps the trigger is gone.
    pub fn forget_refused(&mut self) {
        self.refused.clear();
        self.care = None;
    }
}

/// How one attempt ended other than well.
enum Failed {
    Again,
    Trouble(Trouble),
    /// The path leads to another file, or to none.
    Moved,
    /// COMMIT answered something else than OK or BUSY.
    Unknown(String),
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
        before_commit: &mut dyn FnMut() -> Result<(), JournalError>,
    ) -> Result<Deletion, SourceError> {
        if self.is_read_only() {
            return Err(SourceError::Failed(Why::new(format!("{} is open for reading only", self.subject()))));
        }
        let first = order.plans.iter().filter_map(|plan| plan.rows.meta.first()).map(|row| row.key.outbox).next();
        let Some(first) = first else { return Ok(Deletion::default()) };
        self.open_for(first)?;
        if self.known.as_ref().is_some_and(Known::is_doubtful) {
            return Err(SourceError::Busy(format!("{} is being checkpointed", self.subject())));
        }
        self.work.rows.clear();
        for plan in order.plans {
            self.work.rows.extend(plan.rows.meta.iter().map(|row| (row.key, row.print)));
        }
        self.work.rows.sort_unstable_by_key(|(key, _)| *key);
        for _ in 0..ROLLBACKS_MAX {
            match self.attempt(order, before_commit) {
                Ok(deletion) => {
                    self.busy_since = None;
                    self.unsynced = true;
                    self.work.care = None;
                    return Ok(deletion);
                }
                Err(Failed::Again) => {}
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
        Err(SourceError::Yielded)
    }

    fn attempt(
        &mut self,
        order: &DeleteOrder<'_>,
        before_commit: &mut dyn FnMut() -> Result<(), JournalError>,
    ) -> Result<Deletion, Failed> {
        let mut checked = None;
        let mut broken = false;
        let mut mode_set = None;
        let result = match self.link.take() {
            None => Err(Failed::Again),
            Some(link) => {
                let result = self.transaction(&link, order, before_commit, &mut checked, &mut mode_set);
                if result.is_err() && !roll_back(&link.connection) {
                    log::warn!("{}: a ROLLBACK failed; opening anew", self.subject());
                    broken = true;
                }
                self.link = Some(link);
                if result.is_err() {
                    // What did not fit into the cache was written and written back.
                    self.note_own_content();
                }
                result
            }
        };
        if let Some(link) = &mut self.link {
            link.checked = checked.or(link.checked);
            link.synchronous_for = mode_set.or(link.synchronous_for);
        }
        if broken {
            self.close();
        }
        result
    }

    fn transaction(
        &mut self,
        link: &Link,
        order: &DeleteOrder<'_>,
        before_commit: &mut dyn FnMut() -> Result<(), JournalError>,
        checked: &mut Option<i64>,
        mode_set: &mut Option<JournalMode>,
    ) -> Result<Deletion, Failed> {
        let connection = &link.connection;
        if link.synchronous_for != Some(self.mode) {
            // NORMAL in a rollback-journal mode could corrupt the application's file in a power cut; FULL in WAL mode would sync
            // at every delete, which `make_durable` does once for many.
            let level = if self.mode == JournalMode::Wal { "NORMAL" } else { "FULL" };
            connection.execute_batch(&format!("PRAGMA synchronous = {level}"))?;
            *mode_set = Some(self.mode);
        }
        // Parsing need not happen while the lock is held. What can't be prepared is for the inspection inside the transaction to
        // explain.
        for rows in self.work.rows.chunk_by(|a, b| a.0.outbox == b.0.outbox) {
            if let Some(table) = self.outboxes[usize::from(rows[0].0.outbox.0)].table() {
                let _ = (connection.prepare_cached(&table.range), connection.prepare_cached(&table.delete));
            }
        }
        let _ = connection.prepare_cached("COMMIT");
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        let began = Instant::now();
        let counter: i64 = connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        self.trust_in_journal(link, counter)?;
        if link.checked != Some(counter) {
            let inspected = self.inspect(connection, link.checked.is_some());
            // What the schema check says is said once: also when it says that rows must be matched anew.
            if !matches!(inspected, Err(Trouble::Sqlite(_))) {
                *checked = Some(counter);
            }
            inspected?;
        }
        let mut deletion = Deletion::default();
        self.delete_rows(link, &mut deletion)?;
        if self.options.foreign_keys && self.work.care.is_none() && handle::owes_foreign_keys(connection) {
            // A COMMIT would fail for the whole order. Asked here and not answered there, so that the state file is told once.
            self.work.care = Some(Care::Halving);
            return Err(Failed::Again);
        }
        if deletion.deleted == 0 {
            roll_back(connection);
            deletion.held = began.elapsed();
            return Ok(deletion);
        }
        self.book(link, order)?;
        if order.yields && self.mode == JournalMode::Wal && link.unix && handle::external_reader(connection) {
            return Err(SourceError::Yielded.into());
        }
        before_commit().map_err(SourceError::Journal)?;
        if self.link_has_moved(link) {
            // In WAL mode a moved or unlinked file would still take the COMMIT. The next call says what is there now.
            return Err(Failed::Moved);
        }
        let commits = link.hooks.record().commits;
        failpoint::hit("committing");
        self.commit(connection, order.commit_patience)?;
        failpoint::hit("committed");
        self.books_committed();
        self.note_own_content();
        deletion.held = began.elapsed();
        // The third witness: a COMMIT that was none would be a broken connection, and the rows are not to be called deleted.
        assert!(link.hooks.record().commits > commits, "COMMIT returned OK and the commit hook did not fire");
        self.note_own_commit(link);
        Ok(deletion)
    }

    /// Table by table, so that what a trigger of one outbox does to another is seen when that one's turn comes.
    fn delete_rows(&mut self, link: &Link, deletion: &mut Deletion) -> Result<(), Failed> {
        let rows = std::mem::take(&mut self.work.rows);
        let result = self.delete_sorted(link, deletion, &rows);
        self.work.rows = rows;
        result
    }

    fn delete_sorted(
        &mut self,
        link: &Link,
        deletion: &mut Deletion,
        rows: &[(RowKey, Fingerprint)],
    ) -> Result<(), Failed> {
        let care = self.work.care.unwrap_or(Care::Quick);
        for rows in rows.chunk_by(|a, b| a.0.outbox == b.0.outbox) {
            let outbox = rows[0].0.outbox;
            let keys = |rowids: &[i64]| rowids.iter().map(|rowid| RowKey { outbox, rowid: *rowid }).collect::<Vec<_>>();
            let table = match &self.outboxes[usize::from(outbox.0)].state {
                State::Fit(table) => table,
                // Nothing of this table can be deleted, but that must not hold up the others.
                State::NotThere(_) => {
                    deletion.gone.extend(rows.iter().map(|(key, _)| *key));
                    continue;
                }
                State::Unfit(_) | State::Unknown => {
                    deletion.changed.extend(rows.iter().map(|(key, _)| *key));
                    continue;
                }
            };
            self.work.wanted.clear();
            self.work.wanted.extend(rows.iter().map(|(key, print)| Wanted { rowid: key.rowid, print: *print }));
            let spared: Vec<i64> = rows
                .iter()
                .filter(|(key, print)| self.work.refused.get(key) == Some(print))
                .map(|(key, _)| key.rowid)
                .collect();
            let deleter = &mut self.deleter;
            match deleter.table(link, table, &self.work.wanted, &spared, care) {
                Ok(()) => {
                    deletion.deleted += deleter.removed;
                    deletion.changed.extend(keys(&deleter.changed));
                    deletion.gone.extend(keys(&deleter.gone));
                    deletion.kept.extend(keys(&deleter.kept));
                }
                Err(Stop::Sqlite(error)) => return Err(error.into()),
                Err(Stop::BeCareful) => {
                    self.work.care = Some(Care::Halving);
                    return Err(Failed::Again);
                }
                Err(Stop::RolledBack { rowids }) => {
                    self.work.care = Some(Care::Single);
                    if let [rowid] = rowids[..] {
                        log::warn!(
                            "{} rowid {rowid} can't be deleted: a trigger rolls the transaction back",
                            table.name
                        );
                        if self.work.refused.len() >= REFUSED_MAX {
                            self.work.refused.clear();
                        }
                        let refused = rows.iter().filter(|(key, _)| key.rowid == rowid).copied();
                        self.work.refused.extend(refused);
                    }
                    return Err(Failed::Again);
                }
            }
        }
        Ok(())
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

    /// Tells the watch where our commit ended. In rollback-journal modes files say nothing of who wrote them; there our own
    /// delete costs a wake.
    fn note_own_commit(&mut self, link: &Link) {
        if self.mode != JournalMode::Wal {
            return;
        }
        let frames = link.hooks.record().wal_frames.take();
        let salt1 = self.companions.as_mut().and_then(super::durability::Companions::wal_salt1);
        if let (Some(frame), Some(salt1)) = (frames, salt1) {
            self.own.note_frame(salt1, frame);
        }
    }
}

/// Leaves no transaction open. Some errors (disk full, I/O, RAISE(ROLLBACK)) have already ended it.
fn roll_back(connection: &Connection) -> bool {
    connection.is_autocommit()
        || connection.prepare_cached("ROLLBACK").and_then(|mut rollback| rollback.execute([])).is_ok()
        || connection.is_autocommit()
}
