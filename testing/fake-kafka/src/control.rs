//! What a test can do to the cluster while it runs: faults, brokers, leaders, topics, producers, clocks.
//!
//! It promises that each call has taken effect when it returns. It does not wait for clients.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use crate::FakeKafka;
use crate::broker;
use crate::builder::Listener;
use crate::faults::{Fault, Gate};
use crate::log::{BATCH_HEADER_BYTES, BatchHeader, checksum};
use crate::record::Record;
use crate::state::{Condition, State};
use crate::topic::{Access, Partition, Rejection, Topic, TopicRules};

impl FakeKafka {
    // ---- faults

    /// The next Produce that names this partition (and has no earlier fault to meet) meets `fault`.
    pub fn fault(&self, topic: &str, partition: i32, fault: Fault) {
        self.fault_partition(ApiKey::Produce, topic, partition, fault);
    }

    /// The same for another API; Metadata names topics with partition -1.
    pub fn fault_partition(&self, api: ApiKey, topic: &str, partition: i32, fault: Fault) {
        self.shared.change(|state| state.script.at_partition(api, topic, partition, fault));
    }

    /// The next request of this API to this broker.
    pub fn fault_broker(&self, broker: i32, api: ApiKey, fault: Fault) {
        self.shared.change(|state| state.script.at_broker(api, broker, fault));
    }

    /// The next request of this API to any broker.
    pub fn fault_api(&self, api: ApiKey, fault: Fault) {
        self.shared.change(|state| state.script.anywhere(api, fault));
    }

    pub fn clear_faults(&self) {
        self.shared.change(|state| state.script.clear());
    }

    /// A closed gate for [`Fault::DelayUntil`] and [`Fault::AppendThenDelayUntil`].
    pub fn gate(&self) -> Gate {
        Gate::new(Arc::downgrade(&self.shared))
    }

    // ---- brokers

    /// Kills a broker: its connections die, its port refuses, other replicas take over (with elections on).
    pub fn stop(&self, broker: i32) {
        let port = self.shared.change(|state| {
            let stopped = state.brokers.get_mut(&broker).unwrap_or_else(|| panic!("there is no broker {broker}"));
            stopped.condition = Condition::Stopped;
            let port = stopped.port;
            state.close_connections_of(broker);
            state.run_elections();
            state.replicate();
            port
        });
        self.end_listener(broker, port);
    }

    /// Starts a stopped broker on its old port. It remembers the last batch of each producer, and catches up with the leaders.
    pub fn restart(&self, broker: i32) {
        let port = {
            let state = self.shared.look();
            assert!(!state.brokers[&broker].condition.runs(), "broker {broker} runs");
            state.brokers[&broker].port
        };
        let listener = broker::bind(port);
        self.shared.change(|state| {
            let started = state.brokers.get_mut(&broker).expect("it was there a moment ago");
            started.condition = Condition::Running;
            started.coordinator_loaded = false;
            for partition in state.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
                if let Some(replica) = partition.replicas.get_mut(&broker) {
                    replica.producers.keep_last_batch_only();
                }
            }
            state.run_elections();
            state.replicate();
        });
        self.start_listener(broker, listener);
    }

    /// The broker accepts and reads nothing from now on, as if stopped by SIGSTOP. It leads what it led until [`move_leader`] says otherwise,
    /// and what it has in hand it answers only after the thaw.
    ///
    /// [`move_leader`]: FakeKafka::move_leader
    pub fn freeze(&self, broker: i32) {
        self.with_broker(broker, |broker| broker.condition = Condition::Frozen);
    }

    /// The broker goes on, and hears at once what happened in between: as an ex-leader it answers 6.
    pub fn thaw(&self, broker: i32) {
        self.tell(broker);
    }

    /// The broker goes on and believes for now what it believed before: an ex-leader takes writes that are lost later, answers 45 to valid
    /// batches and stale data to DescribeProducers. [`tell`](FakeKafka::tell) ends it.
    pub fn thaw_stale(&self, broker: i32) {
        self.with_broker(broker, |broker| broker.condition = Condition::Stale);
    }

    /// The broker hears of all elections; its logs follow the leaders', what only it had is cut off.
    pub fn tell(&self, broker: i32) {
        self.shared.change(|state| {
            let told = state.brokers.get_mut(&broker).unwrap_or_else(|| panic!("there is no broker {broker}"));
            assert!(told.condition.runs(), "broker {broker} is stopped");
            told.condition = Condition::Running;
            for partition in state.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
                let leads = partition.leader == Some(broker);
                if let Some(replica) = partition.replicas.get_mut(&broker)
                    && !leads
                {
                    replica.leads_in_epoch = None;
                }
            }
            state.replicate();
        });
    }

    fn with_broker(&self, broker: i32, change: impl FnOnce(&mut crate::state::Broker)) {
        self.shared.change(|state| {
            change(state.brokers.get_mut(&broker).unwrap_or_else(|| panic!("there is no broker {broker}")));
            state.replicate();
        });
    }

    /// Closes a broker's connections, nothing else.
    pub fn close_connections(&self, broker: i32) {
        self.shared.change(|state| state.close_connections_of(broker));
    }

    pub fn set_listener(&self, broker: i32, listener: Listener) {
        self.with_broker(broker, |broker| broker.listener = listener);
    }

    /// What Metadata says of a broker's address: a listener that can't be reached, or not resolved.
    pub fn advertise(&self, broker: i32, host: &str, port: i32) {
        self.with_broker(broker, |broker| broker.advertised = Some((host.to_owned(), port)));
    }

    /// The brokers' clock is this far ahead of this machine's (behind when negative).
    pub fn set_clock_offset_ms(&self, offset: i64) {
        self.shared.change(|state| state.clock_offset_ms = offset);
    }

    // ---- partitions

    fn with_partition<T>(&self, topic: &str, index: i32, change: impl FnOnce(&mut Partition) -> T) -> T {
        self.shared.change(|state| {
            let known = state.topics.get_mut(topic).unwrap_or_else(|| panic!("there is no topic {topic:?}"));
            let found = usize::try_from(index).ok().and_then(|index| known.partitions.get_mut(index));
            let result = change(found.unwrap_or_else(|| panic!("{topic:?} has no partition {index}")));
            state.replicate();
            result
        })
    }

    /// The leader's appends are not replicated from now on: the high watermark stays, acks=all waits. What is not replicated when the leader
    /// changes is lost.
    pub fn hold_replication(&self, topic: &str, partition: i32) {
        self.with_partition(topic, partition, |partition| partition.held = true);
    }

    pub fn release_replication(&self, topic: &str, partition: i32) {
        self.with_partition(topic, partition, |partition| partition.held = false);
    }

    /// Another replica leads from now on, with the next epoch and its own log. The old leader answers 6, unless it is frozen.
    pub fn move_leader(&self, topic: &str, partition: i32, leader: i32) {
        self.elect(topic, partition, Some(leader));
    }

    /// Nobody leads: Metadata says 5, Produce 6.
    pub fn depose_leader(&self, topic: &str, partition: i32) {
        self.elect(topic, partition, None);
    }

    fn elect(&self, topic: &str, index: i32, leader: Option<i32>) {
        self.shared.change(|state| {
            let State { topics, brokers, .. } = state;
            let informed = |id: i32| brokers.get(&id).is_some_and(|broker| broker.condition.informed());
            let (partition, _) = crate::requests::find(topics, topic, index)
                .unwrap_or_else(|| panic!("there is no partition {topic:?}/{index}"));
            if let Some(leader) = leader {
                assert!(
                    partition.replicas.contains_key(&leader),
                    "broker {leader} has no replica of {topic:?}/{index}"
                );
                if !partition.in_sync.contains(&leader) {
                    partition.in_sync.push(leader);
                }
            }
            partition.elect(leader, &informed);
            state.replicate();
        });
    }

    /// A new replica copies what the leader's log still holds; what it remembers of producers comes from those batches alone.
    pub fn add_replica(&self, topic: &str, partition: i32, broker: i32) {
        self.with_partition(topic, partition, |partition| {
            partition.replicas.entry(broker).or_default();
        });
    }

    /// Retention: offsets below are gone on all replicas. What is remembered of producers stays.
    pub fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        self.with_partition(topic, partition, |partition| {
            for replica in partition.replicas.values_mut() {
                replica.log.delete_before(offset);
            }
        });
    }

    /// Compaction took the batch that began at this offset. True when there was one.
    pub fn compact_away(&self, topic: &str, partition: i32, base_offset: i64) -> bool {
        self.with_partition(topic, partition, |partition| {
            let mut found = false;
            for replica in partition.replicas.values_mut() {
                found |= replica.log.compact_away(base_offset);
            }
            found
        })
    }

    /// Someone else's record, without a producer id, goes to the leader's log. Returns its offset.
    pub fn append_foreign(&self, topic: &str, partition: i32, value: &[u8]) -> i64 {
        self.append_own(topic, partition, &foreign_batch(value, 0))
    }

    /// A transaction marker, as a control batch.
    pub fn append_control_batch(&self, topic: &str, partition: i32) -> i64 {
        self.append_own(topic, partition, &foreign_batch(&[0; 6], 0x30))
    }

    fn append_own(&self, topic: &str, index: i32, batch: &[u8]) -> i64 {
        self.with_partition(topic, index, |partition| {
            let leader = partition.leader.unwrap_or_else(|| panic!("nobody leads {topic:?}/{index}"));
            let header = BatchHeader::parse(batch).expect("made here");
            let appended = partition.append(leader, &header, batch, false);
            appended.expect("a batch without a producer is never refused").base_offset
        })
    }

    /// A foreign transaction is open from `offset` on: readers with isolation 1 see nothing beyond. `None` ends it.
    pub fn open_transaction_from(&self, topic: &str, partition: i32, offset: Option<i64>) {
        self.with_partition(topic, partition, |partition| partition.open_transaction_from = offset);
    }

    /// The periodic expiry of producers runs now, on all replicas: by the *records'* newest timestamp.
    pub fn expire_producers(&self) {
        self.shared.change(|state| {
            let oldest = state.now_ms() - state.settings.producer_expiration.as_millis() as i64;
            let partitions = state.topics.values_mut().flat_map(|topic| &mut topic.partitions);
            for replica in partitions.flat_map(|partition| partition.replicas.values_mut()) {
                replica.producers.expire(oldest);
            }
        });
    }

    /// All replicas of a partition forget one producer.
    pub fn forget_producer(&self, topic: &str, partition: i32, producer_id: i64) {
        self.with_partition(topic, partition, |partition| {
            for replica in partition.replicas.values_mut() {
                replica.producers.forget(producer_id);
            }
        });
    }

    // ---- topics

    /// A topic with up to three replicas; also how a deleted one comes back, empty and with leader epoch 0.
    pub fn create_topic(&self, name: &str, partitions: i32) {
        self.shared.change(|state| {
            let replication = state.settings.brokers.min(3);
            create_topic(state, name, partitions, replication);
        });
    }

    pub fn delete_topic(&self, name: &str) {
        self.shared.change(|state| {
            assert!(state.topics.remove(name).is_some(), "there is no topic {name:?}");
        });
    }

    /// Raises the number of partitions.
    pub fn add_partitions(&self, topic: &str, count: i32) {
        self.shared.change(|state| {
            let brokers = state.settings.brokers;
            let known = state.topics.get_mut(topic).unwrap_or_else(|| panic!("there is no topic {topic:?}"));
            assert!(count as usize > known.partitions.len(), "partitions are only added");
            for index in known.partitions.len() as i32..count {
                known.partitions.push(Partition::new(&replica_ids(brokers, index, brokers.min(3))));
            }
            // A new partition whose first choice is down has another leader.
            state.run_elections();
            state.replicate();
        });
    }

    fn with_rules(&self, topic: &str, change: impl FnOnce(&mut TopicRules)) {
        self.shared.change(|state| {
            change(&mut state.topics.get_mut(topic).unwrap_or_else(|| panic!("there is no topic {topic:?}")).rules);
        });
    }

    /// `max.message.bytes`: a batch beyond it is answered 10.
    pub fn set_max_message_bytes(&self, topic: &str, bytes: usize) {
        self.with_rules(topic, |rules| rules.max_message_bytes = bytes);
    }

    /// `min.insync.replicas`: with fewer, acks=all is answered 19.
    pub fn set_min_insync_replicas(&self, topic: &str, count: usize) {
        self.with_rules(topic, |rules| rules.min_insync_replicas = count);
    }

    /// Batches stamped further than this from the brokers' clock are answered 32. `None`: no check, the default.
    pub fn check_clock(&self, topic: &str, skew_max: Option<Duration>) {
        self.with_rules(topic, |rules| rules.clock_skew_max = skew_max);
    }

    /// An ACL that denies: answered 29.
    pub fn deny(&self, topic: &str, access: Access) {
        self.with_rules(topic, |rules| rules.refused.push(access));
    }

    pub fn allow(&self, topic: &str, access: Access) {
        self.with_rules(topic, |rules| rules.refused.retain(|&denied| denied != access));
    }

    /// A batch with any record for which this is true is answered 87, and from Produce 8 on with the records named.
    pub fn reject_records(&self, topic: &str, predicate: impl Fn(&Record) -> bool + Send + Sync + 'static) {
        self.reject_records_with(topic, crate::codes::INVALID_RECORD, true, predicate);
    }

    /// The same with any code, and with or without naming the records.
    pub fn reject_records_with(
        &self,
        topic: &str,
        code: i16,
        names_records: bool,
        predicate: impl Fn(&Record) -> bool + Send + Sync + 'static,
    ) {
        let rejection = Rejection { predicate: Arc::new(predicate), code, names_records };
        self.with_rules(topic, |rules| rules.rejection = Some(rejection));
    }

    /// Ends [`reject_records`](FakeKafka::reject_records).
    pub fn accept_records(&self, topic: &str) {
        self.with_rules(topic, |rules| rules.rejection = None);
    }
}

fn replica_ids(brokers: i32, index: i32, replication: i32) -> Vec<i32> {
    (0..replication).map(|n| (index + n) % brokers + 1).collect()
}

pub(crate) fn create_topic(state: &mut State, name: &str, partitions: i32, replication: i32) {
    let brokers = state.settings.brokers;
    assert!((1..=brokers).contains(&replication), "{replication} replicas on {brokers} brokers");
    assert!(!state.topics.contains_key(name), "topic {name:?} exists");
    let partitions = (0..partitions).map(|index| Partition::new(&replica_ids(brokers, index, replication))).collect();
    state.topics.insert(name.to_owned(), Topic { rules: TopicRules::default(), partitions });
    state.run_elections();
    state.replicate();
}

/// A batch of one record with a null key and no producer.
fn foreign_batch(value: &[u8], attributes: i16) -> Vec<u8> {
    let zigzag = |number: i64, out: &mut Vec<u8>| {
        let mut raw = ((number << 1) ^ (number >> 63)) as u64;
        while raw >= 0x80 {
            out.push(raw as u8 | 0x80);
            raw >>= 7;
        }
        out.push(raw as u8);
    };
    let mut body = vec![0, 0, 0, 1]; // attributes, timestamp delta 0, offset delta 0, null key
    zigzag(value.len() as i64, &mut body);
    body.extend_from_slice(value);
    body.push(0); // no headers
    let mut batch = vec![0; BATCH_HEADER_BYTES];
    zigzag(body.len() as i64, &mut batch);
    batch.extend_from_slice(&body);
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[43..51].copy_from_slice(&(-1i64).to_be_bytes());
    batch[51..53].copy_from_slice(&(-1i16).to_be_bytes());
    batch[53..57].copy_from_slice(&(-1i32).to_be_bytes());
    batch[57..61].copy_from_slice(&1i32.to_be_bytes());
    let crc = checksum(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch
}
