//! The sink on a real Apache Kafka: that the fake one tells no tales.
//!
//! `OUTBOXD_TEST_KAFKA="4.3.0=127.0.0.1:9092"` names a running broker; without it `scripts/kafka` starts one that ends with this
//! process. `OUTBOXD_SKIP_KAFKA=1` skips, and says so.

use super::rig::{Rig, class};
use outboxd::model::Outcome;
use outboxd::ports::Manner;
use outboxd::sink::kafka::KafkaOptions;
use std::io::Write as _;
use std::process::Command;
use std::sync::Mutex;

mod real_kafka_4_3_0 {
    #[test]
    fn sink_opens_stores_and_explains() {
        super::opens_stores_and_explains("4.3.0");
    }
}

mod real_kafka_3_9_1 {
    #[test]
    fn sink_opens_stores_and_explains() {
        super::opens_stores_and_explains("3.9.1");
    }
}

fn script(arguments: &[&str]) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
    let output = Command::new(path).args(arguments).output().unwrap_or_else(|error| panic!("{path}: {error}"));
    assert!(output.status.success(), "{path} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn broker(version: &str) -> Option<String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if std::env::var("OUTBOXD_SKIP_KAFKA").is_ok_and(|value| value == "1") {
        // Past the test harness's capture: a skipped test must be seen.
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs Kafka {version} (OUTBOXD_SKIP_KAFKA=1)");
        return None;
    }
    let all = std::env::var("OUTBOXD_TEST_KAFKA").unwrap_or_default();
    if let Some(named) = all.split(',').find_map(|one| one.trim().strip_prefix(version)?.strip_prefix('=')) {
        return Some(named.to_owned());
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let dir = tempfile::Builder::new().prefix("outboxd-kafka-").tempdir().unwrap().keep();
    let own_id = std::process::id().to_string();
    Some(script(&["start", "--version", version, "--until-exit-of", &own_id, "--dir", dir.to_str().unwrap()]))
}

fn opens_stores_and_explains(version: &str) {
    let Some(bootstrap) = broker(version) else { return };
    let mut rig = Rig::with(KafkaOptions { bootstrap_servers: vec![bootstrap.clone()], ..KafkaOptions::default() });

    // A topic that appears while it is waited for.
    let topic = format!("sink-{:016x}", fastrand::u64(..));
    let why = rig.not_opened(&topic);
    assert_eq!(why.code, Some(3), "{why}");
    script(&["topic", "--bootstrap", &bootstrap, "--name", &topic, "--partitions", "4"]);
    // It opens partition by partition.
    let partitions = loop {
        let partitions = rig.opened(&topic);
        if partitions.iter().all(|partition| partition.end_offset.is_some()) {
            break partitions;
        }
    };
    assert_eq!(
        partitions.iter().map(|p| (p.partition, p.end_offset.unwrap())).collect::<Vec<_>>(),
        [(0, 0), (1, 0), (2, 0), (3, 0)]
    );

    // Offsets rise without gaps, merged or alone; a resend of the last batch is no second one.
    for round in 0..50 {
        let plans: Vec<_> = (0..4).map(|partition| rig.plan(&topic, partition, &["a", "b", "c"])).collect();
        for plan in &plans {
            rig.send(plan, if round % 7 == 0 { Manner::Alone } else { Manner::Merged });
        }
        for plan in &plans {
            assert_eq!(rig.outcome(plan), Outcome::Stored { offset: 3 * round });
        }
        if round % 10 == 0 {
            assert_eq!(rig.try_once(&plans[0]), Outcome::Stored { offset: 3 * round });
        }
    }
    assert_eq!(rig.open(&topic).iter().map(|p| p.end_offset).collect::<Vec<_>>(), [Some(150); 4]);

    // A gap in the sequences, a record that is too large, one that the topic does not take.
    rig.plan(&topic, 0, &["never sent"]);
    let plan = rig.plan(&topic, 0, &["after a gap"]);
    assert_eq!(class(&rig.try_once(&plan)), "out of sequence");
    let large = "x".repeat(1_100_000);
    let plan = rig.plan(&topic, 1, &[&large]);
    match rig.try_once(&plan) {
        Outcome::Rejected { why, records } => assert_eq!((why.code, records), (Some(10), Some(vec![0])), "{why}"),
        other => panic!("{other:?}"),
    }
    let compacted = format!("{topic}-compacted");
    script(&[
        "topic",
        "--bootstrap",
        &bootstrap,
        "--name",
        &compacted,
        "--partitions",
        "1",
        "--config",
        "cleanup.policy=compact",
    ]);
    rig.open(&compacted);
    let plan = rig.plan_without_keys(&compacted, 0, &["no key", "none either"]);
    match rig.try_once(&plan) {
        Outcome::Rejected { why, records } => assert_eq!((why.code, records), (Some(87), Some(vec![0, 1])), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(rig.stop());
}
