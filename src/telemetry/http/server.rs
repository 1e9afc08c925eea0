//! A small HTTP/1.1 server: one request and one answer for each connection.
//!
//! Promises: whatever a client sends or holds back costs a bounded amount of memory, time and threads, and ends nothing but its
//! own connection; the listener survives every failure to accept; its end waits for no client. Does not know: which pages there
//! are.

use crate::telemetry::trouble::Trouble;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections, and with them threads, at once. Whoever takes the last place ends the one that has been there longest, so that slow
/// clients keep nobody else out; who comes before that has gone is told so and closed.
pub const CONNECTIONS_MAX: usize = 32;
/// Request line and headers together: 414 or 431.
pub const HEAD_MAX_BYTES: usize = 8 << 10;
/// More of them: 431.
const HEADERS_MAX: usize = 64;
/// From accept to close, whatever the client does.
const CLIENT_MAX: Duration = Duration::from_secs(5);
/// Of what a client sends behind the head it was answered for: read and thrown away, the rest is not read.
pub const DISCARDED_MAX_BYTES: u64 = 64 << 10;
/// How long an answered client may take to close its side.
const LINGER: Duration = Duration::from_secs(1);
/// After a failure to accept: without descriptors the listener stays readable, and asking at once would be a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// So long without a failure to accept, and it is over.
const WELL_AFTER: Duration = Duration::from_secs(10);

/// Plain text, for people.
pub const TEXT: &str = "text/plain; charset=utf-8";

/// What was asked for. The headers are checked and not kept: no page depends on one.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
}

#[derive(Debug)]
pub struct Response {
    /// Code and reason: `200 OK`.
    pub status: &'static str,
    pub content_type: &'static str,
    /// The methods there are, with a 405.
    pub allow: Option<&'static str>,
    pub body: String,
}

impl Response {
    pub fn text(status: &'static str, body: impl Into<String>) -> Response {
        Response { status, content_type: TEXT, allow: None, body: body.into() }
    }

    fn into_bytes(self, with_body: bool) -> Vec<u8> {
        let Response { status, content_type, allow, body } = self;
        let allow = allow.map_or(String::new(), |methods| format!("Allow: {methods}\r\n"));
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n{allow}Connection: close\r\n\r\n",
            body.len()
        );
        let mut bytes = head.into_bytes();
        if with_body {
            bytes.extend_from_slice(body.as_bytes());
        }
        bytes
    }
}

/// The running server; dropping it closes the listener.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    /// Closed to say stop.
    running: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// `answer` is called on a thread of the connection's own.
    pub fn start(
        listener: TcpListener,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> io::Result<Server> {
        Self::start_within(CLIENT_MAX, listener, answer)
    }

    pub(super) fn start_within(
        client_max: Duration,
        listener: TcpListener,
        answer: impl Fn(&Request) -> Response + Send + Sync + 'static,
    ) -> io::Result<Server> {
        let address = listener.local_addr()?;
        // A client that is gone again between poll and accept must not hold up the end.
        listener.set_nonblocking(true)?;
        let (stopped, running) = io::pipe()?;
        let acceptor = Acceptor {
            listener,
            stopped,
            client_max,
            answer: Arc::new(answer),
            open: Arc::new(()),
            clients: VecDeque::with_capacity(CONNECTIONS_MAX),
        };
        let thread = std::thread::Builder::new().name("http".into()).spawn(move || acceptor.run())?;
        Ok(Server { address, running: Some(running), thread: Some(thread) })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.running.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The connections' threads are not joined: each ends by itself, and none holds anything but its socket.
    }
}

struct Acceptor<A> {
    listener: TcpListener,
    stopped: PipeReader,
    client_max: Duration,
    answer: Arc<A>,
    /// One for each connection, and this one.
    open: Arc<()>,
    /// In the order they came; those that have ended may be among them.
    clients: VecDeque<Weak<TcpStream>>,
}

impl<A: Fn(&Request) -> Response + Send + Sync + 'static> Acceptor<A> {
    fn run(mut self) {
        let mut trouble = Trouble::new("http");
        let mut failed = None;
        while !self.stops_within(true, WELL_AFTER) {
            let now = Instant::now();
            match self.listener.accept() {
                Ok((stream, _)) => self.take(stream, now),
                Err(error) if is_passing(&error) => {}
                Err(error) => {
                    trouble.happened(now, &format!("no connection can be accepted: {error}"));
                    failed = Some(now);
                    if self.stops_within(false, ACCEPT_PAUSE) {
                        return;
                    }
                }
            }
            if failed.is_some_and(|failed| now.duration_since(failed) >= WELL_AFTER) {
                failed = None;
                trouble.over(now);
            }
        }
    }

    /// Waits for the end, and unless it is a pause for a connection too. True: stop.
    fn stops_within(&self, or_connection: bool, time: Duration) -> bool {
        let timeout = Timespec { tv_sec: time.as_secs() as i64, tv_nsec: i64::from(time.subsec_nanos()) };
        let mut descriptors = [PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        let asked = if or_connection { 2 } else { 1 };
        // An error of poll itself (no memory) is the next round's affair.
        let _ = poll(&mut descriptors[..asked], Some(&timeout));
        !descriptors[0].revents().is_empty()
    }

    fn take(&mut self, stream: TcpStream, now: Instant) {
        if Arc::strong_count(&self.open) > CONNECTIONS_MAX {
            // In one go or not at all: a client that doesn't read must not keep this thread.
            let _ = stream.set_nonblocking(true);
            let _ =
                (&stream).write(&Response::text("503 Service Unavailable", "too many connections\n").into_bytes(true));
            return;
        }
        let stream = Arc::new(stream);
        self.clients.retain(|client| client.strong_count() > 0);
        self.clients.push_back(Arc::downgrade(&stream));
        let client = Client { stream, until: now + self.client_max };
        let (answer, place) = (Arc::clone(&self.answer), Arc::clone(&self.open));
        // Without a thread the connection is dropped, and closed with that.
        let _ = std::thread::Builder::new().name("http-client".into()).spawn(move || {
            serve(client, &*answer);
            drop(place);
        });
        if Arc::strong_count(&self.open) > CONNECTIONS_MAX {
            let longest = self.clients.pop_front().and_then(|client| client.upgrade());
            let _ = longest.map(|stream| stream.shutdown(Shutdown::Both));
        }
    }
}

/// About that one connection, or nothing at all: the next one may be asked for at once.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | WouldBlock)
}

/// A connection that ends in time.
struct Client {
    stream: Arc<TcpStream>,
    until: Instant,
}

impl Client {
    /// A timeout of zero would be none.
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        (&*self.stream).read(buffer)
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        (&*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn serve(mut client: Client, answer: impl Fn(&Request) -> Response) {
    let (response, with_body) = match read_head(&mut client) {
        Ok(request) => (answer(&request), request.method != "HEAD"),
        Err(Some(refusal)) => (Response::text(refusal, format!("{refusal}\n")), true),
        Err(None) => return,
    };
    let sent = client.write_all(&response.into_bytes(with_body));
    if sent.and_then(|()| client.stream.shutdown(Shutdown::Write)).is_err() {
        return;
    }
    // A close with bytes unread is a reset, which takes the answer away from a client that has not read it yet.
    client.until = client.until.min(Instant::now() + LINGER);
    let _ = discard(client);
}

fn discard(rest: impl Read) -> io::Result<u64> {
    io::copy(&mut rest.take(DISCARDED_MAX_BYTES), &mut io::sink())
}

/// Reads until there is a whole head, and no further than its bound. `Err`: the status to answer with; none for a client that
/// is gone.
fn read_head(from: &mut impl Read) -> Result<Request, Option<&'static str>> {
    let mut bytes = [0; HEAD_MAX_BYTES];
    let mut length = 0;
    let mut has_path = false;
    while length < bytes.len() {
        match from.read(&mut bytes[length..]) {
            Ok(0) if length == 0 => return Err(None),
            Ok(0) => return Err(Some("400 Bad Request")),
            Ok(read) => length += read,
            Err(error) => match error.kind() {
                io::ErrorKind::Interrupted => continue,
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => return Err(Some("408 Request Timeout")),
                _ => return Err(None),
            },
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head.parse(&bytes[..length]);
        has_path = head.path.is_some();
        match (parsed, head.method, head.path) {
            (Ok(httparse::Status::Complete(_)), Some(method), Some(path)) => {
                let path = path.split_once('?').map_or(path, |(path, _)| path);
                return Ok(Request { method: method.into(), path: path.into() });
            }
            (Ok(_), ..) => {}
            (Err(httparse::Error::TooManyHeaders), ..) => return Err(Some("431 Request Header Fields Too Large")),
            (Err(httparse::Error::Version), ..) => return Err(Some("505 HTTP Version Not Supported")),
            (Err(_), ..) => return Err(Some("400 Bad Request")),
        }
    }
    Err(Some(if has_path { "431 Request Header Fields Too Large" } else { "414 URI Too Long" }))
}

#[cfg(test)]
mod tests;
