//! Questions that need a leader: with the metadata thread, until its next answer says whom to ask.
//!
//! Promises: each is sent on by metadata asked for after it came here, never by older ones. Does not know: who is asked for metadata.

use super::Lookups;
use super::question::{Question, Route};
use crate::metadata::Snapshot;
use crate::outcome::{Evidence, Why};
use crate::producer::{Shared, lock};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Pending {
    waiting: Vec<Question>,
    /// What is due within this time goes along: a thousand questions must not become a thousand requests for metadata.
    slack: Duration,
}

impl Pending {
    pub(crate) fn new(slack: Duration) -> Self {
        Pending { waiting: Vec::new(), slack }
    }

    pub(crate) fn collect(&mut self, lookups: &Lookups) {
        self.waiting.append(&mut lock(&lookups.trays).seeking);
        self.waiting.retain(|question| !question.is_forgotten());
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(Question::due).min()
    }

    /// The topics that metadata are needed of.
    pub(crate) fn topics(&self, lookups: &Lookups) -> BTreeSet<Arc<str>> {
        let waiting = self.waiting.iter().map(Question::topic);
        waiting.chain(lookups.topics_under_way()).collect()
    }

    fn ready(&mut self) -> Vec<Question> {
        let soon = Instant::now() + self.slack;
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|question| question.due() <= soon);
        self.waiting = waiting;
        ready
    }

    /// Sends on what the metadata just answered say something about. True when they leave doubts that another broker could clear up.
    pub(crate) fn dispatch(&mut self, shared: &Arc<Shared>, snapshot: &Snapshot) -> bool {
        let mut doubts = false;
        for mut question in self.ready() {
            if let Some(why) = shared.cluster.id().foreign(question.cluster()) {
                shared.lookups.answered(question, Evidence::OtherCluster(why), shared);
                continue;
            }
            let (topic, partition) = question.partition();
            let whereabouts = snapshot.whereabouts(topic, partition);
            match question.route(whereabouts, Instant::now()) {
                Route::To(broker) => Lookups::push(shared, broker, question),
                Route::Wait(why) => {
                    doubts = true;
                    question.failed(&why);
                    self.waiting.push(question);
                }
                Route::Over(evidence) => {
                    log::debug!("kafka: {}: looked up: {evidence:?}", question.lane());
                    shared.lookups.answered(question, evidence, shared);
                }
            }
        }
        doubts
    }

    /// No server answered.
    pub(crate) fn nobody_answered(&mut self, why: &Why) {
        for mut question in self.ready() {
            question.failed(why);
            self.waiting.push(question);
        }
    }
}
