//! What one replica remembers of idempotent producers: Kafka's `ProducerStateManager`, as far as a producer without transactions meets it.
//!
//! It promises Kafka's answers: a batch is a duplicate by (epoch, first, last sequence) alone, contents are never compared, five batches
//! are remembered, one after a restart. It does not know logs, offsets' meaning or time beyond what it is told.

use std::collections::{BTreeMap, VecDeque};

use crate::codes;
use crate::log::{BatchHeader, add_to_sequence};

/// Batches of a producer kept for the duplicate check (`ProducerStateEntry.NUM_BATCHES_TO_RETAIN`).
const BATCHES_KEPT: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct BatchSeen {
    first_sequence: i32,
    last_sequence: i32,
    base_offset: i64,
    last_offset: i64,
    max_timestamp: i64,
}

#[derive(Clone, Debug)]
struct Entry {
    epoch: i16,
    batches: VecDeque<BatchSeen>,
    last_timestamp: i64,
}

/// What to do with a batch of an idempotent producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Append,
    /// Answered as the first time, nothing is written.
    Duplicate {
        base_offset: i64,
        last_offset: i64,
        /// Of the batch that was stored.
        timestamp: i64,
    },
    Refuse(i16),
}

/// A producer as DescribeProducers lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// Of the newest batch, -1 when none is remembered.
    pub last_sequence: i32,
    pub last_timestamp: i64,
}

/// All producers of one replica of one partition.
#[derive(Clone, Debug, Default)]
pub struct Producers {
    entries: BTreeMap<i64, Entry>,
}

impl Producers {
    /// `strict_unknown`: up to Kafka 2.4 an unknown producer must begin at sequence 0, else 59 (KIP-360 ended that).
    pub fn judge(&self, header: &BatchHeader, strict_unknown: bool) -> Verdict {
        let Some(entry) = self.entries.get(&header.producer_id) else {
            let refuse = strict_unknown && header.base_sequence != 0;
            return if refuse { Verdict::Refuse(codes::UNKNOWN_PRODUCER_ID) } else { Verdict::Append };
        };
        let last_sequence = header.last_sequence();
        if header.producer_epoch == entry.epoch
            && let Some(seen) = entry
                .batches
                .iter()
                .find(|seen| seen.first_sequence == header.base_sequence && seen.last_sequence == last_sequence)
        {
            let BatchSeen { base_offset, last_offset, max_timestamp: timestamp, .. } = *seen;
            return Verdict::Duplicate { base_offset, last_offset, timestamp };
        }
        if header.producer_epoch < entry.epoch {
            return Verdict::Refuse(codes::INVALID_PRODUCER_EPOCH);
        }
        let in_order = if header.producer_epoch > entry.epoch {
            header.base_sequence == 0
        } else {
            entry.batches.back().is_none_or(|last| add_to_sequence(last.last_sequence, 1) == header.base_sequence)
        };
        if in_order { Verdict::Append } else { Verdict::Refuse(codes::OUT_OF_ORDER_SEQUENCE_NUMBER) }
    }

    /// Remembers a batch that is now in the log at `header.base_offset`.
    pub fn remember(&mut self, header: &BatchHeader) {
        if !header.has_producer() || header.is_control() {
            return;
        }
        let entry = self.entries.entry(header.producer_id).or_insert_with(|| Entry {
            epoch: header.producer_epoch,
            batches: VecDeque::new(),
            last_timestamp: i64::MIN,
        });
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        if entry.batches.len() == BATCHES_KEPT {
            entry.batches.pop_front();
        }
        entry.batches.push_back(BatchSeen {
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.base_offset + i64::from(header.last_offset_delta),
            max_timestamp: header.max_timestamp,
        });
        entry.last_timestamp = header.max_timestamp;
    }

    /// The log lost everything from `end` on: whoever wrote there is known again as far as `left`, the batches still in it, tell; all
    /// others stay as they were, those whose batches retention took included.
    pub fn reload<'a>(&mut self, end: i64, left: impl Iterator<Item = &'a BatchHeader>) {
        let reaches = |entry: &Entry| entry.batches.back().is_some_and(|last| last.last_offset >= end);
        let lost: Vec<i64> =
            self.entries.iter().filter(|(_, entry)| reaches(entry)).map(|(&producer_id, _)| producer_id).collect();
        for producer_id in &lost {
            self.forget(*producer_id);
        }
        for header in left.filter(|header| lost.contains(&header.producer_id)) {
            self.remember(header);
        }
    }

    /// A broker's restart: the snapshot on disk holds only each producer's last batch.
    pub fn keep_last_batch_only(&mut self) {
        for entry in self.entries.values_mut() {
            while entry.batches.len() > 1 {
                entry.batches.pop_front();
            }
        }
    }

    /// `producer.id.expiration.ms`: forgets who wrote last before `oldest_timestamp` *by the records' own timestamps*.
    pub fn expire(&mut self, oldest_timestamp: i64) {
        self.entries.retain(|_, entry| entry.last_timestamp >= oldest_timestamp);
    }

    pub fn forget(&mut self, producer_id: i64) {
        self.entries.remove(&producer_id);
    }

    /// Last offset of a producer's newest batch.
    pub fn last_offset(&self, producer_id: i64) -> Option<i64> {
        self.entries.get(&producer_id)?.batches.back().map(|last| last.last_offset)
    }

    pub fn active(&self) -> Vec<ActiveProducer> {
        self.entries
            .iter()
            .map(|(&producer_id, entry)| ActiveProducer {
                producer_id,
                producer_epoch: entry.epoch,
                last_sequence: entry.batches.back().map_or(-1, |last| last.last_sequence),
                last_timestamp: entry.last_timestamp,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, first: i32, count: i32, offset: i64) -> BatchHeader {
        BatchHeader {
            base_offset: offset,
            batch_length: 0,
            partition_leader_epoch: 0,
            magic: 2,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 100,
            max_timestamp: 100 + offset,
            producer_id: 7,
            producer_epoch: epoch,
            base_sequence: first,
            record_count: count,
        }
    }

    fn with(batches: &[BatchHeader]) -> Producers {
        let mut producers = Producers::default();
        for header in batches {
            assert_eq!(producers.judge(header, false), Verdict::Append, "{header:?}");
            producers.remember(header);
        }
        producers
    }

    #[test]
    fn a_duplicate_is_the_same_epoch_and_range_and_is_answered_with_the_old_offset() {
        let producers = with(&[batch(0, 0, 3, 0), batch(0, 3, 2, 3)]);
        assert_eq!(
            producers.judge(&batch(0, 0, 3, 99), false),
            Verdict::Duplicate { base_offset: 0, last_offset: 2, timestamp: 100 }
        );
        assert_eq!(producers.judge(&batch(0, 0, 2, 99), false), Verdict::Refuse(codes::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(producers.judge(&batch(0, 6, 1, 99), false), Verdict::Refuse(codes::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(producers.judge(&batch(0, 5, 1, 99), false), Verdict::Append);
    }

    #[test]
    fn five_batches_are_remembered_and_one_after_a_restart() {
        let sent: Vec<_> = (0..6).map(|n| batch(0, n, 1, i64::from(n))).collect();
        let mut producers = with(&sent);
        assert_eq!(producers.judge(&sent[0], false), Verdict::Refuse(codes::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(
            producers.judge(&sent[1], false),
            Verdict::Duplicate { base_offset: 1, last_offset: 1, timestamp: 101 }
        );
        producers.keep_last_batch_only();
        assert_eq!(producers.judge(&sent[4], false), Verdict::Refuse(codes::OUT_OF_ORDER_SEQUENCE_NUMBER));
        assert_eq!(
            producers.judge(&sent[5], false),
            Verdict::Duplicate { base_offset: 5, last_offset: 5, timestamp: 105 }
        );
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut producers = with(&[batch(3, 10, 1, 0)]);
        assert_eq!(producers.judge(&batch(4, 11, 1, 1), false), Verdict::Refuse(codes::OUT_OF_ORDER_SEQUENCE_NUMBER));
        let bumped = batch(4, 0, 1, 1);
        assert_eq!(producers.judge(&bumped, false), Verdict::Append);
        producers.remember(&bumped);
        // The very batch that was a duplicate before the bump is fenced now.
        assert_eq!(producers.judge(&batch(3, 10, 1, 0), false), Verdict::Refuse(codes::INVALID_PRODUCER_EPOCH));
    }

    #[test]
    fn sequences_wrap_between_batches_and_inside_one() {
        let inside = batch(0, i32::MAX - 1, 4, 0);
        assert_eq!(inside.last_sequence(), 1);
        let producers = with(&[inside.clone(), batch(0, 2, 1, 4)]);
        assert_eq!(
            producers.judge(&inside, false),
            Verdict::Duplicate { base_offset: 0, last_offset: 3, timestamp: 100 }
        );
        let producers = with(&[batch(0, i32::MAX, 1, 0)]);
        assert_eq!(producers.judge(&batch(0, 0, 1, 1), false), Verdict::Append);
    }

    #[test]
    fn an_unknown_producer_may_begin_anywhere_unless_the_broker_is_old() {
        let producers = Producers::default();
        assert_eq!(producers.judge(&batch(9, 5000, 1, 0), false), Verdict::Append);
        assert_eq!(producers.judge(&batch(9, 5000, 1, 0), true), Verdict::Refuse(codes::UNKNOWN_PRODUCER_ID));
        assert_eq!(producers.judge(&batch(9, 0, 1, 0), true), Verdict::Append);
    }

    #[test]
    fn producers_expire_by_their_records_timestamps() {
        let mut producers = with(&[batch(0, 0, 1, 0)]);
        producers.expire(100);
        assert_eq!(producers.active().len(), 1);
        producers.expire(101);
        assert_eq!(producers.active(), []);
    }
}
