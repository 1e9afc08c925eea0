//! Logs with a front cut off, with holes, in segments; producers that are forgotten; brokers without DescribeProducers.

mod common;

use common::{Batch, Client, Lost, versions_of};
use fake_kafka::{ApiKey, BatchHeader, FakeKafka};

const ID: i64 = 77;

/// Three replicas, and batches 0..=1, 2, 3, 4 (of another producer), 5.
fn filled() -> (FakeKafka, Client) {
    let kafka = FakeKafka::builder().brokers(3).topic("t", 1).coordinator_loads(false).start();
    let mut client = Client::connect(kafka.address(1));
    for batch in [
        Batch::new(ID, 0, 0, 2),
        Batch::new(ID, 0, 2, 1),
        Batch::new(ID, 0, 3, 1),
        Batch::new(ID + 1, 0, 0, 1),
        Batch::new(ID, 0, 4, 1),
    ] {
        assert_eq!(client.outcome("t", 0, &batch).0, 0);
    }
    (kafka, client)
}

/// (base offset, last offset, producer id, base sequence, records) of what one Fetch brings.
fn fetched(client: &mut Client, offset: i64) -> Vec<(i64, i64, i64, i32, i32)> {
    let data = client.fetch_one("t", 0, offset, -1);
    assert_eq!(data.error_code, 0);
    let bytes = data.records.unwrap();
    let mut rest = &bytes[..];
    let mut found = Vec::new();
    while let Some(header) = BatchHeader::parse(rest) {
        let last = header.base_offset + i64::from(header.last_offset_delta);
        found.push((header.base_offset, last, header.producer_id, header.base_sequence, header.record_count));
        let (batch, after) = rest.split_at(header.size_bytes() as usize);
        assert_eq!(header.crc, crc32c::crc32c(&batch[21..]), "{header:?}");
        rest = after;
    }
    found
}

#[test]
fn the_front_of_a_log_is_out_of_range_and_its_producers_are_still_known() {
    let (kafka, mut client) = filled();
    kafka.delete_records_before("t", 0, 4);
    assert_eq!(client.fetch_one("t", 0, 3, -1).error_code, 1);
    assert_eq!(client.list_offset("t", 0, -2), (0, 4, 0));
    assert_eq!(fetched(&mut client, 4), [(4, 4, ID + 1, 0, 1), (5, 5, ID, 4, 1)]);
    assert_eq!(client.fetch_one("t", 0, 4, -1).log_start_offset, 4);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 2, 1)), (0, 2), "a duplicate of what is gone");
    kafka.delete_records_before("t", 0, 6);
    assert_eq!(client.fetch_one("t", 0, 5, -1).error_code, 1);
    assert_eq!(fetched(&mut client, 6), []);
    assert_eq!(client.fetch_one("t", 0, 7, -1).error_code, 1);
    assert_eq!(client.describe_producers("t", 0).1.len(), 2);
}

#[test]
fn a_follower_that_was_held_while_the_front_went_begins_where_the_leader_does() {
    let (kafka, mut client) = filled();
    kafka.hold_follower("t", 0, 3);
    kafka.expel("t", 0, 3);
    for sequence in 5..8 {
        assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, sequence, 1)).0, 0);
    }
    kafka.delete_records_before("t", 0, 8);
    kafka.release_follower("t", 0, 3);
    let state = kafka.replica_state(3, "t", 0);
    assert_eq!((state.start, state.end, state.high_watermark), (8, 9, 9));
    // It knows of producers what it copied, and as a leader takes a duplicate for a new batch.
    assert_eq!(kafka.producers_on(3, "t", 0).len(), 1);
    kafka.move_leader("t", 0, 3);
    assert_eq!(Client::connect(kafka.address(3)).outcome("t", 0, &Batch::new(ID + 1, 0, 0, 1)), (0, 9));
}

#[test]
fn a_cleaned_log_has_holes_and_a_producer_s_newest_header_stays() {
    let (kafka, mut client) = filled();
    assert_eq!(kafka.compact("t", 0, |offset, _| offset == 1), 5);
    // The first batch has one record left; those of offsets 2 and 3 are gone; 4 and 5 are the newest of their producers.
    let left = [(0, 1, ID, 0, 1), (4, 4, ID + 1, 0, 0), (5, 5, ID, 4, 0)];
    assert_eq!(fetched(&mut client, 0), left);
    assert_eq!(fetched(&mut client, 2), left[1..]);
    assert_eq!(client.list_offset("t", 0, -1).1, 6);
    let records = kafka.records("t", 0);
    assert_eq!((records.len(), records[0].offset, records[0].sequence), (1, 1, 1));
    for broker in [2, 3] {
        assert_eq!(kafka.records_on(broker, "t", 0), records);
    }

    // A header stays no longer than its producer is remembered, or newest.
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 5, 1)), (0, 6));
    kafka.forget_producer("t", 0, ID + 1);
    kafka.compact("t", 0, |offset, _| offset == 1);
    assert_eq!(fetched(&mut client, 0), [(0, 1, ID, 0, 1), (6, 6, ID, 5, 0)]);

    // A follower with holes follows on, and a leader with holes is followed.
    kafka.move_leader("t", 0, 2);
    let mut client = Client::connect(kafka.address(2));
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 6, 1)), (0, 7));
    assert_eq!(kafka.in_sync("t", 0), [1, 2, 3]);
    assert_eq!(kafka.records_on(1, "t", 0), kafka.records_on(2, "t", 0));
}

#[test]
fn cleaning_by_key_keeps_the_newest_record_that_is_committed() {
    let (kafka, mut client) = filled();
    kafka.hold_replication("t", 0);
    client.send_produce(&[("t", 0, Batch::new(ID, 0, 5, 1).bytes())], 0);
    assert!(client.receive_produce().is_ok());
    // Every batch has the key k0 at its first record; the last one is not committed, and does not count.
    assert_eq!(kafka.compact_by_key("t", 0), 4);
    let left: Vec<_> = kafka.records("t", 0).iter().map(|record| (record.offset, record.key.is_some())).collect();
    assert_eq!(left, [(1, false), (5, true), (6, true)]);
}

#[test]
fn a_tail_is_cut_off_though_its_epoch_has_no_batch_left() {
    let (kafka, mut client) = filled();
    kafka.hold_follower("t", 0, 3);
    kafka.move_leader("t", 0, 2);
    let mut second = Client::connect(kafka.address(2));
    second.send_produce(&[("t", 0, Batch::new(ID, 0, 5, 2).bytes())], 0);
    assert!(second.receive_produce().is_ok());
    kafka.expel("t", 0, 3);
    // All of epoch 1 is compacted away on the leader of epoch 1, its offsets are not.
    assert!(kafka.compact_away("t", 0, 6));
    kafka.release_follower("t", 0, 3);
    for broker in 1..=3 {
        let state = kafka.replica_state(broker, "t", 0);
        assert_eq!((state.end, state.high_watermark), (8, 8), "broker {broker}");
    }
    assert_eq!(client.describe_producers("t", 0).1[0].last_sequence, 6);
    kafka.move_leader("t", 0, 3);
    assert_eq!(Client::connect(kafka.address(3)).outcome("t", 0, &Batch::new(ID + 2, 0, 0, 1)), (0, 8));
    assert_eq!(kafka.records_on(1, "t", 0), kafka.records_on(3, "t", 0));
}

#[test]
fn a_fetch_ends_with_its_segment() {
    let (kafka, mut client) = filled();
    kafka.roll_segment("t", 0);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 5, 1)), (0, 6));
    kafka.roll_segment("t", 0);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 6, 1)), (0, 7));
    let ends = |client: &mut Client, offset| fetched(client, offset).iter().map(|batch| batch.1).collect::<Vec<_>>();
    assert_eq!(ends(&mut client, 0), [1, 2, 3, 4, 5]);
    assert_eq!(ends(&mut client, 5), [5]);
    assert_eq!(ends(&mut client, 6), [6]);
    assert_eq!(ends(&mut client, 7), [7]);
    // A segment without a batch from there on is passed over.
    assert!(kafka.compact_away("t", 0, 6));
    assert_eq!(ends(&mut client, 6), [7]);
}

#[test]
fn the_leader_alone_forgets_a_producer() {
    let (kafka, mut client) = filled();
    kafka.forget_producer_on(1, "t", 0, ID);
    assert_eq!(client.describe_producers("t", 0).1.len(), 1);
    assert_eq!(Client::connect(kafka.address(2)).describe_producers("t", 0).1.len(), 2);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 4, 1)), (0, 6), "written again");
}

#[test]
fn a_topic_comes_back_with_fewer_partitions_or_more() {
    let kafka = FakeKafka::builder().topic("t", 2).start();
    let mut client = Client::connect(kafka.address(1));
    assert_eq!(client.outcome("t", 1, &Batch::new(ID, 0, 0, 1)), (0, 0));
    kafka.delete_topic("t");
    kafka.create_topic("t", 1);
    assert_eq!(client.outcome("t", 1, &Batch::new(ID, 0, 0, 1)).0, 3);
    assert_eq!(client.describe_producers("t", 1).0, 3);
    kafka.delete_topic("t");
    kafka.create_topic("t", 3);
    assert_eq!(client.metadata(&["t"]).topics[0].partitions.len(), 3);
    assert_eq!(client.describe_producers("t", 1), (0, Vec::new()));
    assert_eq!(client.fetch_one("t", 1, 1, -1).error_code, 1);
    assert_eq!(client.fetch_one("t", 1, 0, 4).error_code, 75, "the epoch of the topic before");
}

#[test]
fn before_2_8_nobody_describes_producers() {
    let kafka = FakeKafka::builder().topic("t", 1).without_api(ApiKey::DescribeProducers).start();
    let mut client = Client::connect(kafka.address(1));
    let versions = client.api_versions().unwrap();
    assert_eq!(versions_of(&versions, ApiKey::DescribeProducers), None);
    assert_eq!(versions_of(&versions, ApiKey::Fetch), Some((4, 18)));
    let request = kafka_protocol::messages::DescribeProducersRequest::default();
    assert_eq!(client.call(&request, 0).unwrap_err(), Lost::Closed);
}
