//! Scripts of things going wrong, and the gates that hold requests until a test says so.
//!
//! It promises that faults are consumed in the order given, one per request that names their partition (or their API, their broker). It
//! does not know how a fault is carried out; `produce` and `requests` do that.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use kafka_protocol::messages::ApiKey;

use crate::late::LateCopies;
use crate::state::Shared;

/// What happens to one request. "Append" stands for whatever the API does; the wording is Produce's.
///
/// A Produce names many partitions and the fault stands at one: faults about an answer (`AnswerBefore`, `AppendThenAnswer`,
/// `OmitPartition`) strike that partition alone, the others are stored; faults about the connection or the frame strike the whole request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing goes wrong this time: a place holder in a script.
    Pass,
    /// Answered with this code, not appended.
    AnswerBefore(i16),
    /// Appended, then answered with this code all the same.
    AppendThenAnswer(i16),
    /// The connection is closed and nothing of the request was appended.
    CloseBefore,
    /// The request is carried out, then the connection is closed without an answer.
    AppendThenClose,
    /// Nothing is appended, the answer never comes, the connection stays open and unread.
    Hang,
    /// The request is carried out, the answer never comes, the connection stays open and unread.
    AppendThenHang,
    /// This partition is appended only once the gate opens; the other partitions at once. The answer waits for all of them.
    DelayUntil(Gate),
    /// Appended at once; the answer waits for the gate.
    AppendThenDelayUntil(Gate),
    /// Carried out; the answer is a well-framed one with the right correlation id and nonsense (huge counts) after it.
    Garbage,
    /// Carried out; the answer's frame claims 2 GB and stops after a few bytes, the connection stays open.
    HugeLength,
    /// Carried out; the answer's correlation id is another request's.
    WrongCorrelation,
    /// Carried out; the connection is closed in the middle of the answer.
    CutAnswer,
    /// Carried out; three bytes more than the answer has fields stand at the end of its frame.
    Leftovers,
    /// The partitions come in yet another order (the fake never keeps the order asked), each in a topic entry of its own.
    ShuffleAnswer,
    /// This partition is appended and missing from the answer.
    OmitPartition,
    /// Produce only: nothing of the request is carried out, the answer never comes, the connection stays open and unread. The request is
    /// kept, and [`FakeKafka::deliver`](crate::FakeKafka::deliver) appends it after whatever came in between: what a request is that lies
    /// in the broker's socket buffer while its sender gives up, dies and is started again.
    KeepBack(LateCopies),
    /// The same, but the connection is closed at once.
    KeepBackAndClose(LateCopies),
    /// Produce only: the request is carried out and answered, and one more copy of it is kept, to be delivered later.
    KeepCopy(LateCopies),
    /// A normal answer with `throttle_time_ms`; then the broker reads nothing from that connection for so long.
    Throttle(Duration),
}

/// Holds requests until it is opened. Made by [`FakeKafka::gate`](crate::FakeKafka::gate); clones are the same gate.
#[derive(Clone)]
pub struct Gate {
    inner: Arc<GateState>,
}

struct GateState {
    open: AtomicBool,
    waiting: AtomicUsize,
    /// Weak: the fault script is part of what this points to.
    shared: Weak<Shared>,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gate(open: {})", self.is_open())
    }
}

impl Gate {
    pub(crate) fn new(shared: Weak<Shared>) -> Gate {
        Gate { inner: Arc::new(GateState { open: AtomicBool::new(false), waiting: AtomicUsize::new(0), shared }) }
    }

    /// Lets everything through that waits here, and all that comes later.
    pub fn open(&self) {
        self.inner.open.store(true, Ordering::SeqCst);
        if let Some(shared) = self.inner.shared.upgrade() {
            shared.wake();
        }
    }

    pub fn is_open(&self) -> bool {
        self.inner.open.load(Ordering::SeqCst)
    }

    /// Waits until `count` requests have come to this gate, opened or not.
    ///
    /// # Panics
    /// When fewer came within `limit`.
    pub fn wait_until_reached(&self, count: usize, limit: Duration) {
        let shared = self.inner.shared.upgrade().expect("the gate's broker is running");
        let reached = |_: &mut crate::state::State| (self.reached() >= count).then_some(());
        assert!(
            shared.wait_for(limit, reached).is_some(),
            "{} of {count} requests came to the gate in {limit:?}",
            self.reached()
        );
    }

    pub fn reached(&self) -> usize {
        self.inner.waiting.load(Ordering::SeqCst)
    }

    pub(crate) fn same(&self, other: &Gate) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    pub(crate) fn arrive(&self) {
        self.inner.waiting.fetch_add(1, Ordering::SeqCst);
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Partition(String, i32),
    Broker(i32),
    Anywhere,
}

/// The faults that strike one request.
#[derive(Debug, Default)]
pub(crate) struct Strikes {
    /// About the request as a whole.
    pub request: Vec<Fault>,
    /// About single partitions.
    pub partitions: BTreeMap<(String, i32), Vec<Fault>>,
}

impl Strikes {
    pub fn all(&self) -> impl Iterator<Item = &Fault> {
        self.request.iter().chain(self.partitions.values().flatten())
    }

    /// Faults for one partition: its own, then those of the whole request.
    pub fn of<'a>(&'a self, topic: &str, partition: i32) -> impl Iterator<Item = &'a Fault> {
        self.partitions.get(&(topic.to_owned(), partition)).into_iter().flatten().chain(&self.request)
    }

    pub fn answer_before(&self, topic: &str, partition: i32) -> Option<i16> {
        self.of(topic, partition).find_map(|fault| match fault {
            Fault::AnswerBefore(code) => Some(*code),
            _ => None,
        })
    }

    pub fn answer_after(&self, topic: &str, partition: i32) -> Option<i16> {
        self.of(topic, partition).find_map(|fault| match fault {
            Fault::AppendThenAnswer(code) => Some(*code),
            _ => None,
        })
    }

    /// The code for an answer that has one only for the whole request.
    pub fn whole_answer(&self) -> Option<i16> {
        self.request.iter().find_map(|fault| match fault {
            Fault::AnswerBefore(code) | Fault::AppendThenAnswer(code) => Some(*code),
            _ => None,
        })
    }

    pub fn throttle(&self) -> Option<Duration> {
        self.all().find_map(|fault| match fault {
            Fault::Throttle(time) => Some(*time),
            _ => None,
        })
    }

    pub fn throttle_ms(&self) -> i32 {
        self.throttle().map_or(0, |time| time.as_millis() as i32)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    queues: BTreeMap<(i16, Place), VecDeque<Fault>>,
}

impl Script {
    pub fn at_partition(&mut self, api: ApiKey, topic: &str, partition: i32, fault: Fault) {
        self.push(api, Place::Partition(topic.to_owned(), partition), fault);
    }

    pub fn at_broker(&mut self, api: ApiKey, broker: i32, fault: Fault) {
        self.push(api, Place::Broker(broker), fault);
    }

    pub fn anywhere(&mut self, api: ApiKey, fault: Fault) {
        self.push(api, Place::Anywhere, fault);
    }

    fn push(&mut self, api: ApiKey, place: Place, fault: Fault) {
        let keeps = matches!(fault, Fault::KeepBack(_) | Fault::KeepBackAndClose(_) | Fault::KeepCopy(_));
        assert!(!keeps || api == ApiKey::Produce, "{fault:?} is for Produce, not for {api:?}");
        self.queues.entry((api as i16, place)).or_default().push_back(fault);
    }

    fn pop(&mut self, api: ApiKey, place: Place) -> Option<Fault> {
        self.queues.get_mut(&(api as i16, place))?.pop_front()
    }

    /// Consumes one fault of each queue this request falls under.
    pub fn strike(&mut self, api: ApiKey, broker: i32, partitions: &[(String, i32)]) -> Strikes {
        let mut strikes = Strikes::default();
        strikes.request.extend(self.pop(api, Place::Broker(broker)));
        strikes.request.extend(self.pop(api, Place::Anywhere));
        for (topic, partition) in partitions {
            if let Some(fault) = self.pop(api, Place::Partition(topic.clone(), *partition)) {
                strikes.partitions.entry((topic.clone(), *partition)).or_default().push(fault);
            }
        }
        strikes
    }

    pub fn pending(&self) -> usize {
        self.queues.values().map(VecDeque::len).sum()
    }

    pub fn clear(&mut self) {
        self.queues.clear();
    }
}
