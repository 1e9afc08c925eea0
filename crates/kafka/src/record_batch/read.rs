//! Record batches out of a Fetch answer: their headers and their records.
//!
//! Promises: never panics; a cut last batch is reported as cut; nothing is computed from a header that could send a reader
//! backwards. Does not know: where the bytes came from, how a codec works.

use super::{CRC_END, HEADER_BYTES, LENGTH_END, MAGIC, RecordHeader, sequence_after};
use crate::compression::{Compression, DecompressError, decompress};
use crate::protocol::{DecodeError, Reader};

const MAGIC_AT: usize = 16;
const LAST_OFFSET_DELTA_AT: usize = 23;

const COMPRESSION_MASK: i16 = 0x07;
pub(super) const LOG_APPEND_TIME: i16 = 0x08;
const CONTROL: i16 = 0x20;

/// A batch's header as a broker sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // fields by Kafka's own names
pub struct BatchHeader {
    pub base_offset: i64,
    /// Of the whole batch, header included.
    pub batch_bytes: usize,
    pub leader_epoch: i32,
    pub checksum: u32,
    pub attributes: i16,
    /// Counts records that compaction removed, too.
    pub last_offset_delta: i32,
    pub base_timestamp_ms: i64,
    pub max_timestamp_ms: i64,
    /// -1: the producer is not idempotent.
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

impl BatchHeader {
    /// The last record's offset, also when compaction removed the record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta.into())
    }

    /// The offset to read on at.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// The last record's sequence. Sequences count like offset deltas, but wrap.
    pub fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence.max(0), self.last_offset_delta.max(0))
    }

    /// The batch is a transaction's end, not data. Its offset counts, its content is none of a reader's.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// All records have the max timestamp, whatever their deltas say.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// How the records are compressed; `Err`: a number that no Kafka has given out yet.
    pub fn compression(&self) -> Result<Compression, i16> {
        let number = self.attributes & COMPRESSION_MASK;
        Compression::numbered(number).ok_or(number)
    }
}

/// A whole batch of a Fetch answer.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The header as it was decoded, not proved by the checksum yet.
    pub header: BatchHeader,
    checked: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Whether the bytes are those that were sent.
    pub fn checksum_matches(&self) -> bool {
        crc32c::crc32c(self.checked) == self.header.checksum
    }

    /// The records section as it is, compressed or not.
    pub fn record_bytes(&self) -> &'a [u8] {
        &self.checked[HEADER_BYTES - CRC_END..]
    }

    /// The records of an uncompressed batch; `None`: it is compressed, see [`Batch::decompress`].
    pub fn records(&self) -> Option<RecordReader<'a>> {
        (self.header.compression() == Ok(Compression::None)).then(|| self.reader(self.record_bytes()))
    }

    /// The records, compressed or not. Those of a compressed batch are put into `buffer`, instead of what is there, and may take `max`
    /// bytes there: what is behind a few kilobytes is the sender's to choose.
    pub fn decompress<'b>(&self, max: usize, buffer: &'b mut Vec<u8>) -> Result<RecordReader<'b>, DecompressError>
    where
        'a: 'b,
    {
        match self.header.compression() {
            Ok(Compression::None) => Ok(self.reader(self.record_bytes())),
            Ok(compression) => {
                decompress(compression, self.record_bytes(), max, buffer)?;
                Ok(self.reader(buffer))
            }
            Err(number) => Err(DecompressError::Unknown(number)),
        }
    }

    fn reader<'b>(&self, records: &'b [u8]) -> RecordReader<'b> {
        RecordReader { header: self.header, reader: Reader::new(records), seen: 0, failed: false }
    }
}

/// What comes next in a Fetch answer.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    /// A whole batch.
    Batch(Batch<'a>),
    /// Message formats 0 and 1, written before Kafka 0.11: never by an idempotent producer.
    Older {
        /// The last record's offset.
        offset: i64,
        /// The format's number.
        magic: i8,
    },
    /// The answer's byte limit cut the last batch off. Not an error: the next Fetch brings it whole. Always the last piece.
    Cut {
        /// The header, where it is there: enough to recognise a batch by, but not proved by a checksum.
        header: Option<BatchHeader>,
    },
}

/// Goes through the batches of a Fetch answer. After an error there is nothing more.
#[derive(Clone, Debug)]
pub struct BatchReader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> BatchReader<'a> {
    /// Reads what stands in `FetchedPartition::records`.
    pub fn new(records: &'a [u8]) -> Self {
        BatchReader { rest: records, at: 0 }
    }

    fn piece(&mut self) -> Result<Piece<'a>, DecodeError> {
        let mut reader = Reader::new(self.rest);
        let (Ok(offset), Ok(length)) = (reader.i64(), reader.i32()) else {
            return Ok(self.cut(None));
        };
        let at = self.at + 8;
        let body_bytes = usize::try_from(length).map_err(|_| DecodeError::Length { at, length: length.into() })?;
        let Some(magic) = self.rest.get(MAGIC_AT).map(|byte| *byte as i8) else {
            return Ok(self.cut(None));
        };
        let batch_bytes = LENGTH_END + body_bytes;
        match magic {
            0 | 1 => {
                // Offset, length, checksum, magic, attributes, key length, value length.
                if batch_bytes < 26 {
                    return Err(DecodeError::Length { at, length: length.into() });
                }
                if self.rest.len() < batch_bytes {
                    return Ok(self.cut(None));
                }
                self.skip(batch_bytes);
                Ok(Piece::Older { offset, magic })
            }
            MAGIC => {
                if batch_bytes < HEADER_BYTES {
                    return Err(DecodeError::Length { at, length: length.into() });
                }
                let Ok(header) = decode_header(self.rest) else {
                    return Ok(self.cut(None));
                };
                // Offsets and sequences are computed from it; one below 0 would send a reader backwards.
                if header.last_offset_delta < 0 {
                    return Err(DecodeError::Length {
                        at: self.at + LAST_OFFSET_DELTA_AT,
                        length: header.last_offset_delta.into(),
                    });
                }
                let Some(whole) = self.rest.get(..batch_bytes) else {
                    return Ok(self.cut(Some(header)));
                };
                self.skip(batch_bytes);
                Ok(Piece::Batch(Batch { header, checked: &whole[CRC_END..] }))
            }
            other => Err(DecodeError::Magic { at: self.at + MAGIC_AT, magic: other }),
        }
    }

    fn cut(&mut self, header: Option<BatchHeader>) -> Piece<'a> {
        self.skip(self.rest.len());
        Piece::Cut { header }
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
        self.at += bytes;
    }
}

impl<'a> Iterator for BatchReader<'a> {
    type Item = Result<Piece<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let piece = self.piece();
        if piece.is_err() {
            self.skip(self.rest.len());
        }
        Some(piece)
    }
}

fn decode_header(bytes: &[u8]) -> Result<BatchHeader, DecodeError> {
    let mut reader = Reader::new(bytes);
    let base_offset = reader.i64()?;
    let batch_bytes = LENGTH_END + usize::try_from(reader.i32()?).unwrap_or(0);
    let leader_epoch = reader.i32()?;
    let _magic = reader.i8()?;
    Ok(BatchHeader {
        base_offset,
        batch_bytes,
        leader_epoch,
        checksum: reader.u32()?,
        attributes: reader.i16()?,
        last_offset_delta: reader.i32()?,
        base_timestamp_ms: reader.i64()?,
        max_timestamp_ms: reader.i64()?,
        producer_id: reader.i64()?,
        producer_epoch: reader.i16()?,
        base_sequence: reader.i32()?,
        record_count: reader.i32()?,
    })
}

/// One record of a batch that was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// The record's offset in its partition.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The key; `None`: null.
    pub key: Option<&'a [u8]>,
    /// The value; `None`: null.
    pub value: Option<&'a [u8]>,
    /// The headers in their order; keys may repeat.
    pub headers: Vec<RecordHeader<'a>>,
}

/// Goes through the records of a batch. After an error there is nothing more.
#[derive(Clone, Debug)]
pub struct RecordReader<'a> {
    header: BatchHeader,
    reader: Reader<'a>,
    seen: i32,
    failed: bool,
}

impl<'a> RecordReader<'a> {
    fn record(&mut self) -> Result<Record<'a>, DecodeError> {
        let at = self.reader.position();
        let length = self.reader.varint()?;
        let body_bytes = usize::try_from(length).map_err(|_| DecodeError::Length { at, length: length.into() })?;
        let mut body = Reader::new(self.reader.take(body_bytes)?);
        let _attributes = body.i8()?;
        let timestamp_delta = body.varlong()?;
        let offset_delta = body.varint()?;
        let key = field(&mut body)?;
        let value = field(&mut body)?;
        let count_at = body.position();
        let count = body.varint()?;
        let count = usize::try_from(count).map_err(|_| DecodeError::Length { at: count_at, length: count.into() })?;
        // A header takes two bytes at least.
        if count.saturating_mul(2) > body.left() {
            return Err(DecodeError::Count { at: count_at, count: count as u64, element_bytes: 2, left: body.left() });
        }
        let mut headers = Vec::with_capacity(count.min(64));
        for _ in 0..count {
            let at = body.position();
            let key = field(&mut body)?.ok_or(DecodeError::Null { at })?;
            headers.push(RecordHeader { key, value: field(&mut body)? });
        }
        body.finish()?;
        Ok(Record {
            offset: self.header.base_offset.saturating_add(offset_delta.into()),
            timestamp_ms: if self.header.is_log_append_time() {
                self.header.max_timestamp_ms
            } else {
                self.header.base_timestamp_ms.saturating_add(timestamp_delta)
            },
            key,
            value,
            headers,
        })
    }
}

impl<'a> Iterator for RecordReader<'a> {
    type Item = Result<Record<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let record = if self.seen < self.header.record_count {
            self.seen += 1;
            self.record()
        } else {
            match self.reader.finish() {
                Ok(()) => return None,
                Err(leftover) => Err(leftover),
            }
        };
        self.failed = record.is_err();
        Some(record)
    }
}

fn field<'a>(reader: &mut Reader<'a>) -> Result<Option<&'a [u8]>, DecodeError> {
    let at = reader.position();
    match reader.varint()? {
        -1 => Ok(None),
        length => {
            let bytes = usize::try_from(length).map_err(|_| DecodeError::Length { at, length: length.into() })?;
            reader.take(bytes).map(Some)
        }
    }
}
