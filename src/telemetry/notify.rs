//! What systemd is told: READY, STATUS, WATCHDOG, STOPPING.
//!
//! Promises: nothing without `$NOTIFY_SOCKET`, not even a thread; the watchdog is fed only while every relay is alive, and a
//! sync that takes minutes is no end of that.
//! Does not know: what ready means.

use super::health::Health;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use sd_notify::NotifyState;
use std::thread::JoinHandle;
use std::time::Duration;

/// How often the status line is renewed, at most.
const STATUS_EVERY: Duration = Duration::from_secs(10);

/// The thread that talks to systemd; dropping it stops it.
#[derive(Debug)]
pub struct Notifier {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Notifier {
    /// Says READY=1 and goes on with STATUS and WATCHDOG.
    pub fn ready(health: Health) -> Notifier {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Notifier { stop: None, thread: None };
        }
        tell(&[NotifyState::Ready, NotifyState::Status(&health.status())]);
        let watchdog = sd_notify::watchdog_enabled();
        let (stop, stopped) = bounded(0);
        let thread =
            std::thread::Builder::new().name("notify".into()).spawn(move || go_on(&health, watchdog, &stopped));
        match thread {
            Ok(thread) => Notifier { stop: Some(stop), thread: Some(thread) },
            Err(error) => {
                log::warn!("no thread for systemd's notifications ({error}): no status line, and no watchdog");
                Notifier { stop: None, thread: None }
            }
        }
    }

    /// Says STOPPING=1. The watchdog goes on being fed: a drain is bounded by its own time limit.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping, NotifyState::Status("draining")]);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn go_on(health: &Health, watchdog: Option<Duration>, stopped: &Receiver<()>) {
    // Three times in its period, so that one late turn of this thread kills nobody.
    let period = watchdog.map_or(STATUS_EVERY, |period| (period / 3).min(STATUS_EVERY));
    let (mut said, mut slow_disks) = (String::new(), 0);
    while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(period) {
        let status = health.status();
        let mut states = Vec::with_capacity(2);
        if status != said {
            states.push(NotifyState::Status(&status));
        }
        if watchdog.is_some() {
            let verdict = health.alive();
            if verdict.good {
                states.push(NotifyState::Watchdog);
            } else {
                log::error!("the watchdog is not fed: {}", verdict.text.trim_end().replace('\n', "; "));
            }
        }
        tell(&states);
        said = status;
        let slow = health.at_slow_disks();
        if slow.len() > slow_disks {
            log::warn!("{}", slow.join("; "));
        } else if slow.is_empty() && slow_disks > 0 {
            log::info!("nobody waits for a disk any more");
        }
        slow_disks = slow.len();
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if states.is_empty() {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("systemd could not be notified: {error}");
    }
}
