//! A broker's part of a conversation, message by message, over any stream.

use crate::samples::{self, encoded};
use kafka_protocol::messages::{self, api_versions_response::ApiVersion};
use std::io::{Read, Write};
use std::time::Duration;

/// Long enough for anything that is meant to succeed.
pub const LONG: Duration = Duration::from_secs(20);
/// For what is meant to run out.
pub const SHORT: Duration = Duration::from_millis(150);

/// Key, lowest, highest: as a broker of 4.x says it, shortened.
pub fn current_versions() -> Vec<(i16, i16, i16)> {
    vec![(0, 0, 13), (1, 4, 17), (2, 1, 10), (3, 0, 13), (17, 0, 1), (18, 0, 4), (22, 0, 5), (36, 0, 2), (61, 0, 0)]
}

pub fn versions_but(changed: (i16, i16, i16)) -> Vec<(i16, i16, i16)> {
    current_versions().into_iter().map(|line| if line.0 == changed.0 { changed } else { line }).collect()
}

pub fn without(api: i16) -> Vec<(i16, i16, i16)> {
    current_versions().into_iter().filter(|line| line.0 != api).collect()
}

#[derive(Debug)]
pub struct Received {
    pub api: i16,
    pub version: i16,
    pub correlation_id: i32,
    /// After correlation id and client id.
    pub body: Vec<u8>,
}

pub fn receive(stream: &mut (impl Read + Write)) -> Received {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut frame).unwrap();
    let i16_at = |at: usize| i16::from_be_bytes([frame[at], frame[at + 1]]);
    let client_id_bytes = i16_at(8) as usize;
    assert_eq!(&frame[10..10 + client_id_bytes], b"test");
    Received {
        api: i16_at(0),
        version: i16_at(2),
        correlation_id: i32::from_be_bytes(frame[4..8].try_into().unwrap()),
        body: frame[10 + client_id_bytes..].to_vec(),
    }
}

pub fn frame(correlation_id: i32, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as i32 + 4).to_be_bytes().to_vec();
    frame.extend(correlation_id.to_be_bytes());
    frame.extend(body);
    frame
}

pub fn answer_versions(stream: &mut (impl Read + Write), versions: Vec<(i16, i16, i16)>) {
    let request = receive(stream);
    assert_eq!((request.api, request.version), (18, 3));
    let version = env!("CARGO_PKG_VERSION");
    let asked = messages::ApiVersionsRequest::default()
        .with_client_software_name(samples::text("outboxd"))
        .with_client_software_version(samples::text(version));
    // The header's tagged fields, of which there are none, come first.
    assert_eq!(request.body, [&[0], &encoded(&asked, 3)[..]].concat());
    offer_versions(stream, &request, versions);
}

/// In the version that was asked in.
pub fn offer_versions(stream: &mut impl Write, request: &Received, versions: Vec<(i16, i16, i16)>) {
    let apis = versions
        .into_iter()
        .map(|(key, min, max)| ApiVersion::default().with_api_key(key).with_min_version(min).with_max_version(max))
        .collect();
    let body = encoded(&messages::ApiVersionsResponse::default().with_api_keys(apis), request.version);
    stream.write_all(&frame(request.correlation_id, &body)).unwrap();
}

pub fn welcome(stream: &mut (impl Read + Write), versions: Vec<(i16, i16, i16)>) {
    answer_versions(stream, versions);
    answer_metadata(stream);
}

pub fn answer_metadata(stream: &mut (impl Read + Write)) {
    let request = receive(stream);
    // No topics, no creation of any.
    assert_eq!((request.api, request.version, request.body.as_slice()), (3, 7, &[0, 0, 0, 0, 0][..]));
    stream.write_all(&frame(request.correlation_id, &encoded(&samples::metadata(), 7))).unwrap();
}

pub fn producer_id_answer() -> Vec<u8> {
    encoded(&samples::init_producer_id(), 1)
}
