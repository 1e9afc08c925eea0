//! Kafka's error codes (`org.apache.kafka.common.protocol.Errors`), and what each means as the answer to a Produce: one table.
//!
//! Promises: every code has its class, known or not; in doubt it is [`Class::Unsure`], which costs a harmless resend of the same triple,
//! while any other class, wrongly given, can lose or double a record. Does not know: batches, brokers, what is done about it.

use std::fmt;

/// An error code as brokers send it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ErrorCode(pub i16);

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
    /// The topic, the permissions, the clock or this client is the matter, no record, and it is found before anything is appended:
    /// keep everything, be loud, retry slowly. (A drain lets go of a batch that was answered so and never unsurely: what may have
    /// been appended must not be in this class.)
    Refused,
    /// The broker's memory of the producer does not fit: first the same batch at the current leader, only then recovery.
    OutOfSequence,
}

/// What is known of a code.
#[derive(Debug)]
struct Known {
    code: i16,
    name: &'static str,
    class: Class,
    reason: &'static str,
    hint: &'static str,
}

/// Whatever is not in the table.
const UNKNOWN: Known = Known {
    code: i16::MIN,
    name: "UNRECOGNIZED",
    class: Class::Unsure,
    reason: "no error that this version of outboxd knows, so it may mean that the batch was appended",
    hint: "",
};

const TOKEN_HINT: &str = "the broker does not take this delegation token: make a new one, or use other credentials";

/// Groups of codes with their class as answers to Produce and the reason for it; each code with its number and what a person can do,
/// where that is anything. `{topic}` stands for the topic's name.
macro_rules! error_codes {
    ($($class:ident, $reason:literal { $($name:ident = $code:literal $(: $hint:expr)?,)* })*) => {
        #[allow(missing_docs)] // the constants have Kafka's own names
        impl ErrorCode {
            $($(pub const $name: ErrorCode = ErrorCode($code);)*)*

            /// Every code that has a name here.
            pub const NAMED: &[ErrorCode] = &[$($(ErrorCode::$name,)*)*];
        }

        const TABLE: &[Known] = &[$($(Known {
            code: $code,
            name: stringify!($name),
            class: Class::$class,
            reason: $reason,
            hint: [$($hint,)? ""][0],
        },)*)*];
    };
}

error_codes! {
    Stored, "with acks=all said only once the in-sync replicas have it, of a duplicate as well" {
        NONE = 0,
    }

    // After the append the code is 20.
    NotAppended, "too few in-sync replicas, looked at before the append" {
        NOT_ENOUGH_REPLICAS = 19:
            "topic {topic} has fewer in-sync replicas than its min.insync.replicas: start the brokers that are down",
    }
    // Said of the same batch again and again it is a record's fault, which its owner has to count.
    NotAppended, "a checksum that does not fit, looked at before the append: bytes were damaged on their way" {
        CORRUPT_MESSAGE = 2: "Kafka 2.1 to 2.3 answer so for a record without a key on a compacted topic (cleanup.policy)",
    }

    Unsure, "appended by the leader, and not known to be on the others: the wait ran out, or replicas left meanwhile" {
        REQUEST_TIMED_OUT = 7,
        NOT_ENOUGH_REPLICAS_AFTER_APPEND = 20,
    }
    // They sound like "nothing happened", but requests that wait for replicas are completed so, and the record can be on the next leader.
    Unsure, "a leader that is deposed or shuts down (6), whose replica is deleted (3) or whose disk fails (56) says so after an append, too" {
        NOT_LEADER_OR_FOLLOWER = 6,
        UNKNOWN_TOPIC_OR_PARTITION = 3,
        KAFKA_STORAGE_ERROR = 56,
    }
    Unsure, "any failure without a code of its own, at any point" {
        UNKNOWN_SERVER_ERROR = -1,
    }
    // Kafka's clients take them for errors that pass; Kafka itself does not answer a Produce so, others may.
    Unsure, "about leaders, replicas, the network or load, and nothing is known of when it is said: it may be after the append" {
        LEADER_NOT_AVAILABLE = 5,
        BROKER_NOT_AVAILABLE = 8,
        REPLICA_NOT_AVAILABLE = 9,
        NETWORK_EXCEPTION = 13,
        LISTENER_NOT_FOUND = 72,
        FENCED_LEADER_EPOCH = 74,
        UNKNOWN_LEADER_EPOCH = 75,
        STALE_BROKER_EPOCH = 77,
        OFFSET_NOT_AVAILABLE = 78,
        THROTTLING_QUOTA_EXCEEDED = 89,
        PRINCIPAL_DESERIALIZATION_FAILURE = 97,
        UNKNOWN_TOPIC_ID = 100,
        INCONSISTENT_TOPIC_ID = 103,
        NEW_LEADER_ELECTED = 108,
        REBOOTSTRAP_REQUIRED = 129,
    }
    Unsure, "the session on this connection is over; it is closed, and who we are is said anew" {
        ILLEGAL_SASL_STATE = 34:
            "the broker wants to know again who we are: if this goes on, see its connections.max.reauth.ms, and what stands between",
    }
    Unsure, "throttled for longer than the request could wait (Event Hubs), or a policy of the broker's" {
        POLICY_VIOLATION = 44:
            "on Event Hubs more is sent than was paid for: raise the throughput units; on Kafka ask who runs it which policy that is",
    }

    // With more than one record, the batch is to be split first.
    Record, "larger than the topic takes (10), or than a segment (18)" {
        MESSAGE_TOO_LARGE = 10:
            "the batch is larger than max.message.bytes of topic {topic}: raise it with `kafka-configs.sh --alter --topic {topic} \
             --add-config max.message.bytes=...`, or make the payload smaller",
        RECORD_LIST_TOO_LARGE = 18: "the batch is larger than segment.bytes of topic {topic}: raise that, or make the payload smaller",
    }

    // `ErrorCode::class`: with the names of the records it is those.
    Refused, "the broker's validation of records names none: then the batch is malformed" {
        INVALID_RECORD = 87:
            "topic {topic} does not take such records; a compacted topic (cleanup.policy) takes none without a key",
    }
    // No record is at fault, even if the answer names them.
    Refused, "the stamp is this machine's clock, and the same for all records" {
        INVALID_TIMESTAMP = 32:
            "the records carry this machine's clock: compare `date -u` here and on the broker, and set the one that is wrong",
    }
    Refused, "the topic's name" {
        INVALID_TOPIC_EXCEPTION = 17: "{topic} can't be written to; name another topic in the outbox's `topic`",
    }
    Refused, "permissions, looked at before the append" {
        TOPIC_AUTHORIZATION_FAILED = 29:
            "grant Write on the topic: `kafka-acls.sh --add --allow-principal User:NAME --operation Write --topic {topic}`",
        CLUSTER_AUTHORIZATION_FAILED = 31:
            "grant IdempotentWrite: `kafka-acls.sh --add --allow-principal User:NAME --operation IdempotentWrite --cluster`",
        TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53:
            "a transactional id was seen that outboxd never sends: a proxy between may rewrite requests",
    }
    Refused, "who we are, looked at before the request is" {
        UNSUPPORTED_SASL_MECHANISM = 33:
            "the listener does not know this SASL mechanism: name one of its sasl.enabled.mechanisms",
        SECURITY_DISABLED = 54:
            "the broker has no security configured for this listener: use another one, or another security protocol",
        SASL_AUTHENTICATION_FAILED = 58: "the listener does not accept the credentials: check user and password",
    }
    Refused, "a delegation token, looked at before the request is" {
        DELEGATION_TOKEN_AUTH_DISABLED = 61: TOKEN_HINT,
        DELEGATION_TOKEN_NOT_FOUND = 62: TOKEN_HINT,
        DELEGATION_TOKEN_OWNER_MISMATCH = 63: TOKEN_HINT,
        DELEGATION_TOKEN_REQUEST_NOT_ALLOWED = 64: TOKEN_HINT,
        DELEGATION_TOKEN_AUTHORIZATION_FAILED = 65: TOKEN_HINT,
        DELEGATION_TOKEN_EXPIRED = 66: TOKEN_HINT,
        INVALID_PRINCIPAL_TYPE = 67: TOKEN_HINT,
    }
    Refused, "a request that this broker, or what stands before it, does not take" {
        INVALID_REQUIRED_ACKS = 21:
            "outboxd sends what other brokers take: see whether a proxy rewrites requests, and please report it",
        UNSUPPORTED_VERSION = 35: "the broker is too old or too new for this version of outboxd; 2.1 to 4.3 are known to work",
        INVALID_REQUEST = 42: "outboxd sends what other brokers take: see whether a proxy rewrites requests, and please report it",
    }
    // Of a compressed batch `classify::hint` says more.
    Refused, "a format of batches that the topic or the broker does not take" {
        UNSUPPORTED_FOR_MESSAGE_FORMAT = 43:
            "topic {topic} keeps records in a format older than Kafka 0.11: remove its message.format.version, or upgrade the brokers",
        UNSUPPORTED_COMPRESSION_TYPE = 76: "topic {topic} does not take this compression: see its compression.type",
    }
    Refused, "another cluster's" {
        INCONSISTENT_CLUSTER_ID = 104:
            "the broker takes us for a client of another cluster: see bootstrap_servers, and restart outboxd",
    }

    // A gap in the sequences, an older epoch than the broker knows, a producer it does not know (up to 2.4), one in another state than
    // ours. A thawed ex-leader answers valid batches so. "Duplicate" (46) says that it was stored once, but not "on all in-sync
    // replicas": the log does.
    OutOfSequence, "the broker remembers another state of our producer than ours" {
        OUT_OF_ORDER_SEQUENCE_NUMBER = 45,
        DUPLICATE_SEQUENCE_NUMBER = 46,
        INVALID_PRODUCER_EPOCH = 47,
        INVALID_TXN_STATE = 48,
        INVALID_PRODUCER_ID_MAPPING = 49,
        UNKNOWN_PRODUCER_ID = 59,
        PRODUCER_FENCED = 90,
        TRANSACTION_ABORTABLE = 120,
    }

    Unsure, "no answer to a Produce, so nothing is known of what was done before it was said" {
        OFFSET_OUT_OF_RANGE = 1,
        INVALID_FETCH_SIZE = 4,
        STALE_CONTROLLER_EPOCH = 11,
        OFFSET_METADATA_TOO_LARGE = 12,
        COORDINATOR_LOAD_IN_PROGRESS = 14,
        COORDINATOR_NOT_AVAILABLE = 15,
        NOT_COORDINATOR = 16,
        ILLEGAL_GENERATION = 22,
        INCONSISTENT_GROUP_PROTOCOL = 23,
        INVALID_GROUP_ID = 24,
        UNKNOWN_MEMBER_ID = 25,
        INVALID_SESSION_TIMEOUT = 26,
        REBALANCE_IN_PROGRESS = 27,
        INVALID_COMMIT_OFFSET_SIZE = 28,
        GROUP_AUTHORIZATION_FAILED = 30,
        TOPIC_ALREADY_EXISTS = 36,
        INVALID_PARTITIONS = 37,
        INVALID_REPLICATION_FACTOR = 38,
        INVALID_REPLICA_ASSIGNMENT = 39,
        INVALID_CONFIG = 40,
        NOT_CONTROLLER = 41,
        INVALID_TRANSACTION_TIMEOUT = 50,
        CONCURRENT_TRANSACTIONS = 51,
        TRANSACTION_COORDINATOR_FENCED = 52,
        OPERATION_NOT_ATTEMPTED = 55,
        LOG_DIR_NOT_FOUND = 57,
        REASSIGNMENT_IN_PROGRESS = 60,
        NON_EMPTY_GROUP = 68,
        GROUP_ID_NOT_FOUND = 69,
        FETCH_SESSION_ID_NOT_FOUND = 70,
        INVALID_FETCH_SESSION_EPOCH = 71,
        TOPIC_DELETION_DISABLED = 73,
        MEMBER_ID_REQUIRED = 79,
        PREFERRED_LEADER_NOT_AVAILABLE = 80,
        GROUP_MAX_SIZE_REACHED = 81,
        FENCED_INSTANCE_ID = 82,
        ELIGIBLE_LEADERS_NOT_AVAILABLE = 83,
        ELECTION_NOT_NEEDED = 84,
        NO_REASSIGNMENT_IN_PROGRESS = 85,
        GROUP_SUBSCRIBED_TO_TOPIC = 86,
        UNSTABLE_OFFSET_COMMIT = 88,
        RESOURCE_NOT_FOUND = 91,
        DUPLICATE_RESOURCE = 92,
        UNACCEPTABLE_CREDENTIAL = 93,
        INCONSISTENT_VOTER_SET = 94,
        INVALID_UPDATE_VERSION = 95,
        FEATURE_UPDATE_FAILED = 96,
        SNAPSHOT_NOT_FOUND = 98,
        POSITION_OUT_OF_RANGE = 99,
        DUPLICATE_BROKER_REGISTRATION = 101,
        BROKER_ID_NOT_REGISTERED = 102,
        TRANSACTIONAL_ID_NOT_FOUND = 105,
        FETCH_SESSION_TOPIC_ID_ERROR = 106,
        INELIGIBLE_REPLICA = 107,
        OFFSET_MOVED_TO_TIERED_STORAGE = 109,
        FENCED_MEMBER_EPOCH = 110,
        UNRELEASED_INSTANCE_ID = 111,
        UNSUPPORTED_ASSIGNOR = 112,
        STALE_MEMBER_EPOCH = 113,
        MISMATCHED_ENDPOINT_TYPE = 114,
        UNSUPPORTED_ENDPOINT_TYPE = 115,
        UNKNOWN_CONTROLLER_ID = 116,
        UNKNOWN_SUBSCRIPTION_ID = 117,
        TELEMETRY_TOO_LARGE = 118,
        INVALID_REGISTRATION = 119,
        INVALID_RECORD_STATE = 121,
        SHARE_SESSION_NOT_FOUND = 122,
        INVALID_SHARE_SESSION_EPOCH = 123,
        FENCED_STATE_EPOCH = 124,
        INVALID_VOTER_KEY = 125,
        DUPLICATE_VOTER = 126,
        VOTER_NOT_FOUND = 127,
        INVALID_REGULAR_EXPRESSION = 128,
        STREAMS_INVALID_TOPOLOGY = 130,
        STREAMS_INVALID_TOPOLOGY_EPOCH = 131,
        STREAMS_TOPOLOGY_FENCED = 132,
        SHARE_SESSION_LIMIT_REACHED = 133,
    }
}

impl ErrorCode {
    fn known(self) -> &'static Known {
        TABLE.iter().find(|known| known.code == self.0).unwrap_or(&UNKNOWN)
    }

    /// Kafka's own name of the constant; `UNRECOGNIZED` for a code that is not in the table.
    pub fn name(self) -> &'static str {
        self.known().name
    }

    /// What it means as the answer to a Produce. `record_errors_named`: the answer names records that are at fault, or is of a version
    /// (Produce 7) that can't.
    pub fn class(self, record_errors_named: bool) -> Class {
        match self {
            // A compacted topic and no key, above all.
            ErrorCode::INVALID_RECORD if record_errors_named => Class::Record,
            _ => self.known().class,
        }
    }

    /// Why it has that class, in half a sentence.
    pub fn reason(self) -> &'static str {
        self.known().reason
    }

    /// What a person can do about it, if anything.
    pub(crate) fn hint(self, topic: &str) -> String {
        self.known().hint.replace("{topic}", topic)
    }

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

#[cfg(test)]
mod tests;
