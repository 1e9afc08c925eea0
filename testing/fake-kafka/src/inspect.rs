//! What a test can see: stored records, where logs end, which requests came on which connection.
//!
//! It promises to show the logs and the arrivals as they are, in order. It does not change anything.

use std::time::{Duration, Instant};

use kafka_protocol::messages::ApiKey;

use crate::FakeKafka;
use crate::log::{StoredBatch, add_to_sequence};
use crate::producer_state::ActiveProducer;
use crate::replica::Replica;
use crate::state::State;
use crate::topic::Partition;

/// A record as it lies in a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    pub partition: i32,
    pub offset: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In order; names may repeat.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since 1970.
    pub timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    /// -1 when the batch has none.
    pub sequence: i32,
    pub leader_epoch: i32,
}

impl StoredRecord {
    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(known, _)| known == name).and_then(|(_, value)| value.as_deref())
    }
}

/// A partition's state on its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEnds {
    pub start: i64,
    pub end: i64,
    pub high_watermark: i64,
    pub leader: Option<i32>,
    pub leader_epoch: i32,
}

/// What one replica has and believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaState {
    pub start: i64,
    pub end: i64,
    pub high_watermark: i64,
    /// The newest leader epoch it has heard of.
    pub leader_epoch: i32,
    /// It believes that it leads in that epoch.
    pub leads: bool,
}

/// A request that arrived, whatever became of it.
#[derive(Clone, Debug)]
pub struct Request {
    /// Counts from 0, over all brokers.
    pub number: usize,
    pub arrived: Instant,
    pub broker: i32,
    /// Counts from 1, over all brokers; never used again.
    pub connection: u64,
    pub api: ApiKey,
    pub version: i16,
    pub correlation_id: i32,
    pub client_id: Option<String>,
    pub size_bytes: usize,
    /// In the order named. Metadata names topics with partition -1.
    pub partitions: Vec<(String, i32)>,
    /// Produce only.
    pub batches: Vec<ProducedBatch>,
    /// Produce only.
    pub acks: Option<i16>,
    /// Produce only.
    pub timeout_ms: Option<i32>,
}

impl Request {
    pub fn names(&self, topic: &str, partition: i32) -> bool {
        self.partitions.iter().any(|(named, index)| named == topic && *index == partition)
    }
}

/// A batch of a Produce request, by its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedBatch {
    pub topic: String,
    pub partition: i32,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
    pub max_timestamp: i64,
    /// How it is compressed, among others.
    pub attributes: i16,
    /// The records section as it came: its size and CRC-32C.
    pub record_bytes: usize,
    pub record_checksum: u32,
}

fn records_of(partition: i32, batch: &StoredBatch) -> Vec<StoredRecord> {
    let header = &batch.header;
    if header.is_control() {
        return Vec::new();
    }
    let records = match batch.records() {
        Ok(records) => records,
        Err(malformed) => panic!("the batch at {partition}/{} can't be read: {}", batch.base_offset(), malformed.0),
    };
    records
        .into_iter()
        .map(|record| StoredRecord {
            partition,
            offset: header.base_offset + i64::from(record.offset_delta),
            key: record.key,
            value: record.value,
            headers: record.headers,
            timestamp: header.base_timestamp + record.timestamp_delta,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            sequence: if header.base_sequence < 0 {
                -1
            } else {
                add_to_sequence(header.base_sequence, record.offset_delta)
            },
            leader_epoch: header.partition_leader_epoch,
        })
        .collect()
}

fn count_of(state: &State, topic: &str) -> usize {
    let Some(topic) = state.topics.get(topic) else { return 0 };
    let batches = topic.partitions.iter().flat_map(|partition| partition.best_replica().log.batches());
    batches.filter(|batch| !batch.header.is_control()).map(|batch| batch.header.record_count as usize).sum()
}

impl FakeKafka {
    fn partition<T>(&self, topic: &str, partition: i32, look: impl FnOnce(&Partition) -> T) -> T {
        let state = self.shared.look();
        let known = state.topics.get(topic).unwrap_or_else(|| panic!("there is no topic {topic:?}"));
        let found = usize::try_from(partition).ok().and_then(|index| known.partitions.get(index));
        look(found.unwrap_or_else(|| panic!("{topic:?} has no partition {partition}")))
    }

    fn replica<T>(&self, broker: i32, topic: &str, partition: i32, look: impl FnOnce(&Replica) -> T) -> T {
        self.partition(topic, partition, |found| {
            let replica = found.replicas.get(&broker);
            look(replica.unwrap_or_else(|| panic!("broker {broker} has no replica of {topic:?}/{partition}")))
        })
    }

    /// All records of a partition on its leader, up to the *log end*: compare with [`LogEnds::high_watermark`].
    ///
    /// # Panics
    /// When there is no such partition, or a batch can't be read.
    pub fn records(&self, topic: &str, partition: i32) -> Vec<StoredRecord> {
        // Batches are cheap to clone; decoding under the lock would hold up the brokers.
        let batches = self.partition(topic, partition, |found| found.best_replica().log.batches().to_vec());
        batches.iter().flat_map(|batch| records_of(partition, batch)).collect()
    }

    /// The same of one replica.
    pub fn records_on(&self, broker: i32, topic: &str, partition: i32) -> Vec<StoredRecord> {
        let batches = self.partition(topic, partition, |found| {
            found.replicas.get(&broker).map(|replica| replica.log.batches().to_vec()).unwrap_or_default()
        });
        batches.iter().flat_map(|batch| records_of(partition, batch)).collect()
    }

    /// All records of a topic, by partition and offset.
    pub fn all_records(&self, topic: &str) -> Vec<StoredRecord> {
        let count = self.shared.look().topics.get(topic).map_or(0, |topic| topic.partitions.len());
        (0..count as i32).flat_map(|partition| self.records(topic, partition)).collect()
    }

    /// How many records the topic's logs hold, up to their ends.
    pub fn record_count(&self, topic: &str) -> usize {
        count_of(&self.shared.look(), topic)
    }

    /// Waits until the topic holds at least `count` records and returns them all.
    ///
    /// # Panics
    /// When there are fewer after `limit`, with how many there are and which requests came last.
    pub fn wait_for_records(&self, topic: &str, count: usize, limit: Duration) -> Vec<StoredRecord> {
        let enough = |state: &mut State| (count_of(state, topic) >= count).then_some(());
        if self.shared.wait_for(limit, enough).is_none() {
            let requests = self.requests();
            let last: Vec<_> = requests
                .iter()
                .rev()
                .take(10)
                .map(|request| (request.broker, request.connection, request.api, &request.partitions, &request.batches))
                .collect();
            panic!(
                "{} of {count} records on {topic:?} after {limit:?}; complaints {:?}; {} requests, the last ones first: {last:#?}",
                self.record_count(topic),
                self.complaints(),
                requests.len(),
            );
        }
        self.all_records(topic)
    }

    /// Where a partition's log begins and ends, and who leads it.
    pub fn log_ends(&self, topic: &str, partition: i32) -> LogEnds {
        self.partition(topic, partition, |found| {
            let replica = found.best_replica();
            LogEnds {
                start: replica.log.start(),
                end: replica.log.end(),
                high_watermark: replica.high_watermark,
                leader: found.leader,
                leader_epoch: found.leader_epoch,
            }
        })
    }

    pub fn leader(&self, topic: &str, partition: i32) -> Option<i32> {
        self.log_ends(topic, partition).leader
    }

    /// What the leader remembers of idempotent producers.
    pub fn producers(&self, topic: &str, partition: i32) -> Vec<ActiveProducer> {
        self.partition(topic, partition, |found| found.best_replica().producers.active())
    }

    /// The same of one replica.
    pub fn producers_on(&self, broker: i32, topic: &str, partition: i32) -> Vec<ActiveProducer> {
        self.replica(broker, topic, partition, |replica| replica.producers.active())
    }

    /// What one replica has and believes, which need not be so.
    pub fn replica_state(&self, broker: i32, topic: &str, partition: i32) -> ReplicaState {
        self.replica(broker, topic, partition, |replica| ReplicaState {
            start: replica.log.start(),
            end: replica.log.end(),
            high_watermark: replica.high_watermark,
            leader_epoch: replica.known_epoch(),
            leads: replica.leads_in_epoch().is_some(),
        })
    }

    /// The in-sync replicas as the controller knows them.
    pub fn in_sync(&self, topic: &str, partition: i32) -> Vec<i32> {
        self.partition(topic, partition, |found| found.in_sync.clone())
    }

    /// Every request that arrived and could be read, in order.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.look().requests.clone()
    }

    /// Those of one API.
    pub fn requests_of(&self, api: ApiKey) -> Vec<Request> {
        self.shared.look().requests.iter().filter(|request| request.api == api).cloned().collect()
    }

    /// Waits until `count` requests fulfil `wanted`, and returns those that do.
    ///
    /// # Panics
    /// When fewer did within `limit`.
    pub fn wait_for_requests(&self, count: usize, limit: Duration, wanted: impl Fn(&Request) -> bool) -> Vec<Request> {
        let found = self.shared.wait_for(limit, |state| {
            let found: Vec<Request> = state.requests.iter().filter(|request| wanted(request)).cloned().collect();
            (found.len() >= count).then_some(found)
        });
        found.unwrap_or_else(|| panic!("fewer than {count} such requests in {limit:?}: {:#?}", self.requests()))
    }

    /// Forgets the requests seen so far.
    pub fn clear_requests(&self) {
        self.shared.change(|state| state.requests.clear());
    }

    /// What no well-behaved client does: unreadable requests, leftover bytes, a partition named twice, a version the fake lacks.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.look().complaints.clone()
    }

    /// # Panics
    /// When there are complaints.
    pub fn assert_no_complaints(&self) {
        assert_eq!(self.complaints(), Vec::<String>::new());
    }

    /// Faults that no request has met yet.
    pub fn pending_faults(&self) -> usize {
        self.shared.look().script.pending()
    }

    /// Connections that are open now, on one broker.
    pub fn open_connections(&self, broker: i32) -> usize {
        self.shared.look().connections.values().filter(|open| open.broker == broker).count()
    }

    /// Connections ever accepted, on all brokers.
    pub fn connections_opened(&self) -> u64 {
        self.shared.look().connections_opened
    }
}
