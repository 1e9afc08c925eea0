//! What the acceptance tests share: real brokers, the application, the daemon, an independent reader, and the judgement.
//!
//! Promises: every process started here ends with the test; a failure prints what is needed to see why and keeps the folder.
//! Does not know: the daemon's inside. It is judged by its command line, its database and what kcat reads.

// Each test binary uses its own part of this.
#![allow(dead_code, unused_imports)]

pub mod app;
pub mod arrived;
pub mod check;
pub mod daemon;
pub mod process;
pub mod reader;
pub mod scene;
pub mod syscalls;
pub mod wait;

pub use daemon::Config;
pub use real_kafka::{self as broker, Broker};
pub use scene::Scene;
