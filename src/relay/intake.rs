//! Taking rows: from a look's row to a record in a lane's buffer, or the reason why it stays in the table for now.
//!
//! Promises: bounded memory, rows and bytes, whatever the backlog and however many lanes are stopped; records of one key and one
//! table enter a lane in rowid order. Does not know: when looks happen, how batches are sent.

mod giving_back;
mod outbox;
mod questions;
mod topics;

use super::Limits;
use super::breaker::Size;
use super::lanes::{Batch, Lane};
use super::ledger::{Known, Leaver, Obstacle, Wanted};
use super::memory::Memory;
use super::resends::Resends;
use super::route::{self, Encoder, Route, Unroutable};
use crate::model::{
    Fingerprint, Flow, OutboxIx, Plan, RowKey, RowMark, RowView, Rows, RunId, Topic, Unreadable, Why, field,
};
pub use outbox::{Behind, Outbox};
use outboxd_kafka::compression::Compressor;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;
pub use topics::TopicState;

/// So often a look asks whether it is worth going on.
const ASK_EVERY_ROWS: usize = 64;
/// A buffer grows in steps of this, not by doubling: with several lanes, half of the daemon's memory would be unused capacity.
const BUFFER_STEP_BYTES: usize = 64 << 10;

/// Why a row is set aside without being sent.
#[derive(Debug)]
pub enum Unsendable {
    Unroutable(Unroutable),
    /// It was rejected, or left out for its size, while its topic was stopped, and one of its key behind it is published.
    Overtaken(Why),
}

/// What became of a row that a look came to.
#[derive(Debug)]
enum Place {
    Lane(u32),
    Leave(Leaver, Option<Obstacle>),
    /// Another row of this lane is to be tried.
    Skip(u32),
    Stop(Obstacle),
    Unsendable(Unsendable),
}

fn unroutable(reason: Unroutable) -> Place {
    Place::Unsendable(Unsendable::Unroutable(reason))
}

/// The part of the relay that looks feed.
#[derive(Debug)]
pub struct Intake {
    pub outboxes: Vec<Outbox>,
    pub topics: Vec<TopicState>,
    topic_index: HashMap<Topic, u32>,
    pub lanes: Vec<Lane>,
    pub limits: Limits,
    pub memory: Memory,
    /// Rows ever taken.
    pub taken: u64,
    /// Topics to ask the sink for.
    pub to_open: Vec<Topic>,
    /// Lanes with rows and nothing in flight.
    pub ready: Vec<u32>,
    /// Rows set aside since the relay last looked, to be logged and counted.
    pub unsendable: Vec<(OutboxIx, RowMark, Unsendable)>,
    pub resends: Resends,
    /// Rows that were rejected and have attempts left: how many were made.
    pub attempts: HashMap<RowKey, (Fingerprint, u32)>,
    /// Rows that an operator sends again.
    pub retried: HashMap<RowKey, Fingerprint>,
    /// By outbox and lane: the first and the last row that was passed over for another one to be tried.
    skipped: BTreeMap<(OutboxIx, u32), (RowMark, RowMark)>,
    pub encoder: Encoder,
    /// For questions about a record's size; what is sent its sender compresses.
    compressor: Compressor,
    pub run: RunId,
    /// Whether anybody gives back memory soon, as of this time.
    soon: Cell<Option<(Instant, bool)>>,
    /// The row that the running look stopped at, and what was in its way; with nothing there, nobody wanted it.
    pub stopped: Option<(i64, Option<Obstacle>)>,
    /// Rows come to, to ask now and then whether it is worth going on.
    come_to: usize,
    /// The running look ended because nobody has an eye on what is left below the cursor.
    pub jumps: bool,
    spare: Vec<Vec<u8>>,
    name: String,
    random: fastrand::Rng,
}

impl Intake {
    pub fn new(run: RunId, routes: Vec<Route>, limits: Limits, random: fastrand::Rng) -> Self {
        Intake {
            outboxes: routes.into_iter().map(Outbox::new).collect(),
            topics: Vec::new(),
            topic_index: HashMap::new(),
            lanes: Vec::new(),
            limits,
            memory: Memory::new(limits.held_rows_max, limits.held_bytes_max),
            soon: Cell::new(None),
            stopped: None,
            come_to: 0,
            jumps: false,
            taken: 0,
            to_open: Vec::new(),
            ready: Vec::new(),
            unsendable: Vec::new(),
            resends: Resends::default(),
            attempts: HashMap::new(),
            retried: HashMap::new(),
            skipped: BTreeMap::new(),
            encoder: Encoder::new(run),
            compressor: Compressor::new(limits.compression),
            run,
            spare: Vec::new(),
            name: String::new(),
            random,
        }
    }

    /// The relay starts again: nothing is held, and every row is found out about anew. What is known of topics, partitions and brokers
    /// stays.
    /// True: a lane needs a new producer id.
    pub fn start_again(&mut self) -> bool {
        let used_up = self.lanes.iter_mut().fold(false, |used_up, lane| lane.start_again() | used_up);
        for outbox in &mut self.outboxes {
            outbox.noted = None;
        }
        self.memory = Memory::new(self.limits.held_rows_max, self.limits.held_bytes_max);
        let suspects = self.topics.iter().map(|topic| topic.breaker.suspects().len());
        self.memory.take(suspects.sum(), 0);
        self.soon.set(None);
        self.stopped = None;
        self.jumps = false;
        self.ready.clear();
        self.unsendable.clear();
        self.resends = Resends::default();
        self.skipped.clear();
        used_up
    }

    pub fn outbox(&mut self, ix: OutboxIx) -> &mut Outbox {
        &mut self.outboxes[usize::from(ix.0)]
    }

    /// Takes one row of a look, or says why not. `seen`: when its commit was noticed.
    pub fn take(&mut self, ix: OutboxIx, row: &RowView<'_>, seen: Instant, now: Instant) -> Flow {
        self.come_to += 1;
        if self.come_to.is_multiple_of(ASK_EVERY_ROWS) && !self.goes_on(ix, row.rowid) {
            return Flow::Stop;
        }
        let mark = RowMark { rowid: row.rowid, print: row.print };
        let mut known = self.outbox(ix).ledger.recognise(row);
        if known == Known::Rewritten && self.withdraw_suspect(RowKey { outbox: ix, rowid: row.rowid }) {
            known = Known::New;
        }
        let place = match known {
            Known::Passed => {
                self.outbox(ix).ledger.came_to(mark);
                return Flow::Continue;
            }
            Known::New => self.place(ix, row, now),
            Known::Rewritten => match self.place(ix, row, now) {
                Place::Lane(lane) => Place::Leave(Leaver::Lane(lane), Some(Obstacle::Held(row.rowid))),
                Place::Unsendable(_) => {
                    // It is met again when the version on its way was dealt with. Set aside now, a third version would be
                    // held twice under one rowid.
                    self.outbox(ix).ledger.came_to(mark);
                    return Flow::Continue;
                }
                place => place,
            },
        };
        match place {
            Place::Stop(obstacle) => {
                self.stopped = Some((row.rowid, Some(obstacle)));
                return Flow::Stop;
            }
            Place::Skip(lane) => {
                self.skipped.entry((ix, lane)).and_modify(|(_, last)| *last = mark).or_insert((mark, mark));
            }
            Place::Leave(leaver, obstacle) => {
                let outbox = self.outbox(ix);
                outbox.behind_since.get_or_insert(seen);
                outbox.ledger.leave(leaver, mark, obstacle);
            }
            Place::Unsendable(reason) => {
                if self.outbox(ix).paused {
                    return Flow::Stop;
                }
                self.outbox(ix).set_aside(mark, false);
                self.unsendable.push((ix, mark, reason));
            }
            Place::Lane(lane) => self.put(ix, lane, row, seen),
        }
        self.outbox(ix).ledger.came_to(mark);
        Flow::Continue
    }

    /// What was rejected under this rowid is there no longer: whose fault it was is nobody's question any more, and what took its place
    /// need not wait for the answer.
    fn withdraw_suspect(&mut self, key: RowKey) -> bool {
        let Some(suspect) = self.topics.iter_mut().find_map(|topic| topic.breaker.withdraw(key)) else { return false };
        self.outbox(key.outbox).ledger.forget_held(key.rowid);
        self.forget_rows(suspect.row);
        true
    }

    /// Whether the look may still find something for somebody. Reading a whole backlog to leave it in the table is of no use.
    fn goes_on(&mut self, ix: OutboxIx, rowid: i64) -> bool {
        let ledger = &self.outboxes[usize::from(ix.0)].ledger;
        if ledger.cursor().is_some_and(|cursor| rowid <= cursor.rowid) {
            self.jumps = ledger.is_done_below(rowid);
            return !self.jumps;
        }
        let goes_on = self.has_takers(ix, true);
        if !goes_on {
            self.stopped = Some((rowid, None));
        }
        goes_on
    }

    /// The message id of a row that goes again, if this is one.
    fn resent_as(&self, ix: OutboxIx, row: &RowView<'_>) -> Option<(RunId, u64)> {
        if self.resends.is_empty() {
            return None;
        }
        self.resends.of(RowKey { outbox: ix, rowid: row.rowid }, row.print)
    }

    fn place(&mut self, ix: OutboxIx, row: &RowView<'_>, now: Instant) -> Place {
        match row.unreadable {
            None => {}
            Some(Unreadable::TooLarge { bytes }) => {
                return unroutable(Unroutable::TooLarge { bytes: *bytes, max: self.limits.record_bytes_max });
            }
            Some(Unreadable::Failed(text)) => return unroutable(Unroutable::Unreadable(text.clone())),
        }
        let topic = match self.topic_for(ix, row) {
            Ok(topic) => topic,
            Err(reason) => return unroutable(reason),
        };
        let outbox = &self.outboxes[usize::from(ix.0)];
        if outbox.route.event_id && row.fields[field::EVENT_ID].is_none() {
            return unroutable(Unroutable::EventIdNull);
        }
        let bytes = outbox.route.record_bytes_bound(row);
        if bytes > self.limits.record_bytes_max {
            return unroutable(Unroutable::TooLarge { bytes: bytes as u64, max: self.limits.record_bytes_max });
        }
        let state = &self.topics[topic as usize];
        if !state.is_open() {
            return Place::Leave(Leaver::Topic(topic), None);
        }
        if outbox.ledger.is_marked(Leaver::Topic(topic)) {
            return Place::Leave(Leaver::Topic(topic), None);
        }
        let count = state.starts.len() as i32;
        let partition = route::partition(row, count).unwrap_or_else(|| self.partition_for_null(ix, topic, count));
        let lane = self.lane(topic, partition);
        if self.outboxes[usize::from(ix.0)].ledger.is_marked(Leaver::Lane(lane)) {
            return Place::Leave(Leaver::Lane(lane), None);
        }
        // Its topic has opened between two looks, and what they passed over for another one to be tried lies before it.
        if !self.skipped.is_empty()
            && !self.topics[topic as usize].breaker.is_tripped()
            && self.skipped.contains_key(&(ix, lane))
        {
            return Place::Leave(Leaver::Lane(lane), None);
        }
        let key = RowKey { outbox: ix, rowid: row.rowid };
        let alone = self.is_retried(key, row.print);
        let is_tried = self.topics[topic as usize].breaker.is_tripped() && self.takes(lane);
        let breaker = &self.topics[topic as usize].breaker;
        let route = &self.outboxes[usize::from(ix.0)].route;
        let mut is_below = |limit: Size| {
            let record = self.encoder.record(ix, route, row);
            // Only what the first count leaves open is worth the second.
            record.len() < limit.made_of || self.compressor.sent_bytes(&record) < limit.sent
        };
        if !alone
            && let Some(why) = breaker.trials().overtaken(lane, (key, row.print), row.fields[field::KEY], &mut is_below)
        {
            return Place::Unsendable(Unsendable::Overtaken(why.clone()));
        }
        if is_tried && !breaker.passes(lane, key, is_below) {
            return Place::Skip(lane);
        }
        let run = self.resent_as(ix, row).map_or(self.run, |(run, _)| run);
        self.room(Wanted { lane, run, alone, bytes }, now)
    }

    /// Whether an operator sends the row again.
    pub fn is_retried(&self, key: RowKey, print: Fingerprint) -> bool {
        !self.retried.is_empty() && self.retried.get(&key) == Some(&print)
    }

    /// These rows were accepted.
    pub fn forget_retried(&mut self, rows: &Rows) {
        if !self.retried.is_empty() {
            for meta in &rows.meta {
                self.retried.remove(&meta.key);
            }
        }
    }

    /// A look has ended: what it passed over stays its lanes'. `all`: there is no other row. `obstacle`: what it stopped at.
    pub fn leave_skipped(&mut self, ix: OutboxIx, all: bool, obstacle: Option<Obstacle>, now: Instant) {
        for ((outbox, lane), (first, last)) in std::mem::take(&mut self.skipped) {
            let obstacle = obstacle.filter(|_| outbox == ix);
            let ledger = &mut self.outboxes[usize::from(outbox.0)].ledger;
            ledger.leave(Leaver::Lane(lane), first, obstacle);
            ledger.leave(Leaver::Lane(lane), last, obstacle);
            if all && outbox == ix && self.lanes[lane as usize].is_idle() {
                let topic = self.lanes[lane as usize].topic;
                let breaker = &mut self.topics[topic as usize].breaker;
                breaker.has_none(lane, ix);
                let may_have = |(at, outbox): (usize, &Outbox)| {
                    outbox.ledger.is_marked(Leaver::Lane(lane)) && !breaker.is_exhausted(OutboxIx(at as u16))
                };
                if !self.outboxes.iter().enumerate().any(may_have) {
                    breaker.next_lane(now);
                }
            }
        }
    }

    /// A look has come to the table's end.
    pub fn came_to_all(&mut self, ix: OutboxIx) {
        let ledger = &self.outboxes[usize::from(ix.0)].ledger;
        for topic in &mut self.topics {
            topic.breaker.trials_mut().come_to_all(ix, |lane| ledger.is_marked(Leaver::Lane(lane)));
        }
    }

    /// A look goes on: whoever has taken a row gets nothing of what lies behind it before what was passed over.
    pub fn leave_skipped_by_takers(&mut self) {
        let Intake { skipped, lanes, outboxes, .. } = self;
        skipped.retain(|(outbox, lane), (first, last)| {
            let idle = lanes[*lane as usize].is_idle();
            if !idle {
                let ledger = &mut outboxes[usize::from(outbox.0)].ledger;
                ledger.leave(Leaver::Lane(*lane), *first, None);
                ledger.leave(Leaver::Lane(*lane), *last, None);
            }
            idle
        });
    }

    fn put(&mut self, ix: OutboxIx, lane_ix: u32, row: &RowView<'_>, seen: Instant) {
        let again = self.resent_as(ix, row);
        let key = RowKey { outbox: ix, rowid: row.rowid };
        let alone = self.is_retried(key, row.print);
        let lane = &mut self.lanes[lane_ix as usize];
        let batch = lane.collecting.get_or_insert_with(|| {
            let bytes = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(BUFFER_STEP_BYTES));
            let run = again.map_or(self.run, |(run, _)| run);
            Batch { rows: Rows { bytes, meta: Vec::new() }, run, again: false, alone, seen }
        });
        batch.again |= again.is_some();
        batch.seen = batch.seen.min(seen);
        let before = batch.rows.bytes.len();
        let bound = self.outboxes[usize::from(ix.0)].route.record_bytes_bound(row);
        if batch.rows.bytes.capacity() - before < bound {
            batch.rows.bytes.reserve_exact(bound.max(BUFFER_STEP_BYTES));
        }
        let outbox = &mut self.outboxes[usize::from(ix.0)];
        match again {
            None => self.encoder.append(ix, &outbox.route, row, &mut batch.rows),
            Some(id) => self.encoder.append_again(ix, &outbox.route, row, id, &mut batch.rows),
        }
        outbox.ledger.hold(RowMark { rowid: row.rowid, print: row.print });
        self.memory.take(1, batch.rows.bytes.len() - before);
        self.topics[lane.topic as usize].breaker.took(lane_ix, key, row.fields[field::KEY]);
        // What is taken now leaves before long, and its memory is free again.
        self.soon.set(None);
        self.taken += 1;
        if lane.flight.is_none() && !lane.queued {
            lane.queued = true;
            self.ready.push(lane_ix);
        }
    }

    /// Puts a lane with rows and nothing in flight on the list of those to be planned.
    pub fn make_ready(&mut self, ix: u32) {
        let lane = &mut self.lanes[ix as usize];
        if lane.flight.is_none() && lane.has_rows() && !lane.queued {
            lane.queued = true;
            self.ready.push(ix);
        }
    }
}

/// Rows of several outboxes, by outbox and rowid.
pub fn by_outbox(rows: impl IntoIterator<Item = (RowKey, Fingerprint)>) -> BTreeMap<OutboxIx, Vec<RowMark>> {
    let mut marks: BTreeMap<OutboxIx, Vec<RowMark>> = BTreeMap::new();
    for (RowKey { outbox, rowid }, print) in rows {
        marks.entry(outbox).or_default().push(RowMark { rowid, print });
    }
    for marks in marks.values_mut() {
        marks.sort_unstable_by_key(|mark| mark.rowid);
    }
    marks
}

/// The plan without its records: for whoever only needs to know which it is.
pub fn without_records(plan: &Plan) -> Plan {
    plan.with_rows(Rows { bytes: Vec::new(), meta: plan.rows.meta.clone() })
}
