//! Requests that arrive after whatever was sent later: from connections, and from processes, that are long gone.

mod common;

use std::time::Duration;

use common::{Batch, Client, LONG, Lost, flat};
use fake_kafka::{Delivered, FakeKafka, Fault};

const ID: i64 = 77;
const SHORT: Duration = Duration::from_millis(150);

fn start() -> (FakeKafka, Client) {
    let kafka = FakeKafka::builder().topic("t", 2).coordinator_loads(false).start();
    let client = Client::connect(kafka.address(1));
    (kafka, client)
}

fn delivered(partition: i32, error_code: i16, base_offset: i64) -> Delivered {
    Delivered { topic: "t".to_owned(), partition, error_code, base_offset }
}

/// One batch to partition 0 that is kept back, from a process that dies.
fn send_and_die(kafka: &FakeKafka, mut client: Client, batch: &Batch) -> fake_kafka::LateCopies {
    let late = kafka.late_copies();
    kafka.fault("t", 0, Fault::KeepBack(late.clone()));
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    late.wait_until_kept(1, LONG);
    assert_eq!(client.answer_within(SHORT).receive_raw().unwrap_err(), Lost::Silent);
    late
}

#[test]
fn a_dead_process_s_request_is_stored_after_the_next_one_was_told_it_was_not() {
    let (kafka, client) = start();
    let batch = Batch::new(ID, 0, 0, 2);
    let late = send_and_die(&kafka, client, &batch);
    // The next process finds no trace of it, and neither does DescribeProducers.
    let mut next = Client::connect(kafka.address(1));
    assert_eq!(next.fetch_one("t", 0, 0, -1).high_watermark, 0);
    assert_eq!(next.describe_producers("t", 0), (0, Vec::new()));
    // What it sends instead, cut anew under an id of its own, is stored; and so, then, is the old one: twice.
    assert_eq!(next.outcome("t", 0, &Batch::new(ID + 1, 0, 0, 2)), (0, 0));
    assert_eq!(kafka.deliver(&late), [delivered(0, 0, 2)]);
    assert_eq!(kafka.record_count("t"), 4);
    assert_eq!((late.count(), kafka.deliver(&late)), (0, Vec::new()), "delivered once");
}

#[test]
fn the_same_triple_is_dropped_in_either_order_and_a_newer_epoch_fences_it() {
    let (kafka, client) = start();
    let batch = Batch::new(ID, 0, 0, 2);
    let late = send_and_die(&kafka, client, &batch);
    let mut next = Client::connect(kafka.address(1));
    assert_eq!(next.outcome("t", 0, &batch), (0, 0));
    assert_eq!(next.outcome("t", 0, &Batch::new(ID, 0, 2, 1)), (0, 2));
    assert_eq!(kafka.deliver(&late), [delivered(0, 0, 0)]);
    assert_eq!(kafka.record_count("t"), 3);

    let batch = Batch::new(ID, 0, 3, 1);
    let late = send_and_die(&kafka, next, &batch);
    assert_eq!(kafka.deliver(&late), [delivered(0, 0, 3)]);
    let mut next = Client::connect(kafka.address(1));
    assert_eq!(next.outcome("t", 0, &batch), (0, 3));

    let batch = Batch::new(ID, 0, 4, 1);
    let late = send_and_die(&kafka, next, &batch);
    let mut next = Client::connect(kafka.address(1));
    assert_eq!(next.outcome("t", 0, &Batch::new(ID, 1, 0, 1)), (0, 4));
    assert_eq!(kafka.deliver(&late), [delivered(0, 47, -1)]);
    assert_eq!(kafka.record_count("t"), 5);
}

#[test]
fn copies_are_kept_of_a_merged_request_that_was_answered_and_of_one_that_was_cut_off() {
    let (kafka, mut client) = start();
    let late = kafka.late_copies();
    kafka.fault("t", 1, Fault::KeepCopy(late.clone()));
    let both = |sequence| [0, 1].map(|partition| ("t", partition, Batch::new(ID, 0, sequence, 1).bytes()));
    client.send_produce(&both(0), 1_000);
    let mut answer = flat(&client.receive_produce().unwrap());
    answer.sort();
    assert_eq!(answer, [("t".to_owned(), 0, 0, 0), ("t".to_owned(), 1, 0, 0)]);
    kafka.fault("t", 0, Fault::KeepBackAndClose(late.clone()));
    client.send_produce(&both(1), 1_000);
    assert_eq!(client.receive_produce().unwrap_err(), Lost::Closed);
    assert_eq!((late.count(), kafka.record_count("t")), (2, 2));

    // After six more batches nobody knows the first one as a duplicate: to be out of order is what keeps it out.
    let mut client = Client::connect(kafka.address(1));
    for sequence in 1..7 {
        assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, sequence, 1)).0, 0);
    }
    kafka.forget_producer("t", 1, ID);
    assert_eq!(
        kafka.deliver(&late),
        [
            delivered(0, 45, -1),
            // The leader forgot the producer: the copy is new to it, and is written again.
            delivered(1, 0, 1),
            delivered(0, 45, -1),
            delivered(1, 0, 2)
        ]
    );
    assert_eq!(kafka.record_count("t"), 7 + 3);
}

#[test]
fn a_late_copy_meets_a_topic_that_was_made_again_and_an_ex_leader() {
    let kafka = FakeKafka::builder().brokers(2).topic("t", 1).start();
    let batch = Batch::new(ID, 0, 5, 1);
    let late = send_and_die(&kafka, Client::connect(kafka.address(1)), &batch);
    kafka.delete_topic("t");
    kafka.create_topic("t", 1);
    assert_eq!(kafka.deliver(&late), [delivered(0, 0, 0)]);

    let late = send_and_die(&kafka, Client::connect(kafka.address(1)), &batch.tagged("doomed"));
    kafka.freeze(1);
    kafka.move_leader("t", 0, 2);
    kafka.thaw_stale(1);
    kafka.forget_producer_on(1, "t", 0, ID);
    assert_eq!(kafka.deliver(&late), [delivered(0, 0, 1)], "taken by a leader that is none");
    assert_eq!((kafka.record_count("t"), kafka.replica_state(1, "t", 0).end), (1, 2));
    kafka.tell(1);
    assert_eq!(kafka.replica_state(1, "t", 0).end, 1);
}

#[test]
fn what_was_sent_to_a_broker_that_died_is_lost() {
    let (kafka, client) = start();
    let late = send_and_die(&kafka, client, &Batch::new(ID, 0, 0, 1));
    kafka.stop(1);
    kafka.restart(1);
    assert_eq!(kafka.deliver(&late), []);
    assert_eq!(kafka.record_count("t"), 0);
}

#[test]
#[should_panic(expected = "is for Produce, not for Fetch")]
fn only_produce_requests_are_kept() {
    let (kafka, _) = start();
    kafka.fault_partition(fake_kafka::ApiKey::Fetch, "t", 0, Fault::KeepBack(kafka.late_copies()));
}
