//! Rows that wait in their table to be sent again, with the message ids they had, as they lie in the file.
//!
//! Promises: one entry for each row. Does not know: why a row goes again.

use crate::model::{Fingerprint, LeftResend, OutboxIx, Resend, RowKey, RunId};
use rusqlite::{Connection, Transaction, params};

/// Replaces the entry of the same row, if there is one.
pub fn insert(transaction: &Transaction<'_>, outbox: i64, rowid: i64, resend: &Resend) -> rusqlite::Result<()> {
    transaction
        .prepare_cached("INSERT OR REPLACE INTO resend (outbox, rowid, print, run, message) VALUES (?, ?, ?, ?, ?)")?
        .execute(params![
            outbox,
            rowid,
            resend.print.0.to_le_bytes(),
            resend.run.0.to_be_bytes(),
            resend.message as i64
        ])?;
    Ok(())
}

pub fn delete(transaction: &Transaction<'_>, outbox: i64, rowid: i64) -> rusqlite::Result<()> {
    transaction.prepare_cached("DELETE FROM resend WHERE outbox = ? AND rowid = ?")?.execute(params![outbox, rowid])?;
    Ok(())
}

/// One outbox's, by rowid.
pub fn of_outbox(connection: &Connection, number: i64, outbox: OutboxIx) -> rusqlite::Result<Vec<LeftResend>> {
    let mut statement =
        connection.prepare("SELECT rowid, print, run, message FROM resend WHERE outbox = ? ORDER BY rowid")?;
    let rows = statement.query_map([number], |row| {
        Ok(LeftResend {
            key: RowKey { outbox, rowid: row.get(0)? },
            resend: Resend {
                print: Fingerprint(u128::from_le_bytes(row.get(1)?)),
                run: RunId(u128::from_be_bytes(row.get(2)?)),
                message: row.get::<_, i64>(3)? as u64,
            },
        })
    })?;
    rows.collect()
}
