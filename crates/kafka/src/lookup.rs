//! What became of a batch whose answer nobody knows: asked of its partition's leader, whose memory comes first and whose log second.
//!
//! Promises: one piece of evidence for each question, after any number of failures that are told; each broker's questions have a
//! thread of their own, so one that is slow, or has much to be read, holds up nobody else; of a log no more is in memory than one
//! Fetch answer.
//! Does not know: plans, rows, what is done about it.

mod log_scan;
mod pending;
mod question;
#[cfg(test)]
mod tests;
mod worker;

pub(crate) use pending::Pending;

use crate::metadata::{Lead, Snapshot};
use crate::outcome::{Batch, Evidence, Sought, Why};
use crate::producer::{Mailbox, Shared, lock};
use question::Question;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use worker::Worker;

/// What waits for the thread that asks one broker.
type Queue = crate::queue::Queue<Question>;

/// All questions that are open. The locks are held to put in or take out, never while anything waits.
pub(crate) struct Lookups {
    trays: Mutex<Trays>,
    /// By broker.
    queues: Mutex<HashMap<i32, Arc<Queue>>>,
}

/// What the metadata thread takes from here. As many as the owners have batches to ask about: each is asked about once at a time.
struct Trays {
    /// Need a leader.
    seeking: Vec<Question>,
    /// Wait for room in their owners' channels.
    answered: VecDeque<(Question, Evidence)>,
}

impl Lookups {
    pub(crate) fn new() -> Self {
        Lookups {
            trays: Mutex::new(Trays { seeking: Vec::new(), answered: VecDeque::new() }),
            queues: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn interrupt(&self) {
        lock(&self.queues).values().for_each(|queue| queue.interrupt());
    }

    pub(crate) fn ask(shared: &Shared, batch: Batch, sought: Sought, mailbox: &Arc<Mailbox>) {
        let question = Question::new(batch, sought, Arc::clone(mailbox), shared.options.retry_backoff());
        shared.lookups.await_leader(question, shared);
    }

    /// Hands a question to the metadata thread, which finds out who leads.
    fn await_leader(&self, question: Question, shared: &Shared) {
        lock(&self.trays).seeking.push(question);
        shared.cluster.ask_lookups();
    }

    /// Topics that some broker is being asked about at this moment: only news of them can tell that it is asked in vain.
    fn topics_under_way(&self) -> Vec<Arc<str>> {
        lock(&self.queues).values().flat_map(|queue| queue.topics_under_way()).collect()
    }

    fn answered(&self, question: Question, evidence: Evidence, shared: &Shared) {
        lock(&self.trays).answered.push_back((question, evidence));
        shared.cluster.ask_lookups();
    }

    /// Gives a question to the thread that asks this broker, starting it if need be.
    fn push(shared: &Arc<Shared>, broker: i32, question: Question) {
        let queue = Arc::clone(lock(&shared.lookups.queues).entry(broker).or_insert_with(|| Arc::new(Queue::new())));
        let served = Arc::clone(&queue);
        let pushed = queue.push(question, || {
            let for_thread = Arc::clone(shared);
            let name = format!("kafka-{broker}-look-up");
            shared.spawn(name, move || Worker::new(&for_thread, broker, &served).run())
        });
        if let Err((mut question, error)) = pushed {
            question.failed(&Why::new(format!("no thread to ask its leader with: {error}")));
            shared.lookups.await_leader(question, shared);
        }
    }

    /// Offers evidence to whoever asked for it. True when some found no room: come again.
    pub(crate) fn deliver(&self) -> bool {
        let answered = std::mem::take(&mut lock(&self.trays).answered);
        let mut left: VecDeque<_> = answered
            .into_iter()
            .filter(|(question, evidence)| !question.is_forgotten() && !question.answer(evidence))
            .collect();
        let mut trays = lock(&self.trays);
        left.append(&mut trays.answered);
        trays.answered = left;
        !trays.answered.is_empty()
    }

    /// Cuts off what a broker is being asked about a partition that another one leads by now: it may be gone for good.
    pub(crate) fn give_up_moved(&self, snapshot: &Snapshot) {
        for (broker, queue) in lock(&self.queues).iter() {
            queue.cut_off(
                |topic, partition| matches!(snapshot.lead(topic, partition), Lead::Broker(leader) if leader != *broker),
            );
        }
    }
}
