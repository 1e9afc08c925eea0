//! CreateTopics 2 to 4. The producer never creates a topic.
//!
//! Promises and does not know: as its parent.

use super::{ApiKey, DecodeError, Reader, Request, Writer, throttle_time};
use crate::error::ErrorCode;
use std::time::Duration;

/// One topic. To be sent to the controller: before KRaft no other broker creates topics.
#[derive(Clone, Copy, Debug)]
pub struct CreateTopicsRequest<'a> {
    pub topic: &'a str,
    pub partitions: i32,
    /// How long the controller may wait for the topic to be there on all brokers.
    pub timeout_ms: i32,
}

/// What became of each topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTopicsResponse {
    pub throttle_time: Duration,
    pub topics: Vec<CreatedTopic>,
}

/// What became of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    pub topic: String,
    pub error: ErrorCode,
    pub message: Option<String>,
}

/// From this version on -1 stands for the broker's default.
const DEFAULT_REPLICATION_SINCE: i16 = 4;

impl Request for CreateTopicsRequest<'_> {
    type Response = CreateTopicsResponse;
    const API: ApiKey = ApiKey::CreateTopics;

    fn encode(&self, version: i16, out: &mut Writer<'_>) {
        out.count(1);
        out.string(self.topic);
        out.i32(self.partitions);
        out.i16(if version >= DEFAULT_REPLICATION_SINCE { -1 } else { 1 });
        out.count(0); // assignments
        out.count(0); // configs
        out.i32(self.timeout_ms);
        out.bool(false); // validate_only
    }

    fn decode(_version: i16, reader: &mut Reader<'_>) -> Result<CreateTopicsResponse, DecodeError> {
        Ok(CreateTopicsResponse {
            throttle_time: throttle_time(reader)?,
            topics: reader.array(6, |r| {
                Ok(CreatedTopic {
                    topic: r.string()?.to_owned(),
                    error: ErrorCode(r.i16()?),
                    message: r.nullable_string()?.map(str::to_owned),
                })
            })?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::create_topics_request::CreatableTopic;
    use kafka_protocol::messages::create_topics_response::CreatableTopicResult;
    use kafka_protocol::messages::{
        CreateTopicsRequest as TheirRequest, CreateTopicsResponse as TheirResponse, TopicName,
    };
    use kafka_protocol::protocol::{Encodable, StrBytes};

    #[test]
    fn as_an_independent_codec_writes_it() {
        for version in 2..=4 {
            let replication = if version == 4 { -1 } else { 1 };
            let topic = CreatableTopic::default()
                .with_name(TopicName(StrBytes::from_static_str("demo")))
                .with_num_partitions(3)
                .with_replication_factor(replication);
            let mut theirs = Vec::new();
            TheirRequest::default().with_topics(vec![topic]).with_timeout_ms(900).encode(&mut theirs, version).unwrap();
            let mut ours = Vec::new();
            CreateTopicsRequest { topic: "demo", partitions: 3, timeout_ms: 900 }
                .encode(version, &mut Writer::new(&mut ours));
            assert_eq!(ours, theirs, "version {version}");

            let result = CreatableTopicResult::default()
                .with_name(TopicName(StrBytes::from_static_str("demo")))
                .with_error_code(36)
                .with_error_message(Some(StrBytes::from_static_str("it is there")));
            let mut answer = Vec::new();
            TheirResponse::default()
                .with_throttle_time_ms(7)
                .with_topics(vec![result])
                .encode(&mut answer, version)
                .unwrap();
            let mut reader = Reader::new(&answer);
            let decoded = CreateTopicsRequest::decode(version, &mut reader).unwrap();
            reader.finish().unwrap();
            assert_eq!(decoded.throttle_time, Duration::from_millis(7));
            assert_eq!(
                decoded.topics,
                [CreatedTopic { topic: "demo".into(), error: ErrorCode(36), message: Some("it is there".into()) }]
            );
        }
    }
}
