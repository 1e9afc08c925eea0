//! A batch between plan and acknowledgement: the stages it goes through, and what is known of it meanwhile.
//!
//! Promises: it changes its stage here only, along [`TRANSITIONS`]; anything else is a broken invariant and ends the relay. A triple stands
//! for one list of rows, for ever (I1); that an attempt may have been appended sticks (I3). Does not know: lanes, why it changes.
//!
//! The picture, docs/architecture.md, "The stages of a batch in flight", is held to the list by a test.

use crate::model::{Evidence, Plan, Rows, Sought, Why};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use xxhash_rust::xxh3::xxh3_128;

/// A wall clock that is behind an earlier stamp by less was put right by a time server.
pub const CLOCK_BACK_MAX: Duration = Duration::from_secs(5 * 60);

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Planned, not yet in the state file.
    Unrecorded,
    /// In the state file, to be handed over.
    Recorded,
    /// Handed over; its outcome will come.
    Sent { at: Instant },
    /// The last attempt failed; the same rows go again under the same triple.
    Waiting { until: Instant },
    /// Its bytes were given back: its rows are read again before it is sent, or before what its leader said is followed.
    Unread,
    /// Nothing is sent before the partition's leader has said what became of it.
    Asking,
    /// The relay has started again, and a sender or a look-up has not answered yet what it was given before. Then its leader is asked.
    Unanswered,
}

/// From which stage to which, by their names. What ends a batch (stored, rejected, given up) ends it at any.
pub const TRANSITIONS: &[(&str, &str)] = &[
    ("Unrecorded", "Recorded"),
    ("Recorded", "Sent"),
    ("Sent", "Waiting"),
    ("Waiting", "Recorded"),
    ("Waiting", "Unread"),
    ("Unread", "Recorded"),
    ("Unread", "Asking"),
    ("Recorded", "Asking"),
    ("Sent", "Asking"),
    ("Waiting", "Asking"),
    ("Asking", "Recorded"),
    ("Asking", "Unread"),
    ("Recorded", "Unanswered"),
    ("Unanswered", "Asking"),
];

impl Stage {
    /// As [`TRANSITIONS`] names it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Unrecorded => "Unrecorded",
            Stage::Recorded => "Recorded",
            Stage::Sent { .. } => "Sent",
            Stage::Waiting { .. } => "Waiting",
            Stage::Unread => "Unread",
            Stage::Asking => "Asking",
            Stage::Unanswered => "Unanswered",
        }
    }

    /// A sender or a look-up has it, and will answer.
    pub fn is_out(self) -> bool {
        matches!(self, Stage::Sent { .. } | Stage::Asking | Stage::Unanswered)
    }

    /// It waits for its next attempt, or for somebody's word: for how long nobody knows.
    pub fn is_stuck(self) -> bool {
        matches!(self, Stage::Waiting { .. } | Stage::Unread | Stage::Asking | Stage::Unanswered)
    }
}

/// Why the leader is asked what became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// It may have been stored, and its rows were looked for again: an earlier run planned it, or its bytes were given back.
    /// `whole`: all of them are still as they were.
    Left { whole: bool },
    /// The current leader refuses its sequence, again and again.
    OutOfSequence(Why),
    /// A record was rejected after an attempt that may have been stored: validation comes before the duplicate check.
    Rejected { why: Why, records: Option<Vec<u32>> },
}

impl Doubt {
    /// What is to be found out.
    pub fn sought(&self) -> Sought {
        match self {
            // With all of its rows it may go again under the same triple.
            Doubt::Left { whole: true } => Sought::Resend,
            Doubt::Left { whole: false } | Doubt::OutOfSequence(_) | Doubt::Rejected { .. } => Sought::Stored,
        }
    }
}

/// The records of a batch whose bytes were given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub bytes: usize,
    hash: u128,
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        Digest { bytes: bytes.len(), hash: xxh3_128(bytes) }
    }
}

/// See the module's words.
#[derive(Debug)]
pub struct Flight {
    pub plan: Arc<Plan>,
    stage: Stage,
    pub seen: Instant,
    /// Any attempt may have been appended (I3: sticks).
    unsure: bool,
    /// Rows of it may have been published before, in another batch.
    pub again: bool,
    /// Answers 45, 47 or 59 in a row.
    pub out_of_sequence: u32,
    /// Answers CORRUPT_MESSAGE in a row.
    pub corrupt: u32,
    /// What is asked of the leader, or was.
    doubt: Option<Doubt>,
    /// The epoch of a batch that takes this one's place under its producer id.
    pub next_epoch: i16,
    /// When the leader last said what it remembers of us: a resend was certain then.
    asked_at: Option<(Instant, SystemTime)>,
    /// It is counted with what waits for a broker.
    pub apart: bool,
    /// Its bytes were given back: what they were. A triple stands for the same bytes, for ever.
    without: Option<Digest>,
    /// What the leader said, until its rows are read again.
    word: Option<Evidence>,
    /// What its leader is asked about, where that has to wait: all of its rows, whatever became of them since.
    asked: Option<Arc<Plan>>,
}

impl Flight {
    /// A plan that is made.
    pub fn new(plan: Arc<Plan>, seen: Instant) -> Self {
        let next_epoch = plan.triple.epoch.saturating_add(1);
        Flight {
            plan,
            stage: Stage::Unrecorded,
            seen,
            unsure: false,
            again: false,
            out_of_sequence: 0,
            corrupt: 0,
            doubt: None,
            next_epoch,
            asked_at: None,
            apart: false,
            without: None,
            word: None,
            asked: None,
        }
    }

    /// A plan that the state file has, and that may have been sent.
    pub fn left(plan: Arc<Plan>, next_epoch: i16, now: Instant) -> Self {
        Flight { stage: Stage::Recorded, unsure: true, next_epoch, ..Flight::new(plan, now) }
    }

    pub fn stage(&self) -> Stage {
        self.stage
    }

    fn turn(&mut self, to: Stage) {
        let turn = (self.stage.name(), to.name());
        assert!(
            TRANSITIONS.contains(&turn),
            "a batch in flight went from {} to {}: plan {}",
            turn.0,
            turn.1,
            self.plan.id.0
        );
        self.stage = to;
    }

    /// The state file has it.
    pub fn recorded(&mut self) {
        self.turn(Stage::Recorded);
    }

    /// A sender has it.
    pub fn sent(&mut self, at: Instant) {
        self.turn(Stage::Sent { at });
    }

    /// The attempt failed, and there is to be another one.
    pub fn failed(&mut self, until: Instant) {
        self.turn(Stage::Waiting { until });
    }

    /// The attempt may have been appended.
    pub fn is_unsure_now(&mut self) {
        self.unsure = true;
    }

    pub fn is_unsure(&self) -> bool {
        self.unsure
    }

    /// It has waited long enough.
    pub fn goes_again(&mut self) {
        self.turn(if self.without.is_some() { Stage::Unread } else { Stage::Recorded });
    }

    /// Its leader is asked. `asked`: later, about this.
    pub fn asks(&mut self, doubt: Doubt, asked: Option<Arc<Plan>>) {
        self.turn(if asked.is_some() { Stage::Unanswered } else { Stage::Asking });
        self.doubt = Some(doubt);
        self.asked = asked;
        self.word = None;
    }

    /// What is asked of the leader, or was.
    pub fn doubt(&self) -> Option<&Doubt> {
        self.doubt.as_ref()
    }

    /// What its leader is asked about now that whoever had it has answered.
    pub fn take_asked(&mut self) -> Option<(Arc<Plan>, Doubt)> {
        self.asked.take().zip(self.doubt.clone())
    }

    /// The leader's word is about rows that have to be read again first.
    pub fn was_told(&mut self, word: Evidence) {
        self.turn(Stage::Unread);
        self.word = Some(word);
    }

    /// By the leader's word it can go again under its triple.
    pub fn is_cleared(&mut self, now: (Instant, SystemTime)) {
        self.turn(Stage::Recorded);
        self.out_of_sequence = 0;
        self.doubt = None;
        self.asked_at = Some(now);
    }

    /// Its bytes are given back, by whoever has a use for them.
    #[must_use]
    pub fn stripped(self, by: impl FnOnce(Arc<Plan>) -> Arc<Plan>) -> Self {
        let without = Some(Digest::of(&self.plan.rows.bytes));
        Flight { plan: by(self.plan), apart: true, without, ..self }
    }

    /// What its bytes were, if they were given back.
    pub fn without(&self) -> Option<Digest> {
        self.without
    }

    /// Its rows were read again: these are left.
    pub fn has_rows_again(&mut self, rows: Rows) {
        self.plan = Arc::new(self.plan.with_rows(rows));
        self.without = None;
    }

    /// With its rows it is sent, or what its leader said is followed.
    pub fn was_read(&mut self) -> Option<Evidence> {
        let word = self.word.take();
        self.turn(if word.is_some() { Stage::Asking } else { Stage::Recorded });
        word
    }

    /// Nothing of it can have been appended.
    pub fn never_sent(&self) -> bool {
        !self.unsure && self.out_of_sequence == 0 && self.doubt.is_none()
    }

    /// For how long the leader may not have heard of us: since the first attempt, or since it was asked. Of two clocks the one that
    /// says more, as the other does not run while the machine sleeps; by a wall clock that went back it may be any time.
    pub fn unanswered_for(&self, now: Instant, wall: SystemTime) -> Duration {
        let (at, first) = self.asked_at.unwrap_or((self.seen, self.plan.first_attempt));
        let by_wall = wall
            .duration_since(first)
            .unwrap_or_else(|error| if error.duration() > CLOCK_BACK_MAX { Duration::MAX } else { Duration::ZERO });
        now.saturating_duration_since(at).max(by_wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const ALL: [&str; 7] = ["Unrecorded", "Recorded", "Sent", "Waiting", "Unread", "Asking", "Unanswered"];

    /// The rows of the table under the picture: from, to, when.
    fn told() -> BTreeSet<(String, String)> {
        let text = std::fs::read_to_string("docs/architecture.md").expect("tests run in the package's folder");
        let (_, part) = text.split_once("### The stages of a batch in flight").expect("it has a part of its own");
        let rows = part.lines().skip_while(|line| !line.starts_with("|---")).skip(1);
        let rows = rows.take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().to_owned()).skip(1);
            (cells.next().expect("from"), cells.next().expect("to"))
        })
        .collect()
    }

    #[test]
    fn the_picture_shows_the_transitions_there_are() {
        let known = TRANSITIONS.iter().map(|(from, to)| ((*from).to_owned(), (*to).to_owned()));
        assert_eq!(told(), known.collect());
        let text = std::fs::read_to_string("docs/architecture.md").expect("it was read before");
        let (_, part) = text.split_once("### The stages of a batch in flight").expect("it has a part of its own");
        let picture = part.split("```").nth(1).expect("the picture comes first");
        for stage in ALL {
            assert!(picture.contains(stage), "{stage} is not in the picture");
            assert!(TRANSITIONS.iter().any(|(from, to)| *from == stage || *to == stage), "{stage} leads nowhere");
        }
    }
}
