//! What a test can do to what lies in the logs: retention, compaction, foreign records, and what is remembered of producers.
//!
//! It promises that each call has taken effect when it returns. It does not know sockets, brokers or elections.

use std::collections::HashMap;

use crate::FakeKafka;
use crate::log::{BATCH_HEADER_BYTES, BatchHeader, checksum};
use crate::record::Record;

impl FakeKafka {
    /// Retention: offsets below are gone on all replicas. What is remembered of producers stays.
    pub fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        self.with_partition(topic, partition, |partition| {
            for replica in partition.replicas.values_mut() {
                replica.log.delete_before(offset);
            }
        });
    }

    /// Compaction took the batch that began at this offset. True when there was one.
    pub fn compact_away(&self, topic: &str, partition: i32, base_offset: i64) -> bool {
        self.with_partition(topic, partition, |partition| {
            let mut found = false;
            for replica in partition.replicas.values_mut() {
                found |= replica.log.compact_away(base_offset);
            }
            found
        })
    }

    /// The log goes on in another segment. One Fetch reads one segment: its answer ends there, far from the high watermark.
    pub fn roll_segment(&self, topic: &str, partition: i32) {
        self.with_partition(topic, partition, |partition| {
            for replica in partition.replicas.values_mut() {
                replica.log.roll_segment();
            }
        });
    }

    /// Log cleaning, on all replicas below the high watermark: records for which `keep(offset, record)` is false go, offsets stay as they
    /// were. A batch whose records all went is gone too, unless it is its producer's newest: then its header stays, with no record in it, as
    /// long as the producer is remembered. Returns how many records went from the leader.
    ///
    /// # Panics
    /// When a batch is compressed, or nobody leads.
    pub fn compact(&self, topic: &str, partition: i32, keep: impl Fn(i64, &Record) -> bool) -> i32 {
        self.with_partition(topic, partition, |found| {
            let leader = found.leader.unwrap_or_else(|| panic!("nobody leads {topic:?}/{partition}"));
            let mut gone = 0;
            for (&id, replica) in &mut found.replicas {
                let cleaned = replica.clean(&keep).unwrap_or_else(|malformed| panic!("{}", malformed.0));
                if id == leader {
                    gone = cleaned;
                }
            }
            gone
        })
    }

    /// What log cleaning does on a topic with `cleanup.policy=compact`: below the high watermark only the newest record of each key stays.
    /// Such a topic takes no record without a key; where there are some, they stay.
    pub fn compact_by_key(&self, topic: &str, partition: i32) -> i32 {
        let committed = self.log_ends(topic, partition).high_watermark;
        let records = self.records(topic, partition).into_iter().filter(|record| record.offset < committed);
        let newest: HashMap<Vec<u8>, i64> =
            records.filter_map(|record| record.key.map(|key| (key, record.offset))).collect();
        self.compact(topic, partition, |offset, record| {
            let newer = record.key.as_ref().and_then(|key| newest.get(key));
            newer.is_none_or(|&last| offset >= last)
        })
    }

    /// Someone else's record, without a producer id, goes to the leader's log. Returns its offset.
    pub fn append_foreign(&self, topic: &str, partition: i32, value: &[u8]) -> i64 {
        self.append_own(topic, partition, &foreign_batch(value, 0))
    }

    /// A transaction marker, as a control batch.
    pub fn append_control_batch(&self, topic: &str, partition: i32) -> i64 {
        self.append_own(topic, partition, &foreign_batch(&[0; 6], 0x30))
    }

    fn append_own(&self, topic: &str, index: i32, batch: &[u8]) -> i64 {
        self.with_partition(topic, index, |partition| {
            let leader = partition.leader.unwrap_or_else(|| panic!("nobody leads {topic:?}/{index}"));
            let header = BatchHeader::parse(batch).expect("made here");
            let appended = partition.append(leader, &header, batch, false);
            appended.expect("a batch without a producer is never refused").base_offset
        })
    }

    /// A foreign transaction is open from `offset` on: readers with isolation 1 see nothing beyond. `None` ends it.
    pub fn open_transaction_from(&self, topic: &str, partition: i32, offset: Option<i64>) {
        self.with_partition(topic, partition, |partition| partition.open_transaction_from = offset);
    }

    /// The periodic expiry of producers runs now, on all replicas: by the *records'* newest timestamp.
    pub fn expire_producers(&self) {
        self.shared.change(|state| {
            let oldest = state.now_ms() - state.settings.producer_expiration.as_millis() as i64;
            let partitions = state.topics.values_mut().flat_map(|topic| &mut topic.partitions);
            for replica in partitions.flat_map(|partition| partition.replicas.values_mut()) {
                replica.producers.expire(oldest);
            }
        });
    }

    /// All replicas of a partition forget one producer.
    pub fn forget_producer(&self, topic: &str, partition: i32, producer_id: i64) {
        self.with_partition(topic, partition, |partition| {
            for replica in partition.replicas.values_mut() {
                replica.producers.forget(producer_id);
            }
        });
    }

    /// One replica of a partition forgets one producer; on its leader, that is what a client meets.
    pub fn forget_producer_on(&self, broker: i32, topic: &str, partition: i32, producer_id: i64) {
        self.with_replica(topic, partition, broker, |replica| replica.producers.forget(producer_id));
    }
}

/// A batch of one record with a null key and no producer.
fn foreign_batch(value: &[u8], attributes: i16) -> Vec<u8> {
    let zigzag = |number: i64, out: &mut Vec<u8>| {
        let mut raw = ((number << 1) ^ (number >> 63)) as u64;
        while raw >= 0x80 {
            out.push(raw as u8 | 0x80);
            raw >>= 7;
        }
        out.push(raw as u8);
    };
    let mut body = vec![0, 0, 0, 1]; // attributes, timestamp delta 0, offset delta 0, null key
    zigzag(value.len() as i64, &mut body);
    body.extend_from_slice(value);
    body.push(0); // no headers
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    zigzag(body.len() as i64, &mut batch);
    batch.extend_from_slice(&body);
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[43..51].copy_from_slice(&(-1i64).to_be_bytes());
    batch[51..53].copy_from_slice(&(-1i16).to_be_bytes());
    batch[53..57].copy_from_slice(&(-1i32).to_be_bytes());
    batch[57..61].copy_from_slice(&1i32.to_be_bytes());
    let crc = checksum(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}
