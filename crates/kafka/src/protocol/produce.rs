//! Produce 7 and 8: one record batch for each of several partitions, idempotent, without transactions.
//!
//! Promises: the callers' record bytes are never copied; a connection puts them on the wire from where they are. Does not know:
//! as its parent.

use super::{DecodeError, Reader, Writer, sorted_by_partition, throttle_time, topic_name};
use crate::compression::Compression;
use crate::error::{Class, ErrorCode};
use crate::record_batch::{self, BatchFields};
use std::time::Duration;

/// Batches of records for partitions that one broker leads.
#[derive(Clone, Copy, Debug)]
pub struct ProduceRequest<'a> {
    /// -1: all in-sync replicas. 0 has no answer and is not supported by `Connection::produce`.
    pub acks: i16,
    /// How long the broker may wait for the replicas before it answers REQUEST_TIMED_OUT.
    pub timeout_ms: i32,
    /// Of any topics, in any order, each partition once.
    pub batches: &'a [PartitionBatch<'a>],
}

/// One partition's batch.
#[derive(Clone, Copy, Debug)]
pub struct PartitionBatch<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    /// Of all records: their timestamp deltas are 0. The broker's memory of the producer counts from it.
    pub timestamp_ms: i64,
    pub record_count: i32,
    pub compression: Compression,
    /// Records as `append_record` encodes them, offset deltas from 0 on, compressed with that.
    pub records: &'a [u8],
}

/// What became of each batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProduceResponse {
    /// In the broker's order: match by topic and partition.
    pub partitions: Vec<ProducedPartition>,
    pub throttle_time: Duration,
}

impl ProduceResponse {
    /// The answer for one partition. A broker that leaves a partition out has told nothing about it.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<&ProducedPartition> {
        self.partitions.iter().find(|answer| answer.partition == partition && answer.topic == topic)
    }
}

/// What became of one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedPartition {
    pub topic: String,
    pub partition: i32,
    pub error: ErrorCode,
    /// Of the batch's first record; -1 with an error.
    pub base_offset: i64,
    /// Milliseconds since 1970 when the topic stamps records itself (`message.timestamp.type=LogAppendTime`); else -1.
    pub log_append_time_ms: i64,
    /// -1: not told.
    pub log_start_offset: i64,
    /// The records that made the broker refuse the batch: place in the batch from 0 (as the broker said it, so possibly out of
    /// range) and what is wrong with it.
    pub record_errors: Vec<(i32, Option<String>)>,
    /// Whether this version of the answer could name records: Produce 7 can't.
    pub can_name_records: bool,
    pub error_message: Option<String>,
}

impl ProducedPartition {
    /// What the answer means for the batch. An answer that can't name records counts as one that would have.
    pub fn class(&self) -> Class {
        self.error.class(!self.can_name_records || !self.record_errors.is_empty())
    }
}

impl<'a> ProduceRequest<'a> {
    /// Appends everything of the body but the records, and notes in `gaps` where which records belong: the position in `out`
    /// and the bytes to be sent there. The record batch headers are among what is appended.
    ///
    /// One buffer for all the small pieces and the callers' own for the large ones: `writev` puts them together.
    pub(crate) fn encode_around_records(&self, out: &mut Writer<'_>, gaps: &mut Vec<(usize, &'a [u8])>) {
        let sorted = sorted_by_partition(self.batches, |b| (b.topic, b.partition));
        out.nullable_string(None); // transactional_id
        out.i16(self.acks);
        out.i32(self.timeout_ms);
        out.count(sorted.chunk_by(|a, b| a.topic == b.topic).count());
        for topic in sorted.chunk_by(|a, b| a.topic == b.topic) {
            out.string(topic[0].topic);
            out.count(topic.len());
            for batch in topic {
                let header = record_batch::encode_header(
                    &BatchFields {
                        producer_id: batch.producer_id,
                        producer_epoch: batch.producer_epoch,
                        base_sequence: batch.base_sequence,
                        timestamp_ms: batch.timestamp_ms,
                        record_count: batch.record_count,
                        compression: batch.compression,
                    },
                    batch.records,
                );
                out.i32(batch.partition);
                out.count(header.len() + batch.records.len());
                out.raw(&header);
                gaps.push((out.position(), batch.records));
            }
        }
    }

    /// The body in one piece. A connection does without this copy; it is for tests and for looking at requests.
    pub fn encode(&self) -> Vec<u8> {
        let (mut around, mut gaps) = (Vec::new(), Vec::new());
        self.encode_around_records(&mut Writer::new(&mut around), &mut gaps);
        let mut whole = Vec::new();
        let mut done = 0;
        for (position, records) in gaps {
            whole.extend_from_slice(&around[done..position]);
            whole.extend_from_slice(records);
            done = position;
        }
        whole.extend_from_slice(&around[done..]);
        whole
    }
}

impl ProduceResponse {
    /// Reads an answer's body; the caller checks for leftovers.
    pub fn decode(version: i16, reader: &mut Reader<'_>) -> Result<ProduceResponse, DecodeError> {
        let mut partitions = Vec::new();
        let least_bytes = if version >= 8 { 36 } else { 30 };
        reader.array(6, |r| {
            let topic = topic_name(r, Reader::string)?;
            r.array(least_bytes, |r| {
                partitions.push(partition(version, topic, r)?);
                Ok(())
            })
        })?;
        Ok(ProduceResponse { partitions, throttle_time: throttle_time(reader)? })
    }
}

fn partition(version: i16, topic: &str, reader: &mut Reader<'_>) -> Result<ProducedPartition, DecodeError> {
    let mut produced = ProducedPartition {
        topic: topic.to_owned(),
        partition: reader.i32()?,
        error: ErrorCode(reader.i16()?),
        base_offset: reader.i64()?,
        log_append_time_ms: reader.i64()?,
        log_start_offset: reader.i64()?,
        record_errors: Vec::new(),
        can_name_records: version >= 8,
        error_message: None,
    };
    if version >= 8 {
        produced.record_errors = reader.array(6, |r| Ok((r.i32()?, r.nullable_string()?.map(str::to_owned))))?;
        produced.error_message = reader.nullable_string()?.map(str::to_owned);
    }
    Ok(produced)
}
