//! A plan's rows as one blob: small where rows follow each other, as they nearly always do.
//!
//! Promises: what is decoded is what was encoded, and every damaged blob is refused without allocating more than it is long.
//! Does not know: the file it lies in, what an outbox is.
//!
//! Layout: the layout's version (1 byte), the number of rows, then (outbox, rows in it) until all rows are counted, then for each
//! row the distance of its rowid from the one before, then the same of its message number, then whether event ids follow (1
//! byte) and each with its length, then 16 bytes of fingerprint for each row, little-endian. Numbers are LEB128, distances zig-zag.

use crate::model::{Fingerprint, Rows};
use outboxd_kafka::leb128::{self, Malformed};

const LAYOUT: u8 = 1;

/// A row of a plan that an earlier run left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenRow {
    /// The state file's own number of the outbox: a position in the plan's list of tables.
    pub outbox: u64,
    pub rowid: i64,
    pub print: Fingerprint,
    /// The number in the message id `run-number`; unused when there is an event id.
    pub message: u64,
    /// The application's own event id; empty when not configured.
    pub event_id: Vec<u8>,
}

/// A blob that is not what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the plan's rows can't be read: {0}")]
pub struct Damaged(pub(super) &'static str);

/// Appends the blob of `rows` to `blob`. `outboxes`: the state file's number of each outbox.
pub fn encode(rows: &Rows, outboxes: &[i64], blob: &mut Vec<u8>) {
    let meta = &rows.meta;
    blob.reserve(8 + meta.len() * 19);
    blob.push(LAYOUT);
    leb128::put(blob, meta.len() as u64);
    for stretch in meta.chunk_by(|a, b| a.key.outbox == b.key.outbox) {
        leb128::put(blob, outboxes[usize::from(stretch[0].key.outbox.0)] as u64);
        leb128::put(blob, stretch.len() as u64);
    }
    let mut before = 0i64;
    for row in meta {
        distance(blob, row.key.rowid.wrapping_sub(before));
        before = row.key.rowid;
    }
    let mut before = 0u64;
    for row in meta {
        distance(blob, row.message.wrapping_sub(before) as i64);
        before = row.message;
    }
    let event_ids = meta.iter().any(|row| row.event_id.len > 0);
    blob.push(u8::from(event_ids));
    if event_ids {
        for row in meta {
            let id = row.event_id.of(&rows.bytes);
            leb128::put(blob, id.len() as u64);
            blob.extend_from_slice(id);
        }
    }
    for row in meta {
        blob.extend_from_slice(&row.print.0.to_le_bytes());
    }
}

/// The rows in the batch's order.
pub fn decode(blob: &[u8]) -> Result<Vec<OpenRow>, Damaged> {
    let mut rest = blob;
    if byte(&mut rest)? != LAYOUT {
        return Err(Damaged("unknown layout"));
    }
    let count = take(&mut rest)?;
    // Every row takes at least a byte of rowid, one of message and 16 of fingerprint.
    if count > rest.len() as u64 / 18 {
        return Err(Damaged("more rows than bytes"));
    }
    let count = count as usize;
    let mut rows: Vec<OpenRow> = Vec::with_capacity(count);
    while rows.len() < count {
        let outbox = take(&mut rest)?;
        let stretch = take(&mut rest)?;
        if stretch == 0 || stretch > (count - rows.len()) as u64 {
            return Err(Damaged("a stretch of rows is out of range"));
        }
        let row = OpenRow { outbox, rowid: 0, print: Fingerprint(0), message: 0, event_id: Vec::new() };
        rows.resize(rows.len() + stretch as usize, row);
    }
    let mut before = 0i64;
    for row in &mut rows {
        before = before.wrapping_add(take_distance(&mut rest)?);
        row.rowid = before;
    }
    let mut before = 0u64;
    for row in &mut rows {
        before = before.wrapping_add(take_distance(&mut rest)? as u64);
        row.message = before;
    }
    match byte(&mut rest)? {
        0 => {}
        1 => {
            for row in &mut rows {
                let length = take(&mut rest)?;
                let id = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
                let (id, after) = id.ok_or(Damaged("an event id is longer than the rest"))?;
                row.event_id = id.to_vec();
                rest = after;
            }
        }
        _ => return Err(Damaged("no telling whether there are event ids")),
    }
    for row in &mut rows {
        let (print, after) = rest.split_first_chunk::<16>().ok_or(Damaged("fingerprints are missing"))?;
        row.print = Fingerprint(u128::from_le_bytes(*print));
        rest = after;
    }
    if rest.is_empty() { Ok(rows) } else { Err(Damaged("bytes are left over")) }
}

fn distance(blob: &mut Vec<u8>, value: i64) {
    leb128::put(blob, leb128::zigzag(value));
}

fn byte(rest: &mut &[u8]) -> Result<u8, Damaged> {
    let (first, after) = rest.split_first().ok_or(Damaged("it is cut off"))?;
    *rest = after;
    Ok(*first)
}

fn take(rest: &mut &[u8]) -> Result<u64, Damaged> {
    leb128::take(rest, 10).map_err(|malformed| match malformed {
        Malformed::Short => Damaged("it is cut off"),
        Malformed::Endless => Damaged("a number does not end"),
    })
}

fn take_distance(rest: &mut &[u8]) -> Result<i64, Damaged> {
    take(rest).map(leb128::unzigzag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{OutboxIx, RowKey, RowMeta, Span};

    fn rows(count: usize, mut each: impl FnMut(usize) -> (u16, i64, u64, Vec<u8>)) -> Rows {
        let mut rows = Rows::default();
        for index in 0..count {
            let (outbox, rowid, message, id) = each(index);
            let event_id = Span { start: rows.bytes.len() as u32, len: id.len() as u32 };
            rows.bytes.extend_from_slice(&id);
            rows.meta.push(RowMeta {
                key: RowKey { outbox: OutboxIx(outbox), rowid },
                print: Fingerprint(u128::MAX - index as u128 * 77),
                record: Span::default(),
                message,
                event_id,
            });
        }
        rows
    }

    fn round_trip(rows: &Rows) -> Vec<u8> {
        let outboxes = [70_000, 3, 4];
        let mut blob = Vec::new();
        encode(rows, &outboxes, &mut blob);
        let decoded = decode(&blob).expect("what was encoded is decoded");
        assert_eq!(decoded.len(), rows.len());
        for (row, meta) in decoded.iter().zip(&rows.meta) {
            assert_eq!(row.outbox, outboxes[usize::from(meta.key.outbox.0)] as u64);
            assert_eq!(row.rowid, meta.key.rowid);
            assert_eq!(row.print, meta.print);
            assert_eq!(row.message, meta.message);
            assert_eq!(row.event_id, meta.event_id.of(&rows.bytes));
        }
        blob
    }

    #[test]
    fn rows_in_a_row_cost_eighteen_bytes_each() {
        let blob = round_trip(&rows(5_000, |index| (0, 1_000_000 + index as i64, 9_000 + index as u64, Vec::new())));
        assert!(blob.len() <= 5_000 * 18 + 24, "{} bytes", blob.len());
    }

    #[test]
    fn extremes_come_back() {
        round_trip(&rows(0, |_| unreachable!()));
        let ends = [i64::MIN, i64::MAX, 0, -1, i64::MAX, i64::MIN];
        let messages = [u64::MAX, 0, 1 << 63, 1, u64::MAX, 7];
        round_trip(&rows(6, |index| ((index % 3) as u16, ends[index], messages[index], vec![b'x'; index * 100])));
    }

    #[test]
    fn random_rows_come_back_and_their_damage_is_refused() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let count = random.usize(0..40);
            let wanted = rows(count, |_| {
                let id = (0..random.usize(0..20)).map(|_| random.u8(..)).collect();
                (random.u16(0..3), random.i64(..) >> random.u32(0..64), random.u64(..) >> random.u32(0..64), id)
            });
            let blob = round_trip(&wanted);
            for end in 0..blob.len() {
                assert!(decode(&blob[..end]).is_err(), "seed {seed}: cut at {end} was accepted");
            }
            let mut longer = blob.clone();
            longer.push(0);
            assert!(decode(&longer).is_err(), "seed {seed}: a byte too many was accepted");
            for _ in 0..50 {
                let mut broken = blob.clone();
                let at = random.usize(0..broken.len());
                broken[at] ^= 1 << random.u32(0..8);
                // Either refused or other rows: never a panic, never more rows than bytes.
                if let Ok(rows) = decode(&broken) {
                    assert!(rows.len() * 18 <= broken.len());
                }
            }
        }
    }

    #[test]
    fn a_hostile_count_allocates_nothing() {
        let mut blob = vec![LAYOUT];
        leb128::put(&mut blob, u64::MAX);
        assert_eq!(decode(&blob), Err(Damaged("more rows than bytes")));
    }
}
