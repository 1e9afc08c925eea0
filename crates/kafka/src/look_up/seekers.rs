//! Questions that need a leader: with the cluster's thread, until its next answer says whom to ask.
//!
//! Promises: each is sent on by metadata asked for after it came here, never by older ones. Does not know: who is asked for metadata.

use super::inquiry::{Inquiry, Route};
use super::{Finding, LookUps};
use crate::cluster::Snapshot;
use crate::producer::{Batch, Failure, Report, Shared, lock};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) struct Seekers<B, E> {
    waiting: Vec<Inquiry<B, E>>,
    /// What is due within this time goes along: a thousand questions must not become a thousand requests for metadata.
    slack: Duration,
}

impl<B, E> Seekers<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    pub(crate) fn new(slack: Duration) -> Self {
        Seekers { waiting: Vec::new(), slack }
    }

    pub(crate) fn collect(&mut self, look_ups: &LookUps<B, E>) {
        self.waiting.append(&mut lock(&look_ups.trays).seeking);
        self.waiting.retain(|inquiry| !inquiry.is_forgotten());
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.waiting.iter().map(Inquiry::due).min()
    }

    /// The topics that metadata are needed of.
    pub(crate) fn topics(&self, look_ups: &LookUps<B, E>) -> BTreeSet<Box<str>> {
        let waiting = self.waiting.iter().map(|inquiry| inquiry.place().0.into());
        waiting.chain(look_ups.topics_under_way()).collect()
    }

    fn ready(&mut self) -> Vec<Inquiry<B, E>> {
        let soon = Instant::now() + self.slack;
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|inquiry| inquiry.due() <= soon);
        self.waiting = waiting;
        ready
    }

    /// Sends on what the metadata just answered say something about. True when they leave doubts that another broker could clear up.
    pub(crate) fn dispatch(&mut self, shared: &Arc<Shared<B, E>>, snapshot: &Snapshot) -> bool {
        let mut doubts = false;
        for mut inquiry in self.ready() {
            if let Some(failure) = shared.cluster.id().foreign(inquiry.cluster()) {
                shared.look_ups.answered(inquiry, Finding::OtherCluster(failure), shared);
                continue;
            }
            let (topic, partition) = inquiry.place();
            let whereabouts = snapshot.whereabouts(topic, partition);
            match inquiry.route(whereabouts, Instant::now()) {
                Route::To(broker) => LookUps::push(shared, broker, inquiry),
                Route::Wait(failure) => {
                    doubts = true;
                    inquiry.failed(&failure);
                    self.waiting.push(inquiry);
                }
                Route::Over(finding) => {
                    log::debug!("kafka: {}: looked up: {finding:?}", inquiry.lane());
                    shared.look_ups.answered(inquiry, finding, shared);
                }
            }
        }
        doubts
    }

    /// No server answered.
    pub(crate) fn nobody_answered(&mut self, failure: &Failure) {
        for mut inquiry in self.ready() {
            inquiry.failed(failure);
            self.waiting.push(inquiry);
        }
    }
}
