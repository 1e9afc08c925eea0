//! Topics and partitions: who leads, who is in sync, how far the leader's log is replicated.
//!
//! It promises Kafka's rules of replication with followers that copy at once, unless a test holds them: the high watermark is what every
//! in-sync replica has, a replica that takes over brings its own log, and what it had not copied is gone. It does not know
//! sockets or requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::codes;
use crate::log::{BatchHeader, StoredBatch};
use crate::producer_state::Verdict;
use crate::record::Record;
use crate::replica::Replica;

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
}

impl Default for TopicRules {
    fn default() -> Self {
        TopicRules {
            max_message_bytes: MAX_MESSAGE_BYTES_DEFAULT,
            min_insync_replicas: 1,
            clock_skew_max: None,
            rejection: None,
        }
    }
}

/// What an ACL may deny on a topic; the answer is 29.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Metadata and ListOffsets.
    Describe,
    /// Produce.
    Write,
    /// Fetch and DescribeProducers.
    Read,
}

pub(crate) struct Topic {
    /// Tells a topic from one of the same name that was deleted.
    pub incarnation: u64,
    pub rules: TopicRules,
    pub partitions: Vec<Partition>,
}

/// How a partition's leader reaches a broker that has a follower of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Its followers copy at once.
    Copies,
    /// Its followers copy nothing and have not been missed yet: they are in sync all the same, and the high watermark waits for them.
    Lags,
    /// Its followers are out of sync.
    Gone,
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
    pub replicas: BTreeMap<i32, Replica>,
    /// As the controller knows it, in order of preference for the next leader.
    pub in_sync: Vec<i32>,
    /// While held, no follower copies anything and the high watermark stays.
    pub held: bool,
    /// A foreign transaction is open from here on: isolation 1 reads up to it.
    pub open_transaction_from: Option<i64>,
}

/// A partition as Metadata shows it.
#[derive(Clone, Debug)]
pub(crate) struct PartitionView {
    pub leader: Option<i32>,
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync: Vec<i32>,
}

impl Partition {
    pub fn new(replicas: &[i32]) -> Partition {
        let mut partition = Partition {
            leader: Some(replicas[0]),
            leader_epoch: 0,
            replicas: replicas.iter().map(|&id| (id, Replica::default())).collect(),
            in_sync: replicas.to_vec(),
            held: false,
            open_transaction_from: None,
        };
        partition.tell(&|_| true);
        partition
    }

    /// Brokers that hear it learn who leads in which epoch. The others go on believing what they believed.
    pub fn tell(&mut self, hears: &dyn Fn(i32) -> bool) {
        for (&id, replica) in &mut self.replicas {
            if hears(id) {
                replica.hear(self.leader_epoch, self.leader == Some(id));
                replica.in_sync.clone_from(&self.in_sync);
            }
        }
    }

    pub fn view(&self) -> PartitionView {
        PartitionView {
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            replicas: self.replicas.keys().copied().collect(),
            in_sync: self.in_sync.clone(),
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
        self.tell(informed);
    }

    /// Lets followers copy, and the high watermark rise to what every in-sync replica has, as far as the broker of each can be reached.
    pub fn replicate(&mut self, reach: &dyn Fn(i32) -> Reach) {
        let Some(leader) = self.leader else { return };
        self.in_sync.retain(|&id| id == leader || reach(id) != Reach::Gone);
        // A leader that is frozen, or has not heard that it leads, serves no follower.
        if reach(leader) != Reach::Copies {
            return;
        }
        let mut source = self.replicas.remove(&leader).expect("the leader is a replica");
        if !self.held {
            let copies = |id: i32, replica: &Replica| !replica.held && reach(id) == Reach::Copies;
            for (&id, replica) in &mut self.replicas {
                if copies(id, replica) {
                    replica.follow(&source);
                    if !self.in_sync.contains(&id) {
                        self.in_sync.push(id);
                    }
                }
            }
            let followers = self.in_sync.iter().filter_map(|id| self.replicas.get(id));
            let everywhere =
                followers.map(|replica| replica.log.shared_end(&source.log)).fold(source.log.end(), i64::min);
            source.high_watermark = source.high_watermark.max(everywhere);
            for (&id, replica) in &mut self.replicas {
                if copies(id, replica) {
                    replica.high_watermark = source.high_watermark.min(replica.log.end());
                }
            }
        }
        source.in_sync.clone_from(&self.in_sync);
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
        let epoch = replica.leads_in_epoch().ok_or(codes::NOT_LEADER_OR_FOLLOWER)?;
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
