//! Quarantined rows as text.
//!
//! Promises: one row is one line, whatever a broker or a payload has in it. Does not know: where rows come from.

use super::choose::Dead;
use crate::model::Fault;
use jiff::Timestamp;
use serde_json::json;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// Of a reason in the table.
const REASON_CHARACTERS_MAX: usize = 100;

pub fn fault(fault: Fault) -> &'static str {
    match fault {
        Fault::Rejected => "rejected",
        Fault::Unroutable => "unroutable",
        Fault::Undeletable => "undeletable",
    }
}

pub fn table(rows: &[&Dead]) -> String {
    if rows.is_empty() {
        return "nothing is in quarantine\n".into();
    }
    let mut lines = vec![["OUTBOX", "ROWID", "ATTEMPTS", "FIRST", "LAST", "REASON"].map(str::to_owned)];
    for Dead { entry, label, .. } in rows {
        lines.push([
            one_line(label, usize::MAX),
            entry.rowid.to_string(),
            entry.attempts.to_string(),
            time(entry.first),
            time(entry.last),
            format!("{}: {}", fault(entry.fault), one_line(&entry.why.text, REASON_CHARACTERS_MAX)),
        ]);
    }
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..5).map(width).collect();
    let mut text = String::new();
    for [outbox, rowid, attempts, first, last, reason] in &lines {
        // Writing to a String can't fail.
        let _ = writeln!(
            text,
            "{outbox:0$}  {rowid:>1$}  {attempts:>2$}  {first:3$}  {last:4$}  {reason}",
            widths[0], widths[1], widths[2], widths[3], widths[4]
        );
    }
    text
}

pub fn json_lines(rows: &[&Dead]) -> String {
    let mut text = String::new();
    for Dead { entry, name, .. } in rows {
        let line = json!({
            "outbox": name,
            "database": entry.database.display().to_string(),
            "table": entry.table,
            "rowid": entry.rowid,
            "fault": fault(entry.fault),
            "reason": entry.why.text,
            "hint": entry.why.hint,
            "code": entry.why.code,
            "attempts": entry.attempts,
            "first": time(entry.first),
            "last": time(entry.last),
        });
        let _ = writeln!(text, "{line}");
    }
    text
}

/// Without control characters, which would do as they like with a terminal; cut with three dots.
pub fn one_line(text: &str, characters_max: usize) -> String {
    let mut line: String = text.chars().take(characters_max).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(characters_max).is_some() {
        line.push_str("...");
    }
    line
}

/// `2023-11-14T22:13:20Z`. One before 1970, or after the calendar's last year, counts as its border.
pub fn time(time: SystemTime) -> String {
    let time = if time < UNIX_EPOCH { Ok(Timestamp::UNIX_EPOCH) } else { Timestamp::try_from(time) };
    format!("{:.0}", time.unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_700_000_000, "2023-11-14T22:13:20Z"),
            (1_709_164_800, "2024-02-29T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
        ] {
            assert_eq!(time(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(one_line("a\nb\x1b[31m", 99), "a b [31m");
        assert_eq!((one_line("äöü", 3), one_line("äöü", 2)), ("äöü".into(), "äö...".into()));
    }
}
