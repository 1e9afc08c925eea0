//! Topics, partitions and their replicas: who leads, what each replica holds, how far it is replicated.
//!
//! It promises Kafka's rules of replication with an instant follower: what the leader appends is on every in-sync replica at once, unless
//! a test holds replication; a replica that takes over brings its own log, and what it had not copied is gone. It does not know
//! sockets or requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::codes;
use crate::log::{BatchHeader, Log, StoredBatch};
use crate::producer_state::{Producers, Verdict};
use crate::record::Record;

/// Default of `message.max.bytes`.
pub const MAX_MESSAGE_BYTES_DEFAULT: usize = 1_048_588;

/// A rule that refuses records of a topic by content.
#[derive(Clone)]
pub(crate) struct Rejection {
    pub predicate: Arc<dyn Fn(&Record) -> bool + Send + Sync>,
    pub code: i16,
    pub names_records: bool,
}

/// What a topic accepts.
#[derive(Clone)]
pub(crate) struct TopicRules {
    pub max_message_bytes: usize,
    pub min_insync_replicas: usize,
    pub clock_skew_max: Option<Duration>,
    pub rejection: Option<Rejection>,
    pub refused: Vec<Access>,
}

impl Default for TopicRules {
    fn default() -> Self {
        TopicRules {
            max_message_bytes: MAX_MESSAGE_BYTES_DEFAULT,
            min_insync_replicas: 1,
            clock_skew_max: None,
            rejection: None,
            refused: Vec::new(),
        }
    }
}

/// What an ACL may deny on a topic; the answer is 29.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Metadata and ListOffsets.
    Describe,
    /// Produce.
    Write,
    /// Fetch and DescribeProducers.
    Read,
}

pub(crate) struct Topic {
    pub rules: TopicRules,
    pub partitions: Vec<Partition>,
}

/// One replica: its log and what it remembers of producers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    pub log: Log,
    pub producers: Producers,
    pub high_watermark: i64,
    /// The epoch in which this replica believes it leads. A frozen ex-leader believes it until it hears otherwise.
    pub leads_in_epoch: Option<i32>,
}

impl Replica {
    fn rebuild_producers(&mut self) {
        let mut producers = Producers::default();
        for batch in self.log.batches() {
            producers.remember(&batch.header);
        }
        self.producers = producers;
    }

    /// Fetches from the leader: cuts off what the leader does not have, copies what is missing.
    fn follow(&mut self, leader: &Replica) {
        if self.log.end() < leader.log.start() {
            self.log = Log::starting_at(leader.log.start());
            self.producers = Producers::default();
        }
        if self.log.truncate_to(self.log.common_prefix_end(&leader.log)) {
            self.rebuild_producers();
        }
        let from = leader.log.index_from(self.log.end());
        for batch in &leader.log.batches()[from..] {
            self.producers.remember(&batch.header);
            self.log.append(batch.clone());
        }
        self.log.delete_before(leader.log.start());
        self.high_watermark = leader.high_watermark;
    }
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    pub base_offset: i64,
    /// The high watermark that acknowledges it: last offset + 1.
    pub required_offset: i64,
    /// Set for a duplicate: its answer carries the stored batch's timestamp as if it were the append time. Found on a real broker; it
    /// says nothing about `message.timestamp.type`.
    pub duplicate_of: Option<i64>,
}

pub(crate) struct Partition {
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    /// In order of preference.
    pub replicas: BTreeMap<i32, Replica>,
    pub in_sync: Vec<i32>,
    /// While held, followers copy nothing and the high watermark stays.
    pub held: bool,
    /// A foreign transaction is open from here on: isolation 1 reads up to it.
    pub open_transaction_from: Option<i64>,
}

impl Partition {
    pub fn new(replicas: &[i32]) -> Partition {
        let leader = replicas[0];
        let mut partition = Partition {
            leader: Some(leader),
            leader_epoch: 0,
            replicas: replicas.iter().map(|&id| (id, Replica::default())).collect(),
            in_sync: replicas.to_vec(),
            held: false,
            open_transaction_from: None,
        };
        partition.lead(leader, 0);
        partition
    }

    fn lead(&mut self, broker: i32, epoch: i32) {
        if let Some(replica) = self.replicas.get_mut(&broker) {
            replica.leads_in_epoch = Some(epoch);
        }
    }

    /// The leader's replica, as the cluster sees it.
    pub fn leader_replica(&self) -> Option<&Replica> {
        self.leader.and_then(|id| self.replicas.get(&id))
    }

    /// The replica a test looks at: the leader's, else the longest one.
    pub fn best_replica(&self) -> &Replica {
        self.leader_replica()
            .or_else(|| self.replicas.values().max_by_key(|replica| replica.log.end()))
            .expect("a partition has a replica")
    }

    /// A new leader with the next epoch. `informed` brokers learn of it at once; a frozen one goes on believing.
    pub fn elect(&mut self, leader: Option<i32>, informed: &dyn Fn(i32) -> bool) {
        self.leader = leader;
        self.leader_epoch += 1;
        for (&id, replica) in &mut self.replicas {
            if informed(id) {
                replica.leads_in_epoch = None;
            }
        }
        if let Some(leader) = leader {
            self.lead(leader, self.leader_epoch);
        }
    }

    /// Brings the in-sync replicas up to the leader and the high watermark up to the log end, unless held.
    /// `healthy`: the broker runs, is not frozen and knows the current leader.
    pub fn replicate(&mut self, healthy: &dyn Fn(i32) -> bool) {
        let Some(leader) = self.leader else { return };
        self.in_sync.retain(|&id| id == leader || healthy(id));
        if self.held || !healthy(leader) {
            return;
        }
        let mut source = self.replicas.remove(&leader).expect("the leader is a replica");
        source.high_watermark = source.log.end();
        for (&id, replica) in &mut self.replicas {
            if healthy(id) {
                replica.follow(&source);
                if !self.in_sync.contains(&id) {
                    self.in_sync.push(id);
                }
            }
        }
        self.replicas.insert(leader, source);
    }

    /// Appends a validated batch on `broker`, which believes it leads. Nothing is replicated yet.
    pub fn append(
        &mut self,
        broker: i32,
        header: &BatchHeader,
        bytes: &[u8],
        strict_unknown: bool,
    ) -> Result<Appended, i16> {
        let replica = self.replicas.get_mut(&broker).ok_or(codes::NOT_LEADER_OR_FOLLOWER)?;
        let epoch = replica.leads_in_epoch.ok_or(codes::NOT_LEADER_OR_FOLLOWER)?;
        if header.has_producer() {
            match replica.producers.judge(header, strict_unknown) {
                Verdict::Append => {}
                Verdict::Duplicate { base_offset, last_offset, timestamp } => {
                    return Ok(Appended {
                        base_offset,
                        required_offset: last_offset + 1,
                        duplicate_of: Some(timestamp),
                    });
                }
                Verdict::Refuse(code) => return Err(code),
            }
        }
        let batch = StoredBatch::place(bytes, replica.log.end(), epoch);
        let appended =
            Appended { base_offset: batch.base_offset(), required_offset: batch.last_offset() + 1, duplicate_of: None };
        replica.producers.remember(&batch.header);
        replica.log.append(batch);
        Ok(appended)
    }
}
