//! Schedules that chance hardly ever comes to, each set up on purpose.

use crate::world::{Away, Happening, Kind, World};
use crate::{HELD_BYTES_MAX, Run, TABLES};
use outboxd::model::{Action, Booked, LeftPlan, LeftRow, OutboxIx, PlanId, PlanState, Request, RowKey, RunId};
use outboxd::model::{Target, Triple, Wake};
use outboxd::relay::Event;
use outboxd_kafka::partitioner::partition_for_key;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

const END: Duration = Duration::from_secs(300);

pub fn calm(seed: u64, kind: Kind) -> Run {
    let run = Run::new(seed);
    {
        let world = &mut *run.world.borrow_mut();
        world.kind = kind;
        world.traits.bare = kind != Kind::Sure;
        world.weather.faults = false;
    }
    run
}

/// A key whose records go to this partition.
pub fn key_of(partition: i32) -> String {
    let there = |key: &String| partition_for_key(key.as_bytes(), 3) == partition;
    (0..1_000).map(|at| format!("k{at}")).find(there).expect("murmur2 reaches every partition")
}

/// What an earlier run left of the row of the first table under this rowid: a batch of its own, acknowledged.
fn published_before(world: &World, rowid: i64) -> LeftPlan {
    let print = world.print(rowid, &world.db.tables[0][&rowid]);
    LeftPlan {
        id: PlanId(rowid as u64),
        target: Target { topic: "users".into(), partition: 0 },
        triple: Triple { producer_id: 7, epoch: 0, first_sequence: rowid as i32 - 1 },
        run: RunId(99),
        noted_offset: 0,
        leader_epoch: 0,
        cluster: None,
        first_attempt: SystemTime::UNIX_EPOCH,
        state: PlanState::Acknowledged { offset: 0 },
        rows: vec![LeftRow { key: RowKey { outbox: OutboxIx(0), rowid }, print, message: rowid as u64 }],
        rows_elsewhere: 0,
        other_file: false,
        guessed: false,
        other_boot: false,
    }
}

/// A delete that happened and whose COMMIT said nothing, and new rows that look like the ones that are gone.
fn come_back_alike(seed: u64) -> Run {
    let run = calm(seed, Kind::Bare);
    {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, std::iter::repeat_n(key_of(1), 6));
        world.unknown = true;
    }
    run
}

/// The next daemon, beside an application that does nothing more.
fn again_alone(run: Run) -> Run {
    let run = run.again(true);
    run.world.borrow_mut().agenda.retain(|_, what| !matches!(what, Happening::App));
    run
}

#[test]
fn the_doubt_about_a_delete_outlives_a_crash() {
    for steps in 1..30 {
        let mut run = come_back_alike(u64::from(steps));
        run.world.borrow_mut().fuse_then = Some(steps);
        run.ends_by(Duration::from_secs(3));
        let mut run = again_alone(run);
        run.until(END);
        run.check();
    }
}

#[test]
fn the_doubt_about_a_delete_outlives_a_vacuum() {
    for seed in 0..10 {
        let mut run = come_back_alike(seed);
        run.world.borrow_mut().renumbered_then = true;
        run.until(END);
        run.check();
    }
}

/// A migration that makes a table unfit for a moment: its published rows are neither gone nor changed.
#[test]
fn published_rows_of_a_table_that_is_unfit_for_a_moment_wait_and_hold_up_nobody() {
    for kind in [Kind::Sure, Kind::Bare, Kind::Booked] {
        let mut run = calm(1, kind);
        {
            let world = &mut *run.world.borrow_mut();
            world.agenda.retain(|_, what| !matches!(what, Happening::App));
            world.insert(0, std::iter::repeat_n(key_of(1), 6));
            world.insert(1, std::iter::repeat_n(key_of(1), 6));
            world.unfit = Some((1, Duration::from_secs(9)));
        }
        run.until(Duration::from_secs(8));
        {
            let world = run.world.borrow();
            assert!(world.db.tables[0].is_empty(), "{kind:?}: the others are deleted");
            assert_eq!(world.db.tables[1].len(), 6, "{kind:?}");
            let noted = world.state.plans.values().filter(|plan| plan.rows[0].key.outbox == OutboxIx(1));
            let states: Vec<PlanState> = noted.map(|plan| plan.state).collect();
            assert!(
                !states.is_empty() && states.iter().all(|it| matches!(it, PlanState::Acknowledged { .. })),
                "{states:?}"
            );
        }
        run.until(Duration::from_secs(20));
        assert!(run.world.borrow().db.tables[1].is_empty(), "{kind:?}");
        assert_eq!(run.relay.summary().published, 12, "{kind:?}: nothing twice");
        assert_eq!(run.relay.summary().unsure, 0, "{kind:?}");
        run.check();
    }
}

/// Six rows were published, and their delete has to wait until the time that is given back.
fn published_and_locked(seed: u64, kind: Kind) -> (Run, Duration) {
    let mut run = calm(seed, kind);
    // The topic is open by then.
    run.until(Duration::from_secs(1));
    run.world.borrow_mut().insert(0, std::iter::repeat_n(key_of(1), 6));
    run.announce();
    run.until(Duration::from_millis(1_001));
    let locked_until = Duration::from_millis(1_200);
    run.world.borrow_mut().locked_until = locked_until;
    run.until(Duration::from_millis(1_100));
    assert_eq!(run.relay.summary().published, 6);
    (run, locked_until)
}

#[test]
fn rows_that_wait_for_their_delete_while_a_column_is_dropped_are_sent_again_under_their_message_ids() {
    for kind in [Kind::Bare, Kind::Booked] {
        for seed in 0..10 {
            let (mut run, locked_until) = published_and_locked(seed, kind);
            assert_eq!(run.world.borrow().db.tables[0].len(), 6, "{kind:?}");
            run.world.borrow_mut().drop_column();
            run.announce();
            run.until(locked_until + Duration::from_millis(3));
            // Again, perhaps before all rows of the first time were found.
            run.world.borrow_mut().drop_column();
            run.announce();
            run.until(END);
            let (published, unsure) = (run.relay.summary().published, run.relay.summary().unsure);
            assert!((6..=12).contains(&unsure), "{kind:?}: {unsure} of {published}");
            run.check();
        }
    }
}

#[test]
fn message_ids_outlive_a_crash_and_a_dropped_column() {
    for kind in [Kind::Bare, Kind::Booked] {
        for steps in 1..40 {
            let (mut run, locked_until) = published_and_locked(u64::from(steps), kind);
            run.world.borrow_mut().drop_column();
            run.announce();
            run.until(locked_until);
            run.world.borrow_mut().fuse = Some(steps);
            run.ends_by(Duration::from_secs(3));
            if steps % 3 == 0 {
                run.world.borrow_mut().drop_column();
            }
            run.world.borrow_mut().dead = true;
            let mut run = again_alone(run);
            run.until(END);
            run.check();
        }
    }
}

#[test]
fn rows_on_their_way_whose_bytes_were_given_back_keep_their_message_ids_when_a_column_is_dropped() {
    for kind in [Kind::Bare, Kind::Booked] {
        for silent_for in [None, Some(Duration::from_millis(50))] {
            // Of these the memory is smaller than the row.
            for seed in (1..20).step_by(2) {
                let mut run = calm(seed, kind);
                let away_until = Duration::from_secs(9);
                {
                    let world = &mut *run.world.borrow_mut();
                    world.away = Away { partitions: vec![0, 1, 2], until: away_until, silent_for };
                    world.insert(0, std::iter::once(key_of(1)));
                    world.enlarge_last(0, HELD_BYTES_MAX / 2);
                }
                run.until(Duration::from_secs(3));
                run.world.borrow_mut().drop_column();
                run.announce();
                run.until(END);
                // What was never with a broker is sent as if for the first time.
                assert_eq!(run.relay.summary().unsure, u64::from(silent_for.is_some()), "{kind:?}, {seed}");
                run.check();
            }
        }
    }
}

/// A disk that fails again and again, under a table whose rows can come back alike.
#[test]
fn a_commit_that_says_nothing_again_and_again_publishes_nothing_more_than_twice() {
    let mut run = calm(1, Kind::Bare);
    {
        let world = &mut *run.world.borrow_mut();
        world.agenda.retain(|_, what| !matches!(what, Happening::App));
        world.insert(0, std::iter::repeat_n(key_of(1), 6));
        world.broken_until = Duration::from_secs(50);
    }
    run.until(Duration::from_secs(5));
    run.world.borrow_mut().insert(0, std::iter::repeat_n(key_of(2), 6));
    let seen = run.world.borrow().now();
    run.note(Event::Wake(Wake { seen }));
    run.until(Duration::from_secs(50));
    let published = run.relay.summary().published;
    assert!((12..=24).contains(&published), "{published} records of 12 rows");
    assert_eq!(run.world.borrow().db.tables[0].len(), 12);
    run.until(Duration::from_secs(200));
    assert!(run.world.borrow().db.tables[0].is_empty(), "once the disk is well they go");
    assert!(run.relay.summary().published <= 36, "{:?}", run.relay.summary());
    assert!(run.world.borrow().state.plans.is_empty());
}

#[test]
fn a_disk_that_fails_for_an_hour_is_tried_rarely() {
    let mut run = calm(1, Kind::Bare);
    {
        let world = &mut *run.world.borrow_mut();
        world.agenda.retain(|_, what| !matches!(what, Happening::App));
        world.insert(0, std::iter::repeat_n(key_of(1), 6));
        world.broken_until = Duration::from_secs(3_600);
    }
    run.until(Duration::from_secs(3_600));
    let published = run.relay.summary().published;
    assert!((12..=6 * 12).contains(&published), "{published} records of 6 rows");
    run.until(Duration::from_secs(2 * 3_600 + 60));
    assert!(run.world.borrow().db.tables[0].is_empty());
}

#[test]
fn deletes_that_meet_a_reader_for_long_use_up_no_numbers_of_the_next_run() {
    let mut run = calm(1, Kind::Bare);
    {
        let world = &mut *run.world.borrow_mut();
        world.agenda.retain(|_, what| !matches!(what, Happening::App));
        world.insert(0, std::iter::repeat_n(key_of(1), 6));
        world.busy_until = Duration::from_secs(900);
    }
    run.until(Duration::from_secs(910));
    let world = run.world.borrow();
    assert!(world.db.tables[0].is_empty());
    // The first plan of the next run is at least one above this run's last.
    let next = (world.state.last_plan + 1) << 15;
    assert!(world.state.last_delete > 0 && world.state.last_delete < next, "{} {next}", world.state.last_delete);
}

#[test]
fn the_highest_rowid_there_can_be_stays_in_quarantine() {
    let mut run = calm(1, Kind::Sure);
    let key = RowKey { outbox: OutboxIx(0), rowid: i64::MAX };
    {
        let world = &mut *run.world.borrow_mut();
        world.agenda.retain(|_, what| !matches!(what, Happening::App));
        world.insert(0, std::iter::repeat_n(key_of(1), 1));
        let mut row = world.db.tables[0].remove(&1).expect("the first");
        row.poison = true;
        world.versions.get_mut(&row.uid).expect("every version is known").1.poison = true;
        world.db.tables[0].insert(i64::MAX, row);
    }
    run.until(Duration::from_secs(70));
    assert!(run.world.borrow().state.quarantine.contains_key(&key));
    for second in 71..80 {
        // It is looked at while the database is open.
        run.world.borrow_mut().insert(1, std::iter::once(key_of(1)));
        let seen = run.world.borrow().now();
        run.note(Event::Wake(Wake { seen }));
        run.until(Duration::from_secs(second));
        assert!(run.world.borrow().state.quarantine.contains_key(&key), "after {second} s");
    }
}

/// Our own commits wake nobody.
#[test]
fn an_event_that_a_trigger_inserts_in_our_delete_is_looked_for_at_once() {
    let mut run = calm(1, Kind::Sure);
    {
        let world = &mut *run.world.borrow_mut();
        world.agenda.retain(|_, what| !matches!(what, Happening::App));
        world.insert(0, std::iter::repeat_n(key_of(1), 3));
        world.triggers = 1;
    }
    run.until(Duration::from_secs(2));
    let world = run.world.borrow();
    assert_eq!(world.triggers, 0);
    assert!(world.db.tables[0].is_empty() && world.is_stored(4), "it would be come to when the database is let go");
}

#[test]
fn what_an_earlier_run_booked_stays_booked_as_long_as_the_state_file_holds_it() {
    let world = Rc::new(RefCell::new(World::new(1, TABLES)));
    {
        let world = &mut *world.borrow_mut();
        world.kind = Kind::Booked;
        world.traits.bare = true;
        world.weather.faults = false;
        let key = key_of(0);
        // Plan 1 was deleted and its row has come back alike; plan 2 was not deleted yet.
        world.insert(0, [key.clone(), key]);
        // The one that came back was inserted last.
        world.fates.values_mut().for_each(|fate| fate.out_of_order = true);
        let log = world.logs.entry(("users".to_owned(), 0)).or_default();
        let _ = log.append(Duration::ZERO, &[2], 7, 0, 0);
        for rowid in 1..=2 {
            let plan = published_before(world, rowid);
            world.state.plans.insert(plan.id, plan);
        }
        world.state.last_plan = 2;
        world.db.booked = Some(Booked { plans: vec![PlanId(1)], highest: PlanId(2) });
    }
    let mut run = Run::on(world, 1, true);
    run.until(END);
    run.check();
}

#[test]
fn what_was_dealt_with_beside_an_outbox_no_longer_configured_deletes_nothing_later() {
    let mut run = calm(1, Kind::Bare);
    let plan = {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, std::iter::once(key_of(0)));
        let _ = world.logs.entry(("users".to_owned(), 0)).or_default().append(Duration::ZERO, &[1], 7, 0, 0);
        let plan = LeftPlan { rows_elsewhere: 1, ..published_before(world, 1) };
        world.state.plans.insert(plan.id, plan);
        world.state.last_plan = 1;
        PlanId(1)
    };
    run = Run::on(run.world.clone(), 1, true);
    run.until(Duration::from_secs(3));
    {
        let world = &mut *run.world.borrow_mut();
        assert!(world.db.tables[0].is_empty(), "it was published");
        assert!(world.state.plans.contains_key(&plan), "the other outbox's row is kept in mind");
        // The same rowid and the same content.
        world.insert(0, std::iter::once(key_of(0)));
        world.dead = true;
    }
    let mut run = again_alone(run);
    run.until(END);
    assert!(run.world.borrow_mut().state.plans.remove(&plan).is_some());
    run.check();
}

/// What a source can't say is a bug: a relay that went on with it would go on with whatever else is wrong.
#[test]
fn a_broken_invariant_ends_the_relay_while_rows_are_looked_for_too() {
    for call in ["look", "booked"] {
        let run = calm(1, Kind::Sure);
        {
            let world = &mut *run.world.borrow_mut();
            world.insert(0, std::iter::once(key_of(0)));
            let plan = published_before(world, 1);
            world.state.plans.insert(plan.id, plan);
            world.absurd = Some(call);
        }
        let mut run = Run::on(run.world.clone(), 1, true);
        let ended = (0..100).find_map(|_| run.relay.work().err());
        let fatal = ended.unwrap_or_else(|| panic!("it goes on after an absurd answer to {call}"));
        assert!(fatal.to_string().contains("there was no COMMIT"), "{fatal}");
    }
}

#[test]
fn a_request_is_answered_while_batches_wait_for_their_broker() {
    let mut run = calm(1, Kind::Sure);
    {
        let world = &mut *run.world.borrow_mut();
        world.weather.silent = Some((1, Duration::from_secs(60)));
        world.insert(0, std::iter::once(key_of(1)));
    }
    run.until(Duration::from_secs(3));
    let request = Request { id: 5, action: Action::Retry, outbox: OutboxIx(0), rowid: None };
    run.world.borrow_mut().requests.push(request);
    for second in 4..20 {
        // The application goes on, so that the database is not let go.
        run.world.borrow_mut().insert(0, std::iter::once(key_of(1)));
        run.until(Duration::from_secs(second));
    }
    assert_eq!(run.world.borrow().answers, [5]);
    run.until(END);
    run.check();
}

#[test]
fn a_rejected_batch_of_a_file_that_is_no_more_deletes_nothing_of_the_next_one() {
    for seed in 0..20 {
        let mut run = calm(seed, Kind::Bare);
        let silent_until = Duration::from_secs(2);
        {
            let world = &mut *run.world.borrow_mut();
            world.weather.silent = Some((1, silent_until));
            world.weather.closed_until = Some(silent_until + Duration::from_millis(8));
            let key = key_of(1);
            world.insert(0, std::iter::repeat_n(key, 8));
        }
        run.until(Duration::from_secs(1) + Duration::from_millis(500));
        {
            let world = &mut *run.world.borrow_mut();
            for row in std::mem::take(&mut world.db.tables[0]).into_values() {
                world.fates.get_mut(&row.uid).expect("every version has a fate").withdrawn = true;
            }
            let key = key_of(1);
            world.insert(0, std::iter::repeat_n(key, 8));
            for fate in world.fates.values_mut() {
                fate.out_of_order = true;
            }
            world.another = true;
        }
        run.until(END);
        run.check();
    }
}

#[test]
fn what_was_acknowledged_in_a_table_that_is_no_more_deletes_nothing_of_the_next_one_after_a_crash() {
    for steps in 1..40 {
        let mut run = calm(u64::from(steps), Kind::Bare);
        // The topic is open by then.
        run.until(Duration::from_secs(1));
        run.world.borrow_mut().insert(0, std::iter::repeat_n(key_of(1), 6));
        let seen = run.world.borrow().now();
        run.note(Event::Wake(Wake { seen }));
        run.until(Duration::from_millis(1_001));
        let locked_until = Duration::from_millis(1_200);
        run.world.borrow_mut().locked_until = locked_until;
        run.until(Duration::from_millis(1_100));
        assert!(run.world.borrow().state.plans.values().count() == 1, "acknowledged, and its delete has to wait");
        {
            let world = &mut *run.world.borrow_mut();
            for row in std::mem::take(&mut world.db.tables[0]).into_values() {
                world.fates.get_mut(&row.uid).expect("every version has a fate").withdrawn = true;
            }
            world.insert(0, std::iter::repeat_n(key_of(1), 6));
            world.another = true;
        }
        run.until(Duration::from_millis(1_150));
        assert!(!run.world.borrow().another, "it was heard of");
        run.until(locked_until);
        run.world.borrow_mut().fuse = Some(steps);
        run.ends_by(Duration::from_secs(3));
        // What file and table are is known by their numbers, which are the same.
        let mut run = run.again(true);
        run.until(END);
        run.check();
    }
}

#[test]
fn what_was_published_and_stays_is_not_looked_for_in_another_file() {
    let mut run = calm(1, Kind::Bare);
    let put = |run: &Run| {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, std::iter::once(key_of(1)));
        let row = world.db.tables[0].values_mut().next().expect("just inserted");
        row.uid
    };
    let kept = put(&run);
    {
        let world = &mut *run.world.borrow_mut();
        world.db.tables[0].values_mut().for_each(|row| row.kept = true);
    }
    run.until(Duration::from_secs(2));
    {
        let world = &mut *run.world.borrow_mut();
        world.db.tables[0].clear();
        world.fates.get_mut(&kept).expect("every version has a fate").withdrawn = true;
        world.another = true;
    }
    put(&run);
    run.until(END);
    run.check();
}

#[test]
fn what_an_operator_wanted_deleted_is_not_deleted_again_when_it_may_have_come_back_alike() {
    let mut run = calm(1, Kind::Bare);
    {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, std::iter::once(key_of(1)));
        world.db.tables[0].values_mut().for_each(|row| row.kept = true);
    }
    run.until(Duration::from_secs(2));
    {
        let world = &mut *run.world.borrow_mut();
        // The trigger is gone, and the delete's COMMIT happens and says nothing.
        world.db.tables[0].values_mut().for_each(|row| row.kept = false);
        world.unknown = true;
        world.requests.push(Request { id: 5, action: Action::Discard, outbox: OutboxIx(0), rowid: None });
        world.insert(1, std::iter::once(key_of(1)));
    }
    let seen = run.world.borrow().now();
    run.note(Event::Wake(Wake { seen }));
    run.until(END);
    assert_eq!(run.world.borrow().answers, [5]);
    assert!(!run.world.borrow().unknown, "the delete was tried");
    run.check();
}

#[test]
fn a_bad_row_that_was_mended_while_nothing_else_happens_is_sent() {
    let mut run = calm(1, Kind::Sure);
    let at = |run: &mut Run, second| run.until(Duration::from_secs(second));
    at(&mut run, 1);
    let bad = {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, std::iter::once(key_of(1)));
        let row = world.db.tables[0].values_mut().next().expect("just inserted");
        row.poison = true;
        let uid = row.uid;
        world.versions.get_mut(&uid).expect("every version is known").1.poison = true;
        uid
    };
    let seen = run.world.borrow().now();
    run.note(Event::Wake(Wake { seen }));
    // It was rejected, and is held until it is known whose fault that is.
    at(&mut run, 10);
    {
        let world = &mut *run.world.borrow_mut();
        world.fates.get_mut(&bad).expect("every version has a fate").withdrawn = true;
        world.db.tables[0].clear();
        world.insert(0, std::iter::once(key_of(1)));
        world.disk_changed = true;
    }
    let seen = run.world.borrow().now();
    run.note(Event::Wake(Wake { seen }));
    at(&mut run, 300);
    run.check();
}

#[test]
fn what_was_to_be_sent_again_after_a_power_cut_is_in_doubt_as_long_as_it_is_planned() {
    for steps in 1..60 {
        let mut run = calm(u64::from(steps), Kind::Bare);
        run.world.borrow_mut().insert(0, std::iter::repeat_n(key_of(1), 6));
        run.world.borrow_mut().unknown = true;
        run.world.borrow_mut().fuse_then = Some(1);
        // The delete has happened, what came looks like it, and the note is gone.
        run.ends_by(Duration::from_secs(3));
        run.world.borrow_mut().state.notes.clear();
        let mut run = run.again(false);
        run.world.borrow_mut().fuse = Some(steps);
        run.ends_by(Duration::from_secs(6));
        let mut run = again_alone(run);
        run.until(END);
        run.check();
    }
}

#[test]
fn renumbered_rows_are_found_again_when_the_quarantine_hears_of_it_first() {
    for seed in 0..20 {
        let mut run = calm(seed, Kind::Sure);
        {
            let world = &mut *run.world.borrow_mut();
            world.weather.faults = false;
            world.weather.silent = Some((1, Duration::from_secs(60)));
            world.insert(0, (0..40).map(|at| format!("k{}", at % 12)));
            let last = world.db.tables[0]
                .values_mut()
                .find(|row| row.key.as_ref().is_some_and(|key| partition_for_key(key.as_bytes(), 3) == 0));
            let row = last.expect("some key goes there");
            row.kept = true;
            let uid = row.uid;
            world.versions.get_mut(&uid).expect("every version is known").1.kept = true;
        }
        // The net and the looks at the quarantine drift apart when a look meets a lock.
        run.until(Duration::from_millis(990));
        {
            let world = &mut *run.world.borrow_mut();
            world.locked_until = Duration::from_millis(1_001 + seed);
            world.insert(0, std::iter::once(key_of(2)));
        }
        let seen = run.world.borrow().now();
        run.note(Event::Wake(Wake { seen }));
        run.until(Duration::from_millis(3_995));
        run.world.borrow_mut().renumber(0);
        run.until(Duration::from_secs(200));
        run.check();
    }
}

#[test]
fn what_may_have_been_stored_longer_ago_than_leaders_remember_is_asked_about_before_it_is_sent_again() {
    let mut run = calm(1, Kind::Sure);
    let (topic, partition) = ("users".to_owned(), 1);
    {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, std::iter::once(key_of(partition)));
        // Appended, and answered by a time-out as long as no follower has it.
        world.logs.entry((topic.clone(), partition)).or_default().stuck = true;
    }
    run.until(Duration::from_secs(1));
    {
        let world = &mut *run.world.borrow_mut();
        let log = world.logs.get_mut(&(topic, partition)).expect("the row went there");
        assert_eq!(log.entries.len(), 1);
        log.forget_producers();
        log.catch_up();
        world.elapsed += Duration::from_secs(13 * 3_600);
    }
    let end = run.world.borrow().elapsed + END;
    run.until(end);
    assert_eq!(run.figures.unsure_rows.load(std::sync::atomic::Ordering::Relaxed), 0, "the log could be read");
    run.check();
}

const DAY: Duration = Duration::from_secs(86_400);

/// How many rows have been stored.
fn stored(run: &Run) -> usize {
    run.world.borrow().logs.values().flat_map(|log| &log.entries).map(|entry| entry.uids.len()).sum()
}

fn write(run: &mut Run, rows: usize) {
    let seen = {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, (0..rows).map(|at| format!("k{at}")));
        world.now()
    };
    run.note(Event::Wake(Wake { seen }));
}

fn pass(run: &mut Run, time: Duration) {
    let end = run.world.borrow().elapsed + time;
    run.until(end);
}

#[test]
fn nothing_is_sent_by_a_clock_that_is_older_than_the_program() {
    let run = calm(1, Kind::Sure);
    {
        let world = &mut *run.world.borrow_mut();
        world.wall_start = SystemTime::UNIX_EPOCH + 365 * DAY;
        world.clock_floor = SystemTime::UNIX_EPOCH + 20_000 * DAY;
    }
    let mut run = Run::on(run.world.clone(), 1, true);
    write(&mut run, 10);
    // However long it lasts, and whatever else would be believed by then.
    pass(&mut run, Duration::from_secs(3 * 3_600));
    assert_eq!(stored(&run), 0);
    run.world.borrow_mut().wall_start = SystemTime::UNIX_EPOCH + 20_001 * DAY;
    run.world.borrow_mut().calm_down();
    pass(&mut run, Duration::from_secs(5));
    assert_eq!(stored(&run), 10, "it goes on by itself");
    pass(&mut run, END);
    run.check();
}

#[test]
fn nothing_is_sent_by_a_clock_that_went_back_also_after_a_restart_until_it_is_the_old_one_that_was_wrong() {
    let run = calm(1, Kind::Sure);
    run.world.borrow_mut().wall_start = SystemTime::UNIX_EPOCH + 4_000 * DAY;
    let mut run = Run::on(run.world.clone(), 1, true);
    write(&mut run, 10);
    pass(&mut run, Duration::from_secs(5));
    assert_eq!(stored(&run), 10);
    // What is in flight waits with the rest.
    run.world.borrow_mut().wall_start -= 100 * DAY;
    write(&mut run, 10);
    pass(&mut run, Duration::from_secs(30 * 60));
    assert_eq!(stored(&run), 10);
    let mut run = run.again(true);
    run.world.borrow_mut().agenda.clear();
    write(&mut run, 1);
    pass(&mut run, Duration::from_secs(59 * 60));
    assert_eq!(stored(&run), 10, "a restart proves nothing");
    pass(&mut run, Duration::from_secs(2 * 60));
    assert_eq!(stored(&run), 21, "it has stayed so for an hour");
    run.world.borrow_mut().calm_down();
    // And from now on that is how late it is.
    let mut run = run.again(true);
    run.world.borrow_mut().agenda.clear();
    write(&mut run, 5);
    pass(&mut run, Duration::from_secs(5));
    assert_eq!(stored(&run), 26);
    pass(&mut run, END);
    run.check();
}

#[test]
fn a_batch_is_not_young_by_a_clock_that_went_back() {
    for (back, unsure) in [(Duration::ZERO, 0), (3 * DAY, 1)] {
        let world = Rc::new(RefCell::new(World::new(1, TABLES)));
        {
            let world = &mut *world.borrow_mut();
            world.kind = Kind::Sure;
            world.traits.bare = false;
            world.weather.faults = false;
            world.weather.forbidden = true;
            world.wall_start = SystemTime::UNIX_EPOCH + 4_000 * DAY;
            world.insert(0, std::iter::once(key_of(0)));
            let first_attempt = world.wall_start;
            let plan = LeftPlan { state: PlanState::Planned, first_attempt, ..published_before(world, 1) };
            world.state.plans.insert(plan.id, plan);
            world.state.last_plan = 1;
            world.wall_start -= back;
        }
        let mut run = Run::on(world, 1, true);
        run.until(Duration::from_secs(30));
        run.check();
        assert_eq!(run.figures.unsure_rows.load(std::sync::atomic::Ordering::Relaxed), unsure, "{back:?}");
    }
}

/// What became of rows in flight, and of the other table's, when the daemon was killed and one table is away at the next start.
fn away_at_the_start(seed: u64, kind: Kind, steps: u32, away: Duration) -> Run {
    let mut run = calm(seed, kind);
    run.until(Duration::from_secs(1));
    {
        let world = &mut *run.world.borrow_mut();
        world.insert(0, (0..12).map(|at| format!("k{at}")));
        world.insert(1, (0..12).map(|at| format!("k{at}")));
        world.locked_until = Duration::from_millis(1_000 + 400 * (seed % 2));
        world.fuse = Some(steps);
    }
    let seen = run.world.borrow().now();
    run.note(Event::Wake(Wake { seen }));
    run.ends_by(Duration::from_millis(1_400));
    {
        let world = &mut *run.world.borrow_mut();
        world.dead = true;
        world.missing = Some((1, world.elapsed + away));
        world.locked_until = Duration::ZERO;
    }
    let run = run.again(true);
    run.world.borrow_mut().agenda.retain(|_, what| !matches!(what, Happening::App));
    run
}

#[test]
fn rows_in_flight_of_a_table_that_is_away_at_a_start_wait_for_it_and_the_others_go_on() {
    for kind in [Kind::Sure, Kind::Bare, Kind::Booked] {
        for steps in 1..60 {
            let mut run = away_at_the_start(u64::from(steps), kind, steps, Duration::from_secs(20));
            let begun = run.world.borrow().elapsed;
            let before: Vec<PlanId> = {
                let world = run.world.borrow();
                let of_it = world.state.plans.values().filter(|plan| plan.rows[0].key.outbox == OutboxIx(1));
                let deleted = |plan: &PlanId| world.db.booked.iter().any(|booked| booked.plans.contains(plan));
                of_it.map(|plan| plan.id).filter(|plan| !deleted(plan)).collect()
            };
            run.until(begun + Duration::from_secs(10));
            run.world.borrow_mut().insert(0, (0..12).map(|at| format!("k{at}")));
            let seen = run.world.borrow().now();
            run.note(Event::Wake(Wake { seen }));
            run.until(begun + Duration::from_secs(15));
            {
                let world = run.world.borrow();
                assert!(world.db.tables[0].is_empty(), "the other one goes on ({kind:?}, {steps})");
                assert!(before.iter().all(|plan| world.state.plans.contains_key(plan)), "kept ({kind:?}, {steps})");
            }
            run.until(begun + Duration::from_secs(25));
            assert!(run.world.borrow().db.tables[1].is_empty(), "and then this one ({kind:?}, {steps})");
            run.until(END);
            run.check();
        }
    }
}

#[test]
fn what_was_acknowledged_or_stored_before_a_start_without_its_table_is_not_sent_again() {
    for stored in [PlanState::Acknowledged { offset: 0 }, PlanState::Planned] {
        let run = calm(1, Kind::Sure);
        {
            let world = &mut *run.world.borrow_mut();
            world.insert(1, std::iter::once(key_of(0)));
            let row = world.db.tables[1][&1].clone();
            let key = RowKey { outbox: OutboxIx(1), rowid: 1 };
            let rows = vec![LeftRow { key, print: world.print(1, &row), message: 1 }];
            world.insert(0, std::iter::once(key_of(0)));
            let target = Target { topic: "t-event".into(), partition: 0 };
            let plan = LeftPlan { rows, target, state: stored, ..published_before(world, 1) };
            world.remove_row(0, 1);
            let log = world.logs.entry(("t-event".to_owned(), 0)).or_default();
            let _ = log.append(Duration::ZERO, &[row.uid], 7, 0, 0);
            world.state.plans.insert(plan.id, plan);
            world.state.last_plan = 1;
            world.missing = Some((1, Duration::from_secs(5)));
        }
        let mut run = Run::on(run.world.clone(), 1, true);
        run.until(END);
        assert_eq!(run.relay.summary().published, 0, "{stored:?}");
        assert_eq!(run.relay.summary().unsure, 0, "{stored:?}");
        run.check();
    }
}

#[test]
fn a_batch_of_two_tables_one_of_which_is_away_keeps_its_message_ids() {
    for state in [PlanState::Acknowledged { offset: 0 }, PlanState::Planned] {
        let run = calm(1, Kind::Sure);
        let uids = {
            let world = &mut *run.world.borrow_mut();
            world.insert(0, std::iter::once(key_of(0)));
            world.insert(1, std::iter::once(key_of(0)));
            let mut plan = LeftPlan { state, ..published_before(world, 1) };
            let row = world.db.tables[1][&1].clone();
            let key = RowKey { outbox: OutboxIx(1), rowid: 1 };
            plan.rows.push(LeftRow { key, print: world.print(1, &row), message: 2 });
            let uids = [world.db.tables[0][&1].uid, row.uid];
            let log = world.logs.entry(("users".to_owned(), 0)).or_default();
            let _ = log.append(Duration::ZERO, &uids, 7, 0, 0);
            for (uid, message) in uids.iter().zip(1..) {
                world.message_ids.insert(*uid, (RunId(99), message));
            }
            world.excuse(uids);
            world.state.plans.insert(plan.id, plan);
            world.state.last_plan = 1;
            world.missing = Some((1, Duration::from_secs(5)));
            uids
        };
        let mut run = Run::on(run.world.clone(), 1, true);
        run.until(Duration::from_secs(4));
        assert!(run.world.borrow().db.tables[0].is_empty(), "{state:?}: its part of the batch is settled");
        run.until(END);
        assert_eq!(run.relay.summary().unsure, 1, "{state:?}");
        assert_eq!(run.world.borrow().message_ids[&uids[1]], (RunId(99), 2), "{state:?}");
        run.check();
    }
}

/// While the daemon runs: rows are looked for because of another table, and this one is away at that moment.
#[test]
fn published_rows_of_a_table_that_is_away_while_others_rows_are_looked_for_are_not_sent_again() {
    for kind in [Kind::Sure, Kind::Bare] {
        let mut run = calm(1, kind);
        let both = |run: &mut Run| {
            for table in 0..2 {
                run.world.borrow_mut().insert(table, std::iter::repeat_n(key_of(1), 6));
            }
            let seen = run.world.borrow().now();
            run.note(Event::Wake(Wake { seen }));
        };
        // The topics are open by then.
        both(&mut run);
        run.until(Duration::from_secs(3));
        both(&mut run);
        run.world.borrow_mut().busy_until = Duration::from_millis(3_600);
        run.until(Duration::from_millis(3_500));
        assert_eq!(run.relay.summary().published, 24, "{kind:?}");
        assert!(run.world.borrow().db.tables.iter().all(|table| table.len() == 6), "{kind:?}: not deleted yet");
        run.world.borrow_mut().missing = Some((1, Duration::from_secs(9)));
        run.world.borrow_mut().renumbered = true;
        run.until(Duration::from_secs(8));
        assert!(!run.world.borrow().renumbered && run.world.borrow().db.tables[0].is_empty(), "{kind:?}");
        run.until(Duration::from_secs(20));
        assert_eq!(run.relay.summary().published, 24, "{kind:?}: nothing twice");
        assert_eq!(run.relay.summary().unsure, 0, "{kind:?}");
        run.check();
    }
}

/// While a partition does not answer, another one's rows are renumbered with it.
#[test]
fn a_renumbering_beside_a_partition_that_does_not_answer_holds_up_no_other_and_doubles_nothing() {
    for kind in [Kind::Sure, Kind::Bare, Kind::Booked] {
        for seed in 0..10 {
            let mut run = calm(seed, kind);
            {
                let world = &mut *run.world.borrow_mut();
                world.agenda.retain(|_, what| !matches!(what, Happening::App));
                let silent_for = Some(Duration::from_secs(30));
                world.away = Away { partitions: vec![1], until: Duration::from_secs(2), silent_for };
                world.insert(0, std::iter::repeat_n(key_of(1), 6));
            }
            run.until(Duration::from_secs(3));
            assert_eq!(run.relay.summary().published, 0, "{kind:?}: its broker is silent");
            run.world.borrow_mut().renumber(0);
            run.world.borrow_mut().insert(0, std::iter::repeat_n(key_of(2), 6));
            run.announce();
            run.until(Duration::from_secs(5));
            assert_eq!(run.relay.summary().published, 6, "{kind:?}: those of the other partition");
            run.until(END);
            let summary = run.relay.summary();
            assert_eq!((summary.published, summary.unsure), (12, 0), "{kind:?}");
            run.check();
        }
    }
}

#[test]
fn what_an_operator_discards_while_its_table_is_renumbered_is_gone_under_whatever_rowid() {
    for gone in [false, true] {
        let mut run = calm(1, Kind::Sure);
        let bad = {
            let world = &mut *run.world.borrow_mut();
            world.agenda.retain(|_, what| !matches!(what, Happening::App));
            world.insert(0, std::iter::repeat_n(key_of(1), 3));
            world.insert(0, std::iter::repeat_n(key_of(2), 2));
            for row in world.db.tables[0].values_mut().filter(|row| row.key == Some(key_of(2))) {
                row.poison = true;
                world.versions.get_mut(&row.uid).expect("every version is known").1.poison = true;
            }
            let bad = world.db.tables[0].values().filter(|row| row.poison).map(|row| row.uid);
            bad.collect::<Vec<u64>>()
        };
        run.until(Duration::from_secs(90));
        assert_eq!(run.world.borrow().state.quarantine.len(), bad.len());
        {
            let world = &mut *run.world.borrow_mut();
            world.locked_until = Duration::from_secs(95);
            for uid in &bad {
                world.fates.get_mut(uid).expect("every version has a fate").withdrawn = true;
            }
            world.requests.push(Request { id: 5, action: Action::Discard, outbox: OutboxIx(0), rowid: None });
        }
        run.until(Duration::from_secs(93));
        {
            let world = &mut *run.world.borrow_mut();
            if gone {
                // One of the two, and the other one may take its place.
                let first = *world.db.tables[0].keys().next().expect("two rows are there");
                world.db.tables[0].remove(&first);
            }
            world.renumber(0);
        }
        run.announce();
        run.until(END);
        assert_eq!(run.world.borrow().answers, [5], "{gone}");
        assert!(run.world.borrow().db.tables[0].is_empty(), "{gone}");
        assert!(run.world.borrow().state.quarantine.is_empty(), "{gone}");
    }
}

/// A table that is made again with the rows it had, but for one that the application removes at that moment.
#[test]
fn published_rows_of_a_table_that_is_made_again_without_one_of_them_keep_their_message_ids() {
    for killed in [false, true] {
        for seed in 0..10 {
            let (mut run, locked_until) = published_and_locked(seed, Kind::Bare);
            {
                let world = &mut *run.world.borrow_mut();
                let first = *world.db.tables[0].keys().next().expect("six rows are there");
                let row = world.db.tables[0].remove(&first).expect("it is there");
                world.fates.get_mut(&row.uid).expect("every version has a fate").withdrawn = true;
                let uids: Vec<u64> = world.db.tables[0].values().map(|row| row.uid).collect();
                world.excuse(uids);
                world.another = !killed;
                if killed {
                    world.state.plans.values_mut().for_each(|plan| plan.other_file = true);
                    world.dead = true;
                }
            }
            if killed {
                run = again_alone(run);
            }
            run.announce();
            run.until(locked_until + Duration::from_secs(60));
            run.until(END);
            assert_eq!(
                run.figures.unsure_rows.load(std::sync::atomic::Ordering::Relaxed),
                5,
                "killed {killed}, {seed}"
            );
            run.check();
        }
    }
}
