//! What clients can do to it, over real TCP, and what is read of them.

use super::*;
use std::sync::mpsc;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Says what it was asked.
fn echo(client_max: Duration) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Server::start_within(client_max, listener, |request| {
        Response::text("200 OK", format!("{} {}\n", request.method, request.path))
    })
    .unwrap()
}

fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Everything that comes until the server closes.
fn rest(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8(answer).unwrap()
}

fn ask(server: &Server, sent: impl AsRef<[u8]>) -> String {
    let mut stream = connect(server);
    stream.write_all(sent.as_ref()).unwrap();
    rest(stream)
}

#[track_caller]
fn is_well(server: &Server) {
    let answer = ask(server, "GET /here HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nGET /here\n"), "{answer}");
}

/// What is read of a source without an end.
struct Endless<'a> {
    start: &'a [u8],
    again: &'a [u8],
    read: usize,
}

impl Read for Endless<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for byte in buffer.iter_mut() {
            *byte = match self.start.get(self.read) {
                Some(byte) => *byte,
                None => self.again[(self.read - self.start.len()) % self.again.len()],
            };
            self.read += 1;
        }
        Ok(buffer.len())
    }
}

#[test]
fn what_is_read_of_a_head_and_behind_it_is_bounded() {
    let cases: [(&str, &str, &str); 4] = [
        ("GET /", "x", "414 URI Too Long"),
        ("", "G", "414 URI Too Long"),
        ("GET / HTTP/1.1\r\nX: ", "x", "431 Request Header Fields Too Large"),
        ("GET / HTTP/1.1\r\n", "X: y\r\n", "431 Request Header Fields Too Large"),
    ];
    for (start, again, refusal) in cases {
        let mut source = Endless { start: start.as_bytes(), again: again.as_bytes(), read: 0 };
        assert_eq!(read_head(&mut source), Err(Some(refusal)), "{start}{again}...");
        assert!(source.read <= HEAD_MAX_BYTES, "{start}{again}...: {} bytes were read", source.read);
        discard(&mut source).unwrap();
        assert!(source.read as u64 <= HEAD_MAX_BYTES as u64 + DISCARDED_MAX_BYTES, "{} bytes were read", source.read);
    }
}

#[test]
fn a_head_that_comes_byte_by_byte_is_a_head() {
    struct Slow<'a>(&'a [u8]);
    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let (now, later) = self.0.split_at(self.0.len().min(1));
            buffer[..now.len()].copy_from_slice(now);
            self.0 = later;
            Ok(now.len())
        }
    }
    let request = Request { method: "GET".into(), path: "/a".into() };
    assert_eq!(read_head(&mut Slow(b"GET /a?b=c HTTP/1.0\r\nHost: x\r\n\r\n")), Ok(request));
    assert_eq!(read_head(&mut Slow(b"GET /a")), Err(Some("400 Bad Request")));
    assert_eq!(read_head(&mut Slow(b"")), Err(None));
}

#[test]
fn a_body_that_is_announced_is_not_waited_for() {
    let server = echo(PATIENCE);
    for length in ["100000000000", "18446744073709551615", "99999999999999999999999999", "-1", "5"] {
        let answer = ask(&server, format!("GET /metrics HTTP/1.1\r\nContent-Length: {length}\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{length}: {answer}");
        is_well(&server);
    }
}

#[test]
fn what_is_no_request_is_answered_and_closed() {
    let server = echo(PATIENCE);
    let client_hello: &[u8] = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and so on";
    let cases: [(&[u8], &str); 12] = [
        (b"\0\0\0\0\r\n\r\n", "400"),
        (b"nonsense\r\n\r\n", "400"),
        (b"\xff\xfe\xfd\r\n\r\n", "400"),
        (client_hello, "400"),
        (b"GET /\r\n\r\n", "400"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "505"),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "200"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "200"),
        (b"GET / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\n", "200"),
        (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "200"),
        (b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n", "200"),
    ];
    for (sent, status) in cases {
        let answer = ask(&server, sent);
        let case = String::from_utf8_lossy(sent);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{case}\n{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"), "{case}\n{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{case}\n{answer}");
    }
    is_well(&server);
}

/// The kernel takes some megabytes by itself; the rest finds nobody who reads it.
#[test]
fn a_flood_is_not_read_to_its_end() {
    let server = echo(PATIENCE);
    for start in ["GET /", "GET / HTTP/1.1\r\nX: ", "GET / HTTP/1.1\r\nContent-Length: 200000000\r\n\r\n"] {
        let mut stream = connect(&server);
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(start.as_bytes()).unwrap();
        let chunk = vec![b'x'; 1 << 20];
        let ended = (0..200).find_map(|_| stream.write_all(&chunk).err());
        let ended = ended.unwrap_or_else(|| panic!("{start}: 200 MB were taken"));
        assert!(
            matches!(ended.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset),
            "{start}: it waits: {ended}"
        );
    }
    is_well(&server);
}

#[test]
fn one_that_asks_on_and_on_and_reads_nothing_is_alone_with_that() {
    let server = echo(PATIENCE);
    let greedy = connect(&server);
    greedy.set_nonblocking(true).unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20_000);
    let mut left = requests.as_bytes();
    // As much as is taken at once: what matters is that others are answered while it is there.
    while let Ok(taken) = (&greedy).write(left) {
        left = &left[taken..];
        if left.is_empty() {
            break;
        }
        is_well(&server);
    }
    is_well(&server);
}

#[test]
fn slow_clients_keep_nobody_else_out() {
    let server = echo(Duration::from_secs(3_600));
    let slow: Vec<TcpStream> = (0..2 * CONNECTIONS_MAX).map(|_| connect(&server)).collect();
    for _ in 0..3 {
        let until = Instant::now() + PATIENCE;
        loop {
            let mut stream = connect(&server);
            let mut answer = String::new();
            let sent = stream.write_all(b"GET /here HTTP/1.1\r\n\r\n");
            if sent.and_then(|()| stream.read_to_string(&mut answer)).is_ok() && answer.contains("200 OK") {
                break;
            }
            assert!(Instant::now() < until, "all places are taken: {answer}");
        }
    }
    // They are taken in the order they came.
    assert_eq!(rest(slow.into_iter().next().unwrap()), "", "it was there longest");
}

#[test]
fn a_client_that_takes_too_long_is_let_go() {
    let server = echo(Duration::from_millis(20));
    let mut silent = connect(&server);
    silent.write_all(b"GET / HT").unwrap();
    let answer = rest(silent);
    assert!(answer.starts_with("HTTP/1.1 408 ") || answer.is_empty(), "{answer}");
    assert_eq!(rest(connect(&server)), "", "nothing was asked and nothing is answered");
}

#[test]
fn a_page_that_panics_ends_its_own_connection_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start(listener, |request| {
        assert_ne!(request.path, "/panic");
        Response::text("200 OK", format!("{} {}\n", request.method, request.path))
    })
    .unwrap();
    for _ in 0..=CONNECTIONS_MAX {
        assert_eq!(ask(&server, "GET /panic HTTP/1.1\r\n\r\n"), "");
    }
    is_well(&server);
}

#[test]
fn its_end_waits_for_nobody() {
    let server = echo(Duration::from_secs(3_600));
    let silent = connect(&server);
    is_well(&server);
    let address = server.address();
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        drop(server);
        ended.send(()).unwrap();
    });
    end.recv_timeout(PATIENCE).expect("it waits for a client");
    assert!(TcpStream::connect(address).is_err(), "the listener is closed");
    drop(silent);
}
