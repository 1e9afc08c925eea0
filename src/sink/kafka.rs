//! The Kafka sink: the house's plans and events on one side, the producer's batches and reports on the other.
//!
//! Promises: translates and nothing else; rows are shared with the producer, never copied. Does not know: the wire, decisions.

use crate::model::{Evidence, Outcome, PartitionStart, Plan, SinkEvent, Sought, Topic, Why};
use crate::ports::{Full, Manner, Sink};
use crossbeam_channel::Sender;
use outboxd_kafka::look_up::{Finding, Search};
use outboxd_kafka::producer::{Batch, Delivery, Failure, Handle, Producer, Report, Travel};
use std::sync::Arc;
use std::time::Instant;

pub use outboxd_kafka::producer::{KafkaOptions, StartError};

/// The threads that talk to Kafka, shared by the relays of all databases.
pub struct KafkaSink(Producer<Shared, SinkEvent>);

impl KafkaSink {
    /// Checks the options and starts. Reaches no broker: one that is away is weather, told by events.
    pub fn start(options: KafkaOptions) -> Result<KafkaSink, StartError> {
        Producer::start(options).map(KafkaSink)
    }

    /// One relay's end. The bound of `events` bounds its batches under way as well (three quarters of it; 1,024 without a bound), and
    /// the relay must go on receiving from it until the sink has stopped.
    pub fn handle(&self, events: Sender<SinkEvent>) -> KafkaHandle {
        KafkaHandle(self.0.handle(events))
    }

    /// Cuts off what is under way (answered `Unsure`, as far as someone listens) and ends the threads. For a gentle end the relays
    /// `drain` their handles and wait for their outcomes first. False when a thread was still stuck in the system at the deadline.
    pub fn stop(self, deadline: Instant) -> bool {
        self.0.stop(deadline)
    }
}

/// One relay's end of a [`KafkaSink`].
pub struct KafkaHandle(Handle<Shared, SinkEvent>);

impl Sink for KafkaHandle {
    fn producer(&mut self) {
        self.0.producer_id();
    }

    fn open(&mut self, topic: &Topic) {
        self.0.open(topic);
    }

    fn send(&mut self, plan: &Arc<Plan>, manner: Manner) -> Result<(), Full> {
        let travel = match manner {
            Manner::Merged => Travel::Merged,
            Manner::Alone => Travel::Alone,
        };
        self.0.send(Shared(Arc::clone(plan)), travel).map_err(|_| Full)
    }

    fn look_up(&mut self, plan: &Arc<Plan>, sought: Sought) {
        let search = Search {
            from_offset: plan.noted_offset,
            leader_epoch: plan.leader_epoch,
            memory_counts: match sought {
                Sought::Resend => true,
                Sought::Stored => false,
            },
        };
        self.0.look_up(Shared(Arc::clone(plan)), search);
    }

    fn drain(&mut self) {
        self.0.drain();
    }
}

/// A plan as a batch.
#[derive(Clone)]
struct Shared(Arc<Plan>);

impl Batch for Shared {
    fn topic(&self) -> &str {
        &self.0.target.topic
    }

    fn partition(&self) -> i32 {
        self.0.target.partition
    }

    fn cluster(&self) -> Option<&str> {
        self.0.cluster.as_deref()
    }

    fn producer_id(&self) -> i64 {
        self.0.triple.producer_id
    }

    fn producer_epoch(&self) -> i16 {
        self.0.triple.epoch
    }

    fn base_sequence(&self) -> i32 {
        self.0.triple.first_sequence
    }

    fn record_count(&self) -> usize {
        self.0.rows.len()
    }

    fn records(&self) -> &[u8] {
        &self.0.rows.bytes
    }
}

impl From<Failure> for Why {
    fn from(failure: Failure) -> Why {
        Why { code: failure.code, text: failure.text, hint: failure.hint }
    }
}

impl From<Report<Shared>> for SinkEvent {
    fn from(report: Report<Shared>) -> SinkEvent {
        match report {
            Report::ProducerId { id, cluster } => SinkEvent::Producer { id, cluster },
            Report::NoProducerId(failure) => SinkEvent::NoProducer { why: failure.into() },
            Report::Opened { topic, partitions } => {
                let partitions = partitions
                    .into_iter()
                    .map(|p| PartitionStart {
                        partition: p.partition,
                        end_offset: p.end_offset,
                        leader_epoch: p.leader_epoch,
                    })
                    .collect();
                SinkEvent::Opened { topic, partitions }
            }
            Report::NotOpened { topic, failure } => SinkEvent::NotOpened { topic, why: failure.into() },
            Report::Delivered { batch, delivery, at } => {
                let outcome = match delivery {
                    Delivery::Stored { base_offset } => Outcome::Stored { offset: base_offset },
                    Delivery::NotAppended(failure) => Outcome::NotAppended(failure.into()),
                    Delivery::Unsure(failure) => Outcome::Unsure(failure.into()),
                    Delivery::Rejected { failure, records } => Outcome::Rejected { why: failure.into(), records },
                    Delivery::Refused(failure) => Outcome::Refused(failure.into()),
                    Delivery::OutOfSequence(failure) => Outcome::OutOfSequence(failure.into()),
                };
                SinkEvent::Outcome { plan: batch.0.id, outcome, at }
            }
            Report::LookedUp { batch, finding } => {
                let evidence = match finding {
                    Finding::StoredAt(offset) => Evidence::StoredAt(offset),
                    Finding::Remembered => Evidence::Remembered,
                    Finding::Absent => Evidence::Absent,
                    Finding::Incomplete(failure) => Evidence::Incomplete(failure.into()),
                    Finding::Forbidden(failure) => Evidence::Forbidden(failure.into()),
                    Finding::PartitionGone(failure) => Evidence::PartitionGone(failure.into()),
                    Finding::OtherCluster(failure) => Evidence::OtherCluster(failure.into()),
                };
                SinkEvent::Evidence { plan: batch.0.id, evidence }
            }
            Report::NotLookedUp { batch, failure } => SinkEvent::NoEvidence { plan: batch.0.id, why: failure.into() },
        }
    }
}
