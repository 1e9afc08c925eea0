//! How large the file gets.

use super::*;

#[test]
fn the_file_stays_small() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    for id in 1..=60 {
        let done = PlanId(id - 1);
        journal.record(&[Change::Settled { plan: done }, Change::Planned(&plan(id, 5_000))], false).unwrap();
    }
    let size = |suffix| std::fs::metadata(with_suffix(&place.path(), suffix)).unwrap().len();
    assert!(size("") < 2 << 20, "{} bytes", size(""));
    assert!(size("-wal") <= 2 * WAL_SIZE_MAX_BYTES, "{} bytes", size("-wal"));
}

#[test]
fn the_size_is_reported() {
    let place = Place::new();
    let file = place.open();
    let gauge = file.size_gauge();
    let on_disk = || {
        let size = |suffix| std::fs::metadata(with_suffix(&place.path(), suffix)).unwrap().len();
        size("") + size("-wal")
    };
    assert_eq!((file.size_bytes(), gauge.load(std::sync::atomic::Ordering::Relaxed)), (on_disk(), on_disk()));
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    journal.record(&[Change::Planned(&plan(1, 5_000))], false).unwrap();
    assert_eq!(file.size_bytes(), on_disk());
    file.shared().look_after_now(file.path());
    assert_eq!(gauge.load(std::sync::atomic::Ordering::Relaxed), on_disk());
    assert!(on_disk() > 90_000, "{}", on_disk());
}

#[test]
fn a_reader_elsewhere_cannot_make_it_grow_for_ever() {
    let place = Place::new();
    let file = place.open();
    file.shared().upkeep.wal_grown_max_bytes = 1 << 20;
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let reader = Connection::open(place.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM meta;").unwrap();
    let mut refused = None;
    for id in 1..=100 {
        let done = PlanId(id - 1);
        if let Err(error) = journal.record(&[Change::Settled { plan: done }, Change::Planned(&plan(id, 5_000))], false)
        {
            refused = Some((id, error));
            break;
        }
        file.shared().look_after_now(file.path());
    }
    let (id, error) = refused.expect("at some size it is enough");
    assert!(error.text.contains("another process keeps reading"), "{error}");
    let size = || std::fs::metadata(with_suffix(&place.path(), "-wal")).unwrap().len();
    assert!(size() < 2 << 20, "{} bytes", size());
    reader.execute_batch("COMMIT").unwrap();
    journal.record(&[Change::Planned(&plan(id, 5_000))], false).unwrap();
    assert!(size() < 1 << 20, "{} bytes", size());
}

/// An application waits for the lock on its database meanwhile.
#[test]
fn the_note_of_a_delete_does_no_checkpoint() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let plan_ids: Vec<PlanId> = (1..=500).map(PlanId).collect();
    for id in 1..=60 {
        let change = Change::Planned(&plan(id, 200));
        journal.record(&[change], false).unwrap();
    }
    let before = std::fs::read(place.path()).unwrap();
    for delete in 1..=2_000 {
        journal.note(&[Change::Deleting { delete, plans: &plan_ids }], false).unwrap();
    }
    let frames = file.shared().wal_frames.load(std::sync::atomic::Ordering::Relaxed);
    assert!(frames > 2_000, "{frames} frames");
    assert!(before == std::fs::read(place.path()).unwrap(), "the file was written to");
    journal.record(&[Change::Planned(&plan(61, 200))], false).unwrap();
    assert!(before != std::fs::read(place.path()).unwrap(), "the next record of another kind does it");
    journal.record(&[Change::Planned(&plan(62, 200))], false).unwrap();
    assert!(file.shared().wal_frames.load(std::sync::atomic::Ordering::Relaxed) < 100, "and the -wal is begun anew");
}
