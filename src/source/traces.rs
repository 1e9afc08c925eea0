//! What a database and its -wal looked like when we left them, to tell whether anyone has been there since.
//!
//! Promises: when in doubt says "stirred". Does not know: what changed.

use crate::model::FileId;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A change within this time of the last one may leave the same mtime (the kernel's clock for it ticks every 1 to 10 ms).
const MTIME_GRAIN: Duration = Duration::from_millis(50);

/// One file's inode, size and mtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traces {
    /// `None`: it is not there.
    database: Option<Print>,
    /// `None`: it is not there, or empty. Whoever opens a database makes an empty one. There is nothing to read in it, and who went
    /// to see would be in the way of an application that opens its database to leave WAL mode or to have it for itself.
    wal: Option<Print>,
}

fn print(path: &Path) -> Option<Print> {
    let stat = rustix::fs::stat(path).ok()?;
    Some(Print {
        device: stat.st_dev,
        inode: stat.st_ino,
        size: stat.st_size,
        modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
    })
}

fn print_of_log(path: &Path) -> Option<Print> {
    print(path).filter(|print| print.size > 0)
}

impl Traces {
    pub fn take(database: &Path, wal: &Path) -> Self {
        Traces { database: print(database), wal: print_of_log(wal) }
    }

    pub fn log_is_empty(&self) -> bool {
        self.wal.is_none()
    }

    /// Whether something was written so shortly before now that the next write may not show in the mtime. A time that is still to
    /// come is none of those: the next write sets it back.
    pub fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        [self.database, self.wal].iter().flatten().any(|print| {
            let modified = Duration::new(print.modified.0.max(0) as u64, print.modified.1.max(0) as u32);
            now.checked_sub(modified).is_some_and(|age| age < MTIME_GRAIN)
        })
    }

    /// Whether `log`, which lies beside another file now, is the one that was left beside this one.
    pub fn left_behind(&self, file: FileId, log: &Path) -> bool {
        let is_another = self.database.is_some_and(|old| (old.device, old.inode) != (file.device, file.inode));
        is_another && self.wal.is_some() && print_of_log(log) == self.wal
    }

    /// Whether someone else can have written between `self`, taken with the connection open, and `after`, taken when it was
    /// closed. Our own close as the last connection removes the -wal, and when that held anything new it also writes the
    /// database: that case can't be told from a foreign commit and counts as one.
    pub fn leaves_doubt(&self, after: &Traces) -> bool {
        self.database != after.database || (after.wal.is_some() && after.wal != self.wal) || after.is_fresh()
    }
}
