//! What a database and its -wal looked like when we left them, to tell whether anyone has been there since.
//!
//! Promises: when in doubt says "stirred". Does not know: what changed.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A change within this time of the last one may leave the same mtime (the kernel's clock for it ticks every 1 to 10 ms).
const MTIME_GRAIN: Duration = Duration::from_millis(50);

/// One file's inode, size and mtime; `None` when it is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Print {
    device: u64,
    inode: u64,
    size: i64,
    modified: (i64, i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traces {
    database: Option<Print>,
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

impl Traces {
    pub fn take(database: &Path, wal: &Path) -> Self {
        Traces { database: print(database), wal: print(wal) }
    }

    /// Whether something was written so shortly before now that the next write may not show in the mtime.
    pub fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        [self.database, self.wal].iter().flatten().any(|print| {
            let modified = Duration::new(print.modified.0.max(0) as u64, print.modified.1.max(0) as u32);
            now.saturating_sub(modified) < MTIME_GRAIN
        })
    }

    /// Whether someone else can have written between `self`, taken with the connection open, and `after`, taken when it was
    /// closed. Our own close as the last connection removes the -wal, and when that held anything new it also writes the
    /// database: that case can't be told from a foreign commit and counts as one.
    pub fn leaves_doubt(&self, after: &Traces) -> bool {
        self.database != after.database || (after.wal.is_some() && after.wal != self.wal) || after.is_fresh()
    }
}
