//! Which rows of one outbox are ours at the moment, and from where the next look starts.
//!
//! Promises: a row that is held or set aside is not taken twice; a cursor is always a row that was seen and that nobody but the
//! application can have removed. Does not know: lanes, SQL, time.
//!
//! Ids are reused and can be given out of order, so there is no cursor that only grows: the cursor is a row (rowid and
//! fingerprint) that must still be there when a look starts from it, and with nothing held there is none.

use super::planted::{self, Bug};
use crate::model::{Fingerprint, RowMark, RowView, RunId, Start};
use std::collections::BTreeMap;

/// At most so many rows of one outbox may be set aside; beyond, the outbox pauses.
pub const SET_ASIDE_ROWS_MAX: usize = 10_000;

/// Who left rows in the table: a lane without room, or a topic that is not open yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leaver {
    Lane(u32),
    Topic(u32),
}

/// What a row in the table waits for besides the room of its lane: until it is over, a look that begins there finds nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// A row of this lane stops the look: its batch is full, or there is no memory.
    Stops(Wanted),
    /// There is no memory for so many bytes.
    Memory(usize),
    /// The version before it, which is held under this rowid.
    Held(i64),
}

/// What a row would have its lane's batch be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub lane: u32,
    /// Whose message ids the batch carries.
    pub run: RunId,
    /// Nothing else goes with it.
    pub alone: bool,
    pub bytes: usize,
}

/// Rows below the cursor that are to be come to again.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// The lowest one, or a rowid just below it.
    low: i64,
    /// The last one seen.
    high: RowMark,
    /// Of the lowest one.
    obstacle: Option<Obstacle>,
}

/// Rows that the application has rewritten, or others that are looked at again whoever takes them.
#[derive(Clone, Copy, Debug)]
struct Revisit {
    low: i64,
    high: i64,
    obstacle: Option<Obstacle>,
}

/// A row that stays in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aside {
    pub print: Fingerprint,
    /// It was published: it may be deleted, never sent.
    pub published: bool,
}

/// The rows of one outbox that the relay has, has left, or has set aside.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Collected, planned or acknowledged and not yet deleted; sorted by rowid.
    held: Vec<RowMark>,
    /// Rows that stay in the table and are not sent again as long as they are unchanged.
    set_aside: BTreeMap<i64, Aside>,
    /// Set-aside rows that turned out to be something else by now.
    released: Vec<i64>,
    /// The last row the looks have come to.
    cursor: Option<RowMark>,
    /// The cursor's row was removed, and no look has begun at the lower one that took its place.
    fell: bool,
    /// Low marks. A leaver with one takes no row above it, except in a look that started at or below it: that keeps order.
    marks: BTreeMap<Leaver, Left>,
    /// Marks that the running look has passed or will pass.
    covered: Vec<(Leaver, Left)>,
    /// Where the last look ran out of its budget below the cursor: the next one goes on there. Starting again at a low mark whose
    /// leaver leaves its row a second time would never come further.
    resume: Option<i64>,
    /// The range of rows below the cursor that has to be looked at again (rewritten by the application).
    revisit: Option<Revisit>,
    /// The running look covers that range.
    revisits: bool,
    /// A look is running that began below the cursor for those that it covers.
    below: bool,
}

/// What the ledger says of a row that a look has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Not ours yet.
    New,
    /// Held, or set aside and unchanged: to be passed over.
    Passed,
    /// Held under this rowid is another version, which is on its way: this one is a new event that has to wait for that one's
    /// delete, and what is behind it in its lane waits with it.
    Rewritten,
}

impl Ledger {
    pub fn held_rows(&self) -> usize {
        self.held.len()
    }

    pub fn holds(&self, rowid: i64) -> bool {
        self.held.binary_search_by_key(&rowid, |held| held.rowid).is_ok()
    }

    pub fn set_aside_rows(&self) -> usize {
        self.set_aside.len()
    }

    /// Whether the outbox has to pause: no more may be set aside.
    pub fn is_full(&self) -> bool {
        self.set_aside.len() >= SET_ASIDE_ROWS_MAX
    }

    pub fn cursor(&self) -> Option<RowMark> {
        self.cursor
    }

    /// Whether rows were left.
    pub fn has_marks(&self) -> bool {
        !self.marks.is_empty()
    }

    /// Whether a row is known. A set-aside row whose content changed is a new event and forgotten here.
    pub fn recognise(&mut self, row: &RowView<'_>) -> Known {
        if let Some(aside) = self.set_aside.get(&row.rowid) {
            if aside.print == row.print {
                return Known::Passed;
            }
            self.set_aside.remove(&row.rowid);
            self.released.push(row.rowid);
        }
        match self.held.last() {
            Some(last) if last.rowid >= row.rowid => {
                match self.held.binary_search_by_key(&row.rowid, |held| held.rowid) {
                    Ok(at) if self.held[at].print != row.print => Known::Rewritten,
                    Ok(_) => Known::Passed,
                    Err(_) => Known::New,
                }
            }
            _ => Known::New,
        }
    }

    /// The row was taken into a lane.
    pub fn hold(&mut self, mark: RowMark) {
        match self.held.last() {
            Some(last) if last.rowid >= mark.rowid => {
                let at = self
                    .held
                    .binary_search_by_key(&mark.rowid, |held| held.rowid)
                    .expect_err("a row is never held twice");
                self.held.insert(at, mark);
            }
            _ => self.held.push(mark),
        }
    }

    /// A look has come to this row; it remains in the table whatever the relay did with it.
    pub fn came_to(&mut self, mark: RowMark) {
        if self.cursor.is_none_or(|cursor| cursor.rowid <= mark.rowid) {
            self.cursor = Some(mark);
        }
    }

    /// Whether the leaver must pass over what it meets now, because it left lower rows that this look does not cover.
    pub fn is_marked(&self, leaver: Leaver) -> bool {
        !self.marks.is_empty() && self.marks.contains_key(&leaver)
    }

    /// The row was seen and left in the table.
    pub fn leave(&mut self, leaver: Leaver, row: RowMark, obstacle: Option<Obstacle>) {
        Self::merge(&mut self.marks, leaver, Left { low: row.rowid, high: row, obstacle });
    }

    fn merge(marks: &mut BTreeMap<Leaver, Left>, leaver: Leaver, left: Left) {
        let slot = marks.entry(leaver).or_insert(left);
        if left.low <= slot.low {
            (slot.low, slot.obstacle) = (left.low, left.obstacle);
        }
        if left.high.rowid > slot.high.rowid {
            slot.high = left.high;
        }
    }

    /// The lowest row of those that are to be come to again below the cursor. `is_of_use`: whether a look could do something with what
    /// this leaver left (`None`: with what is looked at whoever takes it), by what the lowest one waits for.
    pub fn lowest(&self, mut is_of_use: impl FnMut(Option<Leaver>, Option<Obstacle>) -> bool) -> Option<i64> {
        let below = self.to_come_to().filter(|(_, low, _)| !self.is_above(*low));
        below.filter(|(leaver, _, obstacle)| is_of_use(*leaver, *obstacle)).map(|(_, low, _)| low).min()
    }

    /// Whether there are such rows above the cursor: it has fallen.
    pub fn has_above(&self, mut is_of_use: impl FnMut(Option<Leaver>, Option<Obstacle>) -> bool) -> bool {
        self.to_come_to().any(|(leaver, low, obstacle)| self.is_above(low) && is_of_use(leaver, obstacle))
    }

    /// Whose, from where on, and what is in the way there.
    fn to_come_to(&self) -> impl Iterator<Item = (Option<Leaver>, i64, Option<Obstacle>)> + '_ {
        let left = self.marks.iter().map(|(leaver, left)| (Some(*leaver), left.low, left.obstacle));
        left.chain(self.revisit.map(|revisit| (None, revisit.low, revisit.obstacle)))
    }

    fn is_above(&self, rowid: i64) -> bool {
        self.cursor.is_none_or(|cursor| rowid > cursor.rowid)
    }

    /// Where the next look starts. `low`: the lowest row below the cursor that it is to come to.
    pub fn start(&self, low: Option<i64>) -> Start {
        match (self.cursor, self.resume.or(low)) {
            (Some(cursor), _) if planted::is(Bug::CursorOnlyGrows) => Start::From(cursor.rowid.saturating_add(1)),
            (None, _) => Start::Lowest,
            (Some(cursor), Some(back)) if back <= cursor.rowid => Start::From(back),
            (Some(cursor), _) => Start::After(cursor),
        }
    }

    /// The next look goes on where the last one stopped.
    pub fn resumes(&self) -> bool {
        self.resume.is_some()
    }

    /// The next look goes on behind the cursor, whoever has room below.
    pub fn jump(&mut self) {
        self.resume = Some(i64::MAX);
    }

    pub fn wants_revisit(&self) -> bool {
        self.revisit.is_some()
    }

    /// The row is below the cursor and has to be looked at again.
    #[cfg_attr(feature = "testing", track_caller)]
    pub fn revisit(&mut self, rowid: i64) {
        if planted::forgotten() {
            return;
        }
        let (low, high) =
            self.revisit.map_or((rowid, rowid), |revisit| (revisit.low.min(rowid), revisit.high.max(rowid)));
        self.revisit = Some(Revisit { low, high, obstacle: None });
    }

    /// A look starts: leavers whose low mark lies at or above the start may take rows again.
    pub fn begin_look(&mut self, start: Start) {
        let covers = |low: i64| match start {
            Start::Lowest => true,
            Start::After(mark) => low > mark.rowid,
            Start::From(rowid) => low >= rowid,
        };
        debug_assert!(self.covered.is_empty());
        self.below = matches!(start, Start::From(_));
        self.fell &= self.below;
        // A look that goes on where one ended covers no row below; that one is due afterwards.
        self.revisits = self.revisit.is_some_and(|revisit| covers(revisit.low));
        let covered = &mut self.covered;
        self.marks.retain(|leaver, left| {
            let covered_now = covers(left.low);
            if covered_now {
                covered.push((*leaver, *left));
            }
            !covered_now
        });
    }

    /// Whether a look that has come to this row, below the cursor, has nothing left to find there: whoever it covers has left a row
    /// again, or has none that far.
    pub fn is_done_below(&self, rowid: i64) -> bool {
        let left_again = |leaver: &Leaver, left: &Left| rowid > left.high.rowid || self.marks.contains_key(leaver);
        self.below
            && self.covered.iter().all(|(leaver, left)| left_again(leaver, left))
            && !(self.revisits && self.revisit.is_some_and(|revisit| rowid <= revisit.high))
    }

    /// The look ended after this row (`None`: it came to no row; `i64::MAX`: it saw everything). What it did not reach stays marked.
    /// `goes_on`: it ended, and the next one goes on there. `at`: the row that it stopped at, and what
    /// stopped it.
    pub fn end_look(&mut self, last: Option<i64>, goes_on: bool, at: Option<(i64, Option<Obstacle>)>) {
        self.below = false;
        let below = |last: i64| self.cursor.is_some_and(|cursor| last < cursor.rowid);
        self.resume = last.filter(|last| goes_on && below(*last)).map(|last| last.saturating_add(1));
        // The first that it did not come to, and what is left of a range.
        let next = at.map(|(rowid, _)| rowid).or(last.map(|last| last.saturating_add(1)));
        let obstacle = at.and_then(|(_, obstacle)| obstacle);
        let rest = |low: i64, high: i64, before: Option<Obstacle>| match next {
            Some(next) if last == Some(i64::MAX) || next > high => None,
            Some(next) if next >= low => Some((next, obstacle)),
            _ => Some((low, before)),
        };
        for (leaver, left) in std::mem::take(&mut self.covered) {
            if let Some((low, obstacle)) = rest(left.low, left.high.rowid, left.obstacle) {
                Self::merge(&mut self.marks, leaver, Left { low, obstacle, ..left });
            }
        }
        if self.revisits {
            self.revisit = self.revisit.and_then(|revisit| {
                let (low, obstacle) = rest(revisit.low, revisit.high, revisit.obstacle)?;
                Some(Revisit { low, obstacle, ..revisit })
            });
        }
    }

    /// The cursor's row was not where it was: begin from the lowest row.
    pub fn forget_cursor(&mut self) {
        self.cursor = None;
        self.fell = false;
        self.revisit = None;
        self.resume = None;
    }

    /// Rows that were deleted, or that someone else removed or rewrote. `rowids` is sorted.
    pub fn removed(&mut self, rowids: &[i64]) {
        self.release(rowids);
        if planted::is(Bug::CursorOnlyGrows) {
            return;
        }
        if let Some(cursor) = self.cursor
            && rowids.binary_search(&cursor.rowid).is_ok()
        {
            self.cursor = self.fallback(cursor.rowid);
            self.fell = true;
        }
    }

    /// Whether rows that were inserted below the cursor may lie above it by now, where no sweep finds them.
    pub fn fell(&self) -> bool {
        self.fell && !planted::is(Bug::FallenCursorUnseen)
    }

    /// Nothing is above the cursor: it was looked for.
    pub fn nothing_above(&mut self) {
        self.fell = false;
    }

    /// Rows that were held are ours no longer, and nobody knows what lies there now: it is looked at. `rowids` is sorted.
    pub fn let_go(&mut self, rowids: &[i64]) {
        self.removed(rowids);
        for rowid in rowids.first().into_iter().chain(rowids.last()) {
            self.revisit(*rowid);
        }
    }

    /// Held rows go back to the table, unchanged, to be taken by `leaver` later. `rows` is sorted.
    pub fn give_back(&mut self, leaver: Leaver, rows: &[RowMark]) {
        let rowids: Vec<i64> = rows.iter().map(|row| row.rowid).collect();
        self.release(&rowids);
        if let (Some(first), Some(last)) = (rows.first(), rows.last()) {
            Self::merge(&mut self.marks, leaver, Left { low: first.rowid, high: *last, obstacle: None });
        }
    }

    /// The row that was held under this rowid is no longer there: a look has come to what took its place.
    pub fn forget_held(&mut self, rowid: i64) {
        self.release(&[rowid]);
    }

    fn release(&mut self, rowids: &[i64]) {
        debug_assert!(rowids.is_sorted());
        let (Some(first), Some(last)) = (rowids.first(), rowids.last()) else { return };
        // What lies above is moved as a whole: of a backlog far more is held than one delete takes.
        let from = self.held.partition_point(|held| held.rowid < *first);
        let to = self.held.partition_point(|held| held.rowid <= *last);
        let (mut out, mut kept) = (rowids.iter().copied().peekable(), from);
        for at in from..to {
            let held = self.held[at];
            while out.next_if(|rowid| *rowid < held.rowid).is_some() {}
            if out.peek() != Some(&held.rowid) {
                self.held[kept] = held;
                kept += 1;
            }
        }
        self.held.drain(kept..to);
    }

    /// The highest row not above `rowid` that remains and is known. Never the table's maximum: that may be somebody's new row.
    fn fallback(&self, rowid: i64) -> Option<RowMark> {
        let below = self.held.partition_point(|held| held.rowid <= rowid);
        let held = below.checked_sub(1).map(|at| self.held[at]);
        let aside = self.set_aside.range(..=rowid).next_back();
        let aside = aside.map(|(rowid, aside)| RowMark { rowid: *rowid, print: aside.print });
        let left = self.marks.values().map(|left| left.high).filter(|high| high.rowid <= rowid);
        left.chain(held).chain(aside).max_by_key(|mark| mark.rowid)
    }

    /// The row stays in the table and is passed over from now on.
    pub fn set_aside(&mut self, mark: RowMark, published: bool) {
        if self.holds(mark.rowid) {
            // It may have been rewritten while it was held, and no other event may come that leads to a look.
            self.release(&[mark.rowid]);
            self.revisit(mark.rowid);
        }
        self.set_aside.insert(mark.rowid, Aside { print: mark.print, published });
    }

    /// The row as it was set aside, and whether it was published.
    pub fn aside(&self, rowid: i64) -> Option<Aside> {
        self.set_aside.get(&rowid).copied()
    }

    /// Set-aside rows from this rowid on.
    pub fn asides(&self, from: i64) -> impl Iterator<Item = (i64, Aside)> + '_ {
        self.set_aside.range(from..).map(|(rowid, aside)| (*rowid, *aside))
    }

    /// The row is not passed over any more: what lies there is looked at again.
    pub fn release_aside(&mut self, rowid: i64) {
        self.set_aside.remove(&rowid);
        self.revisit(rowid);
    }

    /// The row is not passed over any more: it was removed, or is held for its delete.
    pub fn forget_aside(&mut self, rowid: i64) -> Option<Aside> {
        self.set_aside.remove(&rowid)
    }

    /// Rows that left the quarantine by themselves since the last call.
    pub fn take_released(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.released)
    }

    /// What was held, set aside or known of the table's order may not be so any more: only `held` and `aside` are.
    pub fn restart(&mut self, mut held: Vec<RowMark>, aside: BTreeMap<i64, Aside>) {
        held.sort_unstable_by_key(|mark| mark.rowid);
        held.dedup_by_key(|mark| mark.rowid);
        self.held = held;
        self.set_aside = aside;
        self.marks.clear();
        self.forget_cursor();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(rowid: i64) -> RowMark {
        RowMark { rowid, print: Fingerprint(rowid as u128) }
    }

    fn view(rowid: i64) -> RowView<'static> {
        RowView { rowid, print: Fingerprint(rowid as u128), fields: &[], unreadable: None }
    }

    fn take(ledger: &mut Ledger, rowids: &[i64]) {
        for rowid in rowids {
            assert_eq!(ledger.recognise(&view(*rowid)), Known::New);
            ledger.hold(mark(*rowid));
            ledger.came_to(mark(*rowid));
        }
    }

    #[test]
    fn with_nothing_held_the_next_look_starts_at_the_lowest_row() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.start(None), Start::Lowest);
        take(&mut ledger, &[1, 2, 3]);
        assert_eq!(ledger.start(None), Start::After(mark(3)));
        ledger.removed(&[1, 2, 3]);
        assert_eq!(ledger.start(None), Start::Lowest, "ids are reused: the next row may be 1 again");
    }

    #[test]
    fn after_a_delete_the_cursor_falls_back_to_what_remains() {
        let mut ledger = Ledger::default();
        take(&mut ledger, &[1, 2, 3, 4, 5]);
        ledger.removed(&[4, 5]);
        assert_eq!(ledger.cursor(), Some(mark(3)));
        ledger.removed(&[1]);
        assert_eq!(ledger.cursor(), Some(mark(3)));
    }

    #[test]
    fn rows_that_were_left_anchor_the_cursor() {
        let stopped = Leaver::Lane(1);
        let mut ledger = Ledger::default();
        ledger.begin_look(Start::Lowest);
        for rowid in 3..=7 {
            ledger.leave(stopped, mark(rowid), None);
            ledger.came_to(mark(rowid));
        }
        take(&mut ledger, &[8, 9]);
        ledger.end_look(Some(i64::MAX), false, None);
        ledger.removed(&[8, 9]);
        let low = ledger.lowest(|_, _| false);
        assert_eq!(ledger.start(low), Start::After(mark(7)), "a million rows of a stopped lane are not read again");
        let low = ledger.lowest(|leaver, _| leaver == Some(stopped));
        assert_eq!(ledger.start(low), Start::From(3), "its low mark brings the look back");
    }

    #[test]
    fn a_leaver_takes_no_row_above_its_low_mark_until_a_look_covers_it() {
        let lane = Leaver::Lane(0);
        let mut ledger = Ledger::default();
        ledger.begin_look(Start::Lowest);
        take(&mut ledger, &[1]);
        for rowid in 2..=9 {
            ledger.leave(lane, mark(rowid), None);
            ledger.came_to(mark(rowid));
        }
        ledger.end_look(Some(9), true, None);
        ledger.begin_look(Start::After(mark(9)));
        assert!(ledger.is_marked(lane));
        ledger.end_look(None, false, None);

        ledger.begin_look(Start::From(2));
        assert!(!ledger.is_marked(lane));
        take(&mut ledger, &[2, 3]);
        ledger.end_look(Some(3), true, None);
        assert_eq!(
            ledger.lowest(|_, obstacle| obstacle.is_none()),
            Some(4),
            "what the look did not reach stays marked"
        );
        ledger.begin_look(Start::From(4));
        ledger.end_look(Some(i64::MAX), false, None);
        assert!(!ledger.has_marks());
    }

    #[test]
    fn a_row_that_was_left_and_is_the_cursor_stays_marked_in_a_look_that_starts_after_it() {
        let mut ledger = Ledger::default();
        ledger.leave(Leaver::Lane(0), mark(5), None);
        ledger.came_to(mark(5));
        ledger.begin_look(Start::After(mark(5)));
        ledger.end_look(Some(i64::MAX), false, None);
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::From(5));
    }

    #[test]
    fn a_look_that_ran_out_of_budget_goes_on_behind_a_row_that_is_left_again() {
        let lane = Leaver::Lane(0);
        let mut ledger = Ledger::default();
        take(&mut ledger, &[1]);
        ledger.leave(lane, mark(2), None);
        for rowid in 3..=9 {
            take(&mut ledger, &[rowid]);
        }
        ledger.begin_look(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())));
        ledger.leave(lane, mark(2), None);
        ledger.end_look(Some(4), true, None);
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::From(5));
        ledger.begin_look(Start::From(5));
        ledger.end_look(Some(i64::MAX), false, None);
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::From(2));
    }

    #[test]
    fn a_look_below_the_cursor_is_done_when_all_that_it_covers_have_left_a_row_again() {
        let (full, well) = (Leaver::Lane(0), Leaver::Lane(1));
        let mut ledger = Ledger::default();
        for (leaver, rowid) in [(full, 1), (well, 2), (well, 4)] {
            ledger.leave(leaver, mark(rowid), None);
        }
        take(&mut ledger, &[900]);
        ledger.begin_look(Start::From(1));
        ledger.leave(full, mark(1), None);
        assert!(!ledger.is_done_below(3), "the other one's rows reach to 4");
        assert!(ledger.is_done_below(5));
        ledger.end_look(Some(4), false, None);
        ledger.jump();
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::After(mark(900)));
        ledger.begin_look(Start::After(mark(900)));
        ledger.end_look(Some(i64::MAX), false, None);
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::From(1));
    }

    #[test]
    fn lower_rows_are_held_in_order_and_recognised() {
        let mut ledger = Ledger::default();
        take(&mut ledger, &[10, 20, 15]);
        assert_eq!(ledger.recognise(&view(15)), Known::Passed);
        assert_eq!(ledger.recognise(&view(16)), Known::New);
        assert_eq!(ledger.cursor(), Some(mark(20)));
        ledger.removed(&[20]);
        assert_eq!(ledger.cursor(), Some(mark(15)));
    }

    #[test]
    fn a_set_aside_row_is_passed_until_it_changes() {
        let mut ledger = Ledger::default();
        take(&mut ledger, &[1, 2]);
        ledger.set_aside(mark(1), false);
        assert_eq!(ledger.recognise(&view(1)), Known::Passed);
        ledger.removed(&[2]);
        assert_eq!(ledger.cursor(), Some(mark(1)));
        let changed = RowView { rowid: 1, print: Fingerprint(99), fields: &[], unreadable: None };
        assert_eq!(ledger.recognise(&changed), Known::New);
        assert_eq!(ledger.set_aside_rows(), 0);
    }

    #[test]
    fn rows_given_back_are_marked_and_new_again() {
        let mut ledger = Ledger::default();
        take(&mut ledger, &[1, 2, 3]);
        ledger.give_back(Leaver::Lane(0), &[mark(2), mark(3)]);
        assert_eq!(ledger.cursor(), Some(mark(3)));
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::From(2));
        assert_eq!(ledger.recognise(&view(3)), Known::New);
    }

    #[test]
    fn what_was_rewritten_above_a_cursor_that_fell_is_not_forgotten() {
        let mut ledger = Ledger::default();
        take(&mut ledger, &[1, 2, 3]);
        ledger.removed(&[2, 3]);
        assert!(!ledger.has_above(|_, _| true));
        ledger.revisit(3);
        assert_eq!(ledger.lowest(|_, _| true), None, "it is not below the cursor");
        assert!(ledger.has_above(|_, _| true));
        ledger.begin_look(ledger.start(None));
        ledger.end_look(Some(i64::MAX), false, None);
        assert!(!ledger.has_above(|_, _| true));
    }

    #[test]
    fn what_a_look_stopped_at_is_not_come_back_to_before_the_obstacle_is_gone() {
        let (lane, other) = (Leaver::Lane(0), Leaver::Lane(1));
        let mut ledger = Ledger::default();
        for (leaver, rowid) in [(lane, 2), (other, 5), (lane, 6)] {
            ledger.leave(leaver, mark(rowid), None);
            ledger.came_to(mark(rowid));
        }
        let memory = Obstacle::Memory(9);
        ledger.begin_look(Start::From(2));
        take(&mut ledger, &[2]);
        ledger.end_look(Some(2), false, Some((4, Some(memory))));
        assert_eq!(
            ledger.lowest(|_, obstacle| obstacle.is_none()),
            Some(5),
            "the other's row lies behind the obstacle"
        );
        assert_eq!(ledger.lowest(|leaver, obstacle| leaver == Some(lane) && obstacle.is_none()), None);
        assert_eq!(ledger.lowest(|leaver, obstacle| leaver == Some(lane) && obstacle == Some(memory)), Some(4));
    }

    #[test]
    fn rewritten_rows_are_revisited_once() {
        let mut ledger = Ledger::default();
        take(&mut ledger, &[1, 2, 3, 4]);
        ledger.removed(&[1, 2, 3]);
        ledger.revisit(2);
        ledger.revisit(3);
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::From(2));
        ledger.begin_look(Start::From(2));
        ledger.end_look(Some(2), true, None);
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::From(3));
        ledger.begin_look(Start::From(3));
        ledger.end_look(Some(4), true, None);
        assert_eq!(ledger.start(ledger.lowest(|_, obstacle| obstacle.is_none())), Start::After(mark(4)));
    }
}
