//! Who leads what: the one place that asks the cluster for its shape, for producer ids and for the ends of partitions.
//!
//! Promises: asking never waits; what is known is an immutable snapshot, swapped whole. Does not know: batches, outboxes.

mod brokers;
mod chunks;
mod identity;
mod snapshot;
mod thread;

pub(crate) use brokers::chain;
pub(crate) use snapshot::{Lead, Snapshot, Whereabouts};
pub(crate) use thread::run;

use crate::connection::{Address, Connection, ConnectionOptions, Interrupter};
use crate::error::ConnectError;
use crate::producer::{Mailbox, lock};
use crate::security::Security;
use identity::ClusterIdentity;
use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// What handles and senders see of the cluster.
pub(crate) struct Cluster {
    bootstrap: Vec<Address>,
    security: Security,
    id: ClusterIdentity,
    /// Locked to clone or to swap the `Arc`, never longer.
    snapshot: Mutex<Arc<Snapshot>>,
    inbox: Mutex<Inbox>,
    asked: Condvar,
    stopping: AtomicBool,
    /// Senders that are connecting, or wait for the answer to a batch in trouble.
    struggling: AtomicUsize,
}

/// What was asked since the metadata thread last looked. Coalesced, so it can't grow beyond topics and handles.
struct Inbox {
    producer_ids: HashMap<u64, (Arc<Mailbox>, usize)>,
    opens: HashMap<(u64, Arc<str>), Arc<Mailbox>>,
    /// Topics that someone writes to without having opened them.
    wanted: BTreeSet<Box<str>>,
    refresh: bool,
    /// Someone began to struggle.
    struggle: bool,
    /// There is something in the trays of the look-ups.
    lookups: bool,
    interrupter: Option<Interrupter>,
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.producer_ids.is_empty()
            && self.opens.is_empty()
            && self.wanted.is_empty()
            && !self.refresh
            && !self.struggle
            && !self.lookups
    }
}

/// While it lives, and lives long, the metadata thread asks for news again and again: the broker that does not answer may have lost its
/// partitions to another.
pub(crate) struct Struggle<'a>(&'a AtomicUsize);

impl Drop for Struggle<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

impl Cluster {
    pub(crate) fn new(bootstrap: Vec<Address>, security: Security) -> Self {
        Cluster {
            bootstrap,
            security,
            id: ClusterIdentity::default(),
            snapshot: Mutex::new(Arc::new(Snapshot::default())),
            inbox: Mutex::new(Inbox {
                producer_ids: HashMap::new(),
                opens: HashMap::new(),
                wanted: BTreeSet::new(),
                refresh: false,
                struggle: false,
                lookups: false,
                interrupter: None,
            }),
            asked: Condvar::new(),
            stopping: AtomicBool::new(false),
            struggling: AtomicUsize::new(0),
        }
    }

    /// How its connections are protected.
    pub(crate) fn security(&self) -> &Security {
        &self.security
    }

    pub(crate) fn id(&self) -> &ClusterIdentity {
        &self.id
    }

    /// A connection to a broker of this cluster: one that belongs to another is closed before anything is asked of it or sent to it.
    pub(crate) fn connect(&self, address: &Address, options: &ConnectionOptions) -> Result<Connection, ConnectError> {
        let connection = Connection::open(address, options)?;
        match self.id.belongs(connection.cluster_id()) {
            Ok(()) => Ok(connection),
            Err((ours, theirs)) => Err(ConnectError::OtherCluster { address: address.clone(), ours, theirs }),
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&lock(&self.snapshot))
    }

    fn publish(&self, snapshot: Snapshot) -> Arc<Snapshot> {
        let snapshot = Arc::new(snapshot);
        *lock(&self.snapshot) = Arc::clone(&snapshot);
        snapshot
    }

    /// The broker to send a partition's batch to, or why there is none.
    pub(crate) fn lead(&self, topic: &str, partition: i32) -> Lead {
        let snapshot = self.snapshot();
        if !snapshot.follows(topic) {
            lock(&self.inbox).wanted.insert(topic.into());
        }
        snapshot.lead(topic, partition)
    }

    pub(crate) fn address(&self, broker: i32) -> Option<Address> {
        lock(&self.snapshot).brokers.get(&broker).cloned()
    }

    pub(crate) fn ask_producer_id(&self, mailbox: &Arc<Mailbox>) {
        self.ask(|inbox| inbox.producer_ids.entry(mailbox.id).or_insert_with(|| (Arc::clone(mailbox), 0)).1 += 1);
    }

    pub(crate) fn ask_open(&self, mailbox: &Arc<Mailbox>, topic: &Arc<str>) {
        self.ask(|inbox| {
            inbox.opens.insert((mailbox.id, Arc::clone(topic)), Arc::clone(mailbox));
        });
    }

    /// Something a leader said, or did not say, makes the snapshot doubtful.
    pub(crate) fn ask_refresh(&self) {
        self.ask(|inbox| inbox.refresh = true);
    }

    pub(crate) fn ask_lookups(&self) {
        self.ask(|inbox| inbox.lookups = true);
    }

    pub(crate) fn struggle(&self) -> Struggle<'_> {
        self.struggling.fetch_add(1, SeqCst);
        self.ask(|inbox| inbox.struggle = true);
        Struggle(&self.struggling)
    }

    fn ask(&self, what: impl FnOnce(&mut Inbox)) {
        what(&mut lock(&self.inbox));
        self.asked.notify_one();
    }

    pub(crate) fn interrupt(&self) {
        self.stopping.store(true, SeqCst);
        if let Some(interrupter) = &lock(&self.inbox).interrupter {
            interrupter.interrupt();
        }
        self.asked.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(SeqCst)
    }

    /// Names the metadata thread's socket in use. False when the producer stops.
    fn uses(&self, interrupter: Option<Interrupter>) -> bool {
        lock(&self.inbox).interrupter = interrupter;
        !self.is_stopping()
    }

    /// What was asked, after waiting for it until `deadline`. `None`: the producer stops.
    fn wait(&self, deadline: Instant) -> Option<Asked> {
        let mut inbox = lock(&self.inbox);
        loop {
            if self.is_stopping() {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !inbox.is_empty() || left.is_zero() {
                inbox.struggle = false;
                inbox.lookups = false;
                return Some(Asked {
                    producer_ids: std::mem::take(&mut inbox.producer_ids).into_values().collect(),
                    opens: std::mem::take(&mut inbox.opens).into_iter().map(|((_, topic), m)| (topic, m)).collect(),
                    wanted: std::mem::take(&mut inbox.wanted),
                    refresh: std::mem::take(&mut inbox.refresh),
                });
            }
            inbox = self.asked.wait_timeout(inbox, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }
}

struct Asked {
    producer_ids: Vec<(Arc<Mailbox>, usize)>,
    opens: Vec<(Arc<str>, Arc<Mailbox>)>,
    wanted: BTreeSet<Box<str>>,
    refresh: bool,
}
