//! What an earlier run left of outboxes whose tables can't be looked at when the others' can: they are away for a moment (renamed,
//! without a column), or unfit.
//!
//! Promises: it waits, in the state file and here, until its table is there, and is judged then as at a start; the table is not read
//! before, so that nothing overtakes it; everybody else goes on. Rows of it never go under an earlier run's triple, since their lane
//! is others' by then. Does not know: why a table is away.

use super::matching::{Cause, Draft, Matching};
use super::planted::{self, Bug};
use super::reading::RETRY_EVERY;
use super::recovery::{all_rows, plan_of};
use super::{Fatal, Relay};
use crate::model::{
    Another, Booked, Evidence, Fault, Left, LeftPlan, LeftResend, OutboxIx, PlanId, PlanState, Quarantined, Resend,
    Rows, Sought,
};
use crate::ports::{Clock, Journal, Sink, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A table that is there again waits so long for the leaders' word on its batches; then their rows are sent again, unsure.
const WORD_PATIENCE: Duration = Duration::from_secs(30);

/// See the module's words.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    left: Left,
    /// Since when the outbox's table is there again.
    outboxes: BTreeMap<OutboxIx, Option<Instant>>,
    /// Batches that were only planned, and their leaders' word, once they have given it.
    asked: BTreeMap<PlanId, Option<Evidence>>,
}

impl Waiting {
    pub(super) fn contains(&self, outbox: OutboxIx) -> bool {
        self.outboxes.contains_key(&outbox)
    }

    pub(super) fn rows(&self) -> usize {
        self.left.plans.iter().map(|plan| plan.rows.len()).sum()
    }

    /// Takes the word of a batch's leader, if the batch is one of these.
    pub(super) fn hears(&mut self, plan: PlanId, evidence: &Evidence) -> bool {
        let Some(word) = self.asked.get_mut(&plan) else { return false };
        *word = Some(evidence.clone());
        true
    }
}

/// What comes out of its waiting.
pub(super) struct Back {
    pub left: Left,
    /// Batches that are known to be stored, and the state file does not say so.
    pub unrecorded: BTreeSet<PlanId>,
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// Takes what can't be judged out of `left`: rows of these outboxes, which are `away`. `drafts`: one for each plan.
    pub(super) fn leave_waiting(
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
            let asked = plan_of(plan, Rows { bytes: Vec::new(), meta: all_rows(plan) });
            // Not whether a resend would be exact: there will be none.
            self.sink.look_up(&Arc::new(asked), Sought::Stored);
            self.recovery.waiting.asked.insert(plan.id, None);
        }
        let known = &mut self.recovery.waiting.left;
        known.plans.append(&mut waiting.plans);
        known.plans.sort_by_key(|plan| plan.id);
        known.quarantine.append(&mut waiting.quarantine);
        known.resends.append(&mut waiting.resends);
    }

    /// Looks whether a table is there again, once a second.
    pub(super) fn look_for_waiting(&mut self, now: Instant) {
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
    pub(super) fn take_back(&mut self, ix: OutboxIx, now: Instant) -> Option<Back> {
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

    /// Rows that look like those of these plans are others in another table. Also for whoever comes after a crash.
    pub(super) fn doubt_left(&mut self, left: &mut Left, another: &Another) {
        for plan in &mut left.plans {
            if plan.rows.iter().any(|row| another.is(row.key.outbox)) {
                plan.other_file = true;
                self.settling.doubt(plan.id);
            }
        }
        let gone = |row: &mut Quarantined| row.fault == Fault::Undeletable && another.is(row.key.outbox);
        for row in left.quarantine.extract_if(.., gone) {
            self.quarantine.release(row.key);
        }
    }

    pub(super) fn doubt_waiting(&mut self, another: &Another) {
        let mut left = std::mem::take(&mut self.recovery.waiting.left);
        self.doubt_left(&mut left, another);
        self.recovery.waiting.left = left;
    }

    /// The outbox's rows were looked for, after those of the others.
    pub(super) fn came_back(&mut self, ix: OutboxIx, matching: Matching, now: Instant) -> Result<(), Fatal> {
        if matching.away[usize::from(ix.0)] {
            return Ok(());
        }
        self.judge_left(matching, Some(ix), now)
    }
}
