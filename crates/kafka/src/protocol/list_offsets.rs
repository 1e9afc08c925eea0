//! ListOffsets 1 to 4: where a partition begins and ends.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, Writer, sorted_by_partition, throttle_time, topic_name};
use crate::error::ErrorCode;
use std::time::Duration;

/// Asks as a consumer that reads uncommitted data, because only then the end is the high watermark.
#[derive(Clone, Copy, Debug)]
pub struct ListOffsetsRequest<'a> {
    pub reach: Reach,
    /// Of any topics, in any order, each once.
    pub partitions: &'a [ListOffsetsPartition<'a>],
}

/// What [`ListOffsetsPartition::END`] stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The high watermark: what consumers are served.
    HighWatermark,
    /// The end of the leader's own log: what is not on all in-sync replicas yet counts, too. Needs no other permission.
    LogEnd,
}

/// A partition and what is asked of it.
#[derive(Clone, Copy, Debug)]
pub struct ListOffsetsPartition<'a> {
    pub topic: &'a str,
    pub partition: i32,
    /// From Metadata: another leader's answer is an error then (FENCED_LEADER_EPOCH, UNKNOWN_LEADER_EPOCH). -1: any. Not sent before
    /// version 4.
    pub current_leader_epoch: i32,
    /// Milliseconds since 1970, or [`ListOffsetsPartition::END`] or [`ListOffsetsPartition::START`].
    pub timestamp: i64,
}

impl ListOffsetsPartition<'_> {
    /// The high watermark, or the log's end: see [`Reach`].
    pub const END: i64 = -1;
    /// The log start offset.
    pub const START: i64 = -2;
}

/// In the broker's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListOffsetsResponse {
    pub throttle_time: Duration,
    pub partitions: Vec<ListedOffset>,
}

/// The answer for one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedOffset {
    pub topic: String,
    pub partition: i32,
    pub error: ErrorCode,
    pub timestamp: i64,
    /// -1 with an error, or when no record is that young.
    pub offset: i64,
    /// -1: not known, as before version 4.
    pub leader_epoch: i32,
}

impl Request for ListOffsetsRequest<'_> {
    type Response = ListOffsetsResponse;
    const API: ApiKey = ApiKey::ListOffsets;

    fn encode(&self, version: i16, out: &mut Writer<'_>) {
        let sorted = sorted_by_partition(self.partitions, |p| (p.topic, p.partition));
        // replica_id: a consumer, or what Kafka calls a debugging consumer.
        out.i32(match self.reach {
            Reach::HighWatermark => -1,
            Reach::LogEnd => -2,
        });
        if version >= 2 {
            out.i8(0); // isolation_level: READ_UNCOMMITTED
        }
        out.count(sorted.chunk_by(|a, b| a.topic == b.topic).count());
        for topic in sorted.chunk_by(|a, b| a.topic == b.topic) {
            out.string(topic[0].topic);
            out.count(topic.len());
            for partition in topic {
                out.i32(partition.partition);
                if version >= 4 {
                    out.i32(partition.current_leader_epoch);
                }
                out.i64(partition.timestamp);
            }
        }
    }

    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<ListOffsetsResponse, DecodeError> {
        let throttle_time = if version >= 2 { throttle_time(reader)? } else { Duration::ZERO };
        let mut partitions = Vec::new();
        reader.array(6, |r| {
            let topic = topic_name(r, Reader::string)?;
            r.array(if version >= 4 { 26 } else { 22 }, |r| {
                partitions.push(ListedOffset {
                    topic: topic.to_owned(),
                    partition: r.i32()?,
                    error: ErrorCode(r.i16()?),
                    timestamp: r.i64()?,
                    offset: r.i64()?,
                    leader_epoch: if version >= 4 { r.i32()? } else { -1 },
                });
                Ok(())
            })
        })?;
        Ok(ListOffsetsResponse { throttle_time, partitions })
    }
}
