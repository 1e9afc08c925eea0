//! What the daemon is for: many events, of every kind, from several processes, tables and databases, to their topics.

use super::on_shared;
use super::support::wait::{self, SECOND};
use super::support::{self, Config, scene};

pub fn four_writers_wal(version: &str) {
    four_writers("wal", version);
}

pub fn four_writers_delete(version: &str) {
    four_writers("delete", version);
}

pub fn four_writers_truncate(version: &str) {
    four_writers("truncate", version);
}

pub fn four_writers_persist(version: &str) {
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
        let report = writer.done(600 * SECOND);
        assert_eq!(report["events"], 5000);
        assert_ne!(report["rolled_back"], 0, "this test wants transactions that are rolled back");
    }
    scene::wait_until_empty(&database, 300 * SECOND);
    daemon.drain();
    assert_eq!(scene::rows(&scene::look(&database), "users_outbox"), Some(0));
    scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
}

pub fn odd_values(version: &str) {
    odd_values_of("--schema untyped", version);
}

pub fn odd_values_utf16(version: &str) {
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

pub fn keys_of_every_kind(version: &str) {
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
pub fn partitions_are_those_of_other_clients(version: &str) {
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

pub fn two_outboxes_and_two_databases(version: &str) {
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

pub fn topic_by_template(version: &str) {
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

/// Rows that their topic finds too large, alone and many in a row, hold up nobody for long and are the only ones in quarantine.
pub fn rows_too_large_for_their_topic(version: &str) {
    const LARGE: usize = 5_000_000;
    const IN_A_ROW: usize = 14;
    for partitions in [1, 50] {
        let scene = some_or_skip!(on_shared("large", version));
        let topic = scene.topic(partitions);
        let database = scene.database("");
        {
            let mut app = rusqlite::Connection::open(&database).unwrap();
            let transaction = app.transaction().unwrap();
            let insert = "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (?1, 'grown', ?2)";
            let mut insert = transaction.prepare(insert).unwrap();
            let small = std::iter::repeat_n(20, 500);
            let in_a_row = std::iter::repeat_n(1_500_000, IN_A_ROW);
            let sizes = small.clone().chain([LARGE]).chain(small.clone()).chain(in_a_row).chain(small);
            for (at, size) in sizes.enumerate() {
                insert.execute((format!("k{}", at % 100), "x".repeat(size))).unwrap();
            }
            drop(insert);
            transaction.commit().unwrap();
        }
        let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
        let reader = scene::look(&database);
        let large = "SELECT count(*) FROM users_outbox WHERE length(payload) > 20";
        wait::until(120 * SECOND, "all small rows are published", || {
            let large: Option<i64> = reader.query_row(large, [], |row| row.get(0)).ok();
            large.is_some() && large == scene::rows(&reader, "users_outbox")
        });
        let stderr = daemon.process.stderr.clone();
        let in_quarantine = || std::fs::read_to_string(&stderr).unwrap().matches(" is in quarantine: ").count();
        wait::until(120 * SECOND, "all large rows are in quarantine", || in_quarantine() == 1 + IN_A_ROW);
        daemon.drain_at_work();
        assert_eq!(scene::rows(&reader, "users_outbox"), Some(1 + IN_A_ROW as i64));
        assert_eq!(scene.read(&topic).len(), 1_500, "each of them once");
    }
}
