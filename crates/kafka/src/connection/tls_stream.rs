//! TLS on a blocking socket, with the deadlines and the honesty about what was sent that a plain one has.
//!
//! Promises: a send that succeeds has left the library's buffer for the kernel, to the last record; after one that failed nothing of it
//! is ever sent on; what TLS says to itself on an idle connection (tickets, new keys) is no fault. Does not know: requests, certificates.

use super::deadline::{Deadline, is_retryable};
use super::transport::{closed_idle, unasked, write_timeout};
use crate::error::Loss;
use crate::security::{TlsClient, TlsError};
use rustix::net::{RecvFlags, SendFlags};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::sync::Arc;

/// How often a look at an idle connection takes what is there (4 KB and more at a time). Tickets, the one thing that is usually there,
/// take one or two; a peer that never stops talking is not idle.
const IDLE_READS_MAX: usize = 16;

/// A connection whose handshake is over.
#[derive(Debug)]
pub(super) struct TlsStream {
    socket: TcpStream,
    tls: ClientConnection,
    client: TlsClient,
}

/// Why there is no TLS with the peer.
#[derive(Debug)]
pub(super) enum HandshakeError {
    Timeout,
    Io(io::Error),
    Refused(TlsError),
    /// The peer wanted a certificate of ours, and ended the connection over it.
    ClientCertificate {
        given: bool,
        said: String,
    },
}

impl TlsStream {
    /// Agrees on keys, and makes sure that the peer is `host`.
    pub(super) fn handshake(
        socket: TcpStream,
        client: TlsClient,
        host: &str,
        deadline: Deadline,
    ) -> Result<TlsStream, HandshakeError> {
        let name = server_name(host).ok_or_else(|| HandshakeError::Refused(TlsError::BadName(host.to_owned())))?;
        let tls = ClientConnection::new(Arc::clone(&client.config), name)
            .map_err(|error| HandshakeError::Refused(client.explained(&error)))?;
        let mut stream = TlsStream { socket, tls, client };
        let mut silent = true;
        while stream.tls.is_handshaking() || stream.tls.wants_write() {
            if stream.tls.wants_write() {
                match stream.flush(deadline) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::TimedOut => return Err(HandshakeError::Timeout),
                    Err(error) => return Err(stream.ended(silent, Some(error))),
                }
                continue;
            }
            let left = deadline.left().ok_or(HandshakeError::Timeout)?;
            stream.socket.set_read_timeout(Some(left)).map_err(HandshakeError::Io)?;
            match stream.tls.read_tls(&mut &stream.socket) {
                Ok(0) => return Err(stream.ended(silent, None)),
                Ok(_) => silent = false,
                Err(error) if is_retryable(&error) => continue,
                Err(error) => return Err(stream.ended(silent, Some(error))),
            }
            if let Err(error) = stream.tls.process_new_packets() {
                stream.say_why();
                return Err(if stream.client.was_asked_for_certificate() && TlsClient::is_about_certificate(&error) {
                    stream.client_certificate(&error)
                } else {
                    HandshakeError::Refused(stream.client.explained(&error))
                });
            }
        }
        Ok(stream)
    }

    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The peer's own certificate.
    pub(super) fn certificate(&self) -> Option<&[u8]> {
        self.tls.peer_certificates().and_then(<[_]>::first).map(AsRef::as_ref)
    }

    /// Whether the peer asked for a certificate of ours, and whether it got one.
    pub(super) fn certificate_asked(&self) -> Option<bool> {
        self.client.was_asked_for_certificate().then(|| self.client.has_certificate())
    }

    /// `error`: what the socket said, if it did not just end.
    fn ended(&self, silent: bool, error: Option<io::Error>) -> HandshakeError {
        match error {
            Some(error) if !matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                HandshakeError::Io(error)
            }
            _ if silent => HandshakeError::Refused(TlsError::Closed),
            _ if self.client.was_asked_for_certificate() => HandshakeError::ClientCertificate {
                given: self.client.has_certificate(),
                said: "it closed the connection".to_owned(),
            },
            _ => HandshakeError::Refused(TlsError::ClosedInHandshake),
        }
    }

    fn client_certificate(&self, error: &rustls::Error) -> HandshakeError {
        let said = self.client.explained(error).to_string();
        HandshakeError::ClientCertificate { given: self.client.has_certificate(), said }
    }

    /// Encrypts and sends all of it. An error means that the last record, without which the others are no whole request, has not been
    /// written to its end. What is left of it stays in the library's buffer and must never leave it: see `say_goodbye`.
    pub(super) fn send(&mut self, mut slices: &mut [IoSlice<'_>], deadline: Deadline) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            // Takes 64 KB at most, which are encrypted straight from the caller's bytes.
            let taken = self.tls.writer().write_vectored(slices)?;
            if taken == 0 && !self.tls.wants_write() {
                // The keys are used up, or the connection has failed before.
                return Err(ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut slices, taken);
            self.flush(deadline)?;
        }
        Ok(())
    }

    /// Empties the library's buffer into the kernel's.
    fn flush(&mut self, deadline: Deadline) -> io::Result<()> {
        while self.tls.wants_write() {
            self.socket.set_write_timeout(Some(deadline.left().ok_or_else(write_timeout)?))?;
            match self.tls.write_tls(&mut &self.socket) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if is_retryable(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn read_some(&mut self, into: &mut [u8], deadline: Deadline) -> Result<usize, Loss> {
        loop {
            match self.tls.reader().read(into) {
                Ok(count) => return Ok(count),
                // An end without a farewell: an answer has its length, so nothing is taken for whole that is not.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(0),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(Loss::Io(error)),
            }
            self.socket.set_read_timeout(Some(deadline.left().ok_or(Loss::Timeout)?)).map_err(Loss::Io)?;
            match self.tls.read_tls(&mut &self.socket) {
                Ok(_) => {}
                Err(error) if is_retryable(&error) => continue,
                Err(error) => return Err(Loss::Io(error)),
            }
            if let Err(error) = self.tls.process_new_packets() {
                self.say_why();
                let alert = TlsClient::is_about_certificate(&error);
                return Err(Loss::Tls { about_certificate: alert, source: Box::new(self.client.explained(&error)) });
            }
        }
    }

    /// Takes what TLS has to say to itself, without waiting. Data that nobody asked for is a fault, and so is an end.
    pub(super) fn idle_fault(&mut self) -> Option<io::Error> {
        for _ in 0..IDLE_READS_MAX {
            match self.tls.process_new_packets() {
                // Also what came with the last answer, beyond its end.
                Ok(state) if state.plaintext_bytes_to_read() > 0 => return Some(unasked()),
                Ok(state) if state.peer_has_closed() => return Some(closed_idle()),
                Ok(_) => {}
                Err(error) => {
                    self.say_why();
                    return Some(io::Error::new(ErrorKind::InvalidData, self.client.explained(&error)));
                }
            }
            match self.tls.read_tls(&mut Unwaiting(&self.socket)) {
                Ok(0) => return Some(closed_idle()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Some(error),
            }
        }
        Some(unasked())
    }

    /// Says that we close, if there is room for it in the kernel's buffer. Not when a part of a request is in the library's: it would be
    /// sent first, and be whole after it was reported as not sent.
    pub(super) fn say_goodbye(&mut self) {
        if !self.tls.wants_write() {
            self.tls.send_close_notify();
            self.say_why();
        }
    }

    /// Sends the alert that the library has prepared, if there is room for it. Only where nothing else can be in its buffer.
    fn say_why(&mut self) {
        let _ = self.tls.write_tls(&mut Unwaiting(&self.socket));
    }
}

/// The name that the peer's certificate must be for.
fn server_name(host: &str) -> Option<ServerName<'static>> {
    // The zone of a link-local address is ours alone, and so is the dot that ends a name of DNS.
    let host = host.split_once('%').map_or(host, |(address, _)| address);
    match host.parse::<IpAddr>() {
        Ok(address) => Some(ServerName::from(address)),
        Err(_) => ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned()).ok(),
    }
}

/// A socket that answers "not now" instead of waiting, whatever its own timeouts are.
struct Unwaiting<'a>(&'a TcpStream);

impl Read for Unwaiting<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let (_, count) = rustix::net::recv(self.0, into, RecvFlags::DONTWAIT)?;
        Ok(count)
    }
}

impl Write for Unwaiting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.0, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "../../tests/support/self_signed.rs"]
mod self_signed;

#[cfg(test)]
mod tests {
    use super::self_signed::SelfSigned;
    use super::*;
    use crate::security::{Security, SecurityProtocol, SecuritySettings, TlsSettings};
    use rustls::{ServerConnection, StreamOwned};
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn a_peer_is_known_by_its_name_without_zone_and_final_dot() {
        for (host, name) in [
            ("kafka-1.example", "kafka-1.example"),
            ("kafka.example.", "kafka.example"),
            ("kafka_1", "kafka_1"),
            ("10.1.2.3", "10.1.2.3"),
            ("fe80::1%eth0", "fe80::1"),
        ] {
            assert_eq!(server_name(host).expect(host).to_str(), name);
        }
        for host in ["", "a b", "ümlaut", "127.1"] {
            assert_eq!(server_name(host), None, "{host}");
        }
    }

    /// A request that was reported as not sent lies encrypted in the library's buffer: a farewell must not push it out.
    #[test]
    fn a_farewell_sends_nothing_of_a_request_that_failed() {
        let signed = SelfSigned::of("localhost");
        let config = signed.config;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (socket, _) = listener.accept().unwrap();
            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
            let mut received = Vec::new();
            let ended = stream.read_to_end(&mut received);
            (received, ended.is_ok())
        });
        let settings = SecuritySettings {
            protocol: SecurityProtocol::Ssl,
            tls: TlsSettings { ca: Some(signed.ca), ..TlsSettings::default() },
            sasl: None,
        };
        let security = Security::new(&settings).unwrap();
        let client = security.tls().unwrap().client();
        let socket = TcpStream::connect(address).unwrap();
        let deadline = Deadline::after(Duration::from_secs(60));
        let mut stream = TlsStream::handshake(socket, client, "localhost", deadline).unwrap();
        stream.send(&mut [IoSlice::new(b"sent")], deadline).unwrap();
        stream.tls.writer().write_all(b"reported as not sent").unwrap();
        let before = stream.tls.wants_write();
        stream.say_goodbye();
        drop(stream);
        assert!(before, "the request waits in the library");
        assert_eq!(server.join().unwrap(), (b"sent".to_vec(), false));
    }
}
