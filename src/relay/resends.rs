//! Rows that wait in their table to be sent again, and the message ids they had: whether they were published can't be proved.
//!
//! Promises: a row that is as it was keeps its message id, also over a crash: the state file learns of it in the transaction that
//! forgets the plan it was in, and forgets it in the one that has its next plan. Does not know: why a row goes again.

use crate::model::{Fingerprint, LeftResend, OutboxIx, Resend, RowKey, Rows, RunId};
use crate::ports::Change;
use std::collections::{BTreeMap, BTreeSet};

/// So many rows at most: what is beyond goes again under a new message id. More than a relay ever holds at once.
const ROWS_MAX: usize = 100_000;

/// See the module's words.
#[derive(Debug, Default)]
pub struct Resends {
    /// By outbox and rowid: what concerns one outbox does not go through those of five hundred others.
    rows: BTreeMap<RowKey, Resend>,
    /// Of these the state file has to be told what is in `rows` now, or that nothing is.
    unrecorded: BTreeSet<RowKey>,
}

impl Resends {
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What the state file has of an earlier run, and where and what the row is now.
    pub fn keep_left(&mut self, then: LeftResend, now: LeftResend) {
        if then != now {
            self.unrecorded.extend([then.key, now.key]);
        }
        self.rows.insert(now.key, now.resend);
    }

    /// The state file has something of this row that is over.
    pub fn drop_left(&mut self, then: RowKey) {
        self.unrecorded.insert(then);
    }

    /// The row goes again. What was known of the same version before is kept: it is the first message id that counts.
    pub fn keep(&mut self, key: RowKey, resend: Resend) {
        if self.rows.get(&key).is_some_and(|known| known.print == resend.print) {
            return;
        }
        if self.rows.len() >= ROWS_MAX && !self.rows.contains_key(&key) {
            return;
        }
        self.rows.insert(key, resend);
        self.unrecorded.insert(key);
    }

    /// Rows of a plan that is given up, and that may have been published in it.
    pub fn keep_rows(&mut self, rows: &Rows, run: RunId) {
        for meta in &rows.meta {
            self.keep(meta.key, Resend { print: meta.print, run, message: meta.message });
        }
    }

    /// The row does not go again: it is in quarantine.
    pub fn forget(&mut self, key: RowKey) {
        if self.rows.remove(&key).is_some() {
            self.unrecorded.insert(key);
        }
    }

    /// The message id the row had; one that was rewritten since is another event.
    pub fn of(&self, key: RowKey, print: Fingerprint) -> Option<(RunId, u64)> {
        let resend = self.rows.get(&key)?;
        (resend.print == print).then_some((resend.run, resend.message))
    }

    /// The outbox's table was read from its lowest row to its highest, and every row that waits in it is one of these: the others
    /// were rewritten or removed.
    pub fn retain(&mut self, outbox: OutboxIx, is_ours: impl Fn(i64) -> bool) {
        let of_outbox = RowKey { outbox, rowid: i64::MIN }..=RowKey { outbox, rowid: i64::MAX };
        let gone = self.rows.range(of_outbox).filter(|(key, _)| !is_ours(key.rowid));
        let gone: Vec<RowKey> = gone.map(|(key, _)| *key).collect();
        for key in gone {
            self.rows.remove(&key);
            self.unrecorded.insert(key);
        }
    }

    /// What the state file does not know yet. `planned`: rows of plans that it learns of in the same transaction; they go again no
    /// longer.
    pub fn changes(&self, planned: impl Iterator<Item = RowKey>) -> Vec<Change<'static>> {
        let told = self.unrecorded.iter().map(|key| match self.rows.get(key) {
            Some(resend) => Change::ToResend { key: *key, resend: *resend },
            None => Change::NotToResend { key: *key },
        });
        let mut changes: Vec<Change<'static>> = told.collect();
        if !self.rows.is_empty() {
            let planned = planned.filter(|key| self.rows.contains_key(key));
            changes.extend(planned.map(|key| Change::NotToResend { key }));
        }
        changes
    }

    /// Rows do not go again, as far as was read.
    pub fn has_ends(&self) -> bool {
        self.unrecorded.iter().any(|key| !self.rows.contains_key(key))
    }

    pub fn has_changes(&self) -> bool {
        !self.unrecorded.is_empty()
    }

    /// Whether the state file knows it is not known: it may have lost what it had of these.
    pub fn not_recorded(&mut self, planned: impl Iterator<Item = RowKey>) {
        if !self.rows.is_empty() {
            self.unrecorded.extend(planned.filter(|key| self.rows.contains_key(key)));
        }
    }

    /// The state file knows what [`Resends::changes`] told, with the same `planned`.
    pub fn recorded(&mut self, planned: impl Iterator<Item = RowKey>) {
        self.unrecorded.clear();
        if !self.rows.is_empty() {
            for key in planned {
                self.rows.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    fn key(rowid: i64) -> RowKey {
        RowKey { outbox: OutboxIx(0), rowid }
    }

    fn resend(print: u128, message: u64) -> Resend {
        Resend { print: Fingerprint(print), run: RunId(9), message }
    }

    /// Rowids that are told to be sent again, and those that are told not to.
    fn told(resends: &Resends, planned: &[i64]) -> (Vec<i64>, Vec<i64>) {
        let (mut kept, mut dropped) = (Vec::new(), Vec::new());
        for change in resends.changes(planned.iter().map(|rowid| key(*rowid))) {
            match change {
                Change::ToResend { key, .. } => kept.push(key.rowid),
                Change::NotToResend { key } => dropped.push(key.rowid),
                other => panic!("{other:?}"),
            }
        }
        (kept, dropped)
    }

    #[test]
    fn a_row_is_told_once_and_over_with_its_next_plan() {
        let mut resends = Resends::default();
        resends.keep(key(1), resend(11, 1));
        resends.keep(key(2), resend(12, 2));
        assert_eq!(told(&resends, &[]), (vec![1, 2], vec![]));
        resends.recorded(iter::empty());
        assert_eq!(told(&resends, &[]), (vec![], vec![]));
        assert_eq!(told(&resends, &[1, 7]), (vec![], vec![1]));
        assert_eq!(resends.of(key(1), Fingerprint(11)), Some((RunId(9), 1)), "until the state file has the plan");
        resends.recorded(iter::once(key(1)));
        assert_eq!(resends.of(key(1), Fingerprint(11)), None);
        assert_eq!(resends.of(key(2), Fingerprint(12)), Some((RunId(9), 2)));
    }

    #[test]
    fn a_row_whose_next_plan_was_not_recorded_is_told_again() {
        let mut resends = Resends::default();
        resends.keep(key(1), resend(11, 1));
        resends.keep(key(2), resend(12, 2));
        resends.recorded(iter::empty());
        resends.not_recorded([key(1), key(7)].into_iter());
        assert_eq!(told(&resends, &[]), (vec![1], vec![]), "it may not be planned the next time");
        // With a plan, the end of it is told after it.
        let last = resends.changes(iter::once(key(1))).pop();
        assert!(matches!(last, Some(Change::NotToResend { .. })), "{last:?}");
    }

    #[test]
    fn the_first_message_id_of_a_version_counts() {
        let mut resends = Resends::default();
        resends.keep(key(1), resend(11, 1));
        resends.keep(key(1), resend(11, 5));
        assert_eq!(resends.of(key(1), Fingerprint(11)), Some((RunId(9), 1)));
        resends.keep(key(1), resend(12, 6));
        assert_eq!(resends.of(key(1), Fingerprint(12)), Some((RunId(9), 6)), "a rewritten row is another event");
    }

    #[test]
    fn rows_that_moved_or_are_gone_are_told() {
        let mut resends = Resends::default();
        let left = |rowid, print, message| LeftResend { key: key(rowid), resend: resend(print, message) };
        resends.keep_left(left(1, 11, 1), left(1, 11, 1));
        resends.keep_left(left(2, 12, 2), left(20, 12, 2));
        resends.drop_left(key(3));
        assert_eq!(told(&resends, &[]), (vec![20], vec![2, 3]));
        resends.recorded(iter::empty());
        resends.retain(OutboxIx(0), |rowid| rowid == 20);
        assert_eq!(told(&resends, &[]), (vec![], vec![1]));
        resends.recorded(iter::empty());
        resends.keep_left(left(20, 12, 2), left(20, 99, 2));
        assert_eq!(told(&resends, &[]), (vec![20], vec![]), "of other columns: the state file has to know");
        assert_eq!(resends.of(key(20), Fingerprint(99)), Some((RunId(9), 2)));
    }
}
