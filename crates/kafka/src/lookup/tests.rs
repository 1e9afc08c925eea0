use super::log_scan::{LogScan, Missing, Step, Wanted};
use crate::compression::Compression;
use crate::record_batch::{BatchFields, HEADER_BYTES, append_record, encode_header};

const WANTED: Wanted = Wanted { producer_id: 7, producer_epoch: 1, base_sequence: i32::MAX, record_count: 2 };
const CONTROL: i16 = 0x20;

struct Made {
    base_offset: i64,
    wanted: Wanted,
    attributes: i16,
    /// Fewer than the offsets it covers: what compaction leaves.
    records: i32,
}

fn made(base_offset: i64, wanted: Wanted) -> Made {
    Made { base_offset, wanted, attributes: 0, records: wanted.record_count }
}

fn other(base_offset: i64, count: i32) -> Made {
    made(base_offset, Wanted { producer_id: -1, producer_epoch: -1, base_sequence: -1, record_count: count })
}

fn bytes(batches: &[Made]) -> Vec<u8> {
    let mut out = Vec::new();
    for Made { base_offset, wanted, attributes, records } in batches {
        let mut body = Vec::new();
        for delta in 0..*records {
            append_record(&mut body, delta as u32, None, Some(b"value"), &[]);
        }
        let fields = BatchFields {
            producer_id: wanted.producer_id,
            producer_epoch: wanted.producer_epoch,
            base_sequence: wanted.base_sequence,
            timestamp_ms: 0,
            record_count: wanted.record_count,
            compression: Compression::None,
        };
        let start = out.len();
        out.extend_from_slice(&encode_header(&fields, &body));
        out.extend_from_slice(&body);
        let batch = &mut out[start..];
        batch[..8].copy_from_slice(&base_offset.to_be_bytes());
        batch[21..23].copy_from_slice(&attributes.to_be_bytes());
        batch[57..61].copy_from_slice(&records.to_be_bytes());
        let checksum = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&checksum.to_be_bytes());
    }
    out
}

fn add(scan: &mut LogScan, high_watermark: i64, batches: &[Made]) -> Step {
    scan.add(WANTED, high_watermark, &bytes(batches)).unwrap()
}

#[test]
fn a_batch_is_found_by_all_of_its_triple() {
    let found = |batch: Made| LogScan::new(10, 0, 12).add(WANTED, 20, &bytes(&[batch])).unwrap();
    assert_eq!(found(made(10, WANTED)), Step::Found(10));
    for differs in [
        Wanted { producer_id: 8, ..WANTED },
        Wanted { producer_epoch: 0, ..WANTED },
        Wanted { base_sequence: 0, ..WANTED },
        Wanted { record_count: 3, ..WANTED },
    ] {
        assert_eq!(found(made(10, differs)), Step::Over, "{differs:?}");
    }
    assert_eq!(found(Made { attributes: CONTROL, ..made(10, WANTED) }), Step::Over, "the end of a transaction");
    assert_eq!(found(Made { records: 0, ..made(10, WANTED) }), Step::Found(10), "emptied by compaction");
}

#[test]
fn what_is_not_below_the_high_watermark_is_not_stored() {
    let mut scan = LogScan::new(10, 0, 12);
    // A leader serves no such thing; were it to, it would be of the part that may still vanish.
    assert_eq!(add(&mut scan, 11, &[made(10, WANTED)]), Step::Stuck);
    assert_eq!(add(&mut scan, 10, &[made(10, WANTED)]), Step::Behind);
    assert_eq!((scan.next(), scan.missing()), (10, None));
    assert_eq!(add(&mut scan, 12, &[made(10, WANTED)]), Step::Found(10));
}

#[test]
fn a_scan_ends_where_the_log_ended_when_it_began() {
    let mut scan = LogScan::new(10, 0, 15);
    assert_eq!(add(&mut scan, 13, &[other(10, 1)]), Step::More);
    assert_eq!(add(&mut scan, 13, &[other(11, 2)]), Step::Behind);
    assert!(!scan.is_over());
    assert_eq!(add(&mut scan, 13, &[]), Step::Behind);
    assert_eq!(add(&mut scan, 100, &[other(13, 2)]), Step::Over);
    // What was appended later, and came along, counts if it is the right one.
    let mut scan = LogScan::new(10, 0, 12);
    assert_eq!(add(&mut scan, 100, &[other(10, 2), made(12, WANTED)]), Step::Found(12));
    // Nothing at all to read.
    assert!(LogScan::new(10, 0, 10).is_over());
}

#[test]
fn every_offset_is_accounted_for() {
    // The first batch of an answer may begin before the offset asked for.
    let mut scan = LogScan::new(10, 0, 14);
    assert_eq!(add(&mut scan, 20, &[other(8, 4), other(12, 2)]), Step::Over);
    assert_eq!(scan.missing(), None);
    // Holes: at the beginning, inside, and two of them.
    for (batches, hole) in [
        (vec![other(11, 3)], (10, 11)),
        (vec![other(10, 1), other(13, 1)], (11, 13)),
        (vec![other(10, 1), other(12, 1), other(14, 1)], (11, 12)),
    ] {
        let mut scan = LogScan::new(10, 0, 14);
        assert_eq!(add(&mut scan, 20, &batches), Step::Over);
        assert_eq!(scan.missing(), Some(Missing::Hole { from: hole.0, to: hole.1 }));
    }
    // A start that is gone.
    let scan = LogScan::new(10, 12, 14);
    assert_eq!((scan.next(), scan.missing()), (12, Some(Missing::Start { from: 10, to: 12 })));
    assert!(LogScan::new(10, 14, 14).is_over());
    assert_eq!(LogScan::new(10, 10, 14).missing(), None);
    // Nothing where something must be.
    assert_eq!(add(&mut LogScan::new(10, 0, 14), 14, &[]), Step::Stuck);
}

#[test]
fn a_cut_batch_is_left_for_the_next_answer() {
    let whole = bytes(&[other(10, 1), made(11, WANTED)]);
    let second = bytes(&[other(10, 1)]).len();
    for cut in second..whole.len() {
        let mut scan = LogScan::new(10, 0, 13);
        assert_eq!(scan.add(WANTED, 13, &whole[..cut]), Ok(Step::More), "cut at {cut}");
        assert_eq!(scan.next(), 11);
        assert_eq!(scan.add(WANTED, 13, &whole[second..]), Ok(Step::Found(11)));
    }
    let mut scan = LogScan::new(11, 0, 13);
    assert_eq!(scan.add(WANTED, 13, &whole[second..second + HEADER_BYTES]), Ok(Step::Stuck), "not by its header alone");
}

#[test]
fn damage_is_no_proof_of_anything() {
    let mut damaged = bytes(&[made(10, WANTED)]);
    *damaged.last_mut().unwrap() ^= 1;
    let mut scan = LogScan::new(10, 0, 12);
    assert_eq!(scan.add(WANTED, 12, &damaged), Ok(Step::Over));
    assert_eq!(scan.missing(), Some(Missing::Damaged { at: 10 }));
    damaged[16] = 9; // a format nobody knows
    assert!(LogScan::new(10, 0, 12).add(WANTED, 12, &damaged).is_err());
}

#[test]
fn messages_of_older_formats_are_passed() {
    // Offset, length, checksum, magic 1, and enough to be one.
    let old = |offset: i64| {
        let mut message = offset.to_be_bytes().to_vec();
        message.extend_from_slice(&22i32.to_be_bytes());
        message.extend_from_slice(&[0; 4]);
        message.push(1);
        message.extend_from_slice(&[0; 17]);
        message
    };
    let mut scan = LogScan::new(10, 0, 12);
    assert_eq!(scan.add(WANTED, 12, &[old(10), old(11)].concat()), Ok(Step::Over));
    assert_eq!(scan.missing(), None);
    let mut scan = LogScan::new(10, 0, 12);
    assert_eq!(scan.add(WANTED, 12, &old(11)), Ok(Step::Over));
    assert_eq!(scan.missing(), Some(Missing::Hole { from: 10, to: 11 }));
    assert_eq!(LogScan::new(10, 0, 12).add(WANTED, 10, &old(10)), Ok(Step::Behind));
}
