//! What the outside sees: metrics, health, systemd's notifications.
//!
//! Promises: cheap on the hot path (atomics only). Does not know: any decision.

pub mod figures;
pub mod trouble;
