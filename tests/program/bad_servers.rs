//! Servers that a daemon can't publish to: what is said of each, that it is said once, that nothing is deleted, and that the daemon
//! goes on by itself when the server has been mended.

use crate::common::{self, OUTBOX, Place, Running, outboxd};
use fake_kafka::{ApiKey, FakeKafka, Listener};
use rustix::process::Signal;
use std::io::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Attempts after which a daemon that repeats itself would have done so.
const SEVERAL: usize = 4;
const ROWS: i64 = 3;

/// A daemon with three rows for one server.
struct House {
    place: Place,
    server: String,
    daemon: Running,
}

impl House {
    fn new(server: &str) -> House {
        let place = Place::new();
        // So that nothing is to be said of the table.
        let counted = OUTBOX.replace("PRIMARY KEY", "PRIMARY KEY AUTOINCREMENT");
        let insert = "INSERT INTO users_outbox (aggregateId, payload) VALUES ('a', '1'), ('b', '2'), ('c', '3');";
        let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {counted} {insert}"));
        let outbox = ["run", "--database", &database, "--table", "users_outbox", "--topic", "users"];
        let mut command = outboxd(&outbox);
        command.args(["--bootstrap-servers", server]).env("RUST_LOG", "info");
        House { place, server: server.to_owned(), daemon: Running::start(command) }
    }

    fn rows(&self) -> i64 {
        let connection = rusqlite::Connection::open(self.place.path("db")).unwrap();
        connection.busy_timeout(common::PATIENCE).unwrap();
        connection.query_row("SELECT count(*) FROM users_outbox", [], |row| row.get(0)).unwrap()
    }

    /// Warnings and errors without their time, the server's address replaced by `SERVER`.
    fn complaints(&self) -> Vec<String> {
        let text = self.daemon.stderr().replace(&self.server, "SERVER");
        let lines = text.lines().filter_map(|line| line.split_once("Z ").map(|(_, said)| said));
        lines.filter(|said| said.starts_with("WARN") || said.starts_with("ERROR")).map(str::to_owned).collect()
    }

    #[track_caller]
    fn complains_once(&mut self, attempted: impl Fn() -> bool, complaint: &str) {
        self.daemon
            .wait_until("a complaint", |daemon| daemon.stderr().contains("WARN") || daemon.stderr().contains("ERROR"));
        self.daemon.wait_until("several attempts", |_| attempted());
        assert_eq!(self.complaints(), [complaint], "\n{}", self.daemon.stderr());
        assert_eq!(self.rows(), ROWS, "nothing is deleted that was not published");
    }

    #[track_caller]
    fn heals(&mut self, kafka: &FakeKafka) {
        let place = &self.place;
        self.daemon.wait_until("an empty table", |_| {
            let connection = rusqlite::Connection::open(place.path("db")).unwrap();
            connection.busy_timeout(common::PATIENCE).unwrap();
            connection.query_row("SELECT count(*) FROM users_outbox", [], |row| row.get::<_, i64>(0)) == Ok(0)
        });
        assert_eq!(kafka.record_count("users"), 3);
        assert!(self.daemon.stderr().contains(": well again after "), "{}", self.daemon.stderr());
        assert_eq!(self.complaints().len(), 1, "{}", self.daemon.stderr());
    }

    /// SIGTERM: it ends well, and says what is left.
    #[track_caller]
    fn ends(self, left: &str) {
        self.daemon.signal(Signal::TERM);
        let finished = self.daemon.finish();
        assert_eq!(finished.status.code(), Some(0), "{}", finished.everything());
        let last = finished.stderr.lines().last().unwrap();
        assert!(last.ends_with(&format!("left in the tables: {left}")), "{}", finished.everything());
    }
}

#[test]
fn a_name_that_nobody_resolves() {
    let mut house = House::new("no-such-host.invalid:9092");
    house.daemon.wait_until("a complaint", |daemon| daemon.stderr().contains("WARN"));
    let complaints = house.complaints();
    let [complaint] = &complaints[..] else { panic!("{complaints:?}") };
    // The resolver's own words between differ from machine to machine.
    let begin = "WARN ] topic users: no Kafka broker could be asked: can't resolve the host name of SERVER: ";
    let end = " (hint: check the host name in bootstrap_servers, and advertised.listeners of the brokers)";
    assert!(complaint.starts_with(begin) && complaint.ends_with(end), "{complaint}");
    assert_eq!(house.rows(), ROWS);
    house.ends("3 rows");
}

#[test]
fn a_port_where_nobody_listens_until_a_broker_does() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    kafka.stop(1);
    let mut house = House::new(&kafka.bootstrap());
    house.complains_once(
        || true,
        "WARN ] topic users: no Kafka broker could be asked: can't connect to SERVER: Connection refused (os error 111) \
         (hint: no process listens there: is the broker running, and is the port right?)",
    );
    kafka.restart(1);
    house.heals(&kafka);
    house.ends("0 rows");
}

#[test]
fn listeners_that_speak_something_else_until_they_are_mended() {
    let other = "WARN ] topic users: no Kafka broker could be asked: SERVER does not answer as a Kafka broker: no answer to ApiVersions:";
    let too_long = "bytes is announced, at most 16777216 are accepted";
    for (listener, complaint) in [
        // The first four bytes that come are taken for a length.
        (Listener::Http, format!("{other} a frame of 1213486160 {too_long} (hint: this is a web server, not Kafka)")),
        (
            Listener::Tls { alert: true },
            format!("{other} a frame of 352518912 {too_long} (hint: this is a TLS listener: write security_protocol = \"SSL\" (or \"SASL_SSL\"))"),
        ),
        (
            Listener::Tls { alert: false },
            format!("{other} the broker closed the connection (hint: it is a TLS listener (write security_protocol = \"SSL\" or \"SASL_SSL\"), or not Kafka at all: check the port)"),
        ),
        (
            Listener::Sasl,
            "WARN ] topic users: no Kafka broker could be asked: SERVER closed the connection at the first ordinary request: \
             no answer to Metadata: the broker closed the connection \
             (hint: this listener probably wants to know who we are: write security_protocol = \"SASL_PLAINTEXT\", sasl_mechanism, \
             sasl_username and sasl_password_file)".to_owned(),
        ),
    ] {
        let kafka = FakeKafka::builder().topic("users", 1).listener(listener).start();
        let mut house = House::new(&kafka.bootstrap());
        house.complains_once(|| kafka.connections_opened() >= SEVERAL as u64, &complaint);
        kafka.set_listener(1, Listener::Plaintext);
        house.heals(&kafka);
        house.ends("0 rows");
    }
}

#[test]
fn a_server_that_speaks_first_is_not_kafka() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let visits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&visits);
    std::thread::spawn(move || {
        for visitor in listener.incoming() {
            let _ = visitor.unwrap().write_all(b"SSH-2.0-OpenSSH_9.6\r\n");
            counted.fetch_add(1, Relaxed);
        }
    });
    let mut house = House::new(&server);
    house.complains_once(|| visits.load(Relaxed) >= SEVERAL,
        "WARN ] topic users: no Kafka broker could be asked: SERVER does not answer as a Kafka broker: no answer to ApiVersions: \
         a frame of 1397966893 bytes is announced, at most 16777216 are accepted \
         (hint: this is something else than Kafka: check the port)",
    );
    house.ends("3 rows");
}

#[test]
fn a_kafka_too_old_or_too_new() {
    for (least, most, hint) in
        [(0, 5, "Kafka 2.1 is the oldest that will do"), (14, 20, "this Kafka is newer than this client understands")]
    {
        let complaint = format!(
            "WARN ] topic users: no Kafka broker could be asked: SERVER and this client have no version of Produce in common: \
             it speaks {least} to {most}, this client 7 to 8 (hint: {hint})"
        );
        let kafka = FakeKafka::builder().topic("users", 1).api_versions(ApiKey::Produce, least, most).start();
        let mut house = House::new(&kafka.bootstrap());
        house.complains_once(|| kafka.connections_opened() >= SEVERAL as u64, &complaint);
        assert_eq!(kafka.requests_of(ApiKey::Produce).len(), 0);
        house.ends("3 rows");
    }
}

#[test]
fn a_clock_two_hours_ahead_of_the_broker_until_it_is_set() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    // As Kafka 4.x does by default.
    kafka.check_clock("users", Some(Duration::from_secs(3_600)));
    kafka.set_clock_offset_ms(-7_200_000);
    let mut house = House::new(&kafka.bootstrap());
    house.complains_once(
        || kafka.requests_of(ApiKey::Produce).len() >= 2,
        "WARN ] users-0: broker 1 at SERVER answered INVALID_TIMESTAMP (32) (hint: the records carry this machine's \
         clock: compare `date -u` here and on the broker, and set the one that is wrong)",
    );
    kafka.set_clock_offset_ms(0);
    house.heals(&kafka);
    house.ends("0 rows");
}
