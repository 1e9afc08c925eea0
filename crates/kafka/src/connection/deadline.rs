//! An instant by which an exchange, or a connection's setup, is over.
//!
//! Promises: what is left of it is never zero, which to a socket would mean for ever. Does not know: what is waited for.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    started: Instant,
    patience: Duration,
}

impl Deadline {
    pub(super) fn after(patience: Duration) -> Self {
        Deadline { started: Instant::now(), patience }
    }

    pub(super) fn elapsed(self) -> Duration {
        self.started.elapsed()
    }

    /// `None` when it is over.
    pub(super) fn left(self) -> Option<Duration> {
        self.patience.checked_sub(self.elapsed()).filter(|left| !left.is_zero())
    }
}

/// A timed-out or interrupted system call: the deadline decides whether there is another one.
pub(super) fn is_retryable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
