//! What is found out anew besides batches: rows that wait to be sent again, the quarantine, records whose fault is not known.
//!
//! Promises: a row that is there as it was stays what it was, under whatever rowid and fingerprint. Does not know: batches.

use super::apply::OTHERS;
use super::matching::{Draft, Matching};
use crate::model::{Fault, Fingerprint, Left, LeftResend, OutboxIx, Resend, RowKey, RowMark, Sameness, Target};
use crate::ports::{Clock, Journal, Sink, Source};
use crate::relay::Relay;
use crate::relay::ledger::Aside;
use crate::relay::route::recut;
use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// Of a batch of several tables, one of which was made again: the rows of that one go again if they are there, and the others are as
    /// sure as they were.
    pub(super) fn split_mixed(&mut self, left: &mut Left, drafts: &mut [Draft], matching: &Matching) {
        let mixed = std::mem::take(&mut self.recovery.mixed);
        let plans = left.plans.iter_mut().zip(drafts).filter(|(plan, _)| mixed.contains(&plan.id));
        for (plan, draft) in plans {
            let is_another = |outbox| self.sameness(outbox) == Sameness::Another;
            let rows = std::mem::take(&mut plan.rows);
            let (gone, here): (Vec<_>, Vec<_>) = rows.into_iter().partition(|row| is_another(row.key.outbox));
            let stays: Vec<usize> =
                (0..draft.rows.len()).filter(|at| !is_another(draft.rows.meta[*at].key.outbox)).collect();
            draft.places = stays.iter().map(|at| draft.places[*at]).collect();
            draft.rows = recut(&draft.rows, stays);
            plan.rows = here;
            plan.rows_elsewhere += gone.len();
            plan.other_file = false;
            let mut again = 0;
            for row in gone {
                let Some((rowid, print)) = matching.found.get(&(row.key, row.print)).copied() else { continue };
                let resend = Resend { print, run: plan.run, message: row.message };
                self.intake.resends.keep(RowKey { rowid, ..row.key }, resend);
                again += 1;
            }
            self.count_unsure(&plan.target.to_string(), again, OTHERS);
        }
    }

    /// Rows that were to be sent again keep their message ids, if they are there as they were.
    /// Those in a batch that goes on have it from there.
    pub(super) fn resends_left(&mut self, left: &Left, matching: &Matching, held: &[Vec<RowMark>]) {
        if left.resends.is_empty() {
            return;
        }
        let held: Vec<HashSet<i64>> = held.iter().map(|marks| marks.iter().map(|mark| mark.rowid).collect()).collect();
        for row in &left.resends {
            let now = matching.found.get(&(row.key, row.resend.print));
            match now.filter(|(rowid, _)| !held[usize::from(row.key.outbox.0)].contains(rowid)) {
                Some((rowid, print)) => {
                    let resend = Resend { print: *print, ..row.resend };
                    let now = LeftResend { key: RowKey { rowid: *rowid, ..row.key }, resend };
                    self.intake.resends.keep_left(*row, now);
                }
                None => self.intake.resends.drop_left(row.key),
            }
        }
    }

    pub(super) fn quarantine_left(&mut self, left: &Left, matching: &Matching) -> Vec<BTreeMap<i64, Aside>> {
        let mut aside: Vec<BTreeMap<i64, Aside>> = self.outboxes().map(|_| BTreeMap::new()).collect();
        let mut doubled = 0;
        for row in &left.quarantine {
            let at = usize::from(row.key.outbox.0);
            let published = row.fault == Fault::Undeletable;
            match matching.found.get(&(row.key, row.print)) {
                None => {
                    doubled += usize::from(published && self.is_unlike(row.key, matching));
                    self.quarantine.release(row.key);
                }
                // It may be another, and would never be sent.
                Some((_, print))
                    if published && (*print != row.print || self.sameness(row.key.outbox) == Sameness::Another) =>
                {
                    doubled += 1;
                    self.quarantine.release(row.key);
                }
                Some((rowid, print)) => {
                    aside[at].insert(*rowid, Aside { print: *print, published });
                    if !self.intake.outboxes[at].recovered {
                        self.figures.outboxes[at].set_aside.fetch_add(1, Relaxed);
                    }
                    if (*rowid, *print) != (row.key.rowid, row.print) {
                        self.quarantine.moved(row.key, *rowid, *print);
                    }
                }
            }
        }
        self.count_kept(doubled);
        aside
    }

    /// Rows whose records were rejected, and whose fault that was is not known yet.
    pub(super) fn hold_suspects(&mut self, matching: &Matching, held: &mut [Vec<RowMark>]) {
        for topic in &mut self.intake.topics {
            let gone = topic.breaker.renumber(|meta| matching.found.get(&(meta.key, meta.print)).copied());
            self.intake.memory.give(gone, 0);
            for suspect in topic.breaker.suspects() {
                hold(held, suspect.row.known());
            }
        }
    }

    /// Batches for these partitions may have been stored, and their rows go again: what was rejected before them must not be published
    /// behind them.
    pub(super) fn condemn_before(&mut self, given_up: &[Target]) {
        for ix in 0..self.intake.lanes.len() as u32 {
            let lane = &self.intake.lanes[ix as usize];
            if given_up.contains(&lane.target) {
                let breaker = &mut self.intake.topics[lane.topic as usize].breaker;
                for suspect in breaker.may_have_accepted(ix) {
                    self.condemn(suspect.row, &suspect.why);
                }
            }
        }
    }

    /// Whatever is held of the outbox has the fingerprints that its rows have now. The state file learns what they are made of with the
    /// fingerprints themselves.
    pub(in crate::relay) fn made_anew(&mut self, ix: OutboxIx, matching: &Matching) {
        let at = usize::from(ix.0);
        let there = self.source.traits(ix).filter(|_| !matching.away[at]).cloned();
        let outbox = &mut self.intake.outboxes[at];
        match there {
            Some(traits) if outbox.made_of.as_ref().is_some_and(|then| *then != traits.guard) => {
                outbox.made_of = Some(traits.guard.clone());
                // What a drain has dropped stays in the state file as it was, and so does what tells it from the rows of now.
                if self.draining.is_none() {
                    outbox.noted = Some(traits.clone());
                    self.quarantine.table(ix, traits);
                }
            }
            _ => {}
        }
    }
}

pub(super) fn hold(held: &mut [Vec<RowMark>], rows: impl IntoIterator<Item = (RowKey, Fingerprint)>) {
    for (RowKey { outbox, rowid }, print) in rows {
        held[usize::from(outbox.0)].push(RowMark { rowid, print });
    }
}
