//! Byte equality with `kafka-protocol`: requests we write, answers it writes, record batches in both directions.

use crate::batches;
use crate::samples::{self, decode, decode_produce, encoded, text, topic};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::fetch_request as fetch;
use kafka_protocol::messages::list_offsets_request as list;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{self, BrokerId, RequestHeader as TheirRequestHeader, ResponseHeader};
use kafka_protocol::protocol::HeaderVersion;
use kafka_protocol::records::{
    Compression as TheirCompression, Record as TheirRecord, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};
use outboxd_kafka::compression::{Compression, Compressor, Settings};
use outboxd_kafka::error::{Class, ErrorCode};
use outboxd_kafka::protocol::header::{decode_response_header, encode_request_header, is_flexible};
use outboxd_kafka::protocol::*;
use outboxd_kafka::record_batch::*;
use std::time::Duration;

fn body<R: Request>(request: &R, version: i16) -> Vec<u8> {
    let mut bytes = Vec::new();
    request.encode(version, &mut Writer::new(&mut bytes));
    bytes
}

#[test]
fn requests_are_byte_for_byte_what_the_codec_writes() {
    for version in 0..=3 {
        let ours = ApiVersionsRequest { client_software_name: "outboxd", client_software_version: "0.1.0" };
        let theirs = messages::ApiVersionsRequest::default();
        let theirs = if version < 3 {
            theirs
        } else {
            theirs.with_client_software_name(text("outboxd")).with_client_software_version(text("0.1.0"))
        };
        assert_eq!(body(&ours, version), encoded(&theirs, version), "version {version}");
    }

    for (ours, theirs) in
        [(None, None), (Some(&[][..]), Some(vec![])), (Some(&["users", "b"][..]), Some(vec!["users", "b"]))]
    {
        let theirs = messages::MetadataRequest::default().with_allow_auto_topic_creation(false).with_topics(
            theirs.map(|names| {
                names.into_iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic(name)))).collect()
            }),
        );
        for version in 5..=7 {
            let ours = MetadataRequest { topics: ours, allow_auto_topic_creation: false };
            assert_eq!(body(&ours, version), encoded(&theirs, version), "version {version}");
        }
    }
    assert_eq!(
        body(&MetadataRequest { topics: None, allow_auto_topic_creation: true }, 7),
        encoded(&messages::MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(true), 7)
    );

    assert_eq!(
        body(&InitProducerIdRequest, 1),
        encoded(
            &messages::InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(i32::MAX),
            1
        )
    );
}

#[test]
fn authentication_is_byte_for_byte_what_the_codec_writes_and_reads() {
    let theirs = messages::SaslHandshakeRequest::default().with_mechanism(text("SCRAM-SHA-512"));
    assert_eq!(body(&SaslHandshakeRequest { mechanism: "SCRAM-SHA-512" }, 1), encoded(&theirs, 1));
    let answer = decode::<SaslHandshakeRequest>(1, &encoded(&samples::sasl_handshake(), 1)).unwrap();
    assert_eq!(answer.error, ErrorCode::UNSUPPORTED_SASL_MECHANISM);
    assert_eq!(answer.mechanisms, ["PLAIN", "SCRAM-SHA-256"]);

    let long = vec![7; 300];
    for version in 0..=2 {
        for auth_bytes in [&b""[..], b"\0user\0password", &long] {
            let theirs =
                messages::SaslAuthenticateRequest::default().with_auth_bytes(Bytes::copy_from_slice(auth_bytes));
            assert_eq!(body(&SaslAuthenticateRequest { auth_bytes }, version), encoded(&theirs, version), "{version}");
        }
        let answer =
            decode::<SaslAuthenticateRequest>(version, &encoded(&samples::sasl_authenticate(version), version))
                .unwrap();
        assert_eq!(answer.error, ErrorCode::SASL_AUTHENTICATION_FAILED);
        assert_eq!(answer.error_message.as_deref(), Some("no such user"));
        assert_eq!(answer.auth_bytes, b"r=x,s=y");
        assert_eq!(answer.session_lifetime, (version > 0).then_some(Duration::from_secs(3_600)));
        let nothing = messages::SaslAuthenticateResponse::default();
        let answer = decode::<SaslAuthenticateRequest>(version, &encoded(&nothing, version)).unwrap();
        assert_eq!((answer.auth_bytes.len(), answer.session_lifetime), (0, None));
    }
    // What travels is in no text.
    let request = SaslAuthenticateRequest { auth_bytes: b"geheim" };
    assert_eq!(format!("{request:?}"), "SaslAuthenticateRequest(6 bytes)");
}

#[test]
fn a_topic_is_created_as_the_codec_would() {
    use kafka_protocol::messages::create_topics_request::CreatableTopic;
    use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
    for (version, replication) in [(2, 1), (3, 1), (4, -1)] {
        let wanted = CreatableTopic::default()
            .with_name(topic("users"))
            .with_num_partitions(3)
            .with_replication_factor(replication);
        let theirs = messages::CreateTopicsRequest::default()
            .with_topics(vec![wanted])
            .with_timeout_ms(5_000)
            .with_validate_only(false);
        let ours = CreateTopicsRequest { topic: "users", partitions: 3, timeout_ms: 5_000 };
        assert_eq!(body(&ours, version), encoded(&theirs, version), "version {version}");

        let made = CreatableTopicResult::default()
            .with_name(topic("users"))
            .with_error_code(36)
            .with_error_message(Some(text("it is there")));
        let answer = messages::CreateTopicsResponse::default().with_throttle_time_ms(7).with_topics(vec![made]);
        assert_eq!(
            decode::<CreateTopicsRequest<'_>>(version, &encoded(&answer, version)).unwrap(),
            CreateTopicsResponse {
                throttle_time: Duration::from_millis(7),
                topics: vec![CreatedTopic {
                    topic: "users".to_owned(),
                    error: ErrorCode(36),
                    message: Some("it is there".to_owned())
                }],
            }
        );
    }
}

#[test]
fn flat_lists_are_grouped_by_topic() {
    let place = |topic, partition| ListOffsetsPartition {
        topic,
        partition,
        current_leader_epoch: partition + 5,
        timestamp: ListOffsetsPartition::END,
    };
    let theirs = |index| {
        list::ListOffsetsPartition::default()
            .with_partition_index(index)
            .with_current_leader_epoch(index + 5)
            .with_timestamp(-1)
    };
    for (reach, replica_id) in [(Reach::HighWatermark, -1), (Reach::LogEnd, -2)] {
        let ours = ListOffsetsRequest { reach, partitions: &[place("b", 1), place("a", 2), place("b", 0)] };
        let topics = vec![
            list::ListOffsetsTopic::default().with_name(topic("a")).with_partitions(vec![theirs(2)]),
            list::ListOffsetsTopic::default().with_name(topic("b")).with_partitions(vec![theirs(0), theirs(1)]),
        ];
        let theirs = messages::ListOffsetsRequest::default()
            .with_replica_id(BrokerId(replica_id))
            .with_isolation_level(0)
            .with_topics(topics);
        for version in 1..=4 {
            assert_eq!(body(&ours, version), encoded(&theirs, version), "version {version}");
        }
    }

    let ours = FetchRequest {
        max_wait_ms: 500,
        min_bytes: 1,
        max_bytes: 1 << 20,
        partitions: &[
            FetchPartition {
                topic: "z",
                partition: 3,
                current_leader_epoch: 8,
                fetch_offset: 1 << 35,
                max_bytes: 4096,
            },
            FetchPartition { topic: "a", partition: 0, current_leader_epoch: -1, fetch_offset: 0, max_bytes: 1 },
        ],
    };
    let partition = |index, epoch, offset, max_bytes| {
        fetch::FetchPartition::default()
            .with_partition(index)
            .with_current_leader_epoch(epoch)
            .with_fetch_offset(offset)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(max_bytes)
    };
    let theirs = messages::FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(500)
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_isolation_level(0)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![
            fetch::FetchTopic::default().with_topic(topic("a")).with_partitions(vec![partition(0, -1, 0, 1)]),
            fetch::FetchTopic::default().with_topic(topic("z")).with_partitions(vec![partition(3, 8, 1 << 35, 4096)]),
        ]);
    for version in 4..=10 {
        assert_eq!(body(&ours, version), encoded(&theirs, version), "version {version}");
    }

    assert_eq!(
        body(&DescribeProducersRequest { partitions: &[("users", 4), ("a", 0), ("users", 2)] }, 0),
        encoded(
            &messages::DescribeProducersRequest::default().with_topics(vec![
                TopicRequest::default().with_name(topic("a")).with_partition_indexes(vec![0]),
                TopicRequest::default().with_name(topic("users")).with_partition_indexes(vec![2, 4]),
            ]),
            0
        )
    );
}

#[test]
fn headers_are_those_of_each_apis_version() {
    fn check<T: HeaderVersion, A: HeaderVersion>(api: ApiKey, version: i16) {
        for client_id in [None, Some("outboxd")] {
            let mut ours = Vec::new();
            encode_request_header(&mut Writer::new(&mut ours), api, version, 0x0102_0304, client_id);
            let theirs = TheirRequestHeader::default()
                .with_request_api_key(api as i16)
                .with_request_api_version(version)
                .with_correlation_id(0x0102_0304)
                .with_client_id(client_id.map(text));
            assert_eq!(ours, encoded(&theirs, T::header_version(version)), "{api} {version}");
        }
        let bytes = encoded(&ResponseHeader::default().with_correlation_id(99), A::header_version(version));
        let mut reader = Reader::new(&bytes);
        assert_eq!(decode_response_header(&mut reader, api, version), Ok(99), "{api} {version}");
        assert_eq!(reader.finish(), Ok(()), "{api} {version}");
    }
    for line in SPOKEN {
        for version in line.versions.min..=line.versions.max {
            match line.api {
                ApiKey::Produce => check::<messages::ProduceRequest, messages::ProduceResponse>(line.api, version),
                ApiKey::Fetch => check::<messages::FetchRequest, messages::FetchResponse>(line.api, version),
                ApiKey::ListOffsets => {
                    check::<messages::ListOffsetsRequest, messages::ListOffsetsResponse>(line.api, version);
                }
                ApiKey::Metadata => check::<messages::MetadataRequest, messages::MetadataResponse>(line.api, version),
                ApiKey::ApiVersions => {
                    check::<messages::ApiVersionsRequest, messages::ApiVersionsResponse>(line.api, version);
                }
                ApiKey::InitProducerId => {
                    check::<messages::InitProducerIdRequest, messages::InitProducerIdResponse>(line.api, version);
                }
                ApiKey::CreateTopics => {
                    check::<messages::CreateTopicsRequest, messages::CreateTopicsResponse>(line.api, version);
                }
                ApiKey::SaslHandshake => {
                    check::<messages::SaslHandshakeRequest, messages::SaslHandshakeResponse>(line.api, version);
                }
                ApiKey::SaslAuthenticate => {
                    check::<messages::SaslAuthenticateRequest, messages::SaslAuthenticateResponse>(line.api, version);
                }
                ApiKey::DescribeProducers => {
                    check::<messages::DescribeProducersRequest, messages::DescribeProducersResponse>(line.api, version);
                }
            }
        }
    }
    assert!(is_flexible(ApiKey::DescribeProducers, 0) && !is_flexible(ApiKey::Produce, 8));
}

#[test]
fn answers_of_the_codec_are_read() {
    let newest = decode::<ApiVersionsRequest>(3, &encoded(&samples::api_versions(), 3)).unwrap();
    for version in 0..=2 {
        let older = decode::<ApiVersionsRequest>(version, &encoded(&samples::api_versions(), version)).unwrap();
        assert_eq!(older, newest, "version {version}");
        // Whatever was asked in, this one is answered in version 0.
        let unknown = samples::api_versions().with_error_code(35);
        let read = decode::<ApiVersionsRequest>(version + 1, &encoded(&unknown, 0)).unwrap();
        assert_eq!((read.error, &read.apis), (ErrorCode::UNSUPPORTED_VERSION, &newest.apis));
    }
    let api_versions = newest;
    assert!(api_versions.error.is_ok());
    assert_eq!(api_versions.versions(ApiKey::Produce), Some(VersionRange { min: 0, max: 13 }));
    assert_eq!(api_versions.versions(ApiKey::DescribeProducers), Some(VersionRange { min: 0, max: 0 }));
    assert_eq!(api_versions.versions(ApiKey::Fetch), None);

    let metadata = decode::<MetadataRequest>(7, &encoded(&samples::metadata(), 7)).unwrap();
    assert_eq!(
        metadata,
        MetadataResponse {
            throttle_time: Duration::from_millis(250),
            brokers: vec![
                MetadataBroker { node_id: 1, host: "kafka-1".into(), port: 9092, rack: Some("r1".into()) },
                MetadataBroker { node_id: 2, host: "::1".into(), port: 19092, rack: None },
            ],
            cluster_id: Some("cluster".into()),
            controller_id: 2,
            topics: vec![
                MetadataTopic {
                    error: ErrorCode::NONE,
                    name: "users".into(),
                    is_internal: true,
                    partitions: vec![
                        MetadataPartition {
                            error: ErrorCode::NONE,
                            partition: 1,
                            leader: 2,
                            leader_epoch: 17,
                            replicas: vec![2, 1],
                            in_sync_replicas: vec![2],
                            offline_replicas: vec![1],
                        },
                        MetadataPartition {
                            error: ErrorCode::LEADER_NOT_AVAILABLE,
                            partition: 0,
                            leader: -1,
                            leader_epoch: -1,
                            replicas: vec![],
                            in_sync_replicas: vec![],
                            offline_replicas: vec![],
                        },
                    ],
                },
                MetadataTopic {
                    error: ErrorCode::UNKNOWN_TOPIC_OR_PARTITION,
                    name: "nowhere".into(),
                    is_internal: false,
                    partitions: vec![],
                },
            ],
        }
    );

    assert_eq!(
        decode::<InitProducerIdRequest>(1, &encoded(&samples::init_producer_id(), 1)).unwrap(),
        InitProducerIdResponse {
            throttle_time: Duration::from_millis(1),
            error: ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
            producer_id: 1 << 40,
            producer_epoch: 3,
        }
    );

    let listed = |topic: &str, partition, error, offset| ListedOffset {
        topic: topic.into(),
        partition,
        error: ErrorCode(error),
        timestamp: -1,
        offset,
        leader_epoch: 9,
    };
    assert_eq!(
        decode::<ListOffsetsRequest>(4, &encoded(&samples::list_offsets(), 4)).unwrap(),
        ListOffsetsResponse {
            throttle_time: Duration::from_millis(2),
            partitions: vec![listed("a", 0, 0, 1 << 33), listed("a", 4, 74, -1), listed("b", 1, 0, 0)],
        }
    );

    assert_eq!(
        decode::<FetchRequest>(10, &encoded(&samples::fetch(vec![1, 2, 3]), 10)).unwrap(),
        FetchResponse {
            throttle_time: Duration::from_millis(3),
            error: ErrorCode::NONE,
            partitions: vec![
                FetchedPartition {
                    topic: "users".into(),
                    partition: 3,
                    error: ErrorCode::NONE,
                    high_watermark: 100,
                    last_stable_offset: 90,
                    log_start_offset: 5,
                    records: vec![1, 2, 3],
                },
                FetchedPartition {
                    topic: "users".into(),
                    partition: 4,
                    error: ErrorCode::OFFSET_OUT_OF_RANGE,
                    high_watermark: -1,
                    last_stable_offset: -1,
                    log_start_offset: -1,
                    records: vec![],
                },
            ],
        }
    );

    assert_eq!(
        decode::<DescribeProducersRequest>(0, &encoded(&samples::describe_producers(), 0)).unwrap(),
        DescribeProducersResponse {
            throttle_time: Duration::from_millis(4),
            partitions: vec![
                DescribedPartition {
                    topic: "users".into(),
                    partition: 2,
                    error: ErrorCode::NONE,
                    error_message: None,
                    active_producers: vec![ActiveProducer {
                        producer_id: 11,
                        producer_epoch: 12,
                        last_sequence: i32::MAX,
                        last_timestamp: 1_700_000_000_000,
                        coordinator_epoch: -1,
                        current_txn_start_offset: -1,
                    }],
                },
                DescribedPartition {
                    topic: "users".into(),
                    partition: 9,
                    error: ErrorCode::NOT_LEADER_OR_FOLLOWER,
                    error_message: Some("moved".into()),
                    active_producers: vec![],
                },
            ],
        }
    );
}

/// What an older version lacks is what "not known" looks like; the rest is as in the newest.
#[test]
fn older_answers_of_the_codec_are_read() {
    let newest = decode::<MetadataRequest>(7, &encoded(&samples::metadata(), 7)).unwrap();
    for version in [5, 6] {
        let mut expected = newest.clone();
        expected.topics.iter_mut().flat_map(|topic| &mut topic.partitions).for_each(|it| it.leader_epoch = -1);
        let read = decode::<MetadataRequest>(version, &encoded(&samples::metadata(), version)).unwrap();
        assert_eq!(read, expected, "version {version}");
    }

    let newest = decode::<ListOffsetsRequest>(4, &encoded(&samples::list_offsets(), 4)).unwrap();
    for version in 1..=3 {
        let mut expected = newest.clone();
        expected.partitions.iter_mut().for_each(|it| it.leader_epoch = -1);
        if version < 2 {
            expected.throttle_time = Duration::ZERO;
        }
        let read =
            decode::<ListOffsetsRequest>(version, &encoded(&samples::list_offsets_in(version), version)).unwrap();
        assert_eq!(read, expected, "version {version}");
    }

    let answer = |version| encoded(&samples::fetch_in(version, vec![1, 2, 3]), version);
    let newest = decode::<FetchRequest>(10, &answer(10)).unwrap();
    for version in 4..=9 {
        let mut expected = newest.clone();
        if version < 5 {
            expected.partitions.iter_mut().for_each(|it| it.log_start_offset = -1);
        }
        let read = decode::<FetchRequest>(version, &answer(version)).unwrap();
        assert_eq!(read, expected, "version {version}");
        let whole = messages::FetchResponse::default().with_error_code(if version < 7 { 0 } else { 70 });
        let error = decode::<FetchRequest>(version, &encoded(&whole, version)).unwrap().error;
        assert_eq!(error, ErrorCode(whole.error_code), "version {version}");
    }
}

/// The least that an element can take is what its count is checked against: a byte too much there, and honest answers made of the
/// smallest elements are refused.
#[test]
fn arrays_of_the_smallest_elements_are_read() {
    use messages::{
        api_versions_response as api_versions, describe_producers_response as describe, fetch_response as fetch,
        list_offsets_response as list, metadata_response as metadata, produce_response as produce,
    };
    fn many<T: Clone + Default>() -> Vec<T> {
        vec![T::default(); 100]
    }

    let answer = messages::ApiVersionsResponse::default().with_api_keys(many::<api_versions::ApiVersion>());
    for version in 0..=3 {
        let read = decode::<ApiVersionsRequest>(version, &encoded(&answer, version)).unwrap();
        assert_eq!(read.apis.len(), 100, "version {version}");
    }

    let answer = messages::MetadataResponse::default().with_brokers(many::<metadata::MetadataResponseBroker>());
    assert_eq!(decode::<MetadataRequest>(7, &encoded(&answer, 7)).unwrap().brokers.len(), 100);
    let named = metadata::MetadataResponseTopic::default().with_name(Some(topic("")));
    let answer = messages::MetadataResponse::default().with_topics(vec![named.clone(); 100]);
    assert_eq!(decode::<MetadataRequest>(7, &encoded(&answer, 7)).unwrap().topics.len(), 100);
    let one = named.clone().with_partitions(many::<metadata::MetadataResponsePartition>());
    let answer = messages::MetadataResponse::default().with_topics(vec![one]);
    for version in 5..=7 {
        let read = decode::<MetadataRequest>(version, &encoded(&answer, version)).unwrap();
        assert_eq!(read.topics[0].partitions.len(), 100, "version {version}");
    }
    let ids = || vec![BrokerId(1); 100];
    let partition = metadata::MetadataResponsePartition::default;
    for ids_alone in [
        partition().with_replica_nodes(ids()),
        partition().with_isr_nodes(ids()),
        partition().with_offline_replicas(ids()),
    ] {
        let answer =
            messages::MetadataResponse::default().with_topics(vec![named.clone().with_partitions(vec![ids_alone])]);
        decode::<MetadataRequest>(7, &encoded(&answer, 7)).unwrap();
    }

    let answer = messages::ListOffsetsResponse::default().with_topics(many::<list::ListOffsetsTopicResponse>());
    assert_eq!(decode::<ListOffsetsRequest>(4, &encoded(&answer, 4)).unwrap().partitions, []);
    let one = list::ListOffsetsTopicResponse::default().with_partitions(many::<list::ListOffsetsPartitionResponse>());
    let answer = messages::ListOffsetsResponse::default().with_topics(vec![one]);
    for version in 1..=4 {
        let read = decode::<ListOffsetsRequest>(version, &encoded(&answer, version)).unwrap();
        assert_eq!(read.partitions.len(), 100, "version {version}");
    }

    let answer = messages::FetchResponse::default().with_responses(many::<fetch::FetchableTopicResponse>());
    assert_eq!(decode::<FetchRequest>(10, &encoded(&answer, 10)).unwrap().partitions, []);
    let smallest = fetch::PartitionData::default().with_aborted_transactions(None).with_records(None);
    let one = fetch::FetchableTopicResponse::default().with_partitions(vec![smallest.clone(); 100]);
    let answer = messages::FetchResponse::default().with_responses(vec![one]);
    for version in 4..=10 {
        let read = decode::<FetchRequest>(version, &encoded(&answer, version)).unwrap();
        assert_eq!(read.partitions.len(), 100, "version {version}");
    }
    let aborting = smallest.with_aborted_transactions(Some(many::<fetch::AbortedTransaction>()));
    let one = fetch::FetchableTopicResponse::default().with_partitions(vec![aborting]);
    let answer = messages::FetchResponse::default().with_responses(vec![one]);
    assert_eq!(decode::<FetchRequest>(10, &encoded(&answer, 10)).unwrap().partitions.len(), 1);

    let answer = messages::DescribeProducersResponse::default().with_topics(many::<describe::TopicResponse>());
    assert_eq!(decode::<DescribeProducersRequest>(0, &encoded(&answer, 0)).unwrap().partitions, []);
    let one = describe::TopicResponse::default().with_partitions(many::<describe::PartitionResponse>());
    let answer = messages::DescribeProducersResponse::default().with_topics(vec![one]);
    assert_eq!(decode::<DescribeProducersRequest>(0, &encoded(&answer, 0)).unwrap().partitions.len(), 100);
    let busy = describe::PartitionResponse::default().with_active_producers(many::<describe::ProducerState>());
    let one = describe::TopicResponse::default().with_partitions(vec![busy]);
    let answer = messages::DescribeProducersResponse::default().with_topics(vec![one]);
    let read = decode::<DescribeProducersRequest>(0, &encoded(&answer, 0)).unwrap();
    assert_eq!(read.partitions[0].active_producers.len(), 100);

    for version in [7, 8] {
        let answer = messages::ProduceResponse::default().with_responses(many::<produce::TopicProduceResponse>());
        assert_eq!(decode_produce(version, &encoded(&answer, version)).unwrap().partitions, []);
        let one = produce::TopicProduceResponse::default()
            .with_partition_responses(many::<produce::PartitionProduceResponse>());
        let answer = messages::ProduceResponse::default().with_responses(vec![one]);
        assert_eq!(decode_produce(version, &encoded(&answer, version)).unwrap().partitions.len(), 100);
    }
    let refused =
        produce::PartitionProduceResponse::default().with_record_errors(many::<produce::BatchIndexAndErrorMessage>());
    let one = produce::TopicProduceResponse::default().with_partition_responses(vec![refused]);
    let answer = messages::ProduceResponse::default().with_responses(vec![one]);
    assert_eq!(decode_produce(8, &encoded(&answer, 8)).unwrap().partitions[0].record_errors.len(), 100);
}

#[test]
fn produce_answers_are_read_in_both_versions() {
    for version in [7, 8] {
        let answer = decode_produce(version, &encoded(&samples::produce(version), version)).unwrap();
        assert_eq!(answer.throttle_time, Duration::from_millis(5));
        assert_eq!(answer.partitions.len(), 2);
        let stored = answer.partition("a", 7).unwrap();
        assert_eq!((stored.error, stored.class()), (ErrorCode::NONE, Class::Stored));
        assert_eq!(
            (stored.base_offset, stored.log_append_time_ms, stored.log_start_offset),
            (1 << 34, 1_700_000_000_000, 12)
        );
        let refused = answer.partition("b", 0).unwrap();
        // Produce 7 can't name records, so its 87 has to be found by splitting.
        assert_eq!((refused.error, refused.class()), (ErrorCode::INVALID_RECORD, Class::Record));
        assert_eq!(refused.can_name_records, version == 8);
        if version == 8 {
            assert_eq!(refused.record_errors, [(1, Some("no key".to_owned())), (4, None)]);
            assert_eq!(refused.error_message.as_deref(), Some("one or more records have been rejected"));
            let nameless = ProducedPartition { record_errors: vec![], ..refused.clone() };
            assert_eq!(nameless.class(), Class::Refused);
        }
        assert!(answer.partition("a", 0).is_none() && answer.partition("b", 7).is_none());
    }
}

/// Records of every shape, as (key, value, headers).
type Shape<'a> = (Option<&'a [u8]>, Option<&'a [u8]>, Vec<(&'a str, Option<&'a [u8]>)>);

fn shapes(long: &[u8]) -> Vec<Shape<'_>> {
    vec![
        (None, None, vec![]),
        (Some(b""), Some(b""), vec![]),
        (Some(b"key"), Some(b"value"), vec![("event_id", Some(b"17")), ("empty", Some(b"")), ("null", None)]),
        (None, Some(&long[..64]), vec![("a", Some(&long[..63]))]),
        (Some(&long[..63]), Some(&long[..8191]), vec![]),
        (Some(&long[..64]), Some(&long[..8192]), vec![("", Some(b"x"))]),
        (Some(b"k"), Some(long), vec![("trace", Some(&long[..300]))]),
    ]
}

fn their_records(
    shapes: &[Shape<'_>],
    producer_id: i64,
    epoch: i16,
    base_sequence: i32,
    timestamp: i64,
) -> Vec<TheirRecord> {
    shapes
        .iter()
        .enumerate()
        .map(|(place, (key, value, headers))| TheirRecord {
            transactional: false,
            control: false,
            delete_horizon: false,
            partition_leader_epoch: -1,
            producer_id,
            producer_epoch: epoch,
            timestamp_type: TimestampType::Creation,
            offset: place as i64,
            sequence: base_sequence.wrapping_add(place as i32),
            timestamp,
            key: key.map(Bytes::copy_from_slice),
            value: value.map(Bytes::copy_from_slice),
            headers: headers.iter().map(|(key, value)| (text(key), value.map(Bytes::copy_from_slice))).collect(),
        })
        .collect()
}

fn our_records(shapes: &[Shape<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (place, (key, value, headers)) in shapes.iter().enumerate() {
        let headers: Vec<_> =
            headers.iter().map(|(key, value)| RecordHeader { key: key.as_bytes(), value: *value }).collect();
        let layout = append_record(&mut out, place as u32, *key, *value, &headers);
        assert_eq!(layout.range().end, out.len());
        for (index, header) in headers.iter().enumerate() {
            let found = layout.header_value(&headers, index).map(|range| &out[range]);
            assert_eq!(found, header.value);
        }
        assert_eq!(layout.header_value(&headers, headers.len()), None);
    }
    out
}

fn their_batch(records: &[TheirRecord]) -> Bytes {
    their_compressed_batch(records, TheirCompression::None)
}

fn their_compressed_batch(records: &[TheirRecord], compression: TheirCompression) -> Bytes {
    let mut buffer = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression };
    RecordBatchEncoder::encode(&mut buffer, records.iter(), &options).unwrap();
    buffer.freeze()
}

#[test]
fn produce_requests_are_byte_for_byte_what_the_codec_writes_records_included() {
    use messages::produce_request::{PartitionProduceData, TopicProduceData};
    let long = vec![b'x'; 100_000];
    let shapes = shapes(&long);
    let records = our_records(&shapes);
    let one = our_records(&shapes[2..3]);
    let batch = |topic, partition, base_sequence, record_count, records| PartitionBatch {
        producer_id: 0x0102_0304_0506_0708,
        producer_epoch: 9,
        base_sequence,
        timestamp_ms: 1_700_000_000_123,
        ..batches::batch(topic, partition, record_count, records)
    };
    let request = ProduceRequest {
        acks: -1,
        timeout_ms: 1_500,
        batches: &[
            batch("users", 5, 1000, shapes.len() as i32, &records),
            batch("audit", 0, 0, 1, &one),
            batch("users", 1, i32::MAX, 1, &one),
        ],
    };
    let theirs = |shapes: &[Shape<'_>], sequence| {
        Some(their_batch(&their_records(shapes, 0x0102_0304_0506_0708, 9, sequence, 1_700_000_000_123)))
    };
    let data = |index, records| PartitionProduceData::default().with_index(index).with_records(records);
    let expected = messages::ProduceRequest::default().with_acks(-1).with_timeout_ms(1_500).with_topic_data(vec![
        TopicProduceData::default()
            .with_name(topic("audit"))
            .with_partition_data(vec![data(0, theirs(&shapes[2..3], 0))]),
        TopicProduceData::default()
            .with_name(topic("users"))
            .with_partition_data(vec![data(1, theirs(&shapes[2..3], i32::MAX)), data(5, theirs(&shapes, 1000))]),
    ]);
    for version in [7, 8] {
        assert!(request.encode() == encoded(&expected, version), "version {version}");
    }
}

#[test]
fn the_codec_reads_our_batches_and_we_read_its() {
    let long = vec![b'y'; 20_000];
    let shapes = shapes(&long);
    let records = our_records(&shapes);
    let fields = BatchFields {
        producer_id: 42,
        producer_epoch: 3,
        base_sequence: 77,
        timestamp_ms: 1_700_000_000_000,
        record_count: shapes.len() as i32,
        compression: Compression::None,
    };
    let mut ours = encode_header(&fields, &records).to_vec();
    ours.extend_from_slice(&records);

    let decoded = RecordBatchDecoder::decode(&mut Bytes::from(ours.clone())).unwrap().records;
    assert_eq!(decoded, their_records(&shapes, 42, 3, 77, 1_700_000_000_000));

    let theirs = their_batch(&decoded);
    let pieces: Vec<_> = BatchReader::new(&theirs).collect::<Result<_, _>>().unwrap();
    let [Piece::Batch(batch)] = pieces.as_slice() else { panic!("{pieces:?}") };
    assert!(batch.checksum_matches());
    assert_eq!((batch.header.producer_id, batch.header.producer_epoch, batch.header.base_sequence), (42, 3, 77));
    assert_eq!(batch.header.last_offset_delta, shapes.len() as i32 - 1);
    assert_eq!(batch.header.last_sequence(), 77 + shapes.len() as i32 - 1);
    assert_eq!(batch.header.next_offset(), shapes.len() as i64);
    assert!(!batch.header.is_control());
    let read: Vec<_> = batch.records().unwrap().collect::<Result<_, _>>().unwrap();
    assert_eq!(read.len(), shapes.len());
    for (place, (record, (key, value, headers))) in read.iter().zip(&shapes).enumerate() {
        assert_eq!((record.offset, record.timestamp_ms), (place as i64, 1_700_000_000_000));
        assert_eq!((record.key, record.value), (*key, *value));
        let headers: Vec<_> =
            headers.iter().map(|(key, value)| RecordHeader { key: key.as_bytes(), value: *value }).collect();
        assert_eq!(record.headers, headers);
    }
}

const CODECS: [(Compression, TheirCompression); 4] = [
    (Compression::Gzip, TheirCompression::Gzip),
    (Compression::Snappy, TheirCompression::Snappy),
    (Compression::Lz4, TheirCompression::Lz4),
    (Compression::Zstd, TheirCompression::Zstd),
];

/// Random batches: the codec's lz4 is the C library, its frames of snappy and its ways of calling the others are its own.
#[test]
fn the_codec_opens_what_we_compress_and_we_open_what_it_compresses() {
    let seed =
        std::env::var("OUTBOXD_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("OUTBOXD_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut compressors =
        CODECS.map(|(compression, _)| Compressor::new(Settings { compression, ..Settings::default() }));
    let mut compressed_batches = 0;
    for _ in 0..60 {
        // Up to several blocks of every codec; some of it noise.
        let values: Vec<Vec<u8>> = (0..random.usize(1..40))
            .map(|_| {
                let most = [20, 500, 40_000][random.usize(..3)];
                let length = random.usize(0..most);
                let letters = [1, 3, 26, 256][random.usize(..4)];
                (0..length).map(|_| random.u16(..letters) as u8).collect()
            })
            .collect();
        let shapes: Vec<Shape<'_>> = values
            .iter()
            .map(|value| {
                let value = (!value.is_empty()).then_some(value.as_slice());
                (Some(&b"key"[..]).filter(|_| random.bool()), value, vec![("id", Some(&b"1"[..])), ("null", None)])
            })
            .collect();
        let records = our_records(&shapes);
        for ((ours, theirs), compressor) in CODECS.into_iter().zip(&mut compressors) {
            let wanted = their_records(&shapes, 42, 3, 77, 1_700_000_000_000);
            let compressed = compressor.compress(&records);
            compressed_batches += usize::from(compressed.is_some());
            let (compression, section) =
                compressed.as_deref().map_or((Compression::None, &*records), |section| (ours, section));
            let fields = BatchFields {
                producer_id: 42,
                producer_epoch: 3,
                base_sequence: 77,
                timestamp_ms: 1_700_000_000_000,
                record_count: shapes.len() as i32,
                compression,
            };
            let batch = [&encode_header(&fields, section)[..], section].concat();
            let decoded = RecordBatchDecoder::decode(&mut Bytes::from(batch)).unwrap().records;
            assert_eq!(decoded, wanted, "{ours}");

            let theirs = their_compressed_batch(&wanted, theirs);
            let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&theirs).next() else { panic!("{ours}") };
            assert_eq!(batch.header.compression(), Ok(ours));
            let mut opened = Vec::new();
            let read: Vec<_> = batch.decompress(64 << 20, &mut opened).unwrap().collect::<Result<_, _>>().unwrap();
            let pairs: Vec<_> = read.iter().map(|record| (record.key, record.value)).collect();
            assert_eq!(pairs, shapes.iter().map(|(key, value, _)| (*key, *value)).collect::<Vec<_>>(), "{ours}");
        }
    }
    assert!(compressed_batches > 100, "{compressed_batches} batches became smaller");
}
