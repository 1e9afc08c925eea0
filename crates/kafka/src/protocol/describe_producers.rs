//! DescribeProducers 0 (KIP-664, since Kafka 2.8): which producers a leader remembers for a partition.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, Writer, sorted_by_partition, throttle_time, topic_name};
use crate::error::ErrorCode;
use std::time::Duration;

/// Asks a leader which producers it remembers.
#[derive(Clone, Copy, Debug)]
pub struct DescribeProducersRequest<'a> {
    /// (topic, partition), in any order, each once.
    pub partitions: &'a [(&'a str, i32)],
}

/// In the broker's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribeProducersResponse {
    pub throttle_time: Duration,
    pub partitions: Vec<DescribedPartition>,
}

/// The producers of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedPartition {
    pub topic: String,
    pub partition: i32,
    pub error: ErrorCode,
    pub error_message: Option<String>,
    pub active_producers: Vec<ActiveProducer>,
}

/// As it is at the end of the leader's log, not at the high watermark: a hint, never an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActiveProducer {
    pub producer_id: i64,
    /// 32 bits here, 16 everywhere else in the protocol.
    pub producer_epoch: i32,
    /// Of the last record; -1: none.
    pub last_sequence: i32,
    /// Milliseconds since 1970; -1: none.
    pub last_timestamp: i64,
    pub coordinator_epoch: i32,
    /// -1: no transaction is open.
    pub current_txn_start_offset: i64,
}

impl Request for DescribeProducersRequest<'_> {
    type Response = DescribeProducersResponse;
    const API: ApiKey = ApiKey::DescribeProducers;

    fn encode(&self, _version: i16, out: &mut Writer<'_>) {
        let sorted = sorted_by_partition(self.partitions, |p| *p);
        out.compact_count(sorted.chunk_by(|a, b| a.0 == b.0).count());
        for topic in sorted.chunk_by(|a, b| a.0 == b.0) {
            out.compact_string(topic[0].0);
            out.compact_count(topic.len());
            for (_, partition) in topic {
                out.i32(*partition);
            }
            out.no_tagged_fields();
        }
        out.no_tagged_fields();
    }

    fn decode(_version: i16, reader: &mut Reader<'_>) -> Result<DescribeProducersResponse, DecodeError> {
        let throttle_time = throttle_time(reader)?;
        let mut partitions = Vec::new();
        reader.compact_array(3, |r| {
            let topic = topic_name(r, Reader::compact_string)?;
            r.compact_array(9, |r| {
                partitions.push(partition(topic, r)?);
                Ok(())
            })?;
            r.tagged_fields()
        })?;
        reader.tagged_fields()?;
        Ok(DescribeProducersResponse { throttle_time, partitions })
    }
}

fn partition(topic: &str, reader: &mut Reader<'_>) -> Result<DescribedPartition, DecodeError> {
    let described = DescribedPartition {
        topic: topic.to_owned(),
        partition: reader.i32()?,
        error: ErrorCode(reader.i16()?),
        error_message: reader.compact_nullable_string()?.map(str::to_owned),
        active_producers: reader.compact_array(37, |r| {
            let producer = ActiveProducer {
                producer_id: r.i64()?,
                producer_epoch: r.i32()?,
                last_sequence: r.i32()?,
                last_timestamp: r.i64()?,
                coordinator_epoch: r.i32()?,
                current_txn_start_offset: r.i64()?,
            };
            r.tagged_fields()?;
            Ok(producer)
        })?,
    };
    reader.tagged_fields()?;
    Ok(described)
}
