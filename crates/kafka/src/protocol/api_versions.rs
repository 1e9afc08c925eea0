//! ApiVersions 0: what a broker speaks. The first request on every connection.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, VersionRange, Writer};
use crate::error::ErrorCode;

/// What do you speak?
#[derive(Clone, Copy, Debug)]
pub struct ApiVersionsRequest;

/// What a broker speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiVersionsResponse {
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

impl Request for ApiVersionsRequest {
    type Response = ApiVersionsResponse;
    const API: ApiKey = ApiKey::ApiVersions;

    fn encode(&self, _version: i16, _out: &mut Writer<'_>) {}

    fn decode(_version: i16, reader: &mut Reader<'_>) -> Result<ApiVersionsResponse, DecodeError> {
        Ok(ApiVersionsResponse {
            error: ErrorCode(reader.i16()?),
            apis: reader.array(6, |r| {
                Ok(ApiRange { api: r.i16()?, versions: VersionRange { min: r.i16()?, max: r.i16()? } })
            })?,
        })
    }
}
