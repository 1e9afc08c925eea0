//! Recovery at start: what an earlier run left open is looked for, and each batch gets its verdict.
//!
//! Promises: rows of an open batch are never sent under another triple before the leader was asked (I3); what can't be proved is
//! sent again with the same message ids, and counted. Does not know: how a leader is asked, SQL.

use super::lanes::{Doubt, Flight};
use super::ledger::Aside;
use super::matching::{Cause, Draft, Matching};
use super::planted::{self, Bug};
use super::replaced::hold;
use super::route::recut;
use super::told::Told;
use super::verdict::{Facts, Verdict};
use super::waiting::{Back, Waiting};
use super::{Fatal, Relay};
use crate::model::{
    Booked, Fault, Fingerprint, Left, LeftPlan, LeftResend, LeftRow, OutboxIx, Plan, PlanId, PlanState, Quarantined,
    Resend, RowKey, RowMark, RowMeta, Rows, Sameness, SentForm, Sought, Span, Target,
};
use crate::ports::{Clock, Journal, Sink, Source};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What is to be said of rows that are sent again for one reason.
#[derive(Debug, Default)]
pub(super) struct Unsure {
    /// Whose they are: of several the first.
    subject: String,
    times: usize,
    rows: usize,
}

/// What recovery has to remember.
#[derive(Debug)]
pub(super) struct Recovery {
    /// Until its rows were looked for.
    pub left: Option<Left>,
    pub waiting: Waiting,
    /// It was said that batches were on their way to another cluster.
    pub other_cluster_told: bool,
}

impl Recovery {
    pub(super) fn new(left: Left) -> Self {
        Recovery { left: Some(left), waiting: Waiting::default(), other_cluster_told: false }
    }

    /// Batches whose rows were not looked for yet.
    pub(super) fn left_rows(&self) -> usize {
        let left = self.left.iter().flat_map(|left| &left.plans).map(|plan| plan.rows.len());
        left.sum::<usize>() + self.waiting.rows()
    }
}

/// What was found of one batch.
pub(super) struct Findings {
    /// Places of rows that are there as they were, and their rowids and fingerprints now.
    pub there: Vec<(usize, i64, Fingerprint)>,
    pub facts: Facts,
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
        for row in &left.resends {
            matching.seek(row.key, row.resend.print);
        }
        matching.begin();
        self.reading.matching = Some(matching);
    }

    pub(super) fn restart_matching(&mut self, not_before: Instant) {
        self.begin_recovery(not_before);
    }

    /// At start: every batch gets its verdict. `back`: at a start, all but those of this outbox have got it before.
    pub(super) fn judge_left(
        &mut self,
        mut matching: Matching,
        back: Option<OutboxIx>,
        now: Instant,
    ) -> Result<(), Fatal> {
        let answer = self.source.at_disk().booked();
        let booked = match answer {
            Ok(booked) => booked,
            Err(error) => {
                let retry_at = now + super::reading::RETRY_EVERY;
                if let Some(ix) = back {
                    self.intake.outbox(ix).retry_at = Some(retry_at);
                } else {
                    self.reading.matching = Some(matching);
                    self.restart_matching(retry_at);
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
        self.doubt_other_tables(&mut left);
        let mut held: Vec<Vec<RowMark>> = self.outboxes().map(|_| Vec::new()).collect();
        let mut findings = self.findings(&left, &matching, booked.as_ref());
        // Named before a delete that did not commit after all: published, and to be left alone.
        let kept = left.quarantine.iter().filter(|row| row.fault == Fault::Undeletable);
        let kept: HashSet<(RowKey, Fingerprint)> = kept.map(|row| (row.key, row.print)).collect();
        let stored = left.plans.iter().zip(&mut findings).filter(|(plan, _)| plan.state != PlanState::Planned);
        for (plan, findings) in stored {
            let row = |at: usize| (plan.rows[at].key, plan.rows[at].print);
            findings.there.retain(|(at, ..)| !kept.contains(&row(*at)));
        }
        let highest = highest_epochs(&left.plans);
        let planned = left.plans.iter().filter(|plan| plan.state == PlanState::Planned);
        let newest: HashMap<Target, PlanId> = planned.map(|plan| (plan.target.clone(), plan.id)).collect();
        let (mut told, mut unlike) = (Told::default(), 0);
        for ((plan, findings), draft) in left.plans.iter().zip(findings).zip(drafts) {
            let verdict = match findings.facts.verdict() {
                Verdict::Ask(_) if planted::is(Bug::DeletePlannedBecauseIdentical) => Verdict::Delete,
                Verdict::Ask(_) if planted::is(Bug::RerouteAfterGrowth) => Verdict::Forget,
                // What is left of a batch that was being sent anew: the later one of its lane has its lower rows.
                Verdict::Ask(_) if newest.get(&plan.target).is_some_and(|newest| *newest != plan.id) => {
                    Verdict::SendAnew
                }
                // Nobody has said that it is stored, and its lane is others' by now.
                Verdict::Ask(_) if back.is_some() => Verdict::SendAnew,
                verdict => verdict,
            };
            told.note(&self.figures.database, plan, &findings, verdict);
            let rows = || plan.rows.iter().map(|row| (row.key, row.print));
            unlike += self.unlike_rows(rows(), &matching);
            if findings.facts.booked == Some(true) {
                self.settling.booked_before(plan.id);
            }
            if let (Verdict::Delete, PlanState::Deleting { delete }) = (verdict, plan.state) {
                self.settling.not_deleted_before(delete);
            }
            match verdict {
                Verdict::Forget => self.settling.forget(plan.id),
                Verdict::Delete if findings.there.is_empty() => self.settling.forget(plan.id),
                Verdict::Delete => self.delete_left(plan, &findings, !unrecorded.contains(&plan.id), &mut held, now),
                Verdict::SendAnew => {
                    // What is in quarantine stays there.
                    let there = findings.there.iter().filter(|(at, ..)| {
                        let row = plan.rows[*at];
                        !left.quarantine.iter().any(|aside| (aside.key, aside.print) == (row.key, row.print))
                    });
                    let rows = there.map(|(at, rowid, print)| {
                        let row = plan.rows[*at];
                        (RowKey { rowid: *rowid, ..row.key }, *print, row.message)
                    });
                    let why = match plan.state {
                        PlanState::Planned if back.is_some() => "that they were not stored can't be proved",
                        _ => "whether its delete was committed is not known",
                    };
                    self.send_anew(plan.id, plan.run, &plan.target, rows.collect(), why);
                }
                Verdict::Ask(sought) => {
                    let epoch = highest.get(&(plan.target.clone(), plan.triple.producer_id)).copied().unwrap_or(0);
                    self.ask_left(plan, &findings, draft, sought, epoch, &mut held, now);
                }
            }
        }
        told.end(&self.figures.database);
        self.count_unlike(unlike);
        self.resends_left(&left, &matching, &held);
        let aside = self.quarantine_left(&left, &matching);
        for (ix, (held, aside)) in self.outboxes().zip(held.into_iter().zip(aside)) {
            if back.is_none_or(|back| back == ix) {
                let outbox = self.intake.outbox(ix);
                outbox.restart(held, aside);
                outbox.pause_if_full();
                self.made_anew(ix, &matching, false);
            }
        }
        Ok(())
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

    /// What lies where the rows of these batches were may be other rows: the table is not the one that was noted, or its ids begin
    /// anew. Also for who comes after a crash, when this table is the one that is noted.
    fn doubt_other_tables(&mut self, left: &mut Left) {
        for plan in &mut left.plans {
            let other = plan.rows.iter().any(|row| {
                self.source.traits(row.key.outbox).is_some_and(|traits| {
                    let counted = traits.identity.sequence.map_or(0, |(_, highest)| highest);
                    let begins_anew = !traits.bare && !self.has_event_id(row.key.outbox) && counted < row.key.rowid;
                    traits.told != Sameness::Same || begins_anew
                })
            });
            if other {
                plan.other_file = true;
                self.settling.doubt(plan.id);
            }
        }
        let source = &self.source;
        let another = |outbox| source.traits(outbox).is_some_and(|traits| traits.told == Sameness::Another);
        let gone = |row: &mut Quarantined| row.fault == Fault::Undeletable && another(row.key.outbox);
        for row in left.quarantine.extract_if(.., gone) {
            self.quarantine.release(row.key);
        }
    }

    fn findings(&self, left: &Left, matching: &Matching, booked: Option<&Booked>) -> Vec<Findings> {
        // Of two plans with the same row the later one owns it.
        let mut owners: HashMap<(RowKey, Fingerprint), PlanId> = HashMap::new();
        for plan in left.plans.iter().rev() {
            for row in &plan.rows {
                owners.entry((row.key, row.print)).or_insert(plan.id);
            }
        }
        let owned = |plan: &LeftPlan, key: RowKey, print| owners.get(&(key, print)) == Some(&plan.id);
        let mut findings: Vec<Findings> = left
            .plans
            .iter()
            .map(|plan| {
                let mine = plan.rows.iter().filter(|row| owned(plan, row.key, row.print)).count();
                let there: Vec<(usize, i64, Fingerprint)> = plan
                    .rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| owned(plan, row.key, row.print))
                    .filter_map(|(at, row)| {
                        let (rowid, print) = matching.found.get(&(row.key, row.print))?;
                        Some((at, *rowid, *print))
                    })
                    .collect();
                let comes_back = |row: &LeftRow| plan.guessed || self.comes_back(row.key.outbox, plan.other_file);
                let surely = there.iter().any(|(at, ..)| !comes_back(&plan.rows[*at]));
                let resembles = |(at, _, print): &(usize, i64, Fingerprint)| *print != plan.rows[*at].print;
                let whole = there.len() == mine && mine == plan.rows.len();
                let facts = Facts {
                    state: plan.state,
                    whole: whole && plan.rows_elsewhere == 0,
                    none: there.is_empty(),
                    bare: plan.rows.iter().any(comes_back),
                    continuous: !plan.other_boot && !plan.other_file,
                    booked: self.is_booked(plan, booked),
                    delete_whole: there.len() == mine,
                    delete_disproved: surely,
                    resembles: there.iter().any(resembles),
                };
                Findings { there, facts }
            })
            .collect();
        // A delete takes all of its batches or none of them.
        let mut deletes: HashMap<u64, (bool, bool)> = HashMap::new();
        for Findings { facts, .. } in &findings {
            if let PlanState::Deleting { delete } = facts.state {
                let (whole, disproved) = deletes.entry(delete).or_insert((true, false));
                *whole &= facts.delete_whole;
                *disproved |= facts.delete_disproved;
            }
        }
        for Findings { facts, .. } in &mut findings {
            if let PlanState::Deleting { delete } = facts.state
                && let Some((whole, disproved)) = deletes.get(&delete)
            {
                (facts.delete_whole, facts.delete_disproved) = (*whole, *disproved);
            }
        }
        findings
    }

    /// What the database itself says of whether the plan was deleted.
    pub(super) fn is_booked(&self, plan: &LeftPlan, booked: Option<&Booked>) -> Option<bool> {
        booked
            .filter(|_| !plan.other_boot || self.intake.limits.power_loss)
            .map(|booked| booked.plans.binary_search(&plan.id).is_ok())
            .filter(|deleted| *deleted || self.not_booked_is_not_deleted(plan))
    }

    /// Whether a delete of the plan would have been booked in this file: one that was noted was not.
    fn not_booked_is_not_deleted(&self, plan: &LeftPlan) -> bool {
        self.source.books() && !plan.other_file && !matches!(plan.state, PlanState::Deleting { .. })
    }

    /// Stored, and not deleted yet. `recorded`: the state file says so.
    fn delete_left(
        &mut self,
        plan: &LeftPlan,
        findings: &Findings,
        recorded: bool,
        held: &mut [Vec<RowMark>],
        now: Instant,
    ) {
        let meta: Vec<RowMeta> = findings
            .there
            .iter()
            .map(|(at, rowid, print)| {
                let row = plan.rows[*at];
                let key = RowKey { rowid: *rowid, ..row.key };
                RowMeta { key, print: *print, record: Span::default(), message: row.message, event_id: Span::default() }
            })
            .collect();
        let rows = Rows { bytes: Vec::new(), meta };
        hold(held, rows.known());
        self.intake.memory.take(rows.len(), 0);
        let offset = match plan.state {
            PlanState::Acknowledged { offset } => offset,
            PlanState::Planned | PlanState::Deleting { .. } => -1,
        };
        if planted::is(Bug::SequencesFromTheStateFile) {
            let ix = self.intake.lane_of(&plan.target, plan.noted_offset, plan.leader_epoch);
            self.intake.lanes[ix as usize].inherit(plan.triple, plan.rows.len());
        }
        let plan = Arc::new(plan_of(plan, rows));
        if recorded {
            self.settling.acknowledged_before(plan, offset, now);
        } else {
            self.settling.acknowledged(plan, offset, now);
        }
    }

    /// The batch becomes its lane's again, and its partition's leader is asked.
    #[allow(clippy::too_many_arguments)] // one batch, and what was found of it
    fn ask_left(
        &mut self,
        left: &LeftPlan,
        findings: &Findings,
        draft: Draft,
        sought: Sought,
        highest_epoch: i16,
        held: &mut [Vec<RowMark>],
        now: Instant,
    ) {
        let mut rows = in_order(draft.rows, &draft.places);
        for (meta, (at, rowid, _)) in rows.meta.iter_mut().zip(&findings.there) {
            debug_assert_eq!(meta.message, left.rows[*at].message);
            meta.key.rowid = *rowid;
        }
        let ix = self.intake.lane_of(&left.target, left.noted_offset, left.leader_epoch);
        if self.intake.lanes[ix as usize].flight.is_some() {
            // At most one batch of a lane is only planned: the next one's transaction carries the outcome of the one before.
            let rows = rows.meta.iter().map(|meta| (meta.key, meta.print, meta.message)).collect();
            self.send_anew(left.id, left.run, &left.target, rows, "its lane has two open batches");
            return;
        }
        hold(held, rows.known());
        self.intake.memory.take(rows.len(), rows.bytes.len());
        // The leader knows the batch by the number of all its rows, whatever became of them since.
        let asked = Arc::new(plan_of(left, Rows { bytes: Vec::new(), meta: all_rows(left) }));
        let plan = Arc::new(plan_of(left, rows));
        self.plans.insert(plan.id, ix);
        let next_epoch = self.epoch_after(highest_epoch);
        let flight = Flight { unsure: true, next_epoch, ..Flight::new(plan, now) };
        self.ask_about(&asked, ix, flight, Doubt::Left { whole: sought == Sought::Resend }, sought);
    }

    /// Rows of a batch whose fate can't be proved are read again, and keep their message ids.
    pub(super) fn send_anew(
        &mut self,
        plan: PlanId,
        run: crate::model::RunId,
        target: &Target,
        rows: Vec<(RowKey, Fingerprint, u64)>,
        why: &str,
    ) {
        self.count_unsure(&target.to_string(), rows.len(), why);
        self.keep_ids(plan, run, rows);
    }

    /// These rows of a batch are read again as what they are, rows of the table, and keep their message ids.
    pub(super) fn keep_ids(&mut self, plan: PlanId, run: crate::model::RunId, rows: Vec<(RowKey, Fingerprint, u64)>) {
        for (key, print, message) in rows {
            self.intake.resends.keep(key, Resend { print, run, message });
        }
        self.settling.forget(plan);
    }

    pub(super) fn count_unsure(&mut self, subject: &str, rows: usize, why: &str) {
        if rows == 0 {
            return;
        }
        let said = self
            .unsure
            .entry(why.to_owned())
            .or_insert_with(|| Unsure { subject: subject.to_owned(), ..Unsure::default() });
        said.times += 1;
        said.rows += rows;
        self.add_unsure(rows);
    }

    /// One line for each reason, however many batches have it. Before anything is sent.
    pub(super) fn say_unsure(&mut self) {
        for (why, Unsure { subject, times, rows }) in std::mem::take(&mut self.unsure) {
            let others = if times > 1 { format!(" and {} more", times - 1) } else { String::new() };
            log::warn!("{subject}{others}: {rows} rows are sent again and may be there twice (unsure): {why}");
        }
    }

    pub(super) fn add_unsure(&mut self, rows: usize) {
        self.figures.unsure_rows.fetch_add(rows as u64, Relaxed);
        self.summary.unsure += rows as u64;
    }

    /// Whether one of these rows can come back alike.
    pub(super) fn is_bare(&self, rows: impl IntoIterator<Item = (RowKey, Fingerprint)>) -> bool {
        rows.into_iter().any(|(key, _)| self.bare_outbox(key.outbox))
    }

    /// A table that was never read may be anything.
    pub(super) fn bare_outbox(&self, outbox: OutboxIx) -> bool {
        self.source.traits(outbox).is_none_or(|traits| traits.bare)
    }

    /// Rows that were to be sent again keep their message ids, if they are there as they were.
    /// Those in a batch that goes on have it from there.
    fn resends_left(&mut self, left: &Left, matching: &Matching, held: &[Vec<RowMark>]) {
        if left.resends.is_empty() {
            return;
        }
        let held: Vec<HashSet<i64>> = held.iter().map(|marks| marks.iter().map(|mark| mark.rowid).collect()).collect();
        for row in &left.resends {
            let now = matching.found.get(&(row.key, row.resend.print));
            match now.filter(|(rowid, _)| !held[usize::from(row.key.outbox.0)].contains(rowid)) {
                Some((rowid, print)) => {
                    let resend = Resend { print: *print, ..row.resend };
                    let now = LeftResend { key: RowKey { rowid: *rowid, ..row.key }, resend };
                    self.intake.resends.keep_left(*row, now);
                }
                None => self.intake.resends.drop_left(row.key),
            }
        }
    }

    fn has_event_id(&self, outbox: OutboxIx) -> bool {
        self.intake.outboxes[usize::from(outbox.0)].route.event_id
    }

    /// Whether a row of the outbox that looks like one that was sent may be another. `another`: it may be read from another table, where
    /// AUTOINCREMENT has begun anew.
    pub(super) fn comes_back(&self, outbox: OutboxIx, another: bool) -> bool {
        self.bare_outbox(outbox) || (another && !self.has_event_id(outbox))
    }

    fn quarantine_left(&mut self, left: &Left, matching: &Matching) -> Vec<BTreeMap<i64, Aside>> {
        let mut aside: Vec<BTreeMap<i64, Aside>> = self.outboxes().map(|_| BTreeMap::new()).collect();
        let mut doubled = 0;
        for row in &left.quarantine {
            let at = usize::from(row.key.outbox.0);
            let published = row.fault == Fault::Undeletable;
            match matching.found.get(&(row.key, row.print)) {
                None => {
                    doubled += usize::from(published && self.is_unlike(row.key, matching));
                    self.quarantine.release(row.key);
                }
                // It may be another, and would never be sent.
                Some((_, print)) if published && *print != row.print => {
                    doubled += 1;
                    self.quarantine.release(row.key);
                }
                Some((rowid, print)) => {
                    aside[at].insert(*rowid, Aside { print: *print, published });
                    self.figures.outboxes[at].set_aside.fetch_add(1, Relaxed);
                    if (*rowid, *print) != (row.key.rowid, row.print) {
                        self.quarantine.moved(row.key, *rowid, *print);
                    }
                }
            }
        }
        self.count_kept(doubled);
        aside
    }
}

/// The highest epoch that any plan names for a producer id on a partition.
fn highest_epochs(plans: &[LeftPlan]) -> HashMap<(Target, i64), i16> {
    let mut highest = HashMap::new();
    for plan in plans {
        let epoch = highest.entry((plan.target.clone(), plan.triple.producer_id)).or_insert(plan.triple.epoch);
        *epoch = plan.triple.epoch.max(*epoch);
    }
    highest
}

/// As many as the batch had, those of outboxes that are no longer configured included.
pub(super) fn all_rows(left: &LeftPlan) -> Vec<RowMeta> {
    let meta =
        |key, print, message| RowMeta { key, print, record: Span::default(), message, event_id: Span::default() };
    let mut rows: Vec<RowMeta> = left.rows.iter().map(|row| meta(row.key, row.print, row.message)).collect();
    let elsewhere = meta(RowKey { outbox: OutboxIx(u16::MAX), rowid: 0 }, Fingerprint(0), 0);
    rows.resize(left.rows.len() + left.rows_elsewhere, elsewhere);
    rows
}

pub(super) fn plan_of(left: &LeftPlan, rows: Rows) -> Plan {
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
pub(super) fn in_order(rows: Rows, places: &[usize]) -> Rows {
    let mut order: Vec<usize> = (0..places.len()).collect();
    if order.is_sorted_by_key(|at| places[*at]) {
        return rows;
    }
    order.sort_unstable_by_key(|at| places[*at]);
    recut(&rows, order)
}
