//! One blocking TCP connection to one broker: a request, its answer, and nothing else at the same time.
//!
//! Promises: a call ends by its deadline; every failure says whether the broker may have acted; after any failure the connection
//! is dead and says so. Does not know: other brokers, retries, what an answer means.

mod address;

pub use address::{Address, AddressError, Peer};

use super::error::{CallError, ConnectError, Loss};
use super::protocol::header::{LENGTH_BYTES, decode_response_header, encode_request_header};
use super::protocol::{
    ApiKey, ApiVersionsRequest, DecodeError, MetadataRequest, ProduceRequest, ProduceResponse, Reader, Request, SPOKEN,
    Writer,
};
use rustix::net::RecvFlags;
use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How to connect.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// What the broker's request logs and quotas call us. At most 32,767 bytes.
    pub client_id: String,
    /// Time for all addresses of a name together. Resolving the name is not included: the system's resolver has its own timeouts.
    pub connect_timeout: Duration,
    /// Time for each of the two exchanges that open a connection.
    pub request_timeout: Duration,
    /// The largest answer that is accepted; memory is taken only as its bytes arrive.
    pub receive_bytes_max: usize,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        ConnectionOptions {
            client_id: "outboxd".to_owned(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            receive_bytes_max: 64 * 1024 * 1024,
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
    stream: TcpStream,
    peer: Peer,
    client_id: String,
    /// What the broker calls its cluster.
    cluster_id: Option<String>,
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
    /// Connects, and makes sure that a Kafka broker is there that speaks what we need.
    ///
    /// After ApiVersions an empty Metadata request (no topics) is sent: a listener that wants authentication answers the first
    /// and closes at the second. Better that one than a first Produce, whose fate would be unsure. The answer also says to which
    /// cluster the broker belongs.
    pub fn open(address: &Address, options: &ConnectionOptions) -> Result<Connection, ConnectError> {
        if i16::try_from(options.client_id.len()).is_err() {
            return Err(ConnectError::ClientId { bytes: options.client_id.len() });
        }
        let (stream, resolved) = connect(address, options.connect_timeout)?;
        let mut connection = Connection {
            stream,
            peer: Peer { address: address.clone(), resolved },
            client_id: options.client_id.clone(),
            cluster_id: None,
            receive_bytes_max: options.receive_bytes_max,
            versions: [None; SPOKEN.len()],
            next_correlation_id: 0,
            usable: true,
            last_used: Instant::now(),
            send: Vec::new(),
            receive: Vec::new(),
        };
        connection
            .stream
            .set_nodelay(true)
            .map_err(|source| ConnectError::Broken { address: address.clone(), source: CallError::NotSent(source) })?;
        connection.negotiate(options.request_timeout)?;
        let probe = MetadataRequest { topics: Some(&[]), allow_auto_topic_creation: false };
        match connection.call(&probe, options.request_timeout) {
            Ok(answer) => {
                connection.cluster_id = answer.cluster_id;
                Ok(connection)
            }
            Err(source) => Err(refused_probe(address.clone(), source)),
        }
    }

    fn negotiate(&mut self, patience: Duration) -> Result<(), ConnectError> {
        let address = self.peer.address.clone();
        self.versions[ApiKey::ApiVersions.index()] = Some(ApiKey::ApiVersions.spoken().versions.max);
        let offered = match self.call(&ApiVersionsRequest, patience) {
            Ok(offered) => offered,
            Err(source) => return Err(not_a_broker(address, source)),
        };
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
    /// that nobody asked for. One system call that does not wait; every call does it by itself before it writes, because
    /// what is not written can't be unsure.
    pub fn alive(&mut self) -> bool {
        if self.usable && self.idle_fault().is_some() {
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
        self.stream.try_clone().map(Interrupter)
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
            && let Some(fault) = self.idle_fault()
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
        write_all(&self.stream, &mut slices, deadline)
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
                filled += self.read_some(filled, deadline)?;
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

    fn read_some(&mut self, filled: usize, deadline: Deadline) -> Result<usize, Loss> {
        loop {
            self.stream.set_read_timeout(Some(deadline.left().ok_or(Loss::Timeout)?)).map_err(Loss::Io)?;
            match (&self.stream).read(&mut self.receive[filled..]) {
                Ok(0) => return Err(Loss::Closed { partial: filled > 0 }),
                Ok(count) => return Ok(count),
                Err(error) if is_retryable(&error) => {}
                Err(error) => return Err(Loss::Io(error)),
            }
        }
    }

    /// What a look into the socket says against sending anything.
    fn idle_fault(&self) -> Option<io::Error> {
        let mut byte = [0u8; 1];
        loop {
            return match rustix::net::recv(&self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    Some(io::Error::new(ErrorKind::ConnectionAborted, "the broker closed the idle connection"))
                }
                Ok(_) => Some(io::Error::new(ErrorKind::InvalidData, "bytes are there that nobody asked for")),
                Err(rustix::io::Errno::AGAIN) => None,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => Some(error.into()),
            };
        }
    }

    fn close(&mut self) {
        self.usable = false;
        // Tells the broker now, not when the connection is dropped. Fails if it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// An instant by which an exchange is over.
#[derive(Clone, Copy, Debug)]
struct Deadline {
    started: Instant,
    patience: Duration,
}

impl Deadline {
    fn after(patience: Duration) -> Self {
        Deadline { started: Instant::now(), patience }
    }

    fn elapsed(self) -> Duration {
        self.started.elapsed()
    }

    /// `None` when it is over. Never zero: to a socket, zero means for ever.
    fn left(self) -> Option<Duration> {
        self.patience.checked_sub(self.elapsed()).filter(|left| !left.is_zero())
    }
}

/// A timed-out or interrupted system call: the deadline decides whether there is another one.
fn is_retryable(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

fn write_all(mut stream: &TcpStream, mut slices: &mut [IoSlice<'_>], deadline: Deadline) -> io::Result<()> {
    // Skips empty slices at the front: a write of nothing would look like a closed connection.
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        let left = deadline
            .left()
            .ok_or_else(|| io::Error::new(ErrorKind::TimedOut, "the broker does not take the request's bytes"))?;
        stream.set_write_timeout(Some(left))?;
        match stream.write_vectored(slices) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(error) if is_retryable(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Tries all addresses of the name. Each gets its share of the time that is left, or the first one that swallows packets would
/// use up all of it.
fn connect(address: &Address, timeout: Duration) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let resolved: Vec<SocketAddr> = match (address.host.as_str(), address.port).to_socket_addrs() {
        Ok(addresses) => addresses.collect(),
        Err(source) => return Err(ConnectError::Resolve { address: address.clone(), source }),
    };
    let deadline = Deadline::after(timeout);
    let mut last = None;
    for (place, candidate) in resolved.iter().enumerate() {
        let share = deadline.left().unwrap_or_default() / (resolved.len() - place) as u32;
        match TcpStream::connect_timeout(candidate, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok((stream, *candidate)),
            Err(error) => last = Some(error),
        }
    }
    Err(match last {
        Some(source) => ConnectError::Connect { address: address.clone(), tried: resolved.len(), source },
        None => ConnectError::NoAddress { address: address.clone() },
    })
}

/// What a failed ApiVersions says about the other side.
fn not_a_broker(address: Address, source: CallError) -> ConnectError {
    let first_bytes = match &source {
        CallError::Lost { loss: Loss::Timeout, waited, .. } => {
            return ConnectError::Silent { address, waited: *waited };
        }
        CallError::Lost { loss: Loss::FrameLength { first_bytes, .. }, .. } => first_bytes.clone(),
        CallError::Lost { loss: Loss::Io(error), .. } if error.kind() != ErrorKind::ConnectionReset => {
            return ConnectError::Broken { address, source };
        }
        // A reset counts as a close: it is one with our request still unread.
        CallError::Lost { .. } | CallError::Decode(_) => Vec::new(),
        CallError::NotSent(_) | CallError::Unsupported { .. } => return ConnectError::Broken { address, source },
    };
    ConnectError::NotKafka { address, first_bytes, source }
}

/// What it says that the first request after ApiVersions failed.
fn refused_probe(address: Address, source: CallError) -> ConnectError {
    match &source {
        CallError::Lost { loss: Loss::Closed { partial: false }, .. } => ConnectError::WantsSasl { address, source },
        CallError::Lost { loss: Loss::Io(error), .. } if error.kind() == ErrorKind::ConnectionReset => {
            ConnectError::WantsSasl { address, source }
        }
        CallError::Lost { loss: Loss::Timeout, waited, .. } => ConnectError::Silent { address, waited: *waited },
        _ => ConnectError::Broken { address, source },
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
