//! What waits for one sender, and which of it makes one request.
//!
//! Promises: a batch is in the queue until its sender takes it for an attempt. Does not know: Kafka's answers, connections.

use super::Mailbox;
use crate::outcome::{Batch, Event, Full, Outcome};
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// How many batches there are is bounded by their mailboxes.
pub(crate) type Queue = crate::queue::Queue<Job>;

/// A batch and who waits for its answer.
pub(crate) struct Job {
    pub(crate) batch: Batch,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl Job {
    /// What its owner is told, and where. The batch's place is given back *before* the event is sent: the other way round the owner
    /// could see the event, be told `Full`, and wait for a next event that never comes.
    pub(super) fn answered(self, outcome: Outcome) -> (Arc<Mailbox>, Event) {
        self.mailbox.give_place_back();
        (self.mailbox, Event::Outcome { batch: self.batch.id, outcome, at: Instant::now() })
    }

    /// From the owner's own thread, which must not wait for itself to empty its channel: no room is `Full`, and there is an event to
    /// come in that case, because the channel holds some.
    pub(super) fn answer_now(self, outcome: Outcome) -> Result<(), Full> {
        let (mailbox, event) = self.answered(outcome);
        if mailbox.offer(event) { Ok(()) } else { Err(Full) }
    }
}

/// Takes what makes one request: in order, never two batches of one partition (two owners may write to it), up to `bytes_max`
/// unless the first alone is larger, up to `batches_max`.
pub(super) fn take_request(waiting: &mut VecDeque<Job>, bytes_max: usize, batches_max: usize) -> Vec<Job> {
    let mut bytes = 0;
    let mut partitions: HashSet<(&str, i32)> = HashSet::new();
    let mut taken = Vec::new();
    for (at, job) in waiting.iter().enumerate() {
        // At its first attempt a batch is taken for as large as it is uncompressed: it is never larger.
        let size = job.batch.records.sent().1.len();
        if taken.len() == batches_max || (!taken.is_empty() && bytes + size > bytes_max) {
            break;
        }
        if partitions.insert((&job.batch.topic, job.batch.partition)) {
            bytes += size;
            taken.push(at);
        }
    }
    if taken.len() == waiting.len() {
        return waiting.drain(..).collect();
    }
    let mut taken = taken.into_iter().peekable();
    let (mut request, mut rest) = (Vec::new(), VecDeque::new());
    for (at, job) in std::mem::take(waiting).into_iter().enumerate() {
        if taken.next_if_eq(&at).is_some() {
            request.push(job);
        } else {
            rest.push_back(job);
        }
    }
    *waiting = rest;
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::tests::batch;

    fn waiting(batches: &[(&str, i32, i32)]) -> VecDeque<Job> {
        let mailbox = Arc::new(Mailbox::new(0, crossbeam_channel::unbounded().0));
        let job = |(topic, partition, rows): &(&str, i32, i32)| Job {
            batch: batch(topic, *partition, *rows),
            mailbox: Arc::clone(&mailbox),
        };
        batches.iter().map(job).collect()
    }

    fn taken(waiting: &mut VecDeque<Job>, bytes_max: usize, batches_max: usize) -> Vec<String> {
        take_request(waiting, bytes_max, batches_max)
            .iter()
            .map(|job| format!("{}-{}:{}", job.batch.topic, job.batch.partition, job.batch.record_count))
            .collect()
    }

    #[test]
    fn a_request_never_names_a_partition_twice() {
        let mut waiting = waiting(&[("a", 0, 1), ("a", 0, 2), ("a", 1, 3), ("b", 0, 4), ("a", 0, 5)]);
        assert_eq!(taken(&mut waiting, 10_000, 100), ["a-0:1", "a-1:3", "b-0:4"]);
        assert_eq!(taken(&mut waiting, 10_000, 100), ["a-0:2"]);
        assert_eq!(taken(&mut waiting, 10_000, 100), ["a-0:5"]);
        assert!(taken(&mut waiting, 10_000, 100).is_empty());
    }

    #[test]
    fn a_request_stays_below_its_bound_unless_one_batch_is_larger() {
        let mut waiting = waiting(&[("a", 0, 5), ("a", 1, 5), ("a", 2, 1), ("a", 3, 99), ("a", 4, 1)]);
        assert_eq!(taken(&mut waiting, 100, 100), ["a-0:5", "a-1:5"]);
        assert_eq!(taken(&mut waiting, 100, 1), ["a-2:1"]);
        assert_eq!(taken(&mut waiting, 100, 100), ["a-3:99"]);
        assert_eq!(taken(&mut waiting, 100, 100), ["a-4:1"]);
    }
}
