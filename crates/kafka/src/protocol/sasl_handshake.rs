//! SaslHandshake 1: by which mechanism a client is going to say who it is.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, Writer};
use crate::error::ErrorCode;

/// May it be this mechanism? From version 1 on what follows travels in SaslAuthenticate (KIP-152).
#[derive(Clone, Copy, Debug)]
pub struct SaslHandshakeRequest<'a> {
    pub mechanism: &'a str,
}

/// Whether it may, and which ones may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslHandshakeResponse {
    /// UNSUPPORTED_SASL_MECHANISM, or ILLEGAL_SASL_STATE on a listener without SASL.
    pub error: ErrorCode,
    pub mechanisms: Vec<String>,
}

impl Request for SaslHandshakeRequest<'_> {
    type Response = SaslHandshakeResponse;
    const API: ApiKey = ApiKey::SaslHandshake;

    fn encode(&self, _version: i16, out: &mut Writer<'_>) {
        out.string(self.mechanism);
    }

    fn decode(_version: i16, reader: &mut Reader<'_>) -> Result<SaslHandshakeResponse, DecodeError> {
        Ok(SaslHandshakeResponse {
            error: ErrorCode(reader.i16()?),
            mechanisms: reader.array(2, |r| r.string().map(str::to_owned))?,
        })
    }
}
