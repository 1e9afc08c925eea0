//! Looks: one read transaction each, what ends it, what follows from an error, and the sweep below the cursors.
//!
//! Promises: a look is short; a row is given to the intake or stays marked. Does not know: when a look is due.

use super::{Position, RETRY_EVERY, SWEEP_EVERY, Stuck};
use crate::failpoint;
use crate::model::{Budget, Fault, Flow, JournalMode, Look, LookEnd, OutboxIx, RowKey, Start, Version, Why};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use crate::relay::intake::{Behind, Intake, Unsendable};
use crate::relay::planted::{self, Bug};
use crate::relay::{Fatal, Relay};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// A look's share of a turn.
const LOOK_ROWS: usize = 8_192;
const LOOK_TIME: Duration = Duration::from_millis(4);
/// A SELECT in a rollback-journal mode keeps the application's COMMIT out.
const LOOK_TIME_ROLLBACK: Duration = Duration::from_millis(1);
const SWEEP_ROWS: usize = 1_000;
/// A sweep over a large backlog may take this fraction of the time: one twentieth.
const SWEEP_PAUSE_FACTOR: u32 = 20;
/// A read that is BUSY for longer is mentioned.
const BUSY_MENTIONED_AFTER: Duration = Duration::from_secs(5);

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// One slice of one outbox. False: the database can't be read at the moment.
    pub(super) fn look(&mut self, ix: OutboxIx, now: Instant) -> Result<bool, Fatal> {
        let start = self.intake.outboxes[usize::from(ix.0)].ledger.start(self.intake.lowest(ix, now));
        self.intake.outbox(ix).ledger.begin_look(start);
        let (result, last) = self.slice(ix, start, LOOK_ROWS, None, now);
        let seen_to = match &result {
            Ok(Look { end: LookEnd::End, .. }) => Some(i64::MAX),
            _ => last,
        };
        let (jumps, stopped) = (std::mem::take(&mut self.intake.jumps), self.intake.stopped.take());
        let ended = seen_to == Some(i64::MAX);
        // Behind the cursor there may be rows that no look has come to: what is passed over below is not all that there is.
        let jumps_on = jumps && self.intake.outboxes[usize::from(ix.0)].more != Behind::No;
        let goes_on = jumps_on || matches!(&result, Ok(Look { end: LookEnd::Budget { .. }, .. }));
        self.intake.outbox(ix).ledger.end_look(seen_to, goes_on, stopped);
        if ended {
            self.intake.came_to_all(ix);
        }
        if goes_on {
            self.intake.leave_skipped_by_takers();
        } else {
            self.intake.leave_skipped(ix, jumps || ended, stopped.and_then(|(_, obstacle)| obstacle), now);
        }
        let look = match result {
            Ok(look) => look,
            Err(error) => return self.look_failed(ix, error, now).map(|()| false),
        };
        let outbox = self.intake.outbox(ix);
        outbox.retry_at = None;
        if let Some(traits) = self.source.traits(ix)
            && outbox.noted.as_ref() != Some(traits)
        {
            outbox.noted = Some(traits.clone());
            outbox.made_of.get_or_insert_with(|| traits.guard.clone());
            self.quarantine.table(ix, traits.clone());
        }
        let outbox = self.intake.outbox(ix);
        outbox.trouble.over(now);
        // Nothing more for anybody below the cursor, or somebody waits there: above it all is as it was, also what was news.
        let is_below = |(rowid, _): (i64, _)| outbox.ledger.cursor().is_some_and(|cursor| rowid <= cursor.rowid);
        let below = (jumps && !jumps_on) || stopped.is_some_and(is_below);
        if !below {
            outbox.version = Some(look.version);
            outbox.more = match look.end {
                LookEnd::End => Behind::No,
                LookEnd::Budget { .. } => Behind::Ready,
                LookEnd::Stopped if jumps => {
                    outbox.ledger.jump();
                    Behind::Ready
                }
                LookEnd::Stopped => match stopped {
                    Some((_, obstacle)) => obstacle.map_or(Behind::Unwanted, Behind::Stopped),
                    // Too many are in quarantine: it is not looked at before there are fewer.
                    None => Behind::Ready,
                },
                LookEnd::MarkGone => {
                    outbox.ledger.forget_cursor();
                    Behind::Ready
                }
            };
        }
        if outbox.more == Behind::No && !outbox.ledger.has_marks() {
            outbox.behind_since = None;
            if !outbox.ledger.wants_revisit() {
                // Every row that is there was met: those that are not held were rewritten or removed.
                let Intake { outboxes, resends, .. } = &mut self.intake;
                resends.retain(ix, |rowid| outboxes[usize::from(ix.0)].ledger.holds(rowid));
            }
        } else {
            self.intake.outbox(ix).behind_since.get_or_insert(self.reading.seen.unwrap_or(now));
        }
        self.set_unsendable_aside();
        Ok(true)
    }

    /// News is mostly of one outbox or of none: the others are told apart in one read transaction. Whether there were others; `None`:
    /// the database can't be read at the moment.
    pub(super) fn glance(&mut self, now: Instant) -> Result<Option<bool>, Fatal> {
        for outbox in &mut self.intake.outboxes {
            outbox.unstirred = false;
        }
        let mut starts: Vec<(OutboxIx, Start)> = (0..self.intake.outboxes.len())
            .filter(|at| self.may_glance(*at) && self.may_look(*at))
            .map(|at| (OutboxIx(at as u16), self.intake.outboxes[at].ledger.start(None)))
            .collect();
        // Where rows are found the look at them comes on top.
        if starts.len() < 2 {
            return Ok(Some(false));
        }
        while !starts.is_empty() {
            let glance = self.source.at_disk().glance(&starts, LOOK_TIME);
            let glance = match glance {
                Ok(glance) => glance,
                Err(error) => {
                    let first = starts[0].0;
                    return self.look_failed(first, error, now).map(|()| None);
                }
            };
            self.figures.looks.fetch_add(1, Relaxed);
            self.was_read(glance.version, glance.held, now);
            for (ix, _) in starts.drain(..glance.done.max(1)) {
                let traits = self.source.traits(ix);
                let outbox = self.intake.outbox(ix);
                if glance.stirred.contains(&ix) || traits != outbox.noted.as_ref() {
                    continue;
                }
                outbox.version = Some(glance.version);
                outbox.ledger.nothing_above();
                outbox.unstirred = true;
            }
        }
        Ok(Some(true))
    }

    /// Whether a look that finds nothing at this outbox would change nothing.
    fn may_glance(&self, at: usize) -> bool {
        let outbox = &self.intake.outboxes[at];
        outbox.more == Behind::No
            && outbox.retry_at.is_none()
            && outbox.behind_since.is_none()
            && outbox.version.is_some()
            && !outbox.ledger.has_marks()
            && !outbox.ledger.wants_revisit()
            && !outbox.ledger.resumes()
            && self.intake.resends.is_empty()
    }

    /// One read transaction, its rows given to the intake. Returns the last row that was dealt with.
    fn slice(
        &mut self,
        ix: OutboxIx,
        start: Start,
        rows: usize,
        before: Option<i64>,
        now: Instant,
    ) -> (Result<Look, SourceError>, Option<i64>) {
        let time = match self.source.journal_mode() {
            JournalMode::Wal => LOOK_TIME,
            JournalMode::Rollback => LOOK_TIME_ROLLBACK,
        };
        let seen = self.reading.seen.unwrap_or(now);
        let mut last = None;
        let intake = &mut self.intake;
        let result = self.source.at_disk().look(ix, start, Budget { rows, time, before }, &mut |row| {
            failpoint::hit("seen");
            let flow = intake.take(ix, row, seen, now);
            if flow == Flow::Continue {
                last = Some(row.rowid);
            }
            flow
        });
        self.figures.looks.fetch_add(1, Relaxed);
        // Before what is set aside in their place: the state file knows one row under a rowid.
        for rowid in self.intake.outbox(ix).ledger.take_released() {
            self.quarantine.release(RowKey { outbox: ix, rowid });
        }
        if last.is_some() {
            failpoint::hit("routed");
        }
        if let Ok(look) = &result {
            self.was_read(look.version, look.held, now);
        }
        (result, last)
    }

    fn was_read(&mut self, version: Version, held: Duration, now: Instant) {
        self.figures.longest_read_us.fetch_max(held.as_micros() as u64, Relaxed);
        self.saw(version, now);
        self.reading.origin = self.source.origin();
        self.reading.not_busy();
        // Also when nothing was found: beside an application that commits elsewhere all the time, letting go after five
        // seconds without a row would mean opening and closing for every look.
        self.reading.used(now);
        self.figures.source_ready.store(true, Relaxed);
        self.source_trouble.over(now);
    }

    fn set_unsendable_aside(&mut self) {
        for (ix, mark, reason) in std::mem::take(&mut self.intake.unsendable) {
            let key = RowKey { outbox: ix, rowid: mark.rowid };
            match reason {
                Unsendable::Unroutable(reason) => {
                    self.quarantine(key, mark, Fault::Unroutable, &Why::new(reason.to_string()), 0);
                }
                Unsendable::Overtaken(why) => {
                    let attempts = self.intake.outbox(ix).route.max_attempts;
                    self.quarantine(key, mark, Fault::Rejected, &why, attempts);
                }
            }
        }
    }

    pub(in crate::relay) fn look_failed(
        &mut self,
        ix: OutboxIx,
        error: SourceError,
        now: Instant,
    ) -> Result<(), Fatal> {
        match error {
            SourceError::Busy(text) => {
                self.busy(&text, now);
                return Ok(());
            }
            SourceError::Yielded => self.reading.look_soon(now),
            SourceError::Replaced { text, another } => self.replaced(&text, &another, now),
            SourceError::NotThere(why) | SourceError::NotAnOutbox { why, .. } => {
                let outbox = self.intake.outbox(ix);
                outbox.trouble.happened(now, &why.to_string());
                outbox.retry_at = Some(now + RETRY_EVERY);
                outbox.more = Behind::No;
                self.figures.wait_for(Some("an outbox that can't be read"));
            }
            SourceError::Failed(why) => {
                self.source_failed(&why, now);
                self.intake.outbox(ix).retry_at = Some(now + RETRY_EVERY);
            }
            other @ (SourceError::CommitUnknown(_) | SourceError::Journal(_)) => {
                return Err(Fatal(format!("a look answered as only a delete can: {other}")));
            }
        }
        Ok(())
    }

    /// Someone holds a lock: the same look again, soon.
    fn busy(&mut self, text: &str, now: Instant) {
        self.figures.busy.fetch_add(1, Relaxed);
        self.reading.look_at = Some(self.reading.knocking.next(now));
        let since = self.reading.knocking.since().unwrap_or(now);
        if now.duration_since(since) >= BUSY_MENTIONED_AFTER {
            self.source_failed(&Why::new(text), now);
        }
    }

    /// A slice of the sweep from the lowest row to the cursor: it finds rows that were inserted below the cursor.
    pub(super) fn sweep(&mut self, now: Instant) -> Result<(), Fatal> {
        if let Some(stuck) = self.reading.sweep.stuck {
            let is_there = now < stuck.until && self.intake.is_there(stuck.outbox, stuck.obstacle, now);
            if is_there || planted::is(Bug::SweepStaysStuck) {
                return Ok(());
            }
        }
        self.reading.sweep.stuck = None;
        let position = match self.reading.sweep.running {
            Some(position) => position,
            None if self.reading.sweep.not_before <= now && self.wants_sweep() => {
                let sweep = &mut self.reading.sweep;
                sweep.spent = Duration::ZERO;
                let wanted = std::mem::take(&mut sweep.wanted);
                for outbox in &mut self.intake.outboxes {
                    outbox.unswept |= wanted;
                }
                Position::start_of(0)
            }
            None => return Ok(()),
        };
        // The others have nothing below their cursors, or nobody could take it now: not a turn of the loop for each.
        let next = (position.outbox..self.intake.outboxes.len()).find(|at| self.may_sweep(*at));
        let Some(at) = next else {
            // What lay below a cursor that has fallen since is a look's to find.
            for outbox in &mut self.intake.outboxes {
                if outbox.ledger.fell() {
                    outbox.may_have_more();
                }
                outbox.unswept &= outbox.ledger.cursor().is_some();
            }
            let pause = self.reading.sweep.spent.saturating_mul(SWEEP_PAUSE_FACTOR).max(SWEEP_EVERY);
            self.reading.sweep.running = None;
            self.reading.sweep.not_before = now + pause;
            return Ok(());
        };
        let position = if at == position.outbox { position } else { Position::start_of(at) };
        self.reading.sweep.running = Some(Position::start_of(at + 1));
        let Some(cursor) = self.intake.outboxes[at].ledger.cursor() else { return Ok(()) };
        let to = position.to.map_or(cursor.rowid, |to| to.min(cursor.rowid));
        let ix = OutboxIx(at as u16);
        // The cursor's row as well: it may be one in quarantine, which the application rewrites.
        let taken = self.intake.taken;
        let (result, last) = self.slice(ix, Start::From(position.from), SWEEP_ROWS, to.checked_add(1), now);
        let next =
            Position { outbox: at, from: last.map_or(position.from, |last| last.saturating_add(1)), to: Some(to) };
        let obstacle = self.intake.stopped.take().and_then(|(_, obstacle)| obstacle);
        self.intake.leave_skipped(ix, false, obstacle, now);
        self.set_unsendable_aside();
        match result {
            Ok(look) => {
                // What was found had to be read anyhow.
                if self.intake.taken == taken {
                    self.reading.sweep.spent += look.held;
                }
                match look.end {
                    LookEnd::Budget { .. } => self.reading.sweep.running = Some(next),
                    // No room for a row found below the cursor.
                    LookEnd::Stopped => {
                        self.reading.sweep.running = Some(next);
                        let until = now + SWEEP_EVERY;
                        self.reading.sweep.stuck = obstacle.map(|obstacle| Stuck { outbox: ix, obstacle, until });
                    }
                    LookEnd::End | LookEnd::MarkGone => self.intake.outboxes[at].unswept = false,
                }
                Ok(())
            }
            Err(error) => {
                // Beside somebody who locks often one that began anew would never come to its end.
                if matches!(error, SourceError::Busy(_) | SourceError::Yielded) {
                    self.reading.sweep.running = Some(next);
                }
                self.look_failed(ix, error, now)
            }
        }
    }

    /// Whether there is an outbox of which rows below the cursor are to be looked for, and can be.
    pub(super) fn wants_sweep(&self) -> bool {
        self.reading.sweep.wanted || (0..self.intake.outboxes.len()).any(|at| self.may_sweep(at))
    }

    fn may_sweep(&self, at: usize) -> bool {
        let outbox = &self.intake.outboxes[at];
        outbox.unswept && outbox.retry_at.is_none() && outbox.ledger.cursor().is_some() && self.may_look(at)
    }
}
