//! outboxd's own memory: a SQLite file with what is planned, sent and not yet durably deleted, what is in quarantine, and what
//! operators ask.
//!
//! Promises: one short transaction for each call of [`Journal::record`]; a bounded file; a file that is damaged is set aside,
//! never trusted. Does not know: Kafka's wire, the application's tables, what follows from a plan.
//!
//! It may be lost: then a crash costs exactness (rows are sent again as new), never an event. It must not be *wrong*: a plan
//! taken for true that is not could make a row be deleted unsent. So a file that was copied or restored (other device or
//! inode, or behind its `mark`) is emptied, and a newer version's file is not touched.
//!
//! [`Journal::record`]: crate::ports::Journal::record

pub mod codec;
mod journal;
mod left;
mod lock;
mod mark;
mod memory;
mod millis;
mod origin;
mod plans;
mod quarantine;
mod requests;
mod resends;
mod run;
mod schema;
mod syncs;
mod tables;
mod turns;
mod upkeep;
mod visit;

pub use codec::{Damaged, OpenRow};
pub use journal::StateJournal;
pub use memory::MemoryJournal;
pub use plans::OpenPlan;
pub use visit::{Answer, Entry, Visitor};

use crate::locks::Patience;
use crate::model::{FileId, Left, RunId};
use lock::Lock;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::io::Errno;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, SystemTime};
use syncs::Log;
use turns::Turns;

/// How long an operator's shell on the state file may hold us up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// After a checkpoint the -wal shrinks to this.
const WAL_SIZE_MAX_BYTES: u64 = 16 << 20;
/// Of a text that comes from elsewhere.
const TEXT_MAX_BYTES: usize = 2_000;

/// Why the state file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("another outboxd{} works with the state file {path}", match pid { Some(pid) => format!(" (PID {pid})"), None => String::new() }, path = path.display())]
    Locked { path: PathBuf, pid: Option<u32> },
    #[error("the state file {path} was written by a newer outboxd: its version is {found}, this one knows up to {known}", path = path.display())]
    Newer { path: PathBuf, found: i64, known: i64 },
    #[error("the state file {path} is of version {found}, and so is the outboxd that works with it", path = path.display())]
    Older { path: PathBuf, found: i64 },
    #[error("there is no state file {path}", path = path.display())]
    NotThere { path: PathBuf },
    #[error("{path} is a database, but not a state file of outboxd", path = path.display())]
    Foreign { path: PathBuf },
    #[error("the state file {path} can't be {doing}", path = path.display())]
    Io {
        path: PathBuf,
        doing: &'static str,
        #[source]
        error: io::Error,
    },
    #[error("the state file {path} can't be {doing}", path = path.display())]
    Sqlite {
        path: PathBuf,
        doing: &'static str,
        #[source]
        error: rusqlite::Error,
    },
}

impl StateError {
    /// What to type next.
    pub fn hint(&self) -> String {
        match self {
            StateError::Locked { pid: Some(pid), .. } => {
                format!("let it do the work, or stop it first: kill {pid} (it drains)")
            }
            StateError::Locked { path, pid: None } => format!("see who holds it: fuser {}", path.display()),
            StateError::Newer { path, .. } => format!(
                "run that newer outboxd; or, if events sent twice are no harm, move it away: mv {0} {0}.old",
                path.display()
            ),
            StateError::Older { .. } => "restart it with this outboxd, or use the one that it is".into(),
            StateError::NotThere { .. } => {
                "outboxd makes it at its first start; name another one with `--state FILE`".into()
            }
            StateError::Foreign { .. } => {
                "name another file with [state] path, or with `--state FILE`; it is made when it is not there".into()
            }
            StateError::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                "run this as the user that outboxd runs as".into()
            }
            StateError::Io { error, .. }
                if [Errno::MFILE, Errno::NFILE].iter().any(|it| error.raw_os_error() == Some(it.raw_os_error())) =>
            {
                "raise the limit on open files: LimitNOFILE= in the unit (systemctl edit outboxd), or ulimit -n".into()
            }
            StateError::Io { path, error, .. }
                if matches!(
                    error.kind(),
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                format!("see what takes its space, and whether it takes writes: df {0}; findmnt -T {0}", path.display())
            }
            StateError::Io { path, .. } => {
                let directory = path.parent().unwrap_or(Path::new("/")).display();
                format!("this user must be able to write in its directory: ls -ld {directory}")
            }
            StateError::Sqlite { error, .. } if is_damage(error) => {
                "start outboxd: it sets the damaged file aside and begins a new one".into()
            }
            StateError::Sqlite { error, .. }
                if matches!(
                    error.sqlite_error_code(),
                    Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
                ) =>
            {
                "run this as the user that outboxd runs as, with write access to the file and its directory".into()
            }
            StateError::Sqlite { path, .. } => {
                format!("see what is there: ls -l {0}*; df {0}", path.display())
            }
        }
    }
}

/// The open state file, shared by all relays of the daemon.
///
/// One connection behind a mutex, not one for each relay: SQLite has one writer at a time anyway, and so relays never see BUSY.
#[derive(Clone, Debug)]
pub struct StateFile {
    shared: Arc<Turns<Shared>>,
    log: Arc<Log>,
    path: Arc<Path>,
    /// Whether the machine has not been booted since the file was last opened. False for a new file.
    same_boot: bool,
    id: u128,
}

#[derive(Debug)]
struct Shared {
    connection: Connection,
    /// In the -wal after our last commit.
    wal_frames: Arc<AtomicU32>,
    /// Counts connections: `PRAGMA data_version` of different ones say nothing about each other.
    connection_number: u64,
    /// What `PRAGMA synchronous` is at the moment.
    synchronous_full: bool,
    log: Arc<Log>,
    /// The blob of a plan's rows, reused.
    blob: Vec<u8>,
    /// See [`mark`].
    marks: u64,
    /// What the attribute says.
    marks_outside: u64,
    /// The sum of plan numbers that the other attribute says.
    plans_outside: Option<u64>,
    upkeep: upkeep::Upkeep,
    /// Last: its descriptor must not be closed before SQLite's own, because one close drops all of SQLite's POSIX locks.
    lock: Lock,
}

impl StateFile {
    /// Opens or makes the file. One that is damaged is renamed to `<path>.corrupt-<unix time>`, loudly, and a new one made.
    pub fn open(path: &Path, run: RunId) -> Result<StateFile, StateError> {
        match Self::attempt(path, run) {
            Err(StateError::Sqlite { error, .. }) if is_damage(&error) => {
                set_aside(path, &error)?;
                Self::attempt(path, run)
            }
            other => other,
        }
    }

    fn attempt(path: &Path, run: RunId) -> Result<StateFile, StateError> {
        let lock = Lock::take(path, Patience::new())?;
        let sqlite = |doing| move |error| StateError::Sqlite { path: path.to_owned(), doing, error };
        let (mut connection, wal_frames) = connect(path)?;
        check(&connection).map_err(sqlite("opened"))?;
        schema::migrate(&mut connection).map_err(sqlite("brought up to date"))?;
        let begun =
            run::begin(&mut connection, path, run, &lock, random(path)?).map_err(sqlite("brought up to date"))?;
        sync_directory(path)?;
        let log = Arc::<Log>::default();
        let mut shared = Shared {
            connection,
            wal_frames,
            connection_number: 1,
            synchronous_full: false,
            log: Arc::clone(&log),
            blob: Vec::new(),
            marks: begun.marks,
            marks_outside: begun.marks,
            plans_outside: None,
            upkeep: upkeep::Upkeep::default(),
            lock,
        };
        log.begins(path);
        shared.look_after(path);
        Ok(StateFile {
            shared: Arc::new(Turns::new(shared)),
            log,
            path: path.into(),
            same_boot: begun.same_boot,
            id: begun.id,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether what an earlier run noted last may have been lost in a power cut: not if this is still the same boot.
    pub fn same_boot(&self) -> bool {
        self.same_boot
    }

    /// 16 random bytes, made with the file and kept as long as it is: what it is called in an application's database.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// Of the file and its -wal. Bounded: by the batches under way (a plan takes 18 bytes for each row), by the limit on
    /// quarantined rows, and for the -wal by `upkeep::WAL_GROWN_MAX_BYTES`.
    pub fn size_bytes(&self) -> u64 {
        let (file, wal) = upkeep::sizes_bytes(&self.path);
        file + wal
    }

    /// The same number, about a second old at most while journals are used.
    pub fn size_gauge(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared().upkeep.size_bytes)
    }

    /// Everything that earlier runs left for one database. `tables`: of its outboxes, by their place; `now`: the
    /// database's file, `None` while it is not there (then what comes is another one). Plans with damaged rows are named and
    /// dropped. To be called once, before the database's journal is used.
    pub fn left(&self, database: &Path, tables: &[&str], now: Option<FileId>) -> Result<Left, StateError> {
        left::read(self, database, tables, now).map_err(self.sqlite("read"))
    }

    /// What was left of databases that have moved goes where they are now. To be called once, before anything is asked for.
    /// `now`: all that are configured, by resolved path, and their files.
    pub fn follow(&self, now: &[(&Path, Option<FileId>)]) -> Result<(), StateError> {
        origin::follow(&mut self.shared().connection, now).map_err(self.sqlite("written"))
    }

    /// The memory of one relay. `database`: its path, resolved; `tables`: of its outboxes, by their place.
    pub fn journal(&self, database: &Path, tables: &[&str]) -> Result<StateJournal, StateError> {
        StateJournal::new(self.clone(), database, tables)
    }

    /// What an earlier run left: planned or acknowledged, and not known to be deleted.
    pub fn open_plans(&self) -> Result<Vec<OpenPlan>, StateError> {
        plans::open_plans(&self.shared().connection).map_err(self.sqlite("read"))
    }

    /// The rows of such a plan, in the order of the batch. `Err(Damaged)` inside: the plan proves nothing.
    pub fn rows(&self, plan: &OpenPlan) -> Result<Result<Vec<OpenRow>, Damaged>, StateError> {
        plans::rows(&self.shared().connection, plan).map_err(self.sqlite("read"))
    }

    /// Forgets plans.
    pub fn drop_plans(&self, plans: &[OpenPlan]) -> Result<(), StateError> {
        plans::drop_plans(&mut self.shared().connection, plans).map_err(self.sqlite("written"))
    }

    fn shared(&self) -> turns::Turn<'_, Shared> {
        self.shared.turn()
    }

    /// `None`: somebody else has it for longer.
    fn shared_within(&self, patience: Duration) -> Option<turns::Turn<'_, Shared>> {
        self.shared.turn_within(patience)
    }

    fn sqlite(&self, doing: &'static str) -> impl FnOnce(rusqlite::Error) -> StateError {
        let path = self.path.to_path_buf();
        move |error| StateError::Sqlite { path, doing, error }
    }
}

/// A connection to a file that is there, empty or ours, ready for work.
fn connect(path: &Path) -> Result<(Connection, Arc<AtomicU32>), StateError> {
    let sqlite = |error| StateError::Sqlite { path: path.to_owned(), doing: "opened", error };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(sqlite)?;
    schema::recognise(&connection, path)?;
    prepare(&connection).map_err(sqlite)?;
    let frames = upkeep::count_frames(&mut connection).map_err(sqlite)?;
    Ok((connection, frames))
}

fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    // WAL: a record is one sequential write. Where the file system can't do it, SQLite stays in its old mode, which works too.
    connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get::<_, String>(0))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "foreign_keys", false)?;
    connection.query_row(&format!("PRAGMA journal_size_limit = {WAL_SIZE_MAX_BYTES}"), [], |_| Ok(()))?;
    // Small: a plan and an index of nothing. 512 KiB.
    connection.pragma_update(None, "cache_size", -512)?;
    connection.set_prepared_statement_cache_capacity(32);
    Ok(())
}

fn check(connection: &Connection) -> rusqlite::Result<()> {
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(()) } else { Err(damage(&verdict)) }
}

/// SQLite's names of tables are the same in upper and lower case.
fn same_table(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

/// A text from elsewhere, cut to what is kept of it.
fn bounded(text: &str) -> &str {
    let mut end = text.len().min(TEXT_MAX_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

fn random(path: &Path) -> Result<u128, StateError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| StateError::Io {
        path: path.to_owned(),
        doing: "given a random number",
        error: io::Error::other(error.to_string()),
    })?;
    Ok(u128::from_be_bytes(bytes))
}

fn damage(verdict: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(verdict.lines().last().unwrap_or(verdict).to_owned()),
    )
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn set_aside(path: &Path, error: &rusqlite::Error) -> Result<(), StateError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let aside = with_suffix(path, &format!(".corrupt-{now}"));
    log::error!(
        "the state file {} is damaged ({error}); it is kept as {} and a new one is made: what an earlier run had in flight \
         is sent again",
        path.display(),
        aside.display()
    );
    for suffix in ["-wal", ""] {
        match std::fs::rename(with_suffix(path, suffix), with_suffix(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(StateError::Io { path: path.to_owned(), doing: "set aside", error });
            }
            _ => {}
        }
    }
    // Shared memory is only an index of the -wal, and belongs to whoever has the file open: nobody now.
    let _ = std::fs::remove_file(with_suffix(path, "-shm"));
    Ok(())
}

/// A new file's name must survive a power cut like its contents.
fn sync_directory(path: &Path) -> Result<(), StateError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| StateError::Io {
        path: path.to_owned(),
        doing: "made durable",
        error,
    })
}

#[cfg(test)]
mod tests;
