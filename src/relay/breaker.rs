//! The breaker of one topic: tells a bad record from a bad topic.
//!
//! Promises: a record is set aside only after a later record of its topic was accepted, or after a minute in which fewer than ten
//! were rejected, or at once for a size that its topic rejects while it accepts smaller ones, or when it was rejected before and after
//! its stopped topic accepted another one; a topic (or a clock) that rejects everything costs no record anything. A stopped topic
//! finds the records that it would accept by itself, in bounded time. Does not know: lanes' queues, SQL, sockets.

use super::lanes::Lane;
use super::trials::Trials;
use crate::model::{Fingerprint, OutboxIx, RowKey, RowMeta, Rows, Why};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// So many records rejected with one code and nothing accepted between: it is the topic.
pub const SUSPECTS_MAX: usize = 10;
/// The same where something was accepted within `RECENT`: records that are bad by themselves come in rows, and the next good one
/// tells. Not for the time stamp, which is the clock's fault and never a record's.
const SUSPECTS_MAX_RECENT: usize = 100;
const RECENT: Duration = Duration::from_secs(60);
/// So many suspects are held at most.
const SUSPECTS_HELD_MAX: usize = 1_000;
/// Records tried one after the other when it is time to try one: the first may be bad by itself.
const PROBES_IN_A_ROW: u32 = 32;
/// INVALID_TIMESTAMP: the clock.
const INVALID_TIMESTAMP: i16 = 32;
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
    /// It was rejected for its size, and is larger than what was accepted lately: it says nothing of the topic.
    large: bool,
}

#[derive(Debug)]
struct Tripped {
    /// What the broker said when it rejected everything. A probe that is rejected for another reason is at fault itself.
    code: Option<i16>,
    probe_at: Instant,
    probing: Option<u32>,
    /// No lane is known to have a record: whichever gets one first tries it.
    open: bool,
    /// The lane that was tried last: another one's turn is next, as the first record of this one may be bad by itself.
    last: Option<u32>,
    /// Which record is tried.
    sieve: Sieve,
    in_a_row: u32,
    round: Round,
    /// By lane and outbox: the rowid of the furthest record that was tried in vain.
    behind: BTreeMap<(u32, OutboxIx), i64>,
    /// Outboxes that have none for the lane that passes the sieve.
    exhausted: BTreeSet<OutboxIx>,
    /// Lanes that had their turn since `probe_at` was set last, and whether another one's is next.
    tried: BTreeSet<u32>,
    goes_on: bool,
}

/// Which records of a stopped topic are tried in the course of one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    /// The first one of each lane before others of it: once people have mended the topic, nothing is overtaken.
    FirstFirst,
    /// Smaller ones alone, as soon as the topic is stopped for a size.
    Smaller,
    /// The next round is one of those.
    SmallerNext,
}

/// Which record of a stopped topic is tried next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sieve {
    /// The first one.
    Any,
    /// One smaller than this by either count: the smallest that was rejected for its size.
    Below(Size),
    /// One behind all of its lane and table that were tried.
    Behind,
}

/// Kafka's MESSAGE_TOO_LARGE and RECORD_LIST_TOO_LARGE: a smaller record may be accepted.
pub fn is_about_size(code: Option<i16>) -> bool {
    matches!(code, Some(10 | 18))
}

/// A record's size: what it was made of, and as it was sent, compressed perhaps and never larger then.
///
/// A broker's limits count what is sent, but where the topic's `compression.type` is another one than ours they count what the broker
/// makes of it. So a record is known to be too large only if one that was rejected is smaller by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub made_of: usize,
    pub sent: usize,
}

/// Not compressed.
impl From<usize> for Size {
    fn from(bytes: usize) -> Self {
        Size { made_of: bytes, sent: bytes }
    }
}

/// See the module's words.
#[derive(Debug, Default)]
pub struct Breaker {
    suspects: Vec<Suspect>,
    tripped: Option<Tripped>,
    /// When something was accepted last, and the largest batch that was accepted lately, as it was sent.
    accepted_at: Option<Instant>,
    largest_accepted: Option<(usize, Instant)>,
    /// The smallest records that were rejected for their size since one was accepted, by either count.
    smallest_rejected: Option<Size>,
    /// Records of this size and above, as they were sent, are rejected for it, and smaller ones were accepted.
    too_large: Option<usize>,
    trials: Trials,
    /// When it accepted a record after it had been stopped.
    reopened_at: Option<Instant>,
}

/// What a rejection means for the topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Go on with the other records.
    Wait,
    /// Smaller records are accepted: it is this one's own size.
    Condemned,
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
            // What lies before the record that is being tried waits for its answer, also when another lane's was accepted.
            None => lane.is_idle() || !self.trials.is_under_way(ix),
            Some(tripped) => (tripped.open || tripped.probing == Some(ix)) && lane.is_idle(),
        }
    }

    /// The lane has taken a record with this key.
    pub fn took(&mut self, ix: u32, row: RowKey, key: Option<&[u8]>) {
        self.trials.took(ix, row);
        let Some(tripped) = &mut self.tripped else { return };
        let passed_over = match tripped.sieve {
            Sieve::Any => None,
            Sieve::Below(limit) => Some(limit),
            Sieve::Behind => Some(usize::MAX.into()),
        };
        self.trials.begin(ix, row, key, passed_over);
        if tripped.open {
            (tripped.open, tripped.probing, tripped.last) = (false, Some(ix), Some(ix));
        }
    }

    pub fn trials(&self) -> &Trials {
        &self.trials
    }

    pub fn trials_mut(&mut self) -> &mut Trials {
        &mut self.trials
    }

    /// One record of this size was rejected. In a tripped topic: for another reason than everything else, so the next one is tried
    /// at once.
    pub fn suspect(&mut self, lane: u32, row: &Rows, size: impl Into<Size>, why: &Why, now: Instant) -> Verdict {
        assert_eq!(row.len(), 1, "a suspect is one record");
        let code = why.code;
        let size = size.into();
        if is_about_size(code) {
            if self.too_large.is_some_and(|too_large| size.sent >= too_large) {
                return Verdict::Condemned;
            }
            self.rejected_for_size(size);
        }
        let is_recent = |at: Instant| now.duration_since(at) < RECENT;
        if self.reopened_at.is_some_and(is_recent) && self.was_rejected(&row.meta[0], code) {
            return Verdict::Condemned;
        }
        let row = row.clone();
        let is_largest = |(largest, at)| is_recent(at) && size.sent > largest;
        let large = is_about_size(code) && self.largest_accepted.is_some_and(is_largest);
        let recent = self.accepted_at.is_some_and(is_recent);
        self.suspects.push(Suspect { lane, row, why: why.clone(), since: now, doubtful: false, large });
        let max = if recent && code != Some(INVALID_TIMESTAMP) { SUSPECTS_MAX_RECENT } else { SUSPECTS_MAX };
        let says_it = |suspect: &&Suspect| suspect.why.code == code && !suspect.large;
        let many = self.suspects.iter().filter(says_it).count() >= max || self.suspects.len() >= SUSPECTS_HELD_MAX;
        let verdict = if many { Verdict::Trip } else { Verdict::Wait };
        if let Some(tripped) = &mut self.tripped {
            match verdict {
                Verdict::Trip => tripped.code = code,
                Verdict::Wait | Verdict::Condemned => {
                    (tripped.probe_at, tripped.probing, tripped.last) = (now, None, None);
                }
            }
        }
        verdict
    }

    /// Whether the record was rejected with this code before its topic accepted another one, and now after it: it is its own fault.
    /// Of sizes more is known.
    fn was_rejected(&self, row: &RowMeta, code: Option<i16>) -> bool {
        self.tripped.is_none()
            && code != Some(INVALID_TIMESTAMP)
            && !is_about_size(code)
            && self.trials.was_rejected(row.key, row.print, code)
    }

    fn rejected_for_size(&mut self, size: Size) {
        let smallest = self.smallest_rejected.unwrap_or(size);
        self.smallest_rejected =
            Some(Size { made_of: smallest.made_of.min(size.made_of), sent: smallest.sent.min(size.sent) });
    }

    /// A batch of the topic was accepted, of so many bytes as it was sent: the suspects before it were at fault themselves. True: the
    /// topic is open again.
    pub fn accepted(&mut self, lane: u32, bytes: usize, now: Instant) -> (Vec<Suspect>, bool) {
        self.accepted_at = Some(now);
        let lately = self.largest_accepted.filter(|(_, at)| now.duration_since(*at) < RECENT);
        if lately.is_none_or(|(largest, _)| bytes >= largest) {
            self.largest_accepted = Some((bytes, now));
        }
        self.trials.accepted(lane);
        // The limit may have been raised.
        let rejected = self.smallest_rejected.take().map(|smallest| smallest.sent);
        self.too_large = self.too_large.into_iter().chain(rejected).min();
        self.too_large = self.too_large.filter(|too_large| bytes < *too_large);
        let reopened = self.tripped.take().is_some();
        if reopened {
            self.reopened_at = Some(now);
        }
        if self.suspects.is_empty() {
            return (Vec::new(), reopened);
        }
        let (stay, condemned) = std::mem::take(&mut self.suspects)
            .into_iter()
            .partition(|suspect| suspect.doubtful && suspect.lane != lane);
        self.suspects = stay;
        (condemned, reopened)
    }

    /// A batch of the lane is given up that may have been accepted. Returns the suspects before it: whether they were overtaken will never
    /// be known.
    pub fn may_have_accepted(&mut self, lane: u32) -> Vec<Suspect> {
        self.trials.accepted(lane);
        self.suspects.extract_if(.., |suspect| suspect.lane == lane).collect()
    }

    /// The topic (or the clock) is at fault. Returns the suspects, to be given back.
    ///
    /// A suspect whose lane has a batch in flight stays one: that batch holds later records, and if it is accepted after all, the
    /// suspect was overtaken; given back it would be published behind records of its own key.
    pub fn trip(&mut self, why: &Why, now: Instant, in_flight: impl Fn(u32) -> bool) -> Vec<Suspect> {
        let code = why.code;
        // A smaller record may be accepted right away.
        let at_once = is_about_size(code) && self.tripped.is_none();
        if self.tripped.is_none() {
            self.trials.stopped();
        }
        self.trials.why(why);
        let probe_at = if at_once { now } else { now + PROBE_EVERY };
        let sieve = self.smallest_rejected.filter(|_| at_once).map_or(Sieve::Any, Sieve::Below);
        self.tripped = Some(match self.tripped.take() {
            Some(before) => Tripped { probe_at, probing: None, open: false, ..before },
            None => Tripped {
                code,
                probe_at,
                probing: None,
                open: false,
                last: None,
                sieve,
                in_a_row: 0,
                round: if at_once { Round::SmallerNext } else { Round::FirstFirst },
                behind: BTreeMap::new(),
                exhausted: BTreeSet::new(),
                tried: BTreeSet::new(),
                goes_on: false,
            },
        });
        let suspects = std::mem::take(&mut self.suspects);
        for suspect in &suspects {
            self.trials.in_vain(&suspect.row.meta[0], suspect.why.code);
        }
        let (stay, back) = suspects.into_iter().partition(|suspect| in_flight(suspect.lane));
        self.suspects = stay;
        for suspect in &mut self.suspects {
            suspect.doubtful = true;
        }
        back
    }

    /// The row is another one by now.
    pub fn withdraw(&mut self, key: RowKey) -> Option<Suspect> {
        let at = self.suspects.iter().position(|suspect| suspect.row.meta[0].key == key)?;
        Some(self.suspects.remove(at))
    }

    pub fn suspects(&self) -> &[Suspect] {
        &self.suspects
    }

    /// Suspects learn where their rows are now, and under which fingerprint (`None`: there no longer). How many are gone.
    pub fn renumber(&mut self, mut now: impl FnMut(&RowMeta) -> Option<(i64, Fingerprint)>) -> usize {
        let before = self.suspects.len();
        self.suspects.retain_mut(|suspect| {
            let meta = &mut suspect.row.meta[0];
            let Some((rowid, print)) = now(meta) else { return false };
            (meta.key.rowid, meta.print) = (rowid, print);
            true
        });
        before - self.suspects.len()
    }

    /// The one record that was tried was rejected like everything before: the next one that may be accepted is tried at once, so many
    /// in a row.
    pub fn probed_in_vain(&mut self, lane: u32, row: &RowMeta, size: impl Into<Size>) {
        let about_size = self.tripped.as_ref().is_some_and(|tripped| is_about_size(tripped.code));
        if about_size {
            self.rejected_for_size(size.into());
        }
        self.trials.end(lane);
        self.trials.in_vain(row, self.tripped.as_ref().and_then(|tripped| tripped.code));
        let key = row.key;
        let smallest = self.smallest_rejected;
        let Some(tripped) = &mut self.tripped else { return };
        tripped.in_a_row += 1;
        // Others have been tried in this lane before: those behind them are next.
        let behind = tripped.behind.entry((lane, key.outbox)).or_insert(key.rowid);
        *behind = key.rowid.max(*behind);
        if self.trials.is_full() {
            // What is passed over has to be known: from the first on again.
            tripped.behind.clear();
        }
        tripped.exhausted.clear();
        if tripped.in_a_row >= PROBES_IN_A_ROW || tripped.code == Some(INVALID_TIMESTAMP) {
            tripped.probing = None;
        } else {
            tripped.probing = Some(lane);
            tripped.sieve = smallest.filter(|_| about_size).map_or(Sieve::Behind, Sieve::Below);
        }
    }

    /// Whether the row of this lane may be the next one that is tried. `is_below`: whether its record is smaller than that, by
    /// either count.
    pub fn passes(&self, lane: u32, key: RowKey, is_below: impl FnOnce(Size) -> bool) -> bool {
        let Some(tripped) = &self.tripped else { return true };
        match tripped.sieve {
            Sieve::Any => true,
            Sieve::Below(limit) => is_below(limit),
            Sieve::Behind => tripped.behind.get(&(lane, key.outbox)).is_none_or(|last| key.rowid > *last),
        }
    }

    /// The outbox has no row of this lane that passes.
    pub fn has_none(&mut self, lane: u32, outbox: OutboxIx) {
        if let Some(tripped) = &mut self.tripped {
            tripped.exhausted.insert(outbox);
            // The next time from the first on.
            tripped.behind.remove(&(lane, outbox));
        }
    }

    /// Nobody has a row that this lane could try: the next lane's turn is now.
    pub fn next_lane(&mut self, now: Instant) {
        if let Some(tripped) = self.tripped.as_mut().filter(|tripped| tripped.code != Some(INVALID_TIMESTAMP)) {
            (tripped.probe_at, tripped.goes_on, tripped.probing) = (now, true, None);
            if tripped.round == Round::FirstFirst {
                tripped.sieve = Sieve::Any;
            }
        }
    }

    /// Whether the outbox was looked through for a record to be tried, in vain.
    pub fn is_exhausted(&self, outbox: OutboxIx) -> bool {
        self.tripped.as_ref().is_some_and(|tripped| tripped.exhausted.contains(&outbox))
    }

    /// After a minute without a contradiction a few suspects are believed to be at fault, and many say that it is the topic: what to
    /// trip it for. Doubtful ones are not judged by time.
    pub fn believed(&mut self, now: Instant) -> Result<Vec<Suspect>, Why> {
        let since = self.oldest_undoubted();
        if self.tripped.is_some() || since.is_none_or(|since| now.duration_since(since) < BELIEVED_AFTER) {
            return Ok(Vec::new());
        }
        let (doubtful, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.suspects).into_iter().partition(|suspect| suspect.doubtful);
        let alike = |code| others.iter().filter(|suspect| suspect.why.code == code).count();
        let many =
            others.iter().find(|suspect| alike(suspect.why.code) >= SUSPECTS_MAX).map(|suspect| suspect.why.clone());
        self.suspects = doubtful;
        match many {
            Some(why) => {
                self.suspects.extend(others);
                Err(why)
            }
            None => Ok(others),
        }
    }

    fn oldest_undoubted(&self) -> Option<Instant> {
        self.suspects.iter().filter(|suspect| !suspect.doubtful).map(|suspect| suspect.since).min()
    }

    /// Doubtful suspects whose lane has nothing any more that could overtake them.
    pub fn undoubted(&mut self, has_rows: impl Fn(u32) -> bool) -> Vec<Suspect> {
        let stays = |suspect: &Suspect| !suspect.doubtful || has_rows(suspect.lane);
        let (stay, back) = std::mem::take(&mut self.suspects).into_iter().partition(stays);
        self.suspects = stay;
        back
    }

    /// Whether it is time to try one record; the next time is set.
    pub fn probe_due(&mut self, now: Instant) -> bool {
        match &mut self.tripped {
            Some(tripped) if tripped.probe_at <= now => {
                tripped.probe_at = now + PROBE_EVERY;
                tripped.exhausted.clear();
                if std::mem::take(&mut tripped.goes_on) {
                    return true;
                }
                tripped.tried.clear();
                if tripped.round == Round::SmallerNext {
                    tripped.round = Round::Smaller;
                } else {
                    (tripped.round, tripped.sieve) = (Round::FirstFirst, Sieve::Any);
                }
                tripped.in_a_row = 0;
                true
            }
            _ => false,
        }
    }

    /// Tries the next of these lanes, in turn: the first record of one of them may be bad by itself. With none of them, the lane that
    /// gets a record first: whatever was known may have been removed.
    pub fn probe(&mut self, able: &[u32]) {
        let Some(tripped) = &mut self.tripped else { return };
        let left: Vec<u32> = able.iter().copied().filter(|lane| !tripped.tried.contains(lane)).collect();
        let next = left.iter().find(|lane| tripped.last.is_none_or(|last| **lane > last));
        tripped.probing = next.or(left.first()).copied();
        tripped.tried.extend(tripped.probing);
        tripped.last = tripped.probing.or(tripped.last);
        tripped.open = able.is_empty();
    }

    pub fn deadline(&self) -> Option<Instant> {
        match &self.tripped {
            Some(tripped) => Some(tripped.probe_at),
            None => self.oldest_undoubted().map(|since| since + BELIEVED_AFTER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Span;

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
        assert_eq!(breaker.suspect(0, &row(1), 1_000, &why(87), now), Verdict::Wait);
        assert_eq!(breaker.believed(now).map(|suspects| suspects.len()), Ok(0));
        let (suspects, reopened) = breaker.accepted(0, 100, now);
        assert_eq!(suspects.len(), 1);
        assert!(!reopened);
    }

    #[test]
    fn ten_alike_trip_it_and_nothing_is_condemned() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for rowid in 0..9 {
            assert_eq!(breaker.suspect(0, &row(rowid), 1_000, &why(32), now), Verdict::Wait);
        }
        assert_eq!(breaker.suspect(0, &row(9), 1_000, &why(32), now), Verdict::Trip);
        assert_eq!(breaker.trip(&why(32), now, |_| false).len(), 10);
        assert_eq!(breaker.believed(now + Duration::from_secs(100)).map(|suspects| suspects.len()), Ok(0));
        assert!(!breaker.probe_due(now + Duration::from_secs(29)));
        assert!(breaker.probe_due(now + Duration::from_secs(30)));
        assert!(!breaker.probe_due(now + Duration::from_secs(31)));
        assert!(breaker.accepted(0, 100, now).1);
    }

    #[test]
    fn probes_take_turns_and_one_rejected_for_another_reason_is_a_suspect() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.trip(&why(32), now, |_| false);
        for (round, turn) in (1..).zip([2, 5, 2]) {
            assert!(breaker.probe_due(now + PROBE_EVERY * round));
            breaker.probe(&[2, 5]);
            assert_eq!(breaker.tripped.as_ref().and_then(|tripped| tripped.probing), Some(turn));
        }
        assert!(breaker.is_tripped_by(Some(32)) && !breaker.is_tripped_by(Some(87)));
        assert_eq!(breaker.suspect(2, &row(1), 1_000, &why(87), now), Verdict::Wait);
        assert!(breaker.probe_due(now), "the record behind it is tried at once");
        assert!(!breaker.probe_due(now + PROBE_EVERY.mul_f64(0.99)));
        let (condemned, reopened) = breaker.accepted(2, 100, now);
        assert_eq!((condemned.len(), reopened), (1, true));
    }

    #[test]
    fn after_a_quiet_minute_few_suspects_are_believed() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.suspect(0, &row(1), 1_000, &why(10), now);
        assert_eq!(breaker.believed(now + Duration::from_secs(59)).map(|suspects| suspects.len()), Ok(0));
        assert_eq!(breaker.believed(now + Duration::from_secs(60)).map(|suspects| suspects.len()), Ok(1));
    }

    #[test]
    fn a_topic_that_rejects_large_records_finds_the_small_ones_and_condemns_the_large() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let verdicts: Vec<Verdict> =
            (0..10).map(|rowid| breaker.suspect(0, &row(rowid), 5_000, &why(10), now)).collect();
        assert_eq!(verdicts.last(), Some(&Verdict::Trip));
        assert_eq!(breaker.trip(&why(10), now, |_| false).len(), 10);
        assert!(breaker.probe_due(now), "at once");
        breaker.probe(&[0]);
        assert!(!breaker.passes(0, row(3).meta[0].key, |limit| 5_000 < limit.sent));
        assert!(breaker.passes(0, row(11).meta[0].key, |limit| 4_999 < limit.sent));
        breaker.probed_in_vain(0, &row(11).meta[0], 4_999);
        assert!(!breaker.passes(0, row(12).meta[0].key, |limit| 4_999 < limit.sent));
        assert!(breaker.accepted(0, 50, now).1);
        assert_eq!(breaker.suspect(0, &row(1), 5_000, &why(10), now), Verdict::Condemned);
        assert_eq!(breaker.suspect(0, &row(1), 60, &why(10), now), Verdict::Wait, "nobody knows");
        breaker.accepted(0, 6_000, now);
        assert_eq!(breaker.suspect(0, &row(1), 5_000, &why(10), now), Verdict::Wait, "the limit was raised");
    }

    #[test]
    fn records_larger_than_what_was_accepted_lately_say_nothing_of_the_topic_until_nothing_is_accepted_for_a_minute() {
        let now = Instant::now();
        for (count, believed) in [(9, Some(9)), (50, None)] {
            let mut breaker = Breaker::default();
            breaker.accepted(0, 100, now);
            for rowid in 0..count {
                assert_eq!(breaker.suspect(0, &row(rowid), 5_000, &why(10), now), Verdict::Wait);
            }
            assert_eq!(breaker.believed(now + BELIEVED_AFTER).map(|suspects| suspects.len()).ok(), believed);
        }
    }

    #[test]
    fn doubtful_suspects_are_not_judged_by_time_and_go_back_when_their_lane_has_nothing_in_flight() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for rowid in 0..10 {
            breaker.suspect(1, &row(rowid), 1_000, &why(87), now);
        }
        assert!(breaker.trip(&why(87), now, |lane| lane == 1).is_empty());
        assert!(breaker.accepted(2, 10, now).1);
        assert_eq!(breaker.believed(now + BELIEVED_AFTER).map(|suspects| suspects.len()), Ok(0));
        assert_eq!(breaker.deadline(), None, "nothing is due");
        assert!(breaker.undoubted(|lane| lane == 1).is_empty());
        assert_eq!(breaker.undoubted(|_| false).len(), 10);
    }

    #[test]
    fn a_lane_without_a_record_that_could_be_tried_gives_the_next_one_its_turn_once_in_a_round() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.trip(&why(10), now, |_| false);
        assert!(breaker.probe_due(now));
        for turn in [Some(2), Some(5), None] {
            breaker.probe(&[2, 5]);
            assert_eq!(breaker.tripped.as_ref().and_then(|tripped| tripped.probing), turn);
            if turn.is_some() {
                breaker.next_lane(now);
                assert!(breaker.probe_due(now), "at once");
            }
        }
        assert!(!breaker.probe_due(now + PROBE_EVERY.mul_f64(0.99)));
        assert!(breaker.probe_due(now + PROBE_EVERY));
    }

    #[test]
    fn a_stopped_topic_of_which_nobody_is_known_to_have_a_record_tries_the_first_that_comes() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        let lane = Lane::new(
            crate::model::Target { topic: "t".into(), partition: 0 },
            0,
            Some(0),
            0,
            crate::relay::backoff::Backoff::new(Duration::ZERO, Duration::ZERO),
        );
        breaker.trip(&why(87), now, |_| false);
        assert!(!breaker.admits(3, &lane));
        breaker.probe(&[]);
        assert!(breaker.admits(3, &lane) && breaker.admits(4, &lane));
        breaker.took(3, row(1).meta[0].key, None);
        assert!(breaker.admits(3, &lane) && !breaker.admits(4, &lane));
    }

    #[test]
    fn the_first_record_is_tried_first_and_then_those_behind_it() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.trip(&why(87), now, |_| false);
        let key = |rowid| row(rowid).meta[0].key;
        for round in 1..3 {
            assert!(breaker.probe_due(now + PROBE_EVERY * round));
            breaker.probe(&[0]);
            assert!(breaker.passes(0, key(1), |limit| 0 < limit.sent));
            breaker.probed_in_vain(0, &row(1).meta[0], 9);
            for _ in 1..PROBES_IN_A_ROW {
                let next = (1..1_000)
                    .find(|rowid| breaker.passes(0, key(*rowid), |limit| 0 < limit.sent))
                    .expect("there is no end");
                breaker.probed_in_vain(0, &row(next).meta[0], 9);
            }
            assert_eq!(breaker.tripped.as_ref().and_then(|tripped| tripped.probing), None);
        }
        let last = breaker.tripped.as_ref().and_then(|tripped| tripped.behind.get(&(0, OutboxIx(0))).copied());
        assert_eq!(last, Some(2 * i64::from(PROBES_IN_A_ROW) - 1), "each round goes on where the one before ended");
    }

    #[test]
    fn a_record_that_is_rejected_before_and_after_another_is_accepted_is_at_fault_itself() {
        let now = Instant::now();
        for code in [87, INVALID_TIMESTAMP] {
            let mut breaker = Breaker::default();
            breaker.trip(&why(code), now, |_| false);
            breaker.probed_in_vain(0, &row(1).meta[0], 9);
            breaker.accepted(0, 9, now);
            let suspect = |breaker: &mut Breaker, rowid, at| breaker.suspect(0, &row(rowid), 9, &why(code), at);
            let believed = if code == INVALID_TIMESTAMP { Verdict::Wait } else { Verdict::Condemned };
            assert_eq!(suspect(&mut breaker, 1, now), believed);
            assert_eq!(suspect(&mut breaker, 2, now), Verdict::Wait, "it was not tried");
            assert_eq!(suspect(&mut breaker, 1, now + RECENT), Verdict::Wait, "the topic may be stopped again");
        }
    }

    #[test]
    fn what_was_accepted_lately_is_no_bad_topic_unless_nothing_is_any_more() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.accepted(0, 10, now);
        for rowid in 0..50 {
            assert_eq!(breaker.suspect(0, &row(rowid), 1_000, &why(87), now), Verdict::Wait);
        }
        assert!(breaker.believed(now + BELIEVED_AFTER).is_err(), "fifty and nothing accepted: it is the topic");
        assert_eq!(breaker.accepted(0, 10, now).0.len(), 50);
        let verdicts: Vec<Verdict> =
            (0..10).map(|rowid| breaker.suspect(0, &row(rowid), 1_000, &why(32), now)).collect();
        assert_eq!(verdicts.last(), Some(&Verdict::Trip), "the clock is never a record's fault");
    }
}
