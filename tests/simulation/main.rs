//! The relay's decisions in a simulated world: random schedules, faults and answers, all from one seed.
//!
//! `OUTBOXD_SCHEDULES` sets how many schedules are run (default 300), `OUTBOXD_SEED` runs just that one.

mod ports;
mod world;

use outboxd::kafka::partitioner::partition_for_key;
use outboxd::model::{Outcome, PlanId, RunId, SinkEvent, Wake};
use outboxd::relay::route::{Route, TemplatePart, TopicTemplate};
use outboxd::relay::{Event, Limits, Relay, RelaySpec};
use outboxd::telemetry::figures::Figures;
use ports::{Shared, SimClock, SimJournal, SimSink, SimSource, acknowledge, answer, append, contents, judge};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use world::{Happening, World};

type SimRelay = Relay<SimSource, SimJournal, SimSink, SimClock>;

const TABLES: usize = 2;
/// How long the application writes and faults happen.
const STORM: Duration = Duration::from_secs(4);
/// By then everything must be settled: suspects are believed after a minute, a stopped topic is tried every 30 s.
const CALM: Duration = Duration::from_secs(400);
/// A relay whose deadline is always now, and that does nothing, burns a core.
const IDLE_TURNS_MAX: u32 = 20_000;
const HELD_ROWS_MAX: usize = 60;

struct Run {
    seed: u64,
    world: Shared,
    relay: SimRelay,
    figures: Arc<Figures>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let world: Shared = Rc::new(RefCell::new(World::new(seed, TABLES)));
        let figures = Arc::new(Figures::new("sim.db".to_owned(), vec!["a".to_owned(), "b".to_owned()]));
        let route = |name: &str, topic| Route {
            name: name.to_owned(),
            topic,
            headers: Vec::new(),
            event_id: false,
            topics_max: 10,
        };
        let template = TopicTemplate::Parts(vec![
            TemplatePart::Text("t-".to_owned()),
            TemplatePart::Column { field: 2, name: "eventType".to_owned() },
        ]);
        let limits = Limits {
            batch_bytes_max: 900,
            held_rows_max: HELD_ROWS_MAX,
            held_bytes_max: 9_000,
            retry_backoff: Duration::from_millis(5),
            retry_backoff_max: Duration::from_millis(80),
            ..Limits::default()
        };
        let spec = RelaySpec {
            run: RunId(7),
            first_plan: PlanId(1),
            routes: vec![route("a", TopicTemplate::Literal("users".to_owned())), route("b", template)],
            limits,
            seed,
        };
        let relay = Relay::new(
            SimSource(world.clone()),
            SimJournal(world.clone()),
            SimSink(world.clone()),
            SimClock(world.clone()),
            spec,
            figures.clone(),
        );
        Run { seed, world, relay, figures }
    }

    /// Lets time pass until `end`.
    fn until(&mut self, end: Duration) {
        let mut idle_turns = 0;
        loop {
            assert!(!self.relay.work().expect("no invariant is broken"), "seed {}: the relay ended", self.seed);
            let held = self.figures.held_rows.load(Relaxed) as usize;
            assert!(held <= HELD_ROWS_MAX, "P5: {held} rows held (seed {})", self.seed);
            let deadline = self.relay.deadline();
            let next = {
                let world = self.world.borrow();
                let due = world.agenda.keys().next().map(|(at, _)| *at);
                let own = deadline.saturating_duration_since(world.start).max(world.elapsed);
                due.map_or(own, |due| due.min(own))
            };
            idle_turns = if next <= self.world.borrow().elapsed { idle_turns + 1 } else { 0 };
            assert!(idle_turns < IDLE_TURNS_MAX, "the relay spins (seed {}): {:#?}", self.seed, self.relay);
            if next >= end {
                self.world.borrow_mut().elapsed = end;
                return;
            }
            // A relay that is always due would stand still: every turn costs a little time.
            let step = self.world.borrow().elapsed + Duration::from_micros(3);
            self.world.borrow_mut().elapsed = next.max(step);
            self.happen();
        }
    }

    fn happen(&mut self) {
        let due = {
            let mut world = self.world.borrow_mut();
            let elapsed = world.elapsed;
            let mut later = world.agenda.split_off(&(elapsed + Duration::from_nanos(1), 0));
            std::mem::swap(&mut later, &mut world.agenda);
            later
        };
        if due.is_empty() {
            self.note(Event::Deadline);
        }
        for (_, what) in due {
            match what {
                Happening::App => self.app(),
                Happening::Visible => self.world.borrow_mut().commit(),
                Happening::Wake(seen) => self.note(Event::Wake(Wake { seen })),
                Happening::Sink(event) => self.note(Event::Sink(event)),
                Happening::Answer(parcel) => self.answer(&parcel),
                Happening::LateCopy(parcel) => {
                    drop(append(&mut self.world.borrow_mut(), &parcel, &contents(&parcel.rows)));
                }
            }
        }
    }

    fn note(&mut self, event: Event) {
        self.relay.note(event).expect("no invariant is broken");
    }

    fn app(&mut self) {
        let world = &mut *self.world.borrow_mut();
        // The wake may come before the commit is visible, and now and then not at all.
        let seen = world.now();
        world.disk_changed = true;
        if world.random.bool() {
            world.commit();
        } else {
            let after = world.micros(1..30_000);
            world.plan(after, Happening::Visible);
        }
        if world.random.u32(0..50) > 0 {
            let after = world.micros(1..500);
            world.plan(after, Happening::Wake(seen));
        }
        if world.elapsed < STORM {
            let pause = if world.random.u32(0..30) == 0 { world.micros(0..300_000) } else { world.micros(0..3_000) };
            if world.agenda.values().filter(|what| matches!(what, Happening::App)).count() < 3 {
                world.plan(pause, Happening::App);
            }
        }
        if world.random.u32(0..400) == 0 {
            world.weather.closed_until = Some(world.elapsed + Duration::from_millis(700));
        }
    }

    fn answer(&mut self, parcel: &world::Parcel) {
        let (outcome, at) = {
            let world = &mut *self.world.borrow_mut();
            let outcome = answer(world, parcel);
            judge(world, parcel, &outcome);
            if matches!(outcome, Outcome::Stored { .. }) {
                acknowledge(world, parcel);
            }
            (outcome, world.now())
        };
        if std::env::var_os("OUTBOXD_TRACE").is_some() {
            let uids: Vec<u64> = contents(&parcel.rows).iter().map(|(uid, _)| *uid).collect();
            let rowids: Vec<i64> = parcel.rows.meta.iter().map(|meta| meta.key.rowid).collect();
            let elapsed = self.world.borrow().elapsed;
            println!(
                "{elapsed:?} plan {} {}-{} epoch {} sequence {}: versions {uids:?} rowids {rowids:?}: {outcome:?}",
                parcel.plan.0, parcel.topic, parcel.partition, parcel.epoch, parcel.first
            );
        }
        self.note(Event::Sink(SinkEvent::Outcome { plan: parcel.plan, outcome, at }));
    }

    /// P2 without crashes, P3, P6, P7: what was committed is in the logs once, in order, and only what has to stay is left.
    fn check(&self) {
        let world = self.world.borrow();
        let seed = self.seed;
        let mut published: HashMap<u64, usize> = HashMap::new();
        let mut order: HashMap<(usize, String), u64> = HashMap::new();
        for log in world.logs.values() {
            for uid in &log.uids {
                *published.entry(*uid).or_default() += 1;
                let (table, version) = &world.versions[uid];
                let fate = world.fates[uid];
                let Some(key) = version.key.clone().filter(|_| !fate.out_of_order) else { continue };
                let last = order.entry((*table, key)).or_default();
                assert!(*last < *uid, "P3: {uid} after {last} of key {:?} (seed {seed})", version.key);
                *last = *uid;
            }
        }
        let mut left = 0;
        for (uid, (table, version)) in &world.versions {
            let topic = if *table == 0 { "users" } else { "t-event" };
            let partition = version.key.as_ref().map(|key| partition_for_key(key.as_bytes(), 3));
            if world.halted.iter().any(|(name, at)| name == topic && partition.is_none_or(|partition| partition == *at))
            {
                left += usize::from(world.tables[*table].values().any(|row| row.uid == *uid));
                continue;
            }
            let times = published.get(uid).copied().unwrap_or(0);
            let fate = world.fates[uid];
            assert!(times <= 1, "version {uid} was published {times} times (seed {seed})");
            let set_aside = times == 0 && world.closed_out.contains(uid);
            if version.poison {
                assert_eq!(times, 0);
            } else if !fate.withdrawn && !set_aside {
                assert_eq!(times, 1, "version {uid} was published {times} times: {fate:?} (seed {seed})");
            }
            let stays = version.poison || version.kept || set_aside;
            let there = world.tables.iter().flat_map(|table| table.values()).any(|row| row.uid == *uid);
            if stays && !fate.withdrawn {
                assert!(there, "P7: {version:?} left its table (seed {seed})");
                left += 1;
            } else if !fate.withdrawn {
                assert!(!there, "version {uid} is still there: {fate:?} (seed {seed})");
            }
        }
        let rows: usize = world.tables.iter().map(std::collections::BTreeMap::len).sum();
        assert_eq!(rows, left, "P6, P7: nothing else is left in the tables (seed {seed})");
        assert!(world.recorded.len() <= world.halted.len(), "plans are forgotten: {:?} (seed {seed})", world.recorded);
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    run.world.borrow_mut().plan(Duration::ZERO, Happening::App);
    run.until(STORM);
    run.world.borrow_mut().weather.faults = false;
    run.until(STORM + CALM);
    if std::env::var_os("OUTBOXD_TRACE").is_some() {
        println!("{:#?}", run.relay);
    }
    run.check();
}

#[test]
fn a_partition_that_does_not_answer_holds_up_no_other() {
    for seed in 0..20 {
        let mut run = Run::new(seed);
        {
            let world = &mut *run.world.borrow_mut();
            world.weather.faults = false;
            world.weather.silent = Some((1, Duration::from_secs(60)));
            world.insert(0, (0..600).map(|at| format!("k{}", at % 12)));
        }
        // No commit follows that would wake the relay.
        run.until(Duration::from_secs(20));
        let of = |key: &Option<String>| key.as_ref().map(|key| partition_for_key(key.as_bytes(), 3));
        let left = run.world.borrow().tables[0].values().filter(|row| of(&row.key) != Some(1)).count();
        assert_eq!(left, 0, "rows of partitions that are well stay in the table (seed {seed})");
        run.until(Duration::from_secs(200));
        run.check();
    }
}

#[test]
fn random_schedules_keep_the_promises() {
    if let Ok(seed) = std::env::var("OUTBOXD_SEED") {
        env_logger::builder().is_test(true).init();
        run(seed.parse().expect("OUTBOXD_SEED is a number"));
        return;
    }
    let count: u64 = std::env::var("OUTBOXD_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(300);
    let base = std::env::var("OUTBOXD_SEED_BASE")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("seeds {base} to {}", base + count - 1);
    for seed in base..base + count {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed} failed: run it alone with OUTBOXD_SEED={seed}");
    }
}
