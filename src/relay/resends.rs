//! Rows that go again as rows of the table, and the message ids they had: whether they were published can't be proved.
//!
//! Promises: a row that is as it was keeps its message id; the plan it was in is done with when all of its rows are in plans again or
//! were rewritten. Does not know: why it goes again.

use crate::model::{Fingerprint, PlanId, RowKey, RunId};
use std::collections::HashMap;

/// Message ids that outlive no crash anyway are kept for so many rows at most.
const ROWS_MAX: usize = 100_000;

/// One row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    pub print: Fingerprint,
    pub run: RunId,
    pub message: u64,
    /// The plan that the state file keeps for its sake, if that is how the message id outlives a crash.
    pub plan: Option<PlanId>,
}

/// See the module's words.
#[derive(Debug, Default)]
pub struct Resends {
    rows: HashMap<RowKey, Resend>,
    /// How many rows of a plan are still waited for.
    plans: HashMap<PlanId, usize>,
    /// Plans none of whose rows is waited for any more.
    done: Vec<PlanId>,
}

impl Resends {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row goes again. What was known of the same version before is kept.
    pub fn keep(&mut self, key: RowKey, resend: Resend) {
        if self.rows.get(&key).is_some_and(|known| known.print == resend.print && resend.plan.is_none()) {
            return;
        }
        self.drop_row(key);
        if resend.plan.is_none() && self.rows.len() >= ROWS_MAX {
            return;
        }
        if let Some(plan) = resend.plan {
            *self.plans.entry(plan).or_default() += 1;
        }
        self.rows.insert(key, resend);
    }

    /// The message id the row had; one that was rewritten since is another event.
    pub fn of(&self, key: RowKey, print: Fingerprint) -> Option<(RunId, u64)> {
        let resend = self.rows.get(&key)?;
        (resend.print == print).then_some((resend.run, resend.message))
    }

    /// The row under this rowid, whatever it is, is in a plan now that the state file knows.
    pub fn planned(&mut self, key: RowKey) {
        self.drop_row(key);
    }

    fn drop_row(&mut self, key: RowKey) {
        let Some(plan) = self.rows.remove(&key).and_then(|resend| resend.plan) else { return };
        let Some(waited_for) = self.plans.get_mut(&plan) else { return };
        *waited_for -= 1;
        if *waited_for == 0 {
            self.plans.remove(&plan);
            self.done.push(plan);
        }
    }

    /// Plans that are done with, told once.
    pub fn take_done(&mut self) -> Vec<PlanId> {
        std::mem::take(&mut self.done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OutboxIx;

    fn key(rowid: i64) -> RowKey {
        RowKey { outbox: OutboxIx(0), rowid }
    }

    fn resend(print: u128, message: u64, plan: Option<u64>) -> Resend {
        Resend { print: Fingerprint(print), run: RunId(9), message, plan: plan.map(PlanId) }
    }

    #[test]
    fn a_plan_is_done_with_when_all_of_its_rows_are_in_plans_or_rewritten() {
        let mut resends = Resends::default();
        resends.keep(key(1), resend(11, 1, Some(5)));
        resends.keep(key(2), resend(12, 2, Some(5)));
        assert_eq!(resends.of(key(1), Fingerprint(11)), Some((RunId(9), 1)));
        assert_eq!(resends.of(key(1), Fingerprint(99)), None);
        resends.planned(key(1));
        assert!(resends.take_done().is_empty());
        // Rewritten, and that version goes again as well.
        resends.keep(key(2), resend(13, 3, None));
        assert_eq!(resends.take_done(), [PlanId(5)]);
        assert_eq!(resends.of(key(2), Fingerprint(13)), Some((RunId(9), 3)));
    }

    #[test]
    fn a_row_keeps_the_plan_it_has_in_the_state_file() {
        let mut resends = Resends::default();
        resends.keep(key(1), resend(11, 1, Some(5)));
        resends.keep(key(1), resend(11, 1, None));
        resends.planned(key(1));
        assert_eq!(resends.take_done(), [PlanId(5)]);
        assert!(resends.is_empty());
    }
}
