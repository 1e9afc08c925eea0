//! One outbox table over time: what it is now, and whether it is still what it was.
//!
//! Promises: a change that makes remembered rowids or fingerprints meaningless is noticed at the first look after it.
//! Does not know: what is remembered of its rows.

use super::OutboxSpec;
use super::database::Replaced;
use super::schema::{self, Found, Table};
use crate::model::{TableTraits, Why};
use rusqlite::{Connection, Result};

#[derive(Debug)]
pub(super) struct Outbox {
    pub spec: OutboxSpec,
    pub state: State,
    /// The table as last read, also while it is away.
    known: Option<Box<Table>>,
    /// It was seen missing or unfit since.
    was_away: bool,
    /// What an earlier run made its fingerprints of; until the table has been read with it.
    told: Option<Vec<String>>,
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
        Outbox { spec, state: State::Unknown, known: None, was_away: false, told: None }
    }

    /// Of the table as last read, also while it is away.
    pub fn traits(&self) -> Option<&TableTraits> {
        self.known.as_deref().filter(|_| self.told.is_none()).map(|table| &table.traits)
    }

    /// The columns that an earlier run made its fingerprints of.
    pub fn recognise_by(&mut self, columns: Vec<String>) {
        self.told = Some(columns);
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
        self.was_away = false;
        self.told = None;
    }

    /// Reads the schema again. Says why, when rows read before can no longer be recognised by rowid and fingerprint.
    ///
    /// `steps`: by how much the schema version differs from that of the last inspection on any connection. Each statement that
    /// changes the schema is one.
    pub fn inspect(&mut self, connection: &Connection, steps: i64) -> Result<Option<Replaced>> {
        let first_stored = self.told.as_deref().or(self.known.as_deref().map(|table| table.traits.columns.as_slice()));
        let table = match schema::read(connection, &self.spec, first_stored)? {
            Found::Table(table) => table,
            Found::NotThere(why) => {
                self.was_away = true;
                self.state = State::NotThere(why);
                return Ok(None);
            }
            Found::Unfit(why) => {
                self.was_away = true;
                self.state = State::Unfit(why);
                return Ok(None);
            }
        };
        let name = &table.name;
        let another = |text| Some(Replaced { text, another: true });
        let replaced = match &self.known {
            Some(_) if self.was_away => another(format!("{name} was re-created")),
            // Told of other columns since the first read: nothing has been read by that one.
            Some(known) if self.told.is_none() && known.traits.columns != table.traits.columns => {
                let text = format!("{name} lost or renamed a column");
                Some(Replaced { text, another: false })
            }
            Some(known) if known.traits.rowid_is_key != table.traits.rowid_is_key => {
                another(format!("{name} was re-created"))
            }
            Some(known) if !continues(&known.sql, &table.sql) && !continues(&table.sql, &known.sql) => {
                another(format!("{name} was re-created with another definition"))
            }
            // Word for word the same, elsewhere. VACUUM moves tables too, in one step; dropping and creating takes two. (The last
            // table of a schema that is dropped and created at once gets its old place, and looks as if nothing had been.)
            Some(known) if !(0..=1).contains(&steps) && known.place != table.place => {
                another(format!("{name} was re-created"))
            }
            Some(_) if steps != 0 && !table.traits.rowid_is_key => {
                let text = format!("the schema changed, and a VACUUM may have renumbered the rows of {name}");
                Some(Replaced { text, another: false })
            }
            _ => None,
        };
        self.was_away = false;
        self.told = None;
        self.known = Some(table.clone());
        self.state = State::Fit(table);
        Ok(replaced)
    }
}

/// Whether the new CREATE statement can have come from the old one by ADD COLUMN, which puts the new column before the closing
/// parenthesis and changes nothing else; the other way round, by DROP COLUMN. (A RENAME of the table is seen as its vanishing.)
fn continues(old: &str, new: &str) -> bool {
    if old == new {
        return true;
    }
    match old.rfind(')') {
        Some(end) => new.starts_with(old[..end].trim_end()),
        None => false,
    }
}
