//! Record batches, format 2: records into bytes, headers around them, and reading both back.
//!
//! Promises: encoding a record allocates nothing beyond the caller's buffer; reading never panics and takes a cut last batch for
//! what it is. Does not know: topics, connections, how a codec works.
//!
//! Format: <https://kafka.apache.org/documentation/#messageformat>.

mod read;

pub use read::{Batch, BatchHeader, BatchReader, Piece, Record, RecordReader};

use crate::compression::Compression;
use crate::leb128;
use crate::protocol::{DecodeError, Reader};
use std::ops::Range;

/// A batch's header, from its base offset to its record count.
pub const HEADER_BYTES: usize = 61;

/// What `batchLength` does not count: itself and the base offset.
const LENGTH_END: usize = 12;
const CRC_AT: usize = 17;
/// The checksum covers everything from here on.
const CRC_END: usize = 21;
const MAGIC: i8 = 2;

/// One header of a record. Keys may repeat; they are text by convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader<'a> {
    /// The header's name.
    pub key: &'a [u8],
    /// The header's value; `None`: null.
    pub value: Option<&'a [u8]>,
}

/// Where in the buffer [`append_record`] put what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordLayout {
    /// Where the record starts, its length prefix included.
    pub start: usize,
    /// The record's bytes, its length prefix included.
    pub len: usize,
    headers_start: usize,
}

impl RecordLayout {
    /// Where the whole record lies.
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
        + leb128::bytes(offset_delta)
        + field_bytes(key)
        + field_bytes(value)
        + leb128::bytes(header_count)
        + headers_bytes;
    assert!(i32::try_from(body_bytes).is_ok(), "a record of {body_bytes} bytes does not fit into the format");
    let prefix = zigzag(body_bytes as i32);
    let start = out.len();
    let len = leb128::bytes(prefix) + body_bytes;
    out.reserve(len);
    leb128::put(out, prefix);
    out.extend_from_slice(&[0, 0]);
    leb128::put(out, offset_delta);
    put_field(out, key);
    put_field(out, value);
    leb128::put(out, header_count);
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
    let body_bytes = 2 + leb128::bytes(offset_delta) + rest.len();
    let prefix = zigzag(body_bytes as i32);
    out.reserve(leb128::bytes(prefix) + body_bytes);
    leb128::put(out, prefix);
    out.extend_from_slice(&[0, 0]);
    leb128::put(out, offset_delta);
    out.extend_from_slice(rest);
}

fn zigzag(value: i32) -> u64 {
    leb128::zigzag(value.into())
}

/// A length of -1 is null. Longer fields than the format's are caught by the whole record's size.
fn field_length(field: Option<&[u8]>) -> u64 {
    field.map_or(1, |bytes| zigzag(bytes.len() as i32))
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    leb128::bytes(field_length(field)) + field.map_or(0, <[u8]>::len)
}

fn header_bytes(header: &RecordHeader<'_>) -> usize {
    field_bytes(Some(header.key)) + field_bytes(header.value)
}

fn put_field(out: &mut Vec<u8>, field: Option<&[u8]>) {
    leb128::put(out, field_length(field));
    out.extend_from_slice(field.unwrap_or_default());
}

/// What a batch's header says of records that [`append_record`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFields {
    /// The producer id, as InitProducerId gave it.
    pub producer_id: i64,
    /// The producer id's epoch.
    pub producer_epoch: i16,
    /// The first record's sequence.
    pub base_sequence: i32,
    /// Milliseconds since 1970; base and max timestamp alike, as all deltas are 0.
    pub timestamp_ms: i64,
    /// How many records there are: at least 1.
    pub record_count: i32,
    /// What the records section is compressed with.
    pub compression: Compression,
}

/// The header before `records`, a records section as it is sent, checksum included. Base offset 0: the broker sets it.
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
    put(&fields.compression.number().to_be_bytes()); // attributes: the codec; create time, not transactional
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

#[cfg(test)]
mod tests;
