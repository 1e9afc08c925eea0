//! The daemon killed at each of its labelled steps (`outboxd::failpoint`), and at the syncs of its COMMIT, in WAL and in DELETE.
//!
//! What a table with bookkeeping loses, doubles or reorders by that is nothing. Without, rows that can come back alike may be doubled
//! by a kill during COMMIT; then the next start has announced it. Random instants and many kills: `scripts/crash-matrix`.

use crate::support::arrived::arrived;
use crate::support::reader::Record;
use crate::support::scene::App;
use crate::support::wait::{self, SECOND};
use crate::support::{Config, Scene, broker, check, scene};
use fake_kafka::FakeKafka;
use std::collections::HashSet;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

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

/// The note *deleting* is needed, and written, only without bookkeeping.
fn kinds(label: &str) -> &'static [&'static str] {
    if label == "deleting" { &[""] } else { &[BOOKKEEPING, ""] }
}

fn killed_at(label: &str) {
    for journal in JOURNALS {
        let kafka = FakeKafka::builder().topic("users", 3).start();
        let scene = Scene::new(&format!("killed-{label}-{journal}"), None);
        let bookkeeping = kinds(label)[0];
        let killed = killed_under_load(&scene, label, journal, bookkeeping, &kafka.bootstrap(), "users");
        let mut records = arrived(&kafka, "users");
        if bookkeeping.is_empty() {
            let before = records.len();
            let mut ids = HashSet::new();
            records.retain(|record| ids.insert(record.header("id")));
            let doubled = before - records.len();
            assert!(doubled <= killed.unsure, "{doubled} records are doubled, {} were announced", killed.unsure);
        } else {
            assert_eq!(killed.unsure, 0, "after a kill at {label} nothing is in doubt here");
        }
        check::exactly_once(&records, &scene::ledgers(&[&killed.writer]));
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
        let killed = killed_under_load(&scene, label, journal, BOOKKEEPING, scene.bootstrap(), &topic);
        assert_eq!(killed.unsure, 0, "after a kill at {label} nothing is in doubt here");
        scene.check(&[&topic], &[&killed.writer]);
    }
}

struct Killed {
    writer: App,
    /// Rows that were announced as sent again, and perhaps there twice.
    unsure: usize,
}

/// Kills two daemons at the label, while an application writes. The third empties the table, and drains.
fn killed_under_load(
    scene: &Scene,
    label: &str,
    journal: &str,
    bookkeeping: &str,
    bootstrap: &str,
    topic: &str,
) -> Killed {
    let database = scene.database(&format!("--journal {journal}"));
    let config = Config::new(bootstrap).outbox_with(&database, "users_outbox", topic, bookkeeping);
    let enough = scene.path("enough");
    let write = "write --transactions 0 --events 2 --rate 300 --pause-every 60 --pause-ms 400";
    let mut writer = scene.writer(&database, &format!("{write} --until {}", enough.display()));
    let mut logs: Vec<PathBuf> = PASSES.iter().map(|passes| killed(scene, &config, label, *passes)).collect();
    let daemon = scene.daemon(&config);
    let goal = committed(&writer) + 100;
    wait::until(60 * SECOND, "the application commits", || committed(&writer) >= goal);
    std::fs::write(&enough, "").unwrap();
    writer.done(60 * SECOND);
    scene::wait_until_empty(&database, 60 * SECOND);
    logs.push(daemon.process.stderr.clone());
    daemon.drain_at_work();
    let said: Vec<String> = logs.iter().map(|log| std::fs::read_to_string(log).unwrap()).collect();
    Killed { writer, unsure: said.iter().map(|log| unsure(log)).sum() }
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
        for bookkeeping in kinds(label) {
            alike(&format!("alike-{label}-{journal}"), journal, bookkeeping, &|scene, config| {
                killed(scene, config, label, 2);
            });
        }
    }
}

/// An application whose events nobody can tell apart, a daemon that is killed, one that goes on: only their number says what
/// happened, between each commit and the empty table after it.
fn alike(name: &str, journal: &str, bookkeeping: &str, kill: &dyn Fn(&Scene, &Config)) {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let scene = Scene::new(name, None);
    let database = scene.database(&format!("--journal {journal}"));
    let config = Config::new(&kafka.bootstrap()).outbox_with(&database, "users_outbox", "users", bookkeeping);
    let (enough, ledger) = (scene.path("enough"), scene.path("turns"));
    // Everything here is synced, and the disk is others' as well.
    let same = "same --times 1 --rows 3 --pause-every 2 --pause-ms 200 --patience-s 120";
    let same = format!("{same} --until {} --ledger {}", enough.display(), ledger.display());
    let mut app = scene.app(&database, &same);
    kill(&scene, &config);
    let mut daemon = scene.daemon(&config);
    let goal = kafka.record_count("users") + 9;
    wait::until(120 * SECOND, "the daemon publishes", || kafka.record_count("users") >= goal);
    std::fs::write(&enough, "").unwrap();
    app.done(120 * SECOND);
    daemon.still_runs();
    let log = daemon.process.stderr.clone();
    daemon.drain_at_work();
    judge_alike(&arrived(&kafka, "users"), &turns(&ledger), !bookkeeping.is_empty(), &log);
    kafka.assert_no_complaints();
}

/// When a transaction of the application began, when the table was empty again, and how many rows it had.
struct Turn {
    begin_ms: i64,
    end_ms: i64,
    rows: usize,
}

fn turns(ledger: &Path) -> Vec<Turn> {
    let text = std::fs::read_to_string(ledger).unwrap();
    let turn = |line: &str| {
        let fields: Vec<i64> = line.split(' ').map(|field| field.parse().unwrap()).collect();
        Turn { begin_ms: fields[0], end_ms: fields[1], rows: fields[2] as usize }
    };
    text.lines().map(turn).collect()
}

#[track_caller]
fn judge_alike(records: &[Record], turns: &[Turn], exact: bool, log: &Path) {
    let said = std::fs::read_to_string(log).unwrap();
    let mut doubled = 0;
    for (number, turn) in turns.iter().enumerate() {
        let sent = |record: &&Record| (turn.begin_ms..=turn.end_ms).contains(&record.timestamp);
        let arrived = records.iter().filter(sent).count();
        assert!(arrived >= turn.rows, "lost: {arrived} of {} rows of turn {number} arrived\n{said}", turn.rows);
        doubled += arrived - turn.rows;
    }
    let committed: usize = turns.iter().map(|turn| turn.rows).sum();
    assert_eq!(records.len(), committed + doubled, "records were sent when nothing was in the table\n{said}");
    let ids: HashSet<_> = records.iter().map(|record| record.header("id")).collect();
    // A resend has the message id of what it may double; so have rows of which it is in doubt whether they are new.
    let renewed = records.len() - ids.len();
    let doubt = unsure(&said);
    if exact {
        assert_eq!((doubled, renewed, doubt), (0, 0, 0), "doubled, without an id of their own, in doubt\n{said}");
    } else {
        assert!(
            doubled <= renewed && renewed <= doubt,
            "{doubled} doubled, {renewed} ids twice, {doubt} in doubt\n{said}"
        );
        assert!(doubt == 0 || said.contains("deleting"), "only a kill during COMMIT leaves doubt\n{said}");
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
