//! Which sender carries which batch.
//!
//! Promises: a lane stays with one sender of its leader; threads exist only where there is work. Does not know: sockets, answers.

use super::job::{Job, Queue};
use super::{Shared, answer, lock, sender};
use crate::metadata::{Lead, Snapshot};
use crate::outcome::{Full, Manner, Outcome, Why};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// All brokers' senders. The lock is held for a look-up, never while anything waits.
pub(crate) struct Pool {
    senders_per_broker: usize,
    brokers: Mutex<HashMap<i32, BrokerSenders>>,
}

struct BrokerSenders {
    merged: Vec<Arc<Queue>>,
    alone: Arc<Queue>,
    /// Topic, partition: index in `merged`. Dealt out in turn, so that two lanes use two senders.
    lanes: HashMap<Box<str>, HashMap<i32, usize>>,
    dealt: usize,
}

impl BrokerSenders {
    fn new(senders: usize) -> Self {
        BrokerSenders {
            merged: (0..senders).map(|_| Arc::new(Queue::new())).collect(),
            alone: Arc::new(Queue::new()),
            lanes: HashMap::new(),
            dealt: 0,
        }
    }

    fn index(&mut self, topic: &str, partition: i32) -> usize {
        if let Some(index) = self.lanes.get(topic).and_then(|partitions| partitions.get(&partition)) {
            return *index;
        }
        let index = self.dealt % self.merged.len();
        self.dealt += 1;
        self.lanes.entry(topic.into()).or_default().insert(partition, index);
        index
    }

    fn queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.merged.iter().chain(std::iter::once(&self.alone))
    }
}

impl Pool {
    pub(crate) fn new(senders_per_broker: usize) -> Self {
        Pool { senders_per_broker, brokers: Mutex::new(HashMap::new()) }
    }

    pub(crate) fn interrupt(&self) {
        for queue in lock(&self.brokers).values().flat_map(BrokerSenders::queues) {
            queue.interrupt();
        }
    }

    /// Gives a batch to its lane's sender at this broker, starting the thread if need be.
    pub(crate) fn push(shared: &Arc<Shared>, broker: i32, job: Job, manner: Manner) -> Result<(), Full> {
        let (queue, name) = {
            let mut brokers = lock(&shared.pool.brokers);
            let senders = brokers.entry(broker).or_insert_with(|| BrokerSenders::new(shared.pool.senders_per_broker));
            match manner {
                Manner::Alone => (Arc::clone(&senders.alone), format!("kafka-{broker}-alone")),
                Manner::Merged => {
                    let index = senders.index(&job.batch.topic, job.batch.partition);
                    (Arc::clone(&senders.merged[index]), format!("kafka-{broker}-{index}"))
                }
            }
        };
        let served = Arc::clone(&queue);
        let pushed = queue.push(job, || {
            let for_thread = Arc::clone(shared);
            shared.spawn(name, move || sender::Sender::new(&for_thread, broker, &served, manner).run())
        });
        pushed.or_else(|(job, error)| {
            job.answer_now(Outcome::NotAppended(Why::new(format!("no thread to send with: {error}"))))
        })
    }

    /// Takes back whatever one owner has waiting.
    pub(crate) fn withdraw(&self, mailbox: u64) -> Vec<Job> {
        let brokers = lock(&self.brokers);
        brokers
            .values()
            .flat_map(BrokerSenders::queues)
            .flat_map(|queue| queue.withdraw(|job| job.mailbox.id == mailbox))
            .collect()
    }

    /// Answers waiting batches whose partition another broker leads by now: their sender may be stuck on a broker that is gone. One
    /// that travels alone is cut off, or it would wait there for all of `request_timeout_ms`.
    pub(crate) fn give_up_moved(shared: &Shared, snapshot: &Snapshot) {
        let moved: Vec<_> = {
            let brokers = lock(&shared.pool.brokers);
            let mut moved = Vec::new();
            for (broker, senders) in brokers.iter() {
                senders.alone.cut_off(|topic, partition| {
                    matches!(snapshot.lead(topic, partition), Lead::Broker(leader) if leader != *broker)
                });
                for queue in senders.queues() {
                    let withdrawn = queue.withdraw(|Job { batch, .. }| {
                        let lead = snapshot.lead(&batch.topic, batch.partition);
                        !matches!(lead, Lead::Broker(leader) if leader == *broker)
                    });
                    moved.extend(withdrawn.into_iter().map(|job| (*broker, job)));
                }
            }
            moved
        };
        for (broker, job) in moved {
            let text = format!("not sent, because broker {broker} does not lead the partition any more");
            answer(job, Outcome::NotAppended(Why::new(text)), &shared.stopping);
        }
    }
}
