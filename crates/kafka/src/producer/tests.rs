use super::queue::{Job, Queue};
use super::{Batch, Mailbox};
use std::sync::Arc;

/// A batch whose records don't matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TestBatch {
    topic: &'static str,
    partition: i32,
    rows: usize,
    records: Vec<u8>,
}

impl TestBatch {
    pub(crate) fn new(topic: &'static str, partition: i32, rows: usize) -> Self {
        TestBatch { topic, partition, rows, records: vec![0; 10 * rows] }
    }
}

impl Batch for TestBatch {
    fn topic(&self) -> &str {
        self.topic
    }
    fn partition(&self) -> i32 {
        self.partition
    }
    fn cluster(&self) -> Option<&str> {
        None
    }
    fn producer_id(&self) -> i64 {
        1
    }
    fn producer_epoch(&self) -> i16 {
        0
    }
    fn base_sequence(&self) -> i32 {
        0
    }
    fn record_count(&self) -> usize {
        self.rows
    }
    fn records(&self) -> &[u8] {
        &self.records
    }
}

fn queue(batches: &[(&'static str, i32, usize)]) -> Queue<TestBatch, ()> {
    let mailbox = Arc::new(Mailbox::new(0, crossbeam_channel::unbounded().0));
    let queue = Queue::new();
    for (topic, partition, rows) in batches {
        let batch = TestBatch::new(topic, *partition, *rows);
        queue.push(Job { batch, mailbox: Arc::clone(&mailbox) }, || Ok(())).map_err(|_| ()).unwrap();
    }
    queue
}

fn taken(queue: &Queue<TestBatch, ()>, bytes_max: usize, batches_max: usize) -> Vec<String> {
    queue
        .take(bytes_max, batches_max)
        .iter()
        .map(|job| format!("{}-{}:{}", job.batch.topic, job.batch.partition, job.batch.rows))
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
    let job = Job { batch: TestBatch::new("a", 0, 1), mailbox };
    let failed = queue.push(job, || Err(std::io::Error::other("no threads")));
    assert!(failed.is_err(), "a queue that was left needs a new thread");
}
