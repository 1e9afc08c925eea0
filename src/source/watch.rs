//! Noticing commits of other processes: one thread and one inotify for the directories of all databases, and the headers of new WAL
//! frames.
//!
//! Promises: a commit made while a database is watched is followed by a wake, and so is a connection's end, except when the kernel
//! or the file system gives no events (then the relay's own look at `data_version` is the net). Does not know: rows, SQL.
//!
//! One for all, because a user has 128 instances of inotify as a rule, and 200 databases of one process share them with everybody
//! else. The price: a file system that hangs under one database keeps the others waiting for their net, once a second.

mod directories;
mod watched;

use super::own_commits::OwnCommits;
use crate::model::{Wake, Why};
use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};
use directories::Directories;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{ReadFlags, Reader};
use rustix::io::Errno;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use watched::{REST, Watched};

/// How often it is looked whether the paths still lead to the directories and files that are watched.
const TICK: Duration = Duration::from_secs(1);

const EVENTS_BUFFER_BYTES: usize = 4096;

/// A file that was open for reading only is closed too: its reader may have been the last connection.
const CLOSE: ReadFlags = ReadFlags::CLOSE_WRITE.union(ReadFlags::CLOSE_NOWRITE);

/// The longest event has a name of 255 bytes: a reading that filled the buffer brought at least so many.
const EVENTS_PER_FULL_BUFFER: usize = EVENTS_BUFFER_BYTES / (16 + 256) - 1;

/// Databases that come and go while the thread is elsewhere.
const ORDERS_MAX: usize = 16;

/// Why nothing can be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("{0}")]
    Inotify(Why),
    #[error("the watch thread could not be started")]
    Thread(#[source] io::Error),
}

/// The thread that watches. It ends with the last of its handles.
#[derive(Clone, Debug)]
pub struct Watches(Arc<Lookout>);

/// A database is watched as long as this lives. The file, and its directory, need not exist yet.
#[derive(Debug)]
pub struct Watch {
    number: u64,
    lookout: Arc<Lookout>,
}

#[derive(Debug)]
struct Lookout {
    orders: Option<Sender<Order>>,
    bell: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    numbers: AtomicU64,
}

enum Order {
    Begin(Box<Watched>),
    End { number: u64 },
}

impl Watches {
    pub fn start() -> Result<Watches, WatchError> {
        let directories = Directories::new().map_err(WatchError::Inotify)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| WatchError::Inotify(Why::new(errno.to_string())))?;
        let bell = Arc::new(bell);
        let (orders, received) = bounded(ORDERS_MAX);
        let watcher = Watcher {
            directories,
            bell: Arc::clone(&bell),
            orders: received,
            databases: Vec::new(),
            deaf_until: Instant::now(),
            complained: false,
        };
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(move || watcher.run())
            .map_err(WatchError::Thread)?;
        Ok(Watches(Arc::new(Lookout { orders: Some(orders), bell, thread: Some(thread), numbers: AtomicU64::new(0) })))
    }

    /// `wakes` has room for one: a wake that is still waiting there stands for all that follow. The first comes at once.
    pub fn watch(&self, path: &Path, wakes: Sender<Wake>, own: Arc<OwnCommits>) -> Watch {
        let number = self.0.numbers.fetch_add(1, Relaxed);
        self.0.order(Order::Begin(Box::new(Watched::new(number, path, wakes, own))));
        Watch { number, lookout: Arc::clone(&self.0) }
    }
}

impl Lookout {
    fn order(&self, order: Order) {
        // A thread that has ended has dropped its ends of the wakes: their relays know.
        if let Some(orders) = &self.orders {
            let _ = orders.send(order);
        }
        self.ring();
    }

    fn ring(&self) {
        let _ = rustix::io::write(&*self.bell, &1u64.to_ne_bytes());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.lookout.order(Order::End { number: self.number });
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        self.orders = None;
        self.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watcher {
    directories: Directories,
    bell: Arc<OwnedFd>,
    orders: Receiver<Order>,
    databases: Vec<Watched>,
    /// No events are read before. They are not lost meanwhile, and equal ones become one.
    deaf_until: Instant,
    complained: bool,
}

/// What the thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Go {
    On,
    Home,
}

impl Watcher {
    fn run(mut self) {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BUFFER_BYTES];
        let mut next_tick = Instant::now() + TICK;
        loop {
            let now = Instant::now();
            let mut until = self.databases.iter().filter_map(Watched::due).fold(next_tick, Instant::min);
            let listens = self.deaf_until <= now;
            if !listens {
                until = until.min(self.deaf_until);
            }
            if self.wait(listens, until.saturating_duration_since(now)) == Go::Home {
                return;
            }
            // Of no use to anybody now.
            let useless = listens && self.events(&mut buffer);
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.databases.iter_mut().for_each(|database| database.tick(&mut self.directories));
                self.complain();
            }
            for database in &mut self.databases {
                if database.due().is_some_and(|due| due <= now) {
                    database.look(&mut self.directories, now);
                }
            }
            // While nobody's news would be looked at, and for a moment after events that are of no use, or not yet: a database that is
            // written without a pause, or a file beside one, must not keep this thread running. One that commits now and then, among
            // others, does not wait for their rests.
            let rested = self.databases.iter().map(|database| database.rests_until).min();
            let rested = rested.into_iter().chain(useless.then_some(now + REST));
            self.deaf_until = rested.fold(self.deaf_until, Instant::max);
        }
    }

    /// Until there are events, orders, or the time is over.
    fn wait(&mut self, for_events: bool, time: Duration) -> Go {
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut descriptors =
            [PollFd::new(&*self.bell, PollFlags::IN), PollFd::new(&self.directories.inotify, PollFlags::IN)];
        let listened = if for_events { 2 } else { 1 };
        let rung = match poll(&mut descriptors[..listened], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => descriptors[0].revents().contains(PollFlags::IN),
            Err(error) => {
                log::error!("watching: {error}");
                return Go::Home;
            }
        };
        if rung { self.take_orders() } else { Go::On }
    }

    fn take_orders(&mut self) -> Go {
        let _ = rustix::io::read(&*self.bell, &mut [0u8; 8]);
        loop {
            match self.orders.try_recv() {
                Ok(Order::Begin(mut database)) => {
                    database.begin(&mut self.directories);
                    self.databases.push(*database);
                }
                Ok(Order::End { number }) => {
                    let at = self.databases.iter().position(|database| database.number == number);
                    if let Some(at) = at {
                        self.databases.swap_remove(at).end(&mut self.directories);
                    }
                }
                Err(TryRecvError::Empty) => return Go::On,
                Err(TryRecvError::Disconnected) => return Go::Home,
            }
        }
    }

    /// Says what inotify has to say to the databases. Whether some of it was of no use to them, or not yet.
    fn events(&mut self, buffer: &mut [MaybeUninit<u8>]) -> bool {
        let now = Instant::now();
        let Watcher { directories, databases, .. } = self;
        let (mut useless, mut read) = (false, 0);
        let mut lost = Vec::new();
        let mut reader = Reader::new(&directories.inotify, buffer);
        loop {
            // One reading is enough, unless it may have left something: whatever comes now is there for the next round.
            if read > 0 && read < EVENTS_PER_FULL_BUFFER && reader.is_buffer_empty() {
                break;
            }
            let refilled = reader.is_buffer_empty();
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(_) => {
                    databases.iter_mut().for_each(Watched::overflowed);
                    break;
                }
            };
            read = if refilled { 1 } else { read + 1 };
            let what = event.events();
            if what.contains(ReadFlags::QUEUE_OVERFLOW) {
                databases.iter_mut().for_each(Watched::overflowed);
                continue;
            }
            let ends = ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
            if what.intersects(ends) {
                databases.iter_mut().filter(|it| it.lies_in(event.wd())).for_each(Watched::lost);
                lost.push(event.wd());
                continue;
            }
            let name = event.file_name().map(std::ffi::CStr::to_bytes).unwrap_or_default();
            let mut used = false;
            for database in databases.iter_mut().filter(|database| database.lies_in(event.wd())) {
                used |= database.note(name, what) && database.rests_until <= now;
            }
            useless |= !used;
        }
        for watch in lost {
            directories.lost(watch);
        }
        useless
    }

    /// Of all directories that can't be watched in one line, and again only when all could be meanwhile.
    fn complain(&mut self) {
        let mut refused = self.databases.iter().filter_map(|database| Some((database, database.refused.as_ref()?)));
        let Some((database, why)) = refused.next() else {
            self.complained = false;
            return;
        };
        if std::mem::replace(&mut self.complained, true) {
            return;
        }
        let others = match refused.count() {
            0 => String::new(),
            count => format!(", and those of {count} databases more"),
        };
        log::warn!(
            "{}: its directory can't be watched{others}; commits there are noticed once a second: {why}",
            database.path().display()
        );
    }
}
