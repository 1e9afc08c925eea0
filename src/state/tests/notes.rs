//! Notes of deletes: an application waits while one is written.

use super::*;
use std::time::Instant;

const NOTE: Change<'_> = Change::Deleting { delete: 1, plans: &[PlanId(1)] };

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let until = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < until, "{what} did not happen");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn a_note_does_not_wait_for_another_relays_sync() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let mut others = file.journal(Path::new("/nowhere/db"), &TABLES).unwrap();
    journal.record(&[Change::Planned(&plan(1, 1))], true).unwrap();
    // As long as this lives the disk does not answer.
    let syncing = file.log.synced();
    let other = std::thread::spawn(move || others.record(&[Change::Planned(&plan(1, 1))], true));
    wait_until("the other's commit", || file.open_plans().unwrap().len() == 2);
    journal.note(&[NOTE], false).unwrap();
    journal.record(&[Change::Acknowledged { plan: PlanId(1), offset: 7 }], false).unwrap();
    assert!(!other.is_finished(), "it returns when its plan is on the disk");
    drop(syncing);
    other.join().unwrap().unwrap();
}

#[test]
fn a_note_is_given_up_while_somebody_else_has_the_file() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let operator = Connection::open(place.path()).unwrap();
    operator.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = journal.note(&[NOTE], false).unwrap_err();
    assert!(error.busy && error.text.contains("another process"), "{error}");
    operator.execute_batch("COMMIT").unwrap();
    let relay = file.shared();
    std::thread::scope(|scope| {
        let note = scope.spawn(|| journal.note(&[NOTE], false));
        assert!(note.join().unwrap().unwrap_err().busy);
    });
    drop(relay);
    journal.note(&[NOTE], false).unwrap();
    // The others wait as they did.
    let timeout = file.shared().connection.query_row("PRAGMA busy_timeout", [], |row| row.get::<_, u32>(0)).unwrap();
    assert_eq!(Duration::from_millis(timeout.into()), BUSY_TIMEOUT);
}

#[test]
fn a_log_that_was_checkpointed_is_not_begun_anew_by_a_note() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let salts = || std::fs::read(with_suffix(&place.path(), "-wal")).unwrap()[16..24].to_vec();
    let before = salts();
    // Nothing but questions follows what fills the log.
    let plan_ids: Vec<PlanId> = (1..=500).map(PlanId).collect();
    for delete in 1..=1_000 {
        journal.note(&[Change::Deleting { delete, plans: &plan_ids }], false).unwrap();
    }
    assert_eq!(before, salts());
    let frames = || file.shared().wal_frames.load(std::sync::atomic::Ordering::Relaxed);
    assert!(frames() > 1_000, "{} frames", frames());
    journal.requests().unwrap();
    assert!(frames() < 100, "{} frames", frames());
    let begun = salts();
    assert_ne!(before, begun, "it was checkpointed, and begun anew");
    journal.note(&[NOTE], false).unwrap();
    assert_eq!(begun, salts());
}

/// The next sync fails.
fn break_sync(file: &StateFile) {
    file.log.synced().file = Some(File::open("/dev/null").unwrap());
}

#[test]
fn a_plan_that_could_not_be_synced_is_in_the_file_no_longer() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let mut others = file.journal(Path::new("/nowhere/db"), &TABLES).unwrap();
    journal.record(&[Change::Planned(&plan(1, 1))], true).unwrap();
    break_sync(&file);
    let error = journal.record(&[Change::Planned(&plan(2, 1))], true).unwrap_err();
    assert!(error.text.contains("syncing its -wal"), "{error}");
    // Nor is what was behind it in the log, whoever wrote it.
    let wal = || std::fs::metadata(with_suffix(&place.path(), "-wal")).unwrap().len();
    let reader = Connection::open(place.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM meta;").unwrap();
    let error = others.record(&[Change::Planned(&plan(1, 1))], true).unwrap_err();
    assert!(error.text.contains("another process"), "{error}");
    reader.execute_batch("COMMIT").unwrap();
    let before = wal();
    others.record(&[Change::Planned(&plan(1, 1))], true).unwrap();
    assert!(wal() < before, "everything was brought to the file before");
    // Its triple stands for other rows now.
    journal.record(&[Change::Planned(&plan(3, 2))], true).unwrap();
    let mut plans: Vec<(u64, usize)> =
        file.open_plans().unwrap().iter().map(|plan| (plan.plan.0, plan.row_count)).collect();
    plans.sort_unstable();
    assert_eq!(plans, [(1, 1), (1, 1), (3, 2)]);
    // The same again is no contradiction.
    break_sync(&file);
    journal.record(&[Change::Planned(&plan(4, 1))], true).unwrap_err();
    journal.record(&[Change::Planned(&plan(4, 1))], true).unwrap();
    assert_eq!(file.open_plans().unwrap().len(), 4);
}

#[test]
fn what_could_not_be_synced_is_there_whole_until_it_is_told_again() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    let resend = Resend { print: Fingerprint(5), run: RUN, message: 9 };
    let key = RowKey { outbox: OutboxIx(0), rowid: 1 };
    journal.record(&[Change::Planned(&plan(1, 1)), Change::ToResend { key, resend }], true).unwrap();
    let left = || {
        let left = file.left(&database, &TABLES, identity(&database)).unwrap();
        (left_ids(&left.plans), left.resends.len(), left.quarantine.len())
    };
    let new = [plan(2, 1)];
    let replaced = [Change::NotToResend { key }, Change::Replaced { old: PlanId(1), new: &new }];
    break_sync(&file);
    journal.record(&replaced, true).unwrap_err();
    // What comes before it is told again is none of its business.
    journal.note(&[NOTE], false).unwrap();
    assert_eq!(left(), (vec![2], 0, 0));
    journal.record(&[Change::Deleting { delete: 1, plans: &[] }], false).unwrap();
    assert_eq!(left(), (vec![2], 0, 0));
    // The plan's rows are in none by now.
    let (told, over, another) = (Change::ToResend { key, resend }, Change::Settled { plan: PlanId(1) }, plan(3, 1));
    journal.record(&[told, over, Change::Planned(&another)], true).unwrap();
    assert_eq!(left(), (vec![3], 1, 0));
}

#[test]
fn a_note_that_could_not_be_synced_is_of_a_delete_that_did_not_happen() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.reads_from(origin(&database));
    let acknowledged = Change::Acknowledged { plan: PlanId(1), offset: 7 };
    journal.record(&[Change::Planned(&plan(1, 1)), acknowledged], true).unwrap();
    let kept = quarantined(1, 5, Fault::Undeletable);
    let note = [Change::Quarantined(&kept), Change::Deleting { delete: 4, plans: &[PlanId(1)] }];
    break_sync(&file);
    journal.note(&note, true).unwrap_err();
    let error = journal.note(&note, true).unwrap_err();
    assert!(error.text.contains("an earlier sync has failed"), "{error}");
    // Nothing else needs to be recorded, ever.
    journal.requests().unwrap();
    journal.note(&[Change::Deleting { delete: 5, plans: &[] }], true).unwrap();
    let left = file.left(&database, &TABLES, identity(&database)).unwrap();
    assert_eq!(left.plans[0].state, PlanState::Acknowledged { offset: 7 });
    assert!(left.quarantine.is_empty());
}
