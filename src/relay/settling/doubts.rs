//! Deletes whose COMMIT answered an I/O error: how the next one is tried, and what waits for one that goes well.
//!
//! Promises: on a disk that fails again and again what is in doubt is sent again once; after that it is neither sent nor deleted until
//! a delete was committed, or a long time has passed. Does not know: which rows are in doubt, and what is sent.

use super::FAILED_RETRY;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// After the n-th failure in a row the next try comes after [`FAILED_RETRY`] times 2^n, at most this n.
const RETRY_DOUBLED_MAX: u32 = 4;
/// With nothing else to delete, what is in doubt has to be sent again for a delete to be tried: after this, then rarer.
const WAIT: Duration = Duration::from_secs(60);
const WAIT_MAX: Duration = Duration::from_secs(3_600);

#[derive(Debug)]
pub(in crate::relay) struct Doubts {
    /// In a row.
    failures: u32,
    /// Deletes whose plans wait.
    deletes: BTreeSet<u64>,
    until: Option<Instant>,
    wait: Duration,
}

impl Default for Doubts {
    fn default() -> Self {
        Doubts { failures: 0, deletes: BTreeSet::new(), until: None, wait: WAIT }
    }
}

impl Doubts {
    /// Another COMMIT that said nothing. How long to wait for the next.
    pub(super) fn failed(&mut self) -> Duration {
        let pause = FAILED_RETRY * 2u32.pow(self.failures.min(RETRY_DOUBLED_MAX));
        self.failures += 1;
        pause
    }

    /// A delete was committed.
    pub(super) fn over(&mut self) {
        self.failures = 0;
        self.until = None;
        self.wait = WAIT;
    }

    /// The next delete is a trial, and is to leave as little as can be in doubt.
    pub(super) fn is_trial(&self) -> bool {
        self.failures > 0
    }

    /// Whether plans of this delete, which may have been committed, have to wait.
    pub(in crate::relay) fn holds(&self, delete: u64) -> bool {
        self.failures > 1 || self.deletes.contains(&delete)
    }

    /// A plan of this delete waits.
    pub(super) fn wait_for(&mut self, delete: u64, now: Instant) {
        self.until.get_or_insert(now + self.wait);
        self.deletes.insert(delete);
    }

    /// When the first of them has waited long enough.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        (!self.deletes.is_empty()).then(|| self.until.unwrap_or(now))
    }

    /// Whether plans have waited long enough: those of one delete if this is to be the trial, all if another one went well.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        if self.due(now).is_none_or(|due| now < due) {
            return false;
        }
        if self.until.take().is_none() {
            self.deletes.clear();
            return true;
        }
        self.failures = 1;
        self.wait = (self.wait * 2).min(WAIT_MAX);
        self.deletes.pop_first();
        if !self.deletes.is_empty() {
            self.until = Some(now + self.wait);
        }
        true
    }
}
