//! What operators ask, from another connection.

use super::*;
use crate::model::{Action, Request};

fn ask(place: &Place, outbox: i64, action: &str, row: Option<i64>, asked_ms: i64) -> i64 {
    let operator = Connection::open(place.path()).unwrap();
    operator
        .execute(
            "INSERT INTO request (outbox, action, row, asked_ms) VALUES (?, ?, ?, ?)",
            rusqlite::params![outbox, action, row, asked_ms],
        )
        .unwrap();
    operator.last_insert_rowid()
}

fn answers(place: &Place) -> Vec<(i64, Option<String>, bool)> {
    let operator = Connection::open(place.path()).unwrap();
    let mut statement = operator.prepare("SELECT id, answer, failed FROM request ORDER BY id").unwrap();
    let answers = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    answers.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_request_is_heard_once_and_answered() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let mut other = file.journal(&place.path(), &["users_outbox"]).unwrap();
    assert_eq!(journal.requests().unwrap(), []);
    // Numbers of outboxes: 1 and 2 are the first journal's, 3 the other's.
    let first = ask(&place, 2, "retry", Some(-5), millis::now());
    let second = ask(&place, 1, "discard", None, millis::now());
    let third = ask(&place, 3, "retry", None, millis::now());
    let expected = [
        Request { id: first, action: Action::Retry, outbox: OutboxIx(1), rowid: Some(-5) },
        Request { id: second, action: Action::Discard, outbox: OutboxIx(0), rowid: None },
    ];
    assert_eq!(journal.requests().unwrap(), expected);
    assert_eq!(journal.requests().unwrap(), []);
    assert_eq!(other.requests().unwrap().iter().map(|request| request.id).collect::<Vec<_>>(), [third]);
    let long = "x".repeat(9_000);
    journal
        .record(
            &[
                Change::Answered { request: first, failed: false, text: "sent again" },
                Change::Answered { request: second, failed: true, text: &long },
                Change::Answered { request: 99, failed: true, text: "who asked has gone" },
            ],
            false,
        )
        .unwrap();
    let expected = [
        (first, Some("sent again".to_owned()), false),
        (second, Some("x".repeat(TEXT_MAX_BYTES)), true),
        (third, None, false),
    ];
    assert_eq!(answers(&place), expected);
    let fourth = ask(&place, 1, "retry", Some(1), millis::now());
    assert_eq!(journal.requests().unwrap().iter().map(|request| request.id).collect::<Vec<_>>(), [fourth]);
}

#[test]
fn nothing_new_is_found_out_without_reading_a_row() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    assert_eq!(journal.requests().unwrap(), []);
    // Our own commits are nothing new; with the table gone, reading it would fail.
    file.shared().connection.execute_batch("ALTER TABLE request RENAME TO away").unwrap();
    assert_eq!(journal.requests().unwrap(), []);
    Connection::open(place.path()).unwrap().execute_batch("CREATE TABLE another (x)").unwrap();
    journal.requests().unwrap_err();
    file.shared().connection.execute_batch("ALTER TABLE away RENAME TO request").unwrap();
    assert_eq!(journal.requests().unwrap(), [], "it is asked again until it went well");
}

#[test]
fn old_requests_go() {
    let place = Place::new();
    let file = place.open();
    let mut journal = file.journal(&place.database(), &TABLES).unwrap();
    let now = millis::now();
    for asked in [0, now - 3_600_000, now + 3_600_000] {
        ask(&place, 1, "retry", None, asked);
    }
    let kept = ask(&place, 1, "retry", None, now);
    journal.record(&[Change::Answered { request: kept, failed: false, text: "" }], false).unwrap();
    assert_eq!(answers(&place), [(kept, Some(String::new()), false)]);
    ask(&place, 1, "retry", None, now);
    drop((journal, file));
    drop(place.open());
    assert_eq!(answers(&place), [], "asked of a run that has ended");
    assert!(ask(&place, 1, "retry", None, now) > kept + 1, "and its number is not used again");
}
