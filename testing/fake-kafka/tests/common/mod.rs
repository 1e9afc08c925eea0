//! A raw client: one connection, one request at a time, everything through `kafka-protocol`.
//!
//! It promises to send exactly what it is told and to hide nothing of the answer. It does not retry, route or remember.

#![allow(dead_code)] // every test file uses a part of it

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use fake_kafka::ApiKey;
use kafka_protocol::indexmap::IndexMap;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::describe_producers_response::ProducerState;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, DescribeProducersRequest, FetchRequest, FetchResponse,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse,
    RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{Compression, Record, RecordBatchEncoder, RecordEncodeOptions, TimestampType};

/// Long enough that reaching it is a failure.
pub const LONG: Duration = Duration::from_secs(20);

/// Why there was no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    Closed,
    Silent,
}

pub struct Client {
    stream: TcpStream,
    correlation_id: i32,
}

/// A batch to be made.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    pub producer_id: i64,
    pub epoch: i16,
    pub sequence: i32,
    pub count: i32,
    pub timestamp: i64,
    /// Distinguishes batches of the same triple.
    pub tag: &'static str,
}

impl Batch {
    pub fn new(producer_id: i64, epoch: i16, sequence: i32, count: i32) -> Batch {
        Batch { producer_id, epoch, sequence, count, timestamp: 1_000, tag: "v" }
    }

    pub fn tagged(self, tag: &'static str) -> Batch {
        Batch { tag, ..self }
    }

    pub fn stamped(self, timestamp: i64) -> Batch {
        Batch { timestamp, ..self }
    }

    pub fn records(&self) -> Vec<Record> {
        (0..self.count)
            .map(|index| Record {
                transactional: false,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: self.producer_id,
                producer_epoch: self.epoch,
                timestamp_type: TimestampType::Creation,
                offset: i64::from(index),
                sequence: self.sequence.wrapping_add(index),
                timestamp: self.timestamp,
                key: (index % 2 == 0).then(|| Bytes::from(format!("k{index}"))),
                value: Some(Bytes::from(format!("{}{index}", self.tag))),
                headers: IndexMap::from([
                    (StrBytes::from_static_str("a"), Some(Bytes::from_static(b"1"))),
                    (StrBytes::from_static_str("b"), None),
                ]),
            })
            .collect()
    }

    pub fn bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut out, &self.records(), &options).unwrap();
        out.freeze()
    }
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, correlation_id: 100 }
    }

    pub fn answer_within(&mut self, limit: Duration) -> &mut Client {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        self
    }

    pub fn send<R: Request>(&mut self, request: &R, version: i16) {
        self.correlation_id += 1;
        let mut body = BytesMut::new();
        RequestHeader::default()
            .with_request_api_key(R::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation_id)
            .with_client_id(Some(StrBytes::from_static_str("raw")))
            .encode(&mut body, R::header_version(version))
            .unwrap();
        request.encode(&mut body, version).unwrap();
        self.send_raw(&body);
    }

    /// A frame; a broker that is gone is noticed by whoever reads.
    pub fn send_raw(&mut self, body: &[u8]) {
        let mut frame = i32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(body);
        let _ = self.stream.write_all(&frame);
    }

    pub fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> Result<(), Lost> {
        self.stream.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Lost::Silent,
            _ => Lost::Closed,
        })
    }

    /// The next frame without its length.
    pub fn receive_raw(&mut self) -> Result<Bytes, Lost> {
        let mut length = [0; 4];
        self.read_exact(&mut length)?;
        let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        self.read_exact(&mut frame)?;
        Ok(Bytes::from(frame))
    }

    pub fn receive_bytes(&mut self, count: usize) -> Result<Vec<u8>, Lost> {
        let mut bytes = vec![0; count];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Whatever comes until the end of the connection.
    pub fn receive_all(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        let _ = self.stream.read_to_end(&mut all);
        all
    }

    pub fn receive<R: Request>(&mut self, version: i16) -> Result<R::Response, Lost> {
        let mut frame = self.receive_raw()?;
        let header = ResponseHeader::decode(&mut frame, R::Response::header_version(version)).unwrap();
        assert_eq!(header.correlation_id, self.correlation_id);
        let response = R::Response::decode(&mut frame, version).unwrap();
        assert!(!frame.has_remaining(), "{} bytes left over", frame.remaining());
        Ok(response)
    }

    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> Result<R::Response, Lost> {
        self.send(request, version);
        self.receive::<R>(version)
    }

    pub fn api_versions(&mut self) -> Result<ApiVersionsResponse, Lost> {
        self.call(&ApiVersionsRequest::default(), 0)
    }

    pub fn metadata(&mut self, topics: &[&str]) -> MetadataResponse {
        let topics = topics.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name))));
        let request =
            MetadataRequest::default().with_topics(Some(topics.collect())).with_allow_auto_topic_creation(false);
        self.call(&request, 7).unwrap()
    }

    /// (error, producer id, epoch)
    pub fn init_producer_id(&mut self) -> (i16, i64, i16) {
        let request = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(1_000);
        let response = self.call(&request, 1).unwrap();
        (response.error_code, response.producer_id.0, response.producer_epoch)
    }

    /// (error, offset, leader epoch)
    pub fn list_offset(&mut self, topic: &str, partition: i32, timestamp: i64) -> (i16, i64, i32) {
        let asked = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(timestamp);
        let request = ListOffsetsRequest::default()
            .with_replica_id((-1).into())
            .with_topics(vec![ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked])]);
        let response = self.call(&request, 4).unwrap();
        let found = &response.topics[0].partitions[0];
        assert_eq!(found.partition_index, partition);
        (found.error_code, found.offset, found.leader_epoch)
    }

    pub fn send_produce(&mut self, parts: &[(&str, i32, Bytes)], timeout_ms: i32) {
        self.send(&produce_request(parts, -1, timeout_ms), 8);
    }

    pub fn receive_produce(&mut self) -> Result<ProduceResponse, Lost> {
        self.receive::<ProduceRequest>(8)
    }

    /// One batch, acks=all; its partition's answer.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: &Batch) -> Result<PartitionProduceResponse, Lost> {
        self.produce_bytes(topic, partition, batch.bytes())
    }

    pub fn produce_bytes(
        &mut self,
        topic: &str,
        partition: i32,
        batch: Bytes,
    ) -> Result<PartitionProduceResponse, Lost> {
        self.send_produce(&[(topic, partition, batch)], 10_000);
        let response = self.receive_produce()?;
        assert_eq!(response.responses.len(), 1);
        assert_eq!(response.responses[0].name.0.as_str(), topic);
        let [found] = &response.responses[0].partition_responses[..] else { panic!("{response:?}") };
        assert_eq!(found.index, partition);
        Ok(found.clone())
    }

    /// (error, base offset)
    pub fn outcome(&mut self, topic: &str, partition: i32, batch: &Batch) -> (i16, i64) {
        let found = self.produce(topic, partition, batch).unwrap();
        (found.error_code, found.base_offset)
    }

    pub fn fetch(&mut self, request: &FetchRequest) -> FetchResponse {
        self.call(request, 10).unwrap()
    }

    /// One partition with generous limits.
    pub fn fetch_one(&mut self, topic: &str, partition: i32, offset: i64, leader_epoch: i32) -> PartitionData {
        let request = fetch_request(&[(topic, partition, offset, leader_epoch, 1 << 20)], 1 << 20, 0);
        self.fetch(&request).responses[0].partitions[0].clone()
    }

    /// (error, producers)
    pub fn describe_producers(&mut self, topic: &str, partition: i32) -> (i16, Vec<ProducerState>) {
        let request = DescribeProducersRequest::default().with_topics(vec![
            TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition]),
        ]);
        let response = self.call(&request, 0).unwrap();
        let found = &response.topics[0].partitions[0];
        (found.error_code, found.active_producers.clone())
    }
}

pub fn produce_request(parts: &[(&str, i32, Bytes)], acks: i16, timeout_ms: i32) -> ProduceRequest {
    let topic_data = parts.iter().map(|(topic, partition, batch)| {
        let data = PartitionProduceData::default().with_index(*partition).with_records(Some(batch.clone()));
        TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data])
    });
    ProduceRequest::default()
        .with_transactional_id(None)
        .with_acks(acks)
        .with_timeout_ms(timeout_ms)
        .with_topic_data(topic_data.collect())
}

/// (topic, partition, offset, current leader epoch, partition max bytes)
pub fn fetch_request(parts: &[(&str, i32, i64, i32, i32)], max_bytes: i32, isolation: i8) -> FetchRequest {
    let topics = parts.iter().map(|&(topic, partition, offset, epoch, limit)| {
        let asked = FetchPartition::default()
            .with_partition(partition)
            .with_fetch_offset(offset)
            .with_current_leader_epoch(epoch)
            .with_partition_max_bytes(limit);
        FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![asked])
    });
    FetchRequest::default()
        .with_replica_id((-1).into())
        .with_max_wait_ms(0)
        .with_min_bytes(1)
        .with_max_bytes(max_bytes)
        .with_isolation_level(isolation)
        .with_session_epoch(-1)
        .with_topics(topics.collect())
}

/// Every (topic, partition, error, base offset) in the order answered.
pub fn flat(response: &ProduceResponse) -> Vec<(String, i32, i16, i64)> {
    let topics = response.responses.iter();
    topics
        .flat_map(|topic| {
            topic
                .partition_responses
                .iter()
                .map(|found| (topic.name.to_string(), found.index, found.error_code, found.base_offset))
        })
        .collect()
}

pub fn versions_of(response: &ApiVersionsResponse, api: ApiKey) -> Option<(i16, i16)> {
    let found = response.api_keys.iter().find(|found| found.api_key == api as i16)?;
    Some((found.min_version, found.max_version))
}
