//! What becomes of a batch whose fate an earlier run, or a COMMIT without an answer, left open: did our delete commit, was it stored?
//!
//! Promises: pure; guesses towards sending again, never towards deleting. Does not know: how the facts were found.
//!
//! The rules and the experiments behind them: docs/sqlite.md, "Did our delete commit?", and docs/kafka.md, "Recovery".

use crate::model::{PlanState, Sought};

/// What is known of one batch.
#[allow(clippy::struct_excessive_bools)] // independent facts
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) struct Facts {
    pub state: PlanState,
    /// All of the batch's rows are there as they were sent.
    pub whole: bool,
    /// None of them is.
    pub none: bool,
    /// The batch has rows of a table whose rows can come back alike.
    pub bare: bool,
    /// What was noted last may not have been lost in a power cut, and the rows were found in the file and table they were sent from.
    pub continuous: bool,
    /// The database itself says whether the batch was deleted.
    pub booked: Option<bool>,
    /// Of all batches of the same delete: every row is there as it was sent.
    pub delete_whole: bool,
    /// Of all batches of the same delete: a row that can't come back alike is there, so the delete did not happen.
    pub delete_disproved: bool,
    /// A row is there that is known by what was sent of it alone: what else there was has changed, or its columns are gone. It may be
    /// another row, which was never sent.
    pub resembles: bool,
}

/// What follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) enum Verdict {
    /// Its rows were deleted, by us or by the application: what is there now is new.
    Forget,
    /// Stored and not deleted: delete what is as it was sent.
    Delete,
    /// Whether it was deleted can't be told. Its rows are sent again as what they are, rows of the table, with the message ids they
    /// had, and may be there twice.
    SendAnew,
    /// The same, and it is neither sent again nor deleted for now: the disk has failed again and again.
    Wait,
    /// The partition's leader must say.
    Ask(Sought),
}

impl Facts {
    pub(in crate::relay) fn verdict(&self) -> Verdict {
        if self.none || self.booked == Some(true) {
            return Verdict::Forget;
        }
        if self.resembles {
            let may_be_deleted = matches!(self.state, PlanState::Deleting { .. })
                && !self.delete_disproved
                && self.booked != Some(false);
            return if may_be_deleted && !self.delete_whole { Verdict::Forget } else { Verdict::SendAnew };
        }
        // A row that is there as it was sent is the one that was sent: it can't come back alike, or the delete is known not to have
        // happened.
        let same = !self.bare || self.delete_disproved || self.booked == Some(false);
        match self.state {
            PlanState::Planned if same || self.continuous => {
                Verdict::Ask(if self.whole { Sought::Resend } else { Sought::Stored })
            }
            PlanState::Acknowledged { .. } if same || self.continuous => Verdict::Delete,
            PlanState::Deleting { .. } if same => Verdict::Delete,
            _ if self.delete_whole => Verdict::SendAnew,
            // A delete takes all of its rows or none.
            _ => Verdict::Forget,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACKNOWLEDGED: PlanState = PlanState::Acknowledged { offset: 7 };
    const DELETING: PlanState = PlanState::Deleting { delete: 3 };

    fn facts(state: PlanState) -> Facts {
        Facts {
            state,
            whole: true,
            none: false,
            bare: true,
            continuous: true,
            booked: None,
            delete_whole: true,
            delete_disproved: false,
            resembles: false,
        }
    }

    #[test]
    fn nothing_is_deleted_by_what_was_sent_of_a_row_alone() {
        for state in [PlanState::Planned, ACKNOWLEDGED, DELETING] {
            for booked in [None, Some(false)] {
                for delete_disproved in [false, true] {
                    let alike = Facts { booked, delete_disproved, resembles: true, ..facts(state) };
                    assert_eq!(alike.verdict(), Verdict::SendAnew, "{alike:?}");
                    let partly = Facts { whole: false, delete_whole: false, ..alike };
                    let told = state != DELETING || booked.is_some() || delete_disproved;
                    assert_eq!(partly.verdict(), if told { Verdict::SendAnew } else { Verdict::Forget }, "{partly:?}");
                    let deleted = Facts { booked: Some(true), ..alike };
                    assert_eq!(deleted.verdict(), Verdict::Forget);
                }
            }
        }
    }

    #[test]
    fn what_was_only_planned_is_asked_of_the_leader() {
        assert_eq!(facts(PlanState::Planned).verdict(), Verdict::Ask(Sought::Resend));
        let some_changed = Facts { whole: false, delete_whole: false, ..facts(PlanState::Planned) };
        assert_eq!(some_changed.verdict(), Verdict::Ask(Sought::Stored));
    }

    #[test]
    fn what_was_acknowledged_is_deleted() {
        assert_eq!(facts(ACKNOWLEDGED).verdict(), Verdict::Delete);
        assert_eq!(Facts { whole: false, ..facts(ACKNOWLEDGED) }.verdict(), Verdict::Delete);
    }

    #[test]
    fn a_bare_table_in_doubt_is_sent_again_when_all_is_there_and_is_new_otherwise() {
        assert_eq!(facts(DELETING).verdict(), Verdict::SendAnew);
        let gone_elsewhere = Facts { delete_whole: false, ..facts(DELETING) };
        assert_eq!(gone_elsewhere.verdict(), Verdict::Forget);
    }

    #[test]
    fn a_row_that_cannot_come_back_alike_proves_that_nothing_was_deleted() {
        for state in [ACKNOWLEDGED, DELETING] {
            let sure = Facts { bare: false, continuous: false, ..facts(state) };
            assert_eq!(sure.verdict(), Verdict::Delete);
            let beside = Facts { delete_disproved: true, continuous: false, ..facts(state) };
            assert_eq!(beside.verdict(), Verdict::Delete);
        }
    }

    #[test]
    fn after_a_power_cut_or_in_another_file_bare_tables_have_lost_their_notes() {
        for state in [PlanState::Planned, ACKNOWLEDGED, DELETING] {
            let doubtful = Facts { continuous: false, ..facts(state) };
            assert_eq!(doubtful.verdict(), Verdict::SendAnew, "{state:?}");
            let partly = Facts { whole: false, delete_whole: false, ..doubtful };
            assert_eq!(partly.verdict(), Verdict::Forget, "{state:?}");
            let sure = Facts { bare: false, ..doubtful };
            assert_ne!(sure.verdict(), Verdict::SendAnew, "{state:?}");
        }
    }

    #[test]
    fn what_the_database_says_is_exact() {
        for state in [PlanState::Planned, ACKNOWLEDGED, DELETING] {
            let deleted = Facts { booked: Some(true), ..facts(state) };
            assert_eq!(deleted.verdict(), Verdict::Forget, "{state:?}");
        }
        let not_deleted = |state| Facts { booked: Some(false), continuous: false, ..facts(state) };
        assert_eq!(not_deleted(ACKNOWLEDGED).verdict(), Verdict::Delete);
        assert_eq!(not_deleted(DELETING).verdict(), Verdict::Delete);
        assert_eq!(not_deleted(PlanState::Planned).verdict(), Verdict::Ask(Sought::Resend));
    }

    #[test]
    fn nothing_left_is_nothing_to_do() {
        for state in [PlanState::Planned, ACKNOWLEDGED, DELETING] {
            let none = Facts { none: true, whole: false, delete_whole: false, ..facts(state) };
            assert_eq!(none.verdict(), Verdict::Forget, "{state:?}");
        }
    }
}
