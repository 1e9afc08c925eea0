//! Drain, stop, and brokers that throttle.

use super::rig::{PATIENCE, Rig, class, options, wait_until};
use fake_kafka::{ApiKey, FakeKafka, Fault};
use outboxd_kafka::outcome::{Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;
use std::time::{Duration, Instant};

#[test]
fn a_drain_gives_up_what_waits_for_a_connection_and_waits_for_what_was_written() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    let mut rig = Rig::start(&kafka);
    let mut other = rig.second_owner();
    rig.open("users");
    other.open("users");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let written = rig.batch("users", 0, &["written"]);
    rig.send(&written, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    // Broker 2 accepts connections and says nothing on them.
    kafka.freeze(2);
    let waiting: Vec<_> = (0..3).map(|_| rig.batch("users", 1, &["waiting"])).collect();
    for batch in &waiting {
        rig.send(batch, Manner::Alone);
    }
    let behind = rig.batch("users", 0, &["behind what was written"]);
    rig.send(&behind, Manner::Merged);
    let foreign = other.batch("users", 1, &["another relay's"]);
    other.send(&foreign, Manner::Alone);
    rig.handle.drain();
    for batch in waiting.iter().chain([&behind]) {
        match rig.outcome(batch) {
            Outcome::NotAppended(why) => assert!(why.text.contains("draining"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let late = rig.batch("users", 0, &["late"]);
    assert_eq!(class(&rig.try_once(&late)), "not appended", "nothing new is taken");
    assert!(rig.nothing_for(&written));
    gate.open();
    assert_eq!(class(&rig.outcome(&written)), "stored");
    assert!(other.nothing_for(&foreign), "one relay's drain is not another's");
    kafka.thaw(2);
    assert_eq!(class(&other.outcome(&foreign)), "stored");
    assert_eq!(kafka.record_count("users"), 2);
}

#[test]
fn a_drain_into_a_full_channel_does_not_block() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", 2).start();
    let mut rig = Rig::with_room(options(&kafka), 4);
    rig.open("users");
    kafka.freeze(2);
    let batches: Vec<_> = (0..3).map(|_| rig.batch("users", 1, &["x"])).collect();
    for batch in &batches {
        rig.send(batch, Manner::Merged);
    }
    // Fill the channel with what is not an outcome.
    for _ in 0..4 {
        rig.handle.producer_id();
    }
    wait_until("the channel is full", || rig.events.is_full());
    rig.handle.drain();
    for batch in &batches {
        assert_eq!(class(&rig.outcome(batch)), "not appended");
    }
}

#[test]
fn a_stop_cuts_off_what_is_under_way() {
    let kafka = FakeKafka::builder().topic("users", 2).start();
    let mut rig = Rig::with(KafkaOptions { senders_per_broker: 1, ..options(&kafka) });
    rig.open("users");
    let gate = kafka.gate();
    kafka.fault("users", 0, Fault::DelayUntil(gate.clone()));
    let under_way = rig.batch("users", 0, &["under way"]);
    rig.send(&under_way, Manner::Merged);
    gate.wait_until_reached(1, PATIENCE);
    let waiting = rig.batch("users", 1, &["waiting"]);
    rig.send(&waiting, Manner::Merged);
    assert!(rig.stop(), "all threads ended");
    assert_eq!(class(&rig.outcome(&under_way)), "unsure");
    assert_eq!(class(&rig.outcome(&waiting)), "not appended");
    gate.open();
}

#[test]
fn throttling_is_waited_out_and_a_drain_ends_the_wait() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let mut rig = Rig::start(&kafka);
    rig.open("users");
    let pause = Duration::from_millis(300);
    kafka.fault("users", 0, Fault::Throttle(pause));
    for text in ["throttled", "after it"] {
        let batch = rig.batch("users", 0, &[text]);
        assert_eq!(class(&rig.try_once(&batch)), "stored");
    }
    let arrived: Vec<Instant> = kafka.requests_of(ApiKey::Produce).iter().map(|request| request.arrived).collect();
    assert!(arrived[1] - arrived[0] >= pause, "{:?}", arrived[1] - arrived[0]);

    kafka.fault("users", 0, Fault::Throttle(Duration::from_secs(600)));
    let batch = rig.batch("users", 0, &["throttled for long"]);
    assert_eq!(class(&rig.try_once(&batch)), "stored");
    let waiting = rig.batch("users", 0, &["waiting"]);
    rig.send(&waiting, Manner::Merged);
    rig.handle.drain();
    assert_eq!(class(&rig.outcome(&waiting)), "not appended");
    assert!(rig.stop());
}
