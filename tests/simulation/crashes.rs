//! Crashes: a daemon that dies at any step, and the one that follows it, on what it finds.

use crate::ports::{append, contents};
use crate::world::{Happening, Kind, Parcel};
use crate::{Run, STORM, STRANGER};
use outboxd::model::{PlanState, RowKey};
use outboxd::relay::planted;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Leaders forget a producer a day after its last batch.
const DAY: Duration = Duration::from_secs(86_400);
/// Requests of a dead process that are still on their way arrive within this time.
const LATE_MAX_US: u64 = 3_000_000;

/// How a daemon ends, and what has changed when the next one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Killed,
    PowerCut,
    /// The machine stays off for more than a day.
    DayOff,
    /// The state file is put back to an older copy.
    OldState,
    /// The next one is given another Kafka cluster.
    OtherCluster,
}

impl Run {
    /// The next daemon, on what this one left.
    pub fn again(self, same_boot: bool) -> Run {
        {
            let world = &mut *self.world.borrow_mut();
            world.unsure_rows += self.figures.unsure_rows.load(Relaxed);
            world.dead = false;
            world.fuse = None;
            world.open = false;
            world.disk_changed = true;
            // Rejected by a topic that rejected everything, and not yet known to be at fault or not: what came behind may have
            // overtaken them, and they are read as new.
            let planned: Vec<RowKey> =
                world.state.plans.values().flat_map(|plan| &plan.rows).map(|row| row.key).collect();
            let planned: Vec<u64> = planned.into_iter().filter_map(|key| world.uid_at(key)).collect();
            world.excuse(planned);
            for uid in &world.closed_out {
                world.fates.entry(*uid).or_default().out_of_order = true;
            }
            let agenda = std::mem::take(&mut world.agenda);
            for (at, what) in agenda {
                match what {
                    Happening::Answer(parcel) => orphan(world, parcel),
                    Happening::Sink(_) | Happening::Testify(_) | Happening::Wake(_) => {}
                    other => drop(world.agenda.insert(at, other)),
                }
            }
            world.plan(Duration::ZERO, Happening::App);
        }
        Run::on(self.world, self.seed, same_boot)
    }
}

/// A request of a dead process: lost, arrived, or arriving at last.
fn orphan(world: &mut crate::world::World, parcel: Parcel) {
    match world.random.u32(0..3) {
        0 => {}
        1 => drop(append(world, &parcel, &contents(&parcel.rows))),
        _ => {
            let after = world.micros(0..LATE_MAX_US);
            world.plan(after, Happening::LateCopy(parcel));
        }
    }
}

/// Up to four daemons on one world, all but the last of which die.
pub fn crash_and_recover(seed: u64) {
    let mut run = Run::new(seed);
    run.world.borrow_mut().plan(Duration::ZERO, Happening::App);
    let deaths = run.world.borrow_mut().random.u32(1..4);
    for _ in 0..deaths {
        let (until, end) = {
            let world = &mut *run.world.borrow_mut();
            let steps = if world.random.bool() { world.random.u32(1..60) } else { world.random.u32(1..3_000) };
            world.fuse = Some(steps);
            let end = match world.random.u32(0..12) {
                0 | 1 => End::PowerCut,
                2 => End::DayOff,
                // An old state file may take new rows of a bare table for old ones: that is said in docs/operating.md.
                3 if world.kind != Kind::Bare => End::OldState,
                4 => End::OtherCluster,
                _ => End::Killed,
            };
            if end == End::PowerCut {
                world.expect_power_cut();
            }
            if end == End::OldState {
                world.state_copy = Some(world.state.clone());
            }
            (world.elapsed + STORM, end)
        };
        let died = run.ends_by(until);
        assert!(!died || run.world.borrow().dead, "a daemon ends only because it is killed (seed {seed})");
        die(&run, end, seed);
        run = run.again(end != End::PowerCut && end != End::DayOff);
    }
    run.world.borrow_mut().calm_down();
    run.settle();
    if std::env::var_os("OUTBOXD_TRACE").is_some() {
        println!("{:#?}", run.relay);
    }
    run.check();
}

fn die(run: &Run, end: End, seed: u64) {
    let world = &mut *run.world.borrow_mut();
    if std::env::var_os("OUTBOXD_TRACE").is_some() {
        println!(
            "{:?} {end:?}; plans {:?}",
            world.elapsed,
            world.state.plans.values().map(|plan| (plan.id, plan.state)).collect::<Vec<_>>()
        );
    }
    if world.weather.faults && world.random.u32(0..8) == 0 {
        world.partitions = 5;
        world.grown = true;
    }
    // By dice of its own: schedules that were found stay what they were.
    let mut dice = fastrand::Rng::with_seed(seed ^ world.runs << 48);
    if world.weather.faults && dice.u32(0..4) == 0 {
        let (table, away_for) = (dice.usize(0..world.db.tables.len()), dice.u64(1_000..3_000_000));
        world.missing = Some((table, world.elapsed + Duration::from_micros(away_for)));
    }
    world.may_drop_column(2);
    world.weather.forbidden = world.weather.faults && world.random.u32(0..8) == 0;
    match end {
        End::Killed => {}
        End::PowerCut => {
            world.power_cut(seed);
            world.excuse_all();
        }
        End::OtherCluster => change_cluster(world),
        End::DayOff => {
            world.excuse_all();
            // By then nothing is on its way any more, and nobody remembers us.
            let agenda = std::mem::take(&mut world.agenda);
            for (at, what) in agenda {
                match what {
                    Happening::Answer(_) | Happening::LateCopy(_) => {}
                    Happening::Thaw { topic, partition, .. } => {
                        world.logs.entry((topic, partition)).or_default().catch_up();
                    }
                    other => drop(world.agenda.insert((at.0 + DAY, at.1), other)),
                }
            }
            world.elapsed += DAY;
            for log in world.logs.values_mut() {
                log.forget_producers();
                if world.random.u32(0..4) == 0 {
                    log.cut();
                }
            }
        }
        End::OldState => {
            if let Some(copy) = world.state_copy.take() {
                world.state = copy;
                world.state_synced = world.state.clone();
            }
            // What the old file does not know is sent as new, or again: said in the log, and not counted one by one.
            let sent: Vec<u64> = world.sent.values().flatten().copied().collect();
            world.again.extend(sent);
        }
    }
}

/// A cluster of the same shape, in which others may have written under the very numbers that are in flight to the first.
fn change_cluster(world: &mut crate::world::World) {
    world.cluster = format!("cluster {}", world.runs + 1).into();
    for (_, mut log) in std::mem::take(&mut world.logs) {
        log.catch_up();
        world.old_logs.push(log);
    }
    // Connections to the first end with their process.
    world
        .agenda
        .retain(|_, what| !matches!(what, Happening::Answer(_) | Happening::LateCopy(_) | Happening::Thaw { .. }));
    if world.random.u32(0..4) == 0 {
        // Producer ids begin alike everywhere.
        world.next_producer = 1_000;
        return;
    }
    let planned: Vec<_> = world.state.plans.values().filter(|plan| plan.state == PlanState::Planned).cloned().collect();
    let at = world.elapsed;
    for plan in planned {
        let log = world.logs.entry((plan.target.topic.to_string(), plan.target.partition)).or_default();
        let rows = vec![STRANGER; plan.rows.len() + plan.rows_elsewhere];
        let (producer, epoch, first) = (plan.triple.producer_id, plan.triple.epoch, plan.triple.first_sequence);
        // No cluster gives a number to two.
        world.next_producer = world.next_producer.max(producer + 1);
        let _ = match world.random.u32(0..3) {
            0 if first > 0 => log.append(at, &[STRANGER], producer, epoch, first - 1),
            0 | 1 => log.append(at, &rows, producer, epoch, first),
            _ => {
                let _ = log.append(at, &rows, producer, epoch, first);
                log.append(at, &[STRANGER], producer, epoch, first + rows.len() as i32)
            }
        };
    }
}

#[test]
fn crashes_lose_nothing_and_double_nothing_that_is_not_counted() {
    if let Ok(seed) = std::env::var("OUTBOXD_CRASH_SEED") {
        env_logger::builder().is_test(true).init();
        return crash_and_recover(seed.parse().expect("OUTBOXD_CRASH_SEED is a number"));
    }
    assert!(!planted::any());
    crate::schedules("OUTBOXD_CRASH_SEED", crate::schedule_count(), crash_and_recover);
}

/// Each of these broke a promise once: a kept row whose name was lost, a batch that was never forgotten, a row that overtook others of
/// its key.
const ONCE_BROKEN: &[u64] = &[775_761_751_979, 20_555, 20_449, 21_284, 23_374, 904_307_989_548, 1_796_141_508_299];

#[test]
fn schedules_that_once_broke_a_promise_keep_it() {
    for seed in ONCE_BROKEN {
        crash_and_recover(*seed);
    }
}
