//! Servers that can't be used, and settings.

use super::rig::{Rig, options};
use fake_kafka::{FakeKafka, Listener};
use outboxd_kafka::outcome::{Event, Outcome};
use outboxd_kafka::producer::{KafkaOptions, Producer};
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
fn every_server_that_was_tried_is_named() {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let servers = vec![free(), free(), "no-such-host.invalid:9092".to_owned()];
    let mut rig = Rig::unready(KafkaOptions { bootstrap_servers: servers.clone(), ..KafkaOptions::default() });
    rig.handle.producer_id();
    let why = rig.no_producer();
    for server in &servers {
        assert!(why.text.contains(server), "{why}");
    }
    assert!(why.text.contains("refused") && why.text.contains("resolve") && !why.hint.is_empty(), "{why}");
    let why = rig.not_opened("users");
    assert!(why.text.contains(&servers[0]), "{why}");
    let batch = rig.batch("users", 0, &["x"]);
    match rig.try_once(&batch) {
        Outcome::NotAppended(why) => assert!(why.text.contains(&servers[0]), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(rig.stop());
}

#[test]
fn what_is_not_a_plaintext_kafka_is_told_apart() {
    for (listener, word) in [
        (Listener::Http, "not Kafka"),
        (Listener::Tls { alert: true }, "TLS"),
        (Listener::Tls { alert: false }, "TLS"),
        (Listener::Sasl, "SASL"),
    ] {
        let kafka = FakeKafka::builder().topic("users", 1).listener(listener).start();
        let mut rig = Rig::unready(options(&kafka));
        let why = rig.not_opened("users");
        assert!(why.hint.contains(word), "{listener:?}: {why}");
        assert!(why.text.contains(&kafka.bootstrap()), "{why}");
        // A listener that is mended is taken up again.
        kafka.set_listener(1, Listener::Plaintext);
        assert_eq!(rig.opened("users").len(), 1);
    }
}

#[test]
fn a_second_server_serves_when_the_first_is_away() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut servers = kafka.bootstrap_servers();
    servers.insert(0, refusing);
    let mut rig = Rig::with(KafkaOptions { bootstrap_servers: servers, ..options(&kafka) });
    assert_eq!(rig.open("users").len(), 1);
}

#[test]
fn a_silent_server_is_given_up_after_the_setup_timeout() {
    // The system accepts connections for it; nobody answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = silent.local_addr().unwrap().to_string();
    let mut rig = Rig::unready(KafkaOptions {
        bootstrap_servers: vec![server.clone()],
        socket_connection_setup_timeout_ms: 50,
        ..KafkaOptions::default()
    });
    let why = rig.not_opened("users");
    assert!(rig.no_event_differs(&why), "a failure that goes on has one text");
    assert!(why.text.contains(&server) && why.text.contains("did not answer in time"), "{why}");
}

#[test]
fn pauses_between_attempts_are_those_of_the_settings() {
    let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let mut rig = Rig::unready(KafkaOptions {
        bootstrap_servers: vec![refusing],
        reconnect_backoff_ms: 250,
        reconnect_backoff_max_ms: 250,
        ..KafkaOptions::default()
    });
    rig.handle.producer_id();
    rig.no_producer();
    let first = Instant::now();
    rig.no_producer();
    rig.no_producer();
    assert!(first.elapsed() >= Duration::from_millis(2 * 200 - 50), "a fifth of jitter, {:?}", first.elapsed());

    let kafka = FakeKafka::builder().start();
    let options = KafkaOptions { retry_backoff_ms: 250, retry_backoff_max_ms: 250, ..options(&kafka) };
    let mut rig = Rig::with(options);
    rig.not_opened("users");
    let first = Instant::now();
    for _ in 0..2 {
        let event = rig.next();
        assert!(matches!(event, Event::NotOpened { .. }), "{event:?}");
    }
    assert!(first.elapsed() >= Duration::from_millis(2 * 200 - 50), "{:?}", first.elapsed());
}

#[test]
fn bad_settings_are_refused_at_the_start() {
    let error = |options| Producer::start(options).err().map(|error| error.to_string());
    assert_eq!(error(KafkaOptions::default()).as_deref(), Some("no bootstrap server is named"));
    let zero = KafkaOptions { bootstrap_servers: vec!["a:1".into()], senders_per_broker: 0, ..KafkaOptions::default() };
    assert_eq!(error(zero).as_deref(), Some("senders_per_broker must be at least 1"));
}
