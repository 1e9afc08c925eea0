//! The inputs in `fuzz/corpus/`, through what the fuzz targets do with theirs: what a fuzzer found once is asked for ever after.

#[path = "../fuzz/src/lib.rs"]
mod bodies;
#[allow(dead_code)]
#[path = "../crates/kafka/tests/wire/samples.rs"]
mod samples;

use bodies::{TARGETS, Target};
use kafka_protocol::messages::{self, create_topics_response::CreatableTopicResult};
use outboxd::model::{Fingerprint, OutboxIx, RowKey, RowMeta, Rows, Span};
use outboxd::source::wal::{FRAME_HEADER_SIZE, HEADER_SIZE};
use outboxd::state::codec;
use outboxd_kafka::protocol::header::is_flexible;
use outboxd_kafka::protocol::{ApiKey, SPOKEN};
use outboxd_kafka::record_batch::{BatchFields, RecordHeader, append_record, encode_header};
use rusqlite::Connection;
use samples::{encoded, text, topic};
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// It is downloaded by everybody, and run by every `cargo test`.
const CORPUS_BYTES_MAX: u64 = 500_000;

#[test]
fn nothing_in_the_corpus_makes_a_decoder_break_its_word() {
    let mut failed = Vec::new();
    for target in &TARGETS {
        for (path, input) in corpus(target) {
            if catch_unwind(AssertUnwindSafe(|| (target.body)(&input))).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

/// A corpus of which everything is refused at the first byte would test nothing.
#[test]
fn every_target_has_a_corpus_with_good_and_bad_inputs() {
    for target in &TARGETS {
        let (good, bad): (Vec<_>, Vec<_>) = corpus(target).into_iter().partition(|(_, input)| (target.body)(input));
        assert!(!good.is_empty(), "fuzz/corpus/{} has nothing that is accepted", target.name);
        assert!(!bad.is_empty(), "fuzz/corpus/{} has nothing that is refused", target.name);
    }
    let bytes: u64 = TARGETS.iter().flat_map(corpus).map(|(_, input)| input.len() as u64).sum();
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes are more than {CORPUS_BYTES_MAX}");
}

#[test]
fn every_answer_we_read_is_in_the_corpus() {
    let answers = TARGETS.iter().find(|target| target.name == "kafka_answers").unwrap();
    let accepted: BTreeSet<(u8, u8)> = corpus(answers)
        .iter()
        .filter(|(_, input)| (answers.body)(input))
        .map(|(_, input)| (input[0], input[1]))
        .collect();
    let spoken: BTreeSet<(u8, u8)> = SPOKEN
        .iter()
        .flat_map(|line| (line.versions.min..=line.versions.max).map(|version| (line.api as u8, version as u8)))
        .collect();
    assert_eq!(accepted, spoken, "(API, version); add a seed for what is missing: {MAKE_SEEDS}");
}

#[test]
fn bodies_and_targets_and_corpora_have_the_same_names() {
    let bodies: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names_in("fuzz/corpus"), bodies);
    let files: BTreeSet<String> = bodies.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names_in("fuzz/fuzz_targets"), files);
    let manifest = fs::read_to_string(root().join("fuzz/Cargo.toml")).unwrap();
    for name in &bodies {
        let path = format!("fuzz_targets/{name}.rs");
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"{path}\"")), "fuzz/Cargo.toml lacks {name}");
        let file = fs::read_to_string(root().join("fuzz").join(&path)).unwrap();
        assert!(file.contains(&format!("outboxd_fuzz::{name}(input)")), "{path} runs another body");
    }
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = root().join("fuzz/corpus").join(target.name);
    let mut files: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn names_in(folder: &str) -> BTreeSet<String> {
    fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

const MAKE_SEEDS: &str = "cargo test --test fuzz_corpus make_seeds -- --ignored";

/// What a fuzzer starts from, by encoders that are not the decoders' own and by SQLite itself. Only what is not there is made.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn make_seeds() {
    for (name, input) in config_seeds() {
        write_seed("config_file", &name, input.as_bytes());
    }
    for (name, input) in answer_seeds() {
        write_seed("kafka_answers", &name, &input);
    }
    for (name, input) in rows_seeds() {
        write_seed("plan_rows", name, &input);
    }
    for (name, input) in batch_seeds() {
        write_seed("record_batches", name, &input);
    }
    for (name, input) in history_seeds() {
        write_seed("wal_follower", name, &input);
    }
    for (name, input) in log_seeds() {
        write_seed("wal_frames", name, &input);
    }
}

fn write_seed(target: &str, name: &str, input: &[u8]) {
    let folder = root().join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(format!("seed-{name}"));
    // SQLite's logs have random numbers in them: made again they would be others, for nothing.
    if !path.exists() {
        fs::write(path, input).unwrap();
    }
}

fn config_seeds() -> Vec<(String, String)> {
    let example = fs::read_to_string(root().join("config.example.toml")).unwrap();
    // Its defaults written out, its comments left out.
    let keys: Vec<&str> = example
        .lines()
        .map(|line| line.strip_prefix('#').filter(|key| !key.starts_with(' ')).unwrap_or(line))
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .collect();
    let outbox = |database: &str, table: &str, more: &str| {
        format!("[[outbox]]\ndatabase = \"{database}\"\ntable = \"{table}\"\ntopic = \"users\"\n{more}\n")
    };
    let seed = |name: &str, text: String| (name.to_owned(), text);
    vec![
        seed("every-key", keys.join("\n")),
        seed("smallest", outbox("/d", "t", "")),
        seed("template", outbox("/d", "t", "topic_s = 1").replace("\"users\"", "'u{{x}}.{eventType}-{id}'")),
        seed("two-of-one-file", outbox("/d", "t", "name = 'a'") + &outbox("/./d", "u", "durability = 'commit'")),
        seed("two-names", outbox("/d", "t", "[outbox.headers]\na = 'b'\n\"c d\" = 'e'") + &outbox("/e", "t", "")),
        seed("one-table-twice", outbox("/d", "t", "name = 'a'") + &outbox("/d", "T", "name = 'b'")),
        seed("near-miss", outbox("/d", "t", "[kafka]\nbootstrap.servers = ['a:1']")),
        seed("addresses", outbox("/d", "t", "[kafka]\nbootstrap_servers = ['a:1', '[::1]:65535', '1.2.3.4:9092']")),
        seed(
            "numbers",
            outbox("/d", "t", "topics_max = 0x1_0\n[kafka]\nmax_request_size = 0b1\nretry_backoff_ms = 1e3"),
        ),
        seed(
            "inline",
            "outbox = [{database='d',table='t',topic='x',headers={a=\"\\u00e9\"}}]\nhttp.listen=':1'".into(),
        ),
    ]
}

/// Each as `kafka_answers` wants it: API, version, and what follows an answer's length prefix.
fn answer_seeds() -> Vec<(String, Vec<u8>)> {
    let records = batch_seeds().swap_remove(0).1;
    SPOKEN
        .iter()
        .flat_map(|line| (line.versions.min..=line.versions.max).map(|version| (line.api, version)))
        .flat_map(|(api, version)| {
            let (full, empty) = match api {
                ApiKey::Produce => (
                    encoded(&samples::produce(version), version),
                    encoded(&messages::ProduceResponse::default(), version),
                ),
                ApiKey::Fetch => (
                    encoded(&samples::fetch(records.clone()), version),
                    encoded(&messages::FetchResponse::default(), version),
                ),
                ApiKey::ListOffsets => (
                    encoded(&samples::list_offsets(), version),
                    encoded(&messages::ListOffsetsResponse::default(), version),
                ),
                ApiKey::Metadata => {
                    (encoded(&samples::metadata(), version), encoded(&messages::MetadataResponse::default(), version))
                }
                ApiKey::ApiVersions => (
                    encoded(&samples::api_versions(), version),
                    encoded(&messages::ApiVersionsResponse::default(), version),
                ),
                ApiKey::CreateTopics => {
                    (encoded(&created_topics(), version), encoded(&messages::CreateTopicsResponse::default(), version))
                }
                ApiKey::InitProducerId => (
                    encoded(&samples::init_producer_id(), version),
                    encoded(&messages::InitProducerIdResponse::default(), version),
                ),
                ApiKey::DescribeProducers => (
                    encoded(&samples::describe_producers(), version),
                    encoded(&messages::DescribeProducersResponse::default(), version),
                ),
            };
            let mut head = vec![api as u8, version as u8, 0, 0, 0, 42];
            if is_flexible(api, version) && api != ApiKey::ApiVersions {
                head.push(0);
            }
            let name = format!("{api}-{version}");
            let cut = full[..full.len() - 1].to_vec();
            [("", full), ("-cut", cut), ("-empty", empty)]
                .map(|(what, body)| (format!("{name}{what}"), [&head[..], &body].concat()))
        })
        .chain([("long-topic".to_owned(), long_topic())])
        .collect()
}

/// A name that no topic can have, and many partitions that are next to nothing.
fn long_topic() -> Vec<u8> {
    use messages::describe_producers_response::{PartitionResponse, TopicResponse};
    let partitions = (0..170).map(|index| PartitionResponse::default().with_partition_index(index)).collect();
    let users = TopicResponse::default().with_name(topic(&"x".repeat(1_500))).with_partitions(partitions);
    let answer = messages::DescribeProducersResponse::default().with_topics(vec![users]);
    [&[ApiKey::DescribeProducers as u8, 0, 0, 0, 0, 42, 0], &encoded(&answer, 0)[..]].concat()
}

fn created_topics() -> messages::CreateTopicsResponse {
    let there = CreatableTopicResult::default()
        .with_name(topic("users"))
        .with_error_code(36)
        .with_error_message(Some(text("it is there")));
    let made = CreatableTopicResult::default().with_name(topic("made")).with_error_message(None);
    messages::CreateTopicsResponse::default().with_throttle_time_ms(7).with_topics(vec![there, made])
}

fn rows_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let blob = |count: i64, outboxes: &[i64], with_ids: bool| {
        let mut rows = Rows::default();
        for index in 0..count {
            let id = if with_ids { format!("event-{index}") } else { String::new() };
            let event_id = Span { start: rows.bytes.len() as u32, len: id.len() as u32 };
            rows.bytes.extend_from_slice(id.as_bytes());
            // Neighbours, and at the end a distance that needs all ten bytes.
            let rowid = if index == 11 { i64::MIN } else { 1_000 + index };
            rows.meta.push(RowMeta {
                key: RowKey { outbox: OutboxIx((index as usize * outboxes.len() / count as usize) as u16), rowid },
                print: Fingerprint(u128::MAX / 3 + index as u128),
                record: Span::default(),
                message: if index == 11 { u64::MAX } else { 7 + index as u64 },
                event_id,
            });
        }
        let mut blob = Vec::new();
        codec::encode(&rows, outboxes, &mut blob);
        blob
    };
    let hostile_count = [&[1][..], &[0xff; 9], &[1], &[0; 40]].concat();
    vec![
        ("hostile-count", hostile_count),
        ("none", blob(0, &[1], false)),
        ("one", blob(1, &[1], false)),
        ("ten", blob(10, &[1], false)),
        ("ids", blob(5, &[3], true)),
        ("cut", blob(5, &[3], true)[..99].to_vec()),
        ("outboxes", blob(12, &[70_000, 2, i64::MAX], true)),
    ]
}

fn batch_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let batch = |base_offset: i64, values: &[Option<&[u8]>]| {
        let headers = [RecordHeader { key: b"id", value: Some(b"run-1") }, RecordHeader { key: b"", value: None }];
        let mut records = Vec::new();
        for (place, value) in (0u32..).zip(values) {
            let headers = &headers[..place as usize % 3];
            append_record(&mut records, place, value.is_some().then_some(b"key"), *value, headers);
        }
        let record_count = values.len() as i32;
        let fields = BatchFields { producer_id: 7, producer_epoch: 2, base_sequence: 5, timestamp_ms: 9, record_count };
        let mut bytes = [&encode_header(&fields, &records)[..], &records].concat();
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes
    };
    let three = batch(100, &[Some(b"one"), None, Some(&[b'x'; 70])]);
    let mut compressed = three.clone();
    compressed[22] = 1;
    let mut backwards = three.clone();
    backwards[23..27].copy_from_slice(&(-2i32).to_be_bytes());
    let mut fewer = three.clone();
    fewer[60] = 2;
    let mut control = three.clone();
    control[22] = 0x30 | 0x08;
    // Offset, length, checksum, magic 1, attributes, timestamp, null key, value.
    let older: Vec<u8> = [
        &41i64.to_be_bytes()[..],
        &23i32.to_be_bytes(),
        &[0, 0, 0, 0, 1, 0],
        &1i64.to_be_bytes(),
        &(-1i32).to_be_bytes(),
        &1i32.to_be_bytes(),
        b"x",
    ]
    .concat();
    vec![
        ("three", three.clone()),
        ("two-batches", [three.clone(), batch(103, &[Some(b"")])].concat()),
        ("cut", [&three[..], &three[..three.len() - 1]].concat()),
        ("cut-in-header", [&three[..], &three[..30]].concat()),
        ("compressed", compressed),
        ("control", control),
        ("backwards", backwards),
        ("fewer-than-there-are", fewer),
        ("older", [older, three].concat()),
    ]
}

/// A step a byte: what in the lower three bits, how much in the upper five.
fn history_seeds() -> Vec<(&'static str, Vec<u8>)> {
    const FOREIGN: u8 = 0;
    const OWN: u8 = 1;
    const OPEN: u8 = 2;
    const ROLL_BACK: u8 = 3;
    const RESTART: u8 = 4;
    const HALF_FRAME: u8 = 5;
    const HALF_HEADER: u8 = 6;
    const LOOK: u8 = 7;
    let step = |what: u8, much: u8| what | much << 3;
    vec![
        ("nothing", vec![LOOK]),
        ("commits", vec![OWN, LOOK, FOREIGN, LOOK, step(OWN, 3), step(FOREIGN, 2), LOOK]),
        ("rolled-back", vec![OWN, step(OPEN, 2), LOOK, ROLL_BACK, LOOK, step(FOREIGN, 1), LOOK]),
        (
            "restarted",
            vec![OWN, step(FOREIGN, 9), LOOK, step(RESTART, 1), LOOK, FOREIGN, LOOK, step(RESTART, 31), LOOK],
        ),
        ("half-written", vec![OWN, LOOK, step(HALF_FRAME, 9), step(HALF_HEADER, 1), FOREIGN, LOOK]),
        (
            "long",
            [vec![OWN; 3], vec![step(OPEN, 31); 20], vec![LOOK, ROLL_BACK, LOOK, step(OPEN, 31), FOREIGN, LOOK]]
                .concat(),
        ),
        ("rolled-back-in-between", vec![OWN, step(OPEN, 2), LOOK, ROLL_BACK, step(OPEN, 1), LOOK, FOREIGN, LOOK]),
        ("many-own", [vec![OWN, LOOK], vec![step(OWN, 31); 140], vec![LOOK, FOREIGN, LOOK]].concat()),
    ]
}

/// Real logs. The first two bytes say what is put right (nothing, or everything in the first frames).
fn log_seeds() -> Vec<(&'static str, Vec<u8>)> {
    const THREE: &str = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); INSERT INTO t VALUES (zeroblob(1200));";
    let rolled_back = "PRAGMA cache_size = 2; INSERT INTO t VALUES (1);
        BEGIN; INSERT INTO t SELECT zeroblob(300) FROM json_each('[1,2,3,4,5,6,7,8,9,10,11,12]'); ROLLBACK;
        INSERT INTO t VALUES (2);";
    let restarted = format!("{THREE} PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (9);");
    let three = log_of(512, THREE);
    let raw = |log: &[u8]| [&[0, 0], log].concat();
    let half_a_page = three.len() - 100;
    vec![
        ("three", raw(&three)),
        ("three-of-1024", raw(&log_of(1024, THREE))),
        ("rolled-back", raw(&log_of(512, rolled_back))),
        ("restarted", raw(&log_of(512, &restarted))),
        ("header", raw(&three[..HEADER_SIZE])),
        ("cut-in-page", raw(&three[..half_a_page])),
        ("cut-in-frame-header", raw(&three[..HEADER_SIZE + FRAME_HEADER_SIZE - 1])),
        ("put-right", [&[255, 7], &three[..]].concat()),
        ("put-right-other-byte-order", [&[2, 15], &three[..]].concat()),
    ]
}

fn log_of(page_size: u32, script: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db");
    let database = Connection::open(&path).unwrap();
    database
        .execute_batch(&format!(
            "PRAGMA page_size = {page_size}; PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
             CREATE TABLE t (x); {script}"
        ))
        .unwrap();
    fs::read(folder.path().join("db-wal")).unwrap()
}
