//! Rows that can't be read like the others: an expression fails on them, or they are too large.

use super::*;
use crate::model::{LookEnd, Unreadable};

const TRACED: &str = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, \
     payload TEXT, headers TEXT);";
/// SQLite refuses to write a row that the expression fails on; one that is there already is met by whoever reads it.
const TRACE: &str = "ALTER TABLE users_outbox ADD COLUMN tp TEXT AS (json_extract(headers, '$.traceparent')) VIRTUAL;";

/// An outbox with a header from the column `tp`.
fn traced(world: &World) -> Database {
    let mut spec = spec("users_outbox");
    spec.fields.push(Some("tp".to_owned()));
    Database::new(world.options(), vec![spec])
}

/// The rowids that a look gives, with what is said of those that can't be read.
fn told(database: &mut Database, start: Start) -> (Vec<(i64, Option<Unreadable>, Fingerprint)>, LookEnd) {
    let (mut seen, mut start) = (Vec::new(), start);
    loop {
        let look = database.look(OUTBOX, start, budget(100), &mut |row| {
            assert!(row.unreadable.is_none() || row.fields.iter().all(Option::is_none));
            seen.push((row.rowid, row.unreadable.cloned(), row.print));
            Flow::Continue
        });
        match look.unwrap().end {
            LookEnd::Budget { last } => start = Start::From(last + 1),
            end => return (seen, end),
        }
    }
}

#[test]
fn a_row_that_an_expression_fails_on_stands_alone() {
    for mode in MODES {
        let (world, mut app) = World::with(mode, TRACED);
        app.exec(
            "INSERT INTO users_outbox (headers) VALUES ('{\"traceparent\":\"1\"}'), ('oops'), ('{}'), ('also'), ('worse'), ('{}');",
        );
        app.exec(TRACE);
        let mut database = traced(&world);
        let (seen, end) = told(&mut database, Start::Lowest);
        assert_eq!(seen.iter().map(|row| row.0).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6], "{mode}");
        assert_eq!(end, LookEnd::End);
        let failed: Vec<i64> = seen
            .iter()
            .filter(|row| matches!(&row.1, Some(Unreadable::Failed(text)) if text.contains("malformed JSON")))
            .map(|row| row.0)
            .collect();
        assert_eq!(failed, [2, 4, 5], "{mode}");
        // It can be where the next look starts.
        let mark = RowMark { rowid: 2, print: seen[1].2 };
        assert_eq!(told(&mut database, Start::After(mark)).0, seen[2..], "{mode}");
        let before = Budget { before: Some(2), ..budget(9) };
        let look = database.look(OUTBOX, Start::Lowest, before, &mut |_| Flow::Continue).unwrap();
        assert_eq!((look.rows, look.end), (1, LookEnd::End), "{mode}");
        // Rows around it are deleted; one that has become like it is not what was sent.
        let rewrite = |headers: &str, id: i64| {
            let update = format!("UPDATE users_outbox SET headers = '{headers}' WHERE id = {id};");
            format!("BEGIN; ALTER TABLE users_outbox DROP COLUMN tp; {update} {TRACE} COMMIT;")
        };
        app.exec(&rewrite("no", 6));
        let sent: Vec<Seen> =
            [0, 2, 5].map(|at| Seen { rowid: seen[at].0, print: seen[at].2, fields: Vec::new() }).into();
        let deletion = delete(&mut database, &sent).unwrap();
        assert_eq!((deletion.deleted, deletion.changed), (2, vec![key(6)]), "{mode}");
        // As long as before, and well.
        app.exec(&rewrite("null", 2));
        assert_eq!(told(&mut database, Start::After(mark)).1, LookEnd::MarkGone, "{mode}");
        let (now, _) = told(&mut database, Start::Lowest);
        assert_eq!((now[0].0, now[0].1.clone()), (2, None), "{mode}");
    }
}

const SIZES: &str = "INSERT INTO users_outbox (id, payload) VALUES (1, 'a'), (2, zeroblob(3000000)), (3, 'b'), \
     (4, cast(zeroblob(1500000) AS TEXT)), (5, 'c');";

#[test]
fn a_row_that_is_too_large_is_not_read() {
    for mode in MODES {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec(SIZES);
        let mut database = world.database();
        database.read_at_most(2_000_000);
        let (seen, end) = told(&mut database, Start::Lowest);
        let too_large: Vec<_> = seen.iter().filter_map(|row| row.1.clone()).collect();
        assert_eq!((seen.len(), end), (5, LookEnd::End), "{mode}");
        assert_eq!(too_large, [Unreadable::TooLarge { bytes: 3_000_001 }], "{mode}: with its id");
        let mark = RowMark { rowid: 2, print: seen[1].2 };
        assert_eq!(told(&mut database, Start::After(mark)).0, seen[2..], "{mode}");
        assert_eq!(told(&mut database, Start::From(3)).0, seen[2..], "{mode}");
        // As an operator discards it.
        app.exec("CREATE TABLE copy AS SELECT * FROM users_outbox;");
        let row = Seen { rowid: 2, print: seen[1].2, fields: Vec::new() };
        assert_eq!(delete(&mut database, &[row]).unwrap().deleted, 1, "{mode}");
        app.exec("INSERT INTO users_outbox SELECT * FROM copy WHERE id = 2;");
        assert_eq!(told(&mut database, Start::After(mark)).0, seen[2..], "{mode}");
        app.exec("UPDATE users_outbox SET eventType = 'x' WHERE id = 2;");
        assert_eq!(told(&mut database, Start::After(mark)).1, LookEnd::MarkGone, "{mode}");
        // What may be read is what it would be in one piece with the others.
        let mut another = Database::new(world.options(), vec![spec("users_outbox")]);
        drop(database);
        wait_until("the lock is free", || another.check().is_ok());
        assert_eq!(told(&mut another, Start::From(3)).0, seen[2..], "{mode}");
        let behind = RowMark { rowid: 3, print: seen[2].2 };
        assert_eq!(told(&mut another, Start::After(behind)), (seen[3..].to_vec(), LookEnd::End), "{mode}");
        let rows = all(&mut another);
        assert_eq!(rows[3].fields[3].as_ref().map(Vec::len), Some(1_500_000), "{mode}");
        assert_eq!(delete(&mut another, &rows).unwrap().deleted, 5, "{mode}");
    }
}

#[test]
fn a_large_row_at_which_looks_start_is_read_once() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(SIZES);
    let mut database = world.database();
    let seen = all(&mut database);
    let large = mark(&seen[1]);
    for _ in 0..2 {
        assert_eq!(rowids(&look(&mut database, Start::After(large), 9).unwrap().1), [3, 4, 5]);
        assert!(database.large[0].is_some(), "the next look asks for its size");
    }
    app.exec("UPDATE users_outbox SET payload = zeroblob(3000001) WHERE id = 2;");
    assert_eq!(look(&mut database, Start::After(large), 9).unwrap().0.end, LookEnd::MarkGone);
    assert_eq!(look(&mut database, Start::After(large), 9).unwrap().0.end, LookEnd::MarkGone);
    app.exec("DELETE FROM users_outbox WHERE id = 4;");
    let medium = mark(&seen[3]);
    assert_eq!(look(&mut database, Start::After(medium), 9).unwrap().0.end, LookEnd::MarkGone);
}
