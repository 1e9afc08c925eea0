//! When to try again, as deadlines: exponential backoff with jitter, and knocking at a lock.
//!
//! Promises: pure; the randomness is the caller's. Does not know: what is retried.

use std::time::{Duration, Instant};

pub use outboxd_kafka::backoff::Backoff;

/// The first repetition of what met a lock; doubled each time.
const KNOCK_FIRST: Duration = Duration::from_micros(50);
const KNOCK_LONGEST: Duration = Duration::from_millis(20);
/// Who has waited for so long waits for somebody who leaves the lock for some ten microseconds at a time: an application that begins
/// its next transaction at once. Tries 20 ms apart hardly ever meet such a gap. So for a while in each second they come thick.
const KEEN_AFTER: Duration = Duration::from_secs(2);
const KEEN_EVERY: Duration = Duration::from_secs(1);
const KEEN_FOR: Duration = Duration::from_millis(250);

/// When to try again what met somebody else's lock.
#[derive(Clone, Copy, Debug, Default)]
pub struct Knocking {
    since: Option<Instant>,
    doublings: u32,
}

impl Knocking {
    /// The time of the next attempt after one more that met a lock.
    pub fn next(&mut self, now: Instant) -> Instant {
        let waited = now.duration_since(*self.since.get_or_insert(now));
        let in_round = waited.as_nanos() % KEEN_EVERY.as_nanos();
        if waited >= KEEN_AFTER && in_round < KEEN_FOR.as_nanos() {
            return now + KNOCK_FIRST;
        }
        let pause = KNOCK_FIRST.saturating_mul(1 << self.doublings.min(20)).min(KNOCK_LONGEST);
        self.doublings += 1;
        now + pause
    }

    /// Since when it meets a lock.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// It met none.
    pub fn over(&mut self) {
        *self = Knocking::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_long_knocks_often_for_a_part_of_each_second() {
        let (mut knocking, start) = (Knocking::default(), Instant::now());
        let mut by_second = [0; 6];
        let mut now = start;
        while now < start + Duration::from_secs(6) {
            by_second[(now - start).as_secs() as usize] += 1;
            now = knocking.next(now);
            assert!(knocking.since() == Some(start));
        }
        assert!(by_second[..2].iter().all(|count| *count < 70), "{by_second:?}");
        assert!(by_second[2..].iter().all(|count| (4_000..6_000).contains(count)), "{by_second:?}");
        knocking.over();
        assert_eq!((knocking.since(), knocking.next(now)), (None, now + KNOCK_FIRST));
    }
}
