//! `bookkeeping = "table"`: what the row says, and when it says nothing.

use super::*;
use crate::model::{Booked, LookEnd, Plan, PlanId, RowMeta, Rows, RunId, SentForm, Span, Target, Triple};
use std::sync::Arc;
use std::time::SystemTime;

const STATE: u128 = 0x0123_4567_89ab_cdef_0000_0000_0000_0001;
const ROWS: &str = "INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p'),(3,'a','t','p'),(4,'a','t','p');";
const ROW: &str = "SELECT id, hex(state), highest, typeof(plans) FROM _outboxd;";

fn keeper(world: &World) -> Database {
    let mut database =
        Database::new(DatabaseOptions { bookkeeping: true, ..world.options() }, vec![spec("users_outbox")]);
    database.keep_books(STATE);
    // A test beside this one may be between fork and exec, with a copy of the last database's descriptor.
    wait_until("the lock is free", || !matches!(database.check(), Err(OpenError::LockedBy { .. })));
    database
}

fn plan(id: u64, seen: &[Seen]) -> DeleteGroup {
    let named = group(seen);
    let meta = named.rows().map(|(key, print)| RowMeta {
        key,
        print,
        record: Span::default(),
        message: 0,
        event_id: Span::default(),
    });
    DeleteGroup::Plan(Arc::new(Plan {
        id: PlanId(id),
        target: Target { topic: Arc::from("users"), partition: 0 },
        triple: Triple { producer_id: 1, epoch: 0, first_sequence: 0 },
        run: RunId(1),
        noted_offset: 0,
        leader_epoch: 0,
        cluster: None,
        first_attempt: SystemTime::now(),
        sent_form: SentForm::default(),
        rows: Arc::new(Rows { bytes: Vec::new(), meta: meta.collect() }),
    }))
}

fn delete_as(database: &mut Database, id: u64, booked: &[PlanId], seen: &[Seen]) -> Result<usize, SourceError> {
    let groups = [plan(id, seen)];
    let order = DeleteOrder { booked, ..insistent(&groups) };
    database.delete(&order, &mut |_| Ok(())).map(|deletion| deletion.deleted)
}

#[allow(clippy::unnecessary_wraps)] // compared with what may say nothing
fn says(plans: &[u64], highest: u64) -> Option<Booked> {
    Some(Booked { plans: plans.iter().copied().map(PlanId).collect(), highest: PlanId(highest) })
}

#[test]
fn each_delete_is_booked_in_its_own_transaction_in_every_journal_mode() {
    for mode in MODES {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec(ROWS);
        let mut database = keeper(&world);
        assert!(database.books());
        assert_eq!(database.booked().unwrap(), None, "{mode}: nothing is there yet");
        let seen = all(&mut database);
        assert_eq!(app.run(".tables"), "users_outbox", "{mode}: not before the first delete");
        assert_eq!(delete_as(&mut database, 7, &[], &seen[..1]).unwrap(), 1);
        assert_eq!(database.booked().unwrap(), says(&[7], 7), "{mode}");
        assert_eq!(app.run(ROW), "1|0123456789ABCDEF0000000000000001|7|blob", "{mode}");
        assert_eq!(delete_as(&mut database, 5, &[PlanId(7), PlanId(6)], &seen[1..2]).unwrap(), 1);
        assert_eq!(database.booked().unwrap(), says(&[5, 6, 7], 7), "{mode}");
        assert_eq!(delete_as(&mut database, 3, &[], &seen[2..3]).unwrap(), 1);
        assert_eq!(database.booked().unwrap(), says(&[3], 7), "{mode}: the highest ever");
        assert_eq!(delete_as(&mut database, 9, &[], &seen[2..3]).unwrap(), 0, "gone");
        assert_eq!(database.booked().unwrap(), says(&[3], 7), "{mode}: nothing was deleted, nothing is booked");
        app.exec("INSERT INTO users_outbox VALUES (5,'a','t','p');");
        let named = [group(&all(&mut database)[1..])];
        let order = DeleteOrder { booked: &[PlanId(3)], ..insistent(&named) };
        assert_eq!(database.delete(&order, &mut |_| Ok(())).unwrap().deleted, 1);
        assert_eq!(database.booked().unwrap(), says(&[3], 7), "{mode}: rows that are of no plan");
        drop(database);
        assert_eq!(keeper(&world).booked().unwrap(), says(&[3], 7), "{mode}: the next run reads it");
        assert_eq!(app.run("PRAGMA integrity_check; SELECT id FROM users_outbox;"), "ok\n4");
    }
}

#[test]
fn a_delete_that_is_rolled_back_is_not_booked() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    let mut database = keeper(&world);
    let seen = all(&mut database);
    for first in [true, false] {
        let groups = [plan(7, &seen)];
        let result = database.delete(&order(&groups), &mut |_| Err(journal_error()));
        assert!(matches!(result, Err(SourceError::Journal(_))));
        let expected = if first { None } else { says(&[6], 6) };
        assert_eq!(database.booked().unwrap(), expected);
        assert_eq!(app.run(".tables _outboxd") == "_outboxd", !first);
        if first {
            assert_eq!(delete_as(&mut database, 6, &[], &seen[..1]).unwrap(), 1);
        }
    }
}

#[test]
fn the_row_of_another_state_file_says_nothing_and_is_begun_anew() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    let mut database = keeper(&world);
    let seen = all(&mut database);
    delete_as(&mut database, 500, &[], &seen[..1]).unwrap();
    database.keep_books(STATE + 1);
    assert_eq!(database.booked().unwrap(), None);
    delete_as(&mut database, 2, &[], &seen[1..2]).unwrap();
    assert_eq!(database.booked().unwrap(), says(&[2], 2));
    database.keep_books(STATE);
    assert_eq!(database.booked().unwrap(), None);
}

#[test]
fn without_bookkeeping_the_row_of_an_earlier_run_is_read_and_does_not_outlive_the_first_delete() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    let mut database = keeper(&world);
    let seen = all(&mut database);
    delete_as(&mut database, 7, &[], &seen[..1]).unwrap();
    drop(database);
    let mut database = world.database();
    wait_until("the lock is free", || database.check().is_ok());
    assert!(!database.books());
    assert_eq!(database.booked().unwrap(), None, "whose state file is it?");
    database.keep_books(STATE);
    assert!(!database.books());
    assert_eq!(database.booked().unwrap(), says(&[7], 7));
    assert_eq!(delete_as(&mut database, 8, &[], &seen[..1]).unwrap(), 0);
    assert_eq!(database.booked().unwrap(), says(&[7], 7), "nothing was deleted");
    assert_eq!(delete_as(&mut database, 8, &[], &seen[1..2]).unwrap(), 1);
    // With the row still there, plan 8 would be taken for one that was never deleted.
    assert_eq!(database.booked().unwrap(), None);
    assert_eq!(app.run("SELECT count(*) FROM _outboxd;"), "0");
    drop(database);
    let mut database = keeper(&world);
    assert_eq!(database.booked().unwrap(), None);
    delete_as(&mut database, 9, &[], &seen[2..3]).unwrap();
    assert_eq!(database.booked().unwrap(), says(&[9], 9));
}

#[test]
fn without_a_state_file_nothing_is_booked() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    let mut database =
        Database::new(DatabaseOptions { bookkeeping: true, ..world.options() }, vec![spec("users_outbox")]);
    assert!(!database.books());
    let seen = all(&mut database);
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, 4);
    assert_eq!(app.run(".tables"), "users_outbox");
}

#[test]
fn our_own_create_is_no_change_of_the_schema() {
    // Only where a VACUUM may renumber does a change of the schema alone count.
    let schema = "CREATE TABLE users_outbox (id TEXT PRIMARY KEY, aggregateId TEXT, eventType TEXT, payload TEXT);";
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, schema);
        app.exec("INSERT INTO users_outbox VALUES ('x','a','t','p'),('y','a','t','p'),('z','a','t','p');");
        let mut database = keeper(&world);
        let seen = all(&mut database);
        let groups = [plan(1, &seen[..1])];
        database.delete(&order(&groups), &mut |_| Err(journal_error())).unwrap_err();
        app.exec("UPDATE users_outbox SET eventType = 't' WHERE id = 'x';");
        assert_eq!(all(&mut database), seen, "{mode}: rolled back");
        delete_as(&mut database, 1, &[], &seen[..1]).unwrap();
        app.exec("INSERT INTO users_outbox VALUES ('zz','a','t','p');");
        assert_eq!(all(&mut database)[..2], seen[1..], "{mode}");
        database.let_go();
        assert_eq!(all(&mut database)[..2], seen[1..], "{mode}: nor on another connection");
        delete_as(&mut database, 2, &[], &seen[1..2]).unwrap();
        app.exec("VACUUM;");
        let result = look(&mut database, Start::Lowest, 9);
        assert!(
            matches!(result, Err(SourceError::Replaced { another: crate::model::Another::None, .. })),
            "{mode}: {result:?}"
        );
    }
}

#[test]
fn the_application_goes_on_with_the_statements_it_has() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    let mut database = keeper(&world);
    let seen = all(&mut database);
    // A read transaction that began before and goes on after: it sees neither the table nor the delete.
    app.run("BEGIN; SELECT count(*) FROM users_outbox;");
    delete_as(&mut database, 1, &[], &seen).unwrap();
    assert_eq!(app.run("SELECT count(*) FROM users_outbox; COMMIT; SELECT count(*) FROM users_outbox;"), "4\n0");
    app.exec(ROWS);
    assert_eq!(all(&mut database).len(), 4);
}

#[test]
fn a_table_that_was_dropped_is_made_again() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    let mut database = keeper(&world);
    let seen = all(&mut database);
    delete_as(&mut database, 1, &[], &seen[..1]).unwrap();
    app.exec("DROP TABLE _outboxd;");
    assert_eq!(database.booked().unwrap(), None);
    delete_as(&mut database, 2, &[], &seen[1..2]).unwrap();
    assert_eq!(database.booked().unwrap(), says(&[2], 2));
    // As a tool that dumps and loads might leave it.
    app.exec(
        "DROP TABLE _outboxd; CREATE TABLE \"_outboxd\"(plans BLOB, id INTEGER, highest INT, state, PRIMARY KEY(id));",
    );
    delete_as(&mut database, 3, &[], &seen[2..3]).unwrap();
    assert_eq!(database.booked().unwrap(), says(&[3], 3));
}

#[test]
fn another_table_of_that_name_is_refused_and_left_alone() {
    for foreign in [
        "CREATE TABLE _outboxd (id INTEGER PRIMARY KEY, note TEXT);",
        "CREATE TABLE _OUTBOXD (id INTEGER PRIMARY KEY, state, highest, plans, more NOT NULL);",
        "CREATE TABLE _outboxd (id INTEGER, state, highest, plans);",
        "CREATE TABLE _outboxd (id TEXT PRIMARY KEY, state, highest, plans) WITHOUT ROWID;",
        "CREATE VIEW _outboxd AS SELECT 1 AS id, 2 AS state, 3 AS highest, 4 AS plans;",
        "CREATE VIRTUAL TABLE _outboxd USING fts5(id, state, highest, plans);",
        "CREATE TABLE _outboxd (id INTEGER PRIMARY KEY, state, highest, plans);
         CREATE TRIGGER k BEFORE INSERT ON _outboxd BEGIN SELECT of_the_application(); END;",
    ] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(ROWS);
        let mut database = keeper(&world);
        let seen = all(&mut database);
        app.run(foreign);
        for result in [
            look(&mut database, Start::Lowest, 9).map(|_| ()),
            database.booked().map(|_| ()),
            delete(&mut database, &seen).map(|_| ()),
        ] {
            let Err(SourceError::NotAnOutbox { why, .. }) = result else { panic!("{foreign} {result:?}") };
            assert!(why.text.contains("_outboxd") && why.hint.contains("none"), "{why}");
        }
        assert_eq!(app.count(), 4, "{foreign}");
        drop(database);
        let options = DatabaseOptions { bookkeeping: true, ..world.options() };
        let mut database = Database::new(options, vec![spec("users_outbox")]);
        wait_until("the lock is free", || !matches!(database.check(), Err(OpenError::LockedBy { .. })));
        assert!(matches!(database.check(), Err(OpenError::NotAnOutbox { .. })), "{foreign}");
        // Without bookkeeping it is nobody's business.
        drop(database);
        let mut database = world.database();
        database.keep_books(STATE);
        wait_until("the lock is free", || !matches!(database.check(), Err(OpenError::LockedBy { .. })));
        assert_eq!(database.booked().unwrap(), None);
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 4, "{foreign}");
    }
}

#[test]
fn a_trigger_that_keeps_the_row_from_being_written_keeps_the_delete_from_happening() {
    for (trigger, says) in [
        ("BEFORE UPDATE ON _outboxd BEGIN SELECT RAISE(IGNORE); END", "does not keep"),
        ("AFTER UPDATE ON _outboxd BEGIN UPDATE _outboxd SET plans = old.plans; END", "does not keep"),
        ("AFTER UPDATE ON _outboxd BEGIN DELETE FROM _outboxd; END", "does not keep"),
        ("BEFORE UPDATE ON _outboxd BEGIN SELECT RAISE(ABORT, 'not today'); END", "not today"),
        ("BEFORE UPDATE ON _outboxd BEGIN SELECT RAISE(ROLLBACK, 'not today'); END", "not today"),
    ] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(ROWS);
        let mut database = keeper(&world);
        let seen = all(&mut database);
        delete_as(&mut database, 1, &[], &seen[..1]).unwrap();
        app.exec(&format!("CREATE TRIGGER k {trigger};"));
        let Err(SourceError::Failed(why)) = delete_as(&mut database, 2, &[], &seen[1..]) else { panic!("{trigger}") };
        assert!(why.text.contains(says) && why.text.contains("_outboxd"), "{why}");
        assert_eq!(app.count(), 3, "{trigger}");
        assert_eq!(database.booked().unwrap(), self::says(&[1], 1));
        app.exec("DROP TRIGGER k;");
        assert_eq!(delete_as(&mut database, 2, &[], &seen[1..]).unwrap(), 3);
    }
}

#[test]
fn a_row_that_is_not_ours_to_read_is_an_error_and_not_a_guess() {
    for damage in [
        "UPDATE _outboxd SET plans = x'';",
        "UPDATE _outboxd SET plans = 'text';",
        "UPDATE _outboxd SET plans = x'0105';",
        "UPDATE _outboxd SET highest = -1;",
        "UPDATE _outboxd SET state = x'00';",
    ] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(ROWS);
        let mut database = keeper(&world);
        let seen = all(&mut database);
        delete_as(&mut database, 1, &[], &seen[..1]).unwrap();
        app.exec(damage);
        let result = database.booked();
        assert!(matches!(result, Err(SourceError::Failed(_))), "{damage}: {result:?}");
        app.exec("DELETE FROM _outboxd;");
        assert_eq!(database.booked().unwrap(), None);
    }
}

#[test]
fn the_bookkeeping_is_no_outbox_and_is_named_nowhere() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    let mut database = keeper(&world);
    let seen = all(&mut database);
    delete_as(&mut database, 1, &[], &seen[..1]).unwrap();
    drop(database);
    let fields = vec![Some("id".to_owned()); 5];
    for name in ["_outboxd", "_Outboxd"] {
        let its_own = OutboxSpec { name: name.to_owned(), table: name.to_owned(), fields: fields.clone() };
        let mut database = Database::new(world.options(), vec![its_own]);
        wait_until("the lock is free", || !matches!(database.check(), Err(OpenError::LockedBy { .. })));
        let Err(OpenError::NotAnOutbox { why, .. }) = database.check() else { panic!() };
        assert!(why.text.contains("books"), "{why}");
    }
    let mut database = Database::new(world.options(), vec![spec("nothing")]);
    wait_until("the lock is free", || !matches!(database.check(), Err(OpenError::LockedBy { .. })));
    let Err(SourceError::NotThere(why)) = look(&mut database, Start::Lowest, 1) else { panic!() };
    assert!(why.hint.contains("users_outbox") && !why.hint.contains("_outboxd"), "{why}");
}

#[test]
fn a_busy_database_is_busy_for_its_books_too() {
    let (world, mut app) = World::with("DELETE", SCHEMA);
    app.exec(ROWS);
    let mut database = keeper(&world);
    let seen = all(&mut database);
    delete_as(&mut database, 1, &[], &seen[..1]).unwrap();
    app.exec("BEGIN IMMEDIATE;");
    assert!(matches!(database.booked(), Err(SourceError::Busy(_))));
    app.exec("COMMIT;");
    assert_eq!(database.booked().unwrap(), says(&[1], 1));
    std::fs::remove_file(&world.path).unwrap();
    assert!(matches!(database.booked(), Err(SourceError::NotThere(_))));
}

#[test]
fn booking_writes_one_page() {
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<2000)
        INSERT INTO users_outbox SELECT i,'a','t',hex(zeroblob(90)) FROM n;";
    let mut frames = Vec::new();
    let before: Vec<PlanId> = (2..102).map(PlanId).collect();
    for bookkeeping in [false, true] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(fill);
        let options = DatabaseOptions { bookkeeping, ..world.options() };
        let mut database = Database::new(options, vec![spec("users_outbox")]);
        database.keep_books(STATE);
        let seen = all(&mut database);
        // The first one makes the table.
        delete_as(&mut database, 1, &[], &seen[..1]).unwrap();
        app.run("PRAGMA wal_checkpoint(TRUNCATE);");
        for (number, row) in (102..202).zip(seen[102..].chunks(1)) {
            delete_as(&mut database, number, &before, row).unwrap();
        }
        let (found, _) = look(&mut database, Start::Lowest, 10_000).unwrap();
        assert_eq!((found.rows, found.end), (1899, LookEnd::End));
        frames.push(std::fs::metadata(world.path.with_extension("sqlite-wal")).unwrap().len() / (4096 + 24));
    }
    assert_eq!(frames[1] - frames[0], 100, "{frames:?} pages for 100 deletes");
}
