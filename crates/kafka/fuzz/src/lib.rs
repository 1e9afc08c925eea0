//! What every fuzz target does with its bytes. `scripts/fuzz` feeds it what a fuzzer makes up, `tests/fuzz_corpus.rs` (which includes
//! this file) what lies in `corpus/`.
//!
//! Promises: a body panics when a decoder breaks its word, and says otherwise whether it took the input. Does not know: where the
//! input comes from.

mod answers;
mod batches;
mod compressed;

pub use answers::kafka_answers;
pub use batches::record_batches;
pub use compressed::compressed_records;

/// Says whether it accepted the input as a whole.
type Body = fn(&[u8]) -> bool;

/// Each body by the name that its file in `fuzz_targets/` and its folder in `corpus/` have.
pub const TARGETS: [(&str, Body); 3] =
    [("compressed_records", compressed_records), ("kafka_answers", kafka_answers), ("record_batches", record_batches)];

/// Where to cut an input of so many bytes: everywhere if it is short, else at a few places and before its last byte.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length / 24 + 1).chain(length.checked_sub(1))
}
