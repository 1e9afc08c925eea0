//! The notes *deleting* of the state file: which plans a delete was about to take when it was last heard of.
//!
//! Promises: what is in here of this run's deletes is what the state file says; a note goes with the last of its plans, or when its delete is known not to
//! have happened. Does not know: which plans need one, how a delete is done.

use crate::model::PlanId;
use std::collections::{BTreeMap, HashMap};

/// See the module's words.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By delete: how many of its plans are not settled.
    deletes: BTreeMap<u64, usize>,
    plans: HashMap<PlanId, u64>,
    /// Noted, and its COMMIT did not happen as far as is known.
    open: Option<u64>,
}

impl Notes {
    /// The state file says that this delete is about to take these plans. What it said of one before is taken back.
    pub(super) fn noted(&mut self, delete: u64, plans: &[PlanId]) {
        self.open = Some(delete);
        self.deletes.insert(delete, plans.len());
        self.plans.extend(plans.iter().map(|plan| (*plan, delete)));
    }

    /// It did: the note goes when its plans do.
    pub(super) fn committed(&mut self, delete: u64) {
        self.open = self.open.filter(|open| *open != delete);
    }

    /// A delete that did not commit.
    pub(super) fn to_take_back(&self) -> Option<u64> {
        self.open
    }

    /// The state file says what [`Notes::to_take_back`] told.
    pub(super) fn taken_back(&mut self) {
        let Some(delete) = self.open.take() else { return };
        self.plans.retain(|_, of| *of != delete);
        self.deletes.remove(&delete);
    }

    /// Deletes that have no plan left once these are settled.
    pub(super) fn over(&self, settled: &[PlanId]) -> Vec<u64> {
        if self.plans.is_empty() {
            return Vec::new();
        }
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for delete in settled.iter().filter_map(|plan| self.plans.get(plan)) {
            *counts.entry(*delete).or_default() += 1;
        }
        counts.retain(|delete, count| self.deletes.get(delete) == Some(count));
        counts.into_keys().collect()
    }

    /// The state file has forgotten these plans, and the notes that [`Notes::over`] told of them.
    pub(super) fn settled(&mut self, plans: &[PlanId]) {
        for plan in plans {
            let Some(delete) = self.plans.remove(plan) else { continue };
            let Some(count) = self.deletes.get_mut(&delete) else { continue };
            *count -= 1;
            if *count == 0 {
                self.deletes.remove(&delete);
                self.committed(delete);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plans(ids: &[u64]) -> Vec<PlanId> {
        ids.iter().copied().map(PlanId).collect()
    }

    #[test]
    fn a_note_goes_with_the_last_of_its_plans() {
        let mut notes = Notes::default();
        notes.noted(7, &plans(&[1, 2, 3]));
        notes.committed(7);
        assert!(notes.over(&plans(&[1, 2])).is_empty());
        notes.settled(&plans(&[1, 2]));
        assert_eq!(notes.over(&plans(&[3, 4])), [7]);
        notes.settled(&plans(&[3, 4]));
        assert!(notes.over(&plans(&[3])).is_empty());
    }

    #[test]
    fn a_delete_that_did_not_commit_is_taken_back() {
        let mut notes = Notes::default();
        notes.noted(7, &plans(&[1, 2]));
        assert_eq!(notes.to_take_back(), Some(7));
        notes.taken_back();
        assert_eq!(notes.to_take_back(), None);
        // The first one's next delete is another.
        notes.noted(8, &plans(&[1]));
        assert_eq!(notes.over(&plans(&[1, 2])), [8]);
        notes.taken_back();
        assert!(notes.over(&plans(&[1, 2])).is_empty());
    }
}
