//! The producer over TLS on a network that cuts connections at any moment: what it says of each attempt stays true.

use super::rig::{Rig, options, values, wait_until};
use super::self_signed::SelfSigned;
use fake_kafka::FakeKafka;
use outboxd_kafka::outcome::{Manner, Outcome};
use outboxd_kafka::producer::KafkaOptions;
use outboxd_kafka::security::{SecurityProtocol, SecuritySettings, TlsSettings};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

const PARTITIONS: i32 = 3;
const CUTS: usize = 200;

/// What stands before each broker: TLS outside, plain inside, one request and its answer at a time; now and then the line is cut.
struct Cutter {
    config: Arc<ServerConfig>,
    broker: String,
    cuts: Arc<AtomicUsize>,
    seed: u64,
}

impl Cutter {
    /// The port it listens on.
    fn start(self) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let cutter = Arc::new(self);
        std::thread::spawn(move || {
            for (number, client) in (0u64..).zip(listener.incoming()) {
                let (cutter, client) = (Arc::clone(&cutter), client.unwrap());
                let random = fastrand::Rng::with_seed(cutter.seed.wrapping_add(number));
                std::thread::spawn(move || cutter.serve(client, random));
            }
        });
        port
    }

    /// Until one side is gone or the line is cut, which is an error as well.
    fn serve(&self, client: TcpStream, mut random: fastrand::Rng) -> Option<()> {
        let mut broker = TcpStream::connect(&self.broker).ok()?;
        let tls = ServerConnection::new(Arc::clone(&self.config)).unwrap();
        let mut client = StreamOwned::new(tls, client);
        loop {
            // Where in this request and its answer, if at all.
            let cut = (self.cuts.load(SeqCst) < CUTS && random.u32(0..3) == 0).then(|| random.u32(0..4));
            let request = self.frame(&mut client, cut == Some(0), &mut random)?;
            if cut == Some(1) {
                self.cuts.fetch_add(1, SeqCst);
                return None;
            }
            broker.write_all(&request).ok()?;
            let answer = self.frame(&mut broker, false, &mut random)?;
            if cut == Some(2) {
                self.cuts.fetch_add(1, SeqCst);
                return None;
            }
            if cut == Some(3) {
                self.cuts.fetch_add(1, SeqCst);
                let _ = client.write_all(&answer[..random.usize(1..answer.len())]);
                return None;
            }
            client.write_all(&answer).ok()?;
        }
    }

    /// A length and as many bytes; or, with `cut`, only some of them.
    fn frame(&self, from: &mut impl Read, cut: bool, random: &mut fastrand::Rng) -> Option<Vec<u8>> {
        let mut frame = vec![0; 4];
        from.read_exact(&mut frame).ok()?;
        let bytes = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize;
        let taken = if cut { random.usize(0..bytes) } else { bytes };
        frame.resize(4 + taken, 0);
        from.read_exact(&mut frame[4..]).ok()?;
        if cut {
            self.cuts.fetch_add(1, SeqCst);
            return None;
        }
        Some(frame)
    }
}

#[test]
fn connections_in_tls_that_are_cut_at_any_moment_lose_and_double_nothing() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let signed = SelfSigned::of("127.0.0.1");

    let kafka = FakeKafka::builder().brokers(2).topic("users", PARTITIONS).start();
    let cuts = Arc::new(AtomicUsize::new(0));
    let mut servers = Vec::new();
    for (number, server) in (1..).zip(kafka.bootstrap_servers()) {
        let seed = random.u64(..);
        let cutter = Cutter { config: Arc::clone(&signed.config), broker: server, cuts: Arc::clone(&cuts), seed };
        let port = cutter.start();
        kafka.advertise(number, "127.0.0.1", i32::from(port));
        servers.push(format!("127.0.0.1:{port}"));
    }
    let security = SecuritySettings {
        protocol: SecurityProtocol::Ssl,
        tls: TlsSettings { ca: Some(signed.ca.clone()), ..TlsSettings::default() },
        sasl: None,
    };
    let mut rig = Rig::with(KafkaOptions {
        bootstrap_servers: servers,
        security,
        retry_backoff_ms: 10,
        retry_backoff_max_ms: 50,
        reconnect_backoff_ms: 10,
        reconnect_backoff_max_ms: 50,
        ..options(&kafka)
    });
    rig.open("users");
    let (mut stored, mut not_sent, mut unsure) = ([0i64; PARTITIONS as usize], 0, 0);
    while cuts.load(SeqCst) < CUTS || not_sent == 0 || unsure == 0 {
        let partition = random.i32(0..PARTITIONS);
        let place = &mut stored[partition as usize];
        // Of one record of TLS, or of many.
        let value = format!("{place} {}", "x".repeat(if random.bool() { 10 } else { 300_000 }));
        let batch = rig.batch("users", partition, &[&value]);
        let (mut manner, mut ever_unsure) = (Manner::Merged, false);
        loop {
            rig.send(&batch, manner);
            match rig.outcome(&batch) {
                Outcome::Stored { offset } => {
                    assert_eq!(offset, *place);
                    break;
                }
                Outcome::NotAppended(why) => {
                    not_sent += 1;
                    // It must be true now and stay so. What was taken off the line is at the broker within this time.
                    std::thread::park_timeout(Duration::from_millis(5));
                    let there = kafka.records("users", partition).len() as i64;
                    assert!(ever_unsure || there == *place, "reported as not appended: {why}");
                }
                Outcome::Unsure(_) => {
                    unsure += 1;
                    (manner, ever_unsure) = (Manner::Alone, true);
                }
                other => panic!("{other:?}"),
            }
        }
        *place += 1;
    }
    println!("{} cuts, {not_sent} not sent, {unsure} unsure", cuts.load(SeqCst));
    for (partition, count) in (0..).zip(stored) {
        wait_until("all is there", || values(&kafka, "users", partition).len() as i64 >= count);
        let numbers: Vec<i64> = values(&kafka, "users", partition)
            .iter()
            .map(|value| value.split(' ').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(numbers, (0..count).collect::<Vec<_>>());
    }
    assert!(rig.stop());
    kafka.assert_no_complaints();
}
