//! Which outboxes are in one database: by the file's device and inode, so that symlinks and hard paths meet.
//!
//! Promises: one [`Database`] for each file, settings agreed. Does not know: what is inside the file.

use super::{Bookkeeping, ConfigError, Durability, Outbox, Place};
use std::fmt::Display;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// One database with all its outboxes: what one relay serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    /// As the first of its outboxes writes it, absolute.
    pub path: PathBuf,
    pub durability: Durability,
    pub bookkeeping: Bookkeeping,
    pub foreign_keys: bool,
    pub secure_delete: bool,
    pub outboxes: Vec<Outbox>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    File {
        device: u64,
        inode: u64,
    },
    /// Not there yet: the path it will have, as far as its directories exist.
    Path(PathBuf),
}

fn identity(path: &Path) -> Identity {
    match std::fs::metadata(path) {
        Ok(meta) => Identity::File { device: meta.dev(), inode: meta.ino() },
        Err(_) => Identity::Path(resolve(path)),
    }
}

/// The path without symlinks; for a file that is not there yet, that of its nearest directory that is.
pub fn resolve(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    // A link to a file that is not there yet: SQLite would create, and we will open, its target.
    if let Ok(target) = path.read_link()
        && let Some(parent) = path.parent()
    {
        let target = parent.join(target);
        if target != path && target.read_link().is_err() {
            return resolve(&target);
        }
    }
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolve(parent).join(name),
        _ => path.to_owned(),
    }
}

/// Grouped by identity, both levels in the config's order.
fn grouped(outboxes: &[Outbox]) -> Vec<(Identity, Vec<usize>)> {
    let mut groups: Vec<(Identity, Vec<usize>)> = Vec::new();
    for (index, outbox) in outboxes.iter().enumerate() {
        let identity = identity(&outbox.database);
        match groups.iter_mut().find(|(other, _)| *other == identity) {
            Some((_, members)) => members.push(index),
            None => groups.push((identity, vec![index])),
        }
    }
    groups
}

pub fn databases(outboxes: &[Outbox]) -> Vec<Database> {
    grouped(outboxes)
        .into_iter()
        .map(|(_, members)| {
            let first = &outboxes[members[0]];
            Database {
                path: first.database.clone(),
                durability: first.durability,
                bookkeeping: first.bookkeeping,
                foreign_keys: first.foreign_keys,
                secure_delete: first.secure_delete,
                outboxes: members.iter().map(|index| outboxes[*index].clone()).collect(),
            }
        })
        .collect()
}

/// What must hold among the outboxes of one database.
pub fn check(outboxes: &[Outbox], file: Option<&Path>) -> Result<(), ConfigError> {
    let place = |index: usize, key: &str| {
        let key = format!("outbox[{}].{key}", index + 1);
        Place::File { path: file.unwrap_or(Path::new("")).to_owned(), line: None, key: Some(key) }
    };
    for (_, members) in grouped(outboxes) {
        if members.len() > usize::from(u16::MAX) {
            return Err(ConfigError::new(place(members[0], "table"), "too many outboxes in one database", "use fewer"));
        }
        for (position, &index) in members.iter().enumerate() {
            let this = &outboxes[index];
            for &earlier in &members[..position] {
                let other = &outboxes[earlier];
                // SQLite's names of tables are the same in upper and lower case.
                if this.table.eq_ignore_ascii_case(&other.table) {
                    return Err(ConfigError::new(
                        place(index, "table"),
                        format!(
                            "`{}` of {} is already relayed by outbox[{}]{}",
                            this.table,
                            this.database.display(),
                            earlier + 1,
                            same_file(this, other)
                        ),
                        "remove one of the two: a row goes to one topic",
                    ));
                }
                if this.name == other.name {
                    return Err(ConfigError::new(
                        place(index, "name"),
                        format!("outbox[{}] of the same database is named `{}` too", earlier + 1, this.name),
                        format!("give it another: name = \"{}-2\"", this.name),
                    ));
                }
            }
            let first = &outboxes[members[0]];
            let agree = [
                ("durability", quoted(this.durability), quoted(first.durability)),
                ("bookkeeping", quoted(this.bookkeeping), quoted(first.bookkeeping)),
                ("foreign_keys", this.foreign_keys.to_string(), first.foreign_keys.to_string()),
                ("secure_delete", this.secure_delete.to_string(), first.secure_delete.to_string()),
            ];
            for (key, here, there) in agree {
                if here != there {
                    return Err(ConfigError::new(
                        place(index, key),
                        format!(
                            "it is {here} here and {there} in outbox[{}], but one connection serves all outboxes of {}{}",
                            members[0] + 1,
                            first.database.display(),
                            same_file(this, first)
                        ),
                        format!("write the same in both: {key} = {there}"),
                    ));
                }
            }
        }
    }
    Ok(())
}

fn quoted(choice: impl Display) -> String {
    format!("\"{choice}\"")
}

fn same_file(this: &Outbox, other: &Outbox) -> String {
    if this.database == other.database {
        String::new()
    } else {
        format!(" ({} and {} are one file)", this.database.display(), other.database.display())
    }
}
