//! Saying who we are, to brokers that follow a script: what is sent, what is believed, and when it is said again.

use crate::peer::{LONG, Received, answer_versions, current_versions, frame, producer_id_answer, receive};
use crate::samples::{self, encoded, text};
use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use kafka_protocol::messages;
use outboxd_kafka::connection::{Address, Connection, ConnectionOptions};
use outboxd_kafka::error::{CallError, ConnectError};
use outboxd_kafka::protocol::InitProducerIdRequest;
use outboxd_kafka::security::{
    Mechanism, SaslSettings, Secret, SecretSource, Security, SecurityError, SecurityProtocol, SecuritySettings,
};
use ring::{digest, hmac, pbkdf2};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A broker that takes connections one after the other, each by the next script.
struct Broker {
    address: Address,
    thread: JoinHandle<()>,
}

type Script = Box<dyn FnOnce(&mut TcpStream) + Send>;

impl Broker {
    fn new(scripts: Vec<Script>) -> Broker {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let thread = std::thread::spawn(move || {
            for script in scripts {
                let (mut stream, _) = listener.accept().unwrap();
                stream.set_read_timeout(Some(LONG)).unwrap();
                answer_versions(&mut stream, current_versions());
                script(&mut stream);
            }
        });
        Broker { address, thread }
    }

    fn one(script: impl FnOnce(&mut TcpStream) + Send + 'static) -> Broker {
        Broker::new(vec![Box::new(script)])
    }

    fn open(&self, security: &Security) -> Result<Connection, ConnectError> {
        let options = ConnectionOptions {
            client_id: "test".into(),
            setup_timeout: LONG,
            security: security.clone(),
            ..ConnectionOptions::default()
        };
        Connection::open(&self.address, &options)
    }

    fn done(self) {
        self.thread.join().unwrap();
    }
}

fn send(stream: &mut TcpStream, request: &Received, body: &[u8]) {
    use std::io::Write;
    // SaslAuthenticate 2 has a flexible header.
    let body = if request.api == 36 { [&[0], body].concat() } else { body.to_vec() };
    stream.write_all(&frame(request.correlation_id, &body)).unwrap();
}

/// Takes the mechanism that is asked for.
fn shake(stream: &mut TcpStream, mechanism: &str) {
    let request = receive(stream);
    assert_eq!((request.api, request.version), (17, 1));
    let expected = messages::SaslHandshakeRequest::default().with_mechanism(text(mechanism));
    assert_eq!(request.body, encoded(&expected, 1));
    send(stream, &request, &encoded(&messages::SaslHandshakeResponse::default(), 1));
}

/// The mechanism's message in the next request; it is answered by `answer`.
fn authenticate(stream: &mut TcpStream, answer: impl FnOnce(&[u8]) -> messages::SaslAuthenticateResponse) {
    let request = receive(stream);
    assert_eq!((request.api, request.version), (36, 2));
    // Tagged fields of the header, length plus one, the bytes, tagged fields of the body.
    let (length, rest) = match request.body[1..] {
        [low @ 0..0x80, ref rest @ ..] => (usize::from(low), rest),
        [low, high, ref rest @ ..] => (usize::from(low & 0x7f) | usize::from(high) << 7, rest),
        _ => panic!("{:?}", request.body),
    };
    let auth_bytes = &rest[..length - 1];
    let answer = answer(auth_bytes);
    send(stream, &request, &encoded(&answer, 2));
}

fn believed(lifetime: Duration) -> messages::SaslAuthenticateResponse {
    messages::SaslAuthenticateResponse::default().with_session_lifetime_ms(lifetime.as_millis() as i64)
}

fn refused(words: &str) -> messages::SaslAuthenticateResponse {
    messages::SaslAuthenticateResponse::default().with_error_code(58).with_error_message(Some(text(words)))
}

fn with_bytes(bytes: impl Into<Vec<u8>>) -> messages::SaslAuthenticateResponse {
    messages::SaslAuthenticateResponse::default().with_auth_bytes(Bytes::from(bytes.into()))
}

fn metadata(stream: &mut TcpStream) {
    let request = receive(stream);
    assert_eq!(request.api, 3);
    send(stream, &request, &encoded(&samples::metadata(), 7));
}

fn plain(stream: &mut TcpStream, password: &str, lifetime: Duration) {
    shake(stream, "PLAIN");
    authenticate(stream, |message| {
        assert_eq!(message, format!("\0alice\0{password}").as_bytes());
        believed(lifetime)
    });
}

fn security(mechanism: Mechanism, secret: SecretSource) -> Result<Security, SecurityError> {
    let username = if mechanism.has_password() { "alice" } else { "" };
    let sasl = SaslSettings { mechanism, username: username.into(), secret, extensions: Vec::new() };
    let protocol = SecurityProtocol::SaslPlaintext;
    Security::new(&SecuritySettings { protocol, sasl: Some(sasl), ..SecuritySettings::default() })
}

fn given(mechanism: Mechanism) -> Security {
    security(mechanism, SecretSource::Given(Secret::new("geheim"))).unwrap()
}

fn linger(stream: &mut TcpStream) {
    use std::io::Read;
    let _ = stream.read_to_end(&mut Vec::new());
}

/// The server's side of RFC 5802 for alice, whose password is "geheim".
fn scram(stream: &mut TcpStream, mechanism: &str, spoil: &'static str) {
    let (algorithm, key_derivation, hash) = match mechanism {
        "SCRAM-SHA-256" => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256),
        _ => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512, &digest::SHA512),
    };
    shake(stream, mechanism);
    let (mut client_first, mut server_first) = (String::new(), String::new());
    authenticate(stream, |message| {
        client_first.push_str(std::str::from_utf8(message).unwrap().strip_prefix("n,,").unwrap());
        let nonce = client_first.strip_prefix("n=alice,r=").unwrap();
        let nonce = if spoil == "nonce" { "somebody-elses" } else { nonce };
        let iterations = match spoil {
            "one iteration" => 1,
            "many iterations" => i32::MAX,
            _ => 4_096,
        };
        server_first = format!("r={nonce}+theirs,s={},i={iterations}", BASE64.encode("salt"));
        with_bytes(server_first.clone())
    });
    if ["nonce", "one iteration", "many iterations"].contains(&spoil) {
        return linger(stream);
    }
    authenticate(stream, |message| {
        let message = std::str::from_utf8(message).unwrap();
        let (without_proof, proof) = message.rsplit_once(",p=").unwrap();
        let mut salted = vec![0; hash.output_len()];
        pbkdf2::derive(key_derivation, NonZeroU32::new(4_096).unwrap(), b"salt", b"geheim", &mut salted);
        let sign = |key: &[u8], what: &[u8]| hmac::sign(&hmac::Key::new(algorithm, key), what).as_ref().to_vec();
        let stored = digest::digest(hash, &sign(&salted, b"Client Key")).as_ref().to_vec();
        let exchange = format!("{client_first},{server_first},{without_proof}");
        let signature = sign(&stored, exchange.as_bytes());
        let proof = BASE64.decode(proof).unwrap();
        let key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
        assert_eq!(digest::digest(hash, &key).as_ref(), stored, "the client knows the password");
        let mut ours = sign(&sign(&salted, b"Server Key"), exchange.as_bytes());
        if spoil == "signature" {
            ours[5] ^= 1;
        }
        with_bytes(format!("v={}", BASE64.encode(ours)))
    });
}

#[test]
fn each_mechanism_says_what_it_has_to_say() {
    let broker = Broker::one(|stream| {
        plain(stream, "geheim", Duration::ZERO);
        metadata(stream);
        linger(stream);
    });
    drop(broker.open(&given(Mechanism::Plain)).unwrap());
    broker.done();

    for (mechanism, name) in [(Mechanism::ScramSha256, "SCRAM-SHA-256"), (Mechanism::ScramSha512, "SCRAM-SHA-512")] {
        let broker = Broker::one(move |stream| {
            scram(stream, name, "");
            metadata(stream);
            linger(stream);
        });
        drop(broker.open(&given(mechanism)).unwrap());
        broker.done();
    }

    let broker = Broker::one(|stream| {
        shake(stream, "OAUTHBEARER");
        authenticate(stream, |message| {
            assert_eq!(message, b"n,,\x01auth=Bearer geheim\x01logicalCluster=lkc-1\x01pool=p=1\x01\x01");
            believed(Duration::from_secs(3_600))
        });
        metadata(stream);
        linger(stream);
    });
    let extensions = vec![("logicalCluster".into(), "lkc-1".into()), ("pool".into(), "p=1".into())];
    let secret = SecretSource::Given(Secret::new("geheim"));
    let sasl = SaslSettings { mechanism: Mechanism::OauthBearer, username: String::new(), secret, extensions };
    let settings =
        SecuritySettings { protocol: SecurityProtocol::SaslPlaintext, sasl: Some(sasl), ..SecuritySettings::default() };
    let mut connection = broker.open(&Security::new(&settings).unwrap()).unwrap();
    assert!(connection.ready());
    drop(connection);
    broker.done();
}

#[test]
fn a_broker_that_does_not_know_the_password_is_refused() {
    for (spoil, words) in [
        ("nonce", "its answer is not to our nonce"),
        ("one iteration", "it wants 1 iterations, 4096 to 1000000 are accepted"),
        ("many iterations", "it wants 2147483647 iterations, 4096 to 1000000 are accepted"),
        ("signature", "its signature is wrong"),
    ] {
        let broker = Broker::one(move |stream| {
            scram(stream, "SCRAM-SHA-256", spoil);
            linger(stream);
        });
        let begun = Instant::now();
        let error = broker.open(&given(Mechanism::ScramSha256)).unwrap_err();
        let text = error.to_string();
        assert!(text.ends_with(&format!("can't prove that it knows the password: {words}")), "{text}");
        assert!(error.hint().unwrap().contains("something else than the broker"), "{error:?}");
        assert!(begun.elapsed() < LONG / 2);
        broker.done();
    }
}

#[test]
fn what_the_broker_says_against_us_is_told_with_what_to_do() {
    let broker = Broker::one(|stream| {
        let request = receive(stream);
        send(stream, &request, &encoded(&samples::sasl_handshake(), 1));
    });
    let error = broker.open(&given(Mechanism::OauthBearer)).unwrap_err();
    let text = error.to_string();
    assert!(text.ends_with("does not take SASL mechanism OAUTHBEARER; it takes PLAIN, SCRAM-SHA-256"), "{text}");
    assert!(error.hint().unwrap().contains("sasl_mechanism"));
    broker.done();

    let broker = Broker::one(|stream| {
        let request = receive(stream);
        let answer = messages::SaslHandshakeResponse::default().with_error_code(34);
        send(stream, &request, &encoded(&answer, 1));
    });
    let error = broker.open(&given(Mechanism::Plain)).unwrap_err();
    assert!(error.to_string().ends_with("is a listener without SASL"), "{error}");
    assert!(error.hint().unwrap().contains("security_protocol = \"PLAINTEXT\""), "{error:?}");
    broker.done();

    let words = format!("no\x1b[2J such user{}", "!".repeat(400));
    let broker = Broker::one(move |stream| {
        shake(stream, "PLAIN");
        authenticate(stream, |_| refused(&words));
    });
    let error = broker.open(&given(Mechanism::Plain)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("refuses user alice (PLAIN): no\\u{1b}[2J such user!!!"), "{text}");
    assert!(text.ends_with("!..., SASL_AUTHENTICATION_FAILED (58)") && text.len() < 400, "{text}");
    assert!(error.hint().unwrap().contains("sasl_password_file"), "{error:?}");
    broker.done();

    // A token that is refused: said twice, the first time as no error.
    let broker = Broker::one(|stream| {
        shake(stream, "OAUTHBEARER");
        authenticate(stream, |_| with_bytes("{\"status\":\"invalid_token\"}"));
        authenticate(stream, |message| {
            assert_eq!(message, [1]);
            refused("{\"status\":\"invalid_token\"}")
        });
    });
    let error = broker.open(&given(Mechanism::OauthBearer)).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("refuses the token of OAUTHBEARER: {\"status\":\"invalid_token\"}"), "{text}");
    assert!(error.hint().unwrap().contains("sasl_oauthbearer_token_file"), "{error:?}");
    broker.done();
}

#[test]
fn a_refused_secret_is_not_tried_again_until_it_is_another() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("password");
    std::fs::write(&path, "old\n").unwrap();
    let security = security(Mechanism::Plain, SecretSource::File(path.clone())).unwrap();
    let broker = Broker::new(vec![
        Box::new(|stream| {
            shake(stream, "PLAIN");
            authenticate(stream, |_| refused("no"));
        }),
        Box::new(|stream| {
            plain(stream, "new", Duration::ZERO);
            metadata(stream);
            linger(stream);
        }),
    ]);
    let first = broker.open(&security).unwrap_err();
    assert!(matches!(first, ConnectError::Authentication { .. }), "{first:?}");
    // Nobody is connected to: the broker's second script is for the new password.
    let second = broker.open(&security).unwrap_err();
    assert!(matches!(second, ConnectError::Held(_)), "{second:?}");
    assert_eq!((second.to_string(), second.hint()), (first.to_string(), first.hint()));
    // A file that is being written is not believed; what it holds in the end is.
    std::fs::write(&path, "").unwrap();
    assert!(matches!(broker.open(&security), Err(ConnectError::Held(_))));
    std::fs::write(&path, "new").unwrap();
    drop(broker.open(&security).unwrap());
    broker.done();
}

/// Longer than a busy machine stands still for, of what is left of it when it is said again.
const LIFETIME: Duration = Duration::from_secs(10);
/// When that is due.
const DUE: Duration = Duration::from_millis(8_600);

/// Nothing else is in flight while we say it again, and the request comes after it.
fn who_we_are_is_said_again(before_a_request: bool) {
    let broker = Broker::one(|stream| {
        plain(stream, "geheim", LIFETIME);
        metadata(stream);
        for again in [false, true, false] {
            if again {
                plain(stream, "geheim", LIFETIME);
            }
            let request = receive(stream);
            assert_eq!(request.api, 22);
            send(stream, &request, &producer_id_answer());
        }
        linger(stream);
    });
    let begun = Instant::now();
    let mut connection = broker.open(&given(Mechanism::Plain)).unwrap();
    assert!(connection.ready());
    connection.call(&InitProducerIdRequest, LONG).unwrap();
    std::thread::sleep(DUE.saturating_sub(begun.elapsed()));
    if before_a_request {
        assert!(connection.ready());
    }
    connection.call(&InitProducerIdRequest, LONG).unwrap();
    connection.call(&InitProducerIdRequest, LONG).unwrap();
    drop(connection);
    broker.done();
}

#[test]
fn who_we_are_is_said_again_before_a_request() {
    who_we_are_is_said_again(true);
}

#[test]
fn who_we_are_is_said_again_with_a_request() {
    who_we_are_is_said_again(false);
}

#[test]
fn nothing_is_sent_when_a_session_is_over() {
    let broker = Broker::one(|stream| {
        plain(stream, "geheim", Duration::from_secs(3));
        metadata(stream);
        // Nothing more comes.
        let mut byte = [0];
        assert!(matches!(std::io::Read::read(stream, &mut byte), Ok(0)), "a request after the session's end");
    });
    let mut connection = broker.open(&given(Mechanism::Plain)).unwrap();
    std::thread::sleep(Duration::from_millis(3_050));
    let error = connection.call(&InitProducerIdRequest, LONG).unwrap_err();
    assert!(matches!(&error, CallError::NotSent(_)) && !error.maybe_applied(), "{error:?}");
    assert!(!connection.alive());
    drop(connection);
    broker.done();
}

#[test]
fn a_session_that_is_not_made_anew_ends_before_a_request_is_lost_in_it() {
    let broker = Broker::one(|stream| {
        plain(stream, "geheim", LIFETIME);
        metadata(stream);
        shake(stream, "PLAIN");
        authenticate(stream, |_| refused("principal changed"));
        linger(stream);
    });
    let begun = Instant::now();
    let mut connection = broker.open(&given(Mechanism::Plain)).unwrap();
    std::thread::sleep(DUE.saturating_sub(begun.elapsed()));
    assert!(!connection.ready());
    let error = connection.call(&InitProducerIdRequest, LONG).unwrap_err();
    assert!(!error.maybe_applied(), "{error:?}");
    drop(connection);
    broker.done();
}

#[test]
fn secrets_that_are_none_are_told_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let of = |mechanism, name: &str, content: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        security(mechanism, SecretSource::File(path)).map(|_| ()).map_err(|error| error.to_string())
    };
    let dir = folder.path().display();
    let said = |result: Result<(), String>| result.unwrap_err();
    for empty in [&b""[..], b"\n"] {
        assert_eq!(said(of(Mechanism::Plain, "p", empty)), format!("sasl_password_file: {dir}/p: the secret is empty"));
    }
    assert!(said(of(Mechanism::Plain, "p", b"a\0b")).ends_with("there is a byte 0 in it"));
    assert!(said(of(Mechanism::Plain, "p", b"\xff")).ends_with("this is not UTF-8 text"));
    assert_eq!(of(Mechanism::Plain, "p", b"two\nlines\n"), Ok(()), "a password may be what it likes");
    assert_eq!(
        said(of(Mechanism::OauthBearer, "t", b"a\nb\n")),
        format!("sasl_oauthbearer_token_file: {dir}/t: a token is one line, and there are more")
    );
    assert!(said(of(Mechanism::OauthBearer, "t", b"a b")).ends_with("there is a character in it that no token has"));
    assert_eq!(of(Mechanism::OauthBearer, "t", b"eyJ.x-_y.z\r\n"), Ok(()));
    let missing = security(Mechanism::Plain, SecretSource::File(folder.path().join("none"))).unwrap_err();
    assert_eq!(missing.to_string(), format!("sasl_password_file: {dir}/none: the file can't be read"));
    let is_folder = security(Mechanism::Plain, SecretSource::File(folder.path().to_owned())).unwrap_err();
    assert_eq!(is_folder.to_string(), format!("sasl_password_file: {dir}: this is not an ordinary file"));
}

#[test]
fn no_text_has_a_secret_in_it() {
    let security = given(Mechanism::Plain);
    assert!(!format!("{security:?}").contains("geheim"));
    let broker = Broker::one(|stream| {
        shake(stream, "PLAIN");
        authenticate(stream, |_| believed(Duration::ZERO));
        metadata(stream);
        linger(stream);
    });
    let connection = broker.open(&security).unwrap();
    let printed = format!("{connection:?}");
    // Not as bytes in a buffer either.
    let bytes = format!("{:?}", b"geheim").trim_matches(['[', ']']).to_owned();
    assert!(!printed.contains("geheim") && !printed.contains(&bytes), "{printed}");
    drop(connection);
    broker.done();
}
