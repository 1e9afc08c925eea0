//! The one connection of a thread that serves a broker, made anew when it is needed.
//!
//! Promises: a connection that is given out can be written to, as far as one can tell, and whoever stops the producer can cut it off.
//! Does not know: what the broker is asked.

use crate::connection::{Address, Connection, ConnectionOptions};
use crate::outcome::Why;
use crate::producer::Shared;
use crate::queue::Queue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A broker and the connection to it, if there is one; `T` is what waits in the thread's queue.
pub(crate) struct Link<T> {
    shared: Arc<Shared>,
    broker: i32,
    queue: Arc<Queue<T>>,
    open: Option<(Connection, Address)>,
    /// What the broker is called in texts.
    name: Arc<str>,
    /// Until then the broker won't read from us.
    throttled_until: Option<Instant>,
}

impl<T> Link<T> {
    pub(crate) fn new(shared: &Arc<Shared>, broker: i32, queue: &Arc<Queue<T>>) -> Self {
        Link {
            shared: Arc::clone(shared),
            broker,
            queue: Arc::clone(queue),
            open: None,
            name: broker.to_string().into(),
            throttled_until: None,
        }
    }

    /// Where to connect to first; `None`: there is a connection that can be written to.
    pub(crate) fn where_to_connect(&mut self) -> Result<Option<Address>, Why> {
        let Some(address) = self.shared.cluster.address(self.broker) else {
            self.close();
            return Err(Why::new(format!("broker {} is not in the cluster any more", self.broker)));
        };
        if let Some((connection, connected_to)) = &mut self.open {
            // A peer that closed while we were idle would take the next request into the void and leave it unsure.
            if *connected_to == address && connection.idle_for() < self.shared.options.idle_max() && connection.ready()
            {
                return Ok(None);
            }
            self.close();
        }
        Ok(Some(address))
    }

    /// Connects. What waits stays in the queue meanwhile, where it can be taken back.
    pub(crate) fn connect(&mut self, address: Address, options: &ConnectionOptions) -> Result<(), Why> {
        self.name = format!("{} at {}:{}", self.broker, address.host, address.port).into();
        let cluster = &self.shared.cluster;
        // From here on the metadata thread asks for news by itself: it takes back what waits when another broker leads its partition.
        let _struggle = cluster.struggle();
        let connection = cluster.connect(&address, options).map_err(|error| {
            let why = cluster.connect_failure(&error, &address);
            Why { text: format!("broker {}: {}", self.broker, why.text), ..why }
        })?;
        if !self.queue.uses(connection.interrupter().ok(), &self.shared.stopping) {
            return Err(Why::new("the producer has been stopped"));
        }
        log::debug!("kafka: connected to broker {}: {connection}", self.broker);
        self.open = Some((connection, address));
        Ok(())
    }

    pub(crate) fn close(&mut self) {
        if self.open.take().is_some() {
            self.queue.uses(None, &self.shared.stopping);
        }
    }

    pub(crate) fn connection(&mut self) -> Option<&mut Connection> {
        self.open.as_mut().map(|(connection, _)| connection)
    }

    /// What the broker is called in texts: `7 at kafka-7:9092`.
    pub(crate) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// The broker has said that it won't read from us for so long.
    pub(crate) fn throttled(&mut self, time: Duration) {
        if !time.is_zero() {
            self.throttled_until = Some(Instant::now() + time);
        }
    }

    /// Waits until the broker reads again. False when the producer stops.
    pub(crate) fn pause_while_throttled(&mut self) -> bool {
        self.throttled_until.take().is_none_or(|until| self.queue.pause(until, &self.shared.stopping))
    }
}

impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        self.close();
    }
}
