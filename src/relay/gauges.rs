//! The figures that are looked at, not counted: what is held, the backlog, the age of the oldest row.
//!
//! Promises: cheap, once a second. Does not know: who reads them.

use super::intake::Behind;
use super::{FIGURES_EVERY, Relay, lanes};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    pub(super) fn update_figures(&mut self, now: Instant) {
        self.figures.held_rows.store(self.intake.memory.rows() as u64, Relaxed);
        self.figures.held_bytes.store(self.intake.memory.bytes() as u64, Relaxed);
        if now < self.figures_at + FIGURES_EVERY {
            return;
        }
        self.figures_at = now;
        let stopped = self.intake.lanes.iter().filter(|lane| lane.standing != lanes::Standing::Running).count();
        self.figures.lanes_stopped.store(stopped as u64, Relaxed);
        self.update_backlog(now);
    }

    /// When the oldest row that is on its way was noticed, by outbox.
    fn oldest_under_way(&self) -> Vec<Option<Instant>> {
        let mut oldest: Vec<Option<Instant>> = vec![None; self.intake.outboxes.len()];
        for lane in &self.intake.lanes {
            let flight = lane.flight.iter().map(|flight| (&*flight.plan.rows, flight.seen));
            let batches = lane.pieces.iter().chain(&lane.collecting).map(|batch| (&batch.rows, batch.seen));
            for (rows, seen) in flight.chain(batches) {
                for meta in &rows.meta {
                    let slot = &mut oldest[usize::from(meta.key.outbox.0)];
                    *slot = Some(slot.map_or(seen, |before| before.min(seen)));
                }
            }
        }
        oldest
    }

    fn update_backlog(&mut self, now: Instant) {
        let oldest = self.oldest_under_way();
        for ix in self.outboxes() {
            let at = usize::from(ix.0);
            let outbox = &self.intake.outboxes[at];
            let figures = self.figures.clone();
            let figures = &figures.outboxes[at];
            let caught_up = outbox.more == Behind::No && !outbox.ledger.has_marks() && outbox.retry_at.is_none();
            let held = outbox.ledger.held_rows() as u64;
            let behind = outbox.behind_since;
            if caught_up {
                figures.backlog_rows.store(held, Relaxed);
                figures.backlog_exact.store(true, Relaxed);
            } else if self.source.is_open() && self.draining.is_none() {
                let answer = self.source.at_disk().backlog(ix);
                match answer {
                    Ok(backlog) => {
                        figures.backlog_rows.store(backlog.rows, Relaxed);
                        figures.backlog_exact.store(backlog.exact, Relaxed);
                    }
                    // Said once, to whoever asks first.
                    Err(SourceError::Replaced { text, another }) => return self.replaced(&text, &another, now),
                    Err(_) => {}
                }
            }
            let oldest = oldest[at].into_iter().chain(behind).min();
            let age = oldest.map_or(-1, |at| now.saturating_duration_since(at).as_millis() as i64);
            figures.oldest_seen_ms.store(age, Relaxed);
        }
    }
}
