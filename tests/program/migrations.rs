//! What applications do to their tables while rows are on their way: the daemon as a process, a broker over real TCP, SQL as
//! migration tools write it.

use crate::common::{PATIENCE, Place, Running, outboxd};
use fake_kafka::{FakeKafka, Fault};
use outboxd_kafka::partitioner::partition_for_key;
use rusqlite::Connection;

const COUNTED: &str = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, \
     payload TEXT, attempts INTEGER DEFAULT 0, note TEXT, user REFERENCES users (id));";
/// As SQLAlchemy writes it.
const BARE: &str = "CREATE TABLE users_outbox (id INTEGER NOT NULL, aggregateId VARCHAR, eventType VARCHAR, payload TEXT, \
     user INTEGER, PRIMARY KEY (id), FOREIGN KEY (user) REFERENCES users (id));";
const REBUILD: &str = "BEGIN; CREATE TABLE n (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, \
     payload TEXT, attempts INTEGER DEFAULT 0, note TEXT, user REFERENCES users (id)); INSERT INTO n SELECT * FROM users_outbox; \
     DROP TABLE users_outbox; ALTER TABLE n RENAME TO users_outbox; COMMIT;";
/// So that the outbox is neither the first nor the last of the schema.
const OTHERS: &str = "CREATE TABLE users (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO users DEFAULT VALUES;";

fn sql(place: &Place, sql: &str) {
    let connection = Connection::open(place.path("db")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Events that look like all others with these payloads.
fn insert(place: &Place, table: &str, key: &str, payloads: &[&str]) {
    let rows: Vec<String> = payloads.iter().map(|payload| format!("('{key}', 'E', '{payload}')")).collect();
    sql(place, &format!("INSERT INTO {table} (aggregateId, eventType, payload) VALUES {}", rows.join(", ")));
}

fn rows(place: &Place, table: &str) -> i64 {
    let connection = Connection::open(place.path("db")).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

fn start(kafka: &FakeKafka, place: &Place, tables: &[&str], failpoint: Option<&str>) -> Running {
    let (database, servers) = (place.text("db"), kafka.bootstrap());
    let outbox = |table: &&str| format!("[[outbox]]\ndatabase = {database:?}\ntable = {table:?}\ntopic = \"users\"\n");
    let outboxes: String = tables.iter().map(outbox).collect();
    let config = place.write("c.toml", &format!("{outboxes}[kafka]\nbootstrap_servers = [{servers:?}]\n"));
    let mut command = outboxd(&["run", "--config", &config]);
    if let Some(label) = failpoint {
        command.env("FAILPOINTS", format!("{label}=return"));
    }
    Running::start(command)
}

/// What the daemon did until its table was empty; the number of records, and of different message ids.
fn drained(mut daemon: Running, kafka: &FakeKafka, place: &Place, left: i64) -> (usize, usize, String) {
    daemon.wait_until("an empty table", |_| rows(place, "users_outbox") == left);
    daemon.drained(kafka)
}

/// A daemon that was killed at this step of its first rows.
#[cfg(feature = "testing")]
fn killed(schema: &str, payloads: &[&str], at: &str) -> (FakeKafka, Place) {
    use std::os::unix::process::ExitStatusExt as _;
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let place = Place::new();
    place.database("db", &format!("PRAGMA journal_mode = WAL; {OTHERS} {schema}"));
    insert(&place, "users_outbox", "k", payloads);
    let daemon = start(&kafka, &place, &["users_outbox"], Some(at)).finish();
    assert_eq!(daemon.status.signal(), Some(9), "{}", daemon.everything());
    (kafka, place)
}

/// A key for each partition.
fn key_of(partition: i32) -> String {
    let there = |key: &String| partition_for_key(key.as_bytes(), 2) == partition;
    (0..100).map(|at| format!("k{at}")).find(there).expect("murmur2 reaches both")
}

/// Three rows are on their way while `change` happens, and the daemon has looked at what became of it.
fn in_flight(schema: &str, change: &str) -> (usize, usize, String) {
    in_flight_with(schema, &["x", "y", "z"], change)
}

fn in_flight_with(schema: &str, payloads: &[&str; 3], change: &str) -> (usize, usize, String) {
    let kafka = FakeKafka::builder().topic("users", 2).start();
    let place = Place::new();
    place.database("db", &format!("PRAGMA journal_mode = WAL; {OTHERS} {schema} CREATE TABLE later (x);"));
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let daemon = start(&kafka, &place, &["users_outbox"], None);
    insert(&place, "users_outbox", &key_of(0), payloads);
    gate.wait_until_reached(1, PATIENCE);
    sql(&place, change);
    // One that travels by itself: when it has arrived, the daemon knows of the change.
    insert(&place, "users_outbox", &key_of(1), &["later"]);
    kafka.wait_for_records("users", 1, PATIENCE);
    gate.open();
    drained(daemon, &kafka, &place, 0)
}

#[test]
fn what_does_not_make_another_table_doubles_nothing_in_flight() {
    for (schema, change) in [
        (BARE, "ALTER TABLE users_outbox ADD COLUMN traceparent VARCHAR;"),
        (BARE, "ALTER TABLE users RENAME TO people;"),
        (BARE, "VACUUM;"),
        (BARE, "ALTER TABLE users_outbox RENAME TO x; ALTER TABLE x RENAME TO users_outbox;"),
        (COUNTED, "BEGIN; CREATE TABLE audit (x); ALTER TABLE users_outbox ADD COLUMN tenant DEFAULT 1; COMMIT;"),
        (COUNTED, "ALTER TABLE users_outbox DROP COLUMN note;"),
        (COUNTED, "UPDATE users_outbox SET attempts = attempts + 1;"),
    ] {
        let (records, ids, said) = in_flight(schema, change);
        assert_eq!((records, ids), (4, 4), "{change}\n{said}");
        assert!(!said.contains("unsure"), "{change}\n{said}");
    }
}

#[test]
fn rows_in_flight_while_their_table_is_rebuilt_go_again_as_what_they_were() {
    let (records, ids, said) = in_flight(COUNTED, REBUILD);
    assert_eq!((records, ids), (7, 4), "{said}");
    assert!(said.contains("3 rows are sent again and may be there twice (unsure)"), "{said}");
}

const DROP: &str = "ALTER TABLE users_outbox DROP COLUMN note;";

/// Bare tables with a column that is in no record: one whose key is the rowid, and one that a VACUUM may renumber.
fn bare_with_a_note() -> [String; 2] {
    let by_rowid = BARE.replace("user INTEGER,", "user INTEGER, note,");
    let by_key = by_rowid.replace("id INTEGER NOT NULL", "id INT NOT NULL DEFAULT (random())");
    [by_rowid, by_key]
}

/// All of a bare table's columns guard its rows, and a lost one is in none of them any more. What was sent tells.
#[test]
fn rows_in_flight_while_a_bare_table_loses_a_column_keep_their_message_ids() {
    let rename = "ALTER TABLE users_outbox RENAME COLUMN note TO remark;";
    let rewritten = format!("BEGIN; {DROP} UPDATE users_outbox SET payload = 'w' WHERE payload = 'x'; COMMIT;");
    for schema in bare_with_a_note() {
        for (change, expected, unsure) in [(DROP, (7, 4), 3), (rename, (4, 4), 0), (&rewritten, (7, 5), 2)] {
            let (records, ids, said) = in_flight(&schema, change);
            assert_eq!((records, ids), expected, "{change}\n{said}");
            assert!(said.contains("lost or renamed a column"), "{change}\n{said}");
            let told = format!("{unsure} rows are sent again and may be there twice (unsure)");
            assert_eq!((said.contains(&told), said.contains("unsure")), (unsure > 0, unsure > 0), "{change}\n{said}");
        }
    }
}

#[test]
fn rows_in_flight_while_a_bare_table_is_rebuilt_without_a_column_keep_their_message_ids() {
    let [with, _] = bare_with_a_note();
    let without = BARE.replace("users_outbox", "n");
    let names = "id, aggregateId, eventType, payload, user";
    let rebuild = format!(
        "BEGIN; {without} INSERT INTO n ({names}) SELECT {names} FROM users_outbox; DROP TABLE users_outbox; \
         ALTER TABLE n RENAME TO users_outbox; COMMIT;"
    );
    let (records, ids, said) = in_flight(&with, &rebuild);
    assert_eq!((records, ids), (7, 4), "{said}");
    assert!(said.contains("3 rows are sent again and may be there twice (unsure)"), "{said}");
}

/// The values that a record is made of are the same, as text instead of as numbers; what else the rows have is filled in anew.
#[test]
fn rows_in_flight_while_their_table_is_rebuilt_with_other_types_keep_their_message_ids() {
    let [bare, _] = bare_with_a_note();
    for (schema, note) in [(COUNTED, "note TEXT"), (bare.as_str(), "note")] {
        let before = schema.replace("payload TEXT", "payload INTEGER");
        let after = schema.replace("users_outbox", "n").replace(note, "note DEFAULT 'anew'");
        let names = "id, aggregateId, eventType, payload, user";
        let rebuild = format!(
            "BEGIN; {after} INSERT INTO n ({names}) SELECT {names} FROM users_outbox; DROP TABLE users_outbox; \
             ALTER TABLE n RENAME TO users_outbox; COMMIT;"
        );
        let (records, ids, said) = in_flight_with(&before, &["1", "22", "-3"], &rebuild);
        assert_eq!((records, ids), (7, 4), "{schema}\n{said}");
        assert!(said.contains("3 rows are sent again and may be there twice (unsure)"), "{schema}\n{said}");
    }
}

/// Published, and the application has the write lock: it drops a column before our delete gets it.
#[test]
fn published_rows_whose_table_loses_a_column_before_their_delete_are_sent_again_and_counted() {
    for mode in ["WAL", "DELETE"] {
        for schema in bare_with_a_note() {
            let kafka = FakeKafka::builder().topic("users", 2).start();
            let place = Place::new();
            place.database("db", &format!("PRAGMA journal_mode = {mode}; {OTHERS} {schema}"));
            let gate = kafka.gate();
            kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
            let daemon = start(&kafka, &place, &["users_outbox"], None);
            insert(&place, "users_outbox", &key_of(0), &["x", "y", "z"]);
            gate.wait_until_reached(1, PATIENCE);
            let application = Connection::open(place.path("db")).unwrap();
            application.busy_timeout(PATIENCE).unwrap();
            application.execute_batch("BEGIN IMMEDIATE").unwrap();
            gate.open();
            kafka.wait_for_records("users", 3, PATIENCE);
            application.execute_batch(&format!("{DROP} COMMIT")).unwrap();
            drop(application);
            insert(&place, "users_outbox", &key_of(1), &["later"]);
            let (records, ids, said) = drained(daemon, &kafka, &place, 0);
            assert_eq!((records, ids), (7, 4), "{mode}\n{said}");
            assert!(said.contains("3 rows are sent again and may be there twice (unsure)"), "{mode}\n{said}");
        }
    }
}

/// A row that was published, and one that the application has put in its place, alike in everything that is sent.
#[cfg(feature = "testing")]
#[test]
fn a_row_that_took_the_place_of_a_published_one_is_sent_though_a_column_is_gone() {
    for change in ["", DROP, "CREATE INDEX i ON users_outbox (id); CREATE INDEX j ON users_outbox (id);"] {
        for schema in bare_with_a_note() {
            let schema = schema.replace("note,", "note, at INTEGER,");
            let (kafka, place) = killed(&schema, &["x"], "acknowledged");
            sql(
                &place,
                &format!(
                    "CREATE TEMP TABLE t AS SELECT * FROM users_outbox; DELETE FROM users_outbox; UPDATE t SET at = 2; \
                     INSERT INTO users_outbox SELECT * FROM t; {change}"
                ),
            );
            let daemon = start(&kafka, &place, &["users_outbox"], None);
            let (records, ids, said) = drained(daemon, &kafka, &place, 0);
            // In the same table the one is known to be another.
            assert_eq!((records, ids), (2, if change.is_empty() { 2 } else { 1 }), "{change}\n{said}");
        }
    }
}

#[cfg(feature = "testing")]
#[test]
fn rows_in_flight_at_a_kill_are_known_when_their_bare_table_loses_a_column_before_the_next_start() {
    use std::os::unix::process::ExitStatusExt as _;
    for killed_at in ["planned", "sent", "acknowledged"] {
        for schema in bare_with_a_note() {
            let (kafka, place) = killed(&schema, &["x", "y", "z"], killed_at);
            sql(&place, DROP);
            // Killed again with what it made of them, and once more a column less.
            let daemon = start(&kafka, &place, &["users_outbox"], Some("deleting")).finish();
            assert_eq!(daemon.status.signal(), Some(9), "{}", daemon.everything());
            sql(&place, "ALTER TABLE users_outbox RENAME COLUMN user TO owner;");
            let daemon = start(&kafka, &place, &["users_outbox"], None);
            let (records, ids, said) = drained(daemon, &kafka, &place, 0);
            // Before the COMMIT of a delete, and all rows are there: whether it happened nobody can say.
            // What was just sent may have died on its way.
            let first: &[_] = match killed_at {
                "planned" => &[0],
                "sent" => &[0, 3],
                _ => &[3],
            };
            assert!(first.contains(&(records - 6)) && ids == 3, "{killed_at}: {records}, {ids}\n{said}");
            assert!(said.contains("3 rows are sent again and may be there twice (unsure)"), "{killed_at}\n{said}");
        }
    }
}

#[test]
fn another_outbox_made_again_is_none_of_this_ones_business() {
    let kafka = FakeKafka::builder().topic("users", 2).start();
    let place = Place::new();
    let other = BARE.replace("users_outbox", "other");
    place.database("db", &format!("PRAGMA journal_mode = WAL; {OTHERS} {BARE} {other} CREATE TABLE later (x);"));
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let daemon = start(&kafka, &place, &["users_outbox", "other"], None);
    // In one batch, those of both.
    let (one, two) = (key_of(0), key_of(1));
    sql(
        &place,
        &format!(
            "BEGIN; INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES ('{one}', 'E', 'x'), ('{one}', 'E', 'y'); \
             INSERT INTO other (aggregateId, eventType, payload) VALUES ('{one}', 'E', 'z'); COMMIT;"
        ),
    );
    gate.wait_until_reached(1, PATIENCE);
    sql(&place, &format!("BEGIN; DROP TABLE other; {other} COMMIT;"));
    insert(&place, "other", &two, &["later"]);
    kafka.wait_for_records("users", 1, PATIENCE);
    gate.open();
    let (records, ids, said) = drained(daemon, &kafka, &place, 0);
    assert_eq!((records, ids), (4, 4), "{said}");
    assert!(said.contains("other was re-created") && !said.contains("unsure"), "{said}");
}

#[test]
fn a_row_that_a_trigger_keeps_is_not_published_again_by_a_migration() {
    for change in [
        "ALTER TABLE users_outbox DROP COLUMN note; VACUUM;",
        "BEGIN; ALTER TABLE users_outbox ADD COLUMN a; ALTER TABLE users_outbox DROP COLUMN note; COMMIT;",
    ] {
        for running in [true, false] {
            let kafka = FakeKafka::builder().topic("users", 2).start();
            let place = Place::new();
            let keep = "CREATE TRIGGER keep BEFORE DELETE ON users_outbox WHEN old.payload = 'kept' \
                        BEGIN SELECT raise(ignore); END;";
            place.database("db", &format!("PRAGMA journal_mode = WAL; {OTHERS} {COUNTED} {keep}"));
            insert(&place, "users_outbox", "k", &["kept", "x"]);
            let mut daemon = start(&kafka, &place, &["users_outbox"], None);
            daemon
                .wait_until("one that stays", |daemon| daemon.stderr().contains("was published but can't be deleted"));
            if running {
                sql(&place, change);
            } else {
                drained(daemon, &kafka, &place, 1);
                sql(&place, change);
                daemon = start(&kafka, &place, &["users_outbox"], None);
            }
            insert(&place, "users_outbox", "k", &["later"]);
            kafka.wait_for_records("users", 3, PATIENCE);
            let (records, ids, said) = drained(daemon, &kafka, &place, 1);
            assert_eq!((records, ids), (3, 3), "{change}\n{said}");
        }
    }
}

#[cfg(feature = "testing")]
#[test]
fn after_a_kill_ids_that_may_have_come_back_are_no_proof() {
    for (killed_at, change, again, records, unsure) in [
        // Deleted by then; what is there next looks the same.
        ("deleted", REBUILD, ["x", "y", "z"].as_slice(), 6, 3),
        ("deleted", "DELETE FROM sqlite_sequence WHERE name = 'users_outbox';", &["x", "y"], 5, 0),
        // Not deleted by then; what is there is what was sent.
        ("acknowledged", "ALTER TABLE users_outbox DROP COLUMN note;", &[], 3, 0),
        ("acknowledged", "VACUUM;", &[], 3, 0),
        ("acknowledged", "UPDATE users_outbox SET attempts = 7;", &[], 3, 0),
        ("acknowledged", REBUILD, &[], 6, 3),
    ] {
        let (kafka, place) = killed(COUNTED, &["x", "y", "z"], killed_at);
        sql(&place, change);
        if !again.is_empty() {
            insert(&place, "users_outbox", "k", again);
        }
        let daemon = start(&kafka, &place, &["users_outbox"], None);
        let (found, ids, said) = drained(daemon, &kafka, &place, 0);
        assert_eq!(found, records, "{killed_at} {change}\n{said}");
        assert_eq!(ids, records - unsure, "{killed_at} {change}\n{said}");
        let told = format!("{unsure} rows are sent again and may be there twice (unsure)");
        assert_eq!(said.contains(&told), unsure > 0, "{killed_at} {change}\n{said}");
    }
}

#[test]
fn a_row_that_an_expression_fails_on_is_set_aside_and_the_others_go() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let place = Place::new();
    let traced = COUNTED.replace("note TEXT", "headers TEXT");
    place.database("db", &format!("PRAGMA journal_mode = WAL; {OTHERS} {traced}"));
    let headers = ["{\"traceparent\":\"1\"}", "oops", "{}"];
    for text in headers {
        sql(&place, &format!("INSERT INTO users_outbox (payload, headers) VALUES ('p', '{text}')"));
    }
    sql(&place, "ALTER TABLE users_outbox ADD COLUMN tp TEXT AS (json_extract(headers, '$.traceparent')) VIRTUAL");
    let (database, servers) = (place.text("db"), kafka.bootstrap());
    let outbox = format!("[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\n");
    let text = format!("{outbox}[outbox.headers]\ntraceparent = \"tp\"\n[kafka]\nbootstrap_servers = [{servers:?}]\n");
    let config = place.write("c.toml", &text);
    let daemon = Running::start(outboxd(&["run", "--config", &config]));
    let (records, ids, said) = drained(daemon, &kafka, &place, 1);
    assert_eq!((records, ids), (2, 2), "{said}");
    assert!(said.contains("row with rowid 2 is in quarantine: it can't be read: malformed JSON"), "{said}");
    sql(&place, "UPDATE users_outbox SET headers = 'null'");
    let daemon = Running::start(outboxd(&["run", "--config", &config]));
    assert_eq!(drained(daemon, &kafka, &place, 0).0, 3);
}

/// Killed with rows in flight, and started while the table of some of them is away.
#[cfg(feature = "testing")]
#[test]
fn rows_in_flight_of_a_table_that_is_away_at_a_start_wait_for_it() {
    use std::os::unix::process::ExitStatusExt as _;
    for (away, back) in [
        ("ALTER TABLE users_outbox RENAME TO x;", "ALTER TABLE x RENAME TO users_outbox;"),
        (
            "ALTER TABLE users_outbox RENAME COLUMN payload TO body;",
            "ALTER TABLE users_outbox RENAME COLUMN body TO payload;",
        ),
    ] {
        for killed_at in ["written", "acknowledged"] {
            let kafka = FakeKafka::builder().topic("users", 1).topic("others", 1).start();
            let place = Place::new();
            let other = COUNTED.replace("users_outbox", "other");
            place.database("db", &format!("PRAGMA journal_mode = WAL; {OTHERS} {COUNTED} {other}"));
            let (database, servers) = (place.text("db"), kafka.bootstrap());
            let outbox = |table: &str, topic: &str| {
                format!("[[outbox]]\ndatabase = {database:?}\ntable = {table:?}\ntopic = {topic:?}\n")
            };
            let (one, two) = (outbox("users_outbox", "users"), outbox("other", "others"));
            let text = format!("{one}{two}[kafka]\nbootstrap_servers = [{servers:?}]\n");
            let config = place.write("c.toml", &text);
            insert(&place, "users_outbox", "k", &["x", "y", "z"]);
            let mut command = outboxd(&["run", "--config", &config]);
            command.env("FAILPOINTS", format!("{killed_at}=return"));
            let daemon = Running::start(command).finish();
            assert_eq!(daemon.status.signal(), Some(9), "{}", daemon.everything());
            kafka.wait_for_records("users", 3, PATIENCE);

            sql(&place, away);
            insert(&place, "other", "k", &["a", "b"]);
            let mut daemon = Running::start(outboxd(&["run", "--config", &config]));
            daemon.wait_until("the other one's rows gone", |_| rows(&place, "other") == 0);
            daemon.wait_until("the line", |daemon| {
                daemon.stderr().contains("3 rows that were in flight wait for its table")
            });
            assert_eq!(kafka.all_records("others").len(), 2);
            sql(&place, back);
            insert(&place, "users_outbox", "k", &["later"]);
            let (records, ids, said) = drained(daemon, &kafka, &place, 0);
            assert_eq!((records, ids), (4, 4), "{killed_at} {away}\n{said}");
            assert!(!said.contains("unsure"), "{killed_at} {away}\n{said}");
        }
    }
}
