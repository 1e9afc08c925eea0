//! Fetch, ListOffsets and DescribeProducers: what a client can read back.
//!
//! It promises Kafka's view of things: Fetch and ListOffsets answer for a leader and end at the high watermark, DescribeProducers is
//! answered by whatever replica is asked, from its log end, without a warning. It does not know how batches came to be.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::describe_producers_response::{
    PartitionResponse, ProducerState, TopicResponse as DescribedTopic,
};
use kafka_protocol::messages::fetch_request::FetchPartition;
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_request::ListOffsetsPartition;
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, FetchRequest, FetchResponse, ListOffsetsRequest,
    ListOffsetsResponse, TopicName,
};

use crate::codes;
use crate::faults::Strikes;
use crate::log::StoredBatch;
use crate::replica::Replica;
use crate::requests::{Call, find, text};
use crate::state::State;
use crate::topic::{Access, Partition};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
/// The replica id of what Kafka calls a debugging consumer: ListOffsets tells it the log's end, and followers answer it, too.
const DEBUGGING_CONSUMER: i32 = -2;

/// The replica of a leader that is asked with `current_leader_epoch` (-1: whatever it is).
/// 74 when the client is behind, 75 when the replica is: an ex-leader asked by someone who knows more.
fn leader_replica<'a>(
    state: &'a mut State,
    broker: i32,
    topic: &str,
    index: i32,
    current_leader_epoch: i32,
    access: Access,
) -> Result<(&'a Partition, &'a Replica), i16> {
    let found = any_replica(state, broker, topic, index, current_leader_epoch, access)?;
    if found.1.leads_in_epoch().is_none() {
        return Err(codes::NOT_LEADER_OR_FOLLOWER);
    }
    Ok(found)
}

fn any_replica<'a>(
    state: &'a mut State,
    broker: i32,
    topic: &str,
    index: i32,
    current_leader_epoch: i32,
    access: Access,
) -> Result<(&'a Partition, &'a Replica), i16> {
    if state.denies(topic, access) {
        return Err(codes::TOPIC_AUTHORIZATION_FAILED);
    }
    let (partition, _) = find(&mut state.topics, topic, index).ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
    let partition: &Partition = partition;
    let replica = partition.replicas.get(&broker).ok_or(codes::NOT_LEADER_OR_FOLLOWER)?;
    // A follower knows an epoch too.
    let known_epoch = replica.known_epoch();
    if current_leader_epoch >= 0 && current_leader_epoch < known_epoch {
        return Err(codes::FENCED_LEADER_EPOCH);
    }
    if current_leader_epoch > known_epoch {
        return Err(codes::UNKNOWN_LEADER_EPOCH);
    }
    Ok((partition, replica))
}

pub(crate) fn fetch(call: &Call<'_>, request: &FetchRequest, strikes: &Strikes) -> FetchResponse {
    let response = FetchResponse::default().with_throttle_time_ms(strikes.throttle_ms());
    if let Some(code) = strikes.whole_answer() {
        let response = response.with_responses(Vec::new());
        return if call.version >= 7 { response.with_error_code(code) } else { response };
    }
    let limit = Duration::from_millis(request.max_wait_ms.max(0) as u64);
    let mut read = Vec::new();
    // The long poll: at once when there is an error or enough to say.
    call.shared.wait_for(limit, |state| {
        read = read_all(state, call, request, strikes);
        let over = !state.runs(call.broker) || !state.is_open(call.connection);
        let bytes: usize = read
            .iter()
            .flat_map(|topic| &topic.partitions)
            .map(|data| data.records.as_ref().map_or(0, Bytes::len))
            .sum();
        let failed = read.iter().flat_map(|topic| &topic.partitions).any(|data| data.error_code != codes::NONE);
        (over || failed || bytes >= request.min_bytes.max(0) as usize).then_some(())
    });
    response.with_responses(read)
}

fn read_all(
    state: &mut State,
    call: &Call<'_>,
    request: &FetchRequest,
    strikes: &Strikes,
) -> Vec<FetchableTopicResponse> {
    let mut budget = request.max_bytes.max(0) as usize;
    let mut first = true;
    let mut topics = Vec::new();
    for topic in &request.topics {
        let name = topic.topic.to_string();
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let data = match strikes.answer_before(&name, asked.partition) {
                Some(code) => Err(code),
                None => read(state, call.broker, &name, asked, request.isolation_level, budget, first),
            };
            let data = data.unwrap_or_else(|code| {
                PartitionData::default()
                    .with_partition_index(asked.partition)
                    .with_error_code(code)
                    .with_high_watermark(-1)
                    .with_aborted_transactions(None)
            });
            let length = data.records.as_ref().map_or(0, Bytes::len);
            first &= length == 0;
            budget = budget.saturating_sub(length);
            partitions.push(data);
        }
        topics.push(FetchableTopicResponse::default().with_topic(TopicName(text(&name))).with_partitions(partitions));
    }
    topics
}

/// `first`: nothing is in the answer yet, so the first batch comes whole whatever the limits say.
fn read(
    state: &mut State,
    broker: i32,
    topic: &str,
    asked: &FetchPartition,
    isolation: i8,
    budget: usize,
    first: bool,
) -> Result<PartitionData, i16> {
    let (partition, replica) =
        leader_replica(state, broker, topic, asked.partition, asked.current_leader_epoch, Access::Read)?;
    let log = &replica.log;
    if asked.fetch_offset < log.start() || asked.fetch_offset > log.end() {
        return Err(codes::OFFSET_OUT_OF_RANGE);
    }
    let stable = partition.open_transaction_from.map_or(replica.high_watermark, |at| at.min(replica.high_watermark));
    let end = if isolation == 1 { stable } else { replica.high_watermark };
    let from = &log.batches()[log.index_from(asked.fetch_offset)..];
    let segment_end = from.first().map_or(end, |first| log.segment_end(first.base_offset()));
    let readable = from.iter().take_while(|batch| batch.last_offset() < end.min(segment_end));
    let limit = budget.min(asked.partition_max_bytes.max(0) as usize);
    let mut out = BytesMut::new();
    for batch in readable {
        let room = limit.saturating_sub(out.len());
        if out.is_empty() && batch.bytes.len() > room {
            // The whole batch, so that a consumer gets on; but not behind another partition's.
            if first {
                out.extend_from_slice(&batch.bytes);
            }
            break;
        }
        // A file is sent up to the limit: the last batch may be cut anywhere.
        out.extend_from_slice(&batch.bytes[..batch.bytes.len().min(room)]);
        if batch.bytes.len() >= room {
            break;
        }
    }
    Ok(PartitionData::default()
        .with_partition_index(asked.partition)
        .with_high_watermark(replica.high_watermark)
        .with_last_stable_offset(stable)
        .with_log_start_offset(log.start())
        .with_aborted_transactions((isolation == 1).then(Vec::new))
        .with_records(Some(out.freeze())))
}

pub(crate) fn list_offsets(call: &Call<'_>, request: &ListOffsetsRequest, strikes: &Strikes) -> ListOffsetsResponse {
    let mut state = call.shared.look();
    let mut topics = Vec::new();
    for topic in &request.topics {
        let name = topic.name.to_string();
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let forced = strikes.answer_before(&name, asked.partition_index);
            let debugging = request.replica_id == DEBUGGING_CONSUMER;
            let found = forced.map_or_else(|| offset(&mut state, call.broker, &name, asked, debugging), Err);
            let response = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            partitions.push(match found {
                Ok((timestamp, offset, epoch)) => {
                    let response = response.with_timestamp(timestamp).with_offset(offset);
                    if call.version >= 4 { response.with_leader_epoch(epoch) } else { response }
                }
                Err(code) => response.with_error_code(code).with_timestamp(-1).with_offset(-1),
            });
        }
        partitions.reverse();
        topics.push(ListOffsetsTopicResponse::default().with_name(TopicName(text(&name))).with_partitions(partitions));
    }
    topics.reverse();
    let response = ListOffsetsResponse::default().with_topics(topics);
    if call.version >= 2 { response.with_throttle_time_ms(strikes.throttle_ms()) } else { response }
}

/// (timestamp, offset, leader epoch). The latest offset is the high watermark, not the log end. A new leader that does not know it yet says
/// 5, which is what versions before 5 have for `OFFSET_NOT_AVAILABLE`.
fn offset(
    state: &mut State,
    broker: i32,
    topic: &str,
    asked: &ListOffsetsPartition,
    debugging: bool,
) -> Result<(i64, i64, i32), i16> {
    let (index, epoch) = (asked.partition_index, asked.current_leader_epoch);
    let (_, replica) = if debugging {
        any_replica(state, broker, topic, index, epoch, Access::Describe)?
    } else {
        leader_replica(state, broker, topic, index, epoch, Access::Describe)?
    };
    let epoch = replica.leads_in_epoch().unwrap_or(-1);
    let stored = || {
        let log = &replica.log;
        let committed = log.batches().iter().take_while(|batch| batch.last_offset() < replica.high_watermark);
        let found = committed.filter_map(|batch| first_since(batch, asked.timestamp, log.start()));
        found.into_iter().next()
    };
    match asked.timestamp {
        EARLIEST => Ok((-1, replica.log.start(), epoch)),
        LATEST if debugging => Ok((-1, replica.log.end(), epoch)),
        LATEST if replica.knows_what_is_committed() => Ok((-1, replica.high_watermark, epoch)),
        LATEST => Err(codes::LEADER_NOT_AVAILABLE),
        _ => match stored() {
            Some(found) => Ok(found),
            None if replica.knows_what_is_committed() => Ok((-1, -1, -1)),
            None => Err(codes::LEADER_NOT_AVAILABLE),
        },
    }
}

/// (timestamp, offset, leader epoch) of the batch's first record that is no older than `timestamp`, nor below the log's start.
fn first_since(batch: &StoredBatch, timestamp: i64, start: i64) -> Option<(i64, i64, i32)> {
    let header = &batch.header;
    if header.max_timestamp < timestamp {
        return None;
    }
    let Ok(records) = batch.records() else {
        return Some((header.max_timestamp, batch.base_offset(), header.partition_leader_epoch));
    };
    let stamps = records.iter().map(|record| {
        (header.base_timestamp + record.timestamp_delta, header.base_offset + i64::from(record.offset_delta))
    });
    let (stamp, offset) = stamps.into_iter().find(|&(stamp, offset)| stamp >= timestamp && offset >= start)?;
    Some((stamp, offset, header.partition_leader_epoch))
}

pub(crate) fn describe_producers(
    call: &Call<'_>,
    request: &DescribeProducersRequest,
    strikes: &Strikes,
) -> DescribeProducersResponse {
    let mut state = call.shared.look();
    let mut topics = Vec::new();
    for topic in &request.topics {
        let name = topic.name.to_string();
        let mut partitions = Vec::new();
        for &index in &topic.partition_indexes {
            let forced = strikes.answer_before(&name, index).or_else(|| strikes.answer_after(&name, index));
            let found = forced.map_or_else(|| producers(&mut state, call.broker, &name, index), Err);
            let response = PartitionResponse::default().with_partition_index(index);
            partitions.push(match found {
                Ok(active) => response.with_active_producers(active),
                Err(code) => response.with_error_code(code),
            });
        }
        partitions.reverse();
        topics.push(DescribedTopic::default().with_name(TopicName(text(&name))).with_partitions(partitions));
    }
    topics.reverse();
    DescribeProducersResponse::default().with_throttle_time_ms(strikes.throttle_ms()).with_topics(topics)
}

/// Any replica answers, leader or not.
fn producers(state: &mut State, broker: i32, topic: &str, index: i32) -> Result<Vec<ProducerState>, i16> {
    if state.denies(topic, Access::Read) {
        return Err(codes::TOPIC_AUTHORIZATION_FAILED);
    }
    let (partition, _) = find(&mut state.topics, topic, index).ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
    let replica = partition.replicas.get(&broker).ok_or(codes::NOT_LEADER_OR_FOLLOWER)?;
    let active = replica.producers.active();
    Ok(active
        .into_iter()
        .map(|producer| {
            ProducerState::default()
                .with_producer_id(producer.producer_id.into())
                .with_producer_epoch(i32::from(producer.producer_epoch))
                .with_last_sequence(producer.last_sequence)
                .with_last_timestamp(producer.last_timestamp)
                .with_coordinator_epoch(-1)
                .with_current_txn_start_offset(-1)
        })
        .collect())
}
