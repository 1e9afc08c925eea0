//! The relay's view of the state file: facts go in, one transaction for each call.
//!
//! Promises: what [`Journal::record`] returned `Ok` for is in the file, and with `sync` on the disk. Does not know: why.

use super::plans::RELAY_SHIFT;
use super::{Shared, StateError, StateFile, codec};
use crate::model::{Plan, PlanId, Request};
use crate::ports::{Change, Journal, JournalError};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior, params};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// One relay's part of the state file.
#[derive(Debug)]
pub struct StateJournal {
    file: StateFile,
    database: PathBuf,
    /// The file's number of this relay, already shifted.
    relay: i64,
    /// The file's numbers of its outboxes, by their place.
    outboxes: Vec<i64>,
    first_plan: PlanId,
}

impl StateJournal {
    pub(super) fn new(file: StateFile, database: &Path, tables: &[&str]) -> Result<Self, StateError> {
        let numbers = intern(&mut file.shared().connection, database, tables);
        let (relay, outboxes, highest) = numbers.map_err(file.sqlite("written"))?;
        let first_plan = PlanId((highest & ((1 << RELAY_SHIFT) - 1)) as u64 + 1);
        Ok(StateJournal { file, database: database.to_owned(), relay: relay << RELAY_SHIFT, outboxes, first_plan })
    }

    /// Above every plan of this database that is still in the file.
    pub fn first_plan(&self) -> PlanId {
        self.first_plan
    }

    fn id(&self, plan: PlanId) -> i64 {
        assert!(plan.0 < 1 << RELAY_SHIFT, "plan numbers start at 1 and rise by 1");
        self.relay | plan.0 as i64
    }

    fn write(&self, changes: &[Change<'_>], sync: bool) -> rusqlite::Result<()> {
        let mut shared = self.file.shared();
        let Shared { connection, synchronous_full, blob, .. } = &mut *shared;
        if *synchronous_full != sync {
            connection.pragma_update(None, "synchronous", if sync { "FULL" } else { "NORMAL" })?;
            *synchronous_full = sync;
        }
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // The database as it is now; a source that found another one since says so itself.
        let mut identity = None;
        let mut plan = |plan: &Plan| {
            let identity = *identity.get_or_insert_with(|| {
                std::fs::metadata(&self.database).map_or((0, 0), |meta| (meta.dev() as i64, meta.ino() as i64))
            });
            blob.clear();
            codec::encode(&plan.rows, &self.outboxes, blob);
            insert(&transaction, self.id(plan.id), identity, plan, blob)
        };
        for change in changes {
            match *change {
                Change::Planned(new) => plan(new)?,
                Change::Replaced { old, new } => {
                    delete(&transaction, self.id(old))?;
                    for new in new {
                        plan(new)?;
                    }
                }
                Change::Acknowledged { plan, offset } => {
                    transaction
                        .prepare_cached("UPDATE plan SET acknowledged = 1, acknowledged_offset = ? WHERE id = ?")?
                        .execute(params![offset, self.id(plan)])?;
                }
                Change::Settled { plan } => delete(&transaction, self.id(plan))?,
                Change::Deleting { .. }
                | Change::Quarantined(_)
                | Change::Released { .. }
                | Change::Renumbered { .. }
                | Change::Columns { .. }
                | Change::Answered { .. } => {}
            }
        }
        transaction.commit()
    }
}

impl Journal for StateJournal {
    fn record(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError> {
        if changes.is_empty() && !sync {
            return Ok(());
        }
        self.write(changes, sync)
            .map_err(|error| JournalError { path: self.file.path.display().to_string(), text: error.to_string() })
    }

    fn requests(&mut self) -> Result<Vec<Request>, JournalError> {
        Ok(Vec::new())
    }
}

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
        transaction.execute("INSERT OR IGNORE INTO outbox (relay, table_name) VALUES (?, ?)", params![relay, table])?;
        let sql = "SELECT id FROM outbox WHERE relay = ? AND table_name = ?";
        outboxes.push(transaction.query_row(sql, params![relay, table], |row| row.get(0))?);
    }
    let highest = transaction
        .query_row("SELECT max(id) FROM plan WHERE id >> 48 = ?", [relay], |row| row.get::<_, Option<i64>>(0))
        .optional()?
        .flatten()
        .unwrap_or(0);
    transaction.commit()?;
    Ok((relay, outboxes, highest))
}

fn insert(
    transaction: &Transaction<'_>,
    id: i64,
    (device, inode): (i64, i64),
    plan: &Plan,
    blob: &[u8],
) -> rusqlite::Result<()> {
    let first_attempt =
        plan.first_attempt.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    transaction
        .prepare_cached(
            "INSERT INTO plan (id, device, inode, topic, partition, producer_id, epoch, first_sequence, run, noted_offset,
                 leader_epoch, first_attempt_ms, row_count) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            id,
            device,
            inode,
            &*plan.target.topic,
            plan.target.partition,
            plan.triple.producer_id,
            plan.triple.epoch,
            plan.triple.first_sequence,
            plan.run.0.to_be_bytes(),
            plan.noted_offset,
            plan.leader_epoch,
            first_attempt,
            plan.rows.len() as i64,
        ])?;
    transaction.prepare_cached("INSERT INTO plan_rows (id, rows) VALUES (?, ?)")?.execute(params![id, blob])?;
    Ok(())
}

fn delete(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM plan WHERE id = ?")?.execute([id])?;
    transaction.prepare_cached("DELETE FROM plan_rows WHERE id = ?")?.execute([id])?;
    Ok(())
}

/// For `--stdout`, which keeps no plans: after a kill a row may be printed again.
#[derive(Clone, Copy, Debug, Default)]
pub struct NullJournal;

impl Journal for NullJournal {
    fn record(&mut self, _: &[Change<'_>], _: bool) -> Result<(), JournalError> {
        Ok(())
    }

    fn requests(&mut self) -> Result<Vec<Request>, JournalError> {
        Ok(Vec::new())
    }
}
