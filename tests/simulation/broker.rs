//! A partition as its leader keeps it: Kafka's rules for sequences, a log's end and a high watermark that may lag behind it.

use outboxd::model::{Evidence, Sought, Why};
use outboxd::relay::planted::{self, Bug};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// What a leader remembers of a producer: its epoch, and the first and last sequence and the offset of its last batches.
type Memory = (i16, VecDeque<(i32, i32, i64)>);

/// A batch in the log.
#[derive(Clone, Debug)]
pub struct Entry {
    pub offset: i64,
    pub at: Duration,
    producer: i64,
    epoch: i16,
    first: i32,
    pub uids: Vec<u64>,
}

impl Entry {
    fn end(&self) -> i64 {
        self.offset + self.uids.len() as i64
    }

    fn last(&self) -> i32 {
        last_sequence(self.first, self.uids.len())
    }
}

/// A partition's log and what its leader remembers of producers.
#[derive(Debug, Default)]
pub struct Log {
    pub entries: Vec<Entry>,
    /// Where what is left of the log begins: retention.
    start: i64,
    watermark: i64,
    /// A follower is frozen: the high watermark stays where it is.
    pub stuck: bool,
    producers: HashMap<i64, Memory>,
}

/// A broker's verdict on a batch, by Kafka's rules: sequences only, contents ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Append {
    Stored(i64),
    /// In the leader's log, and not on the other replicas.
    Held,
    OutOfSequence(i16),
}

/// What is asked of a leader.
#[derive(Clone, Debug)]
pub struct Question {
    pub plan: outboxd::model::PlanId,
    pub cluster: Option<outboxd::model::ClusterId>,
    pub topic: String,
    pub partition: i32,
    pub producer: i64,
    pub epoch: i16,
    pub first: i32,
    pub count: usize,
    pub noted: i64,
    pub sought: Sought,
}

fn last_sequence(first: i32, count: usize) -> i32 {
    ((i64::from(first) + count as i64 - 1) & i64::from(i32::MAX)) as i32
}

fn after(sequence: i32) -> i32 {
    ((i64::from(sequence) + 1) & i64::from(i32::MAX)) as i32
}

impl Log {
    fn end(&self) -> i64 {
        self.entries.last().map_or(self.start, Entry::end).max(self.start)
    }

    pub fn watermark(&self) -> i64 {
        self.watermark
    }

    pub fn append(&mut self, at: Duration, rows: &[u64], producer: i64, epoch: i16, first: i32) -> Append {
        let last = last_sequence(first, rows.len());
        let offset = self.end();
        let known = self.producers.entry(producer).or_insert_with(|| (epoch, VecDeque::new()));
        if epoch < known.0 {
            return Append::OutOfSequence(47);
        }
        if epoch > known.0 {
            if first != 0 {
                return Append::OutOfSequence(45);
            }
            *known = (epoch, VecDeque::new());
        }
        if let Some(duplicate) = known.1.iter().find(|batch| batch.0 == first && batch.1 == last) {
            let replicated = duplicate.2 + rows.len() as i64 <= self.watermark;
            return if replicated { Append::Stored(duplicate.2) } else { Append::Held };
        }
        if let Some(newest) = known.1.back()
            && first != after(newest.1)
        {
            return Append::OutOfSequence(45);
        }
        known.1.push_back((first, last, offset));
        if known.1.len() > 5 {
            known.1.pop_front();
        }
        self.entries.push(Entry { offset, at, producer, epoch, first, uids: rows.to_vec() });
        if self.stuck {
            return Append::Held;
        }
        self.watermark = self.end();
        Append::Stored(offset)
    }

    /// The followers have caught up.
    pub fn catch_up(&mut self) {
        self.stuck = false;
        self.watermark = self.end();
    }

    /// A follower becomes the leader: what only the old one had is gone, and so is what it remembered beyond each producer's last
    /// batch.
    pub fn change_leader(&mut self) {
        self.entries.retain(|entry| entry.end() <= self.watermark);
        self.producers.clear();
        for entry in &self.entries {
            let last = (entry.first, entry.last(), entry.offset);
            let known = self.producers.entry(entry.producer).or_insert_with(|| (entry.epoch, VecDeque::new()));
            if entry.epoch >= known.0 {
                *known = (entry.epoch, VecDeque::from([last]));
            }
        }
        self.stuck = false;
    }

    /// A day without a word of them.
    pub fn forget_producers(&mut self) {
        self.producers.clear();
    }

    /// Whether the version is where no leader change can take it away.
    pub fn holds(&self, uid: u64) -> bool {
        self.entries.iter().any(|entry| entry.end() <= self.watermark && entry.uids.contains(&uid))
    }

    /// `None`: it can't be told yet.
    pub fn testify(&self, question: &Question) -> Option<Evidence> {
        let last = last_sequence(question.first, question.count);
        if question.sought == Sought::Resend
            && let Some((epoch, batches)) = self.producers.get(&question.producer)
            && *epoch == question.epoch
            && let Some(newest) = batches.back()
            && (newest.1 == last || (question.first > 0 && after(newest.1) == question.first))
        {
            return Some(Evidence::Remembered);
        }
        if planted::is(Bug::AbsenceFromMemoryIsNotStored) {
            return Some(Evidence::Absent);
        }
        let ours = |entry: &&Entry| {
            let named = (entry.producer, entry.epoch, entry.first, entry.uids.len());
            named == (question.producer, question.epoch, question.first, question.count)
        };
        match self.entries.iter().find(ours) {
            Some(entry) if entry.end() <= self.watermark => return Some(Evidence::StoredAt(entry.offset)),
            _ if self.watermark < self.end() => return None,
            _ => {}
        }
        if question.noted < self.start || question.noted > self.end() {
            return Some(Evidence::Incomplete(Why::new("the log was cut off")));
        }
        Some(Evidence::Absent)
    }

    /// Retention takes the older half.
    pub fn cut(&mut self) {
        let keep = self.entries.len() / 2;
        let cut = self.entries.len() - keep;
        self.start = self.entries.get(cut).map_or(self.watermark, |entry| entry.offset).min(self.watermark);
    }
}
