//! The metadata thread's own connections: any broker for what every broker knows, a certain one for what only a leader knows.
//!
//! Promises: tries all servers there are before it gives up, and then names each with its reason. Does not know: what is asked.

use super::Cluster;
use crate::connection::{Address, Connection};
use crate::error::{CallError, ConnectError};
use crate::outcome::Why;
use crate::producer::KafkaOptions;
use crate::protocol::Request;
use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

pub(super) struct Brokers {
    /// By `host:port`: two names of one broker are two connections, which does no harm.
    connections: HashMap<String, Connection>,
    /// The one that answered last.
    favourite: Option<Address>,
}

/// Why one server could not be asked.
enum Trouble {
    Connect(ConnectError),
    Call(CallError),
    Stopping,
}

impl Brokers {
    pub(super) fn new() -> Self {
        Brokers { connections: HashMap::new(), favourite: None }
    }

    /// Asks whoever answers: the favourite, the other known brokers, the bootstrap servers.
    pub(super) fn call_any<R: Request>(
        &mut self,
        cluster: &Cluster,
        options: &KafkaOptions,
        request: &R,
    ) -> Result<R::Response, Why> {
        let mut failures: Vec<(Address, Why)> = Vec::new();
        for address in self.candidates(cluster) {
            match self.try_at(cluster, options, &address, request) {
                Ok(response) => {
                    self.favourite = Some(address);
                    return Ok(response);
                }
                Err(Trouble::Stopping) => return Err(Why::new("the producer has been stopped")),
                Err(trouble) => {
                    let failure = failure(cluster, &address, &trouble);
                    failures.push((address, failure));
                }
            }
        }
        self.favourite = None;
        // They were tried in any order; what is said is the same each time.
        failures.sort_by(|(a, _), (b, _)| a.cmp(b));
        let tried: Vec<&str> = failures.iter().map(|(_, failure)| failure.text.as_str()).collect();
        let hint = failures.iter().map(|(_, failure)| failure.hint.as_str()).find(|hint| !hint.is_empty());
        Err(Why::new(format!("no Kafka broker could be asked: {}", tried.join("; ")))
            .hint(hint.unwrap_or("see whether the servers in bootstrap_servers are right and running")))
    }

    /// Asks one certain broker.
    pub(super) fn call_at<R: Request>(
        &mut self,
        cluster: &Cluster,
        options: &KafkaOptions,
        address: &Address,
        request: &R,
    ) -> Result<R::Response, Why> {
        self.try_at(cluster, options, address, request).map_err(|trouble| failure(cluster, address, &trouble))
    }

    /// The next question goes to another broker: this one's view may be old.
    pub(super) fn change_favourite(&mut self, cluster: &Cluster) {
        let mut known: Vec<Address> = cluster.snapshot().brokers.values().cloned().collect();
        known.sort();
        let at = self.favourite.as_ref().and_then(|favourite| known.iter().position(|a| a == favourite));
        self.favourite = match at {
            Some(at) => Some(known[(at + 1) % known.len()].clone()),
            None => known.into_iter().next(),
        };
    }

    /// What they are connected to is not what it was.
    pub(super) fn close_all(&mut self) {
        self.connections.clear();
        self.favourite = None;
    }

    pub(super) fn close_idle(&mut self, idle_max: Duration) {
        self.connections.retain(|_, connection| connection.idle_for() < idle_max);
    }

    /// How long until a connection will have been idle for too long.
    pub(super) fn next_idle(&self, idle_max: Duration) -> Option<Duration> {
        self.connections.values().map(|connection| idle_max.saturating_sub(connection.idle_for())).min()
    }

    fn candidates(&self, cluster: &Cluster) -> Vec<Address> {
        let snapshot = cluster.snapshot();
        let mut known: Vec<&Address> = snapshot.brokers.values().collect();
        // In another order each time, so that a broker that is frozen is not always waited for first.
        fastrand::shuffle(&mut known);
        let mut candidates: Vec<Address> = Vec::new();
        for address in self.favourite.iter().chain(known).chain(&cluster.bootstrap) {
            if !candidates.contains(address) {
                candidates.push(address.clone());
            }
        }
        candidates
    }

    fn try_at<R: Request>(
        &mut self,
        cluster: &Cluster,
        options: &KafkaOptions,
        address: &Address,
        request: &R,
    ) -> Result<R::Response, Trouble> {
        let name = format!("{}:{}", address.host, address.port);
        let kept = self
            .connections
            .remove(&name)
            .filter(|connection| connection.idle_for() < options.idle_max())
            .and_then(|mut connection| connection.ready().then_some(connection));
        if cluster.is_stopping() {
            return Err(Trouble::Stopping);
        }
        let mut connection = match kept {
            Some(connection) => connection,
            None => cluster.connect(address, &options.connection(cluster.security())).map_err(Trouble::Connect)?,
        };
        if !cluster.uses(connection.interrupter().ok()) {
            return Err(Trouble::Stopping);
        }
        let result = connection.call(request, options.news_patience());
        cluster.uses(None);
        let response =
            result.map_err(|error| if cluster.is_stopping() { Trouble::Stopping } else { Trouble::Call(error) })?;
        // Only a connection whose last exchange was whole is used again.
        self.connections.insert(name, connection);
        Ok(response)
    }
}

fn failure(cluster: &Cluster, address: &Address, trouble: &Trouble) -> Why {
    match trouble {
        Trouble::Connect(error) => cluster.connect_failure(error, address),
        Trouble::Call(error) => Why::new(chain(error)),
        Trouble::Stopping => Why::new("the producer has been stopped"),
    }
}

impl Cluster {
    /// A connection that could not be opened, with what to do. An address that nobody configured came from the cluster.
    pub(crate) fn connect_failure(&self, error: &ConnectError, address: &Address) -> Why {
        let hint = match error {
            ConnectError::Connect { .. } if !self.bootstrap.contains(address) => {
                "the cluster names this address itself: is that broker running, and can it be reached from here by what its \
                 advertised.listeners say?"
            }
            _ => error.hint().unwrap_or_default(),
        };
        Why::new(chain(error)).hint(hint)
    }
}

/// An error and its causes in one line. It says nothing that differs from one time to the next, as milliseconds would: a failure that goes
/// on is recognised by its text, and logged once.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&link(error));
        next = error.source();
    }
    text
}

fn link(error: &(dyn Error + 'static)) -> String {
    if let Some(CallError::Lost { api, .. }) = error.downcast_ref() {
        return format!("no answer to {api}");
    }
    if let Some(ConnectError::Silent { address, .. }) = error.downcast_ref() {
        return format!("{address} accepted the connection, but did not answer in time");
    }
    error.to_string()
}
