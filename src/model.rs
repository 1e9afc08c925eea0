//! The words of the house as types: rows, records, plans, outcomes.
//!
//! Promises: plain data, no I/O. Does not know: SQL, the wire, files, threads.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

// What a sink says is what the Kafka producer says, whichever sink it is. These are data, without I/O.
use outboxd_kafka::outcome::Holder;
pub use outboxd_kafka::outcome::{Evidence, Outcome, PartitionStart, SentForm, Sought, Why};

/// A plan's number: unique within one state file, rising. Sinks know the plan as a batch of that number.
pub use outboxd_kafka::outcome::BatchId as PlanId;

/// What a sink tells a relay.
pub use outboxd_kafka::outcome::Event as SinkEvent;

/// A topic's name, shared.
pub type Topic = Arc<str>;

/// What a Kafka cluster calls itself in Metadata. Producer ids and epochs start alike in every cluster, so a triple means nothing in
/// another one (invariant I4).
pub type ClusterId = Arc<str>;

/// An outbox by its place in the list of one database's outboxes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxIx(pub u16);

/// A file by device and inode: paths through symlinks and hard links to one file are equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
    /// When it was made, in nanoseconds since 1970, because the numbers of a file that was removed are given again. `None`: its file
    /// system does not say.
    pub born: Option<i64>,
}

impl FileId {
    /// Whether it is the file that was noted in an earlier run, as far as both are known.
    pub fn is(&self, noted: FileId) -> bool {
        let born = self.born.zip(noted.born).is_none_or(|(now, then)| now == then);
        born && (self.device, self.inode) == (noted.device, noted.inode)
    }
}

/// What a database's rows are read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub file: FileId,
    /// The -wal that is open with it.
    pub log: Option<FileId>,
}

/// Where a row lives: its outbox and SQLite's rowid there. Ids are reused, so a key alone never identifies an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    pub outbox: OutboxIx,
    pub rowid: i64,
}

/// XXH3 over the columns that guard a row ([`Guard`]): type, length and bytes of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u128);

impl Fingerprint {
    /// `sent`: XXH3-128 of the columns that a record is made of; `others`: XXH3-64 of those that guard the row besides, 0 when there
    /// are none. These go into one half only, so that the other still tells what was sent when one of them is gone.
    pub fn of(sent: u128, others: u64) -> Self {
        Fingerprint(sent ^ u128::from(others))
    }

    /// The half that follows from what was sent, and of which row, alone.
    pub fn sent(self) -> u64 {
        (self.0 >> 64) as u64
    }
}

/// A row that was seen and can be recognised: the anchor of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMark {
    pub rowid: i64,
    pub print: Fingerprint,
}

/// A range of [`Rows::bytes`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    pub fn of<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.start as usize..(self.start + self.len) as usize]
    }
}

/// What a broker deduplicates by. It stands for one list of rows, for ever (invariant I1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triple {
    pub producer_id: i64,
    pub epoch: i16,
    /// The range's length is the plan's number of rows. Sequences wrap from 2^31-1 to 0.
    pub first_sequence: i32,
}

/// The daemon's run: 128 random bits, printed as 32 hex digits; the first half of every message id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RunId(pub u128);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// One row of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowMeta {
    pub key: RowKey,
    pub print: Fingerprint,
    /// The encoded Kafka record, length prefix included.
    pub record: Span,
    /// The number in the message id `RunId-number`; unused when `event_id` is not empty.
    pub message: u64,
    /// The value of the application's event id column inside the record; empty when not configured.
    pub event_id: Span,
}

/// One lane's rows, contiguous, built once: `bytes` is the records section of a record batch v2, uncompressed, with
/// offset deltas 0, 1, 2, … and timestamp deltas 0.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    pub bytes: Vec<u8>,
    pub meta: Vec<RowMeta>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.meta.len()
    }

    pub fn is_empty(&self) -> bool {
        self.meta.is_empty()
    }

    /// Each row, and what it was when it was read.
    pub fn known(&self) -> impl Iterator<Item = (RowKey, Fingerprint)> + '_ {
        self.meta.iter().map(|meta| (meta.key, meta.print))
    }
}

/// What of them a broker gets.
impl AsRef<[u8]> for Rows {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A topic's partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub topic: Topic,
    pub partition: i32,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// A batch, as it was written to the state file before it was sent. Immutable: what happens to it is its lane's to know.
#[derive(Debug)]
pub struct Plan {
    pub id: PlanId,
    pub target: Target,
    pub triple: Triple,
    pub run: RunId,
    /// A lower bound of the offset at which the batch can lie.
    pub noted_offset: i64,
    /// Of the partition's leader when the batch was planned; -1 when unknown.
    pub leader_epoch: i32,
    /// Where the triple stands for these rows; `None`: a cluster without an id, or a plan from before it was noted.
    pub cluster: Option<ClusterId>,
    pub first_attempt: SystemTime,
    pub rows: Arc<Rows>,
    /// What the sink has made of the records, from their first attempt on.
    pub sent_form: SentForm,
}

impl Plan {
    /// How many bytes the records took at their last attempt; before it, how many they take at most.
    pub fn sent_bytes(&self) -> usize {
        self.sent_form.compressed_bytes().unwrap_or(self.rows.bytes.len())
    }

    /// The same plan, its rows held in another way.
    #[must_use]
    pub fn with_rows(&self, rows: Rows) -> Plan {
        Plan {
            id: self.id,
            target: self.target.clone(),
            triple: self.triple,
            run: self.run,
            noted_offset: self.noted_offset,
            leader_epoch: self.leader_epoch,
            cluster: self.cluster.clone(),
            first_attempt: self.first_attempt,
            rows: Arc::new(rows),
            sent_form: SentForm::default(),
        }
    }
}

impl Holder for Plan {
    fn records(&self) -> &[u8] {
        &self.rows.bytes
    }

    fn sent_form(&self) -> &SentForm {
        &self.sent_form
    }
}

/// How far a plan had come when the last run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanState {
    /// Sent or not: the broker must say. None of its rows was deleted by us.
    Planned,
    /// Stored by the broker, at this offset (-1: not known).
    Acknowledged { offset: i64 },
    /// Stored, and the transaction with this number was about to delete it: its COMMIT may have happened. Only noted for plans
    /// with rows of bare tables ([`TableTraits::bare`]).
    Deleting { delete: u64 },
}

/// A plan that an earlier run left in the state file.
#[derive(Clone, Debug)]
pub struct LeftPlan {
    pub id: PlanId,
    pub target: Target,
    pub triple: Triple,
    pub run: RunId,
    pub noted_offset: i64,
    pub leader_epoch: i32,
    /// As [`Plan::cluster`].
    pub cluster: Option<ClusterId>,
    pub first_attempt: SystemTime,
    pub state: PlanState,
    /// In the batch's order; those of outboxes that are no longer configured are not among them.
    pub rows: Vec<LeftRow>,
    /// Rows of the batch whose outbox is no longer configured: the plan stays in the state file when all others are settled.
    pub rows_elsewhere: usize,
    /// What lies where its rows were may be other rows: the database was another file (device or inode) when the plan was made, or
    /// that was noted of it later ([`crate::ports::Change::Doubtful`]).
    pub other_file: bool,
    /// Whether it is the batch's database at all is a guess.
    pub guessed: bool,
    /// The machine was booted since: what was noted last may have been lost in a power cut.
    pub other_boot: bool,
}

/// A row of such a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftRow {
    pub key: RowKey,
    pub print: Fingerprint,
    /// The number in the message id `RunId-number`; unused when the outbox has an event id column.
    pub message: u64,
}

/// A row that waits in its table to be sent again: whether it was published could not be proved, and it keeps its message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resend {
    /// Of the version that was sent. One that was rewritten since is another event.
    pub print: Fingerprint,
    /// The run and the number in the message id `RunId-number`.
    pub run: RunId,
    pub message: u64,
}

/// Such a row, as an earlier run left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftResend {
    pub key: RowKey,
    pub resend: Resend,
}

/// What an earlier run left in the state file for one database.
#[derive(Clone, Debug, Default)]
pub struct Left {
    /// By rising number.
    pub plans: Vec<LeftPlan>,
    pub quarantine: Vec<Quarantined>,
    pub resends: Vec<LeftResend>,
    /// By outbox: the table as it was when it was last noted.
    pub tables: Vec<Option<KnownTable>>,
    /// When records were last stamped.
    pub newest_stamp: Option<SystemTime>,
}

/// What an earlier run noted of an outbox's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownTable {
    pub guard: Guard,
    /// `None`: not noted by an older outboxd.
    pub identity: Option<TableIdentity>,
}

/// What fingerprints of a table's rows are made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// In this order. Of a bare table: all columns that were stored when it was first read. Of others: those that a record is made of,
    /// since what was sent is all that has to be compared where no other row has the same key.
    pub columns: Vec<String>,
    /// So many of them, the first, make the half that says what was sent ([`Fingerprint::sent`]); in a bare table the key is among
    /// them.
    pub sent: usize,
    /// Of these a number counts as its text, and text as its bytes, as in a record: a rebuild may give a column another type. Not so in
    /// older fingerprints.
    pub by_value: bool,
}

impl Guard {
    /// Whether fingerprints made of `self` and of `other` columns say the same of what was sent.
    pub fn sends_as(&self, other: &Guard) -> bool {
        self.columns[..self.sent] == other.columns[..other.sent] && self.by_value == other.by_value
    }
}

/// What tells a table from another one that has its name later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableIdentity {
    /// `PRAGMA schema_version`: each statement that changes the schema is one more.
    pub schema_version: i64,
    /// Where the schema names it, and its root page.
    pub place: (i64, i64),
    /// Of its CREATE statement, which SQLite itself rewrites when other things change.
    pub definition: u128,
    /// AUTOINCREMENT: where `sqlite_sequence` names it, and the highest rowid there ever was.
    pub sequence: Option<(i64, i64)>,
}

/// Whether a table is the one that was known under its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sameness {
    #[default]
    Same,
    /// It may be.
    Doubtful,
    /// It is not, or its rowids begin anew: rows that look alike may be others.
    Another,
}

impl TableIdentity {
    /// What this table is, if `self` was known under its name before.
    pub fn compare(&self, now: &TableIdentity) -> Sameness {
        let fell = match (self.sequence, now.sequence) {
            (Some((_, before)), Some((_, after))) => after < before,
            (before, _) => before.is_some(),
        };
        let named_anew = self.sequence.is_some_and(|(before, _)| now.sequence.is_none_or(|(after, _)| after != before));
        let same_place = self.place == now.place;
        let same_definition = self.definition == now.definition;
        match now.schema_version.wrapping_sub(self.schema_version) {
            _ if fell => Sameness::Another,
            0 if same_place && same_definition => Sameness::Same,
            // One statement can't take a table away and make another. ALTER leaves a table where it is; VACUUM, and with auto_vacuum
            // DROP TABLE of any other, move it as it is.
            1 if same_place || same_definition => Sameness::Same,
            // The last table of a schema that is dropped and made again gets its old place.
            2.. if same_place && !named_anew => Sameness::Doubtful,
            _ => Sameness::Another,
        }
    }
}

/// Which outboxes' tables are others than the ones that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Another {
    #[default]
    None,
    Of(Vec<OutboxIx>),
    /// It is another file.
    All,
}

impl Another {
    pub fn is(&self, outbox: OutboxIx) -> bool {
        match self {
            Another::None => false,
            Another::Of(outboxes) => outboxes.contains(&outbox),
            Another::All => true,
        }
    }

    #[must_use]
    pub fn or(self, other: Another) -> Another {
        match (self, other) {
            (Another::All, _) | (_, Another::All) => Another::All,
            (Another::None, other) | (other, Another::None) => other,
            (Another::Of(mut outboxes), Another::Of(more)) => {
                outboxes.extend(more);
                Another::Of(outboxes)
            }
        }
    }
}

/// What was learned about a table's rows: how they may be told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableTraits {
    /// Rows can come back alike: neither AUTOINCREMENT nor an event id column. A unique key alone proves nothing.
    pub bare: bool,
    /// `id` is SQLite's rowid. Otherwise a VACUUM may have renumbered the rows.
    pub rowid_is_key: bool,
    pub guard: Guard,
    pub identity: TableIdentity,
    /// Whether it is the table that an earlier run noted.
    pub told: Sameness,
}

/// The row in `_outboxd` (`bookkeeping = "table"`), written in each delete's own transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Booked {
    /// Plans whose rows were deleted, by this delete and by earlier ones that the state file may still hold. Sorted.
    pub plans: Vec<PlanId>,
    /// The highest plan number that was ever deleted. A state file that has not come to it is older than the database.
    pub highest: PlanId,
}

/// Why a row stays in its table and is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// The broker rejects this very record.
    Rejected,
    /// It can't become a record: no legal topic, larger than `max_request_size`, no event id.
    Unroutable,
    /// Published, and a trigger or a constraint keeps it from being deleted. Never sent again.
    Undeletable,
}

/// A row in quarantine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub key: RowKey,
    pub print: Fingerprint,
    pub fault: Fault,
    pub why: Why,
    /// How often the broker rejected it.
    pub attempts: u32,
    pub first: SystemTime,
    pub last: SystemTime,
}

/// What an operator asks of quarantined rows, through the state file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The state file's own number.
    pub id: i64,
    pub action: Action,
    pub outbox: OutboxIx,
    /// `None`: all of the outbox's.
    pub rowid: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send the row again.
    Retry,
    /// Delete the row unsent, if it is still what was quarantined.
    Discard,
}

/// The application committed (or is about to: a wake is a promise, SQLite's page cache shows the write before the commit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// When the first of the coalesced commits was noticed.
    pub seen: Instant,
}

/// Which of two connections' worth of `PRAGMA data_version` a look ran under. Equal versions: nobody else committed between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Counts our connections to the database; counters of different connections say nothing about each other.
    pub connection: u64,
    pub counter: i64,
}

/// How the database keeps its transactions, as last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMode {
    Wal,
    /// DELETE, TRUNCATE, PERSIST, MEMORY or OFF.
    Rollback,
}

/// How long a look may last and how far it may go.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    pub rows: usize,
    pub time: Duration,
    /// Rows from here on are not looked at.
    pub before: Option<i64>,
}

/// Where a look starts. Always by rowid, upwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    Lowest,
    /// The first row must be this one, unchanged; it is not given again. Otherwise the look ends with [`LookEnd::MarkGone`].
    After(RowMark),
    /// This rowid or the next above it.
    From(i64),
}

/// What the visitor of a look wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    Continue,
    /// End the look here. The row just given counts as not seen.
    Stop,
}

/// Why a look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookEnd {
    /// No further row (below `Budget::before`).
    End,
    /// The budget was used up; there may be more above `last`.
    Budget { last: i64 },
    /// The visitor said `Stop`.
    Stopped,
    /// `Start::After`: the first row was not the mark, unchanged. No row was given.
    MarkGone,
}

/// A finished look: one short read transaction.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    pub rows: usize,
    pub end: LookEnd,
    pub version: Version,
    pub held: Duration,
}

/// What a glance at several outboxes found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance {
    /// It came to so many of them; time ended it.
    pub done: usize,
    /// Of these, a look would give something, or say something.
    pub stirred: Vec<OutboxIx>,
    pub version: Version,
    pub held: Duration,
}

/// How many rows wait in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    pub rows: u64,
    /// Counted, not estimated.
    pub exact: bool,
}

/// Positions in [`RowView::fields`]; from `EXTRA` on: the columns of the configured headers, then of the topic template.
pub mod field {
    pub const ID: usize = 0;
    pub const AGGREGATE_ID: usize = 1;
    pub const EVENT_TYPE: usize = 2;
    pub const PAYLOAD: usize = 3;
    pub const KEY: usize = 4;
    /// `None` for every row when no event id column is configured.
    pub const EVENT_ID: usize = 5;
    pub const EXTRA: usize = 6;
}

/// A row under the cursor of a look: borrowed from SQLite, valid until the visitor returns.
#[derive(Debug)]
pub struct RowView<'a> {
    pub rowid: i64,
    pub print: Fingerprint,
    /// By [`field`]: the value as bytes. TEXT as UTF-8, BLOB as is, INTEGER and REAL as SQLite's own text of them, NULL as `None`.
    pub fields: &'a [Option<&'a [u8]>],
    /// Why there are no fields: the row is there and can't be read.
    pub unreadable: Option<&'a Unreadable>,
}

/// What keeps a row from being read, while those before and behind it can be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Its values have so many bytes, which is more than a record may have.
    TooLarge { bytes: u64 },
    /// A generated column's expression fails on it; SQLite's words.
    Failed(String),
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::TooLarge { bytes } => write!(f, "it has {bytes} bytes"),
            Unreadable::Failed(text) => f.write_str(text),
        }
    }
}

/// A group of rows that a delete did not take, for now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Its place in the order.
    pub group: usize,
    pub why: Why,
}

impl LeftOut {
    /// The place of the group among these, or the one to insert it at.
    pub fn place_of(left_out: &[LeftOut], group: usize) -> Result<usize, usize> {
        left_out.binary_search_by_key(&group, |left| left.group)
    }
}

/// What one guarded delete did: every row of the order's groups that it did not leave out is deleted or in one of the first three
/// lists, as often as it is in the order. Rows of the order that are in none of the lists were deleted, confirmed by the hooks.
#[derive(Clone, Debug, Default)]
pub struct Deletion {
    pub deleted: usize,
    /// Still there, but not what was sent: the application rewrote it. A new event.
    pub changed: Vec<RowKey>,
    /// Sent, identical, and not deleted although the statement succeeded: a trigger keeps it.
    pub kept: Vec<RowKey>,
    /// No longer there: the application removed it itself.
    pub gone: Vec<RowKey>,
    /// Groups of which nothing was deleted, by rising place in the order; none of their rows is in the lists above.
    pub left_out: Vec<LeftOut>,
    /// Rows of outboxes that triggers wrote meanwhile: of each outbox the lowest and the highest.
    pub written: Vec<RowKey>,
    /// Where it was deleted from; `None` when that is not known.
    pub origin: Option<Origin>,
    /// How long the write lock was held.
    pub held: Duration,
    /// How long the whole transaction was, the comparison that may come before the lock included.
    pub took: Duration,
}
