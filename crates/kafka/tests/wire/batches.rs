//! Batches to send, for tests that look at something else than what is in them.

use outboxd_kafka::compression::Compression;
use outboxd_kafka::protocol::PartitionBatch;
use outboxd_kafka::record_batch::append_record;

/// Of one producer, uncompressed, from sequence 0.
pub fn batch<'a>(topic: &'a str, partition: i32, record_count: i32, records: &'a [u8]) -> PartitionBatch<'a> {
    PartitionBatch {
        topic,
        partition,
        producer_id: 1,
        producer_epoch: 0,
        base_sequence: 0,
        timestamp_ms: 1_700_000_000_000,
        record_count,
        records,
        compression: Compression::None,
    }
}

pub fn records(count: u32, value_bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for delta in 0..count {
        append_record(&mut out, delta, None, Some(&vec![b'x'; value_bytes]), &[]);
    }
    out
}
