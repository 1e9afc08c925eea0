//! A lane: one topic-partition of one database, the unit of sending and of order.
//!
//! Promises: one batch in flight; a triple stands for one list of rows, for ever (invariant I1); an attempt that may have been
//! appended sticks until it is acknowledged (I3). Does not know: SQL, sockets, other lanes.

use super::backoff::Backoff;
use super::flight::{Flight, Stage};
use crate::model::{PlanId, Rows, RunId, Target, Triple};
use outboxd_kafka::record_batch::sequence_after;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A lane whose batch was not answered for so long is in trouble and travels alone.
pub const LATE_AFTER: Duration = Duration::from_secs(1);
/// A full lane whose batch is on its way for less than this will have room soon: a look waits for it instead of passing it by.
const SOON: Duration = Duration::from_millis(50);
/// Refused epochs in a row before a new producer id is taken.
const EPOCHS_REFUSED_MAX: u32 = 3;
/// The highest epoch before a new producer id is needed; the broker refuses to go beyond.
pub const EPOCH_MAX: i16 = 32_766;

/// Rows on their way to become a plan.
#[derive(Debug)]
pub struct Batch {
    pub rows: Rows,
    /// Whose message ids the rows carry: this run's, or those of an earlier one for rows that are sent again.
    pub run: RunId,
    /// Rows among them may have been published before: wherever they go, they keep their message ids.
    pub again: bool,
    /// Nothing else goes with it: an operator sends a row again that was rejected.
    pub alone: bool,
    /// When the earliest commit among the rows was noticed.
    pub seen: Instant,
}

/// Whether a lane takes and sends rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    Running,
    /// The broker refuses for a reason outside the records: the batch is tried again, slowly; nothing new is taken.
    Refused,
    /// What became of the batch can't be told without asking the log: rows are kept, nothing is sent until it was asked.
    Asking,
}

/// Who we are to the partition's leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    producer_id: i64,
    epoch: i16,
    next_sequence: i32,
}

/// One lane.
#[derive(Debug)]
pub struct Lane {
    pub target: Target,
    /// The lane's topic in the relay's list.
    pub topic: u32,
    pub collecting: Option<Batch>,
    /// What a rejection left to be sent before anything collected.
    pub pieces: VecDeque<Batch>,
    pub flight: Option<Flight>,
    pub standing: Standing,
    pub trouble: bool,
    pub backoff: Backoff,
    /// A rejected plan that the next plan replaces in the state file.
    pub replacing: Option<PlanId>,
    /// `None`: its leader could not be asked yet for the log's end, so nothing can be planned.
    pub noted_offset: Option<i64>,
    pub leader_epoch: i32,
    /// Epochs in a row of which nothing was accepted, because the broker refused their sequences.
    pub epochs_refused: u32,
    /// In the relay's list of lanes to be planned.
    pub queued: bool,
    /// A batch of before the relay started again, about which a sender or a look-up has not answered yet. Nothing else is sent before.
    pub unanswered: Option<PlanId>,
    identity: Option<Identity>,
}

impl Lane {
    pub fn new(target: Target, topic: u32, noted_offset: Option<i64>, leader_epoch: i32, backoff: Backoff) -> Self {
        Lane {
            target,
            topic,
            collecting: None,
            pieces: VecDeque::new(),
            flight: None,
            standing: Standing::Running,
            trouble: false,
            backoff,
            replacing: None,
            noted_offset,
            leader_epoch,
            epochs_refused: 0,
            queued: false,
            unanswered: None,
            identity: None,
        }
    }

    /// The relay starts again: rows are the state file's to tell. A batch that was on its way is judged like an earlier run's, and what
    /// is numbered from now on goes under the next epoch, whatever becomes of that one's numbers.
    ///
    /// True: its epochs are used up.
    pub fn start_again(&mut self) -> bool {
        let known = self.has_identity();
        if self.flight.is_some() || self.replacing.is_some() {
            self.bump_epoch();
        }
        let out = self.flight.take().filter(|flight| flight.stage().is_out());
        self.unanswered = self.unanswered.or(out.map(|flight| flight.plan.id));
        self.trouble = self.unanswered.is_some();
        self.standing = if self.trouble { Standing::Asking } else { Standing::Running };
        self.collecting = None;
        self.pieces.clear();
        self.replacing = None;
        self.queued = false;
        known && !self.has_identity()
    }

    pub fn has_rows(&self) -> bool {
        self.collecting.is_some() || !self.pieces.is_empty()
    }

    /// A batch is on its way, or one of before the relay started again still may be.
    pub fn has_flight(&self) -> bool {
        self.flight.is_some() || self.unanswered.is_some()
    }

    pub fn is_idle(&self) -> bool {
        !self.has_flight() && !self.has_rows()
    }

    /// Whether the batch in flight will soon make room.
    pub fn room_soon(&self, now: Instant) -> bool {
        match &self.flight {
            None => self.standing == Standing::Running,
            Some(flight) => match flight.stage() {
                Stage::Sent { at } => !self.trouble && now.duration_since(at) < SOON,
                Stage::Unrecorded | Stage::Recorded => !self.trouble,
                Stage::Waiting { .. } | Stage::Unread | Stage::Asking | Stage::Unanswered => false,
            },
        }
    }

    /// Whether it will soon give back memory that the others wait for.
    pub fn gives_soon(&self, now: Instant) -> bool {
        let holds = self.has_rows() || self.flight.as_ref().is_some_and(|flight| !flight.apart);
        holds && self.room_soon(now)
    }

    /// The next batch to plan, pieces first: they are older.
    pub fn next_batch(&mut self) -> Option<Batch> {
        assert!(self.flight.is_none(), "lane {} has a batch in flight", self.target);
        self.pieces.pop_front().or_else(|| self.collecting.take())
    }

    /// Whether the lane can number a batch without a new producer id.
    pub fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Whether this is the producer id that the lane's next batches go under.
    pub fn is_known_as(&self, producer_id: i64) -> bool {
        self.identity.is_some_and(|identity| identity.producer_id == producer_id)
    }

    /// The first identity, or a fresh one after the epochs were used up. A new producer id starts at sequence 0.
    pub fn introduce(&mut self, producer_id: i64) {
        assert!(
            self.identity.is_none_or(|identity| identity.producer_id != producer_id),
            "a producer id is taken once"
        );
        self.identity = Some(Identity { producer_id, epoch: 0, next_sequence: 0 });
    }

    /// A bug that is planted: an earlier run's identity goes on.
    pub fn inherit(&mut self, triple: Triple, count: usize) {
        self.identity = Some(Identity {
            producer_id: triple.producer_id,
            epoch: triple.epoch,
            next_sequence: sequence_after(triple.first_sequence, count as i32),
        });
    }

    /// Numbers the next `count` rows; the numbers are spent whatever becomes of them.
    pub fn number(&mut self, count: usize) -> Triple {
        let identity = self.identity.as_mut().expect("a lane is introduced before it numbers rows");
        let triple =
            Triple { producer_id: identity.producer_id, epoch: identity.epoch, first_sequence: identity.next_sequence };
        identity.next_sequence = sequence_after(identity.next_sequence, count as i32);
        triple
    }

    /// The broker refused this epoch's sequences again and again: the next epoch, or after three such epochs another producer id. A broker
    /// that does not honour our bumps would be asked 32,766 times.
    pub fn epoch_refused(&mut self) {
        self.epochs_refused += 1;
        if self.epochs_refused >= EPOCHS_REFUSED_MAX {
            self.epochs_refused = 0;
            self.identity = None;
        } else {
            self.bump_epoch();
        }
    }

    /// After a rejection, before renumbering: the next epoch, which also fences late copies of the old one.
    pub fn bump_epoch(&mut self) {
        if let Some(identity) = &mut self.identity {
            if identity.epoch >= EPOCH_MAX {
                self.identity = None;
            } else {
                identity.epoch += 1;
                identity.next_sequence = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> Lane {
        let target = Target { topic: "t".into(), partition: 0 };
        Lane::new(target, 0, Some(0), 0, Backoff::new(Duration::from_millis(1), Duration::from_secs(1)))
    }

    #[test]
    fn a_rejection_takes_the_next_epoch_and_starts_at_sequence_zero() {
        let mut lane = lane();
        lane.introduce(9);
        assert_eq!(lane.number(5), Triple { producer_id: 9, epoch: 0, first_sequence: 0 });
        assert_eq!(lane.number(1), Triple { producer_id: 9, epoch: 0, first_sequence: 5 });
        lane.bump_epoch();
        assert_eq!(lane.number(2), Triple { producer_id: 9, epoch: 1, first_sequence: 0 });
    }

    #[test]
    fn three_refused_epochs_in_a_row_ask_for_a_new_producer_id() {
        let mut lane = lane();
        lane.introduce(9);
        lane.epoch_refused();
        lane.epoch_refused();
        assert_eq!(lane.number(1).epoch, 2);
        lane.epoch_refused();
        assert!(!lane.has_identity());
        lane.introduce(10);
        lane.epoch_refused();
        assert_eq!(lane.number(1), Triple { producer_id: 10, epoch: 1, first_sequence: 0 });
    }

    #[test]
    fn used_up_epochs_ask_for_a_new_producer_id() {
        let mut lane = lane();
        lane.introduce(9);
        for _ in 0..EPOCH_MAX {
            lane.bump_epoch();
        }
        assert_eq!(lane.number(1).epoch, EPOCH_MAX);
        lane.bump_epoch();
        assert!(!lane.has_identity());
        lane.introduce(10);
        assert_eq!(lane.number(1), Triple { producer_id: 10, epoch: 0, first_sequence: 0 });
    }
}
