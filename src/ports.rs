//! The four traits between the relay's decisions and the world.
//!
//! Promises: the relay reaches files, sockets and time only through these. Does not know: any of their implementations.

use crate::model::{
    Another, Backlog, Booked, Budget, Deletion, FileId, Fingerprint, Flow, Glance, Guard, JournalMode, Left, Look,
    Origin, OutboxIx, Plan, PlanId, Quarantined, Request, Resend, RowKey, RowView, Sought, Start, TableIdentity,
    TableTraits, Topic, Version, Why,
};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub use outboxd_kafka::outcome::{Full, Manner};

/// One database with all its outboxes, and the only connection to it.
pub trait Source {
    /// Gives rows of one outbox in rowid order to `each`, in one short read transaction. Opens the database when it was let go.
    fn look(
        &mut self,
        outbox: OutboxIx,
        start: Start,
        budget: Budget,
        each: &mut dyn FnMut(&RowView<'_>) -> Flow,
    ) -> Result<Look, SourceError>;

    /// Which of these outboxes a look from there would find anything at: all in one short read transaction, which ends after the first
    /// one that takes it beyond `time`. Where nothing is found this stands for a look, at a fraction of its cost.
    fn glance(&mut self, starts: &[(OutboxIx, Start)], time: Duration) -> Result<Glance, SourceError>;

    /// `PRAGMA data_version`, without reading a row. `None` while the database is let go.
    fn version(&mut self) -> Result<Option<Version>, SourceError>;

    /// Makes everything that returned looks have read, and deletes that have returned, survive a power cut
    /// (`durability = "power-loss"`); nothing to do otherwise, or when there was neither since the last call.
    fn make_durable(&mut self) -> Result<(), SourceError>;

    /// Whether another process reads or writes the database at this moment. False when that can't be known.
    fn others_active(&mut self) -> bool;

    fn journal_mode(&self) -> JournalMode;

    /// Deletes whole groups of rows in one transaction, each row only if it is still what it was, in the cheap order.
    /// `before_commit` runs inside the write transaction, just before its COMMIT, and is told what the transaction did.
    fn delete(
        &mut self,
        order: &DeleteOrder<'_>,
        before_commit: &mut dyn FnMut(&Deletion) -> Result<(), JournalError>,
    ) -> Result<Deletion, SourceError>;

    /// What is known of the outbox's table; `None` until a look has come to it.
    fn traits(&self, outbox: OutboxIx) -> Option<&TableTraits>;

    /// Whether deletes are booked in the database itself (`bookkeeping = "table"`).
    fn books(&self) -> bool;

    /// What the database itself says of our deletes: `None` when it does not say anything about this state file's plans.
    fn booked(&mut self) -> Result<Option<Booked>, SourceError>;

    /// How many rows the outbox's table holds: counted up to 10,000, above that estimated from the lowest and highest rowid.
    fn backlog(&mut self, outbox: OutboxIx) -> Result<Backlog, SourceError>;

    /// Closes the connection, keeps the lock on the file. A later look opens it again.
    fn let_go(&mut self);

    fn is_open(&self) -> bool;

    /// The file that is locked, also while it is let go, and the log that was last open with it; `None` before there was one.
    fn origin(&self) -> Option<Origin>;

    /// Whether another process has the database open. True when that can't be known: outside WAL mode, or while it is let go.
    fn others_connected(&mut self) -> bool;

    /// Whether the first look of this connection has found everything as the connection before left it: nobody has committed in
    /// between.
    fn is_undisturbed(&self) -> bool;

    /// Whether this connection, at its first look, has found nothing in the write-ahead log, not even what is in the database already.
    /// False outside WAL mode.
    fn found_empty_log(&self) -> bool;

    /// While let go: whether database or -wal differ (inode, size, mtime) from what they were after closing. An
    /// empty -wal is as good as none. One or two `stat`.
    fn stirred(&mut self) -> bool;
}

/// What to delete and how politely.
#[derive(Clone, Copy, Debug)]
pub struct DeleteOrder<'a> {
    /// Rising over the daemon's life.
    pub number: u64,
    pub groups: &'a [DeleteGroup],
    /// With bookkeeping: plans deleted earlier that the state file may still hold. Those of this order are booked with them.
    pub booked: &'a [PlanId],
    /// Others go first: the write lock is taken as late as can be, and not kept when someone else is active before it is taken or
    /// before COMMIT ([`SourceError::Yielded`]).
    pub yields: bool,
    /// How long a COMMIT that is answered BUSY (rollback journals) may be retried.
    pub commit_patience: Duration,
}

/// Rows that are deleted together or not at all.
#[derive(Clone, Debug)]
pub enum DeleteGroup {
    /// Those of an acknowledged plan.
    Plan(Arc<Plan>),
    /// Those that an operator named.
    Rows(Arc<[(RowKey, Fingerprint)]>),
}

impl DeleteGroup {
    /// Whose rows they are, if they are those of a plan.
    pub fn plan(&self) -> Option<PlanId> {
        match self {
            DeleteGroup::Plan(plan) => Some(plan.id),
            DeleteGroup::Rows(_) => None,
        }
    }

    /// Each row, and as what it is deleted.
    pub fn rows(&self) -> impl Iterator<Item = (RowKey, Fingerprint)> + '_ {
        let (plan, named) = match self {
            DeleteGroup::Plan(plan) => (Some(plan.rows.known()), &[][..]),
            DeleteGroup::Rows(rows) => (None, &rows[..]),
        };
        plan.into_iter().flatten().chain(named.iter().copied())
    }
}

/// Why a source could not do what was asked. Its message never repeats its `source`.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Someone else holds a lock: weather, never counted as a failure. The text says what was seen of it.
    #[error("{0}")]
    Busy(String),
    /// A delete was rolled back because another process came; nothing changed.
    #[error("made way for another process")]
    Yielded,
    /// The file or the table is not there (yet). The relay waits.
    #[error("{0}")]
    NotThere(Why),
    /// File or table are not the ones read before (replaced, restored, re-created, renumbered by VACUUM): what is held has to be
    /// matched anew. Said once; the next call works on what is there now. `another`: whose table is another, so that rows that look
    /// alike are not the ones that were read.
    #[error("{text}")]
    Replaced { text: String, another: Another },
    /// COMMIT answered an I/O error: it may have happened or not. The connection was closed.
    #[error("whether the delete was committed is not known: {0}")]
    CommitUnknown(String),
    /// It is there and can't be an outbox.
    #[error("{why}")]
    NotAnOutbox { outbox: OutboxIx, why: Why },
    /// Disk full, read-only, no permission, corrupt, or anything else SQLite says.
    #[error("{0}")]
    Failed(Why),
    /// From `before_commit`; rolled back.
    #[error("the delete was rolled back because the state file could not be written")]
    Journal(#[source] JournalError),
}

/// outboxd's own memory: the state file.
pub trait Journal {
    /// What the rows of what is recorded next were read from, and are in. A path would lead to another one soon. True: the state file
    /// does not know of it, and is told with the next record, even if that has no changes.
    fn reads_from(&mut self, origin: Option<Origin>) -> bool;

    /// Writes all changes in one transaction; `sync`: it must survive a power cut before this returns.
    fn record(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError>;

    /// As `record`, while an application waits for a lock of ours: given up at once, [`JournalError::busy`], when somebody else has
    /// the file, and nothing is done that can wait.
    fn note(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError>;

    /// Everything that is recorded of plans that are not settled, quarantine and resends, as at a start. `file`: the database's file as it
    /// is now. What operators have asked for and nobody has answered is given out once more.
    fn left(&mut self, file: Option<FileId>) -> Result<Left, JournalError>;

    /// What operators have asked for since the last call and nobody has answered. Cheap when there is nothing new.
    fn requests(&mut self) -> Result<Vec<Request>, JournalError>;
}

/// One fact for the state file.
#[derive(Clone, Copy, Debug)]
pub enum Change<'a> {
    /// Written before the batch is sent.
    Planned(&'a Plan),
    /// In one transaction the old plan goes and the new ones come: after a rejection.
    Replaced {
        old: PlanId,
        new: &'a [Arc<Plan>],
    },
    Acknowledged {
        plan: PlanId,
        offset: i64,
    },
    /// These plans are about to be deleted: written inside the write transaction that does it, just before its COMMIT, in the place of
    /// what was noted of the same delete before. None: it did not commit, or they are all settled.
    Deleting {
        delete: u64,
        plans: &'a [PlanId],
    },
    /// What lies where the plan's rows were may be other rows: for whoever comes after a crash, too.
    Doubtful {
        plan: PlanId,
    },
    /// The plan's delete is durable (or it was dropped with a reason): forget it.
    Settled {
        plan: PlanId,
    },
    /// The same of a plan that has rows of outboxes which are no longer configured: only those are kept.
    SettledHere {
        plan: PlanId,
    },
    /// The row is passed over from now on; one already there under the same rowid is replaced.
    Quarantined(&'a Quarantined),
    /// The row is in quarantine no longer: it was changed, removed, or is to be sent again.
    Released {
        key: RowKey,
    },
    /// The row in quarantine has another rowid now (VACUUM), or another fingerprint (a column is gone).
    Renumbered {
        key: RowKey,
        rowid: i64,
        print: Fingerprint,
    },
    /// The row waits in its table to be sent again, under the message id it had. In the place of what was noted of it before.
    ToResend {
        key: RowKey,
        resend: Resend,
    },
    /// It is in a plan again, was rewritten, or is gone.
    NotToResend {
        key: RowKey,
    },
    /// Records are stamped with this time from now on: a clock that says an earlier one later is wrong, or was.
    Stamped {
        at: SystemTime,
    },
    /// The outbox's table as it is now, and what its fingerprints are made of.
    Table {
        outbox: OutboxIx,
        guard: &'a Guard,
        identity: &'a TableIdentity,
    },
    /// A request was dealt with; the text is for the operator. `failed`: it could not be done.
    Answered {
        request: i64,
        failed: bool,
        text: &'a str,
    },
}

#[derive(Debug, thiserror::Error)]
#[error("state file {path}: {text}")]
pub struct JournalError {
    pub path: String,
    pub text: String,
    /// Somebody else works with it at this moment: weather.
    pub busy: bool,
}

/// Where records go. Never blocks; answers are `SinkEvent`s.
pub trait Sink {
    /// Asks for a new producer id: answered by one `Producer`, after any number of `NoProducer`.
    fn producer(&mut self);

    /// Asks for a topic's partitions: answered by `Opened`, after any number of `NotOpened`. Asking twice is harmless.
    fn open(&mut self, topic: &Topic);

    /// Hands a plan over for one attempt: answered by exactly one `Outcome`, unless the answer is `Full`.
    fn send(&mut self, plan: &Arc<Plan>, manner: Manner) -> Result<(), Full>;

    /// Asks the partition's current leader what became of a plan: answered by exactly one `Evidence`, after any number of
    /// `NoEvidence`. Only `id`, `target`, `triple`, `noted_offset`, `leader_epoch` and the number of rows are looked at.
    fn look_up(&mut self, plan: &Arc<Plan>, sought: Sought);

    /// No new work follows. What no broker can have got yet is answered `NotAppended` at once.
    fn drain(&mut self);
}

/// Time, injected.
pub trait Clock {
    fn now(&self) -> Instant;
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Rows that must stay together with their outbox in error texts.
impl std::fmt::Display for RowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "outbox {} rowid {}", self.outbox.0, self.rowid)
    }
}
