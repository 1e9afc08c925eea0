//! Questions that need a leader: with the cluster's thread, until its next answer says whom to ask.
//!
//! Promises: each is sent on by metadata asked for after it came here, never by older ones. Does not know: who is asked for metadata.

use super::LookUps;
use super::inquiry::{Inquiry, Route};
use crate::cluster::Snapshot;
use crate::outcome::{Evidence, Why};
use crate::producer::{Shared, lock};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Seekers {
    waiting: Vec<Inquiry>,
    /// What is due within this time goes along: a thousand questions must not become a thousand requests for metadata.
    slack: Duration,
}

impl Seekers {
    pub(crate) fn new(slack: Duration) -> Self {
        Seekers { waiting: Vec::new(), slack }
    }

    pub(crate) fn collect(&mut self, look_ups: &LookUps) {
        self.waiting.append(&mut lock(&look_ups.trays).seeking);
        self.waiting.retain(|inquiry| !inquiry.is_forgotten());
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(Inquiry::due).min()
    }

    /// The topics that metadata are needed of.
    pub(crate) fn topics(&self, look_ups: &LookUps) -> BTreeSet<Arc<str>> {
        let waiting = self.waiting.iter().map(Inquiry::topic);
        waiting.chain(look_ups.topics_under_way()).collect()
    }

    fn ready(&mut self) -> Vec<Inquiry> {
        let soon = Instant::now() + self.slack;
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|inquiry| inquiry.due() <= soon);
        self.waiting = waiting;
        ready
    }

    /// Sends on what the metadata just answered say something about. True when they leave doubts that another broker could clear up.
    pub(crate) fn dispatch(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot) -> bool {
        let mut doubts = false;
        for mut inquiry in self.ready() {
            if let Some(why) = shared.cluster.id().foreign(inquiry.cluster()) {
                shared.look_ups.answered(inquiry, Evidence::OtherCluster(why), shared);
                continue;
            }
            let (topic, partition) = inquiry.place();
            let whereabouts = snapshot.whereabouts(topic, partition);
            match inquiry.route(whereabouts, Instant::now()) {
                Route::To(broker) => LookUps::push(shared, broker, inquiry),
                Route::Wait(why) => {
                    doubts = true;
                    inquiry.failed(&why);
                    self.waiting.push(inquiry);
                }
                Route::Over(evidence) => {
                    log::debug!("kafka: {}: looked up: {evidence:?}", inquiry.lane());
                    shared.look_ups.answered(inquiry, evidence, shared);
                }
            }
        }
        doubts
    }

    /// No server answered.
    pub(crate) fn nobody_answered(&mut self, why: &Why) {
        for mut inquiry in self.ready() {
            inquiry.failed(why);
            self.waiting.push(inquiry);
        }
    }
}
