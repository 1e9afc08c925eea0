//! The daemon with applications in other processes and no Kafka: one daemon per database, and the stdout sink.

use crate::support::app::Entry;
use crate::support::process::Process;
use crate::support::reader::Record;
use crate::support::wait::{self, SECOND};
use crate::support::{self, Config, Scene, check, scene};
use base64::Engine as _;
use std::os::unix::fs::symlink;
use std::process::Command;

/// Nobody listens there: a Kafka that cannot be reached is weather.
const NO_KAFKA: &str = "127.0.0.1:1";

#[test]
fn a_second_daemon_on_one_database_ends_with_4_and_names_the_first() {
    let scene = Scene::new("second", None);
    let database = scene.database("");
    std::fs::create_dir(scene.path("elsewhere")).unwrap();
    let link = scene.path("elsewhere/link.db");
    symlink(&database, &link).unwrap();
    let config = |path: &std::path::Path, state: &str| {
        Config::new(NO_KAFKA).outbox(path, "users_outbox", "users").state(&scene.path(state))
    };
    let mut first = scene.daemon(&config(&database, "first-state.db"));
    // Held once another lock on the file is refused.
    let file = std::fs::File::open(&database).unwrap();
    wait::until(30 * SECOND, "the first daemon holds the database", || {
        first.still_runs();
        match file.try_lock() {
            Ok(()) => {
                file.unlock().unwrap();
                false
            }
            Err(_) => true,
        }
    });
    for path in [&database, &link] {
        let mut second = scene.daemon(&config(path, "second-state.db"));
        assert_eq!(second.exit_code(), Some(4), "{}", second.process.stderr_text());
        let said = second.process.stderr_text();
        let pid = first.process.pid().to_string();
        assert!(said.contains(&pid), "the second does not name PID {pid}:\n{said}");
    }
    first.still_runs();
    first.drain();
    // And once it has gone, another may come.
    let mut third = scene.daemon(&config(&link, "second-state.db"));
    wait::until(30 * SECOND, "the third daemon holds the database", || {
        third.still_runs();
        file.try_lock().is_err() || file.unlock().is_err()
    });
    third.drain();
}

#[test]
fn stdout_prints_each_event_once_and_removes_it() {
    let scene = Scene::new("stdout", None);
    let database = scene.database("--schema untyped");
    let mut command = Command::new(support::daemon::binary());
    command.args(["run", "--stdout", "--table", "users_outbox", "--topic", "users", "--database"]).arg(&database);
    command.arg("--state").arg(scene.path("state.db"));
    let mut daemon = Process::start(command, &scene.path("stdout-daemon"));
    let mut writers: Vec<_> = (0..3)
        .map(|writer| {
            let odd = if writer == 0 { "--odd --aggregates 9" } else { "" };
            scene.writer(&database, &format!("write --transactions 500 {odd} --rollback-every 11 --writer {writer}"))
        })
        .collect();
    for writer in &mut writers {
        writer.done(60 * SECOND);
    }
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.signal(rustix::process::Signal::TERM);
    assert_eq!(daemon.exit(support::daemon::DRAIN_DEADLINE).code(), Some(0), "{}", daemon.stderr_text());
    let records: Vec<Record> = daemon.stdout_text().lines().enumerate().map(|(at, line)| record(at, line)).collect();
    let ledger: Vec<Entry> = scene::ledgers(&writers.iter().collect::<Vec<_>>());
    check::exactly_once(&records, &ledger);
}

/// A printed line in the form that the judge knows. Values that are not UTF-8 are printed in base64.
fn record(at: usize, line: &str) -> Record {
    let json: serde_json::Value =
        serde_json::from_str(line).unwrap_or_else(|error| panic!("line {at}: {error}: {line}"));
    assert_eq!(json["topic"], "users");
    let bytes = |value: &serde_json::Value| -> Option<Vec<u8>> {
        match value {
            serde_json::Value::Null => None,
            serde_json::Value::String(text) => Some(text.clone().into_bytes()),
            other => {
                let text = other["base64"].as_str().unwrap_or_else(|| panic!("line {at}: a value {other}"));
                Some(base64::engine::general_purpose::STANDARD.decode(text).unwrap())
            }
        }
    };
    let mut headers = Vec::new();
    // A list of pairs, because a name may come twice.
    for header in json["headers"].as_array().unwrap() {
        let name = header[0].as_str().unwrap();
        let value = bytes(&header[1]).unwrap_or_else(|| b"NULL".to_vec());
        if !headers.is_empty() {
            headers.push(b',');
        }
        headers.extend_from_slice(name.as_bytes());
        headers.push(b'=');
        // As kcat would print it.
        headers.extend_from_slice(value.split(|byte| *byte == 0).next().unwrap_or_default());
    }
    Record {
        partition: 0,
        offset: at as i64,
        timestamp: 0,
        key: bytes(&json["key"]),
        value: bytes(&json["value"]),
        headers,
    }
}
