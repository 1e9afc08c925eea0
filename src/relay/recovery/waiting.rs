//! What an earlier run left of outboxes whose tables can't be looked at when the others' can: they are away for a moment (renamed,
//! without a column), or unfit.
//!
//! Promises: it waits, in the state file and here, until its table is there, and is judged then as at a start; the table is not read
//! before, so that nothing overtakes it; everybody else goes on. Rows of it never go under an earlier run's triple, since their lane
//! is others' by then. Does not know: why a table is away.

use super::apply::{all_rows, plan_of};
use super::matching::{Cause, Draft, Matching};
use crate::model::{
    Booked, Evidence, Left, LeftPlan, LeftResend, OutboxIx, Plan, PlanId, PlanState, Resend, Rows, Sought,
};
use crate::ports::{Clock, Journal, Sink, Source};
use crate::relay::Relay;
use crate::relay::planted::{self, Bug};
use crate::relay::reading::RETRY_EVERY;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A table that is there again waits so long for the leaders' word on its batches; then their rows are sent again, unsure.
const WORD_PATIENCE: Duration = Duration::from_secs(30);

/// See the module's words.
#[derive(Debug, Default)]
pub(in crate::relay) struct Waiting {
    left: Left,
    /// Since when the outbox's table is there again.
    outboxes: BTreeMap<OutboxIx, Option<Instant>>,
    /// Batches that were only planned, and their leaders' word, once they have given it.
    asked: BTreeMap<PlanId, Option<Evidence>>,
}

impl Waiting {
    pub(in crate::relay) fn contains(&self, outbox: OutboxIx) -> bool {
        self.outboxes.contains_key(&outbox)
    }

    pub(in crate::relay) fn plans(&self) -> &[LeftPlan] {
        &self.left.plans
    }

    /// Takes the word of a batch's leader, if the batch is one of these.
    pub(in crate::relay) fn hears(&mut self, plan: PlanId, evidence: &Evidence) -> bool {
        let Some(word @ None) = self.asked.get_mut(&plan) else { return false };
        *word = Some(evidence.clone());
        true
    }

    /// What waits is the state file's to tell. Leaders that were asked will still answer.
    pub(in crate::relay) fn start_again(&mut self) {
        self.left = Left::default();
        self.outboxes.clear();
        self.asked.retain(|_, word| word.is_none());
    }
}

/// The batch as its leader knows it.
fn as_sent(plan: &LeftPlan) -> Arc<Plan> {
    Arc::new(plan_of(plan, Rows { bytes: Vec::new(), meta: all_rows(plan) }))
}

/// What comes out of its waiting.
pub(in crate::relay) struct Back {
    pub left: Left,
    /// Batches that are known to be stored, and the state file does not say so.
    pub unrecorded: BTreeSet<PlanId>,
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// Takes what can't be judged out of `left`: rows of these outboxes, which are `away`. `drafts`: one for each plan.
    pub(in crate::relay) fn leave_waiting(
        &mut self,
        left: &mut Left,
        drafts: &mut Vec<Draft>,
        away: &[bool],
        booked: Option<&Booked>,
    ) {
        let is_away = |outbox: OutboxIx| away[usize::from(outbox.0)] && !planted::is(Bug::GoneWhileAway);
        let mut waiting = Left::default();
        let plans = std::mem::take(&mut left.plans).into_iter().zip(std::mem::take(drafts));
        for (mut plan, draft) in plans {
            let (gone, here): (Vec<_>, Vec<_>) = plan.rows.iter().copied().partition(|row| is_away(row.key.outbox));
            if !gone.is_empty() && self.is_booked(&plan, booked) != Some(true) {
                if here.is_empty() {
                    waiting.plans.push(plan);
                    continue;
                }
                // A batch is one thing to its leader, and to the state file. What can be found of it decides, and the rest goes again.
                for row in &gone {
                    let resend = Resend { print: row.print, run: plan.run, message: row.message };
                    self.intake.resends.keep(row.key, resend);
                    waiting.resends.push(LeftResend { key: row.key, resend });
                }
                self.count_unsure(&plan.target.to_string(), gone.len(), "a table of their batch is away");
                plan.rows_elsewhere += gone.len();
                plan.rows = here;
            }
            left.plans.push(plan);
            drafts.push(draft);
        }
        waiting.quarantine.extend(left.quarantine.extract_if(.., |row| is_away(row.key.outbox)));
        waiting.resends.extend(left.resends.extract_if(.., |row| is_away(row.key.outbox)));
        let of_plans = waiting.plans.iter().flat_map(|plan| &plan.rows).map(|row| row.key.outbox);
        let others = waiting.quarantine.iter().map(|row| row.key.outbox);
        let outboxes: BTreeSet<OutboxIx> =
            of_plans.chain(others).chain(waiting.resends.iter().map(|row| row.key.outbox)).collect();
        for outbox in outboxes {
            let name = &self.intake.outboxes[usize::from(outbox.0)].route.name;
            let rows = waiting.plans.iter().flat_map(|plan| &plan.rows).filter(|row| row.key.outbox == outbox).count();
            log::warn!("outbox {name}: {rows} rows that were in flight wait for its table");
            self.recovery.waiting.outboxes.entry(outbox).or_insert(None);
        }
        for plan in waiting.plans.iter().filter(|plan| plan.state == PlanState::Planned) {
            let is_asked = self.recovery.waiting.asked.insert(plan.id, None).is_some();
            // Whoever has it will answer first.
            if !is_asked && !self.plans.contains_key(&plan.id) {
                // Not whether a resend would be exact: there will be none.
                self.sink.look_up(&as_sent(plan), Sought::Stored);
            }
        }
        let known = &mut self.recovery.waiting.left;
        known.plans.append(&mut waiting.plans);
        known.plans.sort_by_key(|plan| plan.id);
        known.quarantine.append(&mut waiting.quarantine);
        known.resends.append(&mut waiting.resends);
    }

    /// Looks whether a table is there again, once a second.
    pub(in crate::relay) fn look_for_waiting(&mut self, now: Instant) {
        let due = |ix: &&OutboxIx| self.intake.outboxes[usize::from(ix.0)].retry_at.is_none_or(|at| at <= now);
        let Some(ix) = self.recovery.waiting.outboxes.keys().find(due).copied() else { return };
        let mut matching = Matching::new(Cause::Back(ix), self.intake.outboxes.len(), now);
        let left = &self.recovery.waiting.left;
        // Of two plans with the same row the later one is what became of it.
        for row in left.plans.iter().rev().flat_map(|plan| &plan.rows).filter(|row| row.key.outbox == ix) {
            matching.seek(row.key, row.print);
        }
        for row in left.quarantine.iter().filter(|row| row.key.outbox == ix) {
            matching.seek(row.key, row.print);
        }
        for row in left.resends.iter().filter(|row| row.key.outbox == ix) {
            matching.seek(row.key, row.resend.print);
        }
        for other in self.recovery.waiting.outboxes.keys().filter(|other| **other != ix) {
            matching.is_away(*other);
        }
        matching.begin();
        self.reading.matching = Some(matching);
    }

    /// What waited for this outbox's table, which is there. `None`: it waits on.
    pub(in crate::relay) fn take_back(&mut self, ix: OutboxIx, now: Instant) -> Option<Back> {
        let Waiting { left, outboxes, asked } = &mut self.recovery.waiting;
        let since = *outboxes.get_mut(&ix)?.get_or_insert(now);
        let is_its = |plan: &mut LeftPlan| plan.rows.iter().any(|row| row.key.outbox == ix);
        let unheard = left.plans.iter_mut().any(|plan| is_its(plan) && asked.get(&plan.id) == Some(&None));
        if unheard && now.saturating_duration_since(since) < WORD_PATIENCE {
            self.intake.outbox(ix).retry_at = Some(now + RETRY_EVERY);
            return None;
        }
        outboxes.remove(&ix);
        let mut back = Back { left: Left::default(), unrecorded: BTreeSet::new() };
        for mut plan in left.plans.extract_if(.., is_its) {
            if let Some(Some(Evidence::StoredAt(offset))) = asked.get(&plan.id) {
                plan.state = PlanState::Acknowledged { offset: *offset };
                back.unrecorded.insert(plan.id);
            }
            // One that is still asked about stays there: its word is of no use then.
            if asked.get(&plan.id).is_some_and(Option::is_some) {
                asked.remove(&plan.id);
            }
            back.left.plans.push(plan);
        }
        back.left.quarantine.extend(left.quarantine.extract_if(.., |row| row.key.outbox == ix));
        back.left.resends.extend(left.resends.extract_if(.., |row| row.key.outbox == ix));
        self.intake.outbox(ix).retry_at = None;
        Some(back)
    }

    /// A sender or a look-up has answered about a batch of before, which may be one that waits. `stored`: where it is.
    pub(in crate::relay) fn waiting_is_answered(&mut self, plan: PlanId, stored: Option<i64>) {
        let waiting = &mut self.recovery.waiting;
        if let Some(offset) = stored {
            waiting.hears(plan, &Evidence::StoredAt(offset));
        } else if let Some(plan) = waiting.left.plans.iter().find(|left| left.id == plan) {
            self.sink.look_up(&as_sent(plan), Sought::Stored);
        }
    }
}
