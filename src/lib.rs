//! outboxd: a transactional outbox relay from SQLite to Kafka. The rooms and what each must not know: docs/architecture.md.

pub mod cli;
pub mod commands;
pub mod config;
pub mod daemon;
pub mod exit;
mod locks;
pub mod model;
pub mod ports;
pub mod relay;
pub mod sink;
pub mod source;
pub mod state;
pub mod telemetry;
mod uri;

pub use failpoint;
