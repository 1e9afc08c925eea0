//! The producer's settings, by Kafka's own producer property names.
//!
//! Promises: every one has its effect, and bad ones are refused before a thread starts. Does not know: config files.

use crate::backoff::Backoff;
use crate::compression::{self, Compression};
use crate::connection::{Address, AddressError, ConnectionOptions};
use crate::security::{Security, SecurityError, SecuritySettings};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Requests with several batches stay below this: beyond a broker's `socket.request.max.bytes` (100 MB by default) it closes the
/// connection without a word.
const REQUEST_MERGED_MAX_BYTES: usize = 16 * 1024 * 1024;

/// No answer we ask for comes near this; a larger length on the wire is not Kafka or not for us.
const RECEIVE_MAX_BYTES: usize = 16 * 1024 * 1024;

/// How long Metadata, ListOffsets and InitProducerId may take before another broker is asked: a frozen broker must not keep the
/// cluster's news away for a whole `request_timeout_ms`.
const NEWS_PATIENCE: Duration = Duration::from_secs(5);

/// Settings of the Kafka producer. Times in milliseconds, sizes in bytes, as Kafka's own properties of the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaOptions {
    /// Servers as `host:port`, tried in turn.
    pub bootstrap_servers: Vec<String>,
    /// What the brokers' logs and quotas know us by.
    pub client_id: String,
    /// A batch whose records take more than this as they are sent is answered as rejected (code 10) without being sent; requests that
    /// carry several batches stay below this and below 16 MiB.
    pub max_request_size: usize,
    /// What batches are compressed with, each once, at its first attempt. One that would not be smaller goes as it is.
    pub compression_type: Compression,
    /// Of gzip, 1 (fast) to 9 (small).
    pub compression_gzip_level: i32,
    /// Of zstd, -7 (fast) to 22 (small).
    pub compression_zstd_level: i32,
    /// How long the broker may take for a batch that travels alone. We wait a second longer.
    pub request_timeout_ms: u64,
    /// The first pause before the cluster is asked again after it did not give what was wanted.
    pub retry_backoff_ms: u64,
    /// The longest pause before the cluster is asked again.
    pub retry_backoff_max_ms: u64,
    /// The first pause before a broker that could not be reached is tried again.
    pub reconnect_backoff_ms: u64,
    /// The longest pause before a broker is tried again.
    pub reconnect_backoff_max_ms: u64,
    /// Metadata is asked for again after this, whether something went wrong or not: new partitions are found by it.
    pub metadata_max_age_ms: u64,
    /// Connections unused for this long are closed, before the broker does it (`connections.max.idle.ms`, 10 minutes).
    pub connections_max_idle_ms: u64,
    /// Time until a connection can be used: TCP, TLS, and which versions the broker speaks.
    pub socket_connection_setup_timeout_ms: u64,
    /// `security_protocol` and what belongs to it.
    pub security: SecuritySettings,
    /// Threads, and connections, for each broker that leads a partition we write to; one more for batches that travel alone.
    pub senders_per_broker: usize,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        KafkaOptions {
            bootstrap_servers: Vec::new(),
            client_id: "outboxd".to_owned(),
            max_request_size: 64 * 1024 * 1024,
            compression_type: Compression::None,
            compression_gzip_level: compression::GZIP_LEVEL,
            compression_zstd_level: compression::ZSTD_LEVEL,
            request_timeout_ms: 30_000,
            retry_backoff_ms: 100,
            retry_backoff_max_ms: 1_000,
            reconnect_backoff_ms: 50,
            reconnect_backoff_max_ms: 1_000,
            metadata_max_age_ms: 300_000,
            connections_max_idle_ms: 540_000,
            socket_connection_setup_timeout_ms: 10_000,
            security: SecuritySettings::default(),
            senders_per_broker: 2,
        }
    }
}

/// Why a producer could not be started.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum StartError {
    #[error("no bootstrap server is named")]
    NoServers,
    #[error("a bootstrap server can't be used")]
    BadServer(#[source] AddressError),
    #[error("client_id has {0} bytes, Kafka takes at most {max}", max = i16::MAX)]
    ClientId(usize),
    #[error("{0} must be at least 1")]
    Zero(&'static str),
    #[error("{0} must not be above {1}")]
    AboveMax(&'static str, &'static str),
    #[error(transparent)]
    Security(#[from] SecurityError),
    #[error("{0} must be {first} to {last}", first = .1.start(), last = .1.end())]
    OutOfRange(&'static str, RangeInclusive<i32>),
    #[error(
        "compression_type = \"{0}\" is not built into this program: build it with the feature `{0}`, or use another codec"
    )]
    NotBuiltIn(Compression),
    #[error("a thread could not be started")]
    Thread(#[source] std::io::Error),
}

impl KafkaOptions {
    /// The bootstrap servers as addresses, or what is wrong with the settings.
    pub fn check(&self) -> Result<Vec<Address>, StartError> {
        for (name, value) in [
            ("max_request_size", self.max_request_size as u64),
            ("request_timeout_ms", self.request_timeout_ms),
            ("retry_backoff_ms", self.retry_backoff_ms),
            ("reconnect_backoff_ms", self.reconnect_backoff_ms),
            ("metadata_max_age_ms", self.metadata_max_age_ms),
            ("connections_max_idle_ms", self.connections_max_idle_ms),
            ("socket_connection_setup_timeout_ms", self.socket_connection_setup_timeout_ms),
            ("senders_per_broker", self.senders_per_broker as u64),
        ] {
            if value == 0 {
                return Err(StartError::Zero(name));
            }
        }
        if self.retry_backoff_ms > self.retry_backoff_max_ms {
            return Err(StartError::AboveMax("retry_backoff_ms", "retry_backoff_max_ms"));
        }
        if self.reconnect_backoff_ms > self.reconnect_backoff_max_ms {
            return Err(StartError::AboveMax("reconnect_backoff_ms", "reconnect_backoff_max_ms"));
        }
        for (name, level, levels) in [
            ("compression_gzip_level", self.compression_gzip_level, compression::GZIP_LEVELS),
            ("compression_zstd_level", self.compression_zstd_level, compression::ZSTD_LEVELS),
        ] {
            if !levels.contains(&level) {
                return Err(StartError::OutOfRange(name, levels));
            }
        }
        if !self.compression_type.is_built_in() {
            return Err(StartError::NotBuiltIn(self.compression_type));
        }
        if self.bootstrap_servers.is_empty() {
            return Err(StartError::NoServers);
        }
        if i16::try_from(self.client_id.len()).is_err() {
            return Err(StartError::ClientId(self.client_id.len()));
        }
        self.bootstrap_servers.iter().map(|server| server.trim().parse().map_err(StartError::BadServer)).collect()
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(crate) fn idle_max(&self) -> Duration {
        Duration::from_millis(self.connections_max_idle_ms)
    }

    pub(crate) fn metadata_max_age(&self) -> Duration {
        Duration::from_millis(self.metadata_max_age_ms)
    }

    pub(crate) fn news_patience(&self) -> Duration {
        self.request_timeout().min(NEWS_PATIENCE)
    }

    pub(crate) fn merged_max_bytes(&self) -> usize {
        self.max_request_size.min(REQUEST_MERGED_MAX_BYTES)
    }

    pub(crate) fn compression(&self) -> compression::Settings {
        compression::Settings {
            compression: self.compression_type,
            gzip_level: self.compression_gzip_level,
            zstd_level: self.compression_zstd_level,
        }
    }

    pub(crate) fn retry_backoff(&self) -> Backoff {
        backoff(self.retry_backoff_ms, self.retry_backoff_max_ms)
    }

    pub(crate) fn reconnect_backoff(&self) -> Backoff {
        backoff(self.reconnect_backoff_ms, self.reconnect_backoff_max_ms)
    }

    pub(crate) fn connection(&self, security: &Security) -> ConnectionOptions {
        ConnectionOptions {
            client_id: self.client_id.clone(),
            // Every later call names its own patience.
            setup_timeout: Duration::from_millis(self.socket_connection_setup_timeout_ms),
            receive_bytes_max: RECEIVE_MAX_BYTES,
            security: security.clone(),
        }
    }
}

fn backoff(first_ms: u64, longest_ms: u64) -> Backoff {
    Backoff::new(Duration::from_millis(first_ms), Duration::from_millis(longest_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(servers: &[&str]) -> KafkaOptions {
        KafkaOptions { bootstrap_servers: servers.iter().map(|s| (*s).to_owned()).collect(), ..KafkaOptions::default() }
    }

    #[test]
    fn servers_are_host_and_port() {
        let good = with(&["localhost:9092", "[::1]:19092", " kafka-1.example:1 "]).check().unwrap();
        let shown: Vec<_> = good.iter().map(|a| (a.host.as_str(), a.port)).collect();
        assert_eq!(shown, [("localhost", 9092), ("::1", 19092), ("kafka-1.example", 1)]);
        for bad in ["localhost", "localhost:", ":9092", "::1:9092", "a:70000", "a:0", "http://a:9092", "[::1:9", ""] {
            assert!(matches!(with(&[bad]).check(), Err(StartError::BadServer(_))), "{bad:?}");
        }
        assert!(matches!(with(&[]).check(), Err(StartError::NoServers)));
    }

    #[test]
    fn zero_and_crossed_bounds_are_refused() {
        let zero = KafkaOptions { senders_per_broker: 0, ..with(&["a:1"]) };
        assert_eq!(zero.check().unwrap_err().to_string(), "senders_per_broker must be at least 1");
        let crossed = KafkaOptions { retry_backoff_ms: 2_000, ..with(&["a:1"]) };
        assert_eq!(crossed.check().unwrap_err().to_string(), "retry_backoff_ms must not be above retry_backoff_max_ms");
    }

    #[test]
    fn levels_have_their_range() {
        for (gzip, zstd, wrong) in [
            (0, 3, "compression_gzip_level must be 1 to 9"),
            (10, 3, "compression_gzip_level must be 1 to 9"),
            (6, -8, "compression_zstd_level must be -7 to 22"),
            (6, 99, "compression_zstd_level must be -7 to 22"),
        ] {
            let options = KafkaOptions { compression_gzip_level: gzip, compression_zstd_level: zstd, ..with(&["a:1"]) };
            assert_eq!(options.check().unwrap_err().to_string(), wrong);
        }
        for (gzip, zstd) in [(1, -7), (9, 22)] {
            KafkaOptions { compression_gzip_level: gzip, compression_zstd_level: zstd, ..with(&["a:1"]) }
                .check()
                .unwrap();
        }
    }

    #[test]
    fn a_codec_that_is_not_built_in_is_refused_with_the_way_out() {
        let zstd = KafkaOptions { compression_type: Compression::Zstd, ..with(&["a:1"]) };
        let checked = zstd.check();
        assert_eq!(checked.is_ok(), Compression::Zstd.is_built_in());
        if let Err(error) = checked {
            assert!(error.to_string().contains("feature `zstd`"), "{error}");
        }
    }
}
