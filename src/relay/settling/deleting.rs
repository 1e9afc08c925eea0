//! One delete: its order, what it found, and what is known when nobody says whether it was committed.
//!
//! Promises: a row is released only when the database said what became of it. Does not know: when a delete is due, what SQL it is.

use super::entry::{Retry, Wish};
use super::{FAILED_RETRY, LEFT_OUT_RETRY, LEFT_OUT_RETRY_MAX, PLAN_ROWS_MAX, PLAN_ROWS_MIN, STARVED_AFTER};
use crate::failpoint;
use crate::model::{Deletion, Fault, Fingerprint, LeftOut, OutboxIx, Plan, PlanId, Quarantined, RowKey, RowMark, Why};
use crate::ports::{Change, Clock, DeleteGroup, DeleteOrder, Journal, Sink, Source, SourceError};
use crate::relay::answers::take_rows;
use crate::relay::intake::by_outbox;
use crate::relay::planted::{self, Bug};
use crate::relay::{Fatal, Relay};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

/// After a delete made way for someone who came while it ran: each attempt compares its rows anew, and may have held the write
/// lock for a moment.
const YIELD_STEP: Duration = Duration::from_millis(5);
/// After a note met somebody else in the state file; doubled each time. Each attempt holds the application's write lock.
const NOTE_STEP: Duration = Duration::from_millis(5);
const NOTE_STEP_MAX: Duration = Duration::from_secs(1);
const COMMIT_PATIENCE: Duration = Duration::from_millis(20);
/// Why a published row stays.
const KEPT: &str = "a trigger or a constraint keeps it";

/// Rows that were published and that something keeps in their table.
fn kept_rows<'a>(
    groups: &'a [DeleteGroup],
    deletion: &'a Deletion,
) -> impl Iterator<Item = (RowKey, Fingerprint)> + 'a {
    let published = groups.iter().filter(|group| group.plan().is_some() && !deletion.kept.is_empty());
    published.flat_map(DeleteGroup::rows).filter(|(key, _)| deletion.kept.contains(key))
}

fn quarantined((key, print): (RowKey, Fingerprint), now: SystemTime) -> Quarantined {
    Quarantined { key, print, fault: Fault::Undeletable, why: Why::new(KEPT), attempts: 0, first: now, last: now }
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    pub(super) fn delete(&mut self, rows_max: usize, now: Instant) -> Result<(), Fatal> {
        let (taken, rows) = self.settling.take(rows_max, now, |entry| self.is_bare(entry.group().rows()));
        let groups: Vec<DeleteGroup> = taken.iter().map(|at| self.settling.entries[*at].group()).collect();
        // The number of one that did not commit is used again: there are as many as there are plans.
        let number = self.settling.number + 1;
        let order = DeleteOrder {
            number,
            groups: &groups,
            booked: &self.settling.booked,
            yields: self.settling.polite_since.is_none_or(|since| now.duration_since(since) < self.patience(rows_max)),
            commit_patience: COMMIT_PATIENCE,
        };
        // Rows of a bare table can come back alike, so that only this note tells a delete that happened from one that did not.
        let (books, mut attempted) = (self.source.books(), self.bare(&groups));
        let (wall, power_loss) = (self.clock.wall(), self.intake.limits.power_loss);
        let (journal, noted, origin) = (&mut self.journal, &mut self.settling.notes, &mut self.reading.origin);
        let result = self.source.at_disk().delete(&order, &mut |deletion| {
            // After a crash the rows that are kept look like rows that nobody has sent: they are named before they are all that is left.
            let kept: Vec<Quarantined> = kept_rows(&groups, deletion).map(|row| quarantined(row, wall)).collect();
            let mut changes: Vec<Change<'_>> = kept.iter().map(Change::Quarantined).collect();
            let before = noted.to_take_back();
            attempted.retain(|(at, _)| LeftOut::place_of(&deletion.left_out, *at).is_err());
            let plans: Vec<PlanId> = attempted.iter().filter(|_| !books).filter_map(|(_, plan)| *plan).collect();
            let to_note = &plans[..];
            if !to_note.is_empty() {
                changes.extend(before.map(|delete| Change::Deleting { delete, plans: &[] }));
                changes.push(Change::Deleting { delete: number, plans: to_note });
            }
            // A log that is new by now is left behind when we are killed: the next start has to know it.
            *origin = deletion.origin.or(*origin);
            if !journal.at_disk().reads_from(*origin) && changes.is_empty() {
                return Ok(());
            }
            // Rare enough to be synced under the application's lock.
            journal.at_disk().note(&changes, power_loss && !kept.is_empty())?;
            if !to_note.is_empty() {
                noted.taken_back();
                noted.noted(number, to_note);
            }
            failpoint::hit("deleting");
            Ok(())
        });
        match result {
            Ok(deletion) => {
                if deletion.deleted > 0 {
                    self.settling.number = number;
                    self.settling.doubts.over();
                }
                self.settling.notes.committed(number);
                self.deleted(&taken, rows, &deletion)?;
                failpoint::hit("deleted");
            }
            Err(SourceError::CommitUnknown(text)) if planted::is(Bug::HooksWithoutCommit) => {
                log::debug!("{text}");
                let deletion = Deletion { deleted: rows, ..Deletion::default() };
                self.deleted(&taken, rows, &deletion)?;
            }
            Err(SourceError::CommitUnknown(text)) => {
                self.delete_trouble.happened(now, &format!("sent rows could not be deleted: {text}"));
                self.settling.number = number;
                self.settling.retry_at = Some(now + self.settling.doubts.failed());
                for (at, _) in &attempted {
                    self.settling.entries[taken[*at]].in_doubt = true;
                }
                let errands = attempted.iter().filter(|(_, plan)| plan.is_none()).map(|(at, _)| taken[*at]);
                for errand in self.settling.take_errands(&errands.collect::<Vec<_>>()) {
                    self.errand_unknown(&errand);
                }
                // Where rows come back alike, whether it happened has to be told from all of them, or from what the database itself
                // says. Elsewhere the next delete finds what is there.
                if attempted.iter().any(|(_, plan)| plan.is_some()) {
                    self.start_again(now);
                }
            }
            Err(SourceError::Busy(text)) => {
                self.did_not_commit();
                self.figures.busy.fetch_add(1, Relaxed);
                self.settling.others_seen = now;
                self.settling.retry_at = Some(self.settling.knocking.next(now));
                if self.settling.knocking.since().is_some_and(|since| since + STARVED_AFTER <= now) {
                    self.settling.starved.happened(now, &text);
                }
            }
            Err(SourceError::Yielded) => {
                self.did_not_commit();
                self.figures.yielded.fetch_add(1, Relaxed);
                self.settling.others_seen = now;
                self.settling.polite_since.get_or_insert(now);
                self.settling.retry_at = Some(now + YIELD_STEP);
            }
            Err(SourceError::Journal(error)) if error.busy => {
                self.did_not_commit();
                let pause = self.settling.note_pause.map_or(NOTE_STEP, |pause| (pause * 2).min(NOTE_STEP_MAX));
                self.settling.note_pause = Some(pause);
                self.settling.retry_at = Some(now + pause);
                if pause == NOTE_STEP_MAX {
                    self.delete_trouble.happened(now, &format!("sent rows could not be deleted: {error}"));
                }
            }
            Err(SourceError::Replaced { text, another }) => {
                self.did_not_commit();
                self.replaced(&text, &another, now);
            }
            Err(error) => {
                self.did_not_commit();
                // Nothing is lost by waiting: what was acknowledged stays noted, and the guards look again.
                self.delete_trouble.happened(now, &format!("sent rows could not be deleted: {error}"));
                self.settling.retry_at = Some(now + FAILED_RETRY);
            }
        }
        Ok(())
    }

    /// The places of those groups whose rows can come back alike, and of which plan they are, if they are a plan's.
    fn bare(&self, groups: &[DeleteGroup]) -> Vec<(usize, Option<PlanId>)> {
        let bare = groups.iter().enumerate().filter(|(_, group)| self.is_bare(group.rows()));
        bare.map(|(at, group)| (at, group.plan())).collect()
    }

    /// The note about a delete that was rolled back is taken back at once: after a crash it would cost exactness.
    pub(in crate::relay) fn did_not_commit(&mut self) {
        let Some(delete) = self.settling.notes.to_take_back() else { return };
        // If it can't be, the next delete's note does it.
        if self.journal.at_disk().record(&[Change::Deleting { delete, plans: &[] }], false).is_ok() {
            self.settling.notes.taken_back();
        }
    }

    /// `taken`: places of the entries of the delete, rising; `rows`: theirs.
    fn deleted(&mut self, taken: &[usize], rows: usize, deletion: &Deletion) -> Result<(), Fatal> {
        let now = self.clock.now();
        let is_left_out = |at: usize| {
            taken.binary_search(&at).is_ok_and(|group| LeftOut::place_of(&deletion.left_out, group).is_ok())
        };
        let settling = &mut self.settling;
        let left_out = deletion.left_out.iter().map(|left| settling.entries[taken[left.group]].rows());
        let rows = rows - left_out.sum::<usize>();
        let accounted = deletion.deleted + deletion.changed.len() + deletion.kept.len() + deletion.gone.len();
        if accounted != rows {
            return Err(Fatal(format!("a delete of {rows} rows accounts for {accounted}: {deletion:?}")));
        }
        let (mut plans, mut errands) = (Vec::with_capacity(taken.len()), Vec::new());
        for (at, mut entry) in std::mem::take(&mut settling.entries).into_iter().enumerate() {
            let left_out = is_left_out(at);
            if left_out || taken.binary_search(&at).is_err() {
                if left_out {
                    let pause = entry.left_out.map_or(LEFT_OUT_RETRY, |left| (left.pause * 2).min(LEFT_OUT_RETRY_MAX));
                    entry.left_out = Some(Retry { at: now + pause, pause });
                }
                settling.entries.push_back(entry);
                continue;
            }
            match entry.wish {
                Wish::Acknowledged { plan, .. } => {
                    settling.deleted.push(plan.id);
                    plans.push(plan);
                }
                Wish::Asked(errand) => errands.push(errand),
            }
        }
        settling.count();
        if let Some(left) = deletion.left_out.first() {
            settling.left_out_trouble.happened(now, &left.why.to_string());
        } else if settling.entries.iter().all(|entry| entry.left_out.is_none()) {
            settling.left_out_trouble.over(now);
        }
        settling.retry_at = None;
        let count = plans.len() + errands.len();
        if count == 0 {
            return Ok(());
        }
        log::debug!(
            "deleted {rows} rows of {count} batches or requests in {:?}, under the write lock for {:?}",
            deletion.took,
            deletion.held
        );
        // With the comparison, which is not always under the lock but may be. One that deleted nothing was rolled back.
        if deletion.deleted > 0 {
            settling.cost.measured(rows, deletion.took);
        }
        if self.source.books() {
            settling.booked.extend(&settling.deleted);
            settling.booked.sort_unstable();
            settling.booked.dedup();
        }
        settling.deleted_at = Some(now);
        settling.last_delete = Some(now);
        settling.polite_since = None;
        settling.note_pause = None;
        settling.knocking.over();
        settling.starved.over(now);
        // A delete takes whole plans, and their rows lie interleaved: the plans of all busy lanes are to fit into one.
        let lanes = self.plans.len() + count;
        self.intake.limits.batch_rows_max =
            (self.settling.cost.rows_in(self.settling.write_time()) / lanes.max(1)).clamp(PLAN_ROWS_MIN, PLAN_ROWS_MAX);
        self.summary.deleted += deletion.deleted as u64;
        self.figures.longest_write_us.fetch_max(deletion.held.as_micros() as u64, Relaxed);
        self.delete_trouble.over(now);
        self.reading.used(now);
        self.reading.deleted();
        let named = errands.iter().flat_map(|errand| errand.rows.iter().copied());
        for (outbox, marks) in by_outbox(plans.iter().flat_map(|plan| plan.rows.known()).chain(named)) {
            self.release(outbox, &marks, deletion);
        }
        self.exceptions(&plans, deletion);
        for errand in &errands {
            self.errand_done(errand, deletion);
        }
        for plan in plans {
            self.intake.forget_rows(take_rows(plan));
        }
        // Our own commits wake nobody.
        for key in &deletion.written {
            self.intake.outbox(key.outbox).ledger.revisit(key.rowid);
        }
        Ok(())
    }

    /// The outbox's rows of these plans are no longer held.
    fn release(&mut self, outbox: OutboxIx, marks: &[RowMark], deletion: &Deletion) {
        let rowids: Vec<i64> = marks.iter().map(|mark| mark.rowid).collect();
        let others = [&deletion.changed, &deletion.kept, &deletion.gone];
        let others = others.iter().flat_map(|keys| keys.iter()).filter(|key| key.outbox == outbox).count();
        self.figures.outboxes[usize::from(outbox.0)].deleted.fetch_add((rowids.len() - others) as u64, Relaxed);
        let ledger = &mut self.intake.outbox(outbox).ledger;
        ledger.removed(&rowids);
        // A batch with a row that was rejected before may have been stored after all.
        let aside: Vec<i64> = rowids.into_iter().filter(|rowid| ledger.forget_aside(*rowid).is_some()).collect();
        for rowid in aside {
            self.quarantine.release(RowKey { outbox, rowid });
        }
    }

    fn exceptions(&mut self, plans: &[Arc<Plan>], deletion: &Deletion) {
        for key in &deletion.changed {
            let outbox = self.intake.outbox(key.outbox);
            outbox.ledger.revisit(key.rowid);
            log::debug!(
                "outbox {}: rowid {} was rewritten on its way; the new version follows",
                outbox.route.name,
                key.rowid
            );
            self.figures.outboxes[usize::from(key.outbox.0)].changed.fetch_add(1, Relaxed);
        }
        for key in &deletion.kept {
            // Those that an operator named are in quarantine as they were.
            if let Some((_, print)) = plans.iter().flat_map(|plan| plan.rows.known()).find(|(row, _)| row == key) {
                let mark = RowMark { rowid: key.rowid, print };
                self.quarantine(*key, mark, Fault::Undeletable, &Why::new(KEPT), 0);
            }
        }
    }
}
