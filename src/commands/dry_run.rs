//! `outboxd run --dry-run`: what is waiting, and where it would go.
//!
//! Promises: reads only, takes no lock, asks no broker; may run beside a daemon. Does not know: what a daemon has in flight.

use super::CommandError;
use crate::config::Config;
use crate::daemon::{DaemonError, wiring};
use crate::exit::{CONFIGURATION, FAILED};
use crate::model::{Budget, Flow, OutboxIx, RowView, Start, field};
use crate::ports::{Source, SourceError};
use crate::relay::route::Route;
use crate::source::Database;
use std::fmt::Write as _;
use std::io::Write;
use std::time::{Duration, Instant};

/// Rows that are shown of each outbox.
const ROWS_SHOWN: usize = 5;
/// How long a database that is locked by someone else is asked again.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Of a read, so that an application in journal mode does not wait for us.
const LOOK_TIME: Duration = Duration::from_millis(1);
/// Characters of a key that are shown.
const KEY_CHARACTERS_MAX: usize = 60;

pub fn run(config: &Config, out: &mut impl Write) -> Result<(), CommandError> {
    for database in config.databases() {
        let mut source = Database::open_read_only(wiring::database_options(&database), wiring::outbox_specs(&database));
        source.check().map_err(DaemonError::from)?;
        source.read_at_most(config.kafka.record_bytes_max());
        for (index, route) in wiring::routes(&database).iter().enumerate() {
            let text = outbox(&mut source, OutboxIx(index as u16), route)?;
            // Whoever closed the other end of a pipe has seen enough.
            if write!(out, "{} {}: {text}", database.path.display(), route.name).and_then(|()| out.flush()).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn outbox(source: &mut Database, ix: OutboxIx, route: &Route) -> Result<String, CommandError> {
    let backlog = match patiently(|| source.backlog(ix)) {
        Ok(backlog) => backlog,
        Err(error) => return unreadable(error),
    };
    let mut text = match (backlog.rows, backlog.exact) {
        (0, true) => "nothing is waiting\n".to_owned(),
        (1, true) => "1 row is waiting\n".to_owned(),
        (rows, true) => format!("{rows} rows are waiting\n"),
        (rows, false) => format!("about {rows} rows are waiting (estimated from the rowids)\n"),
    };
    let mut rows = Vec::new();
    let budget = Budget { rows: ROWS_SHOWN, time: LOOK_TIME, before: None };
    let looked = patiently(|| {
        rows.clear();
        source.look(ix, Start::Lowest, budget, &mut |row| {
            rows.push(describe(row, route));
            Flow::Continue
        })
    });
    if let Err(error) = looked {
        return unreadable(error);
    }
    for row in &rows {
        let _ = writeln!(text, "  {row}");
    }
    if backlog.rows > rows.len() as u64 && !rows.is_empty() {
        text.push_str("  ...\n");
    }
    Ok(text)
}

fn describe(row: &RowView<'_>, route: &Route) -> String {
    if let Some(unreadable) = row.unreadable {
        return format!("rowid {}: would be set aside: it can't be read: {unreadable}", row.rowid);
    }
    let mut topic = String::new();
    if let Err(error) = route.topic(row, &mut topic) {
        return format!("rowid {}: would be set aside: {error}", row.rowid);
    }
    let key = match row.fields[field::KEY] {
        None => "no key".to_owned(),
        Some(key) => {
            let text = String::from_utf8_lossy(key);
            let shown: String = text.chars().take(KEY_CHARACTERS_MAX).collect();
            let more = if shown.len() < text.len() { "..." } else { "" };
            format!("key {shown:?}{more}")
        }
    };
    let payload = row.fields[field::PAYLOAD].map_or("no payload".to_owned(), |bytes| format!("{} bytes", bytes.len()));
    format!("rowid {}: topic {topic}, {key}, {payload}", row.rowid)
}

fn patiently<T>(mut ask: impl FnMut() -> Result<T, SourceError>) -> Result<T, SourceError> {
    let until = Instant::now() + BUSY_PATIENCE;
    loop {
        match ask() {
            Err(SourceError::Busy(_) | SourceError::Replaced { .. }) if Instant::now() < until => {
                std::thread::sleep(BUSY_PAUSE);
            }
            other => return other,
        }
    }
}

/// What heals by itself is an answer; the rest is an error.
fn unreadable(error: SourceError) -> Result<String, CommandError> {
    match error {
        SourceError::NotThere(why) => Ok(format!("not there yet, and waited for: {}\n", why.text)),
        SourceError::Busy(what) => Ok(format!("can't be read at this moment: {what}\n")),
        SourceError::NotAnOutbox { why, .. } => Err(CommandError::new(CONFIGURATION, why.text, why.hint)),
        SourceError::Failed(why) => Err(CommandError::new(FAILED, why.text, why.hint)),
        other => Err(CommandError::new(FAILED, other, "")),
    }
}
