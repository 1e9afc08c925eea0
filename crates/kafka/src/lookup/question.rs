//! One question on its way: what it has come to, and what each answer of a leader means for it.
//!
//! Promises: pure but for telling its owner; in doubt nothing is found. Does not know: sockets, other questions.

use super::log_scan::{LogScan, Missing, Step, Wanted};
use crate::backoff::Backoff;
use crate::error::ErrorCode;
use crate::metadata::Whereabouts;
use crate::outcome::{Batch, Event, Evidence, Sought, Why};
use crate::producer::Mailbox;
use crate::protocol::{DescribedPartition, FetchedPartition, ListedOffset};
use crate::record_batch::sequence_after;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How far two answers must be apart before it is believed that a partition is gone, or younger than the batch: a topic that is just
/// being created, and a broker that has not heard the news, say the same for a moment.
const CONFIRMED_AFTER: Duration = Duration::from_millis(500);

/// How often in a row an answer may be one that nobody can do anything with, before the log counts as unreadable.
const UNREADABLE_MAX: u32 = 5;

pub(super) struct Question {
    batch: Batch,
    sought: Sought,
    mailbox: Arc<Mailbox>,
    stage: Stage,
    /// Of the leader that is asked.
    leader_epoch: i32,
    /// Whether a leader that was deposed says so: without leader epochs it serves what it has.
    fenced: bool,
    /// When to look for a leader.
    due: Instant,
    backoff: Backoff,
    /// Since when the cluster says that there is no such partition.
    gone_since: Option<Instant>,
    /// Since when the cluster names a lower leader epoch than the batch was made under.
    younger_since: Option<Instant>,
    unreadable: u32,
    /// The last answer ended at a high watermark that was too low.
    behind: bool,
    /// To be fetched or described in a request of its own: in one with others it came too short.
    alone: bool,
}

/// What is asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Whether the leader remembers the producer.
    Memory,
    /// Where the log starts and ends.
    Ends,
    /// The log; `first`: nothing of it yet.
    Log { scan: LogScan, first: bool },
}

/// What an answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The same broker is asked on.
    On,
    /// Weather: a leader is looked for again, after a pause.
    Back(Why),
    Over(Evidence),
}

/// Where a question goes after a look at the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    To(i32),
    Wait(Why),
    Over(Evidence),
}

impl Question {
    pub(super) fn new(batch: Batch, sought: Sought, mailbox: Arc<Mailbox>, backoff: Backoff) -> Self {
        Question {
            batch,
            stage: Stage::first(sought),
            sought,
            mailbox,
            leader_epoch: -1,
            fenced: false,
            due: Instant::now(),
            backoff,
            gone_since: None,
            younger_since: None,
            unreadable: 0,
            behind: false,
            alone: false,
        }
    }

    pub(super) fn partition(&self) -> (&str, i32) {
        (&self.batch.topic, self.batch.partition)
    }

    pub(super) fn topic(&self) -> Arc<str> {
        Arc::clone(&self.batch.topic)
    }

    pub(super) fn cluster(&self) -> Option<&str> {
        self.batch.cluster.as_deref()
    }

    /// `topic-partition`.
    pub(super) fn lane(&self) -> String {
        format!("{}-{}", self.batch.topic, self.batch.partition)
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    pub(super) fn due(&self) -> Instant {
        self.due
    }

    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// Nobody waits for the answer any more.
    pub(super) fn is_forgotten(&self) -> bool {
        self.mailbox.is_draining()
    }

    /// Tells the owner, who misses nothing if there is no room: the next failure is told again. Sets the time of the next attempt.
    pub(super) fn failed(&mut self, why: &Why) {
        let first = self.backoff.failures() == 0;
        self.due = self.backoff.next(Instant::now(), &mut fastrand::Rng::new());
        if first && self.behind {
            // Replicas are always a little behind where someone writes: not worth a word.
            return;
        }
        self.mailbox.offer(Event::NoEvidence { batch: self.batch.id, why: why.clone() });
    }

    /// False when there was no room.
    pub(super) fn answer(&self, evidence: &Evidence) -> bool {
        self.mailbox.offer(Event::Evidence { batch: self.batch.id, evidence: evidence.clone() })
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            producer_id: self.batch.producer_id,
            producer_epoch: self.batch.producer_epoch,
            base_sequence: self.batch.base_sequence,
            record_count: self.batch.record_count.max(1),
        }
    }

    /// What the metadata, asked for just now, say.
    pub(super) fn route(&mut self, whereabouts: Whereabouts, now: Instant) -> Route {
        match whereabouts {
            Whereabouts::Leader { broker, leader_epoch } => {
                self.gone_since = None;
                if leader_epoch >= 0 && leader_epoch < self.batch.leader_epoch {
                    let since = *self.younger_since.get_or_insert(now);
                    if now.duration_since(since) < CONFIRMED_AFTER {
                        let text = "the cluster names an older leader epoch than the batch was made under";
                        return Route::Wait(Why::new(text));
                    }
                } else {
                    self.younger_since = None;
                }
                if leader_epoch != self.leader_epoch {
                    self.leader_epoch = leader_epoch;
                    self.stage = Stage::first(self.sought);
                }
                Route::To(broker)
            }
            Whereabouts::Gone(why) => {
                let since = *self.gone_since.get_or_insert(now);
                // Whatever comes back under this name is another log.
                self.stage = Stage::first(self.sought);
                if now.duration_since(since) < CONFIRMED_AFTER {
                    Route::Wait(why)
                } else {
                    Route::Over(Evidence::PartitionGone(why))
                }
            }
            Whereabouts::Forbidden(why) => Route::Over(Evidence::Forbidden(why)),
            Whereabouts::Unknown(why) => {
                self.gone_since = None;
                Route::Wait(why)
            }
        }
    }

    /// Whether the broker compares leader epochs where the log is asked about and read.
    pub(super) fn asked_of(&mut self, compares_epochs: bool) {
        let fenced = compares_epochs && self.leader_epoch >= 0;
        // One answer without them is enough to doubt all of a scan.
        self.fenced = fenced && (self.fenced || !matches!(self.stage, Stage::Log { .. }));
    }

    /// The broker lacks `DescribeProducers`.
    pub(super) fn no_memory(&mut self) {
        self.stage = Stage::Ends;
        self.alone = false;
    }

    pub(super) fn described(&mut self, leader: &str, answer: Option<&DescribedPartition>) -> Progress {
        let Some(answer) = answer else { return Progress::Back(Self::unnamed(leader)) };
        if !answer.error.is_ok() && is_weather(answer.error) {
            return Progress::Back(Self::answered(leader, answer.error));
        }
        let remembered = answer.error.is_ok()
            && answer.active_producers.iter().any(|producer| {
                producer.producer_id == self.batch.producer_id
                    && producer.producer_epoch == i32::from(self.batch.producer_epoch)
                    && self.fits(producer.last_sequence)
            });
        if remembered {
            return Progress::Over(Evidence::Remembered);
        }
        // Not allowed, not known, or another sequence: the log says more, if it may be read.
        self.no_memory();
        Progress::On
    }

    /// Whether a leader whose newest sequence this is takes the batch as its last one again, or as the next.
    ///
    /// Before sequence 0 comes 2^31-1, if the producer has gone all the way round. If it has not, then the batch is its first under
    /// this epoch, and a leader that lacks the batch lists an older epoch, -1, or nothing. Each of these could be taken for "not
    /// appended", too; the log is asked instead, because it costs one question and proves it.
    fn fits(&self, newest: i32) -> bool {
        let first = self.batch.base_sequence;
        let Wanted { record_count, .. } = self.wanted();
        newest >= 0 && (newest == sequence_after(first, record_count - 1) || sequence_after(newest, 1) == first)
    }

    pub(super) fn ends_listed(
        &mut self,
        leader: &str,
        start: Option<&ListedOffset>,
        end: Option<&ListedOffset>,
    ) -> Progress {
        let (Some(start), Some(end)) = (start, end) else { return Progress::Back(Self::unnamed(leader)) };
        for answer in [start, end] {
            if !answer.error.is_ok() {
                return self.refused(leader, answer.error, "Describe");
            }
        }
        let from = self.batch.noted_offset;
        let end_offset = end.offset;
        if let Some(younger) = self.younger() {
            return Progress::Over(Evidence::Incomplete(younger));
        }
        if end_offset < from {
            return Progress::Over(Evidence::Incomplete(Why::new(format!(
                "the log ends at offset {end_offset}, and the batch was to lie at {from} or after: it was truncated, or the topic created anew"
            ))));
        }
        let scan = LogScan::new(from, start.offset, end_offset);
        self.alone = false;
        self.stage = Stage::Log { scan, first: true };
        // Nothing was appended since; nobody needs to read for that.
        if scan.is_over() { self.not_found(scan) } else { Progress::On }
    }

    /// `alone`: it had the whole answer to itself.
    pub(super) fn fetched(&mut self, leader: &str, answer: Option<&FetchedPartition>, alone: bool) -> Progress {
        let Some(answer) = answer else { return Progress::Back(Self::unnamed(leader)) };
        let Stage::Log { mut scan, .. } = self.stage else { return Progress::On };
        if answer.error == ErrorCode::OFFSET_OUT_OF_RANGE {
            // Retention was faster than we were, or the log was truncated: look where it is now.
            self.stage = Stage::Ends;
            return self.useless(Self::answered(leader, answer.error));
        }
        if !answer.error.is_ok() {
            return self.refused(leader, answer.error, "Read");
        }
        let step = match scan.add(self.wanted(), answer.high_watermark, &answer.records) {
            Ok(step) => step,
            Err(error) => {
                return self.useless(Why::new(format!("what leader {leader} serves can't be read: {error}")));
            }
        };
        self.stage = Stage::Log { scan, first: false };
        self.behind = step == Step::Behind;
        match step {
            Step::Found(offset) => Progress::Over(Evidence::StoredAt(offset)),
            Step::Over => self.not_found(scan),
            Step::More => {
                self.unreadable = 0;
                self.alone = false;
                self.backoff.reset();
                Progress::On
            }
            Step::Behind => Progress::Back(Why::new(format!(
                "the end of the log on leader {leader} is not on all in-sync replicas yet"
            ))),
            // Its share of the answer was less than a batch.
            Step::Stuck if !alone => {
                self.alone = true;
                Progress::On
            }
            Step::Stuck => self.useless(Why::new(format!(
                "leader {leader} serves nothing from offset {} on, which is below its high watermark",
                scan.next()
            ))),
        }
    }

    /// An answer that could not be read at all, or is larger than we take.
    pub(super) fn unreadable(&mut self, why: &str, alone: bool) -> Progress {
        if !alone {
            self.alone = true;
            return Progress::On;
        }
        match self.useless(Why::new(why)) {
            // Its memory is a help, no more.
            Progress::Over(_) if self.stage == Stage::Memory => {
                self.unreadable = 0;
                self.no_memory();
                Progress::On
            }
            progress => progress,
        }
    }

    fn not_found(&self, scan: LogScan) -> Progress {
        let text = match scan.missing() {
            None if !self.fenced => {
                "there are no leader epochs here, so it may have been a deposed leader's log".to_owned()
            }
            None => return Progress::Over(Evidence::Absent),
            Some(Missing::Start { from, to }) => {
                format!("the log starts at offset {to} by now, and the batch could lie from {from} on")
            }
            Some(Missing::Hole { from, to }) => {
                format!("offsets {from} to {} are gone, as after compaction, and the batch could have had them", to - 1)
            }
            Some(Missing::Damaged { at }) => format!("the batch at offset {at} has a wrong checksum"),
        };
        Progress::Over(Evidence::Incomplete(Why::new(&text)))
    }

    fn younger(&self) -> Option<Why> {
        self.younger_since?;
        Some(Why::new(format!(
            "leader epoch {} is below {}, under which the batch was made: the topic was created anew",
            self.leader_epoch, self.batch.leader_epoch
        )))
    }

    fn refused(&mut self, leader: &str, error: ErrorCode, operation: &str) -> Progress {
        let why = Self::answered(leader, error);
        if is_weather(error) {
            return Progress::Back(why);
        }
        if error == ErrorCode::TOPIC_AUTHORIZATION_FAILED {
            return Progress::Over(Evidence::Forbidden(why.hint(format!(
                "grant {operation} on the topic: `kafka-acls.sh --add --allow-principal User:NAME --operation {operation} --topic {}`",
                self.batch.topic
            ))));
        }
        self.useless(why)
    }

    /// Once more, as weather; but not for ever.
    fn useless(&mut self, why: Why) -> Progress {
        self.unreadable += 1;
        if self.unreadable < UNREADABLE_MAX { Progress::Back(why) } else { Progress::Over(Evidence::Incomplete(why)) }
    }

    fn answered(leader: &str, error: ErrorCode) -> Why {
        Why::new(format!("leader {leader} answered {error} when asked for a batch")).code(error.0)
    }

    fn unnamed(leader: &str) -> Why {
        Why::new(format!("leader {leader} answered without naming the partition"))
    }
}

impl Stage {
    fn first(sought: Sought) -> Stage {
        match sought {
            Sought::Resend => Stage::Memory,
            Sought::Stored => Stage::Ends,
        }
    }
}

/// What goes over by itself, or with another leader. Everything else a broker says of a scan either stands or is beyond us.
fn is_weather(error: ErrorCode) -> bool {
    matches!(
        error,
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION
            | ErrorCode::LEADER_NOT_AVAILABLE
            | ErrorCode::NOT_LEADER_OR_FOLLOWER
            | ErrorCode::REQUEST_TIMED_OUT
            | ErrorCode::BROKER_NOT_AVAILABLE
            | ErrorCode::REPLICA_NOT_AVAILABLE
            | ErrorCode::NETWORK_EXCEPTION
            | ErrorCode::KAFKA_STORAGE_ERROR
            | ErrorCode::FENCED_LEADER_EPOCH
            | ErrorCode::UNKNOWN_LEADER_EPOCH
            | ErrorCode::OFFSET_NOT_AVAILABLE
            | ErrorCode::THROTTLING_QUOTA_EXCEEDED
    )
}
