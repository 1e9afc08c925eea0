//! The cluster's state behind one lock, and the one way to wait for a change of it.
//!
//! It promises that whoever changes the state through [`Shared::change`] wakes everyone who waits. It does not know the wire.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kafka_protocol::messages::ApiKey;

use crate::builder::{Listener, Settings};
use crate::faults::Script;
use crate::inspect::Request;
use crate::topic::{Access, PartitionView, Reach, Topic};

/// How a broker is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    Running,
    /// No process: nothing listens.
    Stopped,
    /// The process gets no time: the kernel accepts, nobody reads.
    Frozen,
    /// Thawed, but it has not heard yet what happened in between.
    Stale,
}

impl Condition {
    pub fn runs(self) -> bool {
        self != Condition::Stopped
    }

    /// Hears of an election when it happens.
    pub fn informed(self) -> bool {
        !matches!(self, Condition::Frozen | Condition::Stale)
    }
}

/// One broker of the cluster.
pub(crate) struct Broker {
    pub port: u16,
    pub condition: Condition,
    /// InitProducerId was asked since the last start.
    pub coordinator_loaded: bool,
    pub listener: Listener,
    /// What Metadata says instead of 127.0.0.1 and the port.
    pub advertised: Option<(String, i32)>,
    /// While it hears nothing: the topics as it last heard of them, which it goes on telling.
    pub outdated: Option<BTreeMap<String, Vec<PartitionView>>>,
    /// How often it was stopped. What waited in the sockets of an earlier life is gone.
    pub life: u64,
}

/// A connection that is open.
pub(crate) struct Connection {
    pub broker: i32,
    pub stream: TcpStream,
}

pub(crate) struct State {
    pub settings: Settings,
    pub brokers: BTreeMap<i32, Broker>,
    pub topics: BTreeMap<String, Topic>,
    pub topics_created: u64,
    /// ACLs. They go by name: a topic that is deleted leaves them behind.
    pub denied: BTreeSet<(String, Access)>,
    pub connections: HashMap<u64, Connection>,
    pub connections_opened: u64,
    pub apis: BTreeMap<i16, (i16, i16)>,
    pub script: Script,
    pub requests: Vec<Request>,
    pub complaints: Vec<String>,
    pub next_producer_id: i64,
    /// The brokers' clock minus this machine's, in milliseconds.
    pub clock_offset_ms: i64,
    pub shutting_down: bool,
}

impl State {
    pub fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_millis() as i64 + self.clock_offset_ms
    }

    /// May a thread of this broker go on?
    pub fn runs(&self, broker: i32) -> bool {
        !self.shutting_down && self.brokers.get(&broker).is_some_and(|broker| broker.condition.runs())
    }

    pub fn is_open(&self, connection: u64) -> bool {
        self.connections.contains_key(&connection)
    }

    pub fn frozen(&self, broker: i32) -> bool {
        self.brokers.get(&broker).is_some_and(|broker| broker.condition == Condition::Frozen)
    }

    pub fn close_connection(&mut self, connection: u64) {
        if let Some(connection) = self.connections.remove(&connection) {
            // An error here means that the peer was faster.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
    }

    pub fn close_connections_of(&mut self, broker: i32) {
        let ids: Vec<u64> =
            self.connections.iter().filter(|(_, open)| open.broker == broker).map(|(&id, _)| id).collect();
        for id in ids {
            self.close_connection(id);
        }
    }

    pub fn denies(&self, topic: &str, access: Access) -> bool {
        self.denied.contains(&(topic.to_owned(), access))
    }

    /// Lets followers copy and high watermarks rise everywhere.
    pub fn replicate(&mut self) {
        let State { brokers, topics, settings, .. } = self;
        let unheard = settings.unheard;
        let reach = |id: i32| match brokers.get(&id).map(|broker| broker.condition) {
            Some(Condition::Running) => Reach::Copies,
            Some(Condition::Frozen | Condition::Stale) => unheard,
            Some(Condition::Stopped) | None => Reach::Gone,
        };
        for partition in topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            partition.replicate(&reach);
        }
    }

    /// The broker hears nothing from now on: what it knows of topics stays as it is.
    pub fn cut_off(&mut self, broker: i32, condition: Condition) {
        let known = self.topics.iter().map(|(name, topic)| {
            (name.clone(), topic.partitions.iter().map(crate::topic::Partition::view).collect::<Vec<_>>())
        });
        let known: BTreeMap<_, _> = known.collect();
        let broker = self.brokers.get_mut(&broker).unwrap_or_else(|| panic!("there is no broker {broker}"));
        broker.condition = condition;
        broker.outdated.get_or_insert(known);
    }

    /// The broker runs and hears everything that it has missed.
    pub fn bring_up_to_date(&mut self, broker: i32) {
        let told = self.brokers.get_mut(&broker).unwrap_or_else(|| panic!("there is no broker {broker}"));
        told.condition = Condition::Running;
        told.outdated = None;
        for partition in self.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
            partition.tell(&|id| id == broker);
        }
        self.run_elections();
        self.replicate();
    }

    /// Gives leaderless partitions a leader from their in-sync replicas, and takes it from brokers that are gone.
    pub fn run_elections(&mut self) {
        let brokers = &self.brokers;
        let elect = self.settings.elections;
        let running = |id: i32| brokers.get(&id).is_some_and(|broker| broker.condition.runs());
        let informed = |id: i32| brokers.get(&id).is_some_and(|broker| broker.condition.informed());
        for topic in self.topics.values_mut() {
            for partition in &mut topic.partitions {
                if partition.leader.is_some_and(running) {
                    continue;
                }
                let candidate = partition.in_sync.iter().copied().find(|&id| elect && running(id) && informed(id));
                if partition.leader.is_some() || candidate.is_some() {
                    partition.elect(candidate, &informed);
                }
            }
        }
    }

    pub fn advertises(&self, api: ApiKey, version: i16) -> bool {
        self.apis.get(&(api as i16)).is_some_and(|&(min, max)| (min..=max).contains(&version))
    }
}

pub(crate) struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub fn new(state: State) -> Shared {
        Shared { state: Mutex::new(state), changed: Condvar::new(), threads: Mutex::new(Vec::new()) }
    }

    /// A test that panics while it looks at the state must not turn every later assertion into a poison error.
    pub fn look(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.look();
        let result = change(&mut state);
        drop(state);
        self.changed.notify_all();
        result
    }

    /// Wakes all who wait. Takes the lock, so that nobody can be between looking and waiting.
    pub fn wake(&self) {
        drop(self.look());
        self.changed.notify_all();
    }

    /// Waits until `ready` gives something, at most for `limit`.
    pub fn wait_for<T>(&self, limit: Duration, mut ready: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.look();
        loop {
            if let Some(found) = ready(&mut state) {
                return Some(found);
            }
            let now = Instant::now();
            if now >= deadline {
                return None;
            }
            state = self.changed.wait_timeout(state, deadline - now).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same without a deadline: for threads that a stop of their broker wakes.
    pub fn wait_until<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> T {
        let mut state = self.look();
        loop {
            if let Some(found) = ready(&mut state) {
                return found;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn keep(&self, thread: JoinHandle<()>) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Waits for all threads; they must have been told to end.
    pub fn join(&self) {
        loop {
            let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
            if threads.is_empty() {
                return;
            }
            for thread in threads {
                // A panic of a broker's thread is reported by `complaints`, not by joining.
                let _ = thread.join();
            }
        }
    }
}
