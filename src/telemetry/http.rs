//! `/metrics`, `/healthz` and `/readyz` on a thread of their own.
//!
//! Promises: answers from atomics, so that a scrape never holds up a relay; reads no request body. Does not know: what the figures mean.

use super::health::{Health, Verdict};
use super::metrics;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::SystemTime;
use tiny_http::{Header, Method, Request, Response, Server};

/// The running server; dropping it stops it.
pub struct HttpServer {
    server: Arc<Server>,
    address: SocketAddr,
}

impl HttpServer {
    /// Binds `listen` (`host:port`).
    pub fn start(listen: &str, health: Health) -> io::Result<HttpServer> {
        let started = SystemTime::now();
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let server = Arc::new(Server::from_listener(listener, None).map_err(io::Error::other)?);
        let serving = Arc::clone(&server);
        std::thread::Builder::new().name("http".into()).spawn(move || {
            for request in serving.incoming_requests() {
                // A client that went away before its answer is its own affair.
                let _ = answer(request, &health, started);
            }
        })?;
        Ok(HttpServer { server, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // Not joined: a client that does not read its answer must not hold up the end of the daemon.
        self.server.unblock();
    }
}

fn answer(request: Request, health: &Health, started: SystemTime) -> io::Result<()> {
    if !matches!(request.method(), Method::Get | Method::Head) {
        let response = text(405, "only GET and HEAD here\n".into(), TEXT);
        return request.respond(response.with_header(header("Allow", "GET, HEAD")));
    }
    let path = request.url().split('?').next().unwrap_or_default();
    let response = match path {
        "/metrics" => text(200, metrics::render(health, started), metrics::CONTENT_TYPE),
        "/healthz" => judged(health.alive()),
        "/readyz" => judged(health.ready()),
        _ => text(404, "there are /metrics, /healthz and /readyz here\n".into(), TEXT),
    };
    request.respond(response)
}

const TEXT: &str = "text/plain; charset=utf-8";

fn judged(verdict: Verdict) -> Response<io::Cursor<Vec<u8>>> {
    text(if verdict.good { 200 } else { 503 }, verdict.text, TEXT)
}

fn text(status: u16, body: String, content_type: &str) -> Response<io::Cursor<Vec<u8>>> {
    Response::from_data(body).with_status_code(status).with_header(header("Content-Type", content_type))
}

fn header(name: &str, value: &str) -> Header {
    Header::from_bytes(name, value).expect("names and values here are constants of ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::figures::Figures;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::Ordering::Relaxed;

    /// Status line and body of one exchange.
    fn ask(address: SocketAddr, line: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    }

    #[test]
    fn pages_over_real_tcp() {
        let figures = Arc::new(Figures::new("/db".into(), vec!["users".into()]));
        let health = Health::new(vec![figures.clone()]);
        let server = HttpServer::start("127.0.0.1:0", health.clone()).unwrap();
        let address = server.address();

        let (status, body) = ask(address, "GET /metrics");
        assert_eq!(status, "HTTP/1.1 200 OK");
        assert!(body.contains("outboxd_published_total{database=\"/db\",outbox=\"users\"} 0\n"), "{body}");
        figures.outboxes[0].published.store(5, Relaxed);
        assert!(ask(address, "GET /metrics?x").1.contains("outbox=\"users\"} 5\n"));
        assert!(!body.contains("outboxd_state_file_bytes"), "there is no state file");
        health.state_file_is(Arc::new(7.into()));
        assert!(ask(address, "GET /metrics").1.contains("\noutboxd_state_file_bytes 7\n"));

        assert_eq!(ask(address, "GET /healthz"), ("HTTP/1.1 200 OK".into(), "/db: running\n".into()));
        let (status, body) = ask(address, "GET /readyz");
        assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
        assert_eq!(body, "/db: the database is not readable yet, and the sink has not answered yet\n");
        figures.source_ready.store(true, Relaxed);
        figures.sink_ready.store(true, Relaxed);
        assert_eq!(ask(address, "GET /readyz").0, "HTTP/1.1 200 OK");

        assert_eq!(ask(address, "GET /").0, "HTTP/1.1 404 Not Found");
        assert_eq!(ask(address, "DELETE /metrics").0, "HTTP/1.1 405 Method Not Allowed");
        assert_eq!(ask(address, "HEAD /healthz"), ("HTTP/1.1 200 OK".into(), String::new()));
    }
}
