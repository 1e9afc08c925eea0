//! `bookkeeping = "table"`: one row in a table `_outboxd` of the application's database, written in each delete's own transaction.
//!
//! Promises: the row is there only if every delete since it was written is booked in it; a table of the same name that is not ours
//! is never written to. Does not know: what is concluded from it.

use super::database::{Database, Link};
use super::failure::{self, Class};
use super::look::Trouble;
use super::transaction::taken;
use crate::model::{Booked, LeftOut, OutboxIx, PlanId, Why};
use crate::ports::{DeleteGroup, DeleteOrder, SourceError};
use outboxd_kafka::leb128;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Result};

/// Never an outbox itself.
pub(super) const TABLE: &str = "_outboxd";

/// No STRICT, no WITHOUT ROWID, no default that an old SQLite does not know: the application's own library must go on reading the
/// schema. A table of its own is a page of its own, so that nothing of the application's is written along with it.
const CREATE: &str = "CREATE TABLE main._outboxd (\n  id INTEGER PRIMARY KEY CHECK (id = 1), -- outboxd, bookkeeping = \"table\"\n  \
     state BLOB NOT NULL,\n  highest INTEGER NOT NULL,\n  plans BLOB NOT NULL\n)";
const READ: &str = "SELECT state, highest, plans FROM main._outboxd WHERE id = 1";
/// Not REPLACE, which deletes: foreign keys and triggers would hear of it. Another state file's numbers are none of ours.
const WRITE: &str = "INSERT INTO main._outboxd (id, state, highest, plans) VALUES (1, ?1, ?2, ?3) \
     ON CONFLICT (id) DO UPDATE SET \
     highest = CASE WHEN state = excluded.state THEN max(highest, excluded.highest) ELSE excluded.highest END, \
     state = excluded.state, plans = excluded.plans";
const CLEAR: &str = "DELETE FROM main._outboxd WHERE id = 1";

/// Columns by name, and whether they are the key. Their order does not matter, and neither does how the statement is spelled: tools
/// that dump and load a database write it anew.
const COLUMNS: [(&str, bool); 4] = [("highest", false), ("id", true), ("plans", false), ("state", false)];

/// What is known of the table.
#[derive(Debug)]
pub(super) struct Books {
    /// `bookkeeping = "table"`.
    wanted: bool,
    /// The state file's id.
    state: Option<u128>,
    there: There,
    /// The schema version after our own CREATE, until its COMMIT has returned.
    created: Option<i64>,
}

#[derive(Debug)]
enum There {
    Unknown,
    Absent,
    Ours,
    Foreign(Why),
}

impl Books {
    pub fn new(wanted: bool) -> Self {
        Books { wanted, state: None, there: There::Unknown, created: None }
    }

    pub fn books(&self) -> bool {
        self.wanted && self.state.is_some()
    }

    /// Another connection, perhaps another file.
    pub fn forget(&mut self) {
        self.there = There::Unknown;
    }

    /// Why nothing can be booked, when it is to be.
    pub fn unfit(&self) -> Option<&Why> {
        match &self.there {
            There::Foreign(why) if self.wanted => Some(why),
            _ => None,
        }
    }

    /// `changed`: the schema is another than at the last inspection.
    pub fn inspect(&mut self, connection: &Connection, changed: bool) -> Result<()> {
        if changed || matches!(self.there, There::Unknown) {
            self.there = there(connection)?;
        }
        Ok(())
    }
}

fn there(connection: &Connection) -> Result<There> {
    let kind: Option<(String, bool)> = connection
        .query_row("SELECT type, wr FROM pragma_table_list(?1) WHERE schema = 'main'", [TABLE], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let Some((kind, without_rowid)) = kind else { return Ok(There::Absent) };
    let mut statement =
        connection.prepare("SELECT name, pk > 0, hidden FROM pragma_table_xinfo(?1, 'main') ORDER BY name")?;
    let columns: Vec<(String, bool, i64)> =
        statement.query_map([TABLE], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect::<Result<_>>()?;
    let shape = columns.iter().map(|(name, key, _)| (name.as_str(), *key)).eq(COLUMNS);
    if kind == "table" && !without_rowid && shape && columns.iter().all(|(_, _, hidden)| *hidden == 0) {
        // A trigger on it that needs the application's own functions is found here, before anything is published.
        match connection.prepare(WRITE) {
            Ok(_) => return Ok(There::Ours),
            Err(error) if failure::class(&error) != Class::Statement => return Err(error),
            Err(_) => {}
        }
    }
    Ok(There::Foreign(
        Why::new(format!("its {kind} {TABLE} is not the one in which outboxd books its deletes")).hint(format!(
            "outboxd makes {TABLE} (id, state, highest, plans) itself: rename the other one, or set bookkeeping = \"none\""
        )),
    ))
}

impl Database {
    /// Which state file's plans are booked: to be told before anything is deleted, also without bookkeeping.
    ///
    /// Without bookkeeping the row of an earlier run can still be read until the first delete, which takes it away: a row that does
    /// not know of that delete would make the next run believe that it never happened.
    pub fn keep_books(&mut self, state: u128) {
        self.books.state = Some(state);
    }

    pub(super) fn booked_now(&mut self) -> Result<Option<Booked>, SourceError> {
        let first = OutboxIx(0);
        let Some(state) = self.books.state else { return Ok(None) };
        self.open_for(first)?;
        self.inspect_now()?;
        if let Some(why) = self.books_unfit() {
            return Err(SourceError::NotAnOutbox { outbox: first, why });
        }
        if !matches!(self.books.there, There::Ours) {
            return Ok(None);
        }
        let Some(link) = &self.link else {
            return Err(SourceError::Busy(format!("{} was closed", self.subject())));
        };
        let row = read_row(&link.connection).map_err(|error| self.error(first, &format!("reading {TABLE}"), &error))?;
        match row {
            Row::None => Ok(None),
            Row::Of(written) if written.state != state.to_be_bytes() => Ok(None),
            Row::Of(written) => match written.booked() {
                Some(booked) => Ok(Some(booked)),
                None => Err(self.unreadable()),
            },
            Row::Damaged => Err(self.unreadable()),
        }
    }

    /// Why no outbox of this database can be relayed.
    pub(super) fn books_unfit(&self) -> Option<Why> {
        let why = self.books.unfit()?;
        Some(Why::new(format!("{}: {}", self.subject(), why.text)).hint(why.hint.clone()))
    }

    fn unreadable(&self) -> SourceError {
        SourceError::Failed(
            Why::new(format!("{}: what is booked in {TABLE} can't be read", self.subject()))
                .hint(format!("stop outboxd and DELETE FROM {TABLE}: what was being deleted then counts as unsure")),
        )
    }

    /// Inside the write transaction, after its deletes, which have deleted something.
    pub(super) fn book(&mut self, link: &Link, order: &DeleteOrder<'_>, left_out: &[LeftOut]) -> Result<(), Trouble> {
        let connection = &link.connection;
        self.books.created = None;
        if let Some(why) = self.books_unfit() {
            return Err(SourceError::NotAnOutbox { outbox: OutboxIx(0), why }.into());
        }
        let Some(state) = self.books.state.filter(|_| self.books.wanted) else {
            // A row of a time with bookkeeping says nothing of this delete.
            if matches!(self.books.there, There::Ours) {
                connection.prepare_cached(CLEAR)?.execute([])?;
            }
            return Ok(());
        };
        let deleted = taken(order, left_out).filter_map(DeleteGroup::plan);
        let written = Written::of(state, deleted.chain(order.booked.iter().copied()))
            .map_err(|why| SourceError::Failed(Why::new(format!("{}: booking a delete: {why}", self.subject()))))?;
        match self.write(connection, &written) {
            Ok(true) => Ok(()),
            Ok(false) => Err(SourceError::Failed(
                Why::new(format!("{}: {TABLE} does not keep what is written to it", self.subject()))
                    .hint(format!("a trigger on {TABLE}? nothing is deleted that can't be booked")),
            )
            .into()),
            Err(error) if failure::class(&error) == Class::Statement => {
                Err(SourceError::Failed(failure::why(&format!("{}: writing {TABLE}", self.subject()), &error)).into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether it now says what was written: a trigger may have ignored or undone it.
    fn write(&mut self, connection: &Connection, written: &Written) -> Result<bool> {
        if !matches!(self.books.there, There::Ours) {
            connection.execute(CREATE, [])?;
            self.books.created = Some(connection.query_row("PRAGMA schema_version", [], |row| row.get(0))?);
        }
        connection.prepare_cached(WRITE)?.execute((&written.state[..], written.highest, &written.plans[..]))?;
        Ok(match read_row(connection)? {
            Row::Of(row) => row.state == written.state && row.highest >= written.highest && row.plans == written.plans,
            Row::None | Row::Damaged => false,
        })
    }

    /// COMMIT has returned OK.
    pub(super) fn books_committed(&mut self) {
        if let Some(version) = self.books.created.take() {
            // Our own CREATE is no sign of a VACUUM or of a table made again.
            self.schema_version = Some(version);
            self.outboxes.iter_mut().for_each(|outbox| outbox.version_is(version));
            self.books.there = There::Ours;
        }
    }
}

/// The row as it lies in the table.
#[derive(Debug, PartialEq, Eq)]
struct Written {
    state: [u8; 16],
    highest: i64,
    plans: Vec<u8>,
}

#[derive(Debug)]
enum Row {
    None,
    Of(Written),
    Damaged,
}

fn read_row(connection: &Connection) -> Result<Row> {
    let mut statement = connection.prepare_cached(READ)?;
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Ok(Row::None) };
    let (ValueRef::Blob(state), ValueRef::Integer(highest), ValueRef::Blob(plans)) =
        (row.get_ref(0)?, row.get_ref(1)?, row.get_ref(2)?)
    else {
        return Ok(Row::Damaged);
    };
    let Ok(state) = state.try_into() else { return Ok(Row::Damaged) };
    Ok(Row::Of(Written { state, highest, plans: plans.to_vec() }))
}

impl Written {
    fn of(state: u128, plans: impl Iterator<Item = PlanId>) -> Result<Self, &'static str> {
        let mut plans: Vec<u64> = plans.map(|plan| plan.0).collect();
        plans.sort_unstable();
        plans.dedup();
        if plans.len() > PLANS_MAX {
            return Err("more plans than it can hold");
        }
        let highest = plans.last().copied().unwrap_or(0);
        let highest = i64::try_from(highest).map_err(|_| "no plan has such a number")?;
        Ok(Written { state: state.to_be_bytes(), highest, plans: encode(&plans) })
    }

    fn booked(&self) -> Option<Booked> {
        Some(Booked {
            plans: decode(&self.plans)?.into_iter().map(PlanId).collect(),
            highest: PlanId(u64::try_from(self.highest).ok()?),
        })
    }
}

/// More than the state file ever holds; what a damaged row can make us allocate.
const PLANS_MAX: usize = 1 << 20;

const LAYOUT: u8 = 1;

/// Runs of consecutive numbers, as what is deleted together was mostly planned together. The layout's version (1 byte), then for
/// each run the distance from the end of the one before and its length less one, as LEB128. `plans`: rising.
fn encode(plans: &[u64]) -> Vec<u8> {
    let mut bytes = vec![LAYOUT];
    let mut end = 0;
    for run in plans.chunk_by(|a, b| b - a == 1) {
        leb128::put(&mut bytes, run[0] - end);
        leb128::put(&mut bytes, run.len() as u64 - 1);
        end = run[run.len() - 1];
    }
    bytes
}

/// `None`: not what was encoded.
fn decode(bytes: &[u8]) -> Option<Vec<u64>> {
    let (layout, mut rest) = bytes.split_first()?;
    let mut plans = Vec::new();
    let mut end = 0u64;
    while !rest.is_empty() {
        let first = end.checked_add(leb128::take(&mut rest, 10).ok()?)?;
        let more = leb128::take(&mut rest, 10).ok()?;
        end = first.checked_add(more)?;
        if more >= (PLANS_MAX - plans.len()) as u64 {
            return None;
        }
        plans.extend(first..=end);
    }
    (*layout == LAYOUT).then_some(plans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded_and_small() {
        for (plans, size_bytes_max) in [
            (vec![], 1),
            (vec![0], 3),
            (vec![7], 3),
            (vec![1_000_000], 5),
            ((1_000_000..1_002_000).collect(), 6),
            (vec![1, 2, 3, 7, 8, 100, 101, 102, 5000], 10),
            ((0..2000).map(|number| 1_000_000 + 2 * number).collect(), 4004),
            (vec![u64::MAX - 2, u64::MAX - 1, u64::MAX], 12),
        ] {
            let bytes = encode(&plans);
            assert_eq!(decode(&bytes).as_deref(), Some(&plans[..]));
            assert!(bytes.len() <= size_bytes_max, "{} bytes for {} plans", bytes.len(), plans.len());
        }
    }

    #[test]
    fn what_is_damaged_is_refused_and_allocates_little() {
        let bytes = encode(&[1, 2, 3, 7, 8, 100, 101, 102, 5000]);
        for at in [2, 4, 6, 8, 9] {
            assert_eq!(decode(&bytes[..at]), None, "cut at {at}, inside a run");
        }
        assert_eq!(decode(&[]), None);
        assert_eq!(decode(&[2, 1, 0]), None, "another layout");
        let mut huge = vec![LAYOUT, 1];
        leb128::put(&mut huge, u64::MAX - 9);
        assert_eq!(decode(&huge), None);
        let mut long = vec![LAYOUT];
        for _ in 0..3 {
            leb128::put(&mut long, 1);
            leb128::put(&mut long, PLANS_MAX as u64 / 2);
        }
        assert_eq!(decode(&long), None);
        assert_eq!(decode(&[LAYOUT, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0]), None);
    }
}
