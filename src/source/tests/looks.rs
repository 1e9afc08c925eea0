use super::*;
use crate::model::{JournalMode, LookEnd};

#[allow(clippy::unnecessary_wraps)] // compared with fields, which are options
fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.as_bytes().to_vec())
}

#[test]
fn rows_come_in_rowid_order_with_their_fields_in_every_journal_mode() {
    for mode in MODES {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (3,'c','Created','three'),(1,'a','Created','one'),(-7,NULL,'Gone',x'00ff');");
        let mut database = world.database();
        database.check().unwrap();
        let (look, seen) = look(&mut database, Start::Lowest, 10).unwrap();
        assert_eq!(rowids(&seen), [-7, 1, 3], "{mode}");
        assert_eq!(look.end, LookEnd::End);
        assert_eq!(look.rows, 3);
        assert_eq!(seen[0].fields, [text("-7"), None, text("Gone"), Some(vec![0, 255]), None, None]);
        assert_eq!(seen[1].fields, [text("1"), text("a"), text("Created"), text("one"), text("a"), None]);
        let expected = if mode == "WAL" { JournalMode::Wal } else { JournalMode::Rollback };
        assert_eq!(database.journal_mode(), expected, "{mode}");
    }
}

#[test]
fn budgets_stops_and_marks_end_a_look() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<100) INSERT INTO users_outbox SELECT i,'a','t','p' FROM n;");
    let mut database = world.database();
    let (first, seen) = look(&mut database, Start::Lowest, 10).unwrap();
    assert_eq!((first.end, first.rows), (LookEnd::Budget { last: 10 }, 10));
    let (second, after) = look(&mut database, Start::After(mark(&seen[9])), 5).unwrap();
    assert_eq!((second.end, rowids(&after)), (LookEnd::Budget { last: 15 }, vec![11, 12, 13, 14, 15]));
    let (_, from) = look(&mut database, Start::From(99), 5).unwrap();
    assert_eq!(rowids(&from), [99, 100]);
    let before = Budget { before: Some(4), ..budget(50) };
    let (look_before, below) = look_in(&mut database, OUTBOX, Start::Lowest, before).unwrap();
    assert_eq!((look_before.end, rowids(&below)), (LookEnd::End, vec![1, 2, 3]));
    let mut given = 0;
    let stopped = database
        .look(OUTBOX, Start::Lowest, budget(50), &mut |_| {
            given += 1;
            if given == 4 { Flow::Stop } else { Flow::Continue }
        })
        .unwrap();
    assert_eq!((stopped.end, stopped.rows), (LookEnd::Stopped, 3));
    let no_time = Budget { time: Duration::ZERO, ..budget(1000) };
    let (hurried, some) = look_in(&mut database, OUTBOX, Start::Lowest, no_time).unwrap();
    assert!(matches!(hurried.end, LookEnd::Budget { last } if last == some.len() as i64));
    assert!(!some.is_empty() && some.len() < 100);

    app.exec("UPDATE users_outbox SET payload = 'other' WHERE id = 10;");
    assert_eq!(look(&mut database, Start::After(mark(&seen[9])), 5).unwrap().0.end, LookEnd::MarkGone);
    app.exec("DELETE FROM users_outbox WHERE id = 9;");
    assert_eq!(look(&mut database, Start::After(mark(&seen[8])), 5).unwrap().0.end, LookEnd::MarkGone);
}

#[test]
fn every_type_is_text_as_sqlite_says_it() {
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let world = World::new();
        let mut app = App::start(&world.path);
        app.run(&format!("PRAGMA encoding='{encoding}'; PRAGMA journal_mode=WAL;"));
        app.exec("CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload);");
        app.exec("INSERT INTO users_outbox VALUES (1, 42, 1.5, 'grün 🐟'), (2, 1e300, -9223372036854775808, CAST(x'61006200' AS TEXT)), (3, 0.1, '', x'');");
        app.exec("UPDATE users_outbox SET payload = 'a' || char(0) || 'b' WHERE id = 2;");
        let mut database = world.database();
        let seen = all(&mut database);
        assert_eq!(seen[0].fields[1..4], [text("42"), text("1.5"), text("grün 🐟")], "{encoding}");
        let app_says = app.run("SELECT CAST(aggregateId AS TEXT) FROM users_outbox WHERE id = 2;");
        assert_eq!(seen[1].fields[1..4], [text(&app_says), text("-9223372036854775808"), text("a\0b")], "{encoding}");
        assert_eq!(seen[2].fields[1..4], [text("0.1"), text(""), Some(vec![])], "{encoding}");
    }
}

#[test]
fn fingerprints_see_content_and_what_a_record_does_not_and_nothing_else() {
    let (world, mut app) = World::with(
        "WAL",
        "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload, extra);",
    );
    let mut database = world.database();
    let variants = [
        "'1','t','p',NULL",
        "1.0,'t','p',NULL",
        "NULL,'t','p',NULL",
        "'','t','p',NULL",
        "'1t','','p',NULL",
        "'1','t','p',''",
        "'1','t','p',x''",
        "'1','t','p',0",
        "'1','t','p','0'",
        "'1','t','p',0.1",
        "'1','t','p',0.10000000000000002",
    ];
    let mut prints = Vec::new();
    for variant in variants {
        app.exec(&format!("DELETE FROM users_outbox; INSERT INTO users_outbox VALUES (1,{variant});"));
        prints.push(all(&mut database)[0].print);
    }
    for (at, print) in prints.iter().enumerate() {
        assert_eq!(prints.iter().filter(|other| *other == print).count(), 1, "{}", variants[at]);
    }
    // The same records.
    for variant in ["'1','t','p',NULL", "1,'t','p',NULL", "x'31','t','p',NULL", "'1',x'74','p',NULL"] {
        app.exec(&format!("DELETE FROM users_outbox; INSERT INTO users_outbox VALUES (1,{variant});"));
        assert_eq!(all(&mut database)[0].print, prints[0], "{variant}");
    }
}

#[test]
fn versions_tell_foreign_commits_only() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let mut database = world.database();
        assert_eq!(database.version().unwrap(), None);
        let (first, seen) = look(&mut database, Start::Lowest, 10).unwrap();
        assert_eq!(database.version().unwrap(), Some(first.version), "{mode}");
        delete(&mut database, &seen).unwrap();
        assert_eq!(database.version().unwrap(), Some(first.version), "{mode}: our own commit");
        app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
        assert_ne!(database.version().unwrap(), Some(first.version), "{mode}");
        let (second, _) = look(&mut database, Start::Lowest, 10).unwrap();
        assert_eq!(database.version().unwrap(), Some(second.version));
        database.let_go();
        assert!(!database.is_open());
        let (third, _) = look(&mut database, Start::Lowest, 10).unwrap();
        assert_ne!(third.version.connection, second.version.connection);
    }
}

#[test]
fn in_journal_mode_no_look_begins_while_the_application_writes() {
    let (world, mut app) = World::with("DELETE", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    all(&mut database);
    assert!(!database.others_active());
    app.exec("BEGIN IMMEDIATE;");
    assert!(database.others_active());
    assert!(matches!(look(&mut database, Start::Lowest, 10), Err(SourceError::Busy(_))));
    assert!(matches!(database.version(), Err(SourceError::Busy(_))));
    app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p'); COMMIT;");
    assert_eq!(rowids(&all(&mut database)), [1, 2]);
}

#[test]
fn in_wal_mode_others_are_seen_reading_and_writing() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    let mut database = world.database();
    all(&mut database);
    assert!(!database.others_active());
    app.exec("BEGIN IMMEDIATE;");
    assert!(database.others_active());
    assert_eq!(rowids(&all(&mut database)), [0i64; 0], "a writer is no obstacle to a reader");
    app.exec("COMMIT;");
    assert!(!database.others_active());
    app.run("BEGIN; SELECT count(*) FROM users_outbox;");
    assert!(database.others_active());
    app.exec("COMMIT;");
}

#[test]
fn an_application_that_holds_the_file_exclusively_is_weather() {
    let world = World::new();
    let mut app = App::start(&world.path);
    app.run("PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL;");
    app.exec(SCHEMA);
    let mut database = world.database();
    database.check().unwrap();
    assert!(matches!(look(&mut database, Start::Lowest, 10), Err(SourceError::Busy(_))));
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    app.close();
    assert_eq!(rowids(&all(&mut database)), [1]);
}

#[test]
fn the_journal_mode_may_change_while_we_are_connected_and_back_once_we_let_go() {
    let (world, mut app) = World::with("DELETE", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    all(&mut database);
    assert_eq!(database.journal_mode(), JournalMode::Rollback);
    assert_eq!(app.run("PRAGMA journal_mode=WAL;"), "wal");
    app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
    let seen = all(&mut database);
    assert_eq!((rowids(&seen), database.journal_mode()), (vec![1, 2], JournalMode::Wal));
    delete(&mut database, &seen[..1]).unwrap();
    assert_ne!(app.run("PRAGMA journal_mode=DELETE;"), "delete", "a connected reader keeps the mode");
    database.let_go();
    assert_eq!(app.run("PRAGMA journal_mode=DELETE;"), "delete");
    let seen = all(&mut database);
    assert_eq!((rowids(&seen), database.journal_mode()), (vec![2], JournalMode::Rollback));
    delete(&mut database, &seen).unwrap();
    assert_eq!(app.count(), 0);
}

#[test]
fn a_dry_run_writes_nothing_and_needs_no_lock() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        app.close();
        let names = || {
            let mut names: Vec<_> =
                std::fs::read_dir(world.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        let mut first = Database::open_read_only(world.options(), vec![spec("users_outbox")]);
        let mut second = Database::open_read_only(world.options(), vec![spec("users_outbox")]);
        let seen = all(&mut first);
        assert_eq!((rowids(&seen), rowids(&all(&mut second))), (vec![1], vec![1]));
        assert!(matches!(delete(&mut first, &seen), Err(SourceError::Failed(_))));
        assert_eq!(names(), before, "{mode}");
        drop((first, second));
        assert_eq!(names(), before, "{mode}");
    }
}
