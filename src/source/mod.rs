//! The application's SQLite database as a source of events: finds rows, deletes what was sent, notices commits.
//!
//! Promises: no schema change, no checkpoint asked for, short transactions; a delete is believed only when SQLite's hooks
//! and the COMMIT confirm it. Does not know: Kafka, topics, plans' outcomes.

mod backlog;
mod books;
mod content;
mod database;
mod delete;
mod durability;
mod failure;
mod handle;
mod hooks;
mod lock;
mod look;
mod outbox;
mod own_commits;
mod port;
mod scan;
mod schema;
mod traces;
mod transaction;
pub mod wal;
pub mod watch;

#[cfg(test)]
mod tests;

pub use database::Database;
pub use handle::name_cause_of_sigbus;
pub use lock::{file_id, same_file};
pub use own_commits::OwnCommits;
pub use watch::{Watch, WatchError, Watches};

use crate::model::{OutboxIx, Why};
use std::path::PathBuf;

/// What an event may be published on the strength of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Only what a power cut can no longer undo.
    PowerLoss,
    /// Whatever is committed and visible.
    Commit,
}

/// One database, and how to treat it. The defaults of the pragmas are SQLite's own, not the bundled build's.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    pub path: PathBuf,
    pub durability: Durability,
    /// `PRAGMA foreign_keys` of our connection: on only for an application that relies on cascades when its outbox rows go.
    pub foreign_keys: bool,
    /// `PRAGMA secure_delete` of our connection: costs the whole gain of the delete order.
    pub secure_delete: bool,
    /// `bookkeeping = "table"`: each delete is booked in a table `_outboxd` of the application's database, so that the next run
    /// knows which delete was the last. Also takes [`Database::keep_books`].
    pub bookkeeping: bool,
}

/// One outbox table of a database.
#[derive(Clone, Debug)]
pub struct OutboxSpec {
    /// For messages.
    pub name: String,
    pub table: String,
    /// Column names by [`crate::model::field`]; `None` where none is configured.
    pub fields: Vec<Option<String>>,
}

/// Why a start is refused. What heals by itself (no file, no table, BUSY) is none of these.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon works on this file: exit code 4.
    #[error("{path} is held by another outboxd{}", pid_text(*pid))]
    LockedBy { path: String, pid: Option<u32> },
    /// It is there and can't be an outbox: exit code 2.
    #[error("{why}")]
    NotAnOutbox { outbox: OutboxIx, why: Why },
    /// Two entries name one table: exit code 2.
    #[error("{first} and {second} are the same table {table}")]
    SameTable { first: String, second: String, table: String },
    /// A permission is missing: exit code 2.
    #[error("{0}")]
    Forbidden(Why),
    /// The system fails (an I/O error, a full disk, a file system that takes no writes now, no descriptors): it may be over at the
    /// next try, exit code 1.
    #[error("{0}")]
    Failed(Why),
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (PID {pid})"))
}
