//! Topics and their lanes: which there are, and to which of them a row leads.
//!
//! Promises: a row with a key leads to its partition; one without to a partition that is well. Does not know: whether there is room.

use super::Intake;
use crate::model::{OutboxIx, PartitionStart, RowView, Target, Topic};
use crate::relay::backoff::Backoff;
use crate::relay::breaker::Breaker;
use crate::relay::lanes::{Lane, Standing};
use crate::relay::ledger::Leaver;
use crate::relay::route::Unroutable;

/// One topic that rows were routed to.
#[derive(Debug)]
pub struct TopicState {
    pub name: Topic,
    /// By partition; `None` until a row goes there.
    pub lanes: Vec<Option<u32>>,
    /// Empty: not open yet.
    pub starts: Vec<PartitionStart>,
    /// The sink was asked for it. A topic that only an earlier run's batch goes to need not be there.
    pub asked: bool,
    /// Where rows with a null key go until the next batch.
    pub null_partition: i32,
    /// The largest batch as it is sent; shrinks when the broker says so.
    pub sent_bytes_max: usize,
    /// What the last batch had before it was compressed, and as it was sent.
    pub last_batch: (usize, usize),
    pub breaker: Breaker,
}

impl TopicState {
    pub fn is_open(&self) -> bool {
        !self.starts.is_empty()
    }

    /// Of how many bytes the next batch may be made, if it shrinks as the last one did; never more than `most`.
    pub fn batch_bytes_max(&self, most: usize) -> usize {
        let (made_of, sent) = self.last_batch;
        let max = self.sent_bytes_max as u128 * made_of as u128 / sent as u128;
        usize::try_from(max).map_or(most, |max| max.min(most))
    }

    /// A batch was answered: so much it was made of, and so much was sent.
    pub fn batch_was(&mut self, made_of: usize, sent: usize) {
        self.last_batch = (made_of.max(1), sent.max(1));
    }
}

impl Intake {
    pub fn topic_of(&self, name: &str) -> Option<u32> {
        self.topic_index.get(name).copied()
    }

    /// The topic's place in the list; the sink is asked for it.
    pub fn topic(&mut self, name: &str) -> u32 {
        let ix = self.topic_unasked(name);
        let topic = &mut self.topics[ix as usize];
        if !topic.asked {
            topic.asked = true;
            self.to_open.push(topic.name.clone());
        }
        ix
    }

    pub(super) fn topic_unasked(&mut self, name: &str) -> u32 {
        if let Some(ix) = self.topic_index.get(name) {
            return *ix;
        }
        let ix = self.topics.len() as u32;
        let name: Topic = name.into();
        self.topics.push(TopicState {
            name: name.clone(),
            lanes: Vec::new(),
            starts: Vec::new(),
            asked: false,
            null_partition: 0,
            sent_bytes_max: self.limits.batch_bytes_max,
            last_batch: (1, 1),
            breaker: Breaker::default(),
        });
        self.topic_index.insert(name, ix);
        ix
    }

    /// The lane that an earlier run's batch belongs to, whatever topic and partition count are now.
    pub fn lane_of(&mut self, target: &Target, noted_offset: i64, leader_epoch: i32) -> u32 {
        let topic = self.topic_unasked(&target.topic);
        let state = &mut self.topics[topic as usize];
        let partition = target.partition as usize;
        if state.lanes.len() <= partition {
            state.lanes.resize(partition + 1, None);
        }
        match state.lanes[partition] {
            Some(lane) => lane,
            None => self.new_lane(topic, target.partition, Some(noted_offset), leader_epoch),
        }
    }

    /// The sink knows the topic's partitions, or that there are more of them.
    pub fn opened(&mut self, name: &str, starts: Vec<PartitionStart>) {
        if starts.is_empty() {
            return;
        }
        let ix = self.topic(name);
        let topic = &mut self.topics[ix as usize];
        if topic.is_open() && starts.len() < topic.starts.len() {
            // Fewer partitions: the topic was re-created. See `Relay::opened` for lanes beyond the end.
            log::warn!("topic {name} has {} partitions now, it had {}", starts.len(), topic.starts.len());
        }
        let count = starts.len().max(topic.lanes.len());
        topic.lanes.resize(count, None);
        topic.starts = starts;
        for (start, lane) in topic.starts.iter().zip(&topic.lanes) {
            // A lane that has begun knows better.
            if let Some(lane) = lane
                && self.lanes[*lane as usize].noted_offset.is_none()
            {
                let lane = &mut self.lanes[*lane as usize];
                (lane.noted_offset, lane.leader_epoch) = (start.end_offset, start.leader_epoch);
            }
        }
        topic.null_partition = self.random.i32(0..topic.starts.len().max(1) as i32);
    }

    /// Whether the lane's partition is not there any more: its topic has fewer.
    pub fn is_beyond(&self, ix: u32) -> bool {
        let lane = &self.lanes[ix as usize];
        let topic = &self.topics[lane.topic as usize];
        topic.is_open() && lane.target.partition as usize >= topic.starts.len()
    }

    pub(super) fn topic_for(&mut self, ix: OutboxIx, row: &RowView<'_>) -> Result<u32, Unroutable> {
        let mut name = std::mem::take(&mut self.name);
        let outbox = &self.outboxes[usize::from(ix.0)];
        let known = match outbox.route.literal() {
            // The one topic of an outbox without a template is looked up by its name as configured: no copy per row.
            Some(literal) => self.known_topic(literal).ok_or(Ok(literal)),
            None => match outbox.route.topic(row, &mut name) {
                Ok(()) => self.known_topic(name.as_str()).ok_or(Ok(name.as_str())),
                Err(reason) => Err(Err(reason)),
            },
        };
        let found = match known {
            Ok(topic) => Ok(topic),
            Err(Err(reason)) => Err(reason),
            Err(Ok(_)) if outbox.topics >= outbox.route.topics_max => {
                Err(Unroutable::TooManyTopics(outbox.route.topics_max))
            }
            Err(Ok(new)) => {
                let new = new.to_owned();
                self.outbox(ix).topics += 1;
                Ok(self.topic(&new))
            }
        };
        self.name = name;
        found
    }

    /// A topic the sink was asked for.
    pub(super) fn known_topic(&self, name: &str) -> Option<u32> {
        self.topic_of(name).filter(|ix| self.topics[*ix as usize].asked)
    }

    /// Rows with a null key go to one partition per batch, and pass by partitions that are in trouble.
    pub(super) fn partition_for_null(&mut self, ix: OutboxIx, topic: u32, count: i32) -> i32 {
        let state = &self.topics[topic as usize];
        let ledger = &self.outboxes[usize::from(ix.0)].ledger;
        let first = state.null_partition.min(count - 1);
        let well =
            (0..count).map(|step| (first + step) % count).find(|partition| match state.lanes[*partition as usize] {
                None => state.starts[*partition as usize].end_offset.is_some(),
                Some(lane) => {
                    let standing = &self.lanes[lane as usize];
                    standing.noted_offset.is_some()
                        && standing.standing == Standing::Running
                        && !standing.trouble
                        && !ledger.is_marked(Leaver::Lane(lane))
                }
            });
        let partition = well.unwrap_or(first);
        self.topics[topic as usize].null_partition = partition;
        partition
    }

    pub(super) fn lane(&mut self, topic: u32, partition: i32) -> u32 {
        let state = &mut self.topics[topic as usize];
        if let Some(lane) = state.lanes[partition as usize] {
            return lane;
        }
        let start = state.starts[partition as usize];
        self.new_lane(topic, partition, start.end_offset, start.leader_epoch)
    }

    pub(super) fn new_lane(&mut self, topic: u32, partition: i32, noted_offset: Option<i64>, leader_epoch: i32) -> u32 {
        let lane = self.lanes.len() as u32;
        let state = &mut self.topics[topic as usize];
        state.lanes[partition as usize] = Some(lane);
        let backoff = Backoff::new(self.limits.retry_backoff, self.limits.retry_backoff_max);
        let target = Target { topic: state.name.clone(), partition };
        self.lanes.push(Lane::new(target, topic, noted_offset, leader_epoch, backoff));
        lane
    }

    /// A batch whose rows with null keys went to this lane is about to leave: the next ones go elsewhere.
    pub fn turn_null_partition(&mut self, topic: u32, partition: i32) {
        let state = &mut self.topics[topic as usize];
        if state.null_partition == partition && state.starts.len() > 1 {
            state.null_partition = self.random.i32(0..state.starts.len() as i32);
        }
    }
}
