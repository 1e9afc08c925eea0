//! What can go wrong with a broker: its own error codes, connections that fail, calls that fail.
//!
//! Promises: every failure is classified here once; what a request may have done is never guessed to be less than it can be. Does
//! not know: what to do about it.

mod connect;

pub use connect::ConnectError;
pub(crate) use connect::OTHER_CLUSTER_HINT;

use super::protocol::{ApiKey, DecodeError, VersionRange};
use super::security::TlsError;
use std::fmt;
use std::io;
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
