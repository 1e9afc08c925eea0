//! What a test can do to the cluster while it runs: faults, brokers, topics and their rules, clocks. Replicas and leaders are in
//! `replication`, what lies in the logs is in `logs`.
//!
//! It promises that each call has taken effect when it returns. It does not wait for clients.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use crate::FakeKafka;
use crate::broker;
use crate::builder::Listener;
use crate::faults::{Fault, Gate};
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
            stopped.life += 1;
            let port = stopped.port;
            state.close_connections_of(broker);
            state.run_elections();
            state.replicate();
            port
        });
        self.end_listener(broker, port);
    }

    /// Another cluster takes over the ports, with topics of the same names and shapes: all logs are empty, no producer is known, and
    /// producer ids are given out from `first_producer_id` on. Its brokers' connections are new ones.
    pub fn become_cluster(&self, id: Option<&str>, first_producer_id: i64) {
        self.shared.change(|state| {
            state.settings.cluster_id = id.map(str::to_owned);
            state.next_producer_id = first_producer_id;
            let topics: Vec<(String, i32)> =
                state.topics.iter().map(|(name, topic)| (name.clone(), topic.partitions.len() as i32)).collect();
            state.topics.clear();
            let replication = state.settings.brokers.min(3);
            for (name, partitions) in topics {
                create_topic(state, &name, partitions, replication);
            }
            let brokers: Vec<i32> = state.brokers.keys().copied().collect();
            for broker in brokers {
                state.close_connections_of(broker);
            }
        });
    }

    /// As after a change of cluster behind a proxy that keeps connections open.
    pub fn rename_cluster(&self, id: Option<&str>) {
        self.shared.change(|state| state.settings.cluster_id = id.map(str::to_owned));
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
            started.coordinator_loaded = false;
            for partition in state.topics.values_mut().flat_map(|topic| &mut topic.partitions) {
                if let Some(replica) = partition.replicas.get_mut(&broker) {
                    replica.producers.keep_last_batch_only();
                }
            }
            state.bring_up_to_date(broker);
        });
        self.start_listener(broker, listener);
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

    /// An ACL that denies: answered 29, whether there is such a topic or not.
    pub fn deny(&self, topic: &str, access: Access) {
        self.shared.change(|state| state.denied.insert((topic.to_owned(), access)));
    }

    pub fn allow(&self, topic: &str, access: Access) {
        self.shared.change(|state| state.denied.remove(&(topic.to_owned(), access)));
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
    state.topics_created += 1;
    let topic = Topic { incarnation: state.topics_created, rules: TopicRules::default(), partitions };
    state.topics.insert(name.to_owned(), topic);
    state.run_elections();
    state.replicate();
}
