//! What the sink answers, and what follows from it. Every branch of an outcome is decided here.
//!
//! Promises: only `Stored` leads to a delete (I2); broker trouble costs no row anything; after an unsure attempt nothing but
//! `Stored` moves the batch (I3). Does not know: error codes beyond the classes of [`Outcome`], SQL.

use super::breaker::{PROBE_EVERY, Size, Verdict, is_about_size};
use super::flight::{Doubt, Flight, Stage};
use super::intake::by_outbox;
use super::lanes::{Batch, Standing};
use super::ledger::Leaver;
use super::planted::{self, Bug};
use super::route::recut;
use super::{Fatal, Party, Producer, Relay};
use crate::model::{Fault, Outcome, Plan, PlanId, RowMark, RowMeta, Rows, SinkEvent, Why};
use crate::ports::{Clock, Journal, Sink, Source};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Answers 45, 47 or 59 in a row before the leader is asked what became of the batch: the first may come from one that is no longer
/// leader.
const OUT_OF_SEQUENCE_MAX: u32 = 5;
/// How long a lane waits after a refusal that people have to mend.
const REFUSED_RETRY: Duration = Duration::from_secs(5);
/// A batch size learned from rejections does not sink below this: single records decide then.
const LEARNED_BATCH_BYTES_MIN: usize = 16 << 10;
/// Kafka's CORRUPT_MESSAGE: bytes that were damaged on their way. So many times in a row for one batch they were not: Kafka 2.1 to 2.3
/// and some of its relatives say so of a record without a key on a compacted topic.
const CORRUPT_MESSAGE: i16 = 2;
const CORRUPT_MAX: u32 = 5;
/// Rows whose attempts are counted at once; beyond, counting starts again.
const ATTEMPTS_MAX: usize = 10_000;

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    pub(super) fn on_sink(&mut self, event: SinkEvent, now: Instant) -> Result<(), Fatal> {
        match event {
            SinkEvent::Producer { id, cluster } => {
                self.producer = Producer::Known(id);
                self.cluster = cluster;
                self.sink_troubles.over(now, Party::Producer);
                self.figures.sink_ready.store(true, Relaxed);
            }
            SinkEvent::NoProducer { why } => {
                self.sink_troubles.happened(now, Party::Producer, &"producer id", &why.text, &why.hint);
            }
            SinkEvent::Opened { topic, partitions } => self.opened(&topic, partitions, now),
            SinkEvent::NotOpened { topic, why } => {
                let ix = self.intake.topic(&topic);
                let name = format!("topic {topic}");
                self.sink_troubles.happened(now, Party::Topic(ix), &name, &why.text, &why.hint);
            }
            SinkEvent::Outcome { batch, outcome, at } => self.on_outcome(batch, outcome, at, now)?,
            SinkEvent::Evidence { batch, evidence } => self.on_evidence(batch, evidence, now)?,
            SinkEvent::NoEvidence { batch, why } => {
                if let Some(ix) = self.plans.get(&batch).copied() {
                    self.lane_trouble(ix, now, &why);
                }
            }
        }
        Ok(())
    }

    fn on_outcome(&mut self, plan: PlanId, outcome: Outcome, at: Instant, now: Instant) -> Result<(), Fatal> {
        let Some(ix) = self.plans.get(&plan).copied() else {
            return Err(Fatal(format!("the sink answered plan {}, which is not in flight", plan.0)));
        };
        if self.intake.lanes[ix as usize].unanswered == Some(plan) {
            let stored = if let Outcome::Stored { offset } = outcome { Some(offset) } else { None };
            self.answered_late(ix, plan, stored, now);
            return Ok(());
        }
        let Some(flight) = self.intake.lanes[ix as usize].flight.take() else {
            return Err(Fatal(format!("plan {} was answered and its lane has nothing in flight", plan.0)));
        };
        if flight.plan.id != plan || !matches!(flight.stage(), Stage::Sent { .. }) {
            return Err(Fatal(format!("plan {} was answered in stage {:?}", plan.0, flight.stage())));
        }
        let Some((mut flight, outcome)) = self.misled(ix, flight, outcome, now) else { return Ok(()) };
        match outcome {
            Outcome::Stored { offset } => self.stored(ix, flight, offset, at, now),
            Outcome::NotAppended(why) if why.code == Some(CORRUPT_MESSAGE) && flight.corrupt + 1 >= CORRUPT_MAX => {
                self.on_rejected(ix, flight, why, None, now);
            }
            Outcome::NotAppended(why) => {
                flight.corrupt = if why.code == Some(CORRUPT_MESSAGE) { flight.corrupt + 1 } else { 0 };
                self.figures.not_appended.fetch_add(1, Relaxed);
                if self.draining.is_some() && !flight.is_unsure() {
                    // No broker can have got it: it is not waited for, its rows stay in the table. That is no trouble of its broker's.
                    log::debug!("{}: {}; left for the next start", self.intake.lanes[ix as usize].target, why.text);
                    self.drop_flight(&flight);
                } else {
                    self.lane_trouble(ix, now, &why);
                    self.again(ix, flight, now);
                }
            }
            Outcome::Unsure(why) => {
                self.figures.unsure.fetch_add(1, Relaxed);
                self.lane_trouble(ix, now, &why);
                self.intake.lanes[ix as usize].trouble = true;
                flight.is_unsure_now();
                self.again(ix, flight, now);
            }
            Outcome::Refused(why) => self.refused(ix, flight, &why, now),
            Outcome::OutOfSequence(why) => {
                flight.out_of_sequence += 1;
                if flight.out_of_sequence >= OUT_OF_SEQUENCE_MAX {
                    self.lane_trouble(ix, now, &why);
                    self.ask(ix, flight, Doubt::OutOfSequence(why));
                } else {
                    self.lane_trouble(ix, now, &why);
                    self.intake.lanes[ix as usize].trouble = true;
                    self.again(ix, flight, now);
                }
            }
            Outcome::Rejected { why, records } => self.on_rejected(ix, flight, why, records, now),
        }
        Ok(())
    }

    /// A record of the batch is not taken.
    fn on_rejected(&mut self, ix: u32, flight: Flight, why: Why, records: Option<Vec<u32>>, now: Instant) {
        self.figures.rejected.fetch_add(1, Relaxed);
        let doubtful = flight.is_unsure() || flight.out_of_sequence > 0;
        if doubtful && !planted::is(Bug::QuarantineAfterUnsure) {
            // Validation comes before the duplicate check: a batch that was stored can be answered so.
            self.lane_trouble(ix, now, &why);
            self.ask(ix, flight, Doubt::Rejected { why, records });
        } else {
            self.rejected(ix, flight, &why, records, now);
        }
    }

    /// The topic was made again with fewer partitions than this lane's batch was made for: nobody will ever take it. What may have been
    /// stored is asked about, as after a crash; what was never sent goes back to the table and elsewhere.
    pub(super) fn stranded(&mut self, ix: u32) {
        let lane = &mut self.intake.lanes[ix as usize];
        // What is sent is answered first, what is asked about too.
        let Some(mut flight) = lane.flight.take_if(|flight| !flight.stage().is_out()) else { return };
        self.waiting.retain(|waiting| *waiting != ix);
        if flight.is_unsure() {
            self.ask(ix, flight, Doubt::Left { whole: true });
            return;
        }
        self.sink_troubles.forget(Party::Lane(ix));
        self.intake.well_again(&mut flight);
        let (stage, Flight { plan, again, .. }) = (flight.stage(), flight);
        let lane = &mut self.intake.lanes[ix as usize];
        lane.standing = Standing::Running;
        lane.trouble = false;
        self.plans.remove(&plan.id);
        if stage != Stage::Unrecorded {
            self.settling.forget(plan.id);
        }
        let run = plan.run;
        let rows = take_rows(plan);
        if again {
            self.intake.resends.keep_rows(&rows, run);
        }
        self.intake.give_back_rows(ix, rows);
    }

    fn lane_trouble(&mut self, ix: u32, now: Instant, why: &Why) {
        let target = &self.intake.lanes[ix as usize].target;
        self.sink_troubles.happened(now, Party::Lane(ix), target, &why.text, &why.hint);
    }

    /// The same rows under the same triple, later.
    pub(super) fn again(&mut self, ix: u32, mut flight: Flight, now: Instant) {
        let lane = &mut self.intake.lanes[ix as usize];
        let until = lane.backoff.next(now, &mut self.random);
        flight.failed(until);
        lane.flight = Some(flight);
        self.waiting.push(ix);
        self.intake.set_apart(ix);
        if self.intake.is_beyond(ix) {
            self.stranded(ix);
        }
    }

    pub(super) fn stored(&mut self, ix: u32, mut flight: Flight, offset: i64, at: Instant, now: Instant) {
        if flight.apart {
            self.reading.well(now);
        }
        self.intake.well_again(&mut flight);
        let rows = flight.plan.rows.len() as u64;
        // Of bytes that were given back only the uncompressed size is known; it is never smaller.
        let (made_of, sent) = flight.without().map_or_else(
            || (flight.plan.rows.bytes.len(), flight.plan.sent_bytes()),
            |digest| (digest.bytes, digest.bytes),
        );
        self.intake.forget_retried(&flight.plan.rows);
        self.plans.remove(&flight.plan.id);
        self.figures.commit_to_ack.observe(at.saturating_duration_since(flight.seen), rows);
        self.summary.published += rows;
        for (outbox, marks) in by_outbox(flight.plan.rows.known()) {
            self.figures.outboxes[usize::from(outbox.0)].published.fetch_add(marks.len() as u64, Relaxed);
        }
        let lane = &mut self.intake.lanes[ix as usize];
        lane.standing = Standing::Running;
        lane.trouble = false;
        lane.backoff.reset();
        lane.epochs_refused = 0;
        if offset >= 0 {
            lane.noted_offset = Some(offset + rows as i64);
        }
        let topic = lane.topic as usize;
        let plan = self.intake.without_bytes(flight.plan);
        self.settling.acknowledged(plan, offset, now);
        self.sink_troubles.over(now, Party::Lane(ix));
        self.intake.topics[topic].batch_was(made_of, sent);
        self.accepted(ix, sent, now);
        self.intake.make_ready(ix);
    }

    /// The lane's topic has taken a batch, of so many bytes at least as it was sent.
    pub(super) fn accepted(&mut self, ix: u32, sent: usize, now: Instant) {
        let topic = self.intake.lanes[ix as usize].topic as usize;
        let (condemned, reopened) = self.intake.topics[topic].breaker.accepted(ix, sent, now);
        for suspect in condemned {
            self.condemn(suspect.row, &suspect.why);
        }
        if reopened {
            log::warn!("topic {}: a record was accepted again; its lanes go on", self.intake.topics[topic].name);
        }
    }

    /// The topic, the clock or our permissions: every row is kept, the lane stops until a retry is accepted.
    fn refused(&mut self, ix: u32, mut flight: Flight, why: &Why, now: Instant) {
        self.figures.refused.fetch_add(1, Relaxed);
        self.lane_trouble(ix, now, why);
        if self.draining.is_some() && !flight.is_unsure() {
            self.drop_flight(&flight);
            return;
        }
        let lane = &mut self.intake.lanes[ix as usize];
        lane.standing = Standing::Refused;
        flight.failed(now + REFUSED_RETRY);
        lane.flight = Some(flight);
        self.waiting.push(ix);
        self.in_trouble(ix);
    }

    /// Before an end: nothing is waited for that no broker can have got. Its rows stay in the table.
    pub(super) fn drop_flight(&mut self, flight: &Flight) {
        self.plans.remove(&flight.plan.id);
        if flight.again && flight.stage() == Stage::Unrecorded {
            self.intake.resends.keep_rows(&flight.plan.rows, flight.plan.run);
        } else if flight.again {
            // Its rows may have been published in another batch: who starts next goes on with this one, and with its message ids.
            self.summary.left_in_flight += if self.draining.is_some() { flight.plan.rows.len() as u64 } else { 0 };
        } else if flight.stage() != Stage::Unrecorded {
            self.settling.forget(flight.plan.id);
        }
    }

    /// The broker rejects a record: find it, set it apart, send the others under the next epoch.
    pub(super) fn rejected(&mut self, ix: u32, flight: Flight, why: &Why, records: Option<Vec<u32>>, now: Instant) {
        let mut flight = flight;
        self.intake.well_again(&mut flight);
        let again = flight.again || flight.is_unsure();
        let Flight { plan, seen, .. } = flight;
        self.plans.remove(&plan.id);
        let (id, run, sent) = (plan.id, plan.run, plan.sent_bytes());
        let rows = take_rows(plan);
        let lane = &mut self.intake.lanes[ix as usize];
        // A rejection is an answer: whatever the lane was in trouble for is over.
        lane.standing = Standing::Running;
        lane.trouble = false;
        lane.backoff.reset();
        lane.bump_epoch();
        if !lane.has_identity() {
            self.producer = Producer::Unknown;
        }
        if let Some(older) = lane.replacing.replace(id) {
            self.settling.forget(older);
        }
        let topic = lane.topic as usize;
        if again {
            self.intake.resends.keep_rows(&rows, run);
        }
        let count = rows.len();
        // Positions outside the batch say nothing: as if none had been named.
        let records = records
            .map(|records| records.into_iter().filter(|at| (*at as usize) < count).collect::<Vec<u32>>())
            .filter(|records| !records.is_empty());
        // Rows that an operator sends again were rejected before: they say nothing of the topic.
        let retried = rows.meta.iter().all(|meta| self.intake.is_retried(meta.key, meta.print));
        let all = records.as_ref().is_some_and(|records| records.len() == count && count > 1) && !retried;
        let breaker = &self.intake.topics[topic].breaker;
        if planted::is(Bug::TopicQuarantinedForTheClock) {
            for at in 0..count {
                let row = recut(&rows, [at]);
                self.quarantine_suspect(&row, why, 1);
            }
            self.intake.forget_rows(rows);
            self.forget_replaced(ix);
            return;
        }
        if count == 1 && !retried && breaker.is_tripped_by(why.code) {
            let meta = rows.meta[0];
            self.intake.give_back_rows(ix, rows);
            self.forget_replaced(ix);
            self.intake.topics[topic].breaker.probed_in_vain(ix, &meta, size(&meta, sent, 1));
            return;
        }
        if all || (breaker.is_tripped() && count > 1) {
            self.intake.give_back_rows(ix, rows);
            self.trip(topic, why, now);
            return;
        }
        let rejected = Batch { rows, run, again, alone: false, seen };
        match records {
            None if count > 1 => self.split(ix, rejected, sent, why),
            _ => {
                let mut bad: Vec<usize> =
                    records.map_or_else(|| vec![0], |at| at.iter().map(|at| *at as usize).collect());
                bad.sort_unstable();
                bad.dedup();
                let (pieces, bad) = self.another_attempt(&rejected.rows, &bad);
                self.replace(ix, rejected, sent, &pieces, &bad, why, now);
            }
        }
    }

    /// The pieces that remain of a batch whose `bad` records were rejected, and those of them that have no attempt left. One that has
    /// goes again in its place and alone, so that order is kept.
    fn another_attempt(&mut self, rows: &Rows, bad: &[usize]) -> (Vec<Vec<usize>>, Vec<usize>) {
        let (mut pieces, mut piece, mut spent) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..rows.len() {
            if bad.binary_search(&at).is_err() {
                piece.push(at);
                continue;
            }
            let meta = rows.meta[at];
            let before = self.intake.attempts.get(&meta.key).filter(|(print, _)| *print == meta.print);
            let attempts = before.map_or(0, |(_, attempts)| *attempts) + 1;
            if attempts >= self.intake.outbox(meta.key.outbox).route.max_attempts {
                spent.push(at);
                continue;
            }
            if self.intake.attempts.len() >= ATTEMPTS_MAX {
                self.intake.attempts.clear();
            }
            self.intake.attempts.insert(meta.key, (meta.print, attempts));
            pieces.push(std::mem::take(&mut piece));
            pieces.push(vec![at]);
        }
        pieces.push(piece);
        (pieces, spent)
    }

    /// No record was named: halves are tried. `sent`: the batch's bytes as it was sent.
    fn split(&mut self, ix: u32, rejected: Batch, sent: usize, why: &Why) {
        let rows = &rejected.rows;
        let half = rows.len() / 2;
        if is_about_size(why.code) {
            let topic = self.intake.lanes[ix as usize].topic as usize;
            let learned = (sent / 2).max(LEARNED_BATCH_BYTES_MIN);
            let state = &mut self.intake.topics[topic];
            state.batch_was(rows.bytes.len(), sent);
            if learned < state.sent_bytes_max {
                state.sent_bytes_max = learned;
                log::info!("topic {}: batches of at most {learned} bytes from now on ({why})", state.name);
            }
        }
        let (first, second) = ((0..half).collect::<Vec<_>>(), (half..rows.len()).collect::<Vec<_>>());
        let now = self.clock.now();
        self.replace(ix, rejected, sent, &[first, second], &[], why, now);
    }

    /// The rejected batch becomes pieces, to be sent first and in order, and suspects. `sent`: its bytes as it was sent.
    #[allow(clippy::too_many_arguments)]
    fn replace(
        &mut self,
        ix: u32,
        rejected: Batch,
        sent: usize,
        pieces: &[Vec<usize>],
        bad: &[usize],
        why: &Why,
        now: Instant,
    ) {
        let Batch { rows, run, again, seen, .. } = rejected;
        let count = rows.len();
        let pieces: Vec<Rows> =
            pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| recut(&rows, piece.iter().copied())).collect();
        // A suspect is never sent as it is here: if it goes again, it is read again. Its bytes are others' to have.
        let suspects: Vec<Rows> = bad.iter().map(|at| Rows { bytes: Vec::new(), meta: vec![rows.meta[*at]] }).collect();
        for rows in pieces.iter().chain(&suspects) {
            self.intake.memory.take(rows.len(), rows.bytes.len());
        }
        self.intake.forget_rows(rows);
        let lane = &mut self.intake.lanes[ix as usize];
        for rows in pieces.into_iter().rev() {
            lane.pieces.push_front(Batch { rows, run, again, alone: false, seen });
        }
        let topic = lane.topic as usize;
        let named = Why { text: format!("{}: {}", lane.target, why.text), ..why.clone() };
        let mut trip = false;
        for row in suspects {
            let meta = row.meta[0];
            let breaker = &mut self.intake.topics[topic].breaker;
            let verdict = if self.intake.retried.get(&meta.key) == Some(&meta.print) {
                Verdict::Condemned
            } else {
                breaker.suspect(ix, &row, size(&meta, sent, count), &named, now)
            };
            match verdict {
                Verdict::Wait => {}
                Verdict::Condemned => self.condemn(row, &named),
                Verdict::Trip => trip = true,
            }
        }
        if trip {
            self.trip(topic, why, now);
            return;
        }
        self.intake.make_ready(ix);
        self.forget_replaced(ix);
    }

    /// A rejected plan whose lane has nothing to put in its place is simply forgotten.
    pub(super) fn forget_replaced(&mut self, ix: u32) {
        let lane = &mut self.intake.lanes[ix as usize];
        if !lane.has_rows()
            && let Some(old) = lane.replacing.take()
        {
            self.settling.forget(old);
        }
    }

    /// It is the topic or the clock: suspects and everything unsent go back to the table, one record is tried now and then.
    fn trip(&mut self, topic: usize, why: &Why, now: Instant) {
        let state = &mut self.intake.topics[topic];
        if !state.breaker.is_tripped() {
            log::error!(
                "topic {}: rejects everything: {why}. Nothing is set aside; its rows stay in the table and some are tried every {} s",
                state.name,
                PROBE_EVERY.as_secs()
            );
        }
        let lanes = &self.intake.lanes;
        for suspect in state.breaker.trip(why, now, |ix| lanes[ix as usize].has_flight()) {
            self.intake.give_back_rows(suspect.lane, suspect.row);
        }
        let lanes: Vec<u32> = self.intake.topics[topic].lanes.iter().flatten().copied().collect();
        for ix in lanes {
            self.intake.give_back(ix);
            self.forget_replaced(ix);
        }
    }

    /// Time-driven decisions of the breakers. Where their rows are has to be known.
    pub(super) fn breakers(&mut self, now: Instant) {
        if self.recovery.left.is_some() {
            return;
        }
        for topic in 0..self.intake.topics.len() {
            let lanes = &self.intake.lanes;
            for suspect in self.intake.topics[topic].breaker.undoubted(|ix| !lanes[ix as usize].is_idle()) {
                self.intake.give_back_rows(suspect.lane, suspect.row);
            }
            let breaker = &mut self.intake.topics[topic].breaker;
            if breaker.deadline().is_none_or(|at| now < at) {
                continue;
            }
            match breaker.believed(now) {
                Ok(suspects) => {
                    for suspect in suspects {
                        self.condemn(suspect.row, &suspect.why);
                    }
                }
                Err(why) => self.trip(topic, &why, now),
            }
            let state = &mut self.intake.topics[topic];
            if !state.breaker.probe_due(now) {
                continue;
            }
            let (lanes, outboxes) = (&self.intake.lanes, &self.intake.outboxes);
            let able = |ix: &u32| {
                let lane = &lanes[*ix as usize];
                lane.standing == Standing::Running
                    && lane.is_idle()
                    && outboxes.iter().any(|outbox| outbox.ledger.is_marked(Leaver::Lane(*ix)))
            };
            let mut able: Vec<u32> = state.lanes.iter().flatten().copied().filter(able).collect();
            able.sort_unstable();
            state.breaker.probe(&able);
        }
    }

    /// The record was rejected for its own fault.
    pub(super) fn condemn(&mut self, row: Rows, why: &Why) {
        let key = row.meta[0].key;
        let attempts = self.intake.outbox(key.outbox).route.max_attempts;
        self.quarantine_suspect(&row, why, attempts);
        self.intake.retried.remove(&key);
        self.intake.forget_rows(row);
    }

    fn quarantine_suspect(&mut self, row: &Rows, why: &Why, attempts: u32) {
        let meta = row.meta[0];
        let mark = RowMark { rowid: meta.key.rowid, print: meta.print };
        self.quarantine(meta.key, mark, Fault::Rejected, why, attempts);
    }
}

/// The size of a rejected record in a batch of `count`, of which so much was sent. In a batch with others its own share is not known; a
/// broker that rejects those for their size names none.
fn size(meta: &RowMeta, sent: usize, count: usize) -> Size {
    let made_of = meta.record.len as usize;
    Size { made_of, sent: if count == 1 { sent } else { made_of } }
}

/// The plan's rows, without a copy when nobody else holds them any more.
pub(super) fn take_rows(plan: Arc<Plan>) -> Rows {
    match Arc::try_unwrap(plan) {
        Ok(plan) => Arc::try_unwrap(plan.rows).unwrap_or_else(|rows| (*rows).clone()),
        Err(plan) => (*plan.rows).clone(),
    }
}
