//! What a broker says, and what that becomes.

use super::rig::{Rig, class, values};
use fake_kafka::{FakeKafka, Fault};
use outboxd_kafka::outcome::Outcome;
use std::time::Duration;

#[test]
fn codes_before_the_append() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let mut count = 0;
    for (codes, expected) in [
        (&[19, 2][..], "not appended"),
        (&[7, 20, 6, 3, 5, 34, 56, -1, 9, 1234], "unsure"),
        (&[10, 18], "rejected"),
        (&[32, 17, 29, 31, 33, 35, 58, 87], "refused"),
        (&[45, 46, 47, 48, 49, 59, 90, 120], "out of sequence"),
    ] {
        for code in codes {
            kafka.fault("users", 0, Fault::AnswerBefore(*code));
            let batch = rig.batch("users", 0, &[&code.to_string()]);
            let outcome = rig.try_once(&batch);
            assert_eq!(class(&outcome), expected, "{code}");
            match &outcome {
                Outcome::Rejected { why, records } => {
                    assert_eq!((why.code, records.as_deref()), (Some(*code), Some(&[0][..])));
                }
                Outcome::NotAppended(why)
                | Outcome::Unsure(why)
                | Outcome::Refused(why)
                | Outcome::OutOfSequence(why) => {
                    assert_eq!(why.code, Some(*code));
                    assert!(why.text.starts_with("broker 1 at 127.0.0.1:"), "{why}");
                }
                Outcome::Stored { .. } => unreachable!(),
            }
            assert_eq!(rig.until_stored(&batch), count);
            count += 1;
        }
    }
    assert_eq!(kafka.record_count("users") as i64, count);
}

#[test]
fn every_code_has_a_reason_and_who_can_do_something_is_told_what() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for code in (-2..=200).filter(|code| *code != 0) {
        kafka.fault("users", 0, Fault::AnswerBefore(code));
        let batch = rig.batch("users", 0, &[&code.to_string()]);
        let outcome = rig.try_once(&batch);
        let why = rig.last_why.clone().unwrap_or_else(|| panic!("{code}: {outcome:?}"));
        assert!(why.code == Some(code) && why.text.contains(&code.to_string()), "{code}: {why}");
        if let Outcome::Refused(why) | Outcome::Rejected { why, .. } = &outcome {
            assert!(!why.hint.is_empty(), "{code}: {why}");
        }
        assert!(matches!(rig.until_stored(&batch), 0..), "{code}");
    }
}

#[test]
fn an_answer_about_who_we_are_ends_the_connection() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let first = rig.batch("users", 0, &["first"]);
    rig.until_stored(&first);
    for (code, closes) in [(33, true), (34, true), (58, true), (29, false)] {
        let batch = rig.batch("users", 0, &["x"]);
        let connections = kafka.connections_opened();
        kafka.fault("users", 0, Fault::AnswerBefore(code));
        rig.try_once(&batch);
        rig.until_stored(&batch);
        assert_eq!(kafka.connections_opened() > connections, closes, "{code}");
    }
}

#[test]
fn codes_after_the_append_are_unsure_and_a_resend_is_no_second_record() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for (at, code) in [7, 20, 6, 3, 56, -1].into_iter().enumerate() {
        kafka.fault("users", 0, Fault::AppendThenAnswer(code));
        let batch = rig.batch("users", 0, &[&code.to_string()]);
        assert_eq!(class(&rig.try_once(&batch)), "unsure", "{code}");
        assert_eq!(rig.until_stored(&batch), at as i64);
    }
    assert_eq!(values(&kafka, "users", 0), ["7", "20", "6", "3", "56", "-1"]);
}

#[test]
fn rejected_records_are_named_when_the_broker_names_them() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    kafka.reject_records("users", |record| record.value.as_deref().is_some_and(|value| value.starts_with(b"bad")));
    let batch = rig.batch("users", 0, &["good", "bad 1", "good", "bad 2"]);
    match rig.try_once(&batch) {
        Outcome::Rejected { why, records } => assert_eq!((why.code, records), (Some(87), Some(vec![1, 3]))),
        other => panic!("{other:?}"),
    }
    kafka.accept_records("users");
    kafka.set_max_message_bytes("users", 50);
    match rig.try_once(&batch) {
        Outcome::Rejected { why, records } => assert_eq!((why.code, records), (Some(10), None)),
        other => panic!("{other:?}"),
    }
    assert_eq!(kafka.record_count("users"), 0);
}

#[test]
fn a_clock_that_is_off_is_named() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    kafka.check_clock("users", Some(Duration::from_secs(3_600)));
    kafka.set_clock_offset_ms(-2 * 3_600_000);
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let batch = rig.batch("users", 0, &["x"]);
    match rig.try_once(&batch) {
        Outcome::Refused(why) => assert!(why.code == Some(32) && why.hint.contains("date -u"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Each attempt carries the time of the attempt.
    kafka.set_clock_offset_ms(0);
    assert_eq!(rig.try_once(&batch), Outcome::Stored { offset: 0 });
}

#[test]
fn a_partition_missing_in_the_answer_is_unsure() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    kafka.fault("users", 0, Fault::OmitPartition);
    let batch = rig.batch("users", 0, &["x"]);
    assert_eq!(class(&rig.try_once(&batch)), "unsure");
    assert_eq!(rig.try_once(&batch), Outcome::Stored { offset: 0 });
    assert_eq!(kafka.record_count("users"), 1);
}
