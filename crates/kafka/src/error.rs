//! What can go wrong with a broker: its own error codes, connections that fail, calls that fail.
//!
//! Promises: every failure is classified here once; what a request may have done is never guessed to be less than it can be. Does
//! not know: what to do about it.

use super::connection::Address;
use super::protocol::{ApiKey, DecodeError, VersionRange};
use super::security::{Refusal, TlsError};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// An error code as brokers send it (`org.apache.kafka.common.protocol.Errors`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ErrorCode(pub i16);

macro_rules! error_codes {
    ($($name:ident = $code:literal,)*) => {
        #[allow(missing_docs)] // the constants have Kafka's own names
        impl ErrorCode {
            $(pub const $name: ErrorCode = ErrorCode($code);)*

            /// Every code that has a name here.
            pub const NAMED: &[ErrorCode] = &[$(ErrorCode::$name,)*];

            /// Kafka's own name of the constant; `UNRECOGNIZED` for a code that is not in the table.
            pub fn name(self) -> &'static str {
                match self.0 {
                    $($code => stringify!($name),)*
                    _ => "UNRECOGNIZED",
                }
            }
        }
    };
}

error_codes! {
    UNKNOWN_SERVER_ERROR = -1,
    NONE = 0,
    OFFSET_OUT_OF_RANGE = 1,
    CORRUPT_MESSAGE = 2,
    UNKNOWN_TOPIC_OR_PARTITION = 3,
    INVALID_FETCH_SIZE = 4,
    LEADER_NOT_AVAILABLE = 5,
    NOT_LEADER_OR_FOLLOWER = 6,
    REQUEST_TIMED_OUT = 7,
    BROKER_NOT_AVAILABLE = 8,
    REPLICA_NOT_AVAILABLE = 9,
    MESSAGE_TOO_LARGE = 10,
    STALE_CONTROLLER_EPOCH = 11,
    OFFSET_METADATA_TOO_LARGE = 12,
    NETWORK_EXCEPTION = 13,
    COORDINATOR_LOAD_IN_PROGRESS = 14,
    COORDINATOR_NOT_AVAILABLE = 15,
    NOT_COORDINATOR = 16,
    INVALID_TOPIC_EXCEPTION = 17,
    RECORD_LIST_TOO_LARGE = 18,
    NOT_ENOUGH_REPLICAS = 19,
    NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20,
    INVALID_REQUIRED_ACKS = 21,
    ILLEGAL_GENERATION = 22,
    INCONSISTENT_GROUP_PROTOCOL = 23,
    INVALID_GROUP_ID = 24,
    UNKNOWN_MEMBER_ID = 25,
    INVALID_SESSION_TIMEOUT = 26,
    REBALANCE_IN_PROGRESS = 27,
    INVALID_COMMIT_OFFSET_SIZE = 28,
    TOPIC_AUTHORIZATION_FAILED = 29,
    GROUP_AUTHORIZATION_FAILED = 30,
    CLUSTER_AUTHORIZATION_FAILED = 31,
    INVALID_TIMESTAMP = 32,
    UNSUPPORTED_SASL_MECHANISM = 33,
    ILLEGAL_SASL_STATE = 34,
    UNSUPPORTED_VERSION = 35,
    TOPIC_ALREADY_EXISTS = 36,
    INVALID_PARTITIONS = 37,
    INVALID_REPLICATION_FACTOR = 38,
    INVALID_REPLICA_ASSIGNMENT = 39,
    INVALID_CONFIG = 40,
    NOT_CONTROLLER = 41,
    INVALID_REQUEST = 42,
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43,
    POLICY_VIOLATION = 44,
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45,
    DUPLICATE_SEQUENCE_NUMBER = 46,
    INVALID_PRODUCER_EPOCH = 47,
    INVALID_TXN_STATE = 48,
    INVALID_PRODUCER_ID_MAPPING = 49,
    INVALID_TRANSACTION_TIMEOUT = 50,
    CONCURRENT_TRANSACTIONS = 51,
    TRANSACTION_COORDINATOR_FENCED = 52,
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53,
    SECURITY_DISABLED = 54,
    OPERATION_NOT_ATTEMPTED = 55,
    KAFKA_STORAGE_ERROR = 56,
    LOG_DIR_NOT_FOUND = 57,
    SASL_AUTHENTICATION_FAILED = 58,
    UNKNOWN_PRODUCER_ID = 59,
    REASSIGNMENT_IN_PROGRESS = 60,
    DELEGATION_TOKEN_AUTH_DISABLED = 61,
    DELEGATION_TOKEN_NOT_FOUND = 62,
    DELEGATION_TOKEN_OWNER_MISMATCH = 63,
    DELEGATION_TOKEN_REQUEST_NOT_ALLOWED = 64,
    DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65,
    DELEGATION_TOKEN_EXPIRED = 66,
    INVALID_PRINCIPAL_TYPE = 67,
    FETCH_SESSION_ID_NOT_FOUND = 70,
    INVALID_FETCH_SESSION_EPOCH = 71,
    LISTENER_NOT_FOUND = 72,
    TOPIC_DELETION_DISABLED = 73,
    FENCED_LEADER_EPOCH = 74,
    UNKNOWN_LEADER_EPOCH = 75,
    UNSUPPORTED_COMPRESSION_TYPE = 76,
    STALE_BROKER_EPOCH = 77,
    OFFSET_NOT_AVAILABLE = 78,
    PREFERRED_LEADER_NOT_AVAILABLE = 80,
    ELIGIBLE_LEADERS_NOT_AVAILABLE = 83,
    INVALID_RECORD = 87,
    THROTTLING_QUOTA_EXCEEDED = 89,
    PRODUCER_FENCED = 90,
    RESOURCE_NOT_FOUND = 91,
    DUPLICATE_RESOURCE = 92,
    PRINCIPAL_DESERIALIZATION_FAILURE = 97,
    UNKNOWN_TOPIC_ID = 100,
    INCONSISTENT_TOPIC_ID = 103,
    INCONSISTENT_CLUSTER_ID = 104,
    FETCH_SESSION_TOPIC_ID_ERROR = 106,
    INELIGIBLE_REPLICA = 107,
    NEW_LEADER_ELECTED = 108,
    OFFSET_MOVED_TO_TIERED_STORAGE = 109,
    MISMATCHED_ENDPOINT_TYPE = 114,
    UNSUPPORTED_ENDPOINT_TYPE = 115,
    INVALID_REGISTRATION = 119,
    TRANSACTION_ABORTABLE = 120,
    REBOOTSTRAP_REQUIRED = 129,
}

impl ErrorCode {
    /// The code is 0: no error at all.
    pub fn is_ok(self) -> bool {
        self == ErrorCode::NONE
    }

    /// After such a code a connection is of no more use: who we are has to be said anew.
    pub(crate) fn is_about_authentication(self) -> bool {
        matches!(
            self,
            ErrorCode::UNSUPPORTED_SASL_MECHANISM
                | ErrorCode::ILLEGAL_SASL_STATE
                | ErrorCode::SASL_AUTHENTICATION_FAILED
        )
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if ErrorCode::NAMED.contains(self) {
            write!(f, "{} ({})", self.name(), self.0)
        } else {
            write!(f, "error {}", self.0)
        }
    }
}

/// What an answer to Produce means for one partition's batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Class {
    /// On all in-sync replicas, now or already before.
    Stored,
    /// This attempt appended nothing: the same batch again, after a look at the metadata and a pause.
    NotAppended,
    /// It may have been appended: the same rows under the same triple, for ever.
    Unsure,
    /// A record of the batch is refused for its own fault. To be believed only if no attempt was ever unsure: validation comes
    /// before the duplicate check, so a batch that is stored can be answered so later.
    Record,
    /// The topic, the permissions, the clock or this client is the matter, no record: keep everything, be loud, retry slowly.
    Refused,
    /// The broker's memory of the producer does not fit: first the same batch at the current leader, only then recovery.
    OutOfSequence,
}

/// Classifies the answer to a Produce. `record_errors_named`: the answer names records that are at fault, or is of a version
/// (Produce 7) that can't.
///
/// In doubt it is [`Class::Unsure`]: that costs a harmless resend of the same triple; any other class, wrongly given, can lose or
/// double a record.
#[allow(clippy::match_same_arms)] // each group of codes stands with its reason, the unknown ones too
pub(crate) fn classify(code: ErrorCode, record_errors_named: bool) -> Class {
    match code {
        // With acks=all only after the in-sync replicas have it; for a duplicate as well.
        ErrorCode::NONE => Class::Stored,

        // Checked before the append: too few in-sync replicas (after it, the code is 20), a checksum that does not fit (bytes
        // that were damaged on their way; said of the same batch again and again it is a record's fault, which its owner has to count).
        ErrorCode::NOT_ENOUGH_REPLICAS | ErrorCode::CORRUPT_MESSAGE => Class::NotAppended,

        // Appended here, and not known to be on the others: the wait ran out (7), or replicas left the set meanwhile (20).
        ErrorCode::REQUEST_TIMED_OUT | ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND
        // They sound like "nothing happened", but a leader that shuts down or is deposed answers so *after* it appended, and the
        // record can be on its successor: requests waiting for replicas are completed with 6, or with 3 or 56 when the replica
        // is deleted or its disk fails.
        | ErrorCode::NOT_LEADER_OR_FOLLOWER | ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::KAFKA_STORAGE_ERROR
        // Kafka never answers a Produce so; others may, after appending.
        | ErrorCode::LEADER_NOT_AVAILABLE
        // Any exception without a code of its own, at any point.
        | ErrorCode::UNKNOWN_SERVER_ERROR => Class::Unsure,

        // Larger than max.message.bytes (10) or the segment (18). With more than one record, it is to be split first.
        ErrorCode::MESSAGE_TOO_LARGE | ErrorCode::RECORD_LIST_TOO_LARGE => Class::Record,

        // The broker's validation of records: a compacted topic and no key, above all. Without the names of the records it is the
        // batch that is malformed, and that is our fault, not a record's.
        ErrorCode::INVALID_RECORD if record_errors_named => Class::Record,
        ErrorCode::INVALID_RECORD

        // All records carry the batch's own stamp, taken from this machine's clock: no record is at fault, even if the answer
        // names them.
        | ErrorCode::INVALID_TIMESTAMP

        // The topic's name (17), permissions (29, 31, 53), authentication (33, 54, 58), its tokens (61 to 67), a request that this
        // broker, or what stands before it, does not take (21, 35, 42), the batch's format (43, 76), the cluster (104).
        | ErrorCode::INVALID_TOPIC_EXCEPTION
        | ErrorCode::INVALID_REQUIRED_ACKS
        | ErrorCode::TOPIC_AUTHORIZATION_FAILED
        | ErrorCode::CLUSTER_AUTHORIZATION_FAILED
        | ErrorCode::UNSUPPORTED_SASL_MECHANISM
        | ErrorCode::UNSUPPORTED_VERSION
        | ErrorCode::INVALID_REQUEST
        | ErrorCode::UNSUPPORTED_FOR_MESSAGE_FORMAT
        | ErrorCode::TRANSACTIONAL_ID_AUTHORIZATION_FAILED
        | ErrorCode::SECURITY_DISABLED
        | ErrorCode::SASL_AUTHENTICATION_FAILED
        | ErrorCode::DELEGATION_TOKEN_AUTH_DISABLED
        | ErrorCode::DELEGATION_TOKEN_NOT_FOUND
        | ErrorCode::DELEGATION_TOKEN_OWNER_MISMATCH
        | ErrorCode::DELEGATION_TOKEN_REQUEST_NOT_ALLOWED
        | ErrorCode::DELEGATION_TOKEN_AUTHORIZATION_FAILED
        | ErrorCode::DELEGATION_TOKEN_EXPIRED
        | ErrorCode::INVALID_PRINCIPAL_TYPE
        | ErrorCode::UNSUPPORTED_COMPRESSION_TYPE
        | ErrorCode::INCONSISTENT_CLUSTER_ID => Class::Refused,

        // A gap in the sequences, an older epoch than the broker knows, a producer it does not know (up to 2.4), one in another
        // state than ours. A thawed ex-leader answers valid batches so. "Duplicate" (46) says that it was stored once, but not
        // "on all in-sync replicas": the log does.
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER
        | ErrorCode::DUPLICATE_SEQUENCE_NUMBER
        | ErrorCode::INVALID_PRODUCER_EPOCH
        | ErrorCode::INVALID_TXN_STATE
        | ErrorCode::INVALID_PRODUCER_ID_MAPPING
        | ErrorCode::UNKNOWN_PRODUCER_ID
        | ErrorCode::PRODUCER_FENCED
        | ErrorCode::TRANSACTION_ABORTABLE => Class::OutOfSequence,

        _ => Class::Unsure,
    }
}

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
            ConnectError::VersionUnsupported { ours, theirs: Some(theirs), .. } if theirs.min > ours.max => {
                Some("this Kafka is newer than this client understands")
            }
            ConnectError::VersionUnsupported { .. } => Some("Kafka 2.1 is the oldest that will do"),
            ConnectError::OtherCluster { .. } => Some(OTHER_CLUSTER_HINT),
            ConnectError::ApiVersions { .. } | ConnectError::Broken { .. } | ConnectError::ClientId { .. } => None,
        }
    }
}

/// Why an exchange failed. The connection is dead then, except after [`CallError::Unsupported`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum CallError {
    /// Not completely written: a broker acts on whole requests only, so it cannot have acted on this one.
    #[error("the request could not be sent whole")]
    NotSent(#[source] io::Error),
    /// The broker does not speak this API in a version we do; nothing was sent.
    #[error("the broker does not speak {api} in version {ours}")]
    Unsupported { api: ApiKey, ours: VersionRange },
    /// Written to the last byte, and no answer.
    #[error("no answer to {api} after {} ms", waited.as_millis())]
    Lost {
        api: ApiKey,
        waited: Duration,
        #[source]
        loss: Loss,
    },
    /// An answer that can't be understood.
    #[error("the answer is malformed")]
    Decode(#[source] DecodeError),
}

/// Where an answer was lost.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum Loss {
    #[error("the time for it ran out")]
    Timeout,
    /// `partial`: after some bytes of an answer.
    #[error("the broker closed the connection{}", if *.partial { " in the middle of the answer" } else { "" })]
    Closed { partial: bool },
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// `about_certificate`: the broker said something of our certificate, or that there is none.
    #[error("TLS failed")]
    Tls {
        about_certificate: bool,
        #[source]
        source: Box<TlsError>,
    },
    #[error("a frame of {claimed} bytes is announced, at most {max} are accepted")]
    FrameLength { claimed: i32, max: usize, first_bytes: Vec<u8> },
    #[error("the answer belongs to request {got}, not to {expected}")]
    CorrelationId { expected: i32, got: i32 },
    #[error("{bytes} bytes follow that nobody asked for")]
    Surplus { bytes: usize },
}

impl CallError {
    /// Whether the broker may have acted on the request.
    pub fn maybe_applied(&self) -> bool {
        match self {
            CallError::NotSent(_) | CallError::Unsupported { .. } => false,
            CallError::Lost { .. } | CallError::Decode(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_print_as_kafka_names_them() {
        assert_eq!(ErrorCode(19).to_string(), "NOT_ENOUGH_REPLICAS (19)");
        assert_eq!(ErrorCode(-1).to_string(), "UNKNOWN_SERVER_ERROR (-1)");
        assert_eq!(ErrorCode(999).to_string(), "error 999");
        assert_eq!(ErrorCode(999).name(), "UNRECOGNIZED");
    }

    #[test]
    fn every_answer_to_produce_has_its_class() {
        let of_class = |class: Class, named: bool| -> Vec<i16> {
            (-2..=200).filter(|code| classify(ErrorCode(*code), named) == class).collect()
        };
        for named in [false, true] {
            assert_eq!(of_class(Class::Stored, named), [0]);
            assert_eq!(of_class(Class::NotAppended, named), [2, 19]);
            assert_eq!(of_class(Class::OutOfSequence, named), [45, 46, 47, 48, 49, 59, 90, 120]);
        }
        assert_eq!(of_class(Class::Record, false), [10, 18]);
        assert_eq!(of_class(Class::Record, true), [10, 18, 87]);
        let refused = [17, 21, 29, 31, 32, 33, 35, 42, 43, 53, 54, 58, 61, 62, 63, 64, 65, 66, 67, 76, 104];
        assert_eq!(of_class(Class::Refused, true), refused);
        assert_eq!(of_class(Class::Refused, false).iter().filter(|code| **code != 87).count(), refused.len());
        assert!(of_class(Class::Refused, false).contains(&87));
        for unsure in [-1, 3, 5, 6, 7, 20, 34, 44, 56, 129, 999, i16::MIN, i16::MAX] {
            assert_eq!(classify(ErrorCode(unsure), true), Class::Unsure, "{unsure}");
        }
    }

    #[test]
    fn only_a_request_that_left_whole_may_have_been_acted_on() {
        let io = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(!CallError::NotSent(io()).maybe_applied());
        assert!(CallError::Decode(DecodeError::Null { at: 0 }).maybe_applied());
        for loss in [
            Loss::Timeout,
            Loss::Closed { partial: false },
            Loss::Io(io()),
            Loss::Tls { about_certificate: false, source: Box::new(TlsError::Closed) },
            Loss::FrameLength { claimed: -1, max: 1, first_bytes: Vec::new() },
            Loss::CorrelationId { expected: 1, got: 2 },
            Loss::Surplus { bytes: 1 },
        ] {
            assert!(CallError::Lost { api: ApiKey::Produce, waited: Duration::ZERO, loss }.maybe_applied());
        }
    }
}
