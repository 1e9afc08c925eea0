//! Request and response headers, and the length prefix before them.
//!
//! Promises: picks the header's version by the API's. Does not know: message bodies.

use super::{ApiKey, DecodeError, Reader, Writer};

/// The length that precedes every request and answer; it does not count itself.
pub(crate) const LENGTH_BYTES: usize = 4;

/// Whether this version of the API has compact types and tagged fields.
pub fn is_flexible(api: ApiKey, version: i16) -> bool {
    version >= api.spoken().flexible_from
}

/// Appends request header 1, or 2 for flexible versions. `client_id` keeps its classic encoding in both (KIP-482).
pub fn encode_request_header(
    out: &mut Writer<'_>,
    api: ApiKey,
    version: i16,
    correlation_id: i32,
    client_id: Option<&str>,
) {
    out.i16(api as i16);
    out.i16(version);
    out.i32(correlation_id);
    out.nullable_string(client_id);
    if is_flexible(api, version) {
        out.no_tagged_fields();
    }
}

/// Reads response header 0, or 1 for flexible versions, and gives the correlation id. ApiVersions always has header 0 (KIP-511),
/// or a client could not read the answer of a broker that does not know its version.
pub fn decode_response_header(reader: &mut Reader<'_>, api: ApiKey, version: i16) -> Result<i32, DecodeError> {
    let correlation_id = reader.i32()?;
    if is_flexible(api, version) && api != ApiKey::ApiVersions {
        reader.tagged_fields()?;
    }
    Ok(correlation_id)
}
