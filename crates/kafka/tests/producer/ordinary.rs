//! What happens when nothing goes wrong: bytes, triples, merging, bounds.

use super::rig::{PATIENCE, Rig, class, options, values};
use fake_kafka::{ApiKey, FakeKafka, Fault};
use outboxd_kafka::outcome::{Full, Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{SystemTime, UNIX_EPOCH};

#[test]
fn batches_arrive_whole_under_their_own_triples() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 4).start();
    let mut rig = Rig::start(&kafka);
    let partitions = rig.open("users");
    assert_eq!(
        partitions.iter().map(|p| (p.partition, p.end_offset.unwrap())).collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 0), (3, 0)]
    );
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for round in 0..5 {
        for partition in 0..4 {
            let rows = [format!("{round}a"), format!("{round}b")];
            let batch = rig.batch("users", partition, &[&rows[0], &rows[1]]);
            assert_eq!(rig.try_once(&batch), Outcome::Stored { offset: 2 * round });
        }
    }
    let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for partition in 0..4 {
        assert_eq!(values(&kafka, "users", partition), ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b"]);
        for (at, record) in kafka.records("users", partition).iter().enumerate() {
            assert_eq!((record.producer_id, record.producer_epoch, record.sequence), (rig.producer, 0, at as i32));
            assert_eq!(record.key.as_deref(), Some(&b"key"[..]));
            assert_eq!(record.header("id"), Some(&b"header"[..]));
            assert!((before..=after).contains(&record.timestamp), "stamped when sent");
        }
    }
    for request in kafka.requests_of(ApiKey::Produce) {
        assert_eq!((request.acks, request.timeout_ms), (Some(-1), Some(1_500)));
        assert_eq!(request.client_id.as_deref(), Some("outboxd"));
        let leader = request.partitions.iter().map(|(_, p)| p % 3 + 1).collect::<BTreeSet<_>>();
        assert_eq!(leader, BTreeSet::from([request.broker]), "every partition is written to its leader");
    }
    kafka.assert_no_complaints();
}

#[test]
fn lanes_are_dealt_to_senders_and_stay_there() {
    let kafka = FakeKafka::builder().topic("users", 4).start();
    let mut rig = Rig::with(KafkaOptions { senders_per_broker: 2, client_id: "mine".into(), ..options(&kafka) });
    rig.open("users");
    for _ in 0..3 {
        for partition in 0..4 {
            let batch = rig.batch("users", partition, &["x"]);
            assert_eq!(class(&rig.try_once(&batch)), "stored");
        }
    }
    let mut connections: BTreeMap<i32, BTreeSet<u64>> = BTreeMap::new();
    for request in kafka.requests_of(ApiKey::Produce) {
        assert_eq!(request.client_id.as_deref(), Some("mine"));
        connections.entry(request.partitions[0].1).or_default().insert(request.connection);
    }
    assert!(connections.values().all(|of_lane| of_lane.len() == 1), "{connections:?}");
    assert_eq!(connections.values().flatten().collect::<BTreeSet<_>>().len(), 2, "{connections:?}");
    // Alone: the third connection, and all of the time it is allowed.
    let batch = rig.batch("users", 0, &["alone"]);
    rig.send(&batch, Manner::Alone);
    assert_eq!(class(&rig.outcome(&batch)), "stored");
    let last = kafka.requests_of(ApiKey::Produce).pop().unwrap();
    assert!(connections.values().all(|of_lane| !of_lane.contains(&last.connection)));
    assert_eq!(last.timeout_ms, Some(30_000));
}

#[test]
fn what_waits_is_merged_and_matched_in_any_order() {
    let kafka = FakeKafka::builder().topic("users", 5).topic("orders", 2).start();
    let mut rig = Rig::with(KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    rig.open("users");
    rig.open("orders");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let first = rig.batch("users", 0, &["first"]);
    rig.send(&first, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    kafka.clear_requests();
    kafka.fault("users", 1, Fault::ShuffleAnswer);
    kafka.fault("users", 2, Fault::AnswerBefore(19));
    kafka.fault("orders", 1, Fault::AppendThenAnswer(7));
    let lanes = [("users", 1), ("orders", 0), ("users", 2), ("users", 3), ("orders", 1), ("users", 4)];
    let batches: Vec<_> = lanes.iter().map(|(topic, partition)| rig.batch(topic, *partition, &["x"])).collect();
    for batch in &batches {
        rig.send(batch, Manner::Merged);
    }
    gate.open();
    assert_eq!(class(&rig.outcome(&first)), "stored");
    let outcomes: Vec<_> = batches.iter().map(|batch| class(&rig.outcome(batch))).collect();
    assert_eq!(outcomes, ["stored", "stored", "not appended", "stored", "unsure", "stored"]);
    assert_eq!(kafka.requests_of(ApiKey::Produce).len(), 1, "one request for all that waited");
    kafka.assert_no_complaints();
}

#[test]
fn two_relays_share_a_partition_but_never_a_request() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    let mut other = rig.second_owner();
    assert_ne!(rig.producer, other.producer);
    rig.open("users");
    other.open("users");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let first = rig.batch("users", 0, &["first"]);
    rig.send(&first, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    let ours = rig.batch("users", 0, &["ours"]);
    let theirs = other.batch("users", 0, &["theirs"]);
    rig.send(&ours, Manner::Merged);
    other.send(&theirs, Manner::Merged);
    gate.open();
    assert_eq!(class(&rig.outcome(&ours)), "stored");
    assert_eq!(class(&other.outcome(&theirs)), "stored");
    assert_eq!(values(&kafka, "users", 0), ["first", "ours", "theirs"]);
    kafka.assert_no_complaints();
}

#[test]
fn the_channels_room_bounds_what_is_under_way() {
    let kafka = FakeKafka::builder().topic("users", 8).start();
    let mut rig = Rig::with_room(options(&kafka), 4);
    rig.open("users");
    let gate = kafka.gate();
    let batches: Vec<_> = (0..4).map(|partition| rig.batch("users", partition, &["x"])).collect();
    for partition in 0..4 {
        kafka.fault("users", partition, Fault::DelayUntil(gate.clone()));
    }
    for batch in &batches[..3] {
        rig.send(batch, Manner::Merged);
    }
    assert_eq!(rig.handle.send(batches[3].clone(), Manner::Merged), Err(Full));
    gate.open();
    for batch in &batches[..3] {
        assert_eq!(class(&rig.outcome(batch)), "stored");
    }
    assert_eq!(class(&rig.try_once(&batches[3])), "stored");
}

#[test]
fn a_batch_beyond_max_request_size_is_rejected_here() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { max_request_size: 100, ..options(&kafka) });
    rig.open("users");
    let long = "x".repeat(200);
    let batch = rig.batch("users", 0, &[&long]);
    match rig.try_once(&batch) {
        Outcome::Rejected { why, records } => {
            assert_eq!((why.code, records), (Some(10), Some(vec![0])));
            assert!(why.text.contains("max_request_size (100)"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(kafka.requests_of(ApiKey::Produce).len(), 0);
}
