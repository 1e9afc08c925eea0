//! The producer on a real Apache Kafka's listeners for TLS and SASL: what fits stores, and what does not is told.

use super::rig::{Rig, class};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64_URL;
use outboxd_kafka::connection::{Connection, ConnectionOptions};
use outboxd_kafka::outcome::{Manner, Outcome, Why};
use outboxd_kafka::producer::KafkaOptions;
use outboxd_kafka::protocol::InitProducerIdRequest;
use outboxd_kafka::security::{
    Mechanism, SaslSettings, Secret, SecretSource, Security, SecurityProtocol, SecuritySettings, TlsSettings,
};
use real_kafka::Broker;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

mod real_kafka_4_3_0 {
    #[test]
    fn secure_listeners_store_what_they_are_sent() {
        super::store_what_they_are_sent("4.3.0");
    }

    #[test]
    fn secure_listeners_tell_what_does_not_fit() {
        super::tell_what_does_not_fit("4.3.0");
    }

    #[test]
    fn secure_sessions_are_kept_alive() {
        super::sessions_are_kept_alive("4.3.0");
    }
}

mod real_kafka_3_9_1 {
    #[test]
    fn secure_listeners_store_what_they_are_sent() {
        super::store_what_they_are_sent("3.9.1");
    }
}

/// One that nobody has signed, which brokers of tests believe.
fn token(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = format!("{{\"sub\":\"alice\",\"iat\":{now},\"exp\":{}}}", now + seconds);
    format!("{}.{}.", BASE64_URL.encode("{\"alg\":\"none\"}"), BASE64_URL.encode(claims))
}

fn sasl(mechanism: Mechanism, secret: &str) -> SaslSettings {
    let username = if mechanism.has_password() { "alice" } else { "" };
    let secret = SecretSource::Given(Secret::new(secret));
    SaslSettings { mechanism, username: username.into(), secret, extensions: Vec::new() }
}

fn settings(protocol: SecurityProtocol, ca: &Path, sasl: Option<SaslSettings>) -> SecuritySettings {
    let ca = protocol.has_tls().then(|| ca.to_owned());
    SecuritySettings { protocol, tls: TlsSettings { ca, ..TlsSettings::default() }, sasl }
}

fn options(kafka: &Broker, listener: &str, security: SecuritySettings) -> KafkaOptions {
    let server = if listener == "PLAIN" { kafka.bootstrap.clone() } else { kafka.listener(listener) };
    KafkaOptions { bootstrap_servers: vec![server], security, ..KafkaOptions::default() }
}

fn good(mechanism: Mechanism) -> SaslSettings {
    if mechanism.has_password() { sasl(mechanism, "alice-secret") } else { sasl(mechanism, &token(3_600)) }
}

fn store_what_they_are_sent(version: &str) {
    use SecurityProtocol::{SaslPlaintext, SaslSsl, Ssl};
    let Some(kafka) = real_kafka::secure(version) else { return };
    let ca = kafka.certificate("ca.pem");
    let mut mutual = settings(Ssl, &ca, None);
    mutual.tls.certificate = Some(kafka.certificate("client.pem"));
    mutual.tls.key = Some(kafka.certificate("client.key"));
    let mut cells = vec![("SSL", settings(Ssl, &ca, None)), ("MTLS", mutual)];
    for mechanism in Mechanism::ALL {
        cells.push(("SASLP", settings(SaslPlaintext, &ca, Some(good(*mechanism)))));
        cells.push(("SASLS", settings(SaslSsl, &ca, Some(good(*mechanism)))));
    }
    for (listener, security) in cells {
        let what = format!("{listener} {:?}", security.sasl.as_ref().map(|sasl| sasl.mechanism));
        let mut rig = Rig::with(options(&kafka, listener, security));
        let topic = format!("secure-{:016x}", fastrand::u64(..));
        kafka.create_topic(&topic, 1, &[]);
        rig.open(&topic);
        for offset in 0..3 {
            let batch = rig.batch(&topic, 0, &["x"]);
            let outcome = rig.try_once(&batch);
            assert_eq!(outcome, Outcome::Stored { offset }, "{what}");
        }
        // More than goes into one record of TLS, or into the socket at once.
        let large = "y".repeat(900_000);
        let batch = rig.batch(&topic, 0, &[&large]);
        rig.send(&batch, Manner::Alone);
        assert_eq!(class(&rig.outcome(&batch)), "stored", "{what}");
        assert!(rig.stop());
    }
}

/// Why nothing can be done with these settings.
fn failure(kafka: &Broker, listener: &str, security: SecuritySettings) -> Why {
    let mut rig = Rig::unready(options(kafka, listener, security));
    rig.handle.producer_id();
    let why = rig.no_producer();
    assert!(rig.stop());
    why
}

fn tell_what_does_not_fit(version: &str) {
    use SecurityProtocol::{Plaintext, SaslPlaintext, SaslSsl, Ssl};
    let Some(kafka) = real_kafka::secure(version) else { return };
    let ca = kafka.certificate("ca.pem");
    let wrong =
        |mechanism| Some(sasl(mechanism, if mechanism == Mechanism::OauthBearer { "wrong.token." } else { "wrong" }));
    let of = |listener, protocol, sasl| failure(&kafka, listener, settings(protocol, &ca, sasl));
    for mechanism in Mechanism::ALL {
        for (listener, protocol) in [("SASLP", SaslPlaintext), ("SASLS", SaslSsl)] {
            let why = of(listener, protocol, wrong(*mechanism));
            let who = if mechanism.has_password() { "refuses user alice" } else { "refuses the token of OAUTHBEARER" };
            assert!(why.text.contains(who), "{mechanism}: {why}");
            assert!(why.hint.contains("sasl_"), "{why}");
            assert!(!why.text.contains("wrong"), "{why}");
        }
    }
    let nobody = SaslSettings { username: "nobody".into(), ..good(Mechanism::ScramSha256) };
    let why = of("SASLS", SaslSsl, Some(nobody));
    assert!(why.text.contains("refuses user nobody (SCRAM-SHA-256): "), "{why}");

    let why = of("MTLS", Ssl, None);
    assert!(why.text.contains("wants a client certificate, and there is none"), "{why}");
    for (listener, protocol, text, hint) in [
        ("PLAIN", Ssl, "it closed the connection at the first message of TLS", "security_protocol = \"PLAINTEXT\""),
        ("SASLP", SaslSsl, "it closed the connection at the first message of TLS", "\"SASL_PLAINTEXT\""),
        ("SSL", Plaintext, "does not answer as a Kafka broker", "TLS listener"),
        ("SASLS", SaslPlaintext, "does not answer as a Kafka broker", "\"SASL_SSL\""),
        ("PLAIN", SaslPlaintext, "is a listener without SASL", "security_protocol = \"PLAINTEXT\""),
        ("SSL", SaslSsl, "is a listener without SASL", "security_protocol = \"SSL\""),
        ("SASLP", Plaintext, "closed the connection at the first ordinary request", "\"SASL_PLAINTEXT\""),
        ("SASLS", Ssl, "closed the connection at the first ordinary request", "\"SASL_SSL\""),
    ] {
        let why = of(listener, protocol, protocol.has_sasl().then(|| good(Mechanism::ScramSha256)));
        assert!(why.text.contains(text), "{protocol} to {listener}: {why}");
        assert!(why.hint.contains(hint), "{protocol} to {listener}: {}", why.hint);
    }
    // The client's own certificate vouches for nobody.
    let why = failure(&kafka, "SSL", settings(Ssl, &kafka.certificate("client.pem"), None));
    assert!(why.text.contains("signed by nobody whom ssl_ca_location"), "{why}");
}

/// The broker's sessions end after 3 s (connections.max.reauth.ms): connections are used for longer, and nothing is ever unsure.
fn sessions_are_kept_alive(version: &str) {
    let Some(kafka) = real_kafka::secure(version) else { return };
    let ca = kafka.certificate("ca.pem");
    let security = settings(SecurityProtocol::SaslSsl, &ca, Some(good(Mechanism::ScramSha512)));
    let address = kafka.listener("SASLS").parse().unwrap();
    let options_of_one =
        ConnectionOptions { security: Security::new(&security).unwrap(), ..ConnectionOptions::default() };
    let mut connection = Connection::open(&address, &options_of_one).unwrap();

    let mut rig = Rig::with(options(&kafka, "SASLS", security));
    let topic = format!("sessions-{:016x}", fastrand::u64(..));
    kafka.create_topic(&topic, 1, &[]);
    rig.open(&topic);
    let end = Instant::now() + Duration::from_secs(10);
    let (mut offset, mut last, mut longest_gap, mut lost) = (0, Instant::now(), Duration::ZERO, 0);
    while Instant::now() < end {
        let batch = rig.batch(&topic, 0, &["x"]);
        assert_eq!(rig.try_once(&batch), Outcome::Stored { offset }, "at the first attempt");
        offset += 1;
        // One and the same connection, but on a machine that stands still for longer than is left of a session when it is due.
        longest_gap = longest_gap.max(last.elapsed());
        last = Instant::now();
        if !connection.ready() {
            lost += 1;
            connection = Connection::open(&address, &options_of_one).unwrap();
        }
        connection.call(&InitProducerIdRequest, Duration::from_secs(20)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(lost == 0 || longest_gap > Duration::from_millis(300), "{lost} connections lost");
    assert!(rig.stop());
}
