//! SQLite's errors, classified once.
//!
//! Promises: decides by result code, never by text. Does not know: what was being done; the caller adds the subject.

use crate::model::Why;
use rusqlite::{Error, ErrorCode};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

pub(super) const MORE_DESCRIPTORS: &str = "raise the limit on open files: LimitNOFILE= in the unit (systemctl edit outboxd), or \
                                           ulimit -n; of the whole machine: sysctl fs.file-max";

/// What an error of SQLite means for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// A lock of someone else: weather.
    Busy,
    /// Not a database, or an encrypted one.
    NotADatabase,
    /// The file can't be opened: perhaps it went away a moment ago.
    CannotOpen,
    /// The file was moved or unlinked under us (SQLITE_READONLY_DBMOVED).
    Moved,
    /// Disk, memory, permission, corruption: nothing to do with the rows at hand.
    Environment,
    /// Of this statement and its rows: a trigger's RAISE, a constraint, an SQL function that failed.
    Statement,
}

pub(super) fn class(error: &Error) -> Class {
    let (code, extended) = match error {
        Error::SqliteFailure(failure, _) => (failure.code, failure.extended_code),
        Error::SqlInputError { error, .. } => (error.code, error.extended_code),
        _ => return Class::Environment,
    };
    match code {
        // PROTOCOL is what a WAL reader gets after losing the race for a read mark too often.
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => Class::Busy,
        ErrorCode::NotADatabase => Class::NotADatabase,
        ErrorCode::CannotOpen => Class::CannotOpen,
        ErrorCode::ReadOnly if extended == rusqlite::ffi::SQLITE_READONLY_DBMOVED => Class::Moved,
        ErrorCode::ConstraintViolation
        | ErrorCode::TypeMismatch
        | ErrorCode::TooBig
        | ErrorCode::Unknown
        | ErrorCode::SchemaChanged
        | ErrorCode::OperationAborted => Class::Statement,
        _ => Class::Environment,
    }
}

/// Our transaction has read and can't write any more, because someone else has committed since.
pub(super) fn is_overtaken(error: &Error) -> bool {
    matches!(error, Error::SqliteFailure(failure, _) if failure.extended_code == rusqlite::ffi::SQLITE_BUSY_SNAPSHOT)
}

/// An error of a COMMIT after which nothing is committed. Without space, or memory, SQLite has not come to the end of the log (WAL)
/// or has not taken the journal away, and rolls back. An I/O error may be of the very last step.
pub(super) fn rolls_back(error: &Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DiskFull | ErrorCode::OutOfMemory))
}

/// SQLite's own words, with the extended result code where they alone say little.
pub(super) fn text(error: &Error) -> String {
    match error {
        Error::SqliteFailure(failure, Some(text)) => format!("{text} (SQLite error {})", failure.extended_code),
        Error::SqliteFailure(failure, None) => format!("SQLite error {}", failure.extended_code),
        Error::SqlInputError { error, msg, .. } => format!("{msg} (SQLite error {})", error.extended_code),
        other => other.to_string(),
    }
}

/// The process, or the machine, can open no more files. SQLite says of that no more than that it can't open one, and keeps the
/// reason to itself, so it is tried.
pub(super) fn out_of_descriptors() -> Option<Errno> {
    let tried = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    tried.err().filter(|errno| is_out_of_descriptors(Some(errno.raw_os_error())))
}

pub(super) fn is_out_of_descriptors(errno: Option<i32>) -> bool {
    [Errno::MFILE, Errno::NFILE].iter().any(|scarce| errno == Some(scarce.raw_os_error()))
}

/// `doing` names the subject and what was tried: `/var/lib/app/db.sqlite: reading users_outbox`.
pub(super) fn why(doing: &str, error: &Error) -> Why {
    if class(error) == Class::CannotOpen
        && let Some(errno) = out_of_descriptors()
    {
        return Why::new(format!("{doing}: {errno}")).hint(MORE_DESCRIPTORS);
    }
    Why::new(format!("{doing}: {}", text(error))).hint(hint(error))
}

fn hint(error: &Error) -> &'static str {
    let Error::SqliteFailure(failure, _) = error else { return "" };
    match failure.code {
        ErrorCode::DiskFull => "free space on the database's file system; rows stay in the table until then",
        ErrorCode::ReadOnly => {
            "run outboxd under the application's user or group, with write access to file and directory"
        }
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied => {
            "outboxd needs read and write access to the file and its directory: run it under the application's user or group"
        }
        ErrorCode::DatabaseCorrupt => "run: sqlite3 FILE 'PRAGMA integrity_check'",
        ErrorCode::SystemIoFailure => "look at the kernel's log for the disk: dmesg",
        _ => "",
    }
}
