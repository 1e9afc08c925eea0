//! Waiting for a condition, never for a time.
//!
//! Promises: returns as soon as the condition holds, panics with what was waited for when the deadline passes.
//! Does not know: what is waited for.

use std::time::{Duration, Instant};

pub const SECOND: Duration = Duration::from_secs(1);
const BETWEEN_LOOKS: Duration = Duration::from_millis(10);

#[track_caller]
pub fn until(deadline: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    some(deadline, what, || holds().then_some(()));
}

#[track_caller]
pub fn some<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {deadline:?}: {what}");
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}

/// For the tests whose subject is a length of time, such as a broker that stands still for ten seconds.
pub fn let_pass(time: Duration) {
    let begun = Instant::now();
    until(time * 2 + SECOND, "time itself", || begun.elapsed() >= time);
}
