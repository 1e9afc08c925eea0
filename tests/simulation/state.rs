//! The state file, as data: what was recorded, what of it a power cut would leave.

use outboxd::model::{
    KnownTable, Left, LeftPlan, LeftResend, LeftRow, OutboxIx, PlanId, PlanState, Quarantined, Resend, RowKey,
};
use outboxd::ports::Change;
use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

#[derive(Clone, Debug, Default)]
pub struct State {
    pub plans: BTreeMap<PlanId, LeftPlan>,
    /// Deletes that were about to commit.
    pub notes: BTreeMap<u64, Vec<PlanId>>,
    pub quarantine: BTreeMap<RowKey, Quarantined>,
    pub resends: BTreeMap<RowKey, Resend>,
    pub tables: BTreeMap<OutboxIx, KnownTable>,
    pub last_plan: u64,
    /// The highest number that a delete was noted under.
    pub last_delete: u64,
    pub stamp: Option<SystemTime>,
}

impl State {
    pub fn apply(&mut self, change: &Change<'_>) {
        match *change {
            Change::Planned(plan) => self.insert(plan),
            Change::Replaced { old, new } => {
                assert!(self.plans.remove(&old).is_some(), "only a recorded plan is replaced");
                for plan in new {
                    self.insert(plan);
                }
            }
            Change::Acknowledged { plan, offset } => self.state(plan, PlanState::Acknowledged { offset }),
            Change::Deleting { delete, plans: [] } => {
                assert!(self.notes.remove(&delete).is_some(), "delete {delete} was noted");
            }
            Change::Deleting { delete, plans } => {
                for plan in plans {
                    assert_ne!(self.plans[plan].state, PlanState::Planned, "only what was acknowledged is deleted");
                }
                self.notes.insert(delete, plans.to_vec());
                self.last_delete = self.last_delete.max(delete);
            }
            Change::Doubtful { plan } => {
                if let Some(plan) = self.plans.get_mut(&plan) {
                    plan.other_file = true;
                }
            }
            Change::Settled { plan } => {
                assert!(self.plans.remove(&plan).is_some(), "plan {} is forgotten once", plan.0);
            }
            Change::SettledHere { plan } => {
                let plan = self.plans.get_mut(&plan).expect("only a recorded plan is settled");
                plan.rows_elsewhere += plan.rows.len();
                plan.rows.clear();
            }
            Change::Quarantined(row) => drop(self.quarantine.insert(row.key, row.clone())),
            Change::Released { key } => drop(self.quarantine.remove(&key)),
            Change::Renumbered { key, rowid, print } => {
                if let Some(row) = self.quarantine.remove(&key) {
                    let key = RowKey { rowid, ..key };
                    self.quarantine.insert(key, Quarantined { key, print, ..row });
                }
            }
            Change::ToResend { key, resend } => drop(self.resends.insert(key, resend)),
            Change::NotToResend { key } => drop(self.resends.remove(&key)),
            Change::Stamped { at } => self.stamp = Some(at),
            Change::Table { outbox, guard, .. } => {
                self.tables.insert(outbox, KnownTable { guard: guard.clone(), identity: None });
            }
            Change::Answered { .. } => {}
        }
    }

    fn insert(&mut self, plan: &outboxd::model::Plan) {
        let rows = plan
            .rows
            .meta
            .iter()
            .map(|meta| LeftRow { key: meta.key, print: meta.print, message: meta.message })
            .collect();
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
            rows,
            rows_elsewhere: 0,
            other_file: false,
            guessed: false,
            other_boot: false,
        };
        self.last_plan = self.last_plan.max(plan.id.0);
        assert!(self.plans.insert(plan.id, left).is_none(), "a plan is recorded once");
    }

    fn state(&mut self, plan: PlanId, state: PlanState) {
        self.plans.get_mut(&plan).expect("only a recorded plan changes its state").state = state;
    }

    pub fn left(&mut self, same_boot: bool) -> Left {
        for plan in self.plans.values_mut() {
            plan.other_boot |= !same_boot;
        }
        let rows = self.plans.values().flat_map(|plan| &plan.rows).map(|row| row.key);
        let used: BTreeSet<OutboxIx> = rows
            .chain(self.quarantine.keys().copied())
            .chain(self.resends.keys().copied())
            .map(|key| key.outbox)
            .collect();
        self.tables.retain(|outbox, _| used.contains(outbox));
        // What is noted of plans that are all gone.
        self.notes.retain(|_, plans| plans.iter().any(|plan| self.plans.contains_key(plan)));
        let noted = |plan: &PlanId| self.notes.iter().rev().find(|(_, plans)| plans.contains(plan));
        let plans = self.plans.values().filter(|plan| !plan.rows.is_empty()).cloned().map(|mut plan| {
            if let Some((delete, _)) = noted(&plan.id) {
                plan.state = PlanState::Deleting { delete: *delete };
            }
            plan
        });
        Left {
            plans: plans.collect(),
            quarantine: self.quarantine.values().cloned().collect(),
            resends: self.resends.iter().map(|(key, resend)| LeftResend { key: *key, resend: *resend }).collect(),
            tables: (0..2).map(|at| self.tables.get(&OutboxIx(at)).cloned()).collect(),
            newest_stamp: self.stamp,
        }
    }

    pub fn is_acknowledged(&self, plan: PlanId) -> bool {
        self.plans.get(&plan).is_some_and(|plan| plan.state != PlanState::Planned)
    }
}
