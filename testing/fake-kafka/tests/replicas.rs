//! Replicas that disagree: followers that lag, leaders that lose their tail, ex-leaders that have not heard of it.

mod common;

use std::time::Duration;

use common::{Batch, Client, LONG, Lost, flat};
use fake_kafka::{Access, FakeKafka};

const ID: i64 = 77;
const SHORT: Duration = Duration::from_millis(150);

fn three() -> FakeKafka {
    FakeKafka::builder().brokers(3).topic("t", 1).coordinator_loads(false).start()
}

fn batch(sequence: i32) -> Batch {
    Batch::new(ID, 0, sequence, 1)
}

/// Sends without waiting for the answer, and waits until it is in the leader's log.
fn send_unreplicated(kafka: &FakeKafka, client: &mut Client, batch: &Batch, timeout_ms: i32) {
    let end = kafka.log_ends("t", 0).end;
    client.send_produce(&[("t", 0, batch.bytes())], timeout_ms);
    kafka.wait_for_records("t", end as usize + 1, LONG);
}

#[test]
fn the_high_watermark_waits_for_the_slowest_replica_in_sync() {
    let kafka = three();
    let mut leader = Client::connect(kafka.address(1));
    assert_eq!(leader.outcome("t", 0, &batch(0)), (0, 0));
    kafka.hold_follower("t", 0, 3);
    send_unreplicated(&kafka, &mut leader, &batch(1), 60_000);
    assert_eq!(leader.answer_within(SHORT).receive_produce().unwrap_err(), Lost::Silent);
    let end_and_watermark = |broker| {
        let state = kafka.replica_state(broker, "t", 0);
        (state.end, state.high_watermark)
    };
    assert_eq!([1, 2, 3].map(end_and_watermark), [(2, 1), (2, 1), (1, 1)]);

    // Out of sync, nobody waits for it.
    kafka.expel("t", 0, 3);
    assert_eq!(flat(&leader.answer_within(LONG).receive_produce().unwrap())[0].2, 0);
    assert_eq!((kafka.in_sync("t", 0), kafka.log_ends("t", 0).high_watermark), (vec![1, 2], 2));
    assert_eq!(leader.outcome("t", 0, &batch(2)), (0, 2));
    kafka.release_follower("t", 0, 3);
    assert_eq!(kafka.in_sync("t", 0), [1, 2, 3]);
    assert_eq!(end_and_watermark(3), (3, 3));
    assert_eq!(kafka.records_on(3, "t", 0), kafka.records_on(1, "t", 0));
}

#[test]
fn every_replica_describes_producers_from_its_own_log_end() {
    let kafka = three();
    let mut clients: Vec<_> = (1..=3).map(|broker| Client::connect(kafka.address(broker))).collect();
    assert_eq!(clients[0].outcome("t", 0, &batch(0)), (0, 0));
    kafka.hold_follower("t", 0, 2);
    send_unreplicated(&kafka, &mut clients[0], &batch(1), 0);
    assert_eq!(flat(&clients[0].receive_produce().unwrap())[0].2, 7);
    assert_eq!(kafka.log_ends("t", 0).high_watermark, 1);
    let described: Vec<_> = clients
        .iter_mut()
        .map(|client| {
            let (error, producers) = client.describe_producers("t", 0);
            (error, producers[0].last_sequence)
        })
        .collect();
    assert_eq!(described, [(0, 1), (0, 0), (0, 1)]);
    assert_eq!(kafka.producers_on(2, "t", 0)[0].last_sequence, 0);
    // Nothing else is answered by a follower.
    assert_eq!(clients[1].fetch_one("t", 0, 0, -1).error_code, 6);
    assert_eq!(clients[1].list_offset("t", 0, -1).0, 6);
    assert_eq!(clients[1].outcome("t", 0, &batch(1)).0, 6);
}

#[test]
fn a_tail_that_no_follower_has_dies_with_its_leader_and_so_does_the_memory_of_its_producer() {
    let kafka = three();
    let mut leader = Client::connect(kafka.address(1));
    assert_eq!(leader.outcome("t", 0, &batch(0)), (0, 0));
    kafka.hold_follower("t", 0, 2);
    kafka.hold_follower("t", 0, 3);
    send_unreplicated(&kafka, &mut leader, &batch(1).tagged("lost"), 60_000);
    assert_eq!(Client::connect(kafka.address(1)).describe_producers("t", 0).1[0].last_sequence, 1);
    kafka.stop(1);
    let ends = kafka.log_ends("t", 0);
    assert_eq!((ends.leader, ends.leader_epoch, ends.end), (Some(2), 1, 1));

    let mut successor = Client::connect(kafka.address(2));
    assert_eq!(successor.describe_producers("t", 0).1[0].last_sequence, 0);
    // Another producer takes the offset; then the lost batch is stored as if for the first time.
    kafka.release_follower("t", 0, 3);
    assert_eq!(successor.outcome("t", 0, &Batch::new(ID + 1, 0, 0, 2)), (0, 1));
    assert_eq!(successor.outcome("t", 0, &batch(1)), (0, 3));
    assert_eq!(kafka.replica_state(1, "t", 0).end, 2, "the dead leader still has its tail");

    kafka.restart(1);
    let everywhere: Vec<_> = (1..=3).map(|broker| kafka.records_on(broker, "t", 0)).collect();
    assert_eq!(everywhere[0], everywhere[1]);
    assert_eq!(everywhere[1], everywhere[2]);
    assert!(everywhere[0].iter().all(|record| record.value.as_deref() != Some(b"lost0")));
    assert_eq!(everywhere[0].iter().map(|record| record.leader_epoch).collect::<Vec<_>>(), [0, 1, 1, 1]);
    let last_sequences = |broker| {
        let known = kafka.producers_on(broker, "t", 0);
        known.iter().map(|known| (known.producer_id, known.last_sequence)).collect::<Vec<_>>()
    };
    assert_eq!(last_sequences(1), [(ID, 1), (ID + 1, 1)]);
    assert_eq!(last_sequences(1), last_sequences(2));
}

#[test]
fn frozen_followers_stay_in_sync_and_a_leader_killed_meanwhile_takes_its_tail_along() {
    let kafka = FakeKafka::builder().brokers(3).topic("t", 1).lagging_stay_in_sync(true).start();
    let mut leader = Client::connect(kafka.address(1));
    assert_eq!(leader.outcome("t", 0, &batch(0)), (0, 0));
    kafka.freeze(2);
    kafka.freeze(3);
    send_unreplicated(&kafka, &mut leader, &batch(1).tagged("lost"), 100);
    assert_eq!(flat(&leader.receive_produce().unwrap())[0].2, 7);
    assert_eq!(kafka.in_sync("t", 0).len(), 3);
    // What DescribeProducers says of it is true, and is undone.
    assert_eq!(leader.describe_producers("t", 0).1[0].last_sequence, 1);
    kafka.stop(1);
    assert_eq!(kafka.leader("t", 0), None, "nobody who could lead hears of it");
    kafka.thaw(3);
    assert_eq!(kafka.leader("t", 0), Some(3));
    kafka.thaw(2);
    let mut successor = Client::connect(kafka.address(3));
    assert_eq!(successor.describe_producers("t", 0).1[0].last_sequence, 0);
    assert_eq!(successor.outcome("t", 0, &batch(1)), (0, 1));
    kafka.restart(1);
    assert_eq!(kafka.records_on(1, "t", 0)[1].value.as_deref(), Some(&b"v0"[..]));
    assert_eq!(kafka.records_on(1, "t", 0), kafka.records_on(3, "t", 0));
}

#[test]
fn a_frozen_follower_that_was_expelled_can_not_hold_up_or_lead() {
    let kafka = FakeKafka::builder().brokers(2).topic("t", 1).lagging_stay_in_sync(true).start();
    let mut leader = Client::connect(kafka.address(1));
    kafka.freeze(2);
    send_unreplicated(&kafka, &mut leader, &batch(0), 60_000);
    kafka.expel("t", 0, 2);
    assert_eq!(flat(&leader.receive_produce().unwrap())[0].2, 0);
    kafka.thaw_stale(2);
    assert_eq!(kafka.in_sync("t", 0), [1]);
    kafka.stop(1);
    assert_eq!(kafka.leader("t", 0), None);
    kafka.tell(2);
    assert_eq!(kafka.leader("t", 0), None, "it lacks what was acknowledged");
    kafka.restart(1);
    assert_eq!((kafka.leader("t", 0), kafka.in_sync("t", 0)), (Some(1), vec![1, 2]));
}

#[test]
fn an_unclean_election_takes_acknowledged_records_away() {
    let kafka = three();
    let mut leader = Client::connect(kafka.address(1));
    kafka.hold_follower("t", 0, 3);
    kafka.expel("t", 0, 3);
    assert_eq!(leader.outcome("t", 0, &batch(0)), (0, 0));
    kafka.move_leader("t", 0, 3);
    assert_eq!(kafka.record_count("t"), 0);
    assert_eq!(kafka.in_sync("t", 0), [3, 1, 2]);
    let mut unclean = Client::connect(kafka.address(3));
    assert_eq!(unclean.describe_producers("t", 0), (0, Vec::new()));
    assert_eq!(unclean.fetch_one("t", 0, 1, 1).error_code, 1);
    assert_eq!(kafka.replica_state(1, "t", 0).end, 0);
}

#[test]
fn an_ex_leader_that_heard_nothing_answers_with_what_it_had() {
    let kafka = three();
    kafka.set_min_insync_replicas("t", 2);
    let mut old = Client::connect(kafka.address(1));
    assert_eq!(old.outcome("t", 0, &batch(0)), (0, 0));
    kafka.freeze(1);
    kafka.move_leader("t", 0, 2);
    let mut new = Client::connect(kafka.address(2));
    assert_eq!(new.outcome("t", 0, &batch(1)), (0, 1));
    assert_eq!(new.outcome("t", 0, &batch(2)), (0, 2));
    kafka.stop(3);
    kafka.create_topic("younger", 1);

    kafka.thaw_stale(1);
    let state = kafka.replica_state(1, "t", 0);
    assert_eq!((state.leader_epoch, state.leads, state.end), (0, true, 1));
    // Fetch, ListOffsets and DescribeProducers: old data and error 0, unless the question names the newer epoch.
    for epoch in [-1, 0] {
        let data = old.fetch_one("t", 0, 0, epoch);
        assert_eq!((data.error_code, data.high_watermark), (0, 1));
    }
    assert_eq!(old.fetch_one("t", 0, 0, 1).error_code, 75);
    assert_eq!(old.fetch_one("t", 0, 2, 0).error_code, 1, "beyond its own end");
    assert_eq!(new.fetch_one("t", 0, 0, 0).error_code, 74);
    assert_eq!(old.list_offset("t", 0, -1), (0, 1, 0));
    assert_eq!(old.describe_producers("t", 0).1[0].last_sequence, 0);
    // Metadata as it was: itself, three in sync, and no topic that came since.
    let metadata = old.metadata(&["t", "younger"]);
    let topic =
        |name: &str| metadata.topics.iter().find(|topic| topic.name.as_ref().unwrap().0.as_str() == name).unwrap();
    let partition = &topic("t").partitions[0];
    assert_eq!((partition.leader_id.0, partition.leader_epoch, partition.isr_nodes.len()), (1, 0, 3));
    assert_eq!(topic("younger").error_code, 3);
    // A valid batch is refused, and one that fits the old log is appended and never acknowledged: it counts followers that have left it.
    assert_eq!(old.outcome("t", 0, &batch(3)).0, 45);
    old.send_produce(&[("t", 0, batch(1).tagged("doomed").bytes())], 100);
    assert_eq!(flat(&old.receive_produce().unwrap())[0].2, 7);
    assert_eq!(kafka.records_on(1, "t", 0)[1].value.as_deref(), Some(&b"doomed0"[..]));
    assert_eq!(old.fetch_one("t", 0, 0, 0).high_watermark, 1);

    kafka.tell(1);
    assert_eq!(kafka.records_on(1, "t", 0), kafka.records_on(2, "t", 0));
    assert_eq!(old.describe_producers("t", 0).1[0].last_sequence, 2);
    assert_eq!(old.fetch_one("t", 0, 0, 1).error_code, 6);
    assert_eq!(old.metadata(&["younger"]).topics[0].error_code, 0);
}

#[test]
fn a_follower_that_heard_nothing_knows_an_old_epoch_and_an_old_leader() {
    let kafka = three();
    let mut follower = Client::connect(kafka.address(3));
    assert_eq!(Client::connect(kafka.address(1)).outcome("t", 0, &batch(0)), (0, 0));
    kafka.freeze(3);
    kafka.move_leader("t", 0, 2);
    assert_eq!(Client::connect(kafka.address(2)).outcome("t", 0, &batch(1)), (0, 1));
    kafka.thaw_stale(3);
    assert_eq!(follower.metadata(&["t"]).topics[0].partitions[0].leader_id.0, 1);
    assert_eq!(follower.fetch_one("t", 0, 0, 0).error_code, 6);
    assert_eq!(follower.fetch_one("t", 0, 0, 1).error_code, 75);
    assert_eq!(follower.describe_producers("t", 0).1[0].last_sequence, 0);
    kafka.tell(3);
    assert_eq!(follower.fetch_one("t", 0, 0, 0).error_code, 74);
    assert_eq!(follower.describe_producers("t", 0).1[0].last_sequence, 1);
    assert_eq!(follower.metadata(&["t"]).topics[0].partitions[0].leader_id.0, 2);
}

#[test]
fn an_ex_leader_that_is_killed_and_started_again_has_heard_of_it() {
    let kafka = three();
    kafka.freeze(1);
    kafka.move_leader("t", 0, 2);
    kafka.stop(1);
    kafka.restart(1);
    let mut old = Client::connect(kafka.address(1));
    assert_eq!(old.outcome("t", 0, &batch(0)).0, 6);
    assert_eq!(old.metadata(&["t"]).topics[0].partitions[0].leader_id.0, 2);
}

#[test]
fn a_new_leader_can_not_name_the_end_before_it_knows_what_is_committed() {
    let kafka = three();
    let mut leader = Client::connect(kafka.address(1));
    kafka.hold_follower("t", 0, 3);
    send_unreplicated(&kafka, &mut leader, &batch(0), 0);
    kafka.move_leader("t", 0, 2);
    let mut successor = Client::connect(kafka.address(2));
    let now = 1 << 40;
    assert_eq!(successor.list_offset("t", 0, -1), (5, -1, -1));
    assert_eq!(successor.list_offset("t", 0, now).0, 5);
    assert_eq!(successor.list_offset("t", 0, -2), (0, 0, 1));
    assert_eq!(successor.fetch_one("t", 0, 0, 1).high_watermark, 0);
    // The batch is there, and is a duplicate that waits like any other.
    successor.send_produce(&[("t", 0, batch(0).bytes())], 60_000);
    assert_eq!(successor.answer_within(SHORT).receive_produce().unwrap_err(), Lost::Silent);
    kafka.release_follower("t", 0, 3);
    assert_eq!(flat(&successor.answer_within(LONG).receive_produce().unwrap()), [("t".to_owned(), 0, 0, 0)]);
    assert_eq!(successor.list_offset("t", 0, -1), (0, 1, 1));
    assert_eq!(successor.list_offset("t", 0, now), (0, -1, -1));
}

#[test]
fn a_cut_tail_leaves_other_producers_known_even_if_retention_took_their_batches() {
    let kafka = FakeKafka::builder().brokers(2).topic("t", 1).start();
    let mut leader = Client::connect(kafka.address(1));
    assert_eq!(leader.outcome("t", 0, &Batch::new(ID, 0, 0, 1)), (0, 0));
    assert_eq!(leader.outcome("t", 0, &Batch::new(ID + 1, 0, 0, 1)), (0, 1));
    kafka.delete_records_before("t", 0, 1);
    kafka.hold_replication("t", 0);
    leader.send_produce(&[("t", 0, Batch::new(ID + 1, 0, 1, 1).bytes())], 0);
    assert_eq!(flat(&leader.receive_produce().unwrap())[0].2, 7);
    kafka.move_leader("t", 0, 2);
    kafka.release_replication("t", 0);
    assert_eq!(kafka.replica_state(1, "t", 0).end, 2);
    let known = kafka.producers_on(1, "t", 0);
    assert_eq!(
        known.iter().map(|known| (known.producer_id, known.last_sequence)).collect::<Vec<_>>(),
        [(ID, 0), (ID + 1, 0)]
    );
}

#[test]
fn a_produce_that_waits_for_replicas_of_a_deleted_topic_is_answered_3_though_the_name_is_taken_again() {
    let kafka = three();
    kafka.hold_replication("t", 0);
    let mut leader = Client::connect(kafka.address(1));
    send_unreplicated(&kafka, &mut leader, &batch(0), 60_000);
    kafka.delete_topic("t");
    kafka.create_topic("t", 1);
    assert_eq!(flat(&leader.receive_produce().unwrap())[0].2, 3);
    assert_eq!(kafka.record_count("t"), 0);
}

#[test]
fn reading_is_denied_while_writing_is_allowed_and_the_denial_outlives_the_topic() {
    let kafka = FakeKafka::builder().topic("t", 1).start();
    kafka.deny("t", Access::Read);
    kafka.deny("not-there", Access::Describe);
    let mut client = Client::connect(kafka.address(1));
    let read = |client: &mut Client| (client.fetch_one("t", 0, 0, -1).error_code, client.describe_producers("t", 0).0);
    assert_eq!(client.outcome("t", 0, &batch(0)), (0, 0));
    assert_eq!(read(&mut client), (29, 29));
    assert_eq!((client.list_offset("t", 0, -1).0, client.metadata(&["t"]).topics[0].error_code), (0, 0));
    assert_eq!(client.metadata(&["not-there"]).topics[0].error_code, 29);
    kafka.delete_topic("t");
    assert_eq!(read(&mut client), (29, 29), "29 before 3");
    kafka.create_topic("t", 1);
    assert_eq!(read(&mut client), (29, 29));
    kafka.allow("t", Access::Read);
    assert_eq!(read(&mut client), (0, 0));
}
