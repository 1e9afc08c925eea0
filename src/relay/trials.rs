//! The records that a stopped topic is tried with: which were rejected, and which are out of order once one behind them was accepted.
//!
//! Promises: no record follows a later one of its key that was accepted in its place. Does not know: when a topic stops, which record
//! is tried next.

use super::breaker::Size;
use super::planted::{self, Bug};
use crate::model::{Fingerprint, OutboxIx, RowKey, RowMeta, Why};
use std::collections::BTreeMap;

/// So many rows that were rejected are known, and no more are passed over.
const REJECTED_MAX: usize = 10_000;

/// See the module's words.
#[derive(Debug, Default)]
pub struct Trials {
    /// By lane.
    under_way: BTreeMap<u32, Trial>,
    /// Since the topic was stopped last, also when it is open again: with which code.
    rejected: BTreeMap<RowKey, (Fingerprint, Option<i16>)>,
    /// What everything was rejected with.
    why: Option<Why>,
    overtaken: Vec<Overtaken>,
}

/// A record that was taken to be tried.
#[derive(Debug)]
struct Trial {
    row: RowKey,
    /// Its record's. Nothing is out of order behind one without a key.
    key: Option<Box<[u8]>>,
    /// Records before it were passed over: those that had been rejected, and those of this size and above by both counts. `None`: none
    /// were.
    passed_over: Option<Size>,
}

/// What was passed over for a record that was accepted.
#[derive(Debug)]
struct Overtaken {
    lane: u32,
    by: RowKey,
    key: Box<[u8]>,
    from_size: Size,
    why: Why,
}

impl Trials {
    pub fn is_under_way(&self, lane: u32) -> bool {
        self.under_way.contains_key(&lane)
    }

    /// The lane has taken this row: what lies before it has been come to.
    pub fn took(&mut self, lane: u32, row: RowKey) {
        self.under_way.remove(&lane);
        self.overtaken.retain(|is| is.lane != lane || is.by.outbox != row.outbox || is.by.rowid >= row.rowid);
    }

    /// It was taken to be tried. `passed_over`: as in [`Trial`].
    pub fn begin(&mut self, lane: u32, row: RowKey, key: Option<&[u8]>, passed_over: Option<Size>) {
        self.under_way.insert(lane, Trial { row, key: key.map(Box::from), passed_over });
    }

    /// The one under way was not accepted.
    pub fn end(&mut self, lane: u32) {
        self.under_way.remove(&lane);
    }

    /// A batch of this lane was accepted: the trial, if one is under way.
    pub fn accepted(&mut self, lane: u32) {
        let Some(Trial { row, key: Some(key), passed_over: Some(from_size) }) = self.under_way.remove(&lane) else {
            return;
        };
        let Some(why) = &self.why else { return };
        let text = format!("{}; one of its key behind it was accepted, which it would follow", why.text);
        self.overtaken.push(Overtaken { lane, by: row, key, from_size, why: Why { text, ..why.clone() } });
    }

    /// The topic is stopped anew. What is still to be come to from the last time is not forgotten.
    pub fn stopped(&mut self) {
        if self.under_way.is_empty() && self.overtaken.is_empty() {
            self.rejected.clear();
        }
    }

    /// Why everything is rejected.
    pub fn why(&mut self, why: &Why) {
        self.why = Some(why.clone());
    }

    /// The row's record was rejected.
    pub fn in_vain(&mut self, row: &RowMeta, code: Option<i16>) {
        if !self.is_full() || self.rejected.contains_key(&row.key) {
            self.rejected.insert(row.key, (row.print, code));
        }
    }

    /// No more can be remembered.
    pub fn is_full(&self) -> bool {
        self.rejected.len() >= REJECTED_MAX
    }

    /// Whether the row's record was rejected with this code while the topic was stopped last.
    pub fn was_rejected(&self, row: RowKey, print: Fingerprint, code: Option<i16>) -> bool {
        self.rejection(row, print).is_some_and(|(_, with)| *with == code)
    }

    fn rejection(&self, row: RowKey, print: Fingerprint) -> Option<&(Fingerprint, Option<i16>)> {
        self.rejected.get(&row).filter(|(then, _)| then.sent() == print.sent())
    }

    /// Why the row of this lane is not to be sent any more. `is_below`: whether its record is smaller than that, by either
    /// count.
    pub fn overtaken(
        &self,
        lane: u32,
        (row, print): (RowKey, Fingerprint),
        key: Option<&[u8]>,
        is_below: impl FnOnce(Size) -> bool,
    ) -> Option<&Why> {
        let is_before = |is: &&Overtaken| {
            is.lane == lane && is.by.outbox == row.outbox && row.rowid < is.by.rowid && Some(&*is.key) == key
        };
        let overtaken = self.overtaken.iter().find(is_before).filter(|_| !planted::is(Bug::OvertakenAndSent))?;
        (self.rejection(row, print).is_some() || !is_below(overtaken.from_size)).then_some(&overtaken.why)
    }

    /// The lane has left no row of this outbox in the table.
    pub fn come_to_all(&mut self, of: OutboxIx, is_left: impl Fn(u32) -> bool) {
        self.overtaken.retain(|is| is.by.outbox != of || is_left(is.lane));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Span;

    fn row(rowid: i64) -> RowMeta {
        let key = RowKey { outbox: OutboxIx(0), rowid };
        RowMeta { key, print: Fingerprint(0), record: Span::default(), message: 0, event_id: Span::default() }
    }

    fn overtaken(trials: &Trials, lane: u32, rowid: i64, key: &[u8], bytes: usize) -> bool {
        trials.overtaken(lane, (row(rowid).key, Fingerprint(0)), Some(key), |limit| bytes < limit.sent).is_some()
    }

    /// The record of row 5 and key a is tried, behind others.
    fn tried(passed_over: Option<usize>) -> Trials {
        let mut trials = Trials::default();
        trials.stopped();
        trials.why(&Why::new("rejected").code(87));
        for rowid in [1, 2] {
            trials.in_vain(&row(rowid), Some(87));
        }
        trials.took(0, row(5).key);
        trials.begin(0, row(5).key, Some(b"a"), passed_over.map(Size::from));
        trials
    }

    #[test]
    fn of_the_key_of_a_record_that_is_accepted_those_that_were_rejected_before_it_are_overtaken() {
        let mut trials = tried(Some(usize::MAX));
        assert!(!overtaken(&trials, 0, 1, b"a", 9), "nobody knows");
        trials.accepted(0);
        assert!(overtaken(&trials, 0, 1, b"a", 9));
        assert!(!overtaken(&trials, 0, 2, b"b", 9), "of another key");
        assert!(!overtaken(&trials, 1, 1, b"a", 9), "of another partition");
        assert!(!overtaken(&trials, 0, 3, b"a", 9), "never tried");
        assert!(!overtaken(&trials, 0, 6, b"a", 9), "behind it");
        trials.stopped();
        assert!(overtaken(&trials, 0, 1, b"a", 9), "stopped again before it was come to");
        trials.took(0, row(6).key);
        assert!(!overtaken(&trials, 0, 1, b"a", 9), "the lane has come by");
    }

    #[test]
    fn so_are_those_that_were_left_out_for_their_size() {
        let mut trials = tried(Some(100));
        trials.accepted(0);
        assert!(overtaken(&trials, 0, 3, b"a", 100) && !overtaken(&trials, 0, 3, b"a", 99));
        trials.come_to_all(OutboxIx(0), |lane| lane == 0);
        assert!(overtaken(&trials, 0, 1, b"a", 9), "some are left");
        trials.come_to_all(OutboxIx(0), |_| false);
        assert!(!overtaken(&trials, 0, 1, b"a", 9));
    }

    #[test]
    fn a_first_record_overtakes_nothing_and_one_that_is_rejected_neither() {
        let mut trials = tried(None);
        trials.accepted(0);
        assert!(!overtaken(&trials, 0, 1, b"a", 9));
        let mut trials = tried(Some(usize::MAX));
        trials.end(0);
        trials.accepted(0);
        assert!(!overtaken(&trials, 0, 1, b"a", 9));
    }
}
