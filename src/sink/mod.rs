//! Where records go: `kafka`, or `stdout` for looking and for pipes. The trait is `ports::Sink`.
//!
//! Promises: a row is reported as stored only after Kafka's acks=all, or after the line was flushed. Does not know: SQLite, decisions.

pub mod kafka;
pub mod stdout;
