//! The producer on a real Apache Kafka: that the fake one tells no tales.

use super::rig::{Rig, class};
use outboxd_kafka::compression::Compression;
use outboxd_kafka::outcome::{Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;

mod real_kafka_4_3_0 {
    #[test]
    fn producer_opens_stores_and_explains() {
        super::opens_stores_and_explains("4.3.0");
    }

    #[test]
    fn producer_every_codec_is_read_by_others() {
        super::every_codec_is_read_by_others("4.3.0");
    }

    #[test]
    fn producer_a_limit_counts_what_is_sent() {
        super::a_limit_counts_what_is_sent("4.3.0");
    }
}

mod real_kafka_3_9_1 {
    #[test]
    fn producer_opens_stores_and_explains() {
        super::opens_stores_and_explains("3.9.1");
    }
}

/// Every codec, into a topic that keeps what it gets and into one that compresses anew, as kcat and Kafka's own consumer read it.
fn every_codec_is_read_by_others(version: &str) {
    let Some(kafka) = real_kafka::shared(version) else { return };
    let run = format!("codecs-{:016x}", fastrand::u64(..));
    for compression_type in Compression::ALL {
        for own in ["producer", "gzip"] {
            let topic = format!("{run}-{compression_type}-{own}");
            kafka.create_topic(&topic, 1, &[&format!("compression.type={own}")]);
            let bootstrap_servers = vec![kafka.bootstrap.clone()];
            let mut rig = Rig::with(KafkaOptions { bootstrap_servers, compression_type, ..KafkaOptions::default() });
            rig.open(&topic);
            // Small, of several blocks, and one that is not compressed because it would not be smaller.
            let rounds: [Vec<String>; 3] = [
                (0..50).map(|at| format!("{at} of some, {}", "and again".repeat(5))).collect(),
                (0..2_000).map(|at| format!("{{\"number\":{at},\"text\":\"{}\"}}", "ab".repeat(at % 100))).collect(),
                vec!["x".to_owned()],
            ];
            for texts in &rounds {
                let values: Vec<&str> = texts.iter().map(String::as_str).collect();
                let batch = rig.batch(&topic, 0, &values);
                rig.until_stored(&batch);
                let sent = if texts.len() == 1 { Compression::None } else { compression_type };
                assert_eq!(batch.records.sent().0, sent);
                // Dropped as a duplicate.
                rig.until_stored(&batch);
            }
            let written: Vec<String> = rounds.concat();
            let mut kcat = std::process::Command::new("kcat");
            kcat.args([
                "-C",
                "-b",
                &kafka.bootstrap,
                "-t",
                &topic,
                "-o",
                "beginning",
                "-e",
                "-q",
                "-X",
                "check.crcs=true",
            ]);
            let output = kcat.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let read: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
            assert!(read == written, "{topic} by kcat: {} records of {}", read.len(), written.len());
            if own == "producer" {
                let read = kafka.consume(&topic, written.len());
                assert!(read == written, "{topic} by Kafka's consumer: {} records of {}", read.len(), written.len());
            }
            assert!(rig.stop());
        }
    }
}

fn a_limit_counts_what_is_sent(version: &str) {
    let Some(kafka) = real_kafka::shared(version) else { return };
    let topic = format!("limit-{:016x}", fastrand::u64(..));
    kafka.create_topic(&topic, 1, &["max.message.bytes=20000"]);
    for compression_type in Compression::ALL {
        let bootstrap_servers = vec![kafka.bootstrap.clone()];
        let mut rig = Rig::with(KafkaOptions { bootstrap_servers, compression_type, ..KafkaOptions::default() });
        rig.open(&topic);
        let text = "only compressed it fits, ".repeat(4_000);
        let batch = rig.batch(&topic, 0, &[&text]);
        let expected = if compression_type == Compression::None { "rejected" } else { "stored" };
        assert_eq!(class(&rig.try_once(&batch)), expected, "{compression_type}: {:?}", rig.last_why);
        assert!(rig.stop());
    }
}

fn opens_stores_and_explains(version: &str) {
    let Some(kafka) = real_kafka::shared(version) else { return };
    let mut rig =
        Rig::with(KafkaOptions { bootstrap_servers: vec![kafka.bootstrap.clone()], ..KafkaOptions::default() });

    // A topic that appears while it is waited for.
    let topic = format!("producer-{:016x}", fastrand::u64(..));
    let why = rig.not_opened(&topic);
    assert_eq!(why.code, Some(3), "{why}");
    kafka.create_topic(&topic, 4, &[]);
    // It opens partition by partition.
    let partitions = loop {
        let partitions = rig.opened(&topic);
        if partitions.iter().all(|partition| partition.end_offset.is_some()) {
            break partitions;
        }
    };
    assert_eq!(
        partitions.iter().map(|p| (p.partition, p.end_offset.unwrap())).collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 0), (3, 0)]
    );

    // Offsets rise without gaps, merged or alone; a resend of the last batch is no second one.
    for round in 0..50 {
        let batches: Vec<_> = (0..4).map(|partition| rig.batch(&topic, partition, &["a", "b", "c"])).collect();
        for batch in &batches {
            rig.send(batch, if round % 7 == 0 { Manner::Alone } else { Manner::Merged });
        }
        for batch in &batches {
            assert_eq!(rig.outcome(batch), Outcome::Stored { offset: 3 * round });
        }
        if round % 10 == 0 {
            assert_eq!(rig.try_once(&batches[0]), Outcome::Stored { offset: 3 * round });
        }
    }
    assert_eq!(rig.open(&topic).iter().map(|p| p.end_offset).collect::<Vec<_>>(), [Some(150); 4]);

    // A gap in the sequences, a record that is too large, one that the topic does not take.
    rig.batch(&topic, 0, &["never sent"]);
    let batch = rig.batch(&topic, 0, &["after a gap"]);
    assert_eq!(class(&rig.try_once(&batch)), "out of sequence");
    let large = "x".repeat(1_100_000);
    let batch = rig.batch(&topic, 1, &[&large]);
    match rig.try_once(&batch) {
        Outcome::Rejected { why, records } => assert_eq!((why.code, records), (Some(10), Some(vec![0])), "{why}"),
        other => panic!("{other:?}"),
    }
    let compacted = format!("{topic}-compacted");
    kafka.create_topic(&compacted, 1, &["cleanup.policy=compact"]);
    rig.open(&compacted);
    let batch = rig.batch_without_keys(&compacted, 0, &["no key", "none either"]);
    match rig.try_once(&batch) {
        Outcome::Rejected { why, records } => assert_eq!((why.code, records), (Some(87), Some(vec![0, 1])), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(rig.stop());
}
