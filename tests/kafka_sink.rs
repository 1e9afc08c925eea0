//! The Kafka sink against a broker that does every unpleasant thing on request: what each answer, fault and failure becomes for a relay.

mod kafka_sink_rig;

use fake_kafka::{Access, ApiKey, FakeKafka, Fault, Listener};
use kafka_sink_rig::{PATIENCE, Rig, class, options, wait_until};
use outboxd::model::{Outcome, SinkEvent};
use outboxd::ports::{Full, Manner, Sink};
use outboxd::sink::kafka::{KafkaOptions, KafkaSink};
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

fn values(kafka: &FakeKafka, topic: &str, partition: i32) -> Vec<String> {
    kafka
        .records(topic, partition)
        .into_iter()
        .map(|record| String::from_utf8(record.value.expect("no test sends null")).unwrap())
        .collect()
}

// ---- the ordinary way

#[test]
fn batches_arrive_whole_under_their_own_triples() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 4).start();
    let mut rig = Rig::start(&kafka);
    let partitions = rig.open("users");
    assert_eq!(
        partitions.iter().map(|p| (p.partition, p.end_offset)).collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 0), (3, 0)]
    );
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
    for round in 0..5 {
        for partition in 0..4 {
            let rows = [format!("{round}a"), format!("{round}b")];
            let plan = rig.plan("users", partition, &[&rows[0], &rows[1]]);
            assert_eq!(rig.try_once(&plan), Outcome::Stored { offset: 2 * round });
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
    let mut rig =
        Rig::with(&kafka, KafkaOptions { senders_per_broker: 2, client_id: "mine".into(), ..options(&kafka) });
    rig.open("users");
    for _ in 0..3 {
        for partition in 0..4 {
            let plan = rig.plan("users", partition, &["x"]);
            assert_eq!(class(&rig.try_once(&plan)), "stored");
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
    let plan = rig.plan("users", 0, &["alone"]);
    rig.send(&plan, Manner::Alone);
    assert_eq!(class(&rig.outcome(&plan)), "stored");
    let last = kafka.requests_of(ApiKey::Produce).pop().unwrap();
    assert!(connections.values().all(|of_lane| !of_lane.contains(&last.connection)));
    assert_eq!(last.timeout_ms, Some(30_000));
}

#[test]
fn what_waits_is_merged_and_matched_in_any_order() {
    let kafka = FakeKafka::builder().topic("users", 5).topic("orders", 2).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    rig.open("users");
    rig.open("orders");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let first = rig.plan("users", 0, &["first"]);
    rig.send(&first, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    kafka.clear_requests();
    kafka.fault("users", 1, Fault::ShuffleAnswer);
    kafka.fault("users", 2, Fault::AnswerBefore(19));
    kafka.fault("orders", 1, Fault::AppendThenAnswer(7));
    let lanes = [("users", 1), ("orders", 0), ("users", 2), ("users", 3), ("orders", 1), ("users", 4)];
    let plans: Vec<_> = lanes.iter().map(|(topic, partition)| rig.plan(topic, *partition, &["x"])).collect();
    for plan in &plans {
        rig.send(plan, Manner::Merged);
    }
    gate.open();
    assert_eq!(class(&rig.outcome(&first)), "stored");
    let outcomes: Vec<_> = plans.iter().map(|plan| class(&rig.outcome(plan))).collect();
    assert_eq!(outcomes, ["stored", "stored", "not appended", "stored", "unsure", "stored"]);
    assert_eq!(kafka.requests_of(ApiKey::Produce).len(), 1, "one request for all that waited");
    kafka.assert_no_complaints();
}

#[test]
fn two_relays_share_a_partition_but_never_a_request() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    let mut other = rig.second_relay();
    assert_ne!(rig.producer, other.producer);
    rig.open("users");
    other.open("users");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let first = rig.plan("users", 0, &["first"]);
    rig.send(&first, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    let ours = rig.plan("users", 0, &["ours"]);
    let theirs = other.plan("users", 0, &["theirs"]);
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
    let mut rig = Rig::with_channel(&kafka, options(&kafka), 4);
    rig.open("users");
    let gate = kafka.gate();
    let plans: Vec<_> = (0..4).map(|partition| rig.plan("users", partition, &["x"])).collect();
    for partition in 0..4 {
        kafka.fault("users", partition, Fault::DelayUntil(gate.clone()));
    }
    for plan in &plans[..3] {
        rig.send(plan, Manner::Merged);
    }
    assert_eq!(rig.handle.send(&plans[3], Manner::Merged), Err(Full));
    gate.open();
    for plan in &plans[..3] {
        assert_eq!(class(&rig.outcome(plan)), "stored");
    }
    assert_eq!(class(&rig.try_once(&plans[3])), "stored");
}

#[test]
fn a_batch_beyond_max_request_size_is_rejected_here() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { max_request_size: 100, ..options(&kafka) });
    rig.open("users");
    let long = "x".repeat(200);
    let plan = rig.plan("users", 0, &[&long]);
    match rig.try_once(&plan) {
        Outcome::Rejected { why, records } => {
            assert_eq!((why.code, records), (Some(10), Some(vec![0])));
            assert!(why.text.contains("max_request_size (100)"), "{why}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(kafka.requests_of(ApiKey::Produce).len(), 0);
}

// ---- what a broker says

#[test]
fn codes_before_the_append() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let mut count = 0;
    for (codes, expected) in [
        (&[19, 2, 5][..], "not appended"),
        (&[7, 20, 6, 3, 56, -1, 9, 1234], "unsure"),
        (&[10, 18], "rejected"),
        (&[32, 17, 29, 31, 33, 35, 58, 87], "refused"),
        (&[45, 47, 59], "out of sequence"),
    ] {
        for code in codes {
            kafka.fault("users", 0, Fault::AnswerBefore(*code));
            let plan = rig.plan("users", 0, &[&code.to_string()]);
            let outcome = rig.try_once(&plan);
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
                    assert!(why.text.starts_with("users-0: broker 1 at 127.0.0.1:"), "{why}");
                }
                Outcome::Stored { .. } => unreachable!(),
            }
            assert_eq!(rig.until_stored(&plan), count);
            count += 1;
        }
    }
    assert_eq!(kafka.record_count("users") as i64, count);
}

#[test]
fn codes_after_the_append_are_unsure_and_a_resend_is_no_second_record() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for (at, code) in [7, 20, 6, 3, 56, -1].into_iter().enumerate() {
        kafka.fault("users", 0, Fault::AppendThenAnswer(code));
        let plan = rig.plan("users", 0, &[&code.to_string()]);
        assert_eq!(class(&rig.try_once(&plan)), "unsure", "{code}");
        assert_eq!(rig.until_stored(&plan), at as i64);
    }
    assert_eq!(values(&kafka, "users", 0), ["7", "20", "6", "3", "56", "-1"]);
}

#[test]
fn rejected_records_are_named_when_the_broker_names_them() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    kafka.reject_records("users", |record| record.value.as_deref().is_some_and(|value| value.starts_with(b"bad")));
    let plan = rig.plan("users", 0, &["good", "bad 1", "good", "bad 2"]);
    match rig.try_once(&plan) {
        Outcome::Rejected { why, records } => assert_eq!((why.code, records), (Some(87), Some(vec![1, 3]))),
        other => panic!("{other:?}"),
    }
    kafka.accept_records("users");
    kafka.set_max_message_bytes("users", 50);
    match rig.try_once(&plan) {
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
    let plan = rig.plan("users", 0, &["x"]);
    match rig.try_once(&plan) {
        Outcome::Refused(why) => assert!(why.code == Some(32) && why.hint.contains("date -u"), "{why}"),
        other => panic!("{other:?}"),
    }
    // Each attempt carries the time of the attempt.
    kafka.set_clock_offset_ms(0);
    assert_eq!(rig.try_once(&plan), Outcome::Stored { offset: 0 });
}

#[test]
fn a_partition_missing_in_the_answer_is_unsure() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    kafka.fault("users", 0, Fault::OmitPartition);
    let plan = rig.plan("users", 0, &["x"]);
    assert_eq!(class(&rig.try_once(&plan)), "unsure");
    assert_eq!(rig.try_once(&plan), Outcome::Stored { offset: 0 });
    assert_eq!(kafka.record_count("users"), 1);
}

// ---- what a connection does

#[test]
fn a_connection_lost_after_the_last_byte_is_unsure_and_not_used_again() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { request_timeout_ms: 100, ..options(&kafka) });
    rig.open("users");
    let faults = [
        Fault::CloseBefore,
        Fault::AppendThenClose,
        Fault::CutAnswer,
        Fault::Garbage,
        Fault::HugeLength,
        Fault::WrongCorrelation,
        Fault::Leftovers,
        Fault::Hang,
        Fault::AppendThenHang,
    ];
    for (at, fault) in faults.into_iter().enumerate() {
        kafka.clear_requests();
        let name = format!("{fault:?}");
        kafka.fault("users", 0, fault);
        let plan = rig.plan("users", 0, &[&name]);
        assert_eq!(class(&rig.try_once(&plan)), "unsure", "{name}");
        assert_eq!(rig.until_stored(&plan), at as i64, "{name}");
        let connections: BTreeSet<u64> =
            kafka.requests_of(ApiKey::Produce).iter().map(|request| request.connection).collect();
        assert_eq!(connections.len(), 2, "{name}: the resend goes over a new connection");
    }
    assert_eq!(kafka.record_count("users"), 9);
}

#[test]
fn a_broker_that_is_down_appended_nothing_and_a_restart_goes_on() {
    let kafka = FakeKafka::builder().topic("users", 2).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let first = rig.plan("users", 0, &["first"]);
    assert_eq!(class(&rig.try_once(&first)), "stored");
    kafka.stop(1);
    let plan = rig.plan("users", 0, &["second"]);
    for _ in 0..3 {
        match rig.try_once(&plan) {
            Outcome::NotAppended(why) => {
                assert!(why.text.starts_with("users-0: "), "{why}");
                assert!(why.text.contains("refused") && why.text.contains(&kafka.bootstrap()), "{why}");
                assert!(!why.hint.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
    kafka.restart(1);
    assert_eq!(rig.until_stored(&plan), 1);
    assert_eq!(values(&kafka, "users", 0), ["first", "second"]);
}

#[test]
fn an_idle_connection_that_the_broker_closed_is_noticed_before_it_is_written_to() {
    let kafka = FakeKafka::builder().topic("users", 1).idle_close(Duration::from_millis(50)).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for round in 0..3 {
        let plan = rig.plan("users", 0, &["x"]);
        assert_eq!(rig.try_once(&plan), Outcome::Stored { offset: round });
        wait_until("the broker closes what is idle", || kafka.open_connections(1) == 0);
    }
}

#[test]
fn our_own_idle_connections_are_closed_and_opened_again() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { connections_max_idle_ms: 60, ..options(&kafka) });
    rig.open("users");
    for round in 0..3 {
        let plan = rig.plan("users", 0, &["x"]);
        assert_eq!(rig.try_once(&plan), Outcome::Stored { offset: round });
        wait_until("idle connections are closed", || kafka.open_connections(1) == 0);
    }
}

// ---- leaders

#[test]
fn a_batch_follows_its_partition_to_another_leader() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for (round, leader) in [2, 3, 1, 2].into_iter().enumerate() {
        let plan = rig.plan("users", 0, &["x"]);
        assert_eq!(rig.until_stored(&plan), round as i64);
        kafka.move_leader("users", 0, leader);
    }
    kafka.stop(2);
    let plan = rig.plan("users", 0, &["last"]);
    assert_eq!(rig.until_stored(&plan), 4);
    assert_eq!(kafka.record_count("users"), 5);
}

#[test]
fn a_partition_without_leader_is_answered_at_once_and_named() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).elections(false).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    kafka.depose_leader("users", 0);
    let plan = rig.plan("users", 0, &["x"]);
    // The old leader says 6 first, which makes the metadata be asked for.
    let why = loop {
        match rig.try_once(&plan) {
            Outcome::NotAppended(why) if why.text.contains("no leader") => break why,
            Outcome::Unsure(_) | Outcome::NotAppended(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert!(why.text.starts_with("users-0: ") && why.code == Some(5), "{why}");
    assert!(why.hint.contains("--describe --topic users"), "{why}");
    let healthy = rig.plan("users", 1, &["y"]);
    assert_eq!(class(&rig.try_once(&healthy)), "stored");
    kafka.move_leader("users", 0, 2);
    assert_eq!(rig.until_stored(&plan), 0);
}

#[test]
fn batches_that_wait_for_a_frozen_broker_come_back_when_another_leads() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { request_timeout_ms: 300, ..options(&kafka) });
    rig.open("users");
    // Partition 1 is led by broker 2.
    let first = rig.plan("users", 1, &["first"]);
    assert_eq!(class(&rig.try_once(&first)), "stored");
    kafka.freeze(2);
    let plan = rig.plan("users", 1, &["second"]);
    assert_eq!(class(&rig.try_once(&plan)), "unsure", "written, never answered");
    rig.send(&plan, Manner::Alone);
    kafka.move_leader("users", 1, 1);
    assert_eq!(class(&rig.outcome(&plan)), "not appended", "it was still waiting for a connection");
    assert_eq!(rig.until_stored(&plan), 1);
    kafka.thaw(2);
    assert_eq!(values(&kafka, "users", 1), ["first", "second"]);
}

#[test]
fn a_merged_request_is_held_by_its_slowest_partition_only_so_long() {
    let kafka = FakeKafka::builder().brokers(2).topic_replicated("users", 6, 2).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    rig.open("users");
    kafka.hold_replication("users", 0);
    let gate = kafka.gate();
    kafka.fault("users", 4, Fault::DelayUntil(gate.clone()));
    let before = rig.plan("users", 4, &["before"]);
    rig.send(&before, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    let slow = rig.plan("users", 0, &["slow"]);
    let healthy = rig.plan("users", 2, &["healthy"]);
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
        let healthy = rig.plan("users", 2, &["healthy"]);
        assert_eq!(class(&rig.try_once(&healthy)), "stored");
    }
    assert!(rig.nothing_for(&slow));
    kafka.release_replication("users", 0);
    assert_eq!(rig.outcome(&slow), Outcome::Stored { offset: 0 });
    assert_eq!(kafka.record_count("users"), 6);
}

// ---- drain, stop, throttle

#[test]
fn a_drain_gives_up_what_waits_for_a_connection_and_waits_for_what_was_written() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    let mut rig = Rig::start(&kafka);
    let mut other = rig.second_relay();
    rig.open("users");
    other.open("users");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let written = rig.plan("users", 0, &["written"]);
    rig.send(&written, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    // Broker 2 accepts connections and says nothing on them.
    kafka.freeze(2);
    let waiting: Vec<_> = (0..3).map(|_| rig.plan("users", 1, &["waiting"])).collect();
    for plan in &waiting {
        rig.send(plan, Manner::Alone);
    }
    let behind = rig.plan("users", 0, &["behind what was written"]);
    rig.send(&behind, Manner::Merged);
    let foreign = other.plan("users", 1, &["another relay's"]);
    other.send(&foreign, Manner::Alone);
    rig.handle.drain();
    for plan in waiting.iter().chain([&behind]) {
        match rig.outcome(plan) {
            Outcome::NotAppended(why) => assert!(why.text.contains("draining"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let late = rig.plan("users", 0, &["late"]);
    assert_eq!(class(&rig.try_once(&late)), "not appended", "nothing new is taken");
    assert!(rig.nothing_for(&written));
    gate.open();
    assert_eq!(class(&rig.outcome(&written)), "stored");
    assert!(other.nothing_for(&foreign), "one relay's drain is not another's");
    kafka.thaw(2);
    assert_eq!(class(&other.outcome(&foreign)), "stored");
    assert_eq!(kafka.record_count("users"), 2);
}

#[test]
fn a_drain_into_a_full_channel_does_not_block() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    let mut rig = Rig::with_channel(&kafka, options(&kafka), 4);
    rig.open("users");
    kafka.freeze(2);
    let plans: Vec<_> = (0..3).map(|_| rig.plan("users", 1, &["x"])).collect();
    for plan in &plans {
        rig.send(plan, Manner::Merged);
    }
    // Fill the channel with what is not an outcome.
    for _ in 0..4 {
        rig.handle.producer();
    }
    wait_until("the channel is full", || rig.events.is_full());
    rig.handle.drain();
    for plan in &plans {
        assert_eq!(class(&rig.outcome(plan)), "not appended");
    }
}

#[test]
fn a_stop_cuts_off_what_is_under_way() {
    let kafka = FakeKafka::builder().topic("users", 2).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    rig.open("users");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let under_way = rig.plan("users", 0, &["under way"]);
    rig.send(&under_way, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    let waiting = rig.plan("users", 1, &["waiting"]);
    rig.send(&waiting, Manner::Merged);
    assert!(rig.stop(), "all threads ended");
    assert_eq!(class(&rig.outcome(&under_way)), "unsure");
    assert_eq!(class(&rig.outcome(&waiting)), "not appended");
    gate.open();
}

#[test]
fn throttling_is_waited_out_and_a_drain_ends_the_wait() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let pause = Duration::from_millis(300);
    kafka.fault("users", 0, Fault::Throttle(pause));
    for text in ["throttled", "after it"] {
        let plan = rig.plan("users", 0, &[text]);
        assert_eq!(class(&rig.try_once(&plan)), "stored");
    }
    let arrived: Vec<Instant> = kafka.requests_of(ApiKey::Produce).iter().map(|request| request.arrived).collect();
    assert!(arrived[1] - arrived[0] >= pause, "{:?}", arrived[1] - arrived[0]);

    kafka.fault("users", 0, Fault::Throttle(Duration::from_secs(600)));
    let plan = rig.plan("users", 0, &["throttled for long"]);
    assert_eq!(class(&rig.try_once(&plan)), "stored");
    let waiting = rig.plan("users", 0, &["waiting"]);
    rig.send(&waiting, Manner::Merged);
    rig.handle.drain();
    assert_eq!(class(&rig.outcome(&waiting)), "not appended");
    assert!(rig.stop());
}

// ---- opening and producer ids

#[test]
fn the_first_producer_id_takes_two_tries_and_each_is_new() {
    let kafka = FakeKafka::builder().start();
    let mut rig = Rig::start(&kafka);
    assert_eq!(rig.unexpected, 0, "the 14 every broker begins with is not worth an event");
    let second = rig.producer_id();
    assert_ne!(second, rig.producer);
    kafka.fault_api(ApiKey::InitProducerId, Fault::AnswerBefore(31));
    rig.handle.producer();
    match rig.next() {
        SinkEvent::NoProducer { why } => assert!(why.code == Some(31) && why.hint.contains("IdempotentWrite"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(rig.next(), SinkEvent::Producer { id } if id != second));
}

#[test]
fn an_unknown_topic_is_opened_when_it_appears() {
    let kafka = FakeKafka::builder().start();
    let mut rig = Rig::start(&kafka);
    let why = rig.not_opened("users");
    assert!(why.code == Some(3) && why.text.contains("topic users does not exist"), "{why}");
    assert!(why.hint.contains("--create --topic users"), "{why}");
    let plan = rig.plan("users", 0, &["x"]);
    assert_eq!(class(&rig.try_once(&plan)), "not appended");
    kafka.create_topic("users", 3);
    assert_eq!(rig.opened("users").len(), 3);
    assert_eq!(rig.until_stored(&plan), 0);
    assert!(kafka.requests_of(ApiKey::Metadata).iter().all(|request| request.version == 7));
}

#[test]
fn what_keeps_a_topic_from_opening_is_said() {
    let kafka = FakeKafka::builder().brokers(2).topic("secret", 1).topic("users", 2).elections(false).start();
    kafka.deny("secret", Access::Describe);
    kafka.depose_leader("users", 1);
    let mut rig = Rig::start(&kafka);
    let why = rig.not_opened("secret");
    assert!(why.code == Some(29) && why.hint.contains("--operation Write --topic secret"), "{why}");
    let why = rig.not_opened("users");
    assert!(why.code == Some(5) && why.text.contains("partition 1 has no leader"), "{why}");
    let why = rig.not_opened("no such name");
    assert!(why.code == Some(17) && why.text.contains("' '"), "{why}");
    kafka.allow("secret", Access::Describe);
    kafka.move_leader("users", 1, 1);
    assert_eq!(rig.opened("secret").len(), 1);
    assert_eq!(rig.opened("users").len(), 2);
}

#[test]
fn ends_and_epochs_are_told_at_each_opening() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for _ in 0..3 {
        let plan = rig.plan("users", 0, &["x"]);
        assert_eq!(class(&rig.try_once(&plan)), "stored");
    }
    kafka.move_leader("users", 0, 2);
    let epoch = kafka.log_ends("users", 0).leader_epoch;
    let start = rig.open("users")[0];
    assert_eq!((start.end_offset, start.leader_epoch), (3, epoch));
    // Created anew: end and epoch went down, and that is believed.
    kafka.delete_topic("users");
    kafka.create_topic("users", 1);
    let start = rig.open("users")[0];
    assert_eq!((start.end_offset, start.leader_epoch), (0, kafka.log_ends("users", 0).leader_epoch));
    assert!(start.leader_epoch < epoch);
    let mut fresh = rig.second_relay();
    fresh.open("users");
    let plan = fresh.plan("users", 0, &["anew"]);
    assert_eq!(fresh.until_stored(&plan), 0);
}

#[test]
fn new_partitions_are_found_by_age_and_told_once() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(&kafka, KafkaOptions { metadata_max_age_ms: 50, ..options(&kafka) });
    rig.open("users");
    let plan = rig.plan("users", 0, &["x"]);
    assert_eq!(class(&rig.try_once(&plan)), "stored");
    kafka.add_partitions("users", 3);
    let opened = rig.opened("users");
    assert_eq!(opened.iter().map(|p| p.end_offset).collect::<Vec<_>>(), [1, 0, 0]);
    let asked = kafka.requests_of(ApiKey::Metadata).len();
    kafka.wait_for_requests(asked + 3, PATIENCE, |request| request.api == ApiKey::Metadata);
    assert!(rig.events.is_empty(), "no change, no event");
    let plan = rig.plan("users", 2, &["x"]);
    assert_eq!(class(&rig.try_once(&plan)), "stored");
}

// ---- servers that can't be used

#[test]
fn every_server_that_was_tried_is_named() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let servers = vec![free(), free(), "no-such-host.invalid:9092".to_owned()];
    let mut rig = Rig::unready(KafkaOptions { bootstrap_servers: servers.clone(), ..KafkaOptions::default() });
    rig.handle.producer();
    let why = rig.no_producer();
    for server in &servers {
        assert!(why.text.contains(server), "{why}");
    }
    assert!(why.text.contains("refused") && why.text.contains("resolve") && !why.hint.is_empty(), "{why}");
    let why = rig.not_opened("users");
    assert!(why.text.contains(&servers[0]), "{why}");
    let plan = rig.plan("users", 0, &["x"]);
    match rig.try_once(&plan) {
        Outcome::NotAppended(why) => assert!(why.text.contains(&servers[0]), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(rig.stop());
}

#[test]
fn what_is_not_a_plaintext_kafka_is_told_apart() {
    for (listener, word) in [
        (Listener::Http, "not Kafka"),
        (Listener::Tls { alert: true }, "TLS"),
        (Listener::Tls { alert: false }, "TLS"),
        (Listener::Sasl, "SASL"),
    ] {
        let kafka = FakeKafka::builder().topic("users", 1).listener(listener).start();
        let mut rig = Rig::unready(options(&kafka));
        let why = rig.not_opened("users");
        assert!(why.hint.contains(word), "{listener:?}: {why}");
        assert!(why.text.contains(&kafka.bootstrap()), "{why}");
        // A listener that is mended is taken up again.
        kafka.set_listener(1, Listener::Plaintext);
        assert_eq!(rig.opened("users").len(), 1);
    }
}

#[test]
fn a_second_server_serves_when_the_first_is_away() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut servers = kafka.bootstrap_servers();
    servers.insert(0, refusing);
    let mut rig = Rig::with(&kafka, KafkaOptions { bootstrap_servers: servers, ..options(&kafka) });
    assert_eq!(rig.open("users").len(), 1);
}

#[test]
fn bad_settings_are_refused_at_the_start() {
    let error = |options| KafkaSink::start(options).err().map(|error| error.to_string());
    assert_eq!(error(KafkaOptions::default()).as_deref(), Some("no bootstrap server is named"));
    let zero = KafkaOptions { bootstrap_servers: vec!["a:1".into()], senders_per_broker: 0, ..KafkaOptions::default() };
    assert_eq!(error(zero).as_deref(), Some("senders_per_broker must be at least 1"));
}
