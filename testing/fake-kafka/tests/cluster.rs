//! Brokers that die, freeze and come back; leaders that move; replication that is held.

mod common;

use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::{Batch, Client, LONG, Lost, flat};
use fake_kafka::{ApiKey, FakeKafka, Fault};

const ID: i64 = 77;
const SHORT: Duration = Duration::from_millis(150);

fn three() -> FakeKafka {
    FakeKafka::builder().brokers(3).topic("t", 1).coordinator_loads(false).start()
}

#[test]
fn acks_all_waits_for_the_high_watermark_and_times_out_with_the_batch_appended() {
    let kafka = FakeKafka::builder().topic("t", 2).start();
    let mut client = Client::connect(kafka.address(1));
    kafka.hold_replication("t", 0);
    let batch = Batch::new(ID, 0, 0, 2);
    // A healthy partition of the same request waits with it.
    client.send_produce(&[("t", 0, batch.bytes()), ("t", 1, batch.bytes())], 100);
    let mut answer = flat(&client.receive_produce().unwrap());
    answer.sort();
    assert_eq!(answer, [("t".to_owned(), 0, 7, 0), ("t".to_owned(), 1, 0, 0)]);
    let ends = kafka.log_ends("t", 0);
    assert_eq!((ends.end, ends.high_watermark), (2, 0));

    // Readers see nothing of it, DescribeProducers does.
    let data = client.fetch_one("t", 0, 0, -1);
    assert_eq!((data.error_code, data.high_watermark, data.records.unwrap().len()), (0, 0, 0));
    assert_eq!(client.list_offset("t", 0, -1).1, 0);
    assert_eq!(client.describe_producers("t", 0).1[0].last_sequence, 1);

    // A duplicate, too, is answered 0 only once it is replicated.
    client.send_produce(&[("t", 0, batch.bytes())], 60_000);
    assert_eq!(client.answer_within(SHORT).receive_produce().unwrap_err(), Lost::Silent);
    kafka.release_replication("t", 0);
    assert_eq!(flat(&client.answer_within(LONG).receive_produce().unwrap()), [("t".to_owned(), 0, 0, 0)]);
    assert_eq!(client.fetch_one("t", 0, 0, -1).high_watermark, 2);
}

#[test]
fn what_was_not_replicated_is_gone_with_its_leader() {
    let kafka = three();
    let mut leader = Client::connect(kafka.address(1));
    assert_eq!(leader.outcome("t", 0, &Batch::new(ID, 0, 0, 1)), (0, 0));
    kafka.hold_replication("t", 0);
    leader.send_produce(&[("t", 0, Batch::new(ID, 0, 1, 1).tagged("lost").bytes())], 60_000);
    kafka.wait_for_records("t", 2, LONG);
    kafka.move_leader("t", 0, 2);
    assert_eq!(flat(&leader.receive_produce().unwrap())[0].2, 6);
    assert_eq!(leader.outcome("t", 0, &Batch::new(ID, 0, 1, 1)).0, 6);

    kafka.release_replication("t", 0);
    let mut successor = Client::connect(kafka.address(2));
    assert_eq!(successor.describe_producers("t", 0).1[0].last_sequence, 0);
    assert_eq!(successor.outcome("t", 0, &Batch::new(ID, 0, 1, 1)), (0, 1));
    let everywhere: Vec<_> = (1..=3).map(|broker| kafka.records_on(broker, "t", 0)).collect();
    assert_eq!(everywhere[0], everywhere[1]);
    assert_eq!(everywhere[1], everywhere[2]);
    assert_eq!(everywhere[0][1].value.as_deref(), Some(&b"v0"[..]));
    assert_eq!((everywhere[0][0].leader_epoch, everywhere[0][1].leader_epoch), (0, 1));
    assert_eq!(kafka.log_ends("t", 0).leader_epoch, 1);
}

#[test]
fn a_killed_leader_is_succeeded_and_its_successor_knows_the_producers() {
    let kafka = three();
    let mut client = Client::connect(kafka.address(1));
    let batch = Batch::new(ID, 0, 0, 1);
    kafka.fault("t", 0, Fault::AppendThenHang);
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    kafka.wait_for_records("t", 1, LONG);
    kafka.stop(1);
    assert_eq!(client.receive_raw().unwrap_err(), Lost::Closed);
    assert!(TcpStream::connect(kafka.address(1)).is_err());
    let leader = kafka.leader("t", 0).unwrap();
    assert_ne!(leader, 1);
    let mut client = Client::connect(kafka.address(leader));
    assert_eq!(client.outcome("t", 0, &batch), (0, 0));
    let metadata = client.metadata(&["t"]);
    assert_eq!(metadata.brokers.len(), 2);
    let partition = &metadata.topics[0].partitions[0];
    assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.isr_nodes.len()), (leader, 1, 2));
    kafka.restart(1);
    let mut back = Client::connect(kafka.address(1));
    assert_eq!(back.outcome("t", 0, &batch).0, 6);
    assert_eq!(back.metadata(&["t"]).topics[0].partitions[0].isr_nodes.len(), 3);
}

#[test]
fn without_elections_a_partition_stays_leaderless_until_told() {
    let kafka = FakeKafka::builder().brokers(2).elections(false).topic("t", 1).start();
    kafka.stop(1);
    let mut client = Client::connect(kafka.address(2));
    let partition = client.metadata(&["t"]).topics[0].partitions[0].clone();
    assert_eq!((partition.error_code, partition.leader_id.0), (5, -1));
    kafka.move_leader("t", 0, 2);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 0, 1)), (0, 0));
}

#[test]
fn too_few_replicas_are_answered_19_before_the_append() {
    let kafka = three();
    kafka.set_min_insync_replicas("t", 2);
    let mut client = Client::connect(kafka.address(1));
    let batch = Batch::new(ID, 0, 0, 1);
    assert_eq!(client.outcome("t", 0, &batch), (0, 0));
    kafka.stop(2);
    kafka.stop(3);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 1, 1)).0, 19);
    assert_eq!(kafka.record_count("t"), 1);
    kafka.restart(3);
    assert_eq!(client.outcome("t", 0, &Batch::new(ID, 0, 1, 1)), (0, 1));
}

#[test]
fn replicas_lost_after_the_append_are_answered_20() {
    let kafka = three();
    kafka.set_min_insync_replicas("t", 2);
    kafka.hold_replication("t", 0);
    let mut client = Client::connect(kafka.address(1));
    client.send_produce(&[("t", 0, Batch::new(ID, 0, 0, 1).bytes())], 60_000);
    kafka.wait_for_records("t", 1, LONG);
    kafka.stop(2);
    kafka.stop(3);
    kafka.release_replication("t", 0);
    assert_eq!(flat(&client.receive_produce().unwrap()), [("t".to_owned(), 0, 20, 0)]);
}

#[test]
fn connections_are_cut_and_addresses_lie_on_request() {
    let kafka = FakeKafka::builder().brokers(2).start();
    let (mut first, mut second) = (Client::connect(kafka.address(1)), Client::connect(kafka.address(2)));
    assert!(first.api_versions().is_ok() && second.api_versions().is_ok());
    assert_eq!((kafka.open_connections(1), kafka.connections_opened()), (1, 2));
    kafka.close_connections(1);
    assert_eq!(first.api_versions().unwrap_err(), Lost::Closed);
    kafka.advertise(1, "nowhere.invalid", 9092);
    let brokers = second.metadata(&[]).brokers;
    let lie = brokers.iter().find(|broker| broker.node_id.0 == 1).unwrap();
    assert_eq!((lie.host.as_str(), lie.port), ("nowhere.invalid", 9092));
    let connections: Vec<_> = kafka.requests().iter().map(|request| (request.broker, request.connection)).collect();
    assert_eq!(connections.len(), 3);
    assert_eq!(connections[1], connections[2], "the same connection of broker 2");
}

#[test]
fn a_request_held_by_a_broker_that_dies_is_never_appended() {
    let kafka = FakeKafka::builder().topic("t", 1).start();
    let gate = kafka.gate();
    kafka.fault("t", 0, Fault::DelayUntil(gate.clone()));
    let mut client = Client::connect(kafka.address(1));
    client.send_produce(&[("t", 0, Batch::new(ID, 0, 0, 1).bytes())], 1_000);
    gate.wait_until_reached(1, LONG);
    kafka.stop(1);
    kafka.restart(1);
    gate.open();
    assert_eq!(client.receive_raw().unwrap_err(), Lost::Closed);
    assert_eq!(Client::connect(kafka.address(1)).outcome("t", 0, &Batch::new(ID, 0, 7, 1)), (0, 0));
    assert_eq!(kafka.record_count("t"), 1);
}

#[test]
fn a_frozen_broker_accepts_and_says_nothing_and_takes_the_late_copy_after_the_thaw() {
    let kafka = FakeKafka::builder().topic("t", 1).start();
    let mut client = Client::connect(kafka.address(1));
    assert!(client.api_versions().is_ok());
    kafka.freeze(1);
    let batch = Batch::new(ID, 0, 0, 1);
    assert_eq!(client.answer_within(SHORT).produce("t", 0, &batch).unwrap_err(), Lost::Silent);
    assert_eq!(Client::connect(kafka.address(1)).answer_within(SHORT).api_versions().unwrap_err(), Lost::Silent);
    assert_eq!((kafka.record_count("t"), kafka.requests_of(ApiKey::Produce).len()), (0, 0));
    // The client gives up, and its request is stored all the same.
    drop(client);
    kafka.thaw(1);
    kafka.wait_for_records("t", 1, LONG);
    assert_eq!(Client::connect(kafka.address(1)).outcome("t", 0, &batch), (0, 0));
}

#[test]
fn a_thawed_ex_leader_that_heard_nothing_answers_as_if_it_led() {
    let kafka = three();
    let mut old = Client::connect(kafka.address(1));
    assert_eq!(old.outcome("t", 0, &Batch::new(ID, 0, 0, 1)), (0, 0));
    kafka.freeze(1);
    kafka.move_leader("t", 0, 2);
    let mut new = Client::connect(kafka.address(2));
    assert_eq!(new.outcome("t", 0, &Batch::new(ID, 0, 1, 1)), (0, 1));

    kafka.thaw_stale(1);
    let partition = old.metadata(&["t"]).topics[0].partitions[0].clone();
    assert_eq!((partition.leader_id.0, partition.leader_epoch), (1, 0));
    // Stale data without an error; a valid batch is out of order here; a write is taken and can't be acknowledged.
    assert_eq!(old.describe_producers("t", 0).1[0].last_sequence, 0);
    assert_eq!(old.fetch_one("t", 0, 0, 0).high_watermark, 1);
    assert_eq!(old.fetch_one("t", 0, 0, 1).error_code, 75);
    assert_eq!(old.outcome("t", 0, &Batch::new(ID, 0, 2, 1)).0, 45);
    old.send_produce(&[("t", 0, Batch::new(ID, 0, 1, 1).tagged("doomed").bytes())], 60_000);
    assert_eq!(old.answer_within(SHORT).receive_produce().unwrap_err(), Lost::Silent);
    kafka.tell(1);
    assert_eq!(flat(&old.answer_within(LONG).receive_produce().unwrap())[0].2, 6);
    assert_eq!(kafka.records_on(1, "t", 0), kafka.records_on(2, "t", 0));
}

#[test]
fn topics_are_deleted_made_again_and_grow() {
    let kafka = FakeKafka::builder().brokers(2).topic("t", 1).start();
    let mut client = Client::connect(kafka.address(1));
    let batch = Batch::new(ID, 0, 5, 1);
    kafka.move_leader("t", 0, 2);
    kafka.move_leader("t", 0, 1);
    assert_eq!(client.outcome("t", 0, &batch).0, 0);
    kafka.delete_topic("t");
    assert_eq!(client.outcome("t", 0, &batch).0, 3);
    assert_eq!(client.metadata(&["t"]).topics[0].error_code, 3);
    kafka.create_topic("t", 1);
    assert_eq!((kafka.log_ends("t", 0).leader_epoch, kafka.record_count("t")), (0, 0));
    assert_eq!(client.outcome("t", 0, &batch), (0, 0), "nobody remembers the producer");
    kafka.add_partitions("t", 3);
    assert_eq!(client.metadata(&["t"]).topics[0].partitions.len(), 3);
    assert_eq!(client.outcome("t", 2, &batch).0, 0);
}

#[test]
fn a_partition_on_a_new_replica_after_retention_has_forgotten_its_producer() {
    let kafka = FakeKafka::builder().brokers(2).topic_replicated("t", 1, 1).start();
    let mut client = Client::connect(kafka.address(1));
    let batch = Batch::new(ID, 0, 0, 1);
    assert_eq!(client.outcome("t", 0, &batch), (0, 0));
    kafka.delete_records_before("t", 0, 1);
    assert_eq!(client.outcome("t", 0, &batch), (0, 0), "the old replica remembers");
    kafka.add_replica("t", 0, 2);
    kafka.move_leader("t", 0, 2);
    assert_eq!(Client::connect(kafka.address(2)).outcome("t", 0, &batch), (0, 1), "the new one does not");
}

#[test]
fn dropping_the_cluster_ends_everything_that_waits() {
    let kafka = three();
    let gate = kafka.gate();
    kafka.hold_replication("t", 0);
    kafka.fault_api(ApiKey::Metadata, Fault::DelayUntil(gate.clone()));
    kafka.fault_api(ApiKey::InitProducerId, Fault::Hang);
    let addresses: Vec<_> = (1..=3).map(|broker| kafka.address(broker)).collect();
    let mut held = Client::connect(addresses[0]);
    held.send_produce(&[("t", 0, Batch::new(ID, 0, 0, 1).bytes())], 600_000);
    kafka.wait_for_records("t", 1, LONG);
    kafka.freeze(3);
    let _frozen = Client::connect(addresses[2]);
    let _idle = Client::connect(addresses[1]);
    let started = Instant::now();
    drop(kafka);
    assert!(started.elapsed() < LONG, "took {:?}", started.elapsed());
    assert_eq!(held.receive_raw().unwrap_err(), Lost::Closed);
    assert!(addresses.iter().all(|&address| TcpStream::connect(address).is_err()));
    gate.open();
}
