//! Which file a database was, and what was left of it where that file has another path now.
//!
//! Promises: what was left belongs to the file it was read from, under whatever path that is; where it is only a guess that a file
//! is the one, that is noted of its plans. Does not know: what follows from a guess.

use crate::model::{FileId, Origin};
use rusqlite::{Connection, Row, Transaction, TransactionBehavior, params};
use std::ffi::OsStr;
use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A file in three columns from `at` on: device, inode, when it was made. `None`: nothing was noted.
pub fn file(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<FileId>> {
    let numbers: (Option<i64>, Option<i64>) = (row.get(at)?, row.get(at + 1)?);
    let born = row.get(at + 2)?;
    Ok(numbers.0.zip(numbers.1).map(|(device, inode)| FileId { device: device as u64, inode: inode as u64, born }))
}

/// What a database was last read from.
pub fn note(transaction: &Transaction<'_>, relay: i64, origin: Origin) -> rusqlite::Result<()> {
    let Origin { file, log } = origin;
    transaction
        .prepare_cached(
            "UPDATE relay SET device = ?, inode = ?, born = ?, log_device = ?, log_inode = ?, log_born = ? WHERE id = ?",
        )?
        .execute(params![
            file.device as i64,
            file.inode as i64,
            file.born,
            log.map(|log| log.device as i64),
            log.map(|log| log.inode as i64),
            log.and_then(|log| log.born),
            relay
        ])?;
    Ok(())
}

pub fn noted(connection: &Connection, relay: i64) -> rusqlite::Result<Option<Origin>> {
    let sql = "SELECT device, inode, born, log_device, log_inode, log_born FROM relay WHERE id = ?";
    connection.query_row(sql, [relay], origin)
}

/// Of every database.
pub fn all(connection: &Connection) -> rusqlite::Result<Vec<Origin>> {
    let mut statement = connection.prepare("SELECT device, inode, born, log_device, log_inode, log_born FROM relay")?;
    statement.query_map([], origin)?.filter_map(Result::transpose).collect()
}

fn origin(row: &Row<'_>) -> rusqlite::Result<Option<Origin>> {
    let log = file(row, 3)?;
    Ok(file(row, 0)?.map(|file| Origin { file, log }))
}

fn path(row: &Row<'_>, at: usize) -> rusqlite::Result<PathBuf> {
    Ok(OsStr::from_bytes(&row.get::<_, Vec<u8>>(at)?).into())
}

struct Relay {
    id: i64,
    path: PathBuf,
    file: Option<FileId>,
    /// It has open plans, or rows that wait to be sent again.
    has_left: bool,
}

/// Finds the databases again that have moved. `now`: those configured, by resolved path, and their files.
pub fn follow(connection: &mut Connection, now: &[(&Path, Option<FileId>)]) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut relays = relays(&transaction)?;
    for (path, file) in now {
        let Some(file) = *file else { continue };
        let own = relays.iter().position(|relay| relay.path == *path);
        let own_file = own.and_then(|own| relays[own].file);
        if own_file.is_some_and(|own| file.is(own)) {
            continue;
        }
        if let Some(at) = relays.iter().position(|relay| relay.file.is_some_and(|then| is_surely(file, then))) {
            log::info!("{} is the database that was {}", path.display(), relays[at].path.display());
            change_places(&transaction, &mut relays, at, own, path)?;
        } else if let (Some(at), None) = (only_lost(&relays, now), own_file) {
            log::warn!(
                "{}, which is gone, had rows in flight: {} is taken for the same database in another file; rows that it has of those \
                 are sent again with the message ids they had",
                relays[at].path.display(),
                path.display()
            );
            transaction.execute("UPDATE plan SET doubtful = 2 WHERE id >> 48 = ?", [relays[at].id])?;
            change_places(&transaction, &mut relays, at, own, path)?;
        }
    }
    transaction.commit()
}

/// A number that was given again is that of a file made later.
fn is_surely(now: FileId, then: FileId) -> bool {
    now.is(then) && now.born.is_some() && then.born.is_some()
}

/// The one database that is neither configured nor there, and of which something was left.
fn only_lost(relays: &[Relay], now: &[(&Path, Option<FileId>)]) -> Option<usize> {
    let is_lost = |relay: &Relay| {
        relay.has_left
            && !now.iter().any(|(path, _)| relay.path == *path)
            && relay.file.is_some_and(|file| is_gone(&relay.path, file))
    };
    let mut lost = (0..relays.len()).filter(|at| is_lost(&relays[*at]));
    lost.next().filter(|_| lost.next().is_none())
}

/// Nothing has the name, and the file system that the file was on is there to say so: it may just not be mounted.
fn is_gone(path: &Path, file: FileId) -> bool {
    // Of a folder that is gone too, the next one above it knows.
    let is_there =
        |found: &io::Result<Metadata>| !found.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    let above = path.ancestors().skip(1).map(Path::metadata).find(is_there);
    path.try_exists().is_ok_and(|there| !there) && matches!(above, Some(Ok(folder)) if folder.dev() == file.device)
}

/// What is known under the path, if anything is, gets the other one's.
fn change_places(
    transaction: &Transaction<'_>,
    relays: &mut [Relay],
    at: usize,
    own: Option<usize>,
    path: &Path,
) -> rusqlite::Result<()> {
    let mut set = transaction.prepare_cached("UPDATE relay SET path = ? WHERE id = ?")?;
    let old = std::mem::replace(&mut relays[at].path, path.to_owned());
    if let Some(own) = own {
        // No path is of no bytes, and no two are the same at any moment.
        set.execute(params![b"", relays[own].id])?;
        set.execute(params![path.as_os_str().as_bytes(), relays[at].id])?;
        set.execute(params![old.as_os_str().as_bytes(), relays[own].id])?;
        relays[own].path = old;
    } else {
        set.execute(params![path.as_os_str().as_bytes(), relays[at].id])?;
    }
    Ok(())
}

fn relays(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<Relay>> {
    let mut statement = transaction.prepare(
        "SELECT device, inode, born, id, path,
             EXISTS (SELECT 1 FROM plan WHERE plan.id >> 48 = relay.id)
             OR EXISTS (SELECT 1 FROM resend JOIN outbox ON outbox.id = resend.outbox WHERE outbox.relay = relay.id)
         FROM relay ORDER BY id",
    )?;
    let each =
        |row: &Row<'_>| Ok(Relay { file: file(row, 0)?, id: row.get(3)?, path: path(row, 4)?, has_left: row.get(5)? });
    statement.query_map([], each)?.collect()
}
