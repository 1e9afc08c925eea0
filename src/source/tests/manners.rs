//! What happens when somebody comes while a delete compares its rows, or while it holds the write lock.
//!
//! SQLite's progress handler on our own connection is the window into both: in it the other process does something and is done,
//! and then the delete goes on.

use super::super::transaction::OVERTAKEN_MAX;
use super::*;
use std::sync::{Arc, Mutex, MutexGuard};

const ROWS: usize = 200;
/// Often enough to be called several times in a comparison and in a DELETE of `ROWS` rows, and in nothing else.
const STEPS: i32 = 100;
const INSERT: &str = "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES ('a','t','later');";
const READ: &str = "BEGIN; SELECT count(*) FROM users_outbox;";
const LOCKED: &str = "database is locked";

fn world() -> (World, Arc<Mutex<App>>, Database, Vec<Seen>) {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})
        INSERT INTO users_outbox SELECT i,'a','t','p' FROM n;"
    ));
    let mut database = world.database();
    let seen = all(&mut database);
    (world, Arc::new(Mutex::new(app)), database, seen)
}

/// From now on `act` is called inside our statements; the flag says whether we hold the write lock at that moment.
fn meanwhile(database: &mut Database, app: &Arc<Mutex<App>>, mut act: impl FnMut(&mut App, bool) + Send + 'static) {
    let app = app.clone();
    let handler = move || {
        let mut app = app.lock().unwrap();
        let answer = app.run("BEGIN IMMEDIATE; ROLLBACK;");
        act(&mut app, answer.contains(LOCKED));
        false
    };
    database.link.as_mut().unwrap().connection.progress_handler(STEPS, Some(handler)).unwrap();
}

fn undisturbed(database: &mut Database) {
    if let Some(link) = &mut database.link {
        link.connection.progress_handler(0, None::<fn() -> bool>).unwrap();
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap()
}

/// How many transactions our deletes have begun.
fn begun(database: &Database) -> u64 {
    database.work.begun
}

#[test]
fn rows_are_compared_before_the_write_lock_is_taken() {
    let (_world, app, mut database, seen) = world();
    let phases = Arc::new(Mutex::new(Vec::new()));
    let noted = phases.clone();
    meanwhile(&mut database, &app, move |_, locked| lock(&noted).push(locked));
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, ROWS);
    let phases = lock(&phases);
    assert_eq!(phases.first(), Some(&false), "the comparison is outside");
    assert_eq!(phases.last(), Some(&true), "the DELETE is inside");
    assert!(phases.is_sorted(), "the lock is taken once and kept: {phases:?}");
}

#[test]
fn without_patience_the_write_lock_comes_first() {
    let (_world, app, mut database, seen) = world();
    let phases = Arc::new(Mutex::new(Vec::new()));
    let noted = phases.clone();
    meanwhile(&mut database, &app, move |_, locked| lock(&noted).push(locked));
    assert_eq!(database.delete(&insistent(&[group(&seen)]), &mut |_| Ok(())).unwrap().deleted, ROWS);
    let phases = lock(&phases);
    assert!(!phases.is_empty() && phases.iter().all(|locked| *locked), "{phases:?}");
}

#[test]
fn a_row_rewritten_between_comparison_and_delete_stays() {
    // Rows at both ends and in the middle: compared already, or not yet, when the application commits.
    for rowid in [1, 100, ROWS as i64] {
        let (_world, app, mut database, seen) = world();
        let mut update = Some(format!("UPDATE users_outbox SET payload='new' WHERE id={rowid};"));
        meanwhile(&mut database, &app, move |app, locked| {
            if let Some(update) = update.take() {
                assert!(!locked);
                app.exec(&update);
            }
        });
        let before = begun(&database);
        let deletion = delete(&mut database, &seen).unwrap();
        assert_eq!((deletion.deleted, deletion.changed), (ROWS - 1, vec![key(rowid)]));
        assert_eq!(begun(&database) - before, 2, "it began again, once");
        assert_eq!(lock(&app).run("SELECT id, payload FROM users_outbox;"), format!("{rowid}|new"));
    }
}

#[test]
fn a_row_removed_and_another_put_in_its_place_between_comparison_and_delete_stays() {
    let (_world, app, mut database, seen) = world();
    let mut replace =
        Some("DELETE FROM users_outbox WHERE id IN (7, 8); INSERT INTO users_outbox VALUES (8,'b','t','q');");
    meanwhile(&mut database, &app, move |app, _| {
        if let Some(replace) = replace.take() {
            app.exec(replace);
        }
    });
    let deletion = delete(&mut database, &seen).unwrap();
    assert_eq!((deletion.deleted, deletion.gone, deletion.changed), (ROWS - 2, vec![key(7)], vec![key(8)]));
    assert_eq!(lock(&app).run("SELECT id, payload FROM users_outbox;"), "8|q");
}

#[test]
fn a_table_changed_between_comparison_and_delete_is_looked_at_anew() {
    let (_world, app, mut database, seen) = world();
    let mut alter = Some("ALTER TABLE users_outbox ADD COLUMN more DEFAULT 'x';");
    meanwhile(&mut database, &app, move |app, _| {
        if let Some(alter) = alter.take() {
            app.exec(alter);
        }
    });
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, ROWS, "a column more changes no row that was sent");
    assert_eq!(lock(&app).count(), 0);
}

#[test]
fn who_commits_all_the_time_is_kept_out_after_a_few_attempts() {
    let (_world, app, mut database, seen) = world();
    let inserted = Arc::new(Mutex::new(0));
    let count = inserted.clone();
    meanwhile(&mut database, &app, move |app, locked| {
        if !locked {
            app.exec(INSERT);
            *lock(&count) += 1;
        }
    });
    let before = begun(&database);
    let deletion = delete(&mut database, &seen).unwrap();
    assert_eq!(deletion.deleted, ROWS);
    assert_eq!(begun(&database) - before, OVERTAKEN_MAX as u64 + 1);
    let inserted: i64 = *lock(&inserted);
    assert!(inserted >= OVERTAKEN_MAX as i64);
    assert_eq!(lock(&app).count(), inserted, "no row but ours was deleted");
}

#[test]
fn it_makes_way_before_it_takes_the_lock() {
    let (_world, app, mut database, seen) = world();
    let held = Arc::new(Mutex::new(false));
    let noted = held.clone();
    let mut read = Some(READ);
    meanwhile(&mut database, &app, move |app, locked| {
        *lock(&noted) |= locked;
        if let Some(read) = read.take() {
            app.run(read);
        }
    });
    let result = delete(&mut database, &seen);
    assert!(matches!(result, Err(SourceError::Yielded)), "{result:?}");
    assert!(!*lock(&held), "whoever writes was not in the way for a moment");
    undisturbed(&mut database);
    lock(&app).exec("COMMIT;");
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, ROWS);
}

#[test]
fn it_makes_way_before_the_commit_for_who_came_later() {
    let (_world, app, mut database, seen) = world();
    let mut read = Some(READ);
    meanwhile(&mut database, &app, move |app, locked| {
        if locked && let Some(read) = read.take() {
            app.run(read);
        }
    });
    let result = delete(&mut database, &seen);
    assert!(matches!(result, Err(SourceError::Yielded)), "{result:?}");
    undisturbed(&mut database);
    assert_eq!(lock(&app).run(&format!("{INSERT} COMMIT;")), "", "a transaction that has read can write");
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, ROWS);
}

#[test]
fn a_row_that_a_trigger_of_another_table_rewrites_meanwhile_stays() {
    for yields in [true, false] {
        let world = World::new();
        let mut app = App::start(&world.path);
        app.run("PRAGMA journal_mode=WAL;");
        app.exec(&SCHEMA.replace("users_outbox", "a"));
        app.exec(&SCHEMA.replace("users_outbox", "b"));
        app.exec("INSERT INTO a VALUES (1,'a','t','p'),(2,'a','t','p'); INSERT INTO b SELECT * FROM a;");
        app.exec("INSERT INTO b VALUES (3,'a','t','p');");
        app.exec(
            "CREATE TRIGGER k AFTER DELETE ON a WHEN old.id=1 BEGIN
            UPDATE b SET payload='new' WHERE id=2; DELETE FROM b WHERE id=3; END;",
        );
        let mut database = Database::new(world.options(), vec![spec("a"), spec("b")]);
        let (a, b) = (crate::model::OutboxIx(0), crate::model::OutboxIx(1));
        let in_a = look_in(&mut database, a, Start::Lowest, budget(9)).unwrap().1;
        let in_b = look_in(&mut database, b, Start::Lowest, budget(9)).unwrap().1;
        let groups = [group_of(b, &in_b), group_of(a, &in_a)];
        let deletion = database.delete(&DeleteOrder { yields, ..order(&groups) }, &mut |_| Ok(())).unwrap();
        let key = |rowid| RowKey { outbox: b, rowid };
        assert_eq!((deletion.deleted, deletion.changed, deletion.gone), (3, vec![key(2)], vec![key(3)]), "{yields}");
        assert_eq!(app.run("SELECT id, payload FROM b;"), "2|new");
    }
}
