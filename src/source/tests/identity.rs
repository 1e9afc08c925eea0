use super::*;
use crate::model::{Another, Guard, KnownTable, Sameness};

#[test]
fn nothing_there_yet_is_waited_for() {
    let world = World::new();
    let deep = world.directory.path().join("not").join("yet.sqlite");
    let mut database = Database::new(DatabaseOptions { path: deep, ..world.options() }, vec![spec("users_outbox")]);
    database.check().unwrap();
    assert!(matches!(look(&mut database, Start::Lowest, 1), Err(SourceError::NotThere(_))));

    let mut database = world.database();
    database.check().unwrap();
    assert!(matches!(look(&mut database, Start::Lowest, 1), Err(SourceError::NotThere(_))));
    assert!(!world.path.exists(), "it must not be created");
    std::fs::write(&world.path, b"").unwrap();
    database.check().unwrap();
    assert!(matches!(look(&mut database, Start::Lowest, 1), Err(SourceError::NotThere(_))));
    let mut app = App::start(&world.path);
    app.exec("CREATE TABLE other (id);");
    let Err(SourceError::NotThere(why)) = look(&mut database, Start::Lowest, 1) else { panic!() };
    assert!(why.hint.contains("other"), "{why}");
    app.exec(SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    assert_eq!(rowids(&all(&mut database)), [1]);
}

fn replaced_once(database: &mut Database) {
    let result = look(database, Start::Lowest, 9);
    assert!(matches!(result, Err(SourceError::Replaced { .. })), "{result:?}");
}

#[test]
fn a_file_moved_away_takes_no_deletes() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let mut database = world.database();
        let seen = all(&mut database);
        let aside = world.directory.path().join("aside.sqlite");
        // In the middle of the transaction, where only the last look before COMMIT can see it.
        let result = database.delete(&order(&[group(&seen)]), &mut |_| {
            std::fs::rename(&world.path, &aside).unwrap();
            Ok(())
        });
        assert!(matches!(result, Err(SourceError::NotThere(_))), "{mode}: {result:?}");
        assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
        std::fs::rename(&aside, &world.path).unwrap();
        assert_eq!(rowids(&all(&mut database)), [1], "{mode}: the same file is back");
        app.close();
    }
}

#[test]
fn a_file_replaced_by_rename_is_taken_up_again() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    let seen = all(&mut database);
    app.close();
    let other = world.directory.path().join("other.sqlite");
    let mut next = App::start(&other);
    next.exec(SCHEMA);
    next.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    next.close();
    std::fs::rename(&other, &world.path).unwrap();
    let result = delete(&mut database, &seen);
    assert!(matches!(result, Err(SourceError::Replaced { .. })), "{result:?}");
    assert_eq!(rowids(&all(&mut database)), [1], "said once");
    std::fs::remove_file(&world.path).unwrap();
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
    let mut third = App::start(&world.path);
    third.exec(SCHEMA);
    replaced_once(&mut database);
    assert_eq!(all(&mut database).len(), 0);
}

#[test]
fn a_symlink_that_points_elsewhere_is_another_file() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let (second, mut other) = World::with("WAL", SCHEMA);
    other.exec("INSERT INTO users_outbox VALUES (5,'a','t','p');");
    let link = world.directory.path().join("link");
    std::os::unix::fs::symlink(&world.path, &link).unwrap();
    assert!(same_file(&link, &world.path).unwrap());
    assert!(!same_file(&link, &second.path).unwrap());
    let mut database =
        Database::new(DatabaseOptions { path: link.clone(), ..world.options() }, vec![spec("users_outbox")]);
    assert_eq!(rowids(&all(&mut database)), [1]);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&second.path, &link).unwrap();
    replaced_once(&mut database);
    assert_eq!(rowids(&all(&mut database)), [5]);
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first_also_through_a_symlink() {
    let (world, _app) = World::with("WAL", SCHEMA);
    let link = world.directory.path().join("link");
    std::os::unix::fs::symlink(&world.path, &link).unwrap();
    let mut first = world.database();
    first.check().unwrap();
    first.let_go();
    // In a process of its own: the lock belongs to open files, and closing one here would drop SQLite's locks.
    let other = Command::new("flock")
        .args(["--nonblock", "--conflict-exit-code", "9"])
        .arg(&link)
        .arg("true")
        .status()
        .unwrap();
    assert_eq!(other.code(), Some(9), "kept while let go");
    let mut second = Database::new(DatabaseOptions { path: link, ..world.options() }, vec![spec("users_outbox")]);
    let Err(OpenError::LockedBy { pid, .. }) = second.check() else { panic!() };
    assert_eq!(pid, Some(std::process::id()));
    drop(first);
    // A test beside this one may be between fork and exec, with a copy of the descriptor.
    wait_until("the lock is free", || second.check().is_ok());
}

#[test]
fn added_columns_leave_fingerprints_alone_and_renamed_ones_do_not() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'b','t','p');");
    let mut database = world.database();
    let seen = all(&mut database);
    app.exec("ALTER TABLE users_outbox ADD COLUMN note TEXT DEFAULT 'x';");
    assert_eq!(all(&mut database), seen);
    assert_eq!(delete(&mut database, &seen[..1]).unwrap().deleted, 1);
    app.exec("CREATE INDEX i ON users_outbox(note); CREATE TABLE unrelated (x); VACUUM;");
    assert_eq!(all(&mut database), seen[1..]);
    app.exec("DROP INDEX i; ALTER TABLE users_outbox DROP COLUMN note;");
    assert_eq!(all(&mut database), seen[1..]);
    app.exec("ALTER TABLE users_outbox ADD COLUMN gen TEXT AS (payload || '!') VIRTUAL;");
    assert_eq!(all(&mut database), seen[1..]);
    assert_eq!(delete(&mut database, &seen[1..]).unwrap().deleted, 1);
    app.exec("DROP TABLE users_outbox;");
    app.exec(&SCHEMA.replace("payload TEXT", "payload TEXT, note TEXT"));
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::Replaced { .. })));
    drop(database);
    let mut database = world.database();
    wait_until("the lock is free", || database.check().is_ok());
    app.exec("ALTER TABLE users_outbox RENAME COLUMN note TO remark;");
    replaced_once(&mut database);
    all(&mut database);
}

#[test]
fn a_table_created_again_is_another_table() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    let mut database = world.database();
    all(&mut database);
    app.exec("DROP TABLE users_outbox; CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, eventType TEXT, aggregateId TEXT, payload TEXT);");
    replaced_once(&mut database);
    all(&mut database);
    app.exec("DROP TABLE users_outbox;");
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
    app.exec(SCHEMA);
    replaced_once(&mut database);
    all(&mut database);
    app.exec("DROP TABLE users_outbox; CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, eventType TEXT);");
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
}

#[test]
fn a_vacuum_renumbers_only_tables_whose_key_is_not_the_rowid() {
    let schema = "CREATE TABLE users_outbox (id TEXT PRIMARY KEY, aggregateId TEXT, eventType TEXT, payload TEXT);";
    let (world, mut app) = World::with("WAL", schema);
    app.exec("INSERT INTO users_outbox VALUES ('x','a','t','p'),('y','a','t','p'),('z','a','t','p');");
    let mut database = world.database();
    let before = all(&mut database);
    app.exec("DELETE FROM users_outbox WHERE id = 'x'; VACUUM;");
    let result = delete(&mut database, &before[1..]);
    assert!(matches!(result, Err(SourceError::Replaced { .. })), "{result:?}");
    assert_eq!(all(&mut database).len(), 2);
    app.exec("VACUUM;");
    database.let_go();
    app.exec("VACUUM;");
    replaced_once(&mut database);
    all(&mut database);
}

#[test]
fn letting_go_remembers_how_it_was_left() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let mut database = world.database();
        let settle = |database: &mut Database| {
            wait_until("nobody has been there", || {
                all(database);
                database.let_go();
                !database.stirred()
            });
        };
        settle(&mut database);
        assert!(!database.is_open());
        assert!(!database.stirred());
        app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
        assert!(database.stirred(), "{mode}");
        all(&mut database);
        // Committed after our last look and before we let go.
        app.exec("INSERT INTO users_outbox VALUES (3,'a','t','p');");
        database.let_go();
        assert!(database.stirred(), "{mode}");
        // Alone: our own opening and closing makes and removes a -wal, which must not look like somebody.
        app.close();
        settle(&mut database);
        assert!(!database.stirred(), "{mode}");
    }
}

fn columns(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn told(columns: &[String]) -> KnownTable {
    KnownTable { guard: Guard { columns: columns.to_vec(), sent: columns.len(), by_value: false }, identity: None }
}

/// As the next run: its first read may find other columns than the last run's did.
fn next_run(world: &World) -> Database {
    let mut database = world.database();
    wait_until("the lock is free", || !matches!(database.check(), Err(OpenError::LockedBy { .. })));
    database
}

#[test]
fn a_column_added_while_nobody_ran_changes_no_fingerprint() {
    for closed in [false, true] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'b','t','p');");
        let mut database = world.database();
        let seen = all(&mut database);
        let known = database.traits(OUTBOX).unwrap().guard.clone();
        assert_eq!(known.columns, columns(&["id", "aggregateId", "eventType", "payload"]));
        drop(database);
        app.exec("ALTER TABLE users_outbox ADD COLUMN note TEXT DEFAULT 'x';");
        let mut database = next_run(&world);
        if closed {
            database.let_go();
        }
        database.recognise_by(OUTBOX, KnownTable { guard: known.clone(), identity: None });
        if !closed {
            assert_eq!(database.traits(OUTBOX).unwrap().guard, known, "known at once while it is open");
        }
        assert_eq!(all(&mut database), seen, "and it is no replacement");
        assert_eq!(database.traits(OUTBOX).unwrap().guard, known);
        assert_eq!(delete(&mut database, &seen[..1]).unwrap().deleted, 1);
        app.exec("ALTER TABLE users_outbox ADD COLUMN more;");
        assert_eq!(all(&mut database), seen[1..]);
        app.exec("ALTER TABLE users_outbox DROP COLUMN payload; ALTER TABLE users_outbox ADD COLUMN payload;");
        assert_ne!(all(&mut database)[0].print, seen[1].print, "another content");
    }
}

#[test]
fn a_column_removed_while_nobody_ran_is_not_waited_for() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = next_run(&world);
    database.recognise_by(OUTBOX, told(&columns(&["id", "aggregateId", "eventType", "payload", "note"])));
    assert_eq!(rowids(&all(&mut database)), [1]);
    let known = database.traits(OUTBOX).unwrap().guard.columns.clone();
    assert_eq!(known, columns(&["id", "aggregateId", "eventType", "payload"]));
    // Told once: a column of that name that comes later is a new one.
    app.exec("ALTER TABLE users_outbox ADD COLUMN note;");
    all(&mut database);
    assert_eq!(database.traits(OUTBOX).unwrap().guard.columns, known);
}

#[test]
fn columns_told_of_before_the_table_is_there_are_heeded_when_it_comes() {
    let world = World::new();
    let mut database = next_run(&world);
    let first = columns(&["payload", "id", "aggregateId", "eventType"]);
    database.recognise_by(OUTBOX, told(&first));
    assert!(database.traits(OUTBOX).is_none());
    let mut app = App::start(&world.path);
    app.exec("CREATE TABLE other (x);");
    assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
    app.exec(SCHEMA);
    app.exec("ALTER TABLE users_outbox ADD COLUMN note; INSERT INTO users_outbox VALUES (1,'a','t','p','n');");
    let before = all(&mut database);
    assert_eq!(database.traits(OUTBOX).unwrap().guard.columns, first);
    app.exec("UPDATE users_outbox SET note = 'other';");
    assert_eq!(all(&mut database)[0].print, before[0].print, "not among them");
    app.exec("UPDATE users_outbox SET payload = 'other';");
    assert_ne!(all(&mut database)[0].print, before[0].print);
}

#[test]
fn another_table_in_place_of_the_one_that_was_told_of_is_still_noticed() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = next_run(&world);
    database.let_go();
    database.recognise_by(OUTBOX, told(&columns(&["id", "aggregateId", "eventType", "payload"])));
    app.exec(
        "DROP TABLE users_outbox; CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, eventType, aggregateId, payload);",
    );
    replaced_once(&mut database);
    assert_eq!(all(&mut database).len(), 0);
}

#[test]
fn a_table_is_bare_when_its_rows_can_come_back_alike() {
    let rest = "aggregateId TEXT, eventType TEXT, payload TEXT";
    for (schema, bare, rowid_is_key) in [
        (format!("id INTEGER PRIMARY KEY, {rest}"), true, true),
        (format!("id INTEGER PRIMARY KEY AUTOINCREMENT, {rest}"), false, true),
        (format!("{rest}, id integer constraint k primary key asc on conflict abort autoincrement"), false, true),
        (format!("id INTEGER PRIMARY KEY /* AUTOINCREMENT */, {rest} -- AUTOINCREMENT\n"), true, true),
        (format!("id INTEGER PRIMARY KEY, {rest}, note DEFAULT 'PRIMARY KEY AUTOINCREMENT'"), true, true),
        (format!("id INTEGER PRIMARY KEY, {rest}, \"id INTEGER PRIMARY KEY AUTOINCREMENT\""), true, true),
        (format!("id INTEGER PRIMARY KEY, {rest}, UNIQUE (aggregateId)"), true, true),
        (format!("id INTEGER PRIMARY KEY DESC, {rest}"), true, false),
        (format!("id INT PRIMARY KEY, {rest}"), true, false),
        (format!("id TEXT PRIMARY KEY, {rest}"), true, false),
        (format!("id TEXT UNIQUE, {rest}, counter INTEGER PRIMARY KEY AUTOINCREMENT"), false, true),
        (format!("id, {rest}, a, b, PRIMARY KEY (a, b)"), true, false),
    ] {
        // Whether the application has ever inserted a row must not matter: sqlite_sequence is then still empty.
        for insert in ["", "INSERT INTO users_outbox (id, aggregateId) VALUES (1, 'a');"] {
            let (world, mut app) = World::with("WAL", &format!("CREATE TABLE users_outbox ({schema});"));
            app.exec(insert);
            let mut database = world.database();
            assert!(database.traits(OUTBOX).is_none(), "no look has come to it");
            all(&mut database);
            let traits = database.traits(OUTBOX).unwrap();
            assert_eq!((traits.bare, traits.rowid_is_key), (bare, rowid_is_key), "{schema}");
        }
    }
}

#[test]
fn an_event_id_of_the_applications_own_makes_a_table_not_bare() {
    for key in ["id TEXT PRIMARY KEY", "id INTEGER PRIMARY KEY", "id INTEGER PRIMARY KEY AUTOINCREMENT"] {
        let (world, _app) =
            World::with("WAL", &format!("CREATE TABLE users_outbox ({key}, aggregateId, eventType, payload);"));
        let mut fields = spec("users_outbox").fields;
        fields[crate::model::field::EVENT_ID] = Some("ID".to_owned());
        let named = OutboxSpec { fields, ..spec("users_outbox") };
        let mut database = Database::new(world.options(), vec![named]);
        database.check().unwrap();
        assert!(!database.traits(OUTBOX).unwrap().bare, "{key}");
    }
}

#[test]
fn a_table_created_again_word_for_word_is_another_table_where_it_shows() {
    for (before, again) in [
        // Another place in the schema.
        ("CREATE TABLE later (x);", "DROP TABLE users_outbox; "),
        ("CREATE TABLE later (x);", "BEGIN; DROP TABLE users_outbox; "),
        // Another root page: the old one went to another table meanwhile.
        ("", "DROP TABLE users_outbox; CREATE TABLE instead (x); "),
    ] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(&format!("{before} INSERT INTO users_outbox VALUES (1,'a','t','p');"));
        let mut database = world.database();
        let seen = all(&mut database);
        app.exec(&format!("{again} {SCHEMA} INSERT INTO users_outbox VALUES (1,'a','t','p');"));
        if again.starts_with("BEGIN") {
            app.exec("COMMIT;");
        }
        let result = delete(&mut database, &seen);
        assert!(matches!(result, Err(SourceError::Replaced { another: Another::Of(_), .. })), "{again}: {result:?}");
        assert_eq!(all(&mut database), seen, "said once");
    }
}

#[test]
fn migrations_beside_a_table_do_not_make_it_another() {
    for auto_vacuum in ["NONE", "INCREMENTAL"] {
        let world = World::new();
        let mut app = App::start(&world.path);
        app.run(&format!("PRAGMA auto_vacuum = {auto_vacuum}; PRAGMA journal_mode = WAL;"));
        app.exec(SCHEMA);
        app.exec("CREATE TABLE other (x); INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let mut database = world.database();
        let seen = all(&mut database);
        for migration in [
            "CREATE TABLE one (x); CREATE INDEX i ON other(x); CREATE INDEX k ON users_outbox(payload);",
            "DROP TABLE one; DROP INDEX i; CREATE VIEW v AS SELECT 1; CREATE TABLE two (x);",
            "ALTER TABLE other ADD COLUMN y; ALTER TABLE users_outbox ADD COLUMN y; DROP TABLE two;",
            "VACUUM;",
            "DROP INDEX k;",
            "PRAGMA incremental_vacuum;",
            "VACUUM;",
        ] {
            app.exec(migration);
            assert_eq!(all(&mut database), seen, "{auto_vacuum}: {migration}");
        }
    }
}

/// What a look says after this: `None` when it is the same table to it.
fn after(database: &mut Database, app: &mut App, sql: &str) -> Option<Another> {
    app.exec(sql);
    match look(database, Start::Lowest, 9) {
        Ok(_) => None,
        Err(SourceError::Replaced { another, .. }) => Some(another),
        Err(error) => panic!("{sql}: {error}"),
    }
}

const COUNTED: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE); \
     CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, payload TEXT, \
     attempts INTEGER DEFAULT 0, extra, note TEXT, user REFERENCES users (id), CHECK (attempts < 9), UNIQUE (note));";
const THREE: &str =
    "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES ('a','t','p'), ('b','t','p'), ('c','t','p');";

/// Three rows that were read, of a table that counts up or of the same one that does not.
fn three_seen(bare: bool) -> (World, App, Database, Vec<Seen>) {
    let schema = if bare { COUNTED.replace(" AUTOINCREMENT", "") } else { COUNTED.to_owned() };
    let (world, mut app) = World::with("WAL", &schema);
    app.exec(THREE);
    let mut database = world.database();
    let seen = all(&mut database);
    (world, app, database, seen)
}

#[test]
fn what_sqlite_rewrites_is_still_the_same_table() {
    for bare in [false, true] {
        let (_world, mut app, mut database, seen) = three_seen(bare);
        for (sql, drops_a_guard) in [
            ("ALTER TABLE users_outbox ADD COLUMN traceparent VARCHAR;", false),
            ("ALTER TABLE users RENAME TO people;", false),
            ("CREATE INDEX i ON users_outbox(payload);", false),
            ("VACUUM;", false),
            ("ALTER TABLE users_outbox RENAME COLUMN traceparent TO trace;", false),
            ("ALTER TABLE users_outbox DROP COLUMN trace;", false),
            ("CREATE TABLE x (y); DROP TABLE x; ALTER TABLE users_outbox ADD COLUMN tenant DEFAULT 'x';", false),
            ("BEGIN; ALTER TABLE users_outbox ADD COLUMN a; ALTER TABLE users_outbox ADD COLUMN b; COMMIT;", false),
            ("ALTER TABLE users_outbox RENAME TO x; ALTER TABLE x RENAME TO users_outbox;", false),
            ("ALTER TABLE users_outbox DROP COLUMN extra;", true),
        ] {
            // There every column of the first read guards.
            if bare && drops_a_guard {
                continue;
            }
            assert_eq!(after(&mut database, &mut app, sql), None, "{sql}");
            assert_eq!(all(&mut database), seen, "{sql}");
        }
        database.let_go();
        app.exec("ALTER TABLE users_outbox RENAME TO x;");
        assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
        assert_eq!(after(&mut database, &mut app, "ALTER TABLE x RENAME TO users_outbox;"), None, "it was away");
        app.exec("ALTER TABLE users_outbox RENAME COLUMN payload TO body;");
        assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))));
        assert_eq!(after(&mut database, &mut app, "ALTER TABLE users_outbox RENAME COLUMN body TO payload;"), None);
        assert_eq!(all(&mut database), seen);
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 3);
    }
}

#[test]
fn half_of_a_fingerprint_says_what_was_sent_whatever_else_guards_the_row() {
    let (_world, mut app, mut database, seen) = three_seen(true);
    let sends = |rows: &[Seen]| rows.iter().map(|row| row.print.sent()).collect::<Vec<_>>();
    let first = database.traits(OUTBOX).unwrap().guard.clone();
    assert_eq!((first.sent, first.columns.len()), (4, 8), "{first:?}");
    for sql in [
        "ALTER TABLE users_outbox RENAME COLUMN user TO owner;",
        "ALTER TABLE users_outbox DROP COLUMN extra; ALTER TABLE users_outbox ADD COLUMN more;",
    ] {
        assert_eq!(after(&mut database, &mut app, sql), Some(Another::None), "{sql}");
        let now = all(&mut database);
        assert_eq!(sends(&now), sends(&seen), "{sql}");
        let guard = &database.traits(OUTBOX).unwrap().guard;
        assert!(guard.sends_as(&first) && *guard != first, "{guard:?}");
    }
    let before = all(&mut database);
    app.exec("UPDATE users_outbox SET attempts = 1 WHERE id = 1; UPDATE users_outbox SET payload = 'q' WHERE id = 2;");
    let now = all(&mut database);
    assert_eq!((sends(&now)[0], sends(&now)[2]), (sends(&before)[0], sends(&before)[2]));
    assert_ne!(now[0].print, before[0].print);
    assert_ne!(sends(&now)[1], sends(&before)[1]);
    app.exec("UPDATE users_outbox SET payload = hex(zeroblob(600000));");
    let large = all(&mut database);
    let last = "UPDATE users_outbox SET attempts = 2 WHERE id = 3; ALTER TABLE users_outbox DROP COLUMN more;";
    assert_eq!(after(&mut database, &mut app, last), Some(Another::None));
    let now = all(&mut database);
    assert_eq!(sends(&now), sends(&large));
    assert_ne!(now[2].print, large[2].print);
}

#[test]
fn the_key_of_a_bare_table_is_in_the_half_that_says_what_was_sent() {
    for (key, sent) in [
        ("id INTEGER PRIMARY KEY, note", vec!["id", "aggregateId", "eventType", "payload"]),
        ("id, serial INTEGER PRIMARY KEY, note", vec!["id", "aggregateId", "eventType", "payload", "serial"]),
        ("id, a, note, b, PRIMARY KEY (b, a)", vec!["id", "aggregateId", "eventType", "payload", "a", "b"]),
        ("id, serial UNIQUE, note", vec!["id", "aggregateId", "eventType", "payload", "serial"]),
    ] {
        let schema = format!("CREATE TABLE users_outbox (aggregateId, eventType, payload, {key});");
        let (world, _app) = World::with("WAL", &schema);
        let mut database = world.database();
        all(&mut database);
        let guard = &database.traits(OUTBOX).unwrap().guard;
        assert_eq!(guard.columns[..guard.sent], sent, "{schema}");
        assert_eq!(guard.columns[guard.sent..], ["note"], "{schema}");
    }
}

#[test]
fn what_tools_rebuild_is_another_table() {
    // As Alembic, Django, Prisma and EF Core do it, and as Rails and Sequelize do.
    let new_first = "CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, payload TEXT); \
         INSERT INTO n SELECT id, aggregateId, eventType, payload FROM users_outbox; DROP TABLE users_outbox; \
         ALTER TABLE n RENAME TO users_outbox;";
    let old_first = "CREATE TABLE b AS SELECT * FROM users_outbox; DROP TABLE users_outbox; \
         CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, payload TEXT); \
         INSERT INTO users_outbox SELECT id, aggregateId, eventType, payload FROM b; DROP TABLE b;";
    for rebuild in [new_first, old_first] {
        for (begin, commit) in [("", ""), ("BEGIN;", "COMMIT;")] {
            let schema = format!("{COUNTED} CREATE TABLE other (x); INSERT INTO users (name) VALUES ('u');");
            let (world, mut app) = World::with("WAL", &schema);
            app.exec(THREE);
            let second = OutboxSpec { fields: vec![None; 6], ..spec("users") };
            let mut database = Database::new(world.options(), vec![second, spec("users_outbox")]);
            let ix = crate::model::OutboxIx(1);
            let rows = |database: &mut Database| look_in(database, ix, Start::Lowest, budget(9)).map(|seen| seen.1);
            let seen = rows(&mut database).unwrap();
            app.exec(&format!("{begin} {rebuild} {commit}"));
            let Err(SourceError::Replaced { another, .. }) = rows(&mut database) else { panic!("{rebuild}") };
            assert_eq!(another, Another::Of(vec![ix]), "{rebuild}: and the other table is what it was");
            let copied: Vec<_> =
                rows(&mut database).unwrap().iter().map(|row| (row.rowid, row.fields.clone())).collect();
            assert_eq!(copied, seen.iter().map(|row| (row.rowid, row.fields.clone())).collect::<Vec<_>>());
        }
    }
}

#[test]
fn ids_that_begin_anew_are_another_tables() {
    let (world, mut app) = World::with("WAL", COUNTED);
    app.exec(THREE);
    let mut database = world.database();
    let seen = all(&mut database);
    assert_eq!(database.traits(OUTBOX).unwrap().identity.sequence, Some((1, 3)));
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, 3);
    let reset = "DELETE FROM sqlite_sequence; CREATE TABLE x (y);";
    assert_eq!(after(&mut database, &mut app, reset), Some(Another::Of(vec![OUTBOX])));
    app.exec(THREE);
    assert_eq!(rowids(&all(&mut database)), [1, 2, 3]);
}

#[test]
fn what_an_earlier_run_noted_tells_its_table_from_another() {
    for (sql, told) in [
        ("", Sameness::Same),
        ("VACUUM;", Sameness::Same),
        ("ALTER TABLE users_outbox DROP COLUMN extra;", Sameness::Same),
        ("CREATE TABLE x (y); CREATE INDEX i ON x (y);", Sameness::Doubtful),
        ("DELETE FROM users_outbox; DELETE FROM sqlite_sequence;", Sameness::Another),
        (
            "ALTER TABLE users_outbox RENAME TO x; \
             CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId, eventType, payload);",
            Sameness::Another,
        ),
    ] {
        let (world, mut app) = World::with("WAL", COUNTED);
        app.exec(THREE);
        let mut database = world.database();
        all(&mut database);
        let traits = database.traits(OUTBOX).unwrap();
        let known = KnownTable { guard: traits.guard.clone(), identity: Some(traits.identity) };
        drop(database);
        app.exec(sql);
        let mut database = next_run(&world);
        database.recognise_by(OUTBOX, known);
        all(&mut database);
        assert_eq!(database.traits(OUTBOX).unwrap().told, told, "{sql}");
    }
}

#[test]
fn what_is_not_sent_guards_rows_of_bare_tables_only() {
    for bare in [false, true] {
        let (_world, mut app, mut database, seen) = three_seen(bare);
        app.exec("UPDATE users_outbox SET attempts = attempts + 1 WHERE id = 1; UPDATE users_outbox SET payload = 'q' WHERE id = 2;");
        let deletion = delete(&mut database, &seen).unwrap();
        let changed: Vec<i64> = deletion.changed.iter().map(|key| key.rowid).collect();
        assert_eq!(changed, if bare { vec![1, 2] } else { vec![2] }, "bare {bare}");
    }
}

#[test]
fn a_generated_column_that_is_sent_guards_its_row() {
    let schema = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, \
         source TEXT, unsent TEXT, payload TEXT AS (source || '!') VIRTUAL);";
    let (world, mut app) = World::with("WAL", schema);
    app.exec("INSERT INTO users_outbox (source) VALUES ('a'), ('b');");
    let mut database = world.database();
    let seen = all(&mut database);
    app.exec("UPDATE users_outbox SET unsent = 'x'; UPDATE users_outbox SET source = 'c' WHERE id = 2;");
    let deletion = delete(&mut database, &seen).unwrap();
    assert_eq!((deletion.deleted, deletion.changed), (1, vec![key(2)]));
}
