//! Rows and memory that are given back: to the table, to the pots, to the buffers that are kept for reuse.
//!
//! Promises: a row that goes back to the table is its lane's to come to again. Does not know: why.

use super::{Intake, by_outbox, without_records};
use crate::model::{Plan, Rows, SentForm};
use crate::relay::flight::Flight;
use crate::relay::lanes::Batch;
use crate::relay::ledger::Leaver;
use std::sync::Arc;

/// A buffer larger than this is not kept for reuse: it held a row of unusual size.
const SPARE_BYTES_MAX: usize = 2 << 20;
/// How many buffers are kept for reuse.
const SPARE_BUFFERS_MAX: usize = 2;

impl Intake {
    /// Everything a lane has collected and not planned goes back to the table, to be read again when it has room.
    pub fn give_back(&mut self, ix: u32) {
        let lane = &mut self.lanes[ix as usize];
        let batches: Vec<Batch> = lane.pieces.drain(..).chain(lane.collecting.take()).collect();
        for batch in batches {
            self.give_back_rows(ix, batch.rows);
        }
    }

    /// These rows of the lane go back to the table.
    pub fn give_back_rows(&mut self, ix: u32, rows: Rows) {
        for (outbox, marks) in by_outbox(rows.known()) {
            self.outbox(outbox).ledger.give_back(Leaver::Lane(ix), &marks);
        }
        self.forget_rows(rows);
    }

    /// An acknowledged plan is never sent again: its records' memory is free for others while its rows wait for their delete.
    pub fn without_bytes(&mut self, plan: Arc<Plan>) -> Arc<Plan> {
        self.memory.give(0, plan.rows.bytes.len());
        self.stripped(plan)
    }

    pub(super) fn stripped(&mut self, plan: Arc<Plan>) -> Arc<Plan> {
        match Arc::try_unwrap(plan) {
            Ok(mut plan) => {
                let rows = std::mem::take(&mut plan.rows);
                let meta = match Arc::try_unwrap(rows) {
                    Ok(Rows { bytes, meta }) => {
                        self.keep_spare(bytes);
                        meta
                    }
                    Err(rows) => rows.meta.clone(),
                };
                plan.rows = Arc::new(Rows { bytes: Vec::new(), meta });
                plan.sent_form = SentForm::default();
                Arc::new(plan)
            }
            // The sink has not let go of it yet; it will in a moment, and then only what is copied here is kept.
            Err(plan) => Arc::new(without_records(&plan)),
        }
    }

    /// The lane waits for its broker: what it collected goes back to the table, and its batch is counted with what waits. Where there
    /// is no room for the batch's bytes any more they are given back as well: they are read again before the next attempt.
    pub fn set_apart(&mut self, ix: u32) {
        self.give_back(ix);
        let Some(flight) = &mut self.lanes[ix as usize].flight else { return };
        let large = self.memory.is_large(flight.plan.rows.bytes.len());
        if flight.apart && !large {
            return;
        }
        flight.apart |= self.memory.set_apart(flight.plan.rows.len(), flight.plan.rows.bytes.len());
        if (large || !flight.apart) && flight.stage().is_stuck() {
            self.strip(ix);
        }
    }

    /// The bytes of a batch that waits are given back.
    pub fn strip(&mut self, ix: u32) {
        let Some(flight) = self.lanes[ix as usize].flight.take_if(|flight| flight.without().is_none()) else { return };
        let (rows, bytes) = (flight.plan.rows.len(), flight.plan.rows.bytes.len());
        if flight.apart {
            self.memory.give_apart(rows, bytes);
        } else {
            self.memory.give(rows, bytes);
        }
        self.memory.take_apart(rows, 0);
        let flight = flight.stripped(|plan| self.stripped(plan));
        self.lanes[ix as usize].flight = Some(flight);
    }

    /// The lane's batch has come out of its waiting: what becomes of its rows is counted as everybody's.
    pub fn well_again(&mut self, flight: &mut Flight) {
        if std::mem::take(&mut flight.apart) {
            let (rows, bytes) = (flight.plan.rows.len(), flight.plan.rows.bytes.len());
            self.memory.give_apart(rows, bytes);
            self.memory.take(rows, bytes);
        }
    }

    pub(super) fn keep_spare(&mut self, mut bytes: Vec<u8>) {
        if self.spare.len() < SPARE_BUFFERS_MAX && (1..=SPARE_BYTES_MAX).contains(&bytes.capacity()) {
            bytes.clear();
            self.spare.push(bytes);
        }
    }

    /// Rows that are no longer held: their memory is free again.
    pub fn forget_rows(&mut self, rows: Rows) {
        self.memory.give(rows.len(), rows.bytes.len());
        self.keep_spare(rows.bytes);
    }
}
