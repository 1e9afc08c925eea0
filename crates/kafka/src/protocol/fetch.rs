//! Fetch 4 to 10: batches from an offset on.
//!
//! Promises and does not know: as its parent. What comes back is read by `record_batch`.

use super::{ApiKey, DecodeError, Reader, Request, Writer, sorted_by_partition, throttle_time, topic_name};
use crate::error::ErrorCode;
use std::time::Duration;

/// Asks as a consumer without a fetch session, at isolation READ_UNCOMMITTED: READ_COMMITTED would hide batches behind someone
/// else's open transaction, and a batch of ours that is there would seem missing.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest<'a> {
    /// How long the broker may wait for `min_bytes`.
    pub max_wait_ms: i32,
    pub min_bytes: i32,
    /// Of the whole answer; the first batch comes whole even if it is larger.
    pub max_bytes: i32,
    /// Of any topics, in any order, each once.
    pub partitions: &'a [FetchPartition<'a>],
}

/// From where a partition is read.
#[derive(Clone, Copy, Debug)]
pub struct FetchPartition<'a> {
    pub topic: &'a str,
    pub partition: i32,
    /// From Metadata: a deposed leader answers with an error then, not with stale data. -1: any. Not sent before version 9.
    pub current_leader_epoch: i32,
    pub fetch_offset: i64,
    pub max_bytes: i32,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchResponse {
    pub throttle_time: Duration,
    /// Of the whole request; before version 7 there is none.
    pub error: ErrorCode,
    pub partitions: Vec<FetchedPartition>,
}

/// What was read of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedPartition {
    pub topic: String,
    pub partition: i32,
    pub error: ErrorCode,
    /// Records below it are on all in-sync replicas. -1 with an error.
    pub high_watermark: i64,
    pub last_stable_offset: i64,
    /// -1: not told, as before version 5.
    pub log_start_offset: i64,
    /// Record batches one after the other, for `BatchReader`; the first may begin before the offset asked for, the last may be cut.
    pub records: Vec<u8>,
}

impl Request for FetchRequest<'_> {
    type Response = FetchResponse;
    const API: ApiKey = ApiKey::Fetch;

    fn encode(&self, version: i16, out: &mut Writer<'_>) {
        let sorted = sorted_by_partition(self.partitions, |p| (p.topic, p.partition));
        out.i32(-1); // replica_id: a consumer
        out.i32(self.max_wait_ms);
        out.i32(self.min_bytes);
        out.i32(self.max_bytes);
        out.i8(0); // isolation_level: READ_UNCOMMITTED
        if version >= 7 {
            out.i32(0); // session_id
            out.i32(-1); // session_epoch: no session
        }
        out.count(sorted.chunk_by(|a, b| a.topic == b.topic).count());
        for topic in sorted.chunk_by(|a, b| a.topic == b.topic) {
            out.string(topic[0].topic);
            out.count(topic.len());
            for partition in topic {
                out.i32(partition.partition);
                if version >= 9 {
                    out.i32(partition.current_leader_epoch);
                }
                out.i64(partition.fetch_offset);
                if version >= 5 {
                    out.i64(-1); // log_start_offset: only replicas tell it
                }
                out.i32(partition.max_bytes);
            }
        }
        if version >= 7 {
            out.count(0); // forgotten_topics_data
        }
    }

    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<FetchResponse, DecodeError> {
        let throttle_time = throttle_time(reader)?;
        let error = if version >= 7 { ErrorCode(reader.i16()?) } else { ErrorCode::NONE };
        if version >= 7 {
            let _session_id = reader.i32()?;
        }
        let mut partitions = Vec::new();
        reader.array(6, |r| {
            let topic = topic_name(r, Reader::string)?;
            r.array(if version >= 5 { 38 } else { 30 }, |r| {
                partitions.push(partition(version, topic, r)?);
                Ok(())
            })
        })?;
        Ok(FetchResponse { throttle_time, error, partitions })
    }
}

fn partition(version: i16, topic: &str, reader: &mut Reader<'_>) -> Result<FetchedPartition, DecodeError> {
    let fetched = FetchedPartition {
        topic: topic.to_owned(),
        partition: reader.i32()?,
        error: ErrorCode(reader.i16()?),
        high_watermark: reader.i64()?,
        last_stable_offset: reader.i64()?,
        log_start_offset: if version >= 5 { reader.i64()? } else { -1 },
        records: Vec::new(),
    };
    // aborted_transactions: producer_id, first_offset. Null at READ_UNCOMMITTED.
    reader.nullable_array(16, |r| r.take(16).map(drop))?;
    let records = reader.nullable_bytes()?.unwrap_or_default().to_vec();
    Ok(FetchedPartition { records, ..fetched })
}
