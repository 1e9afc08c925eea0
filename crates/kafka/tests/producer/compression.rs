//! Batches that are compressed: once each, with every codec, and what their size counts for.

use super::rig::{Rig, class, options, values};
use fake_kafka::{ApiKey, FakeKafka, Fault};
use outboxd_kafka::compression::Compression;
use outboxd_kafka::outcome::{Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;

const CODECS: [Compression; 4] = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

fn with(kafka: &FakeKafka, compression_type: Compression) -> KafkaOptions {
    KafkaOptions { compression_type, ..options(kafka) }
}

/// Texts that become smaller, each another one.
fn texts(count: usize) -> Vec<String> {
    (0..count).map(|at| format!("{at}: {}", "the same again, ".repeat(20))).collect()
}

fn words(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn attributes(kafka: &FakeKafka) -> Vec<i16> {
    let requests = kafka.requests_of(ApiKey::Produce);
    requests.iter().flat_map(|request| &request.batches).map(|batch| batch.attributes).collect()
}

#[test]
fn every_codec_arrives_and_names_itself() {
    for codec in CODECS {
        let kafka = FakeKafka::builder().topic("users", 1).start();
        let mut rig = Rig::with(with(&kafka, codec));
        rig.open("users");
        let texts = texts(100);
        let batch = rig.batch("users", 0, &words(&texts));
        assert_eq!(rig.try_once(&batch), Outcome::Stored { offset: 0 }, "{codec}");
        assert_eq!(values(&kafka, "users", 0), texts, "{codec}");
        let [request] = &kafka.requests_of(ApiKey::Produce)[..] else { panic!("one request") };
        let sent = &request.batches[0];
        assert_eq!(sent.attributes, codec.number());
        assert!(sent.record_bytes * 3 < batch.records.bytes().len(), "{codec}: {} bytes", sent.record_bytes);
        assert_eq!(batch.records.sent().1.len(), sent.record_bytes);
        assert_eq!(batch.records.sent().0, codec);
        kafka.assert_no_complaints();
    }
}

/// An answer that is lost twice, and a broker that refuses for a while: always the same bytes, whichever sender has them.
#[test]
fn a_resend_has_the_bytes_of_the_first_attempt() {
    for codec in CODECS {
        let kafka = FakeKafka::builder().topic("users", 1).start();
        let mut rig = Rig::with(with(&kafka, codec));
        rig.open("users");
        let texts = texts(50);
        let batch = rig.batch("users", 0, &words(&texts));
        let faults = [Fault::AppendThenClose, Fault::AnswerBefore(19), Fault::CloseBefore, Fault::Pass];
        for (fault, expected) in faults.into_iter().zip(["unsure", "not appended", "unsure", "stored"]) {
            kafka.fault("users", 0, fault);
            let manner = if expected == "stored" { Manner::Alone } else { Manner::Merged };
            rig.send(&batch, manner);
            assert_eq!(class(&rig.outcome(&batch)), expected, "{codec}");
        }
        let requests = kafka.requests_of(ApiKey::Produce);
        assert_eq!(requests.len(), 4);
        let first = &requests[0].batches[0];
        assert_eq!((first.attributes, first.base_sequence), (codec.number(), 0));
        for request in &requests[1..] {
            let again = &request.batches[0];
            assert_eq!(
                (again.record_checksum, again.record_bytes, again.attributes, again.base_sequence),
                (first.record_checksum, first.record_bytes, first.attributes, first.base_sequence),
                "{codec}"
            );
        }
        assert_eq!(values(&kafka, "users", 0), texts, "stored once");
    }
}

#[test]
fn what_does_not_shrink_goes_as_it_is() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(with(&kafka, Compression::Gzip));
    rig.open("users");
    let batch = rig.batch("users", 0, &["x"]);
    assert_eq!(class(&rig.try_once(&batch)), "stored");
    let texts = texts(10);
    let batch = rig.batch("users", 0, &words(&texts));
    assert_eq!(class(&rig.try_once(&batch)), "stored");
    assert_eq!(attributes(&kafka), [0, 1]);
    assert_eq!(kafka.record_count("users"), 11);
}

#[test]
fn batches_of_one_request_are_compressed_each_for_itself() {
    let kafka = FakeKafka::builder().topic("users", 4).start();
    let mut rig = Rig::with(KafkaOptions { senders_per_broker: 1, ..with(&kafka, Compression::Lz4) });
    rig.open("users");
    let gate = kafka.gate();
    kafka.fault("users", 3, Fault::DelayUntil(gate.clone()));
    let first = rig.batch("users", 3, &["holds the sender up"]);
    rig.send(&first, Manner::Merged);
    gate.wait_until_reached(1, super::rig::PATIENCE);
    let texts = texts(20);
    let short = rig.batch("users", 0, &["y"]);
    let long = rig.batch("users", 1, &words(&texts));
    rig.send(&short, Manner::Merged);
    rig.send(&long, Manner::Merged);
    gate.open();
    for batch in [&first, &short, &long] {
        assert_eq!(class(&rig.outcome(batch)), "stored");
    }
    let merged = kafka.requests_of(ApiKey::Produce).pop().unwrap();
    let mut sent: Vec<_> = merged.batches.iter().map(|batch| (batch.partition, batch.attributes)).collect();
    sent.sort_unstable();
    assert_eq!(sent, [(0, 0), (1, 3)]);
    assert_eq!(values(&kafka, "users", 1), texts);
}

#[test]
fn limits_count_what_is_sent() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    kafka.set_max_message_bytes("users", 2_000);
    let mut rig = Rig::with(KafkaOptions { max_request_size: 2_500, ..with(&kafka, Compression::Zstd) });
    rig.open("users");
    // 10 KB, and a tenth of that when it is sent.
    let texts = texts(30);
    let batch = rig.batch("users", 0, &words(&texts));
    assert!(batch.records.bytes().len() > 9_000);
    assert_eq!(class(&rig.try_once(&batch)), "stored");
    // Neither shrinks enough: one is the broker's to reject, one is never sent.
    for (bytes, text) in [(3_000, "MESSAGE_TOO_LARGE"), (5_000, "(with zstd) is larger than max_request_size (2500)")] {
        let mut random = fastrand::Rng::with_seed(bytes);
        let noise: String = (0..bytes).map(|_| random.alphanumeric()).collect();
        let batch = rig.batch("users", 0, &[&noise]);
        let requests = kafka.requests_of(ApiKey::Produce).len();
        match rig.try_once(&batch) {
            Outcome::Rejected { why, records } => {
                assert_eq!((why.code, records), (Some(10), Some(vec![0])));
                assert!(why.text.contains(text), "{why}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(kafka.requests_of(ApiKey::Produce).len() - requests, usize::from(bytes == 3_000));
    }
}

#[test]
fn a_broker_that_does_not_take_the_codec_is_told_of_with_those_that_work() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(with(&kafka, Compression::Snappy));
    rig.open("users");
    let texts = texts(5);
    let batch = rig.batch("users", 0, &words(&texts));
    for code in [43, 76] {
        kafka.fault("users", 0, Fault::AnswerBefore(code));
        match rig.try_once(&batch) {
            Outcome::Refused(why) => {
                assert!(why.hint.contains("compression_type = \"snappy\"") && why.hint.contains("gzip"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(class(&rig.try_once(&batch)), "stored");
}

/// Produce 7 is the oldest that there is zstd in, and that is spoken at all: whoever has less is refused when it is connected to.
#[test]
fn a_broker_from_before_zstd_is_not_sent_any() {
    let kafka = FakeKafka::builder().topic("users", 1).api_versions(ApiKey::Produce, 0, 6).start();
    let mut rig = Rig::unready(with(&kafka, Compression::Zstd));
    let why = rig.not_opened("users");
    assert!(why.text.contains("Produce in common: it speaks 0 to 6, this client 7 to 8"), "{why}");
    assert!(why.to_string().contains("Kafka 2.1 is the oldest that will do"), "{why}");
}
