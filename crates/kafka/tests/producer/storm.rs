//! Random mischief under load, with a printed seed: nothing lost, nothing twice, nothing out of order, every send answered once.

use super::rig::{PATIENCE, Rig, options, values};
use fake_kafka::{FakeKafka, Fault};
use outboxd_kafka::outcome::{Batch, Event, Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;
use std::time::{Duration, Instant};

const PARTITIONS: i32 = 6;
const BATCHES_PER_LANE: usize = 150;

struct Lane {
    relay: usize,
    partition: i32,
    stored: usize,
    batch: Option<Batch>,
    in_flight: bool,
    not_before: Instant,
    manner: Manner,
}

#[test]
fn a_storm_of_faults_loses_and_doubles_nothing() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let kafka = FakeKafka::builder().brokers(3).topic("users", PARTITIONS).start();
    let mut rig = Rig::with(KafkaOptions {
        request_timeout_ms: 100,
        retry_backoff_ms: 10,
        retry_backoff_max_ms: 50,
        reconnect_backoff_ms: 10,
        reconnect_backoff_max_ms: 50,
        ..options(&kafka)
    });
    let other = rig.second_owner();
    rig.open("users");
    let mut relays = [rig, other];
    relays[1].open("users");
    let now = Instant::now();
    let mut lanes: Vec<Lane> = (0..2)
        .flat_map(|relay| (0..PARTITIONS).map(move |partition| (relay, partition)))
        .map(|(relay, partition)| Lane {
            relay,
            partition,
            stored: 0,
            batch: None,
            in_flight: false,
            not_before: now,
            manner: Manner::Merged,
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    let mut away: Option<(i32, bool)> = None;
    while lanes.iter().any(|lane| lane.stored < BATCHES_PER_LANE) {
        assert!(Instant::now() < deadline, "{:?}", lanes.iter().map(|lane| lane.stored).collect::<Vec<_>>());
        for lane in lanes.iter_mut().filter(|lane| !lane.in_flight && Instant::now() >= lane.not_before) {
            let relay = &mut relays[lane.relay];
            if lane.batch.is_none() && lane.stored < BATCHES_PER_LANE {
                let rows: Vec<String> =
                    (0..random.usize(1..4)).map(|row| format!("{} {} {row}", lane.relay, lane.stored)).collect();
                lane.batch =
                    Some(relay.batch("users", lane.partition, &rows.iter().map(String::as_str).collect::<Vec<_>>()));
            }
            if let Some(batch) = &lane.batch {
                relay.handle.send(batch.clone(), lane.manner).expect("room for one batch of each lane");
                lane.in_flight = true;
            }
        }
        mischief(&kafka, &mut random, &mut away);
        for (index, relay) in relays.iter_mut().enumerate() {
            while let Ok(event) = relay.events.recv_timeout(Duration::from_millis(1)) {
                let Event::Outcome { batch, outcome, .. } = event else { continue };
                let lane = lanes
                    .iter_mut()
                    .find(|lane| lane.relay == index && lane.batch.as_ref().is_some_and(|sent| sent.id == batch))
                    .expect("an outcome of a batch that is under way");
                assert!(std::mem::take(&mut lane.in_flight), "a second outcome: {outcome:?}");
                lane.manner = match outcome {
                    Outcome::Stored { .. } => {
                        lane.stored += 1;
                        lane.batch = None;
                        Manner::Merged
                    }
                    Outcome::Unsure(_) => Manner::Alone,
                    Outcome::NotAppended(_) => lane.manner,
                    other => panic!("{other:?}"),
                };
                if lane.batch.is_some() {
                    lane.not_before = Instant::now() + Duration::from_millis(random.u64(1..20));
                }
            }
        }
    }
    for lane in &lanes {
        let prefix = format!("{} ", lane.relay);
        let stored: Vec<String> =
            values(&kafka, "users", lane.partition).into_iter().filter(|v| v.starts_with(&prefix)).collect();
        let mut batches: Vec<(usize, usize)> = Vec::new();
        for value in &stored {
            let numbers: Vec<usize> = value.split(' ').map(|number| number.parse().unwrap()).collect();
            match batches.last_mut() {
                Some((batch, rows)) if *batch == numbers[1] => {
                    assert_eq!(*rows, numbers[2], "{stored:?}");
                    *rows += 1;
                }
                _ => {
                    assert_eq!((batches.len(), 0), (numbers[1], numbers[2]), "{stored:?}");
                    batches.push((numbers[1], 1));
                }
            }
        }
        assert_eq!(batches.len(), BATCHES_PER_LANE, "partition {}", lane.partition);
    }
    kafka.assert_no_complaints();
}

fn mischief(kafka: &FakeKafka, random: &mut fastrand::Rng, away: &mut Option<(i32, bool)>) {
    let partition = random.i32(0..PARTITIONS);
    let broker = random.i32(1..4);
    match random.u32(0..60) {
        0 if away.is_none() => {
            kafka.stop(broker);
            *away = Some((broker, false));
        }
        1 if away.is_none() => {
            kafka.freeze(broker);
            *away = Some((broker, true));
        }
        2..5 => match away.take() {
            Some((broker, true)) => kafka.thaw(broker),
            Some((broker, false)) => kafka.restart(broker),
            None => {}
        },
        5..8 if away.is_none() => kafka.move_leader("users", partition, broker),
        8 => kafka.close_connections(broker),
        9..20 => {
            let code = *random.choice(&[6, 7, 19, 3, 20, 56, -1]).unwrap();
            let fault = match random.u32(0..8) {
                0 if code != 20 => Fault::AnswerBefore(code),
                1 if code != 19 => Fault::AppendThenAnswer(code),
                2 => Fault::CloseBefore,
                3 => Fault::AppendThenClose,
                4 => Fault::CutAnswer,
                5 => Fault::OmitPartition,
                6 => Fault::Throttle(Duration::from_millis(20)),
                _ => Fault::ShuffleAnswer,
            };
            kafka.fault("users", partition, fault);
        }
        _ => {}
    }
}
