//! The quarantine: rows that stay in their table with a reason, and what operators ask of them.
//!
//! Promises: what was published and can't be deleted is never sent again; a row leaves the quarantine when it was changed, removed,
//! retried or discarded, and not otherwise. Does not know: the state file, who asks.

use super::Relay;
use super::intake::Outbox;
use super::settling::Errand;
use crate::model::{
    Action, Budget, Fault, Fingerprint, Flow, OutboxIx, Quarantined, Request, RowKey, RowMark, Start, TableTraits, Why,
};
use crate::ports::{Change, Clock, Journal, Sink, Source, SourceError};
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How often requests are looked for, and some of the rows looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So many quarantined rows are looked at each time: is it still there?
const LOOKED_AT: usize = 100;
/// Rows of one errand: one delete takes them together.
const ERRAND_ROWS: usize = 500;

/// A fact for the state file that is no step of a plan's.
#[derive(Debug)]
enum Note {
    Quarantined(Quarantined),
    Released(RowKey),
    Renumbered { from: RowKey, rowid: i64, print: Fingerprint },
    Table { outbox: OutboxIx, traits: TableTraits },
    Answered { request: i64, failed: bool, text: String },
}

/// How far a request has come whose rows have to be deleted.
#[derive(Debug)]
struct Pending {
    errands: usize,
    deleted: usize,
    changed: usize,
    gone: usize,
    kept: usize,
    unknown: usize,
}

/// See the module's words.
#[derive(Debug)]
pub(super) struct Quarantine {
    notes: VecDeque<Note>,
    pending: BTreeMap<i64, Pending>,
    look_at: Instant,
    /// Where the looking at quarantined rows goes on.
    position: (usize, i64),
}

impl Quarantine {
    pub(super) fn new(now: Instant) -> Self {
        Quarantine { notes: VecDeque::new(), pending: BTreeMap::new(), look_at: now, position: (0, i64::MIN) }
    }

    /// The state file knows everything, also what was asked and is not answered.
    pub(super) fn start_again(&mut self) {
        self.pending.clear();
        self.position = (0, i64::MIN);
    }

    pub(super) fn changes(&self) -> Vec<Change<'_>> {
        self.notes
            .iter()
            .map(|note| match note {
                Note::Quarantined(row) => Change::Quarantined(row),
                Note::Released(key) => Change::Released { key: *key },
                Note::Renumbered { from, rowid, print } => {
                    Change::Renumbered { key: *from, rowid: *rowid, print: *print }
                }
                Note::Table { outbox, traits } => {
                    Change::Table { outbox: *outbox, guard: &traits.guard, identity: &traits.identity }
                }
                Note::Answered { request, failed, text } => {
                    Change::Answered { request: *request, failed: *failed, text }
                }
            })
            .collect()
    }

    /// The state file knows the first `count` of them.
    pub(super) fn recorded(&mut self, count: usize) {
        self.notes.drain(..count);
    }

    pub(super) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Rows have left it, as far as was read.
    pub(super) fn has_releases(&self) -> bool {
        self.notes.iter().any(|note| matches!(note, Note::Released(_)))
    }

    pub(super) fn deadline(&self) -> Instant {
        self.look_at
    }

    pub(super) fn table(&mut self, outbox: OutboxIx, traits: TableTraits) {
        self.notes.push_back(Note::Table { outbox, traits });
    }

    pub(super) fn release(&mut self, key: RowKey) {
        self.notes.push_back(Note::Released(key));
    }

    pub(super) fn moved(&mut self, from: RowKey, rowid: i64, print: Fingerprint) {
        self.notes.push_back(Note::Renumbered { from, rowid, print });
    }

    fn answer(&mut self, request: i64, failed: bool, text: String) {
        self.notes.push_back(Note::Answered { request, failed, text });
    }
}

/// Rows in words.
fn rows(count: usize) -> String {
    format!("{count} row{}", if count == 1 { "" } else { "s" })
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// The row stays in the table and is passed over from now on, also after a restart.
    pub(super) fn quarantine(&mut self, key: RowKey, mark: RowMark, fault: Fault, why: &Why, attempts: u32) {
        let now = self.clock.now();
        let outbox = self.intake.outbox(key.outbox);
        let name = &outbox.route.name;
        match fault {
            _ if !outbox.quarantined.says(now) => {}
            Fault::Rejected | Fault::Unroutable => log::error!(
                "outbox {name}: row with rowid {} is in quarantine: {why}. It stays in the table; the rows after it go on. \
                 outboxd dead show {} has the details",
                key.rowid,
                key.rowid
            ),
            Fault::Undeletable => log::error!(
                "outbox {name}: row with rowid {} was published but can't be deleted: {why}. It stays in the table and is not sent \
                 again",
                key.rowid
            ),
        }
        outbox.set_aside(mark, fault == Fault::Undeletable);
        self.intake.attempts.remove(&key);
        self.intake.resends.forget(key);
        self.figures.outboxes[usize::from(key.outbox.0)].set_aside.fetch_add(1, Relaxed);
        let (wall, why) = (self.clock.wall(), why.clone());
        self.quarantine.notes.push_back(Note::Quarantined(Quarantined {
            key,
            print: mark.print,
            fault,
            why,
            attempts,
            first: wall,
            last: wall,
        }));
    }

    /// Of many rows that go into quarantine at a time only the first have a line each.
    pub(super) fn say_how_many_more(&mut self, now: Instant, at_once: bool) {
        for outbox in &mut self.intake.outboxes {
            if let Some(more) = outbox.quarantined.unsaid(now, at_once) {
                let name = &outbox.route.name;
                log::error!(
                    "outbox {name}: {more} more row{} went into quarantine since: outboxd dead list --outbox {name}",
                    if more == 1 { "" } else { "s" }
                );
            }
        }
    }

    /// What is due once a second: requests, rows that are no longer what was quarantined.
    pub(super) fn tend_quarantine(&mut self, now: Instant) {
        if now < self.quarantine.look_at {
            return;
        }
        self.quarantine.look_at = now + LOOK_EVERY;
        self.intake.outboxes.iter_mut().for_each(Outbox::pause_if_full);
        self.say_how_many_more(now, false);
        if self.draining.is_none() && self.reading.matching.is_none() {
            let answer = self.journal.at_disk().requests();
            match answer {
                Ok(requests) => {
                    for request in requests {
                        self.requested(&request, now);
                    }
                }
                Err(error) => self.journal_trouble.happened(now, &error.to_string()),
            }
            if self.source.is_open() {
                self.look_at_quarantined(now);
            }
        }
        if self.quarantine.has_notes() && !self.is_quiet_pipeline() && self.dispatch_at.is_none_or(|at| at <= now) {
            // Batches may wait for their broker for hours, and somebody for an answer.
            self.record(now);
        }
    }

    /// A few rows, in turn: what the application removed needs no place here.
    fn look_at_quarantined(&mut self, now: Instant) {
        let (mut at, mut from) = self.quarantine.position;
        for _ in 0..LOOKED_AT {
            let Some(outbox) = self.intake.outboxes.get(at) else {
                (at, from) = (0, i64::MIN);
                break;
            };
            let Some((rowid, aside)) = outbox.ledger.asides(from).next() else {
                (at, from) = (at + 1, i64::MIN);
                continue;
            };
            // None: it is the highest there can be.
            let next = rowid.checked_add(1);
            let ix = OutboxIx(at as u16);
            let mut there = false;
            let budget = Budget { rows: 1, time: Duration::from_millis(1), before: next };
            let look = self.source.at_disk().look(ix, Start::From(rowid), budget, &mut |row| {
                there = row.rowid == rowid && row.print == aside.print;
                Flow::Stop
            });
            (at, from) = next.map_or((at + 1, i64::MIN), |next| (at, next));
            if look.is_ok() && !there {
                self.intake.outbox(ix).ledger.release_aside(rowid);
                self.quarantine.release(RowKey { outbox: ix, rowid });
            }
            match look {
                Ok(_) => {}
                // Said once, to whoever asks first.
                Err(SourceError::Replaced { text, another }) => {
                    self.replaced(&text, &another, now);
                    break;
                }
                // Whatever it is, the next look for news meets it and says so.
                Err(_) => break,
            }
        }
        self.quarantine.position = (at, from);
    }

    fn requested(&mut self, request: &Request, now: Instant) {
        if self.quarantine.pending.contains_key(&request.id) {
            return;
        }
        if self.recovery.waiting.contains(request.outbox) {
            let text = "its table is not there, or can't be read: ask again when it is".to_owned();
            self.quarantine.answer(request.id, true, text);
            return;
        }
        let ledger = &self.intake.outbox(request.outbox).ledger;
        let wanted: Vec<i64> = match request.rowid {
            Some(rowid) => ledger.aside(rowid).map(|_| rowid).into_iter().collect(),
            None => ledger.asides(i64::MIN).map(|(rowid, _)| rowid).collect(),
        };
        if wanted.is_empty() {
            let text = match request.rowid {
                Some(rowid) => format!("no row with rowid {rowid} is in quarantine any more"),
                None => "the quarantine is empty".to_owned(),
            };
            self.quarantine.answer(request.id, request.rowid.is_some(), text);
            return;
        }
        let (mut again, mut errand) = (0, Vec::new());
        for rowid in wanted {
            let key = RowKey { outbox: request.outbox, rowid };
            let outbox = self.intake.outbox(request.outbox);
            let Some(aside) = outbox.ledger.aside(rowid) else { continue };
            if aside.published || request.action == Action::Discard {
                outbox.ledger.forget_aside(rowid);
                outbox.ledger.hold(RowMark { rowid, print: aside.print });
                errand.push((key, aside));
            } else {
                outbox.ledger.release_aside(rowid);
                self.intake.retried.insert(key, aside.print);
                self.quarantine.release(key);
                again += 1;
            }
        }
        if errand.is_empty() {
            self.quarantine.answer(request.id, false, format!("{} sent again", rows(again)));
            return;
        }
        let chunks = errand.chunks(ERRAND_ROWS);
        let pending = Pending { errands: chunks.len(), deleted: 0, changed: 0, gone: 0, kept: 0, unknown: 0 };
        self.quarantine.pending.insert(request.id, pending);
        for chunk in chunks {
            self.intake.memory.take(chunk.len(), 0);
            let published = chunk.iter().filter(|(_, aside)| aside.published).map(|(key, _)| *key).collect();
            let rows = chunk.iter().map(|(key, aside)| (*key, aside.print)).collect();
            self.settling.errand(Errand { request: request.id, rows, published }, now);
        }
    }

    /// The rows of an errand were deleted, as far as they could be.
    pub(super) fn errand_done(&mut self, errand: &Errand, deletion: &crate::model::Deletion) {
        let mut kept = 0;
        for (key, print) in errand.rows.iter().copied() {
            if deletion.kept.contains(&key) {
                kept += 1;
                let mark = RowMark { rowid: key.rowid, print };
                self.intake.outbox(key.outbox).set_aside(mark, errand.published.contains(&key));
            } else {
                self.quarantine.release(key);
            }
        }
        let count = |keys: &[RowKey]| errand.rows.iter().filter(|(key, _)| keys.contains(key)).count();
        let (changed, gone) = (count(&deletion.changed), count(&deletion.gone));
        if let Some(pending) = self.quarantine.pending.get_mut(&errand.request) {
            pending.kept += kept;
            pending.changed += changed;
            pending.gone += gone;
            pending.deleted += errand.rows.len() - kept - changed - gone;
        }
        self.errand_ended(errand);
    }

    /// Whether the rows of an errand were deleted is not known, and what is there now may be other rows that look alike. What was not
    /// published is in quarantine as before, for whoever asked to look again; what was is sent again.
    pub(super) fn errand_unknown(&mut self, errand: &Errand) {
        let mut again = 0;
        for (key, print) in errand.rows.iter().copied() {
            let outbox = self.intake.outbox(key.outbox);
            if errand.published.contains(&key) {
                outbox.ledger.let_go(&[key.rowid]);
                self.quarantine.release(key);
                again += 1;
            } else {
                outbox.set_aside(RowMark { rowid: key.rowid, print }, false);
            }
        }
        let database = self.figures.database.clone();
        self.count_unsure(&database, again, "whether they were deleted, as an operator asked, is not known");
        if let Some(pending) = self.quarantine.pending.get_mut(&errand.request) {
            pending.unknown += errand.rows.len();
        }
        self.errand_ended(errand);
    }

    fn errand_ended(&mut self, errand: &Errand) {
        self.intake.memory.give(errand.rows.len(), 0);
        let request = errand.request;
        let Some(pending) = self.quarantine.pending.get_mut(&request) else { return };
        pending.errands -= 1;
        if pending.errands > 0 {
            return;
        }
        let Some(done) = self.quarantine.pending.remove(&request) else { return };
        let mut text = format!("{} deleted", rows(done.deleted));
        for (count, what) in [
            (done.changed, "had been changed and will be sent"),
            (done.gone, "had been removed already"),
            (done.kept, "can't be deleted: a trigger or a constraint keeps them"),
            (
                done.unknown,
                "may have been deleted or not, the database did not say: see what is there now (outboxd dead list)",
            ),
        ] {
            if count > 0 {
                let _ = write!(text, "; {count} {what}");
            }
        }
        self.quarantine.answer(request, done.kept + done.unknown > 0, text);
    }
}
