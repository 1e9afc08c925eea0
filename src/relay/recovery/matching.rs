//! Finding rows again: after a start those an earlier run planned, after file or table were replaced (restored, re-created, renumbered
//! by VACUUM) those that are on their way or in quarantine.
//!
//! Promises: nothing is decided about a row before it was looked for by rowid and content in what is there now; a read that fails is
//! tried again, because a row given up as no longer there would be published a second time. Does not know: what follows from it.

use crate::model::{Budget, Fingerprint, Flow, LookEnd, OutboxIx, RowKey, RowView, Rows, RunId, Sameness, Start};
use crate::ports::{Clock, Journal, Sink, Source, SourceError};
use crate::relay::intake::Intake;
use crate::relay::planted::{self, Bug};
use crate::relay::reading::RETRY_EVERY;
use crate::relay::{Fatal, Relay};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const SLICE_ROWS: usize = 1_000;
const SLICE_TIME: Duration = Duration::from_millis(1);
/// Rows that nobody seeks, between two that are sought: after so many the look is begun anew at the next one.
pub(in crate::relay) const SKIPPED_ROWS_MAX: usize = 64;

/// Why rows are looked for.
#[derive(Debug)]
pub(in crate::relay) enum Cause {
    /// The daemon has started.
    Start,
    /// It has, and this outbox's table was away when the others' rows were looked for.
    Back(OutboxIx),
    /// The relay starts again, and has to read the state file first.
    Again,
}

/// A batch whose records are made again while its rows are looked for.
#[derive(Debug, Default)]
pub(in crate::relay) struct Draft {
    pub run: RunId,
    /// In the order in which rows were come to.
    pub rows: Rows,
    /// Of each of those rows: its place in the batch.
    pub places: Vec<usize>,
}

/// The search.
#[derive(Debug)]
pub(in crate::relay) struct Matching {
    pub cause: Cause,
    /// By outbox and content: the rowids under which such a row was known.
    wanted: HashMap<(OutboxIx, Fingerprint), Vec<i64>>,
    /// The same rowids by outbox, sorted.
    rowids: Vec<Vec<i64>>,
    /// Where rows are now and under which fingerprint, by where they were known and what they were.
    pub found: HashMap<(RowKey, Fingerprint), (i64, Fingerprint)>,
    /// Where a row lies under a sought rowid that is none of them, as far as can be told.
    pub others: HashSet<RowKey>,
    /// By outbox, where fingerprints are made of other columns than they were: those sought, by what they say was sent.
    sent: Vec<Option<HashMap<u64, Vec<Fingerprint>>>>,
    /// Which batch a row belongs to whose record is wanted, its place there, and the number of its message.
    records: HashMap<(RowKey, Fingerprint), (usize, usize, u64)>,
    pub drafts: Vec<Draft>,
    pass: Pass,
    outbox: usize,
    /// By outbox: its table is not there, or unfit. Nothing is known of its rows.
    pub away: Vec<bool>,
    pub not_before: Instant,
}

/// What fingerprints are made of, compared with those that are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::relay) enum Columns {
    Same,
    /// One that is in no record is gone, or has another name: what was sent can be compared.
    Others,
    /// What was sent can't be compared either: an older outboxd's fingerprints, or the configuration has changed as well.
    Unlike,
}

#[derive(Clone, Copy, Debug)]
enum Pass {
    /// From one sought rowid to the next: where `id` is the rowid a row can be nowhere else. The position in `rowids`.
    ByRowid(usize),
    /// The whole table, for rows that a VACUUM may have renumbered: from this rowid on.
    Whole(i64),
}

impl Matching {
    pub(in crate::relay) fn new(cause: Cause, outboxes: usize, now: Instant) -> Self {
        Matching {
            wanted: HashMap::new(),
            rowids: vec![Vec::new(); outboxes],
            found: HashMap::new(),
            others: HashSet::new(),
            sent: vec![None; outboxes],
            records: HashMap::new(),
            drafts: Vec::new(),
            pass: Pass::ByRowid(0),
            outbox: if let Cause::Back(ix) = cause { usize::from(ix.0) } else { 0 },
            away: vec![false; outboxes],
            not_before: now,
            cause,
        }
    }

    pub(in crate::relay) fn is_away(&mut self, outbox: OutboxIx) {
        self.away[usize::from(outbox.0)] = true;
    }

    /// A row to look for. One that is already looked for under this rowid belongs to whoever came first.
    pub(in crate::relay) fn seek(&mut self, key: RowKey, print: Fingerprint) -> bool {
        let rowids = self.wanted.entry((key.outbox, print)).or_default();
        if rowids.contains(&key.rowid) {
            return false;
        }
        rowids.push(key.rowid);
        self.rowids[usize::from(key.outbox.0)].push(key.rowid);
        true
    }

    /// The record of a sought row is wanted too.
    pub(in crate::relay) fn want_record(
        &mut self,
        key: RowKey,
        print: Fingerprint,
        draft: usize,
        place: usize,
        message: u64,
    ) {
        self.records.insert((key, print), (draft, place, message));
    }

    /// Everything is named.
    pub(in crate::relay) fn begin(&mut self) {
        for rowids in &mut self.rowids {
            rowids.sort_unstable();
            rowids.dedup();
        }
    }

    /// The row that a look has come to may be one of them; the rowid it was known under.
    fn recognise(&mut self, outbox: OutboxIx, row: &RowView<'_>, anywhere: bool) -> Option<(RowKey, Fingerprint)> {
        let mut sought = self.sought_as(outbox, row, anywhere);
        if planted::is(Bug::ReusedRowidUnderTheTriple) {
            let known = |((of, _), rowids): &(&(OutboxIx, Fingerprint), &Vec<i64>)| {
                *of == outbox && rowids.contains(&row.rowid)
            };
            sought = self.wanted.iter().find(known).map(|((_, print), _)| *print).or(sought);
        }
        let print = sought?;
        let rowids = self.wanted.get_mut(&(outbox, print))?;
        // The same rowid first: rows of a bare table may look alike.
        let same = rowids.iter().position(|rowid| *rowid == row.rowid);
        let at = same.or_else(|| (anywhere && !rowids.is_empty()).then_some(0))?;
        let rowid = rowids.swap_remove(at);
        let row_then = (RowKey { outbox, rowid }, print);
        self.found.insert(row_then, (row.rowid, row.print));
        Some(row_then)
    }

    /// Under which fingerprint the row may have been known.
    fn sought_as(&self, outbox: OutboxIx, row: &RowView<'_>, anywhere: bool) -> Option<Fingerprint> {
        let Some(sent) = &self.sent[usize::from(outbox.0)] else { return Some(row.print) };
        let rowids = |print: &Fingerprint| self.wanted.get(&(outbox, *print));
        let here = |print: &&Fingerprint| rowids(print).is_some_and(|rowids| rowids.contains(&row.rowid));
        // Of what can't be read no half was made.
        if row.unreadable.is_some() || here(&&row.print) {
            return Some(row.print);
        }
        let prints = sent.get(&row.print.sent())?;
        let left = |print: &&Fingerprint| rowids(print).is_some_and(|rowids| !rowids.is_empty());
        prints.iter().find(here).or_else(|| prints.iter().find(|print| anywhere && left(print))).copied()
    }

    /// The outbox's fingerprints are made of other columns than those sought: what was sent tells.
    fn by_what_was_sent(&mut self, outbox: OutboxIx) {
        let mut sent: HashMap<u64, Vec<Fingerprint>> = HashMap::new();
        for (_, print) in self.wanted.keys().filter(|(of, _)| *of == outbox) {
            sent.entry(print.sent()).or_default().push(*print);
        }
        self.sent[usize::from(outbox.0)] = Some(sent);
    }

    fn next_outbox(&mut self) {
        // Of the others nothing is sought.
        self.outbox = if let Cause::Back(_) = self.cause { usize::MAX } else { self.outbox + 1 };
        self.pass = Pass::ByRowid(0);
    }
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    /// One short read of the search, or its end.
    pub(in crate::relay) fn match_slice(&mut self, now: Instant) -> Result<(), Fatal> {
        let Some(matching) = &self.reading.matching else { return Ok(()) };
        if now < matching.not_before {
            return Ok(());
        }
        if let Cause::Again = matching.cause {
            self.read_state_file(now);
            return Ok(());
        }
        if matching.outbox >= self.intake.outboxes.len() {
            return self.matched(now);
        }
        let ix = OutboxIx(matching.outbox as u16);
        let result = match matching.pass {
            Pass::ByRowid(at) => self.match_by_rowid(ix, at),
            Pass::Whole(from) => self.match_whole(ix, from),
        };
        let Err(error) = result else {
            self.reading.not_busy();
            self.figures.source_ready.store(true, Relaxed);
            return Ok(());
        };
        let Some(matching) = &mut self.reading.matching else { return Ok(()) };
        match &error {
            SourceError::NotThere(_) | SourceError::NotAnOutbox { .. } => {
                matching.is_away(ix);
                matching.next_outbox();
            }
            // This one's table can't be read, and the others are not held up.
            SourceError::Failed(_) if matches!(matching.cause, Cause::Back(_)) => self.reading.matching = None,
            SourceError::Failed(_) => matching.not_before = now + RETRY_EVERY,
            _ => {}
        }
        self.look_failed(ix, error, now)
    }

    fn match_by_rowid(&mut self, ix: OutboxIx, mut at: usize) -> Result<(), SourceError> {
        self.learn_columns(ix)?;
        let Some(matching) = &mut self.reading.matching else { return Ok(()) };
        let rowids = std::mem::take(&mut matching.rowids[usize::from(ix.0)]);
        let mut skipped = 0;
        let (first, last) = match (rowids.get(at), rowids.last()) {
            (Some(first), Some(last)) => (*first, *last),
            // Only whether it is there at all.
            _ => (i64::MAX, i64::MAX),
        };
        let budget = Budget { rows: SLICE_ROWS, time: SLICE_TIME, before: last.checked_add(1) };
        let intake = &mut self.intake;
        let result = self.source.at_disk().look(ix, Start::From(first), budget, &mut |row| {
            while rowids.get(at).is_some_and(|rowid| *rowid < row.rowid) {
                at += 1;
            }
            match rowids.get(at) {
                None => return Flow::Stop,
                Some(rowid) if *rowid == row.rowid => {
                    at += 1;
                    skipped = 0;
                    match matching.recognise(ix, row, false) {
                        Some(then) => record(matching, intake, then, row),
                        None => drop(matching.others.insert(RowKey { outbox: ix, rowid: row.rowid })),
                    }
                }
                Some(_) => {
                    skipped += 1;
                    if skipped > SKIPPED_ROWS_MAX {
                        return Flow::Stop;
                    }
                }
            }
            Flow::Continue
        });
        let done = at >= rowids.len();
        matching.rowids[usize::from(ix.0)] = rowids;
        let look = result?;
        if !done && look.end != LookEnd::End {
            matching.pass = Pass::ByRowid(at);
            return Ok(());
        }
        let missing = matching.wanted.iter().any(|((outbox, _), rowids)| *outbox == ix && !rowids.is_empty());
        let may_have_moved = self.source.traits(ix).is_some_and(|traits| !traits.rowid_is_key);
        if missing && may_have_moved {
            matching.pass = Pass::Whole(i64::MIN);
        } else {
            matching.next_outbox();
        }
        Ok(())
    }

    /// What fingerprints of this outbox are made of now, if any of its rows are sought.
    fn learn_columns(&mut self, ix: OutboxIx) -> Result<(), SourceError> {
        let at = usize::from(ix.0);
        let Some(matching) = &self.reading.matching else { return Ok(()) };
        if matching.rowids[at].is_empty() || matching.sent[at].is_some() {
            return Ok(());
        }
        if self.source.traits(ix).is_none() {
            let budget = Budget { rows: 1, time: SLICE_TIME, before: None };
            self.source.at_disk().look(ix, Start::From(i64::MAX), budget, &mut |_| Flow::Stop)?;
        }
        let columns = self.columns_of(ix);
        // In another table nothing is deleted of what was on its way, and whatever else it guards may have been filled in anew.
        let is_another = self.sameness(ix) != Sameness::Same;
        let by_what_was_sent = columns == Columns::Others || (columns == Columns::Same && is_another);
        if let Some(matching) = self.reading.matching.as_mut().filter(|_| by_what_was_sent) {
            matching.by_what_was_sent(ix);
        }
        Ok(())
    }

    /// What the columns that fingerprints of this outbox are made of are to those that were held are made of.
    pub(in crate::relay) fn columns_of(&self, ix: OutboxIx) -> Columns {
        let made_of = self.intake.outboxes[usize::from(ix.0)].made_of.as_ref();
        match made_of.zip(self.source.traits(ix)) {
            Some((then, now)) if *then != now.guard && !planted::is(Bug::OtherColumnsOtherRows) => {
                if then.sends_as(&now.guard) { Columns::Others } else { Columns::Unlike }
            }
            _ => Columns::Same,
        }
    }

    fn match_whole(&mut self, ix: OutboxIx, from: i64) -> Result<(), SourceError> {
        let Some(matching) = &mut self.reading.matching else { return Ok(()) };
        let intake = &mut self.intake;
        let budget = Budget { rows: SLICE_ROWS, time: SLICE_TIME, before: None };
        let look = self.source.at_disk().look(ix, Start::From(from), budget, &mut |row| {
            if let Some(then) = matching.recognise(ix, row, true) {
                record(matching, intake, then, row);
            }
            Flow::Continue
        })?;
        match look.end {
            LookEnd::Budget { last } => matching.pass = Pass::Whole(last.saturating_add(1)),
            LookEnd::End | LookEnd::Stopped | LookEnd::MarkGone => matching.next_outbox(),
        }
        Ok(())
    }
}

/// Makes the record of a found row again, where it is wanted.
fn record(matching: &mut Matching, intake: &mut Intake, then: (RowKey, Fingerprint), row: &RowView<'_>) {
    let Some((draft, place, message)) = matching.records.get(&then).copied() else { return };
    let key = then.0;
    let draft = &mut matching.drafts[draft];
    let route = &intake.outboxes[usize::from(key.outbox.0)].route;
    intake.encoder.append_again(key.outbox, route, row, (draft.run, message), &mut draft.rows);
    draft.places.push(place);
}
