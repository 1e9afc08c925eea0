//! The file itself: who may work with it, what is refused, what is set aside or not believed.

use super::*;

#[test]
fn a_second_one_is_refused_with_the_pid() {
    let place = Place::new();
    let file = place.open();
    let error = place.refused();
    let text =
        format!("another outboxd (PID {}) works with the state file {}", std::process::id(), place.path().display());
    assert_eq!(error.to_string(), text);
    drop(file);
    place.open();
}

#[test]
fn a_newer_version_is_not_touched() {
    let place = Place::new();
    place.open();
    Connection::open(place.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let before = std::fs::read(place.path()).unwrap();
    assert!(matches!(place.refused(), StateError::Newer { found: 99, known: schema::VERSION, .. }));
    assert_eq!(std::fs::read(place.path()).unwrap(), before);
}

#[test]
fn an_applications_database_is_not_taken_for_a_state_file() {
    let place = Place::new();
    Connection::open(place.path()).unwrap().execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY)").unwrap();
    assert!(matches!(place.refused(), StateError::Foreign { .. }));
    assert_eq!(place.names(), ["state.db"]);
}

#[test]
fn damage_is_set_aside() {
    let place = Place::new();
    // Not a database at all.
    std::fs::write(place.path(), vec![b'x'; 5000]).unwrap();
    drop(place.open());
    assert!(place.names().iter().any(|name| name.starts_with("state.db.corrupt-")), "{:?}", place.names());

    // A page of ours gone wrong, with a plan in it.
    let place = Place::new();
    let file = place.open();
    file.journal(&place.database(), &["a", "b"]).unwrap().record(&[Change::Planned(&plan(1, 2))], true).unwrap();
    drop(file);
    let mut bytes = std::fs::read(place.path()).unwrap();
    for byte in &mut bytes[4096..] {
        *byte = 0xa5;
    }
    std::fs::write(place.path(), bytes).unwrap();
    let file = place.open();
    assert_eq!(file.open_plans().unwrap(), []);
    assert!(place.names().iter().any(|name| name.starts_with("state.db.corrupt-")), "{:?}", place.names());
    assert!(!file.same_boot(), "a new file knows no boot");
}

#[test]
fn plans_of_a_copied_file_are_dropped() {
    let place = Place::new();
    let file = place.open();
    file.journal(&place.database(), &["a", "b"]).unwrap().record(&[Change::Planned(&plan(1, 2))], true).unwrap();
    drop(file);
    let copy = place.folder.path().join("copy");
    std::fs::copy(place.path(), &copy).unwrap();
    std::fs::rename(&copy, place.path()).unwrap();
    assert_eq!(place.open().open_plans().unwrap(), []);
}

#[test]
fn a_file_put_back_under_the_number_it_had_is_a_copy() {
    let place = Place::new();
    let file = place.open();
    file.journal(&place.database(), &["a", "b"]).unwrap().record(&[Change::Planned(&plan(1, 2))], true).unwrap();
    drop(file);
    assert_eq!(place.open().open_plans().unwrap().len(), 1);
    // As if it had been removed and written anew, and given the same inode.
    let connection = Connection::open(place.path()).unwrap();
    let known: bool = connection.query_row("SELECT born IS NOT NULL FROM meta", [], |row| row.get(0)).unwrap();
    connection.execute("UPDATE meta SET born = born - 1", []).unwrap();
    drop(connection);
    assert_eq!(place.open().open_plans().unwrap().is_empty(), known);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let place = Place::new();
    std::fs::create_dir(place.path()).unwrap();
    let error = place.refused();
    assert_eq!(error.to_string(), format!("the state file {} can't be opened", place.path().display()));
    assert!(error.hint().starts_with("this user must be able to write"), "{}", error.hint());
}

#[test]
fn a_file_keeps_its_id_and_a_copy_gets_its_own() {
    let place = Place::new();
    let file = place.open();
    let id = file.id();
    assert!(!file.same_boot(), "a new file knows no boot");
    drop(file);
    assert_eq!(place.open().id(), id);
    assert_ne!(Place::new().open().id(), id);
    let copy = place.folder.path().join("copy");
    std::fs::copy(place.path(), &copy).unwrap();
    std::fs::rename(&copy, place.path()).unwrap();
    let restored = place.open().id();
    assert_ne!(restored, id, "numbers given since the copy was taken may be given again");
    assert_eq!(place.open().id(), restored);
}

#[test]
fn another_boot_is_noticed_once() {
    let place = Place::new();
    drop(place.open());
    assert!(place.open().same_boot());
    Connection::open(place.path()).unwrap().execute("UPDATE meta SET boot_id = 'before'", []).unwrap();
    let file = place.open();
    assert!(!file.same_boot());
    drop(file);
    assert!(place.open().same_boot());
}

#[test]
fn an_older_copy_put_back_in_place_is_recognised_by_its_plan_numbers() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    journal.record(&[Change::Planned(&plan(2, 2))], true).unwrap();
    drop((journal, file));
    // Its last user has emptied the -wal into it.
    let copy = std::fs::read(place.path()).unwrap();
    let file = place.open();
    let id = file.id();
    let mut journal = file.journal(&place.database(), &["a", "b"]).unwrap();
    journal.record(&[Change::Planned(&plan(40, 2))], true).unwrap();
    file.shared().look_after_now(&place.path());
    let told = mark::read_plans(&file.shared().lock.file);
    drop((journal, file));
    // Not a new file with its name: the same one, with the older contents.
    std::fs::write(place.path(), copy).unwrap();
    let file = place.open();
    if told.is_none() {
        println!("SKIPPED: no extended attributes here");
        return;
    }
    assert_eq!(file.open_plans().unwrap(), []);
    assert_ne!(file.id(), id, "its plan numbers will be given again");
}
