//! What a broker checks of a batch before it looks at sequences, in the order Kafka checks it.
//!
//! It promises that a batch which passes can be stored and read. It does not know producers: validation comes *before* the duplicate
//! check (`UnifiedLog.append`), so a batch that is already stored is refused all the same once the topic's rules have changed.

use crate::codes;
use crate::log::{BATCH_HEADER_BYTES, BatchHeader, checksum};
use crate::record::Record;
use crate::topic::TopicRules;

/// A whole batch is refused, as real Kafka does, even when one record is at fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub code: i16,
    /// Index in the batch and reason; Produce 7 has no field for it.
    pub record_errors: Vec<(i32, String)>,
    pub message: Option<String>,
    /// The log said so, not the request's own checks: only then the answer carries the log start.
    pub by_the_log: bool,
}

impl Refusal {
    pub fn plain(code: i16) -> Refusal {
        Refusal { code, record_errors: Vec::new(), message: None, by_the_log: false }
    }

    /// With the log start in the answer.
    pub fn by_the_log(self) -> Refusal {
        Refusal { by_the_log: true, ..self }
    }

    fn invalid(message: &str) -> Refusal {
        Refusal { message: Some(message.to_owned()), ..Refusal::plain(codes::INVALID_RECORD) }
    }
}

/// `ProduceRequest.validateRecords`: since Produce 3 exactly one batch per partition, magic 2.
pub fn one_batch(records: Option<&[u8]>) -> Result<(BatchHeader, &[u8]), Refusal> {
    let bytes = records.unwrap_or_default();
    let header = BatchHeader::parse(bytes).ok_or_else(|| Refusal::invalid("no record batch"))?;
    if header.magic != 2 {
        return Err(Refusal::invalid("a magic other than 2"));
    }
    match usize::try_from(header.size_bytes()) {
        Ok(size) if size == bytes.len() => Ok((header, bytes)),
        Ok(size) if size >= BATCH_HEADER_BYTES && size < bytes.len() => Err(Refusal::invalid("more than one batch")),
        _ => Err(Refusal::plain(codes::CORRUPT_MESSAGE)),
    }
}

/// The checks of `UnifiedLog.analyzeAndValidateRecords`, then those of `LogValidator`.
pub fn batch(header: &BatchHeader, bytes: &[u8], rules: &TopicRules, now_ms: i64) -> Result<(), Refusal> {
    if header.base_offset != 0 {
        return Err(Refusal::invalid("a base offset other than 0"));
    }
    if bytes.len() > rules.max_message_bytes {
        let message = format!("The record batch size is {}, the limit {}", bytes.len(), rules.max_message_bytes);
        return Err(Refusal { message: Some(message), ..Refusal::plain(codes::MESSAGE_TOO_LARGE) });
    }
    if checksum(bytes) != header.crc {
        return Err(Refusal::plain(codes::CORRUPT_MESSAGE));
    }
    if header.record_count <= 0 || i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        return Err(Refusal::invalid("the count of records is not last offset delta + 1"));
    }
    if header.is_control() {
        return Err(Refusal::invalid("clients write no control batches"));
    }
    if header.has_producer() && (header.base_sequence < 0 || header.producer_epoch < 0) {
        return Err(Refusal::invalid("a producer id without epoch or sequence"));
    }
    let records = header.records(bytes).map_err(|malformed| Refusal::invalid(malformed.0))?;
    if records.iter().enumerate().any(|(index, record)| record.offset_delta as usize != index) {
        return Err(Refusal::invalid("offset deltas that do not count up from 0"));
    }
    check_clock(header, rules, now_ms)?;
    check_predicate(header, &records, rules)
}

/// `message.timestamp.before.max.ms` and `.after.max.ms` in one: every record out of the range is named.
fn check_clock(header: &BatchHeader, rules: &TopicRules, now_ms: i64) -> Result<(), Refusal> {
    let Some(skew) = rules.clock_skew_max else { return Ok(()) };
    let far = |timestamp: i64| u128::from(timestamp.abs_diff(now_ms)) > skew.as_millis();
    if !far(header.max_timestamp) && !far(header.base_timestamp) {
        return Ok(());
    }
    let reason = format!("Timestamp {} of message is out of range", header.max_timestamp);
    Err(Refusal {
        code: codes::INVALID_TIMESTAMP,
        record_errors: (0..header.record_count).map(|index| (index, reason.clone())).collect(),
        message: Some("One or more records have been rejected due to invalid timestamp".to_owned()),
        by_the_log: false,
    })
}

fn check_predicate(header: &BatchHeader, records: &[Record], rules: &TopicRules) -> Result<(), Refusal> {
    let Some(rejection) = &rules.rejection else { return Ok(()) };
    let rejected: Vec<i32> =
        records.iter().filter(|record| (rejection.predicate)(record)).map(|record| record.offset_delta).collect();
    if rejected.is_empty() {
        return Ok(());
    }
    debug_assert!(rejected.len() <= header.record_count as usize);
    let reason = "One or more records have been rejected".to_owned();
    let record_errors = if rejection.names_records {
        rejected.into_iter().map(|index| (index, "Record rejected by the topic's rules".to_owned())).collect()
    } else {
        Vec::new()
    };
    Err(Refusal { code: rejection.code, record_errors, message: Some(reason), by_the_log: false })
}
