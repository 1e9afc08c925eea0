//! An in-process Kafka cluster over real TCP on 127.0.0.1, for fault tests: as sly as the real one.
//!
//! It promises to answer as Apache Kafka does where a producer can tell the difference, and to do every unpleasant thing a broker may do
//! when a test asks for it. It shares no code with the client under test: requests and answers go through `kafka-protocol`, batches
//! and records through its own parser, behind that crate's codecs. It does not know transactions, consumer groups, or SASL beyond refusing.
//!
//! ```
//! use std::time::Duration;
//! use fake_kafka::{FakeKafka, Fault};
//!
//! let kafka = FakeKafka::builder().brokers(3).topic("users", 4).start();
//! kafka.fault("users", 0, Fault::AppendThenAnswer(6));
//! println!("point a producer at {}", kafka.bootstrap());
//! // kafka.wait_for_records("users", 100, Duration::from_secs(10));
//! ```
//!
//! # Replicas that disagree, and other lies
//!
//! | what happens on a cluster | here |
//! |---|---|
//! | followers lag, acks=all waits for them | [`hold_replication`](FakeKafka::hold_replication) all, [`hold_follower`](FakeKafka::hold_follower) one, [`freeze`](FakeKafka::freeze) with [`lagging_stay_in_sync`](Builder::lagging_stay_in_sync) |
//! | a follower is too late and falls out of sync | [`expel`](FakeKafka::expel) |
//! | the leader dies with a tail that nobody has | any of these, then [`stop`](FakeKafka::stop) or [`move_leader`](FakeKafka::move_leader) |
//! | an unclean election takes acknowledged records | [`move_leader`](FakeKafka::move_leader) to a replica that is not in sync |
//! | an ex-leader, or a follower, that has not heard of it | [`freeze`](FakeKafka::freeze), [`move_leader`](FakeKafka::move_leader), [`thaw_stale`](FakeKafka::thaw_stale); [`tell`](FakeKafka::tell) ends it |
//! | a dead process's request is stored after all others | [`Fault::KeepBack`], [`Fault::KeepBackAndClose`], [`Fault::KeepCopy`], then [`deliver`](FakeKafka::deliver) |
//! | the leader forgets a producer | [`forget_producer`](FakeKafka::forget_producer), [`forget_producer_on`](FakeKafka::forget_producer_on) one replica, [`expire_producers`](FakeKafka::expire_producers), [`add_replica`](FakeKafka::add_replica) after retention |
//! | the front of the log is gone | [`delete_records_before`](FakeKafka::delete_records_before) |
//! | the log has holes | [`compact`](FakeKafka::compact), [`compact_by_key`](FakeKafka::compact_by_key), [`compact_away`](FakeKafka::compact_away) |
//! | an answer to Fetch ends before the high watermark | [`roll_segment`](FakeKafka::roll_segment) |
//! | the topic goes, comes back, grows | [`delete_topic`](FakeKafka::delete_topic), [`create_topic`](FakeKafka::create_topic), [`add_partitions`](FakeKafka::add_partitions) |
//! | another cluster at the old address | [`become_cluster`](FakeKafka::become_cluster) |
//! | Write is allowed, Read is not | [`deny`](FakeKafka::deny) |
//! | a broker before 2.8 | [`without_api`](Builder::without_api) |
//!
//! What each replica has and believes: [`replica_state`](FakeKafka::replica_state), [`records_on`](FakeKafka::records_on),
//! [`producers_on`](FakeKafka::producers_on), [`in_sync`](FakeKafka::in_sync).
//!
//! # Where the rules come from
//!
//! | rule | from |
//! |---|---|
//! | a duplicate is the same (epoch, first, last sequence); five batches kept, one after a restart; answered 0 and the old offset | `ProducerStateEntry`, `ProducerStateManager`; tried on 2.1 to 4.3 |
//! | 45 out of order, 47 older epoch, a new epoch begins at 0; unknown producers begin anywhere, up to 2.4 at 0 else 59 | `ProducerAppendInfo`, KIP-360 |
//! | producers expire by their records' timestamps | `ProducerStateManager.isProducerExpired` |
//! | validation (2, 10, 32, 87) before the duplicate check; the whole batch is refused; record errors from Produce 8 on | `UnifiedLog.append`, `LogValidator`, KIP-467 |
//! | which refusals carry the log start; a duplicate's answer has the stored batch's stamp in `log_append_time_ms` | tried |
//! | a merged request waits for its slowest partition; 7 leaves the batch appended; a duplicate waits too | `DelayedProduce` |
//! | an error after the append (7, 20, 6) comes with the offset of what was appended | `DelayedProduce`; tried |
//! | 19 before the append, 20 after it | `Partition.appendRecordsToLeader` and `checkEnoughReplicasReachOffset` |
//! | the leader epoch in Fetch and ListOffsets: 74 behind, 75 ahead, from followers too, before 6 | KIP-320; tried |
//! | a new leader whose followers lag can't name the latest offset: 5 up to version 4 | KIP-207; tried |
//! | Fetch ends at the high watermark or with its segment, first batch whole, last one cut; ListOffsets' latest is the high watermark | `ReplicaManager.readFromLog`, KIP-74; tried |
//! | DescribeProducers from the log end of any replica | KIP-664; tried |
//! | Metadata never creates a topic; 3 unknown, 17 illegal name, 29 not allowed, 5 and leader -1 without a leader | `KafkaApis.handleTopicMetadataRequest` |
//! | Produce to a name that is unknown *or illegal*: 3 | `KafkaApis.handleProduceRequest` |
//! | an unknown ApiVersions version is answered in version 0 with 35; any other unknown request closes | KIP-511, `SocketServer` |
//! | InitProducerId answers 14 once after a start | tried |
//! | throttled: the answer comes at once, then the connection is not read | KIP-219 |
//! | a replica that takes over brings its own log; an ex-leader cuts off what the leader lacks | KIP-101; tried |
//! | a cleaned batch keeps its ends, sequence and producer; a producer's newest stays as a header without records or base timestamp | `LogCleaner`; tried |
//! | DeleteRecords leaves producers known | tried |
//!
//! "Tried" means on Apache Kafka itself; `tests/conformance.rs` asks one script of questions of the fake and of a real broker (4.3.0 and 3.9.1
//! answer it alike, but for free text), `tests/disagreement.rs` another of three brokers.
//!
//! # Deliberately simpler than Kafka
//!
//! Followers copy at once, or not at all. A frozen or stale follower leaves the in-sync replicas at once or never
//! ([`lagging_stay_in_sync`](Builder::lagging_stay_in_sync)), a stopped one at once. Elections are immediate or off, and a broker that comes
//! back from its restart has heard of all of them. A topic that is deleted is gone from the logs of brokers that have not heard of it, too;
//! only their Metadata still names it. Answers name partitions in the reverse of the order asked, never in that order; real ones follow
//! a hash map. Compressed batches are opened by `records` and when they are validated; they are stored and served as they came, and `compact` does not
//! clean them.

mod broker;
mod builder;
pub mod codes;
mod contents;
mod control;
mod faults;
mod fetch;
mod inspect;
mod late;
mod log;
mod produce;
mod producer_state;
mod record;
mod replica;
mod replication;
mod requests;
mod state;
mod topic;
mod validate;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use builder::{Builder, Listener};
pub use faults::{Fault, Gate};
pub use inspect::{LogEnds, ProducedBatch, ReplicaState, Request, StoredRecord};
pub use kafka_protocol::messages::ApiKey;
pub use late::{Delivered, LateCopies};
pub use log::BatchHeader;
pub use producer_state::ActiveProducer;
pub use record::Record;
pub use topic::{Access, MAX_MESSAGE_BYTES_DEFAULT};

use state::{Broker, Condition, Shared, State};

/// A running cluster. Dropping it closes every connection and port and joins every thread.
pub struct FakeKafka {
    shared: Arc<Shared>,
    listeners: Mutex<BTreeMap<i32, JoinHandle<()>>>,
}

impl FakeKafka {
    /// One broker, no topics, until told otherwise.
    pub fn builder() -> Builder {
        Builder::default()
    }

    fn start(builder: Builder) -> FakeKafka {
        let bound: BTreeMap<i32, TcpListener> =
            (1..=builder.settings.brokers).map(|id| (id, broker::bind(0))).collect();
        let brokers = bound
            .iter()
            .map(|(&id, listener)| {
                let port = listener.local_addr().expect("a bound listener has an address").port();
                let broker = Broker {
                    port,
                    condition: Condition::Running,
                    coordinator_loaded: false,
                    listener: builder.settings.listener,
                    advertised: None,
                    outdated: None,
                    life: 0,
                };
                (id, broker)
            })
            .collect();
        let mut state = State {
            settings: builder.settings,
            brokers,
            topics: BTreeMap::new(),
            topics_created: 0,
            denied: BTreeSet::new(),
            connections: HashMap::new(),
            connections_opened: 0,
            apis: builder.apis,
            script: faults::Script::default(),
            requests: Vec::new(),
            complaints: Vec::new(),
            next_producer_id: builder.first_producer_id,
            clock_offset_ms: 0,
            shutting_down: false,
        };
        for (name, partitions, replication) in &builder.topics {
            control::create_topic(&mut state, name, *partitions, *replication);
        }
        let kafka = FakeKafka { shared: Arc::new(Shared::new(state)), listeners: Mutex::default() };
        for (id, listener) in bound {
            kafka.start_listener(id, listener);
        }
        kafka
    }

    fn start_listener(&self, broker: i32, listener: TcpListener) {
        let thread = broker::listen(&self.shared, broker, listener);
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(broker, thread);
    }

    /// Ends the accepting thread of a broker that no longer runs; the port is free afterwards.
    fn end_listener(&self, broker: i32, port: u16) {
        let thread = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&broker);
        if let Some(thread) = thread {
            // It waits in accept: one more connection lets it look around. When nobody listens any more, so much the better.
            let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            // Its panics are bugs of the fake, and are printed by the thread itself.
            let _ = thread.join();
        }
    }

    /// Every broker as `127.0.0.1:port`, with commas: what `bootstrap_servers` takes.
    pub fn bootstrap(&self) -> String {
        self.bootstrap_servers().join(",")
    }

    pub fn bootstrap_servers(&self) -> Vec<String> {
        self.shared.look().brokers.values().map(|broker| format!("127.0.0.1:{}", broker.port)).collect()
    }

    /// The address of one broker, running or not.
    pub fn address(&self, broker: i32) -> SocketAddr {
        let state = self.shared.look();
        let found = state.brokers.get(&broker).unwrap_or_else(|| panic!("there is no broker {broker}"));
        SocketAddr::from((Ipv4Addr::LOCALHOST, found.port))
    }
}

impl Drop for FakeKafka {
    fn drop(&mut self) {
        let ports: Vec<(i32, u16)> = self.shared.change(|state| {
            state.shutting_down = true;
            let ids: Vec<u64> = state.connections.keys().copied().collect();
            for id in ids {
                state.close_connection(id);
            }
            state.brokers.iter().map(|(&id, broker)| (id, broker.port)).collect()
        });
        for (broker, port) in ports {
            self.end_listener(broker, port);
        }
        self.shared.join();
    }
}
