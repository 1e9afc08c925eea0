//! The breaker of one topic: tells a bad record from a bad topic.
//!
//! Promises: a record is set aside only after a later record of its topic was accepted, or after a minute in which fewer than ten
//! were rejected; a topic (or a clock) that rejects everything costs no record anything. Does not know: lanes' queues, SQL, sockets.

use super::lanes::Lane;
use crate::model::{RowMeta, Rows, Why};
use std::time::{Duration, Instant};

/// So many records rejected with one code and nothing accepted between: it is the topic.
pub const SUSPECTS_MAX: usize = 10;
/// A rejected record that nobody contradicts for so long is believed to be at fault.
const BELIEVED_AFTER: Duration = Duration::from_secs(60);
/// How often one record of a stopped topic is tried.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);

/// A record the broker rejected, held until it is known whose fault that is.
#[derive(Debug)]
pub struct Suspect {
    pub lane: u32,
    /// Exactly one.
    pub row: Rows,
    pub why: Why,
    since: Instant,
    /// It was rejected together with everything else: only a record accepted behind it in its own lane condemns it.
    doubtful: bool,
}

#[derive(Debug)]
struct Tripped {
    /// What the broker said when it rejected everything. A probe that is rejected for another reason is at fault itself.
    code: Option<i16>,
    probe_at: Instant,
    probing: Option<u32>,
    /// The lane that was tried last: another one's turn is next, as the first record of this one may be bad by itself.
    last: Option<u32>,
}

/// See the module's words.
#[derive(Debug, Default)]
pub struct Breaker {
    suspects: Vec<Suspect>,
    tripped: Option<Tripped>,
}

/// What a rejection means for the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the other records.
    Wait,
    /// Every suspect goes back to the table; the topic's lanes stop.
    Trip,
}

impl Breaker {
    pub fn is_tripped(&self) -> bool {
        self.tripped.is_some()
    }

    /// Whether a record's rejection with this code says nothing new: everything is rejected so.
    pub fn is_tripped_by(&self, code: Option<i16>) -> bool {
        self.tripped.as_ref().is_some_and(|tripped| tripped.code == code)
    }

    /// Whether the lane may take (another) row.
    pub fn admits(&self, ix: u32, lane: &Lane) -> bool {
        match &self.tripped {
            None => true,
            Some(tripped) => tripped.probing == Some(ix) && lane.is_idle(),
        }
    }

    /// One record was rejected. In a tripped topic: for another reason than everything else, so the next one is tried at once.
    pub fn suspect(&mut self, lane: u32, row: Rows, why: Why, now: Instant) -> Verdict {
        assert_eq!(row.len(), 1, "a suspect is one record");
        let code = why.code;
        self.suspects.push(Suspect { lane, row, why, since: now, doubtful: false });
        let alike = self.suspects.iter().filter(|suspect| suspect.why.code == code).count();
        let verdict = if alike >= SUSPECTS_MAX { Verdict::Trip } else { Verdict::Wait };
        if let Some(tripped) = &mut self.tripped {
            match verdict {
                Verdict::Trip => tripped.code = code,
                Verdict::Wait => (tripped.probe_at, tripped.probing, tripped.last) = (now, None, None),
            }
        }
        verdict
    }

    /// A record of the topic was accepted: the suspects before it were at fault themselves. True: the topic is open again.
    pub fn accepted(&mut self, lane: u32) -> (Vec<Suspect>, bool) {
        let reopened = self.tripped.take().is_some();
        if self.suspects.is_empty() {
            return (Vec::new(), reopened);
        }
        let (stay, condemned) = std::mem::take(&mut self.suspects)
            .into_iter()
            .partition(|suspect| suspect.doubtful && suspect.lane != lane);
        self.suspects = stay;
        (condemned, reopened)
    }

    /// The topic (or the clock) is at fault. Returns the suspects, to be given back.
    ///
    /// A suspect whose lane has a batch in flight stays one: that batch holds later records, and if it is accepted after all, the
    /// suspect was overtaken; given back it would be published behind records of its own key.
    pub fn trip(&mut self, code: Option<i16>, now: Instant, in_flight: impl Fn(u32) -> bool) -> Vec<Suspect> {
        let probe_at = now + PROBE_EVERY;
        self.tripped = Some(match self.tripped.take() {
            Some(before) => Tripped { probe_at, probing: None, ..before },
            None => Tripped { code, probe_at, probing: None, last: None },
        });
        let (stay, back) = std::mem::take(&mut self.suspects).into_iter().partition(|suspect| in_flight(suspect.lane));
        self.suspects = stay;
        for suspect in &mut self.suspects {
            suspect.doubtful = true;
        }
        back
    }

    pub fn suspects(&self) -> &[Suspect] {
        &self.suspects
    }

    /// Suspects learn where their rows are now. Returns those whose rows are no longer there (`None`).
    pub fn renumber(&mut self, mut now: impl FnMut(&RowMeta) -> Option<i64>) -> Vec<Suspect> {
        let mut gone = Vec::new();
        for mut suspect in std::mem::take(&mut self.suspects) {
            match now(&suspect.row.meta[0]) {
                Some(rowid) => {
                    suspect.row.meta[0].key.rowid = rowid;
                    self.suspects.push(suspect);
                }
                None => gone.push(suspect),
            }
        }
        gone
    }

    /// Suspects that were not contradicted for a minute.
    pub fn believed(&mut self, now: Instant) -> Vec<Suspect> {
        match self.suspects.first() {
            Some(first) if self.tripped.is_none() && now.duration_since(first.since) >= BELIEVED_AFTER => {
                std::mem::take(&mut self.suspects)
            }
            _ => Vec::new(),
        }
    }

    /// Whether it is time to try one record; the next time is set.
    pub fn probe_due(&mut self, now: Instant) -> bool {
        match &mut self.tripped {
            Some(tripped) if tripped.probe_at <= now => {
                tripped.probe_at = now + PROBE_EVERY;
                true
            }
            _ => false,
        }
    }

    /// Tries the next of these lanes, in turn: the first record of one of them may be bad by itself.
    pub fn probe(&mut self, able: &[u32]) -> bool {
        let Some(tripped) = &mut self.tripped else { return false };
        let next = able.iter().find(|lane| tripped.last.is_none_or(|last| **lane > last));
        tripped.probing = next.or(able.first()).copied();
        tripped.last = tripped.probing;
        tripped.probing.is_some()
    }

    pub fn deadline(&self) -> Option<Instant> {
        match &self.tripped {
            Some(tripped) => Some(tripped.probe_at),
            None => self.suspects.first().map(|suspect| suspect.since + BELIEVED_AFTER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fingerprint, OutboxIx, RowKey, RowMeta, Span};

    fn row(rowid: i64) -> Rows {
        let key = RowKey { outbox: OutboxIx(0), rowid };
        let meta =
            RowMeta { key, print: Fingerprint(0), record: Span::default(), message: 0, event_id: Span::default() };
        Rows { bytes: Vec::new(), meta: vec![meta] }
    }

    fn why(code: i16) -> Why {
        Why::new("rejected").code(code)
    }

    #[test]
    fn an_accepted_record_condemns_the_suspects_before_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        assert_eq!(breaker.suspect(0, row(1), why(87), now), Verdict::Wait);
        assert!(breaker.believed(now).is_empty());
        let (suspects, reopened) = breaker.accepted(0);
        assert_eq!(suspects.len(), 1);
        assert!(!reopened);
    }

    #[test]
    fn ten_alike_trip_it_and_nothing_is_condemned() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for rowid in 0..9 {
            assert_eq!(breaker.suspect(0, row(rowid), why(32), now), Verdict::Wait);
        }
        assert_eq!(breaker.suspect(0, row(9), why(32), now), Verdict::Trip);
        assert_eq!(breaker.trip(Some(32), now, |_| false).len(), 10);
        assert!(breaker.believed(now + Duration::from_secs(100)).is_empty());
        assert!(!breaker.probe_due(now + Duration::from_secs(29)));
        assert!(breaker.probe_due(now + Duration::from_secs(30)));
        assert!(!breaker.probe_due(now + Duration::from_secs(31)));
        assert!(breaker.accepted(0).1);
    }

    #[test]
    fn probes_take_turns_and_one_rejected_for_another_reason_is_a_suspect() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.trip(Some(32), now, |_| false);
        for turn in [2, 5, 2] {
            assert!(breaker.probe(&[2, 5]));
            assert_eq!(breaker.tripped.as_ref().and_then(|tripped| tripped.probing), Some(turn));
        }
        assert!(breaker.is_tripped_by(Some(32)) && !breaker.is_tripped_by(Some(87)));
        assert_eq!(breaker.suspect(2, row(1), why(87), now), Verdict::Wait);
        assert!(breaker.probe_due(now), "the record behind it is tried at once");
        assert!(!breaker.probe_due(now + PROBE_EVERY.mul_f64(0.99)));
        let (condemned, reopened) = breaker.accepted(2);
        assert_eq!((condemned.len(), reopened), (1, true));
    }

    #[test]
    fn after_a_quiet_minute_few_suspects_are_believed() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.suspect(0, row(1), why(10), now);
        assert!(breaker.believed(now + Duration::from_secs(59)).is_empty());
        assert_eq!(breaker.believed(now + Duration::from_secs(60)).len(), 1);
    }
}
