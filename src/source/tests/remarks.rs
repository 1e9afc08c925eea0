//! What is said of a table: how many rows wait, and what its operator should know.

use super::*;

const TRACED: &str =
    "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, payload TEXT);";

#[test]
fn many_rows_are_estimated_from_how_close_they_lie() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec(
            "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 30000) \
             INSERT INTO users_outbox (id) SELECT i * 1000003 FROM n;",
        );
        let mut database = world.database();
        all(&mut database);
        let backlog = database.backlog(OUTBOX).unwrap();
        assert!(!backlog.exact && (25_000..35_000).contains(&backlog.rows), "{mode}: {backlog:?}");
        app.exec("DELETE FROM users_outbox WHERE id > 400 * 1000003;");
        let backlog = database.backlog(OUTBOX).unwrap();
        assert!(backlog.exact && backlog.rows == 400, "{mode}: {backlog:?}");
    }
}

#[test]
fn what_an_operator_should_know_of_a_table_is_said_by_name() {
    let remarks = |schema: &str| {
        let (world, _app) = World::with("WAL", schema);
        let connection = rusqlite::Connection::open(&world.path).unwrap();
        let spec = spec("users_outbox");
        let crate::source::schema::Found::Table(table) =
            crate::source::schema::read(&connection, &spec, 1, None).unwrap()
        else {
            panic!("{schema}")
        };
        crate::source::schema::remarks(&table, &spec, false)
    };
    let bare = remarks(SCHEMA);
    assert!(matches!(&bare[..], [one] if one.starts_with("users_outbox has no AUTOINCREMENT")), "{bare:?}");
    assert_eq!(remarks(TRACED), [""; 0]);
    let uuid = remarks(&TRACED.replace("aggregateId TEXT", "aggregateId UUID"));
    assert!(matches!(&uuid[..], [one] if one.starts_with("users_outbox.aggregateId is declared UUID")), "{uuid:?}");
    for number in ["INTEGER", "NUMERIC(10, 2)", "DECIMAL", "VARCHAR(36)", ""] {
        assert_eq!(remarks(&TRACED.replace("aggregateId TEXT", &format!("aggregateId {number}"))), [""; 0], "{number}");
    }
}
