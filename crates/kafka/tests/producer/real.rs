//! The producer on a real Apache Kafka: that the fake one tells no tales.

use super::rig::{Rig, class};
use outboxd_kafka::outcome::{Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;

mod real_kafka_4_3_0 {
    #[test]
    fn producer_opens_stores_and_explains() {
        super::opens_stores_and_explains("4.3.0");
    }
}

mod real_kafka_3_9_1 {
    #[test]
    fn producer_opens_stores_and_explains() {
        super::opens_stores_and_explains("3.9.1");
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
