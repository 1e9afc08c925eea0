//! When to try again, as deadlines: exponential backoff with jitter, and knocking at a lock.
//!
//! Promises: pure; the randomness is the caller's. Does not know: what is retried.

use std::time::{Duration, Instant};

/// Doubling delays between a first and a longest one, each shortened by up to a fifth so that many lanes do not knock at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    pub fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest: longest.max(first), failures: 0 }
    }

    /// The time of the next attempt after one more failure.
    pub fn next(&mut self, now: Instant, random: &mut fastrand::Rng) -> Instant {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        now + doubled.min(self.longest).mul_f64(1.0 - 0.2 * random.f64())
    }

    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// In a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

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

    #[test]
    fn delays_double_up_to_the_longest_and_start_again_after_a_reset() {
        let mut random = fastrand::Rng::with_seed(1);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let now = Instant::now();
        let mut bounds = [100, 200, 400, 800, 1000, 1000].into_iter().map(Duration::from_millis);
        for longest in &mut bounds {
            let delay = backoff.next(now, &mut random) - now;
            assert!(delay <= longest && delay >= longest.mul_f64(0.8), "{delay:?} against {longest:?}");
        }
        backoff.reset();
        assert!(backoff.next(now, &mut random) - now <= Duration::from_millis(100));
    }
}
