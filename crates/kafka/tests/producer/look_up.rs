//! What became of a batch: the leader's memory, its log, and everything that keeps us from either.

use super::rig::{PATIENCE, Rig, class, options, wait_until};
use fake_kafka::{Access, ApiKey, FakeKafka, Fault};
use outboxd_kafka::outcome::{Batch, Event, Evidence, Manner, Records, Sought, Why};
use outboxd_kafka::producer::KafkaOptions;
use outboxd_kafka::record_batch::append_record;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The same batch with something about it changed.
pub fn but(batch: &Batch, change: impl FnOnce(&mut Batch)) -> Batch {
    let mut other = batch.clone();
    change(&mut other);
    other
}

pub fn noted(batch: &Batch, offset: i64) -> Batch {
    but(batch, |batch| batch.noted_offset = offset)
}

/// One partition, and a batch of two records that is stored at offset 0.
fn stored() -> (FakeKafka, Rig, Batch) {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let (rig, batch) = with_stored(&kafka);
    (kafka, rig, batch)
}

fn with_stored(kafka: &FakeKafka) -> (Rig, Batch) {
    let mut rig = Rig::start(kafka);
    rig.open("users");
    let batch = rig.batch("users", 0, &["a", "b"]);
    assert_eq!(rig.until_stored(&batch), 0);
    kafka.clear_requests();
    (rig, batch)
}

fn count(kafka: &FakeKafka, api: ApiKey) -> usize {
    kafka.requests_of(api).len()
}

pub fn incomplete(evidence: Evidence) -> Why {
    match evidence {
        Evidence::Incomplete(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_leader_remembers_the_last_batch_and_the_next_one() {
    let (kafka, mut rig, last) = stored();
    let next = rig.batch("users", 0, &["c"]);
    let after = rig.batch("users", 0, &["d"]);
    assert_eq!(rig.look_up(&last, Sought::Resend), Evidence::Remembered);
    assert_eq!(rig.look_up(&next, Sought::Resend), Evidence::Remembered);
    assert_eq!((count(&kafka, ApiKey::Fetch), count(&kafka, ApiKey::ListOffsets)), (0, 0), "its word is enough");
    // One that does not follow: the log says more.
    assert_eq!(rig.look_up(&after, Sought::Resend), Evidence::Absent);
    assert_eq!(count(&kafka, ApiKey::DescribeProducers), 3);

    // Its memory is no acknowledgement.
    assert_eq!(rig.look_up(&last, Sought::Stored), Evidence::StoredAt(0));
    assert_eq!(rig.look_up(&next, Sought::Stored), Evidence::Absent);
    assert_eq!(count(&kafka, ApiKey::DescribeProducers), 3);
    kafka.assert_no_complaints();
}

#[test]
fn sequences_wrap() {
    let kafka = FakeKafka::builder().topic("users", 3).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let at = |batch: &Batch, sequence| but(batch, |batch| batch.base_sequence = sequence);
    // From 2^31-1 to 0 inside a batch.
    let across = at(&rig.batch("users", 0, &["a", "b", "c", "d"]), i32::MAX - 1);
    assert_eq!(rig.until_stored(&across), 0);
    assert_eq!(rig.look_up(&across, Sought::Resend), Evidence::Remembered);
    assert_eq!(rig.look_up(&across, Sought::Stored), Evidence::StoredAt(0));
    let next = at(&rig.batch("users", 0, &["e"]), 2);
    assert_eq!(rig.look_up(&next, Sought::Resend), Evidence::Remembered);
    // Between two.
    let end = at(&rig.batch("users", 1, &["a"]), i32::MAX);
    assert_eq!(rig.until_stored(&end), 0);
    let around = at(&rig.batch("users", 1, &["b"]), 0);
    assert_eq!(rig.look_up(&around, Sought::Resend), Evidence::Remembered);
    // The first of all.
    let first = rig.batch("users", 2, &["a"]);
    assert_eq!(first.base_sequence, 0);
    assert_eq!(rig.look_up(&first, Sought::Resend), Evidence::Absent);
    // The first of its epoch: that the leader knows the epoch before is not taken for an answer, the log is.
    let bumped = but(&around, |batch| {
        batch.producer_epoch = 1;
        batch.noted_offset = 0;
    });
    assert_eq!(rig.look_up(&bumped, Sought::Resend), Evidence::Absent);
    assert_eq!(rig.until_stored(&bumped), 1);
    assert_eq!(rig.look_up(&bumped, Sought::Resend), Evidence::Remembered);
    kafka.assert_no_complaints();
}

#[test]
fn what_is_forgotten_is_found_in_the_log() {
    let (kafka, mut rig, batch) = stored();
    kafka.append_foreign("users", 0, b"someone else's");
    kafka.append_control_batch("users", 0);
    let second = rig.batch("users", 0, &["c"]);
    assert_eq!(rig.until_stored(&second), 4);
    kafka.open_transaction_from("users", 0, Some(1));
    kafka.forget_producer("users", 0, rig.producer);
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::StoredAt(0));
    assert_eq!(rig.look_up(&second, Sought::Resend), Evidence::StoredAt(4));
    assert_eq!(rig.look_up(&noted(&second, 3), Sought::Resend), Evidence::StoredAt(4));
    // Whatever differs is another batch.
    for other in [
        but(&second, |batch| batch.producer_id += 1),
        but(&second, |batch| batch.producer_epoch += 1),
        but(&second, |batch| batch.base_sequence += 1),
        but(&batch, |batch| batch.record_count = 1),
        noted(&batch, 2),
    ] {
        assert_eq!(rig.look_up(&other, Sought::Resend), Evidence::Absent, "{other:?}");
    }
    kafka.assert_no_complaints();
}

#[test]
fn a_broker_without_memory_is_read_back() {
    let kafka = FakeKafka::builder().topic("users", 1).without_api(ApiKey::DescribeProducers).start();
    let (mut rig, batch) = with_stored(&kafka);
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::StoredAt(0));
    let next = rig.batch("users", 0, &["c"]);
    assert_eq!(rig.look_up(&next, Sought::Resend), Evidence::Absent);
    kafka.assert_no_complaints();
}

#[test]
fn nothing_new_needs_no_reading() {
    let (kafka, mut rig, _) = stored();
    let next = noted(&rig.batch("users", 0, &["c"]), 2);
    kafka.deny("users", Access::Read);
    assert_eq!(rig.look_up(&next, Sought::Stored), Evidence::Absent);
    assert_eq!(count(&kafka, ApiKey::Fetch), 0);
}

#[test]
fn a_range_whose_start_is_gone_is_incomplete_unless_the_batch_is_in_the_rest() {
    let (kafka, mut rig, first) = stored();
    let second = rig.batch("users", 0, &["c", "d"]);
    let third = rig.batch("users", 0, &["e"]);
    assert_eq!((rig.until_stored(&second), rig.until_stored(&third)), (2, 4));
    kafka.delete_records_before("users", 0, 2);
    let why = incomplete(rig.look_up(&first, Sought::Stored));
    assert!(why.text.contains("the log starts at offset 2 by now"), "{why}");
    assert_eq!(rig.look_up(&second, Sought::Stored), Evidence::StoredAt(2));
    // All of it.
    kafka.delete_records_before("users", 0, 5);
    assert!(matches!(rig.look_up(&second, Sought::Stored), Evidence::Incomplete(_)));
    // What is remembered needs no log.
    assert_eq!(rig.look_up(&third, Sought::Resend), Evidence::Remembered);
    // Bounds at or above the start are whole.
    let fourth = noted(&rig.batch("users", 0, &["f"]), 5);
    assert_eq!(rig.look_up(&fourth, Sought::Stored), Evidence::Absent);
    kafka.assert_no_complaints();
}

#[test]
fn retention_while_we_read() {
    let (kafka, mut rig, batch) = stored();
    let gate = kafka.gate();
    kafka.fault_partition(ApiKey::Fetch, "users", 0, Fault::DelayUntil(gate.clone()));
    rig.handle.look_up(batch.clone(), Sought::Stored);
    gate.wait_until_reached(1, PATIENCE);
    kafka.append_foreign("users", 0, b"later");
    kafka.delete_records_before("users", 0, 2);
    gate.open();
    assert!(incomplete(rig.evidence(&batch)).text.contains("starts at offset 2"));
}

#[test]
fn a_log_that_ends_below_the_bound_was_cut_or_is_another() {
    let (_kafka, mut rig, _) = stored();
    let batch = noted(&rig.batch("users", 0, &["c"]), 7);
    let why = incomplete(rig.look_up(&batch, Sought::Stored));
    assert!(why.text.contains("ends at offset 2") && why.text.contains("at 7 or after"), "{why}");
}

/// Without leader epochs a leader that was deposed answers as if it still led.
#[test]
fn what_a_log_lacks_proves_nothing_without_leader_epochs() {
    for (api, min, max) in [(ApiKey::Metadata, 0, 5), (ApiKey::ListOffsets, 1, 3), (ApiKey::Fetch, 4, 6)] {
        let kafka = FakeKafka::builder()
            .topic("users", 1)
            .api_versions(api, min, max)
            .without_api(ApiKey::DescribeProducers)
            .start();
        let mut rig = Rig::start(&kafka);
        rig.open("users");
        let first = rig.batch("users", 0, &["a", "b"]);
        assert_eq!(rig.until_stored(&first), 0);
        assert_eq!(rig.look_up(&first, Sought::Resend), Evidence::StoredAt(0), "{api:?}");
        let second = rig.batch("users", 0, &["c"]);
        for noted_offset in [0, 2] {
            let why = incomplete(rig.look_up(&noted(&second, noted_offset), Sought::Resend));
            assert!(why.text.contains("no leader epochs"), "{api:?}: {why}");
        }
        assert_eq!(rig.until_stored(&second), 2);
        kafka.assert_no_complaints();
    }
}

#[test]
fn compaction_leaves_a_hole_and_a_hole_proves_nothing() {
    let (kafka, mut rig, first) = stored();
    let second = rig.batch("users", 0, &["c", "d"]);
    let third = rig.batch("users", 0, &["e"]);
    assert_eq!((rig.until_stored(&second), rig.until_stored(&third)), (2, 4));
    assert!(kafka.compact_away("users", 0, 2));
    let why = incomplete(rig.look_up(&second, Sought::Stored));
    assert!(why.text.contains("offsets 2 to 3 are gone"), "{why}");
    assert_eq!(rig.look_up(&first, Sought::Stored), Evidence::StoredAt(0));
    assert_eq!(rig.look_up(&third, Sought::Stored), Evidence::StoredAt(4));
    // A hole below the bound is none of ours.
    let fourth = rig.batch("users", 0, &["f"]);
    assert_eq!(rig.look_up(&noted(&fourth, 4), Sought::Stored), Evidence::Absent);
    assert!(matches!(rig.look_up(&noted(&fourth, 3), Sought::Stored), Evidence::Incomplete(_)));
    // At the very end of the log nothing follows that would show the hole.
    assert!(kafka.compact_away("users", 0, 4));
    let why = incomplete(rig.look_up(&noted(&fourth, 4), Sought::Stored));
    assert!(why.text.contains("serves nothing from offset 4 on"), "{why}");
    kafka.assert_no_complaints();
}

#[test]
fn a_topic_created_anew_shows_by_its_leader_epoch() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 1).start();
    kafka.move_leader("users", 0, 2);
    let mut rig = Rig::start(&kafka);
    let epoch = rig.open("users")[0].leader_epoch;
    let batch = rig.batch("users", 0, &["a"]);
    let batch = but(&batch, |batch| batch.leader_epoch = epoch);
    assert_eq!(rig.until_stored(&batch), 0);
    assert_eq!(rig.look_up(&batch, Sought::Stored), Evidence::StoredAt(0));
    kafka.delete_topic("users");
    kafka.create_topic("users", 1);
    kafka.append_foreign("users", 0, b"new");
    let begun = Instant::now();
    let why = incomplete(rig.look_up(&batch, Sought::Stored));
    assert!(why.text.contains("created anew"), "{why}");
    assert!(begun.elapsed() >= Duration::from_millis(500), "not believed at the first word");
    assert!(rig.no_evidence(&batch).text.contains("older leader epoch"));
    assert!(matches!(rig.look_up(&batch, Sought::Resend), Evidence::Incomplete(_)));
    // Once it is in the new log, that log's leader remembers it.
    assert_eq!(rig.until_stored(&batch), 1);
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::Remembered);
    kafka.assert_no_complaints();
}

#[test]
fn what_we_may_not_read_is_forbidden() {
    let (kafka, mut rig, batch) = stored();
    kafka.deny("users", Access::Read);
    for sought in [Sought::Resend, Sought::Stored] {
        match rig.look_up(&batch, sought) {
            Evidence::Forbidden(why) => {
                assert!(why.code == Some(29) && why.hint.contains("--operation Read --topic users"), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(count(&kafka, ApiKey::DescribeProducers), 1);
    // Refused by one, allowed by the other.
    kafka.allow("users", Access::Read);
    kafka.fault_partition(ApiKey::DescribeProducers, "users", 0, Fault::AnswerBefore(29));
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::StoredAt(0));
    kafka.deny("users", Access::Describe);
    match rig.look_up(&batch, Sought::Resend) {
        Evidence::Forbidden(why) => assert!(why.code == Some(29) && why.text.contains("may not see it"), "{why}"),
        other => panic!("{other:?}"),
    }
    kafka.assert_no_complaints();
}

#[test]
fn a_partition_is_gone_when_that_is_said_twice() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 1).start();
    let (mut rig, batch) = with_stored(&kafka);
    let gone = |evidence| match evidence {
        Evidence::PartitionGone(why) => why,
        other => panic!("{other:?}"),
    };
    // Said once, as while a topic is being created.
    kafka.fault_partition(ApiKey::Metadata, "users", -1, Fault::AnswerBefore(3));
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::Remembered);
    assert_eq!(rig.no_evidence(&batch).code, Some(3));

    let beyond = but(&batch, |batch| batch.partition = 1);
    let why = gone(rig.look_up(&beyond, Sought::Resend));
    assert!(why.code == Some(3) && why.text.contains("topic users has 1 partitions"), "{why}");
    kafka.delete_topic("users");
    let begun = Instant::now();
    let why = gone(rig.look_up(&batch, Sought::Stored));
    assert!(why.code == Some(3) && why.text.contains("topic users does not exist"), "{why}");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    let asked: std::collections::BTreeSet<i32> =
        kafka.requests_of(ApiKey::Metadata).iter().rev().take(2).map(|request| request.broker).collect();
    assert_eq!(asked.len(), 2, "the second word is another broker's");
    kafka.assert_no_complaints();
}

#[test]
fn a_topic_that_nobody_opened_is_looked_up_and_not_followed_afterwards() {
    let (kafka, mut rig, batch) = stored();
    let mut other = Rig::with(KafkaOptions { metadata_max_age_ms: 20, ..options(&kafka) });
    assert_eq!(other.look_up(&batch, Sought::Resend), Evidence::Remembered);
    kafka.create_topic("orders", 1);
    other.open("orders");
    kafka.clear_requests();
    let about_orders = kafka.wait_for_requests(3, PATIENCE, |request| request.names("orders", -1));
    assert!(!about_orders.last().unwrap().names("users", -1));
    assert!(rig.so_far().is_empty());
}

#[test]
fn weather_is_told_and_tried_on() {
    let (kafka, mut rig, batch) = stored();
    let codes = [3, 5, 6, 7, 8, 9, 13, 56, 74, 75, 78, 89];
    for code in codes {
        for (api, sought, expected) in [
            (ApiKey::DescribeProducers, Sought::Resend, Evidence::Remembered),
            (ApiKey::ListOffsets, Sought::Stored, Evidence::StoredAt(0)),
            (ApiKey::Fetch, Sought::Stored, Evidence::StoredAt(0)),
        ] {
            kafka.fault_partition(api, "users", 0, Fault::AnswerBefore(code));
            assert_eq!(rig.look_up(&batch, sought), expected, "{api:?} {code}");
            let why = rig.no_evidence(&batch);
            assert_eq!(why.code, Some(code), "{why}");
            assert!(why.text.starts_with("leader 1 at 127.0.0.1:"), "{why}");
        }
    }
    assert_eq!(kafka.pending_faults(), 0);
    kafka.assert_no_complaints();
}

#[test]
fn lost_connections_are_weather() {
    let (kafka, mut rig, batch) = stored();
    for (api, sought, expected) in [
        (ApiKey::DescribeProducers, Sought::Resend, Evidence::Remembered),
        (ApiKey::ListOffsets, Sought::Stored, Evidence::StoredAt(0)),
        (ApiKey::Fetch, Sought::Stored, Evidence::StoredAt(0)),
    ] {
        for fault in [Fault::CloseBefore, Fault::CutAnswer, Fault::WrongCorrelation] {
            kafka.fault_partition(api, "users", 0, fault.clone());
            assert_eq!(rig.look_up(&batch, sought), expected, "{api:?} {fault:?}");
            assert!(rig.no_evidence(&batch).text.contains(&format!("no answer to {api:?}")));
        }
    }
    kafka.assert_no_complaints();
}

#[test]
fn a_silent_leader_is_weather() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { request_timeout_ms: 100, ..options(&kafka) });
    rig.open("users");
    let batch = rig.batch("users", 0, &["a"]);
    assert_eq!(rig.until_stored(&batch), 0);
    for (api, sought, expected) in [
        (ApiKey::DescribeProducers, Sought::Resend, Evidence::Remembered),
        (ApiKey::ListOffsets, Sought::Stored, Evidence::StoredAt(0)),
        (ApiKey::Fetch, Sought::Stored, Evidence::StoredAt(0)),
    ] {
        kafka.fault_partition(api, "users", 0, Fault::Hang);
        assert_eq!(rig.look_up(&batch, sought), expected, "{api:?}");
        assert!(rig.no_evidence(&batch).text.contains("no answer to"));
    }
}

#[test]
fn answers_that_cannot_be_read_are_borne_with_for_a_while() {
    let (kafka, mut rig, batch) = stored();
    for (api, sought, expected) in [
        (ApiKey::DescribeProducers, Sought::Resend, Evidence::Remembered),
        (ApiKey::ListOffsets, Sought::Stored, Evidence::StoredAt(0)),
        (ApiKey::Fetch, Sought::Stored, Evidence::StoredAt(0)),
    ] {
        for fault in [Fault::Garbage, Fault::HugeLength, Fault::Leftovers] {
            kafka.fault_partition(api, "users", 0, fault.clone());
            assert_eq!(rig.look_up(&batch, sought), expected, "{api:?} {fault:?}");
        }
    }
    let always = |api, fault: &Fault| {
        for _ in 0..5 {
            kafka.fault_partition(api, "users", 0, fault.clone());
        }
    };
    // The leader's memory is a help, no more.
    always(ApiKey::DescribeProducers, &Fault::HugeLength);
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::StoredAt(0));
    for fault in [Fault::HugeLength, Fault::Garbage, Fault::AnswerBefore(-1), Fault::AnswerBefore(2)] {
        always(ApiKey::Fetch, &fault);
        let why = incomplete(rig.look_up(&batch, Sought::Stored));
        assert!(!why.text.contains("users-0"), "{why}");
        assert_eq!(kafka.pending_faults(), 0, "{fault:?}");
    }
    // A code about the memory alone that says nothing: the log is asked at once.
    kafka.fault_partition(ApiKey::DescribeProducers, "users", 0, Fault::AnswerBefore(-1));
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::StoredAt(0));
    kafka.assert_no_complaints();
}

#[test]
fn a_broker_that_is_away_is_waited_for() {
    let (kafka, mut rig, batch) = stored();
    kafka.stop(1);
    rig.handle.look_up(batch.clone(), Sought::Resend);
    let why = rig.no_evidence(&batch);
    assert!(why.text.contains("refused") && why.text.contains(&kafka.bootstrap()) && !why.hint.is_empty(), "{why}");
    assert_eq!(rig.no_evidence(&batch).text, why.text, "a failure that goes on has one text");
    kafka.restart(1);
    assert_eq!(rig.evidence(&batch), Evidence::Remembered);
}

#[test]
fn a_partition_without_leader_is_waited_for() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 1).elections(false).start();
    let (mut rig, batch) = with_stored(&kafka);
    kafka.depose_leader("users", 0);
    rig.handle.look_up(batch.clone(), Sought::Stored);
    let why = rig.no_evidence(&batch);
    assert!(why.code == Some(5) && why.text.contains("no leader"), "{why}");
    kafka.move_leader("users", 0, 2);
    assert_eq!(rig.evidence(&batch), Evidence::StoredAt(0));
}

#[test]
fn a_frozen_leader_is_given_up_when_another_leads() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 1).start();
    // Far longer than the test may take: only the news of another leader can end the waiting.
    let long = 10 * PATIENCE.as_millis() as u64;
    for opened in [true, false] {
        let mut rig = Rig::with(KafkaOptions { request_timeout_ms: long, ..options(&kafka) });
        let batch = rig.batch("users", 0, &["a", "b"]);
        rig.open("users");
        let at = rig.until_stored(&batch);
        if !opened {
            rig = Rig::with(KafkaOptions { request_timeout_ms: long, ..options(&kafka) });
        }
        let leader = kafka.leader("users", 0).unwrap();
        let gate = kafka.gate();
        kafka.fault_partition(ApiKey::Fetch, "users", 0, Fault::DelayUntil(gate.clone()));
        rig.handle.look_up(batch.clone(), Sought::Stored);
        gate.wait_until_reached(1, PATIENCE);
        kafka.freeze(leader);
        kafka.move_leader("users", 0, leader % 3 + 1);
        assert_eq!(rig.evidence(&batch), Evidence::StoredAt(at), "{opened}");
        gate.open();
        kafka.thaw(leader);
    }
    kafka.assert_no_complaints();
}

#[test]
fn a_new_leaders_log_is_read_from_the_bound_on() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { request_timeout_ms: 200, ..options(&kafka) });
    rig.open("users");
    // 1.5 MB that all have, then our batch that only the leader has.
    kafka.set_max_message_bytes("users", 4_000_000);
    for _ in 0..3 {
        kafka.append_foreign("users", 0, &vec![b'x'; 500_000]);
    }
    kafka.hold_replication("users", 0);
    let batch = rig.batch("users", 0, &["a"]);
    assert_eq!(class(&rig.try_once(&batch)), "unsure");
    let second = kafka.gate();
    kafka.fault_partition(ApiKey::Fetch, "users", 0, Fault::Pass);
    kafka.fault_partition(ApiKey::Fetch, "users", 0, Fault::DelayUntil(second.clone()));
    rig.handle.look_up(batch.clone(), Sought::Stored);
    second.wait_until_reached(1, PATIENCE);
    kafka.move_leader("users", 0, 2);
    kafka.release_replication("users", 0);
    second.open();
    // The tail was lost with its leader.
    assert_eq!(rig.evidence(&batch), Evidence::Absent);
    assert_eq!(rig.until_stored(&batch), 3);
}

#[test]
fn what_is_not_on_all_replicas_is_neither_stored_nor_absent() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { request_timeout_ms: 200, ..options(&kafka) });
    rig.open("users");
    let first = rig.batch("users", 0, &["a"]);
    assert_eq!(rig.until_stored(&first), 0);
    kafka.hold_replication("users", 0);
    let batch = rig.batch("users", 0, &["b"]);
    assert_eq!(class(&rig.try_once(&batch)), "unsure");
    // The leader remembers it from its log's end: the batch sent again is no second one, but that is no acknowledgement.
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::Remembered);
    rig.handle.look_up(batch.clone(), Sought::Stored);
    let other = but(&batch, |batch| {
        batch.producer_id += 1;
        batch.id.0 += 100;
    });
    rig.handle.look_up(other.clone(), Sought::Resend);
    for batch in [&batch, &other] {
        let why = rig.no_evidence(batch);
        assert!(why.text.contains("not on all in-sync replicas yet"), "{why}");
        assert_eq!(rig.no_evidence(batch), why);
    }
    kafka.release_replication("users", 0);
    assert_eq!(rig.evidence(&batch), Evidence::StoredAt(1));
    assert_eq!(rig.evidence(&other), Evidence::Absent);
    kafka.assert_no_complaints();
}

#[test]
fn later_appends_are_not_waited_for() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 1).start();
    let (mut rig, _) = with_stored(&kafka);
    let batch = rig.batch("users", 0, &["never sent"]);
    let gate = kafka.gate();
    kafka.fault_partition(ApiKey::Fetch, "users", 0, Fault::DelayUntil(gate.clone()));
    rig.handle.look_up(batch.clone(), Sought::Stored);
    gate.wait_until_reached(1, PATIENCE);
    kafka.hold_replication("users", 0);
    kafka.append_foreign("users", 0, b"after the question");
    gate.open();
    assert_eq!(rig.evidence(&batch), Evidence::Absent);
}

#[test]
fn large_batches_and_cut_ones_are_passed() {
    let kafka = FakeKafka::builder().topic("users", 2).start();
    kafka.set_max_message_bytes("users", 30_000_000);
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    // Three in one answer with the fourth cut; then each by itself, larger than an answer is asked to be, and than a connection
    // ordinarily takes.
    for bytes in [300_000, 300_000, 300_000, 300_000, 3_000_000, 20_000_000] {
        kafka.append_foreign("users", 0, &vec![b'x'; bytes]);
    }
    let large = "y".repeat(3_000_000);
    let batch = rig.batch("users", 0, &[&large]);
    assert_eq!(rig.until_stored(&batch), 6);
    let absent = rig.batch("users", 0, &["never sent"]);
    kafka.clear_requests();
    assert_eq!(rig.look_up(&batch, Sought::Stored), Evidence::StoredAt(6));
    assert_eq!(count(&kafka, ApiKey::Fetch), 5, "3 + cut, 1 + cut, and three alone");
    assert_eq!(rig.look_up(&absent, Sought::Stored), Evidence::Absent);

    // Together with others, where its share is less than a batch.
    kafka.append_foreign("users", 1, &vec![b'x'; 900_000]);
    let elsewhere = rig.batch("users", 1, &["z"]);
    assert_eq!(rig.until_stored(&elsewhere), 1);
    let gate = kafka.gate();
    kafka.fault_api(ApiKey::ListOffsets, Fault::DelayUntil(gate.clone()));
    let ask = [but(&batch, |batch| batch.id.0 = 1_000), but(&absent, |batch| batch.id.0 = 1_001), elsewhere];
    for batch in &ask {
        rig.handle.look_up(batch.clone(), Sought::Stored);
    }
    gate.wait_until_reached(1, PATIENCE);
    gate.open();
    assert_eq!(rig.evidence(&ask[0]), Evidence::StoredAt(6));
    assert_eq!(rig.evidence(&ask[1]), Evidence::Absent);
    assert_eq!(rig.evidence(&ask[2]), Evidence::StoredAt(1));
    assert_eq!(rig.so_far(), [], "and no weather");
    kafka.assert_no_complaints();
}

#[test]
fn a_batch_that_is_larger_than_anything_we_take_makes_the_log_unreadable() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    kafka.set_max_message_bytes("users", 30_000_000);
    let mut rig = Rig::with(KafkaOptions { max_request_size: 1_000_000, ..options(&kafka) });
    rig.open("users");
    kafka.append_foreign("users", 0, &vec![b'x'; 17_000_000]);
    let batch = rig.batch("users", 0, &["a"]);
    assert_eq!(rig.until_stored(&batch), 1);
    let why = incomplete(rig.look_up(&batch, Sought::Stored));
    assert!(why.text.contains("at most"), "{why}");
    assert_eq!(rig.look_up(&noted(&batch, 1), Sought::Stored), Evidence::StoredAt(1));
}

#[test]
fn many_are_asked_about_in_few_requests_and_nobody_waits_for_the_reading() {
    const PARTITIONS: usize = 150;
    let kafka = FakeKafka::builder().topic("users", PARTITIONS as i32).start();
    let mut rig = Rig::with_room(options(&kafka), 4 * PARTITIONS);
    rig.open("users");
    let mut batches = Vec::new();
    for partition in 0..PARTITIONS as i32 {
        let batch = rig.batch("users", partition, &["a"]);
        rig.send(&batch, Manner::Merged);
        batches.push(batch);
    }
    for batch in &batches {
        assert_eq!(class(&rig.outcome(batch)), "stored");
    }
    kafka.clear_requests();
    for batch in &batches {
        rig.handle.look_up(batch.clone(), Sought::Resend);
    }
    for batch in &batches {
        assert_eq!(rig.evidence(batch), Evidence::Remembered);
    }
    assert!(count(&kafka, ApiKey::DescribeProducers) <= 10, "{}", count(&kafka, ApiKey::DescribeProducers));

    for batch in &batches {
        kafka.forget_producer("users", batch.partition, rig.producer);
    }
    let gate = kafka.gate();
    kafka.fault_api(ApiKey::Fetch, Fault::DelayUntil(gate.clone()));
    kafka.clear_requests();
    // Twice, so that one partition is asked about by two.
    let again: Vec<_> = batches.iter().map(|batch| but(batch, |batch| batch.id.0 += 10_000)).collect();
    for (batch, again) in batches.iter().zip(&again) {
        rig.handle.look_up(batch.clone(), Sought::Resend);
        rig.handle.look_up(again.clone(), Sought::Resend);
    }
    gate.wait_until_reached(1, PATIENCE);
    // A log is being read, and producer ids and topics are there at once.
    rig.producer_id();
    kafka.create_topic("orders", 1);
    rig.open("orders");
    gate.open();
    for batch in batches.iter().chain(&again) {
        assert_eq!(rig.evidence(batch), Evidence::StoredAt(0));
    }
    for api in [ApiKey::DescribeProducers, ApiKey::ListOffsets, ApiKey::Fetch] {
        assert!(count(&kafka, api) <= 40, "{api:?}: {}", count(&kafka, api));
    }
    kafka.assert_no_complaints();
}

#[test]
fn a_slow_broker_holds_up_its_own_questions_only() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    let (mut rig, on_first) = with_stored(&kafka);
    let on_second = rig.batch("users", 1, &["a"]);
    assert_eq!(rig.until_stored(&on_second), 0);
    let gate = kafka.gate();
    kafka.fault_broker(2, ApiKey::DescribeProducers, Fault::DelayUntil(gate.clone()));
    rig.handle.look_up(on_second.clone(), Sought::Resend);
    gate.wait_until_reached(1, PATIENCE);
    assert_eq!(rig.look_up(&on_first, Sought::Resend), Evidence::Remembered);
    gate.open();
    assert_eq!(rig.evidence(&on_second), Evidence::Remembered);
}

#[test]
fn throttling_is_waited_out() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    // A broker that throttles does not read: whoever asks on would wait in vain for longer than this.
    let mut rig = Rig::with(KafkaOptions { request_timeout_ms: 1_000, ..options(&kafka) });
    rig.open("users");
    let batch = rig.batch("users", 0, &["a"]);
    assert_eq!(rig.until_stored(&batch), 0);
    let pause = Duration::from_secs(3);
    kafka.fault_partition(ApiKey::DescribeProducers, "users", 0, Fault::Throttle(pause));
    kafka.forget_producer("users", 0, rig.producer);
    let begun = Instant::now();
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::StoredAt(0));
    assert!(begun.elapsed() >= pause);
    assert_eq!(rig.so_far(), [], "no failure, a pause");
}

#[test]
fn a_full_channel_loses_no_evidence() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with_room(options(&kafka), 4);
    rig.open("users");
    let batches: Vec<_> = (0..20).map(|_| rig.batch("users", 0, &["never sent"])).collect();
    for batch in &batches {
        rig.handle.look_up(batch.clone(), Sought::Stored);
    }
    wait_until("the channel is full", || rig.events.is_full());
    for batch in &batches {
        assert_eq!(rig.evidence(batch), Evidence::Absent);
    }
    assert_eq!(rig.so_far(), []);
}

#[test]
fn nothing_is_answered_after_a_drain_and_others_are() {
    let (kafka, mut rig, batch) = stored();
    let mut other = rig.second_owner();
    let gate = kafka.gate();
    kafka.fault_api(ApiKey::ListOffsets, Fault::DelayUntil(gate.clone()));
    rig.handle.look_up(batch.clone(), Sought::Stored);
    gate.wait_until_reached(1, PATIENCE);
    rig.handle.drain();
    gate.open();
    assert_eq!(other.look_up(&batch, Sought::Stored), Evidence::StoredAt(0));
    rig.handle.look_up(batch.clone(), Sought::Stored);
    assert_eq!(other.look_up(&batch, Sought::Resend), Evidence::Remembered);
    assert!(rig.stop());
    assert_eq!(rig.so_far(), []);
}

#[test]
fn a_stop_cuts_off_every_question() {
    for api in [ApiKey::DescribeProducers, ApiKey::ListOffsets, ApiKey::Fetch] {
        let (kafka, mut rig, batch) = stored();
        let sought = if api == ApiKey::DescribeProducers { Sought::Resend } else { Sought::Stored };
        kafka.fault_api(api, Fault::Hang);
        rig.handle.look_up(batch.clone(), sought);
        kafka.wait_for_requests(1, PATIENCE, |request| request.api == api);
        assert!(rig.stop(), "{api:?}: all threads ended");
        let is_evidence = |event: &Event| matches!(event, Event::Evidence { .. });
        assert!(!rig.so_far().iter().any(is_evidence));
    }
    // And one that is being waited for.
    let (kafka, mut rig, batch) = stored();
    kafka.fault_api(ApiKey::Fetch, Fault::Throttle(Duration::from_secs(600)));
    let next = rig.batch("users", 0, &["x"]);
    kafka.append_foreign("users", 0, &vec![b'x'; 1_000]);
    assert_eq!(rig.look_up(&next, Sought::Stored), Evidence::Absent);
    rig.handle.look_up(batch.clone(), Sought::Stored);
    kafka.stop(1);
    assert!(rig.stop());
}

/// The records of the batch are never looked at, nor need they be at hand.
#[test]
fn only_the_number_of_rows_counts() {
    let (kafka, mut rig, batch) = stored();
    let mut records = Vec::new();
    append_record(&mut records, 0, None, Some(b"something else"), &[]);
    let other = but(&batch, |batch| batch.records = Records::new(Arc::new(records)));
    assert_eq!(rig.look_up(&other, Sought::Stored), Evidence::StoredAt(0));
    kafka.assert_no_complaints();
}
