//! The Kafka sink: a relay's plans handed to the producer as batches. What the producer says is what a sink says, without a
//! translation.
//!
//! Promises: translates and nothing else; plans are shared with the producer, rows never copied. Does not know: the wire, decisions.

use crate::model::{Plan, Sought, Topic};
use crate::ports::{Full, Manner, Sink};
use outboxd_kafka::outcome::{Batch, Records};
use std::sync::Arc;

pub use outboxd_kafka::producer::{Handle, KafkaOptions, Producer, StartError};

impl Sink for Handle {
    fn producer(&mut self) {
        self.producer_id();
    }

    fn open(&mut self, topic: &Topic) {
        Handle::open(self, topic);
    }

    fn send(&mut self, plan: &Arc<Plan>, manner: Manner) -> Result<(), Full> {
        Handle::send(self, batch(plan), manner)
    }

    fn look_up(&mut self, plan: &Arc<Plan>, sought: Sought) {
        Handle::look_up(self, batch(plan), sought);
    }

    fn drain(&mut self) {
        Handle::drain(self);
    }
}

/// What a broker is to know of a plan. The rest of it, rowids and fingerprints, is the relay's and the state file's.
fn batch(plan: &Arc<Plan>) -> Batch {
    Batch {
        id: plan.id,
        topic: Arc::clone(&plan.target.topic),
        partition: plan.target.partition,
        cluster: plan.cluster.clone(),
        producer_id: plan.triple.producer_id,
        producer_epoch: plan.triple.epoch,
        base_sequence: plan.triple.first_sequence,
        record_count: plan.rows.len() as i32,
        records: Records::held_by(Arc::clone(plan)),
        noted_offset: plan.noted_offset,
        leader_epoch: plan.leader_epoch,
    }
}
