//! One sender: a thread, a blocking connection to one broker, and one Produce request at a time on it.
//!
//! Promises: every batch it takes is answered, by the broker's word or by what is known of the bytes. Does not know: other brokers, resends.

use super::job::{Job, Queue, take_request};
use super::{Shared, answer, classify::outcome, oversized};
use crate::backoff::Backoff;
use crate::compression::{Compression, Compressor};
use crate::link::Link;
use crate::outcome::{Manner, Outcome, Why};
use crate::protocol::{PartitionBatch, ProduceRequest};
use crate::queue::Woken;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long a broker may hold a request of several batches for its replicas. One stuck partition keeps all of it waiting, and the
/// price of giving up early is one harmless resend.
const MERGED_TIMEOUT: Duration = Duration::from_millis(1_500);

/// How much longer than the broker we wait: its answer "timed out" is worth more than none.
const ANSWER_GRACE: Duration = Duration::from_secs(1);

/// A request stays small enough to be looked through by hand, and its answer below what we read.
const BATCHES_MAX: usize = 1_000;

/// Every in-sync replica.
const ACKS_ALL: i16 = -1;

pub(super) struct Sender {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    manner: Manner,
    link: Link<Job>,
    reconnect: Backoff,
    connect_not_before: Option<Instant>,
    compressor: Compressor,
}

impl Sender {
    pub(super) fn new(shared: &Arc<Shared>, broker: i32, queue: &Arc<Queue>, manner: Manner) -> Self {
        Sender {
            shared: Arc::clone(shared),
            queue: Arc::clone(queue),
            manner,
            link: Link::new(shared, broker, queue),
            reconnect: shared.options.reconnect_backoff(),
            connect_not_before: None,
            compressor: Compressor::new(shared.options.compression()),
        }
    }

    /// Until the producer stops or nothing came for `connections_max_idle_ms`; then a new thread starts with the next batch.
    pub(super) fn run(mut self) {
        loop {
            let idle_deadline = Instant::now() + self.shared.options.idle_max();
            match self.queue.wait(idle_deadline, &self.shared.stopping) {
                Woken::Work => self.turn(),
                Woken::Deadline => {
                    self.link.close();
                    if self.queue.leave() {
                        return;
                    }
                }
                Woken::Stop => {
                    self.give_up_waiting(&Why::new("the producer has been stopped"));
                    return;
                }
            }
        }
    }

    fn turn(&mut self) {
        if !self.link.pause_while_throttled() {
            return;
        }
        match self.connect() {
            Ok(true) => {}
            Ok(false) => return,
            Err(why) => {
                self.shared.cluster.ask_refresh();
                self.give_up_waiting(&why);
                return;
            }
        }
        let (bytes_max, batches_max) = match self.manner {
            Manner::Merged => (self.shared.options.merged_max_bytes(), BATCHES_MAX),
            Manner::Alone => (usize::MAX, 1),
        };
        self.refuse_foreign();
        // Nothing is left when a drain or a change of leader came while the connection was made.
        let jobs = self.queue.take(|waiting| take_request(waiting, bytes_max, batches_max));
        let jobs = self.compress(jobs);
        if !jobs.is_empty() {
            self.exchange(jobs);
        }
    }

    /// Sees to a connection that can be written to; false when no batch is left to connect for.
    fn connect(&mut self) -> Result<bool, Why> {
        let Some(address) = self.link.where_to_connect()? else { return Ok(true) };
        if let Some(not_before) = self.connect_not_before.take()
            && !self.queue.pause(not_before, &self.shared.stopping)
        {
            return Err(Why::new("the producer has been stopped"));
        }
        if self.queue.is_empty() {
            return Ok(false);
        }
        match self.link.connect(address, &self.shared.connection_options()) {
            Ok(()) => {
                self.reconnect.reset();
                Ok(true)
            }
            Err(why) => {
                self.connect_not_before = Some(self.reconnect.next(Instant::now(), &mut fastrand::Rng::new()));
                Err(why)
            }
        }
    }

    /// Settles how each batch is sent that is on its first attempt; those that are too large even so are answered.
    fn compress(&mut self, jobs: Vec<Job>) -> Vec<Job> {
        let by = self.compressor.compression();
        if by == Compression::None {
            return jobs;
        }
        let mut fitting = Vec::with_capacity(jobs.len());
        for job in jobs {
            job.batch.records.settle_form(by, |records| self.compressor.compress(records));
            match oversized(&self.shared.options, &job.batch) {
                None => fitting.push(job),
                Some(outcome) => answer(job, outcome, &self.shared.stopping),
            }
        }
        fitting
    }

    fn exchange(&mut self, jobs: Vec<Job>) {
        let broker = self.link.name();
        let Some(connection) = self.link.connection() else {
            unreachable!("connect() has just made sure of a connection");
        };
        let timeout = match self.manner {
            Manner::Merged => MERGED_TIMEOUT.min(self.shared.options.request_timeout()),
            Manner::Alone => self.shared.options.request_timeout(),
        };
        // Every attempt carries the time of the attempt: a broker forgets producers by the stamps of their records, so an old one
        // would be forgotten as soon as it is stored.
        let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let batches: Vec<PartitionBatch<'_>> = jobs
            .iter()
            .map(|Job { batch, .. }| {
                let (compression, records) = batch.records.sent();
                PartitionBatch {
                    topic: &batch.topic,
                    partition: batch.partition,
                    producer_id: batch.producer_id,
                    producer_epoch: batch.producer_epoch,
                    base_sequence: batch.base_sequence,
                    timestamp_ms,
                    record_count: batch.record_count,
                    compression,
                    records,
                }
            })
            .collect();
        let request = ProduceRequest {
            acks: ACKS_ALL,
            timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
            batches: &batches,
        };
        let result = match (self.manner, jobs.first()) {
            (Manner::Alone, Some(job)) => {
                // It may take long, and be in vain when another broker leads by now: then the metadata thread cuts it off.
                let _struggle = self.shared.cluster.struggle();
                self.queue.under_way(vec![(Arc::clone(&job.batch.topic), job.batch.partition)]);
                let result = connection.produce(&request, timeout + ANSWER_GRACE);
                self.queue.under_way(Vec::new());
                result
            }
            _ => connection.produce(&request, timeout + ANSWER_GRACE),
        };
        drop(batches);
        let shared = Arc::clone(&self.shared);
        let stopping = &shared.stopping;
        match result {
            Ok(response) => {
                self.link.throttled(response.throttle_time);
                if response.partitions.iter().any(|answer| answer.error.is_about_authentication()) {
                    self.link.close();
                }
                let mut refresh = false;
                for job in jobs {
                    let outcome = outcome(&broker, &job.batch, &response);
                    refresh |= asks_for_news(&outcome);
                    if matches!(outcome, Outcome::Stored { .. }) {
                        failpoint::hit("acked");
                    }
                    answer(job, outcome, stopping);
                }
                if refresh {
                    self.shared.cluster.ask_refresh();
                }
            }
            Err(error) => {
                // The next attempt is on a new connection: an answer that comes late on this one would be taken for another's.
                self.link.close();
                self.shared.cluster.ask_refresh();
                let unsure = error.maybe_applied();
                let why = Why::new(format!("broker {broker}: {}", crate::metadata::chain(&error)));
                log::debug!("kafka: connection closed: {}", why.text);
                for job in jobs {
                    let why = why.clone();
                    let outcome = if unsure { Outcome::Unsure(why) } else { Outcome::NotAppended(why) };
                    answer(job, outcome, stopping);
                }
            }
        }
    }

    /// Batches of another cluster, whose triples can be a stranger's in this one.
    fn refuse_foreign(&self) {
        let id = self.shared.cluster.id();
        for job in self.queue.withdraw(|job| id.foreign(job.batch.cluster.as_deref()).is_some()) {
            if let Some(why) = id.foreign(job.batch.cluster.as_deref()) {
                answer(job, Outcome::NotAppended(why), &self.shared.stopping);
            }
        }
    }

    /// Nothing of what waits was written.
    fn give_up_waiting(&self, why: &Why) {
        for job in self.queue.withdraw(|_| true) {
            answer(job, Outcome::NotAppended(why.clone()), &self.shared.stopping);
        }
    }
}

/// Whether another broker might lead by now.
fn asks_for_news(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Stored { .. } | Outcome::Rejected { .. } | Outcome::Refused(_) => false,
        Outcome::NotAppended(_) | Outcome::Unsure(_) | Outcome::OutOfSequence(_) => true,
    }
}
