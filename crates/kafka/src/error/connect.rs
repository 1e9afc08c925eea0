//! Why a connection did not come about, with what is probably the matter.
//!
//! Promises: the message never repeats its source, and is the same each time but for times; a hint is what to type or to look at. Does
//! not know: who connects, how often.

use super::{CallError, ErrorCode};
use crate::connection::Address;
use crate::protocol::{ApiKey, VersionRange};
use crate::security::{Refusal, TlsError};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// For whoever took the cluster away, and for whom somebody else did.
pub(crate) const OTHER_CLUSTER_HINT: &str = "nothing is sent there. If the change is meant, restart outboxd: what is in flight then goes \
     to the new cluster, counted as unsure; if it is not, see who answers at this address, and bootstrap_servers";

/// Why there is no usable connection. Nothing but ApiVersions and an empty Metadata was ever sent on it. The message never
/// repeats its source; [`ConnectError::hint`] says what to look at.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum ConnectError {
    #[error("can't resolve the host name of {address}")]
    Resolve {
        address: Address,
        #[source]
        source: io::Error,
    },
    #[error("the host name of {address} has no addresses")]
    NoAddress { address: Address },
    /// Of several addresses, `source` is of the last one tried.
    #[error("can't connect to {address}{}", if *.tried > 1 { format!(" ({tried} addresses tried)") } else { String::new() })]
    Connect {
        address: Address,
        tried: usize,
        #[source]
        source: io::Error,
    },
    #[error("{address} accepted the connection, but did not answer within {} ms", waited.as_millis())]
    Silent { address: Address, waited: Duration },
    #[error("no TLS with {address}")]
    Tls {
        address: Address,
        #[source]
        source: Box<TlsError>,
    },
    /// `given`: a certificate of ours was shown. `said`: what the broker did about it.
    #[error(
        "{address} wants a client certificate{} ({said})",
        if *.given { ", and does not accept ours" } else { ", and there is none" }
    )]
    ClientCertificate { address: Address, given: bool, said: String },
    /// EOF, a reset or garbage instead of an answer to ApiVersions. `first_bytes`: the beginning of the garbage.
    #[error("{address} does not answer as a Kafka broker")]
    NotKafka {
        address: Address,
        tls: bool,
        first_bytes: Box<[u8]>,
        #[source]
        source: CallError,
    },
    /// ApiVersions was answered, and the connection closed at the next request.
    #[error("{address} closed the connection at the first ordinary request")]
    WantsSasl {
        address: Address,
        tls: bool,
        #[source]
        source: CallError,
    },
    /// `enabled`: those that the listener does take.
    #[error("{address} does not take SASL mechanism {mechanism}; it takes {enabled}")]
    SaslMechanism { address: Address, mechanism: &'static str, enabled: String },
    #[error("{address} is a listener without SASL")]
    NoSasl { address: Address, tls: bool },
    /// `said`: the broker's own words.
    #[error("{address} refuses {who}: {said}")]
    Authentication { address: Address, who: String, said: String, token: bool },
    #[error("{address} can't prove that it knows the password: {why}")]
    Unproven { address: Address, why: Arc<str> },
    /// The same secret was refused a moment ago, and is not tried again yet.
    #[error("{}", .0.text)]
    Held(Refusal),
    #[error("{address} answered ApiVersions with {error}")]
    ApiVersions { address: Address, error: ErrorCode },
    #[error(
        "{address} and this client have no version of {api} in common: it speaks {}, this client {ours}",
        match theirs { Some(range) => range.to_string(), None => "none".to_owned() }
    )]
    VersionUnsupported { address: Address, api: ApiKey, ours: VersionRange, theirs: Option<VersionRange> },
    /// The connection broke in the first two exchanges.
    #[error("the connection to {address} failed before it could be used")]
    Broken {
        address: Address,
        #[source]
        source: CallError,
    },
    #[error("{address} belongs to Kafka cluster {theirs}, and this run works with cluster {ours}")]
    OtherCluster { address: Address, ours: Arc<str>, theirs: Arc<str> },
    #[error("client_id has {bytes} bytes, Kafka takes at most {}", i16::MAX)]
    ClientId { bytes: usize },
}

impl ConnectError {
    /// Trying again with the same secret leads to the same end.
    pub(crate) fn is_about_who_we_are(&self) -> bool {
        matches!(
            self,
            ConnectError::SaslMechanism { .. }
                | ConnectError::NoSasl { .. }
                | ConnectError::Authentication { .. }
                | ConnectError::Unproven { .. }
        )
    }

    /// What is probably the matter, and what to do about it.
    pub fn hint(&self) -> Option<&str> {
        match self {
            ConnectError::Resolve { .. } | ConnectError::NoAddress { .. } => {
                Some("check the host name in bootstrap_servers, and advertised.listeners of the brokers")
            }
            ConnectError::Connect { source, .. } if source.kind() == io::ErrorKind::ConnectionRefused => {
                Some("no process listens there: is the broker running, and is the port right?")
            }
            ConnectError::Connect { .. } => Some("is a firewall between, or the address wrong?"),
            ConnectError::Silent { .. } => Some("the broker hangs or is starting, or this is not a Kafka listener"),
            ConnectError::Tls { source, .. } => source.hint(),
            ConnectError::ClientCertificate { given: false, .. } => Some(
                "name one that the broker's ssl.truststore vouches for: ssl_certificate_location and ssl_key_location",
            ),
            ConnectError::ClientCertificate { given: true, .. } => Some(
                "see whether the CA that signed ssl_certificate_location is in the broker's ssl.truststore, and whether it has expired",
            ),
            ConnectError::NotKafka { tls, first_bytes, .. } => Some(match &**first_bytes {
                // A TLS record of type alert (21) or handshake (22), major version 3.
                [21 | 22, 3, ..] => "this is a TLS listener: write security_protocol = \"SSL\" (or \"SASL_SSL\")",
                [b'H', b'T', b'T', b'P', ..] => "this is a web server, not Kafka",
                [_, ..] => "this is something else than Kafka: check the port",
                [] if *tls => "this is TLS, but not Kafka: check the port",
                [] => {
                    "it is a TLS listener (write security_protocol = \"SSL\" or \"SASL_SSL\"), or not Kafka at all: check the port"
                }
            }),
            ConnectError::WantsSasl { tls, .. } => Some(if *tls {
                "this listener probably wants to know who we are: write security_protocol = \"SASL_SSL\", sasl_mechanism, \
                 sasl_username and sasl_password_file"
            } else {
                "this listener probably wants to know who we are: write security_protocol = \"SASL_PLAINTEXT\", sasl_mechanism, \
                 sasl_username and sasl_password_file"
            }),
            ConnectError::SaslMechanism { .. } => {
                Some("write one of these as sasl_mechanism, with a user that it knows")
            }
            ConnectError::NoSasl { tls: false, .. } => Some(
                "write security_protocol = \"PLAINTEXT\" and leave out sasl_*, or use the port of a SASL_PLAINTEXT listener",
            ),
            ConnectError::NoSasl { tls: true, .. } => {
                Some("write security_protocol = \"SSL\" and leave out sasl_*, or use the port of a SASL_SSL listener")
            }
            ConnectError::Authentication { token: true, .. } => Some(
                "see whether the token has expired, and whether the broker believes who signed it: sasl_oauthbearer_token_file",
            ),
            ConnectError::Authentication { token: false, .. } => Some(
                "check sasl_username and the password (sasl_password_file), and whether the user has one for this mechanism",
            ),
            ConnectError::Unproven { .. } => Some(
                "something else than the broker may answer there, or the user's entry is damaged: set the password anew with kafka-configs.sh",
            ),
            ConnectError::Held(refusal) => Some(&refusal.hint),
            ConnectError::VersionUnsupported { api: ApiKey::Produce | ApiKey::Metadata, theirs: None, .. } => {
                Some("this is probably a controller: use a broker's listener")
            }
            ConnectError::VersionUnsupported { api: ApiKey::InitProducerId, theirs: None, .. } => {
                Some("this broker has no idempotent producers, so nothing could be promised")
            }
            ConnectError::VersionUnsupported { ours, theirs: Some(theirs), .. } if theirs.min > ours.max => {
                Some("this Kafka is newer than this client understands")
            }
            ConnectError::VersionUnsupported { .. } => Some("Kafka 2.1 is the oldest that will do"),
            ConnectError::OtherCluster { .. } => Some(OTHER_CLUSTER_HINT),
            ConnectError::ApiVersions { .. } | ConnectError::Broken { .. } | ConnectError::ClientId { .. } => None,
        }
    }
}
