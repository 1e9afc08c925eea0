//! The files that TLS is configured by: what is wrong with them is told at the start, and what changes is used.

use super::certificates::{Authority, params};
use super::{Security, Server, chain, linger, mutual, server_config, settings};
use outboxd_kafka::security::{SecurityError, SecurityProtocol, SecuritySettings, TlsSettings};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn error(tls: TlsSettings) -> SecurityError {
    Security::new(&SecuritySettings { protocol: SecurityProtocol::Ssl, tls, sasl: None }).unwrap_err()
}

/// The complaint, with the folder left out, and the hint.
fn ca_error(authority: &Authority, ca: PathBuf) -> (String, String) {
    told(authority, &error(TlsSettings { ca: Some(ca), ..TlsSettings::default() }))
}

fn told(authority: &Authority, error: &SecurityError) -> (String, String) {
    let plain = |text: &str| text.replace(authority.folder.path().to_str().unwrap(), "DIR");
    (plain(&chain(error)), plain(error.hint()))
}

#[test]
fn a_ca_file_of_another_kind_is_called_what_it_is_with_the_command_that_converts_it() {
    let authority = Authority::new();
    let of = |name: &str, content: &[u8]| ca_error(&authority, authority.write(name, content));
    let (text, hint) = of("ca.jks", &[0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 1]);
    assert_eq!(text, "ssl_ca_location: DIR/ca.jks: this is a Java keystore (JKS); a PEM file is wanted");
    assert!(hint.starts_with("convert it: keytool -importkeystore -srckeystore DIR/ca.jks"), "{hint}");

    authority.openssl("pkcs12 -export -nokeys -in ca.pem -passout pass:x -out ca.p12");
    let (text, hint) = ca_error(&authority, authority.path("ca.p12"));
    assert_eq!(text, "ssl_ca_location: DIR/ca.p12: this is a PKCS#12 store; a PEM file is wanted");
    assert_eq!(hint, "convert it: openssl pkcs12 -in DIR/ca.p12 -nokeys -out ca.pem");

    authority.openssl("x509 -in ca.pem -outform DER -out ca.der");
    let (text, hint) = ca_error(&authority, authority.path("ca.der"));
    assert_eq!(text, "ssl_ca_location: DIR/ca.der: this is a certificate in DER; a PEM file is wanted");
    assert_eq!(hint, "convert it: openssl x509 -inform DER -in DIR/ca.der -out ca.pem");

    assert_eq!(of("empty", b"").0, "ssl_ca_location: DIR/empty: the file is empty");
    assert_eq!(of("text", b"hello").0, "ssl_ca_location: DIR/text: there is no certificate in it");
    assert_eq!(
        of("key", authority.key_pem.as_bytes()).0,
        "ssl_ca_location: DIR/key: there is a private key in it and no certificate"
    );
    let damaged = authority.pem.replacen("MII", "AAA", 1);
    let (text, hint) = of("damaged", damaged.as_bytes());
    assert_eq!(text, "ssl_ca_location: DIR/damaged: a certificate in it is damaged");
    assert!(hint.contains("openssl x509"), "{hint}");

    let (text, hint) = ca_error(&authority, authority.path("none"));
    assert!(text.starts_with("ssl_ca_location: DIR/none: the file can't be read: No such file"), "{text}");
    assert_eq!(hint, "see whether the path is right");
    let (text, _) = ca_error(&authority, authority.folder.path().to_owned());
    assert_eq!(text, "ssl_ca_location: DIR: this is not an ordinary file");
}

#[test]
fn a_key_that_is_of_no_use_is_told_with_the_openssl_line() {
    let authority = Authority::new();
    let (client, other) = (authority.server(), authority.server());
    let certificate = authority.write("client.pem", &client.pem);
    let of = |certificate: Option<&Path>, key: Option<&Path>| {
        let tls = TlsSettings {
            ca: Some(authority.ca()),
            certificate: certificate.map(Path::to_owned),
            key: key.map(Path::to_owned),
        };
        told(&authority, &error(tls))
    };

    authority.write("client.key", &client.key_pem);
    authority.openssl("pkey -in client.key -aes256 -passout pass:x -out encrypted.key");
    let (text, hint) = of(Some(&certificate), Some(&authority.path("encrypted.key")));
    assert_eq!(text, "ssl_key_location: DIR/encrypted.key: the key in it is encrypted");
    assert!(hint.contains("openssl pkey -in DIR/encrypted.key -out key.pem; chmod 600 key.pem"), "{hint}");

    let (text, hint) = of(Some(&certificate), Some(&authority.write("other.key", &other.key_pem)));
    assert_eq!(text, "ssl_key_location: DIR/other.key: this key belongs to another certificate");
    assert!(hint.contains("openssl x509 -in DIR/client.pem -noout -pubkey; openssl pkey -in DIR/other.key"), "{hint}");

    let (text, hint) = of(Some(&certificate), None);
    assert_eq!(text, "ssl_certificate_location: DIR/client.pem: there is a certificate and no key");
    assert!(hint.contains("ssl_key_location = ") && hint.contains("openssl req"), "{hint}");
    let (text, hint) = of(None, Some(&authority.path("client.key")));
    assert_eq!(text, "ssl_key_location: DIR/client.key: there is a key and no certificate");
    assert!(hint.contains("ssl_certificate_location = ") && hint.contains("openssl req"), "{hint}");

    let (text, _) = of(Some(&certificate), Some(&certificate));
    assert_eq!(text, "ssl_key_location: DIR/client.pem: there is no private key in it");
}

/// PKCS#8, PKCS#1 and SEC1.
#[test]
fn keys_of_every_common_form_are_taken() {
    let authority = Authority::new();
    authority.sign_by_openssl("rsa", "rsa:2048", Some("subjectAltName=DNS:client"));
    authority.openssl("rsa -in rsa.key -traditional -out rsa1.key");
    let ec = authority.server();
    authority.write("ec.pem", &ec.pem);
    authority.write("ec.key", &ec.key_pem);
    authority.openssl("ec -in ec.key -out sec1.key");
    for (certificate, key, begins) in [
        ("rsa", "rsa", "PRIVATE KEY"),
        ("rsa", "rsa1", "RSA PRIVATE KEY"),
        ("ec", "ec", "PRIVATE KEY"),
        ("ec", "sec1", "EC PRIVATE KEY"),
    ] {
        let mut settings = settings(authority.ca());
        settings.tls.certificate = Some(authority.path(&format!("{certificate}.pem")));
        let path = authority.path(&format!("{key}.key"));
        assert!(std::fs::read_to_string(&path).unwrap().contains(&format!("-----BEGIN {begins}-----")), "{key}");
        settings.tls.key = Some(path);
        let security = Security::new(&settings).unwrap_or_else(|error| panic!("{key}: {error}"));
        let server = Server::broker(mutual(&authority.server(), &authority, rustls::ALL_VERSIONS), linger);
        drop(server.open(&security).unwrap());
        server.done();
    }
}

/// What is renewed is used by the next connection; several authorities stand in one file; what is damaged meanwhile changes nothing.
#[test]
fn files_are_read_again_when_a_connection_is_made() {
    let (old, new) = (Authority::new(), Authority::new());
    let ca = old.write("trusted.pem", &old.pem);
    let security = Security::new(&settings(ca.clone())).unwrap();
    let opens = |authority: &Authority| {
        let server = Server::new(server_config(&authority.server()), |mut stream| {
            if stream.conn.complete_io(&mut stream.sock).is_ok() {
                crate::peer::welcome(&mut stream, crate::peer::current_versions());
                linger(stream);
            }
        });
        let opened = server.open(&security).is_ok();
        server.done();
        opened
    };
    assert_eq!((opens(&old), opens(&new)), (true, false));
    std::fs::write(&ca, format!("{}\n{}", old.pem, new.pem)).unwrap();
    assert_eq!((opens(&old), opens(&new)), (true, true));
    std::fs::write(&ca, "half written").unwrap();
    assert_eq!((opens(&old), opens(&new)), (true, true));
    std::fs::remove_file(&ca).unwrap();
    assert_eq!((opens(&old), opens(&new)), (true, true));
    std::fs::write(&ca, &new.pem).unwrap();
    assert_eq!((opens(&old), opens(&new)), (false, true));
}

/// Lines of the log that have this in them.
fn logged(part: &str) -> Vec<String> {
    LOG.0.lock().unwrap().iter().filter(|line| line.contains(part)).cloned().collect()
}

struct Log(Mutex<Vec<String>>);

static LOG: Log = Log(Mutex::new(Vec::new()));

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Warn
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            self.0.lock().unwrap().push(record.args().to_string());
        }
    }

    fn flush(&self) {}
}

fn listen_to_the_log() {
    // Another test has done it.
    let _ = log::set_logger(&LOG);
    log::set_max_level(log::LevelFilter::Warn);
}

/// The broker's, our own, the authority's: each once, however often a connection is made. One whose successor is there is let be.
#[test]
fn certificates_that_are_about_to_expire_are_warned_of_once() {
    listen_to_the_log();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "about to expire");
    let days = |days: u64| {
        rcgen::date_time_ymd(1970, 1, 1)
            + (SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + Duration::from_secs(days * 86_400 + 3_600))
    };
    let (later, soon) = (days(300), days(5));
    ca.not_after = soon;
    let authority = Authority::of(ca.clone());
    ca.not_after = later;
    let renewed = Authority::of(ca);
    let mut short = params();
    short.not_after = soon;
    let (server, client) = (authority.sign(&short), authority.sign(&short));
    let mut settings = settings(authority.ca());
    settings.tls.certificate = Some(authority.write("client.pem", &client.pem));
    settings.tls.key = Some(authority.write("client.key", &client.key_pem));
    let security = Security::new(&settings).unwrap();
    let mut servers = Vec::new();
    for round in 0..3 {
        if round == 2 {
            // What is said of the old one has been said.
            std::fs::write(authority.ca(), format!("{}\n{}", authority.pem, renewed.pem)).unwrap();
        }
        let peer = Server::broker(server_config(&server), linger);
        drop(peer.open(&security).unwrap());
        servers.push(peer.address.to_string());
        peer.done();
    }
    let of = |server: &String| logged(&format!("the certificate of broker {server} expires in 5 days, at "));
    assert_eq!(servers.iter().map(|server| of(server).len()).collect::<Vec<_>>(), [1, 0, 0], "{:?}", logged(""));
    assert_eq!(logged("the certificate of ssl_certificate_location expires in 5 days").len(), 1);
    assert_eq!(logged("a CA's certificate in ssl_ca_location expires in 5 days").len(), 1);
}

#[test]
fn a_file_that_is_damaged_meanwhile_is_warned_of_once() {
    listen_to_the_log();
    let authority = Authority::new();
    let ca = authority.write("damaged-later.pem", &authority.pem);
    let security = Security::new(&settings(ca.clone())).unwrap();
    std::fs::write(&ca, "nothing").unwrap();
    for _ in 0..3 {
        let server = Server::broker(server_config(&authority.server()), linger);
        drop(server.open(&security).unwrap());
        server.done();
    }
    let said = logged("damaged-later.pem: there is no certificate in it; what was there before is used on");
    assert_eq!(said.len(), 1, "{said:?}");
}
