//! One application database: waiting for it, locking it, opening it, noticing that it was replaced, letting it go.
//!
//! Promises: never creates a file, never switches a journal mode, never asks for a checkpoint; works on the file it holds the
//! lock of. Does not know: rows (`look`, `transaction`).

use super::books::Books;
use super::content::{Content, Known};
use super::durability::{Companions, HeldLog};
use super::hooks::Hooks;
use super::lock::{Claim, Connected, Header, Lock, LockError};
use super::outbox::{Outbox, State};
use super::scan::{Apart, Gather};
use super::traces::Traces;
use super::{DatabaseOptions, Durability, OpenError, OutboxSpec, OwnCommits, failure, handle, lock};
use crate::locks::Patience;
use crate::model::{Another, FileId, JournalMode, KnownTable, Origin, OutboxIx, RowMark, Version, Why};
use crate::ports::SourceError;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use rustix::io::Errno;
use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often opening starts again because the file was replaced meanwhile.
const OPEN_ATTEMPTS: usize = 3;

/// BUSY on a read in WAL mode for longer than this has one explanation.
const EXCLUSIVE_AFTER: Duration = Duration::from_secs(5);

/// How often SQLite is asked whether its file was moved; the path is looked at each time.
const ASK_EVERY: Duration = Duration::from_secs(1);

const TAKES_NO_WRITES: &str = "its file system takes no writes: see why with dmesg, and mount it for writing again";

/// One database with all its outboxes: the only owner of the connection to it.
#[derive(Debug)]
pub struct Database {
    pub(super) options: DatabaseOptions,
    pub(super) outboxes: Vec<Outbox>,
    pub(super) own: Arc<OwnCommits>,
    pub(super) mode: JournalMode,
    // The order matters: fields are dropped from above, and the lock's descriptor must outlive the connection.
    pub(super) link: Option<Link>,
    pub(super) lock: Option<Lock>,
    pub(super) read_only: bool,
    /// The file that was last worked on is gone; whatever comes next under its name is another.
    vanished: bool,
    /// A schema version seen by an earlier connection: a change in between counts as well.
    pub(super) schema_version: Option<i64>,
    /// To be said by the next call.
    pub(super) replaced: Option<Replaced>,
    connections: u64,
    pub(super) companions: Option<Companions>,
    /// Looks or deletes have returned that `make_durable` has not covered.
    pub(super) unsynced: bool,
    pub(super) busy_since: Option<Instant>,
    left: Option<Left>,
    stranded: Option<Stranded>,
    /// What earlier runs worked on, whatever its name.
    before: Vec<Origin>,
    pub(super) books: Books,
    pub(super) known: Option<Known>,
    /// To be said once the transaction that met it is over.
    pub(super) distrusted: Option<Content>,
    /// Rows of more bytes than this can't be records, and are not read.
    pub(super) row_bytes_max: u64,
    /// By outbox: the large row that looks start behind, and what it is like without its large values.
    pub(super) large: Vec<Option<(RowMark, Apart)>>,
    pub(super) gather: Gather,
    /// Read transactions so far.
    pub(super) reads: u64,
    pub(super) work: super::transaction::Work,
}

/// Rows read before can no longer be recognised by rowid and fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Replaced {
    pub text: String,
    /// Whose table is another one, not the same renumbered.
    pub another: Another,
}

impl From<Replaced> for SourceError {
    fn from(replaced: Replaced) -> Self {
        SourceError::Replaced { text: replaced.text, another: replaced.another }
    }
}

/// An open connection and what belongs to it.
#[derive(Debug)]
pub(super) struct Link {
    pub connection: Connection,
    pub hooks: Hooks,
    /// The questions of `handle` are answered.
    pub unix: bool,
    pub number: u64,
    /// `PRAGMA data_version` under which the schema was last checked.
    pub checked: Option<i64>,
    /// When SQLite was last asked whether its file was moved.
    asked: Cell<Option<Instant>>,
    /// The journal mode `PRAGMA synchronous` was set for.
    pub synchronous_for: Option<JournalMode>,
    pub database: PathBuf,
    pub page_size: u32,
    /// How it was left by the connection before, until the first look.
    left: Option<Left>,
    /// The first look found everything as it was left.
    undisturbed: bool,
    found_empty_log: bool,
    connected: Connected,
}

#[derive(Debug)]
struct Left {
    database: PathBuf,
    traces: Traces,
    doubt: bool,
}

/// The log of a file whose name is another file's now. Whoever opens that one lays the old one's pages over it.
#[derive(Debug)]
struct Stranded {
    owner: FileId,
    log: HeldLog,
}

impl Database {
    /// Opens nothing yet. `outboxes` by their index, in the order of the list.
    pub fn new(options: DatabaseOptions, outboxes: Vec<OutboxSpec>) -> Self {
        Database {
            books: Books::new(options.bookkeeping),
            options,
            large: vec![None; outboxes.len()],
            outboxes: outboxes.into_iter().map(Outbox::new).collect(),
            own: Arc::default(),
            mode: JournalMode::Rollback,
            link: None,
            lock: None,
            read_only: false,
            vanished: false,
            schema_version: None,
            replaced: None,
            connections: 0,
            companions: None,
            unsynced: false,
            busy_since: None,
            left: None,
            stranded: None,
            before: Vec::new(),
            known: None,
            distrusted: None,
            row_bytes_max: u64::MAX,
            gather: Gather::default(),
            reads: 0,
            work: super::transaction::Work::default(),
        }
    }

    /// For `--dry-run`: takes no lock, writes nothing, may run beside a daemon. Only `look` and `version` make sense on it.
    pub fn open_read_only(options: DatabaseOptions, outboxes: Vec<OutboxSpec>) -> Self {
        let mut database = Database::new(options, outboxes);
        database.read_only = true;
        database
    }

    /// For commands that look in for a moment: a daemon has said already what there is to say of the tables.
    #[must_use]
    pub fn without_remarks(mut self) -> Self {
        for outbox in &mut self.outboxes {
            outbox.remarks = false;
        }
        self
    }

    /// What earlier runs worked on, under this name or another: to be told before anything is opened.
    pub fn beware_of(&mut self, before: Vec<Origin>) {
        self.before = before;
    }

    /// What the watch needs to tell our own commits from the application's.
    pub fn own_commits(&self) -> Arc<OwnCommits> {
        Arc::clone(&self.own)
    }

    /// At start: locks the file if it is there, opens it and verifies every outbox. No file, no table, BUSY and another file's log
    /// beside it are waited for later and are no error here: they hold up this database only.
    pub fn check(&mut self) -> Result<(), OpenError> {
        // Only here: a relay does not wait.
        let ready = self.take_lock(&mut Patience::new()).and_then(|()| self.ready());
        match ready {
            Ok(()) => {}
            Err(NotReady::LockedBy(pid)) => return Err(OpenError::LockedBy { path: self.subject(), pid }),
            Err(NotReady::NotADatabase(why)) => return Err(OpenError::NotAnOutbox { outbox: OutboxIx(0), why }),
            Err(NotReady::NotThere(_) | NotReady::Busy(_) | NotReady::OthersLog(_)) => return Ok(()),
            Err(NotReady::Forbidden(why)) => return Err(OpenError::Forbidden(why)),
            Err(NotReady::Failed(why)) => return Err(OpenError::Failed(why)),
        }
        let inspected = self.inspect_now();
        if self.mode == JournalMode::Wal {
            // From here on the log that lies under the name is known to be this file's.
            self.content_in_wal();
        }
        match inspected {
            Ok(()) | Err(SourceError::Busy(_) | SourceError::NotThere(_) | SourceError::Replaced { .. }) => {}
            Err(SourceError::NotAnOutbox { outbox, why }) => return Err(OpenError::NotAnOutbox { outbox, why }),
            Err(SourceError::Failed(why)) => return Err(OpenError::Failed(why)),
            Err(other) => return Err(OpenError::Failed(Why::new(other.to_string()))),
        }
        for (index, outbox) in self.outboxes.iter().enumerate() {
            if let State::Unfit(why) = &outbox.state {
                let why = Why::new(format!("{}: {}", self.subject(), why.text)).hint(why.hint.clone());
                return Err(OpenError::NotAnOutbox { outbox: OutboxIx(index as u16), why });
            }
            let Some(table) = outbox.table() else { continue };
            let twin =
                self.outboxes[..index].iter().find(|other| other.table().is_some_and(|other| other.name == table.name));
            if let Some(twin) = twin {
                return Err(OpenError::SameTable {
                    first: twin.spec.name.clone(),
                    second: outbox.spec.name.clone(),
                    table: table.name.clone(),
                });
            }
        }
        match self.books_unfit() {
            Some(why) => Err(OpenError::NotAnOutbox { outbox: OutboxIx(0), why }),
            None => Ok(()),
        }
    }

    /// No record may have more bytes: a larger row is named by its size and not read.
    pub fn read_at_most(&mut self, bytes: usize) {
        self.row_bytes_max = bytes as u64;
    }

    /// What an earlier run noted of an outbox's table: to be told after `check` and before the first look. Its columns are what
    /// fingerprints are made of, so that an ADD COLUMN since then changes none, while the table has all of them.
    pub fn recognise_by(&mut self, outbox: OutboxIx, table: KnownTable) {
        self.outboxes[usize::from(outbox.0)].recognise_by(table);
        if let Some(link) = &mut self.link {
            link.checked = None;
            match self.inspect_now() {
                Ok(()) => {}
                // For whoever asks first.
                Err(SourceError::Replaced { text, another }) => self.replaced = Some(Replaced { text, another }),
                // What can't be read now is read by the first look.
                Err(error) => log::debug!("{}: reading the schema again: {error}", self.subject()),
            }
        }
    }

    /// The file as the configuration names it, for messages.
    pub(super) fn subject(&self) -> String {
        self.options.path.display().to_string()
    }

    /// An open connection to the file that now has the name, with the lock on it.
    pub(super) fn ready(&mut self) -> Result<(), NotReady> {
        if self.link.is_some() {
            if !self.has_moved() {
                return Ok(());
            }
            self.close();
        }
        self.open()
    }

    /// Whether the path no longer leads to the file the connection has open. SQLite's own answer knows the path it resolved
    /// when it opened; ours also sees a symlink that points elsewhere now.
    pub(super) fn has_moved(&self) -> bool {
        let (Some(link), Some(lock)) = (&self.link, &self.lock) else { return false };
        if !lock::file_id(&self.options.path).is_ok_and(|file| file == Some(lock.file())) {
            return true;
        }
        // A second `stat` of the same file, but for a symlink that now leads to another name of it: often enough for reading.
        // A delete asks again, both, just before its COMMIT.
        let now = Instant::now();
        if link.asked.get().is_some_and(|asked| now.duration_since(asked) < ASK_EVERY) {
            return false;
        }
        link.asked.set(Some(now));
        let mut moved = 0;
        let asked = link.connection.file_control(Some(c"main"), rusqlite::FileControl::HasMoved(&mut moved));
        asked.is_err() || moved != 0
    }

    fn open(&mut self) -> Result<(), NotReady> {
        for _ in 0..OPEN_ATTEMPTS {
            self.take_lock(&mut Patience::none())?;
            let Some(lock) = &self.lock else { break };
            let header = match lock.header() {
                Ok(Some(header)) => header,
                Ok(None) if lock.is_empty_file().unwrap_or(false) => {
                    return Err(NotReady::NotThere(
                        Why::new(format!("{} is empty", self.subject()))
                            .hint("waiting for the application to create its tables"),
                    ));
                }
                Ok(None) => return Err(NotReady::NotADatabase(self.not_a_database())),
                Err(error) => {
                    return Err(NotReady::Failed(Why::new(format!("{}: reading the header: {error}", self.subject()))));
                }
            };
            self.refuse_to_lock_out(lock)?;
            let file = lock.file();
            if let Some(why) = self.anothers_log(file) {
                return Err(NotReady::OthersLog(why));
            }
            let link = self.connect(file, header)?;
            // What a failed sync of the log has said stays true when the file is opened anew.
            let companions = Companions::of(&link.database);
            if self.companions.as_ref().is_none_or(|known| known.wal != companions.wal) {
                self.companions = Some(companions);
            }
            self.mode = header.mode;
            self.link = Some(link);
            if !self.has_moved() {
                self.connections += 1;
                if let Some(link) = &mut self.link {
                    link.left = self.left.take();
                }
                self.stranded = None;
                self.before.clear();
                for outbox in &mut self.outboxes {
                    outbox.state = State::Unknown;
                }
                self.books.forget();
                return Ok(());
            }
            self.link = None;
        }
        Err(NotReady::Busy(format!("{} is being replaced", self.subject())))
    }

    /// The log beside this file is that of the file that had the name before: opened together, the new one's contents are gone.
    fn anothers_log(&self, file: FileId) -> Option<Why> {
        let database = self.options.path.canonicalize().ok()?;
        let log = Companions::of(&database).wal;
        let stranded = self.stranded.as_ref();
        let stranded = stranded.is_some_and(|stranded| stranded.owner != file && stranded.log.lies_at(&log));
        let left = self.left.as_ref().is_some_and(|left| left.traces.left_behind(file, &log));
        let is_anothers = |before: &Origin| !file.is(before.file) && before.log.is_some_and(|old| lies_at(old, &log));
        let before = self.before.iter().any(is_anothers);
        (stranded || left || before).then(|| {
            let (database, log) = (database.display(), log.display());
            Why::new(format!(
                "{database} is another file now, and {log} still holds pages of the one before: opened together, they are mixed"
            ))
            // Whose commits they are can't be told from the log: whoever opens both goes on in it, under the salts that it has. So
            // nobody is told to remove it.
            .hint(format!(
                "stop the application and move the log aside, if it is still there then: mv {log} {log}.aside. It may hold commits that \
                 are nowhere else: those of the file before, beside which it belongs, and the new file's too if the application has \
                 opened that already; then put the new file in place again as well. outboxd goes on by itself"
            ))
        })
    }

    /// Holds the lock of the file the path leads to. Another file than before: says so with the next call.
    fn take_lock(&mut self, patience: &mut Patience) -> Result<(), NotReady> {
        let io = |subject: String, error: &std::io::Error| {
            let why = Why::new(format!("{subject}: {error}"));
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                return NotReady::Forbidden(why.hint("run outboxd under the application's user or group"));
            }
            let scarce = failure::is_out_of_descriptors(error.raw_os_error());
            NotReady::Failed(why.hint(if scarce { failure::MORE_DESCRIPTORS } else { "" }))
        };
        let now = lock::file_id(&self.options.path).map_err(|error| io(self.subject(), &error))?;
        if let (Some(lock), Some(file)) = (&self.lock, now)
            && lock.file() == file
        {
            return Ok(());
        }
        if now.is_none() {
            // A file that was only renamed keeps its lock: it may come back. One that was removed is let go of, or its disk
            // space would stay taken; as its inode number can be given to the next file, that one counts as another.
            if self.lock.as_ref().is_some_and(Lock::is_unlinked) {
                self.lock = None;
                self.vanished = true;
            }
            return Err(NotReady::NotThere(self.absent()));
        }
        match Lock::take(&self.options.path, !self.read_only, patience) {
            Ok(_) if lock::is_mounted_alone(&self.options.path) => Err(NotReady::NotADatabase(
                Why::new(format!("{} is mounted alone, without its directory", self.subject())).hint(
                    "the application's -wal and -journal lie beside its own path: mount the whole directory instead",
                ),
            )),
            Ok(lock) => {
                let another = self.lock.as_ref().is_some_and(|old| old.file() != lock.file());
                if another || self.vanished {
                    let text = format!("{} is another file now", self.subject());
                    self.replaced = Some(Replaced { text, another: Another::All });
                    self.schema_version = None;
                    self.known = None;
                    self.outboxes.iter_mut().for_each(Outbox::forget);
                }
                self.vanished = false;
                self.lock = Some(lock);
                Ok(())
            }
            Err(LockError::NotThere) => Err(NotReady::NotThere(self.absent())),
            Err(LockError::LockedBy(pid)) => Err(NotReady::LockedBy(pid)),
            Err(LockError::NotAFile(what)) => Err(NotReady::NotADatabase(
                Why::new(format!("{} {what}", self.subject())).hint("name the application's SQLite file"),
            )),
            Err(LockError::Io(error)) => Err(io(self.subject(), &error)),
        }
    }

    /// SQLite makes -wal, -shm and -journal with the database's mode, and we make them when we are the first to need them. Where the
    /// database is shared through its group, they must be the group's too: the application could not open its own database.
    fn refuse_to_lock_out(&self, lock: &Lock) -> Result<(), NotReady> {
        let Some(directory) = self.options.path.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned))
        else {
            return Ok(());
        };
        match lock.locked_out(&directory) {
            Some((group, ours)) if !self.read_only => Err(NotReady::NotADatabase(
                Why::new(format!(
                    "{} is shared through group {group}, and the -wal, -shm and -journal that outboxd would make beside it would be of \
                     group {ours}: the application could not open its own database",
                    self.subject()
                ))
                .hint(format!(
                    "make {group} the group that outboxd runs as (Group= in the unit), or let the directory give it: chmod g+s {}",
                    directory.display()
                )),
            )),
            _ => Ok(()),
        }
    }

    fn absent(&self) -> Why {
        let directory = self.options.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if directory.is_some_and(|directory| !directory.exists()) {
            Why::new(format!("{}: its directory does not exist yet", self.subject())).hint("waiting for it")
        } else {
            Why::new(format!("{} does not exist yet", self.subject())).hint("waiting for the application to create it")
        }
    }

    pub(super) fn not_a_database(&self) -> Why {
        Why::new(format!("{} is not an SQLite database, or an encrypted one", self.subject()))
            .hint("outboxd reads plain SQLite files; see what it is with: file PATH")
    }

    fn connect(&self, file: FileId, header: Header) -> Result<Link, NotReady> {
        let failed = |error: &rusqlite::Error| match failure::class(error) {
            failure::Class::Busy => NotReady::Busy(self.busy_text()),
            failure::Class::NotADatabase => NotReady::NotADatabase(self.not_a_database()),
            failure::Class::CannotOpen if failure::out_of_descriptors().is_none() => {
                NotReady::Forbidden(failure::why(&format!("{}: opening", self.subject()), error))
            }
            _ => NotReady::Failed(failure::why(&format!("{}: opening", self.subject()), error)),
        };
        // Resolved here, so that our idea of where -wal and -journal lie is SQLite's.
        let database = self.options.path.canonicalize().map_err(|_| NotReady::NotThere(self.absent()))?;
        // Counted before the file is opened: from then on no descriptor of it may be closed.
        let connected = Connected::new(file);
        let mut connection = self.open_connection(&database, header).map_err(|error| failed(&error))?;
        let hooks = self.configure(&mut connection).map_err(|error| failed(&error))?;
        if !self.read_only && connection.is_readonly("main").unwrap_or(false) {
            let text = format!("{} can only be opened for reading", self.subject());
            if rustix::fs::access(&database, rustix::fs::Access::WRITE_OK) == Err(Errno::ROFS) {
                return Err(NotReady::Failed(Why::new(format!("{text}: {}", Errno::ROFS)).hint(TAKES_NO_WRITES)));
            }
            return Err(NotReady::NotADatabase(
                Why::new(text).hint("run outboxd under the application's user or group; to only look, add --dry-run"),
            ));
        }
        let companions = Companions::of(&database);
        let needs_directory = header.mode == JournalMode::Rollback || !companions.wal.exists();
        if !self.read_only
            && needs_directory
            && let Err(error) = companions.access_to_directory()
        {
            // Opening works without; the first delete would fail, with its rows published.
            let why = Why::new(format!(
                "{}: no files can be made in its directory, and deleting needs a journal: {error}",
                self.subject()
            ));
            return Err(match error {
                Errno::ACCESS | Errno::PERM => {
                    NotReady::Forbidden(why.hint("run outboxd under the application's user or group"))
                }
                Errno::ROFS => NotReady::Failed(why.hint(TAKES_NO_WRITES)),
                _ => NotReady::Failed(why),
            });
        }
        if !self.read_only
            && self.syncs()
            && let Err(error) = companions.read_directory()
        {
            // SQLite does without, and so may the application; what it commits could not be made durable.
            let directory = companions.directory().display();
            let why = Why::new(format!(
                "{}: its directory can't be read, and so not be synced or watched: {error}",
                self.subject()
            ));
            return Err(NotReady::Forbidden(
                why.hint(format!("let outboxd's user or group read it: chmod ug+r {directory}")),
            ));
        }
        let unix = handle::is_unix_vfs(&connection);
        if !unix {
            log::warn!("{}: not SQLite's \"unix\" VFS: other processes' activity can't be seen", self.subject());
        }
        Ok(Link {
            connection,
            hooks,
            unix,
            number: self.connections + 1,
            checked: None,
            asked: Cell::new(None),
            synchronous_for: None,
            database,
            page_size: header.page_size,
            left: None,
            undisturbed: false,
            found_empty_log: false,
            connected,
        })
    }

    fn open_connection(&self, database: &std::path::Path, header: Header) -> rusqlite::Result<Connection> {
        let shared = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        if !self.read_only {
            return Connection::open_with_flags(database, shared | OpenFlags::SQLITE_OPEN_READ_WRITE);
        }
        let flags = shared | OpenFlags::SQLITE_OPEN_READ_ONLY;
        let wal = Companions::of(database).wal;
        if header.mode == JournalMode::Wal && !wal.exists() {
            // Nobody has it open, and a reader would create -wal and -shm: read the file alone.
            let flags = flags | OpenFlags::SQLITE_OPEN_URI;
            return Connection::open_with_flags(crate::uri::immutable(database), flags);
        }
        Connection::open_with_flags(database, flags)
    }

    /// Our pragmas, all of them. None of them reads or locks the file. The page cache is half of SQLite's default: a scan and a
    /// delete go through the table once, from its left end.
    fn configure(&self, connection: &mut Connection) -> rusqlite::Result<Hooks> {
        let on = |yes: bool| if yes { "ON" } else { "OFF" };
        connection.set_prepared_statement_cache_capacity(16 + 8 * self.outboxes.len());
        connection.execute_batch(&format!(
            "PRAGMA busy_timeout = 0; PRAGMA wal_autocheckpoint = 0; PRAGMA mmap_size = 0; PRAGMA cache_size = -1024; PRAGMA foreign_keys = {};",
            on(self.options.foreign_keys)
        ))?;
        let secure_delete = format!("PRAGMA secure_delete = {}", on(self.options.secure_delete));
        connection.execute_batch(&secure_delete)?;
        Hooks::install(connection)
    }

    /// Closes the connection and forgets nothing else. Closing as the last one brings the log to the file, if that is still ours.
    /// False: the log was left as it is, for a file whose content is doubted.
    pub(super) fn close(&mut self) -> bool {
        let mut is_ours = true;
        if self.mode == JournalMode::Wal && !self.read_only && self.link.is_some() {
            let content = match self.content_in_wal() {
                Content::Doubtful if self.may_be_a_checkpoint() => Content::Stale,
                other => other,
            };
            if content != Content::Ours {
                is_ours = false;
                let abandoned = self.abandon(content);
                log::warn!("{abandoned}");
                // A doubt that was not resolved: what comes next is not to be taken for what was read.
                if content != Content::Stale && self.replaced.is_none() {
                    self.replaced = Some(self.overwritten());
                }
            }
        }
        self.disconnect(false);
        is_ours
    }

    /// A file in doubt is none the worse for being opened anew: it was touched, or its log is on the way to it.
    fn may_be_a_checkpoint(&self) -> bool {
        self.known.as_ref().is_some_and(Known::looks_alike)
            || self.companions.as_ref().is_some_and(Companions::is_checkpointed)
    }

    /// As `close`, and writes nothing: the log stays as it is.
    pub(super) fn close_untouched(&mut self) {
        self.disconnect(true);
    }

    /// As the last connection SQLite brings the log to the file and removes it, but not where the file has lost its name
    /// (`databaseIsUnmoved`): the log would lie there for whatever takes the name next. It is emptied into its own file then, unless
    /// that file, or the one that has the name now, is open elsewhere.
    fn disconnect(&mut self, untouched: bool) {
        let Some(link) = self.link.take() else { return };
        let Link { connection, database, connected, .. } = link;
        let owner = self.lock.as_ref().map(Lock::file);
        let there = lock::file_id(&database).ok().flatten();
        let moved = self.mode == JournalMode::Wal && !self.read_only && there != owner;
        let log = if moved { self.log_in_use() } else { None };
        if let (Some(lock), true, false) = (&self.lock, log.is_some(), untouched)
            && !lock.is_used_by_others()
        {
            let claim = there.map(|heir| Claim::on(&database, heir));
            if !matches!(claim, Some(None))
                && let Err(error) = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            {
                log::warn!("{}: emptying the log of a file that was moved: {}", self.subject(), failure::text(&error));
            }
        }
        if untouched && let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
            log::warn!("{}: closing: {}", self.subject(), failure::text(&error));
        }
        if let Err((_, error)) = connection.close() {
            log::debug!("{}: closing: {}", self.subject(), failure::text(&error));
        }
        drop(connected);
        if let (Some(owner), Some(log)) = (owner, log)
            && log.lies_at(&Companions::of(&database).wal)
        {
            self.stranded = Some(Stranded { owner, log });
        }
    }

    /// The log that lies under the name, if it is the one that the connection works with.
    fn log_in_use(&self) -> Option<HeldLog> {
        let companions = self.companions.as_ref()?;
        let log = companions.hold_wal()?;
        let known = self.known.as_ref()?;
        (!known.lost_its_log(Some(log.file()))).then_some(log)
    }

    pub(super) fn let_go_now(&mut self) {
        let Some(link) = &self.link else { return };
        let database = link.database.clone();
        let wal = Companions::of(&database).wal;
        let before = Traces::take(&database, &wal);
        // Whatever was committed after the last look is found by the version; what comes between this and the close, by the
        // traces before and after.
        let unseen = self.someone_writes()
            || match self.counter() {
                Ok(counter) => self.link.as_ref().is_none_or(|link| link.checked != Some(counter)),
                Err(_) => true,
            };
        // A log that was left as it is must not lie there for long.
        let is_ours = self.close();
        if let Some(companions) = &mut self.companions {
            companions.let_go();
        }
        let after = Traces::take(&database, &wal);
        self.left = Some(Left { doubt: unseen || !is_ours || before.leaves_doubt(&after), database, traces: after });
    }

    /// After a look: whether the connection has found everything as the one before left it.
    pub(super) fn note_how_it_was_left(&mut self) {
        let Some(link) = &mut self.link else { return };
        let Some(left) = link.left.take() else { return };
        let now = Traces::take(&link.database, &Companions::of(&link.database).wal);
        link.found_empty_log = self.mode == JournalMode::Wal && now.log_is_empty();
        link.undisturbed = !left.doubt && left.database == link.database && left.traces == now;
    }

    pub(super) fn found_empty_log(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.found_empty_log)
    }

    pub(super) fn is_undisturbed(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.undisturbed)
    }

    /// Outside WAL mode, where connections leave no trace between transactions: true.
    pub(super) fn others_connected_now(&self) -> bool {
        let (Some(link), Some(lock)) = (&self.link, &self.lock) else { return true };
        self.mode != JournalMode::Wal || !link.unix || lock.is_used_by_others()
    }

    pub(super) fn stirred_now(&mut self) -> bool {
        let Some(left) = &self.left else {
            // Never opened, or lost to an error: only a file that is there is worth a try.
            return self.link.is_none() && self.options.path.exists();
        };
        let wal = Companions::of(&left.database).wal;
        left.doubt || Traces::take(&left.database, &wal) != left.traces || {
            let there = lock::file_id(&self.options.path).ok().flatten();
            there.is_some() && there != self.lock.as_ref().map(Lock::file)
        }
    }

    pub(super) fn busy_text(&self) -> String {
        let long = self.busy_since.is_some_and(|since| since.elapsed() > EXCLUSIVE_AFTER);
        if long && self.mode == JournalMode::Wal {
            format!(
                "{}: the application holds the database exclusively (PRAGMA locking_mode = EXCLUSIVE)",
                self.subject()
            )
        } else {
            format!("{}: locked by another process", self.subject())
        }
    }

    /// What an error of SQLite outside a COMMIT means to the relay.
    pub(super) fn error(&mut self, outbox: OutboxIx, doing: &str, error: &rusqlite::Error) -> SourceError {
        match failure::class(error) {
            failure::Class::Busy => self.busy(),
            failure::Class::NotADatabase => SourceError::NotAnOutbox { outbox, why: self.not_a_database() },
            failure::Class::Moved => {
                self.close();
                SourceError::Busy(format!("{} is being replaced", self.subject()))
            }
            failure::Class::CannotOpen if !self.options.path.exists() => {
                self.close();
                SourceError::NotThere(self.absent())
            }
            _ => SourceError::Failed(failure::why(&format!("{}: {doing}", self.subject()), error)),
        }
    }

    pub(super) fn busy(&mut self) -> SourceError {
        self.busy_since.get_or_insert_with(Instant::now);
        SourceError::Busy(self.busy_text())
    }

    pub(super) fn version_of(&self, counter: i64) -> Version {
        Version { connection: self.connections, counter }
    }

    pub(super) fn syncs(&self) -> bool {
        self.options.durability == Durability::PowerLoss && !self.read_only
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.close();
    }
}

/// A log of an earlier run's lies there, and something is in it. Its number alone would be no proof.
fn lies_at(old: FileId, log: &Path) -> bool {
    let now = lock::file_id(log).ok().flatten();
    old.born.is_some() && now == Some(old) && log.metadata().is_ok_and(|meta| meta.len() > 0)
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NotReady {
    NotThere(Why),
    Busy(String),
    LockedBy(Option<u32>),
    NotADatabase(Why),
    /// Permissions.
    Forbidden(Why),
    /// What lies beside it belongs to another file.
    OthersLog(Why),
    Failed(Why),
}

impl NotReady {
    pub fn for_outbox(self, outbox: OutboxIx, subject: &str) -> SourceError {
        match self {
            NotReady::NotThere(why) => SourceError::NotThere(why),
            NotReady::Busy(text) => SourceError::Busy(text),
            NotReady::LockedBy(pid) => {
                SourceError::Busy(format!("{subject} is held by another outboxd{}", super::pid_text(pid)))
            }
            NotReady::NotADatabase(why) => SourceError::NotAnOutbox { outbox, why },
            NotReady::Forbidden(why) | NotReady::OthersLog(why) | NotReady::Failed(why) => SourceError::Failed(why),
        }
    }
}
