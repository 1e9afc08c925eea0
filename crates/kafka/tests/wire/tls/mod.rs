//! Connections in TLS: against servers that follow a script, with certificates of every kind.

mod certificates;
mod exchanges;
mod files;
mod messages;

use crate::peer::{LONG, SHORT};
use certificates::{Authority, Signed};
use outboxd_kafka::connection::{Address, Connection, ConnectionOptions};
use outboxd_kafka::error::ConnectError;
use outboxd_kafka::security::{Security, SecurityProtocol, SecuritySettings, TlsSettings};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::SingleCertAndKey;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};
use std::error::Error;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

/// The server's end of a connection.
type TlsPeer = StreamOwned<ServerConnection, TcpStream>;

/// A peer that accepts one connection and follows its script.
struct Server {
    address: Address,
    thread: JoinHandle<()>,
}

impl Server {
    /// The script gets the bare socket.
    fn bare(script: impl FnOnce(TcpStream) + Send + 'static) -> Server {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = Address { host: "127.0.0.1".into(), port: listener.local_addr().unwrap().port() };
        let thread = std::thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LONG)).unwrap();
            // What is written is there before the test goes on.
            stream.set_nodelay(true).unwrap();
            script(stream);
        });
        Server { address, thread }
    }

    fn new(config: ServerConfig, script: impl FnOnce(TlsPeer) + Send + 'static) -> Server {
        let connection = ServerConnection::new(Arc::new(config)).unwrap();
        Server::bare(move |stream| script(StreamOwned::new(connection, stream)))
    }

    /// One that is a broker until the connection is open.
    fn broker(config: ServerConfig, script: impl FnOnce(TlsPeer) + Send + 'static) -> Server {
        Server::new(config, move |mut stream| {
            crate::peer::welcome(&mut stream, crate::peer::current_versions());
            script(stream);
        })
    }

    /// One that shakes hands as far as it goes, and waits for the end.
    fn mute(config: ServerConfig) -> Server {
        Server::new(config, linger)
    }

    fn open(&self, security: &Security) -> Result<Connection, ConnectError> {
        Connection::open(&self.address, &options(security))
    }

    fn done(self) {
        self.thread.join().unwrap();
    }
}

/// Waits until the other side is gone.
fn linger(mut stream: TlsPeer) {
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
}

fn options(security: &Security) -> ConnectionOptions {
    ConnectionOptions {
        client_id: "test".into(),
        setup_timeout: LONG,
        receive_bytes_max: 8 * 1024 * 1024,
        security: security.clone(),
    }
}

fn impatient(security: &Security) -> ConnectionOptions {
    ConnectionOptions { setup_timeout: SHORT, ..options(security) }
}

fn server_config(signed: &Signed) -> ServerConfig {
    server_config_of(signed, rustls::ALL_VERSIONS)
}

fn server_config_of(signed: &Signed, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        // Whatever certificate it is: a server does not look at its own.
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(signed.certified())))
}

/// One that wants a certificate of the authority.
fn mutual(signed: &Signed, authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![signed.certificate.clone()], signed.key())
        .unwrap()
}

fn settings(ca: PathBuf) -> SecuritySettings {
    SecuritySettings {
        protocol: SecurityProtocol::Ssl,
        tls: TlsSettings { ca: Some(ca), ..TlsSettings::default() },
        sasl: None,
    }
}

/// An error with its causes, as it is printed.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
