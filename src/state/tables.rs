//! What is noted of the outboxes' tables: what their rows' fingerprints are made of, and what tells a table from another one.
//!
//! Promises: one entry for each outbox. Does not know: what follows when a table is another.

use super::schema::{SENT_SINCE, VERSION};
use crate::model::{Guard, KnownTable, TableIdentity};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

pub fn set(
    transaction: &Transaction<'_>,
    outbox: i64,
    guard: &Guard,
    identity: &TableIdentity,
) -> rusqlite::Result<()> {
    forget(transaction, outbox)?;
    let mut insert = transaction
        .prepare_cached("INSERT INTO fingerprint_column (outbox, position, name, sent) VALUES (?, ?, ?, ?)")?;
    for (position, name) in guard.columns.iter().enumerate() {
        let sent = if position < guard.sent { 1 + i64::from(guard.by_value) } else { 0 };
        insert.execute(params![outbox, position as i64, name, sent])?;
    }
    transaction
        .prepare_cached(
            "INSERT INTO table_identity (outbox, schema_version, schema_row, root_page, definition, sequence_row,
                 sequence_highest) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            outbox,
            identity.schema_version,
            identity.place.0,
            identity.place.1,
            identity.definition.to_le_bytes(),
            identity.sequence.map(|sequence| sequence.0),
            identity.sequence.map(|sequence| sequence.1),
        ])?;
    Ok(())
}

pub fn forget(transaction: &Transaction<'_>, outbox: i64) -> rusqlite::Result<()> {
    for table in ["fingerprint_column", "table_identity"] {
        transaction.prepare_cached(&format!("DELETE FROM {table} WHERE outbox = ?"))?.execute([outbox])?;
    }
    Ok(())
}

/// What fingerprints of the outbox's rows are made of. `version`: of the file.
pub fn guard(connection: &Connection, outbox: i64, version: i64) -> rusqlite::Result<Option<Guard>> {
    let sent = if version < SENT_SINCE { "1" } else { "sent" };
    let mut statement = connection
        .prepare(&format!("SELECT name, {sent} FROM fingerprint_column WHERE outbox = ? ORDER BY position"))?;
    let mut guard = Guard::default();
    let mut rows = statement.query([outbox])?;
    while let Some(row) = rows.next()? {
        guard.columns.push(row.get(0)?);
        let sent: i64 = row.get(1)?;
        guard.sent += usize::from(sent > 0);
        guard.by_value |= sent > 1;
    }
    Ok(if guard.columns.is_empty() { None } else { Some(guard) })
}

pub fn known(connection: &Connection, outbox: i64) -> rusqlite::Result<Option<KnownTable>> {
    let Some(guard) = guard(connection, outbox, VERSION)? else { return Ok(None) };
    let identity = connection
        .query_row(
            "SELECT schema_version, schema_row, root_page, definition, sequence_row, sequence_highest
             FROM table_identity WHERE outbox = ?",
            [outbox],
            |row| {
                let sequence: (Option<i64>, Option<i64>) = (row.get(4)?, row.get(5)?);
                Ok(TableIdentity {
                    schema_version: row.get(0)?,
                    place: (row.get(1)?, row.get(2)?),
                    definition: u128::from_le_bytes(row.get(3)?),
                    sequence: sequence.0.zip(sequence.1),
                })
            },
        )
        .optional()?;
    Ok(Some(KnownTable { guard, identity }))
}
