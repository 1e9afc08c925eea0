//! The syncs of the -wal, apart from its commits.
//!
//! Promises: what was committed before a sync that ended well is on the disk; who waits for a sync holds nothing that anybody else
//! needs, and those who wait together are served by one; after a sync that failed none ends well until everything is in the file
//! itself. Does not know: what was committed.
//!
//! SQLite's own sync, at a COMMIT with `synchronous = FULL`, is made under the file's write lock: every relay's note of a delete would
//! wait for it, and with the relay an application for the lock on its database.

use super::with_suffix;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// See the module's words.
#[derive(Debug, Default)]
pub struct Log {
    commits: AtomicU64,
    failed: AtomicBool,
    synced: Mutex<Synced>,
}

#[derive(Debug, Default)]
pub struct Synced {
    /// Ours: closing it takes no lock of SQLite's away, because it has none on the -wal.
    pub file: Option<File>,
    /// That many commits are on the disk.
    commits: u64,
}

impl Log {
    /// One more commit is in the log: its number. To be called with the connection in hand.
    pub fn committed(&self) -> u64 {
        self.commits.fetch_add(1, SeqCst) + 1
    }

    /// Puts it on the disk. `path`: the state file's.
    pub fn sync(&self, path: &Path, commit: u64) -> io::Result<()> {
        let mut synced = self.synced();
        if synced.commits >= commit {
            return Ok(());
        }
        // The kernel says it once, and forgets what it could not write.
        if self.has_failed() {
            return Err(io::Error::other("an earlier sync has failed"));
        }
        let commits = self.commits.load(SeqCst);
        let file = match synced.file.take() {
            Some(file) => file,
            None => File::open(with_suffix(path, "-wal"))?,
        };
        let result = file.sync_data();
        synced.file = Some(file);
        match result {
            Ok(()) => synced.commits = commits,
            Err(_) => self.failed.store(true, SeqCst),
        }
        result
    }

    /// What was committed last may never come to the disk.
    pub fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// Everything is on the disk, and the log is another file. To be called with the connection in hand.
    pub fn begins(&self, path: &Path) {
        self.synced().file = None;
        self.mended(path);
    }

    /// Everything is on the disk in another way. To be called with the connection in hand.
    pub fn mended(&self, path: &Path) {
        let mut synced = self.synced();
        // A log that has lost its name is worked with to the end.
        if let Ok(file) = File::open(with_suffix(path, "-wal")) {
            synced.file = Some(file);
        }
        synced.commits = self.commits.load(SeqCst);
        self.failed.store(false, SeqCst);
    }

    pub fn synced(&self) -> MutexGuard<'_, Synced> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
