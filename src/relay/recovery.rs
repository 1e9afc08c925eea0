//! Recovery: what an earlier run left open is settled, and what answers alone can't tell is asked of the partition's leader.
//!
//! Promises: rows of an open batch are never sent under another triple before the leader was asked (I3); what can't be proved is
//! sent again with the same message ids, and counted. Does not know: how a leader is asked, SQL.

use super::Relay;
use super::answers::take_rows;
use super::intake::{Behind, Resent};
use super::lanes::{Batch, Doubt, EPOCH_MAX, Flight, Phase, Standing};
use super::ledger::Aside;
use super::matching::{Cause, Draft, Matching};
use super::planted::{self, Bug};
use super::route::recut;
use super::verdict::{Facts, Verdict};
use super::{Fatal, Producer};
use crate::model::{
    Booked, Deletion, Evidence, Fault, Fingerprint, Left, LeftPlan, OutboxIx, Plan, PlanId, PlanState, Quarantined,
    RowKey, RowMark, RowMeta, Rows, Sought, Span, Target, Triple, Why,
};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Batches that are named one by one in the log.
const NAMED_MAX: usize = 20;
/// A leader that we may not ask still knows a producer for a day; a batch older than half of it is not resent as certain.
const KNOWN_FOR: Duration = Duration::from_secs(12 * 60 * 60);

/// What recovery has to remember.
#[derive(Debug)]
pub(super) struct Recovery {
    /// Until its rows were looked for.
    left: Option<Left>,
    /// Plans whose rows go again as rows of the table: how many are not in a new plan yet.
    again: HashMap<PlanId, usize>,
}

impl Recovery {
    pub(super) fn new(left: Left) -> Self {
        Recovery { left: Some(left), again: HashMap::new() }
    }

    /// Batches whose rows were not looked for yet.
    pub(super) fn left_rows(&self) -> usize {
        self.left.iter().flat_map(|left| &left.plans).map(|plan| plan.rows.len()).sum()
    }
}

/// What was found of one batch.
struct Findings {
    /// Places of rows that are there as they were, and their rowids now.
    there: Vec<(usize, i64)>,
    facts: Facts,
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
        matching.begin();
        self.reading.matching = Some(matching);
    }

    /// File or table are not what they were: what was collected is read again, what is planned or in quarantine is looked for.
    pub(super) fn replaced(&mut self, text: &str, another: bool, now: Instant) {
        log::warn!("{}: {text}; what is there now is read from the start", self.figures.database);
        if let Some(left) = &mut self.recovery.left {
            for plan in &mut left.plans {
                plan.other_file |= another;
            }
            if another {
                let (gone, kept) = std::mem::take(&mut left.quarantine)
                    .into_iter()
                    .partition(|row: &Quarantined| row.fault == Fault::Undeletable);
                left.quarantine = kept;
                for row in gone {
                    self.quarantine.release(row.key);
                }
            }
            self.begin_recovery(now);
            return;
        }
        // What an unfinished search was for is not forgotten.
        let (before, doubtful) = match self.reading.matching.take().map(|matching| matching.cause) {
            Some(Cause::Replaced { another, doubtful }) => (another, doubtful),
            Some(Cause::CommitUnknown { plans, .. }) => (false, plans),
            Some(Cause::Start) | None => (false, Vec::new()),
        };
        self.look_for_planned(Cause::Replaced { another: another || before, doubtful }, now);
        for outbox in &mut self.intake.outboxes {
            outbox.columns_noted = false;
        }
        self.reading.look_soon(now);
    }

    /// Whether the COMMIT of this delete happened is not known. Where rows come back alike, that has to be told from all of its rows
    /// before the next delete; elsewhere the guards tell.
    pub(super) fn commit_unknown(&mut self, delete: u64, plans: Vec<PlanId>, now: Instant) {
        if plans.is_empty() {
            return;
        }
        let outboxes = self.intake.outboxes.len();
        let wanted = self.settling.plans().filter(|plan| plans.contains(&plan.id)).collect::<Vec<_>>();
        let mut matching = Matching::new(Cause::CommitUnknown { delete, plans }, outboxes, now);
        for meta in wanted.iter().flat_map(|plan| &plan.rows.meta) {
            matching.seek(meta.key, meta.print);
        }
        matching.begin();
        self.reading.matching = Some(matching);
    }

    fn look_for_planned(&mut self, cause: Cause, now: Instant) {
        self.forget_unplanned();
        let mut matching = Matching::new(cause, self.intake.outboxes.len(), now);
        let suspects = self.intake.topics.iter().flat_map(|topic| topic.breaker.suspects());
        let suspects: Vec<RowMeta> = suspects.map(|suspect| suspect.row.meta[0]).collect();
        for meta in suspects {
            matching.seek(meta.key, meta.print);
        }
        for plan in self.flying().chain(self.settling.plans()) {
            for meta in &plan.rows.meta {
                matching.seek(meta.key, meta.print);
            }
        }
        for (at, outbox) in self.intake.outboxes.iter_mut().enumerate() {
            let outbox_ix = OutboxIx(at as u16);
            for (rowid, aside) in outbox.ledger.asides(i64::MIN) {
                matching.seek(RowKey { outbox: outbox_ix, rowid }, aside.print);
            }
            outbox.more = Behind::Ready;
        }
        matching.begin();
        self.reading.matching = Some(matching);
    }

    fn flying(&self) -> impl Iterator<Item = Arc<Plan>> + '_ {
        self.intake.lanes.iter().filter_map(|lane| lane.flight.as_ref()).map(|flight| flight.plan.clone())
    }

    /// What is collected and not in a plan is read again.
    fn forget_unplanned(&mut self) {
        for ix in 0..self.intake.lanes.len() as u32 {
            self.intake.give_back(ix);
        }
    }

    pub(super) fn restart_matching(&mut self, not_before: Instant) {
        self.begin_recovery(not_before);
    }

    /// Every row was looked for.
    pub(super) fn matched(&mut self, now: Instant) {
        let Some(mut matching) = self.reading.matching.take() else { return };
        match std::mem::replace(&mut matching.cause, Cause::Start) {
            Cause::Start => self.recovered(matching, now),
            Cause::Replaced { another, doubtful } => {
                // A batch rejected meanwhile left rows under the rowids they had.
                self.forget_unplanned();
                let total = matching.sought();
                log::info!("{}: {} of {total} rows were found again", self.figures.database, matching.found.len());
                self.go_on(&matching, another, &doubtful, now);
            }
            Cause::CommitUnknown { delete, plans } => self.settle_unknown(&matching, delete, plans, now),
        }
        self.reading.room();
    }

    /// While running: flights, acknowledged plans and suspects learn where their rows are now.
    fn go_on(&mut self, matching: &Matching, another: bool, doubtful: &[PlanId], now: Instant) {
        let mut held: Vec<Vec<RowMark>> = self.outboxes().map(|_| Vec::new()).collect();
        let mut disowned = 0;
        for ix in 0..self.intake.lanes.len() {
            let Some(mut flight) = self.intake.lanes[ix].flight.take() else { continue };
            // In another file rows that look alike are other rows: read as new, nothing is deleted for this batch.
            flight.disowned |= another && self.is_bare(&flight.plan.rows.meta);
            if flight.disowned {
                disowned += flight.plan.rows.meta.iter().filter(|meta| matching.at(meta).is_some()).count();
            } else {
                flight.plan = renumbered(&flight.plan, matching);
                hold(&mut held, &flight.plan.rows.meta);
            }
            self.intake.lanes[ix].flight = Some(flight);
        }
        if disowned > 0 {
            let why = "file or table are others, and its rows can come back alike";
            self.count_unsure(&self.figures.database.clone(), disowned, why);
        }
        for topic in 0..self.intake.topics.len() {
            for suspect in self.intake.topics[topic].breaker.renumber(|meta| matching.at(meta)) {
                self.intake.forget_rows(suspect.row);
            }
            for suspect in self.intake.topics[topic].breaker.suspects() {
                hold(&mut held, &suspect.row.meta);
            }
        }
        if another {
            for (plan, errand) in self.settling.take_errands() {
                if !self.is_bare(&plan.rows.meta) {
                    self.settling.errand(plan, errand, now);
                    continue;
                }
                // What they were about is gone with the file.
                let gone = plan.rows.meta.iter().map(|meta| meta.key).collect();
                self.errand_done(&plan, &errand, &Deletion { gone, ..Deletion::default() });
                self.intake.forget_rows(take_rows(plan));
            }
        }
        self.settling.renumber_errands(|plan| {
            let plan = renumbered(plan, matching);
            hold(&mut held, &plan.rows.meta);
            plan
        });
        for (plan, offset) in self.settling.take_acknowledged() {
            let facts = self.facts_of(&plan, matching, PlanState::Acknowledged { offset }, !another);
            // A delete of it may have been committed: as if in another file, a row of a bare table that looks alike may be new.
            let facts = Facts { continuous: facts.continuous && !doubtful.contains(&plan.id), ..facts };
            match facts.verdict() {
                Verdict::Delete => {
                    let plan = renumbered(&plan, matching);
                    hold(&mut held, &plan.rows.meta);
                    self.settling.acknowledged(plan, offset, now);
                }
                verdict => {
                    let why = "file or table are others, and its rows can come back alike";
                    self.not_deleted(&plan, matching, verdict, why);
                    self.settling.leave_noted(plan.id);
                }
            }
        }
        let aside = self.aside_again(matching, another);
        for (outbox, (held, aside)) in self.intake.outboxes.iter_mut().zip(held.into_iter().zip(aside)) {
            outbox.ledger.restart(held, aside);
        }
    }

    fn facts_of(&self, plan: &Plan, matching: &Matching, state: PlanState, continuous: bool) -> Facts {
        let there = plan.rows.meta.iter().filter(|meta| matching.at(meta).is_some()).count();
        let disproved = |meta: &RowMeta| matching.at(meta).is_some() && !self.bare_outbox(meta.key.outbox);
        Facts {
            state,
            whole: there == plan.rows.len(),
            none: there == 0,
            bare: self.is_bare(&plan.rows.meta),
            continuous,
            booked: None,
            delete_whole: there == plan.rows.len(),
            delete_disproved: plan.rows.meta.iter().any(disproved),
        }
    }

    /// An acknowledged plan whose rows are not to be deleted any more.
    fn not_deleted(&mut self, plan: &Plan, matching: &Matching, verdict: Verdict, why: &str) {
        self.intake.held_rows -= plan.rows.len();
        if verdict == Verdict::SendAnew {
            let rows = plan.rows.meta.iter().filter_map(|meta| {
                let rowid = matching.at(meta)?;
                Some((RowKey { rowid, ..meta.key }, meta.print, meta.message))
            });
            self.send_anew(plan.id, plan.run, &plan.target, rows.collect(), why);
        } else {
            self.settling.forget(plan.id);
        }
    }

    /// Whether the delete happened shows in its rows, or in what the database itself says.
    fn settle_unknown(&mut self, matching: &Matching, delete: u64, doubtful: Vec<PlanId>, now: Instant) {
        let booked = match self.source.booked() {
            Ok(booked) => booked,
            Err(error) => {
                self.commit_unknown(delete, doubtful, now);
                if let SourceError::Replaced { text, another } = error {
                    // Said once, to whoever asks first.
                    self.replaced(&text, another, now);
                    return;
                }
                if let Some(matching) = &mut self.reading.matching {
                    matching.not_before = now + super::reading::RETRY_EVERY;
                }
                log::debug!("{}: {error}", self.figures.database);
                return;
            }
        };
        let state = PlanState::Deleting { delete };
        let mut cases: Vec<(PlanId, Facts)> = self
            .settling
            .plans()
            .filter(|plan| doubtful.contains(&plan.id))
            .map(|plan| (plan.id, self.facts_of(&plan, matching, state, true)))
            .collect();
        let whole = cases.iter().all(|(_, facts)| facts.delete_whole);
        let disproved = cases.iter().any(|(_, facts)| facts.delete_disproved);
        for (plan, facts) in &mut cases {
            (facts.delete_whole, facts.delete_disproved) = (whole, disproved);
            // Our own deletes are booked, or noted, never both.
            let deleted = booked.as_ref().is_some_and(|booked| booked.plans.binary_search(plan).is_ok());
            facts.booked = self.source.books().then_some(deleted);
        }
        for (plan, offset) in self.settling.take_acknowledged() {
            let verdict = cases.iter().find(|(id, _)| *id == plan.id).map(|(_, facts)| facts.verdict());
            log::debug!("batch {} of a delete whose COMMIT is not known: {verdict:?}", plan.id.0);
            match verdict {
                None | Some(Verdict::Delete) => self.settling.acknowledged(plan, offset, now),
                Some(verdict) => {
                    self.let_be(&plan);
                    self.not_deleted(&plan, matching, verdict, "whether its delete was committed is not known");
                    // Its note stays: taken for a plan whose delete was never tried, its rows would be deleted after a crash,
                    // and they may be new ones.
                    self.settling.leave_noted(plan.id);
                }
            }
        }
        self.did_not_commit();
    }

    /// The plan's rows are held no longer; what lies under their rowids is looked at again.
    fn let_be(&mut self, plan: &Plan) {
        for ix in self.outboxes() {
            let metas = plan.rows.meta.iter().filter(|meta| meta.key.outbox == ix);
            let mut rowids: Vec<i64> = metas.map(|meta| meta.key.rowid).collect();
            rowids.sort_unstable();
            let outbox = self.intake.outbox(ix);
            outbox.ledger.removed(&rowids);
            for rowid in rowids.first().into_iter().chain(rowids.last()) {
                outbox.ledger.revisit(*rowid);
            }
            outbox.again = true;
        }
    }

    /// The quarantine where it is now; what is no longer there is released.
    ///
    /// In another file a row that looks like one that was published may be another event, and would never be sent.
    fn aside_again(&mut self, matching: &Matching, another: bool) -> Vec<BTreeMap<i64, Aside>> {
        let mut again = Vec::with_capacity(self.intake.outboxes.len());
        for at in 0..self.intake.outboxes.len() {
            let outbox = OutboxIx(at as u16);
            let mut rows = BTreeMap::new();
            let before: Vec<(i64, Aside)> = self.intake.outboxes[at].ledger.asides(i64::MIN).collect();
            for (rowid, aside) in before {
                let key = RowKey { outbox, rowid };
                match matching.found.get(&(key, aside.print)).filter(|_| !(another && aside.published)) {
                    Some(now) if *now == rowid => drop(rows.insert(rowid, aside)),
                    Some(now) => {
                        rows.insert(*now, aside);
                        self.quarantine.moved(key, RowKey { outbox, rowid: *now });
                    }
                    None => self.quarantine.release(key),
                }
            }
            again.push(rows);
        }
        again
    }

    /// At start: every batch gets its verdict.
    fn recovered(&mut self, mut matching: Matching, now: Instant) {
        let booked = match self.source.booked() {
            Ok(booked) => booked,
            Err(error) => {
                self.reading.matching = Some(matching);
                self.restart_matching(now + super::reading::RETRY_EVERY);
                if let Err(fatal) = self.look_failed(OutboxIx(0), error, now) {
                    log::error!("{fatal}");
                }
                return;
            }
        };
        let Some(mut left) = self.recovery.left.take() else { return };
        if let Some(booked) = booked.as_ref().filter(|booked| booked.highest.0 >= self.next_plan) {
            self.state_is_older(&mut left, booked);
        }
        let mut held: Vec<Vec<RowMark>> = self.outboxes().map(|_| Vec::new()).collect();
        let mut findings = self.findings(&left, &matching, booked.as_ref());
        // Named before a delete that did not commit after all: published, and to be left alone.
        let kept = left.quarantine.iter().filter(|row| row.fault == Fault::Undeletable);
        let kept: HashSet<(RowKey, Fingerprint)> = kept.map(|row| (row.key, row.print)).collect();
        let stored = left.plans.iter().zip(&mut findings).filter(|(plan, _)| plan.state != PlanState::Planned);
        for (plan, findings) in stored {
            let row = |at: usize| (plan.rows[at].key, plan.rows[at].print);
            findings.there.retain(|(at, _)| !kept.contains(&row(*at)));
        }
        let highest = highest_epochs(&left.plans);
        let mut told = Told::default();
        let drafts = std::mem::take(&mut matching.drafts);
        // Drafts were begun from the last plan to the first.
        for ((plan, findings), draft) in left.plans.iter().zip(findings).zip(drafts.into_iter().rev()) {
            let verdict = match findings.facts.verdict() {
                Verdict::Ask(_) if planted::is(Bug::DeletePlannedBecauseIdentical) => Verdict::Delete,
                Verdict::Ask(_) if planted::is(Bug::RerouteAfterGrowth) => Verdict::Forget,
                verdict => verdict,
            };
            told.note(&self.figures.database, plan, &findings, verdict);
            if plan.rows_elsewhere > 0 {
                self.settling.keep(plan.id);
            }
            if findings.facts.booked == Some(true) {
                self.settling.booked_before(plan.id);
            }
            match verdict {
                Verdict::Forget => self.settling.forget(plan.id),
                Verdict::Delete if findings.there.is_empty() => self.settling.forget(plan.id),
                Verdict::Delete => self.delete_left(plan, &findings, &mut held, now),
                Verdict::SendAnew => {
                    // What is in quarantine stays there.
                    let there = findings.there.iter().filter(|(at, _)| {
                        let row = plan.rows[*at];
                        !left.quarantine.iter().any(|aside| (aside.key, aside.print) == (row.key, row.print))
                    });
                    let rows = there.map(|(at, rowid)| {
                        let row = plan.rows[*at];
                        (RowKey { rowid: *rowid, ..row.key }, row.print, row.message)
                    });
                    self.send_anew(
                        plan.id,
                        plan.run,
                        &plan.target,
                        rows.collect(),
                        "whether its delete was committed is not known",
                    );
                }
                Verdict::Ask(sought) => {
                    let epoch = highest.get(&(plan.target.clone(), plan.triple.producer_id)).copied().unwrap_or(0);
                    self.ask_left(plan, &findings, draft, sought, epoch, &mut held, now);
                }
            }
        }
        told.end(&self.figures.database);
        let aside = self.quarantine_left(&left, &matching);
        for (outbox, (held, aside)) in self.intake.outboxes.iter_mut().zip(held.into_iter().zip(aside)) {
            outbox.ledger.restart(held, aside);
            outbox.pause_if_full();
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
                let there: Vec<(usize, i64)> = plan
                    .rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| owned(plan, row.key, row.print))
                    .filter_map(|(at, row)| Some((at, *matching.found.get(&(row.key, row.print))?)))
                    .collect();
                let keys = || plan.rows.iter().map(|row| row.key.outbox);
                let surely = there.iter().any(|(at, _)| !self.bare_outbox(plan.rows[*at].key.outbox));
                let whole = there.len() == mine && mine == plan.rows.len();
                let facts = Facts {
                    state: plan.state,
                    whole: whole && plan.rows_elsewhere == 0,
                    none: there.is_empty(),
                    bare: keys().any(|outbox| self.bare_outbox(outbox)),
                    continuous: left.same_boot && !plan.other_file,
                    booked: booked
                        .filter(|_| left.same_boot || self.intake.limits.power_loss)
                        .map(|booked| booked.plans.binary_search(&plan.id).is_ok())
                        .filter(|deleted| *deleted || self.not_booked_is_not_deleted(plan)),
                    delete_whole: there.len() == mine,
                    delete_disproved: surely,
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

    /// Whether a delete of the plan would have been booked in this file: one that was noted was not.
    fn not_booked_is_not_deleted(&self, plan: &LeftPlan) -> bool {
        self.source.books() && !plan.other_file && !matches!(plan.state, PlanState::Deleting { .. })
    }

    /// Stored, and not deleted yet.
    fn delete_left(&mut self, plan: &LeftPlan, findings: &Findings, held: &mut [Vec<RowMark>], now: Instant) {
        let meta: Vec<RowMeta> = findings
            .there
            .iter()
            .map(|(at, rowid)| {
                let row = plan.rows[*at];
                let key = RowKey { rowid: *rowid, ..row.key };
                RowMeta {
                    key,
                    print: row.print,
                    record: Span::default(),
                    message: row.message,
                    event_id: Span::default(),
                }
            })
            .collect();
        hold(held, &meta);
        self.intake.held_rows += meta.len();
        let offset = match plan.state {
            PlanState::Acknowledged { offset } => offset,
            PlanState::Planned | PlanState::Deleting { .. } => -1,
        };
        let rows = Rows { bytes: Vec::new(), meta };
        if planted::is(Bug::SequencesFromTheStateFile) {
            let ix = self.intake.lane_of(&plan.target, plan.noted_offset, plan.leader_epoch);
            self.intake.lanes[ix as usize].inherit(plan.triple, plan.rows.len());
        }
        self.settling.acknowledged_before(Arc::new(plan_of(plan, rows)), offset, now);
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
        let mut rows = draft_in_order(draft);
        for (meta, (at, rowid)) in rows.meta.iter_mut().zip(&findings.there) {
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
        hold(held, &rows.meta);
        self.intake.held_rows += rows.len();
        self.intake.held_bytes += rows.bytes.len();
        // The leader knows the batch by the number of all its rows, whatever became of them since.
        let asked = Arc::new(plan_of(left, Rows { bytes: Vec::new(), meta: all_rows(left) }));
        let plan = Arc::new(plan_of(left, rows));
        self.plans.insert(plan.id, ix);
        let flight = Flight { unsure: true, next_epoch: highest_epoch.saturating_add(1), ..Flight::new(plan, now) };
        self.ask_about(&asked, ix, flight, Doubt::Left { whole: sought == Sought::Resend }, sought);
    }

    /// What became of the batch can't be told from answers alone: nothing is sent to its lane before the leader has said.
    pub(super) fn ask(&mut self, ix: u32, flight: Flight, doubt: Doubt, sought: Sought) {
        let plan = flight.plan.clone();
        self.ask_about(&plan, ix, flight, doubt, sought);
    }

    fn ask_about(&mut self, asked: &Arc<Plan>, ix: u32, flight: Flight, doubt: Doubt, sought: Sought) {
        self.sink.look_up(asked, sought);
        let lane = &mut self.intake.lanes[ix as usize];
        lane.standing = Standing::Asking;
        lane.flight = Some(Flight { phase: Phase::Asking, doubt: Some(doubt), ..flight });
        self.in_trouble(ix);
        self.reading.room();
    }

    /// Rows of a batch whose fate can't be proved are read again, and keep their message ids.
    fn send_anew(
        &mut self,
        plan: PlanId,
        run: crate::model::RunId,
        target: &Target,
        rows: Vec<(RowKey, Fingerprint, u64)>,
        why: &str,
    ) {
        if rows.is_empty() {
            self.settling.forget(plan);
            return;
        }
        self.count_unsure(&target.to_string(), rows.len(), why);
        self.recovery.again.insert(plan, rows.len());
        for (key, print, message) in rows {
            self.intake.resent.insert(key, Resent { print, run, message, plan });
        }
    }

    /// Some rows of this plan were in earlier ones: those are forgotten when all of their rows are in plans again.
    pub(super) fn planned_again(&mut self, plan: &Plan) {
        if self.intake.resent.is_empty() {
            return;
        }
        for meta in &plan.rows.meta {
            let known = self.intake.resent.get(&meta.key).filter(|resent| resent.print == meta.print);
            let Some(resent) = known.copied() else { continue };
            self.intake.resent.remove(&meta.key);
            let Some(left) = self.recovery.again.get_mut(&resent.plan) else { continue };
            *left -= 1;
            if *left == 0 {
                self.recovery.again.remove(&resent.plan);
                self.settling.forget(resent.plan);
            }
        }
    }

    pub(super) fn count_unsure(&mut self, subject: &str, rows: usize, why: &str) {
        if rows == 0 {
            return;
        }
        log::warn!("{subject}: {rows} rows are sent again and may be there twice (unsure): {why}");
        self.figures.unsure_rows.fetch_add(rows as u64, Relaxed);
        self.summary.unsure += rows as u64;
    }

    pub(super) fn is_bare(&self, meta: &[RowMeta]) -> bool {
        meta.iter().any(|meta| self.bare_outbox(meta.key.outbox))
    }

    /// A table that was never read may be anything.
    fn bare_outbox(&self, outbox: OutboxIx) -> bool {
        self.source.traits(outbox).is_none_or(|traits| traits.bare)
    }

    fn quarantine_left(&mut self, left: &Left, matching: &Matching) -> Vec<BTreeMap<i64, Aside>> {
        let mut aside: Vec<BTreeMap<i64, Aside>> = self.outboxes().map(|_| BTreeMap::new()).collect();
        for row in &left.quarantine {
            let at = usize::from(row.key.outbox.0);
            match matching.found.get(&(row.key, row.print)) {
                None => self.quarantine.release(row.key),
                Some(rowid) => {
                    let published = row.fault == Fault::Undeletable;
                    aside[at].insert(*rowid, Aside { print: row.print, published });
                    self.figures.outboxes[at].set_aside.fetch_add(1, Relaxed);
                    if *rowid != row.key.rowid {
                        self.quarantine.moved(row.key, RowKey { rowid: *rowid, ..row.key });
                    }
                }
            }
        }
        aside
    }

    pub(super) fn on_evidence(&mut self, plan: PlanId, evidence: Evidence, now: Instant) -> Result<(), Fatal> {
        let Some(ix) = self.plans.get(&plan).copied() else {
            return Err(Fatal(format!("the sink told of plan {}, which is not in flight", plan.0)));
        };
        let Some(flight) = self.intake.lanes[ix as usize].flight.take() else {
            return Err(Fatal(format!("the sink told of plan {} and its lane has nothing in flight", plan.0)));
        };
        if flight.plan.id != plan || flight.phase != Phase::Asking {
            return Err(Fatal(format!("the sink told of plan {} in phase {:?}", plan.0, flight.phase)));
        }
        let topic = self.intake.lanes[ix as usize].topic as usize;
        self.intake.topics[topic].trouble.over(now);
        log::info!(
            "{}: what became of a batch of {} rows (producer id {}, epoch {}, sequence {}): {}",
            flight.plan.target,
            flight.plan.rows.len(),
            flight.plan.triple.producer_id,
            flight.plan.triple.epoch,
            flight.plan.triple.first_sequence,
            in_words(&evidence)
        );
        if self.draining.is_some() && !matches!(evidence, Evidence::StoredAt(_)) {
            // The next start asks again.
            self.intake.lanes[ix as usize].flight = Some(flight);
            return Ok(());
        }
        self.intake.lanes[ix as usize].standing = Standing::Running;
        match evidence {
            Evidence::StoredAt(offset) => self.stored(ix, flight, offset, now, now),
            Evidence::Remembered if planted::is(Bug::DeleteOnTheLeadersMemory) => self.stored(ix, flight, -1, now, now),
            Evidence::Remembered => self.same_again(ix, flight),
            Evidence::Absent => self.not_there(ix, flight, None, now),
            Evidence::Incomplete(why) => self.not_there(ix, flight, Some(&why), now),
            Evidence::Forbidden(why) => {
                let age = self.clock.wall().duration_since(flight.plan.first_attempt).unwrap_or_default();
                // The same triple is dropped by a leader that still knows us.
                let known = flight.doubt == Some(Doubt::Left { whole: true }) && age < KNOWN_FOR;
                self.not_there(ix, flight, Some(&why).filter(|_| !known), now);
            }
            Evidence::PartitionGone(why) => self.partition_gone(ix, &flight, &why),
        }
        Ok(())
    }

    /// The same rows under the same triple.
    fn same_again(&mut self, ix: u32, flight: Flight) {
        self.waiting.push(ix);
        self.intake.lanes[ix as usize].flight =
            Some(Flight { phase: Phase::Unsent, out_of_sequence: 0, doubt: None, ..flight });
    }

    /// It was not found in the log. `doubt`: and that proves nothing.
    fn not_there(&mut self, ix: u32, flight: Flight, doubt: Option<&Why>, now: Instant) {
        let (target, rows) = (flight.plan.target.to_string(), flight.plan.rows.len());
        let because = |otherwise: &str| doubt.map_or_else(|| otherwise.to_owned(), ToString::to_string);
        match flight.doubt.clone() {
            Some(Doubt::Left { whole: true }) | None => {
                if let Some(why) = doubt {
                    self.count_unsure(&target, rows, &why.to_string());
                }
                self.same_again(ix, flight);
            }
            Some(Doubt::Left { whole: false }) => {
                self.count_unsure(
                    &target,
                    rows,
                    &because("the application changed or removed rows of the batch meanwhile"),
                );
                self.next_epoch(ix, flight);
            }
            Some(Doubt::OutOfSequence(answer)) => {
                self.count_unsure(&target, rows, &because(&answer.to_string()));
                self.next_epoch(ix, flight);
            }
            Some(Doubt::Rejected { why, records }) => {
                // Not stored before: now the rejection can be believed.
                self.count_unsure(&target, rows, &because("a record was rejected after an attempt without an answer"));
                self.rejected(ix, Flight { unsure: false, ..flight }, &why, records, now);
            }
        }
    }

    /// The rows in a batch of their own, one epoch higher: its append fences late copies of the old one.
    pub(super) fn next_epoch(&mut self, ix: u32, flight: Flight) {
        let Flight { plan, seen, next_epoch, disowned, .. } = flight;
        self.plans.remove(&plan.id);
        let (old, old_triple, run) = (plan.id, plan.triple, plan.run);
        let rows = take_rows(plan);
        let lane = &mut self.intake.lanes[ix as usize];
        if let Some(older) = lane.replacing.replace(old) {
            self.settling.forget(older);
        }
        let lane = &mut self.intake.lanes[ix as usize];
        let ours = lane.is_known_as(old_triple.producer_id);
        if ours || next_epoch > EPOCH_MAX {
            if ours {
                lane.bump_epoch();
                if !lane.has_identity() {
                    self.producer = Producer::Unknown;
                }
            }
            if disowned {
                self.drop_disowned(ix, rows);
                return;
            }
            lane.pieces.push_front(Batch { rows, run, seen });
            self.intake.make_ready(ix);
            return;
        }
        if disowned {
            self.drop_disowned(ix, rows);
            return;
        }
        // An earlier run's producer id: fenced by one epoch more, and used for nothing else.
        let triple = Triple { producer_id: old_triple.producer_id, epoch: next_epoch, first_sequence: 0 };
        let first_attempt = self.clock.wall();
        let plan = self.new_plan(ix, triple, run, first_attempt, rows);
        self.fly(ix, Flight::new(plan, seen));
    }

    /// There is nobody to ask and nowhere to send it: its rows are routed anew.
    fn partition_gone(&mut self, ix: u32, flight: &Flight, why: &Why) {
        let plan = flight.plan.clone();
        self.plans.remove(&plan.id);
        if flight.disowned {
            self.settling.forget(plan.id);
            self.intake.forget_rows(take_rows(plan));
            return;
        }
        let rows = plan.rows.meta.iter().map(|meta| (meta.key, meta.print, meta.message)).collect();
        self.send_anew(plan.id, plan.run, &plan.target, rows, &why.to_string());
        let lane = &mut self.intake.lanes[ix as usize];
        lane.trouble = false;
        self.intake.give_back_rows(ix, take_rows(plan));
        self.reading.room();
    }
}

impl Matching {
    /// Where the row is now, if it is there as it was.
    fn at(&self, meta: &RowMeta) -> Option<i64> {
        self.found.get(&(meta.key, meta.print)).copied()
    }
}

fn in_words(evidence: &Evidence) -> String {
    match evidence {
        Evidence::StoredAt(offset) => format!("it is stored at offset {offset}"),
        Evidence::Remembered => "its leader remembers our producer, so that the same batch is stored once".to_owned(),
        Evidence::Absent => "it is not in the log".to_owned(),
        Evidence::Incomplete(why) => format!("it was not found, and that is no proof: {why}"),
        Evidence::Forbidden(why) => format!("its leader can't be asked: {why}"),
        Evidence::PartitionGone(why) => format!("its partition is gone: {why}"),
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
fn all_rows(left: &LeftPlan) -> Vec<RowMeta> {
    let meta =
        |key, print, message| RowMeta { key, print, record: Span::default(), message, event_id: Span::default() };
    let mut rows: Vec<RowMeta> = left.rows.iter().map(|row| meta(row.key, row.print, row.message)).collect();
    let elsewhere = meta(RowKey { outbox: OutboxIx(u16::MAX), rowid: 0 }, Fingerprint(0), 0);
    rows.resize(left.rows.len() + left.rows_elsewhere, elsewhere);
    rows
}

fn plan_of(left: &LeftPlan, rows: Rows) -> Plan {
    Plan {
        id: left.id,
        target: left.target.clone(),
        triple: left.triple,
        run: left.run,
        noted_offset: left.noted_offset,
        leader_epoch: left.leader_epoch,
        first_attempt: left.first_attempt,
        rows: Arc::new(rows),
    }
}

/// The records in the batch's own order.
fn draft_in_order(draft: Draft) -> Rows {
    let mut order: Vec<usize> = (0..draft.places.len()).collect();
    if order.is_sorted_by_key(|at| draft.places[*at]) {
        return draft.rows;
    }
    order.sort_unstable_by_key(|at| draft.places[*at]);
    recut(&draft.rows, order)
}

fn hold(held: &mut [Vec<RowMark>], meta: &[RowMeta]) {
    for meta in meta {
        held[usize::from(meta.key.outbox.0)].push(RowMark { rowid: meta.key.rowid, print: meta.print });
    }
}

/// The plan with the rowids under which its rows are found now. A row that was not found keeps its old one: the guarded delete
/// finds it gone, or finds another row there and leaves it.
fn renumbered(plan: &Arc<Plan>, matching: &Matching) -> Arc<Plan> {
    let moved = plan.rows.meta.iter().any(|meta| matching.at(meta).is_some_and(|rowid| rowid != meta.key.rowid));
    if !moved {
        return plan.clone();
    }
    let mut meta = plan.rows.meta.clone();
    for meta in &mut meta {
        if let Some(rowid) = matching.at(meta) {
            meta.key.rowid = rowid;
        }
    }
    Arc::new(plan.with_rows(Rows { bytes: plan.rows.bytes.clone(), meta }))
}

/// What is said of the batches an earlier run left: one line for all of them, and one for each whose outcome is not plain.
#[derive(Debug, Default)]
struct Told {
    named: usize,
    batches: usize,
    rows: usize,
    forgotten: usize,
    deleted: usize,
    anew: usize,
    asked: usize,
}

impl Told {
    fn note(&mut self, database: &str, plan: &LeftPlan, findings: &Findings, verdict: Verdict) {
        self.batches += 1;
        self.rows += plan.rows.len();
        let (count, follows) = match verdict {
            Verdict::Forget => (&mut self.forgotten, "deleted already; what is in the table now is new"),
            Verdict::Delete => (&mut self.deleted, "stored by Kafka, deleted now"),
            Verdict::SendAnew => (&mut self.anew, "sent again with the same message ids"),
            Verdict::Ask(_) => (&mut self.asked, "its partition's leader is asked"),
        };
        *count += 1;
        let state = match plan.state {
            PlanState::Planned => "planned",
            PlanState::Acknowledged { .. } => "acknowledged",
            PlanState::Deleting { .. } => "deleting",
        };
        let plain = matches!(verdict, Verdict::Forget | Verdict::Delete) && state != "deleting";
        self.named += usize::from(!plain);
        let level = if plain || self.named > NAMED_MAX { log::Level::Debug } else { log::Level::Info };
        log::log!(
            level,
            "{database}: batch {} for {} (producer id {}, epoch {}, sequence {}), {state}, {} of its {} rows as they were: {follows}",
            plan.id.0,
            plan.target,
            plan.triple.producer_id,
            plan.triple.epoch,
            plan.triple.first_sequence,
            findings.there.len(),
            plan.rows.len(),
        );
    }

    fn end(&self, database: &str) {
        if self.batches == 0 {
            return;
        }
        log::warn!(
            "{database}: an earlier run left {} batches with {} rows in flight: {} stored and deleted now, {} deleted already, {} asked of \
             Kafka, {} sent again",
            self.batches,
            self.rows,
            self.deleted,
            self.forgotten,
            self.asked,
            self.anew
        );
    }
}
