//! What is in a topic of the fake broker, as kcat would have read it.
//!
//! Does not know: what should be there.

use super::reader::Record;
use fake_kafka::FakeKafka;

/// All records, by partition and offset.
pub fn arrived(kafka: &FakeKafka, topic: &str) -> Vec<Record> {
    let stored = kafka.all_records(topic).into_iter();
    let mut records: Vec<Record> = stored
        .map(|record| {
            let shown = record.headers.iter().map(|(name, value)| {
                let value = value.as_deref().unwrap_or(b"NULL");
                [name.as_bytes(), b"=", value].concat()
            });
            Record {
                partition: record.partition as u32,
                offset: record.offset,
                timestamp: record.timestamp,
                key: record.key,
                value: record.value,
                headers: shown.collect::<Vec<_>>().join(&b','),
            }
        })
        .collect();
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}
