//! One rich answer of every kind, for the independent codec to write.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{self, BrokerId, ProducerId, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};
use outboxd_kafka::protocol::{DecodeError, ProduceResponse, Reader, Request};

pub fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

pub fn topic(value: &str) -> TopicName {
    TopicName(text(value))
}

pub fn encoded(message: &impl Encodable, version: i16) -> Vec<u8> {
    let mut buffer = BytesMut::new();
    message.encode(&mut buffer, version).unwrap();
    buffer.to_vec()
}

/// Decodes with nothing left over.
pub fn decode<R: Request>(version: i16, bytes: &[u8]) -> Result<R::Response, DecodeError> {
    let mut reader = Reader::new(bytes);
    let response = R::decode(version, &mut reader)?;
    reader.finish()?;
    Ok(response)
}

pub fn decode_produce(version: i16, bytes: &[u8]) -> Result<ProduceResponse, DecodeError> {
    let mut reader = Reader::new(bytes);
    let response = ProduceResponse::decode(version, &mut reader)?;
    reader.finish()?;
    Ok(response)
}

pub fn api_versions() -> messages::ApiVersionsResponse {
    use messages::api_versions_response::ApiVersion;
    let api = |key, min, max| ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max);
    messages::ApiVersionsResponse::default().with_error_code(0).with_api_keys(vec![
        api(0, 0, 13),
        api(3, 0, 13),
        api(18, 0, 4),
        api(61, 0, 0),
        api(999, 5, 6),
    ])
}

pub fn metadata() -> messages::MetadataResponse {
    use messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
    let ids = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
    messages::MetadataResponse::default()
        .with_throttle_time_ms(250)
        .with_brokers(vec![
            MetadataResponseBroker::default()
                .with_node_id(BrokerId(1))
                .with_host(text("kafka-1"))
                .with_port(9092)
                .with_rack(Some(text("r1"))),
            MetadataResponseBroker::default().with_node_id(BrokerId(2)).with_host(text("::1")).with_port(19092),
        ])
        .with_cluster_id(Some(text("cluster")))
        .with_controller_id(BrokerId(2))
        .with_topics(vec![
            MetadataResponseTopic::default()
                .with_error_code(0)
                .with_name(Some(topic("users")))
                .with_is_internal(true)
                .with_partitions(vec![
                    MetadataResponsePartition::default()
                        .with_partition_index(1)
                        .with_leader_id(BrokerId(2))
                        .with_leader_epoch(17)
                        .with_replica_nodes(ids(&[2, 1]))
                        .with_isr_nodes(ids(&[2]))
                        .with_offline_replicas(ids(&[1])),
                    MetadataResponsePartition::default()
                        .with_error_code(5)
                        .with_partition_index(0)
                        .with_leader_id(BrokerId(-1))
                        .with_leader_epoch(-1),
                ]),
            MetadataResponseTopic::default().with_error_code(3).with_name(Some(topic("nowhere"))),
        ])
}

pub fn init_producer_id() -> messages::InitProducerIdResponse {
    messages::InitProducerIdResponse::default()
        .with_throttle_time_ms(1)
        .with_error_code(14)
        .with_producer_id(ProducerId(1 << 40))
        .with_producer_epoch(3)
}

pub fn list_offsets() -> messages::ListOffsetsResponse {
    list_offsets_in(4)
}

/// The codec writes nothing that a version lacks: leader epochs began with 4.
pub fn list_offsets_in(version: i16) -> messages::ListOffsetsResponse {
    use messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
    let partition = |index, error, offset| {
        ListOffsetsPartitionResponse::default()
            .with_partition_index(index)
            .with_error_code(error)
            .with_timestamp(-1)
            .with_offset(offset)
            .with_leader_epoch(if version < 4 { -1 } else { 9 })
    };
    messages::ListOffsetsResponse::default().with_throttle_time_ms(2).with_topics(vec![
        ListOffsetsTopicResponse::default()
            .with_name(topic("a"))
            .with_partitions(vec![partition(0, 0, 1 << 33), partition(4, 74, -1)]),
        ListOffsetsTopicResponse::default().with_name(topic("b")).with_partitions(vec![partition(1, 0, 0)]),
    ])
}

pub fn fetch(records: Vec<u8>) -> messages::FetchResponse {
    fetch_in(10, records)
}

/// The codec writes nothing that a version lacks: sessions began with 7.
pub fn fetch_in(version: i16, records: Vec<u8>) -> messages::FetchResponse {
    use messages::fetch_response::{AbortedTransaction, FetchableTopicResponse, PartitionData};
    let session_id = if version < 7 { 0 } else { 77 };
    messages::FetchResponse::default()
        .with_throttle_time_ms(3)
        .with_error_code(0)
        .with_session_id(session_id)
        .with_responses(vec![FetchableTopicResponse::default().with_topic(topic("users")).with_partitions(vec![
            PartitionData::default()
                .with_partition_index(3)
                .with_high_watermark(100)
                .with_last_stable_offset(90)
                .with_log_start_offset(5)
                .with_aborted_transactions(Some(vec![
                    AbortedTransaction::default().with_producer_id(ProducerId(4)).with_first_offset(6),
                ]))
                .with_records(Some(Bytes::from(records))),
            PartitionData::default()
                .with_partition_index(4)
                .with_error_code(1)
                .with_high_watermark(-1)
                .with_last_stable_offset(-1)
                .with_log_start_offset(-1)
                .with_aborted_transactions(None)
                .with_records(None),
        ])])
}

pub fn describe_producers() -> messages::DescribeProducersResponse {
    use messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
    let unknown = Bytes::from_static(b"from a later version");
    messages::DescribeProducersResponse::default()
        .with_throttle_time_ms(4)
        .with_topics(vec![
            TopicResponse::default()
                .with_name(topic("users"))
                .with_partitions(vec![
                    PartitionResponse::default()
                        .with_partition_index(2)
                        .with_error_code(0)
                        .with_active_producers(vec![
                            ProducerState::default()
                                .with_producer_id(ProducerId(11))
                                .with_producer_epoch(12)
                                .with_last_sequence(i32::MAX)
                                .with_last_timestamp(1_700_000_000_000)
                                .with_coordinator_epoch(-1)
                                .with_current_txn_start_offset(-1)
                                .with_unknown_tagged_field(5, unknown.clone()),
                        ])
                        .with_unknown_tagged_field(6, unknown.clone()),
                    PartitionResponse::default()
                        .with_partition_index(9)
                        .with_error_code(6)
                        .with_error_message(Some(text("moved"))),
                ])
                .with_unknown_tagged_field(7, unknown.clone()),
        ])
        .with_unknown_tagged_field(8, unknown)
}

pub fn produce(version: i16) -> messages::ProduceResponse {
    use messages::produce_response::{BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse};
    let mut refused = PartitionProduceResponse::default()
        .with_index(0)
        .with_error_code(87)
        .with_base_offset(-1)
        .with_log_append_time_ms(-1)
        .with_log_start_offset(-1);
    if version >= 8 {
        refused = refused
            .with_record_errors(vec![
                BatchIndexAndErrorMessage::default()
                    .with_batch_index(1)
                    .with_batch_index_error_message(Some(text("no key"))),
                BatchIndexAndErrorMessage::default().with_batch_index(4),
            ])
            .with_error_message(Some(text("one or more records have been rejected")));
    }
    let stored = PartitionProduceResponse::default()
        .with_index(7)
        .with_base_offset(1 << 34)
        .with_log_append_time_ms(1_700_000_000_000)
        .with_log_start_offset(12);
    messages::ProduceResponse::default()
        .with_responses(vec![
            TopicProduceResponse::default().with_name(topic("b")).with_partition_responses(vec![refused]),
            TopicProduceResponse::default().with_name(topic("a")).with_partition_responses(vec![stored]),
        ])
        .with_throttle_time_ms(5)
}

pub fn sasl_handshake() -> messages::SaslHandshakeResponse {
    messages::SaslHandshakeResponse::default()
        .with_error_code(33)
        .with_mechanisms(vec![text("PLAIN"), text("SCRAM-SHA-256")])
}

pub fn sasl_authenticate(version: i16) -> messages::SaslAuthenticateResponse {
    messages::SaslAuthenticateResponse::default()
        .with_error_code(58)
        .with_error_message(Some(text("no such user")))
        .with_auth_bytes(Bytes::from_static(b"r=x,s=y"))
        .with_session_lifetime_ms(if version == 0 { 0 } else { 3_600_000 })
}
