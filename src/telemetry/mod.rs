//! What the outside sees: metrics, health, logs, systemd's notifications.
//!
//! Promises: cheap on the hot path (atomics only). Does not know: any decision.

pub mod figures;
pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod notify;
pub mod trouble;
