//! One outbox table over time: what it is now, and whether it is still what it was.
//!
//! Promises: a change that makes remembered rowids or fingerprints meaningless is noticed at the first look after it.
//! Does not know: what is remembered of its rows.

use super::OutboxSpec;
use super::database::Replaced;
use super::schema::{self, Found, Table};
use crate::model::{Another, KnownTable, OutboxIx, Sameness, TableIdentity, TableTraits, Why};
use rusqlite::{Connection, Result};

#[derive(Debug)]
pub(super) struct Outbox {
    pub spec: OutboxSpec,
    pub state: State,
    /// The table as last read, also while it is away.
    known: Option<Box<Table>>,
    /// That table as last seen, under whatever name and fit or not; `None` when it was not found any more.
    trace: Option<TableIdentity>,
    /// What an earlier run noted of it; until the table has been read with that.
    told: Option<KnownTable>,
    /// Whether what its operator should know of the table is said.
    pub remarks: bool,
}

#[derive(Debug)]
pub(super) enum State {
    /// Not looked at on this connection.
    Unknown,
    Fit(Box<Table>),
    NotThere(Why),
    Unfit(Why),
}

impl Outbox {
    pub fn new(spec: OutboxSpec) -> Self {
        Outbox { spec, state: State::Unknown, known: None, trace: None, told: None, remarks: true }
    }

    /// Of the table as last read, also while it is away.
    pub fn traits(&self) -> Option<&TableTraits> {
        self.known.as_deref().filter(|_| self.told.is_none()).map(|table| &table.traits)
    }

    /// What an earlier run noted of the table.
    pub fn recognise_by(&mut self, table: KnownTable) {
        self.told = Some(table);
        self.state = State::Unknown;
    }

    pub fn table(&self) -> Option<&Table> {
        match &self.state {
            State::Fit(table) => Some(table),
            _ => None,
        }
    }

    /// Another file: nothing known of the table holds any more.
    pub fn forget(&mut self) {
        self.state = State::Unknown;
        self.known = None;
        self.trace = None;
        self.told = None;
    }

    /// Our own statement has changed the schema, beside this table.
    pub fn version_is(&mut self, version: i64) {
        if let Some(trace) = &mut self.trace {
            trace.schema_version = version;
        }
        let fit = match &mut self.state {
            State::Fit(table) => Some(table),
            _ => None,
        };
        for table in self.known.iter_mut().chain(fit) {
            table.traits.identity.schema_version = version;
        }
    }

    /// Reads the schema again. Says why, when rows read before can no longer be recognised by rowid and fingerprint.
    pub fn inspect(&mut self, connection: &Connection, ix: OutboxIx, version: i64) -> Result<Option<Replaced>> {
        let told = self.told.as_ref().map(|told| &told.guard);
        let first = told.or(self.known.as_deref().map(|table| &table.traits.guard));
        let mut table = match schema::read(connection, &self.spec, version, first)? {
            Found::Table(table) => table,
            Found::NotThere(why) => {
                self.follow(connection, version)?;
                self.state = State::NotThere(why);
                return Ok(None);
            }
            Found::Unfit(why) => {
                self.follow(connection, version)?;
                self.state = State::Unfit(why);
                return Ok(None);
            }
        };
        let told = self.told.take();
        table.traits.told = match (&told, &self.known) {
            (Some(told), _) => {
                told.identity.map_or(Sameness::Same, |identity| identity.compare(&table.traits.identity))
            }
            (None, Some(known)) => known.traits.told,
            (None, None) => Sameness::Same,
        };
        let replaced = self.known.as_ref().and_then(|known| self.differs(known, &table, ix, told.is_some()));
        let bare = self.known.as_ref().map(|known| known.traits.bare);
        if self.remarks && bare.is_none_or(|bare| !bare && table.traits.bare) {
            for remark in schema::remarks(&table, &self.spec, bare == Some(false)) {
                log::warn!("outbox {}: {remark}", self.spec.name);
            }
        }
        self.trace = Some(table.traits.identity);
        self.known = Some(table.clone());
        self.state = State::Fit(table);
        Ok(replaced)
    }

    /// Where the table is that was read, in this run or in an earlier one: it may be unfit for a moment, or have another name, and
    /// come back as what it was.
    fn follow(&mut self, connection: &Connection, version: i64) -> Result<()> {
        if let Some(before) = self.trace {
            self.trace = self.found_again(&before, connection, version)?;
        }
        if let Some(before) = self.told.as_ref().and_then(|told| told.identity) {
            let now = self.found_again(&before, connection, version)?;
            if let Some(told) = &mut self.told {
                told.identity = now.or(told.identity);
            }
        }
        Ok(())
    }

    fn found_again(
        &self,
        before: &TableIdentity,
        connection: &Connection,
        version: i64,
    ) -> Result<Option<TableIdentity>> {
        for place in [None, Some(before.place)] {
            let Some((_, now)) = schema::trace(connection, &self.spec.table, version, place)? else { continue };
            match before.compare(&now) {
                Sameness::Same => return Ok(Some(now)),
                // Asked again of what comes back.
                Sameness::Doubtful => return Ok(Some(*before)),
                Sameness::Another => {}
            }
        }
        Ok(None)
    }

    /// What the change of the schema means for rows of the table that was known.
    /// `told`: of other columns since, so that nothing was read by those of the known one.
    fn differs(&self, known: &Table, table: &Table, ix: OutboxIx, told: bool) -> Option<Replaced> {
        let name = &table.name;
        let (was, is) = (&known.traits, &table.traits);
        let same = self.trace.is_some_and(|trace| match trace.compare(&is.identity) {
            Sameness::Same => true,
            Sameness::Doubtful => {
                let steps = is.identity.schema_version.abs_diff(trace.schema_version);
                altered(&known.shape, &table.shape).is_some_and(|changes| changes <= steps)
            }
            Sameness::Another => false,
        });
        if !same || was.rowid_is_key != is.rowid_is_key || (is.bare && !was.bare) {
            return Some(Replaced { text: format!("{name} was re-created"), another: Another::Of(vec![ix]) });
        }
        let changed = was.identity.schema_version != is.identity.schema_version;
        let text = if !told && was.guard != is.guard {
            format!("{name} lost or renamed a column")
        } else if changed && !is.rowid_is_key {
            format!("the schema changed, and a VACUUM may have renumbered the rows of {name}")
        } else {
            return None;
        };
        Some(Replaced { text, another: Another::None })
    }
}

/// By how many ALTER TABLE the one can have become the other, if so: each adds a column at the end, or takes one away.
fn altered(old: &[(String, String)], new: &[(String, String)]) -> Option<u64> {
    let mut kept = old.iter().filter(|column| new.contains(column));
    let (stayed, added) = new.split_at(new.iter().position(|column| !old.contains(column)).unwrap_or(new.len()));
    let can = stayed.iter().all(|column| kept.next() == Some(column)) && kept.next().is_none();
    can.then_some((old.len() - stayed.len() + added.len()) as u64)
}
