//! What a power cut could still undo, made durable: the -wal, the -journal or the directory, through descriptors of our own.
//!
//! Promises: opens none of the files SQLite locks. Does not know: which rows were read.

use super::lock::{file_id, identify_open, is_checkpointed};
use crate::model::{FileId, JournalMode};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The companions of one database file, by its resolved path.
#[derive(Debug)]
pub(super) struct Companions {
    directory: PathBuf,
    pub wal: PathBuf,
    pub journal: PathBuf,
    shm: PathBuf,
    open_wal: Option<OpenWal>,
}

#[derive(Debug)]
struct OpenWal {
    descriptor: OwnedFd,
    device: u64,
    inode: u64,
    /// The directory was synced after this -wal was found in it.
    entered: bool,
    failed: Option<Failure>,
}

/// A sync of the -wal failed. The kernel reports that once and then takes the pages for written: a later success proves nothing of
/// the frames that were there.
#[derive(Clone, Copy, Debug)]
struct Failure {
    errno: i32,
    /// Of the frames in doubt.
    salts: Option<Salts>,
}

pub(super) type Salts = [u8; 8];

impl OpenWal {
    /// As the header has them now; `None` when the file has none.
    fn salts(&self) -> Option<Salts> {
        let mut bytes = [0u8; 8];
        let read = rustix::io::pread(&self.descriptor, &mut bytes, 16).ok()?;
        (read == bytes.len()).then_some(bytes)
    }

    fn sync(&mut self, attempt: impl FnOnce(&OwnedFd) -> Result<(), Errno>) -> Result<(), Errno> {
        if let Some(failure) = self.failed {
            // The log begins anew, with other salts (or is cut to nothing), only when all of its frames have been written to the
            // database and that was synced: by another file's pages, so what the kernel forgot of this one no longer matters. The
            // frames since then are new, and so is what a sync says of them.
            let salts = self.salts();
            if salts.is_some() && salts == failure.salts {
                return Err(Errno::from_raw_os_error(failure.errno));
            }
            self.failed = None;
        }
        attempt(&self.descriptor).inspect_err(|error| {
            self.failed = Some(Failure { errno: error.raw_os_error(), salts: self.salts() });
        })
    }
}

/// A -wal that is kept open, so that its inode is no other file's.
#[derive(Debug)]
pub(super) struct HeldLog {
    _descriptor: OwnedFd,
    file: FileId,
}

impl HeldLog {
    fn open(path: &Path) -> Option<HeldLog> {
        let descriptor = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let file = identify_open(&descriptor).ok()?;
        Some(HeldLog { _descriptor: descriptor, file })
    }

    pub fn file(&self) -> FileId {
        self.file
    }

    /// It has the name, and something is in it.
    pub fn lies_at(&self, path: &Path) -> bool {
        rustix::fs::stat(path)
            .is_ok_and(|stat| (stat.st_dev, stat.st_ino) == (self.file.device, self.file.inode) && stat.st_size > 0)
    }
}

impl Companions {
    pub fn of(database: &Path) -> Self {
        let with = |suffix: &str| {
            let mut name = database.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let directory = match database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        Companions { directory, wal: with("-wal"), journal: with("-journal"), shm: with("-shm"), open_wal: None }
    }

    /// Whether files can be made there.
    pub fn access_to_directory(&self) -> Result<(), Errno> {
        rustix::fs::access(&self.directory, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether it can be watched and synced.
    pub fn read_directory(&self) -> Result<(), Errno> {
        rustix::fs::access(&self.directory, rustix::fs::Access::READ_OK)
    }

    pub fn sync(&mut self, mode: JournalMode) -> io::Result<()> {
        match mode {
            JournalMode::Wal => self.sync_wal(),
            JournalMode::Rollback => self.sync_journal(),
        }
    }

    fn sync_wal(&mut self) -> io::Result<()> {
        let directory = self.directory.clone();
        let Some(wal) = self.wal()? else {
            return Ok(()); // checkpointed and removed by its last user: everything is in the database, synced
        };
        wal.sync(|descriptor| rustix::fs::fdatasync(descriptor))?;
        if !wal.entered {
            sync_directory(&directory)?;
            wal.entered = true;
        }
        Ok(())
    }

    /// The application's journal mode is not known: DELETE, TRUNCATE and PERSIST are each connection's own business. In DELETE
    /// mode the journal's unlink must last, or it comes back hot and undoes the transaction; in TRUNCATE mode its truncation
    /// (for PERSIST SQLite has done it already). A journal that is there does not mean that none was unlinked just before: it
    /// may be the next transaction's. So the directory is synced in any case.
    fn sync_journal(&mut self) -> io::Result<()> {
        match rustix::fs::open(&self.journal, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
            Ok(journal) => rustix::fs::fdatasync(&journal)?,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        sync_directory(&self.directory)
    }

    /// Keeps no file open that someone may want to be rid of; what a failed sync said stays.
    pub fn let_go(&mut self) {
        if self.open_wal.as_ref().is_some_and(|wal| wal.failed.is_none()) {
            self.open_wal = None;
        }
    }

    /// Our own descriptor on the -wal, opened anew when another file has its name.
    fn wal(&mut self) -> io::Result<Option<&mut OpenWal>> {
        let stat = match rustix::fs::stat(&self.wal) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => {
                self.open_wal = None;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let same = self.open_wal.as_ref().is_some_and(|wal| (wal.device, wal.inode) == (stat.st_dev, stat.st_ino));
        if !same {
            self.open_wal = None;
            let descriptor = match rustix::fs::open(&self.wal, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
                Ok(descriptor) => descriptor,
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let stat = rustix::fs::fstat(&descriptor)?;
            self.open_wal =
                Some(OpenWal { descriptor, device: stat.st_dev, inode: stat.st_ino, entered: false, failed: None });
        }
        Ok(self.open_wal.as_mut())
    }

    pub fn wal_salts(&mut self) -> Option<Salts> {
        self.wal().ok()??.salts()
    }

    pub fn hold_wal(&self) -> Option<HeldLog> {
        HeldLog::open(&self.wal)
    }

    /// Whether somebody brings the log to the database file, as far as it can be seen.
    pub fn is_checkpointed(&self) -> bool {
        file_id(&self.shm).ok().flatten().is_some_and(is_checkpointed)
    }

    /// The file that has the name of the -wal.
    pub fn wal_file(&self) -> Option<FileId> {
        file_id(&self.wal).ok().flatten()
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    let descriptor = rustix::fs::open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(rustix::fs::fsync(&descriptor)?)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{App, SCHEMA, World};
    use super::*;

    const IN_DOUBT: Result<(), Errno> = Err(Errno::IO);

    /// A disk that fails once, and says so once.
    fn fail(companions: &mut Companions) {
        let wal = companions.wal().unwrap().unwrap();
        assert_eq!(wal.sync(|_| IN_DOUBT), IN_DOUBT);
    }

    fn world() -> (World, App, Companions) {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let companions = Companions::of(&world.path);
        (world, app, companions)
    }

    #[test]
    fn what_a_failed_sync_left_in_doubt_stays_in_doubt() {
        let (_world, mut app, mut companions) = world();
        companions.sync(JournalMode::Wal).unwrap();
        fail(&mut companions);
        for _ in 0..3 {
            let error = companions.sync(JournalMode::Wal).unwrap_err();
            assert_eq!(
                error.raw_os_error(),
                Some(Errno::IO.raw_os_error()),
                "the disk is well again, the frames may not be"
            );
            companions.let_go();
            app.exec("INSERT INTO users_outbox VALUES (NULL,'a','t','p');");
        }
        // All of its frames are in the database, but nothing that can be seen from here says so.
        assert!(app.run("PRAGMA wal_checkpoint(FULL);").starts_with("0|"));
        companions.sync(JournalMode::Wal).unwrap_err();
    }

    #[test]
    fn a_log_begun_anew_is_trusted_again() {
        let (_world, mut app, mut companions) = world();
        fail(&mut companions);
        assert!(app.run("PRAGMA wal_checkpoint(RESTART);").starts_with("0|"));
        companions.sync(JournalMode::Wal).unwrap_err();
        app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
        companions.sync(JournalMode::Wal).unwrap();
        fail(&mut companions);
        companions.sync(JournalMode::Wal).unwrap_err();
    }

    #[test]
    fn a_log_cut_to_nothing_or_removed_is_trusted_again() {
        let (_world, mut app, mut companions) = world();
        fail(&mut companions);
        assert!(app.run("PRAGMA wal_checkpoint(TRUNCATE);").starts_with("0|"));
        companions.sync(JournalMode::Wal).unwrap();
        app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
        companions.sync(JournalMode::Wal).unwrap();
        fail(&mut companions);
        app.close();
        companions.sync(JournalMode::Wal).unwrap();
    }
}
