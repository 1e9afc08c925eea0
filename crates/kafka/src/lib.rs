//! A small synchronous Kafka client: what goes over the wire to a broker, and what comes back.
//!
//! Promises: decoders never panic and never allocate more than an answer's own bytes justify; every error says whether a broker
//! may have acted. Does not know: SQLite, outboxes, rows. Layers look down only: connection, protocol, primitives.

#![forbid(unsafe_code)]

pub mod backoff;
pub mod connection;
pub mod error;
pub mod leb128;
mod link;
mod lookup;
mod metadata;
pub mod outcome;
pub mod partitioner;
pub mod producer;
pub mod protocol;
mod queue;
pub mod record_batch;
pub mod topic_name;
