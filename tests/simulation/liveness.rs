//! P11: nothing stands still. Once the sink takes records and the source can be read, every row is published and deleted in time.

use crate::Run;
use crate::cost::{BESIDE_A_READER, HUNG};
use crate::world::{Away, Kind};
use outboxd::model::JournalMode;
use outboxd_kafka::partitioner::partition_for_key;
use std::collections::HashMap;
use std::time::Duration;

/// What the storm has hurt is well by then: a stopped topic is tried every 30 s, and each record in it that is bad by itself is
/// found by a try of its own.
const WELL_AFTER: Duration = Duration::from_secs(40);
/// Records that a topic rejects just after it has accepted others are theirs to answer for, up to a hundred of them: they are held for
/// so long, and here leave no room for others.
const DOUBTED_FOR: Duration = Duration::from_secs(60);
/// What is committed later is published so soon. A commit that nobody announced is noticed once a second, and one that became visible
/// just after the database was let go when every promise would have been kept: after two.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(4);
/// What is told of is published so soon.
const PROMPTLY: Duration = Duration::from_millis(200);
/// A published row is deleted so soon, beside nobody.
const DELETED_WITHIN: Duration = Duration::from_secs(1);
/// Rows that wait for a sink that hangs.
const BACKLOG: usize = 3_000;

impl Run {
    /// Every version that was to be published and deleted since the faults have ended was so in time.
    pub fn check_liveness(&self) {
        let world = self.world.borrow();
        let doubted = if world.closed_for_itself { DOUBTED_FOR } else { Duration::ZERO };
        let (seed, well) = (self.seed, world.calm + WELL_AFTER + doubted);
        let mut stored: HashMap<u64, Duration> = HashMap::new();
        for entry in world.logs.values().flat_map(|log| &log.entries) {
            for uid in entry.uids.iter().filter(|uid| **uid != crate::STRANGER) {
                let first = stored.entry(*uid).or_insert(entry.at);
                *first = entry.at.min(*first);
            }
        }
        for (uid, at) in stored {
            let fate = world.fates[&uid];
            let due = fate.committed.max(well) + PUBLISHED_WITHIN;
            assert!(at <= due, "P11: version {uid} was published at {at:?}, not by {due:?} (seed {seed})");
            let due = at.max(well) + DELETED_WITHIN;
            let gone = fate.deleted_at;
            assert!(gone <= due, "P11: version {uid} was deleted at {gone:?}, not by {due:?} (seed {seed})");
        }
    }
}

/// A daemon at work, no faults, and rows that wait.
fn backlog(seed: u64, rows: usize) -> Run {
    let run = Run::new(seed);
    {
        let world = &mut *run.world.borrow_mut();
        world.calm_down();
        world.insert(0, (0..rows).map(|at| format!("k{}", at % 12)));
    }
    run
}

/// Commits to other tables of the database, so many a second, for so many seconds.
fn neighbour(run: &mut Run, a_second: u32, seconds: u64) {
    let begun = run.world.borrow().elapsed;
    for at in 0..a_second * seconds as u32 {
        run.until(begun + Duration::from_secs(1) * at / a_second);
        run.foreign_commit();
    }
    run.until(begun + Duration::from_secs(seconds));
}

#[test]
fn a_sink_that_hangs_over_a_backlog_costs_next_to_nothing() {
    let mut run = backlog(1, BACKLOG);
    run.world.borrow_mut().hung_until = Duration::from_secs(400);
    run.until(Duration::from_secs(30));
    let before = run.meter();
    neighbour(&mut run, 10, 60);
    run.within("a minute beside a hung sink", before, HUNG);
    let end = Duration::from_secs(440);
    run.until(end);
    run.check();
}

#[test]
fn a_reader_that_never_ends_costs_little_and_delays_nothing_for_long() {
    for mode in [JournalMode::Wal] {
        let mut run = backlog(1, 0);
        {
            let world = &mut *run.world.borrow_mut();
            world.mode = mode;
            world.read_until = Duration::from_secs(200);
        }
        run.until(Duration::from_secs(2));
        let before = run.meter();
        for second in 3..63 {
            run.world.borrow_mut().insert(0, [format!("k{}", second % 12)]);
            run.announce();
            run.until(Duration::from_secs(second));
        }
        run.within("a minute beside a reader", before, BESIDE_A_READER);
        {
            let world = run.world.borrow();
            let late = world.fates.iter().filter(|(_, fate)| fate.deleted_at > fate.committed + Duration::from_secs(1));
            assert_eq!(late.count(), 0, "rows lay for more than a second: {:?}", world.fates);
        }
        run.until(Duration::from_secs(300));
        run.check();
    }
}

/// It reads, thinks and then writes, a hundred times a second: what we commit meanwhile is what SQLite refuses it for.
#[test]
fn an_application_with_moments_between_its_transactions_only_is_not_disturbed_in_them() {
    let mut run = backlog(1, 0);
    run.world.borrow_mut().transactions = Some(Duration::from_millis(10));
    run.until(Duration::from_secs(2));
    for second in 3..23 {
        run.world.borrow_mut().insert(0, [format!("k{}", second % 12)]);
        neighbour(&mut run, 100, 1);
    }
    {
        let world = run.world.borrow();
        assert!(world.deletes >= 15, "{} deletes", world.deletes);
        assert_eq!(world.intrusions, 0, "of {} deletes", world.deletes);
    }
    run.world.borrow_mut().transactions = None;
    run.until(Duration::from_secs(300));
    run.check();
}

/// Opening costs the schema, the statements and the pages that were read: a backlog is drained with an opening for each delete, at most.
#[test]
fn a_backlog_that_nobody_else_looks_at_is_drained_without_opening_the_database_again_and_again() {
    let mut run = backlog(1, 3 * BACKLOG);
    {
        let world = &mut *run.world.borrow_mut();
        (world.mode, world.company) = (JournalMode::Wal, Some(false));
        world.slower_by = Duration::from_millis(40);
    }
    run.until(Duration::from_secs(60));
    let world = run.world.borrow();
    assert_eq!(world.db.tables[0].len(), 0);
    let (opened, deletes) = (world.connection, world.deletes);
    assert!(opened <= deletes + 5, "opened {opened} times for {deletes} deletes");
}

/// How a commit of an application comes to be known of.
#[derive(Clone, Copy, Debug)]
enum Told {
    /// It is visible when the watch sees the write.
    Visible,
    /// The watch sees the write, a sync takes its time.
    BeforeVisible,
    /// By nobody: the net below the watch is asked once a second.
    Not,
    /// Its row takes the place of one that is on its way.
    ByADelete,
    /// The same of one that is rejected.
    ByARejection,
}

/// Beside a sink and an application that are well, nothing waits for longer than what tells of it.
pub fn nothing_waits_that_is_told_of(seed: u64) {
    let mut run = backlog(seed, 0);
    run.world.borrow_mut().kind = Kind::Sure;
    run.until(Duration::from_secs(2));
    for round in 0..30 {
        let told = [Told::Visible, Told::BeforeVisible, Told::Not, Told::ByADelete, Told::ByARejection][round % 5];
        let (key, pause, late) = {
            let random = &mut run.world.borrow_mut().random;
            let pause = if random.bool() { random.u64(1..200) } else { random.u64(1..8_000) };
            (
                format!("k{}", random.u32(0..12)),
                Duration::from_millis(pause),
                Duration::from_micros(random.u64(1..30_000)),
            )
        };
        let begun = run.world.borrow().elapsed + pause;
        run.until(begun);
        let within = match told {
            Told::Visible => {
                run.world.borrow_mut().insert(0, [key]);
                run.announce();
                PROMPTLY
            }
            Told::BeforeVisible => {
                run.announce();
                run.until(begun + late);
                run.world.borrow_mut().insert(0, [key]);
                late + PROMPTLY
            }
            Told::Not => {
                run.world.borrow_mut().insert(0, [key]);
                Duration::from_secs(1) + PROMPTLY
            }
            Told::ByADelete | Told::ByARejection => {
                run.world.borrow_mut().insert(0, [key]);
                if matches!(told, Told::ByARejection) {
                    run.world.borrow_mut().poison_last();
                }
                run.announce();
                run.until(begun + late / 20);
                run.world.borrow_mut().rewrite(0);
                run.foreign_commit();
                // It follows the delete, which may wait for a moment in which it disturbs nobody.
                2 * PROMPTLY
            }
        };
        run.until(begun + within);
        let world = run.world.borrow();
        let published =
            world.logs.values().flat_map(|log| &log.entries).any(|entry| entry.uids.contains(&(world.next_uid - 1)));
        assert!(
            published,
            "not in {within:?} ({told:?}, {late:?} after a pause of {pause:?}, round {round}, seed {seed})"
        );
    }
    run.check();
}

#[test]
fn nothing_waits_that_somebody_tells_of() {
    for seed in 0..40 {
        nothing_waits_that_is_told_of(seed);
    }
}

/// The rows above it are deleted before the sweep has come to it: the cursor falls to below it, or to nothing.
pub fn rows_below_are_found(seed: u64) {
    for at in 0..30 {
        for stays in [false, true] {
            let mut run = backlog(seed, 0);
            run.world.borrow_mut().kind = Kind::Sure;
            run.until(Duration::from_secs(2));
            if stays {
                run.world.borrow_mut().insert(0, ["k1".to_owned()]);
                run.world.borrow_mut().poison_last();
                run.announce();
                run.until(Duration::from_secs(70));
            }
            let begun = run.world.borrow().elapsed;
            // Something else has just been swept for.
            run.world.borrow_mut().insert(0, (0..4).map(|key| format!("k{key}")));
            run.foreign_commit();
            run.until(begun + Duration::from_micros(500) * at);
            run.world.borrow_mut().insert_low(0);
            run.foreign_commit();
            run.until(begun + PUBLISHED_WITHIN);
            let left = run.world.borrow().db.tables[0].len();
            assert_eq!(left, usize::from(stays), "inserted {at} half milliseconds later (seed {seed})");
        }
    }
}

#[test]
fn a_row_below_the_others_is_found_when_they_are_deleted_meanwhile() {
    for seed in 0..4 {
        rows_below_are_found(seed);
    }
}

/// Rows of a partition that is away lie between: the sweep is many reads long.
#[test]
fn a_row_below_the_others_is_found_beside_somebody_who_locks_often() {
    let mut run = backlog(1, 0);
    {
        let world = &mut *run.world.borrow_mut();
        (world.kind, world.partitions, world.locked_one_in) = (Kind::Sure, 2, 5);
        let away = 1 - partition_for_key(b"k1", 2);
        world.away = Away { partitions: vec![away], until: Duration::from_secs(400), silent_for: None };
        let of_it = (0..100).map(|at| format!("k{at}")).find(|key| partition_for_key(key.as_bytes(), 2) == away);
        world.insert(0, vec![of_it.expect("murmur2 reaches every partition"); 2_000]);
    }
    run.announce();
    run.until(Duration::from_secs(20));
    run.world.borrow_mut().replace_at(0, 1_900, "k1");
    run.announce();
    run.until(Duration::from_secs(30));
    assert!(!run.world.borrow().db.tables[0].contains_key(&1_900), "it lies there for ten seconds");
}

#[test]
fn a_row_below_the_others_is_found_beside_a_table_that_is_away() {
    let mut run = backlog(1, 0);
    {
        let world = &mut *run.world.borrow_mut();
        world.kind = Kind::Sure;
        for table in 0..2 {
            world.insert(table, ["k1".to_owned()]);
            world.poison_last_of(table);
        }
    }
    run.announce();
    run.until(Duration::from_secs(100));
    run.world.borrow_mut().missing = Some((0, Duration::from_secs(400)));
    run.foreign_commit();
    run.until(Duration::from_secs(110));
    run.world.borrow_mut().insert_low(1);
    run.foreign_commit();
    run.until(Duration::from_secs(110) + PUBLISHED_WITHIN);
    assert_eq!(run.world.borrow().db.tables[1].len(), 1, "the one that is rejected");
}

#[test]
fn a_commit_that_is_nobodys_costs_one_read_transaction_for_all_outboxes() {
    let mut run = backlog(1, 20);
    run.world.borrow_mut().insert(1, (0..20).map(|at| format!("k{}", at % 12)));
    run.until(Duration::from_secs(20));
    let before = run.meter();
    neighbour(&mut run, 10, 60);
    let looks = (run.meter() - before).looks;
    // With one for each there would be 1,200.
    assert!((600..700).contains(&looks), "{looks} for 600 commits");
    run.until(Duration::from_secs(300));
    run.check();
}
