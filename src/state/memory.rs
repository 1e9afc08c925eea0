//! What a relay without a state file remembers: for `--stdout`, of which nothing outlives the process.
//!
//! Promises: as the state file's, but for a kill: after one a row may be printed again. Does not know: databases other than its own.

use crate::model::{FileId, Left, LeftPlan, LeftResend, LeftRow, Origin, Plan, PlanId, PlanState, Quarantined, RowKey};
use crate::ports::{Change, Journal, JournalError};
use std::collections::BTreeMap;

/// See the module's words.
#[derive(Debug, Default)]
pub struct MemoryJournal {
    /// Where the rows of what is recorded are.
    file: Option<FileId>,
    plans: BTreeMap<PlanId, (Option<FileId>, LeftPlan)>,
    deletes: BTreeMap<u64, Vec<PlanId>>,
    quarantine: BTreeMap<RowKey, Quarantined>,
    resends: BTreeMap<RowKey, LeftResend>,
}

impl MemoryJournal {
    fn insert(&mut self, plan: &Plan) {
        let rows = plan.rows.meta.iter();
        let left = LeftPlan {
            id: plan.id,
            target: plan.target.clone(),
            triple: plan.triple,
            run: plan.run,
            noted_offset: plan.noted_offset,
            leader_epoch: plan.leader_epoch,
            cluster: plan.cluster.clone(),
            first_attempt: plan.first_attempt,
            state: PlanState::Planned,
            rows: rows.map(|row| LeftRow { key: row.key, print: row.print, message: row.message }).collect(),
            rows_elsewhere: 0,
            other_file: false,
            guessed: false,
            other_boot: false,
        };
        self.plans.insert(plan.id, (self.file, left));
    }

    fn apply(&mut self, change: &Change<'_>) {
        match *change {
            Change::Planned(plan) => self.insert(plan),
            Change::Replaced { old, new } => {
                self.plans.remove(&old);
                for plan in new {
                    self.insert(plan);
                }
            }
            Change::Acknowledged { plan, offset } => {
                if let Some((_, plan)) = self.plans.get_mut(&plan) {
                    plan.state = PlanState::Acknowledged { offset };
                }
            }
            Change::Deleting { delete, plans: [] } => drop(self.deletes.remove(&delete)),
            Change::Deleting { delete, plans } => drop(self.deletes.insert(delete, plans.to_vec())),
            Change::Doubtful { plan } => {
                if let Some((_, plan)) = self.plans.get_mut(&plan) {
                    plan.other_file = true;
                }
            }
            // There are no outboxes that are not configured.
            Change::Settled { plan } | Change::SettledHere { plan } => drop(self.plans.remove(&plan)),
            Change::Quarantined(row) => drop(self.quarantine.insert(row.key, row.clone())),
            Change::Released { key } => drop(self.quarantine.remove(&key)),
            Change::Renumbered { key, rowid, print } => {
                if let Some(row) = self.quarantine.remove(&key) {
                    let key = RowKey { rowid, ..key };
                    self.quarantine.insert(key, Quarantined { key, print, ..row });
                }
            }
            Change::ToResend { key, resend } => drop(self.resends.insert(key, LeftResend { key, resend })),
            Change::NotToResend { key } => drop(self.resends.remove(&key)),
            // Of use to a later run alone.
            Change::Stamped { .. } | Change::Table { .. } | Change::Answered { .. } => {}
        }
    }
}

impl Journal for MemoryJournal {
    fn reads_from(&mut self, origin: Option<Origin>) -> bool {
        self.file = origin.map(|origin| origin.file);
        false
    }

    fn record(&mut self, changes: &[Change<'_>], _: bool) -> Result<(), JournalError> {
        for change in changes {
            self.apply(change);
        }
        Ok(())
    }

    fn note(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError> {
        self.record(changes, sync)
    }

    fn left(&mut self, file: Option<FileId>) -> Result<Left, JournalError> {
        let plans = self.plans.values().map(|(then, plan)| {
            let mut plan = plan.clone();
            if let Some((delete, _)) = self.deletes.iter().rev().find(|(_, plans)| plans.contains(&plan.id)) {
                plan.state = PlanState::Deleting { delete: *delete };
            }
            plan.other_file |= !then.zip(file).is_some_and(|(then, now)| now.is(then));
            plan
        });
        Ok(Left {
            plans: plans.collect(),
            quarantine: self.quarantine.values().cloned().collect(),
            resends: self.resends.values().copied().collect(),
            ..Left::default()
        })
    }

    fn requests(&mut self) -> Result<Vec<crate::model::Request>, JournalError> {
        Ok(Vec::new())
    }
}
