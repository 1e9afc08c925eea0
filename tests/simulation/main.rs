//! The relay's decisions in a simulated world: random schedules, faults and answers, all from one seed.
//!
//! `OUTBOXD_SCHEDULES` sets how many schedules are run (default 300), `OUTBOXD_SEED` runs just that one.

mod broker;
mod cost;
mod crashes;
mod directed;
mod episodes;
mod liveness;
mod memory;
mod planted;
mod ports;
mod state;
mod world;

use outboxd::model::{JournalMode, PlanId, RunId, SinkEvent, Wake};
use outboxd::relay::route::{Route, TemplatePart, TopicTemplate};
use outboxd::relay::{Event, Limits, Relay, RelaySpec};
use outboxd::telemetry::figures::Figures;
use outboxd_kafka::partitioner::partition_for_key;
use ports::{Shared, SimClock, SimJournal, SimSink, SimSource, answer, append, contents, testify};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use world::{Happening, Kind, World};

type SimRelay = Relay<SimSource, SimJournal, SimSink, SimClock>;

const TABLES: usize = 2;
/// How long the application writes and faults happen.
const STORM: Duration = Duration::from_secs(4);
/// How long it writes now and then after that.
const SPARSE: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(8);
/// By then everything must be settled: suspects are believed after a minute, a stopped topic is tried every 30 s.
const CALM: Duration = Duration::from_secs(280);
/// Then nothing changes and the relay is at rest.
const REST: Duration = Duration::from_secs(120);
/// A relay whose deadline is always now, and that does nothing, burns a core.
const IDLE_TURNS_MAX: u32 = 20_000;
const HELD_ROWS_MAX: usize = 60;
/// A record that somebody else wrote.
const STRANGER: u64 = u64::MAX;
/// A hundred times smaller than they are.
const BATCH_BYTES_MAX: usize = 900;
const HELD_BYTES_MAX: usize = 9_000;
const RECORD_BYTES_MAX: usize = 16_000;

struct Run {
    seed: u64,
    world: Shared,
    relay: SimRelay,
    figures: Arc<Figures>,
    /// Of batches that an earlier daemon left: no more than three daemons' worth. What it held, what it had deleted and not synced, and
    /// what the one before had left it.
    left_rows: usize,
}

impl Run {
    fn new(seed: u64) -> Run {
        Run::on(Rc::new(RefCell::new(World::new(seed, TABLES))), seed, true)
    }

    /// A daemon that starts in a world as it is.
    fn on(world: Shared, seed: u64, same_boot: bool) -> Run {
        let (left, first_plan, run) = {
            let world = &mut *world.borrow_mut();
            world.state.last_plan += 1;
            world.runs += 1;
            world.given.clear();
            (world.state.left(same_boot), PlanId(world.state.last_plan + 1), RunId(u128::from(world.runs)))
        };
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
        let left_rows = left.plans.iter().map(|plan| plan.rows.len()).sum();
        let limits = Limits {
            batch_bytes_max: BATCH_BYTES_MAX,
            record_bytes_max: RECORD_BYTES_MAX,
            held_rows_max: HELD_ROWS_MAX,
            // What waits for a broker fits, or it has to be read again.
            held_bytes_max: if seed.is_multiple_of(2) { HELD_BYTES_MAX } else { HELD_BYTES_MAX / 3 },
            retry_backoff: Duration::from_millis(5),
            retry_backoff_max: Duration::from_millis(80),
            ..Limits::default()
        };
        let spec = RelaySpec {
            run,
            first_plan,
            routes: vec![route("a", TopicTemplate::Literal("users".to_owned())), route("b", template)],
            limits,
            clock_floor: world.borrow().clock_floor,
            left,
            // No two daemons throw the same dice.
            seed: seed.wrapping_add((run.0 as u64 - 1) << 32),
        };
        let relay = Relay::new(
            SimSource::new(world.clone()),
            SimJournal(world.clone()),
            SimSink(world.clone()),
            SimClock(world.clone()),
            spec,
            figures.clone(),
        );
        assert!(left_rows <= 3 * HELD_ROWS_MAX, "P5: {left_rows} rows left (seed {seed})");
        Run { seed, world, relay, figures, left_rows }
    }

    /// Lets time pass until `end`.
    fn until(&mut self, end: Duration) {
        assert!(!self.ends_by(end), "seed {}: the relay ended", self.seed);
    }

    /// Lets time pass until `end`, or until the relay has drained.
    fn ends_by(&mut self, end: Duration) -> bool {
        let mut idle_turns = 0;
        loop {
            let result = self.relay.work();
            self.world.borrow_mut().meter.turns += 1;
            if self.world.borrow().dead {
                return true;
            }
            if result.expect("no invariant is broken") {
                return true;
            }
            self.world.borrow_mut().watch_the_log();
            let held = self.figures.held_rows.load(Relaxed) as usize;
            let lanes = self.world.borrow().partitions as usize * TABLES;
            let rows_max = 2 * HELD_ROWS_MAX + lanes * 32;
            assert!(held <= rows_max + self.left_rows, "P5: {held} rows held (seed {})", self.seed);
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
                    let world = &mut *self.world.borrow_mut();
                    let contents = contents(&parcel.rows);
                    let appended = append(world, &parcel, &contents);
                    if std::env::var_os("OUTBOXD_TRACE").is_some() {
                        println!("{:?} a late copy of plan {}: {appended:?}", world.elapsed, parcel.plan.0);
                    }
                    // Rows of it were rejected meanwhile, with everything else, also under the epoch that would fence its late copy.
                    let unfenced = contents.iter().any(|(uid, _)| world.closed_out.contains(uid));
                    for (uid, _) in &contents {
                        // What the application has removed or rewritten since is not sent again under that epoch.
                        let fate = world.fates.entry(*uid).or_default();
                        fate.out_of_order |= unfenced || fate.withdrawn;
                    }
                }
                Happening::Testify(question) => self.testify(&question),
                Happening::Thaw { topic, partition, new_leader } => {
                    let world = &mut *self.world.borrow_mut();
                    let log = world.logs.entry((topic, partition)).or_default();
                    if new_leader {
                        log.change_leader();
                    }
                    log.catch_up();
                }
            }
        }
    }

    fn testify(&mut self, question: &broker::Question) {
        let evidence = testify(&mut self.world.borrow_mut(), question);
        if std::env::var_os("OUTBOXD_TRACE").is_some() {
            println!("{:?} plan {}: {evidence:?}", self.world.borrow().elapsed, question.plan.0);
        }
        let event = if let Some(evidence) = evidence {
            SinkEvent::Evidence { batch: question.plan, evidence }
        } else {
            let world = &mut *self.world.borrow_mut();
            let after = world.micros(1_000..300_000);
            world.plan(after, Happening::Testify(question.clone()));
            let why = outboxd::model::Why::new("its leader can't say yet");
            SinkEvent::NoEvidence { batch: question.plan, why }
        };
        self.note(Event::Sink(event));
    }

    fn note(&mut self, event: Event) {
        if self.world.borrow().dead {
            return;
        }
        self.relay.note(event).expect("no invariant is broken");
    }

    /// The watch has seen a commit.
    pub fn announce(&mut self) {
        let seen = {
            let world = &mut *self.world.borrow_mut();
            world.disk_changed = true;
            world.now()
        };
        self.note(Event::Wake(Wake { seen }));
    }

    /// Another table of the database has changed.
    pub fn foreign_commit(&mut self) {
        self.world.borrow_mut().counter += 1;
        self.announce();
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
            world.close(Duration::from_millis(700));
        }
        if world.chance(300) {
            let partition = world.random.i32(0..world.partitions);
            world.weather.confused = Some((partition, world.elapsed + Duration::from_millis(600)));
        }
        if world.chance(150) && !world.logs.is_empty() {
            let at = world.random.usize(0..world.logs.len());
            let (topic, partition) = world.logs.keys().nth(at).cloned().expect("below the length");
            world.logs.get_mut(&(topic.clone(), partition)).expect("just seen").stuck = true;
            let (after, new_leader) = (world.micros(1_000..2_000_000), world.random.bool());
            world.plan(after, Happening::Thaw { topic, partition, new_leader });
        }
    }

    fn answer(&mut self, parcel: &world::Parcel) {
        let (outcome, at) = {
            let world = &mut *self.world.borrow_mut();
            (answer(world, parcel), world.now())
        };
        if std::env::var_os("OUTBOXD_TRACE").is_some() {
            let uids: Vec<u64> = contents(&parcel.rows).iter().map(|(uid, _)| *uid).collect();
            let rowids: Vec<i64> = parcel.rows.meta.iter().map(|meta| meta.key.rowid).collect();
            let elapsed = self.world.borrow().elapsed;
            let messages: Vec<u64> = parcel.rows.meta.iter().map(|meta| meta.message).collect();
            println!(
                "{elapsed:?} plan {} {}-{} epoch {} sequence {}: versions {uids:?} rowids {rowids:?} messages {messages:?}: {outcome:?}",
                parcel.plan.0, parcel.topic, parcel.partition, parcel.epoch, parcel.first
            );
        }
        self.note(Event::Sink(SinkEvent::Outcome { batch: parcel.plan, outcome, at }));
    }

    /// Whatever was hurt gets well, then nothing changes.
    fn settle(&mut self) {
        let end = self.world.borrow().elapsed + CALM;
        self.until(end);
        self.minutes(REST.as_secs() as u32 / 60, cost::AT_REST);
        self.check_liveness();
    }

    /// P1 to P8, as far as they show at the end: what was committed is in the logs, once or counted as unsure, in order, and only what
    /// has to stay is left.
    fn check(&self) {
        let world = self.world.borrow();
        let seed = self.seed;
        let mut published: HashMap<u64, usize> = HashMap::new();
        let mut order: HashMap<(usize, String), u64> = HashMap::new();
        for log in world.old_logs.iter().chain(world.logs.values()) {
            for uid in log.entries.iter().flat_map(|entry| &entry.uids).filter(|uid| **uid != STRANGER) {
                let times = published.entry(*uid).or_default();
                *times += 1;
                let (table, version) = &world.versions[uid];
                let fate = world.fates[uid];
                let exempt = fate.out_of_order || world.grown || world.again.contains(uid) || *times > 1;
                let Some(key) = version.key.clone().filter(|_| !exempt) else { continue };
                let last = order.entry((*table, key)).or_default();
                assert!(*last < *uid, "P3: {uid} after {last} of key {:?} (seed {seed})", version.key);
                *last = *uid;
            }
        }
        let (mut left, mut doubled, mut copies) = (0, Vec::new(), 0);
        let mut strays: Vec<u64> = world.db.tables.iter().flat_map(|table| table.values()).map(|row| row.uid).collect();
        for (uid, (_, version)) in &world.versions {
            let times = published.get(uid).copied().unwrap_or(0);
            let fate = world.fates[uid];
            if times > 1 && !world.again.contains(uid) {
                doubled.push(*uid);
                copies += times - 1;
                let excuses = fate.excuses as usize;
                assert!(
                    times <= 1 + excuses,
                    "version {uid} was published {times} times, for {excuses} faults that touched it (seed {seed})"
                );
            }
            let set_aside = times == 0 && world.closed_out.contains(uid);
            if version.is_bad() {
                assert_eq!(times, 0);
            } else if !fate.withdrawn && !set_aside {
                assert!(times >= 1, "P2: version {uid} was published {times} times: {fate:?} (seed {seed})");
            }
            let stays = version.is_bad() || version.kept || set_aside;
            let there = world.db.tables.iter().flat_map(|table| table.values()).any(|row| row.uid == *uid);
            if times > 0 && there && world.closed_out.contains(uid) && !fate.withdrawn {
                // Set aside, and then a late copy of its batch was stored after all.
                left += 1;
                strays.retain(|stray| stray != uid);
            } else if stays && !fate.withdrawn {
                assert!(there, "P7: {version:?} left its table (seed {seed})");
                left += 1;
                strays.retain(|stray| stray != uid);
            } else if !fate.withdrawn {
                assert!(!there, "version {uid} is still there: {fate:?} (seed {seed})");
            }
        }
        let unsure = world.unsure_rows + self.figures.unsure_rows.load(Relaxed);
        assert!(
            copies as u64 <= unsure,
            "P2: {doubled:?} were published more than once, {copies} times too many, and {unsure} were counted as unsure (seed {seed})"
        );
        // Of what can't be deleted no message id is kept.
        let may_be_renamed = |uid: &u64| world.again.contains(uid) || world.versions[uid].1.kept;
        let renamed: Vec<&u64> = world.renamed.iter().filter(|uid| !may_be_renamed(uid)).collect();
        assert!(renamed.is_empty(), "{renamed:?} were sent again under other message ids (seed {seed})");
        assert_eq!(self.figures.held_bytes.load(Relaxed), 0, "all memory was given back (seed {seed})");
        let rows: usize = world.db.tables.iter().map(std::collections::BTreeMap::len).sum();
        assert_eq!(rows, left, "P6, P7: nothing else is left in the tables: {strays:?} (seed {seed})");
        let open: Vec<u64> = world.state.plans.keys().map(|plan| plan.0).collect();
        assert!(open.is_empty(), "plans are forgotten: {open:?} (seed {seed})");
        let resends = &world.state.resends;
        assert!(resends.is_empty(), "message ids of rows to be sent again are forgotten: {resends:?} (seed {seed})");
    }
}

fn run(seed: u64) {
    let mut run = Run::new(seed);
    // What is opened anew is swept: a relay that is never let go must do without.
    run.world.borrow_mut().company = seed.is_multiple_of(2).then_some(true);
    run.world.borrow_mut().plan(Duration::ZERO, Happening::App);
    run.until(STORM);
    run.world.borrow_mut().calm_down();
    run.settle();
    if std::env::var_os("OUTBOXD_TRACE").is_some() {
        println!("{:#?}", run.relay);
    }
    run.check();
}

/// SIGTERM at any time, then a daemon that starts again.
fn drain_and_restart(seed: u64) {
    let mut run = Run::new(seed);
    run.world.borrow_mut().company = None;
    run.world.borrow_mut().plan(Duration::ZERO, Happening::App);
    let at = run.world.borrow_mut().micros(0..4_000_000);
    run.until(at);
    let until = run.world.borrow().now() + DRAIN;
    run.note(Event::Drain { until });
    assert!(run.ends_by(at + DRAIN + Duration::from_millis(1)), "the drain ends in time (seed {seed})");
    assert_eq!(run.relay.summary().left_acknowledged, 0, "what was acknowledged is deleted (seed {seed})");
    assert!(!run.world.borrow().open);
    run.world.borrow_mut().calm_down();
    let mut run = run.again(true);
    run.settle();
    run.check();
}

#[test]
fn a_drain_at_any_time_loses_and_doubles_nothing() {
    if let Ok(seed) = std::env::var("OUTBOXD_DRAIN_SEED") {
        env_logger::builder().is_test(true).init();
        return drain_and_restart(seed.parse().expect("OUTBOXD_DRAIN_SEED is a number"));
    }
    schedules("OUTBOXD_DRAIN_SEED", schedule_count() / 3, drain_and_restart);
}

#[test]
fn an_idle_database_is_opened_only_for_what_differs_and_then_waits_for_the_promised_commit() {
    let mut run = Run::new(1);
    run.world.borrow_mut().weather.faults = false;
    run.world.borrow_mut().company = Some(true);
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
    assert!(run.world.borrow().db.tables[0].is_empty(), "found as soon as it was visible");
    run.until(Duration::from_secs(30));
    assert!(!run.world.borrow().open, "it is let go again");
}

#[test]
fn a_database_that_nobody_else_has_open_is_let_go_within_a_tenth_of_a_second() {
    // Whatever is under way: nothing, batches that nobody answers, rows that wait for their delete.
    for (at, silent) in [(0, None), (1, None), (5, Some(1)), (300, None), (700, Some(0)), (3_000, Some(2))] {
        for seed in 0..20 {
            let mut run = Run::new(seed);
            {
                let world = &mut *run.world.borrow_mut();
                (world.weather.faults, world.mode, world.company) = (false, JournalMode::Wal, Some(true));
                world.weather.silent = silent.map(|partition| (partition, Duration::from_secs(60)));
            }
            run.until(Duration::from_secs(2));
            run.world.borrow_mut().insert(0, (0..150).map(|at| format!("k{}", at % 12)));
            let wake = |run: &mut Run| {
                let seen = run.world.borrow().now();
                run.world.borrow_mut().disk_changed = true;
                run.note(Event::Wake(Wake { seen }));
            };
            wake(&mut run);
            run.until(Duration::from_millis(2_000 + at));
            run.world.borrow_mut().company = Some(false);
            wake(&mut run);
            let left = run.world.borrow().elapsed;
            run.world.borrow_mut().exposed = None;
            // Long after, too: no delete of ours stays in the log.
            run.until(left + Duration::from_secs(20));
            let longest = run.world.borrow().longest_exposed;
            assert!(longest < Duration::from_millis(100), "{longest:?} (after {at} ms, seed {seed})");
            assert!(!run.world.borrow().open);
            let connections = run.world.borrow().connection;
            run.until(left + Duration::from_secs(40));
            let opened = run.world.borrow().connection - connections;
            assert!(opened <= 2, "opened {opened} times with nothing to do (seed {seed})");
            run.until(Duration::from_secs(200));
            run.check();
        }
    }
}

#[test]
fn a_commit_that_takes_long_to_become_visible_is_found_when_it_does() {
    for seconds in [1, 3, 8, 30] {
        for seed in 0..5 {
            let mut run = Run::new(seed);
            {
                let world = &mut *run.world.borrow_mut();
                (world.weather.faults, world.company, world.disk_changed) = (false, Some(true), true);
            }
            run.until(Duration::from_secs(10));
            // Written and announced; then a sync, and nothing more is announced.
            run.world.borrow_mut().plan(Duration::from_secs(seconds), Happening::Visible);
            run.world.borrow_mut().disk_changed = true;
            let seen = run.world.borrow().now();
            run.note(Event::Wake(Wake { seen }));
            let before = run.meter();
            run.until(Duration::from_millis((10 + seconds) * 1_000 - 1));
            let turns = run.meter().turns - before.turns;
            assert!(turns < 400 + 60 * seconds, "{turns} turns in {seconds} s");
            run.until(Duration::from_secs(10 + seconds) + Duration::from_millis(900));
            let world = run.world.borrow();
            let left = world.db.tables.iter().map(std::collections::BTreeMap::len).sum::<usize>();
            assert_eq!(left, 0, "{left} rows wait after {seconds} s (seed {seed})");
        }
    }
}

#[test]
fn renumbered_rows_are_found_again_whichever_question_hears_of_it_first() {
    for seed in 0..20 {
        let mut run = Run::new(seed);
        {
            let world = &mut *run.world.borrow_mut();
            world.kind = Kind::Sure;
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
        let left = run.world.borrow().db.tables[0].values().filter(|row| of(&row.key) != Some(1)).count();
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
    schedules("OUTBOXD_SEED", schedule_count(), run);
}

/// How many schedules are run.
fn schedule_count() -> u64 {
    std::env::var("OUTBOXD_SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(300)
}

/// Runs so many schedules from a seed on; `variable` repeats one of them.
fn schedules(variable: &str, count: u64, run: fn(u64)) {
    let base = std::env::var("OUTBOXD_SEED_BASE").ok().and_then(|seed| seed.parse().ok());
    let base = base.unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("seeds {base} to {}", base + count - 1);
    for seed in base..base + count {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "seed {seed} failed: run it alone with {variable}={seed}");
    }
}
