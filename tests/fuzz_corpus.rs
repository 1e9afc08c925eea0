//! The inputs in `fuzz/corpus/`, through what the fuzz targets do with theirs.

#[path = "../fuzz/src/lib.rs"]
mod bodies;

use fuzz_corpus::Corpus;
use outboxd::model::{Fingerprint, OutboxIx, RowKey, RowMeta, Rows, Span};
use outboxd::source::wal::{FRAME_HEADER_SIZE, HEADER_SIZE};
use outboxd::state::codec;
use rusqlite::Connection;
use std::fs;
use std::path::Path;

const CORPUS: Corpus<'_> =
    Corpus { manifest_dir: env!("CARGO_MANIFEST_DIR"), library: "outboxd_fuzz", targets: &bodies::TARGETS };

#[test]
fn nothing_in_the_corpus_makes_a_decoder_break_its_word() {
    CORPUS.assert_no_decoder_breaks_its_word();
}

#[test]
fn every_target_has_a_corpus_with_good_and_bad_inputs() {
    CORPUS.assert_good_and_bad_inputs();
}

#[test]
fn bodies_and_targets_and_corpora_have_the_same_names() {
    CORPUS.assert_same_names();
}

/// What a fuzzer starts from, by SQLite itself and by hand. Only what is not there is made.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn make_seeds() {
    for (name, input) in config_seeds() {
        CORPUS.write_seed("config_file", &name, input.as_bytes());
    }
    for (name, input) in rows_seeds() {
        CORPUS.write_seed("plan_rows", name, &input);
    }
    for (name, input) in history_seeds() {
        CORPUS.write_seed("wal_follower", name, &input);
    }
    for (name, input) in log_seeds() {
        CORPUS.write_seed("wal_frames", name, &input);
    }
}

fn config_seeds() -> Vec<(String, String)> {
    let example = fs::read_to_string(Path::new(CORPUS.manifest_dir).join("config.example.toml")).unwrap();
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
