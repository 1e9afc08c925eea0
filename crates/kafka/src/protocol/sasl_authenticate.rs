//! SaslAuthenticate 0 to 2 (KIP-152): the mechanism's own messages, to and fro.
//!
//! Promises and does not know: as its parent. What is in a message is not printed.

use super::{ApiKey, DecodeError, Reader, Request, Writer};
use crate::error::ErrorCode;
use std::fmt;
use std::time::Duration;

/// The mechanism's next message.
#[derive(Clone, Copy)]
pub struct SaslAuthenticateRequest<'a> {
    pub auth_bytes: &'a [u8],
}

/// The broker's answer to it.
#[derive(Clone, PartialEq, Eq)]
pub struct SaslAuthenticateResponse {
    pub error: ErrorCode,
    pub error_message: Option<String>,
    pub auth_bytes: Vec<u8>,
    /// After this the broker closes the connection unless the client has said anew who it is (KIP-368, version 1 on). `None`: never.
    pub session_lifetime: Option<Duration>,
}

impl fmt::Debug for SaslAuthenticateRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaslAuthenticateRequest({} bytes)", self.auth_bytes.len())
    }
}

impl fmt::Debug for SaslAuthenticateResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SaslAuthenticateResponse")
            .field("error", &self.error)
            .field("error_message", &self.error_message)
            .field("auth_bytes", &self.auth_bytes.len())
            .field("session_lifetime", &self.session_lifetime)
            .finish()
    }
}

impl Request for SaslAuthenticateRequest<'_> {
    type Response = SaslAuthenticateResponse;
    const API: ApiKey = ApiKey::SaslAuthenticate;

    fn encode(&self, version: i16, out: &mut Writer<'_>) {
        if version >= 2 {
            out.compact_count(self.auth_bytes.len());
            out.raw(self.auth_bytes);
            out.no_tagged_fields();
        } else {
            out.count(self.auth_bytes.len());
            out.raw(self.auth_bytes);
        }
    }

    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<SaslAuthenticateResponse, DecodeError> {
        let error = ErrorCode(reader.i16()?);
        let flexible = version >= 2;
        let error_message = if flexible { reader.compact_nullable_string()? } else { reader.nullable_string()? };
        let error_message = error_message.map(str::to_owned);
        let at = reader.position();
        let auth_bytes = if flexible { reader.compact_nullable_bytes()? } else { reader.nullable_bytes()? }
            .ok_or(DecodeError::Null { at })?;
        let auth_bytes = auth_bytes.to_vec();
        let lifetime_ms = if version >= 1 { reader.i64()? } else { 0 };
        if flexible {
            reader.tagged_fields()?;
        }
        // Negative makes no more sense than 0, which means "for ever".
        let session_lifetime = u64::try_from(lifetime_ms).ok().filter(|ms| *ms > 0).map(Duration::from_millis);
        Ok(SaslAuthenticateResponse { error, error_message, auth_bytes, session_lifetime })
    }
}
