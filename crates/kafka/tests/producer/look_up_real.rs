//! What became of a batch, asked of a real Apache Kafka: its memory, its log after a restart, retention, compaction, a topic created
//! anew, followers that lag.

use super::look_up::{but, incomplete, noted};
use super::rig::{PATIENCE, Rig, class, wait_until};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::{
    ApiKey, DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest, DeleteTopicsResponse, RequestHeader,
    TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use outboxd_kafka::outcome::{Evidence, Manner, Sought};
use outboxd_kafka::producer::KafkaOptions;
use real_kafka::Broker;
use std::io::{Read, Write};
use std::net::TcpStream;

mod real_kafka_4_3_0 {
    #[test]
    fn look_up_memory_log_and_a_topic_created_anew() {
        super::memory_log_and_a_topic_created_anew("4.3.0");
    }

    #[test]
    fn look_up_a_compacted_topic() {
        super::a_compacted_topic("4.3.0");
    }

    #[test]
    fn look_up_while_followers_lag() {
        super::while_followers_lag("4.3.0");
    }
}

mod real_kafka_3_9_1 {
    #[test]
    fn look_up_memory_log_and_a_topic_created_anew() {
        super::memory_log_and_a_topic_created_anew("3.9.1");
    }

    #[test]
    fn look_up_a_compacted_topic() {
        super::a_compacted_topic("3.9.1");
    }
}

fn rig(kafka: &Broker) -> Rig {
    let servers = kafka.bootstrap.split(',').map(str::to_owned).collect();
    Rig::with(KafkaOptions { bootstrap_servers: servers, request_timeout_ms: 2_000, ..KafkaOptions::default() })
}

/// One request of an API that the daemon has no use for.
fn ask<Q: Encodable, A: Decodable>(kafka: &Broker, api: ApiKey, version: i16, request: &Q) -> A {
    let mut frame = BytesMut::new();
    let header = RequestHeader::default().with_request_api_key(api as i16).with_request_api_version(version);
    header.encode(&mut frame, 1).unwrap();
    request.encode(&mut frame, version).unwrap();
    let mut out = BytesMut::new();
    out.put_i32(frame.len() as i32);
    out.put_slice(&frame);
    let mut stream = TcpStream::connect(("127.0.0.1", kafka.port(1))).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&out).unwrap();
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(length) as usize];
    stream.read_exact(&mut answer).unwrap();
    let mut answer = Bytes::from(answer);
    let _correlation_id = answer.get_i32();
    A::decode(&mut answer, version).unwrap()
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

fn delete_topic(kafka: &Broker, name: &str) {
    let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(10_000);
    let answer: DeleteTopicsResponse = ask(kafka, ApiKey::DeleteTopics, 1, &request);
    assert_eq!(answer.responses[0].error_code, 0, "{answer:?}");
}

fn delete_records(kafka: &Broker, name: &str, before: i64) {
    let partition = DeleteRecordsPartition::default().with_partition_index(0).with_offset(before);
    let topic = DeleteRecordsTopic::default().with_name(topic_name(name)).with_partitions(vec![partition]);
    let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let answer: DeleteRecordsResponse = ask(kafka, ApiKey::DeleteRecords, 1, &request);
    assert_eq!(answer.topics[0].partitions[0].low_watermark, before, "{answer:?}");
}

fn memory_log_and_a_topic_created_anew(version: &str) {
    let Some(kafka) = real_kafka::own(version, 1, &[]) else { return };
    let topic = "looked-up";
    kafka.create_topic(topic, 1, &[]);
    let mut rig = rig(&kafka);
    rig.open(topic);
    let first = rig.batch(topic, 0, &["a", "b"]);
    let second = rig.batch(topic, 0, &["c", "d", "e"]);
    let third = rig.batch(topic, 0, &["never sent"]);
    let fourth = rig.batch(topic, 0, &["nor this"]);
    assert_eq!((rig.until_stored(&first), rig.until_stored(&second)), (0, 2));

    for restarted in [false, true] {
        assert_eq!(rig.look_up(&second, Sought::Resend), Evidence::Remembered, "restarted: {restarted}");
        assert_eq!(rig.look_up(&third, Sought::Resend), Evidence::Remembered);
        // Not as its last batch nor as its next: the log has the one and lacks the other.
        assert_eq!(rig.look_up(&first, Sought::Resend), Evidence::StoredAt(0));
        assert_eq!(rig.look_up(&fourth, Sought::Resend), Evidence::Absent);
        assert_eq!(rig.look_up(&second, Sought::Stored), Evidence::StoredAt(2));
        assert_eq!(rig.look_up(&third, Sought::Stored), Evidence::Absent);
        assert_eq!(rig.look_up(&noted(&third, 5), Sought::Stored), Evidence::Absent);
        // The same triple sent again is answered with the offset it was found at.
        assert_eq!(rig.until_stored(&second), 2);
        if !restarted {
            kafka.kill(1);
            rig.handle.look_up(second.clone(), Sought::Stored);
            wait_until("its absence is told", || rig.no_evidence(&second).text.contains("refused"));
            kafka.restart(1);
            assert_eq!(rig.evidence(&second), Evidence::StoredAt(2));
        }
    }
    let why = incomplete(rig.look_up(&noted(&third, 6), Sought::Stored));
    assert!(why.text.contains("ends at offset 5"), "{why}");

    // Sequences wrap inside a batch.
    let wrapping = but(&rig.batch(topic, 0, &["1", "2", "3"]), |batch| {
        batch.producer_id += 1_000_000;
        batch.base_sequence = i32::MAX - 1;
    });
    assert_eq!(rig.until_stored(&wrapping), 5);
    assert_eq!(rig.look_up(&wrapping, Sought::Resend), Evidence::Remembered);
    assert_eq!(rig.look_up(&wrapping, Sought::Stored), Evidence::StoredAt(5));

    // Retention.
    delete_records(&kafka, topic, 2);
    let why = incomplete(rig.look_up(&first, Sought::Stored));
    assert!(why.text.contains("starts at offset 2"), "{why}");
    assert_eq!(rig.look_up(&first, Sought::Resend), Evidence::Incomplete(why));
    assert_eq!(rig.look_up(&second, Sought::Stored), Evidence::StoredAt(2));
    delete_records(&kafka, topic, 8);
    assert!(matches!(rig.look_up(&wrapping, Sought::Stored), Evidence::Incomplete(_)));

    // Deleted, and created anew. On 4.x the restart has raised the leader epoch, and the new topic begins at 0.
    let leader_epoch = rig.open(topic)[0].leader_epoch;
    let old = but(&noted(&second, 2), |batch| batch.leader_epoch = leader_epoch);
    delete_topic(&kafka, topic);
    match rig.look_up(&old, Sought::Resend) {
        Evidence::PartitionGone(why) => assert_eq!(why.code, Some(3), "{why}"),
        other => panic!("{other:?}"),
    }
    kafka.create_topic(topic, 1, &[]);
    let why = incomplete(rig.look_up(&old, Sought::Resend));
    assert!(why.text.contains("created anew"), "{why}");
    // Longer than the old one was.
    let mut new = rig.second_owner();
    new.open(topic);
    for _ in 0..9 {
        let batch = new.batch(topic, 0, &["in the new topic"]);
        new.until_stored(&batch);
    }
    let evidence = rig.look_up(&old, Sought::Resend);
    if leader_epoch > 0 {
        assert_eq!(evidence, Evidence::Incomplete(why));
    } else {
        // Nothing in it tells the one log from the other.
        assert_eq!(evidence, Evidence::Absent);
    }
    assert!(rig.stop());
}

/// Two batches with the same key: compaction takes the first one's records, and its offsets with them.
fn a_compacted_topic(version: &str) {
    let Some(kafka) = real_kafka::own(version, 1, &["log.cleaner.backoff.ms=100"]) else { return };
    let topic = "compacted";
    let eager = ["cleanup.policy=compact", "min.cleanable.dirty.ratio=0.001", "segment.ms=50"];
    kafka.create_topic(topic, 1, &eager);
    let mut rig = rig(&kafka);
    rig.open(topic);
    let first = rig.batch(topic, 0, &["a"]);
    assert_eq!(rig.until_stored(&first), 0);
    assert_eq!(rig.look_up(&first, Sought::Stored), Evidence::StoredAt(0));
    let mut last = first.clone();
    let mut compacted = None;
    wait_until("compaction", || {
        // Segments are rolled by appends alone.
        last = rig.batch(topic, 0, &["b"]);
        rig.until_stored(&last);
        match rig.look_up(&first, Sought::Stored) {
            Evidence::StoredAt(0) => {}
            Evidence::Incomplete(why) => compacted = Some(why),
            other => panic!("{other:?}"),
        }
        compacted.is_some()
    });
    let why = compacted.unwrap();
    assert!(why.text.contains("offsets 0 to ") && why.text.contains("compaction"), "{why}");
    // The last batch of a producer is kept, and so are the offsets from it on.
    assert_eq!(rig.look_up(&last, Sought::Resend), Evidence::Remembered);
    assert!(matches!(rig.look_up(&last, Sought::Stored), Evidence::StoredAt(_)));
    assert!(rig.stop());
}

fn while_followers_lag(version: &str) {
    // Frozen followers stay in the in-sync set however long the test takes: were they thrown out, nothing would lag any more.
    let patient = ["broker.session.timeout.ms=180000", "replica.lag.time.max.ms=180000"];
    let Some(kafka) = real_kafka::own(version, 3, &patient) else { return };
    let topic = "lagging";
    kafka.create_topic(topic, 1, &[]);
    let mut rig = rig(&kafka);
    rig.open(topic);
    let first = rig.batch(topic, 0, &["a"]);
    assert_eq!(rig.until_stored(&first), 0);
    let (leader, _) = kafka.leader(topic, 0);
    let followers: Vec<u32> = (1..=3).filter(|node| *node as i32 != leader).collect();
    for node in &followers {
        kafka.freeze(*node);
    }
    let batch = rig.batch(topic, 0, &["b"]);
    rig.send(&batch, Manner::Alone);
    assert_eq!(class(&rig.outcome(&batch)), "unsure");
    assert_eq!(rig.look_up(&batch, Sought::Resend), Evidence::Remembered);
    let never = but(&batch, |batch| {
        batch.producer_id += 1_000_000;
        batch.id.0 += 1_000;
    });
    rig.handle.look_up(batch.clone(), Sought::Stored);
    rig.handle.look_up(never.clone(), Sought::Resend);
    for batch in [&batch, &never] {
        let why = rig.no_evidence(batch);
        assert!(why.text.contains("not on all in-sync replicas yet"), "{why}");
    }
    for node in &followers {
        kafka.thaw(*node);
    }
    assert_eq!(rig.evidence(&batch), Evidence::StoredAt(1));
    assert_eq!(rig.evidence(&never), Evidence::Absent);
    assert!(rig.stop());
}
