//! What a connection does, and what that becomes.

use super::rig::{Rig, class, options, values, wait_until};
use fake_kafka::{ApiKey, FakeKafka, Fault};
use outboxd_kafka::outcome::Outcome;
use outboxd_kafka::producer::KafkaOptions;
use std::collections::BTreeSet;
use std::time::Duration;

#[test]
fn a_connection_lost_after_the_last_byte_is_unsure_and_not_used_again() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { request_timeout_ms: 100, ..options(&kafka) });
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
        let batch = rig.batch("users", 0, &[&name]);
        assert_eq!(class(&rig.try_once(&batch)), "unsure", "{name}");
        assert_eq!(rig.until_stored(&batch), at as i64, "{name}");
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
    let first = rig.batch("users", 0, &["first"]);
    assert_eq!(class(&rig.try_once(&first)), "stored");
    kafka.stop(1);
    let batch = rig.batch("users", 0, &["second"]);
    for _ in 0..3 {
        match rig.try_once(&batch) {
            Outcome::NotAppended(why) => {
                assert!(!why.text.contains("users-0"), "{why}");
                assert!(why.text.contains("refused") && why.text.contains(&kafka.bootstrap()), "{why}");
                assert!(!why.hint.is_empty());
            }
            other => panic!("{other:?}"),
        }
    }
    kafka.restart(1);
    assert_eq!(rig.until_stored(&batch), 1);
    assert_eq!(values(&kafka, "users", 0), ["first", "second"]);
}

#[test]
fn an_idle_connection_that_the_broker_closed_is_noticed_before_it_is_written_to() {
    let kafka = FakeKafka::builder().topic("users", 1).idle_close(Duration::from_millis(50)).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    for round in 0..3 {
        let batch = rig.batch("users", 0, &["x"]);
        assert_eq!(rig.try_once(&batch), Outcome::Stored { offset: round });
        wait_until("the broker closes what is idle", || kafka.open_connections(1) == 0);
    }
}

#[test]
fn our_own_idle_connections_are_closed_and_opened_again() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::with(KafkaOptions { connections_max_idle_ms: 60, ..options(&kafka) });
    rig.open("users");
    for round in 0..3 {
        let batch = rig.batch("users", 0, &["x"]);
        assert_eq!(rig.try_once(&batch), Outcome::Stored { offset: round });
        wait_until("idle connections are closed", || kafka.open_connections(1) == 0);
    }
}

#[test]
fn an_address_that_the_cluster_named_itself_has_a_hint_of_its_own() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    kafka.advertise(1, "127.0.0.1", nobody.port().into());
    let mut rig = Rig::start(&kafka);
    let why = rig.not_opened("users");
    assert!(why.text.starts_with("leader 1: ") && why.text.contains(&nobody.to_string()), "{why}");
    assert!(why.hint.contains("advertised.listeners"), "{why}");
}
