//! Reading a partition back, by batch headers alone: what each Fetch answer adds to what is known.
//!
//! Promises: pure; every offset is accounted for, by a batch that covers it or as one that could not be looked at. Does not know:
//! sockets, error codes, whose batch it is.

use crate::protocol::DecodeError;
use crate::record_batch::{BatchHeader, BatchReader, Piece};

/// What the batch is recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) producer_id: i64,
    pub(super) producer_epoch: i16,
    pub(super) base_sequence: i32,
    pub(super) record_count: i32,
}

impl Wanted {
    /// Counted by offsets, because compaction lowers the number of records in a batch and leaves its range of offsets alone. Control
    /// batches have no sequences.
    fn is(self, header: &BatchHeader) -> bool {
        !header.is_control()
            && header.producer_id == self.producer_id
            && header.producer_epoch == self.producer_epoch
            && header.base_sequence == self.base_sequence
            && header.last_offset_delta == self.record_count - 1
    }
}

/// One scan under one leader epoch. Another epoch takes a new one: the new leader's log may be another.
///
/// Where it ends: at the log's end as it was when the scan began, whatever was on all replicas by then. What lies between the
/// high watermark and that end may still become stored, so it is waited for; only what is appended later is not. Where to stop could
/// also be the high watermark of each answer, but then a batch that is still being replicated would be called absent, and a partition
/// with steady traffic would never be read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogScan {
    /// Where to read on.
    next: i64,
    end: i64,
    missing: Option<Missing>,
}

/// Offsets that could not be looked at, the first of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missing {
    /// From the lower bound to where the log starts by now: retention took them.
    Start { from: i64, to: i64 },
    /// A hole in the offsets. Only compaction makes one, and it never makes a batch vanish without one: it keeps the offsets of what
    /// it rewrites. So holes are asked, and not the topic's `cleanup.policy`, which may have been another one yesterday.
    Hole { from: i64, to: i64 },
    /// A batch whose header would be the right one, and its checksum is not.
    Damaged { at: i64 },
}

/// What one answer led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Found(i64),
    /// Read to its end: not there.
    Over,
    /// There is more to fetch.
    More,
    /// The rest is not on all in-sync replicas yet.
    Behind,
    /// Below the high watermark, and nothing came that leads on.
    Stuck,
}

impl LogScan {
    /// Of what is left of the range, when the log goes from `start` to `end`.
    pub(super) fn new(from: i64, start: i64, end: i64) -> LogScan {
        let missing = (start > from).then_some(Missing::Start { from, to: start });
        LogScan { next: from.max(start), end, missing }
    }

    pub(super) fn next(&self) -> i64 {
        self.next
    }

    pub(super) fn is_over(&self) -> bool {
        self.next >= self.end
    }

    pub(super) fn missing(&self) -> Option<Missing> {
        self.missing
    }

    /// Looks at the batches of an answer, `high_watermark` being that answer's.
    pub(super) fn add(&mut self, wanted: Wanted, high_watermark: i64, records: &[u8]) -> Result<Step, DecodeError> {
        let begun_at = self.next;
        for piece in BatchReader::new(records) {
            match piece? {
                Piece::Batch(batch) => {
                    let header = batch.header;
                    // Not stored yet: it may still vanish with its leader.
                    if header.last_offset() >= high_watermark {
                        break;
                    }
                    if wanted.is(&header) {
                        if batch.checksum_matches() {
                            return Ok(Step::Found(header.base_offset));
                        }
                        self.lacks(Missing::Damaged { at: header.base_offset });
                    }
                    self.cover(header.base_offset, header.next_offset());
                }
                // Of a wrapper with several messages inside only the last offset is told: what is before it counts as a hole.
                Piece::Older { offset, .. } if offset < high_watermark => self.cover(offset, offset.saturating_add(1)),
                Piece::Older { .. } | Piece::Cut { .. } => break,
            }
        }
        Ok(if self.is_over() {
            Step::Over
        } else if self.next >= high_watermark {
            Step::Behind
        } else if self.next > begun_at {
            Step::More
        } else {
            Step::Stuck
        })
    }

    fn cover(&mut self, first: i64, next: i64) {
        if first > self.next {
            self.lacks(Missing::Hole { from: self.next, to: first });
        }
        self.next = self.next.max(next);
    }

    fn lacks(&mut self, missing: Missing) {
        self.missing = self.missing.or(Some(missing));
    }
}
