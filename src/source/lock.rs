//! One daemon per database: flock on the database file, and which file a path names.
//!
//! Promises: a descriptor of a database is never closed while a connection of this process has that file open (POSIX locks
//! belong to the process, one close drops all of SQLite's). Does not know: SQL.

use crate::locks::{self, Patience, Refused};
use crate::model::{FileId, JournalMode};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// `path`: none for the descriptor itself.
fn identify(at: BorrowedFd<'_>, path: Option<&Path>) -> Result<FileId, Errno> {
    let flags = if path.is_some() { AtFlags::empty() } else { AtFlags::EMPTY_PATH };
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    match rustix::fs::statx(at, path.unwrap_or(Path::new("")), flags, wanted) {
        Ok(stat) => Ok(FileId {
            device: rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
            inode: stat.stx_ino,
            born: (stat.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| {
                stat.stx_btime.tv_sec.saturating_mul(1_000_000_000).saturating_add(stat.stx_btime.tv_nsec.into())
            }),
        }),
        // A kernel before 4.11, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let stat = path.map_or_else(|| rustix::fs::fstat(at), rustix::fs::stat)?;
            Ok(FileId { device: stat.st_dev, inode: stat.st_ino, born: None })
        }
        Err(error) => Err(error),
    }
}

/// The file behind a descriptor.
pub(super) fn identify_open(descriptor: &OwnedFd) -> Result<FileId, Errno> {
    identify(descriptor.as_fd(), None)
}

/// The file a path leads to, symlinks followed; `None` when there is none (yet).
pub fn file_id(path: &Path) -> std::io::Result<Option<FileId>> {
    match identify(CWD, Some(path)) {
        Ok(file) => Ok(Some(file)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether two paths name one database: the same file, or, while neither exists, the same name in the same directory.
pub fn same_file(a: &Path, b: &Path) -> std::io::Result<bool> {
    match (file_id(a)?, file_id(b)?) {
        (Some(a), Some(b)) => Ok(a == b),
        (None, None) => Ok(future_name(a) == future_name(b)),
        _ => Ok(false),
    }
}

/// Where a file that does not exist yet would appear: its directory with symlinks resolved, as far as it exists, and its name.
pub(super) fn future_name(path: &Path) -> std::path::PathBuf {
    // A dangling symlink leads to the name it points at, which is what SQLite would open.
    if let Ok(target) = std::fs::read_link(path) {
        let target = match path.parent() {
            Some(directory) => directory.join(target),
            None => target,
        };
        return absolute(&target);
    }
    absolute(path)
}

fn absolute(path: &Path) -> std::path::PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (path.parent().and_then(|directory| directory.canonicalize().ok()), path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path,
    }
}

/// The bytes that SQLite's connections lock in a database file: PENDING, RESERVED, and 510 for SHARED (its `os.h`). No page is
/// ever stored there.
const LOCK_BYTES: Flock =
    Flock { start: 0x4000_0000, length: 512, pid: None, typ: FlockType::WriteLock, offset_type: FlockOffsetType::Set };

/// Connections of this process by file.
static CONNECTED: LazyLock<Mutex<HashMap<FileId, usize>>> = LazyLock::new(Mutex::default);

fn connected() -> MutexGuard<'static, HashMap<FileId, usize>> {
    CONNECTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says that a connection of this process has the file open, for as long as it lives.
#[derive(Debug)]
pub(super) struct Connected(FileId);

impl Connected {
    pub fn new(file: FileId) -> Self {
        *connected().entry(file).or_default() += 1;
        Connected(file)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut connected = connected();
        if let Some(count) = connected.get_mut(&self.0) {
            *count -= 1;
            if *count == 0 {
                connected.remove(&self.0);
            }
        }
    }
}

#[derive(Debug)]
pub(super) enum LockError {
    NotThere,
    LockedBy(Option<u32>),
    NotAFile(&'static str),
    Io(std::io::Error),
}

/// The descriptor that holds the lock. Also where the database header is read from: a read through it disturbs nothing.
#[derive(Debug)]
pub(super) struct Lock {
    descriptor: Option<OwnedFd>,
    file: FileId,
}

impl Lock {
    /// Opens the file and, with `exclusive`, takes the lock. Opening never waits and never creates.
    pub fn take(path: &Path, exclusive: bool, patience: &mut Patience) -> Result<Lock, LockError> {
        let stat = rustix::fs::stat(path).map_err(of_errno)?;
        // Before opening: a FIFO or a device must not be opened at all.
        match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::RegularFile => {}
            rustix::fs::FileType::Directory => return Err(LockError::NotAFile("is a directory")),
            _ => return Err(LockError::NotAFile("is not a regular file")),
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(of_errno)?;
        let file = identify_open(&descriptor).map_err(of_errno)?;
        let lock = Lock { descriptor: Some(descriptor), file };
        if exclusive {
            locks::take(lock.fd(), lock.file, patience).map_err(|refused| match refused {
                Refused::Held(pid) => LockError::LockedBy(pid),
                Refused::Failed(error) => LockError::Io(error.into()),
            })?;
        }
        Ok(lock)
    }

    pub fn file(&self) -> FileId {
        self.file
    }

    fn fd(&self) -> &OwnedFd {
        self.descriptor.as_ref().expect("only `drop` takes it")
    }

    /// No name leads to the file any more.
    pub fn is_unlinked(&self) -> bool {
        rustix::fs::fstat(self.fd()).is_ok_and(|stat| stat.st_nlink == 0)
    }

    /// Whether files that SQLite makes beside the database, with its mode, would keep those out who use it through its group. The
    /// group it has, and the one that they would have. SQLite gives files to the database's owner and group where it may (as root).
    pub fn locked_out(&self, directory: &Path) -> Option<(u32, u32)> {
        const GROUP_WRITES: u32 = 0o020;
        const OTHERS_WRITE: u32 = 0o002;
        const GIVES_ITS_GROUP: u32 = 0o2000;
        let database = rustix::fs::fstat(self.fd()).ok()?;
        let us = rustix::process::geteuid();
        if us.is_root() || us.as_raw() == database.st_uid {
            return None;
        }
        let directory = rustix::fs::stat(directory).ok()?;
        let given = directory.st_mode & GIVES_ITS_GROUP != 0;
        let ours = if given { directory.st_gid } else { rustix::process::getegid().as_raw() };
        let shared = database.st_mode & GROUP_WRITES != 0 && database.st_mode & OTHERS_WRITE == 0;
        (shared && ours != database.st_gid).then_some((database.st_gid, ours))
    }

    /// The database header as it is in the file; `None` when the file is shorter.
    pub fn header(&self) -> std::io::Result<Option<Header>> {
        let mut bytes = [0u8; 100];
        let read = rustix::io::pread(self.fd(), &mut bytes, 0)?;
        Ok((read == bytes.len()).then(|| Header::parse(&bytes)))
    }

    pub fn glance(&self) -> std::io::Result<Glance> {
        let stat = rustix::fs::fstat(self.fd())?;
        Ok(Glance { size: stat.st_size, modified: (stat.st_mtime, stat.st_mtime_nsec as i64) })
    }

    /// Whether another process has a lock of SQLite's on the file at this moment. In WAL mode each connection keeps one from its
    /// first statement to its end. When it can't be known: yes.
    pub fn is_used_by_others(&self) -> bool {
        !matches!(fcntl_getlk(self.fd(), &LOCK_BYTES), Ok(None))
    }

    pub fn is_empty_file(&self) -> std::io::Result<bool> {
        Ok(rustix::fs::fstat(self.fd())?.st_size == 0)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let Some(descriptor) = self.descriptor.take() else { return };
        let connected = connected();
        if connected.contains_key(&self.file) {
            // Another connection of this process has the same file open (two paths became one file while we ran). Closing would
            // drop its POSIX locks; a descriptor that stays open only costs its number. The flock is given up.
            let _ = rustix::fs::flock(&descriptor, FlockOperation::Unlock);
            let _ = descriptor.into_raw_fd();
        }
    }
}

/// Holds off every connection to a file that we have not opened: whoever comes is answered BUSY.
#[derive(Debug)]
pub(super) struct Claim {
    _descriptor: OwnedFd,
    /// Our own process is no exception: closing the descriptor would drop the locks of a connection of ours.
    _unconnected: MutexGuard<'static, HashMap<FileId, usize>>,
}

impl Claim {
    /// `None` when anybody has the file open with SQLite, or might have. Connections of this process to any file can neither
    /// begin nor end while it lives: keep it for a moment only, and be no [`Connected`]'s end meanwhile.
    pub fn on(path: &Path, file: FileId) -> Option<Claim> {
        let unconnected = connected();
        if unconnected.contains_key(&file) {
            return None;
        }
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let descriptor = rustix::fs::open(path, flags, Mode::empty()).ok()?;
        let opened = identify_open(&descriptor).ok()?;
        if opened != file {
            if unconnected.contains_key(&opened) {
                let _ = descriptor.into_raw_fd();
            }
            return None;
        }
        // The whole file, SQLite's bytes with it.
        rustix::fs::fcntl_lock(&descriptor, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Claim { _descriptor: descriptor, _unconnected: unconnected })
    }
}

fn of_errno(error: Errno) -> LockError {
    match error {
        Errno::NOENT | Errno::NOTDIR => LockError::NotThere,
        other => LockError::Io(other.into()),
    }
}

/// What `stat` says of a file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Glance {
    pub size: i64,
    modified: (i64, i64),
}

/// What we read of the first 100 bytes (SQLite's file format, section 1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub page_size: u32,
    pub mode: JournalMode,
    bytes: [u8; 100],
}

impl Header {
    fn parse(bytes: &[u8; 100]) -> Header {
        let page_size = match u16::from_be_bytes([bytes[16], bytes[17]]) {
            1 => 65536,
            size => u32::from(size),
        };
        Header {
            page_size,
            // The file format's read version: 2 is WAL.
            mode: if bytes[19] == 2 { JournalMode::Wal } else { JournalMode::Rollback },
            bytes: *bytes,
        }
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    /// Whether SQLite can have written this one where it had written the other one before: the change counter and the schema
    /// cookie never go back (VACUUM and the backup API raise both), and the encoding never changes.
    pub fn follows(&self, old: &Header) -> bool {
        const CHANGE_COUNTER: usize = 24;
        const SCHEMA_COOKIE: usize = 40;
        const ENCODING: usize = 56;
        let rises = |at: usize| self.number(at).wrapping_sub(old.number(at)) < 1 << 31;
        self.bytes[..16] == old.bytes[..16]
            && rises(CHANGE_COUNTER)
            && rises(SCHEMA_COOKIE)
            && (old.number(ENCODING) == 0 || self.number(ENCODING) == old.number(ENCODING))
    }
}

/// Whether the file itself is a mount point: a database bind-mounted alone, beside which the application's -wal and -journal
/// are not to be found.
pub(super) fn is_mounted_alone(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    std::fs::read("/proc/self/mountinfo").is_ok_and(|mounts| names_mount_point(&mounts, &path))
}

fn names_mount_point(mountinfo: &[u8], path: &Path) -> bool {
    // "36 35 98:0 /root/of/mount /mount/point rw,noatime ...": blanks and the like are written as \040.
    let mut wanted = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => wanted.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            other => wanted.push(*other),
        }
    }
    let mut lines = mountinfo.split(|byte| *byte == b'\n');
    lines.any(|line| line.split(|byte| *byte == b' ').nth(4) == Some(wanted.as_slice()))
}

/// Whether a checkpoint is under way, as far as it can be seen: `shm` is the -shm's file. Its 8 locks begin at byte 120, the second is
/// the checkpointer's (SQLite's file format, section 4.6).
pub(super) fn is_checkpointed(shm: FileId) -> bool {
    const CHECKPOINT: u64 = 121;
    let covers = |lock: &[&str]| {
        let first = lock[5].parse().is_ok_and(|first: u64| first <= CHECKPOINT);
        first && (lock[6] == "EOF" || lock[6].parse().is_ok_and(|last: u64| last >= CHECKPOINT))
    };
    locks::listed(shm, |lock| (lock[0] == "POSIX" && lock[2] == "WRITE" && covers(lock)).then_some(())).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_is_recognised_whatever_its_name() {
        let mounts = b"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 /x /data/my\\040db.sqlite rw - ext4 /dev/a rw\n3 1 8:1 /y /d\xff rw - ext4 /dev/a rw\n";
        assert!(names_mount_point(mounts, Path::new("/data/my db.sqlite")));
        assert!(names_mount_point(mounts, Path::new(std::ffi::OsStr::from_bytes(b"/d\xff"))));
        assert!(!names_mount_point(mounts, Path::new("/data/my")));
        assert!(!names_mount_point(mounts, Path::new("/x")));
    }

    #[test]
    fn a_database_whose_holder_is_ending_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("db");
        std::fs::write(&path, "").unwrap();
        let held = Lock::take(&path, true, &mut Patience::new()).unwrap();
        let refused = Lock::take(&path, true, &mut Patience::none());
        assert!(matches!(refused, Err(LockError::LockedBy(Some(pid))) if pid == std::process::id()));
        let mut held = Some(held);
        Lock::take(&path, true, &mut Patience::asking(move |_| held.take().is_some())).unwrap();
    }

    #[test]
    fn one_file_is_one_database_by_any_name() {
        let directory = tempfile::tempdir().unwrap();
        let name = |name: &str| directory.path().join(name);
        std::fs::write(name("a"), "").unwrap();
        std::fs::hard_link(name("a"), name("b")).unwrap();
        std::os::unix::fs::symlink("a", name("c")).unwrap();
        std::os::unix::fs::symlink("later", name("d")).unwrap();
        assert!(same_file(&name("a"), &name("b")).unwrap());
        assert!(same_file(&name("a"), &name("c")).unwrap());
        assert!(!same_file(&name("a"), &name("later")).unwrap());
        assert!(same_file(&name("d"), &name("later")).unwrap(), "neither exists yet");
        assert!(!same_file(&name("d"), &name("other")).unwrap());
        assert_eq!(file_id(&name("later")).unwrap(), None);
    }

    #[test]
    fn the_header_is_read_as_the_file_format_says() {
        let mut bytes = [0u8; 100];
        (bytes[16], bytes[17], bytes[19]) = (0, 1, 2);
        let header = Header::parse(&bytes);
        assert_eq!((header.page_size, header.mode), (65536, JournalMode::Wal));
        (bytes[16], bytes[17], bytes[19]) = (0x10, 0, 1);
        let header = Header::parse(&bytes);
        assert_eq!((header.page_size, header.mode), (4096, JournalMode::Rollback));
    }
}
