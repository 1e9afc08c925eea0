//! How far the file has come, kept a second time beside it: two extended attributes.
//!
//! Promises: a copy that is put back in place (`cp copy state.db` keeps device and inode) and is older than the last noted delete
//! but one, or older by more than a second in which something was planned, is recognised, where the file system has extended
//! attributes. Does not know: plans.
//!
//! Only a copy from before a noted delete is dangerous. It may hold a plan as acknowledged whose rows were deleted long ago, and in
//! a table whose rows can come back alike new ones would be deleted for it, unsent. Deletes of such tables are noted before they
//! commit, so each of them moves the mark. It is written after the note's COMMIT, so it is never ahead of the file; and with the
//! next call, not in the note's own, which is made while the application waits for the lock on its database (an attribute takes
//! 3 us, and milliseconds while the file system commits its journal). How many plans there were is told once a second: it lets
//! the log say why what was in flight is sent again.

use rusqlite::Connection;
use std::fs::File;

const MARKS: &str = "user.outboxd.marks";
const PLANS: &str = "user.outboxd.plans";

/// `None`: there is none (yet), or the file system has no such thing.
pub fn read(file: &File) -> Option<u64> {
    get(file, MARKS)
}

/// Best effort: without it an older copy in place is not recognised, and nothing else is lost.
pub fn write(file: &File, marks: u64) {
    set(file, MARKS, marks);
}

/// The plan numbers of all relays added up, as the file has them: it only rises.
pub fn plans(connection: &Connection) -> rusqlite::Result<u64> {
    let sum = connection.prepare_cached("SELECT coalesce(sum(last_plan), 0) FROM relay")?;
    { sum }.query_row([], |row| row.get::<_, i64>(0)).map(|sum| sum as u64)
}

/// The same as it was told beside the file.
pub fn read_plans(file: &File) -> Option<u64> {
    get(file, PLANS)
}

pub fn write_plans(file: &File, plans: u64) {
    set(file, PLANS, plans);
}

fn get(file: &File, name: &str) -> Option<u64> {
    let mut bytes = [0; 8];
    let length = rustix::fs::fgetxattr(file, name, &mut bytes).ok()?;
    (length == bytes.len()).then(|| u64::from_le_bytes(bytes))
}

fn set(file: &File, name: &str, value: u64) {
    if let Err(error) = rustix::fs::fsetxattr(file, name, &value.to_le_bytes(), rustix::fs::XattrFlags::empty()) {
        log::debug!("the state file can't have the extended attribute {name}: {error}");
    }
}
