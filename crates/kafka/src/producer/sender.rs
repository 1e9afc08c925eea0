//! One sender: a thread, a blocking connection to one broker, and one request at a time on it.
//!
//! Promises: every batch it takes is answered, by the broker's word or by what is known of the bytes. Does not know: other brokers, resends.

use super::queue::{Job, Queue, Woken};
use super::{Backoff, Batch, Delivery, Failure, Report, Shared, Travel, answer, answer::delivery};
use crate::connection::{Address, Connection};
use crate::protocol::{PartitionBatch, ProduceRequest};
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

pub(super) struct Sender<B, E> {
    shared: Arc<Shared<B, E>>,
    broker: i32,
    queue: Arc<Queue<B, E>>,
    travel: Travel,
    connection: Option<(Connection, Address)>,
    /// Until then the broker won't read from us.
    throttled_until: Option<Instant>,
    reconnect: Backoff,
    connect_not_before: Option<Instant>,
}

impl<B, E> Sender<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    pub(super) fn new(shared: &Arc<Shared<B, E>>, broker: i32, queue: &Arc<Queue<B, E>>, travel: Travel) -> Self {
        Sender {
            shared: Arc::clone(shared),
            broker,
            queue: Arc::clone(queue),
            travel,
            connection: None,
            throttled_until: None,
            reconnect: shared.options.reconnect_backoff(),
            connect_not_before: None,
        }
    }

    /// Until the producer stops or nothing came for `connections_max_idle_ms`; then a new thread starts with the next batch.
    pub(super) fn run(mut self) {
        loop {
            let idle_deadline = Instant::now() + self.shared.options.idle_max();
            match self.queue.wait(idle_deadline, &self.shared.stopping) {
                Woken::Work => self.turn(),
                Woken::Deadline => {
                    self.disconnect();
                    if self.queue.leave() {
                        return;
                    }
                }
                Woken::Stop => {
                    self.give_up_waiting(&Failure::new("the producer has been stopped"));
                    return;
                }
            }
        }
    }

    fn turn(&mut self) {
        if let Some(until) = self.throttled_until.take()
            && !self.queue.pause(until, &self.shared.stopping)
        {
            return;
        }
        match self.connect() {
            Ok(true) => {}
            Ok(false) => return,
            Err(failure) => {
                self.shared.cluster.ask_refresh();
                self.give_up_waiting(&failure);
                return;
            }
        }
        let (bytes_max, batches_max) = match self.travel {
            Travel::Merged => (self.shared.options.merged_max_bytes(), BATCHES_MAX),
            Travel::Alone => (usize::MAX, 1),
        };
        self.refuse_foreign();
        // Nothing is left when a drain or a change of leader came while the connection was made.
        let jobs = self.queue.take(bytes_max, batches_max);
        if !jobs.is_empty() {
            self.exchange(jobs);
        }
    }

    /// Sees to a connection that can be written to. The batches stay in the queue meanwhile, where they can be taken back; false when
    /// none is left to connect for.
    fn connect(&mut self) -> Result<bool, Failure> {
        let Some(address) = self.shared.cluster.address(self.broker) else {
            self.disconnect();
            return Err(Failure::new(format!("broker {} is not in the cluster any more", self.broker)));
        };
        if let Some((connection, connected_to)) = &mut self.connection {
            // A peer that closed while we were idle would take the next request into the void and leave it unsure.
            if *connected_to == address && connection.idle_for() < self.shared.options.idle_max() && connection.alive()
            {
                return Ok(true);
            }
            self.disconnect();
        }
        if let Some(not_before) = self.connect_not_before.take()
            && !self.queue.pause(not_before, &self.shared.stopping)
        {
            return Err(Failure::new("the producer has been stopped"));
        }
        if self.queue.is_empty() {
            return Ok(false);
        }
        // From here on the follower asks for news by itself: it takes the batches back when another broker leads their partitions.
        let _struggle = self.shared.cluster.struggle();
        match self.shared.cluster.connect(&address, &self.shared.options.connection()) {
            Ok(connection) => {
                self.reconnect.over();
                let interrupter = connection.interrupter().ok();
                if !self.queue.uses(interrupter, &self.shared.stopping) {
                    return Err(Failure::new("the producer has been stopped"));
                }
                log::debug!("kafka: connected to broker {}: {connection}", self.broker);
                self.connection = Some((connection, address));
                Ok(true)
            }
            Err(error) => {
                self.connect_not_before = Some(Instant::now() + self.reconnect.failed());
                let mut failure = self.shared.cluster.connect_failure(&error, &address);
                failure.text = format!("broker {}: {}", self.broker, failure.text);
                Err(failure)
            }
        }
    }

    fn disconnect(&mut self) {
        if self.connection.take().is_some() {
            self.queue.uses(None, &self.shared.stopping);
        }
    }

    fn exchange(&mut self, jobs: Vec<Job<B, E>>) {
        let Some((connection, address)) = &mut self.connection else {
            unreachable!("connect() has just returned a connection");
        };
        let timeout = match self.travel {
            Travel::Merged => MERGED_TIMEOUT.min(self.shared.options.request_timeout()),
            Travel::Alone => self.shared.options.request_timeout(),
        };
        // Every attempt carries the time of the attempt: a broker forgets producers by the stamps of their records, so an old one
        // would be forgotten as soon as it is stored.
        let timestamp_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
        let batches: Vec<PartitionBatch<'_>> = jobs
            .iter()
            .map(|job| PartitionBatch {
                topic: job.batch.topic(),
                partition: job.batch.partition(),
                producer_id: job.batch.producer_id(),
                producer_epoch: job.batch.producer_epoch(),
                base_sequence: job.batch.base_sequence(),
                timestamp_ms,
                record_count: job.batch.record_count() as i32,
                records: job.batch.records(),
            })
            .collect();
        let request = ProduceRequest {
            acks: ACKS_ALL,
            timeout_ms: i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX),
            batches: &batches,
        };
        let result = match (self.travel, jobs.first()) {
            (Travel::Alone, Some(job)) => {
                // It may take long, and be in vain when another broker leads by now: then the follower cuts it off.
                let _struggle = self.shared.cluster.struggle();
                self.queue.under_way(Some((job.batch.topic().into(), job.batch.partition())));
                let result = connection.produce(&request, timeout + ANSWER_GRACE);
                self.queue.under_way(None);
                result
            }
            _ => connection.produce(&request, timeout + ANSWER_GRACE),
        };
        drop(batches);
        let broker = format!("{} at {}:{}", self.broker, address.host, address.port);
        let shared = Arc::clone(&self.shared);
        let stopping = &shared.stopping;
        match result {
            Ok(response) => {
                if !response.throttle_time.is_zero() {
                    self.throttled_until = Some(Instant::now() + response.throttle_time);
                }
                if response.partitions.iter().any(|answer| answer.error.is_about_authentication()) {
                    self.disconnect();
                }
                let mut refresh = false;
                for job in jobs {
                    let delivery = delivery(&broker, &job.batch, &response);
                    refresh |= asks_for_news(&delivery);
                    if matches!(delivery, Delivery::Stored { .. }) {
                        failpoint::hit("acked");
                    }
                    answer(job, delivery, stopping);
                }
                if refresh {
                    self.shared.cluster.ask_refresh();
                }
            }
            Err(error) => {
                // The next attempt is on a new connection: an answer that comes late on this one would be taken for another's.
                self.disconnect();
                self.shared.cluster.ask_refresh();
                let unsure = error.maybe_applied();
                let failure = Failure::new(format!("broker {broker}: {}", crate::cluster::chain(&error)));
                log::debug!("kafka: connection closed: {}", failure.text);
                for job in jobs {
                    let failure = failure.clone();
                    let delivery = if unsure { Delivery::Unsure(failure) } else { Delivery::NotAppended(failure) };
                    answer(job, delivery, stopping);
                }
            }
        }
    }

    /// Batches of another cluster, whose triples can be a stranger's in this one.
    fn refuse_foreign(&self) {
        let id = self.shared.cluster.id();
        for job in self.queue.withdraw(|job| id.foreign(job.batch.cluster()).is_some()) {
            if let Some(failure) = id.foreign(job.batch.cluster()) {
                answer(job, Delivery::NotAppended(failure), &self.shared.stopping);
            }
        }
    }

    /// Nothing of what waits was written.
    fn give_up_waiting(&self, failure: &Failure) {
        for job in self.queue.withdraw(|_| true) {
            answer(job, Delivery::NotAppended(failure.clone()), &self.shared.stopping);
        }
    }
}

/// Whether another broker might lead by now.
fn asks_for_news(delivery: &Delivery) -> bool {
    match delivery {
        Delivery::Stored { .. } | Delivery::Rejected { .. } | Delivery::Refused(_) => false,
        Delivery::NotAppended(_) | Delivery::Unsure(_) | Delivery::OutOfSequence(_) => true,
    }
}
