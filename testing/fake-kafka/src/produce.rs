//! Produce: validation, idempotence, append, and the wait for the high watermark.
//!
//! It promises Kafka's order of things: every partition of a request is appended first, then the one answer waits for the slowest of
//! them, at most `timeout_ms`; what is not replicated by then is answered 7 and stays appended. It does not know frames.

use std::collections::BTreeMap;

use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, TopicProduceResponse,
};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};

use crate::codes;
use crate::faults::{Fault, Gate, Strikes};
use crate::inspect::ProducedBatch;
use crate::late::Delivered;
use crate::log::{BATCH_HEADER_BYTES, BatchHeader};
use crate::requests::{Call, find, pass_gates, text};
use crate::state::State;
use crate::topic::{Access, Appended};
use crate::validate::{self, Refusal};

/// One partition of the request on its way.
struct Part {
    topic: String,
    incarnation: Option<u64>,
    index: i32,
    result: Result<Appended, Refusal>,
    /// Appended, and then not replicated: the answer names this error *and* where the batch lies.
    waited_in_vain: Option<i16>,
    log_start: i64,
}

/// What the request log keeps of the batches.
pub(crate) fn batches_of(request: &ProduceRequest) -> Vec<ProducedBatch> {
    let mut batches = Vec::new();
    for (topic, data) in entries(request) {
        let Some(bytes) = data.records.as_deref() else { continue };
        let Some(header) = BatchHeader::parse(bytes) else { continue };
        let section = &bytes[BATCH_HEADER_BYTES..];
        batches.push(ProducedBatch {
            topic: topic.name.to_string(),
            partition: data.index,
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            base_sequence: header.base_sequence,
            record_count: header.record_count,
            max_timestamp: header.max_timestamp,
            attributes: header.attributes,
            record_bytes: section.len(),
            record_checksum: crc32c::crc32c(section),
        });
    }
    batches
}

fn entries(request: &ProduceRequest) -> impl Iterator<Item = (&TopicProduceData, &PartitionProduceData)> {
    request.topic_data.iter().flat_map(|topic| topic.partition_data.iter().map(move |data| (topic, data)))
}

/// `None` when acks=0 wants no answer.
pub(crate) fn handle(call: &Call<'_>, request: &ProduceRequest, strikes: &Strikes) -> Option<ProduceResponse> {
    let mut parts = Vec::new();
    let mut gates: Vec<&Gate> = Vec::new();
    // A dead broker appends nothing, and neither does its next life for a connection of the last one.
    let alive = |state: &State| state.runs(call.broker) && state.is_open(call.connection);
    call.shared.change(|state| {
        if !alive(state) {
            return;
        }
        for (topic, data) in entries(request) {
            match append_gate(strikes, &topic.name, data.index) {
                Some(gate) if gates.iter().any(|known| known.same(gate)) => {}
                Some(gate) => gates.push(gate),
                None => parts.push(append_part(state, call, topic, data, request.acks, strikes)),
            }
        }
        state.replicate();
    });
    for gate in gates {
        pass_gates(call, std::iter::once(gate));
        call.shared.change(|state| {
            if !alive(state) {
                return;
            }
            for (topic, data) in entries(request) {
                if append_gate(strikes, &topic.name, data.index).is_some_and(|theirs| theirs.same(gate)) {
                    parts.push(append_part(state, call, topic, data, request.acks, strikes));
                }
            }
            state.replicate();
        });
    }
    pass_gates(
        call,
        strikes.all().filter_map(|fault| match fault {
            Fault::AppendThenDelayUntil(gate) => Some(gate),
            _ => None,
        }),
    );
    if request.acks == -1 {
        wait_for_replicas(call, &mut parts, request.timeout_ms, strikes);
    }
    for part in &mut parts {
        if let Some(code) = strikes.answer_after(&part.topic, part.index) {
            part.result = Err(Refusal::plain(code));
        }
    }
    (request.acks != 0).then(|| response(call.version, parts, strikes))
}

/// A request whose sender waits for it no longer: appended like any other, answered to nobody.
pub(crate) fn append_late(state: &mut State, broker: i32, request: &ProduceRequest) -> Vec<Delivered> {
    let mut met = Vec::new();
    for (topic, data) in entries(request) {
        let (topic, partition) = (topic.name.to_string(), data.index);
        let result = append(state, broker, &topic, data, request.acks);
        let (error_code, base_offset) = match result {
            Ok(appended) => (codes::NONE, appended.base_offset),
            Err(refusal) => (refusal.code, -1),
        };
        met.push(Delivered { topic, partition, error_code, base_offset });
    }
    met
}

fn append_gate<'a>(strikes: &'a Strikes, topic: &str, index: i32) -> Option<&'a Gate> {
    strikes.of(topic, index).find_map(|fault| match fault {
        Fault::DelayUntil(gate) => Some(gate),
        _ => None,
    })
}

fn append_part(
    state: &mut State,
    call: &Call<'_>,
    topic: &TopicProduceData,
    data: &PartitionProduceData,
    acks: i16,
    strikes: &Strikes,
) -> Part {
    let topic = topic.name.to_string();
    let index = data.index;
    let result = match strikes.answer_before(&topic, index) {
        Some(code) => Err(Refusal::plain(code)),
        None => append(state, call.broker, &topic, data, acks),
    };
    let log_start = find(&mut state.topics, &topic, index)
        .and_then(|(partition, _)| partition.replicas.get(&call.broker))
        .map_or(-1, |replica| replica.log.start());
    let incarnation = state.topics.get(&topic).map(|topic| topic.incarnation);
    Part { topic, incarnation, index, result, waited_in_vain: None, log_start }
}

/// The checks in the order of `KafkaApis.handleProduceRequest`, `ReplicaManager` and `UnifiedLog`.
fn append(
    state: &mut State,
    broker: i32,
    topic: &str,
    data: &PartitionProduceData,
    acks: i16,
) -> Result<Appended, Refusal> {
    let now_ms = state.now_ms();
    let strict = state.settings.strict_unknown_producers;
    if state.denies(topic, Access::Write) {
        return Err(Refusal::plain(codes::TOPIC_AUTHORIZATION_FAILED));
    }
    let (partition, rules) =
        find(&mut state.topics, topic, data.index).ok_or_else(|| Refusal::plain(codes::UNKNOWN_TOPIC_OR_PARTITION))?;
    let (header, bytes) = validate::one_batch(data.records.as_deref())?;
    if !(-1..=1).contains(&acks) {
        return Err(Refusal::plain(codes::INVALID_REQUIRED_ACKS));
    }
    let replica = partition.replicas.get(&broker).filter(|replica| replica.leads_in_epoch().is_some());
    let replica = replica.ok_or_else(|| Refusal::plain(codes::NOT_LEADER_OR_FOLLOWER))?;
    if acks == -1 && replica.in_sync.len() < rules.min_insync_replicas {
        return Err(Refusal::plain(codes::NOT_ENOUGH_REPLICAS).by_the_log());
    }
    validate::batch(&header, bytes, rules, now_ms).map_err(|refusal| match refusal.code {
        codes::MESSAGE_TOO_LARGE | codes::CORRUPT_MESSAGE => refusal,
        _ => refusal.by_the_log(),
    })?;
    partition.append(broker, &header, bytes, strict).map_err(|code| Refusal::plain(code).by_the_log())
}

/// Kafka's `DelayedProduce`: the answer is complete when every appended partition is replicated or in error.
fn wait_for_replicas(call: &Call<'_>, parts: &mut [Part], timeout_ms: i32, strikes: &Strikes) {
    let timeout = std::time::Duration::from_millis(timeout_ms.max(0) as u64);
    let limit = timeout.saturating_sub(call.arrived.elapsed());
    let mut verdicts: BTreeMap<usize, i16> = BTreeMap::new();
    let waiting: Vec<(usize, Appended)> = parts
        .iter()
        .enumerate()
        // An answer that the script has decided waits for nobody.
        .filter(|(_, part)| strikes.answer_after(&part.topic, part.index).is_none())
        .filter_map(|(at, part)| part.result.as_ref().ok().map(|&appended| (at, appended)))
        .collect();
    let done = call.shared.wait_for(limit, |state| {
        if !state.runs(call.broker) || !state.is_open(call.connection) {
            return Some(());
        }
        for &(at, appended) in &waiting {
            if !verdicts.contains_key(&at)
                && let Some(code) = verdict(state, call.broker, &parts[at], appended)
            {
                verdicts.insert(at, code);
            }
        }
        (verdicts.len() == waiting.len()).then_some(())
    });
    debug_assert!(done.is_some() || verdicts.len() < waiting.len());
    for (at, _) in waiting {
        match verdicts.get(&at).copied().unwrap_or(codes::REQUEST_TIMED_OUT) {
            codes::NONE => {}
            code => parts[at].waited_in_vain = Some(code),
        }
    }
}

/// 0 when replicated, a code when it never will be on this leader, `None` to wait on.
fn verdict(state: &mut State, broker: i32, part: &Part, appended: Appended) -> Option<i16> {
    // A topic of the same name is not the one that took the batch.
    if state.topics.get(&part.topic).map(|topic| topic.incarnation) != part.incarnation {
        return Some(codes::UNKNOWN_TOPIC_OR_PARTITION);
    }
    let Some((partition, rules)) = find(&mut state.topics, &part.topic, part.index) else {
        return Some(codes::UNKNOWN_TOPIC_OR_PARTITION);
    };
    let Some(replica) = partition.replicas.get(&broker).filter(|replica| replica.leads_in_epoch().is_some()) else {
        return Some(codes::NOT_LEADER_OR_FOLLOWER);
    };
    if replica.high_watermark < appended.required_offset {
        return None;
    }
    let enough = replica.in_sync.len() >= rules.min_insync_replicas;
    Some(if enough { codes::NONE } else { codes::NOT_ENOUGH_REPLICAS_AFTER_APPEND })
}

/// Partitions come in another order than asked, always: brokers answer in the order of a hash map.
fn response(version: i16, parts: Vec<Part>, strikes: &Strikes) -> ProduceResponse {
    let shuffle = strikes.all().any(|fault| matches!(fault, Fault::ShuffleAnswer));
    let mut parts: Vec<Part> = parts
        .into_iter()
        .rev()
        .filter(|part| !strikes.of(&part.topic, part.index).any(|fault| matches!(fault, Fault::OmitPartition)))
        .collect();
    if shuffle && !parts.is_empty() {
        parts.rotate_left(1);
    }
    let mut topics: Vec<TopicProduceResponse> = Vec::new();
    for part in parts {
        let entry = partition_response(version, &part);
        match topics.iter_mut().find(|topic| !shuffle && topic.name.0.as_str() == part.topic) {
            Some(topic) => topic.partition_responses.push(entry),
            None => topics.push(
                TopicProduceResponse::default()
                    .with_name(TopicName(text(&part.topic)))
                    .with_partition_responses(vec![entry]),
            ),
        }
    }
    ProduceResponse::default().with_responses(topics).with_throttle_time_ms(strikes.throttle_ms())
}

fn partition_response(version: i16, part: &Part) -> PartitionProduceResponse {
    let response = PartitionProduceResponse::default().with_index(part.index).with_log_append_time_ms(-1);
    let response = match &part.result {
        Ok(appended) => {
            let append_time = appended.duplicate_of.unwrap_or(-1);
            response
                .with_error_code(part.waited_in_vain.unwrap_or(codes::NONE))
                .with_base_offset(appended.base_offset)
                .with_log_append_time_ms(append_time)
        }
        Err(refusal) => {
            let response = response.with_error_code(refusal.code).with_base_offset(-1);
            if version >= 8 {
                let errors = refusal.record_errors.iter().map(|(index, reason)| {
                    BatchIndexAndErrorMessage::default()
                        .with_batch_index(*index)
                        .with_batch_index_error_message(Some(text(reason)))
                });
                response.with_record_errors(errors.collect()).with_error_message(refusal.message.as_deref().map(text))
            } else {
                response
            }
        }
    };
    let knows_log_start = match &part.result {
        Ok(_) => true,
        Err(refusal) => refusal.by_the_log,
    };
    if version >= 5 && knows_log_start { response.with_log_start_offset(part.log_start) } else { response }
}
