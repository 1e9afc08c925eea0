//! What compressing costs: a batch of records with 200 bytes of JSON each, by a compressor that has been used before.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use outboxd_kafka::compression::{Compression, Compressor, Settings, decompress};
use outboxd_kafka::record_batch::{RecordHeader, append_record};

fn main() {
    let records = records();
    for compression in Compression::ALL {
        let sent = Compressor::new(settings(compression)).sent_bytes(&records);
        println!("{compression}: {} bytes are sent as {sent}", records.len());
    }
    divan::main();
}

/// As many as fit into the largest batch of a daemon, and some more.
const RECORDS: u32 = 3_500;

fn settings(compression: Compression) -> Settings {
    Settings { compression, ..Settings::default() }
}

fn records() -> Vec<u8> {
    const NAMES: [&str; 8] = ["Anna", "Bert", "Carla", "Dieter", "Emil", "Frida", "Gustav", "Hanna"];
    let mut random = fastrand::Rng::with_seed(1);
    let mut out = Vec::new();
    for delta in 0..RECORDS {
        let mut value = format!(
            "{{\"id\":{delta},\"name\":\"{}\",\"mail\":\"user{}@example.org\",\"balance\":{},\"token\":\"{:016x}\",\"note\":\"",
            NAMES[random.usize(..8)],
            random.u32(..1_000_000),
            random.u32(..100_000),
            random.u64(..)
        );
        while value.len() < 198 {
            value.push_str(["some ", "words ", "of no ", "use "][random.usize(..4)]);
        }
        value.truncate(198);
        value.push_str("\"}");
        let id = format!("0123456789abcdef0123456789abcdef-{delta}");
        let headers = [
            RecordHeader { key: b"id", value: Some(id.as_bytes()) },
            RecordHeader { key: b"eventType", value: Some(b"UserCreated") },
            RecordHeader { key: b"aggregateId", value: Some(b"aggregate-0001234") },
        ];
        append_record(&mut out, delta, Some(b"aggregate-0001234"), Some(value.as_bytes()), &headers);
    }
    out
}

#[divan::bench(args = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd])]
fn compress(bencher: Bencher, compression: Compression) {
    let records = records();
    let mut compressor = Compressor::new(settings(compression));
    bencher
        .counter(ItemsCount::new(RECORDS))
        .counter(BytesCount::new(records.len()))
        .bench_local(|| black_box(compressor.compress(black_box(&records))));
}

#[divan::bench(args = [Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd])]
fn open(bencher: Bencher, compression: Compression) {
    let records = records();
    let compressed = Compressor::new(settings(compression)).compress(&records).expect("it becomes smaller");
    let mut out = Vec::new();
    bencher
        .counter(ItemsCount::new(RECORDS))
        .counter(BytesCount::new(records.len()))
        .bench_local(|| decompress(compression, black_box(&compressed), records.len(), &mut out));
}
