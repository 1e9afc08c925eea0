//! Produce requests that are kept back, and arrive when nobody expects them any more.
//!
//! It promises that a request kept back is appended only by [`FakeKafka::deliver`], after everything that came before that call, whether
//! or not its connection or its client still exist; and never on a broker that has died since. It does not know how a batch is judged.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use kafka_protocol::messages::ProduceRequest;

use crate::FakeKafka;
use crate::produce;
use crate::state::{Shared, State};

/// Requests kept back by [`Fault::KeepBack`](crate::Fault::KeepBack) and its like. Made by [`FakeKafka::late_copies`]; clones are the same.
#[derive(Clone)]
pub struct LateCopies {
    kept: Arc<Mutex<Vec<Kept>>>,
    /// Weak: the fault script is part of what this points to.
    shared: Weak<Shared>,
}

struct Kept {
    broker: i32,
    /// The broker's life in which it came.
    life: u64,
    request: ProduceRequest,
}

/// What a late batch met. Nobody is told but the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub topic: String,
    pub partition: i32,
    /// 0: appended, or known as a duplicate. Not whether it will be replicated.
    pub error_code: i16,
    /// -1 with an error.
    pub base_offset: i64,
}

impl std::fmt::Debug for LateCopies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LateCopies({})", self.count())
    }
}

impl LateCopies {
    fn kept(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many requests are kept now.
    pub fn count(&self) -> usize {
        self.kept().len()
    }

    /// Waits until so many requests are kept.
    ///
    /// # Panics
    /// When fewer are after `limit`.
    pub fn wait_until_kept(&self, count: usize, limit: Duration) {
        let shared = self.shared.upgrade().expect("the brokers run");
        let enough = |_: &mut State| (self.count() >= count).then_some(());
        assert!(shared.wait_for(limit, enough).is_some(), "{} of {count} requests kept in {limit:?}", self.count());
    }

    /// Under the state's lock, so that no delivery is between the request and its being kept.
    pub(crate) fn keep(&self, state: &State, broker: i32, request: &ProduceRequest) {
        let life = state.brokers[&broker].life;
        self.kept().push(Kept { broker, life, request: request.clone() });
    }
}

impl FakeKafka {
    /// An empty store for [`Fault::KeepBack`](crate::Fault::KeepBack), [`Fault::KeepBackAndClose`](crate::Fault::KeepBackAndClose) and
    /// [`Fault::KeepCopy`](crate::Fault::KeepCopy).
    pub fn late_copies(&self) -> LateCopies {
        LateCopies { kept: Arc::default(), shared: Arc::downgrade(&self.shared) }
    }

    /// The brokers now get what was kept back, in the order it came, each the one it was sent to. What was sent to a broker that has been
    /// stopped since is lost, started again or not: it was in a socket of a process that is gone.
    ///
    /// # Panics
    /// When such a broker is frozen: it takes nothing before its thaw.
    pub fn deliver(&self, late: &LateCopies) -> Vec<Delivered> {
        self.shared.change(|state| {
            let mut met = Vec::new();
            for kept in std::mem::take(&mut *late.kept()) {
                assert!(!state.frozen(kept.broker), "broker {} is frozen", kept.broker);
                if state.runs(kept.broker) && state.brokers[&kept.broker].life == kept.life {
                    met.extend(produce::append_late(state, kept.broker, &kept.request));
                    state.replicate();
                }
            }
            met
        })
    }
}
