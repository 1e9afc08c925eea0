//! The world around a relay, as plain data: tables an application writes, a broker's logs, time.

use crate::broker::{Log, Question};
use crate::cost::Meter;
use crate::state::State;
use outboxd::model::{
    Booked, Fingerprint, Guard, JournalMode, PlanId, Request, RowKey, Rows, RunId, SinkEvent, TableIdentity,
    TableTraits,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two transactions of an application that does not pause.
const GAP: Duration = Duration::from_micros(2);

/// One version of an event row: what is published must be exactly this.
#[allow(clippy::struct_excessive_bools)] // independent facts
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Unique over the whole run; also in the payload.
    pub uid: u64,
    pub key: Option<String>,
    /// The broker rejects it for its own fault.
    pub poison: bool,
    /// A trigger keeps it from being deleted.
    pub kept: bool,
    /// So many bytes more in its payload.
    pub bulk: usize,
    /// Larger than the relay or its topic takes.
    pub too_large: bool,
    /// In a table whose rows name their topic: no legal name.
    pub nowhere: bool,
}

impl Version {
    pub fn payload(&self) -> Vec<u8> {
        let filling = "x".repeat((self.uid % 90) as usize + self.bulk);
        format!("{}{}-{filling}", if self.poison { "poison-" } else { "" }, self.uid).into_bytes()
    }

    /// Its own fault keeps it from being published.
    pub fn is_bad(&self) -> bool {
        self.poison || self.too_large
    }

    /// `alike`: the rowid in a table whose rows come back alike, where the content follows from the place, and what else guards it.
    pub fn print(&self, alike: Option<(i64, u64)>) -> Fingerprint {
        let content = alike.map_or(self.uid, |(rowid, _)| 1 << 62 | rowid as u64 & (u64::MAX >> 2));
        let others = alike.map_or(0, |(_, others)| others);
        Fingerprint::of(u128::from(content << 1 | u64::from(self.poison)) << 64, others)
    }
}

/// What became of a committed version, as the checks see it.
#[allow(clippy::struct_excessive_bools)] // four independent facts
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub acknowledged: bool,
    pub deleted_by_us: bool,
    /// The application rewrote or removed it: it may or may not have been published.
    pub withdrawn: bool,
    pub out_of_order: bool,
    /// When it was committed, and last deleted by us.
    pub committed: Duration,
    pub deleted_at: Duration,
    /// Faults that touched it: each may have cost one copy more.
    pub excuses: u32,
}

/// A batch on its way, or a late copy of one.
#[derive(Clone, Debug)]
pub struct Parcel {
    pub plan: PlanId,
    pub topic: String,
    pub partition: i32,
    pub producer: i64,
    pub epoch: i16,
    pub first: i32,
    pub run: RunId,
    pub rows: Arc<Rows>,
}

/// Something that happens at a time.
#[derive(Debug)]
pub enum Happening {
    App,
    /// A transaction whose bytes were written (and announced) before becomes visible.
    Visible,
    Wake(Instant),
    Sink(SinkEvent),
    Answer(Parcel),
    LateCopy(Parcel),
    Testify(Question),
    /// The frozen followers of a partition go on, or one of them becomes its leader.
    Thaw {
        topic: String,
        partition: i32,
        new_leader: bool,
    },
}

/// Which faults are on.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub faults: bool,
    /// Topics that reject everything until then, with this code.
    pub closed_until: Option<Duration>,
    pub closed_code: i16,
    /// A partition (of either topic) that answers nothing until then.
    pub silent: Option<(i32, Duration)>,
    /// A partition whose leader refuses every sequence until then.
    pub confused: Option<(i32, Duration)>,
    /// Brokers can't be reached until then.
    pub down_until: Duration,
    /// Leaders may not be asked.
    pub forbidden: bool,
}

/// Cluster, topic, partition, producer id, epoch, first sequence.
pub type NamedTriple = (String, String, i32, i64, i16, i32);

/// Brokers that are away.
#[derive(Clone, Debug, Default)]
pub struct Away {
    pub partitions: Vec<i32>,
    pub until: Duration,
    /// They take what is sent, say nothing, and whoever waits gives up after so long; otherwise nothing is sent at all.
    pub silent_for: Option<Duration>,
}

/// How the tables tell one row from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// AUTOINCREMENT, or an event id: no row comes back alike.
    Sure,
    /// Rowids are reused and contents repeat.
    Bare,
    /// The same, with bookkeeping in the database.
    Booked,
}

/// The application's database.
#[derive(Clone, Debug)]
pub struct Database {
    pub tables: Vec<BTreeMap<i64, Version>>,
    pub top: Vec<i64>,
    pub booked: Option<Booked>,
    /// Versions there were before.
    pub born: u64,
}

#[allow(clippy::struct_excessive_bools)] // independent facts
#[derive(Debug)]
pub struct World {
    pub random: fastrand::Rng,
    pub start: Instant,
    pub elapsed: Duration,
    pub db: Database,
    /// What a power cut leaves at least, and every commit since. Only kept while one is to come.
    pub history: Vec<Database>,
    pub power_cut_comes: bool,
    unsynced: bool,
    pub kind: Kind,
    pub traits: TableTraits,
    pub fates: HashMap<u64, Fate>,
    pub versions: HashMap<u64, (usize, Version)>,
    pub next_uid: u64,
    pub counter: i64,
    pub connection: u64,
    pub open: bool,
    /// Whether the application is connected; `None`: now and then.
    pub company: Option<bool>,
    /// Since when the database has been open with something in its log and nobody else connected, and for how long at most.
    pub exposed: Option<Duration>,
    pub longest_exposed: Duration,
    /// The log holds frames.
    pub log_written: bool,
    /// The counter when the database was let go, if that is to be known.
    pub left_at: Option<i64>,
    pub undisturbed: bool,
    pub found_empty_log: bool,
    /// When closing brought the log to the database's file.
    pub file_written: Option<Duration>,
    pub disk_changed: bool,
    pub weather: Weather,
    pub logs: BTreeMap<(String, i32), Log>,
    pub agenda: BTreeMap<(Duration, u64), Happening>,
    pub away: Away,
    /// What each triple stands for: the bytes it was first sent with.
    pub triples: HashMap<NamedTriple, Vec<u8>>,
    tickets: u64,
    pub next_producer: i64,
    pub cluster: outboxd::model::ClusterId,
    /// What the wall clock said when the world began.
    pub wall_start: std::time::SystemTime,
    pub clock_floor: std::time::SystemTime,
    /// Of clusters that were used before.
    pub old_logs: Vec<Log>,
    pub state: State,
    /// What a power cut leaves of it at least.
    pub state_synced: State,
    /// An old copy.
    pub state_copy: Option<State>,
    pub partitions: i32,
    /// Topics have more partitions than at first: order among keys that moved is nobody's promise.
    pub grown: bool,
    /// Daemons there have been.
    pub runs: u64,
    /// So many more steps of the daemon, and it is dead.
    pub fuse: Option<u32>,
    /// The daemon was killed: nothing it does has an effect any more.
    pub dead: bool,
    /// Rejected while their topic rejected everything: the breaker may have set aside the last few of them.
    pub closed_out: BTreeSet<u64>,
    /// A topic rejected everything, and it was not the clock's fault.
    pub closed_for_itself: bool,
    pub deletes: u64,
    /// Rowids have changed (VACUUM), and the source has not said so yet.
    pub renumbered: bool,
    /// It is another file, and the source has not said so yet.
    pub another: bool,
    /// So many columns are gone that guarded rows of tables whose rows come back alike, and were in no record.
    pub dropped_columns: u64,
    /// The source has not said so yet of the last.
    pub reshaped: bool,
    /// Whether columns are dropped now and then, by dice of their own: schedules that were found stay what they were.
    drops: Option<fastrand::Rng>,
    pub mode: JournalMode,
    /// The versions of each batch that was handed over.
    pub sent: HashMap<PlanId, Vec<u64>>,
    /// Versions that may be published a second time after a restart.
    pub again: BTreeSet<u64>,
    /// Under which a version was last stored.
    pub message_ids: HashMap<u64, (RunId, u64)>,
    /// Versions that were stored under another message id before.
    pub renamed: Vec<u64>,
    /// Looks and deletes meet a lock until then.
    pub locked_until: Duration,
    /// Deletes leave out plans with rows of this table until then.
    pub unfit: Option<(usize, Duration)>,
    /// This table is not there until then: it is not read, nor deleted from.
    pub missing: Option<(usize, Duration)>,
    /// The COMMIT of a delete answers BUSY until then.
    pub busy_until: Duration,
    /// One of so many reads meets a lock; 0: none does.
    pub locked_one_in: u32,
    /// The COMMIT of a delete answers an I/O error, and has not happened, until then.
    pub broken_until: Duration,
    /// So many deletes make a trigger insert an event into the first table.
    pub triggers: usize,
    /// The next COMMIT of a delete answers an I/O error and has happened, and rows that look like those that went come at once.
    pub unknown: bool,
    /// The daemon has so many more steps from then on.
    pub fuse_then: Option<u32>,
    /// Rowids have changed by then.
    pub renumbered_then: bool,
    /// The call, `look` or `booked`, that is answered as only a delete can be.
    pub absurd: Option<&'static str>,
    /// What an operator asks next, and what was answered.
    pub requests: Vec<Request>,
    /// What was handed out and is not answered.
    pub given: Vec<Request>,
    pub answers: Vec<i64>,
    /// Rows sent again that were counted as unsure, by daemons that are dead.
    pub unsure_rows: u64,
    pub meter: Meter,
    /// Since then the sink takes records and the source can be read: from then on nothing may stand still.
    pub calm: Duration,
    /// Another process reads the database without an end until then.
    pub read_until: Duration,
    /// Every answer takes so much longer.
    pub slower_by: Duration,
    /// An application in deferred transactions of this length, with next to nothing between one and the next.
    pub transactions: Option<Duration>,
    /// Deletes that came into one of them: what it writes afterwards is refused.
    pub intrusions: u64,
    /// The sink answers nothing until then.
    pub hung_until: Duration,
    /// Neither the state file nor the database can be written until then.
    pub disk_full_until: Duration,
    pub last_request: i64,
    /// Topics reject batches of more bytes.
    pub batch_limit: Option<usize>,
}

impl World {
    pub fn new(seed: u64, tables: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let kind = match random.u32(0..4) {
            0 => Kind::Bare,
            1 => Kind::Booked,
            _ => Kind::Sure,
        };
        let mode = if random.u32(0..4) == 0 { JournalMode::Rollback } else { JournalMode::Wal };
        let drops = (kind != Kind::Sure && matches!(seed % 8, 0 | 5 | 7)).then(|| fastrand::Rng::with_seed(!seed));
        World {
            random,
            start: Instant::now(),
            elapsed: Duration::ZERO,
            db: Database { tables: vec![BTreeMap::new(); tables], top: vec![0; tables], booked: None, born: 0 },
            history: Vec::new(),
            power_cut_comes: false,
            unsynced: true,
            kind,
            traits: TableTraits {
                bare: kind != Kind::Sure,
                rowid_is_key: true,
                identity: TableIdentity { sequence: Some((1, i64::MAX)), ..TableIdentity::default() },
                guard: Guard { columns: vec!["sent".to_owned(), "other".to_owned()], sent: 1, by_value: true },
                ..TableTraits::default()
            },
            fates: HashMap::new(),
            versions: HashMap::new(),
            next_uid: 1,
            counter: 1,
            connection: 0,
            open: false,
            company: Some(true),
            exposed: None,
            longest_exposed: Duration::ZERO,
            log_written: false,
            left_at: None,
            undisturbed: false,
            found_empty_log: false,
            file_written: None,
            disk_changed: true,
            weather: Weather {
                faults: true,
                closed_until: None,
                closed_code: 32,
                silent: None,
                confused: None,
                down_until: Duration::ZERO,
                forbidden: false,
            },
            logs: BTreeMap::new(),
            agenda: BTreeMap::new(),
            away: Away::default(),
            batch_limit: None,
            triples: HashMap::new(),
            tickets: 0,
            next_producer: 1000,
            cluster: "cluster 1".into(),
            wall_start: std::time::SystemTime::UNIX_EPOCH,
            clock_floor: std::time::SystemTime::UNIX_EPOCH,
            old_logs: Vec::new(),
            state: State::default(),
            state_synced: State::default(),
            state_copy: None,
            partitions: 3,
            grown: false,
            runs: 0,
            fuse: None,
            dead: false,
            closed_out: BTreeSet::new(),
            closed_for_itself: false,
            deletes: 0,
            renumbered: false,
            another: false,
            dropped_columns: 0,
            reshaped: false,
            drops,
            message_ids: HashMap::new(),
            renamed: Vec::new(),
            locked_until: Duration::ZERO,
            unfit: None,
            missing: None,
            busy_until: Duration::ZERO,
            locked_one_in: 0,
            broken_until: Duration::ZERO,
            triggers: 0,
            unknown: false,
            fuse_then: None,
            renumbered_then: false,
            absurd: None,
            requests: Vec::new(),
            given: Vec::new(),
            answers: Vec::new(),
            mode,
            sent: HashMap::new(),
            again: BTreeSet::new(),
            unsure_rows: 0,
            meter: Meter::default(),
            calm: Duration::ZERO,
            read_until: Duration::ZERO,
            slower_by: Duration::ZERO,
            transactions: None,
            intrusions: 0,
            hung_until: Duration::ZERO,
            disk_full_until: Duration::ZERO,
            last_request: 0,
        }
    }

    /// A fault that touched these versions: each may be published once more.
    pub fn excuse(&mut self, uids: impl IntoIterator<Item = u64>) {
        for uid in uids {
            self.fates.entry(uid).or_default().excuses += 1;
        }
    }

    /// The same of every version there has been.
    pub fn excuse_all(&mut self) {
        self.fates.values_mut().for_each(|fate| fate.excuses += 1);
    }

    /// No fault happens from now on.
    pub fn calm_down(&mut self) {
        self.weather.faults = false;
        self.calm = self.elapsed;
    }

    /// The daemon does something that can be seen outside. True: it is dead and does nothing.
    pub fn step(&mut self) -> bool {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.saturating_sub(1);
            self.dead |= *fuse == 0;
        }
        self.dead
    }

    pub fn is_missing(&self, table: usize) -> bool {
        self.missing.is_some_and(|(missing, until)| missing == table && self.elapsed < until)
    }

    pub fn is_unfit(&self, table: usize) -> bool {
        self.is_missing(table) || self.unfit.is_some_and(|(unfit, until)| unfit == table && self.elapsed < until)
    }

    /// Whether the application is in one of its transactions: between two of them it is not for `GAP`.
    pub fn is_in_transaction(&self) -> bool {
        self.transactions.is_some_and(|length| {
            let period = (length + GAP).as_nanos();
            self.elapsed.as_nanos() % period >= GAP.as_nanos()
        })
    }

    /// Somebody's transaction is written and not visible yet.
    pub fn is_committing(&self) -> bool {
        self.agenda.values().any(|what| matches!(what, Happening::Visible))
    }

    /// How long what is in the log depends on us alone.
    pub fn watch_the_log(&mut self) {
        if self.company == Some(false) && self.open && self.log_written {
            let since = *self.exposed.get_or_insert(self.elapsed);
            self.longest_exposed = self.longest_exposed.max(self.elapsed.saturating_sub(since));
        } else {
            self.exposed = None;
        }
    }

    pub fn print(&self, rowid: i64, row: &Version) -> Fingerprint {
        row.print((self.kind != Kind::Sure).then_some((rowid, self.dropped_columns)))
    }

    /// The database has changed: what it was is one of the things a power cut can leave.
    pub fn committed(&mut self) {
        self.counter += 1;
        self.log_written = true;
        self.disk_changed = true;
        self.db.born = self.next_uid;
        self.remember();
    }

    /// One of ten states in between: copying each would be most of the simulation's time.
    fn remember(&mut self) {
        self.unsynced = true;
        if self.power_cut_comes && self.random.u32(0..10) == 0 {
            self.history.push(self.db.clone());
        }
    }

    /// A delete of the daemon's has changed it.
    pub fn deleted(&mut self) {
        self.log_written = true;
        self.remember();
    }

    pub fn sync(&mut self) {
        if self.power_cut_comes && self.unsynced {
            self.history.clear();
            self.history.push(self.db.clone());
            self.unsynced = false;
        }
    }

    /// The machine may lose its power from now on: what there is has reached the disk.
    pub fn expect_power_cut(&mut self) {
        self.power_cut_comes = true;
        self.state_synced = self.state.clone();
        self.unsynced = true;
        self.sync();
    }

    /// What was not synced is gone, from the database and from the state file. Versions whose transactions have vanished must not
    /// have been published (P8).
    pub fn power_cut(&mut self, seed: u64) {
        if !self.history.is_empty() {
            let at = self.random.usize(0..self.history.len());
            self.db = self.history[at].clone();
        }
        for uid in self.db.born..self.next_uid {
            assert!(
                !self.logs.values().any(|log| log.entries.iter().any(|entry| entry.uids.contains(&uid))),
                "P8: version {uid} was published and its transaction has vanished (seed {seed})"
            );
            self.fates.entry(uid).or_default().withdrawn = true;
        }
        for fate in self.fates.values_mut() {
            fate.deleted_by_us = false;
        }
        // What the application had removed may be there again.
        for row in self.db.tables.iter().flat_map(|table| table.values()) {
            self.fates.entry(row.uid).or_default().withdrawn = false;
        }
        self.counter += 1;
        self.power_cut_comes = false;
        self.history.clear();
        if self.random.bool() {
            self.state = self.state_synced.clone();
        }
        self.state_synced = self.state.clone();
    }

    /// The version that lies there.
    pub fn uid_at(&self, key: RowKey) -> Option<u64> {
        self.db.tables[usize::from(key.outbox.0)].get(&key.rowid).map(|row| row.uid)
    }

    /// Whether a version lies where it stays.
    pub fn is_stored(&self, uid: u64) -> bool {
        self.logs.values().chain(&self.old_logs).any(|log| log.holds(uid))
    }

    pub fn is_away(&self, parcel: &Parcel) -> bool {
        self.elapsed < self.away.until && self.away.partitions.contains(&parcel.partition)
    }

    pub fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    pub fn chance(&mut self, one_in: u32) -> bool {
        self.weather.faults && self.random.u32(0..one_in) == 0
    }

    /// Every topic rejects everything for so long: for the clock's sake, or for its own.
    pub fn close(&mut self, time: Duration) {
        let of_the_topic = self.elapsed.as_micros() % 2 == 1;
        self.weather.closed_code = if of_the_topic { 87 } else { 32 };
        self.weather.closed_until = Some(self.elapsed + time);
        self.closed_for_itself |= of_the_topic;
    }

    pub fn plan(&mut self, after: Duration, what: Happening) {
        self.tickets += 1;
        self.agenda.insert((self.elapsed + after, self.tickets), what);
    }

    pub fn micros(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_micros(self.random.u64(range))
    }

    fn version(&mut self, table: usize, key: Option<String>) -> Version {
        let uid = self.next_uid;
        self.next_uid += 1;
        let poison = self.weather.faults && self.random.u32(0..120) == 0;
        let poison = poison && self.kind == Kind::Sure;
        let kept = self.weather.faults && !poison && self.random.u32(0..400) == 0;
        let version = Version { uid, key, poison, kept, bulk: 0, too_large: false, nowhere: false };
        self.fates.insert(uid, Fate { committed: self.elapsed, ..Fate::default() });
        self.versions.insert(uid, (table, version.clone()));
        if std::env::var_os("OUTBOXD_TRACE").is_some() {
            println!("{:?} table {table}: {version:?}", self.elapsed);
        }
        version
    }

    /// One transaction of the application.
    pub fn commit(&mut self) {
        let table = self.random.usize(0..self.db.tables.len());
        // Not yet part of every run: see renumber.
        if std::env::var_os("OUTBOXD_RENUMBER").is_some() && self.kind == Kind::Sure && self.chance(300) {
            return self.renumber(table);
        }
        self.may_drop_column(60);
        // Where rows come back alike nobody but us may remove or rewrite one: that is what nobody can see.
        match self.random.u32(if self.kind == Kind::Sure { 0..20 } else { 10..20 }) {
            0 => self.rewrite(table),
            1 => self.remove(table),
            2 => self.insert_low(table),
            _ => {
                let count = self.random.usize(1..6);
                self.add(table, count);
            }
        }
        self.committed();
    }

    /// So many new rows, not yet committed.
    pub fn add(&mut self, table: usize, count: usize) -> Vec<i64> {
        let mut rowids = Vec::with_capacity(count);
        for _ in 0..count {
            let key = match self.random.u32(0..12) {
                0 => None,
                n => Some(format!("k{n}")),
            };
            let highest = self.db.tables[table].keys().next_back().copied().unwrap_or(0);
            let rowid = if self.kind == Kind::Sure { self.db.top[table].max(highest) } else { highest } + 1;
            self.db.top[table] = rowid;
            let key = if self.kind == Kind::Sure { key } else { Some(format!("k{}", rowid % 5)) };
            let version = self.version(table, key);
            self.db.tables[table].insert(rowid, version);
            rowids.push(rowid);
        }
        rowids
    }

    /// A transaction that inserts one row for each key.
    pub fn insert(&mut self, table: usize, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            let version = self.version(table, Some(key));
            let rowid = self.db.tables[table].keys().next_back().copied().unwrap_or(0) + 1;
            self.db.tables[table].insert(rowid, version);
        }
        self.committed();
    }

    /// What a trigger of the application does in a delete of ours: nobody else has committed, and nobody is woken.
    pub fn insert_by_trigger(&mut self, table: usize) -> i64 {
        let version = self.version(table, Some("trigger".to_owned()));
        let rowid = self.db.top[table].max(self.db.tables[table].keys().next_back().copied().unwrap_or(0)) + 1;
        self.db.top[table] = rowid;
        self.db.tables[table].insert(rowid, version);
        rowid
    }

    /// The row of the table that was inserted last has so many bytes more.
    pub fn enlarge_last(&mut self, table: usize, bulk: usize) {
        let row = self.db.tables[table].values_mut().next_back().expect("a row was inserted");
        row.bulk = bulk;
        let uid = row.uid;
        self.versions.get_mut(&uid).expect("every version is known").1.bulk = bulk;
    }

    /// The broker rejects the row of the first table that was inserted last.
    pub fn poison_last_of(&mut self, table: usize) {
        let row = self.db.tables[table].values_mut().next_back().expect("a row was inserted");
        row.poison = true;
        let uid = row.uid;
        self.versions.get_mut(&uid).expect("every version is known").1.poison = true;
    }

    pub fn poison_last(&mut self) {
        self.poison_last_of(0);
    }

    /// The application rewrites one row.
    pub fn rewrite_row(&mut self, table: usize, rowid: i64) -> &mut Version {
        let old = self.db.tables[table][&rowid].clone();
        self.withdraw(&old);
        let new = self.version(table, old.key);
        self.fates.entry(new.uid).or_default().out_of_order = true;
        self.db.tables[table].insert(rowid, new);
        self.committed();
        self.db.tables[table].get_mut(&rowid).expect("just inserted")
    }

    /// The application removes one row.
    pub fn remove_row(&mut self, table: usize, rowid: i64) {
        let old = self.db.tables[table].remove(&rowid).expect("a row is there");
        self.withdraw(&old);
        self.committed();
    }

    /// The table's first rows are gone, and the application inserts what looks like them.
    pub fn come_back_alike(&mut self, table: usize) {
        let gone = self.versions.values().filter(|(of, _)| *of == table).map(|(_, version)| version);
        let mut gone: Vec<(u64, Option<String>)> =
            gone.filter(|version| self.fates[&version.uid].deleted_by_us).map(|v| (v.uid, v.key.clone())).collect();
        gone.sort_unstable();
        for (rowid, (_, key)) in (1..).zip(gone) {
            let version = self.version(table, key);
            let before = self.db.tables[table].insert(rowid, version);
            assert!(before.is_none(), "all of them were deleted together");
        }
        self.committed();
    }

    fn pick(&mut self, table: usize) -> Option<i64> {
        let count = self.db.tables[table].len();
        if count == 0 {
            return None;
        }
        let at = self.random.usize(0..count);
        self.db.tables[table].keys().nth(at).copied()
    }

    pub fn withdraw(&mut self, version: &Version) {
        self.fates.entry(version.uid).or_default().withdrawn = true;
    }

    /// VACUUM of a table without an INTEGER PRIMARY KEY.
    pub fn renumber(&mut self, table: usize) {
        self.traits.rowid_is_key = false;
        let rows = std::mem::take(&mut self.db.tables[table]);
        self.db.tables[table] = (1..).zip(rows.into_values()).collect();
        self.db.top[table] = self.db.tables[table].len() as i64;
        // A suspect of the breaker that was overtaken by records of its key is read again like all that was not planned: its place
        // in the order is lost with the file it was read from.
        for row in self.db.tables.iter().flat_map(|rows| rows.values()) {
            self.fates.entry(row.uid).or_default().out_of_order = true;
        }
        self.committed();
        self.excuse_all();
        self.renumbered = true;
    }

    /// ALTER TABLE DROP COLUMN: all tables lose one that is in no record and in all fingerprints, where there are such.
    pub fn drop_column(&mut self) {
        self.dropped_columns += 1;
        self.traits.guard.columns[1] = format!("other {}", self.dropped_columns);
        self.reshaped = true;
        // What is left of a row that comes back alike does not prove that it is the one that was sent.
        let uids: Vec<u64> = self.db.tables.iter().flat_map(|table| table.values()).map(|row| row.uid).collect();
        self.excuse(uids);
        self.committed();
    }

    /// The same, now and then.
    pub fn may_drop_column(&mut self, one_in: u32) {
        if self.weather.faults && self.drops.as_mut().is_some_and(|dice| dice.u32(0..one_in) == 0) {
            self.drop_column();
        }
    }

    pub fn rewrite(&mut self, table: usize) {
        let Some(rowid) = self.pick(table) else { return };
        let old = self.db.tables[table][&rowid].clone();
        self.withdraw(&old);
        let new = self.version(table, old.key);
        self.fates.entry(new.uid).or_default().out_of_order = true;
        self.db.tables[table].insert(rowid, new);
    }

    pub fn remove(&mut self, table: usize) {
        let Some(rowid) = self.pick(table) else { return };
        if let Some(old) = self.db.tables[table].remove(&rowid) {
            self.withdraw(&old);
        }
    }

    /// The application removes the row under this id and inserts another one there.
    pub fn replace_at(&mut self, table: usize, rowid: i64, key: &str) {
        if let Some(old) = self.db.tables[table].remove(&rowid) {
            self.withdraw(&old);
        }
        let version = self.version(table, Some(key.to_owned()));
        self.fates.entry(version.uid).or_default().out_of_order = true;
        self.db.tables[table].insert(rowid, version);
        self.committed();
    }

    /// An explicit id below what is there: order is then that of discovery.
    pub fn insert_low(&mut self, table: usize) {
        let Some(lowest) = self.db.tables[table].keys().next().copied() else { return };
        let rowid = lowest - self.random.i64(1..5);
        let version = self.version(table, Some("low".to_owned()));
        self.fates.entry(version.uid).or_default().out_of_order = true;
        self.db.tables[table].insert(rowid, version);
    }
}
