//! From a frame to an API and back: headers, versions, the script of faults, and the APIs that have no partitions' logs behind them
//! (ApiVersions, Metadata, InitProducerId).
//!
//! It promises that whatever is not advertised closes the connection, as brokers do, and that a request the fake itself can't serve is a
//! complaint a test can see. It does not know logs.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::api_versions_response::ApiVersion;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, BrokerId, DescribeProducersRequest, FetchRequest,
    InitProducerIdRequest, InitProducerIdResponse, ListOffsetsRequest, MetadataRequest, MetadataResponse,
    ProduceRequest, RequestHeader, ResponseHeader, TopicName,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes, decode_request_header_from_buffer};

use crate::broker::Reaction;
use crate::builder::Listener;
use crate::codes;
use crate::faults::{Fault, Strikes};
use crate::inspect::Request;
use crate::state::{Shared, State};
use crate::topic::{Access, Partition, PartitionView, Topic};
use crate::{fetch, produce};

/// Versions that are built in.
fn built_in(api: ApiKey, version: i16) -> bool {
    match api {
        ApiKey::Produce => (3..=8).contains(&version),
        ApiKey::Fetch => (4..=10).contains(&version),
        ApiKey::ListOffsets => (1..=4).contains(&version),
        ApiKey::Metadata => (1..=7).contains(&version),
        ApiKey::InitProducerId => (0..=1).contains(&version),
        ApiKey::ApiVersions => (0..=3).contains(&version),
        ApiKey::DescribeProducers => version == 0,
        _ => false,
    }
}

/// Where a request came from and what its header says.
pub(crate) struct Call<'a> {
    pub shared: &'a Shared,
    pub broker: i32,
    pub connection: u64,
    pub version: i16,
    pub arrived: Instant,
}

/// A request's body.
enum Body {
    Produce(ProduceRequest),
    Fetch(FetchRequest),
    ListOffsets(ListOffsetsRequest),
    Metadata(MetadataRequest),
    InitProducerId(InitProducerIdRequest),
    DescribeProducers(DescribeProducersRequest),
    ApiVersions,
}

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(crate) fn handle(shared: &Shared, broker: i32, connection: u64, mut frame: Bytes) -> Reaction {
    let size_bytes = frame.len();
    let complain = |what: String| {
        shared.change(|state| state.complaints.push(what));
        Reaction::Close
    };
    if size_bytes < 8 {
        return complain(format!("a frame of {size_bytes} bytes on connection {connection}"));
    }
    // The decoder trusts lengths; what a broken client sends may panic in it, and must not take the broker's thread along.
    let Ok(Ok(header)) = catch_unwind(AssertUnwindSafe(|| decode_request_header_from_buffer(&mut frame))) else {
        return complain(format!("an unreadable request header on connection {connection}"));
    };
    let Ok(api) = ApiKey::try_from(header.request_api_key) else { return Reaction::Close };
    let version = header.request_api_version;
    let (advertised, sasl) = {
        let state = shared.look();
        (state.advertises(api, version), state.brokers[&broker].listener == Listener::Sasl)
    };
    if api == ApiKey::ApiVersions && (!advertised || !built_in(api, version)) {
        log(shared, broker, connection, &header, api, size_bytes, None);
        return unsupported_api_versions(shared, &header);
    }
    if !advertised || (sasl && api != ApiKey::ApiVersions) {
        log(shared, broker, connection, &header, api, size_bytes, None);
        return Reaction::Close;
    }
    if !built_in(api, version) {
        return complain(format!("{api:?} version {version} is advertised and not built into the fake"));
    }
    let body = match catch_unwind(AssertUnwindSafe(|| decode(api, version, &mut frame))) {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return complain(format!("{api:?} {version} can't be decoded: {error}")),
        Err(_) => return complain(format!("{api:?} {version} can't be decoded: the decoder panicked")),
    };
    if !frame.is_empty() {
        return complain(format!("{api:?} {version} with {} bytes left over", frame.len()));
    }
    let partitions = log(shared, broker, connection, &header, api, size_bytes, Some(&body));
    let strikes = shared.change(|state| state.script.strike(api, broker, &partitions));
    if strikes.all().any(|fault| matches!(fault, Fault::CloseBefore)) {
        return Reaction::Close;
    }
    if strikes.all().any(|fault| matches!(fault, Fault::Hang)) {
        return Reaction::Hang;
    }
    if let Body::Produce(request) = &body
        && let Some(reaction) = keep(shared, broker, request, &strikes)
    {
        return reaction;
    }
    let call = Call { shared, broker, connection, version, arrived: Instant::now() };
    let Some(answer) = dispatch(&call, body, &strikes) else { return Reaction::NoAnswer };
    match encode(api, &header, answer) {
        Ok(body) => Reaction::Answer { correlation_id: header.correlation_id, body, strikes },
        Err(error) => complain(format!("the answer to {api:?} {version} can't be encoded: {error}")),
    }
}

/// Keeps the request for later if the script says so. What becomes of the connection when it is not carried out now.
fn keep(shared: &Shared, broker: i32, request: &ProduceRequest, strikes: &Strikes) -> Option<Reaction> {
    shared.change(|state| {
        let mut reaction = None;
        for fault in strikes.all() {
            let (late, instead) = match fault {
                Fault::KeepBack(late) => (late, Some(Reaction::Hang)),
                Fault::KeepBackAndClose(late) => (late, Some(Reaction::Close)),
                Fault::KeepCopy(late) => (late, None),
                _ => continue,
            };
            late.keep(state, broker, request);
            reaction = reaction.or(instead);
        }
        reaction
    })
}

fn decode(api: ApiKey, version: i16, frame: &mut Bytes) -> Result<Body, String> {
    fn as_text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    Ok(match api {
        ApiKey::Produce => Body::Produce(ProduceRequest::decode(frame, version).map_err(as_text)?),
        ApiKey::Fetch => Body::Fetch(FetchRequest::decode(frame, version).map_err(as_text)?),
        ApiKey::ListOffsets => Body::ListOffsets(ListOffsetsRequest::decode(frame, version).map_err(as_text)?),
        ApiKey::Metadata => Body::Metadata(MetadataRequest::decode(frame, version).map_err(as_text)?),
        ApiKey::InitProducerId => Body::InitProducerId(InitProducerIdRequest::decode(frame, version).map_err(as_text)?),
        ApiKey::DescribeProducers => {
            Body::DescribeProducers(DescribeProducersRequest::decode(frame, version).map_err(as_text)?)
        }
        ApiKey::ApiVersions => {
            ApiVersionsRequest::decode(frame, version).map_err(as_text)?;
            Body::ApiVersions
        }
        other => return Err(format!("{other:?} is not built in")),
    })
}

/// Encodes an answer's body in the version asked.
pub(crate) type Answer = Box<dyn FnOnce(&mut BytesMut, i16) -> Result<(), String>>;

pub(crate) fn answer<T: Encodable + 'static>(message: T) -> Answer {
    Box::new(move |out, version| message.encode(out, version).map_err(|error| error.to_string()))
}

fn encode(api: ApiKey, header: &RequestHeader, answer: Answer) -> Result<Bytes, String> {
    let version = header.request_api_version;
    let mut out = BytesMut::new();
    ResponseHeader::default()
        .with_correlation_id(header.correlation_id)
        .encode(&mut out, api.response_header_version(version))
        .map_err(|error| error.to_string())?;
    answer(&mut out, version)?;
    Ok(out.freeze())
}

fn dispatch(call: &Call<'_>, body: Body, strikes: &Strikes) -> Option<Answer> {
    if !matches!(body, Body::Produce(_)) {
        pass_gates(call, strikes.all().filter_map(gate_of));
    }
    match body {
        Body::Produce(request) => produce::handle(call, &request, strikes).map(answer),
        Body::Fetch(request) => Some(answer(fetch::fetch(call, &request, strikes))),
        Body::ListOffsets(request) => Some(answer(fetch::list_offsets(call, &request, strikes))),
        Body::DescribeProducers(request) => Some(answer(fetch::describe_producers(call, &request, strikes))),
        Body::Metadata(request) => Some(answer(metadata(call, request, strikes))),
        Body::InitProducerId(request) => Some(answer(init_producer_id(call, &request, strikes))),
        Body::ApiVersions => Some(answer(api_versions(&call.shared.look(), strikes))),
    }
}

pub(crate) fn gate_of(fault: &Fault) -> Option<&crate::Gate> {
    match fault {
        Fault::DelayUntil(gate) | Fault::AppendThenDelayUntil(gate) => Some(gate),
        _ => None,
    }
}

/// Waits for every gate, or for the end of the connection.
pub(crate) fn pass_gates<'a>(call: &Call<'_>, gates: impl Iterator<Item = &'a crate::Gate>) {
    let (broker, connection) = (call.broker, call.connection);
    for gate in gates {
        gate.arrive();
        call.shared.wake();
        call.shared.wait_until(|state| {
            let over = !state.runs(broker) || !state.is_open(connection);
            let through = gate.is_open() && !state.frozen(broker);
            (over || through).then_some(())
        });
    }
}

/// Writes the request down and returns the partitions it names.
fn log(
    shared: &Shared,
    broker: i32,
    connection: u64,
    header: &RequestHeader,
    api: ApiKey,
    size_bytes: usize,
    body: Option<&Body>,
) -> Vec<(String, i32)> {
    let partitions = body.map(partitions_of).unwrap_or_default();
    let batches = match body {
        Some(Body::Produce(request)) => produce::batches_of(request),
        _ => Vec::new(),
    };
    let (acks, timeout_ms) = match body {
        Some(Body::Produce(request)) => (Some(request.acks), Some(request.timeout_ms)),
        _ => (None, None),
    };
    let mut sorted = partitions.clone();
    sorted.sort();
    shared.change(|state| {
        if sorted.windows(2).any(|pair| pair[0] == pair[1]) {
            state.complaints.push(format!("{api:?} names a partition twice: {sorted:?}"));
        }
        let number = state.requests.len();
        state.requests.push(Request {
            number,
            arrived: Instant::now(),
            broker,
            connection,
            api,
            version: header.request_api_version,
            correlation_id: header.correlation_id,
            client_id: header.client_id.as_ref().map(ToString::to_string),
            size_bytes,
            partitions: partitions.clone(),
            batches,
            acks,
            timeout_ms,
        });
    });
    partitions
}

fn partitions_of(body: &Body) -> Vec<(String, i32)> {
    let mut named = Vec::new();
    match body {
        Body::Produce(request) => {
            for topic in &request.topic_data {
                named.extend(topic.partition_data.iter().map(|entry| (topic.name.to_string(), entry.index)));
            }
        }
        Body::Fetch(request) => {
            for topic in &request.topics {
                named.extend(topic.partitions.iter().map(|entry| (topic.topic.to_string(), entry.partition)));
            }
        }
        Body::ListOffsets(request) => {
            for topic in &request.topics {
                named.extend(topic.partitions.iter().map(|entry| (topic.name.to_string(), entry.partition_index)));
            }
        }
        Body::DescribeProducers(request) => {
            for topic in &request.topics {
                named.extend(topic.partition_indexes.iter().map(|&index| (topic.name.to_string(), index)));
            }
        }
        Body::Metadata(request) => {
            let names = request.topics.iter().flatten().filter_map(|topic| topic.name.as_ref());
            named.extend(names.map(|name| (name.to_string(), -1)));
        }
        Body::InitProducerId(_) | Body::ApiVersions => {}
    }
    named
}

fn api_keys(state: &State) -> Vec<ApiVersion> {
    state
        .apis
        .iter()
        .map(|(&key, &(min, max))| ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max))
        .collect()
}

fn api_versions(state: &State, strikes: &Strikes) -> ApiVersionsResponse {
    ApiVersionsResponse::default()
        .with_error_code(strikes.whole_answer().unwrap_or(codes::NONE))
        .with_api_keys(api_keys(state))
}

/// Any version of ApiVersions that the broker does not know is answered in version 0, with error 35 and the table (KIP-511).
fn unsupported_api_versions(shared: &Shared, header: &RequestHeader) -> Reaction {
    let response = ApiVersionsResponse::default()
        .with_error_code(codes::UNSUPPORTED_VERSION)
        .with_api_keys(api_keys(&shared.look()));
    let version_0 = header.clone().with_request_api_version(0);
    match encode(ApiKey::ApiVersions, &version_0, answer(response)) {
        Ok(body) => Reaction::Answer { correlation_id: header.correlation_id, body, strikes: Strikes::default() },
        Err(_) => Reaction::Close,
    }
}

fn init_producer_id(call: &Call<'_>, request: &InitProducerIdRequest, strikes: &Strikes) -> InitProducerIdResponse {
    let refused = InitProducerIdResponse::default()
        .with_producer_id((-1).into())
        .with_producer_epoch(-1)
        .with_throttle_time_ms(strikes.throttle_ms());
    call.shared.change(|state| {
        if request.transactional_id.is_some() {
            state.complaints.push("InitProducerId with a transactional id".to_owned());
        }
        if let Some(code) = strikes.whole_answer() {
            return refused.with_error_code(code);
        }
        let loads = state.settings.coordinator_loads;
        let broker = state.brokers.get_mut(&call.broker).expect("a broker's connection belongs to a broker");
        if loads && !std::mem::replace(&mut broker.coordinator_loaded, true) {
            return refused.with_error_code(codes::COORDINATOR_LOAD_IN_PROGRESS);
        }
        let producer_id = state.next_producer_id;
        state.next_producer_id += 1;
        refused.with_producer_id(producer_id.into()).with_producer_epoch(0)
    })
}

fn metadata(call: &Call<'_>, request: MetadataRequest, strikes: &Strikes) -> MetadataResponse {
    let state = call.shared.look();
    let brokers = state.brokers.iter().filter(|(_, broker)| broker.condition.runs()).map(|(&id, broker)| {
        let (host, port) = broker.advertised.clone().unwrap_or(("127.0.0.1".to_owned(), i32::from(broker.port)));
        MetadataResponseBroker::default().with_node_id(BrokerId(id)).with_host(text(&host)).with_port(port)
    });
    let mut brokers: Vec<_> = brokers.collect();
    brokers.reverse();
    let names: Vec<String> = match request.topics {
        None => match &state.brokers[&call.broker].outdated {
            Some(known) => known.keys().cloned().collect(),
            None => state.topics.keys().cloned().collect(),
        },
        Some(topics) => topics.into_iter().filter_map(|topic| topic.name).map(|name| name.to_string()).collect(),
    };
    let mut topics: Vec<_> = names.iter().map(|name| metadata_topic(&state, call, name, strikes)).collect();
    topics.reverse();
    MetadataResponse::default()
        .with_throttle_time_ms(strikes.throttle_ms())
        .with_brokers(brokers)
        .with_cluster_id(state.settings.cluster_id.as_deref().map(text))
        .with_controller_id(BrokerId(call.broker))
        .with_topics(topics)
}

fn metadata_topic(state: &State, call: &Call<'_>, name: &str, strikes: &Strikes) -> MetadataResponseTopic {
    let response = MetadataResponseTopic::default().with_name(Some(TopicName(text(name))));
    if let Some(code) = strikes.answer_before(name, -1).or_else(|| strikes.answer_after(name, -1)) {
        return response.with_error_code(code);
    }
    if !legal_topic_name(name) {
        return response.with_error_code(codes::INVALID_TOPIC_EXCEPTION);
    }
    if state.denies(name, Access::Describe) {
        return response.with_error_code(codes::TOPIC_AUTHORIZATION_FAILED);
    }
    // A broker that has not heard of the last election still tells of the one before, and still names itself.
    let known = match &state.brokers[&call.broker].outdated {
        Some(known) => known.get(name).cloned(),
        None => state.topics.get(name).map(|topic| topic.partitions.iter().map(Partition::view).collect()),
    };
    let Some(known) = known else { return response.with_error_code(codes::UNKNOWN_TOPIC_OR_PARTITION) };
    let running = |id: i32| state.brokers.get(&id).is_some_and(|broker| broker.condition.runs());
    let mut partitions: Vec<_> = known
        .iter()
        .enumerate()
        .map(|(index, partition)| metadata_partition(call.version, index as i32, partition, &running))
        .collect();
    partitions.reverse();
    response.with_partitions(partitions)
}

fn metadata_partition(
    version: i16,
    index: i32,
    partition: &PartitionView,
    running: &dyn Fn(i32) -> bool,
) -> MetadataResponsePartition {
    let ids = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect::<Vec<_>>();
    let error = if partition.leader.is_some() { codes::NONE } else { codes::LEADER_NOT_AVAILABLE };
    let offline: Vec<i32> = partition.replicas.iter().copied().filter(|&id| !running(id)).collect();
    let response = MetadataResponsePartition::default()
        .with_error_code(error)
        .with_partition_index(index)
        .with_leader_id(BrokerId(partition.leader.unwrap_or(-1)))
        .with_replica_nodes(ids(&partition.replicas))
        .with_isr_nodes(ids(&partition.in_sync));
    let response = if version >= 5 { response.with_offline_replicas(ids(&offline)) } else { response };
    if version >= 7 { response.with_leader_epoch(partition.leader_epoch) } else { response }
}

/// Kafka's `Topic.validate`.
pub(crate) fn legal_topic_name(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    !name.is_empty() && name != "." && name != ".." && name.len() <= 249 && name.chars().all(legal)
}

/// The topic's partition, when both exist.
pub(crate) fn find<'a>(
    topics: &'a mut BTreeMap<String, Topic>,
    name: &str,
    index: i32,
) -> Option<(&'a mut Partition, &'a crate::topic::TopicRules)> {
    let topic = topics.get_mut(name)?;
    let Topic { rules, partitions, .. } = topic;
    Some((partitions.get_mut(usize::try_from(index).ok()?)?, rules))
}
