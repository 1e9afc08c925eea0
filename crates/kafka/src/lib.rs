//! A small synchronous Kafka client for programs that must know what became of every record.
//!
//! It is an idempotent producer whose caller owns producer ids, epochs and sequences. A batch is handed over for *one* attempt, and one
//! answer says what became of it: stored, certainly not appended, unsure, or refused and why. Who notes its batches before it sends
//! them can send exactly the same ones again after a crash, and a broker that remembers them stores none twice; for one that does not,
//! [`Handle::look_up`](producer::Handle::look_up) asks the partition's leader for the batch, and reads its log if need be.
//!
//! Kafka 2.1 to 4.3, plaintext or TLS, with or without SASL, all of its codecs, without transactions, blocking threads and no async
//! runtime.
//!
//! - [`producer`]: the threads, and an owner's end of them; [`outcome`]: what goes in and comes out, as plain data.
//! - [`record_batch`], [`compression`], [`partitioner`], [`topic_name`]: records into bytes and back, the partition of a key, legal
//!   names.
//! - [`connection`], [`protocol`], [`error`]: one blocking connection, the messages on it, and what can go wrong, for whoever needs
//!   more than a producer.
//! - [`security`]: TLS and SASL, and what they need from files.
//! - [`backoff`], [`leb128`]: what all of it is built of.
//!
//! ```no_run
//! use outboxd_kafka::outcome::{Batch, BatchId, Event, Manner, Outcome, Records};
//! use outboxd_kafka::producer::{KafkaOptions, Producer};
//! use outboxd_kafka::record_batch::append_record;
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = KafkaOptions { bootstrap_servers: vec!["localhost:9092".into()], ..KafkaOptions::default() };
//! let producer = Producer::start(options)?;
//! // Its bound is the number of batches that may be under way, with some room for other events.
//! let (sender, events) = crossbeam_channel::bounded(64);
//! let mut handle = producer.handle(sender);
//! handle.producer_id();
//! handle.open(&"users".into());
//! let (mut producer_id, mut cluster, mut starts) = (None, None, Vec::new());
//! while producer_id.is_none() || starts.is_empty() {
//!     match events.recv()? {
//!         Event::Producer { id, cluster: named } => (producer_id, cluster) = (Some(id), named),
//!         Event::Opened { partitions, .. } => starts = partitions,
//!         // Weather: both are tried on.
//!         other => println!("{other:?}"),
//!     }
//! }
//! let mut records = Vec::new();
//! append_record(&mut records, 0, Some(b"key"), Some(b"value"), &[]);
//! let batch = Batch {
//!     id: BatchId(1),
//!     topic: "users".into(),
//!     partition: 0,
//!     cluster,
//!     producer_id: producer_id.unwrap_or_default(),
//!     producer_epoch: 0,
//!     base_sequence: 0,
//!     record_count: 1,
//!     records: Records::new(Arc::new(records)),
//!     noted_offset: starts[0].end_offset.unwrap_or_default(),
//!     leader_epoch: starts[0].leader_epoch,
//! };
//! // The same batch again and again, until it is stored: it is stored once.
//! loop {
//!     handle.send(batch.clone(), Manner::Merged).expect("one batch at a time");
//!     let outcome = loop {
//!         if let Event::Outcome { outcome, .. } = events.recv()? {
//!             break outcome;
//!         }
//!     };
//!     match outcome {
//!         Outcome::Stored { offset } => break println!("stored at offset {offset}"),
//!         Outcome::NotAppended(why) | Outcome::Unsure(why) => println!("once more: {why}"),
//!         other => return Err(format!("{other:?}").into()),
//!     }
//! }
//! producer.stop(Instant::now() + Duration::from_secs(5));
//! # Ok(())
//! # }
//! ```
//!
//! Promises: decoders never panic and never allocate more than an answer's own bytes justify; every error says whether a broker
//! may have acted. Does not know: databases, outboxes, rows. Layers look down only: producer, connection, security and
//! protocol, primitives.
//! The facts it stands on, measured: `docs/kafka.md`.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod backoff;
pub mod compression;
pub mod connection;
pub mod error;
pub mod leb128;
mod link;
mod lookup;
mod metadata;
pub mod outcome;
pub mod partitioner;
mod peer_text;
pub mod producer;
pub mod protocol;
mod queue;
pub mod record_batch;
pub mod security;
pub mod topic_name;
