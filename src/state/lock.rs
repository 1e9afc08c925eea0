//! One daemon for a state file: `flock` on the file itself.
//!
//! Promises: held as long as the value lives, and gone with the process. Does not know: SQLite, whose POSIX locks are another kind.

use super::StateError;
use crate::locks::{self, Patience, Refused};
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
    pub fn take(path: &Path, patience: Patience) -> Result<Lock, StateError> {
        match Lock::try_take(path, true, patience)? {
            Tried::Taken(lock) => Ok(lock),
            Tried::Held(held) => Err(StateError::Locked { path: path.to_owned(), pid: held.pid }),
        }
    }

    pub fn try_take(path: &Path, create: bool, mut patience: Patience) -> Result<Tried, StateError> {
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
            let id = identify(&meta);
            match locks::take(&file, id, &mut patience) {
                Ok(()) => {}
                Err(Refused::Held(pid)) => return Ok(Tried::Held(Held { file, pid })),
                Err(Refused::Failed(error)) => return Err(io("locked")(error.into())),
            }
            // Whoever replaced it in between has locked another inode.
            if std::fs::metadata(path).is_ok_and(|now| now.dev() == meta.dev() && now.ino() == meta.ino()) {
                return Ok(Tried::Taken(Lock { file, id }));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_whose_holder_is_ending_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let Tried::Taken(held) = Lock::try_take(&path, true, Patience::new()).unwrap() else { panic!() };
        let refused = Lock::try_take(&path, true, Patience::none()).unwrap();
        assert!(matches!(refused, Tried::Held(held) if held.pid == Some(std::process::id())));
        let mut held = Some(held);
        let patience = Patience::asking(move |_| held.take().is_some());
        assert!(matches!(Lock::try_take(&path, true, patience).unwrap(), Tried::Taken(_)));
    }
}
