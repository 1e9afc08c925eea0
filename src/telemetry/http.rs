//! `/metrics`, `/healthz` and `/readyz`.
//!
//! Promises: answers from atomics, so that a scrape never holds up a relay. Does not know: what the figures mean.

mod server;

pub use server::Server;

use super::health::{Health, Verdict};
use super::metrics;
use server::{Request, Response};
use std::io;
use std::net::TcpListener;
use std::time::SystemTime;

/// Binds `listen` (`host:port`), and serves until the server is dropped.
pub fn start(listen: &str, health: Health) -> io::Result<Server> {
    let started = SystemTime::now();
    Server::start(TcpListener::bind(listen)?, move |request| page(request, &health, started))
}

fn page(request: &Request, health: &Health, started: SystemTime) -> Response {
    if !["GET", "HEAD"].contains(&request.method.as_str()) {
        let response = Response::text("405 Method Not Allowed", "only GET and HEAD here\n");
        return Response { allow: Some("GET, HEAD"), ..response };
    }
    match request.path.as_str() {
        "/metrics" => Response {
            content_type: metrics::CONTENT_TYPE,
            ..Response::text("200 OK", metrics::render(health, started))
        },
        "/healthz" => judged(health.alive()),
        "/readyz" => judged(health.ready()),
        _ => Response::text("404 Not Found", "there are /metrics, /healthz and /readyz here\n"),
    }
}

fn judged(verdict: Verdict) -> Response {
    Response::text(if verdict.good { "200 OK" } else { "503 Service Unavailable" }, verdict.text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::figures::Figures;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;
    use std::sync::atomic::Ordering::Relaxed;

    /// Head and body of one exchange.
    fn exchange(address: SocketAddr, line: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "{line} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// Status line and body.
    fn ask(address: SocketAddr, line: &str) -> (String, String) {
        let (head, body) = exchange(address, line);
        (head.lines().next().unwrap().to_owned(), body)
    }

    #[test]
    fn pages_over_real_tcp() {
        let figures = Arc::new(Figures::new("/db".into(), vec!["users".into()]));
        let health = Health::new(vec![figures.clone()]);
        let server = start("127.0.0.1:0", health.clone()).unwrap();
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
        let (head, body) = exchange(address, "DELETE /metrics");
        assert!(head.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"), "{head}");
        assert!(head.contains("\r\nAllow: GET, HEAD\r\n") && body == "only GET and HEAD here\n", "{head}\n{body}");
        let (head, body) = exchange(address, "HEAD /healthz");
        assert_eq!(
            head,
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 13\r\nConnection: close"
        );
        assert_eq!(body, "");
    }
}
