//! Dispatch: the only place where plans are made, and the only order: what was read is made durable, the plans go into the state
//! file in one transaction, then the batches leave.
//!
//! Promises: nothing is sent that is not in the state file; a batch once planned keeps its rows and its triple. Does not know: rows.

use super::evidence::KNOWN_FOR;
use super::flight::{Flight, Stage};
use super::lanes::{LATE_AFTER, Standing};
use super::{LATE_CHECK_EVERY, Producer, Relay};
use crate::failpoint;
use crate::model::{ClusterId, Plan, PlanId, Rows, RunId, SentForm, Triple};
use crate::ports::{Change, Clock, Journal, Manner, Sink, Source, SourceError};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

/// After a failed sync or a failed write of the state file.
const DISPATCH_RETRY: Duration = Duration::from_millis(200);
/// Beside an active application, so many times as long as a dispatch took nothing is dispatched after it, and no longer than this:
/// each is two syncs, and lanes whose answers come one after the other share one.
const PACE: u32 = 2;
const PACE_MAX: Duration = Duration::from_millis(2);
/// The clock is wrong.
const CLOCK_RETRY: Duration = Duration::from_secs(1);
/// The sink's channel was full.
const FULL_RETRY: Duration = Duration::from_millis(1);

/// A batch that the state file has to know before it is sent.
struct Unrecorded {
    lane: u32,
    /// In the place of which other one.
    replacing: Option<PlanId>,
    plan: [Arc<Plan>; 1],
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// Whether lanes that are ready could be planned now.
    pub(super) fn can_dispatch(&self) -> bool {
        self.draining.is_none()
            && self.reading.matching.is_none()
            && self.wall.is_right()
            && matches!(self.producer, Producer::Known(_))
    }

    /// Plans and sends what is ready.
    pub(super) fn dispatch(&mut self, now: Instant) {
        if self.dispatch_at.is_some_and(|at| now < at) {
            return;
        }
        if !self.intake.ready.is_empty() && self.producer == Producer::Unknown && self.draining.is_none() {
            self.producer = Producer::Asked;
            self.sink.producer();
        }
        let unrecorded = self.waiting.iter().any(|ix| self.stage_is(*ix, Stage::Unrecorded));
        let ready = self.can_dispatch() && !self.intake.ready.is_empty();
        if !ready && !unrecorded {
            self.send_unsent(now);
            return;
        }
        let begun = self.clock.now();
        if !self.is_durable(now) {
            return;
        }
        failpoint::hit("synced");
        self.settling.synced();
        if ready {
            self.plan_ready();
        }
        if self.record(now) {
            self.send_unsent(now);
            if !self.settling.is_alone() {
                let ended = self.clock.now();
                self.dispatch_at = Some(ended + (ended.duration_since(begun) * PACE).min(PACE_MAX));
            }
        }
    }

    fn stage_is(&self, ix: u32, stage: Stage) -> bool {
        self.intake.lanes[ix as usize].flight.as_ref().is_some_and(|flight| flight.stage() == stage)
    }

    /// Whether what was read survives a power cut.
    fn is_durable(&mut self, now: Instant) -> bool {
        let answer = self.source.at_disk().make_durable();
        match answer {
            Ok(()) => self.sync_trouble.over(now),
            Err(error) => {
                self.could_not_sync(error, now);
                return false;
            }
        }
        true
    }

    fn could_not_sync(&mut self, error: SourceError, now: Instant) {
        match error {
            SourceError::Busy(_) | SourceError::Yielded => {}
            SourceError::Replaced { text, another } => self.replaced(&text, &another, now),
            other => self.sync_trouble.happened(now, &format!("what was read could not be made durable: {other}")),
        }
        self.dispatch_at = Some(now + DISPATCH_RETRY);
    }

    /// Turns what the ready lanes have collected into plans.
    fn plan_ready(&mut self) {
        let Producer::Known(producer_id) = self.producer else { return };
        let first_attempt = self.clock.wall();
        // In the order in which rows were taken: of plans with the same rows the later one counts after a crash.
        for ix in std::mem::take(&mut self.intake.ready) {
            let lane = &mut self.intake.lanes[ix as usize];
            lane.queued = false;
            if lane.has_flight() || lane.standing != Standing::Running || !lane.has_rows() {
                continue;
            }
            if !lane.has_identity() {
                lane.introduce(producer_id);
            }
            let Some(batch) = lane.next_batch() else { continue };
            let triple = lane.number(batch.rows.len());
            let (topic, partition) = (lane.topic, lane.target.partition);
            let plan = self.new_plan(ix, triple, self.cluster.clone(), batch.run, first_attempt, batch.rows);
            let mut flight = Flight::new(plan, batch.seen);
            flight.again = batch.again;
            self.fly(ix, flight);
            self.intake.turn_null_partition(topic, partition);
            self.figures.batches.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn new_plan(
        &mut self,
        ix: u32,
        triple: Triple,
        cluster: Option<ClusterId>,
        run: RunId,
        first_attempt: SystemTime,
        rows: Rows,
    ) -> Arc<Plan> {
        let lane = &self.intake.lanes[ix as usize];
        let plan = Plan {
            id: PlanId(self.next_plan),
            target: lane.target.clone(),
            triple,
            run,
            // A lane takes rows once its end is known; the log's beginning would be a lower bound, too.
            noted_offset: lane.noted_offset.unwrap_or(0),
            leader_epoch: lane.leader_epoch,
            cluster,
            first_attempt,
            rows: Arc::new(rows),
            sent_form: SentForm::default(),
        };
        self.next_plan += 1;
        Arc::new(plan)
    }

    /// The lane's one batch, on its way from here on.
    pub(super) fn fly(&mut self, ix: u32, flight: Flight) {
        self.plans.insert(flight.plan.id, ix);
        self.waiting.push(ix);
        self.intake.lanes[ix as usize].flight = Some(flight);
    }

    /// One state file transaction: the new plans, the acknowledgements and the settled plans since the last one.
    pub(super) fn record(&mut self, now: Instant) -> bool {
        // What was counted is said before anything follows from it.
        self.say_unsure();
        // That a row was rewritten or removed is not forgotten by a power cut that gives it back: it was published.
        if (self.quarantine.has_releases() || self.intake.resends.has_ends()) && !self.is_durable(now) {
            return false;
        }
        let lanes = &self.intake.lanes;
        let unrecorded: Vec<Unrecorded> = self
            .waiting
            .iter()
            .filter_map(|ix| {
                let lane = &lanes[*ix as usize];
                let flight = lane.flight.as_ref().filter(|flight| flight.stage() == Stage::Unrecorded)?;
                Some(Unrecorded { lane: *ix, replacing: lane.replacing, plan: [flight.plan.clone()] })
            })
            .collect();
        let planned = || unrecorded.iter().flat_map(|unrecorded| &unrecorded.plan[0].rows.meta).map(|meta| meta.key);
        let mut changes: Vec<Change<'_>> = self.quarantine.changes();
        let notes = changes.len();
        changes.extend(self.intake.resends.changes(planned()));
        changes.extend(self.settling.changes());
        for Unrecorded { replacing, plan, .. } in &unrecorded {
            changes.push(match replacing {
                Some(old) => Change::Replaced { old: *old, new: plan },
                None => Change::Planned(&plan[0]),
            });
        }
        changes.extend(self.settling.doubts());
        let stamp = self.clock.wall();
        if !unrecorded.is_empty() && self.wall.is_right() {
            changes.push(Change::Stamped { at: stamp });
        }
        if changes.is_empty() {
            return true;
        }
        // Acknowledgements alone need no sync: lost in a power cut, the broker is asked again.
        let sync = self.intake.limits.power_loss && !unrecorded.is_empty();
        self.journal.at_disk().reads_from(self.reading.origin);
        let answer = self.journal.at_disk().record(&changes, sync);
        if let Err(error) = answer {
            self.intake.resends.not_recorded(planned());
            self.journal_trouble.happened(now, &error.to_string());
            self.dispatch_at = Some(now + DISPATCH_RETRY);
            return false;
        }
        self.journal_trouble.over(now);
        self.dispatch_at = None;
        for change in &changes {
            match change {
                Change::Acknowledged { .. } => failpoint::hit("acknowledged"),
                Change::Settled { .. } => failpoint::hit("settled"),
                Change::Planned(_) | Change::Replaced { .. } => failpoint::hit("planned"),
                _ => {}
            }
        }
        drop(changes);
        self.intake.resends.recorded(planned());
        self.quarantine.recorded(notes);
        self.settling.recorded();
        if sync || !self.intake.limits.power_loss {
            self.settling.state_synced();
        }
        if !unrecorded.is_empty() && self.wall.is_right() {
            self.wall.stamped(stamp);
        }
        for Unrecorded { lane, .. } in unrecorded {
            let lane = &mut self.intake.lanes[lane as usize];
            lane.replacing = None;
            if let Some(flight) = &mut lane.flight {
                flight.recorded();
            }
        }
        true
    }

    /// Hands over what is planned and recorded. Every attempt is stamped with its own time.
    fn send_unsent(&mut self, now: Instant) {
        if !self.wall.is_right() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|ix| {
            let lane = &mut self.intake.lanes[*ix as usize];
            let manner = if lane.trouble { Manner::Alone } else { Manner::Merged };
            let Some(flight) = &mut lane.flight else { return false };
            if flight.stage() != Stage::Recorded {
                return !flight.stage().is_out();
            }
            if self.sink.send(&flight.plan, manner).is_err() {
                return true;
            }
            failpoint::hit("sent");
            flight.sent(now);
            false
        });
        self.waiting = waiting;
    }

    /// Lanes whose time for another attempt has come, and lanes whose answer is late.
    pub(super) fn retry_lanes(&mut self, now: Instant) {
        let mut forgotten = Vec::new();
        for ix in &self.waiting {
            let lane = &mut self.intake.lanes[*ix as usize];
            if let Some(flight) = &mut lane.flight
                && let Stage::Waiting { until } = flight.stage()
                && until <= now
            {
                if flight.is_unsure() && flight.unanswered_for(now, self.clock.wall()) >= KNOWN_FOR {
                    forgotten.push(*ix);
                } else {
                    flight.goes_again();
                }
            }
        }
        for ix in forgotten {
            self.ask_before_resend(ix);
        }
        if now < self.late_check_at + LATE_CHECK_EVERY {
            return;
        }
        self.late_check_at = now;
        let mut late: Vec<u32> = Vec::new();
        for ix in self.plans.values() {
            let lane = &self.intake.lanes[*ix as usize];
            let Some(Stage::Sent { at }) = lane.flight.as_ref().map(Flight::stage) else { continue };
            if !lane.trouble && now.duration_since(at) >= LATE_AFTER {
                late.push(*ix);
            }
        }
        for ix in late {
            self.in_trouble(ix);
        }
    }

    /// The lane travels alone from now on, and what it had collected makes room for the others.
    pub(super) fn in_trouble(&mut self, ix: u32) {
        self.intake.lanes[ix as usize].trouble = true;
        self.intake.set_apart(ix);
    }

    pub(super) fn lane_deadline(&self, ix: u32, now: Instant) -> Option<Instant> {
        let lane = &self.intake.lanes[ix as usize];
        match lane.flight.as_ref()?.stage() {
            Stage::Unrecorded => Some(self.dispatch_at.unwrap_or(now)),
            Stage::Recorded if !self.wall.is_right() => Some(now + CLOCK_RETRY),
            Stage::Recorded => Some(now + FULL_RETRY),
            Stage::Unread => self.reading.again_at(now),
            Stage::Sent { .. } | Stage::Asking | Stage::Unanswered => None,
            Stage::Waiting { until } => Some(until),
        }
    }
}
