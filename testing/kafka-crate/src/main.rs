//! Publishes one line with the crate `kafka`, as its own example does: `kafka-crate HOST:PORT TOPIC VALUE`.
//!
//! Promises: exit code 0 only when the broker acknowledged. Does not know: outboxd. It is here so that the crate's old
//! dependencies stay out of the daemon's tree, and so that what docs/decisions.md says of it is tried on real brokers.

use kafka::producer::{Producer, Record, RequiredAcks};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [server, topic, value] = &arguments[..] else {
        eprintln!("usage: kafka-crate HOST:PORT TOPIC VALUE");
        return ExitCode::from(2);
    };
    match publish(server, topic, value) {
        Ok(()) => ExitCode::SUCCESS,
        Err((step, error)) => {
            println!("{step}: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn publish(server: &str, topic: &str, value: &str) -> Result<(), (&'static str, kafka::Error)> {
    let mut producer = Producer::from_hosts(vec![server.to_owned()])
        .with_ack_timeout(Duration::from_secs(5))
        .with_required_acks(RequiredAcks::All)
        .create()
        .map_err(|error| ("connect", error))?;
    producer.send(&Record::from_value(topic, value.as_bytes())).map_err(|error| ("send", error))
}
