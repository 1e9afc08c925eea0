//! Every code there is, to a producer under load: no lane stands without a reason, nothing is lost, nothing doubled.

use super::rig::{PATIENCE, Rig, options, values};
use fake_kafka::{FakeKafka, Fault};
use outboxd_kafka::error::{Class, ErrorCode};
use outboxd_kafka::outcome::{Batch, Event, Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;
use std::time::Instant;

const PARTITIONS: i32 = 4;

struct Lane {
    /// The codes that its broker is going to answer.
    script: Vec<i16>,
    answered: Vec<i16>,
    batch: Batch,
    stored: usize,
}

#[test]
fn each_code_once_loses_and_doubles_nothing() {
    let kafka = FakeKafka::builder().brokers(2).topic("users", PARTITIONS).start();
    let mut rig = Rig::with(KafkaOptions { retry_backoff_ms: 5, retry_backoff_max_ms: 20, ..options(&kafka) });
    rig.open("users");
    let mut lanes: Vec<Lane> = (0..PARTITIONS)
        .map(|partition| {
            let batch = rig.batch("users", partition, &["0 a", "0 b"]);
            Lane { script: Vec::new(), answered: Vec::new(), batch, stored: 0 }
        })
        .collect();
    for (partition, code) in (0..PARTITIONS).cycle().zip((-2..=200).filter(|code| *code != 0)) {
        let lane = &mut lanes[partition as usize];
        kafka.fault("users", partition, Fault::AnswerBefore(code));
        lane.script.push(code);
        // What may come after the append does.
        if ErrorCode(code).class(true) == Class::Unsure {
            kafka.fault("users", partition, Fault::Pass);
            kafka.fault("users", partition, Fault::AppendThenAnswer(code));
            lane.script.push(code);
        }
        kafka.fault("users", partition, Fault::Pass);
    }
    for lane in &lanes {
        rig.send(&lane.batch, Manner::Merged);
    }
    let deadline = Instant::now() + PATIENCE;
    let busy = |lanes: &[Lane]| lanes.iter().any(|lane| lane.answered.len() < lane.script.len());
    while busy(&lanes) {
        let event = rig.events.recv_deadline(deadline).expect("no lane stands");
        let Event::Outcome { batch: id, outcome, .. } = event else { continue };
        let lane = lanes.iter_mut().find(|lane| lane.batch.id == id).expect("a batch that is under way");
        let manner = match outcome {
            Outcome::Stored { .. } => {
                lane.stored += 1;
                let values = [format!("{} a", lane.stored), format!("{} b", lane.stored)];
                lane.batch = rig.batch("users", lane.batch.partition, &values.each_ref().map(String::as_str));
                Manner::Merged
            }
            Outcome::NotAppended(why)
            | Outcome::Unsure(why)
            | Outcome::Refused(why)
            | Outcome::OutOfSequence(why)
            | Outcome::Rejected { why, .. } => {
                // Without a code: the connection was closed because of one that another lane was answered.
                if let Some(code) = why.code {
                    assert!(why.text.contains(&ErrorCode(code).to_string()), "{why}");
                    lane.answered.push(code);
                }
                Manner::Alone
            }
        };
        rig.send(&lane.batch, manner);
    }
    for (partition, lane) in (0..).zip(&lanes) {
        assert_eq!(lane.answered, lane.script, "partition {partition}");
        // The last one is still under way.
        let expected: Vec<String> =
            (0..=lane.stored).flat_map(|number| [format!("{number} a"), format!("{number} b")]).collect();
        rig.outcome(&lane.batch);
        rig.until_stored(&lane.batch);
        assert_eq!(values(&kafka, "users", partition), expected, "partition {partition}");
    }
    kafka.assert_no_complaints();
}
