//! Record batches, format 2: records into bytes, headers around them, and reading both back.
//!
//! Promises: encoding a record allocates nothing beyond the caller's buffer; reading never panics and takes a cut last batch for
//! what it is. Does not know: topics, connections, compression codecs.
//!
//! Format: <https://kafka.apache.org/documentation/#messageformat>.

use super::protocol::primitives::{DecodeError, Reader};
use std::ops::Range;

/// A batch's header, from its base offset to its record count.
pub const HEADER_BYTES: usize = 61;

/// What `batchLength` does not count: itself and the base offset.
const LENGTH_END: usize = 12;
const CRC_AT: usize = 17;
/// The checksum covers everything from here on.
const CRC_END: usize = 21;
const MAGIC_AT: usize = 16;
const MAGIC: i8 = 2;

const COMPRESSION_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// One header of a record. Keys may repeat; they are text by convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// Where in the buffer [`append_record`] put what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLayout {
    /// Of the whole record, its length prefix included.
    pub start: usize,
    pub len: usize,
    headers_start: usize,
}

impl RecordLayout {
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.len
    }

    /// Where the value of the header number `index` lies; `None` for a null value or when there is no such header. `headers` must
    /// be those the record was made from.
    ///
    /// Computed on demand: a list of spans would be the only allocation of the hot path, for what callers need of one header.
    pub fn header_value(&self, headers: &[RecordHeader<'_>], index: usize) -> Option<Range<usize>> {
        let header = headers.get(index)?;
        let value = header.value?;
        let before: usize = headers[..index].iter().map(header_bytes).sum();
        let end = self.headers_start + before + header_bytes(header);
        Some(end - value.len()..end)
    }
}

/// Appends one record with its length prefix, timestamp delta 0, no attributes. `offset_delta` is its place in the batch.
///
/// Panics if the record does not fit into the format's 2^31-1 bytes; callers have a limit far below.
pub fn append_record(
    out: &mut Vec<u8>,
    offset_delta: u32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[RecordHeader<'_>],
) -> RecordLayout {
    let offset_delta = zigzag(i32::try_from(offset_delta).expect("a batch has fewer than 2^31 records"));
    let header_count = zigzag(headers.len() as i32);
    let headers_bytes: usize = headers.iter().map(header_bytes).sum();
    // Attributes and timestamp delta take a byte each.
    let body_bytes = 2
        + varint_bytes(offset_delta)
        + field_bytes(key)
        + field_bytes(value)
        + varint_bytes(header_count)
        + headers_bytes;
    assert!(i32::try_from(body_bytes).is_ok(), "a record of {body_bytes} bytes does not fit into the format");
    let prefix = zigzag(body_bytes as i32);
    let start = out.len();
    let len = varint_bytes(prefix) + body_bytes;
    out.reserve(len);
    put_varint(out, prefix);
    out.extend_from_slice(&[0, 0]);
    put_varint(out, offset_delta);
    put_field(out, key);
    put_field(out, value);
    put_varint(out, header_count);
    let headers_start = out.len();
    for header in headers {
        put_field(out, Some(header.key));
        put_field(out, header.value);
    }
    debug_assert_eq!(out.len(), start + len);
    RecordLayout { start, len, headers_start }
}

/// Appends a record that [`append_record`] made, under another offset delta: for a batch cut anew after a rejection, when the
/// row it came from must not be read and encoded a second time.
///
/// Panics if `record` is not exactly one record.
pub fn renumber_record(out: &mut Vec<u8>, record: &[u8], offset_delta: u32) {
    let offset_delta = zigzag(i32::try_from(offset_delta).expect("a batch has fewer than 2^31 records"));
    let mut reader = Reader::new(record);
    let rest = (|| {
        let body_bytes = reader.varint()?;
        if usize::try_from(body_bytes) != Ok(reader.left()) {
            return Err(DecodeError::Length { at: 0, length: body_bytes.into() });
        }
        let attributes = reader.i8()?;
        let timestamp_delta = reader.varlong()?;
        let _old = reader.varint()?;
        assert!(attributes == 0 && timestamp_delta == 0, "not a record of append_record's");
        reader.take(reader.left())
    })()
    .expect("one whole record of append_record's");
    let body_bytes = 2 + varint_bytes(offset_delta) + rest.len();
    let prefix = zigzag(body_bytes as i32);
    out.reserve(varint_bytes(prefix) + body_bytes);
    put_varint(out, prefix);
    out.extend_from_slice(&[0, 0]);
    put_varint(out, offset_delta);
    out.extend_from_slice(rest);
}

fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)) as u32
}

fn varint_bytes(value: u32) -> usize {
    // One byte for every seven bits, at least one.
    ((38 - (value | 1).leading_zeros()) / 7) as usize
}

fn put_varint(out: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A length of -1 is null. Longer fields than the format's are caught by the whole record's size.
fn field_length(field: Option<&[u8]>) -> u32 {
    field.map_or(1, |bytes| zigzag(bytes.len() as i32))
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    varint_bytes(field_length(field)) + field.map_or(0, <[u8]>::len)
}

fn header_bytes(header: &RecordHeader<'_>) -> usize {
    field_bytes(Some(header.key)) + field_bytes(header.value)
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    put_varint(out, field_length(field));
    out.extend_from_slice(field.unwrap_or_default());
}

/// What a batch's header says of records that [`append_record`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFields {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    /// Milliseconds since 1970; base and max timestamp alike, as all deltas are 0.
    pub timestamp_ms: i64,
    pub record_count: i32,
}

/// The header before `records`, checksum included. Base offset 0: the broker sets it.
///
/// Panics without records: a broker refuses an empty batch.
pub fn encode_header(fields: &BatchFields, records: &[u8]) -> [u8; HEADER_BYTES] {
    assert!(fields.record_count > 0, "a batch has at least one record");
    let length = i32::try_from(HEADER_BYTES - LENGTH_END + records.len()).expect("a batch has less than 2^31 bytes");
    let mut header = [0; HEADER_BYTES];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        header[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&0i64.to_be_bytes()); // base offset
    put(&length.to_be_bytes());
    put(&(-1i32).to_be_bytes()); // partition leader epoch: the broker sets it
    put(&MAGIC.to_be_bytes());
    put(&0u32.to_be_bytes()); // checksum, below
    put(&0i16.to_be_bytes()); // attributes: no compression, create time, not transactional
    put(&(fields.record_count - 1).to_be_bytes()); // last offset delta
    put(&fields.timestamp_ms.to_be_bytes()); // base timestamp
    put(&fields.timestamp_ms.to_be_bytes()); // max timestamp
    put(&fields.producer_id.to_be_bytes());
    put(&fields.producer_epoch.to_be_bytes());
    put(&fields.base_sequence.to_be_bytes());
    put(&fields.record_count.to_be_bytes());
    debug_assert_eq!(at, HEADER_BYTES);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&header[CRC_END..]), records);
    header[CRC_AT..CRC_END].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// The sequence that follows `count` records from `first` on; after 2^31-1 comes 0.
pub fn sequence_after(first: i32, count: i32) -> i32 {
    debug_assert!(first >= 0 && count >= 0);
    // Both fit into 31 bits, so the sum fits into 32, and the mask takes it modulo 2^31.
    ((first as u32).wrapping_add(count as u32) & 0x7fff_ffff) as i32
}

/// How a batch's records are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
    /// A number no Kafka has given out yet.
    Unknown(u8),
}

/// A batch's header as a broker sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta.into())
    }

    /// Where to read on.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// Of the last record. Sequences count like offset deltas, but wrap.
    pub fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence.max(0), self.last_offset_delta.max(0))
    }

    /// A transaction's end, not data. Its offset counts, its content is none of a reader's.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// All records have the max timestamp, whatever their deltas say.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    pub fn compression(&self) -> Compression {
        match self.attributes & COMPRESSION_MASK {
            0 => Compression::None,
            1 => Compression::Gzip,
            2 => Compression::Snappy,
            3 => Compression::Lz4,
            4 => Compression::Zstd,
            other => Compression::Unknown(other as u8),
        }
    }
}

/// A whole batch of a Fetch answer.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
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

    /// The records of an uncompressed batch; `Err` names the compression.
    pub fn records(&self) -> Result<RecordReader<'a>, Compression> {
        match self.header.compression() {
            Compression::None => Ok(RecordReader {
                header: self.header,
                reader: Reader::new(self.record_bytes()),
                seen: 0,
                failed: false,
            }),
            other => Err(other),
        }
    }
}

/// What comes next in a Fetch answer.
#[derive(Clone, Copy, Debug)]
pub enum Piece<'a> {
    Batch(Batch<'a>),
    /// Message formats 0 and 1, written before Kafka 0.11: never by an idempotent producer. `offset` is that of the last record.
    Older {
        offset: i64,
        magic: i8,
    },
    /// The answer's byte limit cut the last batch off. Not an error: the next Fetch brings it whole. Always the last piece.
    /// `header` where it is there: enough to recognise a batch by, but not proved by a checksum.
    Cut {
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
    /// `records` as in `FetchedPartition::records`.
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
                    return Err(DecodeError::Length { at: self.at + 23, length: header.last_offset_delta.into() });
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
    pub offset: i64,
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Vec<RecordHeader<'a>>,
}

/// Goes through the records of an uncompressed batch. After an error there is nothing more.
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
