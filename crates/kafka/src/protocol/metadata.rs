//! Metadata 5 to 7: brokers, and the partitions of topics with their leaders and, in 7, leader epochs.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, Writer, throttle_time};
use crate::error::ErrorCode;
use std::time::Duration;

/// Asks any broker for the cluster's shape.
#[derive(Clone, Copy, Debug)]
pub struct MetadataRequest<'a> {
    /// `None`: all topics. An empty list: none, only the brokers.
    pub topics: Option<&'a [&'a str]>,
    /// Whether a broker that creates topics by itself (`auto.create.topics.enable`) may create the named ones.
    pub allow_auto_topic_creation: bool,
}

/// The cluster as one broker knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataResponse {
    pub throttle_time: Duration,
    pub brokers: Vec<MetadataBroker>,
    pub cluster_id: Option<String>,
    /// -1: not known.
    pub controller_id: i32,
    pub topics: Vec<MetadataTopic>,
}

/// A broker of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataBroker {
    pub node_id: i32,
    /// As the broker advertises it for the listener that was asked (`advertised.listeners`).
    pub host: String,
    pub port: i32,
    pub rack: Option<String>,
}

/// A topic, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataTopic {
    pub error: ErrorCode,
    pub name: String,
    pub is_internal: bool,
    /// In no particular order, and all of them: their number is what keys are hashed over.
    pub partitions: Vec<MetadataPartition>,
}

/// Who leads a partition, and who follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataPartition {
    /// LEADER_NOT_AVAILABLE when it has none.
    pub error: ErrorCode,
    pub partition: i32,
    /// A broker's node id; -1: none.
    pub leader: i32,
    /// -1: not known, as before version 7.
    pub leader_epoch: i32,
    pub replicas: Vec<i32>,
    pub in_sync_replicas: Vec<i32>,
    pub offline_replicas: Vec<i32>,
}

impl Request for MetadataRequest<'_> {
    type Response = MetadataResponse;
    const API: ApiKey = ApiKey::Metadata;

    fn encode(&self, _version: i16, out: &mut Writer<'_>) {
        match self.topics {
            Some(topics) => {
                out.count(topics.len());
                for topic in topics {
                    out.string(topic);
                }
            }
            None => out.i32(-1),
        }
        out.bool(self.allow_auto_topic_creation);
    }

    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<MetadataResponse, DecodeError> {
        Ok(MetadataResponse {
            throttle_time: throttle_time(reader)?,
            brokers: reader.array(12, |r| {
                Ok(MetadataBroker {
                    node_id: r.i32()?,
                    host: r.string()?.to_owned(),
                    port: r.i32()?,
                    rack: r.nullable_string()?.map(str::to_owned),
                })
            })?,
            cluster_id: reader.nullable_string()?.map(str::to_owned),
            controller_id: reader.i32()?,
            topics: reader.array(9, |r| topic(version, r))?,
        })
    }
}

fn topic(version: i16, reader: &mut Reader<'_>) -> Result<MetadataTopic, DecodeError> {
    Ok(MetadataTopic {
        error: ErrorCode(reader.i16()?),
        name: reader.string()?.to_owned(),
        is_internal: reader.bool()?,
        partitions: reader.array(if version >= 7 { 26 } else { 22 }, |r| {
            Ok(MetadataPartition {
                error: ErrorCode(r.i16()?),
                partition: r.i32()?,
                leader: r.i32()?,
                leader_epoch: if version >= 7 { r.i32()? } else { -1 },
                replicas: r.array(4, Reader::i32)?,
                in_sync_replicas: r.array(4, Reader::i32)?,
                offline_replicas: r.array(4, Reader::i32)?,
            })
        })?,
    })
}
