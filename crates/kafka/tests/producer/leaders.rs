//! Partitions that change their leader, or have none.

use super::rig::{PATIENCE, Rig, class, options, values, wait_until};
use fake_kafka::{FakeKafka, Fault};
use outboxd_kafka::outcome::{Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;

#[test]
fn a_batch_follows_its_partition_to_another_leader() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for (round, leader) in [2, 3, 1, 2].into_iter().enumerate() {
        let batch = rig.batch("users", 0, &["x"]);
        assert_eq!(rig.until_stored(&batch), round as i64);
        kafka.move_leader("users", 0, leader);
    }
    kafka.stop(2);
    let batch = rig.batch("users", 0, &["last"]);
    assert_eq!(rig.until_stored(&batch), 4);
    assert_eq!(kafka.record_count("users"), 5);
}

#[test]
fn a_partition_without_leader_is_answered_at_once_and_named() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).elections(false).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    kafka.depose_leader("users", 0);
    let batch = rig.batch("users", 0, &["x"]);
    // The old leader says 6 first, which makes the metadata be asked for.
    let why = loop {
        match rig.try_once(&batch) {
            Outcome::NotAppended(why) if why.text.contains("without a leader") => break why,
            Outcome::Unsure(_) | Outcome::NotAppended(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(why.code, Some(5), "{why}");
    assert!(why.hint.contains("--describe --topic users"), "{why}");
    let healthy = rig.batch("users", 1, &["y"]);
    assert_eq!(class(&rig.try_once(&healthy)), "stored");
    kafka.move_leader("users", 0, 2);
    assert_eq!(rig.until_stored(&batch), 0);
}

#[test]
fn batches_that_wait_for_a_frozen_broker_come_back_when_another_leads() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    // Both timeouts are far longer than the test may take: only the news of another leader can end the waiting.
    let long = 10 * PATIENCE.as_millis() as u64;
    let mut rig = Rig::with(KafkaOptions {
        socket_connection_setup_timeout_ms: long,
        request_timeout_ms: long,
        ..options(&kafka)
    });
    rig.open("users");
    // Partition 1 is led by broker 2, and its senders have no connection yet.
    kafka.freeze(2);
    let batch = rig.batch("users", 1, &["first"]);
    rig.send(&batch, Manner::Merged);
    wait_until("the sender connects", || kafka.open_connections(2) > 0);
    assert!(rig.nothing_for(&batch));
    kafka.move_leader("users", 1, 1);
    match rig.outcome(&batch) {
        Outcome::NotAppended(why) => assert!(why.text.contains("does not lead the partition any more"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.until_stored(&batch), 0);
    kafka.thaw(2);
    assert_eq!(values(&kafka, "users", 1), ["first"]);
}

#[test]
fn a_batch_alone_on_a_frozen_broker_is_cut_off_when_another_leads() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    let long = 10 * PATIENCE.as_millis() as u64;
    let mut rig = Rig::with(KafkaOptions { request_timeout_ms: long, ..options(&kafka) });
    rig.open("users");
    let batch = rig.batch("users", 1, &["first"]);
    rig.send(&batch, Manner::Alone);
    assert_eq!(class(&rig.outcome(&batch)), "stored");
    let gate = kafka.gate();
    kafka.fault("users", 1, Fault::DelayUntil(gate.clone()));
    let batch = rig.batch("users", 1, &["second"]);
    rig.send(&batch, Manner::Alone);
    gate.wait_until_reached(1, PATIENCE);
    kafka.freeze(2);
    kafka.move_leader("users", 1, 1);
    assert_eq!(class(&rig.outcome(&batch)), "unsure");
    assert_eq!(rig.until_stored(&batch), 1);
    assert_eq!(values(&kafka, "users", 1), ["first", "second"]);
    gate.open();
}

#[test]
fn a_merged_request_is_held_by_its_slowest_partition_only_so_long() {
    let kafka = FakeKafka::builder().brokers(2).topic_replicated("users", 6, 2).start();
    let mut rig = Rig::with(KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    rig.open("users");
    kafka.hold_replication("users", 0);
    let gate = kafka.gate();
    kafka.fault("users", 4, Fault::DelayUntil(gate.clone()));
    let before = rig.batch("users", 4, &["before"]);
    rig.send(&before, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    let slow = rig.batch("users", 0, &["slow"]);
    let healthy = rig.batch("users", 2, &["healthy"]);
    rig.send(&slow, Manner::Merged);
    rig.send(&healthy, Manner::Merged);
    gate.open();
    assert_eq!(class(&rig.outcome(&before)), "stored");
    let merged = kafka.wait_for_requests(1, PATIENCE, |request| request.names("users", 0));
    assert!(merged[0].names("users", 2));
    match rig.outcome(&slow) {
        Outcome::Unsure(why) => assert_eq!(why.code, Some(7), "the broker's word, not our timeout: {why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(class(&rig.outcome(&healthy)), "stored");
    // In trouble it travels alone and waits long; the healthy lane does not wait for it.
    rig.send(&slow, Manner::Alone);
    kafka.wait_for_requests(1, PATIENCE, |request| request.timeout_ms == Some(30_000));
    for _ in 0..3 {
        let healthy = rig.batch("users", 2, &["healthy"]);
        assert_eq!(class(&rig.try_once(&healthy)), "stored");
    }
    assert!(rig.nothing_for(&slow));
    kafka.release_replication("users", 0);
    assert_eq!(rig.outcome(&slow), Outcome::Stored { offset: 0 });
    assert_eq!(kafka.record_count("users"), 6);
}
