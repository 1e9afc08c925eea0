//! A synchronous, idempotent producer whose caller owns the triples: batches in, one answer each out.
//!
//! Promises: each accepted batch is tried once and answered exactly once; its bytes are not copied. Does not know: outboxes, rows, plans.

mod answer;
mod options;
mod pool;
mod queue;
mod sender;
#[cfg(test)]
mod tests;

pub(crate) use options::Backoff;
pub use options::{KafkaOptions, REQUEST_MERGED_MAX_BYTES, StartError};
pub(crate) use pool::Pool;

use crate::cluster::{Cluster, Lead};
use crate::look_up::{Finding, LookUps, Search};
use crate::producer::queue::Job;
use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, Sender, TrySendError};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// A handle on one batch: cheap to clone, its records shared. What it says must never change (invariant I1).
pub trait Batch: Clone + Send + Sync + 'static {
    fn topic(&self) -> &str;
    fn partition(&self) -> i32;
    /// The cluster that its producer id and sequences belong to, where that has an id.
    fn cluster(&self) -> Option<&str>;
    fn producer_id(&self) -> i64;
    fn producer_epoch(&self) -> i16;
    fn base_sequence(&self) -> i32;
    fn record_count(&self) -> usize;
    /// The records section of a record batch v2, uncompressed, timestamp deltas 0.
    fn records(&self) -> &[u8];
}

/// Why something did not go as wished: for people, never matched on. It names no topic-partition where it is about one: whoever asked knows
/// it, and what happens to hundreds for one reason reads alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// Kafka's error code, where one was answered.
    pub code: Option<i16>,
    pub text: String,
    /// What to do next; empty when there is nothing to add.
    pub hint: String,
}

impl Failure {
    pub fn new(text: impl Into<String>) -> Self {
        Failure { code: None, text: text.into(), hint: String::new() }
    }
}

/// What became of one attempt (docs/kafka.md, "What an answer means").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Error 0 to acks=all. The offset of the first record, -1 when the broker no longer has it.
    Stored {
        base_offset: i64,
    },
    /// This attempt wrote nothing.
    NotAppended(Failure),
    Unsure(Failure),
    /// Records of this batch; which, by their place in it, when the broker says so.
    Rejected {
        failure: Failure,
        records: Option<Vec<u32>>,
    },
    /// The topic, the clock or our permissions.
    Refused(Failure),
    OutOfSequence(Failure),
}

/// A partition when its topic was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionAtOpen {
    pub partition: i32,
    /// The high watermark. `None`: its leader could not be asked yet.
    pub end_offset: Option<i64>,
    pub leader_epoch: i32,
}

/// What a producer tells the owner of a handle.
#[derive(Clone, Debug)]
pub enum Report<B> {
    /// `cluster`: what the cluster that gave it calls itself.
    ProducerId { id: i64, cluster: Option<Arc<str>> },
    /// Not yet; it is tried on.
    NoProducerId(Failure),
    /// Partitions 0..n without gaps, of which at least one has a leader that could be asked; again whenever their number has changed, and
    /// when more of them could be.
    Opened { topic: Arc<str>, partitions: Vec<PartitionAtOpen> },
    /// Not yet; it is tried on.
    NotOpened { topic: Arc<str>, failure: Failure },
    /// Exactly one for each accepted batch.
    Delivered { batch: B, delivery: Delivery, at: Instant },
    /// Exactly one for each batch that was asked about, unless its owner drains.
    LookedUp { batch: B, finding: Finding },
    /// Not yet; it is tried on.
    NotLookedUp { batch: B, failure: Failure },
}

/// How a batch travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Travel {
    /// In one request with others for the same broker.
    Merged,
    /// In a request of its own on the broker's extra connection.
    Alone,
}

/// The handle has as many batches under way as its channel has room for; one of its events comes before there is room again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// In flight at once through one handle whose channel has no bound of its own.
const IN_FLIGHT_MAX: usize = 1024;

/// How often a thread that has an event for a full channel looks whether it should end.
const LOOK_UP_EVERY: Duration = Duration::from_millis(50);

/// Where one handle's events go.
pub(crate) struct Mailbox<E> {
    pub(crate) id: u64,
    events: Sender<E>,
    in_flight: AtomicUsize,
    in_flight_max: usize,
    draining: AtomicBool,
    /// Its handle is gone: nothing more is worth doing for it.
    closed: AtomicBool,
}

impl<E> Mailbox<E> {
    fn new(id: u64, events: Sender<E>) -> Self {
        // A quarter stays free for what is not an answer to a batch, so that senders don't wait for a relay that is busy.
        let in_flight_max = events.capacity().map_or(IN_FLIGHT_MAX, |capacity| (capacity * 3 / 4).max(1));
        Mailbox {
            id,
            events,
            in_flight: AtomicUsize::new(0),
            in_flight_max,
            draining: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }

    /// Nothing but answers to what was sent is waited for any more.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(SeqCst)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// Never waits. `false`: no room, come again.
    pub(crate) fn offer(&self, event: E) -> bool {
        !matches!(self.events.try_send(event), Err(TrySendError::Full(_)))
    }

    /// Only the handle's own thread takes places, so load and add need not be one step.
    fn take_place(&self) -> bool {
        let free = self.in_flight.load(SeqCst) < self.in_flight_max;
        if free {
            self.in_flight.fetch_add(1, SeqCst);
        }
        free
    }

    /// The place is given back *before* the event is sent: the other way round the owner could see the event, be told `Full`, and wait
    /// for a next event that never comes.
    fn give_place_back(&self) {
        self.in_flight.fetch_sub(1, SeqCst);
    }
}

/// Answers a batch; waits for room in the channel until the producer stops.
fn answer<B: Batch, E: From<Report<B>>>(job: Job<B, E>, delivery: Delivery, stopping: &AtomicBool) {
    let Job { batch, mailbox, .. } = job;
    mailbox.give_place_back();
    let mut event = E::from(Report::Delivered { batch, delivery, at: Instant::now() });
    loop {
        match mailbox.events.send_timeout(event, LOOK_UP_EVERY) {
            Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return,
            Err(SendTimeoutError::Timeout(_)) if stopping.load(SeqCst) => return,
            Err(SendTimeoutError::Timeout(back)) => event = back,
        }
    }
}

/// The threads: one that follows the cluster, and senders as they are needed.
pub struct Producer<B, E> {
    shared: Arc<Shared<B, E>>,
    threads_ended: crossbeam_channel::Receiver<()>,
}

/// What handles and threads share.
pub(crate) struct Shared<B, E> {
    pub(crate) options: KafkaOptions,
    pub(crate) cluster: Cluster<E>,
    pub(crate) pool: Pool<B, E>,
    pub(crate) look_ups: LookUps<B, E>,
    pub(crate) stopping: AtomicBool,
    handles: AtomicU64,
    threads: ThreadEnds,
}

/// Every thread holds a clone of the sending side; when the last is dropped the receiver knows that all have ended.
struct ThreadEnds(std::sync::Mutex<Option<Sender<()>>>);

impl ThreadEnds {
    fn ticket(&self) -> Option<Sender<()>> {
        lock(&self.0).clone()
    }

    fn close(&self) {
        lock(&self.0).take();
    }
}

/// A poisoned lock means that a thread of ours panicked while it held it; every critical section here leaves its data whole.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl<B, E> Shared<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    /// Starts a thread that `stop` waits for.
    pub(crate) fn spawn(&self, name: String, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let Some(ticket) = self.threads.ticket() else {
            return Err(std::io::Error::other("the producer has been stopped"));
        };
        std::thread::Builder::new().name(name).stack_size(512 * 1024).spawn(move || {
            run();
            drop(ticket);
        })?;
        Ok(())
    }
}

impl<B, E> Producer<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    /// Checks the options and starts the thread that follows the cluster. Reaches no broker: one that is away is weather.
    pub fn start(options: KafkaOptions) -> Result<Self, StartError> {
        let servers = options.check()?;
        let (ticket, threads_ended) = crossbeam_channel::bounded(0);
        let shared = Arc::new(Shared {
            cluster: Cluster::new(servers),
            pool: Pool::new(options.senders_per_broker),
            look_ups: LookUps::new(),
            options,
            stopping: AtomicBool::new(false),
            handles: AtomicU64::new(0),
            threads: ThreadEnds(std::sync::Mutex::new(Some(ticket))),
        });
        let follower = Arc::clone(&shared);
        shared
            .spawn("kafka-cluster".to_owned(), move || crate::cluster::follow(&follower))
            .map_err(StartError::Thread)?;
        Ok(Producer { shared, threads_ended })
    }

    /// A handle for one owner, whose events go to `events`. The channel's bound also bounds how many batches may be under way.
    pub fn handle(&self, events: Sender<E>) -> Handle<B, E> {
        let id = self.shared.handles.fetch_add(1, SeqCst);
        Handle { shared: Arc::clone(&self.shared), mailbox: Arc::new(Mailbox::new(id, events)) }
    }

    /// Ends all threads: what waits is answered `NotAppended`, what is under way is cut off and answered `Unsure`, as far as someone
    /// listens. False when a thread was still stuck in the system at the deadline (resolving a name, connecting): it is left behind.
    pub fn stop(self, deadline: Instant) -> bool {
        self.shared.begin_stop();
        loop {
            match self.threads_ended.recv_deadline(deadline) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return true,
                Err(RecvTimeoutError::Timeout) => return false,
            }
        }
    }
}

impl<B, E> Drop for Producer<B, E> {
    fn drop(&mut self) {
        self.shared.begin_stop();
    }
}

impl<B, E> Shared<B, E> {
    fn begin_stop(&self) {
        self.stopping.store(true, SeqCst);
        self.threads.close();
        self.cluster.interrupt();
        self.pool.interrupt();
        self.look_ups.interrupt();
    }
}

/// One owner's end of a producer.
pub struct Handle<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    shared: Arc<Shared<B, E>>,
    mailbox: Arc<Mailbox<E>>,
}

impl<B, E> Handle<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    /// Asks for a new producer id: one [`Report::ProducerId`] for each call.
    pub fn producer_id(&self) {
        self.shared.cluster.ask_producer_id(&self.mailbox);
    }

    /// Asks for a topic's partitions. Asking again, also when they are known, is harmless.
    pub fn open(&self, topic: &Arc<str>) {
        self.shared.cluster.ask_open(&self.mailbox, topic);
    }

    /// Asks the partition's leader what became of a batch: one [`Report::LookedUp`], after any number of [`Report::NotLookedUp`], unless
    /// the handle drains. Never waits.
    pub fn look_up(&self, batch: B, search: Search) {
        LookUps::ask(&self.shared, batch, search, &self.mailbox);
    }

    /// Hands a batch over for one attempt. Never waits. Without `Full` exactly one [`Report::Delivered`] follows.
    pub fn send(&mut self, batch: B, travel: Travel) -> Result<(), Full> {
        if !self.mailbox.take_place() {
            return Err(Full);
        }
        let job = Job { batch, mailbox: Arc::clone(&self.mailbox) };
        let failure = if self.mailbox.draining.load(SeqCst) || self.shared.stopping.load(SeqCst) {
            Failure::new("not sent any more, the producer is draining")
        } else {
            match self.shared.cluster.lead(job.batch.topic(), job.batch.partition()) {
                Lead::Unknown(failure) => {
                    self.shared.cluster.ask_refresh();
                    failure
                }
                Lead::Broker(broker) => match self.refuse_oversized(job) {
                    Ok(job) => return Pool::push(&self.shared, broker, job, travel),
                    Err(answered) => return answered,
                },
            }
        };
        self.answer_now(job, Delivery::NotAppended(failure))
    }

    fn refuse_oversized(&self, job: Job<B, E>) -> Result<Job<B, E>, Result<(), Full>> {
        let size = job.batch.records().len();
        let max = self.shared.options.max_request_size;
        if size <= max {
            return Ok(job);
        }
        let delivery = Delivery::Rejected {
            failure: Failure {
                code: Some(10),
                text: format!("a batch of {size} bytes is larger than max_request_size ({max})"),
                hint: "raise max_request_size, and the topic's max.message.bytes with it, or make the payload smaller"
                    .to_owned(),
            },
            records: (job.batch.record_count() == 1).then(|| vec![0]),
        };
        Err(self.answer_now(job, delivery))
    }

    /// From the owner's own thread, which must not wait for itself to empty its channel: no room is `Full`, and there is an event to
    /// come in that case, because the channel holds some.
    fn answer_now(&self, job: Job<B, E>, delivery: Delivery) -> Result<(), Full> {
        self.mailbox.give_place_back();
        let event = E::from(Report::Delivered { batch: job.batch, delivery, at: Instant::now() });
        if self.mailbox.offer(event) { Ok(()) } else { Err(Full) }
    }

    /// No new work follows. Batches of which nothing was written yet are answered `NotAppended` at once; the others are waited for as
    /// ever.
    pub fn drain(&mut self) {
        self.mailbox.draining.store(true, SeqCst);
        let mut waiting = self.shared.pool.withdraw(self.mailbox.id).into_iter();
        let mut left = Vec::new();
        for job in waiting.by_ref() {
            let failure = not_sent_draining();
            self.mailbox.give_place_back();
            let event = E::from(Report::Delivered {
                batch: job.batch,
                delivery: Delivery::NotAppended(failure),
                at: Instant::now(),
            });
            match self.mailbox.events.try_send(event) {
                Ok(()) | Err(TrySendError::Disconnected(_)) => {}
                Err(TrySendError::Full(event)) => {
                    left.push(event);
                    break;
                }
            }
        }
        let rest: Vec<Job<B, E>> = waiting.collect();
        if left.is_empty() && rest.is_empty() {
            return;
        }
        // This thread is the one that empties the channel, so another has to fill it.
        let shared = Arc::clone(&self.shared);
        let mailbox = Arc::clone(&self.mailbox);
        let spawned = self.shared.spawn("kafka-drain".to_owned(), move || {
            for mut event in left {
                while let Err(SendTimeoutError::Timeout(back)) = mailbox.events.send_timeout(event, LOOK_UP_EVERY) {
                    if shared.stopping.load(SeqCst) {
                        return;
                    }
                    event = back;
                }
            }
            for job in rest {
                let failure = not_sent_draining();
                answer(job, Delivery::NotAppended(failure), &shared.stopping);
            }
        });
        if let Err(error) = spawned {
            log::warn!("kafka: some batches that were not sent can't be reported while draining: {error}");
        }
    }
}

fn not_sent_draining() -> Failure {
    Failure::new("given up before anything was sent, because the producer is draining")
}

impl<B, E> Drop for Handle<B, E>
where
    B: Batch,
    E: From<Report<B>> + Send + 'static,
{
    /// What still waits has no owner any more and must not be sent behind its back.
    fn drop(&mut self) {
        self.mailbox.closed.store(true, SeqCst);
        self.mailbox.draining.store(true, SeqCst);
        drop(self.shared.pool.withdraw(self.mailbox.id));
    }
}
