//! One blocking connection to one broker, in the clear or in TLS: a request, its answer, and nothing else at the same time.
//!
//! Promises: a call ends by its deadline; every failure says whether the broker may have acted; after any failure the connection
//! is dead and says so. Does not know: other brokers, retries, what an answer means.

mod address;
mod authenticate;
mod deadline;
mod opening;
mod tls_stream;
mod transport;

pub use address::{Address, AddressError, Peer};

use super::error::{CallError, Loss};
use super::protocol::header::{LENGTH_BYTES, decode_response_header, encode_request_header};
use super::protocol::{ApiKey, DecodeError, ProduceRequest, ProduceResponse, Reader, Request, SPOKEN, Writer};
use crate::security::Security;
use authenticate::Session;
use deadline::Deadline;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};
use transport::Transport;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// What the broker's request logs and quotas call us. At most 32,767 bytes.
    pub client_id: String,
    /// Time until a connection can be used: all addresses of the name, TLS, and the exchanges that open it, together. Resolving the
    /// name is not included: the system's resolver has its own timeouts.
    pub setup_timeout: Duration,
    /// The largest answer that is accepted; memory is taken only as its bytes arrive.
    pub receive_bytes_max: usize,
    /// TLS, and who we are.
    pub security: Security,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        ConnectionOptions {
            client_id: "outboxd".to_owned(),
            setup_timeout: Duration::from_secs(10),
            receive_bytes_max: 64 * 1024 * 1024,
            security: Security::default(),
        }
    }
}

/// The receive buffer starts with this, and does not keep more than [`RECEIVE_KEPT_BYTES`] after a large answer: a program holds
/// several connections for months.
const RECEIVE_START_BYTES: usize = 4 * 1024;
const RECEIVE_KEPT_BYTES: usize = 64 * 1024;

/// How much of what is not an answer is kept to guess what the peer is.
const GARBAGE_BYTES_MAX: usize = 16;

/// A connection whose broker was asked for its versions.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    peer: Peer,
    client_id: String,
    /// What the broker calls its cluster.
    cluster_id: Option<String>,
    security: Security,
    setup_timeout: Duration,
    /// How long the broker goes on without asking who we are; `None`: as long as there is the connection.
    session: Option<Session>,
    receive_bytes_max: usize,
    /// By the API's place in [`SPOKEN`]: the version in use; `None` when the broker has none of ours.
    versions: [Option<i16>; SPOKEN.len()],
    next_correlation_id: i32,
    usable: bool,
    last_used: Instant,
    send: Vec<u8>,
    receive: Vec<u8>,
}

/// Ends a connection from another thread: a call in progress fails at once, like one whose peer closed.
#[derive(Debug)]
pub(crate) struct Interrupter(TcpStream);

impl Interrupter {
    /// Ends the call in progress, or the next one.
    pub(crate) fn interrupt(&self) {
        // Fails if it is closed already.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Connection {
    /// Sends a request and waits for its answer, `patience` for both together.
    pub fn call<R: Request>(&mut self, request: &R, patience: Duration) -> Result<R::Response, CallError> {
        let version = self.version_of(R::API)?;
        self.exchange(R::API, version, patience, |out, _gaps| request.encode(version, out), R::decode)
    }

    /// As [`Connection::call`], but sends the callers' record bytes from where they are.
    ///
    /// Panics for acks=0: there is no answer to wait for.
    pub fn produce(&mut self, request: &ProduceRequest<'_>, patience: Duration) -> Result<ProduceResponse, CallError> {
        assert!(request.acks != 0, "a Produce with acks=0 is not answered");
        let version = self.version_of(ApiKey::Produce)?;
        self.exchange(
            ApiKey::Produce,
            version,
            patience,
            |out, gaps| request.encode_around_records(out, gaps),
            ProduceResponse::decode,
        )
    }

    /// Whether the connection can take a request. False once a call failed, when the broker closed it, and when bytes are there
    /// that nobody asked for. It does not wait (one system call, in TLS one more for each ticket that came); every call does it by
    /// itself before it writes, because what is not written can't be unsure.
    pub fn alive(&mut self) -> bool {
        // A broker that has ceased to believe who we are closes at the next request.
        let is_over = self.session.is_some_and(|session| session.is_over(Instant::now()));
        if self.usable && (is_over || self.transport.idle_fault().is_some()) {
            self.close();
        }
        self.usable
    }

    /// Time since the last answer. Brokers close connections that were idle for `connections.max.idle.ms`, 10 minutes.
    pub fn idle_for(&self) -> Duration {
        self.last_used.elapsed()
    }

    /// The version in use for an API; `None`: the broker has none of ours.
    pub fn api_version(&self, api: ApiKey) -> Option<i16> {
        self.versions[api.index()]
    }

    /// A handle with which another thread can end what this connection is waiting for.
    pub(crate) fn interrupter(&self) -> io::Result<Interrupter> {
        self.transport.socket().try_clone().map(Interrupter)
    }

    /// What the broker called its cluster when the connection was opened; some relatives of Kafka's have no name for it.
    pub fn cluster_id(&self) -> Option<&str> {
        self.cluster_id.as_deref()
    }

    /// The broker's address.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    fn version_of(&self, api: ApiKey) -> Result<i16, CallError> {
        self.api_version(api).ok_or_else(|| CallError::Unsupported { api, ours: api.spoken().versions })
    }

    fn exchange<'r, T>(
        &mut self,
        api: ApiKey,
        version: i16,
        patience: Duration,
        encode: impl FnOnce(&mut Writer<'_>, &mut Vec<(usize, &'r [u8])>),
        decode: impl FnOnce(i16, &mut Reader<'_>) -> Result<T, DecodeError>,
    ) -> Result<T, CallError> {
        let deadline = Deadline::after(patience);
        if !matches!(api, ApiKey::SaslHandshake | ApiKey::SaslAuthenticate) {
            if self.session.is_some_and(|session| session.is_over(Instant::now())) {
                self.close();
                let text = "the time is over for which the broker believes who we are";
                return Err(CallError::NotSent(io::Error::new(ErrorKind::ConnectionAborted, text)));
            }
            self.keep_session(patience).map_err(|error| CallError::NotSent(io::Error::other(error)))?;
        }
        let correlation_id = self.next_correlation_id;
        self.next_correlation_id = correlation_id.checked_add(1).unwrap_or(0);
        let result =
            self.send(api, version, correlation_id, deadline, encode).map_err(CallError::NotSent).and_then(|()| {
                if api == ApiKey::Produce {
                    failpoint::hit("written");
                }
                let lost = |loss| CallError::Lost { api, waited: deadline.elapsed(), loss };
                let frame_bytes = self.receive_frame(deadline).map_err(lost)?;
                let mut reader = Reader::new(&self.receive[LENGTH_BYTES..frame_bytes]);
                let got = decode_response_header(&mut reader, api, version).map_err(CallError::Decode)?;
                if got != correlation_id {
                    return Err(lost(Loss::CorrelationId { expected: correlation_id, got }));
                }
                let answer = decode(version, &mut reader).map_err(CallError::Decode)?;
                reader.finish().map_err(CallError::Decode)?;
                Ok(answer)
            });
        self.last_used = Instant::now();
        if self.receive.len() > RECEIVE_KEPT_BYTES {
            self.receive.truncate(RECEIVE_KEPT_BYTES);
            self.receive.shrink_to_fit();
        }
        if result.is_err() {
            // The next answer on this connection could be to this request, or begin in the middle of one.
            self.close();
        }
        result
    }

    /// Puts the request together and writes all of it. Any error means that the last byte was not written.
    fn send<'r>(
        &mut self,
        api: ApiKey,
        version: i16,
        correlation_id: i32,
        deadline: Deadline,
        encode: impl FnOnce(&mut Writer<'_>, &mut Vec<(usize, &'r [u8])>),
    ) -> io::Result<()> {
        if !self.usable {
            return Err(io::Error::new(ErrorKind::NotConnected, "the connection failed before"));
        }
        // Before ApiVersions nothing was idle yet. A server that speaks first is asked all the same: its answer, read as one, tells
        // what it is, and always in the same words.
        if api != ApiKey::ApiVersions
            && let Some(fault) = self.transport.idle_fault()
        {
            return Err(fault);
        }
        let mut gaps: Vec<(usize, &'r [u8])> = Vec::new();
        self.send.clear();
        let mut out = Writer::new(&mut self.send);
        out.i32(0); // the length, below
        encode_request_header(&mut out, api, version, correlation_id, Some(&self.client_id));
        encode(&mut out, &mut gaps);
        let bytes = self.send.len() - LENGTH_BYTES + gaps.iter().map(|(_, records)| records.len()).sum::<usize>();
        let length = i32::try_from(bytes)
            .map_err(|_| io::Error::new(ErrorKind::InvalidInput, format!("a request of {bytes} bytes is too large")))?;
        self.send[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());

        let mut slices = Vec::with_capacity(2 * gaps.len() + 1);
        let mut done = 0;
        for (position, records) in gaps {
            slices.push(IoSlice::new(&self.send[done..position]));
            slices.push(IoSlice::new(records));
            done = position;
        }
        slices.push(IoSlice::new(&self.send[done..]));
        self.transport.send(&mut slices, deadline)
    }

    /// Fills `receive` with one frame, length prefix included, and gives its size.
    fn receive_frame(&mut self, deadline: Deadline) -> Result<usize, Loss> {
        let mut filled = 0;
        let mut frame_bytes = None;
        loop {
            let wanted = frame_bytes.unwrap_or(LENGTH_BYTES);
            if filled < wanted {
                // Doubling, so that a claimed length costs no more memory than twice what really came.
                if filled == self.receive.len() {
                    let grown = (2 * filled).max(RECEIVE_START_BYTES).min(wanted.max(RECEIVE_START_BYTES));
                    self.receive.resize(grown, 0);
                }
                match self.transport.read_some(&mut self.receive[filled..], deadline)? {
                    0 => return Err(Loss::Closed { partial: filled > 0 }),
                    count => filled += count,
                }
                continue;
            }
            let Some(frame_bytes) = frame_bytes else {
                let claimed = i32::from_be_bytes([self.receive[0], self.receive[1], self.receive[2], self.receive[3]]);
                // A correlation id at least.
                match usize::try_from(claimed) {
                    Ok(bytes) if (4..=self.receive_bytes_max).contains(&bytes) => {
                        frame_bytes = Some(LENGTH_BYTES + bytes);
                        continue;
                    }
                    _ => {
                        let first_bytes = self.receive[..filled.min(GARBAGE_BYTES_MAX)].to_vec();
                        return Err(Loss::FrameLength { claimed, max: self.receive_bytes_max, first_bytes });
                    }
                }
            };
            // Only one request is ever open.
            return if filled == frame_bytes {
                Ok(frame_bytes)
            } else {
                Err(Loss::Surplus { bytes: filled - frame_bytes })
            };
        }
    }

    fn close(&mut self) {
        self.usable = false;
        self.transport.close();
    }
}

/// What a broker was found to speak, for people: `Produce 8, Fetch 10`.
impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.peer)?;
        for (place, (line, version)) in SPOKEN.iter().zip(self.versions).enumerate() {
            let separator = if place == 0 { ":" } else { "," };
            match version {
                Some(version) => write!(f, "{separator} {} {version}", line.api)?,
                None => write!(f, "{separator} no {}", line.api)?,
            }
        }
        Ok(())
    }
}
