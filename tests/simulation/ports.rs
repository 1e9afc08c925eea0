//! The relay's four ports, over the world.

use crate::broker::{Append, Log, Question};
use crate::world::{Happening, Kind, Parcel, World};
use outboxd::model::{
    Another, Backlog, Booked, Budget, Deletion, Evidence, FileId, Flow, Glance, JournalMode, Left, LeftOut, Look,
    LookEnd, Origin, OutboxIx, Outcome, PartitionStart, Plan, PlanId, Request, RowKey, RowView, Rows, SinkEvent,
    Sought, Start, TableTraits, Topic, Version, Why,
};
use outboxd::ports::{
    Change, Clock, DeleteGroup, DeleteOrder, Full, Journal, JournalError, Manner, Sink, Source, SourceError,
};
use outboxd::relay::planted::{self, Bug};
use outboxd_kafka::compression::Compression;
use outboxd_kafka::record_batch::{BatchFields, BatchReader, Piece, encode_header};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

/// A change within this time of the last one may leave the same mtime.
const MTIME_GRAIN: Duration = Duration::from_millis(50);

pub type Shared = Rc<RefCell<World>>;

#[derive(Clone, Debug)]
pub struct SimClock(pub Shared);

impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.0.borrow().now()
    }

    fn wall(&self) -> SystemTime {
        let world = self.0.borrow();
        world.wall_start + world.elapsed
    }
}

#[derive(Debug)]
pub struct SimSource {
    world: Shared,
    traits: TableTraits,
    /// Nothing is known of a new table before it was read.
    known: bool,
}

impl SimSource {
    pub fn new(world: Shared) -> Self {
        let traits = world.borrow().traits.clone();
        // Its first read is of the schema as it is.
        world.borrow_mut().reshaped = false;
        SimSource { world, traits, known: true }
    }

    fn open(&self) {
        let mut world = self.world.borrow_mut();
        if !world.open {
            world.open = true;
            world.connection += 1;
            world.undisturbed = world.left_at == Some(world.counter);
            world.found_empty_log = !world.log_written;
        }
    }

    /// Nothing a dead daemon does has an effect, and it hears nothing new.
    fn alive(&self) -> Result<(), SourceError> {
        if self.world.borrow_mut().step() { Err(SourceError::Busy("dead".to_owned())) } else { Ok(()) }
    }

    fn answers(&self, call: &str) -> Result<(), SourceError> {
        match self.world.borrow().absurd {
            Some(absurd) if absurd == call => Err(SourceError::CommitUnknown("there was no COMMIT".to_owned())),
            _ => Ok(()),
        }
    }

    /// What every read transaction may meet before it comes to a row.
    fn begin_read(&mut self) -> Result<(), SourceError> {
        self.alive()?;
        self.answers("look")?;
        self.open();
        self.renumbered()?;
        self.world.borrow_mut().meter.looks += 1;
        let locked = self.world.borrow().elapsed < self.world.borrow().locked_until;
        let one_in = self.world.borrow().locked_one_in;
        let locked = locked || (one_in > 0 && self.world.borrow_mut().random.u32(0..one_in) == 0);
        if locked || self.world.borrow_mut().chance(40) {
            return Err(SourceError::Busy("a lock".to_owned()));
        }
        Ok(())
    }

    fn renumbered(&mut self) -> Result<(), SourceError> {
        let renumbered = std::mem::take(&mut self.world.borrow_mut().renumbered);
        let reshaped = std::mem::take(&mut self.world.borrow_mut().reshaped);
        self.traits = self.world.borrow().traits.clone();
        if std::mem::take(&mut self.world.borrow_mut().another) {
            self.known = false;
            return Err(SourceError::Replaced { text: "another file".to_owned(), another: Another::All });
        }
        if renumbered {
            Err(SourceError::Replaced { text: "renumbered".to_owned(), another: Another::None })
        } else if reshaped {
            Err(SourceError::Replaced { text: "lost a column".to_owned(), another: Another::None })
        } else {
            Ok(())
        }
    }

    fn version_now(&self) -> Version {
        let world = self.world.borrow();
        Version { connection: world.connection, counter: world.counter }
    }
}

impl Source for SimSource {
    fn look(
        &mut self,
        outbox: OutboxIx,
        start: Start,
        budget: Budget,
        each: &mut dyn FnMut(&RowView<'_>) -> Flow,
    ) -> Result<Look, SourceError> {
        self.begin_read()?;
        if self.world.borrow().is_missing(usize::from(outbox.0)) {
            return Err(SourceError::NotThere(Why::new("there is no such table yet")));
        }
        if self.world.borrow_mut().chance(400) {
            return Err(SourceError::Failed(Why::new("disk I/O error")));
        }
        self.known = true;
        let version = self.version_now();
        let limit = budget.rows.min(self.world.borrow_mut().random.usize(1..40));
        let rows: Vec<(i64, _)> = {
            let world = self.world.borrow();
            let table = &world.db.tables[usize::from(outbox.0)];
            let from = match start {
                Start::Lowest => i64::MIN,
                Start::After(mark) => mark.rowid,
                Start::From(rowid) => rowid,
            };
            let rows = table.range(from..).take(limit + 2);
            rows.map(|(rowid, row)| (*rowid, (world.print(*rowid, row), row.clone()))).collect()
        };
        let mut look = Look { rows: 0, end: LookEnd::End, version, held: Duration::from_micros(20) };
        let mut rows = rows.into_iter();
        if let Start::After(mark) = start {
            match rows.next() {
                Some((rowid, (print, _))) if rowid == mark.rowid && print == mark.print => {}
                _ if planted::is(Bug::CursorAtTheMaximum) => return Ok(look),
                _ => return Ok(Look { end: LookEnd::MarkGone, ..look }),
            }
        }
        let mut last = 0;
        for (rowid, (print, row)) in rows {
            if budget.before.is_some_and(|before| rowid >= before) {
                break;
            }
            if look.rows >= limit {
                look.end = LookEnd::Budget { last };
                return Ok(look);
            }
            let payload = row.payload();
            let id = rowid.to_string();
            let key = row.key.as_deref().map(str::as_bytes);
            let event = if row.nowhere { b"no topic".as_slice() } else { b"event" };
            let fields = [Some(id.as_bytes()), key, Some(event), Some(payload.as_slice()), key, None];
            self.world.borrow_mut().meter.row(payload.len());
            if each(&RowView { rowid, print, fields: &fields, unreadable: None }) == Flow::Stop {
                look.end = LookEnd::Stopped;
                return Ok(look);
            }
            look.rows += 1;
            last = rowid;
        }
        Ok(look)
    }

    fn glance(&mut self, starts: &[(OutboxIx, Start)], _: Duration) -> Result<Glance, SourceError> {
        self.begin_read()?;
        self.known = true;
        let version = self.version_now();
        let hurried = self.world.borrow_mut().chance(2);
        let done = if hurried { self.world.borrow_mut().random.usize(1..=starts.len()) } else { starts.len() };
        let world = self.world.borrow();
        let is_stirred = |(outbox, start): &&(OutboxIx, Start)| {
            let table = &world.db.tables[usize::from(outbox.0)];
            match start {
                Start::Lowest => !table.is_empty(),
                Start::From(rowid) => table.range(rowid..).next().is_some(),
                Start::After(mark) => {
                    let mut rows = table.range(mark.rowid..);
                    let first = rows.next();
                    let is_there = first
                        .is_some_and(|(rowid, row)| *rowid == mark.rowid && world.print(*rowid, row) == mark.print);
                    rows.next().is_some() || !(is_there || planted::is(Bug::CursorAtTheMaximum))
                }
            }
        };
        let stirred = starts[..done].iter().filter(is_stirred).map(|(outbox, _)| *outbox).collect();
        Ok(Glance { done, stirred, version, held: Duration::from_micros(20) })
    }

    fn version(&mut self) -> Result<Option<Version>, SourceError> {
        if !self.is_open() {
            return Ok(None);
        }
        self.renumbered()?;
        Ok(Some(self.version_now()))
    }

    fn make_durable(&mut self) -> Result<(), SourceError> {
        self.alive()?;
        let world = &mut *self.world.borrow_mut();
        if world.elapsed < world.disk_full_until || world.chance(60) {
            return Err(SourceError::Failed(Why::new("fdatasync: no space")));
        }
        world.sync();
        Ok(())
    }

    fn others_active(&mut self) -> bool {
        let world = &mut *self.world.borrow_mut();
        world.elapsed < world.read_until || world.is_in_transaction() || world.is_committing() || world.chance(6)
    }

    fn journal_mode(&self) -> JournalMode {
        self.world.borrow().mode
    }

    fn delete(
        &mut self,
        order: &DeleteOrder<'_>,
        before_commit: &mut dyn FnMut(&Deletion) -> Result<(), JournalError>,
    ) -> Result<Deletion, SourceError> {
        self.alive()?;
        self.open();
        self.renumbered()?;
        {
            let world = &mut *self.world.borrow_mut();
            if world.elapsed < world.locked_until || world.chance(10) {
                return Err(SourceError::Busy("a lock".to_owned()));
            }
            if order.yields && world.chance(10) {
                return Err(SourceError::Yielded);
            }
        }
        let (left_out, groups) = left_out(&mut self.world.borrow_mut(), order);
        let order = &DeleteOrder { groups: &groups, ..*order };
        let (mut deletion, removed) = compare(&self.world.borrow(), order);
        deletion.left_out = left_out;
        if groups.is_empty() {
            return Ok(deletion);
        }
        before_commit(&deletion).map_err(SourceError::Journal)?;
        self.alive()?;
        let world = &mut *self.world.borrow_mut();
        if world.elapsed < world.disk_full_until {
            return Err(SourceError::Failed(Why::new("database or disk is full")));
        }
        if world.elapsed < world.busy_until || world.chance(40) {
            return Err(SourceError::Busy("COMMIT met a reader".to_owned()));
        }
        let broken = world.elapsed < world.broken_until;
        let forced = std::mem::take(&mut world.unknown);
        let unknown = forced || broken || world.chance(50);
        if unknown {
            let rows = order.groups.iter().flat_map(DeleteGroup::rows);
            let uids: Vec<u64> = rows.filter_map(|(key, _)| world.uid_at(key)).collect();
            world.excuse(uids);
        }
        if unknown && !forced && (broken || world.random.bool()) {
            return Err(SourceError::CommitUnknown("disk I/O error".to_owned()));
        }
        world.deletes += 1;
        world.intrusions += u64::from(world.is_in_transaction());
        world.meter.deletes += 1;
        for key in removed {
            if let Some(row) = world.db.tables[usize::from(key.outbox.0)].remove(&key.rowid) {
                let asked_for =
                    order.groups.iter().any(|group| group.plan().is_none()) && world.fates[&row.uid].withdrawn;
                assert!(asked_for || world.is_stored(row.uid), "P1: version {} is deleted and is not stored", row.uid);
                let now = world.elapsed;
                let fate = world.fates.get_mut(&row.uid).expect("every version has a fate");
                (fate.deleted_by_us, fate.deleted_at) = (true, now);
            }
        }
        if world.kind == Kind::Booked {
            let mut plans = order.booked.to_vec();
            plans.extend(order.groups.iter().filter_map(DeleteGroup::plan));
            plans.sort_unstable();
            plans.dedup();
            for plan in world.db.booked.iter().flat_map(|booked| &booked.plans) {
                let open = world.state.plans.contains_key(plan);
                assert!(!open || plans.contains(plan), "plan {} is booked as long as the state file holds it", plan.0);
            }
            let before = world.db.booked.as_ref().map_or(PlanId(0), |booked| booked.highest);
            let highest = plans.last().copied().unwrap_or(before).max(before);
            world.db.booked = Some(Booked { plans, highest });
        }
        if world.triggers > 0 {
            world.triggers -= 1;
            let rowid = world.insert_by_trigger(0);
            deletion.written = vec![RowKey { outbox: OutboxIx(0), rowid }; 2];
        }
        world.deleted();
        if forced {
            world.come_back_alike(0);
            world.fuse = world.fuse_then.take();
            world.renumbered = std::mem::take(&mut world.renumbered_then);
        }
        if unknown {
            // Nobody heard that a trigger keeps these; of a bare table they look like new ones.
            let kept = order.groups.iter().flat_map(DeleteGroup::rows).filter(|(key, _)| deletion.kept.contains(key));
            let kept: Vec<u64> = kept
                .filter_map(|(key, _)| world.db.tables[usize::from(key.outbox.0)].get(&key.rowid))
                .map(|row| row.uid)
                .collect();
            world.again.extend(kept);
            return Err(SourceError::CommitUnknown("disk I/O error".to_owned()));
        }
        Ok(deletion)
    }

    fn traits(&self, _outbox: OutboxIx) -> Option<&TableTraits> {
        self.known.then_some(&self.traits)
    }

    fn books(&self) -> bool {
        self.world.borrow().kind == Kind::Booked
    }

    fn booked(&mut self) -> Result<Option<Booked>, SourceError> {
        self.alive()?;
        self.answers("booked")?;
        let world = &mut *self.world.borrow_mut();
        if world.chance(10) {
            return Err(SourceError::Busy("a lock".to_owned()));
        }
        Ok(world.db.booked.clone())
    }

    fn backlog(&mut self, outbox: OutboxIx) -> Result<Backlog, SourceError> {
        self.renumbered()?;
        Ok(Backlog { rows: self.world.borrow().db.tables[usize::from(outbox.0)].len() as u64, exact: true })
    }

    fn let_go(&mut self) {
        let world = &mut *self.world.borrow_mut();
        world.open = false;
        if world.log_written && world.company == Some(false) {
            // Closing brings the log to the file.
            world.log_written = false;
            world.file_written = Some(world.elapsed);
        }
        // What we have written ourselves can't be told from another's commit, nor what comes within a grain of the file's time.
        let fresh = world.file_written.is_some_and(|at| world.elapsed < at + MTIME_GRAIN);
        world.left_at = (!fresh && !world.chance(20)).then_some(world.counter);
        // A writer at work leaves doubt.
        world.disk_changed = world.is_committing();
    }

    fn is_open(&self) -> bool {
        self.world.borrow().open
    }

    fn origin(&self) -> Option<Origin> {
        None
    }

    fn others_connected(&mut self) -> bool {
        let world = &mut *self.world.borrow_mut();
        world.company.unwrap_or_else(|| world.random.u32(0..3) > 0) || world.is_committing()
    }

    fn is_undisturbed(&self) -> bool {
        self.world.borrow().undisturbed
    }

    fn found_empty_log(&self) -> bool {
        self.world.borrow().found_empty_log
    }

    fn stirred(&mut self) -> bool {
        self.world.borrow().disk_changed
    }
}

/// Groups that can't be deleted for now, and the others.
fn left_out(world: &mut World, order: &DeleteOrder<'_>) -> (Vec<LeftOut>, Vec<DeleteGroup>) {
    let (mut left_out, mut groups) = (Vec::new(), Vec::new());
    for (at, group) in order.groups.iter().enumerate() {
        let of_it = group.rows().any(|(key, _)| world.is_unfit(usize::from(key.outbox.0)));
        if of_it || world.chance(60) {
            left_out.push(LeftOut { group: at, why: Why::new("a column is missing") });
        } else {
            groups.push(group.clone());
        }
    }
    (left_out, groups)
}

/// What a delete of this order does, and to which rows.
fn compare(world: &World, order: &DeleteOrder<'_>) -> (Deletion, Vec<RowKey>) {
    let (mut deletion, mut removed) =
        (Deletion { held: Duration::from_micros(200), ..Deletion::default() }, Vec::new());
    for group in order.groups {
        if let Some(plan) = group.plan() {
            assert!(
                planted::any() || world.state.is_acknowledged(plan),
                "plan {} is acknowledged in the state file before its delete",
                plan.0
            );
        }
        for (key, print) in group.rows() {
            match world.db.tables[usize::from(key.outbox.0)].get(&key.rowid) {
                None => deletion.gone.push(key),
                Some(row) if world.print(key.rowid, row) != print && !planted::is(Bug::DeleteByRowidAlone) => {
                    deletion.changed.push(key);
                }
                Some(row) if row.kept => deletion.kept.push(key),
                Some(_) => {
                    removed.push(key);
                    deletion.deleted += 1;
                }
            }
        }
    }
    (deletion, removed)
}

#[derive(Debug)]
pub struct SimJournal(pub Shared);

impl Journal for SimJournal {
    fn reads_from(&mut self, _: Option<Origin>) -> bool {
        false
    }

    fn record(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError> {
        let world = &mut *self.0.borrow_mut();
        let text = "database or disk is full".to_owned();
        let full = || JournalError { path: "state.db".to_owned(), text, busy: false };
        if world.step() || world.elapsed < world.disk_full_until || world.chance(50) {
            return Err(full());
        }
        for change in changes {
            if let Change::Planned(_) | Change::Replaced { .. } = change {
                assert!(sync, "a plan must survive a power cut before it is sent");
            }
            world.state.apply(change);
            if let Change::Answered { request, .. } = change {
                world.answers.push(*request);
                world.given.retain(|given| given.id != *request);
            }
        }
        if sync && world.power_cut_comes {
            world.state_synced = world.state.clone();
        }
        Ok(())
    }

    fn note(&mut self, changes: &[Change<'_>], sync: bool) -> Result<(), JournalError> {
        if self.0.borrow_mut().chance(20) {
            return Err(JournalError {
                path: "state.db".to_owned(),
                text: "another relay writes".to_owned(),
                busy: true,
            });
        }
        self.record(changes, sync)
    }

    fn left(&mut self, _: Option<FileId>) -> Result<Left, JournalError> {
        let world = &mut *self.0.borrow_mut();
        if world.step() || world.chance(50) {
            return Err(JournalError { path: "state.db".to_owned(), text: "disk I/O error".to_owned(), busy: false });
        }
        let given = std::mem::take(&mut world.given);
        world.requests.splice(0..0, given);
        Ok(world.state.left(true))
    }

    fn requests(&mut self) -> Result<Vec<Request>, JournalError> {
        let world = &mut *self.0.borrow_mut();
        world.given.extend(world.requests.iter().cloned());
        Ok(std::mem::take(&mut world.requests))
    }
}

#[derive(Debug)]
pub struct SimSink(pub Shared);

impl Sink for SimSink {
    fn producer(&mut self) {
        let world = &mut *self.0.borrow_mut();
        if world.chance(3) {
            world.plan(Duration::from_millis(1), Happening::Sink(SinkEvent::NoProducer { why: Why::new("no broker") }));
        }
        let id = world.next_producer;
        world.next_producer += 1;
        let cluster = Some(world.cluster.clone());
        world.plan(Duration::from_millis(2), Happening::Sink(SinkEvent::Producer { id, cluster }));
    }

    fn open(&mut self, topic: &Topic) {
        let world = &mut *self.0.borrow_mut();
        let after = world.micros(100..500_000);
        let partitions = (0..world.partitions)
            .map(|partition| {
                let log = world.logs.get(&(topic.to_string(), partition));
                PartitionStart { partition, end_offset: Some(log.map_or(0, Log::watermark)), leader_epoch: 0 }
            })
            .collect();
        world.plan(after, Happening::Sink(SinkEvent::Opened { topic: topic.clone(), partitions }));
    }

    fn send(&mut self, plan: &Arc<Plan>, _manner: Manner) -> Result<(), Full> {
        let world = &mut *self.0.borrow_mut();
        if world.step() || world.chance(30) {
            return Err(Full);
        }
        assert!(world.state.plans.contains_key(&plan.id), "plan {} is sent and not in the state file", plan.id.0);
        let parcel = Parcel {
            plan: plan.id,
            topic: plan.target.topic.to_string(),
            partition: plan.target.partition,
            producer: plan.triple.producer_id,
            epoch: plan.triple.epoch,
            first: plan.triple.first_sequence,
            run: plan.run,
            rows: plan.rows.clone(),
        };
        let cluster = world.cluster.to_string();
        let triple = (cluster, parcel.topic.clone(), parcel.partition, parcel.producer, parcel.epoch, parcel.first);
        let bytes = world.triples.entry(triple).or_insert_with(|| plan.rows.bytes.clone());
        assert!(planted::any() || *bytes == plan.rows.bytes, "I1: plan {} stands for other bytes now", plan.id.0);
        world.sent.insert(plan.id, contents(&plan.rows).into_iter().map(|(uid, _)| uid).collect());
        let mut after = world.micros(300..8_000) + world.slower_by;
        if let Some((partition, until)) = world.weather.silent
            && partition == parcel.partition
        {
            after += until.saturating_sub(world.elapsed);
        }
        after += world.hung_until.saturating_sub(world.elapsed);
        if world.is_away(&parcel) {
            after += world.away.silent_for.unwrap_or_default();
        }
        world.plan(after, Happening::Answer(parcel));
        Ok(())
    }

    fn look_up(&mut self, plan: &Arc<Plan>, sought: Sought) {
        let world = &mut *self.0.borrow_mut();
        let question = Question {
            plan: plan.id,
            cluster: plan.cluster.clone(),
            topic: plan.target.topic.to_string(),
            partition: plan.target.partition,
            producer: plan.triple.producer_id,
            epoch: plan.triple.epoch,
            first: plan.triple.first_sequence,
            count: plan.rows.len(),
            noted: plan.noted_offset,
            sought,
        };
        let after = world.micros(300..20_000);
        world.plan(after, Happening::Testify(question));
    }

    fn drain(&mut self) {}
}

/// The records of a batch as (uid, poison), read with the wire's own reader.
pub fn contents(rows: &Rows) -> Vec<(u64, bool)> {
    let fields = BatchFields {
        producer_id: 0,
        producer_epoch: 0,
        base_sequence: 0,
        timestamp_ms: 0,
        record_count: rows.len() as i32,
        compression: Compression::None,
    };
    let mut bytes = encode_header(&fields, &rows.bytes).to_vec();
    bytes.extend_from_slice(&rows.bytes);
    let mut out = Vec::new();
    for piece in BatchReader::new(&bytes) {
        let Ok(Piece::Batch(batch)) = piece else { panic!("a whole batch: {piece:?}") };
        assert!(batch.checksum_matches());
        for (at, record) in batch.records().expect("uncompressed").enumerate() {
            let record = record.expect("a record");
            assert_eq!(record.offset, at as i64, "offset deltas have no gaps");
            let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
            let (poison, rest) = value.strip_prefix("poison-").map_or((false, value.as_str()), |rest| (true, rest));
            let uid = rest.split('-').next().and_then(|uid| uid.parse().ok()).expect("a uid");
            out.push((uid, poison));
        }
    }
    assert_eq!(out.len(), rows.len());
    out
}

/// The broker deals with a batch: a fault, a rejection, or Kafka's own rules.
pub fn answer(world: &mut World, parcel: &Parcel) -> Outcome {
    let contents = contents(&parcel.rows);
    let outcome = outcome(world, parcel, &contents);
    if matches!(outcome, Outcome::Unsure(_) | Outcome::OutOfSequence(_)) {
        world.excuse(contents.iter().map(|(uid, _)| *uid));
    }
    outcome
}

fn outcome(world: &mut World, parcel: &Parcel, contents: &[(u64, bool)]) -> Outcome {
    let why = || Why::new("the weather");
    if world.is_away(parcel) {
        return if world.away.silent_for.is_some() { Outcome::Unsure(why()) } else { Outcome::NotAppended(why()) };
    }
    match world.random.u32(0..if world.weather.faults { 60 } else { 1 }) {
        1..=3 => return Outcome::NotAppended(why()),
        4 | 5 => {
            // Lost before or after the append; sometimes the request arrives much later.
            let late = world.micros(0..3_000_000);
            match world.random.u32(0..3) {
                0 => {}
                1 => drop(append(world, parcel, contents)),
                _ => world.plan(late, Happening::LateCopy(parcel.clone())),
            }
            return Outcome::Unsure(why());
        }
        6 => return Outcome::Refused(why()),
        7 => return Outcome::OutOfSequence(Why::new("45 from a leader that is no longer one").code(45)),
        _ => {}
    }
    if world.elapsed < world.weather.down_until {
        return Outcome::NotAppended(why());
    }
    if world.weather.confused.is_some_and(|(at, until)| at == parcel.partition && world.elapsed < until) {
        return Outcome::OutOfSequence(Why::new("45 from a leader that is no longer one").code(45));
    }
    if world.weather.closed_until.is_some_and(|until| world.elapsed < until) {
        world.closed_out.extend(contents.iter().map(|(uid, _)| *uid));
        let why = Why::new("the clock, or whatever").code(world.weather.closed_code);
        return Outcome::Rejected { why, records: None };
    }
    append(world, parcel, contents)
}

/// The partition's leader validates and appends.
pub fn append(world: &mut World, parcel: &Parcel, contents: &[(u64, bool)]) -> Outcome {
    if world.batch_limit.is_some_and(|max| parcel.rows.bytes.len() > max) {
        return Outcome::Rejected { why: Why::new("MESSAGE_TOO_LARGE").code(10), records: None };
    }
    let bad: Vec<u32> =
        contents.iter().enumerate().filter(|(_, (_, poison))| *poison).map(|(at, _)| at as u32).collect();
    if !bad.is_empty() {
        let named = world.random.bool() && (bad.len() < contents.len() || contents.len() == 1);
        return Outcome::Rejected { why: Why::new("invalid record").code(87), records: named.then_some(bad) };
    }
    let uids: Vec<u64> = contents.iter().map(|(uid, _)| *uid).collect();
    let log = world.logs.entry((parcel.topic.clone(), parcel.partition)).or_default();
    let before = log.entries.len();
    let appended = log.append(world.elapsed, &uids, parcel.producer, parcel.epoch, parcel.first);
    if log.entries.len() > before {
        for (uid, meta) in uids.iter().zip(&parcel.rows.meta) {
            let id = (parcel.run, meta.message);
            if world.message_ids.insert(*uid, id).is_some_and(|before| before != id) {
                world.renamed.push(*uid);
            }
        }
    }
    match appended {
        Append::Stored(offset) => Outcome::Stored { offset },
        Append::Held => Outcome::Unsure(Why::new("REQUEST_TIMED_OUT").code(7)),
        Append::OutOfSequence(code) => Outcome::OutOfSequence(Why::new("sequence").code(code)),
    }
}

/// What a leader says when it is asked. `None`: later.
pub fn testify(world: &mut World, question: &Question) -> Option<Evidence> {
    if world.chance(4) || world.away.partitions.contains(&question.partition) && world.elapsed < world.away.until {
        return None;
    }
    if question.cluster.as_ref().is_some_and(|cluster| *cluster != world.cluster) {
        return Some(Evidence::OtherCluster(Why::new("another cluster")));
    }
    if world.weather.forbidden {
        return Some(Evidence::Forbidden(Why::new("TOPIC_AUTHORIZATION_FAILED").code(29)));
    }
    if question.partition >= world.partitions {
        return Some(Evidence::PartitionGone(Why::new("no such partition")));
    }
    world.logs.entry((question.topic.clone(), question.partition)).or_default().testify(question)
}
