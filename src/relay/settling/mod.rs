//! Settling: rows of acknowledged plans, and what operators want to be gone, are deleted together, in few, short, polite transactions;
//! plans are forgotten once that is durable.
//!
//! Promises: a row is deleted only after its record was acknowledged and its plan is noted so in the state file; never two deletes
//! within their spacing while somebody else uses the database. Does not know: how a delete is done.

mod cost;
mod deleting;
mod doubts;
mod entry;

use crate::failpoint;
use crate::model::{JournalMode, Plan, PlanId};
use crate::ports::{Change, Clock, Journal, Sink, Source};
use crate::relay::backoff::Knocking;
use crate::relay::notes::Notes;
use crate::relay::{Fatal, Relay};
use crate::telemetry::trouble::Trouble;
use cost::Cost;
use doubts::Doubts;
pub(super) use entry::Errand;
use entry::{Entry, Wish};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Deletes are so far apart while others use the database. Each is some 50 us and 0.3 us a row in which an application without a
/// busy timeout is turned away. The share of the time that the write lock is held, in thousandths, beside 1,000 transactions a
/// second: with 20 ms 3.4, 75 ms 1.3, 150 ms 0.7, 250 ms 0.45, 400 ms 0.35. The rows' own part, 0.3, no spacing takes away.
const DELETE_EVERY: Duration = Duration::from_millis(250);
/// The same (in WAL mode) when `DELETE_ROWS` are waiting.
const DELETE_EVERY_BEHIND: Duration = Duration::from_millis(20);
/// So many acknowledged rows are deleted as soon as the spacing allows; fewer wait a little for more to go with them.
const DELETE_ROWS: usize = 5_000;
const DELETE_WAIT: Duration = Duration::from_millis(20);
/// The same while nobody else uses the database. The rows of several lanes lie interleaved: only when most of a page's rows go
/// in one transaction is the page freed instead of written, and lanes are acknowledged one after the other.
const DELETE_ROWS_ALONE: usize = 24_000;
const DELETE_WAIT_ALONE: Duration = Duration::from_millis(50);
/// The rows of a write transaction are made to take no longer than this. Whom it refuses sleeps 1, then 2, then 5 ms (SQLite's own busy handler):
/// one of 5 ms costs an application that never pauses 8.
const WRITE_TIME: Duration = Duration::from_millis(2);
/// The same while nobody else has used the database for `QUIET_AFTER`.
const WRITE_TIME_QUIET: Duration = Duration::from_millis(50);
const QUIET_AFTER: Duration = Duration::from_secs(1);
/// After so long without anybody connected nobody is there. An application that connects for each transaction is hardly ever gone for
/// so long.
const DELETE_ALONE_AFTER: Duration = Duration::from_millis(50);
/// How often it is asked whether the others are done, at first: the gaps between transactions can be short.
const POLITE_STEP: Duration = Duration::from_micros(50);
const POLITE_KEEN_FOR: Duration = Duration::from_millis(50);
/// The same when nobody has committed for `POLITE_KEEN_FOR` either: a reader who stays. Every 50 us it would be an eighth of a core.
/// Whoever commits comes and goes, and hits the gap between two transactions of his only by asking often.
const POLITE_STEP_LATER: Duration = Duration::from_millis(5);
/// After so long it is our turn. A transaction of the application that reads, thinks and then writes fails for good
/// (SQLITE_BUSY_SNAPSHOT) when we commit in between: with 250 ms, 4 in 1,000 did, where it did nothing else.
const POLITE_FOR: Duration = Duration::from_millis(700);
/// The same for one who has been there ever since our patience ran out: a reader without an end, whom our commits don't hurt.
const POLITE_FOR_OUTWAITED: Duration = Duration::from_millis(5);
/// A delete that meets a lock for longer is mentioned.
const STARVED_AFTER: Duration = Duration::from_secs(5);
/// The same when two full deletes are waiting: else a fast application outruns us.
const POLITE_FOR_BEHIND: Duration = Duration::from_millis(1);
/// After a failure that is not weather.
const FAILED_RETRY: Duration = Duration::from_millis(500);
/// Plans that were left out of a delete are tried again after this, then rarer.
const LEFT_OUT_RETRY: Duration = Duration::from_millis(500);
const LEFT_OUT_RETRY_MAX: Duration = Duration::from_secs(4);
/// So many of their rows at most together: it may have to be done row by row.
const LEFT_OUT_ROWS: usize = 1_000;
/// Deleted plans are forgotten by the next dispatch; when there is none, by a sync of their own after this.
const FORGET_AFTER: Duration = Duration::from_millis(100);
/// Numbers of deletes rise over all runs: each start has this many bits for every plan there was before it.
const DELETES_SHIFT: u32 = 15;
const PLAN_ROWS_MIN: usize = 64;
const PLAN_ROWS_MAX: usize = 8_192;

/// What is to be deleted, and plans between acknowledgement and oblivion.
#[derive(Debug)]
pub(super) struct Settling {
    entries: VecDeque<Entry>,
    rows: usize,
    /// Of these, rows of plans that were left out, or that are in doubt.
    waiting_rows: usize,
    left_out_trouble: Trouble,
    /// Deleted, and the delete may still be lost in a power cut.
    deleted: Vec<PlanId>,
    deleted_at: Option<Instant>,
    /// Can be forgotten.
    settled: Vec<PlanId>,
    /// Deleted plans that the state file may still hold: a record of theirs that was not synced does not count.
    booked: Vec<PlanId>,
    /// Plans with rows of outboxes that are no longer configured as well: the state file keeps those.
    lasting: BTreeSet<PlanId>,
    notes: Notes,
    pub(super) doubts: Doubts,
    /// What lies where their rows were may be other rows, and the state file does not say so yet.
    doubtful: Vec<PlanId>,
    /// All of which that was ever said, until they are settled.
    doubted: BTreeSet<PlanId>,
    first_plan: PlanId,
    /// Deletes of an earlier run that did not happen.
    undone: Vec<u64>,
    last_delete: Option<Instant>,
    /// Not before, because somebody else was there.
    retry_at: Option<Instant>,
    polite_since: Option<Instant>,
    /// The last pause after a note that found the state file busy.
    note_pause: Option<Duration>,
    /// Our patience with somebody ran out, and whenever it was asked since, somebody was there.
    outwaited: bool,
    knocking: Knocking,
    starved: Trouble,
    number: u64,
    cost: Cost,
    others_seen: Instant,
    started: Instant,
    /// Nobody else uses the database.
    alone: bool,
    mode: JournalMode,
}

impl Settling {
    /// `first_plan`: above every number that an earlier run gave to a plan. `database`: for messages.
    pub(super) fn new(now: Instant, first_plan: PlanId, database: &str) -> Self {
        Settling {
            entries: VecDeque::new(),
            rows: 0,
            waiting_rows: 0,
            left_out_trouble: Trouble::new(format!("database {database}: published rows that can't be deleted now")),
            deleted: Vec::new(),
            deleted_at: None,
            settled: Vec::new(),
            booked: Vec::new(),
            lasting: BTreeSet::new(),
            notes: Notes::default(),
            doubts: Doubts::default(),
            doubtful: Vec::new(),
            doubted: BTreeSet::new(),
            first_plan,
            undone: Vec::new(),
            last_delete: None,
            retry_at: None,
            polite_since: None,
            note_pause: None,
            outwaited: false,
            knocking: Knocking::default(),
            starved: Trouble::new(format!("database {database}: published rows can't be deleted")),
            number: first_plan.0 << DELETES_SHIFT,
            cost: Cost::default(),
            others_seen: now,
            started: now,
            alone: false,
            mode: JournalMode::Wal,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Nothing is to be deleted but what can't be for now.
    pub(super) fn is_at_rest(&self) -> bool {
        self.rows == self.waiting_rows
    }

    /// Nobody else uses the database.
    pub(super) fn is_alone(&self) -> bool {
        self.alone
    }

    /// What is to be deleted is the state file's to tell, which knows everything. When and how stays as it is.
    pub(super) fn start_again(&mut self) {
        self.entries.clear();
        self.count();
        self.deleted.clear();
        self.deleted_at = None;
        self.settled.clear();
        self.booked.clear();
        self.lasting.clear();
        self.notes = Notes::default();
        self.doubtful.clear();
        self.undone.clear();
        self.note_pause = None;
    }

    /// Acknowledged rows not yet deleted.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn acknowledged(&mut self, plan: Arc<Plan>, offset: i64, at: Instant) {
        self.push(Wish::Acknowledged { plan, offset, recorded: false }, at, false);
    }

    fn push(&mut self, wish: Wish, at: Instant, in_doubt: bool) {
        let entry = Entry { wish, at, left_out: None, in_doubt };
        self.rows += entry.rows();
        if in_doubt {
            self.waiting_rows += entry.rows();
        }
        self.entries.push_back(entry);
    }

    /// What an earlier run was told: the state file knows.
    pub(super) fn acknowledged_before(&mut self, plan: Arc<Plan>, offset: i64, at: Instant) {
        self.push(Wish::Acknowledged { plan, offset, recorded: true }, at, false);
    }

    /// Whether this delete took the plan's rows is not known, and it is neither sent again nor deleted for now.
    pub(super) fn wait_in_doubt(&mut self, plan: Arc<Plan>, delete: u64, now: Instant) {
        self.doubts.wait_for(delete, now);
        self.push(Wish::Acknowledged { plan, offset: -1, recorded: true }, now, true);
    }

    /// An operator has asked for it.
    pub(super) fn errand(&mut self, errand: Errand, at: Instant) {
        self.push(Wish::Asked(errand), at, false);
    }

    /// Acknowledged plans.
    pub(super) fn plans(&self) -> impl Iterator<Item = &Arc<Plan>> {
        self.entries.iter().filter_map(Entry::plan)
    }

    /// Acknowledged plans of which no delete may have been committed.
    pub(super) fn undeleted(&self) -> impl Iterator<Item = PlanId> {
        self.entries.iter().filter(|entry| !entry.in_doubt).filter_map(Entry::plan).map(|plan| plan.id)
    }

    /// Errands at these places, which rise, taken out.
    fn take_errands(&mut self, places: &[usize]) -> Vec<Errand> {
        let mut errands = Vec::new();
        for (at, entry) in std::mem::take(&mut self.entries).into_iter().enumerate() {
            match entry.wish {
                Wish::Asked(errand) if places.binary_search(&at).is_ok() => errands.push(errand),
                wish => self.entries.push_back(Entry { wish, ..entry }),
            }
        }
        self.count();
        errands
    }

    /// The plan has rows that are none of this run's business.
    pub(super) fn keep(&mut self, plan: PlanId) {
        self.lasting.insert(plan);
    }

    /// What lies where the plan's rows were may be other rows.
    pub(super) fn doubt(&mut self, plan: PlanId) {
        self.doubtful.push(plan);
        self.doubted.insert(plan);
    }

    /// Whether it is a plan of this run, and what lies where its rows were was never in doubt.
    pub(super) fn is_sure(&self, plan: PlanId) -> bool {
        plan >= self.first_plan && !self.doubted.contains(&plan)
    }

    /// To be said of plans that the state file knows.
    pub(super) fn doubts(&self) -> impl Iterator<Item = Change<'_>> {
        self.doubtful.iter().map(|plan| Change::Doubtful { plan: *plan })
    }

    /// A delete that an earlier run noted did not happen.
    pub(super) fn not_deleted_before(&mut self, delete: u64) {
        if !self.undone.contains(&delete) {
            self.undone.push(delete);
        }
    }

    /// An earlier run deleted the plan and booked it, and the state file still holds it: the next delete books it again.
    pub(super) fn booked_before(&mut self, plan: PlanId) {
        self.booked.push(plan);
    }

    fn count(&mut self) {
        self.rows = self.entries.iter().map(Entry::rows).sum();
        self.waiting_rows = self.entries.iter().filter(|entry| entry.waits()).map(Entry::rows).sum();
    }

    /// What was to be done about the plan is done.
    pub(super) fn forget(&mut self, plan: PlanId) {
        self.settled.push(plan);
    }

    /// A sync of the database began after every delete so far had returned, and has ended.
    pub(super) fn synced(&mut self) {
        for plan in std::mem::take(&mut self.deleted) {
            self.forget(plan);
        }
        self.deleted_at = None;
    }

    /// The state file was synced: what it has forgotten it will not remember after a power cut.
    pub(super) fn state_synced(&mut self) {
        let (settled, deleted) = (&self.settled, &self.deleted);
        self.booked.retain(|plan| settled.contains(plan) || deleted.contains(plan));
    }

    /// What the state file does not know yet.
    pub(super) fn changes(&self) -> Vec<Change<'_>> {
        let acknowledged = self.entries.iter().filter_map(|entry| match &entry.wish {
            Wish::Acknowledged { plan, offset, recorded: false } => {
                Some(Change::Acknowledged { plan: plan.id, offset: *offset })
            }
            _ => None,
        });
        let settled = self.settled.iter().map(|plan| {
            let (plan, here) = (*plan, self.lasting.contains(plan));
            if here { Change::SettledHere { plan } } else { Change::Settled { plan } }
        });
        let over = self.undone.iter().copied().chain(self.notes.over(&self.settled));
        let over = over.map(|delete| Change::Deleting { delete, plans: &[] });
        acknowledged.chain(over).chain(settled).collect()
    }

    /// The state file knows everything that [`Settling::changes`] named.
    pub(super) fn recorded(&mut self) {
        for entry in &mut self.entries {
            if let Wish::Acknowledged { recorded, .. } = &mut entry.wish {
                *recorded = true;
            }
        }
        self.undone.clear();
        self.notes.settled(&self.settled);
        for plan in self.settled.drain(..) {
            self.lasting.remove(&plan);
            self.doubted.remove(&plan);
        }
        self.doubtful.clear();
    }

    pub(super) fn wants_forgetting(&self, now: Instant) -> bool {
        self.deleted_at.is_some_and(|at| at + FORGET_AFTER <= now)
            || (!self.settled.is_empty() && self.deleted.is_empty())
    }

    /// Nobody else has used the database for a second.
    fn quiet(&self, now: Instant) -> bool {
        now.duration_since(self.others_seen) >= QUIET_AFTER
    }

    /// When a delete is due, politeness aside.
    fn due(&self, quiet_pipeline: bool) -> Option<Instant> {
        let retry = self.left_out_due();
        let Some(fresh) = self.entries.iter().find(|entry| !entry.waits()) else { return retry };
        let oldest = fresh.at;
        let (rows, wait) = if self.alone { (DELETE_ROWS_ALONE, DELETE_WAIT_ALONE) } else { (DELETE_ROWS, DELETE_WAIT) };
        let enough = self.rows - self.waiting_rows >= rows;
        let spacing = match self.mode {
            _ if self.alone => Duration::ZERO,
            JournalMode::Wal if enough => DELETE_EVERY_BEHIND,
            JournalMode::Wal | JournalMode::Rollback => DELETE_EVERY,
        };
        let spaced = self.last_delete.map_or(oldest, |last| last + spacing);
        let wanted = if quiet_pipeline || enough { oldest } else { oldest + wait };
        let due = spaced.max(wanted);
        Some(retry.map_or(due, |retry| retry.min(due)))
    }

    /// The places of the entries that the next delete is to take, and how many rows they have. Those that were left out before go on
    /// their own: what is to be done row by row would hold up the others. `can_be_in_doubt`: of such entries a trial takes one.
    fn take(&self, rows_max: usize, now: Instant, can_be_in_doubt: impl Fn(&Entry) -> bool) -> (Vec<usize>, usize) {
        let again = self.left_out_due().filter(|due| *due <= now);
        let rows_max = if again.is_some() { rows_max.min(LEFT_OUT_ROWS) } else { rows_max };
        let (mut taken, mut rows) = (Vec::new(), 0);
        for (at, entry) in self.entries.iter().enumerate() {
            // Those about as long due too: one may take the other along.
            let wanted = match (again, entry.left_out) {
                (Some(due), Some(left)) => left.at < due + LEFT_OUT_RETRY,
                (again, left) => again.is_none() && left.is_none(),
            };
            if !wanted || entry.in_doubt {
                continue;
            }
            let alone = self.doubts.is_trial() && can_be_in_doubt(entry);
            if !taken.is_empty() && (alone || rows + entry.rows() > rows_max) {
                break;
            }
            rows += entry.rows();
            taken.push(at);
            if alone {
                break;
            }
        }
        (taken, rows)
    }

    /// When plans that were left out are tried again.
    fn left_out_due(&self) -> Option<Instant> {
        if self.waiting_rows == 0 {
            return None;
        }
        self.entries.iter().filter_map(|entry| entry.left_out.map(|left| left.at)).min()
    }

    pub(super) fn is_due(&self, quiet_pipeline: bool, now: Instant) -> bool {
        self.due(quiet_pipeline).is_some_and(|due| due <= now) && self.retry_at.is_none_or(|at| at <= now)
    }

    pub(super) fn deadline(&self, quiet_pipeline: bool, now: Instant) -> Option<Instant> {
        let forget = self.deleted_at.map(|at| at + FORGET_AFTER).filter(|_| quiet_pipeline);
        let delete = self.due(quiet_pipeline).map(|due| self.retry_at.map_or(due, |retry| retry.max(due)));
        [forget, delete, self.doubts.due(now)].into_iter().flatten().min()
    }

    fn write_time(&self) -> Duration {
        if self.alone { WRITE_TIME_QUIET } else { WRITE_TIME }
    }
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// Deletes what was acknowledged, if it is time.
    pub(super) fn settle(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.reading.matching.is_some() {
            return Ok(());
        }
        if let Some(foreign) = self.reading.last_foreign {
            self.settling.others_seen = self.settling.others_seen.max(foreign);
        }
        if self.settling.doubts.take_due(now) {
            self.start_again(now);
            return Ok(());
        }
        let quiet = self.settling.quiet(now);
        // In the first second nobody can have been quiet for one; with nobody seen the spacing is not needed either.
        self.settling.alone = quiet
            || self.settling.others_seen == self.settling.started
            || self.reading.is_alone_for(DELETE_ALONE_AFTER, now);
        self.settling.mode = self.source.journal_mode();
        if !self.settling.is_due(self.is_quiet_pipeline(), now) {
            return Ok(());
        }
        let rows_max = self.settling.cost.next_rows(self.settling.write_time());
        if self.makes_way(rows_max, now) {
            return Ok(());
        }
        // Also what is settled: that an earlier run deleted it may be known from a row that this delete takes away or rewrites.
        let unrecorded = self.settling.entries.iter().any(Entry::is_unrecorded)
            || !self.settling.settled.is_empty()
            || !self.settling.undone.is_empty()
            || !self.settling.doubtful.is_empty()
            || self.quarantine.has_notes();
        if unrecorded && !self.record(now) {
            self.settling.retry_at = Some(now + FAILED_RETRY);
            return Ok(());
        }
        self.delete(rows_max, now)
    }

    /// Whether somebody else is at it and it is still polite to wait.
    fn makes_way(&mut self, rows_max: usize, now: Instant) -> bool {
        if !self.source.at_disk().others_active() {
            self.settling.outwaited &= !self.source.is_open();
            return false;
        }
        self.settling.others_seen = now;
        let patience = self.patience(rows_max);
        let since = *self.settling.polite_since.get_or_insert(now);
        let waited = now.duration_since(since);
        if waited >= patience {
            self.settling.outwaited |= waited >= POLITE_FOR;
            return false;
        }
        let lively = self.reading.last_foreign.map_or(since, |foreign| foreign.max(since));
        let keen = now.duration_since(lively) < POLITE_KEEN_FOR;
        self.settling.retry_at = Some(now + if keen { POLITE_STEP } else { POLITE_STEP_LATER });
        true
    }

    /// How long others may go first.
    fn patience(&self, rows_max: usize) -> Duration {
        if self.settling.rows - self.settling.waiting_rows >= 2 * rows_max.min(DELETE_ROWS) {
            POLITE_FOR_BEHIND
        } else if self.settling.outwaited {
            POLITE_FOR_OUTWAITED
        } else {
            POLITE_FOR
        }
    }

    /// Plans whose deletes are durable leave the state file.
    pub(super) fn forget_settled(&mut self, now: Instant, last: bool) {
        let untold = self.quarantine.has_notes() || self.intake.resends.has_changes();
        if self.settling.deleted.is_empty() && self.settling.changes().is_empty() && !untold {
            return;
        }
        let answer = self.source.at_disk().make_durable();
        if let Err(error) = answer {
            if last {
                log::warn!("the last deletes could not be synced ({error}); their plans stay in the state file");
                // What was acknowledged is no less true.
                self.record(now);
            }
            self.settling.deleted_at = self.settling.deleted_at.map(|_| now);
            return;
        }
        failpoint::hit("durable");
        self.settling.synced();
        self.record(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Fingerprint, OutboxIx, RowKey, RowMeta, Rows, RunId, SentForm, Span, Target, Triple};
    use std::time::SystemTime;

    fn plan(id: u64) -> Arc<Plan> {
        let key = RowKey { outbox: OutboxIx(0), rowid: id as i64 };
        let meta =
            RowMeta { key, print: Fingerprint(0), message: id, record: Span::default(), event_id: Span::default() };
        Arc::new(Plan {
            id: PlanId(id),
            target: Target { topic: "users".into(), partition: 0 },
            triple: Triple { producer_id: 1, epoch: 0, first_sequence: id as i32 },
            run: RunId(1),
            noted_offset: 0,
            leader_epoch: 0,
            cluster: None,
            first_attempt: SystemTime::UNIX_EPOCH,
            rows: Arc::new(Rows { bytes: Vec::new(), meta: vec![meta] }),
            sent_form: SentForm::default(),
        })
    }

    #[test]
    fn a_trial_takes_one_plan_of_those_that_can_be_in_doubt_and_all_of_the_others() {
        let now = Instant::now();
        let mut settling = Settling::new(now, PlanId(0), "app.db");
        for id in 1..=5 {
            settling.acknowledged(plan(id), 0, now);
        }
        assert_eq!(settling.take(100, now, |_| true), (vec![0, 1, 2, 3, 4], 5));
        settling.doubts.failed();
        assert_eq!(settling.take(100, now, |_| true), (vec![0], 1));
        assert_eq!(settling.take(100, now, |_| false), (vec![0, 1, 2, 3, 4], 5));
        assert_eq!(
            settling.take(100, now, |entry| entry.plan().is_some_and(|plan| plan.id == PlanId(3))),
            (vec![0, 1], 2)
        );
    }
}
