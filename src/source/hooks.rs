//! SQLite's update, commit and WAL hooks on our own connection: the record of what a transaction did.
//!
//! Promises: only pushes into memory; counts nothing as deleted by itself (the statement and the COMMIT must have returned OK,
//! that is the caller's part). Does not know: which rows were asked for.

use crate::model::{OutboxIx, RowKey};
use rusqlite::hooks::{Action, AuthAction, AuthContext, Authorization};
use rusqlite::{Connection, Result};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shared with the closures SQLite calls, on the thread that runs the statement: the mutex is never contended.
#[derive(Clone, Debug, Default)]
pub(super) struct Hooks(Arc<Mutex<Record>>);

#[derive(Debug, Default)]
pub(super) struct Record {
    /// The outboxes by their tables' names as the schema spells them, and the schema version that says so.
    outboxes: HashMap<String, OutboxIx>,
    schema: Option<i64>,
    /// The table whose rows are being deleted.
    table: String,
    /// Rowids the update hook reported as deleted from `table`, in the order of deletion.
    pub removed: Vec<i64>,
    /// What else happened to rows of outboxes since the transaction began: a trigger's or a foreign key's doing.
    pub beside: Vec<Beside>,
    /// Commit hooks fired; a COMMIT may still fail after it.
    pub commits: u64,
    /// Frames in the WAL after our last commit.
    pub wal_frames: Option<u32>,
}

/// Something that no statement of ours did itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beside {
    pub key: RowKey,
    pub what: What,
    /// So many rows of the table being deleted from were gone by then.
    pub after: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// Inserted or updated.
    Written,
    Removed,
}

/// A place in the record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    removed: usize,
    beside: usize,
}

impl Hooks {
    /// Must come after `PRAGMA wal_autocheckpoint`, which takes the WAL hook away.
    pub fn install(connection: &mut Connection) -> Result<Hooks> {
        let hooks = Hooks::default();
        let on_update = hooks.clone();
        connection.update_hook(Some(move |action: Action, database: &str, table: &str, rowid: i64| {
            if database == "main" {
                on_update.record().updated(action, table, rowid);
            }
        }))?;
        let on_commit = hooks.clone();
        connection.commit_hook(Some(move || {
            on_commit.record().commits += 1;
            false // true would turn the COMMIT into a ROLLBACK
        }))?;
        // A DELETE without WHERE (a trigger's) would else empty its table in one stroke, and report no row of it.
        connection.authorizer(Some(|context: AuthContext<'_>| match context.action {
            AuthAction::Delete { .. } => Authorization::Ignore,
            _ => Authorization::Allow,
        }))?;
        // No rollback hook: a connection that is closed inside a transaction (a panic) frees the closures, then rolls back, and
        // would call it.
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

    /// A transaction begins. `outboxes`: their tables' names under this version of the schema.
    pub fn begin<'a>(&self, schema: Option<i64>, outboxes: impl Iterator<Item = (OutboxIx, &'a str)>) {
        let mut record = self.record();
        record.table.clear();
        record.removed.clear();
        record.beside.clear();
        if record.schema != schema || schema.is_none() {
            record.outboxes = outboxes.map(|(outbox, table)| (table.to_owned(), outbox)).collect();
            record.schema = schema;
        }
    }

    /// From here on deletes from `table` are collected, into an empty list with room for `rows`.
    pub fn collect(&self, table: &str, rows: usize) -> Mark {
        let mut record = self.record();
        record.table.clear();
        record.table.push_str(table);
        record.removed.clear();
        record.removed.reserve(rows);
        Mark { removed: 0, beside: record.beside.len() }
    }

    /// Reported so far.
    pub fn mark(&self) -> Mark {
        let record = self.record();
        Mark { removed: record.removed.len(), beside: record.beside.len() }
    }

    /// Whether anything happened to outboxes since `mark` but what `removed` tells.
    pub fn saw_others(&self, mark: Mark) -> bool {
        self.record().beside.len() > mark.beside
    }

    /// What was reported since `mark` was undone.
    pub fn undo_to(&self, mark: Mark) {
        let mut record = self.record();
        record.removed.truncate(mark.removed);
        record.beside.truncate(mark.beside);
    }
}

impl Record {
    fn updated(&mut self, action: Action, table: &str, rowid: i64) {
        let what = match action {
            Action::SQLITE_DELETE => What::Removed,
            Action::SQLITE_INSERT | Action::SQLITE_UPDATE => What::Written,
            _ => return,
        };
        if what == What::Removed && self.table == table {
            self.removed.push(rowid);
        } else if let Some(outbox) = self.outboxes.get(table) {
            let key = RowKey { outbox: *outbox, rowid };
            self.beside.push(Beside { key, what, after: self.removed.len() });
        }
    }

    /// Whether a row was removed since `mark` that was not asked for, or that was written since: what was compared was another.
    pub fn took_others(&self, mark: Mark, outbox: OutboxIx, asked: impl Fn(RowKey) -> bool) -> bool {
        let mut written: HashSet<RowKey> = HashSet::new();
        let mut position = mark.removed;
        let is_other = |written: &HashSet<RowKey>, key: RowKey| written.contains(&key) || !asked(key);
        for beside in &self.beside[mark.beside..] {
            let until = beside.after.max(position);
            if self.removed[position..until].iter().any(|rowid| is_other(&written, RowKey { outbox, rowid: *rowid })) {
                return true;
            }
            position = until;
            match beside.what {
                What::Written => drop(written.insert(beside.key)),
                What::Removed if is_other(&written, beside.key) => return true,
                What::Removed => {}
            }
        }
        self.removed[position..].iter().any(|rowid| is_other(&written, RowKey { outbox, rowid: *rowid }))
    }

    /// Per outbox the lowest and the highest rowid that was written.
    pub fn written(&self) -> Vec<RowKey> {
        let mut ends: HashMap<OutboxIx, (i64, i64)> = HashMap::new();
        for beside in self.beside.iter().filter(|beside| beside.what == What::Written) {
            let rowid = beside.key.rowid;
            let (low, high) = ends.entry(beside.key.outbox).or_insert((rowid, rowid));
            (*low, *high) = ((*low).min(rowid), (*high).max(rowid));
        }
        ends.into_iter().flat_map(|(outbox, (low, high))| [low, high].map(|rowid| RowKey { outbox, rowid })).collect()
    }
}
