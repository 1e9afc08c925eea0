//! A synchronous, idempotent producer whose caller owns the triples: batches in, one answer each out.
//!
//! Promises: each accepted batch is tried once and answered exactly once; its bytes are not copied. Does not know: outboxes, rows, plans.

mod classify;
mod job;
mod options;
mod pool;
mod sender;

pub use options::{KafkaOptions, StartError};
pub(crate) use pool::Pool;

use crate::compression::Compression;
use crate::connection::ConnectionOptions;
use crate::lookup::Lookups;
use crate::metadata::{Cluster, Lead};
use crate::outcome::{Batch, Event, Full, Manner, Outcome, Sought, Why};
use crate::security::Security;
use crossbeam_channel::{RecvTimeoutError, SendTimeoutError, Sender, TrySendError};
use job::Job;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// In flight at once through one handle whose channel has no bound of its own.
const IN_FLIGHT_MAX: usize = 1024;

/// How often a thread that has an event for a full channel looks whether it should end.
const STOP_SEEN_WITHIN: Duration = Duration::from_millis(50);

/// Where one handle's events go.
pub(crate) struct Mailbox {
    pub(crate) id: u64,
    events: Sender<Event>,
    in_flight: AtomicUsize,
    in_flight_max: usize,
    draining: AtomicBool,
    /// Its handle is gone: nothing more is worth doing for it.
    closed: AtomicBool,
}

impl Mailbox {
    fn new(id: u64, events: Sender<Event>) -> Self {
        // A quarter stays free for what is not an answer to a batch, so that senders don't wait for an owner that is busy.
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
    pub(crate) fn offer(&self, event: Event) -> bool {
        self.try_deliver(event).is_ok()
    }

    /// As [`Mailbox::offer`]; the event comes back when there is no room.
    fn try_deliver(&self, event: Event) -> Result<(), Event> {
        match self.events.try_send(event) {
            Err(TrySendError::Full(event)) => Err(event),
            // Nobody listens any more.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Waits for room until the producer stops.
    fn deliver(&self, mut event: Event, stopping: &AtomicBool) {
        loop {
            match self.events.send_timeout(event, STOP_SEEN_WITHIN) {
                Ok(()) | Err(SendTimeoutError::Disconnected(_)) => return,
                Err(SendTimeoutError::Timeout(_)) if stopping.load(SeqCst) => return,
                Err(SendTimeoutError::Timeout(back)) => event = back,
            }
        }
    }

    /// Only the handle's own thread takes places, so load and add need not be one step.
    fn take_place(&self) -> bool {
        let free = self.in_flight.load(SeqCst) < self.in_flight_max;
        if free {
            self.in_flight.fetch_add(1, SeqCst);
        }
        free
    }

    fn give_place_back(&self) {
        self.in_flight.fetch_sub(1, SeqCst);
    }
}

/// Answers a batch; waits for room in the channel until the producer stops.
fn answer(job: Job, outcome: Outcome, stopping: &AtomicBool) {
    let (mailbox, event) = job.answered(outcome);
    mailbox.deliver(event, stopping);
}

/// The threads: one that follows the cluster, and senders as they are needed.
pub struct Producer {
    shared: Arc<Shared>,
    threads_ended: crossbeam_channel::Receiver<()>,
}

/// What handles and threads share.
pub(crate) struct Shared {
    pub(crate) options: KafkaOptions,
    pub(crate) cluster: Cluster,
    pub(crate) pool: Pool,
    pub(crate) lookups: Lookups,
    pub(crate) stopping: AtomicBool,
    handles: AtomicU64,
    threads: ThreadEnds,
}

impl Shared {
    pub(crate) fn connection_options(&self) -> ConnectionOptions {
        self.options.connection(self.cluster.security())
    }
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

impl Shared {
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

    fn begin_stop(&self) {
        self.stopping.store(true, SeqCst);
        self.threads.close();
        self.cluster.interrupt();
        self.pool.interrupt();
        self.lookups.interrupt();
    }
}

impl Producer {
    /// Checks the options and starts the thread that follows the cluster. Reaches no broker: one that is away is weather.
    pub fn start(options: KafkaOptions) -> Result<Self, StartError> {
        let servers = options.check()?;
        let security = Security::new(&options.security)?;
        let (ticket, threads_ended) = crossbeam_channel::bounded(0);
        let shared = Arc::new(Shared {
            cluster: Cluster::new(servers, security),
            pool: Pool::new(options.senders_per_broker),
            lookups: Lookups::new(),
            options,
            stopping: AtomicBool::new(false),
            handles: AtomicU64::new(0),
            threads: ThreadEnds(std::sync::Mutex::new(Some(ticket))),
        });
        let for_thread = Arc::clone(&shared);
        shared
            .spawn("kafka-cluster".to_owned(), move || crate::metadata::run(&for_thread))
            .map_err(StartError::Thread)?;
        Ok(Producer { shared, threads_ended })
    }

    /// A handle for one owner, whose events go to `events`. The channel's bound also bounds how many batches may be under way.
    pub fn handle(&self, events: Sender<Event>) -> Handle {
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

impl Drop for Producer {
    fn drop(&mut self) {
        self.shared.begin_stop();
    }
}

/// One owner's end of a producer.
pub struct Handle {
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
}

impl Handle {
    /// Asks for a new producer id: one [`Event::Producer`] for each call, after any number of [`Event::NoProducer`].
    pub fn producer_id(&self) {
        self.shared.cluster.ask_producer_id(&self.mailbox);
    }

    /// Asks for a topic's partitions: [`Event::Opened`], after any number of [`Event::NotOpened`]. Asking again, also when they are
    /// known, is harmless.
    pub fn open(&self, topic: &Arc<str>) {
        self.shared.cluster.ask_open(&self.mailbox, topic);
    }

    /// Asks the partition's leader what became of a batch: one [`Event::Evidence`], after any number of [`Event::NoEvidence`], unless
    /// the handle drains. Never waits.
    pub fn look_up(&self, batch: Batch, sought: Sought) {
        Lookups::ask(&self.shared, batch, sought, &self.mailbox);
    }

    /// Hands a batch over for one attempt. Never waits. Without `Full` exactly one [`Event::Outcome`] follows.
    pub fn send(&mut self, batch: Batch, manner: Manner) -> Result<(), Full> {
        if !self.mailbox.take_place() {
            return Err(Full);
        }
        let job = Job { batch, mailbox: Arc::clone(&self.mailbox) };
        let outcome = if self.mailbox.draining.load(SeqCst) || self.shared.stopping.load(SeqCst) {
            Outcome::NotAppended(Why::new("not sent any more, the producer is draining"))
        } else {
            match self.shared.cluster.lead(&job.batch.topic, job.batch.partition) {
                Lead::Unknown(why) => {
                    self.shared.cluster.ask_refresh();
                    Outcome::NotAppended(why)
                }
                // How large a batch is that will be compressed its sender finds out.
                Lead::Broker(broker) => match oversized(&self.shared.options, &job.batch) {
                    Some(rejected) if self.shared.options.compression_type == Compression::None => rejected,
                    _ => return Pool::push(&self.shared, broker, job, manner),
                },
            }
        };
        job.answer_now(outcome)
    }

    /// No new work follows. Batches of which nothing was written yet are answered `NotAppended` at once; the others are waited for as
    /// ever.
    pub fn drain(&mut self) {
        self.mailbox.draining.store(true, SeqCst);
        let why = "given up before anything was sent, because the producer is draining";
        let withdrawn = self.shared.pool.withdraw(self.mailbox.id);
        let mut answers = withdrawn.into_iter().map(|job| job.answered(Outcome::NotAppended(Why::new(why))).1);
        let Some(first_left) = answers.find_map(|event| self.mailbox.try_deliver(event).err()) else { return };
        // This thread is the one that empties the channel, so another has to fill it.
        let left: Vec<Event> = std::iter::once(first_left).chain(answers).collect();
        let (shared, mailbox) = (Arc::clone(&self.shared), Arc::clone(&self.mailbox));
        let spawned = self.shared.spawn("kafka-drain".to_owned(), move || {
            for event in left {
                mailbox.deliver(event, &shared.stopping);
            }
        });
        if let Err(error) = spawned {
            log::warn!("kafka: some batches that were not sent can't be reported while draining: {error}");
        }
    }
}

/// What becomes of a batch that is too large to be sent.
fn oversized(options: &KafkaOptions, batch: &Batch) -> Option<Outcome> {
    let (compression, sent) = batch.records.sent();
    let (size, max) = (sent.len(), options.max_request_size);
    let why = || {
        let how = if compression == Compression::None { String::new() } else { format!(" (with {compression})") };
        Why::new(format!("a batch of {size} bytes{how} is larger than max_request_size ({max})"))
            .code(10)
            .hint("raise max_request_size, and the topic's max.message.bytes with it, or make the payload smaller")
    };
    let rejected = || Outcome::Rejected { why: why(), records: (batch.record_count == 1).then(|| vec![0]) };
    (size > max).then(rejected)
}

impl Drop for Handle {
    /// What still waits has no owner any more and must not be sent behind its back.
    fn drop(&mut self) {
        self.mailbox.closed.store(true, SeqCst);
        self.mailbox.draining.store(true, SeqCst);
        drop(self.shared.pool.withdraw(self.mailbox.id));
    }
}
