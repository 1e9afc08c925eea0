//! SQLite's update, commit, rollback and WAL hooks on our own connection: the record of what a transaction did.
//!
//! Promises: only pushes into memory; counts nothing as deleted by itself (the statement and the COMMIT must have returned OK,
//! that is the caller's part). Does not know: which rows were asked for.

use rusqlite::hooks::Action;
use rusqlite::{Connection, Result};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared with the closures SQLite calls, on the thread that runs the statement: the mutex is never contended.
#[derive(Clone, Debug, Default)]
pub(super) struct Hooks(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
pub(super) struct Record {
    /// The table whose rows are being deleted, as the schema spells it.
    table: String,
    /// Rowids the update hook reported as deleted from `table`, in the order of deletion.
    pub removed: Vec<i64>,
    /// Commit hooks fired; a COMMIT may still fail after it.
    pub commits: u64,
    pub rollbacks: u64,
    /// Frames in the WAL after our last commit.
    pub wal_frames: Option<u32>,
}

impl Hooks {
    /// Must come after `PRAGMA wal_autocheckpoint`, which takes the WAL hook away.
    pub fn install(connection: &mut Connection) -> Result<Hooks> {
        let hooks = Hooks::default();
        let on_update = hooks.clone();
        connection.update_hook(Some(move |action: Action, database: &str, table: &str, rowid: i64| {
            if action == Action::SQLITE_DELETE && database == "main" {
                let mut record = on_update.record();
                if record.table == table {
                    record.removed.push(rowid);
                }
            }
        }))?;
        let on_commit = hooks.clone();
        connection.commit_hook(Some(move || {
            on_commit.record().commits += 1;
            false // true would turn the COMMIT into a ROLLBACK
        }))?;
        let on_rollback = hooks.clone();
        connection.rollback_hook(Some(move || on_rollback.record().rollbacks += 1))?;
        let on_wal = hooks.clone();
        connection.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, frames: std::ffi::c_int| {
            on_wal.record().wal_frames = u32::try_from(frames).ok();
            Ok(())
        }))?;
        Ok(hooks)
    }

    pub fn record(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on deletes from `table` are collected, into an empty list with room for `rows`.
    pub fn collect(&self, table: &str, rows: usize) {
        let mut record = self.record();
        record.table.clear();
        record.table.push_str(table);
        record.removed.clear();
        record.removed.reserve(rows);
    }

    /// Collected so far.
    pub fn mark(&self) -> usize {
        self.record().removed.len()
    }

    /// What was reported since `mark` was undone.
    pub fn undo_to(&self, mark: usize) {
        self.record().removed.truncate(mark);
    }
}
