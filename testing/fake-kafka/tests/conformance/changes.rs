//! Questions about what changes under a client: epochs, the front of a log, holes in it, topics that go, come back and grow.
//!
//! It promises to make the same changes on either broker, each done when the question after it is asked. It does not know the answers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fake_kafka::{BatchHeader, FakeKafka};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, ListOffsetsRequest,
};
use kafka_protocol::records::{Compression, RecordBatchEncoder, RecordEncodeOptions};

use super::common::{Batch, Client, fetch_request, topic_name};
use super::{Script, now_ms};

/// Long enough that reaching it is a failure: a log cleaner looks every 15 s.
const LONG: Duration = Duration::from_secs(120);
const TIMEOUT_MS: i32 = 10_000;

/// The changes, as either broker makes them.
pub trait Cluster {
    /// A topic, and its leaders know it.
    fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]);
    fn delete_topic(&self, name: &str);
    fn add_partitions(&self, name: &str, count: i32);
    fn delete_records_before(&self, topic: &str, partition: i32, offset: i64);
    /// Said of a topic whose configuration does it by itself on a real broker.
    fn roll_segment(&self, topic: &str, partition: i32);
    /// Waits until the batch that began at `offset` has no record left, or has the fake do it.
    fn clean(&self, topic: &str, partition: i32, offset: i64);
}

impl Cluster for FakeKafka {
    fn create_topic(&self, name: &str, partitions: i32, _: &[(&str, &str)]) {
        FakeKafka::create_topic(self, name, partitions);
        // Kafka's default since 4.0: an hour ahead at most.
        self.check_clock(name, Some(Duration::from_secs(3_600)));
    }

    fn delete_topic(&self, name: &str) {
        FakeKafka::delete_topic(self, name);
    }

    fn add_partitions(&self, name: &str, count: i32) {
        FakeKafka::add_partitions(self, name, count);
    }

    fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        FakeKafka::delete_records_before(self, topic, partition, offset);
    }

    fn roll_segment(&self, topic: &str, partition: i32) {
        FakeKafka::roll_segment(self, topic, partition);
    }

    fn clean(&self, topic: &str, partition: i32, _: i64) {
        self.compact_by_key(topic, partition);
    }
}

/// The broker that `FAKE_KAFKA_COMPARE` names.
pub struct Real(pub SocketAddr);

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not within {LONG:?}");
    }
}

impl Real {
    fn client(&self) -> Client {
        Client::connect(self.0)
    }

    fn wait_for_leaders(&self, name: &str, partitions: i32) {
        let mut client = self.client();
        until("leaders", || {
            let answer = client.metadata(&[name]);
            // Metadata names a leader before the leader knows of it: until then it answers 6.
            answer.topics[0].error_code == 0
                && answer.topics[0].partitions.len() == partitions as usize
                && answer.topics[0].partitions.iter().all(|found| found.error_code == 0)
                && (0..partitions).all(|partition| client.list_offset(name, partition, -1).0 == 0)
        });
    }
}

impl Cluster for Real {
    fn create_topic(&self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        // The default of 4.x; 3.x lets any stamp pass.
        let configs = configs.iter().chain(&[("message.timestamp.after.max.ms", "3600000")]).map(|&(name, value)| {
            CreatableTopicConfig::default().with_name(name.to_owned().into()).with_value(Some(value.to_owned().into()))
        });
        let request = CreateTopicsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topics(vec![
            CreatableTopic::default()
                .with_name(topic_name(name))
                .with_num_partitions(partitions)
                .with_replication_factor(1)
                .with_configs(configs.collect()),
        ]);
        assert_eq!(self.client().call(&request, 4).unwrap().topics[0].error_code, 0);
        self.wait_for_leaders(name, partitions);
    }

    fn delete_topic(&self, name: &str) {
        let request =
            DeleteTopicsRequest::default().with_timeout_ms(TIMEOUT_MS).with_topic_names(vec![topic_name(name)]);
        let mut client = self.client();
        assert_eq!(client.call(&request, 3).unwrap().responses[0].error_code, 0);
        until("the deletion", || {
            client.metadata(&[name]).topics[0].error_code == 3 && client.list_offset(name, 0, -1).0 == 3
        });
    }

    fn add_partitions(&self, name: &str, count: i32) {
        let topic = CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count);
        let request = CreatePartitionsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![topic.with_assignments(None)]);
        assert_eq!(self.client().call(&request, 1).unwrap().results[0].error_code, 0);
        self.wait_for_leaders(name, count);
    }

    fn delete_records_before(&self, topic: &str, partition: i32, offset: i64) {
        let asked = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(offset);
        let request = DeleteRecordsRequest::default()
            .with_timeout_ms(TIMEOUT_MS)
            .with_topics(vec![DeleteRecordsTopic::default().with_name(topic_name(topic)).with_partitions(vec![asked])]);
        let answer = self.client().call(&request, 1).unwrap();
        let found = &answer.topics[0].partitions[0];
        assert_eq!((found.error_code, found.low_watermark), (0, offset));
    }

    fn roll_segment(&self, _: &str, _: i32) {}

    fn clean(&self, topic: &str, partition: i32, offset: i64) {
        let mut client = self.client();
        until("the cleaner", || {
            let batches = read_through(&mut client, topic, partition, 0);
            !batches.iter().any(|header| header.base_offset == offset && header.record_count > 0)
        });
    }
}

fn headers(mut records: &[u8]) -> Vec<BatchHeader> {
    let mut found = Vec::new();
    while let Some(header) = BatchHeader::parse(records) {
        records = &records[(header.size_bytes() as usize).min(records.len())..];
        found.push(header);
    }
    found
}

/// All batches from `offset` on. A real broker's answer ends with a segment, though there is more.
fn read_through(client: &mut Client, topic: &str, partition: i32, mut offset: i64) -> Vec<BatchHeader> {
    let mut found = Vec::new();
    loop {
        let data = client.fetch_one(topic, partition, offset, -1);
        assert_eq!(data.error_code, 0);
        let batches = headers(&data.records.unwrap());
        let Some(last) = batches.last() else { return found };
        offset = last.base_offset + i64::from(last.last_offset_delta) + 1;
        found.extend(batches);
    }
}

/// A batch with one record for each key.
fn keyed(batch: &Batch, keys: &[&'static str]) -> Bytes {
    let mut records = Batch { count: keys.len() as i32, ..*batch }.records();
    for (record, &key) in records.iter_mut().zip(keys) {
        record.key = Some(Bytes::from_static(key.as_bytes()));
    }
    let mut out = BytesMut::new();
    let options = RecordEncodeOptions { version: 2, compression: Compression::None };
    RecordBatchEncoder::encode(&mut out, &records, &options).unwrap();
    out.freeze()
}

fn batch_shown(header: &BatchHeader, first_id: i64) -> String {
    let producer = if header.has_producer() { header.producer_id - first_id } else { -1 };
    format!(
        "{}+{} count {} of {producer} epoch {} sequence {} stamps {} {} attributes {} leader epoch {} bytes {}",
        header.base_offset,
        header.last_offset_delta,
        header.record_count,
        header.producer_epoch,
        header.base_sequence,
        header.base_timestamp.max(now_ms() - 1) - now_ms(),
        header.max_timestamp - now_ms(),
        header.attributes,
        header.partition_leader_epoch,
        header.size_bytes()
    )
}

impl Script {
    pub fn changes(&mut self, cluster: &dyn Cluster, id: i64) {
        let before = self.topic.clone();
        self.topic.push_str("-changing");
        let topic = self.topic.clone();
        cluster.create_topic(&topic, 2, &[]);
        self.epochs(id);
        self.truncated(cluster, id);
        self.grown(cluster, id);
        self.recreated(cluster, id);
        self.topic = format!("{before}-segments");
        self.segments(cluster, id);
        self.topic = format!("{before}-compacted");
        self.compacted(cluster, id);
        self.topic = before;
    }

    fn epochs(&mut self, id: i64) {
        self.look("an empty log", 0, &[-1, 0, 1], id);
        for (question, batch) in [
            ("two batches", Batch::new(id, 0, 0, 2)),
            ("two batches", Batch::new(id, 0, 2, 1)),
            ("a refused one", Batch::new(id, 0, 7, 1)),
            ("a bump", Batch::new(id, 1, 0, 3)),
            ("a late copy", Batch::new(id, 0, 2, 1)),
            ("the first of another", Batch::new(id + 1, 0, 41, 1)),
            ("a bump over several", Batch::new(id, 6, 0, 1)),
        ] {
            self.produce(question, 0, &batch);
            self.describe(question, 0, id);
        }
        for epoch in [-1, 0, 1, i32::MAX] {
            self.fetched("by epoch", 0, 0, epoch, id);
            let asked = ListOffsetsPartition::default().with_current_leader_epoch(epoch).with_timestamp(-1);
            let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![
                ListOffsetsTopic::default().with_name(topic_name(&self.topic)).with_partitions(vec![asked]),
            ]);
            let answer = self.client.call(&request, 4).unwrap();
            let found = &answer.topics[0].partitions[0];
            let shown = format!("{} {} {}", found.error_code, found.offset, found.leader_epoch);
            self.see(&format!("latest offset by epoch {epoch}"), shown);
        }
    }

    fn truncated(&mut self, cluster: &dyn Cluster, id: i64) {
        let topic = self.topic.clone();
        for start in [1, 3, 8] {
            cluster.delete_records_before(&topic, 0, start);
            self.look(&format!("the front gone up to {start}"), 0, &[0, start - 1, start, 8, 9], id);
            self.produce("a duplicate whose batch may be gone", 0, &Batch::new(id, 6, 0, 1));
        }
        self.produce("the next one", 0, &Batch::new(id, 6, 1, 1));
        self.produce("the next of another", 0, &Batch::new(id + 1, 0, 42, 1));
        self.look("and written to again", 0, &[8], id);
    }

    fn grown(&mut self, cluster: &dyn Cluster, id: i64) {
        let topic = self.topic.clone();
        let batch = Batch::new(id, 0, 12, 1);
        self.produce("to a partition that is not there", 2, &batch);
        self.describe("a partition that is not there", 2, id);
        cluster.add_partitions(&topic, 4);
        self.shape("grown");
        self.look("a partition that is new", 2, &[0, 1], id);
        self.produce("to a partition that is new", 2, &batch);
        self.describe("a partition that is new", 2, id);
    }

    fn recreated(&mut self, cluster: &dyn Cluster, id: i64) {
        let topic = self.topic.clone();
        cluster.delete_topic(&topic);
        self.shape("deleted");
        self.look("deleted", 0, &[0, 8], id);
        self.produce("to a deleted topic", 0, &Batch::new(id, 6, 2, 1));
        // Fewer partitions than before.
        cluster.create_topic(&topic, 1, &[]);
        self.shape("made again");
        self.look("made again", 0, &[0, 1, 8], id);
        self.look("a partition that went", 2, &[0], id);
        self.produce("the triple that was stored before", 0, &Batch::new(id, 6, 1, 1));
        self.produce("an epoch of before", 0, &Batch::new(id, 0, 0, 1));
        self.produce("what comes after it", 0, &Batch::new(id, 6, 2, 1));
        self.look("made again and written to", 0, &[0, 1, 8], id);
    }

    fn segments(&mut self, cluster: &dyn Cluster, id: i64) {
        let topic = self.topic.clone();
        cluster.create_topic(&topic, 1, &[("segment.ms", "1")]);
        self.fill_segments(cluster, id);
        self.look("a segment for each batch", 0, &[0, 1, 6, 10, 11], id);
        cluster.delete_records_before(&topic, 0, 4);
        // No question by time: until the file of a segment that is out of range is deleted, a search finds that one and then nothing in it.
        for offset in [3, 4, 5] {
            self.fetched("segments gone", 0, offset, -1, id);
        }
        self.describe("segments gone", 0, id);
    }

    fn compacted(&mut self, cluster: &dyn Cluster, id: i64) {
        let topic = self.topic.clone();
        let configs = [("cleanup.policy", "compact"), ("segment.ms", "1"), ("min.cleanable.dirty.ratio", "0")];
        cluster.create_topic(&topic, 1, &configs);
        self.fill_segments(cluster, id);
        cluster.clean(&topic, 0, 5);
        self.look("cleaned", 0, &[], id);
        for offset in 0..=11 {
            let batches = read_through(&mut self.client, &topic, 0, offset);
            let batches: Vec<_> = batches.iter().map(|header| batch_shown(header, id)).collect();
            self.see(&format!("read from {offset}, cleaned"), format!("{batches:#?}"));
        }
        let duplicate = keyed(&Batch::new(id + 1, 0, 1, 0).stamped(now_ms()), &["w", "v"]);
        self.produce_bytes("a duplicate of a cleaned batch", 0, duplicate);
    }

    /// Each batch is stamped 10 ms later than the one before it, and with `segment.ms` 1 begins a segment of its own. The cleaner never
    /// touches the last one.
    fn fill_segments(&mut self, cluster: &dyn Cluster, id: i64) {
        let topic = self.topic.clone();
        let batches = [
            (id, 0, &["x", "y", "z"][..]),
            (id, 3, &["x"]),
            (id + 1, 0, &["y"]),
            (id + 1, 1, &["w", "v"]),
            (id, 4, &["x"]),
            (-1, -1, &["w", "v"]),
            (-1, -1, &["end"]),
        ];
        for (number, (producer, sequence, keys)) in batches.into_iter().enumerate() {
            let epoch = if producer < 0 { -1 } else { 0 };
            let batch = Batch::new(producer, epoch, sequence, 0).stamped(now_ms() + 10 * number as i64);
            cluster.roll_segment(&topic, 0);
            self.produce_bytes("a batch of keys", 0, keyed(&batch, keys));
        }
    }

    /// Metadata, but for the ids of brokers.
    fn shape(&mut self, when: &str) {
        let topic = self.topic.clone();
        let answer = self.client.metadata(&[&topic]);
        let mut partitions: Vec<_> = answer.topics[0]
            .partitions
            .iter()
            .map(|found| (found.partition_index, found.error_code, found.leader_epoch))
            .collect();
        partitions.sort_unstable();
        self.see(&format!("metadata: {when}"), format!("{} {partitions:?}", answer.topics[0].error_code));
    }

    /// Everything a client can read of a partition.
    fn look(&mut self, when: &str, partition: i32, offsets: &[i64], first_id: i64) {
        let topic = self.topic.clone();
        for timestamp in [-1, -2, 1_000] {
            let answer = self.client.list_offset(&topic, partition, timestamp);
            // A stamp that was found is this run's.
            self.see(&format!("offset {timestamp}: {when}"), format!("{answer:?}"));
        }
        for &offset in offsets {
            self.fetched(when, partition, offset, -1, first_id);
        }
        self.describe(when, partition, first_id);
    }

    /// Producer ids are shown by their distance from the script's first.
    fn describe(&mut self, when: &str, partition: i32, first_id: i64) {
        let topic = self.topic.clone();
        let (error, mut producers) = self.client.describe_producers(&topic, partition);
        producers.sort_unstable_by_key(|found| found.producer_id.0);
        let producers: Vec<_> = producers
            .iter()
            .map(|found| {
                let stamp = found.last_timestamp - now_ms();
                (found.producer_id.0 - first_id, found.producer_epoch, found.last_sequence, stamp)
            })
            .collect();
        self.see(&format!("producers of {partition}: {when}"), format!("{error} {producers:?}"));
    }

    fn fetched(&mut self, when: &str, partition: i32, offset: i64, epoch: i32, first_id: i64) {
        let request = fetch_request(&[(&self.topic, partition, offset, epoch, 1 << 20)], 1 << 20, 0);
        let answer = self.client.fetch(&request);
        let data = &answer.responses[0].partitions[0];
        let batches = headers(data.records.as_deref().unwrap_or_default());
        let batches: Vec<_> = batches.iter().map(|header| batch_shown(header, first_id)).collect();
        self.see(
            &format!("fetch from {offset}, leader epoch {epoch}: {when}"),
            format!(
                "{} error {} watermark {} start {} batches {batches:#?}",
                answer.error_code, data.error_code, data.high_watermark, data.log_start_offset
            ),
        );
    }
}
