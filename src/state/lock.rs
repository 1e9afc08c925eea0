//! One daemon for a state file: `flock` on the file itself.
//!
//! Promises: held as long as the value lives, and gone with the process. Does not know: SQLite, whose POSIX locks are another kind.

use super::StateError;
use crate::model::FileId;
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

#[derive(Debug)]
pub struct Lock {
    pub file: File,
    pub id: FileId,
}

/// What came of trying.
pub enum Tried {
    Taken(Lock),
    Held(Held),
}

/// A file that another process has locked.
#[derive(Debug)]
pub struct Held {
    file: File,
    /// Of that process, as far as it can be seen.
    pub pid: Option<u32>,
}

impl Held {
    /// Whether it is locked no longer. Asked of the descriptor that is there: to open and close another would take away the locks
    /// that SQLite has in this process.
    pub fn is_over(&self) -> bool {
        let free = flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok();
        free && flock(&self.file, FlockOperation::Unlock).is_ok()
    }
}

/// How often the file may be replaced between opening and locking before that is an error.
const REPLACED_MAX: usize = 10;

impl Lock {
    /// Makes the file if it is not there.
    pub fn take(path: &Path) -> Result<Lock, StateError> {
        match Lock::try_take(path, true)? {
            Tried::Taken(lock) => Ok(lock),
            Tried::Held(held) => Err(StateError::Locked { path: path.to_owned(), pid: held.pid }),
        }
    }

    pub fn try_take(path: &Path, create: bool) -> Result<Tried, StateError> {
        let io = |doing| move |error| StateError::Io { path: path.to_owned(), doing, error };
        for _ in 0..REPLACED_MAX {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(create)
                .truncate(false)
                .mode(0o640)
                .open(path)
                .map_err(io("opened"))?;
            let meta = file.metadata().map_err(io("opened"))?;
            if !meta.is_file() {
                return Err(io("opened")(io::Error::other("this is not a regular file")));
            }
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Ok(Tried::Held(Held { file, pid: holder(meta.dev(), meta.ino()) }));
                }
                Err(error) => return Err(io("locked")(error.into())),
            }
            // Whoever replaced it in between has locked another inode.
            if std::fs::metadata(path).is_ok_and(|now| now.dev() == meta.dev() && now.ino() == meta.ino()) {
                return Ok(Tried::Taken(Lock { id: identify(&meta), file }));
            }
        }
        Err(io("locked")(io::Error::other("the file is being replaced all the time")))
    }
}

pub fn identify(meta: &Metadata) -> FileId {
    let born = meta.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    let born = born.and_then(|since| since.as_nanos().try_into().ok());
    FileId { device: meta.dev(), inode: meta.ino(), born }
}

/// Who holds the flock, as far as `/proc/locks` shows it.
fn holder(device: u64, inode: u64) -> Option<u32> {
    let wanted = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    let find = |line: &str| {
        // 1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some("FLOCK")).then_some(())?;
        let mut words = words.skip(2);
        let pid = words.next()?.parse().ok()?;
        (words.next() == Some(wanted.as_str())).then_some(pid)
    };
    // The list is read in parts, and may lack an entry while others come and go.
    (0..3).find_map(|_| std::fs::read_to_string("/proc/locks").ok()?.lines().find_map(find))
}
