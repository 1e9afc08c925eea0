use super::read::LOG_APPEND_TIME;
use super::*;

fn append(offset_delta: u32, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let headers = [RecordHeader { key: b"h", value: Some(b"v") }, RecordHeader { key: b"h", value: None }];
    append_record(&mut out, offset_delta, Some(b"key"), Some(value), &headers);
    out
}

#[test]
fn a_small_record_byte_for_byte() {
    let mut out = vec![0xee];
    let headers = [RecordHeader { key: b"h", value: Some(b"v") }, RecordHeader { key: b"n", value: None }];
    let layout = append_record(&mut out, 1, None, Some(b"ab"), &headers);
    // Length 15; attributes, timestamp delta, offset delta 1; null key; value of 2; two headers.
    let expected = [30, 0, 0, 2, 1, 4, b'a', b'b', 4, 2, b'h', 2, b'v', 2, b'n', 1];
    assert_eq!(out[1..], expected);
    assert_eq!(layout.range(), 1..17);
    assert_eq!(layout.header_value(&headers, 0), Some(13..14));
    assert_eq!(layout.header_value(&headers, 1), None);
}

#[test]
fn appending_to_a_buffer_with_room_does_not_allocate() {
    let mut out = Vec::with_capacity(10_000);
    let before = out.as_ptr();
    for delta in 0..10 {
        append_record(&mut out, delta, Some(b"key"), Some(&[7; 900]), &[]);
    }
    assert_eq!((out.as_ptr(), out.capacity()), (before, 10_000));
}

#[test]
fn a_renumbered_record_equals_one_encoded_there() {
    // Lengths around which the length prefix changes its own length, deltas around which the delta does.
    for length in (0..200).chain(8_100..8_300) {
        let value = vec![b'x'; length];
        for from in [0, 63, 64, 8_191, 8_192, i32::MAX as u32] {
            for to in [0, 1, 63, 64, 8_192, i32::MAX as u32] {
                let mut out = vec![0xee];
                renumber_record(&mut out, &append(from, &value), to);
                assert_eq!(out[1..], append(to, &value), "{length} bytes, {from} to {to}");
            }
        }
    }
}

#[test]
#[should_panic(expected = "one whole record")]
fn two_records_are_not_renumbered_as_one() {
    let mut two = append(0, b"a");
    two.extend(append(1, b"b"));
    renumber_record(&mut Vec::new(), &two, 0);
}

#[test]
fn sequences_wrap_to_zero() {
    assert_eq!(sequence_after(0, 0), 0);
    assert_eq!(sequence_after(0, 5), 5);
    assert_eq!(sequence_after(i32::MAX, 0), i32::MAX);
    assert_eq!(sequence_after(i32::MAX, 1), 0);
    assert_eq!(sequence_after(i32::MAX - 1, 5), 3);
    assert_eq!(sequence_after(i32::MAX, i32::MAX), i32::MAX - 1);
}

fn batch(base_offset: i64, base_sequence: i32, values: &[&[u8]]) -> Vec<u8> {
    let mut records = Vec::new();
    for (place, value) in values.iter().enumerate() {
        append_record(&mut records, place as u32, None, Some(value), &[]);
    }
    let record_count = values.len() as i32;
    let fields = BatchFields {
        producer_id: 7,
        producer_epoch: 2,
        base_sequence,
        timestamp_ms: 1_000,
        record_count,
        compression: Compression::None,
    };
    let mut bytes = encode_header(&fields, &records).to_vec();
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes.extend(records);
    bytes
}

#[test]
fn a_batch_across_the_wrap_knows_its_last_sequence() {
    let bytes = batch(100, i32::MAX - 1, &[b"a", b"b", b"c"]);
    let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&bytes).next() else { panic!() };
    assert_eq!(batch.header.base_sequence, i32::MAX - 1);
    assert_eq!(batch.header.last_sequence(), 0);
    assert_eq!((batch.header.last_offset(), batch.header.next_offset()), (102, 103));
    assert_eq!(batch.header.batch_bytes, bytes.len());
    // Where others find these four by hand.
    assert_eq!(bytes[43..51], 7i64.to_be_bytes());
    assert_eq!(bytes[51..53], 2i16.to_be_bytes());
    assert_eq!(bytes[53..57], (i32::MAX - 1).to_be_bytes());
    assert_eq!(bytes[23..27], 2i32.to_be_bytes());
}

#[test]
fn a_new_stamp_changes_stamp_and_checksum_only() {
    let records = append(0, b"value");
    let fields = BatchFields {
        producer_id: 7,
        producer_epoch: 2,
        base_sequence: 3,
        timestamp_ms: 1_000,
        record_count: 1,
        compression: Compression::None,
    };
    let first = encode_header(&fields, &records);
    let second = encode_header(&BatchFields { timestamp_ms: 2_000, ..fields }, &records);
    let differs: Vec<usize> = (0..HEADER_BYTES).filter(|at| first[*at] != second[*at]).collect();
    assert!(differs.iter().all(|at| (17..21).contains(at) || (27..43).contains(at)), "{differs:?}");
    assert!(differs.iter().any(|at| (17..21).contains(at)));
}

#[test]
fn attributes_are_told_apart() {
    let mut bytes = batch(0, 0, &[b"a"]);
    for (attributes, compression, control) in [
        (0i16, Ok(Compression::None), false),
        (1, Ok(Compression::Gzip), false),
        (2, Ok(Compression::Snappy), false),
        // Written inside a transaction.
        (3 | 0x10, Ok(Compression::Lz4), false),
        (4, Ok(Compression::Zstd), false),
        (7, Err(7), false),
        // The end of a transaction.
        (0x30, Ok(Compression::None), true),
    ] {
        bytes[21..23].copy_from_slice(&attributes.to_be_bytes());
        let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&bytes).next() else { panic!() };
        assert_eq!(batch.header.compression(), compression);
        assert_eq!(batch.header.is_control(), control);
        assert_eq!(batch.records().is_some(), compression == Ok(Compression::None));
    }
}

#[test]
fn a_topics_own_stamp_counts_for_every_record() {
    let mut bytes = batch(0, 0, &[b"a", b"b"]);
    bytes[22] |= LOG_APPEND_TIME as u8;
    bytes[35..43].copy_from_slice(&9_999i64.to_be_bytes());
    let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&bytes).next() else { panic!() };
    let stamps: Vec<_> = batch.records().unwrap().map(|record| record.unwrap().timestamp_ms).collect();
    assert_eq!(stamps, [9_999, 9_999]);
}

#[test]
fn older_formats_are_stepped_over() {
    // Offset, length, checksum, magic 1, attributes, timestamp, null key, value.
    let mut older = Vec::new();
    older.extend(41i64.to_be_bytes());
    older.extend(23i32.to_be_bytes());
    older.extend([0; 4]);
    older.extend([1, 0]);
    older.extend(1i64.to_be_bytes());
    older.extend((-1i32).to_be_bytes());
    older.extend(1i32.to_be_bytes());
    older.push(b'x');
    let mut bytes = older.clone();
    bytes.extend(batch(42, 0, &[b"a"]));
    let pieces: Vec<_> = BatchReader::new(&bytes).collect::<Result<_, _>>().unwrap();
    assert!(
        matches!(pieces.as_slice(), [Piece::Older { offset: 41, magic: 1 }, Piece::Batch(batch)] if batch.header.base_offset == 42),
        "{pieces:?}"
    );
}

#[test]
fn what_is_no_batch_is_an_error_and_the_end() {
    let mut strange = batch(0, 0, &[b"a"]);
    strange[16] = 3;
    let mut reader = BatchReader::new(&strange);
    assert!(matches!(reader.next(), Some(Err(DecodeError::Magic { at: 16, magic: 3 }))));
    assert!(reader.next().is_none());

    // A length that would make no progress, and one that ends inside the header.
    for length in [-1i32, 0, 48] {
        let mut short = batch(0, 0, &[b"a"]);
        short[8..12].copy_from_slice(&length.to_be_bytes());
        let mut reader = BatchReader::new(&short);
        assert!(matches!(reader.next(), Some(Err(DecodeError::Length { at: 8, .. }))), "{length}");
        assert!(reader.next().is_none());
    }
}

#[test]
fn a_record_count_that_does_not_fit_its_records_is_an_error() {
    let mut bytes = batch(0, 0, &[b"a", b"b"]);
    for (count, good) in [(1i32, 1), (3, 2), (i32::MAX, 2)] {
        bytes[57..61].copy_from_slice(&count.to_be_bytes());
        let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&bytes).next() else { panic!() };
        let results: Vec<_> = batch.records().unwrap().collect();
        assert_eq!(results.len(), good + 1, "{count}");
        assert!(results[..good].iter().all(Result::is_ok) && results[good].is_err(), "{count}");
    }
}
