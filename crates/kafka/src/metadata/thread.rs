//! The thread that follows the cluster: metadata, producer ids, the ends of partitions.
//!
//! Promises: what was asked for is tried until it is had, with growing pauses; each failure is told; no owner of batches can hold it up.
//! Does not know: batches.

use super::brokers::Brokers;
use super::chunks::ask_for;
use super::snapshot::{PartitionLead, illegal_name, leaderless};
use super::{Asked, Cluster, Snapshot};
use crate::backoff::Backoff;
use crate::error::ErrorCode;
use crate::lookup::Pending;
use crate::outcome::{Event, PartitionStart, Why};
use crate::producer::{Mailbox, Pool, Shared};
use crate::protocol::{InitProducerIdRequest, ListOffsetsPartition, ListOffsetsRequest, ListedOffset, Reach};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

/// How soon an event that must arrive is offered again to a full channel.
const OFFER_AGAIN: Duration = Duration::from_millis(10);

/// The longest wait, so that a clock's oddity can't make it endless.
const WAIT_MAX: Duration = Duration::from_secs(3_600);

/// Runs until the producer stops.
pub(crate) fn run(shared: &Arc<Shared>) {
    MetadataThread::new(shared).run();
}

struct MetadataThread<'a> {
    shared: &'a Arc<Shared>,
    brokers: Brokers,
    topics: BTreeMap<Arc<str>, Topic>,
    producer_ids: VecDeque<ProducerAsk>,
    producer_backoff: Backoff,
    producer_due: Instant,
    /// After a time when no server answered, or one that throttles us.
    silent_until: Instant,
    reconnect: Backoff,
    refresh: bool,
    /// Since when, without a break that was noticed, some sender gets no answer.
    struggle_since: Option<Instant>,
    refresh_backoff: Backoff,
    refresh_not_before: Instant,
    metadata_at: Option<Instant>,
    pending: Pending,
    /// What was looked up, and found no room with whoever asked.
    undelivered: bool,
    random: fastrand::Rng,
}

/// A topic that someone opened or writes to.
struct Topic {
    subscribers: Vec<Subscriber>,
    opened: Option<Arc<[PartitionStart]>>,
    /// The ends were found since the topic was last asked for.
    fresh: bool,
    /// To be opened, opened anew, or opened further, when due.
    wanted: bool,
    due: Instant,
    backoff: Backoff,
}

/// What the leaders said of the ends of partitions, by topic.
#[derive(Default)]
struct Ends {
    /// By partition.
    known: HashMap<String, BTreeMap<i32, i64>>,
    /// Why a topic's ends are not all known.
    failures: HashMap<String, Why>,
}

struct Subscriber {
    mailbox: Arc<Mailbox>,
    told: bool,
}

struct ProducerAsk {
    mailbox: Arc<Mailbox>,
    /// With the cluster that gave it.
    id: Option<(i64, Option<Arc<str>>)>,
}

impl<'a> MetadataThread<'a> {
    fn new(shared: &'a Arc<Shared>) -> Self {
        let now = Instant::now();
        MetadataThread {
            brokers: Brokers::new(),
            topics: BTreeMap::new(),
            producer_ids: VecDeque::new(),
            producer_backoff: shared.options.retry_backoff(),
            producer_due: now,
            silent_until: now,
            reconnect: shared.options.reconnect_backoff(),
            refresh: false,
            struggle_since: None,
            refresh_backoff: shared.options.retry_backoff(),
            refresh_not_before: now,
            metadata_at: None,
            pending: Pending::new(Duration::from_millis(shared.options.retry_backoff_ms)),
            undelivered: false,
            random: fastrand::Rng::new(),
            shared,
        }
    }

    fn cluster(&self) -> &'a Cluster {
        &self.shared.cluster
    }

    fn run(mut self) {
        while let Some(asked) = self.cluster().wait(self.next_deadline()) {
            self.accept(asked);
            self.pending.collect(&self.shared.lookups);
            self.forget_closed();
            self.brokers.close_idle(self.shared.options.idle_max());
            if Instant::now() >= self.silent_until
                && let Err(failure) = self.ask_cluster()
            {
                self.nobody_answered(&failure);
            }
            self.deliver();
        }
    }

    fn accept(&mut self, asked: Asked) {
        let now = Instant::now();
        self.refresh |= asked.refresh;
        let struggling = self.cluster().struggling.load(SeqCst) > 0;
        self.struggle_since = self.struggle_since.or(Some(now)).filter(|_| struggling);
        for (mailbox, count) in asked.producer_ids {
            for _ in 0..count {
                self.producer_ids.push_back(ProducerAsk { mailbox: Arc::clone(&mailbox), id: None });
            }
        }
        for name in asked.wanted {
            self.topic(name.into(), now);
        }
        for (name, mailbox) in asked.opens {
            let topic = self.topic(name, now);
            let known = topic.subscribers.iter_mut().find(|s| s.mailbox.id == mailbox.id);
            match known {
                // Under way already: asking often must not take the pauses away.
                Some(subscriber) if topic.wanted && !subscriber.told => continue,
                Some(subscriber) => subscriber.told = false,
                None => topic.subscribers.push(Subscriber { mailbox, told: false }),
            }
            // The ends are asked for anew even when they are known: an old end may lie above the one of a topic re-created since.
            topic.wanted = true;
            topic.fresh = false;
            topic.due = topic.due.min(now);
        }
    }

    fn topic(&mut self, name: Arc<str>, now: Instant) -> &mut Topic {
        let backoff = self.shared.options.retry_backoff();
        self.topics.entry(name).or_insert_with(|| Topic {
            subscribers: Vec::new(),
            opened: None,
            fresh: false,
            wanted: false,
            due: now,
            backoff,
        })
    }

    fn forget_closed(&mut self) {
        self.producer_ids.retain(|ask| !ask.mailbox.is_closed());
        for topic in self.topics.values_mut() {
            topic.subscribers.retain(|subscriber| !subscriber.mailbox.is_closed());
            topic.wanted &= !topic.subscribers.is_empty();
        }
    }

    /// Everything that is due. `Err`: no server answered.
    fn ask_cluster(&mut self) -> Result<(), Why> {
        if self.metadata_due(Instant::now()) {
            let snapshot = self.ask_metadata()?;
            if self.pending.dispatch(self.shared, &snapshot) {
                self.brokers.change_favourite(self.cluster());
            }
            self.open_topics();
        }
        let unanswered = |ask: &ProducerAsk| ask.id.is_none();
        while self.producer_ids.iter().any(unanswered)
            && Instant::now() >= self.producer_due
            && Instant::now() >= self.silent_until
        {
            self.ask_producer_id()?;
        }
        self.reconnect.reset();
        Ok(())
    }

    /// When news are wanted because of what senders see. A struggle counts from the first pause on: most connections are made at once.
    fn news_due(&self) -> Option<Instant> {
        let pause = Duration::from_millis(self.shared.options.retry_backoff_ms);
        let struggle = self.struggle_since.map(|since| since + pause);
        let wanted = if self.refresh { Some(self.refresh_not_before) } else { struggle };
        wanted.map(|at| at.max(self.refresh_not_before))
    }

    fn metadata_due(&self, now: Instant) -> bool {
        let age_reached = self.metadata_at.is_some_and(|at| now >= at + self.shared.options.metadata_max_age());
        self.topics.values().any(|topic| topic.wanted && now >= topic.due)
            || self.news_due().is_some_and(|at| now >= at)
            || self.pending.next_due().is_some_and(|at| now >= at)
            || (age_reached && !self.topics.is_empty())
    }

    fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let mut deadline = now + WAIT_MAX;
        let mut at_latest = |at: Instant| deadline = deadline.min(at);
        let quiet = |at: Instant| at.max(self.silent_until);
        self.topics.values().filter(|topic| topic.wanted).for_each(|topic| at_latest(quiet(topic.due)));
        if let Some(at) = self.news_due() {
            at_latest(quiet(at));
        }
        if let (Some(at), false) = (self.metadata_at, self.topics.is_empty()) {
            at_latest(quiet(at + self.shared.options.metadata_max_age()));
        }
        if self.producer_ids.iter().any(|ask| ask.id.is_none()) {
            at_latest(quiet(self.producer_due));
        }
        if let Some(at) = self.pending.next_due() {
            at_latest(quiet(at));
        }
        let undelivered = self.undelivered
            || self.producer_ids.iter().any(|ask| ask.id.is_some())
            || self.topics.values().any(|t| t.fresh && t.subscribers.iter().any(|s| !s.told));
        if undelivered {
            at_latest(now + OFFER_AGAIN);
        }
        if let Some(left) = self.brokers.next_idle(self.shared.options.idle_max()) {
            at_latest(now + left);
        }
        deadline
    }

    fn ask_metadata(&mut self) -> Result<Arc<Snapshot>, Why> {
        let now = Instant::now();
        let max = Duration::from_millis(self.shared.options.retry_backoff_max_ms);
        if self.news_due().is_some_and(|at| now >= at) {
            if self.metadata_at.is_none_or(|at| now.duration_since(at) > 3 * max) {
                self.refresh_backoff.reset();
            }
            if self.refresh_backoff.failures() > 1 {
                // The last answers did not help.
                self.brokers.change_favourite(self.cluster());
            }
            self.refresh_not_before = self.refresh_backoff.next(now, &mut self.random);
        }
        self.refresh = false;
        let looked_up = self.pending.topics(&self.shared.lookups);
        let topics: BTreeSet<&str> =
            self.topics.keys().map(|name| &**name).chain(looked_up.iter().map(|name| &**name)).collect();
        let names: Vec<&str> = topics.iter().copied().filter(|name| illegal_name(name).is_none()).collect();
        let response = ask_for(&names, |request| {
            let response = self.brokers.call_any(&self.shared.cluster, &self.shared.options, request)?;
            // A connection may outlive what stands behind it, at a proxy or a balancer.
            let checked = self.shared.cluster.id().check(response.cluster_id.as_deref());
            checked.inspect_err(|_| self.brokers.close_all()).map(|()| response)
        })?;
        let snapshot = self.cluster().publish(Snapshot::new(&response, topics.into_iter()));
        self.throttled(response.throttle_time);
        self.metadata_at = Some(Instant::now());
        for (name, topic) in &mut self.topics {
            let (Some(opened), Ok(partitions)) = (&topic.opened, snapshot.partitions(name)) else { continue };
            if opened.len() != partitions.len() && topic.fresh {
                log::info!("topic {name}: {} partitions instead of {}", partitions.len(), opened.len());
                topic.wanted = true;
                topic.fresh = false;
                topic.due = now;
            }
        }
        Pool::give_up_moved(self.shared, &snapshot);
        self.shared.lookups.give_up_moved(&snapshot);
        Ok(snapshot)
    }

    fn throttled(&mut self, throttle_time: Duration) {
        if !throttle_time.is_zero() {
            self.silent_until = Instant::now() + throttle_time;
        }
    }

    /// Opens what is wanted and due, with one ListOffsets for each leader.
    fn open_topics(&mut self) {
        let now = Instant::now();
        let snapshot = self.cluster().snapshot();
        let mut leads: BTreeMap<Arc<str>, Arc<[PartitionLead]>> = BTreeMap::new();
        let mut failed: Vec<(Arc<str>, Why)> = Vec::new();
        for (name, _) in self.topics.iter().filter(|(_, topic)| topic.wanted && now >= topic.due) {
            match snapshot.partitions(name) {
                Ok(partitions) => drop(leads.insert(Arc::clone(name), partitions)),
                Err(failure) => failed.push((Arc::clone(name), failure)),
            }
        }
        let Ends { mut known, mut failures } = self.list_ends(&snapshot, &leads);
        for (name, partitions) in leads {
            let ends = known.remove(&*name).unwrap_or_default();
            self.opened(&name, &partitions, &ends);
            if ends.len() < partitions.len() {
                let without_leader = partitions.iter().find(|lead| lead.leader.is_none());
                let failure = failures
                    .remove(&*name)
                    .or_else(|| without_leader.map(|lead| leaderless(&name, lead.error)))
                    .unwrap_or_else(|| Why::new("the ends of some partitions were not answered"));
                failed.push((name, failure));
            }
        }
        for (name, failure) in failed {
            self.not_opened(&name, &failure);
        }
    }

    fn list_ends(&mut self, snapshot: &Snapshot, leads: &BTreeMap<Arc<str>, Arc<[PartitionLead]>>) -> Ends {
        let mut by_leader: BTreeMap<i32, Vec<ListOffsetsPartition<'_>>> = BTreeMap::new();
        for (name, partitions) in leads {
            for (index, lead) in partitions.iter().enumerate() {
                let Some(leader) = lead.leader else { continue };
                by_leader.entry(leader).or_default().push(ListOffsetsPartition {
                    topic: name,
                    partition: index as i32,
                    current_leader_epoch: lead.leader_epoch,
                    timestamp: ListOffsetsPartition::END,
                });
            }
        }
        let mut ends = Ends::default();
        for (leader, partitions) in by_leader {
            let Some(address) = snapshot.brokers.get(&leader) else { continue };
            let request = ListOffsetsRequest { reach: Reach::HighWatermark, partitions: &partitions };
            match self.brokers.call_at(&self.shared.cluster, &self.shared.options, address, &request) {
                Ok(response) => {
                    self.throttled(response.throttle_time);
                    for answer in response.partitions {
                        if answer.error == ErrorCode(0) && answer.offset >= 0 {
                            ends.known.entry(answer.topic).or_default().insert(answer.partition, answer.offset);
                        } else {
                            ends.failures.insert(answer.topic.clone(), end_failure(leader, &answer));
                        }
                    }
                }
                Err(failure) => {
                    for partition in &partitions {
                        let text = format!("leader {leader}: {}", failure.text);
                        ends.failures.insert(partition.topic.to_owned(), Why { text, ..failure.clone() });
                    }
                }
            }
        }
        ends
    }

    fn opened(&mut self, name: &Arc<str>, leads: &[PartitionLead], ends: &BTreeMap<i32, i64>) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        let partitions: Arc<[PartitionStart]> = leads
            .iter()
            .zip(0..)
            .map(|(lead, partition)| PartitionStart {
                partition,
                end_offset: ends.get(&partition).copied(),
                leader_epoch: lead.leader_epoch,
            })
            .collect();
        if ends.is_empty() {
            // Nothing could be sent there.
            return;
        }
        let news = topic.opened.as_ref().is_none_or(|before| {
            let was_known = |at: usize| before.get(at).is_some_and(|partition| partition.end_offset.is_some());
            before.len() != partitions.len()
                || (0..partitions.len()).any(|at| ends.contains_key(&(at as i32)) && !was_known(at))
        });
        if news {
            topic.subscribers.iter_mut().for_each(|subscriber| subscriber.told = false);
        }
        topic.opened = Some(partitions);
        topic.fresh = true;
        if ends.len() == leads.len() {
            topic.wanted = false;
            topic.backoff.reset();
        }
    }

    fn not_opened(&mut self, name: &Arc<str>, why: &Why) {
        let Some(topic) = self.topics.get_mut(name) else { return };
        topic.due = topic.backoff.next(Instant::now(), &mut self.random);
        for subscriber in &topic.subscribers {
            // One that finds no room is not missed: the next attempt tells again.
            subscriber.mailbox.offer(Event::NotOpened { topic: Arc::clone(name), why: why.clone() });
        }
    }

    /// `Err`: no server answered. What a server refuses is told and tried again.
    fn ask_producer_id(&mut self) -> Result<(), Why> {
        let response = self.brokers.call_any(&self.shared.cluster, &self.shared.options, &InitProducerIdRequest)?;
        self.throttled(response.throttle_time);
        if response.error == ErrorCode(0) && response.producer_id >= 0 {
            self.producer_backoff.reset();
            let cluster = self.cluster();
            if let Some(ask) = self.producer_ids.iter_mut().find(|ask| ask.id.is_none()) {
                ask.id = Some((response.producer_id, cluster.id().name()));
            }
            return Ok(());
        }
        let first = self.producer_backoff.failures() == 0;
        self.producer_due = self.producer_backoff.next(Instant::now(), &mut self.random);
        // Every broker answers 14 to the first call after its start.
        if !(first && response.error == ErrorCode(14)) {
            self.tell_no_producer_id(&producer_failure(response.error));
            self.brokers.change_favourite(self.cluster());
        }
        Ok(())
    }

    fn tell_no_producer_id(&self, why: &Why) {
        let mut told = Vec::new();
        for ask in self.producer_ids.iter().filter(|ask| ask.id.is_none()) {
            if !told.contains(&ask.mailbox.id) {
                told.push(ask.mailbox.id);
                ask.mailbox.offer(Event::NoProducer { why: why.clone() });
            }
        }
    }

    fn nobody_answered(&mut self, failure: &Why) {
        if self.cluster().is_stopping() {
            return;
        }
        let known = self.cluster().snapshot();
        self.cluster().publish(Snapshot { failure: Some(Arc::new(failure.clone())), ..Snapshot::clone(&known) });
        self.silent_until = self.reconnect.next(Instant::now(), &mut self.random);
        let wanted: Vec<Arc<str>> =
            self.topics.iter().filter(|(_, topic)| topic.wanted).map(|(name, _)| Arc::clone(name)).collect();
        for name in wanted {
            let failure = illegal_name(&name).unwrap_or_else(|| failure.clone());
            self.not_opened(&name, &failure);
        }
        self.tell_no_producer_id(failure);
        self.pending.nobody_answered(failure);
        // An answer is still owed.
        self.refresh |= !self.topics.is_empty();
    }

    /// Offers what must arrive until there is room for it.
    fn deliver(&mut self) {
        self.undelivered = self.shared.lookups.deliver();
        self.producer_ids.retain(|ask| {
            ask.id
                .as_ref()
                .is_none_or(|(id, cluster)| !ask.mailbox.offer(Event::Producer { id: *id, cluster: cluster.clone() }))
        });
        for (name, topic) in &mut self.topics {
            let (Some(opened), true) = (&topic.opened, topic.fresh) else { continue };
            for subscriber in topic.subscribers.iter_mut().filter(|subscriber| !subscriber.told) {
                let event = Event::Opened { topic: Arc::clone(name), partitions: opened.to_vec() };
                subscriber.told = subscriber.mailbox.offer(event);
            }
        }
    }
}

fn end_failure(leader: i32, answer: &ListedOffset) -> Why {
    Why {
        code: Some(answer.error.0),
        text: format!("leader {leader} answered {} when asked for the end of a partition", answer.error),
        hint: if answer.error == ErrorCode(29) {
            format!(
                "grant Write on the topic: `kafka-acls.sh --add --allow-principal User:NAME --operation Write --topic {}`",
                answer.topic
            )
        } else {
            String::new()
        },
    }
}

fn producer_failure(error: ErrorCode) -> Why {
    let hint = match error {
        // Before 2.8 a right of its own, later Write on any topic is enough.
        ErrorCode(29 | 31) => {
            "grant Write on the topics, and to brokers before 2.8: `kafka-acls.sh --add --allow-principal User:NAME \
             --operation IdempotentWrite --cluster`"
        }
        ErrorCode(14..=16) => "the cluster has just started, or lacks brokers",
        _ => "",
    };
    Why { code: Some(error.0), text: format!("no producer id: the broker answered {error}"), hint: hint.to_owned() }
}
