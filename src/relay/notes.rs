//! The notes *deleting* of the state file: which plans a delete was about to take when it was last heard of.
//!
//! Promises: what is in here of this run's deletes is what the state file says; a note goes with the last of its plans, or when its delete is known not to
//! have happened. Does not know: which plans need one, how a delete is done.

use crate::model::PlanId;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// See the module's words.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// By delete: how many of its plans are not settled.
    deletes: BTreeMap<u64, usize>,
    plans: HashMap<PlanId, u64>,
    /// Noted, and its COMMIT did not happen as far as is known.
    open: Option<u64>,
    /// Plans that stay noted: whether they were deleted is not known.
    doubts: BTreeSet<PlanId>,
    /// Deletes all of whose plans are noted of a later one.
    superseded: Vec<u64>,
}

impl Notes {
    /// The state file says that this delete is about to take these plans.
    pub(super) fn noted(&mut self, delete: u64, plans: &[PlanId]) {
        self.open = Some(delete);
        self.deletes.insert(delete, plans.len());
        for plan in plans {
            let Some(before) = self.plans.insert(*plan, delete).filter(|before| *before != delete) else { continue };
            if self.one_less(before) {
                self.superseded.push(before);
            }
        }
    }

    /// One plan fewer of this delete is noted. Whether that was the last.
    fn one_less(&mut self, delete: u64) -> bool {
        let Some(count) = self.deletes.get_mut(&delete) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.deletes.remove(&delete);
            self.open = self.open.filter(|open| *open != delete);
        }
        last
    }

    /// It did: the note goes when its plans do.
    pub(super) fn committed(&mut self, delete: u64) {
        self.open = self.open.filter(|open| *open != delete);
    }

    /// Whether the plan's delete was committed stays in doubt, also in the state file.
    pub(super) fn doubt(&mut self, plan: PlanId) {
        self.doubts.insert(plan);
    }

    /// It is judged anew.
    pub(super) fn undoubt(&mut self, plan: PlanId) {
        self.doubts.remove(&plan);
    }

    /// A delete that did not commit, and those of its plans whose note stays.
    pub(super) fn to_take_back(&self) -> Option<(u64, Vec<PlanId>)> {
        let delete = self.open?;
        let stays = |plan: &PlanId| self.doubts.contains(plan) && self.plans.get(plan) == Some(&delete);
        Some((delete, self.doubts.iter().copied().filter(stays).collect()))
    }

    /// The state file says what [`Notes::to_take_back`] told.
    pub(super) fn taken_back(&mut self) {
        let Some((delete, stay)) = self.to_take_back() else { return };
        self.open = None;
        self.plans.retain(|plan, of| *of != delete || stay.contains(plan));
        if stay.is_empty() {
            self.deletes.remove(&delete);
        } else {
            self.deletes.insert(delete, stay.len());
        }
    }

    /// Deletes that have no plan left once these are settled.
    pub(super) fn over(&self, settled: &[PlanId]) -> Vec<u64> {
        if self.plans.is_empty() {
            return self.superseded.clone();
        }
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        for delete in settled.iter().filter_map(|plan| self.plans.get(plan)) {
            *counts.entry(*delete).or_default() += 1;
        }
        counts.retain(|delete, count| self.deletes.get(delete) == Some(count));
        counts.into_keys().chain(self.superseded.iter().copied()).collect()
    }

    /// The state file has forgotten these plans, and the notes that [`Notes::over`] told of them.
    pub(super) fn settled(&mut self, plans: &[PlanId]) {
        for plan in plans {
            self.doubts.remove(plan);
            let Some(delete) = self.plans.remove(plan) else { continue };
            self.one_less(delete);
        }
        self.superseded.clear();
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
    fn a_note_goes_too_when_its_plans_are_noted_of_a_later_delete() {
        let mut notes = Notes::default();
        notes.noted(7, &plans(&[1, 2]));
        notes.doubt(PlanId(1));
        notes.taken_back();
        notes.undoubt(PlanId(1));
        notes.noted(8, &plans(&[1]));
        notes.committed(8);
        assert_eq!(notes.over(&[]), [7]);
        notes.settled(&[]);
        assert_eq!(notes.over(&plans(&[1])), [8]);
    }

    #[test]
    fn a_delete_that_did_not_commit_is_taken_back_but_for_what_is_in_doubt() {
        let mut notes = Notes::default();
        notes.noted(7, &plans(&[1, 2]));
        notes.doubt(PlanId(2));
        assert_eq!(notes.to_take_back(), Some((7, plans(&[2]))));
        notes.taken_back();
        assert_eq!(notes.to_take_back(), None);
        // The first one's next delete is another.
        notes.noted(8, &plans(&[1]));
        assert_eq!(notes.over(&plans(&[1, 2])), [7, 8]);
        notes.taken_back();
        assert_eq!(notes.over(&plans(&[1, 2])), [7]);
    }
}
