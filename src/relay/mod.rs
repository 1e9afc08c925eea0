//! The relay: one per database. It decides which rows are sent, when, and which may be deleted.
//!
//! Promises: decisions are pure over the four traits of [`crate::ports`]; every wait is a deadline in its one loop, never a sleep.
//! Does not know: SQL, sockets, files.
//!
//! The life of an event through the files here: `reading` (looks, the sweep) feeds `intake` (route, encode, which lane has room),
//! `sending` plans and hands over, `answers` takes outcomes, `settling` deletes what was acknowledged. `ledger` is the memory of
//! which rows are ours, `lanes` that of who is in flight, `notes` that of deletes about to commit, `resends` that of message ids,
//! `memory` what all of it may take. `breaker` tells a bad record from a bad topic (`trials`: the records it tries), `quarantine` keeps
//! the bad. `gauges` looks at all of it once a second.
//! `recovery` settles what is in doubt, after a crash above all: `matching` finds its rows again, `verdict` judges, and
//! what can't be judged yet is in `waiting`. `start_again` leads there while the daemon runs.

mod answers;
mod at_disk;
mod backoff;
mod breaker;
mod evidence;
pub mod flight;
mod gauges;
mod intake;
pub mod lanes;
pub mod ledger;
mod memory;
mod notes;
pub mod planted;
mod quarantine;
mod reading;
mod recovery;
mod resends;
pub mod route;
mod run;
mod sending;
mod settling;
mod trials;
mod wall;

pub use run::{Channels, run};

use crate::model::{ClusterId, Left, OutboxIx, PlanId, RunId, SinkEvent, Topic, Wake, Why};
use crate::ports::{Clock, Journal, Sink, Source};
use crate::telemetry::figures::Figures;
use crate::telemetry::trouble::{Trouble, Troubles};
use at_disk::Disk;
use intake::Intake;
use lanes::Standing;
use outboxd_kafka::compression;
use quarantine::Quarantine;
use reading::Reading;
use recovery::{Recovery, Unsure};
use route::Route;
use settling::Settling;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};
use wall::Wall;

/// Everything that can wake the relay.
#[derive(Debug)]
pub enum Event {
    Wake(Wake),
    Sink(SinkEvent),
    /// The time that [`Relay::deadline`] named has come.
    Deadline,
    /// Read nothing more; what is in flight may be acknowledged and deleted until then.
    Drain {
        until: Instant,
    },
}

/// Sizes and times with a name each; what happens at a limit is said where it is used.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Record bytes of one batch; Kafka's default `max.message.bytes` is 1,048,588 with the batch's header.
    pub batch_bytes_max: usize,
    pub batch_rows_max: usize,
    /// One record; larger rows go into quarantine.
    pub record_bytes_max: usize,
    /// How the sink compresses: limits of brokers count what is sent.
    pub compression: compression::Settings,
    /// All rows held by the relay, collected, in flight and not yet deleted: at this size it does not read.
    pub held_rows_max: usize,
    pub held_bytes_max: usize,
    pub retry_backoff: Duration,
    pub retry_backoff_max: Duration,
    /// Plans and acknowledgements survive a power cut before they are acted on.
    pub power_loss: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_bytes_max: 1_000_000,
            batch_rows_max: 8_192,
            record_bytes_max: 64 << 20,
            compression: compression::Settings::default(),
            held_rows_max: 44_000,
            held_bytes_max: 7 << 19,
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            power_loss: true,
        }
    }
}

/// What a relay is made for.
#[derive(Debug)]
pub struct RelaySpec {
    pub run: RunId,
    /// The first number not used by any plan in the state file.
    pub first_plan: PlanId,
    /// In the source's order.
    pub routes: Vec<Route>,
    pub limits: Limits,
    /// The clock is wrong when it says an earlier time. The epoch where stamps are nobody's concern.
    pub clock_floor: SystemTime,
    /// What an earlier run left in the state file.
    pub left: Left,
    /// Jitter and the choice of partitions for null keys.
    pub seed: u64,
}

/// Who can have trouble with the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Party {
    Producer,
    Topic(u32),
    Lane(u32),
}

/// A broken invariant: the daemon stops, rows untouched.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

/// What a relay did, for its last log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub published: u64,
    pub deleted: u64,
    /// Rows of batches that a broker may have got and that were not acknowledged, those of earlier runs included.
    pub left_in_flight: u64,
    /// Acknowledged rows that could not be deleted in time.
    pub left_acknowledged: u64,
    /// Rows sent again although they may have been published.
    pub unsure: u64,
}

/// The producer id of this relay, once it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Producer {
    Unknown,
    Asked,
    Known(i64),
}

/// See the module's words.
#[derive(Debug)]
pub struct Relay<S, J, K, C> {
    source: Disk<S>,
    journal: Disk<J>,
    sink: K,
    clock: C,
    intake: Intake,
    reading: Reading,
    settling: Settling,
    quarantine: Quarantine,
    recovery: Recovery,
    figures: Arc<Figures>,
    random: fastrand::Rng,
    producer: Producer,
    /// Of the producer id.
    cluster: Option<ClusterId>,
    next_plan: u64,
    /// Lanes with a batch in flight, by plan.
    plans: BTreeMap<PlanId, u32>,
    /// Lanes whose flight waits for the state file, for room in the sink, or for its next attempt.
    waiting: Vec<u32>,
    /// Nothing is planned before this, after the database or the state file could not be written.
    dispatch_at: Option<Instant>,
    /// When lanes in flight are next looked through for late ones.
    late_check_at: Instant,
    figures_at: Instant,
    source_trouble: Trouble,
    /// Apart from the one before: what is read well may be impossible to sync, or to delete.
    sync_trouble: Trouble,
    delete_trouble: Trouble,
    journal_trouble: Trouble,
    sink_troubles: Troubles<Party>,
    clock_trouble: Trouble,
    /// Rows that are sent again, and were not told of yet, by reason.
    unsure: BTreeMap<String, Unsure>,
    wall: Wall,
    draining: Option<Instant>,
    summary: Summary,
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    pub fn new(source: S, journal: J, sink: K, clock: C, spec: RelaySpec, figures: Arc<Figures>) -> Self {
        let wall = Wall::new(spec.clock_floor, spec.left.newest_stamp);
        let mut random = fastrand::Rng::with_seed(spec.seed);
        let now = clock.now();
        let mut intake = Intake::new(spec.run, spec.routes, spec.limits, random.fork());
        for (outbox, table) in intake.outboxes.iter_mut().zip(&spec.left.tables) {
            outbox.made_of = table.as_ref().map(|table| table.guard.clone());
        }
        for at in 0..intake.outboxes.len() {
            if let Some(name) = intake.outboxes[at].route.literal().map(str::to_owned) {
                intake.topic(&name);
                intake.outboxes[at].topics = 1;
            }
        }
        let database = figures.database.clone();
        let mut relay = Relay {
            source: Disk::new(source, &figures),
            journal: Disk::new(journal, &figures),
            sink,
            clock,
            reading: Reading::new(&spec.limits, now),
            settling: Settling::new(now, spec.first_plan, &database),
            quarantine: Quarantine::new(now),
            recovery: Recovery::new(spec.left),
            intake,
            figures,
            random,
            producer: Producer::Unknown,
            cluster: None,
            next_plan: spec.first_plan.0,
            plans: BTreeMap::new(),
            waiting: Vec::new(),
            dispatch_at: None,
            late_check_at: now,
            figures_at: now,
            source_trouble: Trouble::new(format!("database {database}")),
            sync_trouble: Trouble::new(format!("database {database}")),
            delete_trouble: Trouble::new(format!("database {database}")),
            journal_trouble: Trouble::new("state file".to_owned()),
            sink_troubles: Troubles::default(),
            clock_trouble: Trouble::new("clock".to_owned()),
            unsure: BTreeMap::new(),
            wall,
            draining: None,
            summary: Summary::default(),
        };
        relay.begin_recovery(now);
        relay
    }

    /// Takes note of an event. Nothing is done until [`Relay::work`]: events that are already there go together.
    pub fn note(&mut self, event: Event) -> Result<(), Fatal> {
        let now = self.clock.now();
        match event {
            Event::Wake(wake) => {
                self.figures.wakes.fetch_add(1, Relaxed);
                // Closing makes events of its own, and opening again for each of them would never end.
                if self.source.is_open() || self.source.at_disk().stirred() {
                    if self.may_look_anywhere() {
                        self.reading.wake(wake, now);
                    } else {
                        self.reading.others_may_have_gone();
                        (0..self.intake.outboxes.len()).for_each(|at| self.miss(at, wake.seen));
                    }
                }
            }
            Event::Sink(event) => self.on_sink(event, now)?,
            Event::Deadline => {}
            Event::Drain { until } => self.begin_drain(until),
        }
        Ok(())
    }

    /// Does everything that is due. True: there is nothing left to do, ever (a drain has ended).
    pub fn work(&mut self) -> Result<bool, Fatal> {
        let now = self.clock.now();
        self.figures.turned_ms.store(now.saturating_duration_since(self.figures.started).as_millis() as u64, Relaxed);
        self.retry_lanes(now);
        self.breakers(now);
        self.read(now)?;
        self.say_unsure();
        self.open_topics();
        self.look_at_the_clock(now);
        self.dispatch(now);
        self.look_around(now);
        self.settle(now)?;
        self.tend_quarantine(now);
        self.rest(now);
        self.update_figures(now);
        Ok(self.drained(self.clock.now()))
    }

    /// When the relay must be woken at the latest.
    pub fn deadline(&self) -> Instant {
        let now = self.clock.now();
        let waiting = self.waiting.iter().filter_map(|ix| self.lane_deadline(*ix, now));
        let topics = self.intake.topics.iter().filter(|_| self.recovery.left.is_none());
        let breakers = topics.filter_map(|topic| topic.breaker.deadline());
        let mut earliest = self.figures_at + FIGURES_EVERY;
        for at in waiting.chain(breakers) {
            earliest = earliest.min(at);
        }
        if !self.plans.is_empty() {
            earliest = earliest.min(self.late_check_at + LATE_CHECK_EVERY);
        }
        if !self.intake.ready.is_empty() && self.can_dispatch() {
            earliest = earliest.min(self.dispatch_at.unwrap_or(now));
        }
        // Nothing is deleted while planned rows are looked for in a replaced file.
        if self.reading.matching.is_none()
            && let Some(at) = self.settling.deadline(self.is_quiet_pipeline(), now)
        {
            earliest = earliest.min(at);
        }
        earliest = earliest.min(self.quarantine.deadline().max(now));
        earliest = earliest.min(self.reading_deadline(now));
        self.draining.map_or(earliest, |until| earliest.min(until))
    }

    /// Whether a wake is of use now.
    pub fn takes_wakes(&self) -> bool {
        self.reading.takes_wakes(self.clock.now())
    }

    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Nothing is collected and nothing in flight: what was acknowledged can be deleted at once.
    fn is_quiet_pipeline(&self) -> bool {
        self.plans.is_empty() && self.intake.ready.is_empty()
    }

    /// Nothing is stamped by a clock that is wrong.
    fn look_at_the_clock(&mut self, now: Instant) {
        match self.wall.judge(self.clock.wall(), now) {
            Ok(()) => self.clock_trouble.over(now),
            Err(wrong) => {
                self.clock_trouble.happened(now, wrong.in_words());
                self.figures.wait_for(Some("a clock that is right"));
            }
        }
    }

    fn open_topics(&mut self) {
        for name in std::mem::take(&mut self.intake.to_open) {
            self.sink.open(&name);
        }
    }

    fn opened(&mut self, name: &Topic, starts: Vec<crate::model::PartitionStart>, now: Instant) {
        self.figures.sink_ready.store(true, Relaxed);
        let whole = starts.iter().all(|start| start.end_offset.is_some());
        let is_new = !starts.is_empty()
            && self.intake.topic_of(name).is_none_or(|ix| !self.intake.topics[ix as usize].is_open());
        for outbox in self.intake.outboxes.iter().filter(|outbox| is_new && outbox.route.literal() == Some(&**name)) {
            let count = starts.len();
            log::info!(
                "outbox {}: goes to topic {name}, {count} partition{}",
                outbox.route.name,
                if count == 1 { "" } else { "s" }
            );
        }
        self.intake.opened(name, starts);
        if let Some(ix) = self.intake.topic_of(name) {
            if whole {
                self.sink_troubles.over(now, Party::Topic(ix));
            }
            let lanes: Vec<u32> = self.intake.topics[ix as usize].lanes.iter().flatten().copied().collect();
            for lane in lanes.into_iter().filter(|lane| self.intake.is_beyond(*lane)).collect::<Vec<_>>() {
                self.intake.give_back(lane);
                self.forget_replaced(lane);
                self.stranded(lane);
            }
        }
    }

    fn begin_drain(&mut self, until: Instant) {
        if self.draining.is_some() {
            return;
        }
        self.draining = Some(until);
        self.sink.drain();
        self.let_go_of_unsent();
        self.figures.wait_for(Some("drain"));
        self.figures.draining.store(true, Relaxed);
    }

    /// Whether a drain has come to its end: everything settled, or the time is over.
    fn drained(&mut self, now: Instant) -> bool {
        let Some(until) = self.draining else { return false };
        // What is being asked of a leader is asked again by the next start.
        let answered = self.plans.values().all(|ix| self.intake.lanes[*ix as usize].standing == Standing::Asking);
        if !(answered && self.settling.is_empty()) && now < until {
            return false;
        }
        self.forget_rejected();
        self.forget_settled(now, true);
        self.say_how_many_more(now, true);
        self.say_unsure();
        self.source.at_disk().let_go();
        let flights = self.plans.values().filter_map(|ix| self.intake.lanes[*ix as usize].flight.as_ref());
        self.summary.left_in_flight += flights.map(|flight| flight.plan.rows.len() as u64).sum::<u64>();
        self.summary.left_in_flight += self.recovery.left_rows() as u64;
        self.summary.left_acknowledged = self.settling.rows() as u64;
        true
    }

    fn source_failed(&mut self, why: &Why, now: Instant) {
        self.figures.source_ready.store(false, Relaxed);
        self.source_trouble.happened(now, &why.to_string());
    }

    fn outboxes(&self) -> impl Iterator<Item = OutboxIx> + use<S, J, K, C> {
        (0..self.intake.outboxes.len()).map(|at| OutboxIx(at as u16))
    }
}

/// How often the slower figures are brought up to date.
const FIGURES_EVERY: Duration = Duration::from_secs(1);
/// How often lanes in flight are looked through for late ones.
const LATE_CHECK_EVERY: Duration = Duration::from_millis(100);
