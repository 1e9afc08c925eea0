//! What each turn asks: whether rows could be taken now, and whether a look for them is worth while.
//!
//! Promises: changes nothing, so nobody has to say that something has changed. Does not know: when looks happen.

use super::{Behind, Intake, Place};
use crate::model::{OutboxIx, RowKey};
use crate::relay::lanes::Standing;
use crate::relay::ledger::{Leaver, Obstacle, Wanted};
use crate::relay::planted::{self, Bug};
use std::time::Instant;

impl Intake {
    /// Whether it is still in the way of a row of this outbox.
    pub fn is_there(&self, ix: OutboxIx, obstacle: Obstacle, now: Instant) -> bool {
        if planted::is(Bug::ObstaclesStay) {
            return true;
        }
        match obstacle {
            Obstacle::Stops(wanted) => matches!(self.room(wanted, now), Place::Stop(_)),
            Obstacle::Memory(bytes) => !self.memory.admits(bytes),
            Obstacle::Held(rowid) => {
                let is_held = self.outboxes[usize::from(ix.0)].ledger.holds(rowid);
                is_held && !self.is_suspect(RowKey { outbox: ix, rowid })
            }
        }
    }

    fn is_suspect(&self, key: RowKey) -> bool {
        let mut suspects = self.topics.iter().flat_map(|topic| topic.breaker.suspects());
        suspects.any(|suspect| suspect.row.meta[0].key == key)
    }

    /// The lowest row below the outbox's cursor that a look could do something with now.
    pub fn lowest(&self, ix: OutboxIx, now: Instant) -> Option<i64> {
        let ledger = &self.outboxes[usize::from(ix.0)].ledger;
        ledger.lowest(|leaver, obstacle| self.is_of_use(ix, leaver, obstacle, now))
    }

    /// Whether a look could do something with what is left of the outbox, or whether nobody knows what there is.
    pub fn wants_look(&self, ix: OutboxIx, now: Instant) -> bool {
        let outbox = &self.outboxes[usize::from(ix.0)];
        let more = match outbox.more {
            Behind::No => outbox.ledger.has_above(|_, _| true),
            Behind::Ready => true,
            Behind::Unwanted => {
                (self.has_takers(ix, true) && !planted::is(Bug::NobodyEverWants))
                    || outbox.ledger.has_above(|leaver, obstacle| self.is_of_use(ix, leaver, obstacle, now))
            }
            Behind::Stopped(obstacle) => !self.is_there(ix, obstacle, now),
        };
        more || self.lowest(ix, now).is_some()
    }

    /// Whether what this leaver has left could be taken now, or what is looked at whoever takes it.
    fn is_of_use(&self, ix: OutboxIx, leaver: Option<Leaver>, obstacle: Option<Obstacle>, now: Instant) -> bool {
        leaver.is_none_or(|leaver| self.has_room_for(ix, leaver))
            && !obstacle.is_some_and(|obstacle| self.is_there(ix, obstacle, now))
    }

    /// Whether some lane could take a row of this outbox. `unmarked`: one that has not left a row before.
    pub fn has_takers(&self, ix: OutboxIx, unmarked: bool) -> bool {
        let outbox = &self.outboxes[usize::from(ix.0)];
        // A template may lead to a topic that nobody has seen yet.
        let Some(literal) = outbox.route.literal() else { return true };
        let Some(topic) = self.known_topic(literal).map(|topic| &self.topics[topic as usize]) else { return true };
        if !self.memory.has_rows_left() {
            return false;
        }
        topic.lanes.iter().take(topic.starts.len().max(1)).any(|lane| {
            lane.is_none_or(|lane| self.takes(lane) && !(unmarked && outbox.ledger.is_marked(Leaver::Lane(lane))))
        })
    }

    /// Whether the lane takes rows, as far as its broker is concerned.
    pub(super) fn takes(&self, ix: u32) -> bool {
        let lane = &self.lanes[ix as usize];
        lane.standing == Standing::Running
            && lane.noted_offset.is_some()
            && self.topics[lane.topic as usize].breaker.admits(ix, lane)
            && !lane.flight.as_ref().is_some_and(|flight| lane.trouble || flight.apart || flight.stage().is_stuck())
    }

    /// Whether the leaver could take rows of this outbox now.
    fn has_room_for(&self, ix: OutboxIx, leaver: Leaver) -> bool {
        self.memory.has_rows_left()
            && match leaver {
                Leaver::Topic(topic) => self.topics[topic as usize].is_open(),
                Leaver::Lane(at) => {
                    let lane = &self.lanes[at as usize];
                    let exhausted = self.topics[lane.topic as usize].breaker.is_exhausted(ix);
                    self.takes(at) && lane.collecting.is_none() && !exhausted
                }
            }
    }

    /// Where a row that would be sent goes.
    pub(super) fn room(&self, wanted: Wanted, now: Instant) -> Place {
        let Wanted { lane: ix, run, alone, bytes } = wanted;
        let leave = Place::Leave(Leaver::Lane(ix), None);
        let stop = Place::Stop(Obstacle::Stops(wanted));
        // What a lane collects that waits for its broker would be taken from the others' memory.
        if !self.takes(ix) {
            return leave;
        }
        let lane = &self.lanes[ix as usize];
        let topic = &self.topics[lane.topic as usize];
        if !self.memory.has_rows_left() {
            // Nobody can take a row.
            return stop;
        }
        let fits = match &lane.collecting {
            None => true,
            // A batch carries the message ids of one run.
            Some(batch) if batch.run != run || batch.alone || alone => false,
            Some(batch) => {
                // Each batch may have a quarter of what it and the free memory make: what is left is the next lanes'.
                let share = (batch.rows.bytes.len() + self.memory.free()) / 4;
                let rows_max = self.limits.batch_rows_max.min(self.memory.batch_rows_max());
                let bytes = batch.rows.bytes.len() + bytes;
                bytes <= topic.batch_bytes_max(self.limits.batch_bytes_max).min(share) && batch.rows.len() < rows_max
            }
        };
        if !fits {
            return if lane.room_soon(now) { stop } else { leave };
        }
        if self.memory.admits(bytes) {
            return Place::Lane(ix);
        }
        // Stopping is right only if somebody gives back memory for sure: a row that waits for memory must not hold up those behind it
        // that need less.
        if self.memory.free() == 0 || self.gives_soon(now) {
            return stop;
        }
        Place::Leave(Leaver::Lane(ix), Some(Obstacle::Memory(bytes)))
    }

    /// Whether some lane will give back memory soon.
    fn gives_soon(&self, now: Instant) -> bool {
        if let Some((at, soon)) = self.soon.get()
            && at == now
        {
            return soon;
        }
        let soon = self.lanes.iter().any(|lane| lane.gives_soon(now));
        self.soon.set(Some((now, soon)));
        soon
    }
}
