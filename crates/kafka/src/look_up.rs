//! What became of a batch whose answer nobody knows: asked of its partition's leader, whose memory comes first and whose log second.
//!
//! Promises: one finding for each question, after any number of failures that are told; each broker's questions have a thread of their
//! own, so one that is slow, or has much to be read, holds up nobody else; of a log no more is in memory than one Fetch answer.
//! Does not know: plans, rows, what is done about a finding.

mod clerk;
mod inquiry;
mod reading;
mod seekers;
#[cfg(test)]
mod tests;

pub(crate) use seekers::Seekers;

use crate::cluster::{Lead, Snapshot};
use crate::connection::Interrupter;
use crate::producer::{Batch, Failure, Mailbox, Report, Shared, lock};
use clerk::Clerk;
use inquiry::Inquiry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Where a batch is looked for, and what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// A lower bound of the offset at which the batch can lie.
    pub from_offset: i64,
    /// Of the partition's leader when that bound was taken; -1: not known.
    pub leader_epoch: i32,
    /// Whether it is enough that the leader remembers the producer. Otherwise only the log is asked.
    pub memory_counts: bool,
}

/// What the partition's leader says of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It lies below the high watermark, from this offset on.
    StoredAt(i64),
    /// The leader remembers producer and epoch with the batch's last sequence or the one before its first: the batch sent again is
    /// appended once. No acknowledgement: this memory reaches to the log's end, not to the high watermark.
    Remembered,
    /// Every offset from the lower bound to the end that the leader's log had when it was asked has been seen, all of them below
    /// the high watermark, and the batch is not there.
    Absent,
    /// Not found, and not every offset could be looked at.
    Incomplete(Failure),
    /// We may not look.
    Forbidden(Failure),
    /// There is no such partition.
    PartitionGone(Failure),
    /// It was on its way to another cluster: nothing was asked here.
    OtherCluster(Failure),
}

/// All questions that are open. The locks are held to put in or take out, never while anything waits.
pub(crate) struct LookUps<B, E> {
    trays: Mutex<Trays<B, E>>,
    desks: Mutex<HashMap<i32, Arc<Desk<B, E>>>>,
}

/// What the cluster's thread takes from here. As many as the owners have batches to ask about: each is asked about once at a time.
struct Trays<B, E> {
    /// Need a leader.
    seeking: Vec<Inquiry<B, E>>,
    /// Wait for room in their owners' channels.
    answered: VecDeque<(Inquiry<B, E>, Finding)>,
}

impl<B, E> LookUps<B, E> {
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

impl<B, E> LookUps<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    pub(crate) fn ask(shared: &Shared<B, E>, batch: B, search: Search, mailbox: &Arc<Mailbox<E>>) {
        let inquiry = Inquiry::new(batch, search, Arc::clone(mailbox), shared.options.retry_backoff());
        shared.look_ups.seek(inquiry, shared);
    }

    /// Hands a question to the cluster's thread, which finds out who leads.
    fn seek(&self, inquiry: Inquiry<B, E>, shared: &Shared<B, E>) {
        lock(&self.trays).seeking.push(inquiry);
        shared.cluster.ask_look_ups();
    }

    /// Topics that some broker is being asked about at this moment: only news of them can tell that it is asked in vain.
    fn topics_under_way(&self) -> Vec<Box<str>> {
        let desks: Vec<_> = lock(&self.desks).values().cloned().collect();
        desks.iter().flat_map(|desk| lock(&desk.inner).under_way.clone()).map(|(topic, _)| topic).collect()
    }

    fn answered(&self, inquiry: Inquiry<B, E>, finding: Finding, shared: &Shared<B, E>) {
        lock(&self.trays).answered.push_back((inquiry, finding));
        shared.cluster.ask_look_ups();
    }

    /// Gives a question to the thread that asks this broker, starting it if need be.
    fn push(shared: &Arc<Shared<B, E>>, broker: i32, inquiry: Inquiry<B, E>) {
        let desk = Arc::clone(lock(&shared.look_ups.desks).entry(broker).or_insert_with(|| Arc::new(Desk::new())));
        let served = Arc::clone(&desk);
        let pushed = desk.push(inquiry, || {
            let for_thread = Arc::clone(shared);
            let name = format!("kafka-{broker}-look-up");
            shared.spawn(name, move || Clerk::new(&for_thread, broker, &served).run())
        });
        if let Err(refused) = pushed {
            let (mut inquiry, error) = *refused;
            inquiry.failed(&Failure::new(format!("no thread to ask its leader with: {error}")));
            shared.look_ups.seek(inquiry, shared);
        }
    }

    /// Offers findings to their owners. True when some found no room: come again.
    pub(crate) fn deliver(&self) -> bool {
        let answered = std::mem::take(&mut lock(&self.trays).answered);
        let mut left: VecDeque<_> = answered
            .into_iter()
            .filter(|(inquiry, finding)| !inquiry.is_forgotten() && !inquiry.answer(finding))
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
type Refused<B, E> = Box<(Inquiry<B, E>, std::io::Error)>;

/// What waits for the thread that asks one broker, and the socket it is busy with.
struct Desk<B, E> {
    inner: Mutex<OnDesk<B, E>>,
    changed: Condvar,
}

struct OnDesk<B, E> {
    arrived: Vec<Inquiry<B, E>>,
    /// A thread serves this desk. It leaves, under this lock, when there was nothing to do for a while.
    served: bool,
    /// Of the connection in use.
    interrupter: Option<Interrupter>,
    /// What the exchange under way is about.
    under_way: Vec<(Box<str>, i32)>,
}

impl<B, E> Desk<B, E> {
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

impl<B, E> Desk<B, E> {
    fn new() -> Self {
        let nothing = OnDesk { arrived: Vec::new(), served: false, interrupter: None, under_way: Vec::new() };
        Desk { inner: Mutex::new(nothing), changed: Condvar::new() }
    }

    /// Puts a question on the desk; `serve` starts a thread when none serves it. The question comes back when that fails.
    fn push(&self, inquiry: Inquiry<B, E>, serve: impl FnOnce() -> std::io::Result<()>) -> Result<(), Refused<B, E>> {
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
    fn take(&self, idle_max: Option<Duration>, stopping: &AtomicBool) -> Option<Vec<Inquiry<B, E>>> {
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

    fn under_way(&self, partitions: Vec<(Box<str>, i32)>) {
        lock(&self.inner).under_way = partitions;
    }
}
