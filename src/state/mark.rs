//! How often a delete was noted, kept a second time beside the file: an extended attribute of it.
//!
//! Promises: a copy that is put back in place (`cp copy state.db` keeps device and inode) and is older than the last noted delete
//! but one is recognised, where the file system has extended attributes. Does not know: plans.
//!
//! Only such a copy is dangerous. It may hold a plan as acknowledged whose rows were deleted long ago, and in a table whose rows
//! can come back alike new ones would be deleted for it, unsent. Deletes of such tables are noted before they commit, so each
//! of them moves the mark. It is written after the note's COMMIT, so it is never ahead of the file; and with the next call, not
//! in the note's own, which is made while the application waits for the lock on its database (an attribute takes 3 us, and
//! milliseconds while the file system commits its journal).

use std::fs::File;

const NAME: &str = "user.outboxd.marks";

/// `None`: there is none (yet), or the file system has no such thing.
pub fn read(file: &File) -> Option<u64> {
    let mut bytes = [0; 8];
    let length = rustix::fs::fgetxattr(file, NAME, &mut bytes).ok()?;
    (length == bytes.len()).then(|| u64::from_le_bytes(bytes))
}

/// Best effort: without it an older copy in place is not recognised, and nothing else is lost.
pub fn write(file: &File, marks: u64) {
    if let Err(error) = rustix::fs::fsetxattr(file, NAME, &marks.to_le_bytes(), rustix::fs::XattrFlags::empty()) {
        log::debug!("the state file can't have the extended attribute {NAME}: {error}");
    }
}
