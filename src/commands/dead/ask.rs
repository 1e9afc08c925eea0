//! Beside a daemon: a request for each row, and its answer.
//!
//! Promises: waits a bounded time; what was not answered is withdrawn, and said. Does not know: how a daemon does it.

use super::choose::Dead;
use super::{CommandError, Told, state_error};
use crate::exit::FAILED;
use crate::model::Action;
use crate::state::{Answer, Visitor};
use std::time::{Duration, Instant};

/// A daemon looks once a second.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// Requests that wait at one time.
const AT_ONCE_MAX: usize = 200;

/// `None`: the daemon that was asked works with the file no longer, and has done nothing. `all`: everything that is in quarantine, so that one request
/// is enough for each outbox.
pub fn settle(action: Action, visitor: &Visitor, chosen: &[&Dead], all: bool) -> Result<Option<Told>, CommandError> {
    let mut told = Told::default();
    let mut questions: Vec<(&Dead, Option<i64>)> = Vec::new();
    for row in chosen {
        if !all {
            questions.push((row, Some(row.entry.rowid)));
        } else if !questions.iter().any(|(other, _)| other.entry.is_beside(&row.entry)) {
            questions.push((row, None));
        }
    }
    for questions in questions.chunks(AT_ONCE_MAX) {
        let mut open = Vec::with_capacity(questions.len());
        for (row, rowid) in questions {
            open.push((visitor.ask(action, &row.entry, *rowid).map_err(state_error)?, *row, *rowid));
        }
        let mut until = Instant::now() + PATIENCE;
        while !open.is_empty() {
            let mut waiting = Vec::with_capacity(open.len());
            let before = open.len();
            for (request, row, rowid) in open {
                match visitor.answer(request).map_err(state_error)? {
                    Answer::Waiting => waiting.push((request, row, rowid)),
                    Answer::Gone => return Ok(ended(told)),
                    Answer::Given { failed, text } => told.add(failed, line(row, rowid, &text)),
                }
            }
            open = waiting;
            if open.len() < before {
                until = Instant::now() + PATIENCE;
            } else if visitor.daemon_has_ended() {
                withdraw(visitor, &open)?;
                return Ok(ended(told));
            } else if Instant::now() >= until {
                withdraw(visitor, &open)?;
                return Err(unanswered(visitor, &told, &open));
            }
            if !open.is_empty() {
                std::thread::sleep(PAUSE);
            }
        }
    }
    Ok(Some(told))
}

/// With nothing answered yet one can begin again as if nothing had been asked.
fn ended(mut told: Told) -> Option<Told> {
    if told.done.is_empty() && told.failed.is_empty() {
        return None;
    }
    told.add(true, "the running outboxd ended before it had answered everything: run this again".into());
    Some(told)
}

fn withdraw(visitor: &Visitor, open: &[(i64, &Dead, Option<i64>)]) -> Result<(), CommandError> {
    open.iter().try_for_each(|(request, ..)| visitor.withdraw(*request)).map_err(state_error)
}

fn unanswered(visitor: &Visitor, told: &Told, open: &[(i64, &Dead, Option<i64>)]) -> CommandError {
    for line in told.done.iter().chain(&told.failed) {
        println!("{line}");
    }
    let who = visitor.daemon().map_or_else(String::new, |pid| format!(" (PID {pid})"));
    let (_, row, rowid) = open[0];
    let what = match (rowid, open.len()) {
        (Some(rowid), 1) => format!("rowid {rowid} of {}", row.label),
        (None, 1) => row.label.clone(),
        (_, more) => format!("{more} requests"),
    };
    CommandError::new(
        FAILED,
        format!(
            "the running outboxd{who} did not answer within {} s for {what}; what was asked is withdrawn",
            PATIENCE.as_secs()
        ),
        "it may be waiting for its database, or not serve this outbox: look at its log, then at `outboxd dead list`",
    )
}

fn line(row: &Dead, rowid: Option<i64>, text: &str) -> String {
    match rowid {
        Some(rowid) => format!("{} rowid {rowid}: {text}", row.label),
        None => format!("{}: {text}", row.label),
    }
}
