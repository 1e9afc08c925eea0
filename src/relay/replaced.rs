//! While running: file or table were replaced, or whether a COMMIT happened is not known.
//!
//! Promises: nothing is deleted by a rowid that was read from another file; a planned row that is there again, under whatever rowid, is
//! not published a second time without being counted. Does not know: why it was replaced.

use super::intake::by_outbox;
use super::ledger::Aside;
use super::matching::{Cause, Columns, Matching};
use super::reading::RETRY_EVERY;
use super::settling::Errand;
use super::verdict::{Facts, Verdict};
use super::{Fatal, Relay};
use crate::model::{
    Another, Deletion, Fingerprint, OutboxIx, Plan, PlanId, PlanState, Resend, RowKey, RowMark, RowMeta, Rows,
};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// File or table are not what they were: what was collected is read again, what is planned or in quarantine is looked for.
    pub(super) fn replaced(&mut self, text: &str, another: Another, now: Instant) {
        log::warn!("{}: {text}; what is there now is read from the start", self.figures.database);
        self.doubt_waiting(&another);
        if let Some(mut left) = self.recovery.left.take() {
            self.doubt_left(&mut left, &another);
            self.recovery.left = Some(left);
            if another != Another::None {
                self.record(now);
            }
            self.begin_recovery(now);
            return;
        }
        if another != Another::None {
            // Before anything else: what looks like the rows of these batches is something else, for who comes after a crash as well.
            let plans = self.flying().chain(self.settling.plans());
            let plans = plans.filter(|plan| plan.rows.meta.iter().any(|meta| another.is(meta.key.outbox)));
            let plans: Vec<PlanId> = plans.map(|plan| plan.id).collect();
            for plan in plans {
                self.settling.doubt(plan);
            }
            // If it can't be written now, it is with the next plan.
            self.record(now);
        }
        // What an unfinished search was for is not forgotten.
        let (before, mut doubtful) = match self.reading.matching.take().map(|matching| matching.cause) {
            Some(Cause::Replaced { another, doubtful }) => (another, doubtful),
            Some(Cause::CommitUnknown { plans, .. }) => (Another::None, plans),
            Some(Cause::Start | Cause::Back(_)) | None => (Another::None, Vec::new()),
        };
        doubtful.extend(self.settling.take_doubts());
        self.look_for_planned(Cause::Replaced { another: another.or(before), doubtful }, now);
        for outbox in &mut self.intake.outboxes {
            outbox.noted = None;
        }
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
            for (key, print) in plan.rows.known() {
                matching.seek(key, print);
            }
        }
        for (key, print) in self.settling.errands().flat_map(|errand| errand.rows.iter()) {
            matching.seek(*key, *print);
        }
        for (key, resend) in self.intake.resends.iter() {
            matching.seek(key, resend.print);
        }
        for (at, outbox) in self.intake.outboxes.iter_mut().enumerate() {
            let outbox_ix = OutboxIx(at as u16);
            for (rowid, aside) in outbox.ledger.asides(i64::MIN) {
                matching.seek(RowKey { outbox: outbox_ix, rowid }, aside.print);
            }
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

    /// Every row was looked for.
    pub(super) fn matched(&mut self, now: Instant) -> Result<(), Fatal> {
        let Some(mut matching) = self.reading.matching.take() else { return Ok(()) };
        self.reading.origin = self.source.origin();
        match std::mem::replace(&mut matching.cause, Cause::Start) {
            Cause::Start => self.judge_left(matching, None, now)?,
            Cause::Back(ix) => self.came_back(ix, matching, now)?,
            Cause::Replaced { another, doubtful } => {
                // A batch rejected meanwhile left rows under the rowids they had.
                self.forget_unplanned();
                let total = matching.sought();
                log::info!("{}: {} of {total} rows were found again", self.figures.database, matching.found.len());
                for outbox in self.outboxes().filter(|outbox| another.is(*outbox)) {
                    matching.away[usize::from(outbox.0)] = false;
                }
                self.go_on(&matching, &another, &doubtful, now);
            }
            Cause::CommitUnknown { delete, plans } => self.settle_unknown(&matching, delete, plans, now),
        }
        Ok(())
    }

    /// While running: flights, acknowledged plans and suspects learn where their rows are now.
    fn go_on(&mut self, matching: &Matching, another: &Another, doubtful: &[PlanId], now: Instant) {
        let mut held: Vec<Vec<RowMark>> = self.outboxes().map(|_| Vec::new()).collect();
        let (mut disowned, mut unlike) = (Vec::new(), 0);
        let lost = self.outboxes().filter(|outbox| another.is(*outbox) && self.comes_back(*outbox, true));
        let lost: Vec<OutboxIx> = lost.collect();
        for ix in 0..self.intake.lanes.len() {
            let Some(mut flight) = self.intake.lanes[ix].flight.take() else { continue };
            // In another table rows that look alike may be other rows, and so may those of which only what was sent tells, where rows
            // can come back alike: sent again, and nothing is deleted of them for this batch.
            let alike: Vec<OutboxIx> = Self::resembling(&flight.plan, matching).collect();
            let is_lost = |outbox| lost.contains(&outbox) || alike.contains(&outbox);
            if !alike.is_empty() {
                // It may be recorded, or recorded again, with the fingerprints of now: so that they are proof to nobody.
                self.settling.doubt(flight.plan.id);
            }
            for meta in flight.plan.rows.meta.iter().filter(|meta| is_lost(meta.key.outbox)) {
                if !flight.disowned.contains(&meta.key.outbox) {
                    flight.disowned.push(meta.key.outbox);
                }
                disowned.extend(goes_again(&flight.plan, meta, matching));
            }
            unlike += self.unlike_rows(flight.plan.rows.known(), matching);
            flight.plan = renumbered(&flight.plan, matching);
            let ours = flight.plan.rows.meta.iter().filter(|meta| !flight.disowned.contains(&meta.key.outbox));
            hold(&mut held, ours.map(|meta| (meta.key, meta.print)));
            self.intake.lanes[ix].flight = Some(flight);
        }
        for topic in 0..self.intake.topics.len() {
            for suspect in self.intake.topics[topic].breaker.renumber(|meta| matching.now(meta)) {
                self.intake.forget_rows(suspect.row);
            }
            for suspect in self.intake.topics[topic].breaker.suspects() {
                hold(&mut held, suspect.row.known());
            }
        }
        for errand in self.settling.take_errands() {
            if errand.rows.iter().any(|(key, _)| lost.contains(&key.outbox)) {
                // What they were about is gone with the file.
                let gone = errand.rows.iter().map(|(key, _)| *key).collect();
                self.errand_done(&errand, &Deletion { gone, ..Deletion::default() });
                continue;
            }
            let errand = relocated(errand, matching);
            hold(&mut held, errand.rows.iter().copied());
            self.settling.errand(errand, now);
        }
        self.intake.resends.renumber(|key, resend| matching.now_at(key, resend.print));
        for (plan, offset) in self.settling.take_acknowledged() {
            // A delete of it may have been committed: as if in another file, a row of a bare table that looks alike may be new.
            let doubtful = doubtful.contains(&plan.id);
            unlike += self.unlike_rows(plan.rows.known(), matching);
            let plan = self.without_lost(plan, &lost, matching, doubtful, &mut disowned);
            let facts = self.facts_of(&plan, matching, PlanState::Acknowledged { offset }, another);
            // None was: whatever the application has done to some of its rows, what is there of the others was sent.
            let facts = Facts {
                continuous: facts.continuous && !doubtful,
                delete_whole: facts.delete_whole || !doubtful,
                ..facts
            };
            match facts.verdict() {
                Verdict::Delete => {
                    let plan = renumbered(&plan, matching);
                    hold(&mut held, plan.rows.known());
                    self.settling.acknowledged(plan, offset, now);
                }
                verdict => {
                    let why = "file or table are others, and its rows can come back alike";
                    self.settling.leave_noted(plan.id);
                    self.not_deleted(&plan, matching, verdict, why);
                }
            }
        }
        let why = "file or table are others, and its rows can come back alike";
        self.count_unsure(&self.figures.database.clone(), disowned.len(), why);
        self.count_unlike(unlike);
        for (key, resend) in disowned {
            self.intake.resends.keep(key, resend);
        }
        let aside = self.aside_again(matching, another);
        for (outbox, (held, aside)) in self.intake.outboxes.iter_mut().zip(held.into_iter().zip(aside)) {
            outbox.restart(held, aside);
        }
        for outbox in self.outboxes().filter(|outbox| !self.recovery.waiting.contains(*outbox)).collect::<Vec<_>>() {
            self.made_anew(outbox, matching, lost.contains(&outbox));
        }
    }

    /// Whatever is held of the outbox has the fingerprints that its rows have now. The state file learns what they are made of with the
    /// fingerprints themselves. `lost`: nothing is held of a table that was.
    pub(super) fn made_anew(&mut self, ix: OutboxIx, matching: &Matching, lost: bool) {
        let at = usize::from(ix.0);
        let there = self.source.traits(ix).filter(|_| !matching.away[at]).cloned();
        let outbox = &mut self.intake.outboxes[at];
        match there {
            Some(traits) if outbox.made_of.as_ref().is_some_and(|then| *then != traits.guard) => {
                outbox.made_of = Some(traits.guard.clone());
                // What a drain has dropped stays in the state file as it was, and so does what tells it from the rows of now.
                if self.draining.is_none() {
                    outbox.noted = Some(traits.clone());
                    self.quarantine.table(ix, traits);
                }
            }
            None if lost => outbox.made_of = None,
            _ => {}
        }
    }

    /// How many of these rows of a plan are no more what they were because nothing tells what they were: they go again as new.
    pub(super) fn unlike_rows(&self, rows: impl Iterator<Item = (RowKey, Fingerprint)>, matching: &Matching) -> usize {
        let unlike = |(key, print): &(RowKey, Fingerprint)| {
            !matching.found.contains_key(&(*key, *print)) && self.is_unlike(*key, matching)
        };
        rows.filter(unlike).count()
    }

    /// Whether what lies under this rowid can't be compared with what did.
    pub(super) fn is_unlike(&self, key: RowKey, matching: &Matching) -> bool {
        matching.others.contains(&key) && self.columns_of(key.outbox) == Columns::Unlike
    }

    pub(super) fn count_unlike(&mut self, rows: usize) {
        let why =
            "their table has lost a column, and what was sent of them can't be compared; their message ids are new";
        self.count_unsure(&self.figures.database.clone(), rows, why);
    }

    /// The plan with its rows of other tables alone, if it has any. Those of tables that are no more are sent again: all or none of them,
    /// where a delete may have been committed.
    fn without_lost(
        &mut self,
        plan: Arc<Plan>,
        lost: &[OutboxIx],
        matching: &Matching,
        doubtful: bool,
        again: &mut Vec<(RowKey, Resend)>,
    ) -> Arc<Plan> {
        let is_lost = |meta: &&RowMeta| lost.contains(&meta.key.outbox);
        let rows = &plan.rows.meta;
        let gone = rows.iter().filter(is_lost).count();
        if gone == 0 || gone == rows.len() {
            return plan;
        }
        let now: Vec<_> = rows.iter().filter(is_lost).filter_map(|meta| goes_again(&plan, meta, matching)).collect();
        if !doubtful || now.len() == gone {
            again.extend(now);
        }
        self.intake.memory.give(gone, 0);
        let rest = rows.iter().filter(|meta| !is_lost(meta)).copied().collect();
        Arc::new(plan.with_rows(Rows { bytes: Vec::new(), meta: rest }))
    }

    fn facts_of(&self, plan: &Plan, matching: &Matching, state: PlanState, another: &Another) -> Facts {
        let there = plan.rows.meta.iter().filter(|meta| matching.now(meta).is_some()).count();
        let comes_back = |meta: &RowMeta| self.comes_back(meta.key.outbox, another.is(meta.key.outbox));
        // Only a row that was looked at: one of a table that is away counts as there, and proves nothing.
        let disproved = |meta: &RowMeta| matching.found.contains_key(&(meta.key, meta.print)) && !comes_back(meta);
        Facts {
            state,
            whole: there == plan.rows.len(),
            none: there == 0,
            bare: plan.rows.meta.iter().any(comes_back),
            continuous: !plan.rows.meta.iter().any(|meta| another.is(meta.key.outbox)),
            booked: None,
            delete_whole: there == plan.rows.len(),
            delete_disproved: plan.rows.meta.iter().any(disproved),
            resembles: Self::resembling(plan, matching).next().is_some(),
        }
    }

    /// The outbox of each row of the plan that is known by what was sent of it alone.
    fn resembling<'a>(plan: &'a Plan, matching: &'a Matching) -> impl Iterator<Item = OutboxIx> + 'a {
        let resembles = |meta: &&RowMeta| matching.now(meta).is_some_and(|(_, print)| print != meta.print);
        plan.rows.meta.iter().filter(resembles).map(|meta| meta.key.outbox)
    }

    /// An acknowledged plan whose rows are not to be deleted any more.
    fn not_deleted(&mut self, plan: &Plan, matching: &Matching, verdict: Verdict, why: &str) {
        self.intake.memory.give(plan.rows.len(), 0);
        if verdict == Verdict::SendAnew {
            let rows = plan.rows.meta.iter().filter_map(|meta| {
                let (key, resend) = goes_again(plan, meta, matching)?;
                Some((key, resend.print, resend.message))
            });
            self.send_anew(plan.id, plan.run, &plan.target, rows.collect(), why);
        } else {
            self.settling.forget(plan.id);
        }
    }

    /// Whether the delete happened shows in its rows, or in what the database itself says.
    fn settle_unknown(&mut self, matching: &Matching, delete: u64, doubtful: Vec<PlanId>, now: Instant) {
        let answer = self.source.at_disk().booked();
        let booked = match answer {
            Ok(booked) => booked,
            Err(error) => {
                self.commit_unknown(delete, doubtful, now);
                if let SourceError::Replaced { text, another } = error {
                    // Said once, to whoever asks first.
                    self.replaced(&text, another, now);
                    return;
                }
                if let Some(matching) = &mut self.reading.matching {
                    matching.not_before = now + RETRY_EVERY;
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
            .map(|plan| (plan.id, self.facts_of(&plan, matching, state, &Another::None)))
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
                Some(Verdict::SendAnew) if self.settling.doubts.waits() => {
                    self.settling.wait_in_doubt(plan, offset, delete, now);
                }
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
        for (ix, marks) in by_outbox(plan.rows.known()) {
            let rowids: Vec<i64> = marks.iter().map(|mark| mark.rowid).collect();
            self.intake.outbox(ix).ledger.let_go(&rowids);
        }
    }

    /// The quarantine where it is now; what is no longer there is released.
    ///
    /// In another file a row that looks like one that was published may be another event, and would never be sent; in a table whose
    /// rows can come back alike so may one of which only what was sent tells.
    fn aside_again(&mut self, matching: &Matching, another: &Another) -> Vec<BTreeMap<i64, Aside>> {
        let mut again = Vec::with_capacity(self.intake.outboxes.len());
        let mut doubled = 0;
        for at in 0..self.intake.outboxes.len() {
            let outbox = OutboxIx(at as u16);
            let mut rows = BTreeMap::new();
            let before: Vec<(i64, Aside)> = self.intake.outboxes[at].ledger.asides(i64::MIN).collect();
            for (rowid, aside) in before {
                let key = RowKey { outbox, rowid };
                match matching.now_at(key, aside.print) {
                    Some((_, print)) if aside.published && (another.is(outbox) || print != aside.print) => {
                        self.quarantine.release(key);
                        doubled += 1;
                    }
                    Some(now) => {
                        rows.insert(now.0, Aside { print: now.1, ..aside });
                        if now != (rowid, aside.print) {
                            self.quarantine.moved(key, now.0, now.1);
                        }
                    }
                    None => {
                        doubled += usize::from(aside.published && self.is_unlike(key, matching));
                        self.quarantine.release(key);
                    }
                }
            }
            again.push(rows);
        }
        self.count_kept(doubled);
        again
    }

    pub(super) fn count_kept(&mut self, rows: usize) {
        let why = "they could not be deleted, and file, table or columns are others; their message ids are new";
        self.count_unsure(&self.figures.database.clone(), rows, why);
    }
}

impl Matching {
    /// Where the row is now and under which fingerprint, if it is there as it was.
    fn now(&self, meta: &RowMeta) -> Option<(i64, Fingerprint)> {
        self.now_at(meta.key, meta.print)
    }
}

/// Where a plan's row is now, if it is there, and as what it is sent again.
fn goes_again(plan: &Plan, meta: &RowMeta, matching: &Matching) -> Option<(RowKey, Resend)> {
    let (rowid, print) = matching.now(meta)?;
    Some((RowKey { rowid, ..meta.key }, Resend { print, run: plan.run, message: meta.message }))
}

pub(super) fn hold(held: &mut [Vec<RowMark>], rows: impl IntoIterator<Item = (RowKey, Fingerprint)>) {
    for (RowKey { outbox, rowid }, print) in rows {
        held[usize::from(outbox.0)].push(RowMark { rowid, print });
    }
}

/// The errand with the rowids under which its rows are found now. What an operator has seen is not what is there now, if only what was
/// sent of it is: such an errand stays as it is.
fn relocated(errand: Errand, matching: &Matching) -> Errand {
    let now = |(key, print): (RowKey, Fingerprint)| matching.now_at(key, print);
    if errand.rows.iter().any(|row| now(*row).is_some_and(|(_, print)| print != row.1)) {
        return errand;
    }
    let to = |(key, print)| now((key, print)).map_or(key, |(rowid, _)| RowKey { rowid, ..key });
    let published = errand.rows.iter().filter(|(key, _)| errand.published.contains(key)).map(|row| to(*row)).collect();
    let rows = errand.rows.iter().map(|row| (to(*row), row.1)).collect();
    Errand { rows, published, ..errand }
}

/// The plan with the rowids and fingerprints under which its rows are found now. A row that was not found keeps its old ones: the
/// guarded delete finds it gone, or finds another row there and leaves it.
fn renumbered(plan: &Arc<Plan>, matching: &Matching) -> Arc<Plan> {
    let is_other = |meta: &RowMeta| matching.now(meta).is_some_and(|now| now != (meta.key.rowid, meta.print));
    if !plan.rows.meta.iter().any(is_other) {
        return plan.clone();
    }
    let mut meta = plan.rows.meta.clone();
    for meta in &mut meta {
        if let Some(now) = matching.now(meta) {
            (meta.key.rowid, meta.print) = now;
        }
    }
    Arc::new(plan.with_rows(Rows { bytes: plan.rows.bytes.clone(), meta }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operator_named_keeps_what_is_known_of_it_under_its_new_rowid() {
        let key = |rowid| RowKey { outbox: OutboxIx(0), rowid };
        let rows = [(key(5), Fingerprint(1)), (key(7), Fingerprint(2)), (key(9), Fingerprint(3))];
        let errand = Errand { request: 1, rows: rows.into(), published: [key(7)].into() };
        let mut matching = Matching::new(Cause::Start, 1, Instant::now());
        matching.found.insert(rows[0], (1, Fingerprint(1)));
        matching.found.insert(rows[1], (2, Fingerprint(2)));
        let now = relocated(errand.clone(), &matching);
        assert_eq!(*now.rows, [(key(1), Fingerprint(1)), (key(2), Fingerprint(2)), rows[2]]);
        assert_eq!(now.published, [key(2)].into());
        matching.found.insert(rows[2], (3, Fingerprint(4)));
        assert_eq!(*relocated(errand, &matching).rows, rows, "only what was sent of one of them is there");
    }
}
