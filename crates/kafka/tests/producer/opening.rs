//! Topics and producer ids, until they are there.

use super::rig::{PATIENCE, Rig, class, options};
use fake_kafka::{Access, ApiKey, FakeKafka, Fault};
use outboxd_kafka::outcome::Event;
use outboxd_kafka::producer::KafkaOptions;

#[test]
fn the_first_producer_id_takes_two_tries_and_each_is_new() {
    let kafka = FakeKafka::builder().start();
    let mut rig = Rig::start(&kafka);
    assert_eq!(rig.unexpected, 0, "the 14 every broker begins with is not worth an event");
    let second = rig.producer_id();
    assert_ne!(second, rig.producer);
    kafka.fault_api(ApiKey::InitProducerId, Fault::AnswerBefore(31));
    rig.handle.producer_id();
    match rig.next() {
        Event::NoProducer { why } => assert!(why.code == Some(31) && why.hint.contains("IdempotentWrite"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(rig.next(), Event::Producer { id, .. } if id != second));
}

#[test]
fn an_unknown_topic_is_opened_when_it_appears() {
    let kafka = FakeKafka::builder().start();
    let mut rig = Rig::start(&kafka);
    let why = rig.not_opened("users");
    assert!(why.code == Some(3) && why.text.contains("topic users does not exist"), "{why}");
    assert!(why.hint.contains("--create --topic users"), "{why}");
    let batch = rig.batch("users", 0, &["x"]);
    assert_eq!(class(&rig.try_once(&batch)), "not appended");
    kafka.create_topic("users", 3);
    assert_eq!(rig.opened("users").len(), 3);
    assert_eq!(rig.until_stored(&batch), 0);
    assert!(kafka.requests_of(ApiKey::Metadata).iter().all(|request| request.version == 7));
}

#[test]
fn many_topics_are_asked_for_in_parts_and_all_are_opened() {
    let names: Vec<String> = (0..250).map(|number| format!("users-{number}")).collect();
    let kafka = FakeKafka::builder().start();
    for name in &names {
        kafka.create_topic(name, 1);
    }
    let mut rig = Rig::with_room(options(&kafka), 300);
    for name in &names {
        rig.handle.open(&name.as_str().into());
    }
    for name in &names {
        assert_eq!(rig.opened(name).len(), 1);
    }
    let asked: Vec<usize> =
        kafka.requests_of(ApiKey::Metadata).iter().map(|request| request.partitions.len()).collect();
    assert!(asked.contains(&100) && asked.iter().all(|topics| *topics <= 100), "{asked:?}");
    kafka.assert_no_complaints();
}

#[test]
fn asking_often_takes_no_pause_away() {
    let kafka = FakeKafka::builder().coordinator_loads(false).start();
    let day = 24 * 3_600_000;
    let mut rig = Rig::with(KafkaOptions { retry_backoff_ms: day, retry_backoff_max_ms: day, ..options(&kafka) });
    rig.not_opened("users");
    let asked = kafka.requests_of(ApiKey::Metadata).len();
    for _ in 0..5 {
        rig.handle.open(&"users".into());
        // Its answer comes after whatever the question before it led to.
        rig.producer_id();
    }
    assert_eq!(kafka.requests_of(ApiKey::Metadata).len(), asked);
    // Another topic does not wait for this one's pause.
    kafka.create_topic("orders", 2);
    assert_eq!(rig.open("orders").len(), 2);
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
    assert!(why.code == Some(5) && why.text.contains("a partition without a leader"), "{why}");
    // The others of its topic are open all the same.
    let ends = |starts: Vec<outboxd_kafka::outcome::PartitionStart>| {
        starts.iter().map(|start| start.end_offset).collect::<Vec<_>>()
    };
    assert_eq!(ends(rig.opened("users")), [Some(0), None]);
    let why = rig.not_opened("no such name");
    assert!(why.code == Some(17) && why.text.contains("' '"), "{why}");
    kafka.allow("secret", Access::Describe);
    kafka.move_leader("users", 1, 1);
    assert_eq!(rig.opened("secret").len(), 1);
    assert_eq!(ends(rig.opened("users")), [Some(0), Some(0)]);
}

#[test]
fn ends_and_epochs_are_told_at_each_opening() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for _ in 0..3 {
        let batch = rig.batch("users", 0, &["x"]);
        assert_eq!(class(&rig.try_once(&batch)), "stored");
    }
    kafka.move_leader("users", 0, 2);
    let epoch = kafka.log_ends("users", 0).leader_epoch;
    let start = rig.open("users")[0];
    assert_eq!((start.end_offset, start.leader_epoch), (Some(3), epoch));
    // Created anew: end and epoch went down, and that is believed.
    kafka.delete_topic("users");
    kafka.create_topic("users", 1);
    let start = rig.open("users")[0];
    assert_eq!((start.end_offset, start.leader_epoch), (Some(0), kafka.log_ends("users", 0).leader_epoch));
    assert!(start.leader_epoch < epoch);
    let mut fresh = rig.second_owner();
    fresh.open("users");
    let batch = fresh.batch("users", 0, &["anew"]);
    assert_eq!(fresh.until_stored(&batch), 0);
}

#[test]
fn new_partitions_are_found_by_age_and_told_once() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { metadata_max_age_ms: 50, ..options(&kafka) });
    rig.open("users");
    let batch = rig.batch("users", 0, &["x"]);
    assert_eq!(class(&rig.try_once(&batch)), "stored");
    kafka.add_partitions("users", 3);
    let opened = rig.opened("users");
    assert_eq!(opened.iter().map(|p| p.end_offset).collect::<Vec<_>>(), [Some(1), Some(0), Some(0)]);
    let asked = kafka.requests_of(ApiKey::Metadata).len();
    kafka.wait_for_requests(asked + 3, PATIENCE, |request| request.api == ApiKey::Metadata);
    assert!(rig.events.is_empty(), "no change, no event");
    let batch = rig.batch("users", 2, &["x"]);
    assert_eq!(class(&rig.try_once(&batch)), "stored");
}
