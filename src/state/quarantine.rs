//! Rows that stay in their table and are passed over, as they lie in the file.
//!
//! Promises: one entry for each row; texts of a bounded length. Does not know: when a row is quarantined or released.

use super::{bounded, millis};
use crate::model::{Fault, FileId, Fingerprint, OutboxIx, Quarantined, RowKey, Why};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, Row, Transaction, params};

/// Replaces the entry of the same row, if there is one.
pub fn insert(transaction: &Transaction<'_>, outbox: i64, file: FileId, row: &Quarantined) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO quarantine (outbox, rowid, print, fault, code, text, hint, attempts, first_ms, last_ms,
                 device, inode, born) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            outbox,
            row.key.rowid,
            row.print.0.to_le_bytes(),
            fault_name(row.fault),
            row.why.code,
            bounded(&row.why.text),
            bounded(&row.why.hint),
            row.attempts,
            millis::of_time(row.first),
            millis::of_time(row.last),
            file.device as i64,
            file.inode as i64,
            file.born,
        ])?;
    Ok(())
}

pub fn delete(connection: &Connection, outbox: i64, rowid: i64) -> rusqlite::Result<usize> {
    connection.prepare_cached("DELETE FROM quarantine WHERE outbox = ? AND rowid = ?")?.execute(params![outbox, rowid])
}

/// The row lies elsewhere now (VACUUM).
pub fn renumber(
    transaction: &Transaction<'_>,
    outbox: i64,
    from: i64,
    to: i64,
    print: Fingerprint,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("UPDATE OR REPLACE quarantine SET rowid = ?, print = ? WHERE outbox = ? AND rowid = ?")?
        .execute(params![to, print.0.to_le_bytes(), outbox, from])?;
    Ok(())
}

/// One outbox's, by rowid, each with the file that was the database at that time.
pub fn of_outbox(
    connection: &Connection,
    number: i64,
    outbox: OutboxIx,
) -> rusqlite::Result<Vec<(Quarantined, FileId)>> {
    let mut statement = connection.prepare(
        "SELECT rowid, print, fault, code, text, hint, attempts, first_ms, last_ms, device, inode, born
         FROM quarantine WHERE outbox = ? ORDER BY rowid",
    )?;
    let each = |row: &Row<'_>| {
        let entry = Quarantined {
            key: RowKey { outbox, rowid: row.get(0)? },
            print: Fingerprint(u128::from_le_bytes(row.get(1)?)),
            fault: fault(row, 2)?,
            why: Why { code: row.get(3)?, text: row.get(4)?, hint: row.get(5)? },
            attempts: row.get(6)?,
            first: millis::to_time(row.get(7)?),
            last: millis::to_time(row.get(8)?),
        };
        let (device, inode) = (row.get::<_, i64>(9)? as u64, row.get::<_, i64>(10)? as u64);
        Ok((entry, FileId { device, inode, born: row.get(11)? }))
    };
    statement.query_map([number], each)?.collect()
}

/// The fault named in a column.
pub fn fault(row: &Row<'_>, column: usize) -> rusqlite::Result<Fault> {
    row.get::<_, Named>(column).map(|named| named.0)
}

fn fault_name(fault: Fault) -> &'static str {
    match fault {
        Fault::Rejected => "rejected",
        Fault::Unroutable => "unroutable",
        Fault::Undeletable => "undeletable",
    }
}

struct Named(Fault);

impl FromSql for Named {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let faults = [Fault::Rejected, Fault::Unroutable, Fault::Undeletable];
        let name = value.as_str()?;
        faults.into_iter().find(|fault| fault_name(*fault) == name).map(Named).ok_or(FromSqlError::InvalidType)
    }
}
