//! How soon a secret that was refused may be tried again: a thread that tries on and on locks an account, or fills a broker's log.
//!
//! Promises: after a refusal nobody tries the same secret for 5 s, then for 10, up to 60; another secret goes at once. A secret that some
//! broker took is held back at those that refused it only. Does not know: clocks, sockets.

use crate::producer::lock;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const PAUSE_FIRST: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Brokers whose refusals are remembered.
const BROKERS_MAX: usize = 1_000;

/// What was said when the secret was refused: said again as long as it is not tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The failure.
    pub text: Arc<str>,
    /// What to do about it.
    pub hint: Arc<str>,
}

#[derive(Debug, Default)]
pub(crate) struct Gate(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Of the secret that all of this is about.
    digest: Vec<u8>,
    /// Some broker took it.
    taken: bool,
    refused: HashMap<String, Refused>,
}

#[derive(Debug)]
struct Refused {
    until: Instant,
    pause: Duration,
    refusal: Refusal,
}

impl Gate {
    /// Whether the secret may be tried at a broker now; else why not.
    pub(crate) fn open(&self, broker: &str, digest: &[u8], now: Instant) -> Result<(), Refusal> {
        let mut inner = lock(&self.0);
        inner.about(digest);
        let held = |refused: &&Refused| refused.until > now;
        let refused = if inner.taken {
            inner.refused.get(broker).filter(held)
        } else {
            inner.refused.values().filter(held).max_by_key(|refused| refused.until)
        };
        refused.map_or(Ok(()), |refused| Err(refused.refusal.clone()))
    }

    pub(crate) fn taken(&self, broker: &str, digest: &[u8]) {
        let mut inner = lock(&self.0);
        inner.about(digest);
        inner.taken = true;
        inner.refused.remove(broker);
    }

    pub(crate) fn refused(&self, broker: &str, digest: &[u8], refusal: Refusal, now: Instant) {
        let mut inner = lock(&self.0);
        inner.about(digest);
        if inner.refused.len() >= BROKERS_MAX {
            inner.refused.clear();
        }
        // Without a broker that takes it, it is one series of refusals, whoever says so.
        let before = if inner.taken {
            inner.refused.get(broker).map(|refused| refused.pause)
        } else {
            inner.refused.values().map(|refused| refused.pause).max()
        };
        let pause = before.map_or(PAUSE_FIRST, |pause| (pause * 2).min(PAUSE_MAX));
        inner.refused.insert(broker.to_owned(), Refused { until: now + pause, pause, refusal });
    }
}

impl Inner {
    fn about(&mut self, digest: &[u8]) {
        if self.digest != digest {
            *self = Inner { digest: digest.to_vec(), ..Inner::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> Refusal {
        Refusal { text: text.into(), hint: "check it".into() }
    }

    #[test]
    fn a_refused_secret_waits_longer_each_time_and_another_does_not() {
        let gate = Gate::default();
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        assert_eq!(gate.open("a", b"1", start), Ok(()));
        gate.refused("a", b"1", refusal("no"), start);
        assert_eq!(gate.open("a", b"1", at(4)), Err(refusal("no")));
        assert_eq!(gate.open("b", b"1", at(4)), Err(refusal("no")), "nobody took it yet");
        assert_eq!(gate.open("b", b"1", at(5)), Ok(()));
        gate.refused("b", b"1", refusal("no again"), at(5));
        assert_eq!(gate.open("a", b"1", at(14)), Err(refusal("no again")));
        assert_eq!(gate.open("a", b"1", at(15)), Ok(()));
        let mut now = 15;
        for pause in [20, 40, 60, 60] {
            gate.refused("a", b"1", refusal("no"), at(now));
            assert!(gate.open("a", b"1", at(now + pause - 1)).is_err(), "{pause}");
            now += pause;
            assert_eq!(gate.open("a", b"1", at(now)), Ok(()), "{pause}");
        }
        gate.refused("a", b"1", refusal("no"), at(now));
        assert_eq!(gate.open("a", b"2", at(now)), Ok(()), "another secret");
    }

    #[test]
    fn a_broker_that_alone_refuses_holds_up_no_other() {
        let gate = Gate::default();
        let now = Instant::now();
        gate.taken("a", b"1");
        gate.refused("b", b"1", refusal("no"), now);
        assert_eq!(gate.open("a", b"1", now), Ok(()));
        assert!(gate.open("b", b"1", now).is_err());
        gate.taken("b", b"1");
        assert_eq!(gate.open("b", b"1", now), Ok(()));
    }
}
