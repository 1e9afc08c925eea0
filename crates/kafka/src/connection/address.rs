//! Addresses of brokers, as texts.
//!
//! Promises: what is written wrongly is answered with what to write. Does not know: name resolution, sockets.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// A broker's address as people and brokers write it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The port, which is never 0.
    pub port: u16,
}

/// Why a text is not an address.
#[allow(missing_docs)] // each variant's message says what it is
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("{0:?} has no port; write host:port, for example localhost:9092")]
    NoPort(String),
    #[error("{0:?} has no host; write host:port, for example localhost:9092")]
    NoHost(String),
    #[error("{port:?} in {text:?} is not a port: a number from 1 to 65535")]
    Port { text: String, port: String },
    #[error("{0:?} is an IPv6 address without brackets; write [address]:port, for example [::1]:9092")]
    NoBrackets(String),
    #[error("the bracket in {0:?} is not closed; write [address]:port, for example [::1]:9092")]
    OpenBracket(String),
    #[error("{0:?} is a URL; write host:port alone, for example localhost:9092")]
    Url(String),
    #[error("{0:?} has a character that no host name has")]
    Character(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let owned = || text.to_owned();
        if text.contains("://") {
            return Err(AddressError::Url(owned()));
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(|| AddressError::OpenBracket(owned()))?;
            (host, rest.strip_prefix(':').ok_or_else(|| AddressError::NoPort(owned()))?)
        } else {
            let (host, port) = text.rsplit_once(':').ok_or_else(|| AddressError::NoPort(owned()))?;
            if host.contains(':') {
                return Err(AddressError::NoBrackets(owned()));
            }
            (host, port)
        };
        if host.is_empty() {
            return Err(AddressError::NoHost(owned()));
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ',' | '[' | ']' | '@')) {
            return Err(AddressError::Character(owned()));
        }
        if port.is_empty() {
            return Err(AddressError::NoPort(owned()));
        }
        match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(Address { host: host.to_owned(), port: number })
            }
            _ => Err(AddressError::Port { text: owned(), port: port.to_owned() }),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A peer's address for error texts: the name it was asked for and what that resolved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address that was asked for.
    pub address: Address,
    /// The socket address that the name resolved to.
    pub resolved: SocketAddr,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.address.host == self.resolved.ip().to_string() {
            write!(f, "{}", self.address)
        } else {
            write!(f, "{} ({})", self.address, self.resolved.ip())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_and_print() {
        for (text, host, port) in [
            ("localhost:9092", "localhost", 9092),
            ("kafka-1.example.org:19092", "kafka-1.example.org", 19092),
            ("127.0.0.1:1", "127.0.0.1", 1),
            ("[::1]:9092", "::1", 9092),
            ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_what_to_write() {
        let error = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(error("localhost"), AddressError::NoPort("localhost".into()));
        assert_eq!(error("localhost:"), AddressError::NoPort("localhost:".into()));
        assert_eq!(error("[::1]"), AddressError::NoPort("[::1]".into()));
        assert_eq!(error(""), AddressError::NoPort(String::new()));
        assert_eq!(error(":9092"), AddressError::NoHost(":9092".into()));
        assert_eq!(error("::1:9092"), AddressError::NoBrackets("::1:9092".into()));
        assert_eq!(error("[::1:9092"), AddressError::OpenBracket("[::1:9092".into()));
        assert_eq!(error("PLAINTEXT://a:9092"), AddressError::Url("PLAINTEXT://a:9092".into()));
        assert_eq!(error("a b:9092"), AddressError::Character("a b:9092".into()));
        for port in ["0", "65536", "-1", "+1", "9o92", " 9092"] {
            let text = format!("localhost:{port}");
            assert_eq!(error(&text), AddressError::Port { text: text.clone(), port: port.into() });
        }
        assert_eq!(
            error("localhost").to_string(),
            r#""localhost" has no port; write host:port, for example localhost:9092"#
        );
    }
}
