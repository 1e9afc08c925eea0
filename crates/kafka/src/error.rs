//! What can go wrong with a broker: its own error codes, connections that fail, calls that fail.
//!
//! Promises: every failure is classified here once; what a request may have done is never guessed to be less than it can be. Does
//! not know: what to do about it.

mod codes;
mod connect;

pub use codes::{Class, ErrorCode};
pub use connect::ConnectError;
pub(crate) use connect::OTHER_CLUSTER_HINT;

use super::protocol::{ApiKey, DecodeError, VersionRange};
use super::security::TlsError;
use std::io;
use std::time::Duration;

/// Why an exchange failed. The connection is dead then, except after [`CallError::Unsupported`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum CallError {
    /// Not completely written: a broker acts on whole requests only, so it cannot have acted on this one.
    #[error("the request could not be sent whole")]
    NotSent(#[source] io::Error),
    /// The broker does not speak this API in a version we do; nothing was sent.
    #[error("the broker does not speak {api} in version {ours}")]
    Unsupported { api: ApiKey, ours: VersionRange },
    /// Written to the last byte, and no answer.
    #[error("no answer to {api} after {} ms", waited.as_millis())]
    Lost {
        api: ApiKey,
        waited: Duration,
        #[source]
        loss: Loss,
    },
    /// An answer that can't be understood.
    #[error("the answer is malformed")]
    Decode(#[source] DecodeError),
}

/// Where an answer was lost.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum Loss {
    #[error("the time for it ran out")]
    Timeout,
    /// `partial`: after some bytes of an answer.
    #[error("the broker closed the connection{}", if *.partial { " in the middle of the answer" } else { "" })]
    Closed { partial: bool },
    #[error("the connection failed")]
    Io(#[source] io::Error),
    /// `about_certificate`: the broker said something of our certificate, or that there is none.
    #[error("TLS failed")]
    Tls {
        about_certificate: bool,
        #[source]
        source: Box<TlsError>,
    },
    #[error("a frame of {claimed} bytes is announced, at most {max} are accepted")]
    FrameLength { claimed: i32, max: usize, first_bytes: Vec<u8> },
    #[error("the answer belongs to request {got}, not to {expected}")]
    CorrelationId { expected: i32, got: i32 },
    #[error("{bytes} bytes follow that nobody asked for")]
    Surplus { bytes: usize },
}

impl CallError {
    /// Whether the broker may have acted on the request.
    pub fn maybe_applied(&self) -> bool {
        match self {
            CallError::NotSent(_) | CallError::Unsupported { .. } => false,
            CallError::Lost { .. } | CallError::Decode(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_request_that_left_whole_may_have_been_acted_on() {
        let io = || io::Error::from(io::ErrorKind::BrokenPipe);
        assert!(!CallError::NotSent(io()).maybe_applied());
        assert!(CallError::Decode(DecodeError::Null { at: 0 }).maybe_applied());
        for loss in [
            Loss::Timeout,
            Loss::Closed { partial: false },
            Loss::Io(io()),
            Loss::Tls { about_certificate: false, source: Box::new(TlsError::Closed) },
            Loss::FrameLength { claimed: -1, max: 1, first_bytes: Vec::new() },
            Loss::CorrelationId { expected: 1, got: 2 },
            Loss::Surplus { bytes: 1 },
        ] {
            assert!(CallError::Lost { api: ApiKey::Produce, waited: Duration::ZERO, loss }.maybe_applied());
        }
    }
}
