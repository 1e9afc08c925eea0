//! Looks: when the table is read, from where, and what ends a look.
//!
//! Promises: looks for news are at least 500 us apart, the first after a pause immediate; a wake's promised commit is waited for;
//! an idle database is let go. Does not know: how rows are routed, what SQL a look is.

mod again;
mod looking;

use crate::model::{Origin, OutboxIx, Version, Wake};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use crate::relay::backoff::Knocking;
use crate::relay::intake::Behind;
use crate::relay::ledger::Obstacle;
use crate::relay::planted;
use crate::relay::recovery::Matching;
use crate::relay::{Fatal, Limits, Relay};
use again::Again;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Looks for news are at least so far apart: at one per wake-up, 30,000 foreign commits a second cost a third of a core.
const LOOK_EVERY: Duration = Duration::from_micros(500);
/// So many looks close to each other that found nothing, and the spacing doubles, up to the longest: an application that commits
/// to other tables twenty thousand times a second is asked less often, one that writes events is not.
const EMPTY_LOOKS: u32 = 16;
const LOOK_EVERY_MAX: Duration = Duration::from_millis(2);
/// A round of looks that found nothing is not repeated before so many times as long as it took: beside five hundred outboxes in one
/// database a commit to any of its tables is a look at each.
const ROUND_PAUSE: u32 = 9;
/// The first repetition while a promised commit is not visible; doubled each time.
const PROMISE_STEP: Duration = Duration::from_micros(50);
const PROMISE_STEP_MAX: Duration = Duration::from_millis(20);
/// How long a promise is believed, unless somebody is in a transaction: a sync can take any time, and nothing tells of its end.
const PROMISE_FOR: Duration = Duration::from_secs(2);
/// How often it is asked after that.
const PROMISE_STEP_LATER: Duration = Duration::from_millis(50);
/// `data_version` while the database is held, `stat` while it is let go: the net below the watch.
const NET_EVERY: Duration = Duration::from_secs(1);
/// An idle WAL connection still keeps a SHARED lock: it is closed after this.
const LET_GO_AFTER: Duration = Duration::from_secs(5);
/// The same when nobody else is connected. Closing as the last connection brings the log to the file and removes it: a log that
/// stays would be laid over whatever database takes the file's name. Whoever connects for each transaction is rarely gone for so
/// long, and does not find us checkpointing each time it comes.
const LET_GO_ALONE_AFTER: Duration = Duration::from_millis(20);
/// The same between two uses while batches are on their way and the log is empty: opening costs as much as deleting some hundred rows.
const LET_GO_ALONE_BUSY_AFTER: Duration = Duration::from_millis(80);
/// While nobody else is connected it is asked whether that is still so, at most so often.
const ALONE_EVERY: Duration = Duration::from_millis(1);
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// How often an outbox that is not there, or can't be read, is tried again.
pub(super) const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A commit that was announced and is not visible yet.
#[derive(Debug)]
struct Promise {
    /// The version of the last look before the wake.
    base: Option<Version>,
    until: Instant,
    next: Instant,
    step: Duration,
}

/// Where the sweep below the cursors stands.
#[derive(Debug)]
struct Sweep {
    wanted: bool,
    running: Option<Position>,
    /// It waits at a row that it came to.
    stuck: Option<Stuck>,
    not_before: Instant,
    spent: Duration,
}

/// What the sweep comes to next.
#[derive(Clone, Copy, Debug)]
struct Position {
    outbox: usize,
    from: i64,
    /// The outbox's cursor when the sweep came to it: what lies above is the looks', and in a backlog the cursor would run ahead for ever.
    to: Option<i64>,
}

impl Position {
    fn start_of(outbox: usize) -> Self {
        Position { outbox, from: i64::MIN, to: None }
    }
}

/// What the sweep waits for at a row, and for how long: it may have been removed.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    outbox: OutboxIx,
    obstacle: Obstacle,
    until: Instant,
}

/// When to read.
#[derive(Debug)]
pub(super) struct Reading {
    /// When the earliest commit not yet looked for was noticed.
    seen: Option<Instant>,
    promise: Option<Promise>,
    look_at: Option<Instant>,
    last_look: Option<Instant>,
    empty_looks: u32,
    spacing: Duration,
    version: Option<Version>,
    /// What was read last.
    pub(super) origin: Option<Origin>,
    /// The last connection, whether or not it is still open.
    connection: Option<u64>,
    net_at: Instant,
    /// The last look or delete.
    last_use: Instant,
    pub(super) last_foreign: Option<Instant>,
    /// When others were last asked for.
    asked_at: Option<Instant>,
    /// Since when nobody else was connected.
    alone_since: Option<Instant>,
    /// The log may hold what nobody but us will bring to the file.
    exposed: bool,
    /// Somebody is in a transaction: not let go before.
    stays_until: Instant,
    /// What became visible between the last question and letting go changes no file any more: the database is looked at once more
    /// when every promise would have been kept.
    recheck_at: Option<Instant>,
    /// It was opened for that alone.
    rechecking: bool,
    knocking: Knocking,
    sweep: Sweep,
    pub(super) matching: Option<Matching>,
    again: Again,
    /// The outbox that is looked at first, in turn.
    first: usize,
}

impl Reading {
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Reading {
            seen: None,
            promise: None,
            look_at: Some(now),
            last_look: None,
            empty_looks: 0,
            spacing: LOOK_EVERY,
            version: None,
            origin: None,
            connection: None,
            net_at: now + NET_EVERY,
            last_use: now,
            last_foreign: None,
            asked_at: None,
            alone_since: None,
            exposed: true,
            stays_until: now,
            recheck_at: None,
            rechecking: false,
            knocking: Knocking::default(),
            sweep: Sweep { wanted: false, running: None, stuck: None, not_before: now, spent: Duration::ZERO },
            matching: None,
            again: Again::new(limits, now),
            first: 0,
        }
    }

    /// The relay starts again: nothing of what was read counts.
    pub(super) fn start_again(&mut self, limits: &Limits, now: Instant) {
        self.again = Again::new(limits, now);
        self.sweep = Sweep { wanted: true, running: None, stuck: None, not_before: now, spent: Duration::ZERO };
        self.look_at = Some(now);
    }

    pub(super) fn wake(&mut self, wake: Wake, now: Instant) {
        self.seen = Some(self.seen.map_or(wake.seen, |seen| seen.min(wake.seen)));
        self.promise = Some(Promise {
            base: self.version,
            until: now + PROMISE_FOR,
            next: now + PROMISE_STEP,
            step: PROMISE_STEP,
        });
        self.asked_at = None;
        self.look_soon(now);
    }

    /// Whether others are connected is asked again.
    pub(super) fn others_may_have_gone(&mut self) {
        self.asked_at = None;
    }

    /// A delete of ours is in the log.
    pub(super) fn deleted(&mut self) {
        self.exposed = true;
        self.asked_at = None;
    }

    /// Nobody else has been connected for this time.
    pub(super) fn is_alone_for(&self, time: Duration, now: Instant) -> bool {
        self.alone_since.is_some_and(|since| since + time <= now)
    }

    /// A look as soon as the spacing allows.
    #[cfg_attr(feature = "testing", track_caller)]
    pub(super) fn look_soon(&mut self, now: Instant) {
        if planted::forgotten() {
            return;
        }
        let at = self.last_look.map_or(now, |last| now.max(last + self.spacing));
        self.look_at = Some(self.look_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Whether a wake is of use now. While a look is due soon it stays in its channel, and the watch is at rest.
    pub(super) fn takes_wakes(&self, now: Instant) -> bool {
        self.look_at.is_none_or(|at| at <= now)
    }

    /// Looks that find nothing get rarer while they come close together.
    fn looked(&mut self, found: bool, took: Duration, now: Instant) {
        let dear = took * ROUND_PAUSE;
        let longest = LOOK_EVERY_MAX.max(dear);
        let close = self.last_look.is_some_and(|last| now.duration_since(last) <= 2 * longest);
        self.last_look = Some(now + took);
        if found || !close {
            self.empty_looks = 0;
            self.spacing = LOOK_EVERY;
            return;
        }
        self.empty_looks += 1;
        if self.empty_looks >= EMPTY_LOOKS {
            self.empty_looks = 0;
            self.spacing *= 2;
        }
        self.spacing = self.spacing.clamp(dear, longest);
    }

    /// A batch that had waited for its broker was stored.
    pub(super) fn well(&mut self, now: Instant) {
        self.again.well(now);
    }

    /// When a batch whose bytes were given back is read again. While rows are looked for in a replaced file it is not.
    pub(super) fn again_at(&self, now: Instant) -> Option<Instant> {
        let busy_until = self.look_at.filter(|_| self.knocking.since().is_some());
        self.matching.is_none().then(|| self.again.deadline(now).max(busy_until.unwrap_or(now)))
    }

    pub(super) fn not_busy(&mut self) {
        self.knocking.over();
    }

    pub(super) fn used(&mut self, now: Instant) {
        self.last_use = now;
    }

    /// A version was read; says whether somebody else has committed since the one before. `undisturbed`: nobody has while the
    /// database was let go. `empty_log`: nothing was in the log when it was opened.
    fn saw(&mut self, version: Version, undisturbed: bool, empty_log: bool, now: Instant) -> bool {
        let foreign =
            self.version.is_some_and(|old| old.connection == version.connection && old.counter != version.counter);
        self.version = Some(version);
        if self.connection.replace(version.connection).is_some_and(|old| old != version.connection) {
            // What was committed while the database was let go may lie below the cursors. And it stays open for a while: with
            // commits that leave nothing for us it would be opened for each of them.
            self.sweep.wanted |= !undisturbed;
            self.exposed |= !undisturbed && !empty_log;
            self.asked_at = None;
            self.used(now);
        }
        if foreign {
            self.last_foreign = Some(now);
            self.exposed = true;
            self.sweep.wanted = true;
        }
        if let Some(promise) = &mut self.promise {
            match promise.base {
                Some(base) if base.connection == version.connection => {
                    if base.counter != version.counter {
                        self.promise = None;
                    }
                }
                // A new connection: what it saw first is what the promise is measured from.
                _ => promise.base = Some(version),
            }
        }
        foreign
    }
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// Reads whatever is due.
    pub(super) fn read(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.reading.knocking.since().is_some() && self.reading.look_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        if self.reading.matching.is_some() {
            return self.match_slice(now);
        }
        if self.draining.is_none() {
            self.look_for_waiting(now);
            if self.reading.matching.is_some() {
                return self.match_slice(now);
            }
        }
        self.read_again(now)?;
        if self.draining.is_some() || self.reading.matching.is_some() {
            return Ok(());
        }
        self.look_for_news(now);
        if self.reading.matching.is_some() {
            return Ok(());
        }
        let news = self.reading.look_at.is_some_and(|at| at <= now);
        let count = self.intake.outboxes.len();
        let (mut looked, taken) = (false, self.intake.taken);
        if news {
            let Some(glanced) = self.glance(now)? else { return Ok(()) };
            looked = glanced;
        }
        for turn in 0..count {
            let at = (self.reading.first + turn) % count;
            if news && !self.may_look(at) {
                self.miss(at, self.reading.seen.unwrap_or(now));
            } else if news && !std::mem::take(&mut self.intake.outboxes[at].unstirred) {
                self.intake.outboxes[at].may_have_more();
            }
            if self.wants_look(at, now) {
                looked = true;
                if !self.look(OutboxIx(at as u16), now)? {
                    return Ok(());
                }
            }
        }
        self.reading.first = (self.reading.first + 1) % count.max(1);
        if news {
            self.reading.look_at = None;
        }
        if looked {
            let found = self.intake.taken != taken;
            self.reading.rechecking &= !found;
            self.reading.looked(found, self.clock.now().saturating_duration_since(now), now);
        } else if news {
            // It is nobody's for the time being: what wakes us the next time need not be taken at once.
            self.reading.last_look = Some(now);
        }
        // One that can't be looked at may be so for long, and the others' commits are not as old.
        if (0..count).all(|at| self.intake.outboxes[at].more == Behind::No || !self.may_look(at)) {
            self.reading.seen = None;
        }
        self.sweep(now)?;
        self.look_where_news_was_not_for(now);
        Ok(())
    }

    /// A commit that the sweep or another outbox's look came upon is no news any more to the version, the promise and the net,
    /// and this outbox has not been looked at since.
    fn look_where_news_was_not_for(&mut self, now: Instant) {
        let Some(version) = self.reading.version else { return };
        let missed = |at: usize| {
            let outbox = &self.intake.outboxes[at];
            let old = outbox.version.is_some_and(|seen| seen != version);
            old && outbox.more == Behind::No && outbox.retry_at.is_none() && self.may_look(at)
        };
        if (0..self.intake.outboxes.len()).any(missed) {
            self.reading.look_soon(now);
        }
    }

    /// False: nothing could be taken, whatever there is. That changes with an event, not with time.
    fn may_look(&self, at: usize) -> bool {
        let outbox = &self.intake.outboxes[at];
        // Its only topic is not open: the rows wait in the table, and nothing is read to be left there.
        let closed = outbox.route.literal().is_some_and(|literal| {
            self.intake.topic_of(literal).is_none_or(|ix| !self.intake.topics[ix as usize].is_open())
        });
        let ix = OutboxIx(at as u16);
        !outbox.paused && !closed && !self.recovery.waiting.contains(ix) && self.intake.has_takers(ix, false)
    }

    /// Whether a look at any outbox could be of use.
    pub(in crate::relay) fn may_look_anywhere(&self) -> bool {
        (0..self.intake.outboxes.len()).any(|at| self.may_look(at))
    }

    /// There is news, and nothing could be taken: it is looked for when something can.
    pub(in crate::relay) fn miss(&mut self, at: usize, seen: Instant) {
        let outbox = &mut self.intake.outboxes[at];
        outbox.may_have_more();
        outbox.behind_since.get_or_insert(seen);
    }

    fn wants_look(&self, at: usize, now: Instant) -> bool {
        let outbox = &self.intake.outboxes[at];
        if outbox.retry_at.is_some_and(|at| now < at) || !self.may_look(at) {
            return false;
        }
        outbox.retry_at.is_some() || self.intake.wants_look(OutboxIx(at as u16), now)
    }

    /// Cheap questions that may lead to a look: a promise to be kept, the net once a second.
    fn look_for_news(&mut self, now: Instant) {
        // A look that is already due soon tells as much as asking for the version now.
        let promised =
            self.reading.look_at.is_none() && self.reading.promise.as_ref().is_some_and(|promise| promise.next <= now);
        let net = self.reading.net_at <= now;
        if !promised && !net {
            return;
        }
        if net {
            self.reading.net_at = now + NET_EVERY;
            self.reading.asked_at = None;
        }
        let useful = self.may_look_anywhere();
        if let Some(promise) = &mut self.reading.promise {
            if !useful {
                self.reading.promise = None;
            } else if promise.until <= now {
                if self.source.at_disk().others_active() {
                    promise.next = now + PROMISE_STEP_LATER;
                } else {
                    self.reading.promise = None;
                }
            } else {
                promise.step = (promise.step * 2).min(PROMISE_STEP_MAX);
                promise.next = now + promise.step;
            }
        }
        if !self.source.is_open() {
            if self.source.at_disk().stirred() {
                self.reading.look_soon(now);
            } else if self.reading.recheck_at.is_some_and(|at| at <= now) {
                self.reading.recheck_at = None;
                self.reading.rechecking = true;
                self.reading.look_soon(now);
            }
            return;
        }
        self.ask_version(now);
    }

    /// A version was read; says whether somebody else has committed since the one before.
    fn saw(&mut self, version: Version, now: Instant) -> bool {
        self.reading.saw(version, self.source.is_undisturbed(), self.source.found_empty_log(), now)
    }

    /// Whether somebody has committed since the last look; then a look is due.
    fn ask_version(&mut self, now: Instant) {
        let answer = self.source.at_disk().version();
        match answer {
            Ok(Some(version)) => {
                if self.saw(version, now) {
                    self.reading.look_soon(now);
                }
            }
            // Busy: the promise asks again. Whatever else it is, the look itself will meet it and say so.
            Ok(None) | Err(SourceError::Busy(_)) => {}
            // Said once, to whoever asks first.
            Err(SourceError::Replaced { text, another }) => self.replaced(&text, &another, now),
            Err(_) => self.reading.look_soon(now),
        }
    }

    /// Whether anybody else is connected: asked after whatever may have changed it, and all the time while nobody is.
    pub(super) fn look_around(&mut self, now: Instant) {
        let reading = &mut self.reading;
        let asked = reading.asked_at.is_some_and(|at| reading.alone_since.is_none() || now < at + ALONE_EVERY);
        if asked || !self.source.is_open() {
            return;
        }
        reading.asked_at = Some(now);
        if self.source.at_disk().others_connected() {
            reading.alone_since = None;
            reading.exposed = true;
        } else {
            reading.alone_since.get_or_insert(now);
        }
    }

    /// Nobody else is connected, and nothing is to be done in this very moment.
    fn lets_go_alone(&self, now: Instant) -> bool {
        let reading = &self.reading;
        let idle = reading.last_use + self.idle_alone_after() <= now
            && (reading.look_at.is_none() || self.draining.is_some())
            && reading.sweep.running.is_none();
        self.source.is_open()
            && reading.is_alone_for(LET_GO_ALONE_AFTER, now)
            && (reading.exposed || idle)
            && reading.matching.is_none()
            && !self.settling.is_due(self.is_quiet_pipeline(), now)
    }

    fn idle_alone_after(&self) -> Duration {
        if self.is_quiet_pipeline() { LET_GO_ALONE_AFTER } else { LET_GO_ALONE_BUSY_AFTER }
    }

    /// Housekeeping when there is nothing better to do: plans are forgotten, an idle database is let go.
    pub(super) fn rest(&mut self, now: Instant) {
        let untold = self.quarantine.has_notes() || self.intake.resends.has_changes();
        if (self.settling.wants_forgetting(now) || untold) && self.is_quiet_pipeline() {
            self.forget_settled(now, false);
        }
        let keep = if self.reading.rechecking { Duration::ZERO } else { LET_GO_AFTER };
        let mut idle = self.source.is_open()
            && self.reading.last_use + keep <= now
            && self.reading.stays_until <= now
            && self.reading.look_at.is_none()
            && self.settling.is_at_rest()
            && self.reading.promise.is_none()
            && self.reading.sweep.running.is_none()
            && !self.reading.again.is_running()
            && self.reading.matching.is_none();
        if idle && self.source.at_disk().others_active() {
            // About to commit, perhaps: what is in the files already would change none of them when it becomes visible.
            self.reading.stays_until = now + PROMISE_STEP_LATER;
            idle = false;
        }
        let mut alone = self.lets_go_alone(now);
        if idle || alone {
            // Somebody may have committed since the last look: a wake that comes later finds files that nothing changes any more, and
            // the next connection finds them as they were left.
            self.ask_version(now);
            idle &= self.reading.look_at.is_none() && self.reading.matching.is_none();
            alone = self.lets_go_alone(now);
        }
        if idle || alone {
            if !alone {
                self.forget_settled(now, true);
            }
            log::debug!(
                "{}: let go; longest read transaction {} us, longest write transaction {} us",
                self.figures.database,
                self.figures.longest_read_us.load(Relaxed),
                self.figures.longest_write_us.load(Relaxed)
            );
            self.source.at_disk().let_go();
            self.reading.exposed = false;
            self.reading.recheck_at = (!self.reading.rechecking && !alone).then_some(now + PROMISE_FOR);
            self.reading.rechecking = false;
            self.reading.version = None;
            self.reading.promise = None;
        }
        let readable = self.intake.outboxes.iter().all(|outbox| outbox.retry_at.is_none());
        if self.draining.is_none() && readable && self.wall.is_right() {
            self.figures.wait_for(None);
        }
    }

    pub(super) fn reading_deadline(&self, now: Instant) -> Instant {
        let reading = &self.reading;
        if self.draining.is_some() && reading.matching.is_none() {
            return now + NET_EVERY;
        }
        if let Some(matching) = &reading.matching {
            let busy_until = reading.look_at.filter(|_| reading.knocking.since().is_some());
            return now.max(matching.not_before).max(busy_until.unwrap_or(now));
        }
        let mut earliest = reading.net_at;
        if let Some(at) = reading.look_at {
            if reading.knocking.since().is_some() {
                return at;
            }
            earliest = earliest.min(at);
        }
        if let Some(promise) = &reading.promise
            && reading.look_at.is_none()
        {
            earliest = earliest.min(promise.next);
        }
        if let Some(since) = reading.alone_since.filter(|_| self.source.is_open()) {
            let mut at = since + LET_GO_ALONE_AFTER;
            if !reading.exposed {
                at = at.max(reading.last_use + self.idle_alone_after());
            }
            earliest = earliest.min(at.max(now + PROMISE_STEP));
        }
        if self.source.is_open() && self.settling.is_at_rest() && reading.promise.is_none() {
            let at = (reading.last_use + LET_GO_AFTER).max(reading.stays_until);
            earliest = earliest.min(at.max(now + PROMISE_STEP));
        }
        let sweep = &reading.sweep;
        if sweep.running.is_some() {
            let is_stuck = |stuck: &Stuck| self.intake.is_there(stuck.outbox, stuck.obstacle, now);
            earliest = earliest.min(sweep.stuck.filter(is_stuck).map_or(now, |stuck| stuck.until));
        } else if self.wants_sweep() {
            earliest = earliest.min(sweep.not_before);
        }
        for (at, outbox) in self.intake.outboxes.iter().enumerate() {
            if self.recovery.waiting.contains(OutboxIx(at as u16)) {
                earliest = earliest.min(outbox.retry_at.unwrap_or(now));
                continue;
            }
            match outbox.retry_at {
                Some(retry) if self.may_look(at) => earliest = earliest.min(retry),
                None if self.wants_look(at, now) => return now,
                _ => {}
            }
        }
        earliest
    }
}
