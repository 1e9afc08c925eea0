//! The relay's view of the state file: facts go in, one transaction for each call; operators' requests come out.
//!
//! Promises: what [`Journal::record`] returned `Ok` for is in the file, and with `sync` on the disk; after an error all of that call
//! is in the file or nothing of it, and none of it counts: the next may go well. Does not know: why.

use super::plans::{self, RELAY_SHIFT};
use super::{
    BUSY_TIMEOUT, Shared, StateError, StateFile, codec, left, millis, origin, quarantine, requests, resends, tables,
    upkeep,
};
use crate::model::{FileId, Left, Origin, OutboxIx, Plan, PlanId, Request, RowKey};
use crate::ports::{Change, Journal, JournalError};
use rusqlite::{ErrorCode, Transaction, TransactionBehavior, params};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A note waits no longer than this for whoever else writes to the file: an application waits with it.
const NOTE_PATIENCE: Duration = Duration::from_millis(5);

/// One relay's part of the state file.
#[derive(Debug)]
pub struct StateJournal {
    file: StateFile,
    database: PathBuf,
    tables: Vec<String>,
    /// Where the rows of what is recorded are.
    origin: Option<Origin>,
    /// What the file says of that.
    noted: Option<Origin>,
    /// The file's number of this relay.
    relay: i64,
    /// The file's numbers of its outboxes, by their place.
    outboxes: Vec<i64>,
    first_plan: PlanId,
    unsynced: Unsynced,
    /// The connection's number and its `PRAGMA data_version` when requests were last looked for.
    seen: Option<(u64, i64)>,
    /// The highest request that was handed out.
    last_request: i64,
}

/// What is in the file of calls whose sync failed, and may be true no longer. The rest of such a call is told again, as it is by then,
/// by the next record with a sync. Until that one comes the file is left as it was told: a plan that is taken away alone would take
/// its rows' message ids along, those of the plan it replaces and of the resends that it has made an end of.
#[derive(Debug, Default)]
struct Unsynced {
    /// The relay may make others in their place.
    plans: Vec<PlanId>,
    /// Of deletes that did not commit, as their notes failed: for the next call of any kind.
    deletes: Vec<u64>,
    kept: Vec<RowKey>,
}

impl Unsynced {
    fn take_back(&self, transaction: &Transaction<'_>, journal: &StateJournal, repeated: bool) -> rusqlite::Result<()> {
        for delete in &self.deletes {
            plans::note(transaction, journal.relay, *delete, &[])?;
        }
        for key in &self.kept {
            quarantine::delete(transaction, journal.outbox(key.outbox), key.rowid)?;
        }
        if repeated {
            for plan in &self.plans {
                plans::delete(transaction, journal.id(*plan))?;
            }
        }
        Ok(())
    }

    fn taken_back(&mut self, repeated: bool) {
        self.deletes.clear();
        self.kept.clear();
        if repeated {
            self.plans.clear();
        }
    }

    fn add(&mut self, changes: &[Change<'_>], repeated: bool) {
        // One before it is of a delete that may have happened, and was there already.
        let own = changes.iter().rev().find_map(|change| match change {
            Change::Deleting { delete, plans } if !plans.is_empty() => Some(*delete),
            _ => None,
        });
        self.deletes.extend(own.filter(|_| !repeated));
        for change in changes {
            match change {
                Change::Planned(plan) => self.plans.push(plan.id),
                Change::Replaced { new, .. } => self.plans.extend(new.iter().map(|plan| plan.id)),
                Change::Quarantined(row) if !repeated => self.kept.push(row.key),
                _ => {}
            }
        }
    }
}

impl StateJournal {
    pub(super) fn new(file: StateFile, database: &Path, tables: &[&str]) -> Result<Self, StateError> {
        let numbers = intern(&mut file.shared().connection, database, tables);
        let (relay, outboxes, first_plan) = numbers.map_err(file.sqlite("written"))?;
        let noted = origin::noted(&file.shared().connection, relay).map_err(file.sqlite("read"))?;
        Ok(StateJournal {
            file,
            database: database.to_owned(),
            tables: tables.iter().map(|table| (*table).to_owned()).collect(),
            origin: None,
            noted,
            relay,
            outboxes,
            first_plan: PlanId(first_plan as u64),
            unsynced: Unsynced::default(),
            seen: None,
            last_request: 0,
        })
    }

    /// Above every number that a plan of this database ever had in this file, and above what this answered at any earlier start.
    pub fn first_plan(&self) -> PlanId {
        self.first_plan
    }

    fn id(&self, plan: PlanId) -> i64 {
        assert!(plan.0 < 1 << RELAY_SHIFT, "plan numbers start at 1 and rise by 1");
        self.relay << RELAY_SHIFT | plan.0 as i64
    }

    fn outbox(&self, ix: OutboxIx) -> i64 {
        self.outboxes[usize::from(ix.0)]
    }

    /// Answers the number of a commit that is still to be synced. `repeated`: everything that failed before and still holds is among
    /// the changes.
    fn write(
        &self,
        shared: &mut Shared,
        changes: &[Change<'_>],
        sync: bool,
        repeated: bool,
    ) -> rusqlite::Result<Option<u64>> {
        let Shared { connection, synchronous_full, log, blob, marks, .. } = shared;
        let in_wal = sync && {
            let mut mode = connection.prepare_cached("PRAGMA journal_mode")?;
            mode.query_row([], |row| Ok(row.get_ref(0)?.as_str()? == "wal"))?
        };
        // Where the file system can't do WAL there is no log to be synced later.
        let full = sync && !in_wal;
        if *synchronous_full != full {
            connection.pragma_update(None, "synchronous", if full { "FULL" } else { "NORMAL" })?;
            *synchronous_full = full;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // No file has the number 0.
        let file = self.origin.map_or(FileId { device: 0, inode: 0, born: None }, |origin| origin.file);
        self.unsynced.take_back(&transaction, self, repeated)?;
        let mut highest = 0;
        let mut plan = |plan: &Plan| {
            highest = highest.max(plan.id.0 as i64);
            blob.clear();
            codec::encode(&plan.rows, &self.outboxes, blob);
            insert(&transaction, self.id(plan.id), file, plan, blob)
        };
        let outbox = |ix: OutboxIx| self.outbox(ix);
        let mut deletes = false;
        for change in changes {
            match *change {
                Change::Planned(new) => plan(new)?,
                Change::Replaced { old, new } => {
                    plans::delete(&transaction, self.id(old))?;
                    for new in new {
                        plan(new)?;
                    }
                }
                Change::Acknowledged { plan, offset } => {
                    transaction
                        .prepare_cached("UPDATE plan SET acknowledged = 1, acknowledged_offset = ? WHERE id = ?")?
                        .execute(params![offset, self.id(plan)])?;
                }
                Change::Deleting { delete, plans } => {
                    deletes |= !plans.is_empty();
                    plans::note(&transaction, self.relay, delete, plans)?;
                }
                Change::Doubtful { plan } => {
                    transaction
                        .prepare_cached("UPDATE plan SET doubtful = max(doubtful, 1) WHERE id = ?")?
                        .execute([self.id(plan)])?;
                }
                Change::Settled { plan } => plans::delete(&transaction, self.id(plan))?,
                Change::SettledHere { plan } => plans::settle_here(&transaction, self.id(plan), &self.outboxes)?,
                Change::Quarantined(row) => quarantine::insert(&transaction, outbox(row.key.outbox), file, row)?,
                Change::Released { key } => {
                    quarantine::delete(&transaction, outbox(key.outbox), key.rowid)?;
                }
                Change::Renumbered { key, rowid, print } => {
                    quarantine::renumber(&transaction, outbox(key.outbox), key.rowid, rowid, print)?;
                }
                Change::ToResend { key, resend } => {
                    resends::insert(&transaction, outbox(key.outbox), key.rowid, &resend)?;
                }
                Change::NotToResend { key } => resends::delete(&transaction, outbox(key.outbox), key.rowid)?,
                Change::Stamped { at } => {
                    transaction
                        .prepare_cached("UPDATE relay SET stamp_ms = ? WHERE id = ?")?
                        .execute([millis::of_time(at), self.relay])?;
                }
                Change::Table { outbox: ix, guard, identity } => {
                    tables::set(&transaction, outbox(ix), guard, identity)?;
                }
                Change::Answered { request, failed, text } => requests::answer(&transaction, request, failed, text)?,
            }
        }
        if let Some(origin) = self.news() {
            origin::note(&transaction, self.relay, origin)?;
        }
        if highest > 0 {
            transaction
                .prepare_cached("UPDATE relay SET last_plan = max(last_plan, ?) WHERE id = ?")?
                .execute([highest, self.relay])?;
        }
        if deletes {
            transaction.prepare_cached("UPDATE meta SET marks = ?")?.execute([*marks as i64 + 1])?;
        }
        transaction.commit()?;
        *marks += u64::from(deletes);
        Ok(in_wal.then(|| log.committed()))
    }

    /// What was written, if it is to be synced.
    fn sync(&mut self, changes: &[Change<'_>], commit: Option<u64>, repeated: bool) -> Result<(), JournalError> {
        self.unsynced.taken_back(repeated);
        let Some(commit) = commit else { return Ok(()) };
        let Err(error) = self.file.log.sync(&self.file.path, commit) else { return Ok(()) };
        self.unsynced.add(changes, repeated);
        Err(self
            .error(&format!("syncing its -wal: {error}; see whether its file system is full or failing: df, dmesg")))
    }

    fn error(&self, text: &str) -> JournalError {
        JournalError { path: self.file.path.display().to_string(), text: text.to_owned(), busy: false }
    }

    fn busy(&self) -> JournalError {
        JournalError {
            busy: true,
            ..self.error("another process, or another relay, has been writing to it for too long")
        }
    }

    /// What the file does not say yet. A log that is gone does no harm there.
    fn news(&self) -> Option<Origin> {
        let is_noted = |origin: &Origin| {
            let noted = self.noted.filter(|noted| noted.file == origin.file);
            noted.is_some_and(|noted| origin.log.is_none() || origin.log == noted.log)
        };
        self.origin.filter(|origin| !is_noted(origin))
    }

    fn look_for_requests(&mut self) -> rusqlite::Result<Vec<Request>> {
        let shared = self.file.shared();
        let version = shared.connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        let seen = Some((shared.connection_number, version));
        if self.seen == seen {
            return Ok(Vec::new());
        }
        let found = requests::unanswered(&shared.connection, &self.outboxes, self.last_request)?;
        self.seen = seen;
        self.last_request = found.last().map_or(self.last_request, |request| request.id);
        Ok(found)
    }

    fn failed(&self, error: &rusqlite::Error) -> JournalError {
        self.error(&upkeep::failure(error))
    }
}

impl Journal for StateJournal {
    fn reads_from(&mut self, origin: Option<Origin>) -> bool {
        self.origin = origin;
        self.news().is_some()
    }

    fn record(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError> {
        let news = self.news();
        if changes.is_empty() && !sync && news.is_none() {
            return Ok(());
        }
        let mut shared = self.file.shared();
        shared.look_after(&self.file.path);
        shared.refuse_to_grow().and_then(|()| shared.mend_log(&self.file.path)).map_err(|text| self.error(&text))?;
        let commit = self.write(&mut shared, changes, sync, sync).map_err(|error| self.failed(&error))?;
        // Not to be held while the disk is waited for.
        drop(shared);
        self.sync(changes, commit, sync)?;
        self.noted = news.or(self.noted);
        Ok(())
    }

    fn note(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError> {
        let news = self.news();
        let Some(mut shared) = self.file.shared_within(NOTE_PATIENCE) else { return Err(self.busy()) };
        let hurried = shared.connection.busy_timeout(NOTE_PATIENCE);
        let written = hurried.and_then(|()| self.write(&mut shared, changes, sync, false));
        let patient = shared.connection.busy_timeout(BUSY_TIMEOUT);
        let written = written.and_then(|commit| patient.map(|()| commit));
        drop(shared);
        match written {
            Ok(commit) => self.sync(changes, commit, false)?,
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => return Err(self.busy()),
            Err(error) => return Err(self.failed(&error)),
        }
        self.noted = news.or(self.noted);
        Ok(())
    }

    fn left(&mut self, file: Option<FileId>) -> Result<Left, JournalError> {
        let tables: Vec<&str> = self.tables.iter().map(String::as_str).collect();
        let left = left::read(&self.file, &self.database, &tables, file).map_err(|error| self.failed(&error))?;
        self.seen = None;
        self.last_request = 0;
        Ok(left)
    }

    fn requests(&mut self) -> Result<Vec<Request>, JournalError> {
        let mut shared = self.file.shared();
        shared.look_after(&self.file.path);
        // Nothing may be recorded for a long time, and no note could be synced.
        if let Err(text) = shared.mend_log(&self.file.path) {
            log::debug!("{}", self.error(&text));
        }
        drop(shared);
        self.look_for_requests().map_err(|error| self.failed(&error))
    }
}

/// The file's numbers of the relay and its outboxes, and the first plan's number, which is thereby used up.
fn intern(
    connection: &mut rusqlite::Connection,
    database: &Path,
    tables: &[&str],
) -> rusqlite::Result<(i64, Vec<i64>, i64)> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let path = database.as_os_str().as_bytes();
    transaction.execute("INSERT OR IGNORE INTO relay (path) VALUES (?)", [path])?;
    let relay: i64 = transaction.query_row("SELECT id FROM relay WHERE path = ?", [path], |row| row.get(0))?;
    let mut outboxes = Vec::with_capacity(tables.len());
    for table in tables {
        // SQLite's names of tables are the same in upper and lower case.
        transaction.execute(
            "INSERT INTO outbox (relay, table_name) SELECT ?1, ?2
             WHERE NOT EXISTS (SELECT 1 FROM outbox WHERE relay = ?1 AND table_name = ?2 COLLATE NOCASE)",
            params![relay, table],
        )?;
        let sql = "SELECT id FROM outbox WHERE relay = ? AND table_name = ? COLLATE NOCASE ORDER BY id";
        outboxes.push(transaction.query_row(sql, params![relay, table], |row| row.get(0))?);
    }
    let first_plan = transaction.query_row(
        "UPDATE relay SET last_plan = last_plan + 1 WHERE id = ? RETURNING last_plan",
        [relay],
        |row| row.get(0),
    )?;
    transaction.commit()?;
    Ok((relay, outboxes, first_plan))
}

fn insert(transaction: &Transaction<'_>, id: i64, file: FileId, plan: &Plan, blob: &[u8]) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO plan (id, device, inode, topic, partition, producer_id, epoch, first_sequence, run, noted_offset,
                 leader_epoch, first_attempt_ms, row_count, cluster, born)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            id,
            file.device as i64,
            file.inode as i64,
            &*plan.target.topic,
            plan.target.partition,
            plan.triple.producer_id,
            plan.triple.epoch,
            plan.triple.first_sequence,
            plan.run.0.to_be_bytes(),
            plan.noted_offset,
            plan.leader_epoch,
            millis::of_time(plan.first_attempt),
            plan.rows.len() as i64,
            plan.cluster.as_deref(),
            file.born,
        ])?;
    transaction.prepare_cached("INSERT INTO plan_rows (id, rows) VALUES (?, ?)")?.execute(params![id, blob])?;
    Ok(())
}
