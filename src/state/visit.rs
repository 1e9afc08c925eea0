//! The state file as an operator's command sees it, whether a daemon works with it or not.
//!
//! Promises: never makes a state file, never pretends to be a run (what a start concludes from boot and copies stays its own);
//! beside a daemon it asks and changes nothing else. Does not know: what an operator wants.

use super::lock::{Held, Lock, Tried};
use super::{BUSY_TIMEOUT, StateError, mark, millis, origin, plans, quarantine, requests, schema, tables, with_suffix};
use crate::locks::Patience;
use crate::model::{Action, Fault, FileId, Fingerprint, Guard, Origin, Why};
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, TransactionBehavior};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// A visitor's connection.
#[derive(Debug)]
pub struct Visitor {
    connection: Connection,
    path: PathBuf,
    version: i64,
    // The order matters, as in the daemon: its descriptor outlives the connection.
    keeper: Keeper,
}

/// Who works with the file.
#[derive(Debug)]
enum Keeper {
    /// Nobody looked.
    Unknown,
    /// This visitor: no daemon does.
    Us(Lock),
    /// Another process.
    Other(Held),
}

/// How it stands with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Waiting,
    Given {
        failed: bool,
        text: String,
    },
    /// Another run has begun meanwhile, which does not know of it.
    Gone,
}

impl Visitor {
    /// To look only: takes no lock.
    pub fn reading(path: &Path) -> Result<Visitor, StateError> {
        missing(path)?;
        let mut flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = if with_suffix(path, "-wal").exists() {
            Connection::open_with_flags(path, flags)
        } else {
            // Nobody has it open, and a reader would make -wal and -shm: read the file alone.
            flags |= OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(crate::uri::immutable(path), flags)
        };
        Visitor::new(path, connection, Keeper::Unknown)
    }

    /// To change something: takes the lock if no daemon has it.
    pub fn working(path: &Path) -> Result<Visitor, StateError> {
        missing(path)?;
        let keeper = match Lock::try_take(path, false, Patience::new())? {
            Tried::Taken(lock) => Keeper::Us(lock),
            Tried::Held(held) => Keeper::Other(held),
        };
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut visitor = Visitor::new(path, Connection::open_with_flags(path, flags), keeper)?;
        if visitor.version < schema::VERSION {
            if !visitor.is_alone() {
                return Err(StateError::Older { path: path.to_owned(), found: visitor.version });
            }
            schema::migrate(&mut visitor.connection).map_err(visitor.sqlite("brought up to date"))?;
            visitor.version = schema::VERSION;
        }
        Ok(visitor)
    }

    fn new(path: &Path, connection: rusqlite::Result<Connection>, keeper: Keeper) -> Result<Visitor, StateError> {
        let sqlite = |error| StateError::Sqlite { path: path.to_owned(), doing: "opened", error };
        let connection = connection.map_err(sqlite)?;
        connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
        let version = schema::recognise(&connection, path)?;
        Ok(Visitor { connection, path: path.to_owned(), version, keeper })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// No daemon works with the file, and none can start as long as this value lives.
    pub fn is_alone(&self) -> bool {
        matches!(self.keeper, Keeper::Us(_))
    }

    /// The daemon's PID, where there is one and it can be seen.
    pub fn daemon(&self) -> Option<u32> {
        match &self.keeper {
            Keeper::Other(held) => held.pid,
            Keeper::Us(_) | Keeper::Unknown => None,
        }
    }

    /// Whether the daemon that was there is there no longer.
    pub fn daemon_has_ended(&self) -> bool {
        matches!(&self.keeper, Keeper::Other(held) if held.is_over())
    }

    /// What a daemon left in flight.
    pub fn open_plans(&self) -> Result<Vec<plans::OpenPlan>, StateError> {
        plans::open_plans(&self.connection).map_err(self.sqlite("read"))
    }

    /// What each database was last read from.
    pub fn origins(&self) -> Result<Vec<Origin>, StateError> {
        if self.version < schema::ORIGIN_SINCE {
            return Ok(Vec::new());
        }
        origin::all(&self.connection).map_err(self.sqlite("read"))
    }

    /// By database, table and rowid.
    pub fn quarantine(&self) -> Result<Vec<Entry>, StateError> {
        if self.version < schema::QUARANTINE_SINCE {
            return Ok(Vec::new());
        }
        all(&self.connection, self.version >= schema::ORIGIN_SINCE).map_err(self.sqlite("read"))
    }

    /// What the fingerprint of the entry's row was made of, if that was noted.
    pub fn guard(&self, entry: &Entry) -> Result<Option<Guard>, StateError> {
        tables::guard(&self.connection, entry.outbox, self.version).map_err(self.sqlite("read"))
    }

    /// Asks the daemon; the entry stands for its outbox. `rowid`: `None` for all of the outbox's rows. Answers the request's
    /// number.
    pub fn ask(&self, action: Action, entry: &Entry, rowid: Option<i64>) -> Result<i64, StateError> {
        requests::ask(&self.connection, action, entry.outbox, rowid, millis::now()).map_err(self.sqlite("written"))
    }

    pub fn answer(&self, request: i64) -> Result<Answer, StateError> {
        let found = requests::read(&self.connection, request).map_err(self.sqlite("read"))?;
        Ok(match found {
            None => Answer::Gone,
            Some((None, _)) => Answer::Waiting,
            Some((Some(text), failed)) => Answer::Given { failed, text },
        })
    }

    /// A request that nobody has answered; whoever has begun with it may still finish.
    pub fn withdraw(&self, request: i64) -> Result<(), StateError> {
        requests::withdraw(&self.connection, request).map_err(self.sqlite("written"))
    }

    /// The rows are in quarantine no longer. Only where no daemon would go on with its own idea of them.
    pub fn release(&mut self, entries: &[&Entry]) -> Result<(), StateError> {
        assert!(self.is_alone(), "beside a daemon one asks it");
        let work = |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            for entry in entries {
                quarantine::delete(&transaction, entry.outbox, entry.rowid)?;
            }
            transaction.commit()
        };
        work(&mut self.connection).map_err(self.sqlite("written"))
    }

    /// What this file is called in an application's database. `None`: it has no name yet, or it is a copy, to which the name and
    /// the numbers don't belong.
    pub fn id(&self) -> Result<Option<u128>, StateError> {
        let Keeper::Us(lock) = &self.keeper else { return Ok(None) };
        let found = self
            .connection
            .query_row("SELECT device, inode, born, marks, state_id FROM meta", [], |row| {
                let is_ours = origin::file(row, 0)?.is_some_and(|file| lock.id.is(file));
                let marks = row.get::<_, i64>(3)? as u64;
                let id = row.get::<_, Option<[u8; 16]>>(4)?.map(u128::from_be_bytes);
                Ok(id.filter(|_| is_ours && mark::read(&lock.file).unwrap_or(0) <= marks))
            })
            .optional()
            .map_err(self.sqlite("read"))?;
        let plans = mark::plans(&self.connection).map_err(self.sqlite("read"))?;
        Ok(found.flatten().filter(|_| mark::read_plans(&lock.file) <= Some(plans)))
    }

    fn sqlite(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StateError + use<> {
        let path = self.path.clone();
        move |error| StateError::Sqlite { path, doing, error }
    }
}

fn missing(path: &Path) -> Result<(), StateError> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(StateError::NotThere { path: path.to_owned() }),
        Err(error) => Err(StateError::Io { path: path.to_owned(), doing: "opened", error }),
    }
}

/// A quarantined row, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The state file's own number.
    outbox: i64,
    /// Resolved when the daemon started.
    pub database: PathBuf,
    /// What it was last read from. A daemon goes on with the file that a turned symlink leads to.
    pub file: Option<FileId>,
    pub table: String,
    pub rowid: i64,
    pub print: Fingerprint,
    pub fault: Fault,
    pub why: Why,
    pub attempts: u32,
    pub first: SystemTime,
    pub last: SystemTime,
}

impl Entry {
    /// Of the same outbox.
    pub fn is_beside(&self, other: &Entry) -> bool {
        self.outbox == other.outbox
    }
}

fn all(connection: &Connection, has_files: bool) -> rusqlite::Result<Vec<Entry>> {
    let file = if has_files { "relay.device, relay.inode, relay.born" } else { "NULL, NULL, NULL" };
    let mut statement = connection.prepare(&format!(
        "SELECT outbox.id, relay.path, table_name, rowid, print, fault, code, text, hint, attempts, first_ms, last_ms, {file}
         FROM quarantine JOIN outbox ON outbox.id = quarantine.outbox JOIN relay ON relay.id = outbox.relay
         ORDER BY relay.path, table_name, rowid"
    ))?;
    let each = |row: &Row<'_>| {
        Ok(Entry {
            outbox: row.get(0)?,
            database: OsString::from_vec(row.get(1)?).into(),
            file: origin::file(row, 12)?,
            table: row.get(2)?,
            rowid: row.get(3)?,
            print: Fingerprint(u128::from_le_bytes(row.get(4)?)),
            fault: quarantine::fault(row, 5)?,
            why: Why { code: row.get(6)?, text: row.get(7)?, hint: row.get(8)? },
            attempts: row.get(9)?,
            first: millis::to_time(row.get(10)?),
            last: millis::to_time(row.get(11)?),
        })
    };
    statement.query_map([], each)?.collect()
}
