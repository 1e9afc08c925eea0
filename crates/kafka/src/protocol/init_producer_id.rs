//! InitProducerId 1: a producer id of our own, without transactions.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, Writer, throttle_time};
use crate::error::ErrorCode;
use std::time::Duration;

/// Always without a transactional id: the answer is then a new id with epoch 0, whatever ids were given out before.
#[derive(Clone, Copy, Debug)]
pub struct InitProducerIdRequest;

/// A new producer id, or why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InitProducerIdResponse {
    pub throttle_time: Duration,
    /// COORDINATOR_LOAD_IN_PROGRESS on a broker's first call after its start: ask again.
    pub error: ErrorCode,
    pub producer_id: i64,
    pub producer_epoch: i16,
}

impl Request for InitProducerIdRequest {
    type Response = InitProducerIdResponse;
    const API: ApiKey = ApiKey::InitProducerId;

    fn encode(&self, _version: i16, out: &mut Writer<'_>) {
        out.nullable_string(None);
        // transaction_timeout_ms: only looked at together with a transactional id. Java's producer sends the same.
        out.i32(i32::MAX);
    }

    fn decode(_version: i16, reader: &mut Reader<'_>) -> Result<InitProducerIdResponse, DecodeError> {
        Ok(InitProducerIdResponse {
            throttle_time: throttle_time(reader)?,
            error: ErrorCode(reader.i16()?),
            producer_id: reader.i64()?,
            producer_epoch: reader.i16()?,
        })
    }
}
