//! The world around a relay, as plain data: tables an application writes, a broker's logs, time.

use outboxd::model::{Fingerprint, JournalMode, PlanId, Rows, SinkEvent};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One version of an event row: what is published must be exactly this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Unique over the whole run; also in the payload.
    pub uid: u64,
    pub key: Option<String>,
    /// The broker rejects it for its own fault.
    pub poison: bool,
    /// A trigger keeps it from being deleted.
    pub kept: bool,
}

impl Version {
    pub fn payload(&self) -> Vec<u8> {
        format!("{}{}-{}", if self.poison { "poison-" } else { "" }, self.uid, "x".repeat((self.uid % 90) as usize))
            .into_bytes()
    }

    pub fn print(&self) -> Fingerprint {
        Fingerprint(u128::from(self.uid) << 1 | u128::from(self.poison))
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
}

/// What a leader remembers of a producer: its epoch, and the first and last sequence and the offset of its last batches.
type Memory = (i16, VecDeque<(i32, i32, i64)>);

/// A partition's log and what its leader remembers of producers.
#[derive(Debug, Default)]
pub struct Log {
    pub uids: Vec<u64>,
    producers: HashMap<i64, Memory>,
}

/// A broker's verdict on a batch, by Kafka's rules: sequences only, contents ignored.
pub enum Append {
    Stored(i64),
    OutOfSequence(i16),
}

impl Log {
    pub fn append(&mut self, rows: &[u64], producer: i64, epoch: i16, first: i32) -> Append {
        let last = ((i64::from(first) + rows.len() as i64 - 1) & i64::from(i32::MAX)) as i32;
        let offset = self.uids.len() as i64;
        let known = self.producers.entry(producer).or_insert_with(|| (epoch, VecDeque::new()));
        if epoch < known.0 {
            return Append::OutOfSequence(47);
        }
        if epoch > known.0 {
            if first != 0 {
                return Append::OutOfSequence(45);
            }
            *known = (epoch, VecDeque::new());
        }
        if let Some(duplicate) = known.1.iter().find(|batch| batch.0 == first && batch.1 == last) {
            return Append::Stored(duplicate.2);
        }
        if let Some(newest) = known.1.back() {
            let expected = ((i64::from(newest.1) + 1) & i64::from(i32::MAX)) as i32;
            if first != expected {
                return Append::OutOfSequence(45);
            }
        }
        known.1.push_back((first, last, offset));
        if known.1.len() > 5 {
            known.1.pop_front();
        }
        self.uids.extend_from_slice(rows);
        Append::Stored(offset)
    }
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
}

/// Which faults are on.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub faults: bool,
    /// A topic that rejects everything until then.
    pub closed_until: Option<Duration>,
    /// A partition (of either topic) that answers nothing until then.
    pub silent: Option<(i32, Duration)>,
}

#[allow(clippy::struct_excessive_bools)] // independent facts
#[derive(Debug)]
pub struct World {
    pub random: fastrand::Rng,
    pub start: Instant,
    pub elapsed: Duration,
    pub tables: Vec<BTreeMap<i64, Version>>,
    pub fates: HashMap<u64, Fate>,
    pub versions: HashMap<u64, (usize, Version)>,
    pub next_uid: u64,
    pub counter: i64,
    pub connection: u64,
    pub open: bool,
    pub disk_changed: bool,
    pub weather: Weather,
    pub logs: HashMap<(String, i32), Log>,
    pub agenda: BTreeMap<(Duration, u64), Happening>,
    tickets: u64,
    pub next_producer: i64,
    pub recorded: BTreeSet<PlanId>,
    pub acknowledged_plans: BTreeSet<PlanId>,
    /// Plans with an attempt whose outcome is not known, and how often in a row one was out of sequence.
    pub unsure: BTreeSet<PlanId>,
    pub out_of_sequence: HashMap<PlanId, u32>,
    /// Lanes that stop until recovery is asked for.
    pub halted: BTreeSet<(String, i32)>,
    /// Rejected while their topic rejected everything: the breaker may have set aside the last few of them.
    pub closed_out: BTreeSet<u64>,
    pub deletes: u64,
    pub autoincrement: bool,
    pub top: Vec<i64>,
    /// Rowids have changed (VACUUM), and the source has not said so yet.
    pub renumbered: bool,
    pub mode: JournalMode,
    /// The versions of each batch that was handed over.
    pub sent: HashMap<PlanId, Vec<u64>>,
    /// Versions that may be published a second time after a restart.
    pub again: BTreeSet<u64>,
}

impl World {
    pub fn new(seed: u64, tables: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let autoincrement = random.bool();
        let mode = if random.u32(0..4) == 0 { JournalMode::Rollback } else { JournalMode::Wal };
        World {
            random,
            start: Instant::now(),
            elapsed: Duration::ZERO,
            tables: vec![BTreeMap::new(); tables],
            fates: HashMap::new(),
            versions: HashMap::new(),
            next_uid: 1,
            counter: 1,
            connection: 0,
            open: false,
            disk_changed: true,
            weather: Weather { faults: true, closed_until: None, silent: None },
            logs: HashMap::new(),
            agenda: BTreeMap::new(),
            tickets: 0,
            next_producer: 1000,
            recorded: BTreeSet::new(),
            acknowledged_plans: BTreeSet::new(),
            unsure: BTreeSet::new(),
            out_of_sequence: HashMap::new(),
            halted: BTreeSet::new(),
            closed_out: BTreeSet::new(),
            deletes: 0,
            autoincrement,
            top: vec![0; tables],
            renumbered: false,
            mode,
            sent: HashMap::new(),
            again: BTreeSet::new(),
        }
    }

    pub fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    pub fn chance(&mut self, one_in: u32) -> bool {
        self.weather.faults && self.random.u32(0..one_in) == 0
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
        let kept = self.weather.faults && !poison && self.random.u32(0..400) == 0;
        let version = Version { uid, key, poison, kept };
        self.fates.insert(uid, Fate::default());
        self.versions.insert(uid, (table, version.clone()));
        if std::env::var_os("OUTBOXD_TRACE").is_some() {
            println!("{:?} table {table}: {version:?}", self.elapsed);
        }
        version
    }

    /// One transaction of the application.
    pub fn commit(&mut self) {
        let table = self.random.usize(0..self.tables.len());
        // Not yet part of every run: see renumber.
        if std::env::var_os("OUTBOXD_RENUMBER").is_some() && self.chance(300) {
            return self.renumber(table);
        }
        match self.random.u32(0..20) {
            0 => self.rewrite(table),
            1 => self.remove(table),
            2 => self.insert_low(table),
            _ => {
                for _ in 0..self.random.usize(1..6) {
                    let key = match self.random.u32(0..12) {
                        0 => None,
                        n => Some(format!("k{n}")),
                    };
                    let version = self.version(table, key);
                    let highest = self.tables[table].keys().next_back().copied().unwrap_or(0);
                    let rowid = if self.autoincrement { self.top[table].max(highest) } else { highest } + 1;
                    self.top[table] = rowid;
                    self.tables[table].insert(rowid, version);
                }
            }
        }
        self.counter += 1;
    }

    /// A transaction that inserts one row for each key.
    pub fn insert(&mut self, table: usize, keys: impl Iterator<Item = String>) {
        for key in keys {
            let version = self.version(table, Some(key));
            let rowid = self.tables[table].keys().next_back().copied().unwrap_or(0) + 1;
            self.tables[table].insert(rowid, version);
        }
        self.counter += 1;
    }

    fn pick(&mut self, table: usize) -> Option<i64> {
        let count = self.tables[table].len();
        if count == 0 {
            return None;
        }
        let at = self.random.usize(0..count);
        self.tables[table].keys().nth(at).copied()
    }

    fn withdraw(&mut self, version: &Version) {
        self.fates.entry(version.uid).or_default().withdrawn = true;
    }

    /// VACUUM of a table without an INTEGER PRIMARY KEY.
    pub fn renumber(&mut self, table: usize) {
        let rows = std::mem::take(&mut self.tables[table]);
        self.tables[table] = (1..).zip(rows.into_values()).collect();
        self.top[table] = self.tables[table].len() as i64;
        // What a trigger keeps was set aside by its rowid: it is published again.
        self.again.extend(self.tables.iter().flat_map(|rows| rows.values()).filter(|row| row.kept).map(|row| row.uid));
        // A suspect of the breaker that was overtaken by records of its key is read again like all that was not planned: its place
        // in the order is lost with the file it was read from.
        for row in self.tables.iter().flat_map(|rows| rows.values()) {
            self.fates.entry(row.uid).or_default().out_of_order = true;
        }
        self.counter += 1;
        self.renumbered = true;
    }

    fn rewrite(&mut self, table: usize) {
        let Some(rowid) = self.pick(table) else { return };
        let old = self.tables[table][&rowid].clone();
        self.withdraw(&old);
        let new = self.version(table, old.key);
        self.fates.entry(new.uid).or_default().out_of_order = true;
        self.tables[table].insert(rowid, new);
    }

    fn remove(&mut self, table: usize) {
        let Some(rowid) = self.pick(table) else { return };
        if let Some(old) = self.tables[table].remove(&rowid) {
            self.withdraw(&old);
        }
    }

    /// An explicit id below what is there: order is then that of discovery.
    fn insert_low(&mut self, table: usize) {
        let Some(lowest) = self.tables[table].keys().next().copied() else { return };
        let rowid = lowest - self.random.i64(1..5);
        let version = self.version(table, Some("low".to_owned()));
        self.fates.entry(version.uid).or_default().out_of_order = true;
        self.tables[table].insert(rowid, version);
    }
}
