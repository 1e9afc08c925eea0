//! What earlier runs left for one database, in the relay's words.
//!
//! Promises: a plan whose rows can't be read is named and dropped, never guessed at; nothing of an outbox that is no longer
//! configured is lost. Does not know: what became of a plan.

use super::codec::{Damaged, OpenRow};
use super::{StateFile, plans, quarantine, resends, same_table, tables};
use crate::model::{Fault, FileId, Left, LeftPlan, LeftRow, OutboxIx, Quarantined, RowKey};
use rusqlite::{OptionalExtension, Transaction, TransactionBehavior};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Plans that are named one by one.
const NAMED_MAX: usize = 20;

/// `now`: the database's file; `None` while it is not there.
pub fn read(file: &StateFile, database: &Path, tables: &[&str], now: Option<FileId>) -> rusqlite::Result<Left> {
    let mut shared = file.shared();
    let transaction = shared.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let reader = Reader { transaction: &transaction, database, tables, now, numbers: numbers(&transaction, database)? };
    let mut left = Left::default();
    reader.plans(&mut left)?;
    left.newest_stamp = transaction
        .query_row("SELECT stamp_ms FROM relay WHERE path = ?", [database.as_os_str().as_bytes()], |row| row.get(0))
        .optional()?
        .flatten()
        .map(super::millis::to_time);
    plans::forget_notes(&transaction)?;
    for (ix, table) in tables.iter().enumerate() {
        let outbox = OutboxIx(ix as u16);
        let mut known = None;
        // The same table in another spelling, by an earlier config, has a number of its own.
        for (number, _) in reader.numbers.iter().filter(|(_, name)| same_table(name, table)) {
            let entries = reader.quarantine(*number, outbox)?;
            let again = resends::of_outbox(&transaction, *number, outbox)?;
            let is_used = !entries.is_empty()
                || !again.is_empty()
                || left.plans.iter().flat_map(|plan| &plan.rows).any(|row| row.key.outbox == outbox);
            left.quarantine.extend(entries);
            left.resends.extend(again);
            if is_used {
                known = tables::known(&transaction, *number)?.or(known);
            } else {
                tables::forget(&transaction, *number)?;
            }
        }
        left.tables.push(known);
    }
    transaction.commit()?;
    Ok(left)
}

struct Reader<'a> {
    transaction: &'a Transaction<'a>,
    database: &'a Path,
    tables: &'a [&'a str],
    now: Option<FileId>,
    /// The file's numbers of the database's outboxes, and their tables.
    numbers: Vec<(i64, String)>,
}

impl Reader<'_> {
    fn is_now(&self, file: FileId) -> bool {
        self.now.is_some_and(|now| now.is(file))
    }

    fn plans(&self, left: &mut Left) -> rusqlite::Result<()> {
        let (mut elsewhere, mut damaged) = (0, 0);
        let path = self.database.display();
        for plan in plans::open_plans(self.transaction)?.into_iter().filter(|plan| plan.database == self.database) {
            let settled = plans::settled_here(self.transaction, plan.id)?;
            let rows =
                plans::rows(self.transaction, &plan)?.and_then(|rows| self.sort(&rows, plan.row_count, &settled));
            let (rows, rows_elsewhere) = match rows {
                Ok(sorted) => sorted,
                Err(error) => {
                    damaged += 1;
                    if damaged <= NAMED_MAX {
                        log::error!(
                            "{path}: {error}: plan {} of {} rows for {} (producer id {}, epoch {}, from sequence {}) is \
                             dropped, and its rows are sent again as new if they are still there",
                            plan.plan.0,
                            plan.row_count,
                            plan.target,
                            plan.triple.producer_id,
                            plan.triple.epoch,
                            plan.triple.first_sequence
                        );
                    }
                    plans::delete(self.transaction, plan.id)?;
                    continue;
                }
            };
            if rows.is_empty() {
                elsewhere += 1;
                if elsewhere <= NAMED_MAX {
                    log::warn!(
                        "{path}: an earlier run left rows for {} in flight, and their outbox is no longer configured; they are \
                         kept in mind",
                        plan.target
                    );
                }
                continue;
            }
            left.plans.push(LeftPlan {
                id: plan.plan,
                target: plan.target,
                triple: plan.triple,
                run: plan.run,
                noted_offset: plan.noted_offset,
                leader_epoch: plan.leader_epoch,
                cluster: plan.cluster,
                first_attempt: plan.first_attempt,
                state: plan.state,
                rows,
                rows_elsewhere,
                other_file: !self.is_now(plan.file) || plan.doubtful,
                guessed: plan.guessed,
                other_boot: plan.other_boot,
            });
        }
        for (count, what) in
            [(damaged, "can't be read and are dropped"), (elsewhere, "of outboxes no longer configured")]
        {
            if count > NAMED_MAX {
                log::warn!("{path}: and {} plans more {what}", count - NAMED_MAX);
            }
        }
        Ok(())
    }

    /// The rows of configured outboxes that are not dealt with, and how many others there are.
    fn sort(&self, rows: &[OpenRow], count: usize, settled: &[u64]) -> Result<(Vec<LeftRow>, usize), Damaged> {
        if rows.len() != count {
            return Err(Damaged("another number of rows than was noted"));
        }
        let mut kept = Vec::with_capacity(rows.len());
        for stretch in rows.chunk_by(|a, b| a.outbox == b.outbox) {
            let table = self.numbers.iter().find(|(number, _)| *number as u64 == stretch[0].outbox);
            let (_, table) = table.ok_or(Damaged("rows of an outbox that was never noted"))?;
            if settled.contains(&stretch[0].outbox) {
                continue;
            }
            let Some(ix) = self.tables.iter().position(|name| same_table(name, table)) else { continue };
            let outbox = OutboxIx(ix as u16);
            kept.extend(stretch.iter().map(|row| LeftRow {
                key: RowKey { outbox, rowid: row.rowid },
                print: row.print,
                message: row.message,
            }));
        }
        let elsewhere = rows.len() - kept.len();
        Ok((kept, elsewhere))
    }

    fn quarantine(&self, number: i64, outbox: OutboxIx) -> rusqlite::Result<Vec<Quarantined>> {
        let mut entries = Vec::new();
        let mut dropped = 0;
        for (entry, identity) in quarantine::of_outbox(self.transaction, number, outbox)? {
            // In another file a row that looks alike may be another event, and this one would never be sent. A row in quarantine
            // for another reason waits where everyone sees it.
            if entry.fault == Fault::Undeletable && !self.is_now(identity) {
                dropped += quarantine::delete(self.transaction, number, entry.key.rowid)?;
            } else {
                entries.push(entry);
            }
        }
        if dropped > 0 {
            log::warn!(
                "{}: it is another file than the one in which {dropped} published rows of {} could not be deleted: if they \
                 are in this one too, they are sent again",
                self.database.display(),
                self.tables[usize::from(outbox.0)]
            );
        }
        Ok(entries)
    }
}

fn numbers(transaction: &Transaction<'_>, database: &Path) -> rusqlite::Result<Vec<(i64, String)>> {
    let mut statement = transaction.prepare(
        "SELECT outbox.id, table_name FROM outbox JOIN relay ON relay.id = outbox.relay WHERE relay.path = ? ORDER BY outbox.id",
    )?;
    statement.query_map([database.as_os_str().as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}
