//! After file or table were replaced (restored, re-created, renumbered by VACUUM): planned rows are found again by fingerprint.
//!
//! Promises: nothing is deleted by a rowid that was read from another file; a planned row that is there again, under whatever
//! rowid, is not published a second time. Does not know: why it was replaced.

use super::Relay;
use super::intake::Behind;
use super::reading::RETRY_EVERY;
use crate::model::{Budget, Fingerprint, Flow, LookEnd, OutboxIx, Plan, RowKey, RowMark, Rows, Start};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLICE_ROWS: usize = 1_000;
const SLICE_TIME: Duration = Duration::from_millis(1);

/// The search for planned rows in what is there now.
#[derive(Debug)]
pub(super) struct Rematch {
    /// Rowids under which rows with this fingerprint were planned.
    wanted: HashMap<(OutboxIx, Fingerprint), Vec<i64>>,
    found: HashMap<RowKey, i64>,
    outbox: usize,
    from: i64,
    /// A read that failed is tried again: rows given up as no longer there would be published a second time.
    pub(super) not_before: Instant,
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// What was collected is forgotten (it is read again), what is planned is looked for.
    pub(super) fn replaced(&mut self, text: &str, _another: bool, now: Instant) {
        log::warn!("{}: {text}; what is there now is read from the start", self.figures.database);
        self.forget_unplanned();
        let mut wanted: HashMap<(OutboxIx, Fingerprint), Vec<i64>> = HashMap::new();
        let mut marks: Vec<Vec<RowMark>> = self.outboxes().map(|_| Vec::new()).collect();
        for plan in self.open_plans() {
            for meta in &plan.rows.meta {
                wanted.entry((meta.key.outbox, meta.print)).or_default().push(meta.key.rowid);
                marks[usize::from(meta.key.outbox.0)].push(RowMark { rowid: meta.key.rowid, print: meta.print });
            }
        }
        for (outbox, marks) in self.intake.outboxes.iter_mut().zip(marks) {
            outbox.ledger.restart(marks);
            outbox.more = Behind::Ready;
        }
        self.reading.rematch = (!wanted.is_empty()).then(|| Rematch {
            wanted,
            found: HashMap::new(),
            outbox: 0,
            from: i64::MIN,
            not_before: now,
        });
        self.reading.look_soon(now);
    }

    /// What is not in a plan is read again.
    fn forget_unplanned(&mut self) {
        for ix in 0..self.intake.lanes.len() as u32 {
            self.intake.give_back(ix);
        }
        for topic in 0..self.intake.topics.len() {
            for suspect in self.intake.topics[topic].breaker.acquit() {
                self.intake.forget_rows(suspect.row);
            }
        }
    }

    fn open_plans(&self) -> Vec<Arc<Plan>> {
        let flights =
            self.intake.lanes.iter().filter_map(|lane| lane.flight.as_ref()).map(|flight| flight.plan.clone());
        flights.chain(self.settling.plans()).collect()
    }

    pub(super) fn rematch_slice(&mut self, now: Instant) {
        let Some(rematch) = &mut self.reading.rematch else { return };
        if rematch.outbox >= self.intake.outboxes.len() {
            self.finish_rematch();
            return;
        }
        let ix = OutboxIx(rematch.outbox as u16);
        if now < rematch.not_before {
            return;
        }
        let budget = Budget { rows: SLICE_ROWS, time: SLICE_TIME, before: None };
        let (wanted, found) = (&mut rematch.wanted, &mut rematch.found);
        let result = self.source.look(ix, Start::From(rematch.from), budget, &mut |row| {
            if let Some(rowids) = wanted.get_mut(&(ix, row.print)) {
                // The same rowid first: bare tables may hold rows that look alike.
                let at = rowids.iter().position(|rowid| *rowid == row.rowid).unwrap_or(0);
                if !rowids.is_empty() {
                    let rowid = rowids.swap_remove(at);
                    found.insert(RowKey { outbox: ix, rowid }, row.rowid);
                }
            }
            Flow::Continue
        });
        match result {
            Ok(look) => match look.end {
                LookEnd::Budget { last } => rematch.from = last.saturating_add(1),
                LookEnd::End | LookEnd::Stopped | LookEnd::MarkGone => {
                    rematch.outbox += 1;
                    rematch.from = i64::MIN;
                }
            },
            Err(error) => {
                if matches!(error, SourceError::NotThere(_) | SourceError::NotAnOutbox { .. }) {
                    // No table: what was planned is no longer there.
                    rematch.outbox += 1;
                    rematch.from = i64::MIN;
                } else if matches!(error, SourceError::Failed(_)) {
                    rematch.not_before = now + RETRY_EVERY;
                }
                if let Err(fatal) = self.look_failed(ix, error, now) {
                    log::error!("{fatal}");
                }
            }
        }
    }

    /// Plans learn the rowids under which their rows are found now. A row that was not found keeps its old one: the guarded delete
    /// finds it gone, or finds another row there and leaves it.
    fn finish_rematch(&mut self) {
        let Some(rematch) = self.reading.rematch.take() else { return };
        // A batch rejected meanwhile left rows under the rowids they had.
        self.forget_unplanned();
        let total: usize = rematch.found.len() + rematch.wanted.values().map(Vec::len).sum::<usize>();
        log::info!("{}: {} of {total} planned rows were found again", self.figures.database, rematch.found.len());
        for lane in &mut self.intake.lanes {
            if let Some(flight) = &mut lane.flight {
                flight.plan = renumbered(&flight.plan, &rematch.found);
            }
        }
        self.settling.renumber(|plan| renumbered(plan, &rematch.found));
        let mut marks: Vec<Vec<RowMark>> = self.outboxes().map(|_| Vec::new()).collect();
        for plan in self.open_plans() {
            for meta in &plan.rows.meta {
                marks[usize::from(meta.key.outbox.0)].push(RowMark { rowid: meta.key.rowid, print: meta.print });
            }
        }
        for (outbox, marks) in self.intake.outboxes.iter_mut().zip(marks) {
            outbox.ledger.restart(marks);
        }
        for ix in 0..self.intake.lanes.len() as u32 {
            self.park_if_halted(ix);
        }
        self.reading.room();
    }
}

fn renumbered(plan: &Arc<Plan>, found: &HashMap<RowKey, i64>) -> Arc<Plan> {
    let moved = plan.rows.meta.iter().any(|meta| found.get(&meta.key).is_some_and(|rowid| *rowid != meta.key.rowid));
    if !moved {
        return plan.clone();
    }
    let mut meta = plan.rows.meta.clone();
    for meta in &mut meta {
        if let Some(rowid) = found.get(&meta.key) {
            meta.key.rowid = *rowid;
        }
    }
    Arc::new(plan.with_rows(Rows { bytes: plan.rows.bytes.clone(), meta }))
}
