//! Which rows are meant.
//!
//! Promises: a row that is not there, or is there twice, is an error that names what there is. Does not know: what is done with
//! them.

use super::{CommandError, wrong};
use crate::config::{self, Config};
use crate::model::{FileId, OutboxIx};
use crate::source;
use crate::state::Entry;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Rows that are named one by one.
const NAMED_MAX: usize = 20;

/// An entry and what people call its outbox.
#[derive(Clone, Debug)]
pub struct Dead {
    pub entry: Entry,
    /// Its name in the config, else its table; with the database where that is not enough to tell it.
    pub label: String,
    /// Its name in the config, else its table.
    pub name: String,
}

/// The configured databases, and where they are.
pub struct Configured {
    pub databases: Vec<config::Database>,
    places: Vec<(PathBuf, Option<FileId>)>,
}

impl Configured {
    pub fn of(config: Option<&Config>) -> Configured {
        let databases = config.map(Config::databases).unwrap_or_default();
        // A file that can't be seen has its path.
        let place = |path: &Path| (config::resolve(path), source::file_id(path).ok().flatten());
        let places = databases.iter().map(|database| place(&database.path)).collect();
        Configured { databases, places }
    }

    /// The positions of the entry's database and of its outbox there. The file says more than the path: a symlink may have been turned
    /// since the daemon started, and it followed.
    pub fn find(&self, entry: &Entry) -> Option<(usize, OutboxIx)> {
        let is_file = |now: Option<FileId>| now.zip(entry.file).is_some_and(|(now, then)| now.is(then));
        let by_file = self.places.iter().position(|(_, now)| is_file(*now));
        let at = by_file.or_else(|| self.places.iter().position(|(path, _)| *path == entry.database))?;
        let same = |outbox: &config::Outbox| outbox.table.eq_ignore_ascii_case(&entry.table);
        self.databases[at].outboxes.iter().position(same).map(|ix| (at, OutboxIx(ix as u16)))
    }
}

pub fn labelled(entries: Vec<Entry>, config: Option<&Config>) -> Vec<Dead> {
    let configured = Configured::of(config);
    let name = |entry: &Entry| {
        let outbox = configured.find(entry).map(|(at, ix)| &configured.databases[at].outboxes[usize::from(ix.0)]);
        outbox.map_or_else(|| entry.table.clone(), |outbox| outbox.name.clone())
    };
    let named: Vec<(Entry, String)> = entries.into_iter().map(|entry| (entry.clone(), name(&entry))).collect();
    let place = |entry: &Entry| (entry.database.clone(), entry.table.clone());
    let mut dead: Vec<Dead> = Vec::with_capacity(named.len());
    for (entry, name) in &named {
        let alone = named.iter().all(|(other, its)| its != name || place(other) == place(entry));
        let label = if alone { name.clone() } else { format!("{name} of {}", entry.database.display()) };
        dead.push(Dead { entry: entry.clone(), label, name: name.clone() });
    }
    dead
}

pub fn of_outbox<'a>(rows: &'a [Dead], outbox: Option<&str>) -> Result<Vec<&'a Dead>, CommandError> {
    let Some(outbox) = outbox else { return Ok(rows.iter().collect()) };
    let found: Vec<&Dead> = rows
        .iter()
        .filter(|row| row.name == outbox || row.label == outbox || row.entry.table.eq_ignore_ascii_case(outbox))
        .collect();
    if found.is_empty() {
        return Err(wrong(
            format!("no row of outbox {outbox} is in quarantine"),
            those_there(&rows.iter().collect::<Vec<_>>()),
        ));
    }
    Ok(found)
}

pub fn by_rowid<'a>(rows: &[&'a Dead], rowids: &[i64]) -> Result<Vec<&'a Dead>, CommandError> {
    let mut chosen: Vec<&Dead> = Vec::with_capacity(rowids.len());
    for rowid in rowids {
        let found: Vec<&'a Dead> = rows.iter().copied().filter(|row| row.entry.rowid == *rowid).collect();
        match found[..] {
            [] => return Err(wrong(format!("no row with rowid {rowid} is in quarantine"), those_there(rows))),
            [row] => {
                if !chosen.iter().any(|other| std::ptr::eq(*other, row)) {
                    chosen.push(row);
                }
            }
            [first, ..] => {
                let labels: Vec<&str> = found.iter().map(|row| row.label.as_str()).collect();
                return Err(wrong(
                    format!("rows with rowid {rowid} of several outboxes are in quarantine: {}", labels.join(", ")),
                    format!("say which: --outbox \"{}\"", first.label),
                ));
            }
        }
    }
    Ok(chosen)
}

fn those_there(rows: &[&Dead]) -> String {
    if rows.is_empty() {
        return "nothing is in quarantine".into();
    }
    // Writing to a String can't fail.
    let mut text = String::from("there are: ");
    let mut before = "";
    for (position, row) in rows.iter().take(NAMED_MAX).enumerate() {
        if position > 0 {
            text.push_str(if before == row.label { ", " } else { "; " });
        }
        if before != row.label {
            let _ = write!(text, "of {}: ", row.label);
            before = &row.label;
        }
        text += &row.entry.rowid.to_string();
    }
    if rows.len() > NAMED_MAX {
        let _ = write!(text, ", and {} more", rows.len() - NAMED_MAX);
    }
    text
}
