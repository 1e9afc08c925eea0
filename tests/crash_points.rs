//! The daemon killed at each of its labelled steps (`outboxd::failpoint`), and at the syncs of its COMMIT, in WAL and in DELETE.
//!
//! What a table with bookkeeping loses, doubles or reorders by that is nothing. Without, rows that come back alike may be doubled by
//! a kill during COMMIT; then the next start has announced it. Random instants and many kills: `scripts/crash-matrix`.

#![cfg(feature = "testing")]

mod support;

use fake_kafka::FakeKafka;
use std::collections::HashSet;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use support::arrived::arrived;
use support::daemon::Daemon;
use support::reader::Record;
use support::scene::App;
use support::wait::{self, SECOND};
use support::{Config, Scene, broker, check, scene};

const JOURNALS: [&str; 2] = ["wal", "delete"];
const BOOKKEEPING: &str = "bookkeeping = \"table\"\n";
/// How often the daemon passes the step before it is killed there: at its very first, and at work.
const PASSES: [u32; 2] = [0, 3];

macro_rules! at_each {
    ($test:ident: $($label:ident),* $(,)?) => {
        mod $test {
            $(
                #[test]
                fn $label() {
                    super::$test(stringify!($label));
                }
            )*

            pub const LABELS: &[&str] = &[$(stringify!($label)),*];
        }
    };
}

at_each!(
    killed_at: seen, routed, synced, planned, sent, written, acked, acknowledged, deleting, committing, committed, deleted, durable,
    settled,
);

at_each!(alike_killed_at: acked, acknowledged, deleting, committing, committed, deleted, durable, settled);

#[test]
fn every_label_has_its_test() {
    assert_eq!(killed_at::LABELS, outboxd::failpoint::LABELS);
    assert!(alike_killed_at::LABELS.iter().all(|label| killed_at::LABELS.contains(label)));
}

fn killed_at(label: &str) {
    for journal in JOURNALS {
        let kafka = FakeKafka::builder().topic("users", 3).start();
        let scene = Scene::new(&format!("killed-{label}-{journal}"), None);
        let (daemon, writer) = killed_under_load(&scene, label, journal, &kafka.bootstrap(), "users");
        daemon.drain_at_work();
        check::exactly_once(&arrived(&kafka, "users"), &scene::ledgers(&[&writer]));
        kafka.assert_no_complaints();
    }
}

mod real_kafka_4_3_0 {
    #[test]
    fn killed_at_sent() {
        super::on_real_kafka("sent");
    }

    #[test]
    fn killed_at_acknowledged() {
        super::on_real_kafka("acknowledged");
    }

    #[test]
    fn killed_at_committed() {
        super::on_real_kafka("committed");
    }
}

fn on_real_kafka(label: &str) {
    let Some(kafka) = broker::shared("4.3.0") else { return };
    for journal in JOURNALS {
        let scene = Scene::new(&format!("killed-{label}-{journal}"), Some(kafka.clone()));
        let topic = scene.topic(3);
        let (daemon, writer) = killed_under_load(&scene, label, journal, scene.bootstrap(), &topic);
        daemon.drain_at_work();
        scene.check(&[&topic], &[&writer]);
    }
}

/// Kills two daemons at the label, while an application writes. The third has emptied the table.
fn killed_under_load(scene: &Scene, label: &str, journal: &str, bootstrap: &str, topic: &str) -> (Daemon, App) {
    let database = scene.database(&format!("--journal {journal}"));
    let config = Config::new(bootstrap).outbox_with(&database, "users_outbox", topic, BOOKKEEPING);
    let enough = scene.path("enough");
    let write = "write --transactions 0 --events 2 --rate 300 --pause-every 60 --pause-ms 250";
    let mut writer = scene.writer(&database, &format!("{write} --until {}", enough.display()));
    for passes in PASSES {
        killed(scene, &config, label, passes);
    }
    let mut daemon = scene.daemon(&config);
    let goal = committed(&writer) + 100;
    wait::until(60 * SECOND, "the application commits", || committed(&writer) >= goal);
    std::fs::write(&enough, "").unwrap();
    writer.done(60 * SECOND);
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.still_runs();
    assert_eq!(unsure(&daemon.process.stderr_text()), 0, "after a kill at {label} nothing is in doubt here");
    (daemon, writer)
}

fn committed(writer: &App) -> usize {
    scene::committed(&[writer])
}

/// Runs a daemon that must come to its end at the label.
fn killed(scene: &Scene, config: &Config, label: &str, passes: u32) -> PathBuf {
    let failpoint = if passes == 0 { format!("{label}=return") } else { format!("{label}={passes}*off->return") };
    let mut daemon = scene.daemon_under(config, &["env".into(), format!("FAILPOINTS={failpoint}")]);
    let status = daemon.process.exit(60 * SECOND);
    assert_eq!(status.signal(), Some(9), "at {failpoint}: {status}\n{}", daemon.process.stderr_text());
    daemon.process.stderr.clone()
}

/// Rows that a daemon's log announces as unsure.
fn unsure(log: &str) -> usize {
    let announced = |line: &str| {
        let (before, _) = line.split_once(" sent again and may be there twice (unsure)")?;
        let mut words = before.split(' ').rev();
        let (_are, _rows, number) = (words.next()?, words.next()?, words.next()?);
        number.parse::<usize>().ok()
    };
    log.lines().filter_map(announced).sum()
}

// --- events that are all alike, under the same ids -------------------------------------------------------------------

fn alike_killed_at(label: &str) {
    for journal in JOURNALS {
        for bookkeeping in [BOOKKEEPING, ""] {
            alike(&format!("alike-{label}-{journal}"), journal, bookkeeping, &|scene, config| {
                killed(scene, config, label, 2);
            });
        }
    }
}

/// An application whose events nobody can tell apart, a daemon that is killed, one that goes on: only numbers say what happened.
fn alike(name: &str, journal: &str, bookkeeping: &str, kill: &dyn Fn(&Scene, &Config)) {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let scene = Scene::new(name, None);
    let database = scene.database(&format!("--journal {journal}"));
    let config = Config::new(&kafka.bootstrap()).outbox_with(&database, "users_outbox", "users", bookkeeping);
    let enough = scene.path("enough");
    let mut app = scene.app(&database, &format!("same --times 1 --rows 3 --until {}", enough.display()));
    kill(&scene, &config);
    let mut daemon = scene.daemon(&config);
    let goal = kafka.record_count("users") + 9;
    wait::until(60 * SECOND, "the daemon publishes", || kafka.record_count("users") >= goal);
    std::fs::write(&enough, "").unwrap();
    let inserted = app.done(60 * SECOND)["inserted"].as_u64().unwrap() as usize;
    daemon.still_runs();
    let log = daemon.process.stderr.clone();
    daemon.drain_at_work();
    judge_alike(&arrived(&kafka, "users"), inserted, !bookkeeping.is_empty(), &log);
    kafka.assert_no_complaints();
}

#[track_caller]
fn judge_alike(records: &[Record], inserted: usize, exact: bool, log: &Path) {
    let said = std::fs::read_to_string(log).unwrap();
    let ids: HashSet<_> = records.iter().map(|record| record.header("id")).collect();
    let told = format!("{inserted} inserted, {} arrived, {} message ids\n{said}", records.len(), ids.len());
    assert!(ids.len() >= inserted, "lost: {told}");
    let doubled = records.len() - inserted;
    let doubt = unsure(&said);
    if exact {
        assert_eq!((doubled, doubt), (0, 0), "{told}");
    } else {
        assert_eq!(ids.len(), inserted, "a message id is the same on every resend: {told}");
        assert!(doubled <= doubt, "{doubled} doubled: {told}");
        assert!(doubt == 0 || said.contains("deleting"), "only a kill during COMMIT leaves doubt: {told}");
    }
}

// --- killed at a sync of its COMMIT ----------------------------------------------------------------------------------

/// In rollback-journal mode a COMMIT syncs the journal, then the database.
#[test]
fn killed_at_the_syncs_of_commit_delete() {
    for when in 1..=4 {
        killed_at_a_sync("delete", &["app.db", "app.db-journal"], when);
    }
}

/// In WAL mode it is the application's commit that is synced before its events leave, and our delete before its plan is forgotten.
#[test]
fn killed_at_the_syncs_of_commit_wal() {
    for when in 1..=4 {
        killed_at_a_sync("wal", &["app.db", "app.db-wal"], when);
    }
}

fn killed_at_a_sync(journal: &str, files: &[&str], when: u32) {
    if !can_trace() {
        return;
    }
    for bookkeeping in ["", BOOKKEEPING] {
        let name = format!("alike-sync-{when}-{journal}");
        alike(&name, journal, bookkeeping, &|scene, config| {
            let trace = scene.path("trace");
            let mut wrapped: Vec<String> = ["strace", "-f", "-y", "-e", "trace=fsync,fdatasync"].map(Into::into).into();
            wrapped.push(format!("--inject=fsync,fdatasync:signal=KILL:when={when}"));
            let folder = scene.dir.join("data-0");
            for file in files {
                wrapped.extend(["-P".into(), folder.join(file).to_str().unwrap().to_owned()]);
            }
            wrapped.extend(["-o".into(), trace.to_str().unwrap().to_owned()]);
            // Should the sync never come, the daemon ends nevertheless.
            wrapped.extend(["timeout", "-s", "KILL", "60"].map(Into::into));
            let mut daemon = scene.daemon_under(config, &wrapped);
            let status = daemon.process.exit(90 * SECOND);
            // A call from which nobody returned.
            let calls = std::fs::read_to_string(&trace).unwrap();
            assert!(status.signal() == Some(9) && calls.contains("= ?"), "{status}: {calls}");
        });
    }
}

/// Fails where no process may be traced, unless told to skip.
fn can_trace() -> bool {
    if std::env::var("OUTBOXD_SKIP_PTRACE").is_ok_and(|value| value == "1") {
        let name = std::thread::current().name().unwrap_or("?").to_owned();
        // Past the test harness's capture: a skipped test must be seen.
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: needs strace (OUTBOXD_SKIP_PTRACE=1)");
        return false;
    }
    let traced = std::process::Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    assert!(
        traced.as_ref().is_ok_and(|output| output.status.success()),
        "strace can't trace a process here (OUTBOXD_SKIP_PTRACE=1 skips such tests): {traced:?}"
    );
    true
}
