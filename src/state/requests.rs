//! What operators ask of the daemon that works with the file: a row each, with room for the answer.
//!
//! Promises: a bounded number of them; an answer meets its own question or none. Does not know: how a request is carried out.

use super::{bounded, millis};
use crate::model::{Action, OutboxIx, Request};
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

/// Whoever asked has long since gone.
const KEPT_MS: i64 = 600_000;

/// Those nobody has answered, with a number above `after`, of these outboxes.
pub fn unanswered(connection: &Connection, outboxes: &[i64], after: i64) -> rusqlite::Result<Vec<Request>> {
    let mut statement = connection
        .prepare_cached("SELECT id, outbox, action, row FROM request WHERE answer IS NULL AND id > ? ORDER BY id")?;
    let each = |row: &Row<'_>| {
        let number: i64 = row.get(1)?;
        let Some(outbox) = outboxes.iter().position(|outbox| *outbox == number) else { return Ok(None) };
        Ok(Some(Request {
            id: row.get(0)?,
            action: row.get::<_, Named>(2)?.0,
            outbox: OutboxIx(outbox as u16),
            rowid: row.get(3)?,
        }))
    };
    statement.query_map([after], each)?.filter_map(Result::transpose).collect()
}

pub fn answer(transaction: &Transaction<'_>, id: i64, failed: bool, text: &str) -> rusqlite::Result<()> {
    transaction.prepare_cached("UPDATE request SET answer = ?, failed = ? WHERE id = ?")?.execute(params![
        bounded(text),
        failed,
        id
    ])?;
    forget_old(transaction)
}

/// Answered or not: also those from a clock that was ahead.
fn forget_old(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM request WHERE abs(? - asked_ms) > ?")?
        .execute([millis::now(), KEPT_MS])
        .map(|_| ())
}

/// Answers its number.
pub fn ask(
    connection: &Connection,
    action: Action,
    outbox: i64,
    row: Option<i64>,
    asked_ms: i64,
) -> rusqlite::Result<i64> {
    forget_old(connection)?;
    connection.query_row(
        "INSERT INTO request (outbox, action, row, asked_ms) VALUES (?, ?, ?, ?) RETURNING id",
        params![outbox, action_name(action), row, asked_ms],
        |row| row.get(0),
    )
}

/// Its answer, if there is one, and whether that says that it could not be done.
pub fn read(connection: &Connection, id: i64) -> rusqlite::Result<Option<(Option<String>, bool)>> {
    connection
        .query_row("SELECT answer, failed FROM request WHERE id = ?", [id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
}

pub fn withdraw(connection: &Connection, id: i64) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM request WHERE id = ? AND answer IS NULL", [id]).map(|_| ())
}

fn action_name(action: Action) -> &'static str {
    match action {
        Action::Retry => "retry",
        Action::Discard => "discard",
    }
}

struct Named(Action);

impl FromSql for Named {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let name = value.as_str()?;
        let action = [Action::Retry, Action::Discard].into_iter().find(|action| action_name(*action) == name);
        action.map(Named).ok_or(FromSqlError::InvalidType)
    }
}
