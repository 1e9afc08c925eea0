//! What became of a batch whose answer nobody knows: asked of its partition's leader, whose memory comes first and whose log second.
//!
//! Promises: one piece of evidence for each question, after any number of failures that are told; each broker's questions have a thread of their
//! own, so one that is slow, or has much to be read, holds up nobody else; of a log no more is in memory than one Fetch answer.
//! Does not know: plans, rows, what is done about it.

mod clerk;
mod inquiry;
mod reading;
mod seekers;
#[cfg(test)]
mod tests;

pub(crate) use seekers::Seekers;

use crate::cluster::{Lead, Snapshot};
use crate::connection::Interrupter;
use crate::outcome::{Batch, Evidence, Sought, Why};
use crate::producer::{Mailbox, Shared, lock};
use clerk::Clerk;
use inquiry::Inquiry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// All questions that are open. The locks are held to put in or take out, never while anything waits.
pub(crate) struct LookUps {
    trays: Mutex<Trays>,
    desks: Mutex<HashMap<i32, Arc<Desk>>>,
}

/// What the cluster's thread takes from here. As many as the owners have batches to ask about: each is asked about once at a time.
struct Trays {
    /// Need a leader.
    seeking: Vec<Inquiry>,
    /// Wait for room in their owners' channels.
    answered: VecDeque<(Inquiry, Evidence)>,
}

impl LookUps {
    pub(crate) fn new() -> Self {
        LookUps {
            trays: Mutex::new(Trays { seeking: Vec::new(), answered: VecDeque::new() }),
            desks: Mutex::new(HashMap::new()),
        }
    }

    pub(crate) fn interrupt(&self) {
        for desk in lock(&self.desks).values() {
            desk.interrupt();
        }
    }
}

impl LookUps {
    pub(crate) fn ask(shared: &Shared, batch: Batch, sought: Sought, mailbox: &Arc<Mailbox>) {
        let inquiry = Inquiry::new(batch, sought, Arc::clone(mailbox), shared.options.retry_backoff());
        shared.look_ups.seek(inquiry, shared);
    }

    /// Hands a question to the cluster's thread, which finds out who leads.
    fn seek(&self, inquiry: Inquiry, shared: &Shared) {
        lock(&self.trays).seeking.push(inquiry);
        shared.cluster.ask_look_ups();
    }

    /// Topics that some broker is being asked about at this moment: only news of them can tell that it is asked in vain.
    fn topics_under_way(&self) -> Vec<Arc<str>> {
        let desks: Vec<_> = lock(&self.desks).values().cloned().collect();
        desks.iter().flat_map(|desk| lock(&desk.inner).under_way.clone()).map(|(topic, _)| topic).collect()
    }

    fn answered(&self, inquiry: Inquiry, evidence: Evidence, shared: &Shared) {
        lock(&self.trays).answered.push_back((inquiry, evidence));
        shared.cluster.ask_look_ups();
    }

    /// Gives a question to the thread that asks this broker, starting it if need be.
    fn push(shared: &Arc<Shared>, broker: i32, inquiry: Inquiry) {
        let desk = Arc::clone(lock(&shared.look_ups.desks).entry(broker).or_insert_with(|| Arc::new(Desk::new())));
        let served = Arc::clone(&desk);
        let pushed = desk.push(inquiry, || {
            let for_thread = Arc::clone(shared);
            let name = format!("kafka-{broker}-look-up");
            shared.spawn(name, move || Clerk::new(&for_thread, broker, &served).run())
        });
        if let Err(refused) = pushed {
            let (mut inquiry, error) = *refused;
            inquiry.failed(&Why::new(format!("no thread to ask its leader with: {error}")));
            shared.look_ups.seek(inquiry, shared);
        }
    }

    /// Offers evidence to whoever asked for it. True when some found no room: come again.
    pub(crate) fn deliver(&self) -> bool {
        let answered = std::mem::take(&mut lock(&self.trays).answered);
        let mut left: VecDeque<_> = answered
            .into_iter()
            .filter(|(inquiry, evidence)| !inquiry.is_forgotten() && !inquiry.answer(evidence))
            .collect();
        let mut trays = lock(&self.trays);
        left.append(&mut trays.answered);
        trays.answered = left;
        !trays.answered.is_empty()
    }

    /// Cuts off what a broker is being asked about a partition that another one leads by now: it may be gone for good.
    pub(crate) fn give_up_moved(&self, snapshot: &Snapshot) {
        for (broker, desk) in lock(&self.desks).iter() {
            desk.cut_off(
                |topic, partition| matches!(snapshot.lead(topic, partition), Lead::Broker(leader) if leader != *broker),
            );
        }
    }
}

/// A question for which there is no thread.
type Refused = Box<(Inquiry, std::io::Error)>;

/// What waits for the thread that asks one broker, and the socket it is busy with.
struct Desk {
    inner: Mutex<OnDesk>,
    changed: Condvar,
}

struct OnDesk {
    arrived: Vec<Inquiry>,
    /// A thread serves this desk. It leaves, under this lock, when there was nothing to do for a while.
    served: bool,
    /// Of the connection in use.
    interrupter: Option<Interrupter>,
    /// What the exchange under way is about.
    under_way: Vec<(Arc<str>, i32)>,
}

impl Desk {
    fn interrupt(&self) {
        if let Some(interrupter) = &lock(&self.inner).interrupter {
            interrupter.interrupt();
        }
        self.changed.notify_all();
    }

    fn cut_off(&self, hopeless: impl Fn(&str, i32) -> bool) {
        let inner = lock(&self.inner);
        if let Some(interrupter) = &inner.interrupter
            && inner.under_way.iter().any(|(topic, partition)| hopeless(topic, *partition))
        {
            interrupter.interrupt();
        }
    }

    /// Names the socket in use. False when the producer stops: whoever stops it looks here only once.
    fn uses(&self, interrupter: Option<Interrupter>, stopping: &AtomicBool) -> bool {
        lock(&self.inner).interrupter = interrupter;
        !stopping.load(SeqCst)
    }

    /// Waits until `until` whatever comes. False when the producer stops.
    fn pause(&self, until: Instant, stopping: &AtomicBool) -> bool {
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
}

impl Desk {
    fn new() -> Self {
        let nothing = OnDesk { arrived: Vec::new(), served: false, interrupter: None, under_way: Vec::new() };
        Desk { inner: Mutex::new(nothing), changed: Condvar::new() }
    }

    /// Puts a question on the desk; `serve` starts a thread when none serves it. The question comes back when that fails.
    fn push(&self, inquiry: Inquiry, serve: impl FnOnce() -> std::io::Result<()>) -> Result<(), Refused> {
        let mut inner = lock(&self.inner);
        if !inner.served {
            if let Err(error) = serve() {
                return Err(Box::new((inquiry, error)));
            }
            inner.served = true;
        }
        inner.arrived.push(inquiry);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// What has arrived; waits for it, if `idle_max` is given. `None`: nothing came for so long and the thread is to leave, or the
    /// producer stops.
    fn take(&self, idle_max: Option<Duration>, stopping: &AtomicBool) -> Option<Vec<Inquiry>> {
        let deadline = Instant::now() + idle_max.unwrap_or_default();
        let mut inner = lock(&self.inner);
        loop {
            if stopping.load(SeqCst) {
                return None;
            }
            if !inner.arrived.is_empty() || idle_max.is_none() {
                return Some(std::mem::take(&mut inner.arrived));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                inner.served = false;
                return None;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
    }

    fn under_way(&self, partitions: Vec<(Arc<str>, i32)>) {
        lock(&self.inner).under_way = partitions;
    }
}
