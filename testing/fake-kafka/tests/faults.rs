//! Scripted faults, refusals by content, and listeners that are not what a client hopes for.

mod common;

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use common::{Batch, Client, LONG, Lost, flat, produce_request};
use fake_kafka::{Access, ApiKey, FakeKafka, Fault, Listener};

const ID: i64 = 77;
/// Long enough for an answer that comes at once, short enough to wait for one that must not come.
const SHORT: Duration = Duration::from_millis(150);

fn start() -> (FakeKafka, Client) {
    let kafka = FakeKafka::builder().topic("t", 3).coordinator_loads(false).start();
    let client = Client::connect(kafka.address(1));
    (kafka, client)
}

#[test]
fn faults_are_met_in_order_and_strike_one_partition() {
    let (kafka, mut client) = start();
    kafka.fault("t", 0, Fault::AnswerBefore(19));
    kafka.fault("t", 0, Fault::AppendThenAnswer(7));
    kafka.fault("t", 0, Fault::Pass);
    assert_eq!(kafka.pending_faults(), 3);
    let batch = Batch::new(ID, 0, 0, 1);
    // Another partition meets none of it.
    assert_eq!(client.outcome("t", 1, &batch).0, 0);
    assert_eq!(client.outcome("t", 0, &batch), (19, -1));
    assert_eq!(kafka.records("t", 0).len(), 0);
    client.send_produce(&[("t", 0, batch.bytes()), ("t", 2, batch.bytes())], 1_000);
    let mut answer = flat(&client.receive_produce().unwrap());
    answer.sort();
    assert_eq!(answer, [("t".to_owned(), 0, 7, -1), ("t".to_owned(), 2, 0, 0)]);
    assert_eq!(kafka.records("t", 0).len(), 1);
    assert_eq!(client.outcome("t", 0, &batch), (0, 0));
    assert_eq!(kafka.pending_faults(), 0);
}

#[test]
fn connections_close_before_and_after_the_append() {
    let (kafka, mut client) = start();
    kafka.fault("t", 0, Fault::CloseBefore);
    kafka.fault("t", 0, Fault::AppendThenClose);
    kafka.fault("t", 0, Fault::CutAnswer);
    let batch = Batch::new(ID, 0, 0, 1);
    assert_eq!(client.produce("t", 0, &batch).unwrap_err(), Lost::Closed);
    assert_eq!(kafka.record_count("t"), 0);
    let mut client = Client::connect(kafka.address(1));
    assert_eq!(client.produce("t", 0, &batch).unwrap_err(), Lost::Closed);
    assert_eq!(kafka.record_count("t"), 1);
    let mut client = Client::connect(kafka.address(1));
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    let part = client.receive_all();
    let claimed = i32::from_be_bytes(part[..4].try_into().unwrap());
    assert!((part.len() as i32) < claimed + 4 && part.len() > 4, "{} of {claimed}", part.len());
}

#[test]
fn a_hanging_broker_never_answers_and_reads_no_more() {
    let (kafka, mut client) = start();
    kafka.fault("t", 0, Fault::Hang);
    kafka.fault("t", 0, Fault::AppendThenHang);
    let batch = Batch::new(ID, 0, 0, 1);
    assert_eq!(client.answer_within(SHORT).produce("t", 0, &batch).unwrap_err(), Lost::Silent);
    assert_eq!(client.answer_within(SHORT).api_versions().unwrap_err(), Lost::Silent);
    assert_eq!(kafka.record_count("t"), 0);
    let mut client = Client::connect(kafka.address(1));
    assert_eq!(client.answer_within(SHORT).produce("t", 0, &batch).unwrap_err(), Lost::Silent);
    kafka.wait_for_records("t", 1, LONG);
    assert_eq!(kafka.requests_of(ApiKey::ApiVersions).len(), 0);
}

#[test]
fn a_gate_holds_one_partition_and_with_it_the_merged_answer() {
    let (kafka, mut client) = start();
    let before = kafka.gate();
    kafka.fault("t", 0, Fault::DelayUntil(before.clone()));
    let batch = Batch::new(ID, 0, 0, 1);
    client.send_produce(&[("t", 0, batch.bytes()), ("t", 1, batch.bytes())], 1_000);
    before.wait_until_reached(1, LONG);
    assert_eq!((kafka.records("t", 0).len(), kafka.records("t", 1).len()), (0, 1));
    assert_eq!(client.answer_within(SHORT).receive_produce().unwrap_err(), Lost::Silent);
    before.open();
    assert_eq!(flat(&client.answer_within(LONG).receive_produce().unwrap()).len(), 2);

    let after = kafka.gate();
    kafka.fault_broker(1, ApiKey::Produce, Fault::AppendThenDelayUntil(after.clone()));
    client.send_produce(&[("t", 2, batch.bytes())], 1_000);
    after.wait_until_reached(1, LONG);
    assert_eq!(kafka.records("t", 2).len(), 1);
    // Only this connection waits.
    assert!(Client::connect(kafka.address(1)).api_versions().is_ok());
    after.open();
    assert_eq!(flat(&client.receive_produce().unwrap()), [("t".to_owned(), 2, 0, 0)]);
}

#[test]
fn frames_that_no_decoder_may_trust() {
    let (kafka, mut client) = start();
    let batch = Batch::new(ID, 0, 0, 1);
    for fault in [Fault::Garbage, Fault::WrongCorrelation, Fault::Leftovers] {
        kafka.fault("t", 0, fault);
    }
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    let garbage = client.receive_raw().unwrap();
    assert_eq!(i32::from_be_bytes(garbage[..4].try_into().unwrap()), 101);
    assert!(garbage[4..].iter().all(|&byte| byte == 0x7f));
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    assert_eq!(client.receive_raw().unwrap()[..4], 103i32.to_be_bytes());
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    let with_leftovers = client.receive_raw().unwrap();
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    assert_eq!(client.receive_raw().unwrap().len() + 3, with_leftovers.len());

    kafka.fault("t", 0, Fault::HugeLength);
    client.send_produce(&[("t", 0, batch.bytes())], 1_000);
    assert_eq!(client.receive_bytes(12).unwrap()[..4], i32::MAX.to_be_bytes());
    assert_eq!(client.answer_within(SHORT).receive_bytes(1).unwrap_err(), Lost::Silent);
}

#[test]
fn answers_lack_partitions_or_come_shuffled() {
    let (kafka, mut client) = start();
    let batch = Batch::new(ID, 0, 0, 1);
    let parts: Vec<_> = (0..3).map(|partition| ("t", partition, batch.bytes())).collect();
    kafka.fault("t", 1, Fault::OmitPartition);
    client.send_produce(&parts, 1_000);
    let partitions = |answer: &[(String, i32, i16, i64)]| answer.iter().map(|found| found.1).collect::<Vec<_>>();
    assert_eq!(partitions(&flat(&client.receive_produce().unwrap())), [2, 0]);
    assert_eq!(kafka.record_count("t"), 3);
    kafka.fault("t", 1, Fault::ShuffleAnswer);
    client.send_produce(&parts, 1_000);
    let answer = client.receive_produce().unwrap();
    assert_eq!(answer.responses.len(), 3, "a topic entry each");
    assert_eq!(partitions(&flat(&answer)), [1, 0, 2]);
}

#[test]
fn a_throttled_connection_is_answered_at_once_and_then_not_read() {
    let (kafka, mut client) = start();
    let pause = Duration::from_millis(300);
    kafka.fault("t", 0, Fault::Throttle(pause));
    let started = Instant::now();
    client.send_produce(&[("t", 0, Batch::new(ID, 0, 0, 1).bytes())], 1_000);
    assert_eq!(client.receive_produce().unwrap().throttle_time_ms, 300);
    assert!(client.api_versions().is_ok());
    assert!(started.elapsed() >= pause, "read after {:?}", started.elapsed());
}

#[test]
fn other_apis_meet_faults_too() {
    let (kafka, mut client) = start();
    kafka.fault_api(ApiKey::InitProducerId, Fault::AnswerBefore(31));
    assert_eq!(client.init_producer_id().0, 31);
    assert_eq!(client.init_producer_id().0, 0);
    kafka.fault_partition(ApiKey::ListOffsets, "t", 1, Fault::AnswerBefore(78));
    assert_eq!(client.list_offset("t", 0, -1).0, 0);
    assert_eq!(client.list_offset("t", 1, -1).0, 78);
    kafka.fault_partition(ApiKey::Metadata, "t", -1, Fault::AnswerBefore(3));
    assert_eq!(client.metadata(&["t"]).topics[0].error_code, 3);
    kafka.fault_partition(ApiKey::Fetch, "t", 0, Fault::AnswerBefore(56));
    assert_eq!(client.fetch_one("t", 0, 0, -1).error_code, 56);
    kafka.fault_partition(ApiKey::DescribeProducers, "t", 0, Fault::AnswerBefore(-1));
    assert_eq!(client.describe_producers("t", 0).0, -1);
    kafka.fault_broker(1, ApiKey::ApiVersions, Fault::CloseBefore);
    assert_eq!(client.api_versions().unwrap_err(), Lost::Closed);
    assert_eq!(kafka.pending_faults(), 0);
}

#[test]
fn one_bad_record_refuses_its_batch_and_is_named_from_produce_8_on() {
    let (kafka, mut client) = start();
    kafka.reject_records("t", |record| record.value.as_deref() == Some(b"v1"));
    let batch = Batch::new(ID, 0, 0, 3);
    let refused = client.produce("t", 0, &batch).unwrap();
    assert_eq!((refused.error_code, refused.base_offset), (87, -1));
    assert_eq!(refused.record_errors.iter().map(|error| error.batch_index).collect::<Vec<_>>(), [1]);
    assert!(refused.error_message.is_some());
    assert_eq!(kafka.record_count("t"), 0);
    let old = client.call(&produce_request(&[("t", 0, batch.bytes())], -1, 1_000), 7).unwrap();
    let old = &old.responses[0].partition_responses[0];
    assert_eq!((old.error_code, old.record_errors.len()), (87, 0));
    kafka.reject_records_with("t", 87, false, |_| true);
    assert_eq!(client.produce("t", 0, &batch).unwrap().record_errors, []);
    kafka.accept_records("t");
    assert_eq!(client.outcome("t", 0, &batch), (0, 0));
    // Validation comes before the duplicate check.
    kafka.reject_records("t", |_| true);
    assert_eq!(client.outcome("t", 0, &batch).0, 87);
}

#[test]
fn sizes_clocks_and_permissions_are_checked() {
    let (kafka, mut client) = start();
    let batch = Batch::new(ID, 0, 0, 3);
    kafka.set_max_message_bytes("t", batch.bytes().len());
    assert_eq!(client.outcome("t", 0, &batch), (0, 0));
    kafka.set_max_message_bytes("t", batch.bytes().len() - 1);
    assert_eq!(client.outcome("t", 0, &batch).0, 10, "a stored batch, refused all the same");

    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as i64;
    kafka.check_clock("t", Some(Duration::from_secs(3_600)));
    let stamped = Batch::new(ID, 0, 0, 1).stamped(now);
    kafka.set_clock_offset_ms(-2 * 3_600_000);
    let refused = client.produce("t", 1, &stamped).unwrap();
    assert_eq!((refused.error_code, refused.record_errors.len()), (32, 1));
    kafka.set_clock_offset_ms(0);
    assert_eq!(client.outcome("t", 1, &stamped), (0, 0));

    kafka.deny("t", Access::Write);
    kafka.deny("t", Access::Read);
    assert_eq!(client.outcome("t", 1, &stamped).0, 29);
    assert_eq!(client.fetch_one("t", 1, 0, -1).error_code, 29);
    assert_eq!(client.describe_producers("t", 1).0, 29);
    kafka.allow("t", Access::Write);
    assert_eq!(client.outcome("t", 1, &stamped), (0, 0));
}

#[test]
fn malformed_batches_are_told_apart() {
    let (kafka, mut client) = start();
    let good = Batch::new(ID, 0, 0, 2).bytes();
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
    let mut code = |batch: Bytes| client.produce_bytes("t", 0, batch).unwrap().error_code;
    assert_eq!(code(with(good.len() - 1, &[9]).freeze()), 2, "a flipped byte");
    assert_eq!(code(with(0, &5i64.to_be_bytes()).freeze()), 87, "a base offset");
    assert_eq!(code(with(16, &[1]).freeze()), 87, "magic 1");
    assert_eq!(code(sealed(23, &5i32.to_be_bytes())), 87, "last offset delta against count");
    assert_eq!(code(sealed(53, &(-1i32).to_be_bytes())), 87, "a producer id without sequence");
    assert_eq!(code(sealed(21, &0x20i16.to_be_bytes())), 87, "a control batch");
    assert_eq!(code([&good[..], &good[..]].concat().into()), 87, "two batches");
    assert_eq!(code(good.slice(..good.len() - 1)), 2, "cut");
    assert_eq!(code(Bytes::new()), 87, "nothing");
    assert_eq!(code(good.clone()), 0);
    assert_eq!(kafka.record_count("t"), 2);
}

#[test]
fn unreadable_and_oversized_requests_and_idleness_close_the_connection() {
    let kafka = FakeKafka::builder().topic("t", 1).request_max_bytes(2_000).start();
    let mut client = Client::connect(kafka.address(1));
    client.send_raw(&vec![0; 2_001]);
    assert_eq!(client.receive_raw().unwrap_err(), Lost::Closed);
    let mut client = Client::connect(kafka.address(1));
    client.send_raw(&[0, 0, 0, 8, 0, 0, 0, 1, 0, 1, b'x', 0x7f, 0xff, 0xff, 0xff]);
    assert_eq!(client.receive_raw().unwrap_err(), Lost::Closed);
    assert_eq!(kafka.complaints().len(), 1);
    let kafka = FakeKafka::builder().idle_close(SHORT).start();
    assert_eq!(Client::connect(kafka.address(1)).receive_raw().unwrap_err(), Lost::Closed, "idle");
}

#[test]
fn listeners_that_want_something_else() {
    let kafka = FakeKafka::builder().topic("t", 1).listener(Listener::Sasl).start();
    let mut client = Client::connect(kafka.address(1));
    assert!(client.api_versions().is_ok());
    assert_eq!(client.produce("t", 0, &Batch::new(ID, 0, 0, 1)).unwrap_err(), Lost::Closed);
    kafka.set_listener(1, Listener::Tls { alert: false });
    assert_eq!(Client::connect(kafka.address(1)).api_versions().unwrap_err(), Lost::Closed);
    kafka.set_listener(1, Listener::Tls { alert: true });
    let mut client = Client::connect(kafka.address(1));
    client.write(&[0, 0, 0, 8, 0, 18, 0, 0, 0, 0, 0, 1]);
    assert_eq!(client.receive_all(), [0x15, 3, 3, 0, 2, 2, 0x28]);
    kafka.set_listener(1, Listener::Http);
    let mut client = Client::connect(kafka.address(1));
    client.write(&[0, 0, 0, 8, 0, 18, 0, 0, 0, 0, 0, 1]);
    assert!(client.receive_all().starts_with(b"HTTP/1.1 400"));
    assert_eq!(kafka.requests_of(ApiKey::Produce).len(), 1);
}
