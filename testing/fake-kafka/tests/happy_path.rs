//! The APIs as a well-behaved client meets them, on a cluster where nothing goes wrong.

mod common;

use common::{Batch, Client, LONG, fetch_request, flat, produce_request, versions_of};
use fake_kafka::{Access, ApiKey, FakeKafka};
use kafka_protocol::messages::{ApiVersionsRequest, MetadataRequest, ProduceRequest};
use kafka_protocol::records::RecordBatchDecoder;

#[test]
fn a_client_finds_leaders_takes_a_producer_id_produces_and_reads_back() {
    let kafka = FakeKafka::builder().brokers(3).topic("users", 4).start();
    assert_eq!(kafka.bootstrap().split(',').count(), 3);
    let mut client = Client::connect(kafka.address(2));
    let versions = client.api_versions().unwrap();
    assert_eq!(versions_of(&versions, ApiKey::Produce), Some((0, 13)));

    let metadata = client.metadata(&["users"]);
    assert_eq!(metadata.brokers.len(), 3);
    let mut partitions = metadata.topics[0].partitions.clone();
    partitions.sort_by_key(|partition| partition.partition_index);
    let leaders: Vec<_> = partitions.iter().map(|found| (found.leader_id.0, found.leader_epoch)).collect();
    assert_eq!(leaders, [(1, 0), (2, 0), (3, 0), (1, 0)]);

    // The coordinator loads once after the broker's start.
    assert_eq!(client.init_producer_id(), (14, -1, -1));
    let (error, producer_id, epoch) = client.init_producer_id();
    assert_eq!((error, epoch), (0, 0));

    assert_eq!(client.list_offset("users", 1, -1), (0, 0, 0));
    assert_eq!(client.outcome("users", 1, &Batch::new(producer_id, 0, 0, 3)), (0, 0));
    assert_eq!(client.outcome("users", 1, &Batch::new(producer_id, 0, 3, 2)), (0, 3));
    assert_eq!(client.list_offset("users", 1, -1), (0, 5, 0));
    assert_eq!(client.list_offset("users", 1, -2), (0, 0, 0));
    // Someone else's partition.
    assert_eq!(client.outcome("users", 0, &Batch::new(producer_id, 0, 0, 1)).0, 6);

    let records = kafka.wait_for_records("users", 5, LONG);
    let seen: Vec<_> = records.iter().map(|record| (record.partition, record.offset, record.sequence)).collect();
    assert_eq!(seen, [(1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3), (1, 4, 4)]);
    assert_eq!(records[1].key, None);
    assert_eq!(records[2].key.as_deref(), Some(&b"k2"[..]));
    assert_eq!(records[2].value.as_deref(), Some(&b"v2"[..]));
    assert_eq!(records[2].headers, [("a".to_owned(), Some(b"1".to_vec())), ("b".to_owned(), None)]);
    assert_eq!((records[0].producer_id, records[0].producer_epoch, records[0].timestamp), (producer_id, 0, 1_000));

    let data = client.fetch_one("users", 1, 0, 0);
    assert_eq!((data.error_code, data.high_watermark), (0, 5));
    let fetched = RecordBatchDecoder::decode_all(&mut data.records.unwrap()).unwrap();
    let offsets: Vec<_> = fetched.iter().flat_map(|set| &set.records).map(|record| record.offset).collect();
    assert_eq!(offsets, [0, 1, 2, 3, 4]);

    let (error, producers) = client.describe_producers("users", 1);
    assert_eq!(error, 0);
    assert_eq!(producers.len(), 1);
    assert_eq!(
        (producers[0].producer_id.0, producers[0].producer_epoch, producers[0].last_sequence),
        (producer_id, 0, 4)
    );
    kafka.assert_no_complaints();
}

#[test]
fn our_record_parser_and_kafka_protocols_agree() {
    let kafka = FakeKafka::builder().topic("t", 1).start();
    let mut client = Client::connect(kafka.address(1));
    let bytes = Batch::new(7, 2, 10, 4).bytes();
    assert_eq!(client.produce_bytes("t", 0, bytes.clone()).unwrap().error_code, 0);
    let ours = kafka.records("t", 0);
    let theirs = RecordBatchDecoder::decode(&mut bytes.clone()).unwrap().records;
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.key.as_deref(), theirs.key.as_deref());
        assert_eq!(ours.value.as_deref(), theirs.value.as_deref());
        assert_eq!((ours.timestamp, ours.sequence), (theirs.timestamp, theirs.sequence));
        let headers = theirs.headers.iter().map(|(name, value)| (name.to_string(), value.as_ref().map(|v| v.to_vec())));
        assert_eq!(ours.headers, headers.collect::<Vec<_>>());
    }
}

#[test]
fn a_merged_request_is_answered_per_partition_and_in_another_order() {
    let kafka = FakeKafka::builder().topic("a", 2).topic("b", 1).start();
    let mut client = Client::connect(kafka.address(1));
    let parts = [
        ("a", 0, Batch::new(7, 0, 0, 1).bytes()),
        ("a", 1, Batch::new(7, 0, 5, 1).bytes()),
        ("b", 9, Batch::new(7, 0, 0, 1).bytes()),
    ];
    client.send_produce(&parts, 1_000);
    let answer = flat(&client.receive_produce().unwrap());
    assert_eq!(answer, [("b".to_owned(), 9, 3, -1), ("a".to_owned(), 1, 0, 0), ("a".to_owned(), 0, 0, 0)]);
    let requests = kafka.requests_of(ApiKey::Produce);
    assert_eq!(requests.len(), 1);
    assert!(requests[0].names("a", 1) && requests[0].names("b", 9) && !requests[0].names("b", 0));
    assert_eq!((requests[0].acks, requests[0].timeout_ms, requests[0].broker), (Some(-1), Some(1_000), 1));
    assert_eq!(requests[0].batches[1].base_sequence, 5);
    kafka.assert_no_complaints();

    client.send_produce(&[parts[0].clone(), parts[0].clone()], 1_000);
    client.receive_produce().unwrap();
    assert_eq!(kafka.complaints().len(), 1, "naming a partition twice is a complaint");
}

#[test]
fn metadata_names_what_is_wrong_with_a_topic_and_creates_nothing() {
    let kafka = FakeKafka::builder().topic("known", 1).topic("secret", 1).start();
    kafka.deny("secret", Access::Describe);
    let mut client = Client::connect(kafka.address(1));
    let mut errors: Vec<_> = client
        .metadata(&["known", "unknown", "il legal", "secret"])
        .topics
        .into_iter()
        .map(|topic| (topic.name.unwrap().to_string(), topic.error_code))
        .collect();
    errors.sort();
    let expected = [("il legal", 17), ("known", 0), ("secret", 29), ("unknown", 3)];
    assert_eq!(errors, expected.map(|(name, code)| (name.to_owned(), code)));
    let all = client.call(&MetadataRequest::default().with_topics(None), 7).unwrap();
    assert_eq!(all.topics.len(), 2);

    kafka.depose_leader("known", 0);
    let partition = client.metadata(&["known"]).topics[0].partitions[0].clone();
    assert_eq!((partition.error_code, partition.leader_id.0), (5, -1));
    assert_eq!(client.outcome("known", 0, &Batch::new(7, 0, 0, 1)).0, 6);
}

#[test]
fn fetch_gives_the_first_batch_whole_cuts_the_last_and_knows_epochs() {
    let kafka = FakeKafka::builder().brokers(2).topic("t", 2).start();
    let mut client = Client::connect(kafka.address(1));
    for sequence in 0..3 {
        assert_eq!(client.outcome("t", 0, &Batch::new(7, 0, sequence, 1)).0, 0);
    }
    let size = client.fetch_one("t", 0, 2, -1).records.unwrap().len() as i32;
    let mut length = |limit: i32, max: i32| {
        let answer = client.fetch(&fetch_request(&[("t", 0, 0, -1, limit)], max, 0));
        answer.responses[0].partitions[0].records.as_ref().unwrap().len() as i32
    };
    assert_eq!(length(1, 1 << 20), size);
    assert_eq!(length(1 << 20, 1), size);
    assert_eq!(length(size + 10, 1 << 20), size + 10);
    assert_eq!(length(1 << 20, 1 << 20), 3 * size);

    assert_eq!(client.fetch_one("t", 0, 4, -1).error_code, 1);
    assert_eq!(client.fetch_one("t", 0, 0, 1).error_code, 75);
    kafka.move_leader("t", 0, 2);
    kafka.move_leader("t", 0, 1);
    assert_eq!(client.fetch_one("t", 0, 0, 1).error_code, 74);
    assert_eq!(client.fetch_one("t", 0, 0, 2).error_code, 0);
    assert_eq!(client.fetch_one("t", 1, 0, -1).error_code, 6);

    kafka.delete_records_before("t", 0, 2);
    assert_eq!(client.fetch_one("t", 0, 0, -1).error_code, 1);
    let data = client.fetch_one("t", 0, 2, -1);
    assert_eq!((data.error_code, data.log_start_offset), (0, 2));
}

#[test]
fn readers_meet_foreign_batches_control_batches_and_open_transactions() {
    let kafka = FakeKafka::builder().topic("t", 1).start();
    let mut client = Client::connect(kafka.address(1));
    assert_eq!(kafka.append_foreign("t", 0, b"theirs"), 0);
    assert_eq!(kafka.append_control_batch("t", 0), 1);
    assert_eq!(client.outcome("t", 0, &Batch::new(7, 0, 0, 1)), (0, 2));
    let values: Vec<_> = kafka.records("t", 0).into_iter().map(|record| record.value.unwrap()).collect();
    assert_eq!(values, [b"theirs".to_vec(), b"v0".to_vec()]);
    kafka.open_transaction_from("t", 0, Some(1));
    let committed = client.fetch(&fetch_request(&[("t", 0, 0, -1, 1 << 20)], 1 << 20, 1));
    let all = client.fetch_one("t", 0, 0, -1);
    assert!(committed.responses[0].partitions[0].records.as_ref().unwrap().len() < all.records.unwrap().len());
    assert!(kafka.compact_away("t", 0, 0));
    assert_eq!(kafka.records("t", 0).len(), 1);
}

#[test]
fn what_is_not_advertised_closes_the_connection() {
    let kafka = FakeKafka::builder().topic("t", 1).api_versions(ApiKey::Produce, 0, 7).start();
    let mut client = Client::connect(kafka.address(1));
    client.send(&produce_request(&[("t", 0, Batch::new(7, 0, 0, 1).bytes())], -1, 1_000), 8);
    assert_eq!(client.receive::<ProduceRequest>(8).unwrap_err(), common::Lost::Closed);

    let mut client = Client::connect(kafka.address(1));
    let request = produce_request(&[("t", 0, Batch::new(7, 0, 0, 1).bytes())], -1, 1_000);
    assert_eq!(client.call(&request, 7).unwrap().responses[0].partition_responses[0].error_code, 0);

    // A version of ApiVersions from the future is answered in version 0.
    client.send(&ApiVersionsRequest::default(), 4);
    let answer = client.receive::<ApiVersionsRequest>(0).unwrap();
    assert_eq!(answer.error_code, 35);
    assert_eq!(versions_of(&answer, ApiKey::Produce), Some((0, 7)));

    let kafka = FakeKafka::builder().without_api(ApiKey::DescribeProducers).start();
    let versions = Client::connect(kafka.address(1)).api_versions().unwrap();
    assert_eq!(versions_of(&versions, ApiKey::DescribeProducers), None);
}

#[test]
fn acks_0_gets_no_answer_and_acks_1_does_not_wait() {
    let kafka = FakeKafka::builder().topic("t", 1).start();
    kafka.hold_replication("t", 0);
    let mut client = Client::connect(kafka.address(1));
    client.send(&produce_request(&[("t", 0, Batch::new(7, 0, 0, 1).bytes())], 0, 1_000), 8);
    let request = produce_request(&[("t", 0, Batch::new(7, 0, 1, 1).bytes())], 1, 60_000);
    assert_eq!(flat(&client.call(&request, 8).unwrap()), [("t".to_owned(), 0, 0, 1)]);
    assert_eq!(kafka.record_count("t"), 2);
}
