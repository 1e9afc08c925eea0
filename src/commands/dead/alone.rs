//! Without a daemon: the same done here, holding the state file's lock and, where a row is deleted, the database's.
//!
//! Promises: a row is deleted only if it is still what was quarantined, and leaves the quarantine only when that is durable; one
//! that was published is never made ready to be sent again. Does not know: SQL.

use super::choose::{Configured, Dead};
use super::{CommandError, Told, state_error, text, wrong};
use crate::config::{self, Config};
use crate::daemon::{DaemonError, wiring};
use crate::exit::FAILED;
use crate::model::{Action, Deletion, Fault, KnownTable, OutboxIx, RowKey};
use crate::ports::{DeleteGroup, DeleteOrder, Source, SourceError};
use crate::source::Database;
use crate::state::Visitor;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Of one delete, so that the application waits for its lock only briefly.
const ROWS_MAX: usize = 500;
/// How long a database that someone else has locked is asked again.
const BUSY_PATIENCE: Duration = Duration::from_secs(5);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
const COMMIT_PATIENCE: Duration = Duration::from_millis(100);

pub fn settle(
    action: Action,
    mut visitor: Visitor,
    config: Option<&Config>,
    chosen: &[&Dead],
) -> Result<Told, CommandError> {
    let mut told = Told::default();
    // A published row is sent again by nobody: for it both words mean to delete it.
    let (deleted, released): (Vec<&Dead>, Vec<&Dead>) =
        chosen.iter().partition(|row| action == Action::Discard || row.entry.fault == Fault::Undeletable);
    // The deletes first: they may be refused as a whole (another outboxd, no config), and then nothing has happened.
    let configured = Configured::of(config);
    let mut places: BTreeMap<usize, Vec<(&Dead, OutboxIx)>> = BTreeMap::new();
    for row in deleted {
        let (at, outbox) = configured.find(&row.entry).ok_or_else(|| unconfigured(row, config.is_some()))?;
        places.entry(at).or_default().push((row, outbox));
    }
    for (at, rows) in places {
        delete(&mut visitor, &configured.databases[at], &rows, &mut told)?;
    }
    let entries: Vec<_> = released.iter().map(|row| &row.entry).collect();
    visitor.release(&entries).map_err(state_error)?;
    for row in released {
        told.add(false, line(row, "is sent again when outboxd starts"));
    }
    Ok(told)
}

fn unconfigured(row: &Dead, has_config: bool) -> CommandError {
    let (database, table) = (row.entry.database.display(), &row.entry.table);
    let text = if has_config {
        format!("{table} of {database} is not in the configuration, which says how its rows are deleted")
    } else {
        "no outboxd runs, and how rows are deleted is in the configuration".to_owned()
    };
    wrong(text, format!("name it: --config FILE, or --database {database} --table {table}"))
}

fn delete(
    visitor: &mut Visitor,
    database: &config::Database,
    rows: &[(&Dead, OutboxIx)],
    told: &mut Told,
) -> Result<(), CommandError> {
    let mut source =
        Database::new(wiring::database_options(database), wiring::outbox_specs(database)).without_remarks();
    source.beware_of(visitor.origins().map_err(state_error)?);
    source.check().map_err(DaemonError::from)?;
    if let Some(id) = visitor.id().map_err(state_error)? {
        source.keep_books(id);
    }
    for (row, outbox) in rows {
        if let Some(guard) = visitor.guard(&row.entry).map_err(state_error)? {
            source.recognise_by(*outbox, KnownTable { guard, identity: None });
        }
    }
    // What is booked of outboxd's own deletes stays booked.
    let booked = if source.books() {
        patiently(|| source.booked()).map_err(unreadable)?.map(|booked| booked.plans).unwrap_or_default()
    } else {
        Vec::new()
    };
    for (number, rows) in rows.chunks(ROWS_MAX).enumerate() {
        let named = rows.iter().map(|(row, outbox)| {
            let key = RowKey { outbox: *outbox, rowid: row.entry.rowid };
            (key, row.entry.print)
        });
        let group = DeleteGroup::Rows(named.collect());
        let order = DeleteOrder {
            number: number as u64 + 1,
            groups: std::slice::from_ref(&group),
            booked: &booked,
            yields: false,
            commit_patience: COMMIT_PATIENCE,
        };
        let deletion = patiently(|| source.delete(&order, &mut |_| Ok(()))).map_err(unreadable)?;
        patiently(|| source.make_durable()).map_err(unreadable)?;
        let mut settled = Vec::with_capacity(rows.len());
        for (row, outbox) in rows {
            let end = end(&deletion, RowKey { outbox: *outbox, rowid: row.entry.rowid });
            if end.is_settled {
                settled.push(&row.entry);
            }
            told.add(end.is_failure, line(row, end.text));
        }
        visitor.release(&settled).map_err(state_error)?;
    }
    Ok(())
}

struct End {
    text: &'static str,
    is_settled: bool,
    is_failure: bool,
}

fn end(deletion: &Deletion, key: RowKey) -> End {
    if deletion.kept.contains(&key) {
        End { text: "a trigger or a constraint keeps it from being deleted", is_settled: false, is_failure: true }
    } else if deletion.changed.contains(&key) {
        // As the daemon has it: the quarantine was of what stood there before.
        End {
            text: "is not what was quarantined any more; as it is now it is sent when outboxd starts",
            is_settled: true,
            is_failure: true,
        }
    } else if deletion.gone.contains(&key) {
        End { text: "was gone already", is_settled: true, is_failure: false }
    } else {
        End { text: "is deleted", is_settled: true, is_failure: false }
    }
}

fn line(row: &Dead, what: &str) -> String {
    format!("{} rowid {}: {}", row.label, row.entry.rowid, text::one_line(what, usize::MAX))
}

/// A lock of someone else's passes; and what is said of a file once is said no second time.
pub fn patiently<T>(mut ask: impl FnMut() -> Result<T, SourceError>) -> Result<T, SourceError> {
    let until = Instant::now() + BUSY_PATIENCE;
    loop {
        match ask() {
            Err(SourceError::Busy(_) | SourceError::Yielded | SourceError::Replaced { .. })
                if Instant::now() < until =>
            {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

fn unreadable(error: SourceError) -> CommandError {
    match error {
        SourceError::NotThere(why) => CommandError::new(FAILED, why.text, "without it nothing is deleted"),
        SourceError::Failed(why) => CommandError::new(FAILED, why.text, why.hint),
        SourceError::NotAnOutbox { why, .. } => wrong(why.text, why.hint),
        other => CommandError::new(FAILED, other, "what was done already is done: outboxd dead list"),
    }
}
