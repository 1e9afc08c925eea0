//! Kafka's messages, one file per family, in the versions of one table.
//!
//! Promises: what is spoken stands in [`SPOKEN`] and nowhere else; answers are decoded whole or not at all. Does not know:
//! sockets, retries, what an answer means.
//!
//! Field order and types: Kafka's message definitions (`clients/src/main/resources/common/message/*.json`). Requests name
//! partitions in flat lists and are grouped by topic while they are encoded, because that is what callers have.

#![allow(missing_docs)] // messages, their fields and their types have Kafka's own names, and its definitions say what they are

mod api_versions;
mod create_topics;
mod describe_producers;
mod fetch;
pub mod header;
mod init_producer_id;
mod list_offsets;
mod metadata;
mod primitives;
mod produce;
mod sasl_authenticate;
mod sasl_handshake;

pub use api_versions::{ApiRange, ApiVersionsRequest, ApiVersionsResponse};
pub use create_topics::{CreateTopicsRequest, CreateTopicsResponse, CreatedTopic};
pub use describe_producers::{ActiveProducer, DescribeProducersRequest, DescribeProducersResponse, DescribedPartition};
pub use fetch::{FetchPartition, FetchRequest, FetchResponse, FetchedPartition};
pub use init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
pub use list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsResponse, ListedOffset, Reach};
pub use metadata::{MetadataBroker, MetadataPartition, MetadataRequest, MetadataResponse, MetadataTopic};
pub use primitives::{DecodeError, Reader, Writer};
pub use produce::{PartitionBatch, ProduceRequest, ProduceResponse, ProducedPartition};
pub use sasl_authenticate::{SaslAuthenticateRequest, SaslAuthenticateResponse};
pub use sasl_handshake::{SaslHandshakeRequest, SaslHandshakeResponse};

use crate::topic_name;
use std::fmt;
use std::time::Duration;

/// The kinds of requests we make, with Kafka's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i16)]
pub enum ApiKey {
    Produce = 0,
    Fetch = 1,
    ListOffsets = 2,
    Metadata = 3,
    SaslHandshake = 17,
    ApiVersions = 18,
    CreateTopics = 19,
    InitProducerId = 22,
    SaslAuthenticate = 36,
    DescribeProducers = 61,
}

impl fmt::Display for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The lowest and the highest version of a request that one side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    pub min: i16,
    pub max: i16,
}

impl VersionRange {
    /// The highest version both sides speak.
    pub fn common(self, other: VersionRange) -> Option<i16> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max { write!(f, "{}", self.min) } else { write!(f, "{} to {}", self.min, self.max) }
    }
}

/// A line of the table of versions.
#[derive(Clone, Copy, Debug)]
pub struct Spoken {
    pub api: ApiKey,
    /// The versions that we speak.
    pub versions: VersionRange,
    /// The first version with compact types and tagged fields, whether we speak it or not.
    pub flexible_from: i16,
    /// Whether a broker without it is of no use. What is not needed is looked up with `Connection::api_version`.
    pub needed: bool,
}

/// The one table of what we speak. One version of nearly everything is enough from Kafka 2.1 to 4.3; lower ones
/// are for relatives of Kafka's that have no leader epochs (Event Hubs).
pub const SPOKEN: [Spoken; 10] = [
    // 8 adds record_errors (2.4); from 3 on it takes record batch v2; 4.0 removed 0 to 2.
    spoken(ApiKey::Produce, 7, 8, 9, true),
    // 9 adds current_leader_epoch, so that a deposed leader says so instead of serving stale data; 10 allows zstd batches. From 4 on
    // it gives record batch v2: what is older than 9 is for relatives of Kafka's.
    spoken(ApiKey::Fetch, 4, 10, 12, true),
    // 4 adds current_leader_epoch; 1 is the first that answers one offset.
    spoken(ApiKey::ListOffsets, 1, 4, 6, true),
    // 7 adds the leader epoch, 5 the replicas that are offline; 4 allow_auto_topic_creation.
    spoken(ApiKey::Metadata, 5, 7, 9, true),
    // 1 has the mechanism's messages travel in SaslAuthenticate; it is the last, and was never made flexible.
    spoken(ApiKey::SaslHandshake, 1, 1, i16::MAX, false),
    // 3 says who we are (2.4). 0 is what a broker without it answers in, and what it is asked in then.
    spoken(ApiKey::ApiVersions, 0, 3, 3, true),
    // 2 to 4 have one layout; 4.0 removed 0 and 1. No producer needs it.
    spoken(ApiKey::CreateTopics, 2, 4, 5, false),
    spoken(ApiKey::InitProducerId, 1, 1, 2, true),
    // 1 adds the session's lifetime (2.2).
    spoken(ApiKey::SaslAuthenticate, 0, 2, 2, false),
    // Since 2.8. Only a help for recovery.
    spoken(ApiKey::DescribeProducers, 0, 0, 0, false),
];

const fn spoken(api: ApiKey, min: i16, max: i16, flexible_from: i16, needed: bool) -> Spoken {
    Spoken { api, versions: VersionRange { min, max }, flexible_from, needed }
}

impl ApiKey {
    /// The API's place in [`SPOKEN`].
    pub(crate) fn index(self) -> usize {
        SPOKEN.iter().position(|line| line.api == self).expect("every ApiKey has its line in SPOKEN")
    }

    /// The API's line in [`SPOKEN`].
    pub fn spoken(self) -> &'static Spoken {
        &SPOKEN[self.index()]
    }
}

/// A message to a broker and the answer to it.
pub trait Request {
    /// The body of the answer.
    type Response;
    const API: ApiKey;

    /// Appends the body. `version` is one of [`SPOKEN`]'s for this API.
    fn encode(&self, version: i16, out: &mut Writer<'_>);

    /// Reads an answer's body; the caller checks for leftovers.
    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<Self::Response, DecodeError>;
}

/// `throttle_time_ms`: the broker won't read from this connection for so long.
pub(crate) fn throttle_time(reader: &mut Reader<'_>) -> Result<Duration, DecodeError> {
    let milliseconds = reader.i32()?;
    // A negative time is no reason to doubt the rest of the answer.
    Ok(Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0)))
}

/// The topic's name above a list of its partitions, by the `Reader` method for its type.
///
/// One that is longer than any topic's is refused: each partition gets a copy of it, and those take as little as nine bytes.
pub(crate) fn topic_name<'a>(
    reader: &mut Reader<'a>,
    text: impl FnOnce(&mut Reader<'a>) -> Result<&'a str, DecodeError>,
) -> Result<&'a str, DecodeError> {
    let at = reader.position();
    let name = text(reader)?;
    if name.len() > topic_name::BYTES_MAX {
        return Err(DecodeError::Length { at, length: name.len() as i64 });
    }
    Ok(name)
}

/// The items in the order of `place` (topic, partition), ready to be cut by topic.
///
/// Panics if a partition is named twice: a broker answers such a request by partition, and the answers could not be told apart.
pub(crate) fn sorted_by_partition<'a, T>(items: &'a [T], place: impl Fn(&'a T) -> (&'a str, i32)) -> Vec<&'a T> {
    let mut sorted: Vec<&'a T> = items.iter().collect();
    sorted.sort_by_key(|item| place(item));
    for pair in sorted.windows(2) {
        let (topic, partition) = place(pair[0]);
        assert!((topic, partition) != place(pair[1]), "{topic}-{partition} is named twice in one request");
    }
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_version_is_the_highest_that_both_speak() {
        let range = |min, max| VersionRange { min, max };
        assert_eq!(range(7, 8).common(range(0, 11)), Some(8));
        assert_eq!(range(7, 8).common(range(3, 7)), Some(7));
        assert_eq!(range(7, 8).common(range(0, 6)), None);
        assert_eq!(range(7, 8).common(range(9, 12)), None);
        // What a confused broker might say.
        assert_eq!(range(7, 8).common(range(9, 3)), None);
    }

    #[test]
    fn a_topic_that_none_can_be_named_is_not_copied_for_each_partition() {
        let answer = |name: &str| {
            let mut bytes = Vec::new();
            let mut out = Writer::new(&mut bytes);
            out.i32(0); // throttle_time_ms
            out.compact_count(1);
            out.compact_string(name);
            out.compact_count(100);
            for partition in 0..100 {
                out.i32(partition);
                out.i16(0);
                out.unsigned_varint(0); // error_message
                out.compact_count(0);
                out.no_tagged_fields();
            }
            out.no_tagged_fields();
            out.no_tagged_fields();
            DescribeProducersRequest::decode(0, &mut Reader::new(&bytes)).map(|response| response.partitions.len())
        };
        assert_eq!(answer(&"x".repeat(topic_name::BYTES_MAX)), Ok(100));
        assert_eq!(answer(&"x".repeat(250)), Err(DecodeError::Length { at: 5, length: 250 }));
    }

    #[test]
    #[should_panic(expected = "a-1 is named twice in one request")]
    fn a_partition_is_named_once() {
        sorted_by_partition(&[("a", 1), ("b", 1), ("a", 1)], |item| *item);
    }
}
