//! Recovery: what an earlier run left open is looked for, and each batch gets its verdict. Also while the daemon runs, when file or
//! table are others or a COMMIT said nothing (`start_again`): there is one path.
//!
//! `matching` finds rows again, `findings` says what is known of a batch, `verdict` judges, `apply` does what follows, `rest` sees to
//! what is no batch's. What can't be judged yet is in `waiting`. `report` and `unsure` say what came of it.
//!
//! Promises: rows of an open batch are never sent under another triple before the leader was asked (I3); what can't be proved is
//! sent again with the same message ids, and counted. Does not know: how a leader is asked, SQL.

mod apply;
mod findings;
mod matching;
mod report;
mod rest;
mod start_again;
mod unsure;
mod verdict;
mod waiting;

use super::{Fatal, Relay};
use crate::model::{Booked, Left, LeftPlan, OutboxIx, PlanId, PlanState, Rows};
use crate::ports::{Clock, Journal, Sink, Source};
use crate::relay::reading::RETRY_EVERY;
use apply::Session;
pub(super) use apply::in_order;
use matching::{Cause, Draft};
pub(super) use matching::{Matching, SKIPPED_ROWS_MAX};
use std::collections::BTreeSet;
use std::time::Instant;
pub(super) use unsure::Unsure;
use waiting::{Back, Waiting};

/// What recovery has to remember.
#[derive(Debug)]
pub(super) struct Recovery {
    /// Until its rows were looked for.
    pub left: Option<Left>,
    /// What was answered meanwhile about batches of before: of which lane, and where the batch is, if it is known to be stored.
    pub answers: Vec<(u32, PlanId, Option<i64>)>,
    pub waiting: Waiting,
    /// Whose tables were found to be others while the daemon runs, until what is left of them is judged.
    pub another: BTreeSet<OutboxIx>,
    /// Acknowledged batches that were not deleted when this run started again.
    pub undeleted: BTreeSet<PlanId>,
    /// Batches of this run with rows of other tables as well, of which nothing was in doubt before.
    pub mixed: BTreeSet<PlanId>,
    /// It was said that batches were on their way to another cluster.
    pub other_cluster_told: bool,
    /// It is not a start: what is found out was begun by this run.
    pub began_before: bool,
}

impl Recovery {
    pub(super) fn new(left: Left) -> Self {
        Recovery {
            left: Some(left),
            answers: Vec::new(),
            waiting: Waiting::default(),
            another: BTreeSet::new(),
            undeleted: BTreeSet::new(),
            mixed: BTreeSet::new(),
            other_cluster_told: false,
            began_before: false,
        }
    }

    /// What the state file says now.
    pub(super) fn start_again(&mut self, left: Left) {
        self.left = Some(left);
        self.waiting.start_again();
    }

    /// Batches that are not judged.
    pub(super) fn left_plans(&self) -> impl Iterator<Item = &LeftPlan> {
        self.left.iter().flat_map(|left| &left.plans).chain(self.waiting.plans())
    }

    /// Batches whose rows were not looked for yet.
    pub(super) fn left_rows(&self) -> usize {
        self.left_plans().map(|plan| plan.rows.len()).sum()
    }
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// At start: looks for everything an earlier run knew of.
    pub(super) fn begin_recovery(&mut self, now: Instant) {
        let Some(left) = &self.recovery.left else { return };
        let mut matching = Matching::new(Cause::Start, self.intake.outboxes.len(), now);
        // Of two plans with the same row the later one is what became of it.
        for plan in left.plans.iter().rev() {
            let draft = matching.drafts.len();
            for (place, row) in plan.rows.iter().enumerate() {
                let ours = matching.seek(row.key, row.print);
                if ours && plan.state == PlanState::Planned {
                    matching.want_record(row.key, row.print, draft, place, row.message);
                }
            }
            matching.drafts.push(Draft { run: plan.run, rows: Rows::default(), places: Vec::new() });
        }
        for row in &left.quarantine {
            matching.seek(row.key, row.print);
        }
        for suspect in self.intake.topics.iter().flat_map(|topic| topic.breaker.suspects()) {
            matching.seek(suspect.row.meta[0].key, suspect.row.meta[0].print);
        }
        for row in &left.resends {
            matching.seek(row.key, row.resend.print);
        }
        matching.begin();
        self.reading.matching = Some(matching);
    }

    /// Every row was looked for.
    pub(super) fn matched(&mut self, now: Instant) -> Result<(), Fatal> {
        let Some(matching) = self.reading.matching.take() else { return Ok(()) };
        self.reading.origin = self.source.origin();
        match matching.cause {
            Cause::Back(ix) if matching.away[usize::from(ix.0)] => Ok(()),
            Cause::Back(ix) => self.judge_left(matching, Some(ix), now),
            Cause::Start | Cause::Again => self.judge_left(matching, None, now),
        }
    }

    /// Every batch gets its verdict. `back`: all but those of this outbox have got it before.
    fn judge_left(&mut self, mut matching: Matching, back: Option<OutboxIx>, now: Instant) -> Result<(), Fatal> {
        let answer = self.source.at_disk().booked();
        let booked = match answer {
            Ok(booked) => booked,
            Err(error) => {
                let retry_at = now + RETRY_EVERY;
                if let Some(ix) = back {
                    self.intake.outbox(ix).retry_at = Some(retry_at);
                } else {
                    self.begin_recovery(retry_at);
                }
                return self.look_failed(back.unwrap_or(OutboxIx(0)), error, now);
            }
        };
        let left = match back {
            Some(ix) => self.take_back(ix, now),
            None => self.recovery.left.take().map(|left| Back { left, unrecorded: BTreeSet::new() }),
        };
        let Some(Back { mut left, unrecorded }) = left else { return Ok(()) };
        // They were begun from the last plan to the first.
        let mut drafts: Vec<Draft> = std::mem::take(&mut matching.drafts).into_iter().rev().collect();
        drafts.resize_with(left.plans.len(), Draft::default);
        if let Some(booked) = booked.as_ref().filter(|booked| booked.highest.0 >= self.next_plan) {
            self.state_is_older(&mut left, booked);
        }
        for plan in left.plans.iter().filter(|plan| plan.rows_elsewhere > 0) {
            self.settling.keep(plan.id);
        }
        self.leave_waiting(&mut left, &mut drafts, &matching.away, booked.as_ref());
        self.split_mixed(&mut left, &mut drafts, &matching);
        self.doubt_other_tables(&mut left);
        let mut findings = self.findings(&left, &matching, booked.as_ref());
        self.leave_kept(&left, &mut findings);
        let mut session = Session::new(&left, back, self.intake.outboxes.len(), now);
        let mut unlike = 0;
        for ((plan, findings), draft) in left.plans.iter().zip(findings).zip(drafts) {
            unlike += self.unlike_rows(plan.rows.iter().map(|row| (row.key, row.print)), &matching);
            self.apply(&mut session, plan, &findings, draft, !unrecorded.contains(&plan.id));
        }
        session.report.end(&self.figures.database, self.recovery.began_before);
        self.count_unlike(unlike);
        self.judged(session, &matching);
        Ok(())
    }

    /// All batches have got their verdict.
    fn judged(&mut self, session: Session<'_>, matching: &Matching) {
        let Session { left, back, mut held, given_up, now, .. } = session;
        self.resends_left(left, matching, &held);
        if back.is_none() {
            self.hold_suspects(matching, &mut held);
        }
        let aside = self.quarantine_left(left, matching);
        for (ix, (held, aside)) in self.outboxes().zip(held.into_iter().zip(aside)) {
            if back.is_none_or(|back| back == ix) {
                let outbox = self.intake.outbox(ix);
                outbox.restart(held, aside);
                outbox.pause_if_full();
                self.made_anew(ix, matching);
            }
        }
        for ix in self.outboxes().filter(|ix| !self.recovery.waiting.contains(*ix)).collect::<Vec<_>>() {
            self.recovery.another.remove(&ix);
            self.intake.outbox(ix).recovered = true;
        }
        self.recovery.began_before = true;
        self.condemn_before(&given_up);
        for (ix, plan, stored) in std::mem::take(&mut self.recovery.answers) {
            self.answered_late(ix, plan, stored, now);
        }
    }

    /// The database knows of deletes that the state file has not come to: it was put back, and may take new rows for old ones.
    fn state_is_older(&mut self, left: &mut Left, booked: &Booked) {
        log::error!(
            "{}: the state file is older than the database (it has come to batch {}, the database to {}): its {} open batches are \
             dropped, their rows are sent again as new",
            self.figures.database,
            self.next_plan.saturating_sub(1),
            booked.highest.0,
            left.plans.len()
        );
        for plan in left.plans.drain(..) {
            self.settling.forget(plan.id);
        }
        self.next_plan = booked.highest.0 + 1;
    }
}
