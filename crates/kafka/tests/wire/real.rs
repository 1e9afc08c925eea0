//! The wire on a real Apache Kafka: every request once, and the answers that the rest of the house relies on.

use outboxd_kafka::compression::Compression;
use outboxd_kafka::connection::{Connection, ConnectionOptions};
use outboxd_kafka::error::{Class, ErrorCode};
use outboxd_kafka::protocol::{
    ApiKey, DescribeProducersRequest, FetchPartition, FetchRequest, InitProducerIdRequest, ListOffsetsPartition,
    ListOffsetsRequest, MetadataRequest, PartitionBatch, ProduceRequest, ProducedPartition, Reach,
};
use outboxd_kafka::record_batch::{BatchReader, Piece, RecordHeader, append_record, sequence_after};
use real_kafka::Broker;
use std::time::{Duration, Instant, SystemTime};

const PATIENCE: Duration = Duration::from_secs(30);

macro_rules! on {
    ($module:ident, $version:literal: $($test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    if let Some(kafka) = real_kafka::shared($version) {
                        super::$test(&kafka);
                    }
                }
            )*
        }
    };
}

on!(real_kafka_4_3_0, "4.3.0":
    wire_a_triple_is_stored_once, wire_sequences_wrap, wire_refusals_have_their_class,
    wire_a_record_without_a_key_is_named, wire_a_clock_ahead_is_refused,
);
on!(real_kafka_3_9_1, "3.9.1":
    wire_a_triple_is_stored_once, wire_sequences_wrap, wire_refusals_have_their_class,
    wire_a_record_without_a_key_is_named,
);

/// A connection, a topic of one partition, a producer id.
struct Scene {
    connection: Connection,
    topic: String,
    leader_epoch: i32,
    producer_id: i64,
}

/// Base offset, epoch, base sequence, last sequence.
type Found = (i64, i16, i32, i32);

fn again_until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(result) = attempt() {
            return result;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Records with an empty key and a header key that repeats.
fn records(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut out = Vec::new();
    let headers = [RecordHeader { key: b"h", value: Some(b"v") }, RecordHeader { key: b"h", value: None }];
    for (delta, value) in values.iter().enumerate() {
        append_record(&mut out, delta as u32, Some(b""), *value, &headers);
    }
    out
}

impl Scene {
    fn new(kafka: &Broker, topic_config: &[&str]) -> Self {
        let address = kafka.bootstrap.parse().unwrap();
        let mut connection = Connection::open(&address, &ConnectionOptions::default()).unwrap();
        let topic = format!("wire-{:016x}", fastrand::u64(..));
        kafka.create_topic(&topic, 1, topic_config);
        let leader_epoch = again_until("a leader", || {
            let request = MetadataRequest { topics: Some(&[&topic]), allow_auto_topic_creation: false };
            let answer = connection.call(&request, PATIENCE).unwrap();
            assert!(!answer.brokers.is_empty() && answer.cluster_id.is_some());
            let partition = answer.topics.first()?.partitions.first()?;
            (partition.error.is_ok() && partition.leader >= 0).then_some(partition.leader_epoch)
        });
        let mut scene = Scene { connection, topic, leader_epoch, producer_id: 0 };
        scene.producer_id = scene.new_producer_id();
        scene
    }

    fn new_producer_id(&mut self) -> i64 {
        again_until("a producer id", || {
            let answer = self.connection.call(&InitProducerIdRequest, PATIENCE).unwrap();
            assert!(
                answer.error.is_ok() || answer.error == ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
                "{}",
                answer.error
            );
            answer.error.is_ok().then_some(answer.producer_id)
        })
    }

    fn produce(
        &mut self,
        epoch: i16,
        base_sequence: i32,
        stamp_ms: i64,
        values: &[Option<&[u8]>],
    ) -> ProducedPartition {
        self.produce_records(epoch, base_sequence, stamp_ms, values.len(), &records(values))
    }

    fn produce_records(
        &mut self,
        epoch: i16,
        base_sequence: i32,
        stamp_ms: i64,
        count: usize,
        records: &[u8],
    ) -> ProducedPartition {
        let batch = PartitionBatch {
            topic: &self.topic,
            partition: 0,
            producer_id: self.producer_id,
            producer_epoch: epoch,
            base_sequence,
            timestamp_ms: stamp_ms,
            record_count: count as i32,
            records,
            compression: Compression::None,
        };
        let request = ProduceRequest { acks: -1, timeout_ms: 10_000, batches: &[batch] };
        let answer = self.connection.produce(&request, PATIENCE).unwrap();
        assert_eq!(answer.partitions.len(), 1);
        answer.partition(&self.topic, 0).unwrap().clone()
    }

    fn end(&mut self, leader_epoch: i32) -> Result<i64, ErrorCode> {
        let partition = ListOffsetsPartition {
            topic: &self.topic,
            partition: 0,
            current_leader_epoch: leader_epoch,
            timestamp: ListOffsetsPartition::END,
        };
        let [high_watermark, log_end] = [Reach::HighWatermark, Reach::LogEnd].map(|reach| {
            let request = ListOffsetsRequest { reach, partitions: &[partition] };
            let answer = self.connection.call(&request, PATIENCE).unwrap();
            let listed = &answer.partitions[0];
            if listed.error.is_ok() { Ok(listed.offset) } else { Err(listed.error) }
        });
        // One node: everything is on all in-sync replicas.
        assert_eq!(high_watermark, log_end);
        high_watermark
    }

    /// Of every batch what it is recognised by, and every record's value.
    fn read_back(&mut self) -> (Vec<Found>, Vec<Option<Vec<u8>>>) {
        let partition = FetchPartition {
            topic: &self.topic,
            partition: 0,
            current_leader_epoch: self.leader_epoch,
            fetch_offset: 0,
            max_bytes: 1 << 20,
        };
        let request = FetchRequest { max_wait_ms: 100, min_bytes: 1, max_bytes: 1 << 20, partitions: &[partition] };
        let answer = self.connection.call(&request, PATIENCE).unwrap();
        let fetched = &answer.partitions[0];
        assert!(answer.error.is_ok() && fetched.error.is_ok(), "{}", fetched.error);
        let (mut triples, mut values, mut next) = (Vec::new(), Vec::new(), 0);
        for piece in BatchReader::new(&fetched.records) {
            let Piece::Batch(batch) = piece.unwrap() else { panic!("a whole batch of format 2 is wanted") };
            assert!(batch.checksum_matches());
            let header = batch.header;
            assert_eq!((header.producer_id, header.base_offset), (self.producer_id, next));
            next = header.next_offset();
            triples.push((header.base_offset, header.producer_epoch, header.base_sequence, header.last_sequence()));
            for record in batch.records().unwrap() {
                let record = record.unwrap();
                assert_eq!(record.key, Some(&b""[..]));
                assert_eq!(record.headers.len(), 2);
                values.push(record.value.map(<[u8]>::to_vec));
            }
        }
        assert_eq!(fetched.high_watermark, next);
        (triples, values)
    }
}

fn wire_a_triple_is_stored_once(kafka: &Broker) {
    let mut scene = Scene::new(kafka, &[]);
    assert_eq!(scene.connection.api_version(ApiKey::Produce), Some(8));
    assert_eq!(scene.end(scene.leader_epoch), Ok(0));

    let first = scene.produce(0, 0, now_ms(), &[Some(b"a"), None, Some(b"")]);
    assert_eq!((first.class(), first.base_offset), (Class::Stored, 0), "{first:?}");
    // The same triple with another stamp, and, as the broker looks at sequences only, with other contents.
    let again = scene.produce(0, 0, now_ms() + 1, &[Some(b"x"), Some(b"y"), Some(b"z")]);
    assert_eq!((again.class(), again.base_offset), (Class::Stored, 0), "{again:?}");
    assert_eq!(scene.end(-1), Ok(3));

    let gap = scene.produce(0, 9, now_ms(), &[Some(b"gap")]);
    assert_eq!((gap.error, gap.class()), (ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER, Class::OutOfSequence));
    // The epoch bumped by the client itself; the old one is fenced from then on.
    let bumped = scene.produce(1, 0, now_ms(), &[Some(b"b")]);
    assert_eq!((bumped.class(), bumped.base_offset), (Class::Stored, 3), "{bumped:?}");
    let late = scene.produce(0, 3, now_ms(), &[Some(b"late")]);
    assert_eq!((late.error, late.class()), (ErrorCode::INVALID_PRODUCER_EPOCH, Class::OutOfSequence));

    let (triples, values) = scene.read_back();
    assert_eq!(triples, [(0, 0, 0, 2), (3, 1, 0, 0)]);
    assert_eq!(values, [Some(b"a".to_vec()), None, Some(Vec::new()), Some(b"b".to_vec())]);

    let request = DescribeProducersRequest { partitions: &[(&scene.topic, 0)] };
    let answer = scene.connection.call(&request, PATIENCE).unwrap();
    let described = &answer.partitions[0];
    assert!(described.error.is_ok(), "{}", described.error);
    let producer = described.active_producers.iter().find(|known| known.producer_id == scene.producer_id).unwrap();
    assert_eq!((producer.producer_epoch, producer.last_sequence), (1, 0));
}

fn wire_sequences_wrap(kafka: &Broker) {
    let mut scene = Scene::new(kafka, &[]);
    let base = i32::MAX - 1;
    let values: [Option<&[u8]>; 4] = [Some(b"1"), Some(b"2"), Some(b"3"), Some(b"4")];
    // Unknown to the leader, so any sequence is taken.
    let across = scene.produce(0, base, now_ms(), &values);
    assert_eq!(across.class(), Class::Stored, "{across:?}");
    let next = sequence_after(base, 4);
    assert_eq!(next, 2);
    let after = scene.produce(0, next, now_ms(), &[Some(b"5")]);
    assert_eq!(after.class(), Class::Stored, "{after:?}");
    let (triples, _) = scene.read_back();
    assert_eq!(triples, [(0, 0, base, 1), (4, 0, 2, 2)]);
}

fn wire_refusals_have_their_class(kafka: &Broker) {
    let mut scene = Scene::new(kafka, &[]);
    let large = vec![b'x'; 2_000_000];
    let refused = scene.produce(0, 0, now_ms(), &[Some(&large)]);
    assert_eq!((refused.error, refused.class()), (ErrorCode::MESSAGE_TOO_LARGE, Class::Record));

    let unknown = MetadataRequest { topics: Some(&["wire-nowhere", "not a name"]), allow_auto_topic_creation: false };
    let answer = scene.connection.call(&unknown, PATIENCE).unwrap();
    let error_of = |name: &str| answer.topics.iter().find(|topic| topic.name == name).unwrap().error;
    assert_eq!(error_of("wire-nowhere"), ErrorCode::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(error_of("not a name"), ErrorCode::INVALID_TOPIC_EXCEPTION);

    // A leader epoch that the leader does not know yet.
    assert_eq!(scene.end(scene.leader_epoch + 1), Err(ErrorCode::UNKNOWN_LEADER_EPOCH));
    assert_eq!(scene.end(scene.leader_epoch), Ok(0));

    // Another topic beside a good one: one partition's error leaves the other stored.
    let records = records(&[Some(b"good")]);
    let batch = |topic| PartitionBatch {
        topic,
        partition: 0,
        producer_id: scene.producer_id,
        producer_epoch: 0,
        base_sequence: 0,
        timestamp_ms: now_ms(),
        record_count: 1,
        records: &records,
        compression: Compression::None,
    };
    let batches = [batch("wire-nowhere"), batch(&scene.topic)];
    let request = ProduceRequest { acks: -1, timeout_ms: 10_000, batches: &batches };
    let answer = scene.connection.produce(&request, PATIENCE).unwrap();
    assert_eq!(answer.partition("wire-nowhere", 0).unwrap().class(), Class::Unsure);
    assert_eq!(answer.partition(&scene.topic, 0).unwrap().class(), Class::Stored);
}

fn wire_a_record_without_a_key_is_named(kafka: &Broker) {
    let mut scene = Scene::new(kafka, &["cleanup.policy=compact"]);
    let mut records = Vec::new();
    append_record(&mut records, 0, Some(b"key"), Some(b"good"), &[]);
    append_record(&mut records, 1, None, Some(b"bad"), &[]);
    let refused = scene.produce_records(0, 0, now_ms(), 2, &records);
    assert_eq!((refused.error, refused.class()), (ErrorCode::INVALID_RECORD, Class::Record), "{refused:?}");
    assert_eq!(refused.record_errors.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1], "{refused:?}");

    // Cut anew under the next epoch: nothing was appended by the first attempt.
    let mut cut = Vec::new();
    append_record(&mut cut, 0, Some(b"key"), Some(b"good"), &[]);
    assert_eq!(scene.produce_records(1, 0, now_ms(), 1, &cut).class(), Class::Stored);
    assert_eq!(scene.end(-1), Ok(1));
}

/// Since 4.0, where `message.timestamp.after.max.ms` became an hour.
fn wire_a_clock_ahead_is_refused(kafka: &Broker) {
    let mut scene = Scene::new(kafka, &[]);
    let two_hours_ahead = now_ms() + 2 * 3_600_000;
    let refused = scene.produce(0, 0, two_hours_ahead, &[Some(b"a")]);
    assert_eq!((refused.error, refused.class()), (ErrorCode::INVALID_TIMESTAMP, Class::Refused), "{refused:?}");
    assert_eq!(scene.produce(0, 0, now_ms(), &[Some(b"a")]).class(), Class::Stored);
}
