//! The daemon on a real Apache Kafka of one node, with applications in other processes and kcat as the judge's eye.
//!
//! `cargo test real_kafka_4_3_0`, `cargo test real_kafka_3_9_1`: one version. Each module is the list of what runs on it.

mod support;

use support::wait::{self, SECOND};
use support::{Broker, Config, Scene, broker, check, scene};

macro_rules! on {
    ($module:ident, $version:literal: $($test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test($version);
                }
            )*
        }
    };
}

on!(real_kafka_4_3_0, "4.3.0":
    four_writers_wal, four_writers_delete, four_writers_truncate, four_writers_persist,
    odd_values, odd_values_utf16, keys_of_every_kind, lock_step, partitions_are_those_of_other_clients,
    one_id_used_300_times, rewritten_rows, rewritten_while_sent,
    two_outboxes_and_two_databases, topic_by_template,
    twenty_drains_under_load, broker_killed, broker_frozen,
    durable_before_sent_wal, durable_before_sent_delete, durable_before_sent_truncate,
);

on!(real_kafka_3_9_1, "3.9.1":
    four_writers_wal, four_writers_delete, odd_values, keys_of_every_kind,
    one_id_used_300_times, rewritten_while_sent, two_outboxes_and_two_databases, broker_killed, broker_frozen,
);

macro_rules! some_or_skip {
    ($broker:expr) => {
        match $broker {
            Some(broker) => broker,
            None => return,
        }
    };
}

fn on_shared(name: &str, version: &str) -> Option<Scene> {
    Some(Scene::new(name, Some(broker::shared(version)?)))
}

fn on_own(name: &str, version: &str) -> Option<(Scene, std::sync::Arc<Broker>)> {
    let kafka = broker::own(version, 1, &[])?;
    Some((Scene::new(name, Some(std::sync::Arc::clone(&kafka))), kafka))
}

// --- 20,000 events from four processes ---

fn four_writers_wal(version: &str) {
    four_writers("wal", version);
}

fn four_writers_delete(version: &str) {
    four_writers("delete", version);
}

fn four_writers_truncate(version: &str) {
    four_writers("truncate", version);
}

fn four_writers_persist(version: &str) {
    four_writers("persist", version);
}

fn four_writers(journal: &str, version: &str) {
    let scene = some_or_skip!(on_shared(&format!("writers-{journal}"), version));
    let topic = scene.topic(4);
    let database = scene.database(&format!("--journal {journal}"));
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
    let options = "write --transactions 2500 --events 2 --large-every 150 --rollback-every 9 --busy-timeout-ms 60000";
    let mut writers: Vec<_> =
        (0..4).map(|writer| scene.writer(&database, &format!("{options} --writer {writer}"))).collect();
    for writer in &mut writers {
        let report = writer.done(180 * SECOND);
        assert_eq!(report["events"], 5000);
        assert_ne!(report["rolled_back"], 0, "this test wants transactions that are rolled back");
    }
    scene::wait_until_empty(&database, 120 * SECOND);
    daemon.drain();
    assert_eq!(scene::rows(&scene::look(&database), "users_outbox"), Some(0));
    scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
}

// --- what a row can be ---

fn odd_values(version: &str) {
    odd_values_of("--schema untyped", version);
}

fn odd_values_utf16(version: &str) {
    odd_values_of("--schema untyped --encoding UTF-16le", version);
    odd_values_of("--schema untyped --encoding UTF-16be --journal delete", version);
}

fn odd_values_of(schema: &str, version: &str) {
    let scene = some_or_skip!(on_shared("odd", version));
    let topic = scene.topic(4);
    let database = scene.database(schema);
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
    let mut writers: Vec<_> = (0..2)
        .map(|writer| {
            scene.writer(&database, &format!("write --odd --aggregates 9 --transactions 600 --writer {writer}"))
        })
        .collect();
    for writer in &mut writers {
        writer.done(60 * SECOND);
    }
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();
    scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
    let records = scene.read(&topic);
    assert!(records.iter().any(|record| record.value.is_none()), "a NULL payload is a null value");
    assert!(records.iter().any(|record| record.value.as_deref() == Some(b"")), "an empty payload is an empty value");
    assert!(records.iter().any(|record| record.key.is_none()), "a NULL aggregate id is a null key");
}

fn keys_of_every_kind(version: &str) {
    let kinds = [
        ("autoincrement", ""),
        ("uuid", ""),
        ("event-id", "[outbox.columns]\nevent_id = \"eventId\"\n"),
        ("uuid --page-size 512 --journal delete", ""),
    ];
    for (schema, more) in kinds {
        let scene = some_or_skip!(on_shared("keys", version));
        let topic = scene.topic(3);
        let database = scene.database(&format!("--schema {schema}"));
        let config = Config::new(scene.bootstrap()).outbox_with(&database, "users_outbox", &topic, more);
        let daemon = scene.daemon(&config);
        let mut writers: Vec<_> = (0..2)
            .map(|writer| {
                scene.writer(&database, &format!("write --transactions 750 --large-every 100 --writer {writer}"))
            })
            .collect();
        for writer in &mut writers {
            writer.done(60 * SECOND);
        }
        scene::wait_until_empty(&database, 60 * SECOND);
        daemon.drain();
        scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
        if !more.is_empty() {
            // The application's own ids have the form 8-4-4-4-12.
            let records = scene.read(&topic);
            assert!(records.iter().all(|record| record.header("id").len() == 36), "the message id is the event id");
        }
    }
}

/// The same keys, produced by kcat with the Java client's partitioner, lie in the same partitions.
fn partitions_are_those_of_other_clients(version: &str) {
    let scene = some_or_skip!(on_shared("partitions", version));
    let (ours, theirs) = (scene.topic(7), scene.topic(7));
    let database = scene.database("");
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &ours));
    let mut writer = scene.writer(&database, "write --transactions 1000 --aggregates 200");
    writer.done(60 * SECOND);
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();
    let ours = scene.read(&ours);
    let lines: Vec<u8> = ours.iter().flat_map(|record| [record.key.as_deref().unwrap(), b":x\n"].concat()).collect();
    let file = scene.path("keys");
    std::fs::write(&file, lines).unwrap();
    let mut kcat = std::process::Command::new("kcat");
    kcat.args(["-P", "-b", scene.bootstrap(), "-t", &theirs, "-K:", "-X", "topic.partitioner=murmur2_random", "-l"]);
    kcat.arg(&file);
    support::process::run(kcat);
    let place = |records: &[support::reader::Record]| {
        records.iter().map(|r| (r.key.clone(), r.partition)).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(place(&ours), place(&scene.read(&theirs)));
}

// --- applications that make it hard ---

fn lock_step(version: &str) {
    let scene = some_or_skip!(on_shared("lockstep", version));
    let topic = scene.topic(4);
    let database = scene.database("");
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
    let mut writers = [
        scene.writer(&database, "lockstep --transactions 2000 --think-us 500 --writer 0"),
        scene.writer(&database, "write --transactions 500 --rate 250 --writer 1"),
    ];
    for writer in &mut writers {
        writer.done(120 * SECOND);
    }
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();
    scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
}

/// The application cannot tell its 300 events apart, and neither can anyone else: only their number says what happened.
fn one_id_used_300_times(version: &str) {
    for journal in ["wal", "delete"] {
        let scene = some_or_skip!(on_shared("same-id", version));
        let topic = scene.topic(1);
        let database = scene.database(&format!("--journal {journal}"));
        let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
        scene.app(&database, "same --times 300").done(180 * SECOND);
        daemon.drain();
        let records = scene.read(&topic);
        assert_eq!(records.len(), 300);
        assert!(records.iter().all(|record| record.value.as_deref() == Some(b"the same")));
        let ids: std::collections::HashSet<_> = records.iter().map(|record| record.header("id")).collect();
        assert_eq!(ids.len(), 300, "300 events have 300 message ids");
    }
}

fn rewritten_rows(version: &str) {
    for journal in ["wal", "delete"] {
        let scene = some_or_skip!(on_shared("rewrite", version));
        let topic = scene.topic(4);
        let database = scene.database(&format!("--journal {journal}"));
        let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
        let mut writer = scene.writer(&database, "rewrite --events 1500");
        writer.done(120 * SECOND);
        scene::wait_until_empty(&database, 60 * SECOND);
        daemon.drain();
        check::each_last_version(&scene.read(&topic), &scene::ledgers(&[&writer]));
    }
}

/// With the broker standing still, the rows are on their way for certain when the application rewrites them.
fn rewritten_while_sent(version: &str) {
    let (scene, kafka) = some_or_skip!(on_own("rewrite-sent", version));
    let topic = scene.topic(1);
    let database = scene.database("");
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
    scene.writer(&database, "write --transactions 10").done(30 * SECOND);
    scene::wait_until_empty(&database, 30 * SECOND);

    kafka.freeze(1);
    let before = kafka.unread_bytes(1);
    let mut writer = scene.writer(&database, "write --transactions 1 --events 20 --size 1000 --writer 1");
    writer.done(30 * SECOND);
    wait::until(30 * SECOND, "the batch lies in the frozen broker's socket", || {
        kafka.unread_bytes(1) >= before + 20 * 500
    });
    let changed = scene.app(&database, "update --mark second").done(30 * SECOND);
    assert_eq!(changed["changed"], 20);
    kafka.thaw(1);
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();

    let mut values: Vec<Vec<u8>> = scene.read(&topic).into_iter().skip(10).map(|r| r.value.unwrap()).collect();
    let first: Vec<Vec<u8>> = scene::ledgers(&[&writer]).into_iter().map(|entry| entry.payload.unwrap()).collect();
    let mut both: Vec<Vec<u8>> = first.iter().map(|payload| [b"second", payload.as_slice()].concat()).collect();
    both.extend(first);
    both.sort();
    values.sort();
    assert_eq!(values, both, "each row twice: as it was sent first, and as it was rewritten");
}

// --- several outboxes ---

fn two_outboxes_and_two_databases(version: &str) {
    let scene = some_or_skip!(on_shared("several", version));
    let (together, apart) = (scene.topic(3), scene.topic(2));
    let first = scene.database("--table users_outbox --table orders_outbox");
    let second = scene.database("--journal delete");
    // Three tables to one topic's partitions, from one relay and from another; and one table by itself.
    let third = scene.database("");
    let config = Config::new(scene.bootstrap())
        .outbox(&first, "users_outbox", &together)
        .outbox(&first, "orders_outbox", &together)
        .outbox(&second, "users_outbox", &together)
        .outbox(&third, "users_outbox", &apart)
        .state(&scene.path("state.db"));
    let daemon = scene.daemon(&config);
    let write = "write --transactions 1500 --events 2 --busy-timeout-ms 60000";
    let mut writers = [
        scene.writer(&first, &format!("{write} --writer 0")),
        scene.writer(&first, &format!("{write} --writer 1 --table orders_outbox")),
        scene.writer(&second, &format!("{write} --writer 2")),
    ];
    let mut alone = scene.writer(&third, &format!("{write} --writer 3"));
    for writer in writers.iter_mut().chain([&mut alone]) {
        writer.done(120 * SECOND);
    }
    for (database, table) in [(&first, "users_outbox"), (&first, "orders_outbox"), (&second, "users_outbox")] {
        scene::wait_until_empty_table(database, table, 60 * SECOND);
    }
    scene::wait_until_empty(&third, 60 * SECOND);
    daemon.drain();
    scene.check(&[&together], &writers.iter().collect::<Vec<_>>());
    scene.check(&[&apart], &[&alone]);
}

fn topic_by_template(version: &str) {
    let scene = some_or_skip!(on_shared("template", version));
    let prefix = scene.topic_name();
    let topics: Vec<String> = (0..5).map(|index| format!("{prefix}.w0-a{index}")).collect();
    // One of them appears only later: its rows wait, the others go on.
    for topic in &topics[1..] {
        scene.kafka.as_ref().unwrap().create_topic(topic, 2, &[]);
    }
    let database = scene.database("");
    let template = format!("{prefix}.{{aggregateId}}");
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &template));
    let mut writer = scene.writer(&database, "write --transactions 1000 --aggregates 5");
    writer.done(60 * SECOND);
    let reader = scene::look(&database);
    wait::until(60 * SECOND, "only rows of the topic that does not exist are left", || {
        let others = "SELECT count(*) FROM users_outbox WHERE aggregateId <> 'w0-a0'";
        reader.query_row(others, [], |row| row.get::<_, i64>(0)) == Ok(0)
    });
    assert_ne!(scene::rows(&reader, "users_outbox"), Some(0), "rows of a topic that does not exist stay");
    scene.kafka.as_ref().unwrap().create_topic(&topics[0], 2, &[]);
    scene::wait_until_empty(&database, 90 * SECOND);
    daemon.drain();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    scene.check(&topics, &[&writer]);
}

// --- ends, of the daemon and of the broker ---

fn twenty_drains_under_load(version: &str) {
    let scene = some_or_skip!(on_shared("drains", version));
    let topic = scene.topic(4);
    let database = scene.database("");
    let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic);
    let enough = scene.path("enough");
    let write = format!("write --transactions 0 --until {} --rate 400 --events 2 --large-every 400", enough.display());
    let mut writers: Vec<_> =
        (0..3).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
    let reader = scene::look(&database);
    let mut random = fastrand::Rng::with_seed(scene.seed);
    for _ in 0..20 {
        let published = || {
            let left = scene::rows(&reader, "users_outbox")?;
            Some(scene::committed(&writers.iter().collect::<Vec<_>>()) as i64 - left)
        };
        let before = wait::some(10 * SECOND, "the table can be read", published);
        let mut daemon = scene.daemon(&config);
        let wanted = before + random.i64(1..1500);
        wait::until(60 * SECOND, "the daemon publishes", || {
            daemon.still_runs();
            published().is_some_and(|now| now >= wanted)
        });
        daemon.drain();
    }
    std::fs::write(&enough, "").unwrap();
    for writer in &mut writers {
        writer.done(30 * SECOND);
    }
    let daemon = scene.daemon(&config);
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();
    scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
}

fn broker_killed(version: &str) {
    let (scene, kafka) = some_or_skip!(on_own("killed", version));
    under_load(&scene, "", |progress| {
        kafka.kill(1);
        progress.committed(2000);
        kafka.restart(1);
        progress.published(2000);
        // Now with a goodbye, which hands nothing over: there is nobody else.
        kafka.shut_down(1);
        progress.committed(500);
        kafka.restart(1);
        progress.published(500);
    });
}

/// Twice at once: with the default timeout the daemon waits, with a short one it is unsure and asks again and again.
fn broker_frozen(version: &str) {
    let (scene, kafka) = some_or_skip!(on_own("frozen", version));
    under_load(&scene, "request_timeout_ms = 2000", |progress| {
        kafka.freeze(1);
        wait::let_pass(10 * SECOND);
        kafka.thaw(1);
        progress.published(1000);
    });
}

struct Progress<'a> {
    committed: &'a dyn Fn() -> i64,
    published: &'a dyn Fn() -> Option<i64>,
}

impl Progress<'_> {
    fn committed(&self, more: i64) {
        let wanted = (self.committed)() + more;
        wait::until(60 * SECOND, "the application commits", || (self.committed)() >= wanted);
    }

    fn published(&self, more: i64) {
        let before = wait::some(10 * SECOND, "the table can be read", self.published);
        wait::until(90 * SECOND, "the daemon publishes", || (self.published)().is_some_and(|now| now >= before + more));
    }
}

/// Two databases, each with two writers and a daemon of its own, the second with the further line of `[kafka]`; something is
/// done to the broker meanwhile; in the end everything arrived exactly once.
fn under_load(scene: &Scene, second_kafka: &str, hurt: impl FnOnce(&Progress<'_>)) {
    let enough = scene.path("enough");
    let write = format!("write --transactions 0 --until {} --rate 250 --events 2", enough.display());
    let mut sides = Vec::new();
    for kafka_line in ["", second_kafka] {
        let topic = scene.topic(4);
        let database = scene.database("");
        let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic).kafka(kafka_line);
        let daemon = scene.daemon(&config);
        let writers: Vec<_> =
            (0..2).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
        sides.push((topic, database, daemon, writers));
    }
    let committed = || sides.iter().map(|side| scene::committed(&side.3.iter().collect::<Vec<_>>()) as i64).sum();
    let published = || {
        let left: Option<i64> = sides.iter().map(|side| scene::rows(&scene::look(&side.1), "users_outbox")).sum();
        Some(committed() - left?)
    };
    let progress = Progress { committed: &committed, published: &published };
    progress.published(1000);
    hurt(&progress);
    std::fs::write(&enough, "").unwrap();
    for (topic, database, daemon, mut writers) in sides {
        for writer in &mut writers {
            writer.done(30 * SECOND);
        }
        scene::wait_until_empty(&database, 90 * SECOND);
        daemon.drain();
        scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
    }
}

// --- durability = "power-loss" ---

fn durable_before_sent_wal(version: &str) {
    durable_before_sent(version, "wal", &|name, what| name == "fdatasync" && what.ends_with("app.db-wal"));
}

fn durable_before_sent_delete(version: &str) {
    // The commit of a DELETE journal is the removal of its name: the folder is what must be on disk, also when the application's
    // next transaction has put another journal there meanwhile.
    durable_before_sent(version, "delete", &|name, what| name == "fsync" && !what.contains("app.db"));
}

fn durable_before_sent_truncate(version: &str) {
    durable_before_sent(version, "truncate", &|name, what| {
        // The daemon's own deletes may remove the journal; then that is what must last.
        (name == "fdatasync" && what.ends_with("app.db-journal")) || (name == "fsync" && !what.contains("app.db"))
    });
}

/// Between the read that brought a row in and the request that carries it out, what the row's commit stands on was synced.
fn durable_before_sent(version: &str, journal: &str, is_sync: &dyn Fn(&str, &str) -> bool) {
    let scene = some_or_skip!(on_shared(&format!("durable-{journal}"), version));
    let topic = scene.topic(2);
    let database = scene.database(&format!("--journal {journal}"));
    let trace = scene.path("trace");
    let mut strace: Vec<String> = support::syscalls::STRACE.iter().map(ToString::to_string).collect();
    strace.extend(["-o".into(), trace.to_str().unwrap().to_owned(), "--".into()]);
    let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic);
    let mut daemon = scene.daemon_under(&config, &strace);
    let write = "write --transactions 300 --rate 150 --size 200";
    let mut writers: Vec<_> =
        (0..2).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
    for writer in &mut writers {
        writer.done(60 * SECOND);
    }
    scene::wait_until_empty(&database, 60 * SECOND);
    // strace passes a signal on to nobody: the daemon is its child.
    let child = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.process.pid())).unwrap();
    let child: i32 = child.split_whitespace().next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(daemon.exit_code(), Some(0));

    let ledger = scene::ledgers(&writers.iter().collect::<Vec<_>>());
    let calls = support::syscalls::parse(&trace);
    let syncs: Vec<_> = calls.iter().filter(|call| is_sync(&call.name, call.descriptor())).collect();
    assert!(!syncs.is_empty(), "no sync at all in {}", trace.display());
    let mut seen = 0;
    for entry in &ledger {
        let aggregate = String::from_utf8(entry.aggregate.clone().unwrap()).unwrap();
        let mark = format!("{aggregate}\\\",\\\"sequence\\\":{},", entry.sequence);
        let first = |names: &[&str], place: &dyn Fn(&str) -> bool| {
            calls.iter().find(|call| {
                names.contains(&call.name.as_str()) && place(call.descriptor()) && call.arguments.contains(&mark)
            })
        };
        let read = first(&["pread64", "read"], &|what| what.contains("app.db"));
        let sent = first(&["write", "writev", "sendto", "sendmsg"], &|what| what.starts_with("TCP"));
        let sent = sent.unwrap_or_else(|| panic!("{mark} was never sent, says {}", trace.display()));
        let read = read.unwrap_or_else(|| panic!("{mark} was never read, says {}", trace.display()));
        assert!(
            syncs.iter().any(|sync| sync.begun > read.ended && sync.ended < sent.begun),
            "{mark} was read at line {} and sent at line {} of {} without a sync between",
            read.ended + 1,
            sent.begun + 1,
            trace.display()
        );
        seen += 1;
    }
    assert_eq!(seen, 600);
}
