//! What a verdict leads to: the one place where batches of before are forgotten, deleted, sent again or asked about.
//!
//! Promises: what can't be proved is sent again with the same message ids, and counted. Does not know: how a verdict comes about.

use super::findings::Findings;
use super::matching::Draft;
use super::report::Report;
use super::rest::hold;
use super::verdict::Verdict;
use crate::model::{
    Fingerprint, Left, LeftPlan, OutboxIx, Plan, PlanId, PlanState, Resend, RowKey, RowMark, RowMeta, Rows, RunId,
    SentForm, Sought, Span, Target,
};
use crate::ports::{Clock, Journal, Sink, Source};
use crate::relay::Relay;
use crate::relay::flight::{Doubt, Flight};
use crate::relay::planted::{self, Bug};
use crate::relay::route::recut;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// Why rows are unsure.
pub(super) const OTHERS: &str = "file or table are others, and its rows can come back alike";

/// All that is judged at a time, and what came of it so far.
pub(super) struct Session<'a> {
    pub left: &'a Left,
    /// Whose table is there again, when the others have been judged before.
    pub back: Option<OutboxIx>,
    /// The highest epoch that any plan names for a producer id on a partition.
    highest_epochs: HashMap<(&'a Target, i64), i16>,
    /// Of each partition: the last plan that was only planned.
    newest: HashMap<&'a Target, PlanId>,
    /// By outbox: rows that are ours from here on.
    pub held: Vec<Vec<RowMark>>,
    pub report: Report,
    /// Batches for these partitions may have been stored, and their rows go again.
    pub given_up: Vec<Target>,
    pub now: Instant,
}

impl<'a> Session<'a> {
    pub fn new(left: &'a Left, back: Option<OutboxIx>, outboxes: usize, now: Instant) -> Self {
        let planned = left.plans.iter().filter(|plan| plan.state == PlanState::Planned);
        let mut highest_epochs = HashMap::new();
        for plan in &left.plans {
            let epoch = highest_epochs.entry((&plan.target, plan.triple.producer_id)).or_insert(plan.triple.epoch);
            *epoch = plan.triple.epoch.max(*epoch);
        }
        Session {
            left,
            back,
            highest_epochs,
            newest: planned.map(|plan| (&plan.target, plan.id)).collect(),
            held: vec![Vec::new(); outboxes],
            report: Report::default(),
            given_up: Vec::new(),
            now,
        }
    }

    /// A later batch of the same partition was only planned as well.
    fn has_later(&self, plan: &LeftPlan) -> bool {
        self.newest.get(&plan.target).is_some_and(|newest| *newest != plan.id)
    }
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// The batch's verdict, and what the moment makes of it.
    pub(super) fn verdict_of(&self, session: &Session<'_>, plan: &LeftPlan, findings: &Findings) -> Verdict {
        match findings.facts.verdict() {
            Verdict::Ask(_) if planted::is(Bug::DeletePlannedBecauseIdentical) => Verdict::Delete,
            Verdict::Ask(_) if planted::is(Bug::RerouteAfterGrowth) => Verdict::Forget,
            // What is left of a batch that was being sent anew: the later one of its lane has its lower rows.
            Verdict::Ask(_) if session.has_later(plan) => Verdict::SendAnew,
            // Nobody has said that it is stored, and its lane is others' by now.
            Verdict::Ask(_) if session.back.is_some() => Verdict::SendAnew,
            Verdict::SendAnew if self.is_held_in_doubt(plan, findings) => Verdict::Wait,
            verdict => verdict,
        }
    }

    /// `recorded`: the state file knows what the plan's state is.
    pub(super) fn apply(
        &mut self,
        session: &mut Session<'_>,
        plan: &LeftPlan,
        findings: &Findings,
        draft: Draft,
        recorded: bool,
    ) {
        let verdict = self.verdict_of(session, plan, findings);
        session.report.note(&self.figures.database, plan, findings, verdict);
        if findings.facts.booked == Some(true) {
            self.settling.booked_before(plan.id);
        }
        if let (Verdict::Delete, PlanState::Deleting { delete }) = (verdict, plan.state) {
            self.settling.not_deleted_before(delete);
        }
        match verdict {
            Verdict::Forget => self.settling.forget(plan.id),
            Verdict::Delete if findings.there.is_empty() => self.settling.forget(plan.id),
            Verdict::Delete => self.delete_left(session, plan, findings, recorded),
            Verdict::Wait => self.wait_in_doubt(session, plan, findings),
            Verdict::SendAnew => self.send_left_anew(session, plan, findings),
            Verdict::Ask(sought) => self.ask_left(session, plan, findings, draft, sought),
        }
    }

    /// Whether what can't be told of the plan has to wait until it is sent again: the disk fails again and again.
    fn is_held_in_doubt(&self, plan: &LeftPlan, findings: &Findings) -> bool {
        let PlanState::Deleting { delete } = plan.state else { return false };
        // The state file would go on knowing rows that resemble by what they were.
        !findings.facts.resembles && !findings.facts.delete_disproved && self.settling.doubts.holds(delete)
    }

    /// Stored, and not deleted yet. `recorded`: the state file says so.
    fn delete_left(&mut self, session: &mut Session<'_>, plan: &LeftPlan, findings: &Findings, recorded: bool) {
        let offset = match plan.state {
            PlanState::Acknowledged { offset } => offset,
            PlanState::Planned | PlanState::Deleting { .. } => -1,
        };
        if planted::is(Bug::SequencesFromTheStateFile) {
            let ix = self.intake.lane_of(&plan.target, plan.noted_offset, plan.leader_epoch);
            self.intake.lanes[ix as usize].inherit(plan.triple, plan.rows.len());
        }
        let plan = self.held_plan(session, plan, findings);
        if recorded {
            self.settling.acknowledged_before(plan, offset, session.now);
        } else {
            self.settling.acknowledged(plan, offset, session.now);
        }
    }

    /// Neither sent again nor deleted for now.
    fn wait_in_doubt(&mut self, session: &mut Session<'_>, plan: &LeftPlan, findings: &Findings) {
        let PlanState::Deleting { delete } = plan.state else { return };
        let plan = self.held_plan(session, plan, findings);
        self.settling.wait_in_doubt(plan, delete, session.now);
    }

    /// The plan with what was found of its rows, which are ours from here on.
    fn held_plan(&mut self, session: &mut Session<'_>, plan: &LeftPlan, findings: &Findings) -> Arc<Plan> {
        let meta = findings.there.iter().map(|(at, rowid, print)| {
            let row = plan.rows[*at];
            let key = RowKey { rowid: *rowid, ..row.key };
            RowMeta { key, print: *print, record: Span::default(), message: row.message, event_id: Span::default() }
        });
        let rows = Rows { bytes: Vec::new(), meta: meta.collect() };
        hold(&mut session.held, rows.known());
        self.intake.memory.take(rows.len(), 0);
        Arc::new(plan_of(plan, rows))
    }

    /// Its rows are sent again as what they are, rows of the table; but what is in quarantine stays there.
    fn send_left_anew(&mut self, session: &mut Session<'_>, plan: &LeftPlan, findings: &Findings) {
        let there = findings.there.iter().filter(|(at, ..)| {
            let row = plan.rows[*at];
            !session.left.quarantine.iter().any(|aside| (aside.key, aside.print) == (row.key, row.print))
        });
        let rows = there.map(|(at, rowid, print)| {
            let row = plan.rows[*at];
            (RowKey { rowid: *rowid, ..row.key }, *print, row.message)
        });
        let why = match plan.state {
            _ if plan.other_file => OTHERS,
            _ if findings.facts.resembles => "their table has lost a column, and they may be other rows",
            PlanState::Planned if session.back.is_some() => "that they were not stored can't be proved",
            _ => "whether its delete was committed is not known",
        };
        self.send_anew(plan.id, plan.run, &plan.target, rows.collect(), why);
        if plan.state == PlanState::Planned && session.back.is_none() {
            session.given_up.push(plan.target.clone());
        }
    }

    /// The batch becomes its lane's again, and its partition's leader is asked.
    fn ask_left(
        &mut self,
        session: &mut Session<'_>,
        left: &LeftPlan,
        findings: &Findings,
        draft: Draft,
        sought: Sought,
    ) {
        let mut rows = in_order(draft.rows, &draft.places);
        for (meta, (at, rowid, _)) in rows.meta.iter_mut().zip(&findings.there) {
            debug_assert_eq!(meta.message, left.rows[*at].message);
            meta.key.rowid = *rowid;
        }
        let ix = self.intake.lane_of(&left.target, left.noted_offset, left.leader_epoch);
        let lane = &self.intake.lanes[ix as usize];
        if lane.flight.is_some() || lane.unanswered.is_some_and(|other| other != left.id) {
            // At most one batch of a lane is only planned: the next one's transaction carries the outcome of the one before.
            let rows = rows.meta.iter().map(|meta| (meta.key, meta.print, meta.message)).collect();
            self.send_anew(left.id, left.run, &left.target, rows, "its lane has two open batches");
            return;
        }
        hold(&mut session.held, rows.known());
        self.intake.memory.take(rows.len(), rows.bytes.len());
        // The leader knows the batch by the number of all its rows, whatever became of them since.
        let asked = Arc::new(plan_of(left, Rows { bytes: Vec::new(), meta: all_rows(left) }));
        let plan = Arc::new(plan_of(left, rows));
        self.plans.insert(plan.id, ix);
        let highest = session.highest_epochs.get(&(&left.target, left.triple.producer_id)).copied();
        let next_epoch = self.epoch_after(highest.unwrap_or(left.triple.epoch));
        let flight = Flight::left(plan, next_epoch, session.now);
        self.ask_about(asked, ix, flight, Doubt::Left { whole: sought == Sought::Resend });
    }

    /// Rows of a batch whose fate can't be proved are read again, and keep their message ids.
    pub(in crate::relay) fn send_anew(
        &mut self,
        plan: PlanId,
        run: RunId,
        target: &Target,
        rows: Vec<(RowKey, Fingerprint, u64)>,
        why: &str,
    ) {
        self.count_unsure(&target.to_string(), rows.len(), why);
        self.keep_ids(plan, run, rows);
    }

    /// These rows of a batch are read again as what they are, rows of the table, and keep their message ids.
    pub(in crate::relay) fn keep_ids(&mut self, plan: PlanId, run: RunId, rows: Vec<(RowKey, Fingerprint, u64)>) {
        for (key, print, message) in rows {
            self.intake.resends.keep(key, Resend { print, run, message });
        }
        self.settling.forget(plan);
    }
}

/// As many as the batch had, those of outboxes that are no longer configured included.
pub(in crate::relay) fn all_rows(left: &LeftPlan) -> Vec<RowMeta> {
    let meta =
        |key, print, message| RowMeta { key, print, record: Span::default(), message, event_id: Span::default() };
    let mut rows: Vec<RowMeta> = left.rows.iter().map(|row| meta(row.key, row.print, row.message)).collect();
    let elsewhere = meta(RowKey { outbox: OutboxIx(u16::MAX), rowid: 0 }, Fingerprint(0), 0);
    rows.resize(left.rows.len() + left.rows_elsewhere, elsewhere);
    rows
}

pub(in crate::relay) fn plan_of(left: &LeftPlan, rows: Rows) -> Plan {
    Plan {
        id: left.id,
        target: left.target.clone(),
        triple: left.triple,
        run: left.run,
        noted_offset: left.noted_offset,
        leader_epoch: left.leader_epoch,
        cluster: left.cluster.clone(),
        first_attempt: left.first_attempt,
        rows: Arc::new(rows),
        sent_form: SentForm::default(),
    }
}

/// Records in their batch's own order. `places`: where each belongs.
pub(in crate::relay) fn in_order(rows: Rows, places: &[usize]) -> Rows {
    let mut order: Vec<usize> = (0..places.len()).collect();
    if order.is_sorted_by_key(|at| places[*at]) {
        return rows;
    }
    order.sort_unstable_by_key(|at| places[*at]);
    recut(&rows, order)
}
