//! The guarded delete of one table's rows in two steps of one transaction: read again and compare; delete in the cheap order.
//!
//! Promises: deletes only rows that were what was sent when they were compared; reports as deleted what the update hook
//! reported; says so when a trigger or a foreign key of the application takes other rows of an outbox along. Does not know:
//! transactions (its caller begins, commits and rolls back, and sees to it that nothing comes between the two steps), plans.

use super::database::Link;
use super::failure::{self, Class};
use super::handle;
use super::hooks::{Hooks, Mark};
use super::scan::{Gather, WithoutLarge, apart};
use super::schema::Table;
use crate::model::{Fingerprint, OutboxIx, RowKey};
use rusqlite::{Connection, Error};

/// Rows that lie at most this far apart are read again by one statement; what lies between is stepped over.
const RANGE_GAP_ROWIDS: i64 = 16;

/// The share of a page that the rows deleted last fill, in hundredths: measured to free the leaves to the right without
/// writing them, anywhere from 35 to 60.
const LAST_ROWS_PAGE_PERCENT: usize = 47;

/// A row to delete, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub rowid: i64,
    pub print: Fingerprint,
}

/// Why the transaction can't go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// A row's own fault (a trigger, a constraint) in the quick way: roll back and go the careful way.
    BeCareful,
    /// Rows were removed that were not asked for, or that are not what was compared any more: roll back and go row by row.
    TookOthers,
    /// RAISE(ROLLBACK): the transaction is gone. With one row, that row is the culprit.
    RolledBack {
        rowids: Vec<i64>,
    },
    Sqlite(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Sqlite(error)
    }
}

/// How rows are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Ranges. A statement that fails ends the transaction.
    Quick,
    /// Ranges inside savepoints, halved when they fail, until the culprits stand alone.
    Halving,
    /// One row at a time inside savepoints, compared just before: for triggers that roll the whole transaction back, and for those
    /// that write or remove rows of outboxes.
    Single,
}

/// The working memory of one table's deletes, and what the last one found.
#[derive(Debug, Default)]
pub(super) struct Deleter {
    gather: Gather,
    /// Still there and identical, rising; what the statements are asked to delete.
    matched: Vec<i64>,
    /// Stretches of `matched`, as positions: rowids without a gap. In a gap a trigger may put a row while we delete, which a
    /// statement that reaches across would delete unsent.
    stretches: Vec<(usize, usize)>,
    /// The first of `matched` that is not among the first half page.
    boundary: usize,
    /// Of the rows matched so far, up to the boundary.
    page_bytes: usize,
    pub changed: Vec<i64>,
    pub gone: Vec<i64>,
    pub kept: Vec<i64>,
    /// Not deleted, because others that were not asked for would have gone with them.
    pub takes_others: Vec<i64>,
    /// Confirmed by the hooks; counts once the COMMIT has returned OK.
    pub removed: usize,
}

impl Deleter {
    /// Nothing was compared.
    pub fn clear(&mut self) {
        self.matched.clear();
        self.stretches.clear();
        self.changed.clear();
        self.gone.clear();
        self.kept.clear();
        self.takes_others.clear();
    }

    /// Whether the row was there as it was sent.
    pub fn is_asked_for(&self, rowid: i64) -> bool {
        self.matched.binary_search(&rowid).is_ok()
    }

    /// The first step: which of the rows are still there, and identical. `wanted`: sorted by rowid; one rowid twice means two
    /// versions of the row were sent, of which one at most is there. `spared`: rowids not to try, sorted.
    pub fn compare(&mut self, link: &Link, table: &Table, wanted: &[Wanted], spared: &[i64]) -> Result<(), Error> {
        self.clear();
        self.page_bytes = 0;
        self.boundary = 0;
        let mut rest = wanted;
        while !rest.is_empty() {
            let end = rest
                .windows(2)
                .position(|pair| pair[1].rowid.saturating_sub(pair[0].rowid) > RANGE_GAP_ROWIDS)
                .map_or(rest.len(), |position| position + 1);
            let (run, after) = rest.split_at(end);
            rest = after;
            let before = self.lengths();
            let compared = {
                let _without_large = WithoutLarge::new(&link.connection)?;
                self.compare_run(link, table, run, spared)
            };
            match compared {
                Ok(()) => {}
                // An expression fails on a row in between or on one of these, or one is large.
                Err(error) if failure::class(&error) == Class::Statement => {
                    self.back_to(before);
                    self.compare_singly(link, table, run, spared)?;
                }
                Err(error) => return Err(error),
            }
        }
        self.gather.shrink();
        Ok(())
    }

    /// Rows of which none can be stepped over. One that an operator wants to be rid of may be known by what could be read of it; what
    /// was sent was read.
    fn compare_singly(&mut self, link: &Link, table: &Table, run: &[Wanted], spared: &[i64]) -> Result<(), Error> {
        let connection = &link.connection;
        for one in run.chunk_by(|a, b| a.rowid == b.rowid) {
            let rowid = one[0].rowid;
            let Some(sizes) = apart(connection, &mut self.gather, table, rowid)? else {
                self.gone.extend(std::iter::repeat_n(rowid, one.len()));
                continue;
            };
            // Whatever the row is, it is one of them.
            self.gone.extend(std::iter::repeat_n(rowid, one.len() - 1));
            let wanted = |print: Fingerprint| one.iter().any(|wanted| wanted.print == print);
            let same = wanted(sizes.wanted) || wanted(sizes.all) || {
                let mut statement = connection.prepare_cached(&table.range)?;
                let mut rows = statement.query([rowid, rowid])?;
                match rows.next() {
                    Ok(Some(row)) => wanted(self.gather.row(row, table, None)?),
                    Ok(None) => false,
                    Err(error) if failure::class(&error) == Class::Statement => false,
                    Err(error) => return Err(error),
                }
            };
            if !same {
                self.changed.push(rowid);
            } else if spared.binary_search(&rowid).is_ok() {
                self.kept.push(rowid);
            } else {
                self.matched.push(rowid);
                self.boundary = self.matched.len();
                self.close_stretch(self.matched.len() - 1);
            }
        }
        Ok(())
    }

    /// Rows that lie close to each other.
    fn compare_run(&mut self, link: &Link, table: &Table, run: &[Wanted], spared: &[i64]) -> Result<(), Error> {
        let page_size = link.page_size as usize;
        let half_page = page_size * LAST_ROWS_PAGE_PERCENT / 100;
        let mut stretch = self.matched.len();
        let mut position = 0;
        let mut statement = link.connection.prepare_cached(&table.range)?;
        let mut rows = statement.query([run[0].rowid, run[run.len() - 1].rowid])?;
        while let Some(row) = rows.next()? {
            let rowid: i64 = row.get(0)?;
            while position < run.len() && run[position].rowid < rowid {
                self.gone.push(run[position].rowid);
                position += 1;
            }
            let versions = run[position..].iter().take_while(|wanted| wanted.rowid == rowid).count();
            let mut matches = false;
            if versions > 0 {
                let print = self.gather.row(row, table, None)?;
                matches = run[position..position + versions].iter().any(|wanted| wanted.print == print);
                position += versions;
                // Whatever the row is, it is one of them.
                self.gone.extend(std::iter::repeat_n(rowid, versions - 1));
                if !matches {
                    self.changed.push(rowid);
                } else if spared.binary_search(&rowid).is_ok() {
                    matches = false;
                    self.kept.push(rowid);
                }
            }
            if matches {
                if self.matched.len() > stretch && self.matched[self.matched.len() - 1].checked_add(1) != Some(rowid) {
                    self.close_stretch(stretch);
                    stretch = self.matched.len();
                }
                self.matched.push(rowid);
                if self.page_bytes < half_page {
                    self.page_bytes += self.gather.cell_size_bytes().min(page_size);
                    self.boundary = self.matched.len();
                }
            } else {
                // A row that must stay: no statement may reach across it.
                self.close_stretch(stretch);
                stretch = self.matched.len();
            }
        }
        self.gone.extend(run[position..].iter().map(|missing| missing.rowid));
        self.close_stretch(stretch);
        Ok(())
    }

    fn lengths(&self) -> [usize; 7] {
        let lists = [&self.matched, &self.changed, &self.gone, &self.kept].map(Vec::len);
        [lists[0], lists[1], lists[2], lists[3], self.stretches.len(), self.boundary, self.page_bytes]
    }

    fn back_to(&mut self, [matched, changed, gone, kept, stretches, boundary, page_bytes]: [usize; 7]) {
        self.matched.truncate(matched);
        self.changed.truncate(changed);
        self.gone.truncate(gone);
        self.kept.truncate(kept);
        self.stretches.truncate(stretches);
        (self.boundary, self.page_bytes) = (boundary, page_bytes);
    }

    /// The second step, in the same transaction: takes the write lock if the transaction does not have it yet. `compared`: by
    /// outbox, what else is to be deleted in this transaction. With [`Care::Single`] one row was compared.
    pub fn delete(
        &mut self,
        link: &Link,
        outbox: OutboxIx,
        table: &Table,
        care: Care,
        compared: &[Deleter],
    ) -> Result<(), Stop> {
        let Link { connection, hooks, .. } = link;
        let mark = hooks.collect(&table.name, self.matched.len());
        let asked = |key: RowKey| {
            (key.outbox == outbox && self.is_asked_for(key.rowid))
                || compared.get(usize::from(key.outbox.0)).is_some_and(|other| other.is_asked_for(key.rowid))
        };
        let mut culprit = false;
        // The rows from the boundary on first, then those before it: the leaves to the right are freed without being written.
        for (low, high) in self.in_order() {
            let rowids = &self.matched[low..high];
            match care {
                Care::Quick => quick(connection, table, rowids)?,
                Care::Halving => halving(connection, hooks, table, rowids, &mut |_| false)?,
                Care::Single => halving(connection, hooks, table, rowids, &mut |mark| {
                    culprit = hooks.record().took_others(mark, outbox, asked);
                    culprit
                })?,
            }
        }
        if culprit {
            self.takes_others = std::mem::take(&mut self.matched);
        } else if hooks.saw_others(mark) && hooks.record().took_others(mark, outbox, asked) {
            return Err(Stop::TookOthers);
        }
        self.confirm(hooks);
        // Judged already, row by row: another row that was asked for as well is found to be gone when its turn comes.
        if care == Care::Single || hooks.record().removed.len() == self.removed {
            Ok(())
        } else {
            Err(Stop::TookOthers)
        }
    }

    fn close_stretch(&mut self, start: usize) {
        if start < self.matched.len() {
            self.stretches.push((start, self.matched.len()));
        }
    }

    fn in_order(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let boundary = self.boundary;
        let late = self.stretches.clone();
        let early = late.clone();
        early
            .into_iter()
            .map(move |(low, high)| (low.max(boundary), high))
            .chain(late.into_iter().map(move |(low, high)| (low, high.min(boundary))))
            .filter(|(low, high)| low < high)
    }

    /// What the hooks reported against what was asked. A trigger may have kept rows (RAISE(IGNORE)).
    fn confirm(&mut self, hooks: &Hooks) {
        let mut record = hooks.record();
        record.removed.sort_unstable();
        let removed = &record.removed;
        let mut position = 0;
        self.removed = 0;
        for rowid in &self.matched {
            while position < removed.len() && removed[position] < *rowid {
                position += 1;
            }
            if removed.get(position) == Some(rowid) {
                self.removed += 1;
            } else {
                self.kept.push(*rowid);
            }
        }
    }
}

/// Deletes all rows from the first to the last; the caller has just seen that there are no others between.
fn range(connection: &Connection, table: &Table, rowids: &[i64]) -> Result<(), Error> {
    let mut statement = connection.prepare_cached(&table.delete)?;
    statement.execute([rowids[0], rowids[rowids.len() - 1]])?;
    Ok(())
}

fn quick(connection: &Connection, table: &Table, rowids: &[i64]) -> Result<(), Stop> {
    range(connection, table, rowids).map_err(|error| match failure::class(&error) {
        Class::Statement => Stop::BeCareful,
        _ => Stop::Sqlite(error),
    })
}

/// What fails for a reason of its own rows is undone to the savepoint and tried again by halves. A single row that fails stays;
/// the hooks then do not report it. `is_wrong`: whether what the statement did is to be undone all the same.
fn halving(
    connection: &Connection,
    hooks: &Hooks,
    table: &Table,
    rowids: &[i64],
    is_wrong: &mut dyn FnMut(Mark) -> bool,
) -> Result<(), Stop> {
    connection.prepare_cached("SAVEPOINT outboxd")?.execute([])?;
    let mark = hooks.mark();
    let owed = handle::owes_foreign_keys(connection);
    let why = match range(connection, table, rowids) {
        // A deferred foreign key: said here of these rows, at COMMIT of none.
        Ok(()) if !owed && handle::owes_foreign_keys(connection) => {
            Some("a deferred foreign key refers to it".to_owned())
        }
        // Whoever asks for this says it.
        Ok(()) if is_wrong(mark) => None,
        Ok(()) => {
            connection.prepare_cached("RELEASE outboxd")?.execute([])?;
            return Ok(());
        }
        Err(error) if failure::class(&error) != Class::Statement => return Err(Stop::Sqlite(error)),
        Err(_) if connection.is_autocommit() => return Err(Stop::RolledBack { rowids: rowids.to_vec() }),
        Err(error) => Some(failure::text(&error)),
    };
    connection.prepare_cached("ROLLBACK TO outboxd")?.execute([])?;
    connection.prepare_cached("RELEASE outboxd")?.execute([])?;
    hooks.undo_to(mark);
    if let [rowid] = rowids {
        if let Some(why) = why {
            log::warn!("{} rowid {rowid} can't be deleted: {why}", table.name);
        }
        return Ok(());
    }
    let (low, high) = rowids.split_at(rowids.len() / 2);
    halving(connection, hooks, table, high, is_wrong)?;
    halving(connection, hooks, table, low, is_wrong)
}
