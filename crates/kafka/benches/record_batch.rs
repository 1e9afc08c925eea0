//! The hot path of encoding: one record, and a batch's header with its checksum.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use outboxd_kafka::compression::Compression;
use outboxd_kafka::record_batch::{BatchFields, RecordHeader, append_record, encode_header};

fn main() {
    divan::main();
}

const RECORDS: u32 = 1_000;

fn fill(out: &mut Vec<u8>, value: &[u8]) {
    for delta in 0..RECORDS {
        let headers = [
            RecordHeader { key: b"id", value: Some(b"0123456789abcdef0123456789abcdef-123456") },
            RecordHeader { key: b"eventType", value: Some(b"UserCreated") },
        ];
        black_box(append_record(out, delta, Some(b"aggregate-0001234"), Some(black_box(value)), &headers));
    }
}

/// A lane's worth of records into a buffer that has grown already.
#[divan::bench(args = [50, 200, 1_000])]
fn append_records(bencher: Bencher, value_bytes: usize) {
    let value = vec![b'x'; value_bytes];
    let mut out = Vec::new();
    bencher.counter(ItemsCount::new(RECORDS)).bench_local(|| {
        out.clear();
        fill(&mut out, &value);
    });
}

/// Mostly the checksum.
#[divan::bench(args = [1, 1_000])]
fn header_with_checksum(bencher: Bencher, records: usize) {
    let mut bytes = Vec::new();
    fill(&mut bytes, &[b'x'; 200]);
    bytes.truncate(bytes.len() / RECORDS as usize * records);
    let fields = BatchFields {
        producer_id: 1,
        producer_epoch: 0,
        base_sequence: 0,
        timestamp_ms: 0,
        record_count: records as i32,
        compression: Compression::None,
    };
    bencher.counter(BytesCount::new(bytes.len())).bench_local(|| encode_header(black_box(&fields), black_box(&bytes)));
}
