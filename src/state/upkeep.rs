//! What the open file needs while it is worked with: that its name still leads to it, and that its -wal does not grow for ever.
//!
//! Promises: at most one look a second; a name that was removed is made again with everything in it; a file that somebody else
//! has put there is never touched. Does not know: what is in the file.
//!
//! An open file whose name was removed works on until the process ends; the next start would find nothing, and send what was in
//! flight again as new. So the contents are written anew under the name. A file that lies there is somebody's (an operator's
//! copy): the open one is worked with to the end, loudly, and the next start judges the other one by device and inode.

use super::lock::{Lock, identify};
use super::{BUSY_TIMEOUT, Shared, StateError, connect, is_damage, mark, run, schema, sync_directory, with_suffix};
use crate::locks::Patience;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode};
use std::ffi::c_int;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const SAY_EVERY: Duration = Duration::from_secs(60);
/// A reader in another process (an operator's shell) keeps the -wal from being used again. At this size nothing more is
/// written until it has ended: rows then wait in their tables.
pub const WAL_GROWN_MAX_BYTES: u64 = 512 << 20;

/// At so many frames the -wal is brought to the file. Not by SQLite itself, in whatever COMMIT comes to it: that may be the note
/// of a delete, for which an application waits.
const CHECKPOINT_FRAMES: u32 = 1_000;

#[derive(Debug)]
pub struct Upkeep {
    looked: Option<Instant>,
    wal_bytes: u64,
    pub wal_grown_max_bytes: u64,
    /// Database and -wal, for the metrics.
    pub size_bytes: Arc<AtomicU64>,
    said: Option<Instant>,
}

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep {
            looked: None,
            wal_bytes: 0,
            wal_grown_max_bytes: WAL_GROWN_MAX_BYTES,
            size_bytes: Arc::default(),
            said: None,
        }
    }
}

/// Takes the checkpoint away from SQLite's COMMITs, and counts what they leave in the -wal.
pub fn count_frames(connection: &mut Connection) -> rusqlite::Result<Arc<AtomicU32>> {
    let frames = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&frames);
    connection.wal_hook(Some(move |_: &mut Wal, frames: c_int| {
        counter.store(u32::try_from(frames).unwrap_or(0), Relaxed);
        Ok(())
    }))?;
    Ok(frames)
}

/// Database and -wal.
pub fn sizes_bytes(path: &Path) -> (u64, u64) {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.len());
    (size(path), size(&with_suffix(path, "-wal")))
}

impl Shared {
    /// Not to be called while an application waits for a lock of ours.
    pub fn look_after(&mut self, path: &Path) {
        if self.marks_outside != self.marks {
            mark::write(&self.lock.file, self.marks);
            self.marks_outside = self.marks;
        }
        if self.wal_frames.load(Relaxed) >= CHECKPOINT_FRAMES {
            let checkpoint = self.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()));
            // The first commit after it begins the log anew, with a sync of its header: not that of the next note. An UPDATE to what is
            // there already would write nothing.
            let begun = checkpoint.and_then(|()| self.connection.pragma_update(None, "user_version", schema::VERSION));
            if let Err(error) = begun {
                log::debug!("the state file {}: checkpoint: {error}", path.display());
            }
        }
        let now = Instant::now();
        if self.upkeep.looked.is_none_or(|looked| now.duration_since(looked) >= LOOK_EVERY) {
            self.look_after_now(path);
        }
    }

    pub fn look_after_now(&mut self, path: &Path) {
        let now = Instant::now();
        self.upkeep.looked = Some(now);
        // What can't be read here is met by the next record, and said there.
        if let Ok(plans) = mark::plans(&self.connection)
            && self.plans_outside != Some(plans)
        {
            mark::write_plans(&self.lock.file, plans);
            self.plans_outside = Some(plans);
        }
        match std::fs::metadata(path) {
            Ok(meta) if identify(&meta) == self.lock.id => {
                if self.upkeep.said.take().is_some() {
                    log::warn!("the state file {} is back", path.display());
                }
            }
            Ok(_) => self.say(now, path, "another file has its name; outboxd works on with the one it has open, of which the next start will know nothing: stop outboxd, which drains, and see what lies there"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => match self.write_anew(path) {
                Ok(()) => log::warn!("the state file {} was removed; its contents were written there again", path.display()),
                Err(error) => {
                    use std::error::Error;
                    let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
                    self.say(now, path, &format!("it was removed, and can't be written again: {error}{cause}"));
                }
            },
            Err(error) => self.say(now, path, &format!("whether it is still there is not known: {error}")),
        }
        let (file, wal) = sizes_bytes(path);
        self.upkeep.wal_bytes = wal;
        self.upkeep.size_bytes.store(file + wal, Relaxed);
    }

    fn say(&mut self, now: Instant, path: &Path, what: &str) {
        if self.upkeep.said.is_none_or(|said| now.duration_since(said) >= SAY_EVERY) {
            self.upkeep.said = Some(now);
            log::error!("the state file {}: {what}", path.display());
        }
    }

    /// The name is claimed by an empty, locked file, and that one replaced by the copy when the copy is whole: at no moment can
    /// another daemon take it, and a crash leaves an empty state file or the whole one.
    fn write_anew(&mut self, path: &Path) -> Result<(), StateError> {
        let io = |error| StateError::Io { path: path.to_owned(), doing: "written again", error };
        let sqlite = |error| StateError::Sqlite { path: path.to_owned(), doing: "written again", error };
        let claim = Lock::take(path, Patience::none())?;
        if claim.file.metadata().map_err(io)?.len() > 0 {
            return Err(io(io::Error::other("somebody else has just made one")));
        }
        // They belong to the unlinked file; SQLite would take this -wal for the new one's.
        remove(&with_suffix(path, "-wal")).map_err(io)?;
        remove(&with_suffix(path, "-shm")).map_err(io)?;
        let copy = with_suffix(path, "-new");
        remove(&copy).map_err(io)?;
        let lock = Lock::take(&copy, Patience::none())?;
        let text = copy.as_os_str().as_bytes();
        self.connection.execute("VACUUM INTO CAST(? AS TEXT)", [text]).map_err(sqlite)?;
        lock.file.sync_all().map_err(io)?;
        std::fs::rename(&copy, path).map_err(io)?;
        let (connection, wal_frames) = connect(path)?;
        run::moved(&connection, &lock, self.marks).map_err(sqlite)?;
        sync_directory(path)?;
        self.connection = connection;
        self.wal_frames = wal_frames;
        self.connection_number += 1;
        self.synchronous_full = false;
        self.log.begins(path);
        self.marks_outside = self.marks;
        self.plans_outside = None;
        self.lock = lock;
        drop(claim);
        Ok(())
    }

    /// What was written to the -wal since a sync of it failed may be lost to the disk, and everything behind it with it. An error while
    /// it can't be brought to the file.
    pub fn mend_log(&mut self, path: &Path) -> Result<(), String> {
        if !self.log.has_failed() {
            return Ok(());
        }
        match self.empty_log() {
            Ok(false) => {
                self.log.mended(path);
                Ok(())
            }
            Ok(true) => Err("a sync of its -wal has failed, and another process that reads the state file keeps it from being begun anew: \
                             see who it is with fuser"
                .to_owned()),
            Err(error) => Err(failure(&error)),
        }
    }

    /// Brings everything to the file. True: somebody else is in the way.
    fn empty_log(&self) -> rusqlite::Result<bool> {
        self.connection.busy_timeout(Duration::ZERO)?;
        let busy = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0));
        self.connection.busy_timeout(BUSY_TIMEOUT)?;
        busy
    }

    /// An error while the -wal is too large and can't be used again.
    pub fn refuse_to_grow(&mut self) -> Result<(), String> {
        if self.upkeep.wal_bytes <= self.upkeep.wal_grown_max_bytes {
            return Ok(());
        }
        match self.empty_log() {
            Ok(false) => {
                self.upkeep.wal_bytes = 0;
                Ok(())
            }
            Ok(true) => Err(format!(
                "its -wal has grown to {} MiB, because another process keeps reading the state file; nothing more is written \
                 until that one ends: see who it is with fuser",
                self.upkeep.wal_bytes >> 20
            )),
            Err(error) => Err(failure(&error)),
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// What SQLite says, and what to do where that is known.
pub fn failure(error: &rusqlite::Error) -> String {
    let code =
        error.sqlite_error().map_or_else(String::new, |error| format!(" (SQLite error {})", error.extended_code));
    let hint = match error.sqlite_error_code() {
        _ if is_damage(error) => "; restart outboxd: it sets the damaged file aside and begins a new one",
        Some(ErrorCode::DiskFull) => "; free space on its file system",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "; outboxd needs write access to the file and its directory"
        }
        Some(ErrorCode::SystemIoFailure) => "; see whether its file system is full or failing: df, dmesg",
        _ => "",
    };
    format!("{error}{code}{hint}")
}
