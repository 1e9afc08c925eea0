//! The daemon as a process against a broker over real TCP: the whole way, several databases, and what a kill leaves.

use crate::common::{self, OUTBOX, PATIENCE, Place, Running, Shell, names, outboxd};
use fake_kafka::{ApiKey, FakeKafka, Fault};
use outboxd_kafka::compression::Compression;
use outboxd_kafka::connection::{Address, Connection, ConnectionOptions};
use outboxd_kafka::protocol::{PartitionBatch, ProduceRequest};
use outboxd_kafka::record_batch::append_record;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

fn fill(place: &Place, database: &str, from: u32, count: u32) {
    let connection = rusqlite::Connection::open(place.path(database)).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    let sql = "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (?, 'E', ?)";
    connection.execute_batch("BEGIN").unwrap();
    for number in from..from + count {
        connection.execute(sql, rusqlite::params![number % 7, format!("{database}-{number}")]).unwrap();
    }
    connection.execute_batch("COMMIT").unwrap();
}

/// With pauses that don't hold up a test.
fn run_quickly(place: &Place, kafka: &FakeKafka, database: &str) -> Running {
    let servers = kafka.bootstrap_servers();
    let config = format!(
        "[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\n\
         [kafka]\nbootstrap_servers = {servers:?}\nretry_backoff_ms = 5\nretry_backoff_max_ms = 20\n"
    );
    Running::start(outboxd(&["run", "--config", &place.write("quick.toml", &config)]))
}

/// Somebody else writes `count` records under these numbers.
fn stranger(kafka: &FakeKafka, producer_id: i64, base_sequence: i32, count: u32) {
    let address = Address { host: "127.0.0.1".to_owned(), port: kafka.address(1).port() };
    let mut connection = Connection::open(&address, &ConnectionOptions::default()).unwrap();
    let mut records = Vec::new();
    for at in 0..count {
        append_record(&mut records, at, Some(b"theirs"), Some(b"theirs"), &[]);
    }
    let batch = PartitionBatch {
        topic: "users",
        partition: 0,
        producer_id,
        producer_epoch: 0,
        base_sequence,
        timestamp_ms: 0,
        record_count: count as i32,
        records: &records,
        compression: Compression::None,
    };
    let request = ProduceRequest { acks: -1, timeout_ms: 1_000, batches: &[batch] };
    let answer = connection.produce(&request, PATIENCE).unwrap();
    assert!(answer.partitions[0].error.is_ok(), "{answer:?}");
}

fn ours(kafka: &FakeKafka) -> BTreeSet<Vec<u8>> {
    let values: Vec<_> = kafka.all_records("users").into_iter().map(|record| record.value.unwrap()).collect();
    let ours: Vec<_> = values.into_iter().filter(|value| value != b"theirs").collect();
    let set: BTreeSet<_> = ours.iter().cloned().collect();
    assert_eq!(set.len(), ours.len(), "each once");
    set
}

fn rows(place: &Place, database: &str) -> i64 {
    let connection = rusqlite::Connection::open(place.path(database)).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection.query_row("SELECT count(*) FROM users_outbox", [], |row| row.get(0)).unwrap()
}

fn run(kafka: &FakeKafka, database: &str) -> Running {
    let servers = kafka.bootstrap();
    let arguments = ["run", "--database", database, "--table", "users_outbox", "--topic", "users"];
    let mut command = outboxd(&arguments);
    command.args(["--bootstrap-servers", &servers]);
    Running::start(command)
}

fn open_plans(place: &Place, state: &str) -> usize {
    let run = outboxd::model::RunId(9);
    outboxd::state::StateFile::open(&place.path(state), run).unwrap().open_plans().unwrap().len()
}

#[test]
fn the_demo_reads_its_records_back() {
    let kafka = FakeKafka::builder().brokers(2).topic("outboxd-demo", 3).start();
    let place = Place::new();
    let mut command = outboxd(&["demo", "--bootstrap-servers", &kafka.bootstrap()]);
    command.env("TMPDIR", place.folder.path());
    let finished = Running::start(command).finish();
    assert_eq!(finished.status.code(), Some(0), "{}", finished.everything());
    assert_eq!(finished.stdout.matches("Received packet: outboxd-demo-").count(), 10, "{}", finished.everything());
    assert_eq!(kafka.record_count("outboxd-demo"), 10);
    assert_eq!(names(place.folder.path()), [""; 0]);
}

#[test]
fn two_databases_share_a_daemon_and_a_state_file() {
    let kafka = FakeKafka::builder().topic("a", 2).topic("b", 1).start();
    let place = Place::new();
    let outboxes = ["a", "b"].map(|name| {
        let database = place.database(name, &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
        fill(&place, name, 0, 200);
        format!("[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = {name:?}\n")
    });
    let (servers, state) = (kafka.bootstrap(), place.text("state"));
    let text = format!("{}[kafka]\nbootstrap_servers = [{servers:?}]\n[state]\npath = {state:?}", outboxes.concat());
    let config = place.write("c.toml", &text);
    let mut daemon = Running::start(outboxd(&["run", "--config", &config]));
    daemon.wait_until("empty tables", |_| rows(&place, "a") + rows(&place, "b") == 0);
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    for name in ["a", "b"] {
        let records = kafka.all_records(name);
        let values: BTreeSet<_> = records.iter().map(|record| record.value.clone().unwrap()).collect();
        assert_eq!((records.len(), values.len()), (200, 200), "topic {name}");
        assert!(values.iter().all(|value| value.starts_with(name.as_bytes())), "topic {name}");
    }
    assert!(daemon.stderr.contains("drained: published 400, deleted 400"), "{}", daemon.everything());
    assert_eq!(open_plans(&place, "state"), 0, "what is settled is forgotten");
}

#[test]
fn a_kill_loses_and_doubles_nothing_and_the_next_start_says_what_was_in_flight() {
    const ROWS: u32 = 20_000;
    let kafka = FakeKafka::builder().topic("users", 3).start();
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    fill(&place, "db", 0, ROWS);
    let mut daemon = run(&kafka, &database);
    daemon.wait_until("the first records", |_| kafka.record_count("users") > 0);
    daemon.signal(Signal::KILL);
    daemon.finish();
    let left = open_plans(&place, "db-outboxd");
    assert!(left > 0, "a daemon killed at work leaves plans");

    let mut daemon = run(&kafka, &database);
    daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    let told = format!("db: an earlier run left {left} batches with ");
    assert!(daemon.stderr.contains(&told), "{told}: {}", daemon.everything());
    let records = kafka.all_records("users");
    let values: BTreeSet<_> = records.iter().map(|record| record.value.clone().unwrap()).collect();
    assert_eq!((records.len(), values.len()), (ROWS as usize, ROWS as usize), "every row arrived once");
    // The records of a key are in the order of their commits.
    let mut last: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for record in records {
        let value = String::from_utf8(record.value.unwrap()).unwrap();
        let number: u32 = value.rsplit('-').next().unwrap().parse().unwrap();
        if let Some(before) = last.insert(record.key.unwrap(), number) {
            assert!(before < number, "{number} arrived after {before}");
        }
    }
    assert_eq!(open_plans(&place, "db-outboxd"), 0);
}

/// A batch in flight to cluster A meets cluster B, in which somebody else's records bear its very numbers: they are answered as
/// duplicates there, or found by reading back, or ours would swallow theirs.
#[test]
fn what_was_in_flight_to_another_cluster_goes_out_anew() {
    // Rows written, and what a stranger has written, by how many of them are in flight: first sequence and count.
    type Theirs = fn(u32) -> Vec<(i32, u32)>;
    let cases: [(u32, Theirs); 4] = [
        (1, |_| vec![(0, 1), (1, 1)]),
        (300, |in_flight| vec![(0, 1), (1, in_flight)]),
        (1, |_| vec![(0, 1), (1, 1), (2, 6)]),
        (1, |_| vec![(0, 1)]),
    ];
    for (written, theirs) in cases {
        let kafka = FakeKafka::builder().topic("users", 1).cluster_id(Some("cluster-A")).first_producer_id(0).start();
        let place = Place::new();
        let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
        fill(&place, "db", 0, 1);
        let mut daemon = run(&kafka, &database);
        daemon.wait_until("the first row is done with", |_| rows(&place, "db") == 0);
        kafka.fault("users", 0, Fault::Hang);
        fill(&place, "db", 1, written);
        // On a slow machine a batch does not take all of them.
        let mut in_flight = 0;
        daemon.wait_until("the batch is on its way", |_| {
            let batches = kafka.requests_of(ApiKey::Produce).into_iter().flat_map(|request| request.batches);
            in_flight = batches
                .filter(|batch| batch.base_sequence == 1)
                .map(|batch| batch.record_count as u32)
                .max()
                .unwrap_or(0);
            in_flight > 0
        });
        let theirs = theirs(in_flight);
        daemon.signal(Signal::KILL);
        daemon.finish();

        kafka.become_cluster(Some("cluster-B"), 1);
        for (first, count) in &theirs {
            stranger(&kafka, 0, *first, *count);
        }
        kafka.clear_requests();
        let mut daemon = run(&kafka, &database);
        daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
        daemon.signal(Signal::TERM);
        let daemon = daemon.finish();
        let told = "this is Kafka cluster cluster-B, and an earlier run sent to cluster cluster-A";
        assert_eq!(daemon.stderr.matches(told).count(), 1, "{}", daemon.everything());
        let asked = [ApiKey::DescribeProducers, ApiKey::Fetch].map(|api| kafka.requests_of(api).len());
        assert_eq!(asked, [0, 0], "{theirs:?}");
        assert_eq!(ours(&kafka).len() as u32, written, "{theirs:?}: {}", daemon.everything());
        assert_eq!(open_plans(&place, "db-outboxd"), 0);
        // And whoever bears the numbers is not hurt either.
        let next = theirs.iter().map(|(_, count)| *count).sum::<u32>();
        let before = kafka.record_count("users");
        stranger(&kafka, 0, next as i32, 1);
        assert_eq!(kafka.record_count("users"), before + 1);
    }
}

#[test]
fn another_cluster_at_the_old_address_gets_nothing_until_a_restart_says_that_it_is_meant() {
    let kafka = FakeKafka::builder().topic("users", 2).cluster_id(Some("cluster-A")).start();
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    fill(&place, "db", 0, 10);
    let mut daemon = run(&kafka, &database);
    daemon.wait_until("the first rows are done with", |_| rows(&place, "db") == 0);
    kafka.become_cluster(Some("cluster-B"), 1);
    kafka.clear_requests();
    fill(&place, "db", 10, 20);
    let told = "belongs to Kafka cluster cluster-B, and this run works with cluster cluster-A";
    daemon.wait_until("it is said", |daemon| {
        let stderr = daemon.stderr();
        stderr.contains(told) && stderr.contains("If the change is meant, restart outboxd")
    });
    assert_eq!((kafka.requests_of(ApiKey::Produce).len(), rows(&place, "db")), (0, 20));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().status.code(), Some(0));

    let mut daemon = run(&kafka, &database);
    daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().status.code(), Some(0));
    assert_eq!(ours(&kafka).len(), 20);
}

#[test]
fn every_code_is_survived_by_its_lane() {
    // A partition for each code from -2 to 200, 0 among them.
    const PARTITIONS: i32 = 203;
    let kafka = FakeKafka::builder().topic("users", PARTITIONS).start();
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    let mut keys: BTreeMap<i32, String> = BTreeMap::new();
    for number in 0.. {
        let key = format!("k{number}");
        keys.entry(outboxd_kafka::partitioner::partition_for_key(key.as_bytes(), PARTITIONS)).or_insert(key);
        if keys.len() == PARTITIONS as usize {
            break;
        }
    }
    let write = |round: u32| {
        let connection = rusqlite::Connection::open(place.path("db")).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        for (partition, key) in &keys {
            let sql = "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (?, 'E', ?)";
            connection.execute(sql, rusqlite::params![key, format!("{round}-{partition}")]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
    };
    for partition in (0..PARTITIONS).filter(|partition| *partition != 2) {
        kafka.fault("users", partition, Fault::AnswerBefore((partition - 2) as i16));
    }
    let mut daemon = run_quickly(&place, &kafka, &database);
    write(1);
    // Too large for the topic (10) and for a segment (18) are the record's own faults.
    daemon.wait_until("all but two are published", |_| rows(&place, "db") == 2);
    assert_eq!(kafka.pending_faults(), 0);
    write(2);
    daemon.wait_until("no lane is stuck", |_| rows(&place, "db") == 2);
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(ours(&kafka).len(), 2 * PARTITIONS as usize - 2, "{}", daemon.everything());
}

/// Kafka 2.1 to 2.3 call a batch with such a record corrupt.
#[test]
fn a_record_without_a_key_is_found_where_the_broker_calls_its_batch_corrupt() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    kafka.reject_records_with("users", 2, false, |record| record.key.is_none());
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    fill(&place, "db", 0, 101);
    place.database("db", "UPDATE users_outbox SET aggregateId = NULL WHERE id = 51");
    let mut daemon = run_quickly(&place, &kafka, &database);
    daemon.wait_until("all but one are published", |_| rows(&place, "db") == 1);
    daemon.wait_until("it is set aside", |daemon| daemon.stderr().contains("without a key on a compacted topic"));
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(ours(&kafka).len(), 100, "{}", daemon.everything());
}

#[test]
fn a_broker_that_refuses_every_epoch_is_given_another_producer_id() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    for _ in 0..15 {
        kafka.fault("users", 0, Fault::AnswerBefore(47));
    }
    fill(&place, "db", 0, 1);
    let mut daemon = run_quickly(&place, &kafka, &database);
    daemon.wait_until("it is published", |_| rows(&place, "db") == 0);
    let batches = kafka.requests_of(ApiKey::Produce).into_iter().flat_map(|request| request.batches);
    let mut numbers: Vec<_> = batches.map(|batch| (batch.producer_id, batch.producer_epoch)).collect();
    numbers.dedup();
    let first = numbers[0].0;
    assert_eq!(numbers[..3], [(first, 0), (first, 1), (first, 2)]);
    assert!(numbers.len() == 4 && numbers[3].0 != first, "{numbers:?}");
    daemon.signal(Signal::TERM);
    daemon.finish();
}

/// A topic that is made again with fewer partitions takes none of what was on its way to the others.
#[test]
fn what_was_on_its_way_to_a_partition_that_is_gone_goes_to_another() {
    for hangs in [false, true] {
        let kafka = FakeKafka::builder().topic("users", 8).start();
        let place = Place::new();
        let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
        fill(&place, "db", 0, 7);
        let mut daemon = run_quickly(&place, &kafka, &database);
        daemon.wait_until("the topic is open", |_| rows(&place, "db") == 0);
        let said = if hangs {
            kafka.freeze(1);
            "no answer to Produce"
        } else {
            kafka.stop(1);
            "can't connect"
        };
        fill(&place, "db", 7, 100);
        daemon.wait_until("it is tried", |daemon| daemon.stderr().contains(said));
        kafka.delete_topic("users");
        kafka.create_topic("users", 2);
        if hangs {
            kafka.thaw(1);
        } else {
            kafka.restart(1);
        }
        daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
        daemon.signal(Signal::TERM);
        let daemon = daemon.finish();
        let values: BTreeSet<_> = kafka.all_records("users").into_iter().map(|record| record.value.unwrap()).collect();
        assert_eq!(values.len(), 100, "hangs: {hangs}: {}", daemon.everything());
    }
}

#[test]
fn an_outage_is_a_few_lines_however_many_partitions_suffer_from_it() {
    const PARTITIONS: i32 = 60;
    let kafka = FakeKafka::builder().brokers(2).elections(false).topic_replicated("users", PARTITIONS, 1).start();
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    // One in two goes to a partition of the second broker.
    let write = |from: i64| -> i64 {
        let connection = rusqlite::Connection::open(place.path("db")).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.execute_batch("BEGIN").unwrap();
        let sql = "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (?1, 'E', ?1)";
        for number in from..from + 120 {
            connection.execute(sql, [number.to_string()]).unwrap();
        }
        connection.execute_batch("COMMIT").unwrap();
        let partition =
            |number: i64| outboxd_kafka::partitioner::partition_for_key(number.to_string().as_bytes(), PARTITIONS);
        (from..from + 120).filter(|number| partition(*number) % 2 == 1).count() as i64
    };
    let mut daemon = run_quickly(&place, &kafka, &database);
    write(0);
    daemon.wait_until("everything is well", |_| rows(&place, "db") == 0);
    kafka.stop(2);
    let mut waiting = 0;
    for round in 1..=20 {
        waiting += write(round * 1_000);
        daemon.wait_until("the others go on", |_| rows(&place, "db") == waiting);
    }
    let lines = |daemon: &Running, what: &str| daemon.stderr().lines().filter(|line| line.contains(what)).count();
    assert!((1..=6).contains(&lines(&daemon, "WARN")), "{}", daemon.stderr());
    assert_eq!(lines(&daemon, "well again"), 0, "{}", daemon.stderr());
    kafka.restart(2);
    (1..PARTITIONS).step_by(2).for_each(|partition| kafka.move_leader("users", partition, 2));
    daemon.wait_until("everything is well", |_| rows(&place, "db") == 0);
    daemon.wait_until("it is said", |daemon| lines(daemon, "well again") > 0);
    assert!(lines(&daemon, "WARN") <= 8 && lines(&daemon, "well again") <= 6, "{}", daemon.stderr());
    daemon.signal(Signal::TERM);
    daemon.finish();
}

/// One replica of each, and the broker of every second one is away when the daemon starts.
#[test]
fn a_partition_without_a_leader_keeps_none_of_the_others_closed() {
    let kafka = FakeKafka::builder().brokers(2).elections(false).topic_replicated("users", 6, 1).start();
    kafka.stop(2);
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    fill(&place, "db", 0, 70);
    let partition = |number: i32| outboxd_kafka::partitioner::partition_for_key(number.to_string().as_bytes(), 6) % 2;
    let waiting = (0..7).filter(|key| partition(*key) == 1).count() as i64 * 10;
    assert!((1..70).contains(&waiting));
    let mut daemon = run_quickly(&place, &kafka, &database);
    daemon.wait_until("those of the living broker are published", |_| rows(&place, "db") == waiting);
    daemon.wait_until("it is said", |daemon| daemon.stderr().contains("a partition without a leader"));
    assert!(!daemon.stderr().contains("well again"), "{}", daemon.stderr());
    kafka.restart(2);
    (1..6).step_by(2).for_each(|partition| kafka.move_leader("users", partition, 2));
    daemon.wait_until("all are published", |_| rows(&place, "db") == 0);
    daemon.signal(Signal::TERM);
    daemon.finish();
    assert_eq!(ours(&kafka).len(), 70);
}

#[test]
fn a_row_that_is_larger_than_memory_and_topic_allow_holds_up_no_other() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let place = Place::new();
    let rows = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 1001)
        INSERT INTO users_outbox (aggregateId, eventType, payload)
        SELECT 'k', 'E', CASE i WHEN 501 THEN printf('%.*c', 5000000, 'B') ELSE 's' END FROM n;";
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX} {rows}"));
    let mut daemon = run_quickly(&place, &kafka, &database);
    kafka.wait_for_records("users", 1_000, PATIENCE);
    daemon.wait_until("the large one in quarantine", |daemon| daemon.stderr().contains("rowid 501 is in quarantine"));
    let left = || {
        let connection = rusqlite::Connection::open(place.path("db")).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection.query_row("SELECT group_concat(id) FROM users_outbox", [], |row| row.get::<_, String>(0)).unwrap()
    };
    daemon.wait_until("the others deleted", |_| left() == "501");
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    assert_eq!(kafka.all_records("users").len(), 1_000, "{}", daemon.everything());
}

/// The database is open for the lock alone: a connection would have it open once more.
fn is_let_go(pid: u32, database: &Path) -> bool {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|path| path == database)).count() == 1
}

/// An application with a busy timeout of 0 changes the journal mode, and has its database for itself, on a connection that stays or on a
/// new one each time: an idle daemon is never in the way, and relays what is committed then.
#[test]
fn an_idle_database_is_the_applications_alone() {
    const DATABASES: usize = 40;
    /// Without a pause in which it was open: news of what came before are through.
    const LET_GO_FOR: Duration = Duration::from_millis(700);
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let place = Place::new();
    let paths: Vec<_> = (0..DATABASES).map(|at| place.path(&format!("db-{at:02}.sqlite"))).collect();
    let mut config = String::new();
    for (at, path) in paths.iter().enumerate() {
        let mode = if at < DATABASES / 2 { "WAL" } else { "DELETE" };
        place.database(path.file_name().unwrap().to_str().unwrap(), &format!("PRAGMA journal_mode = {mode}; {OUTBOX}"));
        let outbox =
            format!("[[outbox]]\ndatabase = {path:?}\ntable = \"users_outbox\"\ntopic = \"users\"\nname = \"o{at}\"\n");
        config.push_str(&outbox);
    }
    let servers = kafka.bootstrap_servers();
    let rest = format!("[kafka]\nbootstrap_servers = {servers:?}\n[http]\nlisten = \"127.0.0.1:0\"\n");
    config.push_str(&rest);
    let mut daemon = Running::start(outboxd(&["run", "--config", &place.write("c.toml", &config)]));
    daemon.wait_until("the address", |daemon| daemon.stderr().contains("listening on http://"));
    // One question at a time: on a busy machine forty at once are more connections than the listener takes.
    let (pid, asker) = (daemon.pid(), Mutex::new(common::asker(&daemon)));
    let ask = |path: &str| asker.lock().unwrap()(path);
    let until = |what: &str, condition: &mut dyn FnMut() -> bool| {
        let end = Instant::now() + PATIENCE;
        while !condition() {
            assert!(Instant::now() < end, "{what} did not happen");
            std::thread::park_timeout(Duration::from_millis(50));
        }
    };
    let alone = |at: usize, stays: bool| {
        let path = &paths[at];
        let deleted = |count: usize| {
            let line = format!("outboxd_deleted_total{{database=\"{}\",outbox=\"o{at}\"}} {count}\n", path.display());
            until(&line, &mut || ask("/metrics").contains(&line));
            let mut since = None;
            until(&format!("{}: letting go", path.display()), &mut || {
                let now = Instant::now();
                since = is_let_go(pid, path).then(|| since.unwrap_or(now));
                since.is_some_and(|since| now.duration_since(since) >= LET_GO_FOR)
            });
        };
        let insert = |number: usize| format!("INSERT INTO users_outbox (payload) VALUES ('{at}-{number}');");
        let mode = |mode: &str, number: usize| {
            (
                format!("PRAGMA journal_mode={mode};"),
                mode.to_owned(),
                format!(".timeout 30000\n{}\n.timeout 0", insert(number)),
            )
        };
        let exclusive = |number: usize| {
            let sql = format!("PRAGMA locking_mode=EXCLUSIVE; BEGIN EXCLUSIVE; {} COMMIT;", insert(number));
            (
                sql,
                "exclusive".to_owned(),
                "PRAGMA locking_mode=NORMAL; SELECT count(*) >= 0 FROM users_outbox;".to_owned(),
            )
        };
        let steps = [exclusive(1), mode(if at < DATABASES / 2 { "delete" } else { "wal" }, 2)];
        let mut shell = stays.then(|| Shell::on(path));
        if let Some(shell) = &mut shell {
            assert_eq!(shell.run("SELECT count(*) FROM users_outbox;"), "0");
        }
        for (number, (sql, says, then)) in steps.into_iter().enumerate() {
            deleted(number);
            let mut used = shell.take().unwrap_or_else(|| Shell::on(path));
            // SQLite 3.40 goes on with what a connection had cached in WAL mode when that mode ends, and undoes others' commits.
            let sql = if stays { format!("SELECT count(*) FROM users_outbox;\n{sql}") } else { sql };
            let says = if stays { format!("0\n{says}") } else { says };
            assert_eq!(used.run(&sql), says, "{} {stays}: {sql}", path.display());
            let printed = used.run(&then);
            assert!(!printed.contains("rror"), "{} {stays}: {then}: {printed}", path.display());
            if stays {
                shell = Some(used);
            } else {
                used.close();
            }
        }
        deleted(2);
    };
    std::thread::scope(|scope| {
        let alone = &alone;
        for at in 0..DATABASES {
            scope.spawn(move || alone(at, at % 2 == 0));
        }
    });
    let values: BTreeSet<_> = kafka.records("users", 0).into_iter().map(|record| record.value.unwrap()).collect();
    assert_eq!((values.len(), kafka.record_count("users")), (2 * DATABASES, 2 * DATABASES));
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
}
