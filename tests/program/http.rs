//! What HTTP clients do to the daemon as a process: its threads, its descriptors, its work.

use crate::common::{self, OUTBOX, PATIENCE, Place, Running, outboxd};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::io::{Read, Write};
use std::net::TcpStream;

/// A daemon that prints its records and serves its pages.
fn daemon(place: &Place) -> (Running, String) {
    let database = place.database("db", OUTBOX);
    let text = format!(
        "[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\n[http]\nlisten = \"127.0.0.1:0\""
    );
    let mut daemon = Running::start(outboxd(&["run", "--config", &place.write("c.toml", &text), "--stdout"]));
    place.database("db", "INSERT INTO users_outbox (payload) VALUES ('x')");
    daemon.wait_until("a first record", |daemon| daemon.stdout().lines().count() == 1);
    let log = daemon.stderr();
    let address = log.split("listening on http://").nth(1).unwrap().split('/').next().unwrap();
    (daemon, address.to_owned())
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Empty when the connection was closed without an answer.
fn ask(address: &str, path: &str) -> String {
    let mut stream = connect(address);
    let mut answer = Vec::new();
    let _ = write!(stream, "GET {path} HTTP/1.1\r\n\r\n").and_then(|()| stream.read_to_end(&mut answer));
    String::from_utf8(answer).unwrap()
}

/// Names in a folder of `/proc/PID/`.
fn in_proc(daemon: &Running, folder: &str) -> Vec<String> {
    common::names(format!("/proc/{}/{folder}", daemon.pid()).as_ref())
}

/// Relays one row more.
fn relays_on(place: &Place, daemon: &mut Running) {
    let before = daemon.stdout().lines().count();
    place.database("db", "INSERT INTO users_outbox (payload) VALUES ('y')");
    daemon.wait_until("another record", |daemon| daemon.stdout().lines().count() > before);
}

#[test]
fn slow_clients_take_a_bounded_number_of_threads_and_descriptors() {
    const SPARE: usize = 8; // threads and descriptors that come and go by themselves
    let place = Place::new();
    let (mut daemon, address) = daemon(&place);
    let (threads, descriptors) = (in_proc(&daemon, "task").len(), in_proc(&daemon, "fd").len());
    let (mut threads_max, mut descriptors_max) = (0, 0);
    let slow: Vec<TcpStream> = (0..500)
        .map(|_| {
            let mut stream = connect(&address);
            let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nX: ");
            threads_max = threads_max.max(in_proc(&daemon, "task").len());
            descriptors_max = descriptors_max.max(in_proc(&daemon, "fd").len());
            stream
        })
        .collect();
    // Slow ones are held, and whoever asks is answered.
    daemon.wait_until("an answer beside them", |_| ask(&address, "/healthz").starts_with("HTTP/1.1 200 "));
    assert!(threads_max <= threads + 32 + SPARE, "{threads_max} threads, {threads} before");
    assert!(descriptors_max <= descriptors + 32 + SPARE, "{descriptors_max} descriptors, {descriptors} before");
    relays_on(&place, &mut daemon);
    drop(slow);
}

#[test]
fn without_descriptors_left_the_listener_stays() {
    let place = Place::new();
    let (mut daemon, address) = daemon(&place);
    let open: Vec<u64> = in_proc(&daemon, "fd").iter().map(|fd| fd.parse().unwrap()).collect();
    // So low that eight numbers below it are free.
    let limit = (0..).filter(|number| !open.contains(number)).nth(8).unwrap();
    let pid = Pid::from_raw(daemon.pid().cast_signed()).unwrap();
    let scarce = Rlimit { current: Some(limit), ..getrlimit(Resource::Nofile) };
    let before = prlimit(Some(pid), Resource::Nofile, scarce).unwrap();
    let slow: Vec<TcpStream> = (0..30).map(|_| connect(&address)).collect();
    daemon.wait_until("no descriptors", |daemon| {
        daemon.stderr().contains("http: no connection can be accepted: Too many open files (os error 24)")
    });
    drop(slow);
    daemon.wait_until("an answer again", |_| ask(&address, "/healthz").starts_with("HTTP/1.1 200 "));
    prlimit(Some(pid), Resource::Nofile, before).unwrap();
    relays_on(&place, &mut daemon);
    assert_eq!(daemon.stderr().matches("no connection can be accepted").count(), 1, "{}", daemon.stderr());
}

#[test]
fn no_length_that_a_client_names_ends_the_daemon() {
    let place = Place::new();
    let (mut daemon, address) = daemon(&place);
    for length in ["100000000000", "18446744073709551615"] {
        let mut stream = connect(&address);
        write!(stream, "GET /metrics HTTP/1.1\r\nContent-Length: {length}\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        relays_on(&place, &mut daemon);
        assert!(ask(&address, "/healthz").starts_with("HTTP/1.1 200 "));
    }
}
