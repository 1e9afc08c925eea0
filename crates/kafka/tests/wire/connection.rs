//! A connection against peers that follow a script: what it sends, and what it makes of every way to fail.

use crate::batches::{batch, records};
use crate::peer::{
    LONG, SHORT, answer_metadata, answer_versions, current_versions, frame, offer_versions, producer_id_answer,
    receive, versions_but, welcome, without,
};
use crate::samples::{self, encoded};
use kafka_protocol::messages;
use outboxd_kafka::connection::{Address, Connection, ConnectionOptions};
use outboxd_kafka::error::{CallError, ConnectError, ErrorCode, Loss};
use outboxd_kafka::protocol::{
    ApiKey, DecodeError, DescribeProducersRequest, FetchPartition, FetchRequest, InitProducerIdRequest, ProduceRequest,
    VersionRange,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A peer that accepts one connection and follows its script.
struct Peer {
    address: Address,
    thread: JoinHandle<()>,
}

impl Peer {
    fn new(script: impl FnOnce(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            script(stream);
        });
        Peer { address, thread }
    }

    /// A peer that is a broker until the connection is open.
    fn broker(script: impl FnOnce(TcpStream) + Send + 'static) -> Self {
        Peer::new(move |mut stream| {
            welcome(&mut stream, current_versions());
            script(stream);
        })
    }

    fn open(&self) -> Result<Connection, ConnectError> {
        Connection::open(&self.address, &options())
    }

    fn done(self) {
        self.thread.join().unwrap();
    }
}

fn options() -> ConnectionOptions {
    ConnectionOptions {
        client_id: "test".into(),
        setup_timeout: LONG,
        receive_bytes_max: 8 * 1024 * 1024,
        ..ConnectionOptions::default()
    }
}

/// Waits until the other side is gone.
fn linger(mut stream: TcpStream) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

/// After a failed call the connection is dead, says so, and takes nothing more.
fn assert_dead(connection: &mut Connection) {
    assert!(!connection.alive());
    let error = connection.call(&InitProducerIdRequest, LONG).unwrap_err();
    assert!(matches!(&error, CallError::NotSent(source) if source.kind() == ErrorKind::NotConnected), "{error:?}");
    assert!(!error.maybe_applied());
}

#[test]
fn calls_are_answered_one_after_the_other() {
    let peer = Peer::broker(|mut stream| {
        for _ in 0..3 {
            let request = receive(&mut stream);
            assert_eq!((request.api, request.version), (22, 1));
            // One byte at a time: an answer may come in any pieces.
            for byte in frame(request.correlation_id, &producer_id_answer()) {
                stream.write_all(&[byte]).unwrap();
            }
        }
        linger(stream);
    });
    let mut connection = peer.open().unwrap();
    assert!(connection.alive());
    assert_eq!(connection.api_version(ApiKey::Produce), Some(8));
    assert_eq!(connection.api_version(ApiKey::DescribeProducers), Some(0));
    assert_eq!(connection.peer().to_string(), peer.address.to_string());
    for _ in 0..3 {
        let answer = connection.call(&InitProducerIdRequest, LONG).unwrap();
        assert_eq!((answer.producer_id, answer.error), (1 << 40, ErrorCode::COORDINATOR_LOAD_IN_PROGRESS));
    }
    assert!(connection.idle_for() < LONG);
    drop(connection);
    peer.done();
}

#[test]
fn produce_sends_what_it_encodes_without_a_byte_more() {
    let (small, large) = (records(3, 100), records(40, 100_000));
    let batches = [batch("users", 1, 40, &large), batch("audit", 0, 3, &small), batch("users", 0, 3, &small)];
    let request = ProduceRequest { acks: -1, timeout_ms: 1_500, batches: &batches };
    for (offered, spoken) in [(13, 8), (7, 7)] {
        let expected = request.encode();
        let peer = Peer::new(move |mut stream| {
            welcome(&mut stream, versions_but((0, 0, offered)));
            let request = receive(&mut stream);
            assert_eq!((request.api, request.version), (0, spoken));
            assert!(request.body == expected);
            let answer = frame(request.correlation_id, &encoded(&samples::produce(spoken), spoken));
            stream.write_all(&answer).unwrap();
            linger(stream);
        });
        let mut connection = peer.open().unwrap();
        let answer = connection.produce(&request, LONG).unwrap();
        assert_eq!(answer.partition("a", 7).unwrap().base_offset, 1 << 34);
        drop(connection);
        peer.done();
    }
}

#[test]
fn a_large_answer_is_read_whole() {
    let content: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
    let sent = content.clone();
    let peer = Peer::broker(move |mut stream| {
        for _ in 0..2 {
            let request = receive(&mut stream);
            stream.write_all(&frame(request.correlation_id, &encoded(&samples::fetch(sent.clone()), 10))).unwrap();
        }
        linger(stream);
    });
    let mut connection = peer.open().unwrap();
    let partition =
        FetchPartition { topic: "users", partition: 3, current_leader_epoch: 1, fetch_offset: 0, max_bytes: 1 };
    let request = FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 1, partitions: &[partition] };
    for _ in 0..2 {
        assert!(connection.call(&request, LONG).unwrap().partitions[0].records == content);
    }
    drop(connection);
    peer.done();
}

#[test]
fn a_name_with_several_addresses_is_tried_through() {
    let peer = Peer::broker(linger);
    // ::1 comes first on most machines, and nothing listens there.
    let address = Address { host: "localhost".into(), port: peer.address.port };
    let connection = Connection::open(&address, &options()).unwrap();
    assert_eq!(connection.peer().to_string(), format!("{address} (127.0.0.1)"));
    drop(connection);
    peer.done();
}

#[test]
fn what_does_not_connect_is_named() {
    let unused = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let address = Address { host: "127.0.0.1".into(), port: unused };
    let error = Connection::open(&address, &options()).unwrap_err();
    assert!(matches!(&error, ConnectError::Connect { tried: 1, .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("is the broker running"));

    // Too long for the resolver, which needs no network to say so.
    let address = Address { host: "x".repeat(300), port: 1 };
    let error = Connection::open(&address, &options()).unwrap_err();
    assert!(matches!(&error, ConnectError::Resolve { .. }), "{error:?}");

    let options = ConnectionOptions { client_id: "x".repeat(32_768), ..options() };
    let error = Connection::open(&address, &options).unwrap_err();
    assert!(matches!(error, ConnectError::ClientId { bytes: 32_768 }), "{error:?}");
}

#[test]
fn eof_or_garbage_instead_of_versions_is_not_kafka() {
    for (garbage, hint) in [
        (&b""[..], "it is a TLS listener (write security_protocol = \"SSL\" or \"SASL_SSL\"), or not Kafka"),
        (&[21, 3, 3, 0, 2, 2, 80], "this is a TLS listener: write security_protocol = \"SSL\" (or \"SASL_SSL\")"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "web server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "something else than Kafka"),
    ] {
        let peer = Peer::new(move |mut stream| {
            receive(&mut stream);
            stream.write_all(garbage).unwrap();
        });
        let error = peer.open().unwrap_err();
        assert!(matches!(&error, ConnectError::NotKafka { .. }), "{error:?}");
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        peer.done();
    }
    // Closed without having read the request: a reset.
    let peer = Peer::new(|stream| {
        let mut byte = [0];
        assert_eq!(stream.peek(&mut byte).unwrap(), 1);
    });
    let error = peer.open().unwrap_err();
    assert!(matches!(&error, ConnectError::NotKafka { .. }), "{error:?}");
    peer.done();
}

#[test]
fn eof_on_the_request_after_versions_means_sasl() {
    let peer = Peer::new(|mut stream| {
        answer_versions(&mut stream, current_versions());
        receive(&mut stream);
    });
    let error = peer.open().unwrap_err();
    assert!(matches!(&error, ConnectError::WantsSasl { .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("SASL"));
    peer.done();
}

#[test]
fn a_peer_that_says_nothing_is_given_up() {
    let peer = Peer::new(linger);
    let options = ConnectionOptions { setup_timeout: SHORT, ..options() };
    let error = Connection::open(&peer.address, &options).unwrap_err();
    assert!(matches!(&error, ConnectError::Silent { waited, .. } if *waited >= SHORT), "{error:?}");
    peer.done();
}

#[test]
fn a_broker_without_a_common_version_is_named_with_both_ranges() {
    for (versions, api, theirs, hint) in [
        (versions_but((0, 0, 6)), ApiKey::Produce, Some((0, 6)), "2.1 is the oldest"),
        (versions_but((3, 8, 13)), ApiKey::Metadata, Some((8, 13)), "newer than"),
        (vec![(18, 0, 4), (3, 0, 13)], ApiKey::Produce, None, "controller"),
        (versions_but((1, 0, 3)), ApiKey::Fetch, Some((0, 3)), "2.1 is the oldest"),
        (without(22), ApiKey::InitProducerId, None, "has no idempotent producers, so nothing could be promised"),
    ] {
        let peer = Peer::new(|mut stream| {
            answer_versions(&mut stream, versions);
            linger(stream);
        });
        let error = peer.open().unwrap_err();
        let expected = theirs.map(|(min, max)| VersionRange { min, max });
        assert!(
            matches!(&error, ConnectError::VersionUnsupported { api: named, theirs, .. } if *named == api && *theirs == expected),
            "{error:?}"
        );
        assert!(error.hint().unwrap().contains(hint), "{error:?}");
        peer.done();
    }
    let error = ConnectError::VersionUnsupported {
        address: "kafka:9092".parse().unwrap(),
        api: ApiKey::Produce,
        ours: VersionRange { min: 7, max: 8 },
        theirs: Some(VersionRange { min: 0, max: 6 }),
    };
    assert_eq!(
        error.to_string(),
        "kafka:9092 and this client have no version of Produce in common: it speaks 0 to 6, this client 7 to 8"
    );
}

#[test]
fn an_error_code_in_the_versions_is_told() {
    for (code, versions) in [(35, &[3, 0][..]), (42, &[3])] {
        let peer = Peer::new(move |mut stream| {
            for version in versions {
                refuse_versions(&mut stream, *version, code);
            }
        });
        let error = peer.open().unwrap_err();
        assert!(matches!(&error, ConnectError::ApiVersions { error, .. } if error.0 == code), "{error:?}");
        peer.done();
    }
}

/// Error 35 comes in the layout of version 0.
fn refuse_versions(stream: &mut TcpStream, version: i16, code: i16) {
    let request = receive(stream);
    assert_eq!((request.api, request.version), (18, version));
    let layout = if code == 35 { 0 } else { version };
    let body = encoded(&messages::ApiVersionsResponse::default().with_error_code(code), layout);
    stream.write_all(&frame(request.correlation_id, &body)).unwrap();
}

/// Before 2.4 they are, and some relatives of Kafka's still.
#[test]
fn a_broker_that_does_not_know_the_newest_question_for_versions_is_asked_the_oldest() {
    let peer = Peer::new(|mut stream| {
        refuse_versions(&mut stream, 3, 35);
        let request = receive(&mut stream);
        assert_eq!((request.api, request.version, request.body.len()), (18, 0, 0));
        offer_versions(&mut stream, &request, versions_but((18, 0, 2)));
        answer_metadata(&mut stream);
        linger(stream);
    });
    let connection = peer.open().unwrap();
    assert_eq!(connection.api_version(ApiKey::ApiVersions), Some(2));
    assert_eq!(connection.api_version(ApiKey::Metadata), Some(7));
    drop(connection);
    peer.done();
}

#[test]
fn what_the_broker_does_not_speak_is_not_sent_and_harms_nothing() {
    let peer = Peer::new(|mut stream| {
        welcome(&mut stream, without(61));
        let request = receive(&mut stream);
        assert_eq!(request.api, 22);
        stream.write_all(&frame(request.correlation_id, &producer_id_answer())).unwrap();
    });
    let mut connection = peer.open().unwrap();
    assert_eq!(connection.api_version(ApiKey::DescribeProducers), None);
    let error = connection.call(&DescribeProducersRequest { partitions: &[("users", 0)] }, LONG).unwrap_err();
    assert!(matches!(error, CallError::Unsupported { api: ApiKey::DescribeProducers, .. }), "{error:?}");
    assert!(!error.maybe_applied());
    connection.call(&InitProducerIdRequest, LONG).unwrap();
    peer.done();
}

/// Calls a broker that answers with these bytes, made from the request's correlation id, and stays connected.
fn call_answered_with(answer: impl FnOnce(i32) -> Vec<u8> + Send + 'static, patience: Duration) -> CallError {
    let peer = Peer::broker(|mut stream| {
        let request = receive(&mut stream);
        stream.write_all(&answer(request.correlation_id)).unwrap();
        linger(stream);
    });
    let mut connection = peer.open().unwrap();
    let error = connection.call(&InitProducerIdRequest, patience).unwrap_err();
    assert!(error.maybe_applied(), "{error:?}");
    assert_dead(&mut connection);
    drop(connection);
    peer.done();
    error
}

fn loss_of(error: CallError) -> Loss {
    match error {
        CallError::Lost { api: ApiKey::InitProducerId | ApiKey::Produce, loss, .. } => loss,
        other => panic!("{other:?}"),
    }
}

#[test]
fn impossible_frame_lengths_are_refused() {
    for claimed in [i32::MAX, 8 * 1024 * 1024 + 1, -1, i32::MIN, 3, 0] {
        let loss = loss_of(call_answered_with(move |_| claimed.to_be_bytes().to_vec(), LONG));
        assert!(matches!(&loss, Loss::FrameLength { claimed: told, .. } if *told == claimed), "{loss:?}");
    }
}

#[test]
fn an_answer_must_be_to_its_request() {
    let loss = loss_of(call_answered_with(|id| frame(id + 1, &producer_id_answer()), LONG));
    assert!(matches!(loss, Loss::CorrelationId { expected: 2, got: 3 }), "{loss:?}");
}

#[test]
fn an_answer_must_end_where_it_should() {
    let longer = |id| frame(id, &[producer_id_answer(), vec![0, 0]].concat());
    let error = call_answered_with(longer, LONG);
    assert!(matches!(error, CallError::Decode(DecodeError::Leftover { bytes: 2, .. })), "{error:?}");

    let shorter = |id| frame(id, &producer_id_answer()[..10]);
    let error = call_answered_with(shorter, LONG);
    assert!(matches!(error, CallError::Decode(DecodeError::Short { .. })), "{error:?}");

    let followed = |id| [frame(id, &producer_id_answer()), vec![0]].concat();
    let loss = loss_of(call_answered_with(followed, LONG));
    assert!(matches!(loss, Loss::Surplus { bytes: 1 }), "{loss:?}");
}

#[test]
fn an_answer_that_does_not_come_in_time_is_lost() {
    // Nothing at all, a part of the length, a part of the answer.
    for bytes in [0, 2, 4, 20] {
        let started = Instant::now();
        let error = call_answered_with(move |id| frame(id, &producer_id_answer())[..bytes].to_vec(), SHORT);
        assert!(matches!(error, CallError::Lost { loss: Loss::Timeout, .. }), "{error:?}");
        assert!(started.elapsed() >= SHORT);
    }
}

/// Sends a Produce with these records to a broker that then does `script`.
fn produce_to(value_bytes: usize, patience: Duration, script: impl FnOnce(TcpStream) + Send + 'static) -> CallError {
    let peer = Peer::broker(script);
    let mut connection = peer.open().unwrap();
    let records = records(1, value_bytes);
    let batches = [batch("users", 0, 1, &records)];
    let request = ProduceRequest { acks: -1, timeout_ms: 1_500, batches: &batches };
    let error = connection.produce(&request, patience).unwrap_err();
    assert_dead(&mut connection);
    drop(connection);
    peer.done();
    error
}

/// More than the socket buffers of both sides take.
const MORE_THAN_BUFFERED_BYTES: usize = 64 * 1024 * 1024;

#[test]
fn a_connection_lost_before_the_last_byte_sent_nothing_to_act_on() {
    let error = produce_to(MORE_THAN_BUFFERED_BYTES, LONG, |mut stream| {
        stream.read_exact(&mut [0; 1_000]).unwrap();
        // Dropped with bytes unread: a reset.
    });
    assert!(matches!(error, CallError::NotSent(_)), "{error:?}");
    assert!(!error.maybe_applied());
}

#[test]
fn a_broker_that_stops_reading_before_the_last_byte_got_nothing_to_act_on() {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let error = produce_to(MORE_THAN_BUFFERED_BYTES, SHORT, move |stream| {
        // Keeps the connection open, unread, until the client has given up.
        std::thread::spawn(move || {
            let _ = wait.recv();
            drop(stream);
        });
    });
    drop(done);
    assert!(matches!(&error, CallError::NotSent(source) if source.kind() == ErrorKind::TimedOut), "{error:?}");
}

#[test]
fn a_connection_lost_after_the_last_byte_leaves_all_open() {
    // Read and closed: the usual way for a broker to go.
    let error = produce_to(1_000, LONG, |mut stream| {
        receive(&mut stream);
    });
    assert!(error.maybe_applied());
    assert!(matches!(loss_of(error), Loss::Closed { partial: false }));

    // Closed within the answer.
    let error = produce_to(1_000, LONG, |mut stream| {
        let request = receive(&mut stream);
        stream.write_all(&frame(request.correlation_id, &[0; 100])[..50]).unwrap();
    });
    assert!(error.maybe_applied());
    assert!(matches!(loss_of(error), Loss::Closed { partial: true }));

    // Written whole, but into buffers, and then reset.
    let error = produce_to(1_000, LONG, |stream| {
        wait_until("the whole request is there", || stream.peek(&mut [0; 2_000]).unwrap() > 1_100);
    });
    assert!(error.maybe_applied(), "{error:?}");
    let loss = loss_of(error);
    assert!(matches!(&loss, Loss::Io(source) if source.kind() == ErrorKind::ConnectionReset), "{loss:?}");
}

#[test]
fn a_connection_closed_while_idle_is_noticed_before_anything_is_sent() {
    for ask_first in [false, true] {
        let peer = Peer::broker(drop);
        let mut connection = peer.open().unwrap();
        peer.done();
        if ask_first {
            wait_until("the close arrived", || !connection.alive());
            assert_dead(&mut connection);
        } else {
            // The peer has closed before `done` returned, and loopback delivers at once.
            let error = connection.call(&InitProducerIdRequest, LONG).unwrap_err();
            assert!(
                matches!(&error, CallError::NotSent(source) if source.kind() == ErrorKind::ConnectionAborted),
                "{error:?}"
            );
            assert_dead(&mut connection);
        }
    }
}

#[test]
fn bytes_nobody_asked_for_end_the_connection_before_anything_is_sent() {
    let (opened, told) = std::sync::mpsc::channel();
    let peer = Peer::broker(move |mut stream| {
        // Sooner it could come along with the answer that opens the connection.
        told.recv().unwrap();
        stream.write_all(&[0]).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        assert!(rest.is_empty(), "{rest:x?}");
    });
    let mut connection = peer.open().unwrap();
    opened.send(()).unwrap();
    wait_until("the byte arrived", || !connection.alive());
    assert_dead(&mut connection);
    drop(connection);
    peer.done();
}
