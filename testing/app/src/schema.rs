//! Tables: the pattern's demo schema and the shapes that applications make of it.
//!
//! Promises: a fresh database, or an error. Does not know: who reads the outbox.

use crate::Result;
use crate::args::{Create, Journal, Schema};
use rusqlite::Connection;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

pub fn create(options: &Create) -> Result<serde_json::Value> {
    let db = Connection::open(&options.db)?;
    db.pragma_update(None, "encoding", &options.encoding)?;
    if let Some(size) = options.page_size {
        db.pragma_update(None, "page_size", size)?;
    }
    let mode = match options.journal {
        Journal::Wal => "wal",
        Journal::Delete => "delete",
        Journal::Truncate => "truncate",
        Journal::Persist => "persist",
    };
    let got: String = db.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |row| row.get(0))?;
    if got != mode {
        return Err(format!("journal mode {mode} was asked for, SQLite answered {got}").into());
    }
    if !matches!(options.journal, Journal::Wal) {
        std::fs::write(mode_file(&options.db), mode)?;
    }
    db.execute_batch(
        "CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL, changes INTEGER NOT NULL DEFAULT 0)",
    )?;
    for table in &options.table {
        let columns = match options.schema {
            Schema::Bare => "id INTEGER PRIMARY KEY, aggregateId TEXT, eventType TEXT, payload TEXT",
            Schema::Autoincrement => {
                "id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, payload TEXT"
            }
            Schema::Uuid => "id TEXT PRIMARY KEY, aggregateId TEXT, eventType TEXT, payload TEXT",
            Schema::EventId => {
                "id INTEGER PRIMARY KEY, eventId TEXT NOT NULL UNIQUE, aggregateId TEXT, eventType TEXT, payload TEXT"
            }
            Schema::Untyped => "id INTEGER PRIMARY KEY, aggregateId, eventType, payload",
        };
        db.execute_batch(&format!("CREATE TABLE \"{table}\" ({columns})"))?;
    }
    Ok(json!({ "created": options.db, "journal": mode }))
}

/// The application's own connection. A rollback-journal mode other than DELETE belongs to the connection, not to the file, so
/// it is asked for again: which one is read from what `create` left beside the database.
pub fn open(path: &Path, busy_timeout_ms: u64, synchronous: &str) -> Result<Connection> {
    let db = Connection::open(path)?;
    db.busy_timeout(Duration::from_millis(busy_timeout_ms))?;
    if let Ok(mode) = std::fs::read_to_string(mode_file(path)) {
        db.query_row(&format!("PRAGMA journal_mode = {}", mode.trim()), [], |_| Ok(()))?;
    }
    db.pragma_update(None, "synchronous", synchronous)?;
    Ok(db)
}

fn mode_file(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".mode");
    name.into()
}

/// Which of the optional columns the outbox has.
pub struct Shape {
    pub text_id: bool,
    pub event_id: bool,
}

pub fn shape(db: &Connection, table: &str) -> Result<Shape> {
    let mut columns = db.prepare("SELECT name, type FROM pragma_table_info(?1)")?;
    let mut shape = Shape { text_id: false, event_id: false };
    let mut rows = columns.query([table])?;
    while let Some(row) = rows.next()? {
        let (name, declared): (String, String) = (row.get(0)?, row.get(1)?);
        shape.text_id |= name == "id" && declared == "TEXT";
        shape.event_id |= name == "eventId";
    }
    Ok(shape)
}
