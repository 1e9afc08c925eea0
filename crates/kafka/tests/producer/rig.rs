//! An owner's end of the producer as a test drives it: batches with rising sequences, and the events sorted by what is waited for.

use crossbeam_channel::{Receiver, bounded};
use fake_kafka::FakeKafka;
use outboxd_kafka::outcome::{Batch, BatchId, Event, Evidence, Manner, Outcome, PartitionStart, Records, Sought, Why};
use outboxd_kafka::producer::{Handle, KafkaOptions, Producer};
use outboxd_kafka::record_batch::{RecordHeader, append_record};
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longer than any healthy wait on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub fn options(kafka: &FakeKafka) -> KafkaOptions {
    KafkaOptions { bootstrap_servers: kafka.bootstrap_servers(), ..KafkaOptions::default() }
}

pub fn class(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Stored { .. } => "stored",
        Outcome::NotAppended(_) => "not appended",
        Outcome::Unsure(_) => "unsure",
        Outcome::Rejected { .. } => "rejected",
        Outcome::Refused(_) => "refused",
        Outcome::OutOfSequence(_) => "out of sequence",
    }
}

pub fn values(kafka: &FakeKafka, topic: &str, partition: i32) -> Vec<String> {
    kafka
        .records(topic, partition)
        .into_iter()
        .map(|record| String::from_utf8(record.value.expect("no test sends null")).unwrap())
        .collect()
}

pub struct Rig {
    shared: Rc<RefCell<Option<Producer>>>,
    pub handle: Handle,
    pub events: Receiver<Event>,
    /// Read while something else was waited for.
    early: VecDeque<Event>,
    pub producer: i64,
    /// `NoProducer` and `NotOpened` before the first producer id.
    pub unexpected: usize,
    pub last_why: Option<Why>,
    batches: u64,
    sequences: HashMap<(String, i32), i32>,
}

impl Rig {
    /// With a producer id.
    pub fn start(kafka: &FakeKafka) -> Rig {
        Rig::with(options(kafka))
    }

    pub fn with(options: KafkaOptions) -> Rig {
        Rig::with_room(options, 256)
    }

    pub fn with_room(options: KafkaOptions, room: usize) -> Rig {
        let mut rig = Rig::bare(Rc::new(RefCell::new(Some(Producer::start(options).unwrap()))), room);
        rig.producer = rig.producer_id();
        rig
    }

    /// Without asking for anything.
    pub fn unready(options: KafkaOptions) -> Rig {
        Rig::bare(Rc::new(RefCell::new(Some(Producer::start(options).unwrap()))), 256)
    }

    /// Another owner with the same producer.
    pub fn second_owner(&self) -> Rig {
        let mut rig = Rig::bare(Rc::clone(&self.shared), 256);
        rig.producer = rig.producer_id();
        rig
    }

    fn bare(shared: Rc<RefCell<Option<Producer>>>, room: usize) -> Rig {
        let (sender, events) = bounded(room);
        let handle = shared.borrow().as_ref().expect("not stopped yet").handle(sender);
        Rig {
            shared,
            handle,
            events,
            early: VecDeque::new(),
            producer: -1,
            unexpected: 0,
            last_why: None,
            batches: 0,
            sequences: HashMap::new(),
        }
    }

    pub fn stop(&mut self) -> bool {
        let shared = self.shared.borrow_mut().take().expect("not stopped yet");
        shared.stop(Instant::now() + PATIENCE)
    }

    /// The next event, whatever it is.
    pub fn next(&mut self) -> Event {
        self.early.pop_front().unwrap_or_else(|| self.receive())
    }

    fn receive(&self) -> Event {
        let event = self.events.recv_timeout(PATIENCE);
        event.unwrap_or_else(|error| panic!("no event in time, {error}; not asked for so far: {:?}", self.early))
    }

    /// The first event that `wanted` accepts; others stay for later.
    fn find<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        if let Some((at, found)) = self.early.iter().enumerate().find_map(|(at, event)| Some((at, wanted(event)?))) {
            self.early.remove(at);
            return found;
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let event = self.receive();
            match wanted(&event) {
                Some(found) => return found,
                None => self.early.push_back(event),
            }
            // Failures that are told again and again keep a wait for each single event from ending.
            assert!(
                Instant::now() < deadline,
                "not in time, but {} others, the last {:?}",
                self.early.len(),
                self.early.back()
            );
        }
    }

    pub fn producer_id(&mut self) -> i64 {
        self.handle.producer_id();
        loop {
            match self.next() {
                Event::Producer { id, .. } => return id,
                Event::NoProducer { .. } => self.unexpected += 1,
                other => panic!("{other:?}"),
            }
        }
    }

    pub fn no_producer(&mut self) -> Why {
        self.find(|event| match event {
            Event::NoProducer { why } => Some(why.clone()),
            _ => None,
        })
    }

    pub fn open(&mut self, topic: &str) -> Vec<PartitionStart> {
        self.handle.open(&topic.into());
        self.opened(topic)
    }

    pub fn opened(&mut self, wanted: &str) -> Vec<PartitionStart> {
        self.find(|event| match event {
            Event::Opened { topic, partitions } if **topic == *wanted => Some(partitions.clone()),
            _ => None,
        })
    }

    pub fn not_opened(&mut self, wanted: &str) -> Why {
        self.handle.open(&wanted.into());
        self.find(|event| match event {
            Event::NotOpened { topic, why } if **topic == *wanted => Some(why.clone()),
            _ => None,
        })
    }

    /// The lane's next batch: one record for each value.
    pub fn batch(&mut self, topic: &str, partition: i32, values: &[&str]) -> Batch {
        self.batch_with_key(topic, partition, Some(b"key"), values)
    }

    pub fn batch_without_keys(&mut self, topic: &str, partition: i32, values: &[&str]) -> Batch {
        self.batch_with_key(topic, partition, None, values)
    }

    fn batch_with_key(&mut self, topic: &str, partition: i32, key: Option<&[u8]>, values: &[&str]) -> Batch {
        let sequence = self.sequences.entry((topic.to_owned(), partition)).or_insert(0);
        let first_sequence = *sequence;
        *sequence += values.len() as i32;
        self.batches += 1;
        let mut records = Vec::new();
        for (at, value) in values.iter().enumerate() {
            let headers = [RecordHeader { key: b"id", value: Some(b"header") }];
            append_record(&mut records, at as u32, key, Some(value.as_bytes()), &headers);
        }
        Batch {
            id: BatchId(self.batches),
            topic: topic.into(),
            partition,
            cluster: None,
            producer_id: self.producer,
            producer_epoch: 0,
            base_sequence: first_sequence,
            record_count: values.len() as i32,
            records: Records::new(Arc::new(records)),
            noted_offset: 0,
            leader_epoch: -1,
        }
    }

    pub fn send(&mut self, batch: &Batch, manner: Manner) {
        self.handle.send(batch.clone(), manner).expect("room in the channel");
    }

    pub fn outcome(&mut self, wanted: &Batch) -> Outcome {
        let outcome = self.find(|event| match event {
            Event::Outcome { batch, outcome, .. } if *batch == wanted.id => Some(outcome.clone()),
            _ => None,
        });
        self.last_why = match &outcome {
            Outcome::Stored { .. } => None,
            Outcome::Rejected { why, .. }
            | Outcome::NotAppended(why)
            | Outcome::Unsure(why)
            | Outcome::Refused(why)
            | Outcome::OutOfSequence(why) => Some(why.clone()),
        };
        outcome
    }

    pub fn try_once(&mut self, batch: &Batch) -> Outcome {
        self.send(batch, Manner::Merged);
        self.outcome(batch)
    }

    /// Asks what became of a batch, and waits for the answer.
    pub fn look_up(&mut self, batch: &Batch, sought: Sought) -> Evidence {
        self.handle.look_up(batch.clone(), sought);
        self.evidence(batch)
    }

    pub fn evidence(&mut self, wanted: &Batch) -> Evidence {
        self.find(|event| match event {
            Event::Evidence { batch, evidence } if *batch == wanted.id => Some(evidence.clone()),
            _ => None,
        })
    }

    pub fn no_evidence(&mut self, wanted: &Batch) -> Why {
        self.find(|event| match event {
            Event::NoEvidence { batch, why } if *batch == wanted.id => Some(why.clone()),
            _ => None,
        })
    }

    /// All that has come so far, taken out.
    pub fn so_far(&mut self) -> Vec<Event> {
        self.early.drain(..).chain(self.events.try_iter()).collect()
    }

    /// As a careful owner does it: the same batch again, after a pause, until it is stored. The offset.
    pub fn until_stored(&mut self, batch: &Batch) -> i64 {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.try_once(batch) {
                Outcome::Stored { offset } => return offset,
                Outcome::NotAppended(_) | Outcome::Unsure(_) if Instant::now() < deadline => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// No outcome of this batch has come yet.
    pub fn nothing_for(&mut self, wanted: &Batch) -> bool {
        self.early.extend(self.events.try_iter());
        !self.early.iter().any(|event| matches!(event, Event::Outcome { batch, .. } if *batch == wanted.id))
    }

    /// The next two events say the same.
    pub fn no_event_differs(&mut self, first: &Why) -> bool {
        (0..2).all(|_| matches!(self.next(), Event::NotOpened { why, .. } if why == *first))
    }
}
