//! Kafka's rules for idempotent producers, over the wire.

mod common;

use std::time::Duration;

use common::{Batch, Client};
use fake_kafka::{ApiKey, FakeKafka};

const ID: i64 = 77;

fn one_broker() -> (FakeKafka, Client) {
    let kafka = FakeKafka::builder().topic("t", 1).coordinator_loads(false).start();
    let client = Client::connect(kafka.address(1));
    (kafka, client)
}

#[test]
fn a_duplicate_with_other_contents_is_answered_0_and_nothing_is_written() {
    let (kafka, mut client) = one_broker();
    let batch = Batch::new(ID, 0, 0, 2);
    assert_eq!(client.outcome("t", 0, &batch), (0, 0));
    assert_eq!(client.outcome("t", 0, &batch.tagged("other")), (0, 0));
    let records = kafka.records("t", 0);
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].value.as_deref(), Some(&b"v0"[..]));
    // The same start with another length is no duplicate.
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 0, 3)).0, 45);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 3, 1)).0, 45);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 2, 1)), (0, 2));
}

#[test]
fn five_batches_are_known_and_one_after_a_restart() {
    let (kafka, mut client) = one_broker();
    for sequence in 0..6 {
        assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, sequence, 1)), (0, i64::from(sequence)));
    }
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 0, 1)).0, 45);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 1, 1)), (0, 1));

    let address = kafka.address(1);
    kafka.stop(1);
    kafka.restart(1);
    assert_eq!(kafka.address(1), address);
    let mut client = Client::connect(address);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 4, 1)).0, 45);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 5, 1)), (0, 5));
    assert_eq!(kafka.record_count("t"), 6);
}

#[test]
fn a_new_epoch_begins_at_0_and_fences_late_copies() {
    let (kafka, mut client) = one_broker();
    let old = Batch::new(ID, 0, 0, 1);
    assert_eq!(client.outcome("t", 0, &old), (0, 0));
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 1, 1, 1)).0, 45);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 1, 0, 1)), (0, 1));
    assert_eq!(client.outcome("t", 0, &old).0, 47);
    assert_eq!(kafka.producers("t", 0)[0].producer_epoch, 1);
}

#[test]
fn sequences_wrap_inside_a_batch() {
    let (kafka, mut client) = one_broker();
    let wrapping = Batch::new(ID, 0, i32::MAX - 1, 4);
    assert_eq!(client.outcome("t", 0, &wrapping), (0, 0));
    assert_eq!(client.outcome("t", 0, &wrapping), (0, 0));
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 2, 1)), (0, 4));
    let sequences: Vec<_> = kafka.records("t", 0).iter().map(|record| record.sequence).collect();
    assert_eq!(sequences, [i32::MAX - 1, i32::MAX, 0, 1, 2]);
    assert_eq!(client.describe_producers("t", 0).1[0].last_sequence, 2);
}

#[test]
fn unknown_producers_begin_anywhere_except_on_old_brokers() {
    let (kafka, mut client) = one_broker();
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 3, 500, 1)), (0, 0));
    kafka.forget_producer("t", 0, ID);
    assert_eq!(client.describe_producers("t", 0), (0, Vec::new()));
    // Forgotten, so the very same batch is written again.
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 3, 500, 1)), (0, 1));

    let kafka = FakeKafka::builder().topic("t", 1).strict_unknown_producers(true).start();
    let mut client = Client::connect(kafka.address(1));
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 500, 1)).0, 59);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 0, 1)), (0, 0));
}

#[test]
fn producers_expire_by_their_records_own_timestamps() {
    let kafka = FakeKafka::builder().topic("t", 2).producer_expiration(Duration::from_secs(3_600)).start();
    let mut client = Client::connect(kafka.address(1));
    let old_stamp = Batch::new(ID, 0, 0, 1).stamped(1_000);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    let fresh_stamp = Batch::new(ID, 0, 0, 1).stamped(now);
    assert_eq!(client.outcome("t", 0, &old_stamp).0, 0);
    assert_eq!(client.outcome("t", 1, &fresh_stamp).0, 0);
    kafka.expire_producers();
    assert_eq!(client.outcome("t", 0, &old_stamp), (0, 1), "written again");
    assert_eq!(client.outcome("t", 1, &fresh_stamp), (0, 0), "still a duplicate");
}

#[test]
fn producer_ids_are_never_given_twice_and_the_coordinator_loads_after_each_start() {
    let kafka = FakeKafka::builder().brokers(2).start();
    let mut first = Client::connect(kafka.address(1));
    let mut second = Client::connect(kafka.address(2));
    assert_eq!(first.init_producer_id().0, 14);
    assert_eq!(second.init_producer_id().0, 14);
    let ids = [first.init_producer_id().1, second.init_producer_id().1, first.init_producer_id().1];
    assert!(ids[0] < ids[1] && ids[1] < ids[2], "{ids:?}");
    kafka.stop(1);
    kafka.restart(1);
    assert_eq!(Client::connect(kafka.address(1)).init_producer_id().0, 14);
    assert_eq!(kafka.requests_of(ApiKey::InitProducerId).len(), 6);
}
