//! What a producer is given and what it tells: a batch, the outcome of an attempt, the evidence for it, all in plain data.
//!
//! Promises: no I/O, no threads, no clock. Does not know: how anything is sent or found out.

use crate::compression::Compression;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A batch by its owner's number. Every answer names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BatchId(pub u64);

/// Records of one partition under one triple. What it says must never change: a triple stands for one list of records (invariant I1).
#[derive(Clone, Debug)]
pub struct Batch {
    /// The owner's number for it.
    pub id: BatchId,
    /// The topic that it goes to.
    pub topic: Arc<str>,
    /// The partition that it goes to.
    pub partition: i32,
    /// The cluster that its producer id and sequences belong to, where that has an id.
    pub cluster: Option<Arc<str>>,
    /// What a broker recognises it by, together with the epoch and the sequences.
    pub producer_id: i64,
    /// The producer id's epoch.
    pub producer_epoch: i16,
    /// Its first record's sequence. Those of the others follow; after 2^31-1 comes 0.
    pub base_sequence: i32,
    /// How many records it has.
    pub record_count: i32,
    /// The records section of a record batch v2, timestamp deltas 0: uncompressed, and once it was sent as it was sent. A look-up
    /// does without.
    pub records: Records,
    /// A lower bound of the offset at which it can lie: where it is looked for from.
    pub noted_offset: i64,
    /// The leader's epoch when that bound was taken; -1: not known.
    pub leader_epoch: i32,
}

/// The bytes of a batch's records, shared with whoever owns them: they are never copied.
#[derive(Clone)]
pub struct Records(Arc<dyn Holder>);

/// Who owns a batch's records. It lives as long as the batch may be sent again, and with it what was made of them.
pub trait Holder: Send + Sync {
    /// The records as they were encoded: they never change.
    fn records(&self) -> &[u8];

    /// Where the sender keeps what it has made of them, for the batch's resends.
    fn sent_form(&self) -> &SentForm;
}

/// How a batch's records go over the wire, from their first attempt on: compressed, or as they are where that is not smaller or nothing
/// is compressed. Resends have the same bytes, without the work.
#[derive(Debug, Default)]
pub struct SentForm(OnceLock<Option<Compressed>>);

struct Compressed {
    by: Compression,
    bytes: Box<[u8]>,
}

impl fmt::Debug for Compressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of {}", self.bytes.len(), self.by)
    }
}

/// A holder of its own for bytes that have none.
struct Held<T> {
    records: Arc<T>,
    form: SentForm,
}

impl<T: AsRef<[u8]> + Send + Sync> Holder for Held<T> {
    fn records(&self) -> &[u8] {
        (*self.records).as_ref()
    }

    fn sent_form(&self) -> &SentForm {
        &self.form
    }
}

impl SentForm {
    /// How many bytes the records take in compressed form; `None` before the first attempt, and where they go as they are.
    pub fn compressed_bytes(&self) -> Option<usize> {
        self.compressed().map(|compressed| compressed.bytes.len())
    }

    fn compressed(&self) -> Option<&Compressed> {
        self.0.get().and_then(Option::as_ref)
    }
}

impl Records {
    /// The records that `bytes` holds. All clones share what is made of them at the first attempt.
    pub fn new(bytes: Arc<impl AsRef<[u8]> + Send + Sync + 'static>) -> Records {
        Records(Arc::new(Held { records: bytes, form: SentForm::default() }))
    }

    /// The records of an owner who has a place for their form as well: nothing is allocated.
    pub fn held_by(holder: Arc<impl Holder + 'static>) -> Records {
        Records(holder)
    }

    /// The records as they were encoded.
    pub fn bytes(&self) -> &[u8] {
        self.0.records()
    }

    /// The records as they go over the wire, as far as that is known, and what they are compressed with.
    pub fn sent(&self) -> (Compression, &[u8]) {
        match self.0.sent_form().compressed() {
            Some(compressed) => (compressed.by, &compressed.bytes),
            None => (Compression::None, self.bytes()),
        }
    }

    /// Before an attempt: settles how they are sent, for this one and all that follow.
    pub(crate) fn settle_form(&self, by: Compression, compress: impl FnOnce(&[u8]) -> Option<Box<[u8]>>) {
        let make = || compress(self.bytes()).map(|bytes| Compressed { by, bytes });
        self.0.sent_form().0.get_or_init(make);
    }
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes().len())
    }
}

/// Why something did not go as wished: for people, never matched on. It names no topic-partition where it is about one: whoever asked
/// knows it, and what happens to hundreds for one reason reads alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// Kafka's error code, where one was answered.
    pub code: Option<i16>,
    /// What happened, with the culprit's name (`127.0.0.1:9092: connection refused`).
    pub text: String,
    /// What to do or type next; empty when there is nothing to add.
    pub hint: String,
}

impl Why {
    /// A text alone, without code and hint.
    pub fn new(text: impl Into<String>) -> Self {
        Why { code: None, text: text.into(), hint: String::new() }
    }

    /// The same with Kafka's error code.
    #[must_use]
    pub fn code(mut self, code: i16) -> Self {
        self.code = Some(code);
        self
    }

    /// The same with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if !self.hint.is_empty() {
            write!(f, " (hint: {})", self.hint)?;
        }
        Ok(())
    }
}

/// How a batch travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// With batches for other partitions of the same leader in one request.
    Merged,
    /// In a request of its own, on the leader's extra connection: a partition in trouble must not hold up the others.
    Alone,
}

/// The owner has as many batches under way as its channel has room for; try again after its next event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// What became of one attempt to send a batch. The classes and their codes: docs/kafka.md, "What an answer means".
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Error 0 to acks=all: the only acknowledgement (invariant I2).
    Stored {
        /// The first record's offset; -1 when the broker answered a duplicate it no longer has the offset of.
        offset: i64,
    },
    /// This attempt wrote nothing. An earlier one may have.
    NotAppended(Why),
    /// May have been appended. Sticks until `Stored` or reconciled (invariant I3).
    Unsure(Why),
    /// The broker rejects a record of this batch.
    Rejected {
        /// The fault.
        why: Why,
        /// The records at fault, by their places in the batch, when the broker says so.
        records: Option<Vec<u32>>,
    },
    /// The topic, the clock or our permissions, not the records.
    Refused(Why),
    /// 45, 47 or 59 from the leader the metadata names.
    OutOfSequence(Why),
}

/// What a look-up asks (docs/kafka.md, "Recovery").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sought {
    /// All records are at hand, so the batch can go again under its triple: is that exact? DescribeProducers first, then the log.
    Resend,
    /// Some records have changed or are gone: only what lies in the log below the high watermark counts.
    Stored,
}

/// What the partition's current leader says of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// The batch (producer id, epoch, base sequence, count) lies in the log below the high watermark, from this offset on.
    StoredAt(i64),
    /// The leader remembers producer id and epoch with the batch's last sequence or the one before its first: the same triple sent
    /// again is appended once. Only for [`Sought::Resend`]: it speaks of the log's end, not of the high watermark, so it is no
    /// acknowledgement.
    Remembered,
    /// Every offset from the lower bound to the end that the leader's log had when it was asked has been seen, all of them below
    /// the high watermark, and the batch is not there.
    Absent,
    /// Not found, and not every offset could be looked at: the range is cut off at its start or compacted, or the topic was re-created.
    Incomplete(Why),
    /// We may not ask or read.
    Forbidden(Why),
    /// The topic or the partition does not exist.
    PartitionGone(Why),
    /// The batch was on its way to another cluster. Nothing was asked: here its triple can be a stranger's (invariant I4).
    OtherCluster(Why),
}

/// One partition of an opened topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionStart {
    /// The partition's number.
    pub partition: i32,
    /// The high watermark when the topic was opened: a lower bound for what we write next. `None`: its leader could not be asked yet,
    /// so nothing can be planned for it.
    pub end_offset: Option<i64>,
    /// The epoch of the leader that the metadata named.
    pub leader_epoch: i32,
}

/// What a producer tells an owner of batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new producer id, for each time one was asked for.
    Producer {
        /// The id. Its epoch is 0.
        id: i64,
        /// What the cluster that gave the id calls itself, if it has a name.
        cluster: Option<Arc<str>>,
    },
    /// The producer id could not be had yet; it is tried on.
    NoProducer {
        /// What the last attempt met.
        why: Why,
    },
    /// A topic that was asked for, once the partition count and the end of one partition are known, and again whenever there are more
    /// of either.
    Opened {
        /// The topic, as it was asked for.
        topic: Arc<str>,
        /// Its partitions, sorted, 0..n without gaps.
        partitions: Vec<PartitionStart>,
    },
    /// The topic can't be opened yet; it is tried on.
    NotOpened {
        /// The topic, as it was asked for.
        topic: Arc<str>,
        /// What the last attempt met.
        why: Why,
    },
    /// Exactly one for each batch that was accepted.
    Outcome {
        /// The batch's number.
        batch: BatchId,
        /// What became of the attempt.
        outcome: Outcome,
        /// When the outcome was known.
        at: Instant,
    },
    /// Exactly one for each batch that was asked about, after any number of `NoEvidence`, unless its owner drains.
    Evidence {
        /// The batch's number.
        batch: BatchId,
        /// What the leader says of it.
        evidence: Evidence,
    },
    /// The partition's leader can't be asked yet; it is tried on.
    NoEvidence {
        /// The batch's number.
        batch: BatchId,
        /// What the last attempt met.
        why: Why,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A batch whose records don't matter: ten bytes each.
    pub(crate) fn batch(topic: &str, partition: i32, record_count: i32) -> Batch {
        Batch {
            id: BatchId(0),
            topic: topic.into(),
            partition,
            cluster: None,
            producer_id: 1,
            producer_epoch: 0,
            base_sequence: 0,
            record_count,
            records: Records::new(Arc::new(vec![0; 10 * record_count as usize])),
            noted_offset: 0,
            leader_epoch: -1,
        }
    }

    /// An owner with a place for the form of its own, as a relay's plan is.
    struct Owner {
        bytes: Vec<u8>,
        form: SentForm,
    }

    impl Holder for Owner {
        fn records(&self) -> &[u8] {
            &self.bytes
        }

        fn sent_form(&self) -> &SentForm {
            &self.form
        }
    }

    #[test]
    fn records_are_never_copied_and_compressed_once() {
        let owner = Arc::new(Owner { bytes: vec![7; 100], form: SentForm::default() });
        let records = Records::held_by(Arc::clone(&owner));
        assert_eq!(records.sent(), (Compression::None, &owner.bytes[..]));
        assert_eq!(records.sent().1.as_ptr(), owner.bytes.as_ptr(), "a copy");
        assert_eq!(owner.form.compressed_bytes(), None);

        records.settle_form(Compression::Lz4, |bytes| Some(bytes[..3].into()));
        let sent = records.sent().1.as_ptr();
        // As the next attempt has them.
        let again = Records::held_by(Arc::clone(&owner));
        again.settle_form(Compression::Lz4, |_| panic!("compressed twice"));
        assert_eq!(again.sent(), (Compression::Lz4, &[7, 7, 7][..]));
        assert_eq!((again.sent().1.as_ptr(), owner.form.compressed_bytes()), (sent, Some(3)));
        assert_eq!(again.bytes(), owner.bytes);
    }

    #[test]
    fn what_was_not_compressed_at_first_never_is() {
        let records = Records::new(Arc::new(vec![7; 100]));
        records.settle_form(Compression::Gzip, |_| None);
        records.settle_form(Compression::Gzip, |_| panic!("tried again"));
        assert_eq!(records.sent().0, Compression::None);
    }
}
