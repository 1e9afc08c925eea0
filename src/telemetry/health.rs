//! Whether the daemon is alive and whether it is ready, judged from the relays' figures.
//!
//! Promises: one judgement for `/healthz`, `/readyz` and systemd's watchdog. Does not know: who asks.

use super::figures::Figures;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// A loop that has not turned for so long, and does not wait for a disk, is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A sync may take minutes, on a disk that is slow or has paths to change over. To be killed in one helps nobody: the kernel lets the
/// process go when the sync has ended, the next start begins with another, and nothing gets done. No sync that ends takes longer than
/// this.
pub const DISK_PATIENCE: Duration = Duration::from_secs(600);

/// All relays of the daemon.
#[derive(Clone, Debug)]
pub struct Health {
    relays: Arc<[Arc<Figures>]>,
    state_file_bytes: Arc<OnceLock<Arc<AtomicU64>>>,
}

/// A judgement and its reasons, a line for each relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub good: bool,
    pub text: String,
}

impl Health {
    pub fn new(relays: impl Into<Arc<[Arc<Figures>]>>) -> Self {
        Health { relays: relays.into(), state_file_bytes: Arc::default() }
    }

    /// Where the size of the one state file can be read from now on. Said once, if there is a state file.
    pub fn state_file_is(&self, bytes: Arc<AtomicU64>) {
        let _ = self.state_file_bytes.set(bytes);
    }

    pub fn state_file_bytes(&self) -> Option<u64> {
        self.state_file_bytes.get().map(|bytes| bytes.load(Relaxed))
    }

    pub fn relays(&self) -> &[Arc<Figures>] {
        &self.relays
    }

    /// Alive: every loop turned in the last ten seconds, or waits for a disk, or drains, for which it has its time.
    pub fn alive(&self) -> Verdict {
        self.judge(|relay| {
            let ago = since_turn(relay);
            let late = ago > STUCK_AFTER;
            if late && let Some(waits) = waits_for_disk(relay, ago) {
                return (ago <= DISK_PATIENCE, waits);
            }
            if late && !relay.draining.load(Relaxed) {
                return (false, format!("its loop has not turned for {} s", ago.as_secs()));
            }
            (true, waiting_for(relay).map_or_else(|| "running".into(), |what| format!("waiting for {what}")))
        })
    }

    /// The relays that have waited for a disk for longer than is good.
    pub fn at_slow_disks(&self) -> Vec<String> {
        let slow = |relay: &Arc<Figures>| {
            let ago = since_turn(relay);
            let waits = (ago > STUCK_AFTER).then(|| waits_for_disk(relay, ago)).flatten()?;
            Some(format!("{}: {waits}", relay.database))
        };
        self.relays.iter().filter_map(slow).collect()
    }

    /// Ready: every database could be read and every sink has answered.
    pub fn ready(&self) -> Verdict {
        self.judge(|relay| {
            let lacks = match (relay.source_ready.load(Relaxed), relay.sink_ready.load(Relaxed)) {
                (true, true) => return (true, "ready".into()),
                (false, true) => "the database is not readable yet",
                (true, false) => "the sink has not answered yet",
                (false, false) => "the database is not readable yet, and the sink has not answered yet",
            };
            (false, waiting_for(relay).map_or_else(|| lacks.to_owned(), |what| format!("{lacks}; waiting for {what}")))
        })
    }

    fn judge(&self, of: impl Fn(&Figures) -> (bool, String)) -> Verdict {
        let mut verdict = Verdict { good: true, text: String::new() };
        for relay in self.relays.iter() {
            let (good, text) = of(relay);
            verdict.good &= good;
            let _ = writeln!(verdict.text, "{}: {text}", relay.database);
        }
        verdict
    }

    /// One line for `systemctl status`: totals, and what the first relay that waits is waiting for.
    pub fn status(&self) -> String {
        let sum = |of: fn(&super::figures::OutboxFigures) -> u64| {
            self.relays.iter().flat_map(|relay| &relay.outboxes).map(of).sum::<u64>()
        };
        let exact =
            self.relays.iter().flat_map(|relay| &relay.outboxes).all(|outbox| outbox.backlog_exact.load(Relaxed));
        let mut line = format!(
            "published {}, waiting {}{}",
            sum(|outbox| outbox.published.load(Relaxed)),
            if exact { "" } else { "about " },
            sum(|outbox| outbox.backlog_rows.load(Relaxed)),
        );
        let set_aside = sum(|outbox| outbox.set_aside.load(Relaxed));
        if set_aside > 0 {
            let _ = write!(line, ", set aside {set_aside}");
        }
        if let Some(slow) = self.at_slow_disks().first() {
            let _ = write!(line, "; {slow}");
        } else if let Some((relay, what)) = self.relays.iter().find_map(|relay| Some((relay, waiting_for(relay)?))) {
            let _ = write!(line, "; {}: waiting for {what}", relay.database);
        }
        line
    }
}

fn since_turn(relay: &Figures) -> Duration {
    relay.started.elapsed().saturating_sub(Duration::from_millis(relay.turned_ms.load(Relaxed)))
}

fn waits_for_disk(relay: &Figures, ago: Duration) -> Option<String> {
    relay.at_disk.load(Relaxed).then(|| format!("waiting for a disk for {} s", ago.as_secs()))
}

fn waiting_for(relay: &Figures) -> Option<String> {
    relay.waiting_for.lock().ok().and_then(|what| what.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn relay(database: &str) -> Arc<Figures> {
        Arc::new(Figures::new(database.into(), vec!["users".into()]))
    }

    #[test]
    fn a_stuck_loop_is_named() {
        let good = relay("/a");
        let mut stuck = Figures::new("/b".into(), vec!["x".into()]);
        stuck.started = Instant::now().checked_sub(Duration::from_secs(60)).unwrap();
        stuck.turned_ms.store(30_000, Relaxed);
        let stuck = Arc::new(stuck);
        let health = Health::new(vec![good, stuck.clone()]);
        let verdict = health.alive();
        assert!(!verdict.good);
        assert_eq!(verdict.text, "/a: running\n/b: its loop has not turned for 30 s\n");
        stuck.wait_for(Some("the table users_outbox"));
        assert!(!health.alive().good, "what it waits for is no excuse for a loop that does not turn");
        stuck.draining.store(true, Relaxed);
        assert!(health.alive().good, "its supervisor ends it");
    }

    #[test]
    fn a_disk_may_take_its_time_but_not_for_ever() {
        let waits = |seconds: u64| {
            let mut relay = Figures::new("/a".into(), vec!["x".into()]);
            relay.started = Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
            relay.at_disk.store(true, Relaxed);
            Health::new(vec![Arc::new(relay)])
        };
        assert_eq!(waits(5).alive(), Verdict { good: true, text: "/a: running\n".into() });
        assert_eq!(waits(5).at_slow_disks(), [""; 0]);
        assert_eq!(waits(300).alive(), Verdict { good: true, text: "/a: waiting for a disk for 300 s\n".into() });
        assert_eq!(waits(300).at_slow_disks(), ["/a: waiting for a disk for 300 s"]);
        assert_eq!(waits(300).status(), "published 0, waiting about 0; /a: waiting for a disk for 300 s");
        assert!(!waits(700).alive().good);
    }

    #[test]
    fn ready_needs_both_ends() {
        let relay = relay("/a");
        let health = Health::new(vec![relay.clone()]);
        assert!(!health.ready().good);
        relay.source_ready.store(true, Relaxed);
        relay.wait_for(Some("Kafka"));
        assert_eq!(health.ready().text, "/a: the sink has not answered yet; waiting for Kafka\n");
        relay.sink_ready.store(true, Relaxed);
        assert_eq!(health.ready(), Verdict { good: true, text: "/a: ready\n".into() });
    }

    #[test]
    fn the_status_line_adds_up() {
        let (a, b) = (relay("/a"), relay("/b"));
        a.outboxes[0].published.store(5, Relaxed);
        b.outboxes[0].published.store(6, Relaxed);
        b.outboxes[0].backlog_rows.store(20_000, Relaxed);
        a.outboxes[0].backlog_exact.store(true, Relaxed);
        b.wait_for(Some("Kafka"));
        let health = Health::new(vec![a, b.clone()]);
        assert_eq!(health.status(), "published 11, waiting about 20000; /b: waiting for Kafka");
        b.outboxes[0].backlog_exact.store(true, Relaxed);
        b.outboxes[0].set_aside.store(1, Relaxed);
        b.wait_for(None);
        assert_eq!(health.status(), "published 11, waiting 20000, set aside 1");
    }
}
