//! What every fuzz target does with its bytes. `scripts/fuzz` feeds it what a fuzzer makes up, `tests/fuzz_corpus.rs` (which includes
//! this file) what lies in `corpus/`.
//!
//! Promises: a body panics when a decoder breaks its word, and says otherwise whether it took the input. Does not know: where the
//! input comes from.

mod batches;
mod codec;
mod config;
mod kafka;
mod wal;

pub use batches::record_batches;
pub use codec::plan_rows;
pub use config::config_file;
pub use kafka::kafka_answers;
pub use wal::{wal_follower, wal_frames};

/// A body, under the name that its file in `fuzz_targets/` and its folder in `corpus/` have.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub name: &'static str,
    /// Whether the input was accepted as a whole.
    pub body: fn(&[u8]) -> bool,
}

pub const TARGETS: [Target; 6] = [
    Target { name: "config_file", body: config_file },
    Target { name: "kafka_answers", body: kafka_answers },
    Target { name: "plan_rows", body: plan_rows },
    Target { name: "record_batches", body: record_batches },
    Target { name: "wal_follower", body: wal_follower },
    Target { name: "wal_frames", body: wal_frames },
];

/// Where to cut an input of so many bytes: everywhere if it is short, else at a few places and before its last byte.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length / 24 + 1).chain(length.checked_sub(1))
}
