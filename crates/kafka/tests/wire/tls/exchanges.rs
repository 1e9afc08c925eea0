//! Requests and answers in TLS, and every way they fail: as in the clear, a call ends by its deadline and says what was sent.

use super::certificates::Authority;
use super::{Security, Server, TlsPeer, chain, impatient, linger, options, server_config, server_config_of, settings};
use crate::batches::{batch, records};
use crate::peer::{LONG, SHORT, frame, producer_id_answer, receive};
use crate::samples::{self, encoded};
use outboxd_kafka::connection::{Address, Connection};
use outboxd_kafka::error::{CallError, ConnectError, Loss};
use outboxd_kafka::protocol::{FetchPartition, FetchRequest, InitProducerIdRequest, ProduceRequest};
use rustls::ServerConfig;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Instant;

struct Scene {
    authority: Authority,
    security: Security,
}

impl Scene {
    fn new() -> Scene {
        let authority = Authority::new();
        let security = Security::new(&settings(authority.ca())).unwrap();
        Scene { authority, security }
    }

    fn config(&self) -> ServerConfig {
        server_config(&self.authority.server())
    }

    /// An open connection to a broker that goes on with the script.
    fn open(&self, script: impl FnOnce(TlsPeer) + Send + 'static) -> (Connection, Server) {
        let server = Server::broker(self.config(), script);
        (server.open(&self.security).unwrap(), server)
    }
}

fn answer(stream: &mut TlsPeer) {
    let request = receive(stream);
    stream.write_all(&frame(request.correlation_id, &producer_id_answer())).unwrap();
}

/// One that waits until the test says so.
fn gate() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    mpsc::channel()
}

fn assert_dead(connection: &mut Connection) {
    assert!(!connection.alive());
    let error = connection.call(&InitProducerIdRequest, LONG).unwrap_err();
    assert!(!error.maybe_applied(), "{error:?}");
}

#[test]
fn calls_are_answered_in_both_versions_of_tls_one_byte_at_a_time() {
    let scene = Scene::new();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = server_config_of(&scene.authority.server(), &[version]);
        let server = Server::broker(config, |mut stream| {
            for _ in 0..3 {
                let request = receive(&mut stream);
                for byte in frame(request.correlation_id, &producer_id_answer()) {
                    stream.write_all(&[byte]).unwrap();
                    stream.flush().unwrap();
                }
            }
            linger(stream);
        });
        let mut connection = server.open(&scene.security).unwrap();
        for _ in 0..3 {
            assert!(connection.alive());
            assert_eq!(connection.call(&InitProducerIdRequest, LONG).unwrap().producer_id, 1 << 40);
        }
        drop(connection);
        server.done();
    }
}

/// SNI goes with a name, never with an address.
#[test]
fn the_server_is_told_the_name_that_is_wanted() {
    let scene = Scene::new();
    for (host, sni) in [("localhost", Some("localhost")), ("127.0.0.1", None)] {
        let server = Server::broker(scene.config(), move |stream| {
            assert_eq!(stream.conn.server_name(), sni);
            linger(stream);
        });
        let address = Address { host: host.into(), port: server.address.port };
        drop(Connection::open(&address, &options(&scene.security)).unwrap());
        server.done();
    }
}

#[test]
fn a_large_produce_arrives_byte_for_byte_and_a_large_answer_is_read_whole() {
    let scene = Scene::new();
    let (small, large) = (records(3, 100), records(40, 100_000));
    let batches = [batch("users", 1, 40, &large), batch("audit", 0, 3, &small), batch("users", 0, 3, &small)];
    let request = ProduceRequest { acks: -1, timeout_ms: 1_500, batches: &batches };
    let expected = request.encode();
    let content: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
    let sent = content.clone();
    let (mut connection, server) = scene.open(move |mut stream| {
        let request = receive(&mut stream);
        assert!(request.body == expected);
        stream.write_all(&frame(request.correlation_id, &encoded(&samples::produce(8), 8))).unwrap();
        let request = receive(&mut stream);
        stream.write_all(&frame(request.correlation_id, &encoded(&samples::fetch(sent), 10))).unwrap();
        linger(stream);
    });
    connection.produce(&request, LONG).unwrap();
    let partition =
        FetchPartition { topic: "users", partition: 3, current_leader_epoch: 1, fetch_offset: 0, max_bytes: 1 };
    let request = FetchRequest { max_wait_ms: 0, min_bytes: 1, max_bytes: 1, partitions: &[partition] };
    assert!(connection.call(&request, LONG).unwrap().partitions[0].records == content);
    drop(connection);
    server.done();
}

#[test]
fn tickets_and_new_keys_on_an_idle_connection_are_no_fault() {
    let scene = Scene::new();
    let (said, wait) = gate();
    let (mut connection, server) = scene.open(move |mut stream| {
        // The tickets are there already: the server has sent them after the handshake.
        for _ in 0..3 {
            stream.conn.refresh_traffic_keys().unwrap();
            stream.flush().unwrap();
        }
        said.send(()).unwrap();
        answer(&mut stream);
        answer(&mut stream);
        linger(stream);
    });
    wait.recv().unwrap();
    assert!(connection.alive());
    connection.call(&InitProducerIdRequest, LONG).unwrap();
    connection.call(&InitProducerIdRequest, LONG).unwrap();
    assert!(connection.alive());
    drop(connection);
    server.done();
}

/// A farewell, an end without one, half a record before it.
#[test]
fn an_end_while_idle_is_seen_before_anything_is_sent() {
    let scene = Scene::new();
    let ends: [fn(&mut TlsPeer); 3] = [
        |stream| {
            stream.conn.send_close_notify();
            stream.flush().unwrap();
        },
        |_| {},
        |stream| stream.sock.write_all(&[23, 3, 3, 1, 0, 7, 7, 7]).unwrap(),
    ];
    for end in ends {
        let (said, wait) = gate();
        let (mut connection, server) = scene.open(move |mut stream| {
            answer(&mut stream);
            end(&mut stream);
            drop(stream);
            said.send(()).unwrap();
        });
        connection.call(&InitProducerIdRequest, LONG).unwrap();
        wait.recv().unwrap();
        server.done();
        let error = connection.call(&InitProducerIdRequest, LONG).unwrap_err();
        assert!(matches!(&error, CallError::NotSent(_)), "{error:?}");
        assert!(!error.maybe_applied());
        assert_dead(&mut connection);
    }
}

/// Also when it came in one record with an answer, and waits in the library, where no look into the socket sees it.
#[test]
fn data_that_nobody_asked_for_is_a_fault() {
    let scene = Scene::new();
    let ((go, wait_to_go), (said, wait)) = (gate(), gate());
    let (mut connection, server) = scene.open(move |mut stream| {
        wait_to_go.recv().unwrap();
        stream.write_all(b"hello").unwrap();
        stream.flush().unwrap();
        said.send(()).unwrap();
        linger(stream);
    });
    go.send(()).unwrap();
    wait.recv().unwrap();
    let error = connection.call(&InitProducerIdRequest, LONG).unwrap_err();
    assert!(matches!(&error, CallError::NotSent(source) if source.kind() == ErrorKind::InvalidData), "{error:?}");
    assert_dead(&mut connection);
    server.done();

    let (mut connection, server) = scene.open(|mut stream| {
        let request = receive(&mut stream);
        let mut bytes = frame(request.correlation_id, &producer_id_answer());
        // Larger than what is read at once: the rest stays behind.
        bytes.extend([0; 8_000]);
        stream.write_all(&bytes).unwrap();
        linger(stream);
    });
    let first = connection.call(&InitProducerIdRequest, LONG);
    assert!(matches!(&first, Err(CallError::Lost { loss: Loss::Surplus { .. }, .. })), "{first:?}");
    assert_dead(&mut connection);
    server.done();
}

#[test]
fn a_handshake_ends_by_its_deadline_however_slowly_the_peer_speaks() {
    let scene = Scene::new();
    // Nothing at all.
    let silent = Server::bare(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    // A record that is announced, a byte now and then.
    let slow = Server::bare(|mut stream| {
        let _ = stream.write_all(&[22, 3, 3, 0x3f, 0xff]);
        while stream.write_all(&[2]).is_ok() {
            std::thread::park_timeout(SHORT / 10);
        }
    });
    // A handshake, and no answer to the first request.
    let shaken = Server::mute(scene.config());
    for server in [silent, slow, shaken] {
        let begun = Instant::now();
        let error = Connection::open(&server.address, &impatient(&scene.security)).unwrap_err();
        assert!(matches!(&error, ConnectError::Silent { waited, .. } if *waited >= SHORT), "{error:?}");
        assert!(begun.elapsed() < LONG / 2);
        server.done();
    }
}

/// Whatever comes instead of a handshake, or in the middle of one: an error that names the broker, and no panic.
#[test]
fn garbage_instead_of_tls_is_an_error() {
    let scene = Scene::new();
    let mut random = fastrand::Rng::with_seed(7);
    for round in 0..60 {
        let mut garbage: Vec<u8> = (0..random.usize(1..40_000)).map(|_| random.u8(..)).collect();
        if round % 2 == 0 {
            // Records of a handshake, as far as the first look goes.
            for at in (0..garbage.len().saturating_sub(9)).step_by(300) {
                garbage[at..at + 9].copy_from_slice(&[22, 3, 3, 1, 39, 2, 0, 1, 35]);
            }
        }
        let server = Server::bare(move |mut stream| {
            let _ = stream.write_all(&garbage);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = server.open(&scene.security).unwrap_err();
        assert!(matches!(&error, ConnectError::Tls { .. }), "{round}: {error:?}");
        assert!(chain(&error).contains(&server.address.to_string()) && chain(&error).len() < 500, "{error:?}");
        server.done();
    }
}

#[test]
fn a_peer_that_gives_up_halfway_is_told() {
    let scene = Scene::new();
    let after_some = |bytes: usize| {
        let config = scene.config();
        Server::bare(move |mut stream| {
            let mut tls = rustls::ServerConnection::new(std::sync::Arc::new(config)).unwrap();
            tls.read_tls(&mut stream).unwrap();
            tls.process_new_packets().unwrap();
            let mut hello = Vec::new();
            tls.write_tls(&mut hello).unwrap();
            stream.write_all(&hello[..bytes.min(hello.len())]).unwrap();
        })
    };
    for bytes in [1, 5, 60, 300] {
        let server = after_some(bytes);
        let error = server.open(&scene.security).unwrap_err();
        assert!(chain(&error).ends_with("it closed the connection in the middle of the TLS handshake"), "{error:?}");
        server.done();
    }
}

/// What is reported as not sent must never be whole at the other end, whatever it reads afterwards.
#[test]
fn a_request_that_is_not_taken_is_not_sent() {
    let scene = Scene::new();
    let large = records(200, 100_000);
    let batches = [batch("users", 1, 200, &large)];
    let request = ProduceRequest { acks: -1, timeout_ms: 1_500, batches: &batches };
    let (go, wait) = gate();
    let (mut connection, server) = scene.open(move |mut stream| {
        wait.recv().unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let announced = u64::from(u32::from_be_bytes(length));
        let mut rest = Vec::new();
        let _ = stream.take(announced).read_to_end(&mut rest);
        assert!((rest.len() as u64) < announced, "a request that was not sent has arrived");
    });
    let begun = Instant::now();
    let error = connection.produce(&request, SHORT).unwrap_err();
    assert!(matches!(&error, CallError::NotSent(source) if source.kind() == ErrorKind::TimedOut), "{error:?}");
    assert!(begun.elapsed() < LONG / 2);
    assert_dead(&mut connection);
    go.send(()).unwrap();
    drop(connection);
    server.done();
}

/// What the broker does instead of an answer, and what is said of it.
type Script = (fn(TlsPeer), &'static str);

#[test]
fn an_answer_that_does_not_come_or_is_cut_or_spoiled_is_unsure() {
    let scene = Scene::new();
    let scripts: [Script; 4] = [
        (linger, "the time for it ran out"),
        (drop, "the broker closed the connection"),
        (
            |mut stream| {
                stream.write_all(&[0, 0]).unwrap();
                stream.conn.send_close_notify();
                stream.flush().unwrap();
            },
            "the broker closed the connection in the middle of the answer",
        ),
        (
            |mut stream| {
                stream.sock.write_all(&[23, 3, 3, 0, 30]).unwrap();
                stream.sock.write_all(&[7; 30]).unwrap();
                let _ = stream.sock.read_to_end(&mut Vec::new());
            },
            "TLS failed: cannot decrypt peer's message",
        ),
    ];
    for (script, words) in scripts {
        let (mut connection, server) = scene.open(move |mut stream| {
            receive(&mut stream);
            script(stream);
        });
        let patience = if words.contains("time") { SHORT } else { LONG };
        let error = connection.call(&InitProducerIdRequest, patience).unwrap_err();
        assert!(error.maybe_applied());
        assert!(chain(&error).ends_with(words), "{}", chain(&error));
        assert_dead(&mut connection);
        server.done();
    }
}

/// A dropped or failed connection is closed by TLS's own word, and at once.
#[test]
fn the_broker_is_told_of_the_end() {
    let scene = Scene::new();
    let (mut connection, server) = scene.open(|mut stream| {
        let request = receive(&mut stream);
        stream.write_all(&frame(request.correlation_id + 1, &producer_id_answer())).unwrap();
        // An end without a farewell would be an error here.
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        let TcpStream { .. } = stream.sock;
    });
    connection.call(&InitProducerIdRequest, LONG).unwrap_err();
    server.done();
    assert_dead(&mut connection);
}
