//! Plans as they lie in the file between runs.
//!
//! Promises: lists and forgets them, rows read one plan at a time. Does not know: what to do with one.

use super::codec::{self, Damaged, OpenRow};
use super::millis;
use crate::model::{ClusterId, FileId, PlanId, PlanState, RunId, Target, Triple};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

/// The relay's number lies above the plan's in the file's own id.
pub const RELAY_SHIFT: u32 = 48;

/// A plan that an earlier run left. Its rows: [`super::StateFile::rows`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenPlan {
    /// The file's own number.
    pub(super) id: i64,
    /// The number it had in its relay.
    pub plan: PlanId,
    /// The database it was made from, resolved, and the file that was it.
    pub database: PathBuf,
    pub file: FileId,
    /// The tables of that database that were ever relayed: [`OpenRow::outbox`] and the name.
    pub tables: Vec<(u64, String)>,
    pub target: Target,
    pub triple: Triple,
    pub run: RunId,
    pub noted_offset: i64,
    pub leader_epoch: i32,
    pub cluster: Option<ClusterId>,
    pub first_attempt: SystemTime,
    pub row_count: usize,
    pub state: PlanState,
    /// See [`LeftPlan`](crate::model::LeftPlan).
    pub doubtful: bool,
    pub guessed: bool,
    pub other_boot: bool,
}

pub fn open_plans(connection: &Connection) -> rusqlite::Result<Vec<OpenPlan>> {
    let mut outboxes = connection.prepare("SELECT relay, id, table_name FROM outbox ORDER BY id")?;
    let outboxes = outboxes
        .query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?)))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut statement = connection.prepare(
        "SELECT plan.id, relay.path, plan.device, plan.inode, topic, partition, producer_id, epoch, first_sequence, run, noted_offset,
             leader_epoch, first_attempt_ms, row_count, acknowledged, acknowledged_offset,
             doubtful, other_boot, cluster, plan.born
         FROM plan JOIN relay ON relay.id = plan.id >> 48 ORDER BY plan.id",
    )?;
    let deletes = deletes(connection)?;
    statement.query_map([], |row| open_plan(row, &outboxes, &deletes))?.collect()
}

fn open_plan(
    row: &Row<'_>,
    outboxes: &[(i64, i64, String)],
    deletes: &HashMap<i64, u64>,
) -> rusqlite::Result<OpenPlan> {
    let id: i64 = row.get(0)?;
    let relay = id >> RELAY_SHIFT;
    Ok(OpenPlan {
        id,
        plan: PlanId(id as u64 & ((1 << RELAY_SHIFT) - 1)),
        database: PathBuf::from(OsStr::from_bytes(&row.get::<_, Vec<u8>>(1)?)),
        file: FileId { device: row.get::<_, i64>(2)? as u64, inode: row.get::<_, i64>(3)? as u64, born: row.get(19)? },
        tables: outboxes.iter().filter(|o| o.0 == relay).map(|(_, id, name)| (*id as u64, name.clone())).collect(),
        target: Target { topic: row.get::<_, String>(4)?.into(), partition: row.get(5)? },
        triple: Triple { producer_id: row.get(6)?, epoch: row.get(7)?, first_sequence: row.get(8)? },
        run: RunId(u128::from_be_bytes(row.get(9)?)),
        noted_offset: row.get(10)?,
        leader_epoch: row.get(11)?,
        first_attempt: millis::to_time(row.get(12)?),
        row_count: row.get::<_, i64>(13)?.max(0) as usize,
        state: match (row.get(14)?, deletes.get(&id)) {
            (_, Some(delete)) => PlanState::Deleting { delete: *delete },
            (true, None) => PlanState::Acknowledged { offset: row.get::<_, Option<i64>>(15)?.unwrap_or(-1) },
            (false, None) => PlanState::Planned,
        },
        doubtful: row.get::<_, i64>(16)? > 0,
        guessed: row.get::<_, i64>(16)? > 1,
        other_boot: row.get(17)?,
        cluster: row.get::<_, Option<String>>(18)?.map(Into::into),
    })
}

pub fn rows(connection: &Connection, plan: &OpenPlan) -> rusqlite::Result<Result<Vec<OpenRow>, Damaged>> {
    let rows = connection
        .query_row("SELECT rows FROM plan_rows WHERE id = ?", [plan.id], |row| {
            Ok(row.get_ref(0)?.as_blob().map_or(Err(Damaged("they are no blob")), codec::decode))
        })
        .optional()?;
    Ok(rows.unwrap_or(Err(Damaged("there are none"))))
}

pub fn drop_plans(connection: &mut Connection, plans: &[OpenPlan]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for plan in plans {
        delete(&transaction, plan.id)?;
    }
    transaction.commit()
}

pub fn delete(transaction: &Transaction<'_>, id: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM plan WHERE id = ?")?.execute([id])?;
    transaction.prepare_cached("DELETE FROM plan_rows WHERE id = ?")?.execute([id])?;
    Ok(())
}

/// These outboxes' rows in the plan are dealt with. With no others in it the plan goes.
pub fn settle_here(transaction: &Transaction<'_>, id: i64, outboxes: &[i64]) -> rusqlite::Result<()> {
    for outbox in outboxes {
        transaction
            .prepare_cached("INSERT OR IGNORE INTO settled_here (plan, outbox) VALUES (?, ?)")?
            .execute([id, *outbox])?;
    }
    let settled = settled_here(transaction, id)?;
    let rows = transaction
        .query_row("SELECT rows FROM plan_rows WHERE id = ?", [id], |row| {
            Ok(row.get_ref(0)?.as_blob().map_or(Vec::new(), |blob| codec::decode(blob).unwrap_or_default()))
        })
        .optional()?
        .unwrap_or_default();
    if rows.iter().all(|row| settled.contains(&row.outbox)) {
        delete(transaction, id)?;
        transaction.prepare_cached("DELETE FROM settled_here WHERE plan = ?")?.execute([id])?;
    }
    Ok(())
}

/// The outboxes whose rows in this plan are dealt with.
pub fn settled_here(connection: &Connection, id: i64) -> rusqlite::Result<Vec<u64>> {
    let mut statement = connection.prepare_cached("SELECT outbox FROM settled_here WHERE plan = ?")?;
    statement.query_map([id], |row| Ok(row.get::<_, i64>(0)? as u64))?.collect()
}

/// What is noted of this delete from now on; no plans: nothing.
pub fn note(transaction: &Transaction<'_>, relay: i64, delete: u64, plans: &[PlanId]) -> rusqlite::Result<()> {
    let number = delete as i64;
    if plans.is_empty() {
        transaction.prepare_cached("DELETE FROM deleting WHERE relay = ? AND number = ?")?.execute([relay, number])?;
        return Ok(());
    }
    let blob: Vec<u8> = plans.iter().flat_map(|plan| plan.0.to_le_bytes()).collect();
    transaction
        .prepare_cached("INSERT OR REPLACE INTO deleting (relay, number, plans) VALUES (?, ?, ?)")?
        .execute(params![relay, number, blob])?;
    Ok(())
}

/// The latest delete that was about to take each plan, by the file's own number of the plan.
fn deletes(connection: &Connection) -> rusqlite::Result<HashMap<i64, u64>> {
    let mut statement = connection.prepare("SELECT relay, number, plans FROM deleting ORDER BY number")?;
    let mut rows = statement.query([])?;
    let mut deletes = HashMap::new();
    while let Some(row) = rows.next()? {
        let (relay, number): (i64, i64) = (row.get(0)?, row.get(1)?);
        let plans = row.get_ref(2)?.as_blob().unwrap_or_default().as_chunks::<8>().0;
        let ids = plans.iter().map(|bytes| relay << RELAY_SHIFT | i64::from_le_bytes(*bytes));
        deletes.extend(ids.map(|id| (id, number as u64)));
    }
    Ok(deletes)
}

/// What is noted of plans that are all gone.
pub fn forget_notes(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute("DELETE FROM settled_here WHERE plan NOT IN (SELECT id FROM plan)", [])?;
    let mut open = transaction.prepare("SELECT id FROM plan")?;
    let open = open.query_map([], |row| row.get(0))?.collect::<Result<HashSet<i64>, _>>()?;
    let mut statement = transaction.prepare("SELECT relay, number, plans FROM deleting")?;
    let notes = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<Result<Vec<(i64, i64, Vec<u8>)>, _>>()?;
    for (relay, number, plans) in notes {
        let mut plans = plans.as_chunks::<8>().0.iter().map(|bytes| relay << RELAY_SHIFT | i64::from_le_bytes(*bytes));
        if !plans.any(|id| open.contains(&id)) {
            note(transaction, relay, number as u64, &[])?;
        }
    }
    Ok(())
}
