//! What a test can do to replicas: keep followers back, let them fall out of sync, freeze and thaw brokers, move leaders.
//!
//! It promises that each call has taken effect when it returns, on every replica that the call says hears of it; the others go on with
//! what they have and believe. It does not wait for clients.

use crate::FakeKafka;
use crate::state::{Condition, State};
use crate::topic::Partition;

impl FakeKafka {
    // ---- brokers that hear nothing

    /// The broker accepts and reads nothing from now on, as if stopped by SIGSTOP. It leads what it led until [`move_leader`] says otherwise,
    /// its followers copy nothing, and what it has in hand it answers only after the thaw.
    ///
    /// [`move_leader`]: FakeKafka::move_leader
    pub fn freeze(&self, broker: i32) {
        self.cut_off(broker, Condition::Frozen);
    }

    /// The broker goes on, and hears at once what happened in between: as an ex-leader it answers 6.
    pub fn thaw(&self, broker: i32) {
        self.tell(broker);
    }

    /// The broker goes on and believes for now what it believed before: an ex-leader takes writes that are lost later, answers 45 to valid
    /// batches, and stale data without an error to Fetch, ListOffsets and DescribeProducers; a follower does the last, too. Who names a newer
    /// leader epoch is answered 75. Metadata is what it was. [`tell`](FakeKafka::tell) ends it.
    pub fn thaw_stale(&self, broker: i32) {
        self.cut_off(broker, Condition::Stale);
    }

    fn cut_off(&self, broker: i32, condition: Condition) {
        self.shared.change(|state| {
            state.cut_off(broker, condition);
            state.replicate();
        });
    }

    /// The broker hears of all elections; its logs follow the leaders', what only it had is cut off, and it knows of producers what is left.
    pub fn tell(&self, broker: i32) {
        self.shared.change(|state| {
            assert!(state.runs(broker), "broker {broker} is stopped");
            state.bring_up_to_date(broker);
        });
    }

    // ---- followers

    /// No follower copies what the leader appends from now on: the high watermark stays, acks=all waits. What is not replicated when the
    /// leader changes is lost.
    pub fn hold_replication(&self, topic: &str, partition: i32) {
        self.with_partition(topic, partition, |partition| partition.held = true);
    }

    pub fn release_replication(&self, topic: &str, partition: i32) {
        self.with_partition(topic, partition, |partition| partition.held = false);
    }

    /// This follower copies nothing from now on, the others do. It stays in sync, so the high watermark waits for it, and it may be elected
    /// with what it has, until [`expel`](FakeKafka::expel).
    pub fn hold_follower(&self, topic: &str, partition: i32, broker: i32) {
        self.with_replica(topic, partition, broker, |replica| replica.held = true);
    }

    pub fn release_follower(&self, topic: &str, partition: i32, broker: i32) {
        self.with_replica(topic, partition, broker, |replica| replica.held = false);
    }

    /// `replica.lag.time.max.ms` has passed: a follower that is held, frozen or stale is in sync no longer, until it copies again. The high
    /// watermark no longer waits for it, and only [`move_leader`](FakeKafka::move_leader) makes it a leader.
    pub fn expel(&self, topic: &str, partition: i32, broker: i32) {
        self.with_partition(topic, partition, |found| {
            assert!(found.leader != Some(broker), "broker {broker} leads {topic:?}/{partition}");
            found.in_sync.retain(|&id| id != broker);
        });
    }

    /// A new replica copies what the leader's log still holds; what it remembers of producers comes from those batches alone.
    pub fn add_replica(&self, topic: &str, partition: i32, broker: i32) {
        self.with_partition(topic, partition, |partition| {
            partition.replicas.entry(broker).or_default();
            partition.tell(&|id| id == broker);
        });
    }

    // ---- leaders

    /// Another replica leads from now on, with the next epoch and its own log. The old leader answers 6, unless it is frozen or stale. A leader
    /// that was not in sync (an unclean election) takes acknowledged records away.
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
                    partition.in_sync = vec![leader];
                }
            }
            partition.elect(leader, &informed);
            state.replicate();
        });
    }

    pub(crate) fn with_partition<T>(&self, topic: &str, index: i32, change: impl FnOnce(&mut Partition) -> T) -> T {
        self.shared.change(|state| {
            let known = state.topics.get_mut(topic).unwrap_or_else(|| panic!("there is no topic {topic:?}"));
            let found = usize::try_from(index).ok().and_then(|index| known.partitions.get_mut(index));
            let result = change(found.unwrap_or_else(|| panic!("{topic:?} has no partition {index}")));
            state.replicate();
            result
        })
    }

    pub(crate) fn with_replica<T>(
        &self,
        topic: &str,
        index: i32,
        broker: i32,
        change: impl FnOnce(&mut crate::replica::Replica) -> T,
    ) -> T {
        self.with_partition(topic, index, |partition| {
            let found = partition.replicas.get_mut(&broker);
            change(found.unwrap_or_else(|| panic!("broker {broker} has no replica of {topic:?}/{index}")))
        })
    }
}
