//! `outboxd dead show`: everything about one row, and the row as it is now.
//!
//! Promises: reads only, takes no lock. Does not know: SQL.

use super::alone::patiently;
use super::choose::{self, Dead};
use super::{CommandError, Place, flags, state_error, text};
use crate::cli::DeadShowArgs;
use crate::config::{self, Config, Database as Configured};
use crate::daemon::wiring;
use crate::model::{Budget, Flow, Guard, KnownTable, OutboxIx, RowView, Start, field};
use crate::ports::{Source, SourceError};
use crate::source::Database;
use crate::state::Visitor;
use std::fmt::Write as _;
use std::io::Write;
use std::time::Duration;

/// Of a value that is shown.
const VALUE_CHARACTERS_MAX: usize = 200;
/// Of a read, so that an application in journal mode does not wait for us.
const LOOK_TIME: Duration = Duration::from_millis(1);

pub fn run(arguments: &DeadShowArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let place = Place::of(&arguments.place)?;
    let visitor = Visitor::reading(&place.state).map_err(state_error)?;
    let rows = place.rows(&visitor)?;
    let of_outbox = choose::of_outbox(&rows, arguments.outbox.as_deref())?;
    let dead = choose::by_rowid(&of_outbox, &[arguments.rowid])?[0];
    let guard = visitor.guard(&dead.entry).map_err(state_error)?;
    let mut lines = described(dead);
    lines.extend(now(dead, place.config.as_ref(), guard));
    let mut shown = String::new();
    for (name, value) in lines {
        // Writing to a String can't fail.
        let _ = writeln!(shown, "{name:14}{value}");
    }
    // Whoever closed the other end of a pipe has seen enough.
    let _ = out.write_all(shown.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

type Line = (&'static str, String);

fn described(dead: &Dead) -> Vec<Line> {
    let entry = &dead.entry;
    let mut lines = vec![
        ("outbox", dead.name.clone()),
        ("database", entry.database.display().to_string()),
        ("table", entry.table.clone()),
        ("rowid", entry.rowid.to_string()),
        ("fault", text::fault(entry.fault).to_owned()),
        ("reason", text::one_line(&entry.why.text, usize::MAX)),
    ];
    if let Some(code) = entry.why.code {
        lines.push(("Kafka's code", code.to_string()));
    }
    if !entry.why.hint.is_empty() {
        lines.push(("hint", text::one_line(&entry.why.hint, usize::MAX)));
    }
    lines.push(("attempts", entry.attempts.to_string()));
    lines.push(("first", text::time(entry.first)));
    lines.push(("last", text::time(entry.last)));
    lines
}

/// The row as it is in its table.
fn now(dead: &Dead, config: Option<&Config>, guard: Option<Guard>) -> Vec<Line> {
    let (database, outbox) = match configured(dead, config) {
        Ok(found) => found,
        Err(error) => return vec![("row", format!("can't be shown: {error}"))],
    };
    let mut source = Database::open_read_only(wiring::database_options(&database), wiring::outbox_specs(&database))
        .without_remarks();
    // Reads the schema; what is wrong with it shows in the look.
    let _ = source.check();
    source.read_at_most(
        config.map_or_else(|| config::Kafka::default().record_bytes_max(), |config| config.kafka.record_bytes_max()),
    );
    if let Some(guard) = guard {
        source.recognise_by(outbox, KnownTable { guard, identity: None });
    }
    let rowid = dead.entry.rowid;
    let mut found = None;
    let budget = Budget { rows: 1, time: LOOK_TIME, before: rowid.checked_add(1) };
    let looked = patiently(|| {
        found = None;
        source.look(outbox, Start::From(rowid), budget, &mut |row| {
            found = Some((row.print == dead.entry.print, contents(row)));
            Flow::Stop
        })
    });
    match (looked, found) {
        (Err(SourceError::NotThere(why)), _) => vec![("row", format!("is gone: {}", why.text))],
        (Err(SourceError::NotAnOutbox { why, .. } | SourceError::Failed(why)), _) => {
            vec![("row", format!("can't be shown: {why}"))]
        }
        (Err(error), _) => vec![("row", format!("can't be shown: {error}"))],
        (Ok(_), None) => vec![("row", "is gone".into())],
        (Ok(_), Some((is_same, contents))) => {
            let state = if is_same {
                "is there, as it was quarantined"
            } else {
                "is there, but not what was quarantined: as it is now it is sent"
            };
            let mut lines = vec![("row", state.to_owned())];
            lines.extend(contents);
            lines
        }
    }
}

/// As the config has it, else with the columns of the pattern's demo.
fn configured(dead: &Dead, config: Option<&Config>) -> Result<(Configured, OutboxIx), config::ConfigError> {
    let mut configured = choose::Configured::of(config);
    if let Some((at, outbox)) = configured.find(&dead.entry) {
        return Ok((configured.databases.remove(at), outbox));
    }
    let flags = flags(&dead.entry.database, Some(&dead.entry.table));
    let mut databases = Config::from_flags(&flags, false)?.databases();
    Ok((databases.remove(0), OutboxIx(0)))
}

fn contents(row: &RowView<'_>) -> Vec<Line> {
    if let Some(unreadable) = row.unreadable {
        return vec![("contents", format!("can't be read: {unreadable}"))];
    }
    let value = |at: usize| match row.fields[at] {
        None => "NULL".to_owned(),
        Some(bytes) => {
            // Enough bytes for so many characters, so that a payload of a gigabyte is not looked through.
            let head = &bytes[..bytes.len().min(4 * (VALUE_CHARACTERS_MAX + 1))];
            let text = text::one_line(&String::from_utf8_lossy(head), VALUE_CHARACTERS_MAX);
            if at == field::PAYLOAD { format!("{} bytes: {text}", bytes.len()) } else { text }
        }
    };
    vec![("key", value(field::KEY)), ("event type", value(field::EVENT_TYPE)), ("payload", value(field::PAYLOAD))]
}
