//! `outboxd dead`: what is in quarantine, and what to do with it, whether a daemon runs or not.
//!
//! Promises: beside a daemon it asks and waits for the answer; without one it does the same itself, under the same locks. Does not
//! know: why a row is quarantined.

mod alone;
mod ask;
mod choose;
mod show;
mod text;

use super::CommandError;
use crate::cli::{DeadArgs, DeadChooseArgs, DeadCommand, DeadListArgs, StateArgs};
use crate::config::{Config, DEFAULT_PATH, Flags};
use crate::daemon::DaemonError;
use crate::exit::{CONFIGURATION, FAILED};
use crate::model::Action;
use crate::state::{StateError, Visitor};
use choose::Dead;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

pub fn run(arguments: &DeadArgs) -> Result<(), CommandError> {
    match &arguments.command {
        DeadCommand::List(arguments) => list(arguments, &mut io::stdout().lock()),
        DeadCommand::Show(arguments) => show::run(arguments, &mut io::stdout().lock()),
        DeadCommand::Retry(arguments) => settle(Action::Retry, arguments),
        DeadCommand::Discard(arguments) => settle(Action::Discard, arguments),
    }
}

/// Where to look.
struct Place {
    config: Option<Config>,
    state: PathBuf,
}

impl Place {
    fn of(arguments: &StateArgs) -> Result<Place, CommandError> {
        let config = match (&arguments.config, &arguments.database) {
            (Some(path), _) => Some(Config::load(path, false)?),
            (None, Some(database)) => Some(Config::from_flags(&flags(database, arguments.table.as_deref()), false)?),
            (None, None) if arguments.state.is_some() => None,
            (None, None) => Some(Config::load(Path::new(DEFAULT_PATH), false).map_err(|error| {
                let hint = "name the config (--config FILE), the outbox as for `run` (--database FILE --table TABLE), or \
                            outboxd's own file (--state FILE)";
                CommandError { hint: hint.into(), ..error.into() }
            })?),
        };
        let state = match (&arguments.state, &config) {
            (Some(path), _) => path.clone(),
            (None, Some(config)) => config.state_path(std::env::var_os("STATE_DIRECTORY").as_deref()),
            (None, None) => unreachable!("without either there is a config"),
        };
        Ok(Place { config, state })
    }

    fn rows(&self, visitor: &Visitor) -> Result<Vec<Dead>, CommandError> {
        let entries = visitor.quarantine().map_err(state_error)?;
        Ok(choose::labelled(entries, self.config.as_ref()))
    }
}

/// The topic is of no interest here.
fn flags(database: &Path, table: Option<&str>) -> Flags {
    Flags {
        database: database.to_owned(),
        table: table.unwrap_or_default().to_owned(),
        topic: "none".into(),
        ..Flags::default()
    }
}

/// Where systemd keeps it, which an operator's shell is not told of.
const SERVICE_STATE: &str = "/var/lib/outboxd/state.db";

fn state_error(error: StateError) -> CommandError {
    let mut report = CommandError::from(DaemonError::from(error));
    if let Some(StateError::NotThere { .. }) = report.error.downcast_ref::<DaemonError>().and_then(DaemonError::state) {
        report.hint = format!(
            "outboxd makes it at its first start; that of the systemd service is named with `--state {SERVICE_STATE}`"
        );
    }
    report
}

fn list(arguments: &DeadListArgs, out: &mut impl Write) -> Result<(), CommandError> {
    let place = Place::of(&arguments.place)?;
    let rows = place.rows(&Visitor::reading(&place.state).map_err(state_error)?)?;
    let rows = choose::of_outbox(&rows, arguments.outbox.as_deref())?;
    let text = if arguments.json { text::json_lines(&rows) } else { text::table(&rows) };
    // Whoever closed the other end of a pipe has seen enough.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

fn settle(action: Action, arguments: &DeadChooseArgs) -> Result<(), CommandError> {
    let place = Place::of(&arguments.place)?;
    loop {
        let visitor = Visitor::working(&place.state).map_err(state_error)?;
        let rows = place.rows(&visitor)?;
        let of_outbox = choose::of_outbox(&rows, arguments.outbox.as_deref())?;
        let chosen = if arguments.all { of_outbox } else { choose::by_rowid(&of_outbox, &arguments.rowids)? };
        if chosen.is_empty() {
            println!("nothing is in quarantine");
            return Ok(());
        }
        let told = if visitor.is_alone() {
            alone::settle(action, visitor, place.config.as_ref(), &chosen)?
        } else {
            match ask::settle(action, &visitor, &chosen, arguments.all)? {
                Some(told) => told,
                // The daemon ended, or another one began: how it is now decides what to do.
                None => continue,
            }
        };
        return told.report(action);
    }
}

/// What became of it, for the operator.
#[derive(Debug, Default)]
struct Told {
    done: Vec<String>,
    failed: Vec<String>,
}

impl Told {
    fn add(&mut self, failed: bool, line: String) {
        if failed { &mut self.failed } else { &mut self.done }.push(line);
    }

    fn report(self, action: Action) -> Result<(), CommandError> {
        let mut out = io::stdout().lock();
        for line in &self.done {
            let _ = writeln!(out, "{line}");
        }
        let word = match action {
            Action::Retry => "retry",
            Action::Discard => "discard",
        };
        match &self.failed[..] {
            [] => Ok(()),
            [line] => Err(CommandError::new(FAILED, line.clone(), "see how it is now: outboxd dead list")),
            lines => {
                for line in lines {
                    let _ = writeln!(out, "{line}");
                }
                let all = self.done.len() + lines.len();
                Err(CommandError::new(
                    FAILED,
                    format!("{word}: {} of {all} could not be done", lines.len()),
                    "see how they are now: outboxd dead list",
                ))
            }
        }
    }
}

/// A usage error.
fn wrong(text: impl Into<String>, hint: impl Into<String>) -> CommandError {
    CommandError::new(CONFIGURATION, text.into(), hint)
}
