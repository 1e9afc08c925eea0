//! One replica's log: batches in the format v2, with the offsets and the leader epoch a broker writes into them.
//!
//! It promises that what was appended is kept byte for byte but for those two fields, which the CRC does not cover. It does not
//! know producers, replication or error codes. Field positions are those of Kafka's message format page, "Record Batch".

use bytes::{Bytes, BytesMut};
use kafka_protocol::compression::{Decompressor, Gzip, Lz4, Snappy, Zstd};

use crate::record::{self, Malformed, Record};

/// Bytes before a batch's first record.
pub const BATCH_HEADER_BYTES: usize = 61;
/// Bytes of base offset and length, which `batch_length` does not count.
const LENGTH_END: usize = 12;
const CRC_COVERS_FROM: usize = 21;
const CONTROL: i16 = 0x20;
const COMPRESSION_MASK: i16 = 0x07;
/// Base timestamp of a batch without records.
const NO_TIMESTAMP: i64 = -1;
const NOT_CLEANED: &str = "compressed, and this broker does not clean such batches";

/// The fixed fields of a batch, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    pub base_offset: i64,
    pub batch_length: i32,
    pub partition_leader_epoch: i32,
    pub magic: i8,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the caller checked the header's length")
}

impl BatchHeader {
    /// `None` when there are fewer bytes than a header has.
    pub fn parse(bytes: &[u8]) -> Option<BatchHeader> {
        if bytes.len() < BATCH_HEADER_BYTES {
            return None;
        }
        Some(BatchHeader {
            base_offset: i64::from_be_bytes(field(bytes, 0)),
            batch_length: i32::from_be_bytes(field(bytes, 8)),
            partition_leader_epoch: i32::from_be_bytes(field(bytes, 12)),
            magic: i8::from_be_bytes(field(bytes, 16)),
            crc: u32::from_be_bytes(field(bytes, 17)),
            attributes: i16::from_be_bytes(field(bytes, 21)),
            last_offset_delta: i32::from_be_bytes(field(bytes, 23)),
            base_timestamp: i64::from_be_bytes(field(bytes, 27)),
            max_timestamp: i64::from_be_bytes(field(bytes, 35)),
            producer_id: i64::from_be_bytes(field(bytes, 43)),
            producer_epoch: i16::from_be_bytes(field(bytes, 51)),
            base_sequence: i32::from_be_bytes(field(bytes, 53)),
            record_count: i32::from_be_bytes(field(bytes, 57)),
        })
    }

    /// The whole batch's size in bytes by its own length field, which may be a lie.
    pub fn size_bytes(&self) -> i64 {
        i64::from(self.batch_length) + LENGTH_END as i64
    }

    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }

    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn is_compressed(&self) -> bool {
        self.attributes & COMPRESSION_MASK != 0
    }

    /// The records of the batch with this header, by `kafka-protocol`'s codecs where they are compressed.
    pub fn records(&self, batch: &[u8]) -> Result<Vec<Record>, Malformed> {
        let section = &batch[BATCH_HEADER_BYTES..];
        let mut compressed = Bytes::copy_from_slice(if self.is_compressed() { section } else { &[] });
        let count = self.record_count;
        let decode = |bytes: &mut Bytes| Ok(record::decode(bytes, count));
        match self.attributes & COMPRESSION_MASK {
            0 => return record::decode(section, count),
            1 => Gzip::decompress(&mut compressed, decode),
            2 => Snappy::decompress(&mut compressed, decode),
            3 => Lz4::decompress(&mut compressed, decode),
            4 => Zstd::decompress(&mut compressed, decode),
            _ => return Err(Malformed("compressed with an unknown codec")),
        }
        .unwrap_or(Err(Malformed("not what its codec writes")))
    }

    /// Sequence of the last record: sequences wrap from 2^31-1 to 0, inside a batch too.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence < 0 { -1 } else { add_to_sequence(self.base_sequence, self.last_offset_delta) }
    }
}

/// `sequence + increment`, wrapping from `i32::MAX` to 0.
pub fn add_to_sequence(sequence: i32, increment: i32) -> i32 {
    ((i64::from(sequence) + i64::from(increment)) & i64::from(i32::MAX)) as i32
}

/// CRC-32C of everything after the crc field.
pub fn checksum(batch: &[u8]) -> u32 {
    crc32c::crc32c(&batch[CRC_COVERS_FROM..])
}

/// A batch that is in a log.
#[derive(Clone, Debug)]
pub struct StoredBatch {
    pub header: BatchHeader,
    pub bytes: Bytes,
}

impl StoredBatch {
    /// The batch as a leader writes it: its base offset and leader epoch filled in.
    pub fn place(sent: &[u8], base_offset: i64, leader_epoch: i32) -> StoredBatch {
        let mut bytes = BytesMut::from(sent);
        bytes[0..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        let header = BatchHeader::parse(&bytes).expect("only validated batches are placed");
        StoredBatch { header, bytes: bytes.freeze() }
    }

    pub fn base_offset(&self) -> i64 {
        self.header.base_offset
    }

    pub fn last_offset(&self) -> i64 {
        self.header.base_offset + i64::from(self.header.last_offset_delta)
    }

    /// The batch with those records only: the header goes on naming producer, sequence and both ends of what was written. A header alone
    /// when none is left.
    fn with_only(&self, keep: &dyn Fn(&Record) -> bool) -> Result<StoredBatch, Malformed> {
        let mut bytes = BytesMut::from(&self.bytes[..BATCH_HEADER_BYTES]);
        let mut count = 0i32;
        for (raw, record) in record::split(&self.bytes[BATCH_HEADER_BYTES..], self.header.record_count)? {
            if keep(&record) {
                bytes.extend_from_slice(raw);
                count += 1;
            }
        }
        if count == 0 {
            bytes[27..35].copy_from_slice(&NO_TIMESTAMP.to_be_bytes());
        }
        let length = (bytes.len() - LENGTH_END) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        let crc = checksum(&bytes);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        let header = BatchHeader::parse(&bytes).expect("a header's length at least");
        Ok(StoredBatch { header, bytes: bytes.freeze() })
    }

    /// The records inside.
    pub fn records(&self) -> Result<Vec<Record>, Malformed> {
        self.header.records(&self.bytes)
    }
}

/// A log of one replica. Offsets may have holes (a compacted topic), never repeat.
#[derive(Clone, Debug, Default)]
pub struct Log {
    batches: Vec<StoredBatch>,
    start: i64,
    end: i64,
    /// Each leader epoch with the offset of its first batch. Kept apart from the batches, because compaction may take all of an epoch's.
    epochs: Vec<(i32, i64)>,
    /// Offsets at which a segment begins, but for the first one.
    segments: Vec<i64>,
}

impl Log {
    /// First offset that can be read.
    pub fn start(&self) -> i64 {
        self.start
    }

    /// Offset the next record gets.
    pub fn end(&self) -> i64 {
        self.end
    }

    pub fn batches(&self) -> &[StoredBatch] {
        &self.batches
    }

    pub fn append(&mut self, batch: StoredBatch) {
        assert!(batch.base_offset() >= self.end, "a batch at {} behind the log end {}", batch.base_offset(), self.end);
        let epoch = batch.header.partition_leader_epoch;
        if self.epochs.last().is_none_or(|&(last, _)| last < epoch) {
            self.epochs.push((epoch, batch.base_offset()));
        }
        self.end = batch.last_offset() + 1;
        self.batches.push(batch);
    }

    /// The batch that holds `offset`, or the first one after it.
    pub fn index_from(&self, offset: i64) -> usize {
        self.batches.partition_point(|batch| batch.last_offset() < offset)
    }

    /// What is appended from now on goes to another file.
    pub fn roll_segment(&mut self) {
        if self.segments.last() != Some(&self.end) {
            self.segments.push(self.end);
        }
    }

    /// Where the segment ends that holds `offset`.
    pub fn segment_end(&self, offset: i64) -> i64 {
        self.segments.iter().copied().find(|&begun| begun > offset).unwrap_or(i64::MAX)
    }

    /// Removes everything at and above `offset`. True when something was removed.
    pub fn truncate_to(&mut self, offset: i64) -> bool {
        let keep = self.batches.partition_point(|batch| batch.base_offset() < offset);
        let cut = offset < self.end;
        self.batches.truncate(keep);
        self.epochs.retain(|&(_, begun)| begun < offset);
        self.segments.retain(|&begun| begun <= offset);
        self.end = self.end.min(offset.max(self.start));
        cut
    }

    /// Retention or DeleteRecords: nothing below `offset` can be read any more. Batches go whole.
    pub fn delete_before(&mut self, offset: i64) {
        self.start = offset.clamp(self.start, self.end);
        self.batches.retain(|batch| batch.last_offset() >= self.start);
    }

    /// Log cleaning: only records that `keep` wants stay in the batches that end before `limit`. A batch without any goes whole, unless it is
    /// the newest of a known producer: `newest` gives that one's last offset. Then its header stays. Returns how many records went.
    pub fn clean(
        &mut self,
        limit: i64,
        keep: &dyn Fn(i64, &Record) -> bool,
        newest: &dyn Fn(i64) -> Option<i64>,
    ) -> Result<i32, Malformed> {
        let mut gone = 0;
        let mut kept = Vec::new();
        for batch in &self.batches {
            if batch.last_offset() >= limit || batch.header.is_control() {
                kept.push(batch.clone());
                continue;
            }
            if batch.header.is_compressed() {
                return Err(Malformed(NOT_CLEANED));
            }
            let base = batch.base_offset();
            let cleaned = batch.with_only(&|record| keep(base + i64::from(record.offset_delta), record))?;
            gone += batch.header.record_count - cleaned.header.record_count;
            let names_its_producer =
                batch.header.has_producer() && newest(batch.header.producer_id) == Some(batch.last_offset());
            if cleaned.header.record_count > 0 || names_its_producer {
                kept.push(cleaned);
            }
        }
        self.batches = kept;
        Ok(gone)
    }

    /// Compaction: the batch at `base_offset` is gone, the log's ends stay. True when there was one.
    pub fn compact_away(&mut self, base_offset: i64) -> bool {
        let before = self.batches.len();
        self.batches.retain(|batch| batch.base_offset() != base_offset);
        before != self.batches.len()
    }

    /// Copies what `leader`'s log has beyond this one, which must be a prefix of it, and returns the batches copied. Compaction may have
    /// taken the leader's last batches: their offsets and epochs are used up all the same.
    pub fn copy_rest_of<'a>(&mut self, leader: &'a Log) -> &'a [StoredBatch] {
        let copied = &leader.batches[leader.index_from(self.end)..];
        self.batches.extend_from_slice(copied);
        self.end = leader.end;
        self.epochs.clone_from(&leader.epochs);
        copied
    }

    /// The largest epoch up to `epoch`, and where it ends: what OffsetForLeaderEpoch answers.
    fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let found = self.epochs.iter().rposition(|&(known, _)| known <= epoch)?;
        let end = self.epochs.get(found + 1).map_or(self.end, |&(_, begun)| begun);
        Some((self.epochs[found].0, end))
    }

    /// Up to where this log and `leader`'s are the same, found by leader epochs as followers do (KIP-101): two logs that have an epoch in
    /// common agree up to where the shorter one leaves it. Offsets alone would not tell, a lost tail's are used again.
    pub fn shared_end(&self, leader: &Log) -> i64 {
        let Some(&(mut asked, _)) = self.epochs.last() else { return self.end.min(leader.end) };
        loop {
            let (Some((mine, my_end)), Some((theirs, their_end))) =
                (self.end_of_epoch(asked), leader.end_of_epoch(asked))
            else {
                // No epoch in common: nothing that was written is shared.
                let mine_begin = self.epochs.first().map_or(self.end, |&(_, begun)| begun);
                let theirs_begin = leader.epochs.first().map_or(leader.end, |&(_, begun)| begun);
                return mine_begin.min(theirs_begin);
            };
            if mine == theirs {
                return my_end.min(their_end);
            }
            asked = mine.min(theirs);
        }
    }

    /// An empty log that begins where `leader`'s does: a new replica.
    pub fn starting_at(start: i64) -> Log {
        Log { batches: Vec::new(), start, end: start, ..Log::default() }
    }
}
