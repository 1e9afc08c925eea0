//! Our own commits, told by the relay's connection to the watch so that a delete of ours does not wake us.
//!
//! Promises: never names a foreign commit as ours. Does not know: what was committed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// How many commits are remembered. The watch catches up every 500 us, deletes are 20 ms apart; a forgotten one only costs an
/// empty look.
const REMEMBERED: usize = 16;

/// The last frames of our own commits in the WAL.
#[derive(Debug, Default)]
pub struct OwnCommits {
    /// `salt-1 << 32 | frame`: the salt rises with every restart of the log, so a frame number of an earlier generation never
    /// hides a foreign commit that ends at the same frame of a later one.
    frames: [AtomicU64; REMEMBERED],
    next: AtomicUsize,
}

impl OwnCommits {
    pub(crate) fn note_frame(&self, salt1: u32, frame: u32) {
        let slot = self.next.fetch_add(1, Ordering::Relaxed) % REMEMBERED;
        self.frames[slot].store(pack(salt1, frame), Ordering::Release);
    }

    pub(crate) fn is_own_frame(&self, salt1: u32, frame: u32) -> bool {
        let wanted = pack(salt1, frame);
        self.frames.iter().any(|slot| slot.load(Ordering::Acquire) == wanted)
    }
}

fn pack(salt1: u32, frame: u32) -> u64 {
    u64::from(salt1) << 32 | u64::from(frame)
}
