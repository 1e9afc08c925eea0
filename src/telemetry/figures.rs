//! The numbers of one relay, as atomics: written by the relay, read by `/metrics` and the status line.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Upper bounds of the commit-to-ack histogram, in seconds.
pub const LATENCY_BOUNDS_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0];

/// A histogram whose observations carry a weight, because a batch's rows are observed together.
#[derive(Debug, Default)]
pub struct Histogram {
    /// One more than bounds: the last is +Inf. Not cumulative.
    pub buckets: [AtomicU64; LATENCY_BOUNDS_SECONDS.len() + 1],
    pub sum_microseconds: AtomicU64,
}

impl Histogram {
    pub fn observe(&self, value: Duration, weight: u64) {
        let seconds = value.as_secs_f64();
        let slot = LATENCY_BOUNDS_SECONDS.partition_point(|bound| *bound < seconds);
        self.buckets[slot].fetch_add(weight, Relaxed);
        self.sum_microseconds.fetch_add(value.as_micros() as u64 * weight, Relaxed);
    }
}

/// One outbox's figures.
#[derive(Debug, Default)]
pub struct OutboxFigures {
    /// Records acknowledged by the sink.
    pub published: AtomicU64,
    pub deleted: AtomicU64,
    /// Rows put into quarantine: rejected, unroutable, or kept by a trigger; those found there at the start included.
    pub set_aside: AtomicU64,
    /// Rewritten by the application while on their way, and so published again.
    pub changed: AtomicU64,
    /// Rows waiting in the table, held ones included; exact while `backlog_exact`.
    pub backlog_rows: AtomicU64,
    pub backlog_exact: AtomicBool,
    /// Milliseconds since the oldest row now waiting was first seen; -1 when none waits.
    pub oldest_seen_ms: AtomicI64,
}

/// One database's figures.
#[derive(Debug)]
pub struct Figures {
    pub database: String,
    pub names: Vec<String>,
    pub outboxes: Vec<OutboxFigures>,
    pub commit_to_ack: Histogram,
    pub busy: AtomicU64,
    pub yielded: AtomicU64,
    pub looks: AtomicU64,
    pub wakes: AtomicU64,
    pub batches: AtomicU64,
    /// Attempts by outcome.
    pub not_appended: AtomicU64,
    pub unsure: AtomicU64,
    pub refused: AtomicU64,
    pub rejected: AtomicU64,
    /// Rows sent again although they may have been published.
    pub unsure_rows: AtomicU64,
    pub held_rows: AtomicU64,
    pub held_bytes: AtomicU64,
    pub lanes_stopped: AtomicU64,
    pub longest_read_us: AtomicU64,
    pub longest_write_us: AtomicU64,
    pub source_ready: AtomicBool,
    pub sink_ready: AtomicBool,
    /// Milliseconds after `started` of the loop's last turn.
    pub turned_ms: AtomicU64,
    pub started: Instant,
    /// The loop does not turn because it reads or writes, or waits for somebody who does.
    pub at_disk: AtomicBool,
    /// Its drain has begun: whether that ends in time is for its supervisor to say.
    pub draining: AtomicBool,
    /// What the loop waits for, when that may take long; for people.
    pub waiting_for: Mutex<Option<String>>,
}

impl Figures {
    pub fn new(database: String, names: Vec<String>) -> Self {
        let outboxes = names.iter().map(|_| OutboxFigures::default()).collect();
        Figures {
            database,
            names,
            outboxes,
            commit_to_ack: Histogram::default(),
            busy: AtomicU64::new(0),
            yielded: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            not_appended: AtomicU64::new(0),
            unsure: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            unsure_rows: AtomicU64::new(0),
            held_rows: AtomicU64::new(0),
            held_bytes: AtomicU64::new(0),
            lanes_stopped: AtomicU64::new(0),
            longest_read_us: AtomicU64::new(0),
            longest_write_us: AtomicU64::new(0),
            source_ready: AtomicBool::new(false),
            sink_ready: AtomicBool::new(false),
            turned_ms: AtomicU64::new(0),
            started: Instant::now(),
            at_disk: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            waiting_for: Mutex::new(None),
        }
    }

    /// Sets or clears the named wait; touches the lock only when it changes.
    pub fn wait_for(&self, what: Option<&str>) {
        if let Ok(mut slot) = self.waiting_for.lock()
            && slot.as_deref() != what
        {
            *slot = what.map(str::to_owned);
        }
    }
}
