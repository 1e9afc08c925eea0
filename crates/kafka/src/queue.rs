//! What waits for a thread that serves one broker, and the socket it is busy with.
//!
//! Promises: what waits can be taken back until the thread takes it, and the thread can be cut off. Does not know: what waits.

use crate::connection::Interrupter;
use crate::producer::lock;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// A list under a lock and not a channel: what waits for a connection must be seen, and taken back, by a drain or a change of leader
/// while the thread is stuck in the system. How much can be in it is bounded by whose it is.
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    changed: Condvar,
}

struct Inner<T> {
    waiting: VecDeque<T>,
    /// A thread serves this queue. It leaves, under this lock, when there was nothing to do for long.
    served: bool,
    /// Of the connection in use.
    interrupter: Option<Interrupter>,
    /// What the exchange under way is about, if somebody else may cut it off.
    under_way: Vec<(Arc<str>, i32)>,
}

/// What a thread is woken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    Work,
    Deadline,
    Stop,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        let inner = Inner { waiting: VecDeque::new(), served: false, interrupter: None, under_way: Vec::new() };
        Queue { inner: Mutex::new(inner), changed: Condvar::new() }
    }

    /// Adds what is to be done; `serve` starts a thread when none serves the queue. It comes back when that fails.
    pub(crate) fn push(&self, item: T, serve: impl FnOnce() -> std::io::Result<()>) -> Result<(), (T, std::io::Error)> {
        let mut inner = lock(&self.inner);
        if !inner.served {
            if let Err(error) = serve() {
                return Err((item, error));
            }
            inner.served = true;
        }
        inner.waiting.push_back(item);
        drop(inner);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits until there is something to do, or the deadline, or the producer stops.
    pub(crate) fn wait(&self, deadline: Instant, stopping: &AtomicBool) -> Woken {
        self.wait_for(deadline, stopping, |inner| !inner.waiting.is_empty())
    }

    /// Waits until `until` whatever comes (a broker that throttles, a pause before the next connection); what waits stays where a
    /// drain finds it. False when the producer stops.
    pub(crate) fn pause(&self, until: Instant, stopping: &AtomicBool) -> bool {
        self.wait_for(until, stopping, |_| false) != Woken::Stop
    }

    fn wait_for(&self, deadline: Instant, stopping: &AtomicBool, is_there: impl Fn(&Inner<T>) -> bool) -> Woken {
        let mut inner = lock(&self.inner);
        loop {
            if stopping.load(SeqCst) {
                return Woken::Stop;
            }
            if is_there(&inner) {
                return Woken::Work;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Woken::Deadline;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes what `pick` takes out of the list.
    pub(crate) fn take(&self, pick: impl FnOnce(&mut VecDeque<T>) -> Vec<T>) -> Vec<T> {
        pick(&mut lock(&self.inner).waiting)
    }

    /// Takes back everything waiting that `which` names.
    pub(crate) fn withdraw(&self, mut which: impl FnMut(&T) -> bool) -> Vec<T> {
        self.take(|waiting| {
            if !waiting.iter().any(&mut which) {
                return Vec::new();
            }
            let (out, rest): (Vec<_>, Vec<_>) = std::mem::take(waiting).into_iter().partition(which);
            *waiting = rest.into();
            out
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.inner).waiting.is_empty()
    }

    /// The serving thread wants to leave. False when something has just come.
    pub(crate) fn leave(&self) -> bool {
        let mut inner = lock(&self.inner);
        inner.served = !inner.waiting.is_empty();
        !inner.served
    }

    /// Names the socket in use. False when the producer stops: whoever stops it looks here only once.
    pub(crate) fn uses(&self, interrupter: Option<Interrupter>, stopping: &AtomicBool) -> bool {
        lock(&self.inner).interrupter = interrupter;
        !stopping.load(SeqCst)
    }

    /// What the exchange is about that begins now; nothing when it is over.
    pub(crate) fn under_way(&self, partitions: Vec<(Arc<str>, i32)>) {
        lock(&self.inner).under_way = partitions;
    }

    /// The topics that the exchange under way is about.
    pub(crate) fn topics_under_way(&self) -> Vec<Arc<str>> {
        lock(&self.inner).under_way.iter().map(|(topic, _)| Arc::clone(topic)).collect()
    }

    /// Cuts off the exchange under way if some of it is `hopeless`. The broker may have acted all the same.
    pub(crate) fn cut_off(&self, hopeless: impl Fn(&str, i32) -> bool) {
        let inner = lock(&self.inner);
        if let Some(interrupter) = &inner.interrupter
            && inner.under_way.iter().any(|(topic, partition)| hopeless(topic, *partition))
        {
            interrupter.interrupt();
        }
    }

    /// Cuts off what the thread is doing and wakes it.
    pub(crate) fn interrupt(&self) {
        if let Some(interrupter) = &lock(&self.inner).interrupter {
            interrupter.interrupt();
        }
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_may_leave_only_an_empty_queue() {
        let queue = Queue::new();
        queue.push(7, || Ok(())).unwrap();
        queue.push(8, || panic!("a thread serves it")).unwrap();
        assert!(!queue.leave());
        assert!(queue.withdraw(|item| *item == 9).is_empty());
        assert_eq!(queue.withdraw(|item| *item == 7), [7]);
        assert!(!queue.leave());
        assert_eq!(queue.withdraw(|_| true), [8]);
        assert!(queue.leave());
        let refused = queue.push(7, || Err(std::io::Error::other("no threads")));
        assert!(refused.is_err_and(|(item, _)| item == 7), "a queue that was left needs a new thread");
        assert!(queue.is_empty());
    }
}
