//! Bugs that a relay could have, kept as deliberate variants: the simulation must find each of them.
//!
//! Promises: constantly false in a build without the feature `testing`. Does not know: what they break.

use super::Relay;
use super::flight::Flight;
use super::route::recut;
use crate::model::{Outcome, Rows};
use crate::ports::{Clock, Journal, Sink, Source};
use std::sync::Arc;
use std::time::Instant;

/// One way to lose, double or reorder events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    DeleteBeforeAck,
    DeleteOnTheLeadersMemory,
    DeletePlannedBecauseIdentical,
    NewSequenceOnResend,
    SequencesFromTheStateFile,
    OtherRowsUnderTheTriple,
    ReusedRowidUnderTheTriple,
    RecutAfterUnsure,
    QuarantineAfterUnsure,
    RerouteAfterGrowth,
    OutOfSequenceAtItsWord,
    AbsenceFromMemoryIsNotStored,
    CursorOnlyGrows,
    CursorAtTheMaximum,
    DeleteByRowidAlone,
    HooksWithoutCommit,
    BudgetSpentOnTrouble,
    TopicQuarantinedForTheClock,
    SentToAnotherCluster,
    GoneWhileAway,
    OtherColumnsOtherRows,
    OvertakenAndSent,
    ObstaclesStay,
    NobodyEverWants,
    FallenCursorUnseen,
    SweepStaysStuck,
    AskedBeforeTheAnswer,
    /// A signal that somebody must give is not given at this place: rows wait until something else happens.
    Forgotten {
        file: &'static str,
        line: u32,
    },
}

impl Bug {
    /// All but [`Bug::Forgotten`], of which there is one for each place that gives a signal.
    pub const ALL: &[Bug] = &[
        Bug::DeleteBeforeAck,
        Bug::DeleteOnTheLeadersMemory,
        Bug::DeletePlannedBecauseIdentical,
        Bug::NewSequenceOnResend,
        Bug::SequencesFromTheStateFile,
        Bug::OtherRowsUnderTheTriple,
        Bug::ReusedRowidUnderTheTriple,
        Bug::RecutAfterUnsure,
        Bug::QuarantineAfterUnsure,
        Bug::RerouteAfterGrowth,
        Bug::OutOfSequenceAtItsWord,
        Bug::AbsenceFromMemoryIsNotStored,
        Bug::CursorOnlyGrows,
        Bug::CursorAtTheMaximum,
        Bug::DeleteByRowidAlone,
        Bug::HooksWithoutCommit,
        Bug::BudgetSpentOnTrouble,
        Bug::TopicQuarantinedForTheClock,
        Bug::SentToAnotherCluster,
        Bug::GoneWhileAway,
        Bug::OtherColumnsOtherRows,
        Bug::OvertakenAndSent,
        Bug::ObstaclesStay,
        Bug::NobodyEverWants,
        Bug::FallenCursorUnseen,
        Bug::SweepStaysStuck,
        Bug::AskedBeforeTheAnswer,
    ];
}

#[cfg(feature = "testing")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in every relay of this thread, or takes it away.
#[cfg(feature = "testing")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether any bug is planted.
#[cfg(feature = "testing")]
pub fn any() -> bool {
    PLANTED.get().is_some()
}

/// Never.
#[cfg(not(feature = "testing"))]
pub fn any() -> bool {
    false
}

/// Whether this bug is planted.
#[cfg(feature = "testing")]
pub fn is(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Never.
#[cfg(not(feature = "testing"))]
#[inline]
pub fn is(_: Bug) -> bool {
    false
}

/// Whether the caller's caller forgets to give its signal.
#[cfg(feature = "testing")]
#[track_caller]
pub fn forgotten() -> bool {
    let place = std::panic::Location::caller();
    PLANTED
        .get()
        .is_some_and(|bug| matches!(bug, Bug::Forgotten { file, line } if line == place.line() && file == place.file()))
}

/// Never.
#[cfg(not(feature = "testing"))]
#[inline]
pub fn forgotten() -> bool {
    false
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// What is taken for a batch's outcome, which is what it is unless a bug is planted. `None`: the bug has dealt with it.
    pub(super) fn misled(
        &mut self,
        ix: u32,
        mut flight: Flight,
        outcome: Outcome,
        now: Instant,
    ) -> Option<(Flight, Outcome)> {
        match outcome {
            Outcome::NotAppended(_) if is(Bug::DeleteBeforeAck) => {
                return Some((flight, Outcome::Stored { offset: -1 }));
            }
            Outcome::NotAppended(why) if is(Bug::BudgetSpentOnTrouble) => {
                self.rejected(ix, flight, &why, Some(vec![0]), now);
            }
            Outcome::Unsure(_) if is(Bug::NewSequenceOnResend) => self.next_epoch(ix, flight),
            Outcome::OutOfSequence(_) if is(Bug::OutOfSequenceAtItsWord) => self.next_epoch(ix, flight),
            Outcome::Unsure(why) if is(Bug::RecutAfterUnsure) && flight.plan.rows.len() > 1 => {
                self.rejected(ix, flight, &why, None, now);
            }
            Outcome::Unsure(_) if is(Bug::OtherRowsUnderTheTriple) => {
                let count = flight.plan.rows.len();
                let collecting = &mut self.intake.lanes[ix as usize].collecting;
                let Some(others) = collecting.take_if(|batch| batch.rows.len() >= count) else {
                    return Some((flight, outcome));
                };
                let rows: Rows = recut(&others.rows, 0..count);
                flight.plan = Arc::new(flight.plan.with_rows(rows));
                flight.is_unsure_now();
                self.again(ix, flight, now);
            }
            outcome => return Some((flight, outcome)),
        }
        None
    }
}
