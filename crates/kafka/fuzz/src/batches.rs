//! The records of a Fetch answer: batches one after the other, and the records in them.
//!
//! Promises: asks that every batch lies where the one before it ended, that cut bytes give no batch that whole ones don't, and that
//! records written again are read the same. Does not know: compressed records, which nobody reads.

use super::answers::check_error;
use super::cuts;
use outboxd_kafka::compression::Compression;
use outboxd_kafka::protocol::Writer;
use outboxd_kafka::record_batch::{
    Batch, BatchFields, BatchHeader, BatchReader, HEADER_BYTES, Piece, Record, append_record, encode_header,
    renumber_record,
};

/// What nothing is shorter than that comes before the end: a message of format 0 with neither key nor value.
const OLDER_BYTES_MIN: usize = 26;
/// Length, attributes, timestamp, offset, key, value, number of headers.
const RECORD_BYTES_MIN: usize = 7;

/// The input is what stands in `FetchedPartition::records`. Accepted: whole batches, and all of their records that can be read.
pub fn record_batches(input: &[u8]) -> bool {
    let whole = batches(input);
    let mut accepted = whole.in_order;
    for (at, batch) in &whole.batches {
        check_header(&batch.header);
        check_checksum(&input[*at..*at + batch.header.batch_bytes], batch);
        if let Some(records) = batch.records() {
            let results: Vec<_> = records.collect();
            let good = check_records(batch, results);
            assert!(!good || a_byte_more_is_refused(&input[*at..*at + batch.header.batch_bytes]));
            accepted &= good;
        }
    }
    for cut in cuts(input.len()) {
        let part = batches(&input[..cut]);
        assert!(part.batches.len() <= whole.batches.len());
        for ((at, batch), (at_in_whole, in_whole)) in part.batches.iter().zip(&whole.batches) {
            assert_eq!(
                (at, batch.header, batch.record_bytes()),
                (at_in_whole, in_whole.header, in_whole.record_bytes())
            );
        }
        if let Some(header) = part.cut {
            check_header(&header);
            let there = whole.batches.get(part.batches.len()).map(|(_, batch)| batch.header).or(whole.cut);
            assert_eq!(Some(header), there, "cut at {cut}");
        }
    }
    accepted
}

struct Found<'a> {
    /// With the place of each.
    batches: Vec<(usize, Batch<'a>)>,
    /// The header of a batch that is not there whole.
    cut: Option<BatchHeader>,
    /// Whether everything was whole batches.
    in_order: bool,
}

fn batches(input: &[u8]) -> Found<'_> {
    let mut found = Found { batches: Vec::new(), cut: None, in_order: true };
    let mut at = 0;
    let mut reader = BatchReader::new(input);
    let mut pieces = 0;
    while let Some(piece) = reader.next() {
        pieces += 1;
        assert!(pieces <= input.len() / OLDER_BYTES_MIN + 1, "{pieces} pieces in {} bytes", input.len());
        match piece {
            Ok(Piece::Batch(batch)) => {
                let end = at + batch.header.batch_bytes;
                assert!(batch.header.batch_bytes >= HEADER_BYTES && end <= input.len());
                assert!(std::ptr::eq(batch.record_bytes(), &raw const input[at + HEADER_BYTES..end]));
                found.batches.push((at, batch));
                at = end;
            }
            Ok(Piece::Older { magic, .. }) => {
                assert!((0..=1).contains(&magic));
                let length: [u8; 4] = input[at + 8..at + 12].try_into().expect("four bytes");
                at += 12 + usize::try_from(i32::from_be_bytes(length)).expect("a message's length is above 0");
                assert!(at <= input.len());
            }
            Ok(Piece::Cut { header }) => {
                assert!(header.is_none_or(|header| header.batch_bytes > input.len() - at), "it is there whole");
                found.cut = header;
                found.in_order = false;
                assert!(reader.next().is_none(), "a cut batch is the last");
            }
            Err(error) => {
                check_error(&error, input.len());
                found.in_order = false;
                assert!(reader.next().is_none(), "after an error there is nothing more");
            }
        }
    }
    assert!(!found.in_order || at == input.len());
    found
}

fn check_header(header: &BatchHeader) {
    assert!(header.last_offset() >= header.base_offset, "{header:?}");
    assert!(header.next_offset() > header.base_offset || header.next_offset() == i64::MAX, "{header:?}");
    assert!(header.last_sequence() >= 0, "{header:?}");
}

/// A checksum that is right is wrong with any bit changed that it covers.
fn check_checksum(bytes: &[u8], batch: &Batch<'_>) {
    if !batch.checksum_matches() {
        return;
    }
    for at in [21, HEADER_BYTES - 1, bytes.len() - 1] {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1;
        // A bit of the last offset delta can make it no batch at all.
        if let Some(Ok(Piece::Batch(other))) = BatchReader::new(&damaged).next() {
            assert!(!other.checksum_matches(), "byte {at} of the batch can be changed unseen");
        }
    }
}

fn a_byte_more_is_refused(batch: &[u8]) -> bool {
    let mut longer = [batch, &[0]].concat();
    let length = i32::try_from(longer.len() - 12).expect("an input is short");
    longer[8..12].copy_from_slice(&length.to_be_bytes());
    let Some(Ok(Piece::Batch(longer))) = BatchReader::new(&longer).next() else { panic!("its header is the same") };
    longer.records().is_some_and(|records| records.last().is_some_and(|last| last.is_err()))
}

fn check_records<E: std::fmt::Debug>(batch: &Batch<'_>, results: Vec<Result<Record<'_>, E>>) -> bool {
    let bytes = batch.record_bytes();
    assert!(results.len() <= bytes.len() / RECORD_BYTES_MIN + 1, "{} records in {} bytes", results.len(), bytes.len());
    let errors = results.iter().filter(|result| result.is_err()).count();
    assert!(errors == 0 || (errors == 1 && results.last().is_some_and(Result::is_err)), "an error is the end");
    let records: Vec<Record<'_>> = results.into_iter().flatten().collect();
    let within =
        |part: Option<&[u8]>| part.is_none_or(|part| bytes.as_ptr_range().contains(&part.as_ptr()) || part.is_empty());
    let mut header_count = 0;
    for record in &records {
        assert!(within(record.key) && within(record.value));
        assert!(record.headers.iter().all(|header| within(Some(header.key)) && within(header.value)));
        header_count += record.headers.len();
        if batch.header.is_log_append_time() {
            assert_eq!(record.timestamp_ms, batch.header.max_timestamp_ms);
        }
    }
    assert!(header_count <= bytes.len() / 2, "{header_count} headers in {} bytes", bytes.len());
    if errors == 0 {
        assert_eq!(records.len(), usize::try_from(batch.header.record_count).unwrap_or(0));
    }
    write_again(&records);
    errors == 0
}

/// The records in a batch of our own are read as they were.
fn write_again(records: &[Record<'_>]) {
    if records.is_empty() {
        return;
    }
    let mut bytes = Vec::new();
    for (place, record) in records.iter().enumerate() {
        let place = u32::try_from(place).expect("fewer records than bytes");
        let layout = append_record(&mut bytes, place, record.key, record.value, &record.headers);
        for (index, header) in record.headers.iter().enumerate() {
            let value = layout.header_value(&record.headers, index).map(|range| &bytes[range]);
            assert_eq!(value, header.value);
        }
        let (mut renumbered, mut wanted) = (Vec::new(), Vec::new());
        renumber_record(&mut renumbered, &bytes[layout.range()], place + 70);
        append_record(&mut wanted, place + 70, record.key, record.value, &record.headers);
        assert_eq!(renumbered, wanted);
        check_longer_record(&bytes[layout.range()]);
    }
    let record_count = i32::try_from(records.len()).expect("fewer records than bytes");
    let fields = BatchFields {
        producer_id: 1,
        producer_epoch: 2,
        base_sequence: 3,
        timestamp_ms: 4,
        record_count,
        compression: Compression::None,
    };
    let whole = [&encode_header(&fields, &bytes)[..], &bytes].concat();
    let Found { batches, in_order: true, .. } = batches(&whole) else { panic!("our own batch is refused") };
    let [(0, batch)] = batches[..] else { panic!("one batch became {}", batches.len()) };
    assert!(batch.checksum_matches());
    let again = batch.records().expect("it is not compressed").map(|record| record.expect("our own record is refused"));
    let expected =
        records.iter().zip(0i64..).map(|(record, offset)| Record { offset, timestamp_ms: 4, ..record.clone() });
    assert!(again.eq(expected));
}

/// One record of our own is no longer one with a byte more in it.
fn check_longer_record(record: &[u8]) {
    let prefix_bytes = record.iter().position(|byte| *byte < 0x80).expect("a length that ends") + 1;
    let body = &record[prefix_bytes..];
    let mut longer = Vec::new();
    let length = u32::try_from(body.len() + 1).expect("an input is short");
    Writer::new(&mut longer).unsigned_varint(length << 1); // zig-zag
    longer.extend_from_slice(body);
    longer.push(0);
    let fields = BatchFields {
        producer_id: 1,
        producer_epoch: 2,
        base_sequence: 3,
        timestamp_ms: 4,
        record_count: 1,
        compression: Compression::None,
    };
    let whole = [&encode_header(&fields, &longer)[..], &longer].concat();
    let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&whole).next() else { panic!("our own batch is refused") };
    let first = batch.records().expect("it is not compressed").next();
    assert!(first.is_some_and(|record| record.is_err()), "a byte too many is not seen");
}
