//! The blob that a plan's rows are in the state file.
//!
//! Promises: asks that nothing but a whole blob is decoded, within the memory that its bytes justify, and that the rows written again
//! are the same. Does not know: the file.

use super::cuts;
use outboxd::model::{OutboxIx, RowKey, RowMeta, Rows, Span};
use outboxd::state::OpenRow;
use outboxd::state::codec::{decode, encode};

/// A byte of rowid, one of message and the fingerprint.
const ROW_BYTES_MIN: usize = 18;

/// The input is a blob.
pub fn plan_rows(input: &[u8]) -> bool {
    let Ok(rows) = decode(input) else { return false };
    let ids: usize = rows.iter().map(|row| row.event_id.len()).sum();
    assert!(rows.len() * ROW_BYTES_MIN + ids <= input.len(), "{} rows in {} bytes", rows.len(), input.len());
    assert_eq!(rows.capacity(), rows.len());
    for cut in cuts(input.len()) {
        assert!(decode(&input[..cut]).is_err(), "the first {cut} of {} bytes are a blob too", input.len());
    }
    assert!(decode(&[input, &[0]].concat()).is_err(), "a byte too many is not seen");

    let Some(again) = written_again(&rows) else { return true };
    assert!(again.len() <= input.len(), "{} bytes became {}", input.len(), again.len());
    assert_eq!(decode(&again).as_ref(), Ok(&rows));
    true
}

/// `None`: of more outboxes than one database can have.
fn written_again(rows: &[OpenRow]) -> Option<Vec<u8>> {
    let mut outboxes: Vec<i64> = rows.iter().map(|row| row.outbox as i64).collect();
    outboxes.sort_unstable();
    outboxes.dedup();
    let mut model = Rows::default();
    for row in rows {
        let place = outboxes.binary_search(&(row.outbox as i64)).expect("it is among them");
        let event_id = Span { start: model.bytes.len() as u32, len: row.event_id.len() as u32 };
        model.bytes.extend_from_slice(&row.event_id);
        model.meta.push(RowMeta {
            key: RowKey { outbox: OutboxIx(u16::try_from(place).ok()?), rowid: row.rowid },
            print: row.print,
            record: Span::default(),
            message: row.message,
            event_id,
        });
    }
    let mut blob = Vec::new();
    encode(&model, &outboxes, &mut blob);
    Some(blob)
}
