//! When to try again: exponential backoff with jitter.
//!
//! Promises: pure; the clock and the randomness are the caller's. Does not know: what is retried.

use std::time::{Duration, Instant};

/// Doubling delays between a first and a longest one, each shortened by up to a fifth so that many callers do not knock at once.
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
}

impl Backoff {
    /// A backoff without a failure yet.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest: longest.max(first), failures: 0 }
    }

    /// The time of the next attempt after one more failure.
    pub fn next(&mut self, now: Instant, random: &mut fastrand::Rng) -> Instant {
        let doubled = self.first.saturating_mul(1 << self.failures.min(20));
        self.failures = self.failures.saturating_add(1);
        now + doubled.min(self.longest).mul_f64(1.0 - 0.2 * random.f64())
    }

    /// An attempt worked: the next pause is the first one again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
