//! One fault at a time, and then silence: no other event may have to come for every row to be published and deleted.

use crate::world::{Happening, Kind, World};
use crate::{BATCH_BYTES_MAX, HELD_BYTES_MAX, RECORD_BYTES_MAX, Run, schedule_count, schedules};
use outboxd::model::{Action, OutboxIx, Request, RowKey};
use outboxd_kafka::partitioner::partition_for_key;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How many faults follow each other.
const EPISODES: usize = 10;
/// The topics', where they have a limit of their own: every batch of small rows is below it.
const MESSAGE_BYTES_MAX: usize = 1_200;
/// Once a fault is over, rows that nobody finds fault with are gone so soon. Before the database is let go, which ends in a look at
/// everything and so would hide that somebody forgot to look.
const GONE_WITHIN: Duration = Duration::from_millis(2_500);
/// And published so soon: looks for what an operator asks, and for whether the file is still the same, are a second apart.
const STORED_WITHIN: Duration = Duration::from_millis(1_500);
/// A record that was rejected is told from a topic that rejects everything after a minute at most.
const TOLD_WITHIN: Duration = Duration::from_secs(65);
/// A stopped topic is tried every 30 s, and what it accepts leads to the others.
const TRIED_WITHIN: Duration = Duration::from_secs(40);

/// Not always survived, and tried when `OUTBOXD_EPISODES_ALL` is set: two partitions that take a batch and do not answer can hold
/// all the memory there is for large rows until the attempts time out.
const NOT_YET: &[Fault] = &[Fault::SilentAndLarge];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// More rows than may be held.
    Flood,
    /// A partition does not answer for a while.
    Silent,
    /// None does, with more rows waiting than may be held.
    Hung,
    /// Brokers can't be reached.
    Down,
    /// A leader refuses every sequence.
    Confused,
    /// Followers are frozen; perhaps one of them becomes the leader.
    Stuck,
    /// Everything is rejected.
    Closed,
    /// The database is locked.
    Locked,
    /// Neither the state file nor the database can be written.
    DiskFull,
    /// A record is bad.
    Poison,
    /// Rows larger than a batch, than half the memory, than all of it, than a record may be.
    Large,
    /// So many rows in a row that their topic finds too large.
    TooLarge,
    /// A partition does not answer, and what is on its way there is large.
    SilentAndLarge,
    /// A trigger keeps a row.
    Kept,
    /// The application rewrites, or removes, what is on its way.
    Rewritten,
    Removed,
    /// Rowids change while rows are on their way.
    Renumbered,
    /// Whoever is in quarantine is sent again, or deleted.
    Retried,
    Discarded,
}

impl Fault {
    const ALL: &[Fault] = &[
        Fault::None,
        Fault::Flood,
        Fault::Silent,
        Fault::Hung,
        Fault::Down,
        Fault::Confused,
        Fault::Stuck,
        Fault::Closed,
        Fault::Locked,
        Fault::DiskFull,
        Fault::Poison,
        Fault::Large,
        Fault::TooLarge,
        Fault::SilentAndLarge,
        Fault::Kept,
        Fault::Rewritten,
        Fault::Removed,
        Fault::Renumbered,
        Fault::Retried,
        Fault::Discarded,
    ];

    fn befalls(self, world: &World) -> bool {
        match self {
            // Where rows come back alike nobody but us may remove or rewrite one, and none is bad: that is what nobody can see.
            Fault::Poison | Fault::Rewritten | Fault::Removed | Fault::Renumbered => world.kind == Kind::Sure,
            Fault::TooLarge => world.batch_limit.is_some(),
            Fault::Large | Fault::SilentAndLarge => world.batch_limit.is_none(),
            _ => true,
        }
    }

    fn is_on(self) -> bool {
        !NOT_YET.contains(&self) || std::env::var_os("OUTBOXD_EPISODES_ALL").is_some()
    }
}

pub fn one_fault_at_a_time(seed: u64) {
    let mut run = Run::new(seed);
    {
        let world = &mut *run.world.borrow_mut();
        world.calm_down();
        if world.random.bool() {
            world.batch_limit = Some(MESSAGE_BYTES_MAX);
        }
    }
    let able: Vec<Fault> =
        Fault::ALL.iter().copied().filter(|fault| fault.is_on() && fault.befalls(&run.world.borrow())).collect();
    for _ in 0..EPISODES {
        let at = run.world.borrow_mut().random.usize(0..able.len());
        let fault = able[at];
        run.episode(fault);
    }
    run.check();
}

impl Run {
    fn episode(&mut self, fault: Fault) {
        let (begun, until) = {
            let world = &mut *self.world.borrow_mut();
            let lasts = if fault == Fault::SilentAndLarge { 2_000_000..4_000_000 } else { 20_000..2_500_000 };
            (world.elapsed, world.elapsed + world.micros(lasts))
        };
        if std::env::var_os("OUTBOXD_TRACE").is_some() {
            println!("{begun:?} {fault:?} until {until:?}");
        }
        self.strike(fault, until);
        let rows = match fault {
            Fault::Flood | Fault::Hung => 150..250,
            Fault::TooLarge => 1..40,
            Fault::SilentAndLarge => 20..40,
            _ => 1..9,
        };
        self.write(rows.clone(), fault);
        let (again, at) = {
            let world = &mut *self.world.borrow_mut();
            (world.random.bool(), world.micros(0..until.saturating_sub(begun).as_micros() as u64))
        };
        if fault == Fault::SilentAndLarge {
            self.until(begun + STORED_WITHIN);
            self.others_go_on(until);
        }
        let now = self.world.borrow().elapsed;
        self.until(now.max(begun + at));
        if again {
            self.write(1..9, fault);
        }
        self.change(fault);
        self.until(until);
        self.world.borrow_mut().calm_down();
        let reads = {
            let world = &mut *self.world.borrow_mut();
            // A delete beside a reader takes its time: what has to wait for one is published later.
            let waits = matches!(fault, Fault::Flood | Fault::Hung | Fault::Rewritten);
            let reads = world.random.u32(0..3) == 0 && !waits;
            if reads {
                world.read_until = until + GONE_WITHIN + GONE_WITHIN;
            }
            reads
        };
        self.until(until + STORED_WITHIN);
        if !matches!(fault, Fault::Flood | Fault::Hung | Fault::Closed | Fault::TooLarge) {
            self.stored(fault, until);
        }
        self.until(if reads { until + GONE_WITHIN + GONE_WITHIN } else { until + GONE_WITHIN });
        let told = matches!(fault, Fault::Closed | Fault::TooLarge);
        self.gone(fault, until, |bad| told || bad);
        if told || matches!(fault, Fault::Poison | Fault::Retried) {
            self.until(until + TOLD_WITHIN);
        }
        if fault == Fault::TooLarge {
            // Ten or more of which none was accepted for a minute may be the topic's fault: the next that it accepts tells.
            let now = {
                let world = &mut *self.world.borrow_mut();
                for table in 0..world.db.tables.len() {
                    world.add(table, 1);
                }
                world.committed();
                world.elapsed
            };
            self.announce();
            self.until(now + TRIED_WITHIN);
        }
        self.gone(fault, until, |_| false);
        let held = self.figures.held_rows.load(Relaxed);
        assert_eq!(held, 0, "P11: rows are held after {fault:?} at {begun:?} (seed {})", self.seed);
        let pause = self.world.borrow_mut().micros(0..12_000_000);
        let end = self.world.borrow().elapsed + pause;
        self.until(end);
    }

    /// Rows of partitions that answer are published while one does not.
    fn others_go_on(&self, until: Duration) {
        let world = self.world.borrow();
        let Some((silent, _)) = world.weather.silent else { return };
        for row in world.db.tables.iter().flat_map(|table| table.values()) {
            let Some(key) = &row.key else { continue };
            let stuck = partition_for_key(key.as_bytes(), world.partitions) == silent;
            assert!(
                // Set aside by an episode before.
                stuck || row.is_bad() || world.closed_out.contains(&row.uid) || world.is_stored(row.uid),
                "P11: {row:?} waits at {:?} for partition {silent}, which is silent until {until:?} (seed {})",
                world.elapsed,
                self.seed
            );
        }
    }

    /// What nobody finds fault with is published.
    fn stored(&self, fault: Fault, until: Duration) {
        let world = self.world.borrow();
        for row in world.db.tables.iter().flat_map(|table| table.values()) {
            assert!(
                row.is_bad() || world.closed_out.contains(&row.uid) || world.is_stored(row.uid),
                "P11: {row:?} is not published at {:?} after {fault:?} until {until:?} (seed {})",
                world.elapsed,
                self.seed
            );
        }
    }

    /// Nothing is in the tables that is not in quarantine, but what `waits`.
    fn gone(&self, fault: Fault, until: Duration, waits: impl Fn(bool) -> bool) {
        let world = self.world.borrow();
        for (at, table) in world.db.tables.iter().enumerate() {
            for (rowid, row) in table {
                let key = RowKey { outbox: OutboxIx(at as u16), rowid: *rowid };
                let aside =
                    world.state.quarantine.get(&key).is_some_and(|aside| aside.print == world.print(*rowid, row));
                let elapsed = world.elapsed;
                assert!(
                    aside || waits(row.is_bad()),
                    "P11: rowid {rowid} of table {at} is there at {elapsed:?} and in no quarantine after {fault:?} until {until:?} \
                     (seed {}): {row:?}",
                    self.seed
                );
            }
        }
    }

    fn write(&mut self, rows: std::ops::Range<usize>, fault: Fault) {
        {
            let world = &mut *self.world.borrow_mut();
            let table = world.random.usize(0..world.db.tables.len());
            let count = world.random.usize(rows);
            let rowids = world.add(table, count);
            let odd = rowids[world.random.usize(0..rowids.len())];
            if let Some(row) = world.db.tables[table].get_mut(&odd) {
                row.poison |= fault == Fault::Poison;
                row.kept |= fault == Fault::Kept;
            }
            let (large, begin) = (world.random.usize(0..16), world.random.usize(0..8));
            for (at, rowid) in rowids.iter().enumerate() {
                let bulk = match fault {
                    Fault::Large | Fault::SilentAndLarge if world.random.bool() => {
                        let sizes = [BATCH_BYTES_MAX, HELD_BYTES_MAX / 2, HELD_BYTES_MAX, RECORD_BYTES_MAX];
                        sizes[world.random.usize(0..sizes.len())] + world.random.usize(0..2_000)
                    }
                    Fault::TooLarge if (begin..begin + large).contains(&at) => {
                        MESSAGE_BYTES_MAX + world.random.usize(0..2_000)
                    }
                    _ => 0,
                };
                let max = world.batch_limit.unwrap_or(RECORD_BYTES_MAX);
                if let Some(row) = world.db.tables[table].get_mut(rowid) {
                    (row.bulk, row.too_large) = (bulk, bulk >= max);
                    world.versions.insert(row.uid, (table, row.clone()));
                }
            }
            world.committed();
        }
        self.announce();
    }

    /// The fault, at the episode's begin.
    fn strike(&mut self, fault: Fault, until: Duration) {
        let world = &mut *self.world.borrow_mut();
        let partition = world.random.i32(0..world.partitions);
        match fault {
            Fault::Silent | Fault::SilentAndLarge | Fault::Rewritten | Fault::Removed | Fault::Renumbered => {
                world.weather.silent = Some((partition, until));
            }
            Fault::Hung => world.hung_until = until,
            Fault::Down => world.weather.down_until = until,
            Fault::Confused => world.weather.confused = Some((partition, until)),
            Fault::Closed => world.weather.closed_until = Some(until),
            Fault::Locked => world.locked_until = until,
            Fault::DiskFull => world.disk_full_until = until,
            Fault::Stuck => {
                let topic = if world.random.bool() { "users" } else { "t-event" }.to_owned();
                world.logs.entry((topic.clone(), partition)).or_default().stuck = true;
                let (after, new_leader) = (until.saturating_sub(world.elapsed), world.random.bool());
                world.plan(after, Happening::Thaw { topic, partition, new_leader });
            }
            Fault::Retried | Fault::Discarded => {
                let action = if fault == Fault::Retried { Action::Retry } else { Action::Discard };
                for outbox in 0..world.db.tables.len() as u16 {
                    world.last_request += 1;
                    let id = world.last_request;
                    world.requests.push(Request { id, action, outbox: OutboxIx(outbox), rowid: None });
                }
                // Whatever was wrong with them, or kept them, is mended.
                let mut rows = Vec::new();
                for (at, table) in world.db.tables.iter_mut().enumerate() {
                    for row in table.values_mut() {
                        row.kept = false;
                        rows.push((at, row.clone()));
                    }
                }
                for (at, row) in rows {
                    if fault == Fault::Discarded {
                        world.withdraw(&row);
                    }
                    // What was in quarantine comes behind the others.
                    world.fates.entry(row.uid).or_default().out_of_order = true;
                    world.versions.insert(row.uid, (at, row));
                }
            }
            Fault::None | Fault::Flood | Fault::Poison | Fault::Large | Fault::TooLarge | Fault::Kept => {}
        }
    }

    /// What the application does about it, while rows are on their way.
    fn change(&mut self, fault: Fault) {
        {
            let world = &mut *self.world.borrow_mut();
            let table = world.random.usize(0..world.db.tables.len());
            match fault {
                Fault::Rewritten => world.rewrite(table),
                Fault::Removed => world.remove(table),
                Fault::Renumbered => return world.renumber(table),
                _ => return,
            }
            world.committed();
        }
        self.announce();
    }
}

#[test]
fn after_one_fault_nothing_stands_still() {
    if let Ok(seed) = std::env::var("OUTBOXD_EPISODES_SEED") {
        env_logger::builder().is_test(true).init();
        return one_fault_at_a_time(seed.parse().expect("OUTBOXD_EPISODES_SEED is a number"));
    }
    schedules("OUTBOXD_EPISODES_SEED", schedule_count() / 3, one_fault_at_a_time);
}
