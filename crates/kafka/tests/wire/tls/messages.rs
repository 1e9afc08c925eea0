//! What is said when TLS does not come about: every line names the cause and what to do.

use super::certificates::{Authority, params};
use super::{Security, Server, chain, impatient, linger, mutual, server_config, server_config_of, settings};
use crate::peer::{answer_versions, current_versions, receive};
use outboxd_kafka::connection::{Address, Connection};
use outboxd_kafka::error::ConnectError;
use outboxd_kafka::security::SecuritySettings;
use rcgen::{BasicConstraints, IsCa, date_time_ymd};
use rustls::ServerConfig;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

/// What connecting to a server with this certificate is answered with, and the hint.
fn refused(authority: &Authority, config: ServerConfig) -> (String, String) {
    let security = Security::new(&settings(authority.ca())).unwrap();
    let server = Server::mute(config);
    let port = format!(":{}", server.address.port);
    let error = server.open(&security).unwrap_err();
    server.done();
    (chain(&error).replace(&port, ":PORT"), error.hint().unwrap_or_default().to_owned())
}

#[test]
fn an_unknown_authority_is_told_with_who_is_believed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (text, hint) = refused(&ours, server_config(&theirs.server()));
    let believed = ours.ca().display().to_string();
    assert_eq!(
        text,
        format!(
            "no TLS with 127.0.0.1:PORT: its certificate is signed by nobody whom ssl_ca_location ({believed}) would vouch for"
        )
    );
    assert!(hint.contains("ssl_ca_location = ") && hint.contains("openssl s_client"), "{hint}");
}

/// A CA that was made anew under its old name.
#[test]
fn an_authority_with_another_key_is_told() {
    let (old, new) = (Authority::named("our CA"), Authority::named("our CA"));
    let (text, hint) = refused(&old, server_config(&new.server()));
    let believed = old.ca().display().to_string();
    assert_eq!(
        text,
        format!(
            "no TLS with 127.0.0.1:PORT: its certificate is signed with another key than that of ssl_ca_location ({believed}), \
             though by the same name"
        )
    );
    assert!(hint.contains("beside the old one"), "{hint}");
}

#[test]
fn the_systems_authorities_are_believed_unless_one_is_named() {
    let server = Server::mute(server_config(&Authority::new().server()));
    let system = SecuritySettings { protocol: "SSL".parse().unwrap(), ..SecuritySettings::default() };
    let Ok(security) = Security::new(&system) else {
        // A machine that trusts nobody says so at the start.
        let error = Security::new(&system).unwrap_err();
        assert!(error.hint().contains("ca-certificates"), "{error}");
        return;
    };
    let text = chain(&server.open(&security).unwrap_err());
    assert!(text.ends_with("signed by nobody whom the system's list of authorities would vouch for"), "{text}");
    server.done();
}

#[test]
fn what_is_expired_or_not_yet_valid_is_told_with_both_clocks() {
    let authority = Authority::new();
    let mut old = params();
    old.not_before = date_time_ymd(2001, 1, 1);
    old.not_after = date_time_ymd(2002, 2, 3);
    let (text, hint) = refused(&authority, server_config(&authority.sign(&old)));
    let start =
        "no TLS with 127.0.0.1:PORT: its certificate expired at 2002-02-03T00:00:00Z; this machine's clock says 2";
    assert!(text.starts_with(start) && text.ends_with(" h UTC"), "{text}");
    assert!(hint.contains("date -u"), "{hint}");

    let mut early = params();
    early.not_before = date_time_ymd(2095, 12, 31);
    early.not_after = date_time_ymd(2096, 12, 31);
    let (text, hint) = refused(&authority, server_config(&authority.sign(&early)));
    let start = "no TLS with 127.0.0.1:PORT: its certificate is valid only from 2095-12-31T00:00:00Z on; this machine's clock says 2";
    assert!(text.starts_with(start), "{text}");
    assert!(hint.contains("date -u"), "{hint}");
}

#[test]
fn another_name_is_told_with_the_names_there_are() {
    let authority = Authority::new();
    let names = ["kafka-1.example".to_owned(), "*.internal.example".into(), "10.1.2.3".into()];
    let other = rcgen::CertificateParams::new(names).unwrap();
    let (text, hint) = refused(&authority, server_config(&authority.sign(&other)));
    assert_eq!(
        text,
        "no TLS with 127.0.0.1:PORT: its certificate is for kafka-1.example, *.internal.example, 10.1.2.3, not for 127.0.0.1"
    );
    assert!(hint.contains("advertised.listeners") && hint.contains("subjectAltName=DNS:NAME"), "{hint}");

    // A name that can't be in any certificate.
    let security = Security::new(&settings(authority.ca())).unwrap();
    let server = Server::mute(server_config(&authority.server()));
    let address = Address { host: "127.1".into(), port: server.address.port };
    let text = chain(&Connection::open(&address, &impatient(&security)).unwrap_err());
    assert!(text.contains("127.1"), "{text}");
    server.done();
}

#[test]
fn many_names_are_not_all_told_and_none_is_a_control_character() {
    let authority = Authority::new();
    let names: Vec<String> = (0..40).map(|number| format!("kafka-{number}.example")).collect();
    let (text, _) = refused(&authority, server_config(&authority.sign(&rcgen::CertificateParams::new(names).unwrap())));
    assert!(text.ends_with("kafka-7.example and 32 more, not for 127.0.0.1"), "{text}");
}

#[test]
fn a_certificate_without_names_and_one_of_version_1_are_told_with_the_command_for_a_good_one() {
    let authority = Authority::new();
    let bare = authority.sign_by_openssl("bare", "rsa:2048", Some("basicConstraints=CA:FALSE"));
    let (text, hint) = refused(&authority, server_config(&bare));
    assert_eq!(
        text,
        "no TLS with 127.0.0.1:PORT: its certificate has no subjectAltName, so it is nobody's; the common name does not count"
    );
    assert!(hint.contains("-extfile san"), "{hint}");

    let v1 = authority.sign_by_openssl("v1", "rsa:2048", None);
    let (text, hint) = refused(&authority, server_config(&v1));
    assert_eq!(
        text,
        "no TLS with 127.0.0.1:PORT: its certificate is of X.509 version 1, which can't say what it is for"
    );
    assert!(hint.contains("-extfile san"), "{hint}");
}

#[test]
fn an_authoritys_certificate_as_the_servers_own_is_told() {
    let authority = Authority::new();
    let mut ca = params();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (text, hint) = refused(&authority, server_config(&authority.sign(&ca)));
    assert_eq!(
        text,
        "no TLS with 127.0.0.1:PORT: it shows the certificate of a certificate authority (CA:TRUE) as its own"
    );
    assert!(hint.contains("openssl x509 -req -in server.csr -CA ca.pem"), "{hint}");
}

/// openssl's own server, for what rustls would not serve.
struct OldServer {
    child: Child,
    address: Address,
}

impl OldServer {
    fn start(authority: &Authority, name: &str, more: &str) -> OldServer {
        let mut command = Command::new("openssl");
        command.args([
            "s_server",
            "-accept",
            "127.0.0.1:0",
            "-cert",
            &format!("{name}.pem"),
            "-key",
            &format!("{name}.key"),
        ]);
        command.args(more.split_whitespace()).current_dir(authority.folder.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.find(|line| line.as_ref().is_ok_and(|line| line.starts_with("ACCEPT"))).unwrap().unwrap();
        let port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
        // What it prints later is read, or it would end by it.
        std::thread::spawn(move || lines.for_each(drop));
        OldServer { child, address: Address { host: "127.0.0.1".into(), port } }
    }
}

impl Drop for OldServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn weak_keys_and_old_versions_are_told() {
    let authority = Authority::new();
    let security = Security::new(&settings(authority.ca())).unwrap();
    let names = Some("subjectAltName=IP:127.0.0.1");
    authority.sign_by_openssl("weak", "rsa:1024", names);
    for version in ["-tls1_2", "-tls1_3"] {
        let server = OldServer::start(&authority, "weak", &format!("{version} -cipher ALL:@SECLEVEL=0"));
        let error = Connection::open(&server.address, &super::options(&security)).unwrap_err();
        assert!(
            chain(&error).ends_with(": its certificate has an RSA key of 1024 bits, at least 2048 are wanted"),
            "{version}: {}",
            chain(&error)
        );
        assert!(error.hint().unwrap().contains("rsa:2048"), "{error:?}");
    }

    authority.sign_by_openssl("strong", "rsa:2048", names);
    let server = OldServer::start(&authority, "strong", "-tls1_1 -cipher ALL:@SECLEVEL=0");
    let error = Connection::open(&server.address, &super::options(&security)).unwrap_err();
    assert!(
        chain(&error).ends_with(": it speaks no version of TLS that is safe: 1.2 and 1.3 are"),
        "{}",
        chain(&error)
    );
    assert!(error.hint().unwrap().contains("ssl.enabled.protocols=TLSv1.2,TLSv1.3"), "{error:?}");
}

#[test]
fn a_listener_without_tls_is_told_with_the_protocol_that_fits() {
    let authority = Authority::new();
    let security = Security::new(&settings(authority.ca())).unwrap();
    let answers = [
        // Kafka: takes the first bytes for the length of a frame that is far too large.
        (&b""[..], "it closed the connection at the first message of TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what it answers is not TLS"),
    ];
    for (answer, words) in answers {
        let server = Server::bare(move |mut stream| {
            let mut first = [0; 4];
            stream.read_exact(&mut first).unwrap();
            stream.write_all(answer).unwrap();
        });
        let error = server.open(&security).unwrap_err();
        assert!(chain(&error).ends_with(words), "{}", chain(&error));
        let hint = error.hint().unwrap();
        assert!(hint.contains("security_protocol = \"PLAINTEXT\" (or \"SASL_PLAINTEXT\")"), "{hint}");
        server.done();
    }
}

#[test]
fn tls_without_kafka_behind_it_is_told() {
    let authority = Authority::new();
    let security = Security::new(&settings(authority.ca())).unwrap();
    let server = Server::new(server_config(&authority.server()), |mut stream| {
        receive(&mut stream);
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let error = server.open(&security).unwrap_err();
    assert!(matches!(&error, ConnectError::NotKafka { tls: true, .. }), "{error:?}");
    assert_eq!(error.hint(), Some("this is TLS, but not Kafka: check the port"));
    server.done();

    let server = Server::new(server_config(&authority.server()), |mut stream| {
        answer_versions(&mut stream, current_versions());
        receive(&mut stream);
        stream.conn.send_close_notify();
        stream.flush().unwrap();
    });
    let error = server.open(&security).unwrap_err();
    assert!(matches!(&error, ConnectError::WantsSasl { tls: true, .. }), "{error:?}");
    server.done();
}

#[test]
fn a_client_certificate_that_is_missing_or_not_accepted_is_told_as_that() {
    let authority = Authority::new();
    let stranger = Authority::new().server();
    let (certificate, key) =
        (authority.write("stranger.pem", &stranger.pem), authority.write("stranger.key", &stranger.key_pem));
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        for given in [false, true] {
            let mut settings = settings(authority.ca());
            if given {
                settings.tls.certificate = Some(certificate.clone());
                settings.tls.key = Some(key.clone());
            }
            let security = Security::new(&settings).unwrap();
            // In the end the alert can be lost on its way: a reset overtakes it.
            for _ in 0..20 {
                let server = Server::new(mutual(&authority.server(), &authority, versions), |mut stream| {
                    let _ = stream.conn.complete_io(&mut stream.sock);
                });
                let error = server.open(&security).unwrap_err();
                assert!(
                    matches!(&error, ConnectError::ClientCertificate { given: told, .. } if *told == given),
                    "{versions:?} {error:?}"
                );
                assert!(error.to_string().contains("wants a client certificate"), "{error}");
                let key =
                    if given { "ssl_certificate_location" } else { "ssl_certificate_location and ssl_key_location" };
                assert!(error.hint().unwrap().contains(key), "{error:?}");
                server.done();
            }
        }
    }
}

#[test]
fn a_client_certificate_that_is_accepted_opens() {
    let authority = Authority::new();
    let client = authority.sign(&rcgen::CertificateParams::new(["client".to_owned()]).unwrap());
    let mut settings = settings(authority.ca());
    settings.tls.certificate = Some(authority.write("client.pem", &client.pem));
    settings.tls.key = Some(authority.write("client.key", &client.key_pem));
    let security = Security::new(&settings).unwrap();
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12]] {
        let server = Server::broker(mutual(&authority.server(), &authority, versions), linger);
        drop(server.open(&security).unwrap());
        server.done();
        // Asked for, and not wanted.
        let server = Server::broker(server_config_of(&authority.server(), versions), linger);
        drop(server.open(&security).unwrap());
        server.done();
    }
}

#[test]
fn an_alert_of_the_brokers_is_named() {
    let authority = Authority::new();
    let security = Security::new(&settings(authority.ca())).unwrap();
    for (alert, words) in [
        (40, "it ended TLS with the alert HandshakeFailure"),
        (70, "it speaks no version of TLS that is safe: 1.2 and 1.3 are"),
    ] {
        let server = Server::bare(move |mut stream| {
            let mut first = [0; 4];
            stream.read_exact(&mut first).unwrap();
            stream.write_all(&[21, 3, 3, 0, 2, 2, alert]).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        let error = server.open(&security).unwrap_err();
        assert!(chain(&error).ends_with(words), "{}", chain(&error));
        server.done();
    }
}
