//! Taking rows: from a look's row to a record in a lane's buffer, or the reason why it stays in the table for now.
//!
//! Promises: bounded memory, rows and bytes, whatever the backlog and however many lanes are stopped; records of one key and one
//! table enter a lane in rowid order. Does not know: when looks happen, how batches are sent.

use super::Limits;
use super::backoff::Backoff;
use super::breaker::Breaker;
use super::lanes::{Batch, Digest, Flight, Lane, Standing};
use super::ledger::{Aside, Known, Leaver, Ledger, Obstacle, Wanted};
use super::memory::Memory;
use super::planted::{self, Bug};
use super::resends::Resends;
use super::route::{self, Encoder, Route, Unroutable};
use crate::model::{
    Fingerprint, Flow, Guard, OutboxIx, PartitionStart, Plan, RowKey, RowMark, RowMeta, RowView, Rows, RunId,
    TableTraits, Target, Topic, Unreadable, Version, Why, field,
};
use crate::telemetry::trouble::Trouble;
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

/// A buffer larger than this is not kept for reuse: it held a row of unusual size.
const SPARE_BYTES_MAX: usize = 2 << 20;
/// How many buffers are kept for reuse.
const SPARE_BUFFERS_MAX: usize = 2;
/// So often a look asks whether it is worth going on.
const ASK_EVERY_ROWS: usize = 64;
/// A buffer grows in steps of this, not by doubling: with several lanes, half of the daemon's memory would be unused capacity.
const BUFFER_STEP_BYTES: usize = 64 << 10;

/// Whether there may be rows that no look has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    No,
    /// Yes, and they can be read now.
    Ready,
    /// Yes, and no lane could take any that it has not left before.
    Unwanted,
    /// Yes, and this was in the way of the next one.
    Stopped(Obstacle),
}

/// One outbox of the database.
#[derive(Debug)]
pub struct Outbox {
    pub route: Route,
    pub ledger: Ledger,
    /// What may lie above the cursor.
    pub more: Behind,
    /// What the last look ran under.
    pub version: Option<Version>,
    /// The news is not of this one: a glance has just found that.
    pub unstirred: bool,
    /// Rows may have been inserted below the cursor since it was last swept.
    pub unswept: bool,
    /// Not looked at before this, because of `trouble`.
    pub retry_at: Option<Instant>,
    pub trouble: Trouble,
    /// Set-aside rows have reached their limit; nothing is taken until there are fewer.
    pub paused: bool,
    /// What the state file knows of the table.
    pub noted: Option<TableTraits>,
    /// What the fingerprints are made of that are held, and that the state file has.
    pub made_of: Option<Guard>,
    /// When the oldest row that is still in the table and not held was noticed.
    pub behind_since: Option<Instant>,
    pub topics: usize,
}

impl Outbox {
    /// Only these rows are held and set aside, and the table is looked at from the start.
    pub fn restart(&mut self, held: Vec<RowMark>, aside: BTreeMap<i64, Aside>) {
        self.ledger.restart(held, aside);
        self.more = Behind::Ready;
    }

    /// The row stays in the table, whatever the reason. At the limit the outbox pauses: memory, state file and log have one.
    pub fn set_aside(&mut self, mark: RowMark, published: bool) {
        self.ledger.set_aside(mark, published);
        self.pause_if_full();
    }

    pub fn pause_if_full(&mut self) {
        if self.ledger.is_full() && !self.paused {
            self.paused = true;
            log::error!(
                "outbox {}: {} rows are in quarantine, the most there may be; it pauses until some are retried, discarded or removed: \
                 outboxd dead list --outbox {}",
                self.route.name,
                self.ledger.set_aside_rows(),
                self.route.name
            );
        } else if self.paused && !self.ledger.is_full() {
            self.paused = false;
            self.more = Behind::Ready;
            log::info!("outbox {}: goes on, the quarantine has room again", self.route.name);
        }
    }
}

/// One topic that rows were routed to.
#[derive(Debug)]
pub struct TopicState {
    pub name: Topic,
    /// By partition; `None` until a row goes there.
    pub lanes: Vec<Option<u32>>,
    /// Empty: not open yet.
    pub starts: Vec<PartitionStart>,
    /// The sink was asked for it. A topic that only an earlier run's batch goes to need not be there.
    pub asked: bool,
    /// Where rows with a null key go until the next batch.
    pub null_partition: i32,
    /// The largest batch; shrinks when the broker says so.
    pub batch_bytes_max: usize,
    pub breaker: Breaker,
}

impl TopicState {
    pub fn is_open(&self) -> bool {
        !self.starts.is_empty()
    }
}

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
        let outboxes = routes
            .into_iter()
            .map(|route| Outbox {
                trouble: Trouble::new(format!("outbox {}", route.name)),
                route,
                ledger: Ledger::default(),
                more: Behind::Ready,
                version: None,
                unstirred: false,
                unswept: false,
                retry_at: None,
                paused: false,
                noted: None,
                made_of: None,
                behind_since: None,
                topics: 0,
            })
            .collect();
        Intake {
            outboxes,
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
            run,
            spare: Vec::new(),
            name: String::new(),
            random,
        }
    }

    pub fn outbox(&mut self, ix: OutboxIx) -> &mut Outbox {
        &mut self.outboxes[usize::from(ix.0)]
    }

    pub fn topic_of(&self, name: &str) -> Option<u32> {
        self.topic_index.get(name).copied()
    }

    /// The topic's place in the list; the sink is asked for it.
    pub fn topic(&mut self, name: &str) -> u32 {
        let ix = self.topic_unasked(name);
        let topic = &mut self.topics[ix as usize];
        if !topic.asked {
            topic.asked = true;
            self.to_open.push(topic.name.clone());
        }
        ix
    }

    fn topic_unasked(&mut self, name: &str) -> u32 {
        if let Some(ix) = self.topic_index.get(name) {
            return *ix;
        }
        let ix = self.topics.len() as u32;
        let name: Topic = name.into();
        self.topics.push(TopicState {
            name: name.clone(),
            lanes: Vec::new(),
            starts: Vec::new(),
            asked: false,
            null_partition: 0,
            batch_bytes_max: self.limits.batch_bytes_max,
            breaker: Breaker::default(),
        });
        self.topic_index.insert(name, ix);
        ix
    }

    /// The lane that an earlier run's batch belongs to, whatever topic and partition count are now.
    pub fn lane_of(&mut self, target: &Target, noted_offset: i64, leader_epoch: i32) -> u32 {
        let topic = self.topic_unasked(&target.topic);
        let state = &mut self.topics[topic as usize];
        let partition = target.partition as usize;
        if state.lanes.len() <= partition {
            state.lanes.resize(partition + 1, None);
        }
        match state.lanes[partition] {
            Some(lane) => lane,
            None => self.new_lane(topic, target.partition, Some(noted_offset), leader_epoch),
        }
    }

    /// The sink knows the topic's partitions, or that there are more of them.
    pub fn opened(&mut self, name: &str, starts: Vec<PartitionStart>) {
        if starts.is_empty() {
            return;
        }
        let ix = self.topic(name);
        let topic = &mut self.topics[ix as usize];
        if topic.is_open() && starts.len() < topic.starts.len() {
            // Fewer partitions: the topic was re-created. See `Relay::opened` for lanes beyond the end.
            log::warn!("topic {name} has {} partitions now, it had {}", starts.len(), topic.starts.len());
        }
        let count = starts.len().max(topic.lanes.len());
        topic.lanes.resize(count, None);
        topic.starts = starts;
        for (start, lane) in topic.starts.iter().zip(&topic.lanes) {
            // A lane that has begun knows better.
            if let Some(lane) = lane
                && self.lanes[*lane as usize].noted_offset.is_none()
            {
                let lane = &mut self.lanes[*lane as usize];
                (lane.noted_offset, lane.leader_epoch) = (start.end_offset, start.leader_epoch);
            }
        }
        topic.null_partition = self.random.i32(0..topic.starts.len().max(1) as i32);
    }

    /// Whether the lane's partition is not there any more: its topic has fewer.
    pub fn is_beyond(&self, ix: u32) -> bool {
        let lane = &self.lanes[ix as usize];
        let topic = &self.topics[lane.topic as usize];
        topic.is_open() && lane.target.partition as usize >= topic.starts.len()
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

    /// Whether it is still in the way of a row of this outbox.
    pub fn is_there(&self, ix: OutboxIx, obstacle: Obstacle, now: Instant) -> bool {
        if planted::is(Bug::ObstaclesStay) {
            return true;
        }
        match obstacle {
            Obstacle::Stops(wanted) => matches!(self.room(wanted, now), Place::Stop(_)),
            Obstacle::Memory(bytes) => !self.memory.admits(bytes),
            Obstacle::Held(rowid) => {
                let is_held = self.outboxes[usize::from(ix.0)].ledger.holds(rowid);
                is_held && !self.is_suspect(RowKey { outbox: ix, rowid })
            }
        }
    }

    fn is_suspect(&self, key: RowKey) -> bool {
        let mut suspects = self.topics.iter().flat_map(|topic| topic.breaker.suspects());
        suspects.any(|suspect| suspect.row.meta[0].key == key)
    }

    /// The lowest row below the outbox's cursor that a look could do something with now.
    pub fn lowest(&self, ix: OutboxIx, now: Instant) -> Option<i64> {
        let ledger = &self.outboxes[usize::from(ix.0)].ledger;
        ledger.lowest(|leaver| self.has_room_for(ix, leaver), |obstacle| self.is_there(ix, obstacle, now))
    }

    /// Whether a look could do something with what is left of the outbox, or whether nobody knows what there is.
    pub fn wants_look(&self, ix: OutboxIx, now: Instant) -> bool {
        let outbox = &self.outboxes[usize::from(ix.0)];
        let above = |anyone: bool| {
            let has_room = |leaver| anyone || self.has_room_for(ix, leaver);
            outbox.ledger.has_above(has_room, |obstacle| !anyone && self.is_there(ix, obstacle, now))
        };
        let more = match outbox.more {
            Behind::No => above(true),
            Behind::Ready => true,
            Behind::Unwanted => (self.has_takers(ix, true) && !planted::is(Bug::NobodyEverWants)) || above(false),
            Behind::Stopped(obstacle) => !self.is_there(ix, obstacle, now),
        };
        more || self.lowest(ix, now).is_some()
    }

    /// Whether some lane could take a row of this outbox. `unmarked`: one that has not left a row before.
    pub fn has_takers(&self, ix: OutboxIx, unmarked: bool) -> bool {
        let outbox = &self.outboxes[usize::from(ix.0)];
        // A template may lead to a topic that nobody has seen yet.
        let Some(literal) = outbox.route.literal() else { return true };
        let Some(topic) = self.known_topic(literal).map(|topic| &self.topics[topic as usize]) else { return true };
        if !self.memory.has_rows_left() {
            return false;
        }
        topic.lanes.iter().take(topic.starts.len().max(1)).any(|lane| {
            lane.is_none_or(|lane| self.takes(lane) && !(unmarked && outbox.ledger.is_marked(Leaver::Lane(lane))))
        })
    }

    /// Whether the lane takes rows, as far as its broker is concerned.
    fn takes(&self, ix: u32) -> bool {
        let lane = &self.lanes[ix as usize];
        lane.standing == Standing::Running
            && lane.noted_offset.is_some()
            && self.topics[lane.topic as usize].breaker.admits(ix, lane)
            && !lane.flight.as_ref().is_some_and(|flight| lane.trouble || flight.apart || flight.phase.is_stuck())
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
        let mut bytes_of = || self.encoder.record_bytes(ix, route, row);
        if !alone
            && let Some(why) = breaker.trials().overtaken(lane, (key, row.print), row.fields[field::KEY], &mut bytes_of)
        {
            return Place::Unsendable(Unsendable::Overtaken(why.clone()));
        }
        if is_tried && !breaker.passes(lane, key, bytes_of) {
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

    /// Whether rows of this outbox that the leaver has left could be taken now.
    fn has_room_for(&self, ix: OutboxIx, leaver: Leaver) -> bool {
        let exhausted = match leaver {
            Leaver::Lane(lane) => {
                let topic = self.lanes[lane as usize].topic;
                self.topics[topic as usize].breaker.is_exhausted(ix)
            }
            Leaver::Topic(_) => false,
        };
        !exhausted && self.has_room(leaver)
    }

    fn topic_for(&mut self, ix: OutboxIx, row: &RowView<'_>) -> Result<u32, Unroutable> {
        let mut name = std::mem::take(&mut self.name);
        let outbox = &self.outboxes[usize::from(ix.0)];
        let known = match outbox.route.literal() {
            // The one topic of an outbox without a template is looked up by its name as configured: no copy per row.
            Some(literal) => self.known_topic(literal).ok_or(Ok(literal)),
            None => match outbox.route.topic(row, &mut name) {
                Ok(()) => self.known_topic(name.as_str()).ok_or(Ok(name.as_str())),
                Err(reason) => Err(Err(reason)),
            },
        };
        let found = match known {
            Ok(topic) => Ok(topic),
            Err(Err(reason)) => Err(reason),
            Err(Ok(_)) if outbox.topics >= outbox.route.topics_max => {
                Err(Unroutable::TooManyTopics(outbox.route.topics_max))
            }
            Err(Ok(new)) => {
                let new = new.to_owned();
                self.outbox(ix).topics += 1;
                Ok(self.topic(&new))
            }
        };
        self.name = name;
        found
    }

    /// A topic the sink was asked for.
    fn known_topic(&self, name: &str) -> Option<u32> {
        self.topic_of(name).filter(|ix| self.topics[*ix as usize].asked)
    }

    /// Rows with a null key go to one partition per batch, and pass by partitions that are in trouble.
    fn partition_for_null(&mut self, ix: OutboxIx, topic: u32, count: i32) -> i32 {
        let state = &self.topics[topic as usize];
        let ledger = &self.outboxes[usize::from(ix.0)].ledger;
        let first = state.null_partition.min(count - 1);
        let well =
            (0..count).map(|step| (first + step) % count).find(|partition| match state.lanes[*partition as usize] {
                None => state.starts[*partition as usize].end_offset.is_some(),
                Some(lane) => {
                    let standing = &self.lanes[lane as usize];
                    standing.noted_offset.is_some()
                        && standing.standing == Standing::Running
                        && !standing.trouble
                        && !ledger.is_marked(Leaver::Lane(lane))
                }
            });
        let partition = well.unwrap_or(first);
        self.topics[topic as usize].null_partition = partition;
        partition
    }

    fn lane(&mut self, topic: u32, partition: i32) -> u32 {
        let state = &mut self.topics[topic as usize];
        if let Some(lane) = state.lanes[partition as usize] {
            return lane;
        }
        let start = state.starts[partition as usize];
        self.new_lane(topic, partition, start.end_offset, start.leader_epoch)
    }

    fn new_lane(&mut self, topic: u32, partition: i32, noted_offset: Option<i64>, leader_epoch: i32) -> u32 {
        let lane = self.lanes.len() as u32;
        let state = &mut self.topics[topic as usize];
        state.lanes[partition as usize] = Some(lane);
        let backoff = Backoff::new(self.limits.retry_backoff, self.limits.retry_backoff_max);
        let target = Target { topic: state.name.clone(), partition };
        self.lanes.push(Lane::new(target, topic, noted_offset, leader_epoch, backoff));
        lane
    }

    /// Where a row that would be sent goes.
    fn room(&self, wanted: Wanted, now: Instant) -> Place {
        let Wanted { lane: ix, run, alone, bytes } = wanted;
        let leave = Place::Leave(Leaver::Lane(ix), None);
        let stop = Place::Stop(Obstacle::Stops(wanted));
        // What a lane collects that waits for its broker would be taken from the others' memory.
        if !self.takes(ix) {
            return leave;
        }
        let lane = &self.lanes[ix as usize];
        let topic = &self.topics[lane.topic as usize];
        if !self.memory.has_rows_left() {
            // Nobody can take a row.
            return stop;
        }
        let fits = match &lane.collecting {
            None => true,
            // A batch carries the message ids of one run.
            Some(batch) if batch.run != run || batch.alone || alone => false,
            Some(batch) => {
                // Each batch may have a quarter of what it and the free memory make: what is left is the next lanes'.
                let share = (batch.rows.bytes.len() + self.memory.free()) / 4;
                let rows_max = self.limits.batch_rows_max.min(self.memory.batch_rows_max());
                let bytes = batch.rows.bytes.len() + bytes;
                bytes <= topic.batch_bytes_max.min(share) && batch.rows.len() < rows_max
            }
        };
        if !fits {
            return if lane.room_soon(now) { stop } else { leave };
        }
        if self.memory.admits(bytes) {
            return Place::Lane(ix);
        }
        // Stopping is right only if somebody gives back memory for sure: a row that waits for memory must not hold up those behind it
        // that need less.
        if self.memory.free() == 0 || self.gives_soon(now) {
            return stop;
        }
        Place::Leave(Leaver::Lane(ix), Some(Obstacle::Memory(bytes)))
    }

    /// Whether some lane will give back memory soon.
    fn gives_soon(&self, now: Instant) -> bool {
        if let Some((at, soon)) = self.soon.get()
            && at == now
        {
            return soon;
        }
        let soon = self.lanes.iter().any(|lane| lane.gives_soon(now));
        self.soon.set(Some((now, soon)));
        soon
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

    /// Whether a leaver could take rows now: its rows are worth a look from its low mark.
    fn has_room(&self, leaver: Leaver) -> bool {
        if !self.memory.has_rows_left() {
            return false;
        }
        match leaver {
            Leaver::Topic(topic) => self.topics[topic as usize].is_open(),
            Leaver::Lane(ix) => {
                let lane = &self.lanes[ix as usize];
                self.takes(ix) && lane.collecting.is_none()
            }
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

    /// A batch whose rows with null keys went to this lane is about to leave: the next ones go elsewhere.
    pub fn turn_null_partition(&mut self, topic: u32, partition: i32) {
        let state = &mut self.topics[topic as usize];
        if state.null_partition == partition && state.starts.len() > 1 {
            state.null_partition = self.random.i32(0..state.starts.len() as i32);
        }
    }

    /// Everything a lane has collected and not planned goes back to the table, to be read again when it has room.
    pub fn give_back(&mut self, ix: u32) {
        let lane = &mut self.lanes[ix as usize];
        let batches: Vec<Batch> = lane.pieces.drain(..).chain(lane.collecting.take()).collect();
        for batch in batches {
            self.give_back_rows(ix, batch.rows);
        }
    }

    /// These rows of the lane go back to the table.
    pub fn give_back_rows(&mut self, ix: u32, rows: Rows) {
        for (outbox, marks) in by_outbox(&rows.meta) {
            self.outbox(outbox).ledger.give_back(Leaver::Lane(ix), &marks);
        }
        self.forget_rows(rows);
    }

    /// An acknowledged plan is never sent again: its records' memory is free for others while its rows wait for their delete.
    pub fn without_bytes(&mut self, plan: Arc<Plan>) -> Arc<Plan> {
        self.memory.give(0, plan.rows.bytes.len());
        self.stripped(plan)
    }

    fn stripped(&mut self, plan: Arc<Plan>) -> Arc<Plan> {
        match Arc::try_unwrap(plan) {
            Ok(mut plan) => {
                let rows = std::mem::take(&mut plan.rows);
                let meta = match Arc::try_unwrap(rows) {
                    Ok(Rows { bytes, meta }) => {
                        self.keep_spare(bytes);
                        meta
                    }
                    Err(rows) => rows.meta.clone(),
                };
                plan.rows = Arc::new(Rows { bytes: Vec::new(), meta });
                Arc::new(plan)
            }
            // The sink has not let go of it yet; it will in a moment, and then only what is copied here is kept.
            Err(plan) => Arc::new(without_records(&plan)),
        }
    }

    /// The lane waits for its broker: what it collected goes back to the table, and its batch is counted with what waits. Where there
    /// is no room for the batch's bytes any more they are given back as well: they are read again before the next attempt.
    pub fn set_apart(&mut self, ix: u32) {
        self.give_back(ix);
        let Some(flight) = &mut self.lanes[ix as usize].flight else { return };
        let large = self.memory.is_large(flight.plan.rows.bytes.len());
        if flight.apart && !large {
            return;
        }
        flight.apart |= self.memory.set_apart(flight.plan.rows.len(), flight.plan.rows.bytes.len());
        if (large || !flight.apart) && flight.phase.is_stuck() {
            self.strip(ix);
        }
    }

    /// The bytes of a batch that waits are given back.
    pub fn strip(&mut self, ix: u32) {
        let Some(flight) = self.lanes[ix as usize].flight.take_if(|flight| flight.without.is_none()) else { return };
        let Flight { plan, apart, .. } = flight;
        let (rows, bytes) = (plan.rows.len(), plan.rows.bytes.len());
        if apart {
            self.memory.give_apart(rows, bytes);
        } else {
            self.memory.give(rows, bytes);
        }
        self.memory.take_apart(rows, 0);
        let without = Some(Digest::of(&plan.rows.bytes));
        let plan = self.stripped(plan);
        self.lanes[ix as usize].flight = Some(Flight { plan, apart: true, without, ..flight });
    }

    /// The lane's batch has come out of its waiting: what becomes of its rows is counted as everybody's.
    pub fn well_again(&mut self, flight: &mut Flight) {
        if std::mem::take(&mut flight.apart) {
            let (rows, bytes) = (flight.plan.rows.len(), flight.plan.rows.bytes.len());
            self.memory.give_apart(rows, bytes);
            self.memory.take(rows, bytes);
        }
    }

    fn keep_spare(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && (1..=SPARE_BYTES_MAX).contains(&bytes.capacity()) {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Rows that are no longer held: their memory is free again.
    pub fn forget_rows(&mut self, rows: Rows) {
        self.memory.give(rows.len(), rows.bytes.len());
        self.keep_spare(rows.bytes);
    }
}

/// Rows of several outboxes, by outbox and rowid.
pub fn by_outbox<'a>(rows: impl IntoIterator<Item = &'a RowMeta>) -> BTreeMap<OutboxIx, Vec<RowMark>> {
    let mut marks: BTreeMap<OutboxIx, Vec<RowMark>> = BTreeMap::new();
    for meta in rows {
        marks.entry(meta.key.outbox).or_default().push(RowMark { rowid: meta.key.rowid, print: meta.print });
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
