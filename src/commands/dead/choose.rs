//! Which rows are meant.
//!
//! Promises: a row that is not there, or is there twice, is an error that names what there is. Does not know: what is done with
//! them.

use super::{CommandError, wrong};
use crate::config::{self, Config};
use crate::state::Entry;
use std::fmt::Write;

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

pub fn labelled(entries: Vec<Entry>, config: Option<&Config>) -> Vec<Dead> {
    let databases = config.map(Config::databases).unwrap_or_default();
    let name = |entry: &Entry| {
        let database = databases.iter().find(|database| config::resolve(&database.path) == entry.database);
        let outboxes = database.into_iter().flat_map(|database| &database.outboxes);
        let outbox = outboxes.into_iter().find(|outbox| outbox.table.eq_ignore_ascii_case(&entry.table));
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
