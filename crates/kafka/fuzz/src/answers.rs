//! A broker's answer, from its correlation id to its last byte, as `Connection` reads it.
//!
//! Promises: asks of every message in every version we speak that an answer is read whole or not at all, holds no more memory than its
//! bytes justify, and is read the same after it was written again. Does not know: what an answer means.

use super::cuts;
use outboxd_kafka::error::ErrorCode;
use outboxd_kafka::protocol::header::{decode_response_header, is_flexible};
use outboxd_kafka::protocol::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, CreateTopicsRequest, CreateTopicsResponse, DecodeError,
    DescribeProducersRequest, DescribeProducersResponse, DescribedPartition, FetchRequest, FetchResponse,
    FetchedPartition, InitProducerIdRequest, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListedOffset, MetadataRequest, MetadataResponse, ProduceResponse, ProducedPartition, Reader, Request, SPOKEN,
    SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest, SaslHandshakeResponse, Writer,
};
use std::fmt::Debug;
use std::time::Duration;

/// What an answer may hold for each of its bytes: most for a partition of DescribeProducers, which takes nine bytes and is 80, with a
/// vector's spare room 160, and a topic's name of 249.
const HELD_BYTES_PER_BYTE: usize = 48;
/// A vector has room for four from its first element on.
const HELD_BYTES_ALWAYS: usize = 4_096;

/// The first byte is the API, the second the version, the rest an answer without its length prefix.
pub fn kafka_answers(input: &[u8]) -> bool {
    let [api, version, answer @ ..] = input else { return false };
    let version = i16::from(*version);
    let spoken = SPOKEN.iter().find(|line| line.api as i16 == i16::from(*api));
    let Some(spoken) = spoken.filter(|line| (line.versions.min..=line.versions.max).contains(&version)) else {
        return false;
    };
    match spoken.api {
        ApiKey::Produce => check(ApiKey::Produce, version, answer, ProduceResponse::decode),
        ApiKey::Fetch => check_answer_to::<FetchRequest<'_>>(version, answer),
        ApiKey::ListOffsets => check_answer_to::<ListOffsetsRequest<'_>>(version, answer),
        ApiKey::Metadata => check_answer_to::<MetadataRequest<'_>>(version, answer),
        ApiKey::ApiVersions => check_answer_to::<ApiVersionsRequest<'_>>(version, answer),
        ApiKey::CreateTopics => check_answer_to::<CreateTopicsRequest<'_>>(version, answer),
        ApiKey::InitProducerId => check_answer_to::<InitProducerIdRequest>(version, answer),
        ApiKey::SaslHandshake => check_answer_to::<SaslHandshakeRequest<'_>>(version, answer),
        ApiKey::SaslAuthenticate => check_answer_to::<SaslAuthenticateRequest<'_>>(version, answer),
        ApiKey::DescribeProducers => check_answer_to::<DescribeProducersRequest<'_>>(version, answer),
    }
}

fn check_answer_to<R: Request<Response: Answer>>(version: i16, bytes: &[u8]) -> bool {
    check(R::API, version, bytes, R::decode)
}

fn check<A: Answer>(
    api: ApiKey,
    version: i16,
    bytes: &[u8],
    decode: impl Fn(i16, &mut Reader<'_>) -> Result<A, DecodeError>,
) -> bool {
    let read = |bytes: &[u8]| {
        let mut reader = Reader::new(bytes);
        let correlation_id = decode_response_header(&mut reader, api, version)?;
        let answer = decode(version, &mut reader)?;
        assert_eq!(reader.position() + reader.left(), bytes.len());
        reader.finish()?;
        Ok((correlation_id, answer))
    };
    let (correlation_id, answer) = match read(bytes) {
        Ok(whole) => whole,
        Err(error) => {
            check_error(&error, bytes.len());
            return false;
        }
    };
    let held = answer.held_bytes();
    assert!(held <= HELD_BYTES_ALWAYS + HELD_BYTES_PER_BYTE * bytes.len(), "{} bytes hold {held}", bytes.len());
    for cut in cuts(bytes.len()) {
        assert!(read(&bytes[..cut]).is_err(), "the first {cut} of {} bytes are an answer too", bytes.len());
    }
    let longer = [bytes, &[0]].concat();
    assert_eq!(read(&longer), Err(DecodeError::Leftover { at: bytes.len(), bytes: 1 }));

    let mut again = Vec::new();
    let mut out = Writer::new(&mut again);
    out.i32(correlation_id);
    if is_flexible(api, version) && api != ApiKey::ApiVersions {
        out.no_tagged_fields();
    }
    answer.write(version, &mut out);
    assert_eq!(read(&again), Ok((correlation_id, answer)));
    true
}

/// An error points into the bytes and does not talk of more than there are.
pub(super) fn check_error(error: &DecodeError, length: usize) {
    let (at, left) = match *error {
        DecodeError::Short { at, need, left } => {
            assert!(need > left, "{error}");
            (at, left)
        }
        DecodeError::Count { at, count, element_bytes, left } => {
            assert!(count.saturating_mul(element_bytes as u64) > left as u64, "{error}");
            (at, left)
        }
        DecodeError::Leftover { at, bytes } => {
            assert!(bytes > 0, "{error}");
            (at, bytes)
        }
        DecodeError::Length { at, .. }
        | DecodeError::Null { at }
        | DecodeError::Utf8 { at }
        | DecodeError::Varint { at }
        | DecodeError::Magic { at, .. } => (at, 0),
    };
    assert!(at + left <= length, "{error}: of {length} bytes");
}

/// What a decoded answer is put to the test with.
trait Answer: PartialEq + Debug {
    /// As a broker would write it: known fields only, neighbours of one topic together.
    fn write(&self, version: i16, out: &mut Writer<'_>);

    /// On the heap, with the room that vectors keep for more.
    fn held_bytes(&self) -> usize;
}

fn vec_bytes<T>(list: &Vec<T>, each: impl Fn(&T) -> usize) -> usize {
    list.capacity() * size_of::<T>() + list.iter().map(each).sum::<usize>()
}

fn text_bytes(text: Option<&String>) -> usize {
    text.map_or(0, String::capacity)
}

fn throttle_time(out: &mut Writer<'_>, time: Duration) {
    out.i32(i32::try_from(time.as_millis()).expect("it was read from 32 bits"));
}

/// An array of topics with an array of partitions each, out of a flat list.
fn by_topic<T>(out: &mut Writer<'_>, partitions: &[T], topic: impl Fn(&T) -> &str, each: impl Fn(&mut Writer<'_>, &T)) {
    out.count(partitions.chunk_by(|a, b| topic(a) == topic(b)).count());
    for of_topic in partitions.chunk_by(|a, b| topic(a) == topic(b)) {
        out.string(topic(&of_topic[0]));
        out.count(of_topic.len());
        for partition in of_topic {
            each(out, partition);
        }
    }
}

impl Answer for ProduceResponse {
    fn write(&self, version: i16, out: &mut Writer<'_>) {
        let partition = |out: &mut Writer<'_>, it: &ProducedPartition| {
            out.i32(it.partition);
            out.i16(it.error.0);
            out.i64(it.base_offset);
            out.i64(it.log_append_time_ms);
            out.i64(it.log_start_offset);
            if version >= 8 {
                out.count(it.record_errors.len());
                for (place, message) in &it.record_errors {
                    out.i32(*place);
                    out.nullable_string(message.as_deref());
                }
                out.nullable_string(it.error_message.as_deref());
            }
        };
        by_topic(out, &self.partitions, |it| &it.topic, partition);
        throttle_time(out, self.throttle_time);
    }

    fn held_bytes(&self) -> usize {
        vec_bytes(&self.partitions, |it| {
            it.topic.capacity()
                + vec_bytes(&it.record_errors, |(_, message)| text_bytes(message.as_ref()))
                + text_bytes(it.error_message.as_ref())
        })
    }
}

impl Answer for FetchResponse {
    fn write(&self, version: i16, out: &mut Writer<'_>) {
        throttle_time(out, self.throttle_time);
        if version >= 7 {
            out.i16(self.error.0);
            out.i32(0); // session_id
        }
        let partition = |out: &mut Writer<'_>, it: &FetchedPartition| {
            out.i32(it.partition);
            out.i16(it.error.0);
            out.i64(it.high_watermark);
            out.i64(it.last_stable_offset);
            if version >= 5 {
                out.i64(it.log_start_offset);
            }
            out.i32(-1); // aborted_transactions
            out.count(it.records.len());
            out.raw(&it.records);
        };
        by_topic(out, &self.partitions, |it| &it.topic, partition);
    }

    fn held_bytes(&self) -> usize {
        vec_bytes(&self.partitions, |it| it.topic.capacity() + it.records.capacity())
    }
}

impl Answer for ListOffsetsResponse {
    fn write(&self, version: i16, out: &mut Writer<'_>) {
        if version >= 2 {
            throttle_time(out, self.throttle_time);
        }
        let partition = |out: &mut Writer<'_>, it: &ListedOffset| {
            out.i32(it.partition);
            out.i16(it.error.0);
            out.i64(it.timestamp);
            out.i64(it.offset);
            if version >= 4 {
                out.i32(it.leader_epoch);
            }
        };
        by_topic(out, &self.partitions, |it| &it.topic, partition);
    }

    fn held_bytes(&self) -> usize {
        vec_bytes(&self.partitions, |it| it.topic.capacity())
    }
}

impl Answer for MetadataResponse {
    fn write(&self, version: i16, out: &mut Writer<'_>) {
        throttle_time(out, self.throttle_time);
        out.count(self.brokers.len());
        for broker in &self.brokers {
            out.i32(broker.node_id);
            out.string(&broker.host);
            out.i32(broker.port);
            out.nullable_string(broker.rack.as_deref());
        }
        out.nullable_string(self.cluster_id.as_deref());
        out.i32(self.controller_id);
        out.count(self.topics.len());
        for topic in &self.topics {
            out.i16(topic.error.0);
            out.string(&topic.name);
            out.bool(topic.is_internal);
            out.count(topic.partitions.len());
            for partition in &topic.partitions {
                out.i16(partition.error.0);
                out.i32(partition.partition);
                out.i32(partition.leader);
                if version >= 7 {
                    out.i32(partition.leader_epoch);
                }
                for nodes in [&partition.replicas, &partition.in_sync_replicas, &partition.offline_replicas] {
                    out.count(nodes.len());
                    for node in nodes {
                        out.i32(*node);
                    }
                }
            }
        }
    }

    fn held_bytes(&self) -> usize {
        let nodes = |list: &Vec<i32>| vec_bytes(list, |_| 0);
        vec_bytes(&self.brokers, |it| it.host.capacity() + text_bytes(it.rack.as_ref()))
            + text_bytes(self.cluster_id.as_ref())
            + vec_bytes(&self.topics, |topic| {
                topic.name.capacity()
                    + vec_bytes(&topic.partitions, |it| {
                        nodes(&it.replicas) + nodes(&it.in_sync_replicas) + nodes(&it.offline_replicas)
                    })
            })
    }
}

impl Answer for ApiVersionsResponse {
    fn write(&self, version: i16, out: &mut Writer<'_>) {
        let version = if self.error == ErrorCode::UNSUPPORTED_VERSION { 0 } else { version };
        out.i16(self.error.0);
        if version >= 3 {
            out.compact_count(self.apis.len());
        } else {
            out.count(self.apis.len());
        }
        for range in &self.apis {
            out.i16(range.api);
            out.i16(range.versions.min);
            out.i16(range.versions.max);
            if version >= 3 {
                out.no_tagged_fields();
            }
        }
        if version >= 1 {
            throttle_time(out, Duration::ZERO);
        }
        if version >= 3 {
            out.no_tagged_fields();
        }
    }

    fn held_bytes(&self) -> usize {
        vec_bytes(&self.apis, |_| 0)
    }
}

impl Answer for CreateTopicsResponse {
    fn write(&self, _version: i16, out: &mut Writer<'_>) {
        throttle_time(out, self.throttle_time);
        out.count(self.topics.len());
        for topic in &self.topics {
            out.string(&topic.topic);
            out.i16(topic.error.0);
            out.nullable_string(topic.message.as_deref());
        }
    }

    fn held_bytes(&self) -> usize {
        vec_bytes(&self.topics, |it| it.topic.capacity() + text_bytes(it.message.as_ref()))
    }
}

impl Answer for InitProducerIdResponse {
    fn write(&self, _version: i16, out: &mut Writer<'_>) {
        throttle_time(out, self.throttle_time);
        out.i16(self.error.0);
        out.i64(self.producer_id);
        out.i16(self.producer_epoch);
    }

    fn held_bytes(&self) -> usize {
        0
    }
}

impl Answer for SaslHandshakeResponse {
    fn write(&self, _version: i16, out: &mut Writer<'_>) {
        out.i16(self.error.0);
        out.count(self.mechanisms.len());
        for mechanism in &self.mechanisms {
            out.string(mechanism);
        }
    }

    fn held_bytes(&self) -> usize {
        vec_bytes(&self.mechanisms, String::capacity)
    }
}

impl Answer for SaslAuthenticateResponse {
    fn write(&self, version: i16, out: &mut Writer<'_>) {
        out.i16(self.error.0);
        let lifetime_ms = self.session_lifetime.map_or(0, |time| time.as_millis() as i64);
        if version < 2 {
            out.nullable_string(self.error_message.as_deref());
            out.count(self.auth_bytes.len());
            out.raw(&self.auth_bytes);
            if version == 1 {
                out.i64(lifetime_ms);
            }
            return;
        }
        match &self.error_message {
            Some(message) => out.compact_string(message),
            None => out.unsigned_varint(0),
        }
        out.compact_count(self.auth_bytes.len());
        out.raw(&self.auth_bytes);
        out.i64(lifetime_ms);
        out.no_tagged_fields();
    }

    fn held_bytes(&self) -> usize {
        text_bytes(self.error_message.as_ref()) + self.auth_bytes.capacity()
    }
}

impl Answer for DescribeProducersResponse {
    fn write(&self, _version: i16, out: &mut Writer<'_>) {
        throttle_time(out, self.throttle_time);
        let same_topic = |a: &DescribedPartition, b: &DescribedPartition| a.topic == b.topic;
        out.compact_count(self.partitions.chunk_by(same_topic).count());
        for of_topic in self.partitions.chunk_by(same_topic) {
            out.compact_string(&of_topic[0].topic);
            out.compact_count(of_topic.len());
            for partition in of_topic {
                out.i32(partition.partition);
                out.i16(partition.error.0);
                match &partition.error_message {
                    Some(message) => out.compact_string(message),
                    None => out.unsigned_varint(0),
                }
                out.compact_count(partition.active_producers.len());
                for producer in &partition.active_producers {
                    out.i64(producer.producer_id);
                    out.i32(producer.producer_epoch);
                    out.i32(producer.last_sequence);
                    out.i64(producer.last_timestamp);
                    out.i32(producer.coordinator_epoch);
                    out.i64(producer.current_txn_start_offset);
                    out.no_tagged_fields();
                }
                out.no_tagged_fields();
            }
            out.no_tagged_fields();
        }
        out.no_tagged_fields();
    }

    fn held_bytes(&self) -> usize {
        vec_bytes(&self.partitions, |it| {
            it.topic.capacity() + text_bytes(it.error_message.as_ref()) + vec_bytes(&it.active_producers, |_| 0)
        })
    }
}
