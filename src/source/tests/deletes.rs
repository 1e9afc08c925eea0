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
        let groups = [group(&seen[..500]), group(&seen[500..])];
        let deletion = database
            .delete(&DeleteOrder { yields, ..order(&groups) }, &mut |_| {
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
    let deletion = database.delete(&order(&[group(&old[..1]), group(&new)]), &mut |_| Ok(())).unwrap();
    assert_eq!(
        (deletion.deleted, deletion.changed.len(), deletion.gone),
        (2, 0, vec![key(1)]),
        "every row of the order once"
    );
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
        let groups = [group(&seen)];
        let deletion = database.delete(&DeleteOrder { yields, ..order(&groups) }, &mut |_| Ok(())).unwrap();
        let mut kept = deletion.kept;
        kept.sort_unstable();
        assert_eq!((deletion.deleted, kept), (997, vec![key(2), key(77), key(999)]), "{raise}");
        assert_eq!(app.run("SELECT id FROM users_outbox;"), "2\n77\n999", "{raise}");
        app.exec("DROP TRIGGER k;");
        let seen = all(&mut database);
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 3, "{raise}: once the trigger is gone");
    }
}

/// Rows at 1, 2 and 5, and what a trigger does when the first is deleted.
fn with_trigger(mode: &str, does: &str) -> (World, App, Database, Vec<Seen>) {
    let (world, mut app) = World::with(mode, SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p'),(5,'a','t','p');");
    app.exec(&format!("CREATE TRIGGER k AFTER DELETE ON users_outbox WHEN old.id=1 BEGIN {does}; END;"));
    let mut database = world.database();
    let seen = all(&mut database);
    (world, app, database, seen)
}

#[test]
fn what_a_trigger_puts_into_a_gap_stays() {
    for (mode, yields) in MODES.into_iter().flat_map(|mode| [(mode, true), (mode, false)]) {
        let (_world, mut app, mut database, seen) =
            with_trigger(mode, "INSERT INTO users_outbox VALUES (3,'a','t','deleted'),(4,'a','t','deleted')");
        let groups = [group(&seen)];
        let deletion = database.delete(&DeleteOrder { yields, ..order(&groups) }, &mut |_| Ok(())).unwrap();
        assert_eq!(app.run("SELECT id, payload FROM users_outbox;"), "3|deleted\n4|deleted", "{mode}");
        assert_eq!(deletion.deleted, 3, "{mode}");
        assert_eq!(deletion.written, [key(3), key(4)], "{mode}: whoever reads is told");
        assert!(deletion.left_out.is_empty());
    }
}

#[test]
fn what_a_trigger_makes_of_a_row_before_its_turn_is_a_new_event() {
    for does in [
        "UPDATE users_outbox SET payload='new' WHERE id=2",
        "DELETE FROM users_outbox WHERE id=2; INSERT INTO users_outbox VALUES (2,'a','t','new')",
        "INSERT OR REPLACE INTO users_outbox VALUES (2,'a','t','new')",
    ] {
        let (_world, mut app, mut database, seen) = with_trigger("WAL", does);
        let mut before_commit = 0;
        let deletion = database
            .delete(&order(&[group(&seen)]), &mut |_| {
                before_commit += 1;
                Ok(())
            })
            .unwrap();
        assert_eq!(app.run("SELECT id, payload FROM users_outbox;"), "2|new", "{does}");
        assert_eq!((deletion.deleted, deletion.changed), (2, vec![key(2)]), "{does}");
        assert_eq!(before_commit, 1, "{does}: the state file is not told twice");
    }
}

#[test]
fn rows_that_were_not_sent_are_not_taken_along_and_their_plan_waits() {
    for does in ["DELETE FROM users_outbox WHERE id=5", "DELETE FROM other_outbox"] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(&SCHEMA.replace("users_outbox", "other_outbox"));
        app.exec(
            "INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p'),(5,'a','t','p');
            INSERT INTO other_outbox VALUES (1,'a','t','p');",
        );
        app.exec(&format!("CREATE TRIGGER k AFTER DELETE ON users_outbox WHEN old.id=1 BEGIN {does}; END;"));
        let mut database = Database::new(world.options(), vec![spec("users_outbox"), spec("other_outbox")]);
        let b = crate::model::OutboxIx(1);
        let (seen, in_b) = (all(&mut database), look_in(&mut database, b, Start::Lowest, budget(9)).unwrap().1);
        // The first row's delete would take one along that nobody has acknowledged.
        let groups = [group(&seen[..1]), group(&seen[1..2])];
        let mut told = Vec::new();
        let deletion = database
            .delete(&order(&groups), &mut |deletion| {
                told.extend(deletion.left_out.iter().map(|left| left.group));
                Ok(())
            })
            .unwrap();
        assert_eq!(told, [0], "{does}: before it is committed");
        assert_eq!(deletion.left_out.iter().map(|left| left.group).collect::<Vec<_>>(), [0], "{does}");
        assert!(deletion.left_out[0].why.text.contains("rowid 1"), "{does}: {:?}", deletion.left_out);
        assert_eq!((deletion.deleted, deletion.kept.len(), deletion.gone.len()), (1, 0, 0), "{does}");
        assert_eq!(app.run("SELECT id FROM users_outbox;"), "1\n5", "{does}");
        assert_eq!(app.run("SELECT count(*) FROM other_outbox;"), "1", "{does}");
        // Once all of them are sent they go together.
        let groups = [group(&seen[..1]), group(&seen[2..]), group_of(b, &in_b)];
        let deletion = database.delete(&order(&groups), &mut |_| Ok(())).unwrap();
        assert!(deletion.left_out.is_empty(), "{does}: {deletion:?}");
        assert_eq!(deletion.deleted + deletion.gone.len(), 3, "{does}");
        assert_eq!(app.run("SELECT count(*) FROM users_outbox; SELECT count(*) FROM other_outbox;"), "0\n0", "{does}");
    }
}

#[test]
fn a_cascade_takes_no_row_of_another_outbox_along() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(
        "CREATE TABLE b (id INTEGER PRIMARY KEY, aggregateId REFERENCES users_outbox(id) ON DELETE CASCADE, eventType, payload);
        INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p'); INSERT INTO b VALUES (7,2,'t','p');",
    );
    let options = DatabaseOptions { foreign_keys: true, ..world.options() };
    let mut database = Database::new(options, vec![spec("users_outbox"), spec("b")]);
    let seen = all(&mut database);
    let groups = [group(&seen[..1]), group(&seen[1..])];
    let deletion = database.delete(&order(&groups), &mut |_| Ok(())).unwrap();
    assert_eq!((deletion.deleted, deletion.left_out.len()), (1, 1), "{deletion:?}");
    assert_eq!(app.run("SELECT id FROM users_outbox; SELECT id FROM b;"), "2\n7");
}

/// A trigger whose table is missing, a renamed column, a renamed table.
#[test]
fn rows_of_a_table_that_is_missing_or_unfit_for_a_moment_are_neither_gone_nor_changed() {
    for (away, back) in [
        ("CREATE TRIGGER k AFTER DELETE ON users_outbox BEGIN INSERT INTO nowhere VALUES (1); END;", "DROP TRIGGER k;"),
        (
            "ALTER TABLE users_outbox RENAME COLUMN payload TO body;",
            "ALTER TABLE users_outbox RENAME COLUMN body TO payload;",
        ),
        ("ALTER TABLE users_outbox RENAME TO x;", "ALTER TABLE x RENAME TO users_outbox;"),
    ] {
        let counting = SCHEMA.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT");
        let (world, mut app) = World::with("WAL", &counting);
        app.exec(&SCHEMA.replace("users_outbox", "b"));
        app.exec(
            "INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p'); INSERT INTO b VALUES (1,'a','t','p');",
        );
        let mut database = Database::new(world.options(), vec![spec("users_outbox"), spec("b")]);
        let b = crate::model::OutboxIx(1);
        let seen = all(&mut database);
        let in_b = look_in(&mut database, b, Start::Lowest, budget(9)).unwrap().1;
        app.exec(away);
        let groups = [group(&seen), group_of(b, &in_b)];
        let deletion = database.delete(&order(&groups), &mut |_| Ok(())).unwrap();
        assert_eq!((deletion.deleted, deletion.gone.len(), deletion.changed.len()), (1, 0, 0), "{away}");
        assert_eq!(deletion.left_out.iter().map(|left| left.group).collect::<Vec<_>>(), [0], "{away}");
        assert_eq!(app.run("SELECT count(*) FROM b;"), "0", "{away}: the others are not held up");
        app.exec(back);
        let again = |database: &mut Database| database.delete(&order(&groups[..1]), &mut |_| Ok(()));
        let deletion = match again(&mut database) {
            Err(SourceError::Replaced { .. }) => again(&mut database),
            other => other,
        };
        assert_eq!(deletion.unwrap().deleted, 2, "{away}");
        assert_eq!(app.count(), 0, "{away}");
    }
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
    let deletion = database.delete(&order(&[group_of(b, &in_b), group_of(a, &in_a)]), &mut |_| Ok(())).unwrap();
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
            .delete(&order(&[group(&seen)]), &mut |_| {
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
        let groups = [group(&seen)];
        let insisted = database.delete(&insistent(&groups), &mut |_| Ok(()));
        assert!(matches!(insisted, Err(SourceError::Busy(_))), "{mode}: {insisted:?}");
        let polite = database.delete(&order(&groups), &mut |_| Ok(()));
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
    let result = database.delete(&order(&[group(&seen)]), &mut |_| {
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
    let groups = [group(&seen)];
    let result = database.delete(&order(&groups), &mut |_| panic!("not to be asked"));
    assert!(matches!(result, Err(SourceError::Yielded)));
    assert_eq!(
        app.run("SELECT count(*) FROM users_outbox; COMMIT; SELECT count(*) FROM users_outbox;").lines().last(),
        Some("1")
    );
    assert_eq!(database.delete(&order(&groups), &mut |_| Ok(())).unwrap().deleted, 1);
}

#[test]
fn a_state_file_that_fails_rolls_the_delete_back() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    let seen = all(&mut database);
    let result = database.delete(&order(&[group(&seen)]), &mut |_| Err(journal_error()));
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
