//! What is noted of the outboxes' tables: what their rows' fingerprints are made of, and what tells a table from another one.
//!
//! Promises: one entry for each outbox. Does not know: what follows when a table is another.

use crate::model::{KnownTable, TableIdentity};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

pub fn set(
    transaction: &Transaction<'_>,
    outbox: i64,
    columns: &[String],
    identity: &TableIdentity,
) -> rusqlite::Result<()> {
    forget(transaction, outbox)?;
    let mut insert =
        transaction.prepare_cached("INSERT INTO fingerprint_column (outbox, position, name) VALUES (?, ?, ?)")?;
    for (position, name) in columns.iter().enumerate() {
        insert.execute(params![outbox, position as i64, name])?;
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

/// What fingerprints of the outbox's rows are made of.
pub fn columns(connection: &Connection, outbox: i64) -> rusqlite::Result<Option<Vec<String>>> {
    let mut statement = connection.prepare("SELECT name FROM fingerprint_column WHERE outbox = ? ORDER BY position")?;
    let names: Vec<String> = statement.query_map([outbox], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(if names.is_empty() { None } else { Some(names) })
}

pub fn known(connection: &Connection, outbox: i64) -> rusqlite::Result<Option<KnownTable>> {
    let Some(columns) = columns(connection, outbox)? else { return Ok(None) };
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
    Ok(Some(KnownTable { columns, identity }))
}
