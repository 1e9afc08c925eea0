//! The cluster as last heard of: brokers, topics, leaders; and why a leader is missing, in words.
//!
//! Promises: pure and immutable. Believes the last answer, also one with lower leader epochs than before: a re-created topic looks like
//! that, and a stale answer heals by the next refresh. Does not know: how it was asked for.

use crate::connection::Address;
use crate::error::ErrorCode;
use crate::outcome::Why;
use crate::protocol::{MetadataResponse, MetadataTopic};
use crate::topic_name;
use std::collections::HashMap;
use std::sync::Arc;

#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub(super) brokers: HashMap<i32, Address>,
    pub(super) topics: HashMap<Box<str>, TopicShape>,
    /// Why the last attempt to ask failed; none when it succeeded.
    pub(super) failure: Option<Arc<Why>>,
}

/// A topic as the cluster told it.
#[derive(Clone, Debug)]
pub(super) enum TopicShape {
    /// By partition, 0..n.
    Partitions(Arc<[PartitionLead]>),
    Missing(Arc<Why>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionLead {
    pub(super) leader: Option<i32>,
    pub(super) leader_epoch: i32,
    pub(super) error: ErrorCode,
}

/// Who leads a partition.
#[derive(Clone, Debug)]
pub(crate) enum Lead {
    Broker(i32),
    Unknown(Why),
}

/// Where to ask about a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    Leader {
        broker: i32,
        leader_epoch: i32,
    },
    /// There is no such topic or partition.
    Gone(Why),
    /// We may not know.
    Forbidden(Why),
    Unknown(Why),
}

impl Snapshot {
    /// From a Metadata answer. A topic that was asked for and is not in the answer counts as unknown to the cluster.
    pub(super) fn new<'a>(response: &MetadataResponse, asked: impl Iterator<Item = &'a str>) -> Self {
        let brokers: HashMap<i32, Address> = response
            .brokers
            .iter()
            .filter_map(|broker| {
                let port = u16::try_from(broker.port).ok()?;
                Some((broker.node_id, Address { host: broker.host.clone(), port }))
            })
            .collect();
        let answered: HashMap<&str, &MetadataTopic> =
            response.topics.iter().map(|topic| (topic.name.as_str(), topic)).collect();
        let topics = asked
            .map(|name| {
                let shape = match (illegal_name(name), answered.get(name)) {
                    (Some(failure), _) => TopicShape::Missing(Arc::new(failure)),
                    (None, Some(topic)) => shape(topic, &brokers),
                    (None, None) => TopicShape::Missing(Arc::new(topic_failure(name, ErrorCode(3)))),
                };
                (name.into(), shape)
            })
            .collect();
        Snapshot { brokers, topics, failure: None }
    }

    pub(super) fn follows(&self, topic: &str) -> bool {
        self.topics.contains_key(topic)
    }

    pub(crate) fn lead(&self, topic: &str, partition: i32) -> Lead {
        let unknown = |failure: &Why| {
            Lead::Unknown(Why {
                code: failure.code,
                text: format!("no leader is known: {}", failure.text),
                hint: failure.hint.clone(),
            })
        };
        match self.topics.get(topic) {
            Some(TopicShape::Partitions(partitions)) => {
                let lead = usize::try_from(partition).ok().and_then(|index| partitions.get(index));
                match lead {
                    Some(PartitionLead { leader: Some(broker), .. }) => Lead::Broker(*broker),
                    Some(lead) => unknown(self.failure.as_deref().unwrap_or(&leaderless(topic, lead.error))),
                    None => unknown(&Why {
                        code: Some(3),
                        text: format!("topic {topic} has {} partitions", partitions.len()),
                        hint: String::new(),
                    }),
                }
            }
            Some(TopicShape::Missing(failure)) => unknown(self.failure.as_deref().unwrap_or(failure)),
            None => unknown(self.failure.as_deref().unwrap_or(&Why::new("the cluster has not been asked yet"))),
        }
    }

    /// As [`Snapshot::lead`], by why there is none.
    pub(crate) fn whereabouts(&self, topic: &str, partition: i32) -> Whereabouts {
        if let Some(TopicShape::Partitions(partitions)) = self.topics.get(topic)
            && let Some(lead) = usize::try_from(partition).ok().and_then(|index| partitions.get(index))
            && let Some(broker) = lead.leader
        {
            return Whereabouts::Leader { broker, leader_epoch: lead.leader_epoch };
        }
        match self.lead(topic, partition) {
            Lead::Unknown(failure) => match failure.code.map(ErrorCode) {
                Some(ErrorCode::UNKNOWN_TOPIC_OR_PARTITION | ErrorCode::INVALID_TOPIC_EXCEPTION) => {
                    Whereabouts::Gone(failure)
                }
                Some(ErrorCode::TOPIC_AUTHORIZATION_FAILED) => Whereabouts::Forbidden(failure),
                _ => Whereabouts::Unknown(failure),
            },
            Lead::Broker(_) => unreachable!("a leader was looked for above"),
        }
    }

    /// What is needed to open a topic, or why it can't be. A partition without a leader keeps none of the others closed.
    pub(super) fn partitions(&self, topic: &str) -> Result<Arc<[PartitionLead]>, Why> {
        match self.topics.get(topic) {
            Some(TopicShape::Missing(failure)) => Err(Why::clone(failure)),
            Some(TopicShape::Partitions(partitions)) => Ok(Arc::clone(partitions)),
            None => Err(Why::new(format!("topic {topic}: the cluster has not been asked yet"))),
        }
    }
}

fn shape(topic: &MetadataTopic, brokers: &HashMap<i32, Address>) -> TopicShape {
    let missing = |failure| TopicShape::Missing(Arc::new(failure));
    if topic.error != ErrorCode(0) {
        return missing(topic_failure(&topic.name, topic.error));
    }
    let mut partitions: Vec<_> = topic.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.partition);
    // Keys are hashed over all partitions: with a gap in them a key could end up on another one than it should.
    let without_gaps = partitions.iter().enumerate().all(|(index, p)| usize::try_from(p.partition) == Ok(index));
    if partitions.is_empty() || !without_gaps {
        return missing(Why::new(format!("topic {}: the cluster named only some of its partitions", topic.name)));
    }
    TopicShape::Partitions(
        partitions
            .iter()
            .map(|partition| PartitionLead {
                // By the leader and not by the error: an error may also speak of another replica that is down.
                leader: Some(partition.leader).filter(|leader| brokers.contains_key(leader)),
                leader_epoch: partition.leader_epoch,
                error: partition.error,
            })
            .collect(),
    )
}

pub(super) fn leaderless(topic: &str, error: ErrorCode) -> Why {
    let error = if error == ErrorCode(0) { ErrorCode(5) } else { error };
    Why {
        code: Some(error.0),
        text: format!("topic {topic} has a partition without a leader ({error})"),
        hint: format!(
            "start the brokers that hold its replicas; `kafka-topics.sh --bootstrap-server SERVER --describe --topic {topic}` lists them"
        ),
    }
}

/// Why no such topic can exist; found without asking a broker.
pub(super) fn illegal_name(topic: &str) -> Option<Why> {
    let error = topic_name::check(topic).err()?;
    Some(Why {
        code: Some(17),
        text: format!("topic {topic:?}: {error}"),
        hint: "name another topic in the outbox's `topic`".to_owned(),
    })
}

fn topic_failure(topic: &str, error: ErrorCode) -> Why {
    let create = format!("kafka-topics.sh --bootstrap-server SERVER --create --topic {topic} --partitions N");
    let (text, hint) = match error {
        ErrorCode(3) => (format!("topic {topic} does not exist ({error})"), format!("create it: `{create}`")),
        ErrorCode(29) => (
            // Without Describe a broker does not tell "not there" from "not yours".
            format!("topic {topic} does not exist, or we may not see it ({error})"),
            format!(
                "create it: `{create}`, or grant Write on it: `kafka-acls.sh --add --allow-principal User:NAME --operation Write --topic {topic}`"
            ),
        ),
        ErrorCode(17) => (
            format!("topic {topic:?} has no legal name ({error})"),
            "name another topic in the outbox's `topic`".to_owned(),
        ),
        ErrorCode(5) => (format!("topic {topic} has no leaders yet ({error})"), String::new()),
        _ => (format!("topic {topic}: the cluster answered {error}"), String::new()),
    };
    Why { code: Some(error.0), text, hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{MetadataBroker, MetadataPartition};
    use std::time::Duration;

    /// Name, error; partition, leader, error.
    type TopicAnswer<'a> = (&'a str, i16, &'a [(i32, i32, i16)]);

    fn response(topics: Vec<TopicAnswer<'_>>) -> MetadataResponse {
        MetadataResponse {
            throttle_time: Duration::ZERO,
            brokers: vec![MetadataBroker { node_id: 7, host: "a".into(), port: 9092, rack: None }],
            cluster_id: None,
            controller_id: -1,
            topics: topics
                .into_iter()
                .map(|(name, error, partitions)| MetadataTopic {
                    error: ErrorCode(error),
                    name: name.into(),
                    is_internal: false,
                    partitions: partitions
                        .iter()
                        .map(|(partition, leader, error)| MetadataPartition {
                            error: ErrorCode(*error),
                            partition: *partition,
                            leader: *leader,
                            leader_epoch: 4,
                            replicas: vec![],
                            in_sync_replicas: vec![],
                            offline_replicas: vec![],
                        })
                        .collect(),
                })
                .collect(),
        }
    }

    fn why(snapshot: &Snapshot, topic: &str, partition: i32) -> String {
        match snapshot.lead(topic, partition) {
            Lead::Broker(broker) => format!("broker {broker}"),
            Lead::Unknown(failure) => failure.text,
        }
    }

    #[test]
    fn leaders_are_found_and_their_absence_explained() {
        let response = response(vec![
            ("users", 0, &[(1, 7, 9), (0, -1, 5)]),
            ("gone", 3, &[]),
            ("secret", 29, &[]),
            ("gap", 0, &[(0, 7, 0), (2, 7, 0)]),
            ("away", 0, &[(0, 8, 0)]),
        ]);
        let asked = ["users", "gone", "secret", "gap", "away", "unanswered"];
        let snapshot = Snapshot::new(&response, asked.into_iter());
        assert_eq!(why(&snapshot, "users", 1), "broker 7");
        assert_eq!(
            why(&snapshot, "users", 0),
            format!("no leader is known: topic users has a partition without a leader ({})", ErrorCode(5))
        );
        assert_eq!(why(&snapshot, "users", 2), "no leader is known: topic users has 2 partitions");
        assert_eq!(
            why(&snapshot, "gone", 0),
            format!("no leader is known: topic gone does not exist ({})", ErrorCode(3))
        );
        assert!(why(&snapshot, "secret", 0).contains("does not exist, or we may not see it"));
        assert!(why(&snapshot, "gap", 0).contains("only some of its partitions"));
        assert!(why(&snapshot, "away", 0).contains("without a leader"), "a leader that is no known broker");
        assert!(why(&snapshot, "unanswered", 0).contains("does not exist"));
        assert!(why(&snapshot, "never", 0).contains("has not been asked yet"));

        assert_eq!(snapshot.partitions("gone").unwrap_err().code, Some(3));
        assert_eq!(snapshot.partitions("users").unwrap().iter().filter(|lead| lead.leader.is_none()).count(), 1);
        assert!(!snapshot.partitions("secret").unwrap_err().hint.is_empty());
    }

    #[test]
    fn a_failure_to_ask_explains_better_than_what_was_known() {
        let mut snapshot =
            Snapshot::new(&response(vec![("users", 0, &[(0, 7, 0), (1, -1, 5)])]), ["users"].into_iter());
        snapshot.failure = Some(Arc::new(Why::new("a:9092: connection refused")));
        assert_eq!(why(&snapshot, "users", 0), "broker 7", "leaders stay known while nobody answers");
        assert_eq!(why(&snapshot, "users", 1), "no leader is known: a:9092: connection refused");
    }

    #[test]
    fn illegal_names_are_found_without_a_broker() {
        assert_eq!(illegal_name("users.created"), None);
        let failure = illegal_name("a b").unwrap();
        assert_eq!((failure.code, failure.text.starts_with("topic \"a b\": ")), (Some(17), true));
    }
}
