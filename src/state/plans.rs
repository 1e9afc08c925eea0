//! Plans as they lie in the file between runs.
//!
//! Promises: lists and forgets them, rows read one plan at a time. Does not know: what to do with one.

use super::codec::{self, Damaged, OpenRow};
use crate::model::{PlanId, RunId, Target, Triple};
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The relay's number lies above the plan's in the file's own id.
pub const RELAY_SHIFT: u32 = 48;

/// How far a plan had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanState {
    /// Sent or not: the broker must say.
    Planned,
    /// Stored by the broker; its delete may have been committed or not. Offset -1: not known.
    Acknowledged { offset: i64 },
}

/// A plan that an earlier run left. Its rows: [`super::StateFile::rows`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPlan {
    /// The file's own number.
    pub(super) id: i64,
    /// The number it had in its relay.
    pub plan: PlanId,
    /// The database it was made from, resolved, and its device and inode at that time.
    pub database: PathBuf,
    pub device: u64,
    pub inode: u64,
    /// The tables of that database that were ever relayed: [`OpenRow::outbox`] and the name.
    pub tables: Vec<(u64, String)>,
    pub target: Target,
    pub triple: Triple,
    pub run: RunId,
    pub noted_offset: i64,
    pub leader_epoch: i32,
    pub first_attempt: SystemTime,
    pub row_count: usize,
    pub state: PlanState,
}

/// Notes who works with the file now. Plans in a file that was copied or restored are dropped: they may be older than the
/// database. Answers whether it is still the boot of the last run.
pub fn begin_run(
    connection: &mut Connection,
    path: &Path,
    run: RunId,
    device: u64,
    inode: u64,
) -> rusqlite::Result<bool> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let last = transaction
        .query_row("SELECT device, inode, boot_id FROM meta", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        })
        .optional()?;
    if let Some((last_device, last_inode, _)) = &last
        && (*last_device, *last_inode) != (device as i64, inode as i64)
    {
        let dropped = transaction.execute("DELETE FROM plan", [])?;
        transaction.execute("DELETE FROM plan_rows", [])?;
        log::warn!(
            "the state file {} was copied or restored; its {dropped} open plans may be older than the databases and are \
             dropped: their rows are sent again as new",
            path.display()
        );
    }
    transaction.execute(
        "INSERT OR REPLACE INTO meta (id, device, inode, boot_id, run) VALUES (1, ?, ?, ?, ?)",
        params![device as i64, inode as i64, boot, run.0.to_be_bytes()],
    )?;
    transaction.commit()?;
    Ok(!boot.is_empty() && last.is_some_and(|(_, _, last_boot)| last_boot == boot))
}

pub fn open_plans(connection: &Connection) -> rusqlite::Result<Vec<OpenPlan>> {
    let mut outboxes = connection.prepare("SELECT relay, id, table_name FROM outbox ORDER BY id")?;
    let outboxes = outboxes
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut statement = connection.prepare(
        "SELECT plan.id, relay.path, device, inode, topic, partition, producer_id, epoch, first_sequence, run, noted_offset,
             leader_epoch, first_attempt_ms, row_count, acknowledged, acknowledged_offset
         FROM plan JOIN relay ON relay.id = plan.id >> 48 ORDER BY plan.id",
    )?;
    statement.query_map([], |row| open_plan(row, &outboxes))?.collect()
}

fn open_plan(row: &Row<'_>, outboxes: &[(i64, i64, String)]) -> rusqlite::Result<OpenPlan> {
    let id: i64 = row.get(0)?;
    let relay = id >> RELAY_SHIFT;
    Ok(OpenPlan {
        id,
        plan: PlanId(id as u64 & ((1 << RELAY_SHIFT) - 1)),
        database: PathBuf::from(OsStr::from_bytes(&row.get::<_, Vec<u8>>(1)?)),
        device: row.get::<_, i64>(2)? as u64,
        inode: row.get::<_, i64>(3)? as u64,
        tables: outboxes.iter().filter(|o| o.0 == relay).map(|(_, id, name)| (*id as u64, name.clone())).collect(),
        target: Target { topic: row.get::<_, String>(4)?.into(), partition: row.get(5)? },
        triple: Triple { producer_id: row.get(6)?, epoch: row.get(7)?, first_sequence: row.get(8)? },
        run: RunId(u128::from_be_bytes(row.get(9)?)),
        noted_offset: row.get(10)?,
        leader_epoch: row.get(11)?,
        first_attempt: SystemTime::UNIX_EPOCH + Duration::from_millis(row.get::<_, i64>(12)?.max(0) as u64),
        row_count: row.get::<_, i64>(13)?.max(0) as usize,
        state: if row.get(14)? {
            PlanState::Acknowledged { offset: row.get::<_, Option<i64>>(15)?.unwrap_or(-1) }
        } else {
            PlanState::Planned
        },
    })
}

pub fn rows(connection: &Connection, plan: &OpenPlan) -> rusqlite::Result<Result<Vec<OpenRow>, Damaged>> {
    connection.query_row("SELECT rows FROM plan_rows WHERE id = ?", [plan.id], |row| {
        Ok(codec::decode(row.get_ref(0)?.as_blob()?))
    })
}

pub fn drop_plans(connection: &mut Connection, plans: &[OpenPlan]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for plan in plans {
        transaction.prepare_cached("DELETE FROM plan WHERE id = ?")?.execute([plan.id])?;
        transaction.prepare_cached("DELETE FROM plan_rows WHERE id = ?")?.execute([plan.id])?;
    }
    transaction.commit()
}
