//! What becomes of rows in flight when the daemon is killed and their database is found elsewhere, or another lies in its place.

use crate::common::{PATIENCE, Place, Running, outboxd};
use fake_kafka::FakeKafka;
use rusqlite::Connection;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

const COUNTED: &str =
    "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId, eventType, payload);";
const BARE: &str = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload);";
const WAL: &str = "PRAGMA journal_mode = WAL;";
const XYZ: &str =
    "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES ('k','E','x'), ('k','E','y'), ('k','E','z');";
const UNSURE: &str = "3 rows are sent again and may be there twice (unsure)";

/// A daemon for these databases, all with the same state file.
fn start(kafka: &FakeKafka, place: &Place, databases: &[&str], failpoint: Option<&str>) -> Running {
    let (state, servers) = (place.text("state.db"), kafka.bootstrap());
    let outbox = |name: &&str| {
        let database = place.text(name);
        format!("[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\nname = {name:?}\n")
    };
    let outboxes: String = databases.iter().map(outbox).collect();
    let text = format!("{outboxes}[kafka]\nbootstrap_servers = [{servers:?}]\n[state]\npath = {state:?}\n");
    let config = place.write("c.toml", &text);
    let mut command = outboxd(&["run", "--config", &config]);
    if let Some(label) = failpoint {
        command.env("FAILPOINTS", format!("{label}=return"));
    }
    Running::start(command)
}

/// A daemon that is killed when it comes to this step.
fn killed(kafka: &FakeKafka, place: &Place, databases: &[&str], step: &str) {
    let daemon = start(kafka, place, databases, Some(step)).finish();
    assert_eq!(daemon.status.signal(), Some(9), "{}", daemon.everything());
}

fn rows(path: &Path) -> i64 {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.query_row("SELECT count(*) FROM users_outbox", [], |row| row.get(0)).unwrap()
}

/// What the daemon said until all tables were empty; the number of records, and of different message ids.
fn drained(mut daemon: Running, kafka: &FakeKafka, place: &Place, databases: &[&str]) -> (usize, usize, String) {
    daemon.wait_until("empty tables", |_| databases.iter().all(|name| rows(&place.path(name)) == 0));
    daemon.drained(kafka)
}

/// A database and what lies beside it.
fn rename(place: &Place, from: &str, to: &str) {
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (place.path(&format!("{from}{suffix}")), place.path(&format!("{to}{suffix}")));
        if from.exists() {
            std::fs::rename(from, to).unwrap();
        }
    }
}

/// As to another file system.
fn copy_and_remove(place: &Place, from: &str, to: &str) {
    for suffix in ["", "-wal"] {
        let (from, to) = (place.path(&format!("{from}{suffix}")), place.path(&format!("{to}{suffix}")));
        if from.exists() {
            std::fs::copy(&from, to).unwrap();
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        let _ = std::fs::remove_file(place.path(&format!("{from}{suffix}")));
    }
}

#[test]
fn a_database_that_was_moved_is_the_one_it_was() {
    for schema in [COUNTED, BARE] {
        // Planned, stored and not heard of; stored; deleted.
        for (step, records) in [("planned", 3), ("acknowledged", 3), ("deleted", 3)] {
            let (kafka, place) = (FakeKafka::builder().topic("users", 1).start(), Place::new());
            place.database("db", &format!("{WAL} {schema} {XYZ}"));
            killed(&kafka, &place, &["db"], step);
            std::fs::create_dir(place.path("new")).unwrap();
            rename(&place, "db", "new/db");
            let daemon = start(&kafka, &place, &["new/db"], None);
            let (found, ids, said) = drained(daemon, &kafka, &place, &["new/db"]);
            assert_eq!((found, ids), (records, records), "{schema} {step}\n{said}");
            assert!(!said.contains("unsure") && !said.contains("no longer configured"), "{schema} {step}\n{said}");
        }
    }
}

#[test]
fn a_database_that_was_moved_to_another_file_system_is_sent_again_as_what_it_was() {
    for schema in [COUNTED, BARE] {
        let (kafka, place) = (FakeKafka::builder().topic("users", 1).start(), Place::new());
        place.database("db", &format!("{WAL} {schema} {XYZ}"));
        killed(&kafka, &place, &["db"], "acknowledged");
        copy_and_remove(&place, "db", "elsewhere");
        let daemon = start(&kafka, &place, &["elsewhere"], None);
        let (found, ids, said) = drained(daemon, &kafka, &place, &["elsewhere"]);
        assert_eq!((found, ids), (6, 3), "{schema}\n{said}");
        assert!(said.contains(UNSURE), "{schema}\n{said}");
    }
}

#[test]
fn one_reason_is_one_line_however_many_batches_have_it() {
    let (kafka, place) = (FakeKafka::builder().topic("users", 8).start(), Place::new());
    let rows: Vec<String> = (0..80).map(|key| format!("('{key}', 'E', 'x')")).collect();
    let rows = format!("INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES {};", rows.join(", "));
    place.database("db", &format!("{WAL} {BARE} {rows}"));
    // Acknowledged, all of them unless the machine is slow.
    killed(&kafka, &place, &["db"], "deleting");
    copy_and_remove(&place, "db", "elsewhere");
    let (_, ids, said) = drained(start(&kafka, &place, &["elsewhere"], None), &kafka, &place, &["elsewhere"]);
    assert_eq!(ids, 80, "{said}");
    let mut reasons: Vec<&str> =
        said.lines().filter_map(|line| line.split_once(" (unsure): ")).map(|(_, why)| why).collect();
    let lines = reasons.len();
    reasons.sort_unstable();
    reasons.dedup();
    assert!(lines > 0 && lines == reasons.len(), "{said}");
}

#[test]
fn two_databases_that_change_their_names_keep_what_is_theirs() {
    let (kafka, place) = (FakeKafka::builder().topic("users", 1).start(), Place::new());
    let names = ["one", "two"];
    place.database("one", &format!("{WAL} {BARE} {XYZ}"));
    place.database("two", &format!("{WAL} {BARE}"));
    killed(&kafka, &place, &names, "acknowledged");
    rename(&place, "one", "aside");
    rename(&place, "two", "one");
    rename(&place, "aside", "two");
    // They look like the rows in flight of the other.
    place.database("one", XYZ);
    let (found, ids, said) = drained(start(&kafka, &place, &names, None), &kafka, &place, &names);
    assert_eq!((found, ids), (6, 6), "{said}");
    assert!(!said.contains("unsure"), "{said}");
}

#[test]
fn another_database_is_not_taken_for_the_moved_one() {
    let (kafka, place) = (FakeKafka::builder().topic("users", 1).start(), Place::new());
    place.database("db", &format!("{WAL} {BARE} {XYZ}"));
    killed(&kafka, &place, &["db"], "acknowledged");
    // The first is still there, only not configured.
    place.database("other", &format!("{WAL} {BARE} {XYZ}"));
    let (found, ids, said) = drained(start(&kafka, &place, &["other"], None), &kafka, &place, &["other"]);
    assert_eq!((found, ids), (6, 6), "{said}");
    assert!(said.contains("this database is no longer configured; the plan is kept"), "{said}");
    let (found, ids, said) = drained(start(&kafka, &place, &["db"], None), &kafka, &place, &["db"]);
    assert_eq!((found, ids), (6, 6), "{said}");
}

#[test]
fn a_database_that_took_the_place_of_another_waits_until_its_log_is_gone_and_no_other_waits_with_it() {
    for step in ["committed", "deleted"] {
        let (kafka, place) = (FakeKafka::builder().topic("users", 1).start(), Place::new());
        let users = |count: usize, name: &str| {
            let rows = vec![format!("('{name}')"); count].join(", ");
            format!("CREATE TABLE users (name); INSERT INTO users VALUES {rows};")
        };
        place.database("db", &format!("{WAL} {COUNTED} {} {XYZ}", users(300, "old")));
        let before = std::fs::read(place.path("db")).unwrap();
        killed(&kafka, &place, &["db"], step);
        assert!(std::fs::metadata(place.path("db-wal")).unwrap().len() > 0, "nobody has brought it to the file");
        place.database("next", &format!("{WAL} {COUNTED} {} {XYZ}", users(900, "new")));
        let next = std::fs::read(place.path("next")).unwrap();
        assert_ne!(before, next);
        std::fs::rename(place.path("next"), place.path("db")).unwrap();

        place.database("other", &format!("{WAL} {COUNTED} {XYZ}"));
        let mut daemon = start(&kafka, &place, &["db", "other"], None);
        daemon.wait_until("an empty table of the other", |_| rows(&place.path("other")) == 0);
        let log = format!("{}-wal", place.text("db"));
        let aside = format!("mv {log} {log}.aside");
        daemon.wait_until("what to do", |daemon| daemon.stderr().contains(&aside));
        assert!(daemon.stderr().contains("still holds pages of the one before"), "{}", daemon.stderr());
        assert_eq!(std::fs::read(place.path("db")).unwrap(), next, "{step}: not a byte of it has changed");

        std::fs::rename(&log, format!("{log}.aside")).unwrap();
        let (found, ids, said) = drained(daemon, &kafka, &place, &["db", "other"]);
        assert_eq!(found, 9, "{step}\n{said}");
        assert_eq!(ids, 6, "{step}: they look like those of the one before\n{said}");
        assert!(said.contains(UNSURE), "{step}\n{said}");
        let connection = Connection::open(place.path("db")).unwrap();
        let count: i64 =
            connection.query_row("SELECT count(*) FROM users WHERE name = 'new'", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 900);
    }
}
