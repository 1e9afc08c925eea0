//! How a connection comes about: name, TCP, TLS, versions, who we are, and a first ordinary question.
//!
//! Promises: all of it ends by one deadline; every failure says what the other side probably is. Does not know: other brokers, retries.

use super::authenticate::Proof;
use super::deadline::Deadline;
use super::tls_stream::{HandshakeError, TlsStream};
use super::transport::Transport;
use super::{Address, Connection, ConnectionOptions, Peer};
use crate::error::{CallError, ConnectError, ErrorCode, Loss};
use crate::protocol::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, MetadataRequest, SPOKEN, VersionRange};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// What brokers count us as.
const WHO_ASKS: ApiVersionsRequest<'_> =
    ApiVersionsRequest { client_software_name: "outboxd", client_software_version: env!("CARGO_PKG_VERSION") };

impl Connection {
    /// Connects, and makes sure that a Kafka broker is there that speaks what we need.
    ///
    /// After ApiVersions an empty Metadata request (no topics) is sent: a listener that wants authentication answers the first
    /// and closes at the second. Better that one than a first Produce, whose fate would be unsure. The answer also says to which
    /// cluster the broker belongs.
    pub fn open(address: &Address, options: &ConnectionOptions) -> Result<Connection, ConnectError> {
        if i16::try_from(options.client_id.len()).is_err() {
            return Err(ConnectError::ClientId { bytes: options.client_id.len() });
        }
        let proof = options.security.sasl().map(|sasl| Proof::new(sasl, address)).transpose()?;
        let (stream, resolved, setup) = connect(address, options.setup_timeout)?;
        stream
            .set_nodelay(true)
            .map_err(|source| ConnectError::Broken { address: address.clone(), source: CallError::NotSent(source) })?;
        let mut connection = Connection {
            transport: secured(stream, address, options, setup)?,
            peer: Peer { address: address.clone(), resolved },
            client_id: options.client_id.clone(),
            cluster_id: None,
            security: options.security.clone(),
            setup_timeout: options.setup_timeout,
            session: None,
            receive_bytes_max: options.receive_bytes_max,
            versions: [None; SPOKEN.len()],
            next_correlation_id: 0,
            usable: true,
            last_used: Instant::now(),
            send: Vec::new(),
            receive: Vec::new(),
        };
        connection.negotiate(setup)?;
        if let Some(proof) = &proof {
            connection.authenticate(proof, setup)?;
        }
        let probe = MetadataRequest { topics: Some(&[]), allow_auto_topic_creation: false };
        match connection.call(&probe, patience(setup)) {
            Ok(answer) => {
                connection.cluster_id = answer.cluster_id;
                Ok(connection)
            }
            Err(source) => Err(connection.refused_probe(setup, source)),
        }
    }

    fn negotiate(&mut self, setup: Deadline) -> Result<(), ConnectError> {
        let VersionRange { min, max } = ApiKey::ApiVersions.spoken().versions;
        let mut offered = self.ask_versions(max, setup)?;
        if offered.error == ErrorCode::UNSUPPORTED_VERSION {
            // Older than 2.4, which says so in the layout of version 0.
            offered = self.ask_versions(min, setup)?;
        }
        let address = self.peer.address.clone();
        if !offered.error.is_ok() {
            return Err(ConnectError::ApiVersions { address, error: offered.error });
        }
        for (line, version) in SPOKEN.iter().zip(&mut self.versions) {
            let theirs = offered.versions(line.api);
            *version = theirs.and_then(|theirs| line.versions.common(theirs));
            if version.is_none() && line.needed {
                return Err(ConnectError::VersionUnsupported { address, api: line.api, ours: line.versions, theirs });
            }
        }
        Ok(())
    }

    fn ask_versions(&mut self, version: i16, setup: Deadline) -> Result<ApiVersionsResponse, ConnectError> {
        self.versions[ApiKey::ApiVersions.index()] = Some(version);
        self.call(&WHO_ASKS, patience(setup)).map_err(|source| self.not_a_broker(setup, source))
    }

    /// What a failed ApiVersions says about the other side.
    fn not_a_broker(&self, setup: Deadline, source: CallError) -> ConnectError {
        let address = self.peer.address.clone();
        if is_timeout(&source) {
            return ConnectError::Silent { address, waited: setup.elapsed() };
        }
        let source = match self.about_tls(source) {
            Ok(error) => return error,
            Err(source) => source,
        };
        let first_bytes = match &source {
            CallError::Lost { loss: Loss::FrameLength { first_bytes, .. }, .. } => first_bytes.as_slice().into(),
            CallError::Lost { loss: Loss::Io(error), .. } if error.kind() != ErrorKind::ConnectionReset => {
                return ConnectError::Broken { address, source };
            }
            // A reset counts as a close: it is one with our request still unread.
            CallError::Lost { .. } | CallError::Decode(_) => Box::default(),
            CallError::NotSent(_) | CallError::Unsupported { .. } => return ConnectError::Broken { address, source },
        };
        ConnectError::NotKafka { address, tls: self.has_tls(), first_bytes, source }
    }

    /// What it says that the first request after ApiVersions failed.
    fn refused_probe(&self, setup: Deadline, source: CallError) -> ConnectError {
        let address = self.peer.address.clone();
        if is_timeout(&source) {
            return ConnectError::Silent { address, waited: setup.elapsed() };
        }
        let is_end = match &source {
            CallError::Lost { loss: Loss::Closed { partial: false }, .. } => true,
            CallError::Lost { loss: Loss::Io(error), .. } => error.kind() == ErrorKind::ConnectionReset,
            _ => false,
        };
        if is_end {
            return ConnectError::WantsSasl { address, tls: self.has_tls(), source };
        }
        self.about_tls(source).unwrap_or_else(|source| ConnectError::Broken { address, source })
    }

    /// What the failure of the first request says about TLS, if anything. From version 1.3 on a client's handshake is over before the
    /// broker has looked at its certificate: that it does not like it comes as an alert instead of the first answer, or the connection
    /// just ends, with the alert lost on its way.
    pub(super) fn about_tls(&self, source: CallError) -> Result<ConnectError, CallError> {
        let Transport::Tls(tls) = &self.transport else { return Err(source) };
        let address = self.peer.address.clone();
        let is_end = |error: &io::Error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
        match (tls.certificate_asked(), source) {
            (Some(given), CallError::Lost { loss: Loss::Tls { about_certificate: true, source }, .. }) => {
                Ok(ConnectError::ClientCertificate { address, given, said: source.to_string() })
            }
            (_, CallError::Lost { loss: Loss::Tls { source, .. }, .. }) => Ok(ConnectError::Tls { address, source }),
            (Some(given), CallError::Lost { loss: Loss::Closed { partial: false }, .. }) => {
                Ok(ConnectError::ClientCertificate { address, given, said: "it closed the connection".to_owned() })
            }
            (Some(given), CallError::Lost { loss: Loss::Io(error), .. } | CallError::NotSent(error))
                if is_end(&error) =>
            {
                Ok(ConnectError::ClientCertificate { address, given, said: "it closed the connection".to_owned() })
            }
            (_, source) => Err(source),
        }
    }

    pub(super) fn has_tls(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }
}

/// What is left for the next step; nothing left is a step that runs out at once.
pub(super) fn patience(setup: Deadline) -> Duration {
    setup.left().unwrap_or_default()
}

pub(super) fn is_timeout(error: &CallError) -> bool {
    match error {
        CallError::Lost { loss: Loss::Timeout, .. } => true,
        CallError::NotSent(error) => error.kind() == ErrorKind::TimedOut,
        _ => false,
    }
}

/// Tries all addresses of the name. Each gets its share of the time that is left, or the first one that swallows packets would
/// use up all of it. The deadline that is given back is the whole setup's.
fn connect(address: &Address, timeout: Duration) -> Result<(TcpStream, SocketAddr, Deadline), ConnectError> {
    let resolved: Vec<SocketAddr> = match (address.host.as_str(), address.port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(source) => return Err(ConnectError::Resolve { address: address.clone(), source }),
    };
    let setup = Deadline::after(timeout);
    let mut last = None;
    for (place, candidate) in resolved.iter().enumerate() {
        let share = setup.left().unwrap_or_default() / (resolved.len() - place) as u32;
        match TcpStream::connect_timeout(candidate, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok((stream, *candidate, setup)),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(source) => ConnectError::Connect { address: address.clone(), tried: resolved.len(), source },
        None => ConnectError::NoAddress { address: address.clone() },
    })
}

/// Puts TLS around the socket, if that is wanted.
fn secured(
    stream: TcpStream,
    address: &Address,
    options: &ConnectionOptions,
    setup: Deadline,
) -> Result<Transport, ConnectError> {
    let Some(tls) = options.security.tls() else { return Ok(Transport::Plain(stream)) };
    let address = address.clone();
    match TlsStream::handshake(stream, tls.client(), &address.host, setup) {
        Ok(stream) => {
            if let Some(certificate) = stream.certificate() {
                tls.warn_of(&format!("the certificate of broker {address}"), certificate);
            }
            Ok(Transport::Tls(Box::new(stream)))
        }
        Err(HandshakeError::Timeout) => Err(ConnectError::Silent { address, waited: setup.elapsed() }),
        Err(HandshakeError::Io(source)) => Err(ConnectError::Broken { address, source: CallError::NotSent(source) }),
        Err(HandshakeError::Refused(source)) => Err(ConnectError::Tls { address, source: Box::new(source) }),
        Err(HandshakeError::ClientCertificate { given, said }) => {
            Err(ConnectError::ClientCertificate { address, given, said })
        }
    }
}
