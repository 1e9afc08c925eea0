//! The file's one row about itself: who works with it, since which boot, and whether it is what was last worked with.
//!
//! Promises: what lies in a file that was copied or put back is dropped, because it may be older than the databases. Does not
//! know: what is dropped.

use super::lock::Lock;
use super::mark;
use crate::model::{FileId, RunId};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use std::path::Path;

/// What was found and noted.
pub struct Begun {
    /// The machine has not been booted since the last run.
    pub same_boot: bool,
    pub id: u128,
    pub marks: u64,
}

struct Last {
    file: FileId,
    boot: String,
    id: Option<u128>,
    marks: u64,
}

/// Notes who works with the file now. `fresh_id`: a random number, for a file that has none or may no longer use its own.
pub fn begin(
    connection: &mut Connection,
    path: &Path,
    run: RunId,
    lock: &Lock,
    fresh_id: u128,
) -> rusqlite::Result<Begun> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let last = last(&transaction)?;
    let same_boot = !boot.is_empty() && last.as_ref().is_some_and(|last| last.boot == boot);
    let outside = mark::read(&lock.file).unwrap_or(0);
    let mut id = last.as_ref().and_then(|last| last.id);
    let mut marks = outside;
    if let Some(last) = &last {
        marks = marks.max(last.marks);
        if !lock.id.is(last.file) {
            drop_all(&transaction, path, "was copied or restored")?;
            // Its numbers may have been given again by the one it was copied from.
            id = None;
        } else if same_boot && (outside > last.marks || mark::read_plans(&lock.file) > Some(mark::plans(&transaction)?))
        {
            // After a power cut the last notes may be missing for an honest reason.
            drop_all(&transaction, path, "was overwritten with an older copy of it")?;
            id = None;
        }
    }
    if !same_boot {
        // As long as the plan is there, however often we are started until then.
        transaction.execute("UPDATE plan SET other_boot = 1", [])?;
    }
    let id = id.unwrap_or(fresh_id);
    // Asked of another run: whoever waits for the answer sees that its question is gone, and asks this one.
    transaction.execute("DELETE FROM request", [])?;
    transaction.execute(
        "INSERT OR REPLACE INTO meta (id, device, inode, born, boot_id, run, state_id, marks) VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
        params![
            lock.id.device as i64,
            lock.id.inode as i64,
            lock.id.born,
            boot,
            run.0.to_be_bytes(),
            id.to_be_bytes(),
            marks as i64
        ],
    )?;
    transaction.commit()?;
    mark::write(&lock.file, marks);
    Ok(Begun { same_boot, id, marks })
}

fn last(transaction: &Transaction<'_>) -> rusqlite::Result<Option<Last>> {
    transaction
        .query_row("SELECT device, inode, born, boot_id, state_id, marks FROM meta", [], |row| {
            Ok(Last {
                file: FileId {
                    device: row.get::<_, i64>(0)? as u64,
                    inode: row.get::<_, i64>(1)? as u64,
                    born: row.get(2)?,
                },
                boot: row.get(3)?,
                id: row.get::<_, Option<[u8; 16]>>(4)?.map(u128::from_be_bytes),
                marks: row.get::<_, i64>(5)? as u64,
            })
        })
        .optional()
}

/// As if the file had been lost.
fn drop_all(transaction: &Transaction<'_>, path: &Path, what: &str) -> rusqlite::Result<()> {
    let plans = transaction.execute("DELETE FROM plan", [])?;
    let quarantined = transaction.execute("DELETE FROM quarantine", [])?;
    for table in ["plan_rows", "fingerprint_column", "table_identity", "deleting", "settled_here", "resend"] {
        transaction.execute(&format!("DELETE FROM {table}"), [])?;
    }
    log::warn!(
        "the state file {} {what}; its {plans} open plans and {quarantined} quarantined rows may be older than the databases \
         and are dropped: rows in flight are sent again as new, those in quarantine are tried again",
        path.display()
    );
    Ok(())
}

/// The file is a new one with the contents of the last: its name leads to another place now.
pub fn moved(connection: &Connection, lock: &Lock, marks: u64) -> rusqlite::Result<()> {
    connection
        .execute(
            "UPDATE meta SET device = ?, inode = ?, born = ?",
            params![lock.id.device as i64, lock.id.inode as i64, lock.id.born],
        )
        .map(|_| mark::write(&lock.file, marks))
}
