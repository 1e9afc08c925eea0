//! The judge is judged: what the acceptance tests rest on can fail, and says what failed.

use crate::support;
use crate::support::app::Entry;
use crate::support::check;
use crate::support::reader::Record;
use std::panic::{AssertUnwindSafe, catch_unwind};

fn entry(aggregate: &str, sequence: u64) -> Entry {
    Entry {
        aggregate: Some(aggregate.into()),
        sequence,
        event_type: Some(b"Made".to_vec()),
        payload: Some(format!("{aggregate}/{sequence}").into()),
    }
}

fn record(partition: u32, offset: i64, aggregate: &str, sequence: u64) -> Record {
    Record {
        partition,
        offset,
        timestamp: 0,
        key: Some(aggregate.into()),
        value: Some(format!("{aggregate}/{sequence}").into()),
        headers: format!("id=run-{partition}-{offset},eventType=Made,aggregateId={aggregate}").into(),
    }
}

fn committed() -> Vec<Entry> {
    vec![entry("a", 1), entry("b", 1), entry("a", 2), entry("a", 3)]
}

fn arrived() -> Vec<Record> {
    vec![record(0, 0, "a", 1), record(0, 1, "a", 2), record(0, 2, "a", 3), record(1, 0, "b", 1)]
}

fn complaint(records: &[Record], ledger: &[Entry]) -> String {
    let judged = catch_unwind(AssertUnwindSafe(|| check::exactly_once(records, ledger)));
    match judged {
        Ok(()) => String::new(),
        Err(panic) => panic.downcast_ref::<String>().cloned().unwrap_or_default(),
    }
}

#[test]
fn all_is_well() {
    assert_eq!(complaint(&arrived(), &committed()), "");
}

#[test]
fn a_lost_event_is_noticed() {
    let mut records = arrived();
    records.remove(1);
    assert!(complaint(&records, &committed()).contains("1 lost, 0 doubled, 0 invented"));
}

#[test]
fn a_whole_lost_key_is_noticed() {
    let mut records = arrived();
    records.pop();
    assert!(complaint(&records, &committed()).contains("\"b\": 0 arrived, 1 committed: 1 lost"));
}

#[test]
fn a_doubled_event_is_noticed() {
    let mut records = arrived();
    records.push(record(1, 1, "b", 1));
    assert!(complaint(&records, &committed()).contains("0 lost, 1 doubled, 0 invented"));
}

#[test]
fn an_invented_event_is_noticed() {
    let mut records = arrived();
    records.push(record(1, 1, "c", 1));
    assert!(complaint(&records, &committed()).contains("0 lost, 0 doubled, 1 invented"));
}

#[test]
fn a_changed_byte_is_noticed() {
    let mut records = arrived();
    records[0].value = Some(b"a/1 ".to_vec());
    assert!(complaint(&records, &committed()).contains("1 lost, 0 doubled, 1 invented"));
}

#[test]
fn null_is_not_empty() {
    let mut records = arrived();
    records[3].value = None;
    let mut ledger = committed();
    ledger[1].payload = Some(Vec::new());
    assert!(complaint(&records, &ledger).contains("NULL of Made instead of \"\" of Made"));
}

#[test]
fn another_order_is_noticed() {
    let mut records = arrived();
    let value = records[0].value.clone();
    records[0].value = records[1].value.clone();
    records[1].value = value;
    assert!(complaint(&records, &committed()).contains("out of order"));
}

#[test]
fn a_key_in_two_partitions_is_noticed() {
    let mut records = arrived();
    records[2].partition = 2;
    assert!(complaint(&records, &committed()).contains("is in two partitions"));
}

#[test]
fn a_message_id_used_twice_is_noticed() {
    let mut records = arrived();
    records[1].headers = records[0].headers.clone();
    assert!(complaint(&records, &committed()).contains("is there twice"));
}

#[test]
fn versions_of_a_rewritten_event() {
    let ledger = vec![entry("a", 0), entry("a", 1), entry("a", 2)];
    let records = |sequences: &[u64]| -> Vec<Record> {
        sequences.iter().zip(0..).map(|(sequence, offset)| record(0, offset, "a", *sequence)).collect()
    };
    assert_eq!(check::each_last_version(&records(&[0, 1, 2]), &ledger), 1);
    assert_eq!(check::each_last_version(&records(&[2]), &ledger), 0);
    for wrong in [&[0, 1][..], &[1, 0, 2], &[0, 0, 2], &[2, 2], &[]] {
        let judged = catch_unwind(AssertUnwindSafe(|| check::each_last_version(&records(wrong), &ledger)));
        assert!(judged.is_err(), "{wrong:?} was let through");
    }
}

#[test]
fn kcat_frames_are_cut_by_their_lengths() {
    let text = b"0 7 123 2 5 id=x-1,eventType=a,b=c,aggregateId=k1\x1e\nk1v\n\x1e\n\x00\n1 0 124 -1 -1 \x1e\n\n1 1 125 0 0 \x1e\n\n";
    let records = support::reader::parse(text);
    assert_eq!(records.len(), 3);
    assert_eq!(records[0].value.as_deref(), Some(&b"v\n\x1e\n\x00"[..]));
    assert_eq!(records[0].header("id"), b"x-1");
    assert_eq!(records[0].header("eventType"), b"a,b=c");
    assert_eq!(records[0].header("aggregateId"), b"k1");
    assert_eq!((&records[1].key, &records[1].value), (&None, &None));
    assert_eq!((records[2].key.as_deref(), records[2].value.as_deref()), (Some(&b""[..]), Some(&b""[..])));
}

#[test]
fn split_system_calls_are_put_together() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let text = "10 pread64(5</d/app.db-wal>,  <unfinished ...>\n\
                11 fdatasync(7</d/app.db-wal>) = 0\n\
                10 <... pread64 resumed>\"row\", 4096, 0) = 3\n\
                11 sendto(9<TCP:[127.0.0.1:5->127.0.0.1:6]>, \"row\", 3, 0, NULL, 0) = 3\n\
                11 +++ exited with 0 +++\n";
    std::fs::write(&trace, text).unwrap();
    let calls = support::syscalls::parse(&trace);
    let seen: Vec<_> = calls.iter().map(|c| (c.name.as_str(), c.descriptor(), c.begun, c.ended)).collect();
    let expected = [
        ("pread64", "/d/app.db-wal", 0, 2),
        ("fdatasync", "/d/app.db-wal", 1, 1),
        ("sendto", "TCP:[127.0.0.1:5->127.0.0.1:6]", 3, 3),
    ];
    assert_eq!(seen, expected);
    assert!(calls[0].arguments.contains("row"));
}
