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
/// How long it writes now and then after that.
const SPARSE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(8);
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
        Run::on(Rc::new(RefCell::new(World::new(seed, TABLES))), seed, PlanId(1))
    }

    /// A daemon that starts in a world as it is.
    fn on(world: Shared, seed: u64, first_plan: PlanId) -> Run {
        let figures = Arc::new(Figures::new("sim.db".to_owned(), vec!["a".to_owned(), "b".to_owned()]));
        let route = |name: &str, topic| Route {
            name: name.to_owned(),
            topic,
            headers: Vec::new(),
            event_id: false,
            topics_max: 10,
            max_attempts: 1,
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
            first_plan,
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
        assert!(!self.ends_by(end), "seed {}: the relay ended", self.seed);
    }

    /// Lets time pass until `end`, or until the relay has drained.
    fn ends_by(&mut self, end: Duration) -> bool {
        let mut idle_turns = 0;
        loop {
            if self.relay.work().expect("no invariant is broken") {
                return true;
            }
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
                return false;
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
        if world.elapsed >= STORM && world.elapsed < SPARSE {
            // Now and then the database is let go of between two commits.
            let pause = world.micros(0..9_000_000);
            if !world.agenda.values().any(|what| matches!(what, Happening::App)) {
                world.plan(pause, Happening::App);
            }
        } else if world.elapsed < STORM {
            let pause = if world.random.u32(0..30) == 0 { world.micros(0..300_000) } else { world.micros(0..3_000) };
            if world.agenda.values().filter(|what| matches!(what, Happening::App)).count() < 3 {
                world.plan(pause, Happening::App);
            }
        }
        if world.chance(400) {
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
                let Some(key) = version.key.clone().filter(|_| !fate.out_of_order && !world.again.contains(uid)) else {
                    continue;
                };
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
            let again = world.again.contains(uid);
            assert!(times <= 1 || again, "version {uid} was published {times} times (seed {seed})");
            let set_aside = times == 0 && world.closed_out.contains(uid);
            if version.poison {
                assert_eq!(times, 0);
            } else if !fate.withdrawn && !set_aside {
                assert!(times >= 1, "version {uid} was published {times} times: {fate:?} (seed {seed})");
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

/// SIGTERM at any time, then a daemon that starts again.
fn drain_and_restart(seed: u64) {
    let mut run = Run::new(seed);
    run.world.borrow_mut().plan(Duration::ZERO, Happening::App);
    let at = run.world.borrow_mut().micros(0..4_000_000);
    run.until(at);
    let until = run.world.borrow().now() + DRAIN;
    run.note(Event::Drain { until });
    assert!(run.ends_by(at + DRAIN + Duration::from_millis(1)), "the drain ends in time (seed {seed})");
    assert_eq!(run.relay.summary().left_acknowledged, 0, "what was acknowledged is deleted (seed {seed})");
    {
        let world = &mut *run.world.borrow_mut();
        assert!(!world.open);
        // Published and kept by a trigger, or on its way and not known to be stored: that may come again.
        let open = std::mem::take(&mut world.recorded);
        let again: Vec<u64> = open.iter().filter_map(|plan| world.sent.get(plan)).flatten().copied().collect();
        let kept = world.versions.values().filter(|(_, version)| version.kept).map(|(_, version)| version.uid);
        // Set aside while their topic rejected everything: sent after the restart, behind what overtook them.
        let set_aside = world.closed_out.iter().copied();
        world.again.extend(kept.chain(again).chain(set_aside).collect::<Vec<_>>());
        world.acknowledged_plans.clear();
        let agenda = std::mem::take(&mut world.agenda);
        for (at, what) in agenda {
            match what {
                Happening::Answer(parcel) => drop(world.agenda.insert(at, Happening::LateCopy(parcel))),
                Happening::Sink(_) => {}
                other => drop(world.agenda.insert(at, other)),
            }
        }
        world.agenda.insert((world.elapsed, 0), Happening::App);
        world.weather.faults = false;
    }
    let next = PlanId(run.world.borrow().sent.keys().map(|plan| plan.0).max().unwrap_or(0) + 1_000);
    let mut run = Run::on(run.world.clone(), seed, next);
    run.until(at + DRAIN + CALM);
    run.check();
}

#[test]
fn a_drain_at_any_time_loses_and_doubles_nothing() {
    let count: u64 = std::env::var("OUTBOXD_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(300) / 3;
    if let Ok(seed) = std::env::var("OUTBOXD_DRAIN_SEED") {
        env_logger::builder().is_test(true).init();
        return drain_and_restart(seed.parse().expect("OUTBOXD_DRAIN_SEED is a number"));
    }
    let base = fastrand::u64(..1 << 40);
    for seed in base..base + count {
        let result = std::panic::catch_unwind(|| drain_and_restart(seed));
        assert!(result.is_ok(), "seed {seed} failed: run it alone with OUTBOXD_DRAIN_SEED={seed}");
    }
}

#[test]
fn an_idle_database_is_opened_only_for_what_differs_and_then_waits_for_the_promised_commit() {
    let mut run = Run::new(1);
    run.world.borrow_mut().weather.faults = false;
    run.until(Duration::from_secs(10));
    assert!(!run.world.borrow().open, "it is let go");
    let connections = run.world.borrow().connection;
    let seen = run.world.borrow().now();
    run.note(Event::Wake(Wake { seen }));
    run.until(Duration::from_secs(11));
    assert_eq!(run.world.borrow().connection, connections, "nothing differs: its own closing woke it");

    // Written, announced, and visible only 200 ms later: nothing more will be announced.
    run.world.borrow_mut().disk_changed = true;
    let seen = run.world.borrow().now();
    run.note(Event::Wake(Wake { seen }));
    run.until(Duration::from_millis(11_200));
    run.world.borrow_mut().insert(0, std::iter::once("k1".to_owned()));
    run.until(Duration::from_millis(11_300));
    assert!(run.world.borrow().tables[0].is_empty(), "found as soon as it was visible");
    run.until(Duration::from_secs(30));
    assert!(!run.world.borrow().open, "it is let go again");
}

#[test]
fn renumbered_rows_are_found_again_whichever_question_hears_of_it_first() {
    for seed in 0..20 {
        let mut run = Run::new(seed);
        {
            let world = &mut *run.world.borrow_mut();
            world.weather.faults = false;
            world.weather.silent = Some((1, Duration::from_secs(60)));
            world.insert(0, (0..100).map(|at| format!("k{}", at % 12)));
        }
        run.until(Duration::from_millis(1_500 + 137 * seed));
        // No wake: the version, asked once a second, or the count of the backlog is what meets it.
        run.world.borrow_mut().renumber(0);
        run.until(Duration::from_secs(200));
        run.check();
    }
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
