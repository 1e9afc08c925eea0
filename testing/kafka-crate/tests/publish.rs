//! What docs/decisions.md says of the crate `kafka`: it publishes to Kafka 3.9.1, and against 4.3.0 it connects and every send fails.
//!
//! When the second test fails because the send succeeds, the crate speaks today's Produce, and that page is out of date.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

mod real_kafka_3_9_1 {
    #[test]
    fn the_crate_publishes() {
        let Some(kafka) = super::broker("3.9.1") else { return };
        let topic = kafka.topic();
        let sent = super::publish(&kafka.bootstrap, &topic);
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stdout));
        assert_eq!(kafka.values(&topic), "hello\n");
    }
}

mod real_kafka_4_3_0 {
    #[test]
    fn the_crate_connects_and_its_send_meets_a_closed_connection() {
        let Some(kafka) = super::broker("4.3.0") else { return };
        let topic = kafka.topic();
        let sent = super::publish(&kafka.bootstrap, &topic);
        let said = String::from_utf8_lossy(&sent.stdout).into_owned();
        assert_eq!(sent.status.code(), Some(1), "the send was expected to fail: {said}");
        assert!(said.starts_with("send: Io(") && said.contains("UnexpectedEof"), "it failed in another way: {said}");
        assert_eq!(kafka.values(&topic), "");
    }
}

fn publish(bootstrap: &str, topic: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kafka-crate")).args([bootstrap, topic, "hello"]).output().unwrap()
}

struct Broker {
    bootstrap: String,
    dir: Option<PathBuf>,
}

/// As the daemon's acceptance tests find theirs: named by `OUTBOXD_TEST_KAFKA`, else started; `None` when skipped.
fn broker(version: &str) -> Option<Broker> {
    if std::env::var("OUTBOXD_SKIP_KAFKA").is_ok_and(|value| value == "1") {
        let _ = writeln!(std::io::stderr(), "SKIPPED: the crate kafka on Kafka {version} (OUTBOXD_SKIP_KAFKA=1)");
        return None;
    }
    let named = std::env::var("OUTBOXD_TEST_KAFKA").unwrap_or_default();
    let mut pairs = named.split(',').filter_map(|pair| pair.trim().split_once('='));
    if let Some((_, bootstrap)) = pairs.find(|(known, _)| *known == version) {
        return Some(Broker { bootstrap: bootstrap.to_owned(), dir: None });
    }
    let dir = std::env::temp_dir().join(format!("outboxd-kafka-crate-{version}-{}", std::process::id()));
    let me = std::process::id().to_string();
    let mut start = script();
    let started =
        start.args(["start", "--version", version, "--until-exit-of", &me, "--dir"]).arg(&dir).output().unwrap();
    assert!(
        started.status.success(),
        "this test needs Apache Kafka {version}, and it could not be started (OUTBOXD_SKIP_KAFKA=1 skips such tests):\n{}",
        String::from_utf8_lossy(&started.stderr)
    );
    Some(Broker { bootstrap: String::from_utf8(started.stdout).unwrap().trim().to_owned(), dir: Some(dir) })
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kafka"))
}

impl Broker {
    fn topic(&self) -> String {
        let name = format!("kafka-crate-{}", std::process::id());
        let made = script().args(["topic", "--bootstrap", &self.bootstrap, "--name", &name]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        name
    }

    fn values(&self, topic: &str) -> String {
        let arguments = ["-C", "-b", &self.bootstrap, "-t", topic, "-o", "beginning", "-e", "-q"];
        let read = Command::new("kcat").args(arguments).output().unwrap();
        assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
        String::from_utf8(read.stdout).unwrap()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(dir) = &self.dir {
            let _ = script().args(["stop", "--remove", "--dir"]).arg(dir).output();
        }
    }
}
