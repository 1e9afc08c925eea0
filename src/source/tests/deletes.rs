use super::*;

const FILL: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<1000)
    INSERT INTO users_outbox SELECT i,'a'||(i%7),'t',hex(zeroblob(50)) FROM n;";

#[test]
fn what_is_still_what_was_sent_is_deleted_in_every_journal_mode() {
    for (mode, yields) in MODES.into_iter().flat_map(|mode| [(mode, true), (mode, false)]) {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec(FILL);
        let mut database = world.database();
        let seen = all(&mut database);
        app.exec("UPDATE users_outbox SET payload='new' WHERE id IN (5, 600); DELETE FROM users_outbox WHERE id IN (7, 1000);");
        let mut before_commit = 0;
        let plans = [plan(&seen[..500]), plan(&seen[500..])];
        let deletion = database
            .delete(&DeleteOrder { yields, ..order(&plans) }, &mut |_| {
                before_commit += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(deletion.deleted, 996, "{mode}");
        assert_eq!(deletion.changed, [key(5), key(600)]);
        assert_eq!(deletion.gone, [key(7), key(1000)]);
        assert!(deletion.kept.is_empty());
        assert_eq!(before_commit, 1);
        assert_eq!(app.run("SELECT id FROM users_outbox;"), "5\n600", "{mode}");
        assert_eq!(app.run("PRAGMA integrity_check;"), "ok");
    }
}

#[test]
fn rows_of_others_between_ours_stay() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(FILL);
    let mut database = world.database();
    let seen = all(&mut database);
    let ours: Vec<Seen> = seen.iter().filter(|row| row.rowid % 3 == 0 || row.rowid > 900).cloned().collect();
    let deletion = delete(&mut database, &ours).unwrap();
    assert_eq!(deletion.deleted, ours.len());
    let left: i64 = app.count();
    assert_eq!(left as usize, 1000 - ours.len());
    assert_eq!(app.run("SELECT count(*) FROM users_outbox WHERE id % 3 = 0 OR id > 900;"), "0");
}

#[test]
fn two_versions_of_a_row_in_one_order_settle_as_one() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','old'),(2,'a','t','p');");
    let mut database = world.database();
    let old = all(&mut database);
    app.exec("UPDATE users_outbox SET payload='new' WHERE id=1;");
    let new = all(&mut database);
    let deletion = database.delete(&order(&[plan(&old[..1]), plan(&new)]), &mut |_| Ok(())).unwrap();
    assert_eq!((deletion.deleted, deletion.changed.len(), deletion.gone.len()), (2, 0, 0));
    assert_eq!(app.count(), 0);
}

#[test]
fn a_trigger_that_ignores_keeps_its_row_and_no_other() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','keep'),(3,'a','t','p');");
        app.exec(
            "CREATE TRIGGER k BEFORE DELETE ON users_outbox WHEN old.payload='keep' BEGIN SELECT RAISE(IGNORE); END;",
        );
        let mut database = world.database();
        let seen = all(&mut database);
        let deletion = delete(&mut database, &seen).unwrap();
        assert_eq!((deletion.deleted, deletion.kept), (2, vec![key(2)]), "{mode}");
        assert_eq!(app.run("SELECT id FROM users_outbox;"), "2");
    }
}

#[test]
fn a_trigger_that_raises_keeps_its_rows_and_no_others() {
    let raises = ["ABORT, 'no'", "FAIL, 'no'", "ROLLBACK, 'no'"];
    for (raise, yields) in raises.into_iter().flat_map(|raise| [(raise, true), (raise, false)]) {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(FILL);
        app.exec(&format!("CREATE TRIGGER k BEFORE DELETE ON users_outbox WHEN old.id IN (2, 77, 999) BEGIN SELECT RAISE({raise}); END;"));
        let mut database = world.database();
        let seen = all(&mut database);
        let plans = [plan(&seen)];
        let deletion = database.delete(&DeleteOrder { yields, ..order(&plans) }, &mut |_| Ok(())).unwrap();
        let mut kept = deletion.kept;
        kept.sort_unstable();
        assert_eq!((deletion.deleted, kept), (997, vec![key(2), key(77), key(999)]), "{raise}");
        assert_eq!(app.run("SELECT id FROM users_outbox;"), "2\n77\n999", "{raise}");
        app.exec("DROP TRIGGER k;");
        let seen = all(&mut database);
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 3, "{raise}: once the trigger is gone");
    }
}

#[test]
fn rows_that_a_trigger_takes_along_are_counted_only_if_asked_for() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(
        "CREATE TABLE other_outbox AS SELECT * FROM users_outbox; INSERT INTO other_outbox VALUES (1,'a','t','p');",
    );
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p'),(3,'a','t','p'),(4,'a','t','p');");
    app.exec(
        "CREATE TRIGGER k AFTER DELETE ON users_outbox WHEN old.id=1 BEGIN
        DELETE FROM users_outbox WHERE id IN (3, 4); DELETE FROM other_outbox; END;",
    );
    let mut database = world.database();
    let seen = all(&mut database);
    let deletion = delete(&mut database, &seen[..3]).unwrap();
    assert_eq!((deletion.deleted, deletion.kept.len(), deletion.gone.len()), (3, 0, 0));
    assert_eq!(app.count(), 0);
}

#[test]
fn tables_are_settled_one_after_the_other() {
    let world = World::new();
    let mut app = App::start(&world.path);
    app.exec(&SCHEMA.replace("users_outbox", "a"));
    app.exec(&SCHEMA.replace("users_outbox", "b"));
    app.exec("INSERT INTO a VALUES (1,'a','t','p'),(2,'a','t','p'); INSERT INTO b SELECT * FROM a;");
    app.exec("CREATE TRIGGER k AFTER DELETE ON a WHEN old.id=1 BEGIN DELETE FROM b WHERE id=2; END;");
    let mut database = Database::new(world.options(), vec![spec("a"), spec("b")]);
    let (a, b) = (crate::model::OutboxIx(0), crate::model::OutboxIx(1));
    let in_a = look_in(&mut database, a, Start::Lowest, budget(9)).unwrap().1;
    let in_b = look_in(&mut database, b, Start::Lowest, budget(9)).unwrap().1;
    assert_eq!(in_a[0].print, in_b[0].print, "the print is of the content alone");
    let deletion = database.delete(&order(&[plan_of(b, &in_b), plan_of(a, &in_a)]), &mut |_| Ok(())).unwrap();
    assert_eq!((deletion.deleted, deletion.gone), (3, vec![RowKey { outbox: b, rowid: 2 }]));
}

#[test]
fn foreign_keys_cascade_only_when_configured() {
    let schema = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload);
        CREATE TABLE child (parent REFERENCES users_outbox(id) ON DELETE CASCADE);";
    for (foreign_keys, left) in [(false, "1"), (true, "0")] {
        let (world, mut app) = World::with("WAL", schema);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'); INSERT INTO child VALUES (1);");
        let mut database =
            Database::new(DatabaseOptions { foreign_keys, ..world.options() }, vec![spec("users_outbox")]);
        let seen = all(&mut database);
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1);
        assert_eq!(app.run("SELECT count(*) FROM child;"), left);
    }
}

/// Such a key fails at COMMIT, which names no row.
#[test]
fn rows_that_a_deferred_foreign_key_needs_stay_and_no_others() {
    let schema = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload);
        CREATE TABLE child (parent REFERENCES users_outbox(id) DEFERRABLE INITIALLY DEFERRED);";
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, schema);
        app.exec(FILL);
        app.exec("INSERT INTO child VALUES (2), (77), (77), (999);");
        let options = DatabaseOptions { foreign_keys: true, ..world.options() };
        let mut database = Database::new(options, vec![spec("users_outbox")]);
        let seen = all(&mut database);
        let mut before_commit = 0;
        let deletion = database
            .delete(&order(&[plan(&seen)]), &mut |_| {
                before_commit += 1;
                Ok(())
            })
            .unwrap();
        let mut kept = deletion.kept;
        kept.sort_unstable();
        assert_eq!((deletion.deleted, kept), (997, vec![key(2), key(77), key(999)]), "{mode}");
        assert_eq!(before_commit, 1, "{mode}: the state file is not told twice");
        assert_eq!(app.run("SELECT id FROM users_outbox;"), "2\n77\n999", "{mode}");
        let seen = all(&mut database);
        assert_eq!(delete(&mut database, &seen).unwrap().kept.len(), 3, "{mode}: nothing else to delete");
        app.exec("DELETE FROM child WHERE parent = 77;");
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1, "{mode}");
        app.exec("DELETE FROM child;");
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 2, "{mode}");
    }
}

#[test]
fn a_deferred_foreign_key_that_is_met_by_the_end_of_the_delete_keeps_nothing() {
    let schema = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType,
        payload REFERENCES users_outbox(id) DEFERRABLE INITIALLY DEFERRED);";
    let (world, mut app) = World::with("WAL", schema);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t',NULL),(2,'a','t',1),(3,'a','t',4),(4,'a','t',2);");
    let options = DatabaseOptions { foreign_keys: true, ..world.options() };
    let mut database = Database::new(options, vec![spec("users_outbox")]);
    let seen = all(&mut database);
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, 4);
}

#[test]
fn a_write_lock_of_the_application_is_busy() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let mut database = world.database();
        let seen = all(&mut database);
        app.exec("BEGIN IMMEDIATE;");
        let plans = [plan(&seen)];
        let insisted = database.delete(&insistent(&plans), &mut |_| Ok(()));
        assert!(matches!(insisted, Err(SourceError::Busy(_))), "{mode}: {insisted:?}");
        let polite = database.delete(&order(&plans), &mut |_| Ok(()));
        assert!(matches!(polite, Err(SourceError::Busy(_) | SourceError::Yielded)), "{mode}: {polite:?}");
        app.exec("ROLLBACK;");
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1);
    }
}

#[test]
fn a_reader_in_journal_mode_makes_the_commit_busy_and_nothing_is_deleted() {
    let (world, mut app) = World::with("DELETE", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    let seen = all(&mut database);
    app.run("BEGIN; SELECT * FROM users_outbox;");
    let mut asked = 0;
    let result = database.delete(&order(&[plan(&seen)]), &mut |_| {
        asked += 1;
        Ok(())
    });
    assert!(matches!(result, Err(SourceError::Busy(_))), "{result:?}");
    assert_eq!(asked, 1);
    assert_eq!(app.run("SELECT count(*) FROM users_outbox; COMMIT; SELECT count(*) FROM users_outbox;"), "1\n1");
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1);
}

#[test]
fn it_makes_way_for_a_reader() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    let seen = all(&mut database);
    app.run("BEGIN; SELECT * FROM users_outbox;");
    let plans = [plan(&seen)];
    let result = database.delete(&order(&plans), &mut |_| panic!("not to be asked"));
    assert!(matches!(result, Err(SourceError::Yielded)));
    assert_eq!(
        app.run("SELECT count(*) FROM users_outbox; COMMIT; SELECT count(*) FROM users_outbox;").lines().last(),
        Some("1")
    );
    assert_eq!(database.delete(&order(&plans), &mut |_| Ok(())).unwrap().deleted, 1);
}

#[test]
fn a_state_file_that_fails_rolls_the_delete_back() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    let seen = all(&mut database);
    let result = database.delete(&order(&[plan(&seen)]), &mut |_| Err(journal_error()));
    assert!(matches!(result, Err(SourceError::Journal(_))));
    assert_eq!(app.count(), 1);
    app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
}

#[test]
fn ids_that_are_used_again_never_delete_the_new_row() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    let mut database = world.database();
    for round in 0..300 {
        app.exec(&format!("INSERT INTO users_outbox VALUES (1,'a','t','{round}');"));
        let seen = all(&mut database);
        assert_eq!(seen.len(), 1);
        if round % 3 == 0 {
            app.exec("DELETE FROM users_outbox; INSERT INTO users_outbox VALUES (1,'a','t','another');");
            let deletion = delete(&mut database, &seen).unwrap();
            assert_eq!((deletion.deleted, deletion.changed), (0, vec![key(1)]));
            app.exec("DELETE FROM users_outbox;");
        } else {
            assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1);
        }
    }
}

#[test]
fn text_keys_are_found_by_rowid() {
    let schema = "CREATE TABLE users_outbox (id TEXT PRIMARY KEY, aggregateId TEXT, eventType TEXT, payload TEXT);";
    let (world, mut app) = World::with("WAL", schema);
    app.exec(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<200)
        INSERT INTO users_outbox SELECT hex(randomblob(16)),'a','t','p' FROM n;",
    );
    let mut database = world.database();
    let seen = all(&mut database);
    assert_eq!(rowids(&seen), (1..=200).collect::<Vec<i64>>());
    assert_eq!(seen[0].fields[0].as_ref().unwrap().len(), 32);
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, 200);
    assert_eq!(app.count(), 0);
}

#[test]
fn the_cheap_order_leaves_little_in_the_log() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<50000)
        INSERT INTO users_outbox SELECT i,'a'||(i%7),'t',hex(zeroblob(90)) FROM n;",
    );
    app.run("PRAGMA wal_checkpoint(TRUNCATE);");
    let mut database = world.database();
    let seen = all(&mut database);
    for rows in seen.chunks(5000) {
        assert_eq!(delete(&mut database, rows).unwrap().deleted, rows.len());
    }
    let wal_size_bytes = std::fs::metadata(world.path.with_extension("sqlite-wal")).unwrap().len();
    assert!(wal_size_bytes / 50_000 <= 30, "{wal_size_bytes} bytes of WAL for 50,000 rows");
}
