//! What was found of batches whose fate is open: which of their rows are there, and what tells them from others that look alike.
//!
//! Promises: changes nothing but that it notes, also for who comes after a crash, which batches' rows may be others. Does not know: what
//! follows.

use super::matching::{Columns, Matching};
use super::verdict::Facts;
use crate::model::{
    Booked, Fault, Fingerprint, Left, LeftPlan, LeftRow, OutboxIx, PlanId, PlanState, RowKey, Sameness,
};
use crate::ports::{Clock, Journal, Sink, Source};
use crate::relay::Relay;
use std::collections::{HashMap, HashSet};

/// What was found of one batch.
pub(super) struct Findings {
    /// Places of rows that are there as they were, and their rowids and fingerprints now.
    pub there: Vec<(usize, i64, Fingerprint)>,
    pub facts: Facts,
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    pub(super) fn findings(&self, left: &Left, matching: &Matching, booked: Option<&Booked>) -> Vec<Findings> {
        // Of two plans with the same row the later one owns it.
        let mut owners: HashMap<(RowKey, Fingerprint), PlanId> = HashMap::new();
        for plan in left.plans.iter().rev() {
            for row in &plan.rows {
                owners.entry((row.key, row.print)).or_insert(plan.id);
            }
        }
        let owned = |plan: &LeftPlan, key: RowKey, print| owners.get(&(key, print)) == Some(&plan.id);
        let mut findings: Vec<Findings> = left
            .plans
            .iter()
            .map(|plan| {
                let mine = plan.rows.iter().filter(|row| owned(plan, row.key, row.print)).count();
                let there: Vec<(usize, i64, Fingerprint)> = plan
                    .rows
                    .iter()
                    .enumerate()
                    .filter(|(_, row)| owned(plan, row.key, row.print))
                    .filter_map(|(at, row)| {
                        let (rowid, print) = matching.found.get(&(row.key, row.print))?;
                        Some((at, *rowid, *print))
                    })
                    .collect();
                let comes_back = |row: &LeftRow| plan.guessed || self.comes_back(row.key.outbox, plan.other_file);
                let surely = there.iter().any(|(at, ..)| !comes_back(&plan.rows[*at]));
                let resembles = |(at, _, print): &(usize, i64, Fingerprint)| *print != plan.rows[*at].print;
                let whole = there.len() == mine && mine == plan.rows.len();
                let facts = Facts {
                    state: plan.state,
                    whole: whole && plan.rows_elsewhere == 0,
                    none: there.is_empty(),
                    bare: plan.rows.iter().any(comes_back),
                    continuous: !plan.other_boot && !plan.other_file,
                    booked: self.is_booked(plan, booked),
                    delete_whole: there.len() == mine || self.is_undeleted(plan),
                    delete_disproved: surely,
                    resembles: there.iter().any(resembles),
                };
                Findings { there, facts }
            })
            .collect();
        // A delete takes all of its batches or none of them.
        let mut deletes: HashMap<u64, (bool, bool)> = HashMap::new();
        for Findings { facts, .. } in &findings {
            if let PlanState::Deleting { delete } = facts.state {
                let (whole, disproved) = deletes.entry(delete).or_insert((true, false));
                *whole &= facts.delete_whole;
                *disproved |= facts.delete_disproved;
            }
        }
        for Findings { facts, .. } in &mut findings {
            if let PlanState::Deleting { delete } = facts.state
                && let Some((whole, disproved)) = deletes.get(&delete)
            {
                (facts.delete_whole, facts.delete_disproved) = (*whole, *disproved);
            }
        }
        findings
    }

    /// Whether no delete of ours can have taken the plan's rows: whatever is not there, the application has removed or changed.
    fn is_undeleted(&self, plan: &LeftPlan) -> bool {
        match plan.state {
            // A delete begins when the state file knows that it was acknowledged.
            PlanState::Planned => true,
            // Where rows can come back alike it is noted before its COMMIT, if it is not booked; a power cut may take the note.
            PlanState::Acknowledged { .. } => {
                let noted = !self.source.books() && !plan.other_boot && !plan.guessed;
                self.recovery.undeleted.contains(&plan.id)
                    || (noted && plan.rows.iter().all(|row| self.bare_outbox(row.key.outbox)))
            }
            PlanState::Deleting { .. } => false,
        }
    }

    /// What the database itself says of whether the plan was deleted.
    pub(in crate::relay) fn is_booked(&self, plan: &LeftPlan, booked: Option<&Booked>) -> Option<bool> {
        booked
            .filter(|_| !plan.other_boot || self.intake.limits.power_loss)
            .map(|booked| booked.plans.binary_search(&plan.id).is_ok())
            .filter(|deleted| *deleted || self.not_booked_is_not_deleted(plan))
    }

    /// Whether a delete of the plan would have been booked in this file: one that was noted was not.
    fn not_booked_is_not_deleted(&self, plan: &LeftPlan) -> bool {
        self.source.books() && !plan.other_file && !matches!(plan.state, PlanState::Deleting { .. })
    }

    /// What lies where the rows of these batches were may be other rows: the table is not the one that was noted, or its ids begin
    /// anew. Also for who comes after a crash, when this table is the one that is noted.
    pub(super) fn doubt_other_tables(&mut self, left: &mut Left) {
        for plan in &mut left.plans {
            let other = plan.rows.iter().any(|row| {
                let recovered = self.intake.outboxes[usize::from(row.key.outbox.0)].recovered;
                let begins_anew = self.source.traits(row.key.outbox).is_some_and(|traits| {
                    let counted = traits.identity.sequence.map_or(0, |(_, highest)| highest);
                    !recovered && !traits.bare && !self.has_event_id(row.key.outbox) && counted < row.key.rowid
                });
                begins_anew || self.sameness(row.key.outbox) != Sameness::Same
            });
            if other {
                plan.other_file = true;
                self.settling.doubt(plan.id);
            }
        }
    }

    /// What the outbox's table is to the one that rows were read from of which the state file knows.
    pub(in crate::relay) fn sameness(&self, outbox: OutboxIx) -> Sameness {
        if self.recovery.another.contains(&outbox) {
            return Sameness::Another;
        }
        // What an earlier run noted of it.
        let told = self.source.traits(outbox).filter(|_| !self.intake.outboxes[usize::from(outbox.0)].recovered);
        told.map_or(Sameness::Same, |traits| traits.told)
    }

    /// Whether a row of the outbox that looks like one that was sent may be another. `another`: it may be read from another table, where
    /// AUTOINCREMENT has begun anew.
    pub(in crate::relay) fn comes_back(&self, outbox: OutboxIx, another: bool) -> bool {
        self.bare_outbox(outbox) || (another && !self.has_event_id(outbox))
    }

    /// Whether one of these rows can come back alike.
    pub(in crate::relay) fn is_bare(&self, rows: impl IntoIterator<Item = (RowKey, Fingerprint)>) -> bool {
        rows.into_iter().any(|(key, _)| self.bare_outbox(key.outbox))
    }

    /// A table that was never read may be anything.
    pub(in crate::relay) fn bare_outbox(&self, outbox: OutboxIx) -> bool {
        self.source.traits(outbox).is_none_or(|traits| traits.bare)
    }

    fn has_event_id(&self, outbox: OutboxIx) -> bool {
        self.intake.outboxes[usize::from(outbox.0)].route.event_id
    }

    /// How many of these rows of a plan are no more what they were because nothing tells what they were: they go again as new.
    pub(in crate::relay) fn unlike_rows(
        &self,
        rows: impl Iterator<Item = (RowKey, Fingerprint)>,
        matching: &Matching,
    ) -> usize {
        let unlike = |(key, print): &(RowKey, Fingerprint)| {
            !matching.found.contains_key(&(*key, *print)) && self.is_unlike(*key, matching)
        };
        rows.filter(unlike).count()
    }

    /// Whether what lies under this rowid can't be compared with what did.
    pub(in crate::relay) fn is_unlike(&self, key: RowKey, matching: &Matching) -> bool {
        matching.others.contains(&key) && self.columns_of(key.outbox) == Columns::Unlike
    }

    /// Rows that were named before a delete that did not commit after all: published, and to be left alone.
    pub(super) fn leave_kept(&self, left: &Left, findings: &mut [Findings]) {
        let kept = left.quarantine.iter().filter(|row| row.fault == Fault::Undeletable);
        let kept = kept.filter(|row| self.sameness(row.key.outbox) != Sameness::Another);
        let kept: HashSet<(RowKey, Fingerprint)> = kept.map(|row| (row.key, row.print)).collect();
        let stored = left.plans.iter().zip(findings).filter(|(plan, _)| plan.state != PlanState::Planned);
        for (plan, findings) in stored {
            let row = |at: usize| (plan.rows[at].key, plan.rows[at].print);
            findings.there.retain(|(at, ..)| !kept.contains(&row(*at)));
        }
    }
}
