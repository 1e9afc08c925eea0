//! Plans, and the numbers they have.

use super::*;

#[test]
fn a_plan_survives_as_it_was_written() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &["users_outbox", "orders_outbox"]).unwrap();
    journal.reads_from(origin(&database));
    assert_eq!(journal.first_plan(), PlanId(1));
    journal.record(&[Change::Planned(&plan(7, 3)), Change::Planned(&plan(8, 1))], true).unwrap();
    journal.record(&[Change::Acknowledged { plan: PlanId(8), offset: 99 }], false).unwrap();
    drop((journal, file));

    let file = place.open();
    assert!(file.same_boot());
    let plans = file.open_plans().unwrap();
    assert_eq!(plans.len(), 2);
    let first = &plans[0];
    assert_eq!(first.plan, PlanId(7));
    assert_eq!(first.database, database);
    assert_eq!(Some(first.file), identity(&database));
    assert_eq!(first.target, Target { topic: "users".into(), partition: 3 });
    assert_eq!(first.triple, Triple { producer_id: 4711, epoch: 2, first_sequence: i32::MAX });
    assert_eq!(first.run, RUN);
    assert_eq!((first.noted_offset, first.leader_epoch, first.row_count), (55, -1, 3));
    assert_eq!(first.first_attempt, SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123));
    assert_eq!(first.state, PlanState::Planned);
    assert_eq!(plans[1].state, PlanState::Acknowledged { offset: 99 });

    let rows = file.rows(first).unwrap().unwrap();
    let table = |row: &OpenRow| first.tables.iter().find(|(id, _)| *id == row.outbox).unwrap().1.clone();
    let seen: Vec<_> = rows.iter().map(|row| (table(row), row.rowid, row.message, row.event_id.clone())).collect();
    let id = b"abc".to_vec();
    assert_eq!(
        seen,
        [
            ("users_outbox".to_owned(), 10, 100, id.clone()),
            ("orders_outbox".to_owned(), 11, 101, id.clone()),
            ("users_outbox".to_owned(), 12, 102, id)
        ]
    );
    assert_eq!(rows[2].print, Fingerprint(3));

    let journal = file.journal(&database, &["users_outbox"]).unwrap();
    assert_eq!(journal.first_plan(), PlanId(9), "numbers are not used again while their plan is there");
    file.drop_plans(&plans[..1]).unwrap();
    assert_eq!(file.open_plans().unwrap(), plans[1..]);
}

#[test]
fn replaced_and_settled_plans_are_gone() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    journal.record(&[Change::Planned(&plan(1, 4))], false).unwrap();
    let pieces = [plan(2, 2), plan(3, 2)];
    journal.record(&[Change::Replaced { old: PlanId(1), new: &pieces }], false).unwrap();
    let left = || file.open_plans().unwrap().iter().map(|plan| plan.plan.0).collect::<Vec<_>>();
    assert_eq!(left(), [2, 3]);
    journal.record(&[Change::Settled { plan: PlanId(2) }, Change::Settled { plan: PlanId(3) }], true).unwrap();
    assert_eq!(left(), [0; 0]);
    let blobs: i64 =
        file.shared().connection.query_row("SELECT count(*) FROM plan_rows", [], |row| row.get(0)).unwrap();
    assert_eq!(blobs, 0);
}

#[test]
fn a_failed_record_leaves_nothing() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    let error = journal.record(&[Change::Planned(&plan(1, 1)), Change::Planned(&plan(1, 1))], false).unwrap_err();
    assert!(error.path.ends_with("state.db"), "{error}");
    assert_eq!(file.open_plans().unwrap(), []);
    journal.record(&[Change::Planned(&plan(1, 1))], false).unwrap();
    assert_eq!(file.open_plans().unwrap().len(), 1);
}

#[test]
fn relays_share_a_file_without_meeting() {
    let place = Place::new();
    let file = place.open();
    let other = place.folder.path().join("other");
    let mut journals =
        [file.journal(&place.database(), &["a", "b"]).unwrap(), file.journal(&other, &["a", "b"]).unwrap()];
    for journal in &mut journals {
        journal.record(&[Change::Planned(&plan(1, 2))], false).unwrap();
    }
    journals[0].record(&[Change::Settled { plan: PlanId(1) }], false).unwrap();
    let plans = file.open_plans().unwrap();
    assert_eq!(plans.len(), 1);
    assert_eq!(plans[0].database, other);
    assert_eq!(plans[0].file, FileId { device: 0, inode: 0, born: None }, "nothing was read from a file yet");
}

#[test]
fn how_far_a_plan_had_come_is_kept() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let state = || file.open_plans().unwrap()[0].state;
    journal.record(&[Change::Planned(&plan(1, 2))], false).unwrap();
    assert_eq!(state(), PlanState::Planned);
    journal.record(&[Change::Acknowledged { plan: PlanId(1), offset: 99 }], false).unwrap();
    assert_eq!(state(), PlanState::Acknowledged { offset: 99 });
    journal.record(&[Change::Deleting { delete: 7, plans: &[PlanId(1)] }], false).unwrap();
    assert_eq!(state(), PlanState::Deleting { delete: 7 });
    journal.record(&[Change::Deleting { delete: 7, plans: &[] }], false).unwrap();
    assert_eq!(state(), PlanState::Acknowledged { offset: 99 }, "that delete did not commit");
    journal.record(&[Change::Deleting { delete: 0, plans: &[PlanId(1)] }], false).unwrap();
    assert_eq!(state(), PlanState::Deleting { delete: 0 });
}

#[test]
fn a_number_is_never_given_twice() {
    let place = Place::new();
    let database = place.database();
    let start = |changes: &[Change<'_>]| {
        let file = place.open();
        let mut journal = file.journal(&database, &TABLES).unwrap();
        let first = journal.first_plan().0;
        journal.record(changes, false).unwrap();
        first
    };
    assert_eq!(start(&[]), 1);
    assert_eq!(start(&[]), 2, "a start uses its number up, planned or not");
    let (seven, nine) = (plan(7, 1), plan(9, 1));
    assert_eq!(start(&[Change::Planned(&seven), Change::Settled { plan: PlanId(7) }]), 3);
    assert_eq!(start(&[]), 8, "also when its plan is gone");
    assert_eq!(start(&[Change::Replaced { old: PlanId(7), new: std::slice::from_ref(&nine) }]), 9);
    assert_eq!(start(&[Change::Settled { plan: PlanId(9) }]), 10);
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    // What is rolled back was not given.
    let fails = [Change::Planned(&plan(50, 1)), Change::Planned(&plan(50, 1))];
    journal.record(&fails, false).unwrap_err();
    assert_eq!(file.journal(&database, &TABLES).unwrap().first_plan(), PlanId(12));
    assert_eq!(file.journal(&place.path(), &TABLES).unwrap().first_plan(), PlanId(1), "each database counts by itself");
}
