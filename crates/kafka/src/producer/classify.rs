//! What a broker's answer for one batch means, in words.
//!
//! Promises: pure; each code has its class (invariants I1 to I3) and says what to change. Does not know: sockets, resends.

use crate::compression::Compression;
use crate::error::{Class, ErrorCode};
use crate::outcome::{Batch, Outcome, Why};
use crate::protocol::{ProduceResponse, ProducedPartition};
use std::fmt::Write;

/// What an answer to the request that a batch was in means for it.
pub(crate) fn outcome(broker: &str, batch: &Batch, response: &ProduceResponse) -> Outcome {
    let mut named =
        response.partitions.iter().filter(|answer| answer.partition == batch.partition && answer.topic == *batch.topic);
    match (named.next(), named.next()) {
        (Some(answer), None) => classified(broker, batch, answer),
        // Neither proves anything about our batch.
        (None, _) => Outcome::Unsure(Why::new(format!("broker {broker} answered without naming the partition"))),
        (Some(_), Some(_)) => Outcome::Unsure(Why::new(format!("broker {broker} answered twice for the partition"))),
    }
}

fn classified(broker: &str, batch: &Batch, answer: &ProducedPartition) -> Outcome {
    let (compression, _) = batch.records.sent();
    let why = || Why { code: Some(answer.error.0), text: text(broker, answer), hint: hint(answer, compression) };
    match answer.class() {
        Class::Stored => Outcome::Stored { offset: answer.base_offset },
        Class::NotAppended => Outcome::NotAppended(why()),
        Class::Unsure => Outcome::Unsure(why()),
        Class::Refused => Outcome::Refused(why()),
        Class::OutOfSequence => Outcome::OutOfSequence(why()),
        Class::Record => Outcome::Rejected { why: why(), records: rejected(batch, answer) },
    }
}

/// Which records, if that is certain: those the broker names and that exist, or the only one there is.
fn rejected(batch: &Batch, answer: &ProducedPartition) -> Option<Vec<u32>> {
    let count = batch.record_count;
    if count == 1 {
        return Some(vec![0]);
    }
    let all_exist = answer.record_errors.iter().all(|(index, _)| (0..count).contains(index));
    if answer.record_errors.is_empty() || !all_exist {
        return None;
    }
    let mut records: Vec<u32> =
        answer.record_errors.iter().filter_map(|(index, _)| u32::try_from(*index).ok()).collect();
    records.sort_unstable();
    records.dedup();
    Some(records)
}

fn text(broker: &str, answer: &ProducedPartition) -> String {
    let mut text = format!("broker {broker} answered {}", answer.error);
    // Brokers say either one thing of the batch or one of each record; the first is enough for a line of log. What they say of a
    // stamp names it, and it is another at each attempt: a failure that goes on would have a new text every time.
    let said = answer
        .record_errors
        .iter()
        .find_map(|(_, message)| message.as_deref())
        .or(answer.error_message.as_deref())
        .filter(|said| !said.is_empty() && answer.error != ErrorCode::INVALID_TIMESTAMP);
    match said {
        Some(said) => {
            let _ = write!(text, ": {}", said.chars().take(500).collect::<String>());
        }
        // "Not leader" looks as if nothing could have happened.
        None if answer.class() == Class::Unsure => {
            let _ = write!(text, ": {}", answer.error.reason());
        }
        None => {}
    }
    text
}

/// A codec that is not taken is the likeliest cause where there is one.
fn hint(answer: &ProducedPartition, compression: Compression) -> String {
    let topic = &answer.topic;
    match (answer.error, compression) {
        (_, Compression::None) => answer.error.hint(topic),
        (ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT, _) => format!(
            "either the service does not take compression_type = \"{compression}\" (Event Hubs takes gzip alone, in its Premium and \
             Dedicated tiers): set compression_type to another one, or to \"none\"; or topic {topic} keeps records in a format older than \
             Kafka 0.11: remove its message.format.version"
        ),
        (ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, Compression::Zstd) => {
            "compression_type = \"zstd\" needs brokers whose inter.broker.protocol.version is 2.1 or newer; \"gzip\", \"snappy\", \
             \"lz4\" and \"none\" work with every version of Kafka"
                .to_owned()
        }
        (ErrorCode::UNSUPPORTED_COMPRESSION_TYPE, _) => format!(
            "the broker does not take compression_type = \"{compression}\": every version of Kafka takes \"gzip\", \"snappy\", \"lz4\" \
             and \"none\", and \"zstd\" from 2.1 on; Event Hubs takes \"gzip\" and \"none\" alone"
        ),
        (error, _) => error.hint(topic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::batch;
    use std::time::Duration;

    fn answered(code: i16, records: &[i32], rows: i32) -> Outcome {
        answered_to(code, records, &batch("users", 3, rows))
    }

    fn answered_to(code: i16, records: &[i32], batch: &Batch) -> Outcome {
        let record_errors = records.iter().map(|index| (*index, Some("no key".into()))).collect();
        let partition = ProducedPartition {
            topic: "users".into(),
            partition: 3,
            error: ErrorCode(code),
            base_offset: 77,
            log_append_time_ms: -1,
            log_start_offset: 0,
            record_errors,
            can_name_records: true,
            error_message: None,
        };
        let response = ProduceResponse { partitions: vec![partition], throttle_time: Duration::ZERO };
        outcome("1 at a:1", batch, &response)
    }

    fn class(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Stored { .. } => "stored",
            Outcome::NotAppended(_) => "not appended",
            Outcome::Unsure(_) => "unsure",
            Outcome::Rejected { .. } => "rejected",
            Outcome::Refused(_) => "refused",
            Outcome::OutOfSequence(_) => "out of sequence",
        }
    }

    #[test]
    fn every_code_has_its_class() {
        for (codes, expected) in [
            (&[0][..], "stored"),
            (&[2, 19], "not appended"),
            (&[7, 20, 6, 3, 5, 56, -1, 1, 9, 4711], "unsure"),
            (&[10, 18], "rejected"),
            (&[32, 17, 29, 31, 33, 35, 58, 87, 21, 42, 43, 53, 54, 61, 67, 76, 104], "refused"),
            (&[45, 46, 47, 48, 49, 59, 90, 120], "out of sequence"),
        ] {
            for code in codes {
                assert_eq!(class(&answered(*code, &[], 2)), expected, "{code}");
            }
        }
        assert_eq!(answered(0, &[], 2), Outcome::Stored { offset: 77 });
    }

    #[test]
    fn what_only_a_person_can_mend_says_how() {
        for (code, word) in [
            (32, "date -u"),
            (17, "topic"),
            (29, "--operation Write --topic users"),
            (31, "IdempotentWrite"),
            (33, "sasl.enabled.mechanisms"),
            (35, "too old"),
            (58, "credentials"),
            (21, "proxy"),
            (42, "proxy"),
            (43, "message.format.version"),
            (53, "transactional"),
            (54, "security"),
            (61, "token"),
            (67, "token"),
            (76, "compression.type"),
            (104, "cluster"),
            (87, "cleanup.policy"),
        ] {
            let Outcome::Refused(why) = answered(code, &[], 1) else { panic!("{code}") };
            assert!(why.hint.contains(word), "{code}: {}", why.hint);
            assert!(why.text.starts_with("broker 1 at a:1 answered "), "{}", why.text);
            assert_eq!(why.code, Some(code));
        }
    }

    #[test]
    fn what_may_have_been_appended_says_why() {
        for (code, word, hint) in [
            (6, "deposed", ""),
            (20, "not known to be on the others", ""),
            (34, "session", "connections.max.reauth.ms"),
            (44, "throttled", "Event Hubs"),
            (25, "no answer to a Produce", ""),
            (4711, "no error that this version of outboxd knows", ""),
        ] {
            let Outcome::Unsure(why) = answered(code, &[], 1) else { panic!("{code}") };
            assert!(why.text.contains(word), "{code}: {}", why.text);
            assert!(why.hint.contains(hint), "{code}: {}", why.hint);
        }
        let Outcome::Unsure(why) = answered(6, &[0], 1) else { panic!() };
        assert!(why.text.ends_with(": no key"), "what the broker says itself comes first: {}", why.text);
    }

    #[test]
    fn a_codec_that_is_not_taken_is_named_with_those_that_are() {
        for compression in Compression::ALL {
            let batch = batch("users", 3, 1);
            batch.records.settle_form(compression, |_| (compression != Compression::None).then(|| [0].into()));
            for code in [43, 76] {
                let Outcome::Refused(why) = answered_to(code, &[], &batch) else { panic!("{code}") };
                let named = why.hint.contains(&format!("compression_type = \"{compression}\""));
                assert_eq!(named, compression != Compression::None, "{code}: {}", why.hint);
                assert!(!named || (why.hint.contains("gzip") && why.hint.contains("\"none\"")), "{code}: {}", why.hint);
            }
        }
    }

    #[test]
    fn rejected_records_are_named_only_when_that_is_certain() {
        let records = |outcome| match outcome {
            Outcome::Rejected { records, .. } => records,
            other => panic!("{other:?}"),
        };
        assert_eq!(records(answered(10, &[], 1)), Some(vec![0]));
        assert_eq!(records(answered(18, &[], 1)), Some(vec![0]));
        assert_eq!(records(answered(10, &[], 5)), None);
        assert_eq!(records(answered(87, &[4, 1, 1], 5)), Some(vec![1, 4]));
        assert_eq!(records(answered(87, &[5], 5)), None, "a record that does not exist: nothing is certain");
        assert_eq!(records(answered(87, &[-1], 5)), None);
    }

    #[test]
    fn an_answer_about_others_proves_nothing() {
        let other = ProduceResponse { partitions: vec![], throttle_time: Duration::ZERO };
        assert_eq!(class(&outcome("1", &batch("users", 3, 1), &other)), "unsure");
    }
}
