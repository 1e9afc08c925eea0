//! What waits for one sender, and the socket it is busy with.
//!
//! Promises: a batch is in the queue as long as not a byte of it was written, so it can always be taken back. Does not know: Kafka's answers.

use super::{Mailbox, lock};
use crate::connection::Interrupter;
use crate::outcome::{Batch, Event, Full, Outcome};
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// A batch and who waits for its answer.
pub(crate) struct Job {
    pub(crate) batch: Batch,
    pub(crate) mailbox: Arc<Mailbox>,
}

impl Job {
    /// What its owner is told, and where. The batch's place is given back *before* the event is sent: the other way round the owner
    /// could see the event, be told `Full`, and wait for a next event that never comes.
    pub(super) fn answered(self, outcome: Outcome) -> (Arc<Mailbox>, Event) {
        self.mailbox.give_place_back();
        (self.mailbox, Event::Outcome { batch: self.batch.id, outcome, at: Instant::now() })
    }

    /// From the owner's own thread, which must not wait for itself to empty its channel: no room is `Full`, and there is an event to
    /// come in that case, because the channel holds some.
    pub(super) fn answer_now(self, outcome: Outcome) -> Result<(), Full> {
        let (mailbox, event) = self.answered(outcome);
        if mailbox.offer(event) { Ok(()) } else { Err(Full) }
    }
}

/// A list under a lock and not a channel: a batch that waits for a connection must be seen, and taken back, by a drain or a change of
/// leader while its sender is stuck in the system. How many can be in it is bounded by their mailboxes.
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    jobs: VecDeque<Job>,
    /// A thread serves this queue. It leaves, under this lock, when there was nothing to do for long.
    served: bool,
    /// Of the connection in use.
    interrupter: Option<Interrupter>,
    /// Topic and partition of the batch that travels alone, while it does.
    under_way: Option<(Arc<str>, i32)>,
}

/// What a sender is woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Work,
    Deadline,
    Stop,
}

impl Queue {
    pub(crate) fn new() -> Self {
        Queue {
            inner: Mutex::new(Inner { jobs: VecDeque::new(), served: false, interrupter: None, under_way: None }),
            changed: Condvar::new(),
        }
    }

    /// Adds a batch; `serve` starts a thread when none serves the queue. The batch comes back when that fails.
    pub(crate) fn push(
        &self,
        job: Job,
        serve: impl FnOnce() -> std::io::Result<()>,
    ) -> Result<(), (Job, std::io::Error)> {
        let mut inner = lock(&self.inner);
        if !inner.served {
            if let Err(error) = serve() {
                return Err((job, error));
            }
            inner.served = true;
        }
        inner.jobs.push_back(job);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits until there is a batch, or the deadline, or the producer stops.
    pub(crate) fn wait(&self, deadline: Instant, stopping: &AtomicBool) -> Woken {
        let mut inner = lock(&self.inner);
        loop {
            if stopping.load(SeqCst) {
                return Woken::Stop;
            }
            if !inner.jobs.is_empty() {
                return Woken::Work;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Deadline;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Waits until `until` whatever comes (a broker that throttles, a pause before the next connection); the batches stay where a
    /// drain finds them. False when the producer stops.
    pub(crate) fn pause(&self, until: Instant, stopping: &AtomicBool) -> bool {
        let mut inner = lock(&self.inner);
        loop {
            if stopping.load(SeqCst) {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    /// Takes what makes one request: in order, never two batches of one partition (two owners may write to it), up to `bytes_max`
    /// unless the first alone is larger, up to `batches_max`.
    pub(crate) fn take(&self, bytes_max: usize, batches_max: usize) -> Vec<Job> {
        let mut inner = lock(&self.inner);
        let mut bytes = 0;
        let mut lanes: HashSet<(&str, i32)> = HashSet::new();
        let mut taken = Vec::new();
        for (at, job) in inner.jobs.iter().enumerate() {
            let size = job.batch.records.bytes().len();
            if taken.len() == batches_max || (!taken.is_empty() && bytes + size > bytes_max) {
                break;
            }
            if lanes.insert((&*job.batch.topic, job.batch.partition)) {
                bytes += size;
                taken.push(at);
            }
        }
        if taken.len() == inner.jobs.len() {
            return inner.jobs.drain(..).collect();
        }
        let mut taken = taken.into_iter().peekable();
        let (mut request, mut rest) = (Vec::new(), VecDeque::new());
        for (at, job) in std::mem::take(&mut inner.jobs).into_iter().enumerate() {
            if taken.next_if_eq(&at).is_some() {
                request.push(job);
            } else {
                rest.push_back(job);
            }
        }
        inner.jobs = rest;
        request
    }

    /// Takes back every waiting batch that `which` names.
    pub(crate) fn withdraw(&self, mut which: impl FnMut(&Job) -> bool) -> Vec<Job> {
        let mut inner = lock(&self.inner);
        if !inner.jobs.iter().any(&mut which) {
            return Vec::new();
        }
        let (out, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut inner.jobs).into_iter().partition(which);
        inner.jobs = rest.into();
        out
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.inner).jobs.is_empty()
    }

    /// The serving thread wants to leave. False when a batch has just come.
    pub(crate) fn leave(&self) -> bool {
        let mut inner = lock(&self.inner);
        inner.served = !inner.jobs.is_empty();
        !inner.served
    }

    /// Names the socket in use. False when the producer stops: whoever stops it looks here only once.
    pub(crate) fn uses(&self, interrupter: Option<Interrupter>, stopping: &AtomicBool) -> bool {
        let mut inner = lock(&self.inner);
        inner.interrupter = interrupter;
        !stopping.load(SeqCst)
    }
}

impl Queue {
    pub(crate) fn under_way(&self, lane: Option<(Arc<str>, i32)>) {
        lock(&self.inner).under_way = lane;
    }

    /// Cuts off the batch that travels alone if `hopeless`. It may have been appended all the same.
    pub(crate) fn cut_off(&self, hopeless: impl FnOnce(&str, i32) -> bool) {
        let inner = lock(&self.inner);
        if let (Some((topic, partition)), Some(interrupter)) = (&inner.under_way, &inner.interrupter)
            && hopeless(topic, *partition)
        {
            interrupter.interrupt();
        }
    }

    /// Cuts off what the sender is doing and wakes it.
    pub(crate) fn interrupt(&self) {
        let inner = lock(&self.inner);
        if let Some(interrupter) = &inner.interrupter {
            interrupter.interrupt();
        }
        drop(inner);
        self.changed.notify_all();
    }
}
