//! Noticing commits of other processes: inotify on the database's directory, and the headers of new WAL frames.
//!
//! Promises: a commit made while the watch runs is followed by a wake, and so is a connection's end, except when the kernel or the file system gives no events
//! (then the relay's own look at `data_version` is the net); opens only the -wal. Does not know: rows, SQL.

use super::lock;
use super::own_commits::OwnCommits;
use super::wal::{Follower, News, ReadAt};
use crate::model::{FileId, Wake};
use crossbeam_channel::Sender;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After news nothing is read for so long; events meanwhile are merged by the kernel. At 20,000 foreign commits a second this is
/// the difference between a third of a core and a twentieth.
const REST: Duration = Duration::from_micros(500);

/// The rest while commits come thick: twice in a row so many frames or more in one reading.
const REST_BUSY: Duration = Duration::from_millis(1);
const BUSY_FRAMES: u32 = 8;

/// While the last wake waits to be taken nothing is read either; the pauses double up to this.
const REST_UNTAKEN_MAX: Duration = Duration::from_millis(4);

/// How often it is looked whether the path still leads to the directory and file that are watched.
const TICK: Duration = Duration::from_secs(1);

/// Frames behind the last commit wake at most so often.
const UNCERTAIN_EVERY: Duration = Duration::from_millis(20);

const EVENTS_BUFFER_BYTES: usize = 4096;

/// A file that was open for reading only is closed too: its reader may have been the last connection.
const CLOSE: ReadFlags = ReadFlags::CLOSE_WRITE.union(ReadFlags::CLOSE_NOWRITE);

/// The longest event has a name of 255 bytes: a reading that filled the buffer brought at least so many.
const EVENTS_PER_FULL_BUFFER: usize = EVENTS_BUFFER_BYTES / (16 + 256) - 1;

/// Why a watch can't be had.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("inotify is not available (hint: sysctl fs.inotify.max_user_instances)")]
    Inotify(#[source] io::Error),
    #[error("the watch thread could not be started")]
    Thread(#[source] io::Error),
}

/// The thread that watches one database. The file, and its directory, need not exist yet.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// `wakes` has room for one: a wake that is still waiting there stands for all that follow. The first comes at once.
    pub fn start(path: &Path, wakes: Sender<Wake>, own: Arc<OwnCommits>) -> Result<Watch, WatchError> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| WatchError::Inotify(error.into()))?;
        let stop = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
            .map_err(|error| WatchError::Inotify(error.into()))?;
        let stop = Arc::new(stop);
        let watcher = Watcher {
            path: path.to_owned(),
            wakes,
            own,
            inotify,
            stop: Arc::clone(&stop),
            place: None,
            wal: None,
            follower: Follower::default(),
            uncertain_since: None,
            frames_read: 0,
            complained: false,
        };
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watcher.run())
            .map_err(WatchError::Thread)?;
        Ok(Watch { stop, thread: Some(thread) })
    }

    /// Ends the thread and waits for it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

struct Watcher {
    path: PathBuf,
    wakes: Sender<Wake>,
    own: Arc<OwnCommits>,
    inotify: OwnedFd,
    stop: Arc<OwnedFd>,
    place: Option<Place>,
    wal: Option<OwnedFd>,
    follower: Follower,
    uncertain_since: Option<Instant>,
    /// By how many frames the last reading moved the last commit on.
    frames_read: u32,
    complained: bool,
}

/// The directory that is watched, and the names in it that matter.
struct Place {
    directory: PathBuf,
    watch: i32,
    /// The file the path led to when it was resolved.
    file: Option<FileId>,
    database: Vec<u8>,
    journal: Vec<u8>,
    wal: Vec<u8>,
}

/// What a batch of events said.
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

impl Watcher {
    fn run(mut self) {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BUFFER_BYTES];
        self.resolve();
        self.wake();
        let mut next_tick = Instant::now() + TICK;
        let mut busy_rounds = 0;
        let mut untaken = REST;
        loop {
            let now = Instant::now();
            // The wake that waits stands for every commit until it is taken, and what inotify has to tell is not lost: it is read
            // after that, so a commit after the taking has its own wake. Reading on meanwhile would find nothing to do with it.
            if self.wakes.is_full() && now < next_tick {
                if self.wait(false, untaken) {
                    return;
                }
                untaken = (untaken * 2).min(REST_UNTAKEN_MAX);
                continue;
            }
            untaken = REST;
            let mut until = next_tick;
            if let Some(since) = self.uncertain_since {
                until = until.min(since + UNCERTAIN_EVERY);
            }
            if self.wait(true, until.saturating_duration_since(now)) {
                return;
            }
            let noted = self.events(&mut buffer);
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.tick();
            }
            let uncertain_is_due = self.uncertain_since.is_some_and(|since| now >= since + UNCERTAIN_EVERY);
            self.frames_read = 0;
            if (!noted.nothing() || uncertain_is_due) && self.is_news(noted, uncertain_is_due) {
                self.wake();
            }
            busy_rounds = if self.frames_read >= BUSY_FRAMES { busy_rounds + 1 } else { 0 };
            // Not listening to inotify meanwhile: its events are not lost, and equal ones become one. Also after events of files
            // that don't matter: one that is written all the time beside the database must not keep this thread running.
            if self.wait(false, if busy_rounds >= 2 { REST_BUSY } else { REST }) {
                return;
            }
        }
    }

    /// True: stop.
    fn wait(&self, for_events: bool, time: Duration) -> bool {
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut descriptors = [PollFd::new(&*self.stop, PollFlags::IN), PollFd::new(&self.inotify, PollFlags::IN)];
        let listened = if for_events { 2 } else { 1 };
        match poll(&mut descriptors[..listened], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => descriptors[0].revents().contains(PollFlags::IN),
            Err(error) => {
                log::error!("{}: watching: {error}", self.path.display());
                true
            }
        }
    }

    fn wake(&self) {
        // Full: the relay has not taken the last one yet, and will see this commit too when it does.
        let _ = self.wakes.try_send(Wake { seen: Instant::now() });
    }

    fn events(&self, buffer: &mut [MaybeUninit<u8>]) -> Noted {
        let mut noted = Noted::default();
        let mut reader = inotify::Reader::new(&self.inotify, buffer);
        let mut read = 0;
        loop {
            // One reading is enough, unless it may have left something: whatever comes now is there for the next round.
            if read > 0 && read < EVENTS_PER_FULL_BUFFER && reader.is_buffer_empty() {
                return noted;
            }
            let refilled = reader.is_buffer_empty();
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return noted,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    noted.anything = true;
                    return noted;
                }
            };
            read = if refilled { 1 } else { read + 1 };
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                noted.anything = true;
                noted.wal_changed = true;
                continue;
            }
            let Some(place) = self.place.as_ref().filter(|place| place.watch == event.wd()) else { continue };
            if what.intersects(ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT)
            {
                noted.lost = true;
                continue;
            }
            let Some(name) = event.file_name().map(std::ffi::CStr::to_bytes) else { continue };
            let modified = what.contains(ReadFlags::MODIFY);
            if what.intersects(CLOSE) {
                noted.closed |= name == place.database;
                continue;
            }
            if name == place.wal {
                noted.wal_written |= modified;
                noted.wal_changed |= !modified;
            } else if name == place.database {
                noted.written |= modified;
                noted.anything |= !modified;
            } else if name == place.journal {
                // Its creation is no commit yet.
                noted.written |= !what.contains(ReadFlags::CREATE);
            }
        }
    }

    fn is_news(&mut self, noted: Noted, uncertain_is_due: bool) -> bool {
        if noted.lost {
            self.place = None;
            self.resolve();
            return true;
        }
        let had_wal = self.wal.is_some();
        if noted.anything {
            // The name may lead to another file now, in another place if it is a symlink.
            self.resolve();
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
        let opened = self.wal.is_none();
        if opened {
            let Some(place) = &self.place else { return Ok(None) };
            let mut name = place.directory.clone();
            name.push(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&place.wal));
            match rustix::fs::open(&name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()) {
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
    fn resolve(&mut self) {
        let real = self.path.canonicalize().unwrap_or_else(|_| lock::future_name(&self.path));
        let file = lock::file_id(&self.path).ok().flatten();
        let (Some(directory), Some(name)) = (real.parent(), real.file_name()) else {
            self.place = None;
            return;
        };
        let database = name.as_encoded_bytes().to_vec();
        if let Some(place) = &mut self.place
            && place.directory == directory
            && place.database == database
        {
            place.file = file;
            return;
        }
        if let Some(old) = self.place.take() {
            let _ = inotify::remove_watch(&self.inotify, old.watch);
        }
        self.wal = None;
        self.follower = Follower::default();
        let flags = WatchFlags::MODIFY
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVE
            | WatchFlags::CLOSE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        match inotify::add_watch(&self.inotify, directory, flags) {
            Ok(watch) => {
                let with = |suffix: &str| [&database[..], suffix.as_bytes()].concat();
                self.place = Some(Place {
                    directory: directory.to_owned(),
                    watch,
                    file,
                    journal: with("-journal"),
                    wal: with("-wal"),
                    database,
                });
                self.complained = false;
                if let Err(error) = self.follow() {
                    log::debug!("{}: reading its -wal: {error}", self.path.display());
                    self.wal = None;
                }
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {}
            Err(error) => {
                if !self.complained {
                    let hint = match error {
                        Errno::ACCESS => "let outboxd's user or group read it: chmod ug+r",
                        _ => "sysctl fs.inotify.max_user_watches",
                    };
                    log::warn!(
                        "{}: can't be watched, commits are noticed once a second: {error} (hint: {hint})",
                        directory.display()
                    );
                    self.complained = true;
                }
            }
        }
    }

    /// What inotify on one directory can't see: the directory coming into being, a symlink to the file pointing elsewhere.
    fn tick(&mut self) {
        let file = lock::file_id(&self.path).ok().flatten();
        match &self.place {
            Some(place) if place.file == file => {}
            Some(_) => {
                self.resolve();
                self.wake();
            }
            None => {
                self.resolve();
                if self.place.is_some() {
                    self.wake();
                }
            }
        }
    }
}
