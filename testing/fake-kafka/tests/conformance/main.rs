//! One script of questions, put to the fake and, by the ignored test, to a real broker that `FAKE_KAFKA_COMPARE` names (`127.0.0.1:9092`).
//!
//! It promises that the two answer alike, word for word but for free text and identifiers. It does not know which of them is right.
//!
//! The broker must be a single fresh node with default settings; the script creates topics of its own.

mod changes;
#[path = "../common/mod.rs"]
mod common;

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use changes::{Cluster, Real};
use common::{Batch, Client, fetch_request, produce_request};
use fake_kafka::FakeKafka;
use kafka_protocol::messages::ApiVersionsResponse;
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::protocol::Decodable;

/// What was asked and what came.
type Observation = (String, String);

struct Script {
    client: Client,
    topic: String,
    seen: Vec<Observation>,
}

fn shown(found: &PartitionProduceResponse) -> String {
    let records: Vec<i32> = found.record_errors.iter().map(|error| error.batch_index).collect();
    format!(
        "error {} base {} append time {} start {} records {records:?}",
        found.error_code, found.base_offset, found.log_append_time_ms, found.log_start_offset
    )
}

/// One moment for the whole run, so that both brokers get the same stamps and echo the same.
fn now_ms() -> i64 {
    static NOW: OnceLock<i64> = OnceLock::new();
    *NOW.get_or_init(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64)
}

impl Script {
    fn see(&mut self, question: &str, answer: String) {
        self.seen.push((question.to_owned(), answer));
    }

    fn produce(&mut self, question: &str, partition: i32, batch: &Batch) {
        let stamped = if batch.timestamp == 1_000 { batch.stamped(now_ms()) } else { *batch };
        self.produce_bytes(question, partition, stamped.bytes());
    }

    fn produce_bytes(&mut self, question: &str, partition: i32, batch: Bytes) {
        let topic = self.topic.clone();
        let answer = shown(&self.client.produce_bytes(&topic, partition, batch).unwrap());
        self.see(question, answer);
    }

    fn idempotence(&mut self, id: i64) {
        let first = Batch::new(id, 0, 0, 2);
        self.produce("first batch", 0, &first);
        self.produce("duplicate", 0, &first);
        self.produce("duplicate with other contents", 0, &first.tagged("x"));
        self.produce("same start, another length", 0, &Batch::new(id, 0, 0, 3));
        self.produce("inside a stored range", 0, &Batch::new(id, 0, 1, 1));
        self.produce("a gap", 0, &Batch::new(id, 0, 3, 1));
        for sequence in 2..7 {
            self.produce("next", 0, &Batch::new(id, 0, sequence, 1));
        }
        self.produce("five back", 0, &Batch::new(id, 0, 2, 1));
        self.produce("six back", 0, &first);
        self.produce("new epoch not at 0", 0, &Batch::new(id, 1, 7, 1));
        self.produce("new epoch at 0", 0, &Batch::new(id, 1, 0, 1));
        self.produce("old epoch, next", 0, &Batch::new(id, 0, 7, 1));
        self.produce("old epoch, a former duplicate", 0, &Batch::new(id, 0, 6, 1));
        self.produce("epochs may skip", 0, &Batch::new(id, 9, 0, 1));
        self.produce("no producer id", 0, &Batch::new(-1, -1, -1, 2));
        self.produce("unknown producer in the middle", 1, &Batch::new(id, 4, i32::MAX - 1, 4));
        self.produce("a wrapped duplicate", 1, &Batch::new(id, 4, i32::MAX - 1, 4));
        self.produce("after the wrap", 1, &Batch::new(id, 4, 2, 1));
    }

    fn malformed(&mut self, id: i64) {
        let good = Batch::new(id, 20, 0, 2).stamped(now_ms()).bytes();
        let with = |at: usize, bytes: &[u8]| {
            let mut changed = BytesMut::from(&good[..]);
            changed[at..at + bytes.len()].copy_from_slice(bytes);
            changed
        };
        let sealed = |at: usize, bytes: &[u8]| {
            let mut changed = with(at, bytes);
            let crc = crc32c::crc32c(&changed[21..]);
            changed[17..21].copy_from_slice(&crc.to_be_bytes());
            changed.freeze()
        };
        self.produce_bytes("flipped byte", 0, with(good.len() - 1, &[9]).freeze());
        self.produce_bytes("base offset 5", 0, with(0, &5i64.to_be_bytes()).freeze());
        self.produce_bytes("last offset delta beyond the count", 0, sealed(23, &5i32.to_be_bytes()));
        self.produce_bytes("producer id without sequence", 0, sealed(53, &(-1i32).to_be_bytes()));
        self.produce_bytes("control batch", 0, sealed(21, &0x20i16.to_be_bytes()));
        self.produce_bytes("count 0", 0, sealed(57, &0i32.to_be_bytes()));
        self.produce_bytes("first record's length too large", 0, sealed(61, &[0x7e]));
        self.produce_bytes("two batches", 0, [&good[..], &good[..]].concat().into());
        self.produce_bytes("nothing", 0, Bytes::new());
        self.produce("stamped two hours ahead", 0, &Batch::new(id, 21, 0, 2).stamped(now_ms() + 7_200_000));
        let mut large = Batch::new(id, 22, 0, 1).stamped(now_ms()).records();
        large[0].value = Some(vec![b'x'; 1_100_000].into());
        let mut bytes = BytesMut::new();
        let options = kafka_protocol::records::RecordEncodeOptions {
            version: 2,
            compression: kafka_protocol::records::Compression::None,
        };
        kafka_protocol::records::RecordBatchEncoder::encode(&mut bytes, &large, &options).unwrap();
        self.produce_bytes("larger than max.message.bytes", 0, bytes.freeze());
    }

    fn addresses(&mut self, id: i64) {
        let batch = Batch::new(id, 30, 0, 1).stamped(now_ms()).bytes();
        let topic = self.topic.clone();
        for (question, name, partition) in
            [("unknown topic", "not-there", 0), ("unknown partition", &topic, 9), ("illegal name", "il legal", 0)]
        {
            for version in [7, 8] {
                let request = produce_request(&[(name, partition, batch.clone())], -1, 1_000);
                let answer = self.client.call(&request, version).unwrap();
                let answer = shown(&answer.responses[0].partition_responses[0]);
                self.see(&format!("produce {version} to {question}"), answer);
            }
        }
        let strange = produce_request(&[(&topic, 0, batch.clone())], 2, 1_000);
        let answer = self.client.call(&strange, 8).unwrap();
        self.see("acks 2", shown(&answer.responses[0].partition_responses[0]));
        for name in [&topic, "not-there", "il legal", "..", ""] {
            let answer = self.client.metadata(&[name]);
            let mut partitions: Vec<_> = answer.topics[0]
                .partitions
                .iter()
                .map(|found| (found.partition_index, found.error_code, found.leader_id.0, found.leader_epoch))
                .collect();
            partitions.sort_unstable();
            let name = name.replace(&topic, "the topic");
            self.see(&format!("metadata of {name:?}"), format!("{} {partitions:?}", answer.topics[0].error_code));
        }
    }

    fn reading(&mut self) {
        let topic = self.topic.clone();
        for (partition, timestamp) in [(0, -1), (0, -2), (1, -1), (9, -1), (0, now_ms() + 86_400_000)] {
            let answer = self.client.list_offset(&topic, partition, timestamp);
            let timestamp = timestamp.min(0);
            self.see(&format!("offset {partition} {timestamp}"), format!("{answer:?}"));
        }
        for (question, offset, epoch, limit, max) in [
            ("all", 0, -1, 1 << 20, 1 << 20),
            ("known epoch", 0, 0, 1 << 20, 1 << 20),
            ("epoch of the future", 0, 3, 1 << 20, 1 << 20),
            ("below the start", -1, -1, 1 << 20, 1 << 20),
            ("the end", 11, -1, 1 << 20, 1 << 20),
            ("beyond the end", 12, -1, 1 << 20, 1 << 20),
            ("in the middle of a batch", 1, -1, 1, 1 << 20),
            ("first batch over the partition's limit", 0, -1, 1, 1 << 20),
            ("first batch over the request's limit", 0, -1, 1 << 20, 1),
            ("second batch cut", 0, -1, 180, 1 << 20),
        ] {
            for isolation in [0, 1] {
                let request = fetch_request(&[(&topic, 0, offset, epoch, limit)], max, isolation);
                let answer = self.client.fetch(&request);
                let data = &answer.responses[0].partitions[0];
                let shown = format!(
                    "{} {} error {} watermark {} stable {} start {} aborted {:?} bytes {:?}",
                    answer.error_code,
                    answer.session_id,
                    data.error_code,
                    data.high_watermark,
                    data.last_stable_offset,
                    data.log_start_offset,
                    data.aborted_transactions,
                    data.records.as_ref().map(Bytes::len)
                );
                self.see(&format!("fetch {question}, isolation {isolation}"), shown);
            }
        }
        let both = fetch_request(&[(&topic, 0, 0, -1, 1), (&topic, 1, 0, -1, 1)], 1 << 20, 0);
        let answer = self.client.fetch(&both);
        let mut lengths: Vec<_> = answer
            .responses
            .iter()
            .flat_map(|found| &found.partitions)
            .map(|data| (data.partition_index, data.error_code, data.records.as_ref().map(Bytes::len)))
            .collect();
        lengths.sort_unstable();
        self.see("fetch of two partitions over the limits", format!("{lengths:?}"));
        let answer = self.client.fetch_one(&topic, 9, 0, -1);
        self.see(
            "fetch of an unknown partition",
            format!("{} {} {:?}", answer.error_code, answer.high_watermark, answer.records.map(|bytes| bytes.len())),
        );
        for partition in [0, 1, 9] {
            let (error, producers) = self.client.describe_producers(&topic, partition);
            let producers: Vec<_> = producers
                .iter()
                .map(|found| {
                    let txn = found.current_txn_start_offset;
                    (found.producer_epoch, found.last_sequence, found.coordinator_epoch, txn)
                })
                .collect();
            self.see(&format!("producers of {partition}"), format!("{error} {producers:?}"));
        }
    }

    fn odds(&mut self) {
        let (error, id, epoch) = self.client.init_producer_id();
        self.see("a producer id", format!("{error} {} {epoch}", id >= 0));
        // Key 18, version 99, correlation id 5, client id null, no tagged fields; names "" and "" in compact form.
        self.client.send_raw(&[0, 18, 0, 99, 0, 0, 0, 5, 0xff, 0xff, 0, 1, 1, 0]);
        let mut frame = self.client.receive_raw().unwrap();
        assert_eq!(frame.get_i32(), 5);
        let answer = ApiVersionsResponse::decode(&mut frame, 0).unwrap();
        self.see("ApiVersions 99", format!("{} {}", answer.error_code, answer.api_keys.is_empty()));
        // A key that no broker has.
        self.client.send_raw(&[0x03, 0xe8, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
        let answer = self.client.receive_raw().map(|bytes| bytes.len());
        self.see("an unknown API", format!("{answer:?}"));
    }
}

fn observe(cluster: &dyn Cluster, address: SocketAddr, topic: &str) -> Vec<Observation> {
    cluster.create_topic(topic, 2, &[]);
    let mut client = Client::connect(address);
    while client.init_producer_id().0 == 14 {}
    let id = client.init_producer_id().1;
    let mut script = Script { client, topic: topic.to_owned(), seen: Vec::new() };
    script.idempotence(id);
    script.malformed(id);
    script.addresses(id);
    script.reading();
    script.changes(cluster, id);
    script.odds();
    script.seen
}

fn observe_fake() -> Vec<Observation> {
    let kafka = FakeKafka::builder().start();
    observe(&kafka, kafka.address(1), "t")
}

#[test]
fn the_fake_answers_the_script_as_documented() {
    let seen = observe_fake();
    let answer = |question: &str| {
        let found = seen.iter().find(|(asked, _)| asked == question);
        found.unwrap_or_else(|| panic!("{question:?} was not asked")).1.clone()
    };
    let error = |question: &str| {
        let answer = answer(question);
        let code = answer.split_whitespace().skip_while(|&word| word != "error").nth(1);
        code.unwrap_or_else(|| panic!("{answer}")).parse::<i16>().unwrap()
    };
    for (question, code) in [
        ("duplicate with other contents", 0),
        ("inside a stored range", 45),
        ("a gap", 45),
        ("five back", 0),
        ("six back", 45),
        ("new epoch not at 0", 45),
        ("old epoch, a former duplicate", 47),
        ("a wrapped duplicate", 0),
        ("flipped byte", 2),
        ("stamped two hours ahead", 32),
        ("larger than max.message.bytes", 10),
        ("produce 8 to unknown topic", 3),
        ("fetch epoch of the future, isolation 0", 75),
        ("fetch beyond the end, isolation 0", 1),
    ] {
        assert_eq!(error(question), code, "{question}");
    }
    assert_eq!(answer("an unknown API"), "Err(Closed)");
    for (question, code) in [
        ("a late copy", 47),
        ("fetch from 0, leader epoch 1: by epoch", 75),
        ("fetch from 2, leader epoch -1: the front gone up to 3", 1),
        ("fetch from 3, leader epoch -1: the front gone up to 3", 0),
        ("fetch from 9, leader epoch -1: the front gone up to 3", 1),
        ("a duplicate whose batch may be gone", 0),
        ("to a partition that is not there", 3),
        ("to a partition that is new", 0),
        ("to a deleted topic", 3),
        ("fetch from 8, leader epoch -1: made again", 1),
        ("the triple that was stored before", 0),
        ("an epoch of before", 47),
    ] {
        assert_eq!(error(question), code, "{question}");
    }
    assert_eq!(answer("producers of 0: the front gone up to 8"), answer("producers of 0: a bump over several"));
    assert_eq!(answer("producers of 0: deleted"), "3 []");
    assert_eq!(answer("producers of 0: made again"), "0 []");
    assert_eq!(answer("metadata: made again"), "0 [(0, 0, 0)]");
    // Offsets stay, and so does the header of a producer's newest batch.
    let cleaned = answer("read from 0, cleaned");
    let offsets: Vec<_> =
        cleaned.split('"').skip(1).step_by(2).map(|batch| batch.split(" of ").next().unwrap()).collect();
    assert_eq!(offsets, ["0+2 count 1", "4+0 count 1", "5+1 count 0", "7+0 count 1", "8+1 count 2", "10+0 count 1"]);
}

#[test]
#[ignore = "wants a broker: FAKE_KAFKA_COMPARE=127.0.0.1:9092"]
fn a_real_broker_answers_the_script_as_the_fake_does() {
    let address = std::env::var("FAKE_KAFKA_COMPARE").expect("FAKE_KAFKA_COMPARE names a broker");
    let address: SocketAddr = address.parse().expect("FAKE_KAFKA_COMPARE is an address like 127.0.0.1:9092");
    let topic = format!("conformance-{}", now_ms());
    let real = observe(&Real(address), address, &topic);
    let fake = observe_fake();
    assert_eq!(real.len(), fake.len());
    let mut differences = Vec::new();
    for ((question, real), (_, fake)) in real.iter().zip(&fake) {
        if real != fake {
            differences.push(format!("{question}\n    real {real}\n    fake {fake}"));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
}
