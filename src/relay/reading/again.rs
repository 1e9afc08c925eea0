//! Batches whose bytes were given back while they waited for their broker: read again, in short looks, before the next attempt.
//!
//! Promises: a triple stands for the same bytes, for ever (invariant I1): what is read is compared with what was given back. Rows that
//! the application has changed or removed since are never sent under the old triple. Does not know: why a lane waits.

use super::RETRY_EVERY;
use crate::model::{Budget, Flow, LookEnd, OutboxIx, Plan, RowKey, RowMeta, RowView, Rows, Start};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use crate::relay::answers::take_rows;
use crate::relay::backoff::Backoff;
use crate::relay::evidence::KNOWN_FOR;
use crate::relay::flight::{Digest, Doubt, Flight, Stage};
use crate::relay::lanes::Standing;
use crate::relay::recovery::SKIPPED_ROWS_MAX;
use crate::relay::recovery::in_order;
use crate::relay::{Fatal, Limits, Party, Producer, Relay};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLICE_ROWS: usize = 1_000;
const SLICE_TIME: Duration = Duration::from_millis(1);
/// So many bytes a second are read for attempts that may be in vain; one large row keeps the others for no longer than the time below.
const BYTES_A_SECOND: u64 = 1 << 20;
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// There was no memory for any of them.
const NO_ROOM_RETRY: Duration = Duration::from_millis(100);

/// See the module's words.
#[derive(Debug)]
pub(super) struct Again {
    search: Option<Search>,
    not_before: Instant,
    pace: Backoff,
}

/// One batch whose rows are being read.
#[derive(Debug)]
struct Search {
    lane: u32,
    plan: Arc<Plan>,
    /// Places in the batch, by outbox and rowid.
    order: Vec<usize>,
    at: usize,
    /// As they were, in the order in which they were come to.
    rows: Rows,
    places: Vec<usize>,
    reserved_bytes: usize,
}

impl Search {
    fn key(&self, at: usize) -> Option<RowKey> {
        self.order.get(at).map(|place| self.plan.rows.meta[*place].key)
    }
}

impl Again {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        let pace = Backoff::new(limits.retry_backoff, limits.retry_backoff_max);
        Again { search: None, not_before: now, pace }
    }

    pub(super) fn is_running(&self) -> bool {
        self.search.is_some()
    }

    pub(super) fn deadline(&self, now: Instant) -> Instant {
        if self.search.is_some() { now } else { self.not_before.max(now) }
    }

    /// A batch that had waited was stored: the others need not wait for their turn.
    pub(super) fn well(&mut self, now: Instant) {
        self.pace.reset();
        self.not_before = now;
    }
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// One look for the rows of one batch.
    pub(super) fn read_again(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.reading.again.search.is_none() && !self.begin_again(now) {
            return Ok(());
        }
        let Some(mut search) = self.reading.again.search.take() else { return Ok(()) };
        let flight = self.intake.lanes[search.lane as usize].flight.as_ref();
        let same = |flight: &Flight| flight.stage() == Stage::Unread && Arc::ptr_eq(&flight.plan, &search.plan);
        if !flight.is_some_and(same) {
            self.give_up_search(&search);
            return Ok(());
        }
        match self.search_slice(&mut search) {
            Ok(()) => {
                self.reading.not_busy();
                self.reading.used(now);
            }
            Err(error) => {
                let outbox = search.key(search.at).map_or(OutboxIx(0), |key| key.outbox);
                if matches!(error, SourceError::Busy(_) | SourceError::Yielded) {
                    self.reading.again.search = Some(search);
                } else {
                    self.give_up_search(&search);
                    self.reading.again.not_before = now + RETRY_EVERY;
                    // A table may be away for long: the others' turn is next, and what was never sent need not hold up its lane.
                    self.waiting.retain(|other| *other != search.lane);
                    self.waiting.push(search.lane);
                    let away = matches!(error, SourceError::NotThere(_) | SourceError::NotAnOutbox { .. });
                    let flight = self.intake.lanes[search.lane as usize].flight.as_ref();
                    if away && flight.is_some_and(Flight::never_sent) {
                        self.unplan(search.lane);
                    }
                }
                return self.look_failed(outbox, error, now);
            }
        }
        if search.at < search.order.len() {
            self.reading.again.search = Some(search);
            return Ok(());
        }
        self.search_ended(search, now)
    }

    /// The batch that failed least often, and of those the one that waits longest, if it is time and there is memory for it.
    fn begin_again(&mut self, now: Instant) -> bool {
        if now < self.reading.again.not_before {
            return false;
        }
        let unread = |ix: &u32| {
            let flight =
                self.intake.lanes[*ix as usize].flight.as_ref().filter(|flight| flight.stage() == Stage::Unread)?;
            let bytes = flight.without().map_or(0, |digest| digest.bytes);
            Some((self.intake.lanes[*ix as usize].backoff.failures(), *ix, bytes))
        };
        let mut unread: Vec<(u32, u32, usize)> = self.waiting.iter().filter_map(unread).collect();
        if unread.is_empty() {
            return false;
        }
        // Those that failed often are of brokers that are away: others' need not wait for them.
        unread.sort_by_key(|(failures, ..)| *failures);
        let mut fitting = unread.into_iter();
        let Some((_, ix, reserved_bytes)) = fitting.find(|(_, ix, bytes)| self.make_room_apart(*ix, *bytes)) else {
            self.reading.again.not_before = now + NO_ROOM_RETRY;
            return false;
        };
        let Some(flight) = &self.intake.lanes[ix as usize].flight else { return false };
        let plan = flight.plan.clone();
        self.intake.memory.take_apart(0, reserved_bytes);
        let mut order: Vec<usize> = (0..plan.rows.len()).collect();
        order.sort_by_key(|place| plan.rows.meta[*place].key);
        let rows = Rows { bytes: Vec::with_capacity(reserved_bytes), meta: Vec::new() };
        let search = Search { lane: ix, plan, order, at: 0, rows, places: Vec::new(), reserved_bytes };
        self.reading.again.search = Some(search);
        true
    }

    /// Takes the bytes of others that wait, until there is room for this one's.
    fn make_room_apart(&mut self, ix: u32, bytes: usize) -> bool {
        if self.intake.memory.admits_apart(bytes) {
            return true;
        }
        let memory = &self.intake.memory;
        let (mut others, mut given) = (Vec::new(), 0);
        for other in self.plans.values().copied().filter(|other| *other != ix) {
            let Some(flight) = &self.intake.lanes[other as usize].flight else { continue };
            let theirs = flight.plan.rows.bytes.len();
            let alike = memory.is_large(theirs) == memory.is_large(bytes);
            if theirs > 0 && flight.apart && flight.stage().is_stuck() && alike {
                others.push(other);
                given += theirs;
            }
            if memory.admits_apart_without(given, bytes) {
                break;
            }
        }
        if !memory.admits_apart_without(given, bytes) {
            return false;
        }
        for other in others {
            self.intake.strip(other);
        }
        true
    }

    fn give_up_search(&mut self, search: &Search) {
        self.intake.memory.give_apart(0, search.reserved_bytes);
    }

    fn search_slice(&mut self, search: &mut Search) -> Result<(), SourceError> {
        let Some(first) = search.key(search.at) else { return Ok(()) };
        let outbox = first.outbox;
        let of_outbox = |place: &usize| search.plan.rows.meta[*place].key.outbox <= outbox;
        let end = search.order.partition_point(of_outbox);
        let last = search.key(end - 1).map_or(i64::MAX, |key| key.rowid);
        let budget = Budget { rows: SLICE_ROWS, time: SLICE_TIME, before: last.checked_add(1) };
        let Search { plan, order, at, rows, places, .. } = search;
        let (intake, mut skipped) = (&mut self.intake, 0);
        let rowid_at = |at: usize| plan.rows.meta[order[at]].key.rowid;
        let look = self.source.at_disk().look(outbox, Start::From(first.rowid), budget, &mut |row: &RowView<'_>| {
            while *at < end && rowid_at(*at) < row.rowid {
                *at += 1;
            }
            if *at == end {
                return Flow::Stop;
            }
            if rowid_at(*at) != row.rowid {
                skipped += 1;
                return if skipped > SKIPPED_ROWS_MAX { Flow::Stop } else { Flow::Continue };
            }
            skipped = 0;
            // After a renumbering two of them may go by one rowid, and only one is there.
            while *at < end && rowid_at(*at) == row.rowid {
                let place = order[*at];
                let meta = plan.rows.meta[place];
                *at += 1;
                if meta.print == row.print && row.unreadable.is_none() {
                    let route = &intake.outboxes[usize::from(outbox.0)].route;
                    intake.encoder.append_again(outbox, route, row, (plan.run, meta.message), rows);
                    places.push(place);
                    while *at < end && rowid_at(*at) == row.rowid {
                        *at += 1;
                    }
                }
            }
            Flow::Continue
        })?;
        if look.end == LookEnd::End {
            *at = end;
        }
        Ok(())
    }

    /// All of the batch's rows were looked for.
    fn search_ended(&mut self, search: Search, now: Instant) -> Result<(), Fatal> {
        let Search { lane: ix, plan, rows, places, reserved_bytes, .. } = search;
        self.intake.memory.give_apart(0, reserved_bytes);
        let Some(mut flight) = self.intake.lanes[ix as usize].flight.take() else { return Ok(()) };
        let read = Duration::from_micros(reserved_bytes as u64 * 1_000_000 / BYTES_A_SECOND).min(PAUSE_MAX);
        self.reading.again.not_before = self.reading.again.pace.next(now, &mut self.random).max(now + read);
        let mut there = vec![false; plan.rows.len()];
        for place in &places {
            there[*place] = true;
        }
        let rows = in_order(rows, &places);
        let whole = rows.len() == plan.rows.len() && flight.without() == Some(Digest::of(&rows.bytes));
        let gone = plan.rows.meta.iter().zip(&there).filter(|(_, there)| !**there);
        let gone: Vec<RowMeta> = gone.map(|(meta, _)| *meta).collect();
        if rows.is_empty() || (!whole && flight.never_sent()) {
            self.intake.lanes[ix as usize].flight = Some(flight);
            self.unplan(ix);
            return Ok(());
        }
        self.intake.memory.give_apart(plan.rows.len(), 0);
        self.intake.memory.take_apart(rows.len(), rows.bytes.len());
        flight.has_rows_again(rows);
        self.let_go_of(&gone);
        if !whole && flight.doubt() != Some(&Doubt::Left { whole: false }) {
            // The leader knows the batch by the number of all its rows, whatever became of them since.
            self.waiting.retain(|other| *other != ix);
            self.ask_about(plan, ix, flight, Doubt::Left { whole: false });
            return Ok(());
        }
        let Some(word) = flight.was_read() else {
            let forgotten = flight.is_unsure() && flight.unanswered_for(now, self.clock.wall()) >= KNOWN_FOR;
            self.intake.lanes[ix as usize].flight = Some(flight);
            if forgotten {
                self.ask_before_resend(ix);
            }
            return Ok(());
        };
        self.waiting.retain(|other| *other != ix);
        self.intake.lanes[ix as usize].flight = Some(flight);
        self.on_evidence(plan.id, word, now)
    }

    /// Rows that the application changed or removed while their batch was under way: what lies there is looked at anew.
    fn let_go_of(&mut self, gone: &[RowMeta]) {
        for meta in gone {
            self.intake.outbox(meta.key.outbox).ledger.let_go(&[meta.key.rowid]);
        }
    }

    /// The lane's batch can't be sent as it was planned, and nothing was ever appended of it, or nothing is left of it: its rows go back
    /// to the table, and the next epoch fences it.
    fn unplan(&mut self, ix: u32) {
        let Some(mut flight) = self.intake.lanes[ix as usize].flight.take() else { return };
        self.waiting.retain(|other| *other != ix);
        self.intake.well_again(&mut flight);
        let again = flight.again || flight.is_unsure();
        let plan = flight.plan;
        self.plans.remove(&plan.id);
        self.sink_troubles.forget(Party::Lane(ix));
        let lane = &mut self.intake.lanes[ix as usize];
        lane.standing = Standing::Running;
        lane.trouble = false;
        if lane.is_known_as(plan.triple.producer_id) {
            lane.bump_epoch();
            if !lane.has_identity() {
                self.producer = Producer::Unknown;
            }
        }
        if let Some(older) = lane.replacing.replace(plan.id) {
            self.settling.forget(older);
        }
        let run = plan.run;
        let rows = take_rows(plan);
        if again {
            self.intake.resends.keep_rows(&rows, run);
        }
        // What was collected meanwhile lies behind them.
        self.intake.give_back(ix);
        self.intake.give_back_rows(ix, rows);
        self.forget_replaced(ix);
        self.intake.make_ready(ix);
    }
}
