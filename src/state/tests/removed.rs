//! The file's name is removed, moved or given to another file while it is open; copies are put back in its place.

use super::*;

/// Makes the next call look at the path, whenever the last one did.
fn look_now(file: &StateFile) {
    file.shared().look_after_now(file.path());
}

#[test]
fn a_removed_file_is_written_again() {
    for suffixes in [&[""][..], &["", "-wal", "-shm"]] {
        let place = Place::new();
        let database = place.database();
        let file = place.open();
        let id = file.id();
        let mut journal = file.journal(&database, &TABLES).unwrap();
        journal.record(&[Change::Planned(&plan(1, 5))], true).unwrap();
        journal.record(&[Change::Quarantined(&quarantined(0, 4, Fault::Rejected))], false).unwrap();
        for suffix in suffixes {
            std::fs::remove_file(with_suffix(&place.path(), suffix)).unwrap();
        }
        look_now(&file);
        let error = place.refused();
        assert!(matches!(error, StateError::Locked { .. }), "the new one is locked as well: {error}");
        journal.record(&[Change::Planned(&plan(2, 5))], true).unwrap();
        assert_eq!(journal.requests().unwrap(), []);
        // As a kill leaves it: a copy of what lies there now.
        let killed = Place::new();
        for name in ["state.db", "state.db-wal"] {
            std::fs::copy(place.folder.path().join(name), killed.folder.path().join(name)).unwrap();
        }
        let connection = Connection::open(killed.path()).unwrap();
        let plans: i64 = connection.query_row("SELECT count(*) FROM plan", [], |row| row.get(0)).unwrap();
        assert_eq!(plans, 2);
        drop((journal, file));
        let file = place.open();
        assert_eq!(file.id(), id);
        let left = file.left(&database, &TABLES, identity(&database)).unwrap();
        assert_eq!((left_ids(&left.plans), left.quarantine.len()), (vec![1, 2], 1));
        assert_eq!(file.journal(&database, &TABLES).unwrap().first_plan(), PlanId(3));
        drop(file);
        assert_eq!(place.names(), ["db", "state.db"]);
    }
}

#[test]
fn a_file_that_somebody_put_there_is_not_touched() {
    let place = Place::new();
    let database = place.database();
    let file = place.open();
    let mut journal = file.journal(&database, &TABLES).unwrap();
    journal.record(&[Change::Planned(&plan(1, 1))], true).unwrap();
    let aside = place.folder.path().join("aside");
    std::fs::rename(place.path(), &aside).unwrap();
    std::fs::write(place.path(), "somebody's").unwrap();
    look_now(&file);
    journal.record(&[Change::Planned(&plan(2, 1))], true).unwrap();
    assert_eq!(std::fs::read(place.path()).unwrap(), b"somebody's");
    assert_eq!(file.open_plans().unwrap().len(), 2, "the open file works on");
    // Put right again: the one that was open all the time has its name back.
    std::fs::rename(&aside, place.path()).unwrap();
    look_now(&file);
    journal.record(&[Change::Planned(&plan(3, 1))], true).unwrap();
    drop((journal, file));
    assert_eq!(place.open().open_plans().unwrap().len(), 3);
}

#[test]
fn a_file_that_cannot_be_written_again_works_on() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let (folder, away) = (place.folder.path().to_owned(), place.folder.path().with_extension("away"));
    std::fs::rename(&folder, &away).unwrap();
    look_now(&file);
    journal.record(&[Change::Planned(&plan(1, 1))], true).unwrap();
    assert!(!folder.exists());
    std::fs::rename(&away, &folder).unwrap();
    look_now(&file);
    drop((journal, file));
    assert_eq!(place.open().open_plans().unwrap().len(), 1);
}

#[test]
fn an_older_copy_in_place_is_not_believed() {
    let place = Place::new();
    let database = place.database();
    let copy = place.folder.path().join("copy");
    let start = |changes: &[Change<'_>]| {
        let file = place.open();
        let mut journal = file.journal(&database, &TABLES).unwrap();
        journal.record(changes, false).unwrap();
        journal.requests().unwrap();
        file.id()
    };
    let id = start(&[Change::Planned(&plan(1, 1)), Change::Acknowledged { plan: PlanId(1), offset: 1 }]);
    if mark::read(&std::fs::File::open(place.path()).unwrap()).is_none() {
        println!("no extended attributes here: nothing to test");
        return;
    }
    std::fs::copy(place.path(), &copy).unwrap();
    // No delete was noted since: a copy put back says no more than was true.
    start(&[Change::Quarantined(&quarantined(0, 1, Fault::Rejected))]);
    std::fs::copy(&copy, place.path()).unwrap();
    assert_eq!((start(&[]), place.open().open_plans().unwrap().len()), (id, 1));
    start(&[Change::Deleting { delete: 1, plans: &[PlanId(1)] }]);
    assert_eq!(place.open().open_plans().unwrap().len(), 1, "in order, nothing is dropped");
    start(&[Change::Deleting { delete: 2, plans: &[PlanId(1)] }]);
    // `fs::copy` writes into the file that is there, as `cp` does: device and inode stay.
    let inode = identity(&place.path());
    std::fs::copy(&copy, place.path()).unwrap();
    assert_eq!(identity(&place.path()), inode);
    let file = place.open();
    assert_eq!(file.open_plans().unwrap(), []);
    assert_ne!(file.id(), id, "numbers that were given since may be given again");
    // And once only.
    drop(file);
    start(&[Change::Planned(&plan(5, 1))]);
    assert_eq!(place.open().open_plans().unwrap().len(), 1);
}
