//! One watched database: the names in its directory that matter, how far its -wal was read, whether that is news.
//!
//! Promises: opens only the -wal; while the last wake waits to be taken, or after news, what comes is kept and not looked at.
//! Does not know: the other databases.

use super::CLOSE;
use super::directories::{self, Directories};
use crate::model::{FileId, Wake, Why};
use crate::source::lock;
use crate::source::own_commits::OwnCommits;
use crate::source::wal::{Follower, News, ReadAt};
use crossbeam_channel::Sender;
use rustix::fs::inotify::ReadFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// After news nothing is read for so long; events meanwhile are merged by the kernel. At 20,000 foreign commits a second this is
/// the difference between a third of a core and a twentieth.
pub(super) const REST: Duration = Duration::from_micros(500);

/// The rest while commits come thick: twice in a row so many frames or more in one reading.
const REST_BUSY: Duration = Duration::from_millis(1);
const BUSY_FRAMES: u32 = 8;

/// While the last wake waits to be taken nothing is read either; the pauses double up to this.
const REST_UNTAKEN_MAX: Duration = Duration::from_millis(4);

/// Frames behind the last commit wake at most so often.
const UNCERTAIN_EVERY: Duration = Duration::from_millis(20);

pub(super) struct Watched {
    pub number: u64,
    path: PathBuf,
    wakes: Sender<Wake>,
    own: Arc<OwnCommits>,
    place: Option<Place>,
    /// Why its directory is not watched.
    pub refused: Option<Why>,
    wal: Option<OwnedFd>,
    follower: Follower,
    uncertain_since: Option<Instant>,
    /// By how many frames the last reading moved the last commit on.
    frames_read: u32,
    busy_rounds: u32,
    noted: Noted,
    /// What is noted is not looked at before.
    pub rests_until: Instant,
    /// The pause after the next, while a wake is not taken.
    untaken: Duration,
}

/// The directory that is watched, and the names in it that matter.
struct Place {
    directory: PathBuf,
    watch: i32,
    /// The file the path led to when it was resolved.
    file: Option<FileId>,
    /// The -journal's and the -wal's names begin with it.
    database: Vec<u8>,
}

/// What events have said since it was last looked at.
#[allow(clippy::struct_excessive_bools)] // six facts, each may hold without the others
#[derive(Clone, Copy, Debug, Default)]
struct Noted {
    /// The database or its -journal was written, or the -journal went.
    written: bool,
    /// The -wal was written.
    wal_written: bool,
    /// Another -wal, or none.
    wal_changed: bool,
    /// Names appeared or went, the queue overflowed: anything may have happened.
    anything: bool,
    /// Somebody has closed the database, and may have been the last.
    closed: bool,
    /// The directory itself went.
    lost: bool,
}

impl Noted {
    fn nothing(self) -> bool {
        !(self.written || self.wal_written || self.wal_changed || self.anything || self.closed || self.lost)
    }
}

struct Log<'a>(&'a OwnedFd);

impl ReadAt for Log<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::pread(self.0, buffer, offset)?)
    }
}

impl Watched {
    pub fn new(number: u64, path: &Path, wakes: Sender<Wake>, own: Arc<OwnCommits>) -> Watched {
        Watched {
            number,
            path: path.to_owned(),
            wakes,
            own,
            place: None,
            refused: None,
            wal: None,
            follower: Follower::default(),
            uncertain_since: None,
            frames_read: 0,
            busy_rounds: 0,
            noted: Noted::default(),
            rests_until: Instant::now(),
            untaken: REST,
        }
    }

    pub fn begin(&mut self, directories: &mut Directories) {
        self.resolve(directories);
        self.wake();
    }

    pub fn end(self, directories: &mut Directories) {
        if let Some(place) = self.place {
            directories.remove(place.watch);
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn lies_in(&self, watch: i32) -> bool {
        self.place.as_ref().is_some_and(|place| place.watch == watch)
    }

    /// The directory's watch is gone.
    pub fn lost(&mut self) {
        self.noted.lost = true;
    }

    /// Events were lost.
    pub fn overflowed(&mut self) {
        self.noted.anything = true;
        self.noted.wal_changed = true;
    }

    /// Something happened to this name in the directory. Whether it matters.
    pub fn note(&mut self, name: &[u8], what: ReadFlags) -> bool {
        let Some(place) = &self.place else { return false };
        let Some(suffix) = name.strip_prefix(&place.database[..]) else { return false };
        let modified = what.contains(ReadFlags::MODIFY);
        let noted = &mut self.noted;
        match suffix {
            b"" if what.intersects(CLOSE) => noted.closed = true,
            b"" if modified => noted.written = true,
            b"" => noted.anything = true,
            _ if what.intersects(CLOSE) => return false,
            b"-wal" if modified => noted.wal_written = true,
            b"-wal" => noted.wal_changed = true,
            // Its creation is no commit yet.
            b"-journal" if !what.contains(ReadFlags::CREATE) => noted.written = true,
            _ => return false,
        }
        true
    }

    /// When there is something to look at, if nothing more happens.
    pub fn due(&self) -> Option<Instant> {
        let uncertain = self.uncertain_since.map(|since| since + UNCERTAIN_EVERY);
        let due = if self.noted.nothing() { uncertain? } else { self.rests_until };
        Some(due.max(self.rests_until))
    }

    /// Looks at what was noted.
    pub fn look(&mut self, directories: &mut Directories, now: Instant) {
        // The wake that waits stands for every commit until it is taken, and what was noted is not lost: it is looked at after
        // that, so a commit after the taking has its own wake. Reading on meanwhile would find nothing to do with it.
        if self.wakes.is_full() {
            self.rests_until = now + self.untaken;
            self.untaken = (self.untaken * 2).min(REST_UNTAKEN_MAX);
            return;
        }
        self.untaken = REST;
        let noted = std::mem::take(&mut self.noted);
        let uncertain_is_due = self.uncertain_since.is_some_and(|since| now >= since + UNCERTAIN_EVERY);
        self.frames_read = 0;
        if self.is_news(noted, uncertain_is_due, directories) {
            self.wake();
        }
        self.busy_rounds = if self.frames_read >= BUSY_FRAMES { self.busy_rounds + 1 } else { 0 };
        self.rests_until = Instant::now() + if self.busy_rounds >= 2 { REST_BUSY } else { REST };
    }

    fn wake(&self) {
        // Full: the relay has not taken the last one yet, and will see this commit too when it does.
        let _ = self.wakes.try_send(Wake { seen: Instant::now() });
    }

    fn is_news(&mut self, noted: Noted, uncertain_is_due: bool, directories: &mut Directories) -> bool {
        if noted.lost {
            self.place = None;
            self.resolve(directories);
            return true;
        }
        let had_wal = self.wal.is_some();
        if noted.anything {
            // The name may lead to another file now, in another place if it is a symlink.
            self.resolve(directories);
        }
        if noted.wal_changed || noted.anything {
            self.wal = None;
        }
        let news = match self.follow() {
            Ok(news) => news,
            Err(error) => {
                log::debug!("{}: reading its -wal: {error}", self.path.display());
                self.wal = None;
                None
            }
        };
        let Some(news) = news else {
            self.uncertain_since = None;
            // No -wal: a rollback-journal mode, or the -wal went before it could be read, and its last commits with it.
            return noted.anything
                || noted.closed
                || noted.written
                || noted.wal_written
                || (noted.wal_changed && had_wal);
        };
        if !news.uncertain {
            self.uncertain_since = None;
        } else if uncertain_is_due {
            self.uncertain_since = noted.wal_written.then(Instant::now);
        } else if noted.wal_written {
            self.uncertain_since.get_or_insert_with(Instant::now);
        }
        let no_log = self.follower.header().is_none();
        noted.anything
            || noted.closed
            || news.foreign
            || (news.uncertain && uncertain_is_due)
            || (no_log && noted.written)
    }

    /// Reads the -wal on to its end; `None` when there is none.
    fn follow(&mut self) -> io::Result<Option<News>> {
        if self.wal.is_none() {
            let Some(place) = &self.place else { return Ok(None) };
            let name = [&place.database[..], b"-wal"].concat();
            let path = place.directory.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&name));
            match rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
                Ok(descriptor) => self.wal = Some(descriptor),
                Err(Errno::NOENT) => {
                    self.follower = Follower::default();
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
        let Some(wal) = &self.wal else { return Ok(None) };
        let mut all = News::default();
        let before = self.follower.last_commit();
        loop {
            let news = self.follower.follow(&Log(wal), |salt1, frame| self.own.is_own_frame(salt1, frame))?;
            all.foreign |= news.foreign;
            all.own |= news.own;
            all.uncertain = news.uncertain;
            if !news.more {
                self.frames_read = self.follower.last_commit().saturating_sub(before);
                return Ok(Some(all));
            }
        }
    }

    /// Finds out what to watch, and watches it. Whatever happened before the watch was there is covered by a wake.
    fn resolve(&mut self, directories: &mut Directories) {
        self.refused = None;
        let real = self.path.canonicalize().unwrap_or_else(|_| lock::future_name(&self.path));
        let file = lock::file_id(&self.path).ok().flatten();
        let place = real.parent().zip(real.file_name());
        if let (Some(old), Some((directory, name))) = (&mut self.place, place)
            && old.directory == directory
            && old.database == name.as_encoded_bytes()
        {
            old.file = file;
            return;
        }
        if let Some(old) = self.place.take() {
            directories.remove(old.watch);
        }
        self.wal = None;
        self.follower = Follower::default();
        let Some((directory, name)) = place else { return };
        match directories.add(directory) {
            Ok(watch) => {
                let database = name.as_encoded_bytes().to_vec();
                self.place = Some(Place { directory: directory.to_owned(), watch, file, database });
                if let Err(error) = self.follow() {
                    log::debug!("{}: reading its -wal: {error}", self.path.display());
                    self.wal = None;
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(errno) => self.refused = Some(directories::no_watch(errno)),
        }
    }

    /// What inotify on one directory can't see, asked now and then: the directory coming into being, a symlink to the file pointing
    /// elsewhere.
    pub fn tick(&mut self, directories: &mut Directories) {
        let file = lock::file_id(&self.path).ok().flatten();
        match &self.place {
            Some(place) if place.file == file => {}
            Some(_) => {
                self.resolve(directories);
                self.wake();
            }
            None => {
                self.resolve(directories);
                if self.place.is_some() {
                    self.wake();
                }
            }
        }
    }
}
