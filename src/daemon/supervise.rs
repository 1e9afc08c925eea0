//! From the first signal or failure to the end of the last relay.
//!
//! Promises: a failure anywhere drains everything; the wait ends in time even if a thread never comes back. Does not know: what a
//! relay does.

use super::DaemonError;
use crate::relay::Summary;
use crossbeam_channel::{Receiver, Sender, after, never, select};
use std::io;
use std::time::{Duration, Instant};

/// Of the drain's time: what is left to the relays; the rest is for ending the sink's threads after them.
const RELAYS_SHARE: f64 = 0.95;
/// How far beyond the drain's time a thread that is stuck in the system is waited for.
const GRACE: Duration = Duration::from_millis(200);
/// Nobody reads what we print any more: there is nothing to wait for but a delete.
const DRAIN_WITHOUT_READER: Duration = Duration::from_secs(1);

/// The relays' and the sink's ends of their channels with the supervisor.
pub struct Relays {
    pub drains: Vec<Sender<Instant>>,
    /// One message for each relay, whatever happens to it.
    pub ended: Receiver<Result<Summary, DaemonError>>,
    /// The output can't be written any more.
    pub output_broken: Receiver<io::Error>,
}

/// How it ended.
#[derive(Debug)]
pub struct Supervised {
    pub summary: Summary,
    /// Relays that did not come back.
    pub stuck: usize,
    pub failure: Option<DaemonError>,
    /// When the sink's threads must have ended.
    pub until: Instant,
}

/// Waits for the first signal or the first failure, tells every relay to drain, and waits for them. `draining` is called once.
pub fn supervise(
    relays: &Relays,
    stop: &Receiver<()>,
    mut drain_timeout: Duration,
    draining: impl FnOnce(),
) -> Supervised {
    let (mut stop, mut output_broken, mut give_up) = (stop.clone(), relays.output_broken.clone(), never());
    let mut draining = Some(draining);
    let mut supervised = Supervised {
        summary: Summary::default(),
        stuck: relays.drains.len(),
        failure: None,
        until: Instant::now() + drain_timeout,
    };
    while supervised.stuck > 0 {
        select! {
            recv(relays.ended) -> ended => match ended {
                Ok(Ok(summary)) => {
                    supervised.stuck -= 1;
                    add(&mut supervised.summary, &summary);
                }
                Ok(Err(error)) => {
                    supervised.stuck -= 1;
                    log::error!("{error}; the daemon stops, the rows stay in their tables");
                    supervised.failure.get_or_insert(error);
                }
                // Every relay sends before it ends, whatever happens in it.
                Err(_) => break,
            },
            recv(output_broken) -> broken => {
                output_broken = never();
                let Ok(error) = broken else { continue };
                supervised.failure.get_or_insert(DaemonError::Output(error));
                drain_timeout = drain_timeout.min(DRAIN_WITHOUT_READER);
            }
            recv(stop) -> _ => stop = never(),
            recv(give_up) -> _ => break,
        }
        // Whatever it was that woke us, it is the beginning of the end, or part of it.
        let Some(draining) = draining.take() else { continue };
        draining();
        log::info!("draining, for {} ms at most", drain_timeout.as_millis());
        let now = Instant::now();
        supervised.until = now + drain_timeout;
        give_up = after(drain_timeout + GRACE);
        for drain in &relays.drains {
            // A relay that has ended needs no telling.
            let _ = drain.try_send(now + drain_timeout.mul_f64(RELAYS_SHARE));
        }
    }
    supervised
}

fn add(sum: &mut Summary, one: &Summary) {
    // Taken apart, so that a field that is not added is an error.
    let Summary { published, deleted, left_in_flight, left_acknowledged, unsure } = *one;
    sum.published += published;
    sum.deleted += deleted;
    sum.left_in_flight += left_in_flight;
    sum.left_acknowledged += left_acknowledged;
    sum.unsure += unsure;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::{bounded, unbounded};

    /// Two relays, played by the test.
    struct House {
        relays: Relays,
        drained: Vec<Receiver<Instant>>,
        tell_end: Sender<Result<Summary, DaemonError>>,
        break_output: Sender<io::Error>,
    }

    fn house() -> House {
        let (drains, drained) = (0..2).map(|_| bounded(1)).unzip();
        let (tell_end, ended) = unbounded();
        let (break_output, output_broken) = bounded(1);
        House { relays: Relays { drains, ended, output_broken }, drained, tell_end, break_output }
    }

    const LONG: Duration = Duration::from_secs(600);

    fn summary(published: u64) -> Summary {
        Summary {
            published,
            deleted: published * 10,
            left_in_flight: published * 100,
            left_acknowledged: published * 1_000,
            unsure: published * 10_000,
        }
    }

    #[test]
    fn a_signal_drains_every_relay_and_adds_up_what_they_did() {
        let house = house();
        let (signal, stop) = bounded(1);
        signal.send(()).unwrap();
        let mut told = 0;
        let supervised = std::thread::scope(|scope| {
            scope.spawn(|| {
                for (relay, drained) in house.drained.iter().enumerate() {
                    drained.recv().unwrap();
                    house.tell_end.send(Ok(summary(relay as u64 + 1))).unwrap();
                }
            });
            supervise(&house.relays, &stop, LONG, || told += 1)
        });
        assert_eq!((supervised.summary, supervised.stuck, told), (summary(3), 0, 1));
        assert!(supervised.failure.is_none());
    }

    #[test]
    fn one_relay_that_fails_stops_the_others() {
        let house = house();
        let failed = || DaemonError::Relay { database: "db".into(), text: "panicked: x".into() };
        house.tell_end.send(Err(failed())).unwrap();
        let supervised = std::thread::scope(|scope| {
            scope.spawn(|| {
                house.drained[1].recv().unwrap();
                house.tell_end.send(Ok(summary(1))).unwrap();
            });
            supervise(&house.relays, &never(), LONG, || {})
        });
        assert_eq!(supervised.stuck, 0);
        assert_eq!(supervised.failure.unwrap().to_string(), failed().to_string());
    }

    #[test]
    fn a_relay_that_never_comes_back_is_given_up() {
        let house = house();
        let (signal, stop) = bounded(1);
        signal.send(()).unwrap();
        house.tell_end.send(Ok(summary(1))).unwrap();
        let supervised = supervise(&house.relays, &stop, Duration::from_millis(1), || {});
        assert_eq!((supervised.stuck, supervised.summary), (1, summary(1)));
        assert!(supervised.failure.is_none(), "left rows are no failure");
    }

    #[test]
    fn an_output_without_a_reader_is_a_failure() {
        let house = house();
        house.break_output.send(io::ErrorKind::BrokenPipe.into()).unwrap();
        let supervised = std::thread::scope(|scope| {
            scope.spawn(|| {
                for drained in &house.drained {
                    drained.recv().unwrap();
                    house.tell_end.send(Ok(summary(0))).unwrap();
                }
            });
            supervise(&house.relays, &never(), LONG, || {})
        });
        assert!(matches!(supervised.failure, Some(DaemonError::Output(_))), "{supervised:?}");
    }
}
