//! What a partition's leader says of a batch that answers alone can't settle, and what follows from it.
//!
//! Promises: rows of such a batch are never sent under another triple before the leader was asked (I3); what can't be proved is
//! counted. Does not know: how a leader is asked.

use super::answers::take_rows;
use super::flight::{Doubt, Flight, Stage};
use super::intake::without_records;
use super::lanes::{Batch, EPOCH_MAX, Standing};
use super::planted::{self, Bug};
use super::{Fatal, Party, Producer, Relay};
use crate::model::{Evidence, Plan, PlanId, Triple, Why};
use crate::ports::{Clock, Journal, Sink, Source};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A leader knows a producer for a day (`producer.id.expiration.ms`), unless it is told otherwise: when half of it is over, a resend
/// of what may be stored is not certain to be recognised.
pub(super) const KNOWN_FOR: Duration = Duration::from_secs(12 * 60 * 60);

/// How many epochs of an earlier run's producer id are left out at most.
const EPOCHS_SKIPPED_MAX: i16 = 1_000;

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// What became of the batch can't be told from answers alone: nothing is sent to its lane before the leader has said.
    pub(super) fn ask(&mut self, ix: u32, flight: Flight, doubt: Doubt) {
        // Asked about for as long as it takes: not with the bytes.
        let plan = Arc::new(without_records(&flight.plan));
        self.ask_about(plan, ix, flight, doubt);
    }

    /// `asked`: the batch as its leader knows it, whatever became of its rows since. While somebody still has it, it is asked later.
    pub(super) fn ask_about(&mut self, asked: Arc<Plan>, ix: u32, mut flight: Flight, doubt: Doubt) {
        let lane = &mut self.intake.lanes[ix as usize];
        let asked = if lane.unanswered.is_some() && !planted::is(Bug::AskedBeforeTheAnswer) {
            Some(asked)
        } else {
            self.sink.look_up(&asked, doubt.sought());
            None
        };
        lane.standing = Standing::Asking;
        flight.asks(doubt, asked);
        lane.flight = Some(flight);
        self.in_trouble(ix);
    }

    /// The leader may have forgotten us since the batch may have been stored: it is asked before the batch goes again.
    pub(super) fn ask_before_resend(&mut self, ix: u32) {
        let Some(flight) = self.intake.lanes[ix as usize].flight.take() else { return };
        log::info!(
            "{}: a batch of {} rows may have been stored more than {} h ago: its leader is asked before it is sent again",
            flight.plan.target,
            flight.plan.rows.len(),
            KNOWN_FOR.as_secs() / 3_600
        );
        self.ask(ix, flight, Doubt::Left { whole: true });
    }

    pub(super) fn on_evidence(&mut self, plan: PlanId, evidence: Evidence, now: Instant) -> Result<(), Fatal> {
        let stored = if let Evidence::StoredAt(offset) = evidence { Some(offset) } else { None };
        let lane = self.plans.get(&plan).copied();
        if let Some(ix) = lane.filter(|ix| self.intake.lanes[*ix as usize].unanswered == Some(plan)) {
            self.answered_late(ix, plan, stored, now);
            return Ok(());
        }
        if self.recovery.waiting.hears(plan, &evidence) {
            return Ok(());
        }
        let Some(ix) = lane else {
            return Err(Fatal(format!("the sink told of plan {}, which is not in flight", plan.0)));
        };
        let Some(mut flight) = self.intake.lanes[ix as usize].flight.take() else {
            return Err(Fatal(format!("the sink told of plan {} and its lane has nothing in flight", plan.0)));
        };
        if flight.plan.id != plan || flight.stage() != Stage::Asking {
            return Err(Fatal(format!("the sink told of plan {} in stage {:?}", plan.0, flight.stage())));
        }
        let about_rows =
            !matches!(evidence, Evidence::StoredAt(_) | Evidence::PartitionGone(_) | Evidence::OtherCluster(_));
        if flight.without().is_some() && about_rows && self.draining.is_none() {
            self.waiting.push(ix);
            flight.was_told(evidence);
            self.intake.lanes[ix as usize].flight = Some(flight);
            return Ok(());
        }
        self.sink_troubles.over(now, Party::Lane(ix));
        // Of another cluster's there may be one for each lane, and one line says it of all.
        let level = if matches!(evidence, Evidence::OtherCluster(_)) { log::Level::Debug } else { log::Level::Info };
        log::log!(
            level,
            "{}: what became of a batch of {} rows (producer id {}, epoch {}, sequence {}): {}",
            flight.plan.target,
            flight.plan.rows.len(),
            flight.plan.triple.producer_id,
            flight.plan.triple.epoch,
            flight.plan.triple.first_sequence,
            in_words(&evidence)
        );
        if self.draining.is_some() && !matches!(evidence, Evidence::StoredAt(_)) {
            // The next start asks again.
            self.intake.lanes[ix as usize].flight = Some(flight);
            return Ok(());
        }
        self.intake.lanes[ix as usize].standing = Standing::Running;
        match evidence {
            Evidence::StoredAt(offset) => self.stored(ix, flight, offset, now, now),
            Evidence::Remembered if planted::is(Bug::DeleteOnTheLeadersMemory) => self.stored(ix, flight, -1, now, now),
            Evidence::Remembered => self.same_again(ix, flight, now),
            Evidence::Absent => self.not_there(ix, flight, None, now),
            Evidence::Incomplete(why) => self.not_there(ix, flight, Some(&why), now),
            Evidence::Forbidden(why) => {
                // By a clock that went back nothing is young. The same triple is dropped by a leader that still knows us.
                let age = flight.unanswered_for(now, self.clock.wall());
                let young = self.wall.is_right() && age < KNOWN_FOR;
                let known = flight.doubt() == Some(&Doubt::Left { whole: true }) && young;
                self.not_there(ix, flight, Some(&why).filter(|_| !known), now);
            }
            Evidence::PartitionGone(why) => {
                self.count_unsure(&flight.plan.target.to_string(), flight.plan.rows.len(), &why.to_string());
                self.route_anew(ix, flight);
            }
            Evidence::OtherCluster(_) if planted::is(Bug::SentToAnotherCluster) => self.same_again(ix, flight, now),
            Evidence::OtherCluster(why) => self.other_cluster(ix, flight, &why),
        }
        Ok(())
    }

    /// The same rows under the same triple.
    fn same_again(&mut self, ix: u32, mut flight: Flight, now: Instant) {
        self.waiting.push(ix);
        flight.is_cleared((now, self.clock.wall()));
        self.intake.lanes[ix as usize].flight = Some(flight);
    }

    /// It was not found in the log. `doubt`: and that proves nothing.
    fn not_there(&mut self, ix: u32, mut flight: Flight, doubt: Option<&Why>, now: Instant) {
        let (target, rows) = (flight.plan.target.to_string(), flight.plan.rows.len());
        let because = |otherwise: &str| doubt.map_or_else(|| otherwise.to_owned(), ToString::to_string);
        match flight.doubt().cloned() {
            Some(Doubt::Left { whole: true }) | None => {
                if let Some(why) = doubt {
                    self.count_unsure(&target, rows, &why.to_string());
                }
                self.same_again(ix, flight, now);
            }
            Some(Doubt::Left { whole: false }) => {
                self.count_unsure(
                    &target,
                    rows,
                    &because("the application changed or removed rows of the batch meanwhile"),
                );
                self.next_epoch(ix, flight);
            }
            Some(Doubt::OutOfSequence(answer)) => {
                self.count_unsure(&target, rows, &because(&answer.to_string()));
                self.next_epoch(ix, flight);
            }
            Some(Doubt::Rejected { why, records }) => {
                // Not stored before: now the rejection can be believed.
                self.count_unsure(&target, rows, &because("a record was rejected after an attempt without an answer"));
                flight.is_unsure_now();
                self.rejected(ix, flight, &why, records, now);
            }
        }
    }

    /// The rows in a batch of their own, under a higher epoch: its append fences late copies of the old one.
    pub(super) fn next_epoch(&mut self, ix: u32, mut flight: Flight) {
        self.intake.well_again(&mut flight);
        let is_refused = matches!(flight.doubt(), Some(Doubt::OutOfSequence(_)));
        let Flight { plan, seen, next_epoch, .. } = flight;
        self.plans.remove(&plan.id);
        let (old, old_triple, cluster, run) = (plan.id, plan.triple, plan.cluster.clone(), plan.run);
        let rows = take_rows(plan);
        let lane = &mut self.intake.lanes[ix as usize];
        if let Some(older) = lane.replacing.replace(old) {
            self.settling.forget(older);
        }
        let lane = &mut self.intake.lanes[ix as usize];
        let ours = lane.is_known_as(old_triple.producer_id);
        if ours || next_epoch > EPOCH_MAX {
            if ours {
                if is_refused {
                    lane.epoch_refused();
                } else {
                    lane.bump_epoch();
                }
                if !lane.has_identity() {
                    self.producer = Producer::Unknown;
                }
            }
            self.intake.resends.keep_rows(&rows, run);
            let lane = &mut self.intake.lanes[ix as usize];
            lane.pieces.push_front(Batch { rows, run, again: true, alone: false, seen });
            self.intake.make_ready(ix);
            return;
        }
        // An earlier run's producer id: fenced by a higher epoch, and used for nothing else.
        let triple = Triple { producer_id: old_triple.producer_id, epoch: next_epoch, first_sequence: 0 };
        let first_attempt = self.clock.wall();
        let plan = self.new_plan(ix, triple, cluster, run, first_attempt, rows);
        let mut flight = Flight::new(plan, seen);
        flight.again = true;
        flight.next_epoch = self.epoch_after(triple.epoch);
        self.fly(ix, flight);
    }

    /// Of an earlier run's producer id: some are left out, for a state file that was put back does not know of those that were used after
    /// the copy was made, and a triple stands for the same bytes, for ever.
    pub(super) fn epoch_after(&mut self, epoch: i16) -> i16 {
        epoch.saturating_add(self.random.i16(1..=EPOCHS_SKIPPED_MAX))
    }

    /// Its triple can be a stranger's here: it is neither sent nor asked about.
    fn other_cluster(&mut self, ix: u32, flight: Flight, why: &Why) {
        if !std::mem::replace(&mut self.recovery.other_cluster_told, true) {
            log::error!(
                "{}: {why}. Rows that were in flight to that one are sent to this one as what they are, with the message ids they \
                 had, and may be there twice (unsure)",
                self.figures.database
            );
        }
        self.add_unsure(flight.plan.rows.len());
        self.route_anew(ix, flight);
    }

    /// There is nobody to ask and nowhere to send it: its rows are routed anew, with the message ids they had.
    fn route_anew(&mut self, ix: u32, mut flight: Flight) {
        self.intake.well_again(&mut flight);
        let plan = flight.plan;
        self.plans.remove(&plan.id);
        let rows = plan.rows.meta.iter().map(|meta| (meta.key, meta.print, meta.message)).collect();
        self.keep_ids(plan.id, plan.run, rows);
        let lane = &mut self.intake.lanes[ix as usize];
        lane.trouble = false;
        self.intake.give_back_rows(ix, take_rows(plan));
    }
}

fn in_words(evidence: &Evidence) -> String {
    match evidence {
        Evidence::StoredAt(offset) => format!("it is stored at offset {offset}"),
        Evidence::Remembered => "its leader remembers our producer, so that the same batch is stored once".to_owned(),
        Evidence::Absent => "it is not in the log".to_owned(),
        Evidence::Incomplete(why) => format!("it was not found, and that is no proof: {why}"),
        Evidence::Forbidden(why) => format!("its leader can't be asked: {why}"),
        Evidence::PartitionGone(why) => format!("its partition is gone: {why}"),
        Evidence::OtherCluster(why) => why.to_string(),
    }
}
