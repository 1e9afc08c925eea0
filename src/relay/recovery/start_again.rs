//! Starting again from the state file while running: file or table were replaced, or whether a COMMIT happened is not known.
//!
//! Promises: what is known by then is in the state file first, and from there on everything is found out as after a kill; what a sender
//! or a look-up still has is waited for by its lane alone. Does not know: what becomes of a batch (`recovery`).

use super::matching::{Cause, Matching};
use crate::model::{Another, PlanId};
use crate::ports::{Clock, Journal, Sink, Source};
use crate::relay::flight::Stage;
use crate::relay::lanes::Standing;
use crate::relay::reading::RETRY_EVERY;
use crate::relay::{Producer, Relay};
use std::time::Instant;

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// File or table are not what they were. `another`: whose rows that look alike are not the ones that were read.
    pub(in crate::relay) fn replaced(&mut self, text: &str, another: &Another, now: Instant) {
        log::warn!("{}: {text}; what is there now is read from the start", self.figures.database);
        // For who comes after a crash as well: what looks like the rows of these batches is something else.
        let flying = self.intake.lanes.iter().filter_map(|lane| lane.flight.as_ref()).map(|flight| &flight.plan);
        let known = flying.chain(self.settling.plans());
        let known = known.filter(|plan| plan.rows.meta.iter().any(|meta| another.is(meta.key.outbox)));
        let left = self.recovery.left_plans().filter(|plan| plan.rows.iter().any(|row| another.is(row.key.outbox)));
        let (mut doubtful, mut mixed) = (Vec::new(), Vec::new());
        for plan in known {
            doubtful.push(plan.id);
            if !plan.rows.meta.iter().all(|meta| another.is(meta.key.outbox)) {
                mixed.push(plan.id);
            }
        }
        doubtful.extend(left.map(|plan| plan.id));
        self.recovery.mixed.extend(mixed.into_iter().filter(|plan| self.settling.is_sure(*plan)));
        for plan in doubtful {
            self.settling.doubt(plan);
        }
        let others = self.outboxes().filter(|outbox| another.is(*outbox));
        self.recovery.another.extend(others);
        self.start_again(now);
    }

    /// Nothing is read, sent or deleted before what the state file says was judged against what is there.
    pub(in crate::relay) fn start_again(&mut self, now: Instant) {
        self.reading.matching = Some(Matching::new(Cause::Again, self.intake.outboxes.len(), now));
        self.read_state_file(now);
    }

    /// The first step of a search that is to be for what the state file says. It is tried again when the file can't be written or read.
    pub(in crate::relay) fn read_state_file(&mut self, now: Instant) {
        self.let_go_of_unsent();
        let left = if self.record(now) {
            let file = self.source.origin().map(|origin| origin.file);
            let answer = self.journal.at_disk().left(file);
            answer.map_err(|error| self.journal_trouble.happened(now, &error.to_string())).ok()
        } else {
            None
        };
        let Some(left) = left else {
            if let Some(matching) = &mut self.reading.matching {
                matching.not_before = now + RETRY_EVERY;
            }
            return;
        };
        self.journal_trouble.over(now);
        self.plans.retain(|plan, ix| {
            let lane = &self.intake.lanes[*ix as usize];
            let is_out = lane.flight.as_ref().is_some_and(|flight| flight.stage().is_out());
            is_out || lane.unanswered == Some(*plan)
        });
        self.waiting.clear();
        if self.intake.start_again() {
            self.producer = Producer::Unknown;
        }
        self.reading.start_again(&self.intake.limits, now);
        self.recovery.undeleted = self.settling.undeleted().collect();
        self.settling.start_again();
        self.quarantine.start_again();
        self.recovery.start_again(left);
        self.begin_recovery(now);
    }

    /// What no broker can have got stays in the table, as if it had never been read.
    pub(in crate::relay) fn let_go_of_unsent(&mut self) {
        for ix in 0..self.intake.lanes.len() as u32 {
            self.intake.give_back(ix);
        }
        self.intake.ready.clear();
        for ix in 0..self.intake.lanes.len() {
            let lane = &mut self.intake.lanes[ix];
            lane.queued = false;
            let unsent = lane
                .flight
                .take_if(|flight| lane.standing != Standing::Asking && !flight.is_unsure() && !flight.stage().is_out());
            if let Some(flight) = unsent {
                self.drop_flight(&flight);
            }
        }
        self.forget_rejected();
    }

    /// Rejected plans in whose place nothing will go.
    pub(in crate::relay) fn forget_rejected(&mut self) {
        for rejected in self.intake.lanes.iter_mut().filter_map(|lane| lane.replacing.take()) {
            self.settling.forget(rejected);
        }
    }

    /// A sender or a look-up has answered what it was given before the relay started again. `stored`: where the batch is, if that is
    /// the answer; all others lead to the question that any batch of an earlier run leads to.
    pub(in crate::relay) fn answered_late(&mut self, ix: u32, plan: PlanId, stored: Option<i64>, now: Instant) {
        if self.recovery.left.is_some() {
            // Its rows are still looked for.
            self.recovery.answers.push((ix, plan, stored));
            return;
        }
        self.plans.remove(&plan);
        let lane = &mut self.intake.lanes[ix as usize];
        lane.unanswered = None;
        lane.standing = Standing::Running;
        lane.trouble = false;
        let Some(mut flight) = lane.flight.take_if(|flight| flight.stage() == Stage::Unanswered) else {
            self.waiting_is_answered(plan, stored);
            if stored.is_some() {
                self.accepted(ix, 0, now);
            }
            self.intake.make_ready(ix);
            return;
        };
        self.plans.insert(plan, ix);
        if let Some(offset) = stored {
            self.stored(ix, flight, offset, now, now);
        } else if let Some((asked, doubt)) = flight.take_asked() {
            self.ask_about(asked, ix, flight, doubt);
        }
    }
}
