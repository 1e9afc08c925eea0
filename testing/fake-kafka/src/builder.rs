//! How a cluster is made up before it starts.
//!
//! It promises defaults that behave like a cluster of Kafka 2.8 to 4.x with its default configuration. It does not start threads.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use crate::FakeKafka;
use crate::topic::Reach;

/// What listens on a broker's port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listener {
    #[default]
    Plaintext,
    /// A TLS listener that got a plaintext request: it just closes, or sends an alert first.
    Tls { alert: bool },
    /// ApiVersions is answered; any other request, before a SASL handshake, closes the connection.
    Sasl,
    /// Not Kafka at all: a web server's answer to nonsense.
    Http,
}

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub brokers: i32,
    pub cluster_id: Option<String>,
    pub listener: Listener,
    pub elections: bool,
    pub idle_close: Duration,
    pub request_max_bytes: usize,
    pub coordinator_loads: bool,
    pub strict_unknown_producers: bool,
    pub producer_expiration: Duration,
    /// How a leader sees the followers on frozen and stale brokers.
    pub unheard: Reach,
}

/// Made by [`FakeKafka::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    pub(crate) settings: Settings,
    pub(crate) first_producer_id: i64,
    pub(crate) topics: Vec<(String, i32, i32)>,
    pub(crate) apis: BTreeMap<i16, (i16, i16)>,
}

/// (api, what is advertised). The maxima are those of Kafka 4.x, so that a client which takes the highest version fails here too, and so is
/// the lie that Produce goes down to 0 (KAFKA-18659).
const ADVERTISED: [(ApiKey, i16, i16); 8] = [
    (ApiKey::Produce, 0, 13),
    (ApiKey::Fetch, 4, 18),
    (ApiKey::ListOffsets, 1, 11),
    (ApiKey::Metadata, 0, 13),
    (ApiKey::SaslHandshake, 0, 1),
    (ApiKey::ApiVersions, 0, 4),
    (ApiKey::InitProducerId, 0, 6),
    (ApiKey::DescribeProducers, 0, 0),
];

impl Default for Builder {
    fn default() -> Self {
        Builder {
            settings: Settings {
                brokers: 1,
                cluster_id: Some("fake-kafka".to_owned()),
                listener: Listener::Plaintext,
                elections: true,
                idle_close: Duration::from_secs(10 * 60),
                request_max_bytes: 104_857_600,
                coordinator_loads: true,
                strict_unknown_producers: false,
                producer_expiration: Duration::from_secs(24 * 60 * 60),
                unheard: Reach::Gone,
            },
            first_producer_id: 4_000,
            topics: Vec::new(),
            apis: ADVERTISED.iter().map(|&(api, min, max)| (api as i16, (min, max))).collect(),
        }
    }
}

impl Builder {
    /// How many brokers; their ids are 1, 2, 3, ... Default 1.
    #[must_use]
    pub fn brokers(mut self, count: i32) -> Self {
        assert!(count > 0, "a cluster has a broker");
        self.settings.brokers = count;
        self
    }

    /// What Metadata calls the cluster. Default `fake-kafka`; `None` for a relative of Kafka's that has no name.
    #[must_use]
    pub fn cluster_id(mut self, id: Option<&str>) -> Self {
        self.settings.cluster_id = id.map(str::to_owned);
        self
    }

    /// The first producer id given out. Real clusters begin near 0, every one of them; the default is far from it, so that a mistaken
    /// default shows.
    #[must_use]
    pub fn first_producer_id(mut self, id: i64) -> Self {
        self.first_producer_id = id;
        self
    }

    /// A topic whose partitions have up to three replicas. Leaders go round: partition p of n brokers is led by `p % n + 1`.
    #[must_use]
    pub fn topic(self, name: &str, partitions: i32) -> Self {
        let replication = self.settings.brokers.min(3);
        self.topic_replicated(name, partitions, replication)
    }

    /// The same with a replication factor of its own.
    #[must_use]
    pub fn topic_replicated(mut self, name: &str, partitions: i32, replication: i32) -> Self {
        self.topics.push((name.to_owned(), partitions, replication));
        self
    }

    #[must_use]
    pub fn listener(mut self, listener: Listener) -> Self {
        self.settings.listener = listener;
        self
    }

    /// Without elections a partition whose leader stops stays without one until the test says who leads. Default: with.
    #[must_use]
    pub fn elections(mut self, on: bool) -> Self {
        self.settings.elections = on;
        self
    }

    /// `connections.max.idle.ms`, default 10 minutes.
    #[must_use]
    pub fn idle_close(mut self, after: Duration) -> Self {
        self.settings.idle_close = after;
        self
    }

    /// `socket.request.max.bytes`, default 100 MiB: a larger frame closes the connection.
    #[must_use]
    pub fn request_max_bytes(mut self, bytes: usize) -> Self {
        self.settings.request_max_bytes = bytes;
        self
    }

    /// Whether each broker's first InitProducerId after a start is answered 14. Default true.
    #[must_use]
    pub fn coordinator_loads(mut self, on: bool) -> Self {
        self.settings.coordinator_loads = on;
        self
    }

    /// Up to Kafka 2.4: an unknown producer that does not begin at sequence 0 is answered 59. Default false.
    #[must_use]
    pub fn strict_unknown_producers(mut self, on: bool) -> Self {
        self.settings.strict_unknown_producers = on;
        self
    }

    /// `producer.id.expiration.ms` for [`FakeKafka::expire_producers`], default 24 h.
    #[must_use]
    pub fn producer_expiration(mut self, after: Duration) -> Self {
        self.settings.producer_expiration = after;
        self
    }

    /// Whether the replicas of a frozen or stale broker stay in sync until [`FakeKafka::expel`], as they do on a real one for
    /// `replica.lag.time.max.ms` (30 s): acks=all waits for them, and a leader that dies meanwhile takes its tail along. Default: they are
    /// out of sync at once.
    #[must_use]
    pub fn lagging_stay_in_sync(mut self, on: bool) -> Self {
        self.settings.unheard = if on { Reach::Lags } else { Reach::Gone };
        self
    }

    /// What ApiVersions says of one API. What the fake itself can do does not grow by it: a version that is advertised and not built in
    /// closes the connection and is a complaint.
    #[must_use]
    pub fn api_versions(mut self, api: ApiKey, min: i16, max: i16) -> Self {
        self.apis.insert(api as i16, (min, max));
        self
    }

    /// A broker that lacks an API altogether.
    #[must_use]
    pub fn without_api(mut self, api: ApiKey) -> Self {
        self.apis.remove(&(api as i16));
        self
    }

    /// Binds the listeners and starts.
    ///
    /// # Panics
    /// When 127.0.0.1 has no free port.
    pub fn start(self) -> FakeKafka {
        FakeKafka::start(self)
    }
}
