//! Another database takes the file's name: by rename, by a symlink, before or after somebody opens it, and nothing of the old one
//! gets into it.

use super::*;
use crate::model::Origin;

const OLD_ROWS: i64 = 3_000;
const NEW_ROWS: i64 = 9_000;

fn fill(rows: i64, name: &str) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) INSERT INTO users SELECT i,'{name}' FROM n;"
    )
}

/// A database that has been read, its application gone without us having let go: we are the last connection.
fn left_alone() -> (World, Database) {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);");
    let mut database = world.database();
    database.check().unwrap();
    all(&mut database);
    app.exec(&fill(OLD_ROWS, "old"));
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    assert_eq!(rowids(&all(&mut database)), [1]);
    assert!(database.others_connected());
    app.close();
    assert!(!database.others_connected());
    assert!(log_of(&world.path).exists(), "nobody has brought it to the file");
    (world, database)
}

fn log_of(path: &Path) -> std::path::PathBuf {
    with(path, "-wal")
}

fn with(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A complete database with other contents, closed.
fn successor(world: &World) -> std::path::PathBuf {
    let path = world.directory.path().join("next.sqlite");
    let mut app = App::start(&path);
    app.run("PRAGMA journal_mode=WAL;");
    app.exec(SCHEMA);
    app.exec("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);");
    app.exec(&fill(NEW_ROWS, "new"));
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','x'),(2,'a','t','y');");
    app.close();
    assert!(!log_of(&path).exists());
    path
}

const LOOK_AT_IT: &str =
    "PRAGMA integrity_check; SELECT count(*), min(name), max(name) FROM users; SELECT count(*) FROM users_outbox;";

fn says(path: &Path) -> String {
    let mut app = App::start(path);
    let said = app.run(LOOK_AT_IT);
    app.close();
    said
}

/// Said to be another file, read from the start, and whole when it is let go.
fn the_new_one_is_taken_up(world: &World, database: &mut Database) {
    assert!(matches!(
        look(database, Start::Lowest, 9),
        Err(SourceError::Replaced { another: crate::model::Another::All, .. })
    ));
    assert_eq!(rowids(&all(database)), [1, 2]);
    database.let_go();
    assert!(is_the_new_one(&says(&world.path)));
}

fn is_the_new_one(said: &str) -> bool {
    said == format!("ok\n{NEW_ROWS}|new|new\n2")
}

#[test]
fn a_database_let_go_of_alone_leaves_nothing_for_its_successor() {
    let (world, mut database) = left_alone();
    database.let_go();
    assert!(!log_of(&world.path).exists() && !with(&world.path, "-shm").exists());
    std::fs::rename(successor(&world), &world.path).unwrap();
    let said = says(&world.path);
    assert!(is_the_new_one(&said), "{said}");
    assert!(database.stirred());
    assert!(matches!(
        look(&mut database, Start::Lowest, 9),
        Err(SourceError::Replaced { another: crate::model::Another::All, .. })
    ));
    assert_eq!(rowids(&all(&mut database)), [1, 2]);
}

#[test]
fn a_successor_that_nobody_has_opened_is_rid_of_the_old_log_by_whatever_closes() {
    for by in ["look", "delete", "let go", "drop", "version"] {
        let (world, mut database) = left_alone();
        let seen = all(&mut database);
        let old = world.directory.path().join("old.sqlite");
        std::fs::hard_link(&world.path, &old).unwrap();
        std::fs::rename(successor(&world), &world.path).unwrap();
        match by {
            "look" => drop(look(&mut database, Start::Lowest, 9)),
            "delete" => drop(delete(&mut database, &seen)),
            "version" => drop(database.version()),
            "let go" => database.let_go(),
            _ => drop(std::mem::replace(&mut database, World::new().database())),
        }
        database.let_go();
        let said = says(&world.path);
        assert!(is_the_new_one(&said), "{by}: {said}");
        assert_eq!(says(&old), format!("ok\n{OLD_ROWS}|old|old\n1"), "{by}: the old one is whole");
    }
}

#[test]
fn a_file_moved_away_takes_its_log_along() {
    let (world, mut database) = left_alone();
    let old = world.directory.path().join("old.sqlite");
    std::fs::rename(&world.path, &old).unwrap();
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
    std::fs::rename(successor(&world), &world.path).unwrap();
    let said = says(&world.path);
    assert!(is_the_new_one(&said), "{said}");
    assert_eq!(says(&old), format!("ok\n{OLD_ROWS}|old|old\n1"));
}

#[test]
fn a_successor_opened_with_the_old_log_is_not_opened_by_us_and_its_log_is_not_removed() {
    let (world, mut database) = left_alone();
    std::fs::rename(successor(&world), &world.path).unwrap();
    let mut app = App::start(&world.path);
    app.run(LOOK_AT_IT);
    app.run("INSERT INTO users VALUES (100000, 'later');");
    for _ in 0..2 {
        let Err(SourceError::Failed(why)) = look(&mut database, Start::Lowest, 9) else { panic!() };
        let log = log_of(&world.path).display().to_string();
        assert!(why.hint.contains(&format!("mv {log} {log}.aside")) && !why.hint.contains("rm "), "{why}");
        assert!(log_of(&world.path).exists(), "the application works with it");
        assert!(database.stirred(), "it is looked at again and again");
    }
    // Its last connection takes it away.
    app.close();
    let result = look(&mut database, Start::Lowest, 9);
    assert!(matches!(result, Err(SourceError::Replaced { another: crate::model::Another::All, .. })), "{result:?}");
    drop(look(&mut database, Start::Lowest, 9));
}

#[test]
fn a_log_that_another_still_works_with_keeps_the_successor_closed() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    all(&mut database);
    std::fs::rename(successor(&world), &world.path).unwrap();
    for _ in 0..2 {
        let result = look(&mut database, Start::Lowest, 9);
        assert!(matches!(result, Err(SourceError::Failed(_))), "{result:?}");
    }
    app.close();
    assert!(look(&mut database, Start::Lowest, 9).is_err(), "SQLite leaves the log of a file that was moved");
    std::fs::remove_file(log_of(&world.path)).unwrap();
    the_new_one_is_taken_up(&world, &mut database);
}

#[test]
fn the_log_that_a_successor_brings_along_is_its_own() {
    let (world, mut database) = left_alone();
    let next = successor(&world);
    let mut app = App::start(&next);
    app.exec("INSERT INTO users_outbox VALUES (3,'a','t','z');");
    // As a copy of both files, made while an application had it open.
    let copies = [("", world.path.clone()), ("-wal", log_of(&world.path))];
    for (suffix, _) in &copies {
        std::fs::copy(with(&next, suffix), world.directory.path().join(format!("copy{suffix}"))).unwrap();
    }
    for (suffix, to) in &copies {
        std::fs::rename(world.directory.path().join(format!("copy{suffix}")), to).unwrap();
    }
    assert!(look(&mut database, Start::Lowest, 9).is_err());
    wait_until("it is read", || look(&mut database, Start::Lowest, 9).is_ok());
    assert_eq!(rowids(&all(&mut database)), [1, 2, 3]);
    database.let_go();
    assert_eq!(says(&world.path), format!("ok\n{NEW_ROWS}|new|new\n3"));
}

#[test]
fn a_symlink_turned_leaves_both_databases_whole() {
    let (world, database) = left_alone();
    drop(database);
    let next = successor(&world);
    let link = world.directory.path().join("link.sqlite");
    std::os::unix::fs::symlink(&world.path, &link).unwrap();
    let mut database =
        Database::new(DatabaseOptions { path: link.clone(), ..world.options() }, vec![spec("users_outbox")]);
    let seen = all(&mut database);
    delete(&mut database, &seen).unwrap();
    assert!(log_of(&world.path).exists());
    let other = world.directory.path().join("other-link");
    std::os::unix::fs::symlink(&next, &other).unwrap();
    std::fs::rename(&other, &link).unwrap();
    let said = says(&link);
    assert!(is_the_new_one(&said), "{said}");
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::Replaced { .. })));
    assert!(!log_of(&world.path).exists());
    assert_eq!(rowids(&all(&mut database)), [1, 2]);
    assert_eq!(says(&world.path), format!("ok\n{OLD_ROWS}|old|old\n0"));
}

#[test]
fn a_log_left_when_the_database_was_let_go_is_known_beside_its_successor() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    all(&mut database);
    database.let_go();
    // Its application was killed meanwhile.
    app.kill();
    assert!(log_of(&world.path).exists());
    std::fs::rename(successor(&world), &world.path).unwrap();
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::Failed(_))));
    std::fs::remove_file(log_of(&world.path)).unwrap();
    let _ = std::fs::remove_file(with(&world.path, "-shm"));
    the_new_one_is_taken_up(&world, &mut database);
}

#[test]
fn a_log_left_by_an_earlier_run_holds_up_its_database_until_it_is_moved_aside() {
    for moved in [false, true] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let mut database = world.database();
        all(&mut database);
        let other = Origin { file: lock::file_id(world.directory.path()).unwrap().unwrap(), log: None };
        let before = vec![other, database.origin().unwrap()];
        assert!(before[1].log.is_some());
        drop(database);
        app.kill();
        // It is the log's name that counts, not that of the file it was open with.
        let path = if moved { world.directory.path().join("moved.sqlite") } else { world.path.clone() };
        std::fs::rename(log_of(&world.path), log_of(&path)).unwrap();
        std::fs::rename(successor(&world), &path).unwrap();
        let options = DatabaseOptions { path: path.clone(), ..world.options() };
        let mut database = Database::new(options, vec![spec("users_outbox")]);
        database.beware_of(before);
        database.check().unwrap();
        assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::Failed(_))));
        std::fs::rename(log_of(&path), with(&path, "-wal.aside")).unwrap();
        assert_eq!(rowids(&all(&mut database)), [1, 2]);
        database.let_go();
        assert!(is_the_new_one(&says(&path)));
    }
}

#[test]
fn an_empty_log_stirs_nothing() {
    let (world, mut database) = left_alone();
    wait_until("nobody has been there", || {
        all(&mut database);
        database.let_go();
        !database.stirred()
    });
    let mut app = App::start(&world.path);
    assert_eq!(app.run("SELECT count(*) FROM users_outbox;"), "1");
    assert!(log_of(&world.path).exists() && !database.stirred());
    all(&mut database);
    assert!(database.is_undisturbed());
    database.let_go();
    wait_until("nobody has been there", || {
        all(&mut database);
        database.let_go();
        !database.stirred()
    });
    app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
    assert!(database.stirred());
    assert_eq!(rowids(&all(&mut database)), [1, 2]);
    assert!(!database.is_undisturbed());
}
