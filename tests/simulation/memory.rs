//! Memory is nobody's for good: rows of any size, beside lanes that are stuck.

use crate::Run;
use crate::directed::{calm, key_of};
use crate::world::{Away, Kind};
use outboxd::model::{Action, OutboxIx, Request, Wake};
use outboxd::relay::Event;
use outboxd_kafka::partitioner::partition_for_key;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// Seeds of runs with a pot of 9,000 bytes and of 3,000.
const SEEDS: std::ops::Range<u64> = 0..4;

fn wake(run: &mut Run) {
    let seen = run.world.borrow().now();
    run.world.borrow_mut().disk_changed = true;
    run.note(Event::Wake(Wake { seen }));
}

/// Rows with these many bytes more each, in one partition of the first table.
fn insert(run: &Run, partition: i32, bulks: impl IntoIterator<Item = usize>) {
    let world = &mut *run.world.borrow_mut();
    let partitions = world.partitions;
    for bulk in bulks {
        world.insert(0, std::iter::once(key_in(partition, partitions)));
        world.enlarge_last(0, bulk);
    }
}

fn key_in(partition: i32, partitions: i32) -> String {
    let there = |key: &String| partition_for_key(key.as_bytes(), partitions) == partition;
    (0..100_000).map(|at| format!("k{at}")).find(there).expect("murmur2 reaches every partition")
}

/// How many rows of the first table wait for this partition.
fn waiting(run: &Run, partition: i32) -> usize {
    let world = run.world.borrow();
    let of = |key: &Option<String>| key.as_ref().map(|key| partition_for_key(key.as_bytes(), world.partitions));
    world.db.tables[0].values().filter(|row| of(&row.key) == Some(partition)).count()
}

/// A run whose topics have so many partitions, all of them away but the first.
fn mostly_away(seed: u64, partitions: i32, silent_for: Option<Duration>) -> Run {
    let run = calm(seed, Kind::Sure);
    {
        let world = &mut *run.world.borrow_mut();
        world.partitions = partitions;
        world.away = Away { partitions: (1..partitions).collect(), until: Duration::from_secs(40), silent_for };
    }
    run
}

#[test]
fn a_row_larger_than_memory_goes_wherever_it_stands() {
    for seed in SEEDS {
        let mut run = calm(seed, Kind::Sure);
        insert(&run, 1, [0; 50].into_iter().chain([15_000]).chain([0; 50]).chain([10_000, 9_000, 8_000, 15_000, 0]));
        run.until(Duration::from_secs(5));
        assert_eq!(waiting(&run, 1), 0, "seed {seed}");
        run.until(Duration::from_secs(300));
        run.check();
    }
}

#[test]
fn a_row_too_large_for_its_topic_is_set_aside_and_holds_up_nobody() {
    for seed in SEEDS {
        let mut run = calm(seed, Kind::Sure);
        run.world.borrow_mut().batch_limit = Some(2_000);
        insert(&run, 1, [0; 50].into_iter().chain([15_000]).chain([0; 50]).chain([5_000]).chain([0; 50]));
        run.until(Duration::from_secs(5));
        assert_eq!(waiting(&run, 1), 2, "seed {seed}");
        assert_eq!(run.world.borrow().state.quarantine.len(), 2, "seed {seed}");
    }
}

#[test]
fn what_waits_for_its_broker_leaves_the_others_their_memory() {
    let sick: [(i32, &[usize]); 3] = [(51, &[700; 3]), (17, &[5_000]), (5, &[15_000, 0])];
    for (partitions, bulks) in sick {
        for seed in SEEDS {
            let mut run = mostly_away(seed, partitions, None);
            for partition in 1..partitions {
                insert(&run, partition, bulks.iter().copied());
            }
            run.until(Duration::from_secs(10));
            insert(&run, 0, [0, 800, 4_000, 8_000, 15_000].into_iter().chain([0; 100]));
            wake(&mut run);
            run.until(Duration::from_secs(15));
            assert_eq!(waiting(&run, 0), 0, "{partitions} partitions, seed {seed}");
            run.until(Duration::from_secs(80));
            assert_eq!(run.world.borrow().db.tables[0].len(), 0, "{partitions} partitions, seed {seed}");
            run.check();
        }
    }
}

#[test]
fn what_may_have_been_stored_leaves_the_others_their_memory() {
    for (partitions, bulks) in [(9, [700; 3].as_slice()), (5, &[5_000]), (4, &[15_000, 0])] {
        for seed in SEEDS {
            let mut run = mostly_away(seed, partitions, Some(Duration::from_secs(2)));
            for partition in 1..partitions {
                insert(&run, partition, bulks.iter().copied());
            }
            run.until(Duration::from_secs(25));
            insert(&run, 0, [0, 800, 4_000, 8_000, 15_000].into_iter().chain([0; 100]));
            wake(&mut run);
            run.until(Duration::from_secs(39));
            assert_eq!(waiting(&run, 0), 0, "{partitions} partitions, seed {seed}");
            run.until(Duration::from_secs(120));
            assert_eq!(run.world.borrow().db.tables[0].len(), 0, "{partitions} partitions, seed {seed}");
            run.check();
        }
    }
}

#[test]
fn a_batch_that_cannot_be_read_again_holds_up_no_other() {
    for seed in SEEDS {
        let mut run = mostly_away(seed, 17, None);
        for partition in 1..17 {
            for table in [1, 0] {
                let world = &mut *run.world.borrow_mut();
                world.insert(table, std::iter::once(key_in(partition, 17)));
                world.enlarge_last(table, 5_000);
            }
        }
        run.until(Duration::from_secs(30));
        run.world.borrow_mut().missing = Some((1, Duration::from_secs(300)));
        run.until(Duration::from_secs(100));
        assert_eq!(run.world.borrow().db.tables[0].len(), 0, "seed {seed}");
        assert_eq!(run.world.borrow().db.tables[1].len(), 16, "seed {seed}: they can't be read");
        run.until(Duration::from_secs(400));
        run.check();
    }
}

#[test]
fn rows_that_changed_while_their_bytes_were_given_back_are_not_sent_under_the_old_triple() {
    for silent_for in [None, Some(Duration::from_secs(1))] {
        for seed in 0..20 {
            let mut run = mostly_away(seed, 9, silent_for);
            for partition in 1..9 {
                insert(&run, partition, [300, 300]);
            }
            run.until(Duration::from_secs(20));
            {
                let world = &mut *run.world.borrow_mut();
                let rowids: Vec<i64> = world.db.tables[0].keys().copied().collect();
                for rowid in rowids {
                    match world.random.u32(0..4) {
                        0 => drop(world.rewrite_row(0, rowid)),
                        1 => world.remove_row(0, rowid),
                        _ => {}
                    }
                }
                world.fates.values_mut().for_each(|fate| fate.out_of_order = true);
            }
            wake(&mut run);
            run.until(Duration::from_secs(120));
            run.check();
        }
    }
}

#[test]
fn what_came_meanwhile_goes_behind_the_rows_of_a_batch_that_changed() {
    for seed in 0..20 {
        let mut run = mostly_away(seed, 21, None);
        for partition in 1..21 {
            insert(&run, partition, [700, 700, 700]);
        }
        // Noticed by a look that somebody else's rows led to.
        run.until(Duration::from_secs(20));
        for partition in 0..21 {
            insert(&run, partition, [0, 0]);
        }
        wake(&mut run);
        run.until(Duration::from_secs(25));
        {
            let world = &mut *run.world.borrow_mut();
            let third: Vec<i64> = world.db.tables[0].keys().copied().take(60).skip(1).step_by(3).collect();
            for rowid in third {
                world.remove_row(0, rowid);
            }
        }
        wake(&mut run);
        run.until(Duration::from_secs(120));
        run.check();
    }
}

#[test]
fn a_stopped_topic_whose_rows_were_all_removed_takes_those_that_come_later() {
    for seed in SEEDS {
        let mut run = calm(seed, Kind::Sure);
        {
            let world = &mut *run.world.borrow_mut();
            (world.partitions, world.batch_limit) = (1, Some(10));
        }
        insert(&run, 0, [0; 30]);
        run.until(Duration::from_secs(20));
        {
            let world = &mut *run.world.borrow_mut();
            let rowids: Vec<i64> = world.db.tables[0].keys().copied().collect();
            for rowid in rowids {
                world.remove_row(0, rowid);
            }
        }
        wake(&mut run);
        run.until(Duration::from_secs(200));
        run.world.borrow_mut().batch_limit = None;
        insert(&run, 0, [0; 5]);
        wake(&mut run);
        run.until(Duration::from_secs(240));
        assert_eq!(waiting(&run, 0), 0, "seed {seed}");
        run.check();
    }
}

#[test]
fn a_waiting_row_that_is_rewritten_to_lead_nowhere_is_set_aside() {
    for seed in 0..10 {
        for after in [900, 1_300, 2_100, 4_000] {
            let mut run = calm(seed, Kind::Sure);
            {
                let world = &mut *run.world.borrow_mut();
                world.weather.silent = Some((1, Duration::from_secs(3)));
                world.insert(1, std::iter::repeat_n(key_of(1), 3));
            }
            run.until(Duration::from_millis(after));
            if !run.world.borrow().db.tables[1].contains_key(&2) {
                continue;
            }
            run.world.borrow_mut().rewrite_row(1, 2).nowhere = true;
            wake(&mut run);
            run.until(Duration::from_secs(80));
            let world = run.world.borrow();
            assert_eq!(world.db.tables[1].keys().copied().collect::<Vec<i64>>(), [2]);
            assert_eq!(world.state.quarantine.len(), 1, "seed {seed}, after {after} ms");
        }
    }
}

#[test]
fn a_row_in_quarantine_that_is_rewritten_into_another_bad_one_stays_in_the_list() {
    let mut run = calm(1, Kind::Sure);
    run.world.borrow_mut().insert(1, std::iter::once(key_of(1)));
    run.world.borrow_mut().rewrite_row(1, 1).nowhere = true;
    run.until(Duration::from_secs(3));
    let listed = |run: &Run| run.world.borrow().state.quarantine.values().map(|row| row.print).collect::<Vec<_>>();
    let before = listed(&run);
    assert_eq!(before.len(), 1);
    run.world.borrow_mut().rewrite_row(1, 1).nowhere = true;
    wake(&mut run);
    run.until(Duration::from_secs(6));
    assert_eq!(listed(&run).len(), 1);
    assert_ne!(listed(&run), before, "it is the new one");
}

#[test]
fn the_oldest_row_of_a_well_outbox_is_not_that_of_another() {
    let mut run = mostly_away(2, 3, None);
    insert(&run, 1, [0]);
    run.until(Duration::from_secs(30));
    {
        // Waits for a partition that is away, too, and since now.
        let world = &mut *run.world.borrow_mut();
        world.insert(1, std::iter::once(key_of(1)));
    }
    wake(&mut run);
    run.until(Duration::from_secs(33));
    let oldest = |at: usize| run.figures.outboxes[at].oldest_seen_ms.load(Relaxed);
    assert!(oldest(0) > 25_000, "{}", oldest(0));
    assert!(oldest(1) < 5_000, "{}", oldest(1));
}

/// Requests that everything in quarantine of the first table is sent again.
fn retry_all(run: &Run, id: i64) {
    let request = Request { id, action: Action::Retry, outbox: OutboxIx(0), rowid: None };
    run.world.borrow_mut().requests.push(request);
}

#[test]
fn rows_too_large_in_a_row_do_not_stop_their_topic_for_good() {
    for seed in SEEDS {
        for partitions in [1, 3] {
            let mut run = calm(seed, Kind::Sure);
            run.world.borrow_mut().batch_limit = Some(2_000);
            for partition in 0..partitions {
                insert(&run, partition, [3_000; 14].into_iter().chain([0; 50]));
            }
            run.until(Duration::from_secs(40));
            let world = run.world.borrow();
            let large = 14 * partitions as usize;
            assert_eq!(world.db.tables[0].len(), large, "seed {seed}, {partitions} partitions");
            assert_eq!(world.state.quarantine.len(), large, "seed {seed}, {partitions} partitions");
        }
    }
}

#[test]
fn what_an_operator_retries_in_vain_is_in_quarantine_again_and_stops_nobody() {
    for seed in SEEDS {
        let mut run = calm(seed, Kind::Sure);
        run.world.borrow_mut().batch_limit = Some(2_000);
        insert(&run, 1, [3_000, 0].into_iter().cycle().take(28));
        run.until(Duration::from_secs(5));
        assert_eq!(run.world.borrow().state.quarantine.len(), 14, "seed {seed}");
        retry_all(&run, 1);
        run.until(Duration::from_secs(10));
        assert_eq!(run.world.borrow().answers, [1]);
        assert_eq!(run.world.borrow().state.quarantine.len(), 14, "seed {seed}");
        insert(&run, 1, [0; 10]);
        wake(&mut run);
        run.until(Duration::from_secs(12));
        assert_eq!(waiting(&run, 1), 14, "seed {seed}");
        // Mended.
        run.world.borrow_mut().batch_limit = None;
        run.world.borrow_mut().fates.values_mut().for_each(|fate| fate.out_of_order = true);
        retry_all(&run, 2);
        run.until(Duration::from_secs(100));
        run.check();
    }
}

#[test]
fn a_topic_that_takes_no_record_for_its_size_sets_none_aside() {
    for seed in SEEDS {
        let mut run = calm(seed, Kind::Sure);
        run.world.borrow_mut().batch_limit = Some(10);
        for partition in 0..3 {
            insert(&run, partition, [0, 300, 50, 3_000, 20].into_iter().cycle().take(40));
        }
        run.until(Duration::from_secs(200));
        assert_eq!(run.world.borrow().state.quarantine.len(), 0, "seed {seed}");
        assert_eq!(run.world.borrow().db.tables[0].len(), 120, "seed {seed}");
        run.world.borrow_mut().batch_limit = None;
        run.until(Duration::from_secs(300));
        run.check();
    }
}

#[test]
fn bad_rows_in_a_row_do_not_stop_their_topic_for_good() {
    for seed in SEEDS {
        let mut run = calm(seed, Kind::Sure);
        for _ in 0..30 {
            insert(&run, 1, [0]);
            run.world.borrow_mut().poison_last();
        }
        insert(&run, 1, [0; 100]);
        run.until(Duration::from_secs(60));
        assert_eq!(waiting(&run, 1), 30, "seed {seed}");
        assert_eq!(run.world.borrow().state.quarantine.len(), 30, "seed {seed}");
    }
}

/// Rows of the first table, in one partition: the keys, and whether the broker rejects them.
fn insert_keys(run: &Run, rows: impl IntoIterator<Item = (usize, bool)>) {
    let world = &mut *run.world.borrow_mut();
    world.partitions = 1;
    for (key, bad) in rows {
        world.insert(0, std::iter::once(format!("k{key}")));
        if bad {
            world.poison_last();
        }
    }
}

/// Once the broker takes them, rows of a stopped topic go in the order of their keys: what was tried in vain just before that is neither
/// overtaken nor, while there are others to be tried, in quarantine.
#[test]
fn a_topic_that_is_mended_while_its_records_are_tried_gets_them_in_order() {
    for (keys, rows) in [(1, 40), (3, 60), (60, 120)] {
        for seed in 0..20 {
            let mut run = calm(seed, Kind::Sure);
            {
                let weather = &mut run.world.borrow_mut().weather;
                (weather.closed_until, weather.closed_code) = (Some(Duration::MAX), 87);
            }
            insert_keys(&run, (0..rows).map(|at| (at % keys, false)));
            run.until(Duration::from_secs(25));
            let rejected = |run: &Run| run.figures.rejected.load(Relaxed);
            let before = rejected(&run);
            while rejected(&run) == before {
                let next = run.world.borrow().elapsed + Duration::from_millis(1);
                assert!(next < Duration::from_secs(40), "it is tried every 30 s (seed {seed})");
                run.until(next);
            }
            let mended = run.world.borrow().elapsed + Duration::from_millis(7 * seed);
            run.world.borrow_mut().weather.closed_until = Some(mended);
            run.until(mended + Duration::from_secs(120));
            let aside = run.world.borrow().state.quarantine.len();
            assert!(aside < 32 && (keys < 60 || aside == 0), "{aside} rows of {keys} keys (seed {seed})");
            run.check();
        }
    }
}

/// One partition begins with a bad row, so that the other one's turn is always second: its first row is tried first all the same.
#[test]
fn a_topic_that_is_mended_between_two_rounds_gets_the_rows_of_each_partition_in_order() {
    let (bad, good) = (0..9).map(|at| (at, partition_for_key(format!("k{at}").as_bytes(), 2))).fold(
        (None, None),
        |(zero, one), (at, partition)| if partition == 0 { (zero.or(Some(at)), one) } else { (zero, one.or(Some(at))) },
    );
    for seed in 0..10 {
        let mut run = calm(seed, Kind::Sure);
        {
            let weather = &mut run.world.borrow_mut().weather;
            (weather.closed_until, weather.closed_code) = (Some(Duration::MAX), 87);
        }
        let rows = std::iter::once((bad.unwrap(), true)).chain((0..60).map(|_| (good.unwrap(), false)));
        insert_keys(&run, rows);
        run.world.borrow_mut().partitions = 2;
        run.until(Duration::from_secs(110 + seed));
        run.world.borrow_mut().weather.closed_until = None;
        run.until(Duration::from_secs(300));
        assert_eq!(run.world.borrow().state.quarantine.len(), 1, "seed {seed}");
        run.check();
    }
}

/// So many records are tried every 30 s, the first one among them.
#[test]
fn a_stopped_topic_finds_its_way_back_whatever_its_keys_begin_with() {
    let cases: [&[(usize, bool)]; 4] = [
        // Bad ones at the head of every key.
        &[(0, true), (1, true), (2, true)].repeat(12),
        // More of one key than are tried in a row.
        &[[(0, true)].repeat(40), [(1, true)].repeat(2)].concat(),
        &[(0, true), (1, true), (2, true), (3, true), (4, true), (5, true)].repeat(10),
        // More than that at the head of every key.
        &[(0, true), (1, true), (2, true), (3, true), (4, true), (5, true)].repeat(40),
    ];
    for bad in cases {
        for seed in SEEDS {
            let mut run = calm(seed, Kind::Sure);
            insert_keys(&run, bad.iter().copied().chain((0..60).map(|at| (at % 6, false))));
            run.until(Duration::from_secs(30 * (bad.len() as u64 / 31 + 2)));
            let world = run.world.borrow();
            assert_eq!(world.db.tables[0].len(), bad.len(), "{} bad ones, seed {seed}", bad.len());
            assert_eq!(world.state.quarantine.len(), bad.len(), "{} bad ones, seed {seed}", bad.len());
        }
    }
}

/// One bad record at the head of each key, and too many of them to be tried in one round.
#[test]
fn a_stopped_topic_finds_its_way_back_past_the_first_records_of_many_keys_and_lanes() {
    for (keys, partitions) in [(168, 4), (40, 40)] {
        for seed in SEEDS {
            let mut run = calm(seed, Kind::Sure);
            insert_keys(&run, (0..keys).map(|key| (key, true)).chain((0..keys).map(|key| (key, false))));
            run.world.borrow_mut().partitions = partitions;
            run.until(Duration::from_secs(600));
            let world = run.world.borrow();
            let left = (world.db.tables[0].len(), world.state.quarantine.len());
            assert_eq!(left, (keys, keys), "{partitions} partitions, seed {seed}");
        }
    }
}
