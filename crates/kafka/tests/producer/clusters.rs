//! Invariant I4: a triple belongs to one cluster. Another one is told from ours before anything is sent to it or asked of it.

use crate::rig::{Rig, class, options, values, wait_until};
use fake_kafka::{ApiKey, FakeKafka};
use outboxd_kafka::outcome::{Batch, Event, Evidence, Manner, Sought};

fn kafka(id: Option<&str>) -> FakeKafka {
    FakeKafka::builder().topic("users", 2).cluster_id(id).first_producer_id(0).coordinator_loads(false).start()
}

fn of(batch: &Batch, cluster: Option<&str>) -> Batch {
    Batch { cluster: cluster.map(Into::into), ..batch.clone() }
}

fn asked(kafka: &FakeKafka, api: ApiKey) -> usize {
    kafka.requests().iter().filter(|request| request.api == api).count()
}

#[test]
fn a_producer_id_comes_with_its_cluster() {
    for id in [Some("abc"), None] {
        let kafka = kafka(id);
        let mut rig = Rig::unready(options(&kafka));
        rig.handle.producer_id();
        match rig.next() {
            Event::Producer { cluster, .. } => assert_eq!(cluster.as_deref(), id),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_batch_of_another_cluster_is_neither_sent_nor_asked_about() {
    let kafka = kafka(Some("B"));
    let mut rig = Rig::start(&kafka);
    let mine = rig.batch("users", 0, &["a"]);
    rig.until_stored(&mine);
    // The numbers are the very ones that this cluster knows of somebody else's batch.
    let theirs = of(&mine, Some("A"));
    for sought in [Sought::Resend, Sought::Stored] {
        match rig.look_up(&theirs, sought) {
            Evidence::OtherCluster(why) => {
                assert_eq!(why.text, "this is Kafka cluster B, and an earlier run sent to cluster A");
            }
            other => panic!("{other:?}"),
        }
    }
    let before = asked(&kafka, ApiKey::Produce);
    rig.send(&theirs, Manner::Merged);
    assert_eq!(class(&rig.outcome(&theirs)), "not appended");
    assert!(rig.last_why.as_ref().unwrap().text.starts_with("this is Kafka cluster B"), "{:?}", rig.last_why);
    assert_eq!(asked(&kafka, ApiKey::Produce), before);
    assert_eq!((asked(&kafka, ApiKey::DescribeProducers), asked(&kafka, ApiKey::Fetch)), (0, 0));

    // What was made before clusters were noted, or where they have no name, is judged as ever.
    assert_eq!(rig.look_up(&of(&mine, None), Sought::Resend), Evidence::Remembered);
    assert_eq!(rig.look_up(&of(&mine, Some("B")), Sought::Stored), Evidence::StoredAt(0));
}

#[test]
fn a_cluster_without_a_name_can_not_be_told_apart() {
    let kafka = kafka(None);
    let mut rig = Rig::start(&kafka);
    let batch = rig.batch("users", 0, &["a"]);
    rig.until_stored(&batch);
    assert_eq!(rig.look_up(&of(&batch, Some("A")), Sought::Resend), Evidence::Remembered);
}

#[test]
fn another_cluster_at_the_old_address_is_refused_while_we_run() {
    let kafka = kafka(Some("A"));
    let mut rig = Rig::start(&kafka);
    let first = of(&rig.batch("users", 0, &["a"]), Some("A"));
    rig.until_stored(&first);
    kafka.become_cluster(Some("B"), 0);
    let produced = asked(&kafka, ApiKey::Produce);
    let second = of(&rig.batch("users", 0, &["b"]), Some("A"));
    for manner in [Manner::Merged, Manner::Alone, Manner::Merged] {
        rig.send(&second, manner);
        assert_eq!(class(&rig.outcome(&second)), "not appended");
        let why = rig.last_why.clone().unwrap();
        assert!(
            why.text.contains("belongs to Kafka cluster B, and this run works with cluster A")
                && why.hint.contains("restart outboxd"),
            "{why}"
        );
    }
    rig.handle.look_up(second.clone(), Sought::Resend);
    let why = rig.no_evidence(&second);
    assert!(why.text.contains("cluster B"), "{why}");
    let why = rig.not_opened("users");
    assert!(why.text.contains("cluster B"), "{why}");
    let why = {
        rig.handle.producer_id();
        rig.no_producer()
    };
    assert!(why.text.contains("cluster B"), "{why}");
    assert_eq!(asked(&kafka, ApiKey::Produce), produced);
    assert_eq!((asked(&kafka, ApiKey::DescribeProducers), asked(&kafka, ApiKey::Fetch)), (0, 0));
    assert_eq!(values(&kafka, "users", 0), [""; 0]);

    // It was a mistake, and it is mended: everything goes on.
    kafka.become_cluster(Some("A"), 0);
    rig.until_stored(&second);
    assert_eq!(values(&kafka, "users", 0), ["b"]);
}

#[test]
fn what_stands_behind_an_open_connection_is_looked_at_with_every_metadata() {
    let kafka = kafka(Some("A"));
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let connections = kafka.connections_opened();
    kafka.rename_cluster(Some("B"));
    let why = rig.not_opened("users");
    assert!(why.text.contains("cluster B") && why.hint.contains("restart outboxd"), "{why}");
    wait_until("the connection is closed", || kafka.connections_opened() > connections);
}

#[test]
fn a_stray_server_among_ours_is_passed_by() {
    let (ours, stray) = (kafka(Some("A")), kafka(Some("B")));
    let mut servers = ours.bootstrap_servers();
    servers.extend(stray.bootstrap_servers());
    let mut options = options(&ours);
    options.bootstrap_servers = servers;
    let mut rig = Rig::with(options);
    let batch = rig.batch("users", 0, &["a"]);
    match rig.until_stored(&batch) {
        0 => {}
        other => panic!("{other}"),
    }
    // Whichever answered first is ours, and the other one gets nothing.
    let stored = [&ours, &stray].map(|kafka| kafka.records("users", 0).len());
    assert_eq!(stored.iter().sum::<usize>(), 1, "{stored:?}");
}
