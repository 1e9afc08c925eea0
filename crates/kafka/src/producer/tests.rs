use super::Mailbox;
use super::queue::{Job, Queue};
use crate::outcome::{Batch, BatchId, Records};
use std::sync::Arc;

/// A batch whose records don't matter: ten bytes each.
pub(crate) fn batch(topic: &str, partition: i32, rows: i32) -> Batch {
    Batch {
        id: BatchId(0),
        topic: topic.into(),
        partition,
        cluster: None,
        producer_id: 1,
        producer_epoch: 0,
        base_sequence: 0,
        record_count: rows,
        records: Records::new(Arc::new(vec![0; 10 * rows as usize])),
        noted_offset: 0,
        leader_epoch: -1,
    }
}

fn queue(batches: &[(&str, i32, i32)]) -> Queue {
    let mailbox = Arc::new(Mailbox::new(0, crossbeam_channel::unbounded().0));
    let queue = Queue::new();
    for (topic, partition, rows) in batches {
        let batch = batch(topic, *partition, *rows);
        queue.push(Job { batch, mailbox: Arc::clone(&mailbox) }, || Ok(())).map_err(|_| ()).unwrap();
    }
    queue
}

fn taken(queue: &Queue, bytes_max: usize, batches_max: usize) -> Vec<String> {
    queue
        .take(bytes_max, batches_max)
        .iter()
        .map(|job| format!("{}-{}:{}", job.batch.topic, job.batch.partition, job.batch.record_count))
        .collect()
}

#[test]
fn a_request_never_names_a_partition_twice() {
    let queue = queue(&[("a", 0, 1), ("a", 0, 2), ("a", 1, 3), ("b", 0, 4), ("a", 0, 5)]);
    assert_eq!(taken(&queue, 10_000, 100), ["a-0:1", "a-1:3", "b-0:4"]);
    assert_eq!(taken(&queue, 10_000, 100), ["a-0:2"]);
    assert_eq!(taken(&queue, 10_000, 100), ["a-0:5"]);
    assert!(taken(&queue, 10_000, 100).is_empty());
}

#[test]
fn a_request_stays_below_its_bound_unless_one_batch_is_larger() {
    let queue = queue(&[("a", 0, 5), ("a", 1, 5), ("a", 2, 1), ("a", 3, 99), ("a", 4, 1)]);
    assert_eq!(taken(&queue, 100, 100), ["a-0:5", "a-1:5"]);
    assert_eq!(taken(&queue, 100, 1), ["a-2:1"]);
    assert_eq!(taken(&queue, 100, 100), ["a-3:99"]);
    assert_eq!(taken(&queue, 100, 100), ["a-4:1"]);
}

#[test]
fn a_thread_may_leave_only_an_empty_queue() {
    let queue = queue(&[("a", 0, 1)]);
    assert!(!queue.leave());
    assert_eq!(queue.withdraw(|job| job.batch.partition == 1).len(), 0);
    assert_eq!(queue.withdraw(|_| true).len(), 1);
    assert!(queue.leave());
    let mailbox = Arc::new(Mailbox::new(0, crossbeam_channel::unbounded().0));
    let job = Job { batch: batch("a", 0, 1), mailbox };
    let failed = queue.push(job, || Err(std::io::Error::other("no threads")));
    assert!(failed.is_err(), "a queue that was left needs a new thread");
}
