//! ApiVersions 0 to 3: what a broker speaks. The first request on every connection.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, VersionRange, Writer, throttle_time};
use crate::error::ErrorCode;

/// What do you speak? From version 3 on it says who asks (KIP-511), which is in the broker's metrics and request logs.
#[derive(Clone, Copy, Debug)]
pub struct ApiVersionsRequest<'a> {
    /// Letters, digits, `-` and `.`, the first and the last one of the former two; else the answer is INVALID_REQUEST.
    pub client_software_name: &'a str,
    /// As the name.
    pub client_software_version: &'a str,
}

/// What a broker speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiVersionsResponse {
    /// UNSUPPORTED_VERSION: of this request itself. The answer has the layout of version 0 then, whatever was asked in.
    pub error: ErrorCode,
    pub apis: Vec<ApiRange>,
}

/// One API of the broker, by Kafka's number: most are none of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiRange {
    pub api: i16,
    pub versions: VersionRange,
}

impl ApiVersionsResponse {
    pub fn versions(&self, api: ApiKey) -> Option<VersionRange> {
        self.apis.iter().find(|range| range.api == api as i16).map(|range| range.versions)
    }
}

impl Request for ApiVersionsRequest<'_> {
    type Response = ApiVersionsResponse;
    const API: ApiKey = ApiKey::ApiVersions;

    fn encode(&self, version: i16, out: &mut Writer<'_>) {
        if version >= 3 {
            out.compact_string(self.client_software_name);
            out.compact_string(self.client_software_version);
            out.no_tagged_fields();
        }
    }

    fn decode(version: i16, reader: &mut Reader<'_>) -> Result<ApiVersionsResponse, DecodeError> {
        let error = ErrorCode(reader.i16()?);
        let version = if error == ErrorCode::UNSUPPORTED_VERSION { 0 } else { version };
        let range = |r: &mut Reader<'_>| {
            Ok(ApiRange { api: r.i16()?, versions: VersionRange { min: r.i16()?, max: r.i16()? } })
        };
        let apis = if version >= 3 {
            reader.compact_array(7, |r| {
                let range = range(r)?;
                r.tagged_fields()?;
                Ok(range)
            })?
        } else {
            reader.array(6, range)?
        };
        if version >= 1 {
            // Nothing was asked that a broker would throttle.
            throttle_time(reader)?;
        }
        if version >= 3 {
            reader.tagged_fields()?;
        }
        Ok(ApiVersionsResponse { error, apis })
    }
}
