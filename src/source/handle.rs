//! What SQLite's own handles know and no statement tells (other processes, open foreign keys), and the last word when the memory
//! it maps is gone: the only unsafe code.
//!
//! Promises: asks, never takes a lock; asks only the VFS these answers were checked with. Does not know: why one asks.

#![allow(unsafe_code)]

use rusqlite::{Connection, ffi};
use signal_hook::consts::SIGBUS;
use signal_hook::low_level;
use std::ffi::{CStr, c_int, c_void};
use std::{io, ptr};

const SHM_IS_GONE: &[u8] = b"outboxd ends with SIGBUS: the database's -shm file was truncated or overwritten by another program \
(cp, rsync --inplace, truncate), or its disk failed. The rows are in their tables; the next start settles what was in flight.\n";

/// From now on a SIGBUS is explained before it ends the process. SQLite maps the -shm, the one memory of ours that another program
/// can take away; there is no way back from the read that meets it, as SQLite is in the middle of it.
pub fn name_cause_of_sigbus() -> io::Result<()> {
    let explain = || {
        // Not through `log` and not under stderr's lock: the thread may hold either.
        let _ = rustix::io::write(io::stderr(), SHM_IS_GONE);
        let _ = low_level::emulate_default_handler(SIGBUS);
    };
    // SAFETY: what the action does may be done in a signal's handler (signal-safety(7)): one write(2), and signal-hook's own
    // emulation of the default action, which is documented as such. It allocates nothing, takes no lock and can't panic.
    unsafe { low_level::register(SIGBUS, explain) }.map(drop)
}

/// Whether the connection's files are handled by SQLite's "unix" VFS. Only there are the two questions below known to be
/// answered from POSIX locks of other processes; with any other VFS they are answered "nobody".
pub(super) fn is_unix_vfs(connection: &Connection) -> bool {
    let mut vfs: *mut ffi::sqlite3_vfs = ptr::null_mut();
    if control(connection, ffi::SQLITE_FCNTL_VFS_POINTER, (&raw mut vfs).cast()) != ffi::SQLITE_OK || vfs.is_null() {
        return false;
    }
    // SAFETY: SQLITE_FCNTL_VFS_POINTER stores the VFS of the main database's pager; VFS objects and their names are registered
    // for the life of the process (sqlite3_vfs_unregister is never called here).
    unsafe {
        let name = (*vfs).zName;
        !name.is_null() && CStr::from_ptr(name) == c"unix"
    }
}

/// WAL mode: whether a connection of another process has a transaction open at this moment, reading or writing.
pub(super) fn external_reader(connection: &Connection) -> bool {
    let mut answer: c_int = 0;
    let code = control(connection, ffi::SQLITE_FCNTL_EXTERNAL_READER, (&raw mut answer).cast());
    code == ffi::SQLITE_OK && answer != 0
}

/// Rollback-journal modes: whether another process holds RESERVED or more: it is writing or about to commit. Always true while
/// our own connection is writing.
pub(super) fn reserved(connection: &Connection) -> bool {
    let mut file: *mut ffi::sqlite3_file = ptr::null_mut();
    if control(connection, ffi::SQLITE_FCNTL_FILE_POINTER, (&raw mut file).cast()) != ffi::SQLITE_OK || file.is_null() {
        return false;
    }
    let mut answer: c_int = 0;
    // SAFETY: SQLITE_FCNTL_FILE_POINTER stores the sqlite3_file of the open main database, which lives as long as the
    // connection does; `connection` is borrowed and used by this thread alone, so nobody closes it meanwhile. pMethods is null
    // for a file that is not open, which is looked at first. xCheckReservedLock writes one int.
    let code = unsafe {
        let methods = (*file).pMethods;
        if methods.is_null() {
            return false;
        }
        match (*methods).xCheckReservedLock {
            Some(check) => check(file, &raw mut answer),
            None => return false,
        }
    };
    code == ffi::SQLITE_OK && answer != 0
}

/// Whether the open transaction owes foreign keys something: a COMMIT now would fail, and name no row.
pub(super) fn owes_foreign_keys(connection: &Connection) -> bool {
    let (mut owed, mut highest): (c_int, c_int) = (0, 0);
    // SAFETY: the handle is that of an open connection, used by this thread alone while it is borrowed; the call writes two ints.
    let code = unsafe {
        ffi::sqlite3_db_status(
            connection.handle(),
            ffi::SQLITE_DBSTATUS_DEFERRED_FKS,
            &raw mut owed,
            &raw mut highest,
            0,
        )
    };
    code == ffi::SQLITE_OK && owed != 0
}

fn control(connection: &Connection, operation: c_int, argument: *mut c_void) -> c_int {
    // SAFETY: the handle is that of an open connection, used by this thread alone while it is borrowed; each caller passes a
    // pointer to the type that its operation's documentation names, alive during the call.
    unsafe { ffi::sqlite3_file_control(connection.handle(), c"main".as_ptr(), operation, argument) }
}
