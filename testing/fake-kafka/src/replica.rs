//! One replica of a partition: its own log, what it remembers of producers, and what it believes about who leads.
//!
//! It promises that nothing reaches a replica but by its own appends as a leader, by following the leader, or by a test's hand: two
//! replicas may disagree for as long as a test keeps them apart. It does not know which broker it is on, nor who leads in truth.

use crate::log::Log;
use crate::producer_state::Producers;
use crate::record::{Malformed, Record};

#[derive(Clone, Debug, Default)]
pub(crate) struct Replica {
    pub log: Log,
    pub producers: Producers,
    pub high_watermark: i64,
    /// The newest leader epoch it has heard of. A frozen or stale replica keeps an old one.
    known_epoch: i32,
    /// It believes that it leads in that epoch.
    leads: bool,
    /// The log end when it began to lead. Until the high watermark gets there it does not know what is committed.
    epoch_start: i64,
    /// Who is in sync, as this replica believes while it leads. An ex-leader counts followers that have left it long ago.
    pub in_sync: Vec<i32>,
    /// A test keeps it from copying; it is in sync all the same.
    pub held: bool,
}

impl Replica {
    /// The controller's word: the partition's epoch, and whether this replica leads in it.
    pub fn hear(&mut self, epoch: i32, leads: bool) {
        if leads && (!self.leads || self.known_epoch != epoch) {
            self.epoch_start = self.log.end();
        }
        self.known_epoch = epoch;
        self.leads = leads;
    }

    pub fn known_epoch(&self) -> i32 {
        self.known_epoch
    }

    /// The epoch in which this replica believes it leads.
    pub fn leads_in_epoch(&self) -> Option<i32> {
        self.leads.then_some(self.known_epoch)
    }

    /// A new leader can't name the latest offset before everything older than its epoch is replicated (KIP-207).
    pub fn knows_what_is_committed(&self) -> bool {
        self.high_watermark >= self.epoch_start
    }

    /// Log cleaning below the high watermark; each replica does its own. How many records went.
    pub fn clean(&mut self, keep: &dyn Fn(i64, &Record) -> bool) -> Result<i32, Malformed> {
        let Replica { log, producers, high_watermark, .. } = self;
        log.clean(*high_watermark, keep, &|producer_id| producers.last_offset(producer_id))
    }

    /// Fetches from the leader: cuts off what the leader does not have (KIP-101), then copies what is missing.
    pub fn follow(&mut self, leader: &Replica) {
        let shared = self.log.shared_end(&leader.log);
        if self.log.truncate_to(shared) {
            self.producers.reload(shared, self.log.batches().iter().map(|batch| &batch.header));
        }
        if self.log.end() < leader.log.start() {
            self.log = Log::starting_at(leader.log.start());
            self.producers = Producers::default();
        }
        for batch in self.log.copy_rest_of(&leader.log) {
            self.producers.remember(&batch.header);
        }
        self.log.delete_before(leader.log.start());
    }
}
