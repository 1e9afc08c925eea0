//! Metadata of many topics, asked for a hundred at a time: brokers hold up everybody else for a long answer, and relatives of Kafka's
//! cut it off.
//!
//! Promises: one answer for all topics, or the failure of the first question that failed. Does not know: who is asked.

use crate::outcome::Why;
use crate::protocol::{MetadataRequest, MetadataResponse};

/// Topics of one question.
const TOPICS_MAX: usize = 100;

/// What `ask` answers for all of these topics together. No topics are a question as well: who the brokers are.
pub(super) fn ask_for(
    topics: &[&str],
    mut ask: impl FnMut(&MetadataRequest<'_>) -> Result<MetadataResponse, Why>,
) -> Result<MetadataResponse, Why> {
    let (first, rest) = topics.split_at(topics.len().min(TOPICS_MAX));
    let mut ask = |topics| ask(&MetadataRequest { topics: Some(topics), allow_auto_topic_creation: false });
    let mut whole = ask(first)?;
    for topics in rest.chunks(TOPICS_MAX) {
        let answer = ask(topics)?;
        // The news of the later answer, and who was known in the earlier one: its partitions name their leaders by number.
        whole.brokers.retain(|broker| answer.brokers.iter().all(|other| other.node_id != broker.node_id));
        whole.brokers.extend(answer.brokers);
        whole.topics.extend(answer.topics);
        whole.throttle_time = whole.throttle_time.max(answer.throttle_time);
        (whole.cluster_id, whole.controller_id) = (answer.cluster_id, answer.controller_id);
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::protocol::{MetadataBroker, MetadataTopic};
    use std::time::Duration;

    fn answer(topics: &[&str], brokers: &[(i32, i32)], throttle_ms: u64) -> MetadataResponse {
        let broker = |(node_id, port)| MetadataBroker { node_id, host: "a".into(), port, rack: None };
        let topic = |name: &&str| MetadataTopic {
            error: ErrorCode::NONE,
            name: (*name).to_owned(),
            is_internal: false,
            partitions: Vec::new(),
        };
        MetadataResponse {
            throttle_time: Duration::from_millis(throttle_ms),
            brokers: brokers.iter().copied().map(broker).collect(),
            cluster_id: Some("c".into()),
            controller_id: 1,
            topics: topics.iter().map(topic).collect(),
        }
    }

    #[test]
    fn answers_are_put_together() {
        let names: Vec<String> = (0..250).map(|number| format!("t{number}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut asked = Vec::new();
        let whole = ask_for(&names, |request| {
            let topics = request.topics.unwrap();
            assert!(!request.allow_auto_topic_creation);
            asked.push(topics.len());
            // Broker 1 moves while it is asked, broker 2 goes and 3 comes.
            let (brokers, throttle_ms) = match asked.len() {
                1 => (&[(1, 9), (2, 9)][..], 5),
                _ => (&[(1, 10), (3, 9)][..], 0),
            };
            Ok(answer(topics, brokers, throttle_ms))
        })
        .unwrap();
        assert_eq!(asked, [100, 100, 50]);
        assert!(whole.topics.iter().map(|topic| topic.name.as_str()).eq(names));
        let brokers: Vec<_> = whole.brokers.iter().map(|broker| (broker.node_id, broker.port)).collect();
        assert_eq!(brokers, [(2, 9), (1, 10), (3, 9)]);
        assert_eq!(whole.throttle_time, Duration::from_millis(5));
    }

    #[test]
    fn no_topics_are_one_question_and_a_failure_is_the_end() {
        let mut asked = 0;
        let brokers = ask_for(&[], |request| {
            asked += 1;
            assert_eq!(request.topics, Some(&[][..]));
            Ok(answer(&[], &[(1, 9)], 0))
        });
        assert_eq!((asked, brokers.unwrap().brokers.len()), (1, 1));
        let mut asked = 0;
        let failed = ask_for(&["t"; 201], |request| {
            asked += 1;
            if asked == 2 { Err(Why::new("away")) } else { Ok(answer(request.topics.unwrap(), &[], 0)) }
        });
        assert_eq!((asked, failed.unwrap_err().text.as_str()), (2, "away"));
    }
}
