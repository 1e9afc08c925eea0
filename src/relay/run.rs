//! The relay's thread: one `select!` over everything that can wake it.
//!
//! Promises: blocks only here. Does not know: any decision.

use super::{Event, Fatal, Relay, Summary};
use crate::model::{SinkEvent, Wake};
use crate::ports::{Clock, Journal, Sink, Source};
use crossbeam_channel::{Receiver, never, select};
use std::time::Instant;

/// What wakes a relay.
#[derive(Debug)]
pub struct Channels {
    /// Bounded(1): wakes are coalesced.
    pub wakes: Receiver<Wake>,
    pub sink: Receiver<SinkEvent>,
    /// Bounded(1): the instant until which a drain may last.
    pub drain: Receiver<Instant>,
}

/// Turns the loop until a drain ends or an invariant breaks.
pub fn run<S: Source, J: Journal, K: Sink, C: Clock>(
    relay: &mut Relay<S, J, K, C>,
    mut channels: Channels,
) -> Result<Summary, Fatal> {
    let no_wakes = never::<Wake>();
    loop {
        if relay.work()? {
            return Ok(relay.summary());
        }
        let wait = relay.deadline().saturating_duration_since(relay.clock.now());
        let wakes = if relay.takes_wakes() { &channels.wakes } else { &no_wakes };
        let event = select! {
            recv(channels.sink) -> event => match event {
                Ok(event) => Event::Sink(event),
                Err(_) => return Err(Fatal("the sink's threads are gone".to_owned())),
            },
            recv(wakes) -> wake => if let Ok(wake) = wake {
                Event::Wake(wake)
            } else {
                // The watch has ended: data_version, once a second, is the net below.
                log::error!("the watch has ended; commits are noticed once a second from now on");
                channels.wakes = never();
                Event::Deadline
            },
            recv(channels.drain) -> until => match until {
                Ok(until) => {
                    channels.drain = never();
                    Event::Drain { until }
                }
                Err(_) => return Err(Fatal("the supervisor is gone".to_owned())),
            },
            default(wait) => Event::Deadline,
        };
        relay.note(event)?;
        // What has come in the meantime goes with it: one plan transaction, one sync, one delete for all of them.
        while let Ok(event) = channels.sink.try_recv() {
            relay.note(Event::Sink(event))?;
        }
        if relay.takes_wakes()
            && let Ok(wake) = channels.wakes.try_recv()
        {
            relay.note(Event::Wake(wake))?;
        }
    }
}
