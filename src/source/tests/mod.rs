//! Tests on real files, with the application played by another process (SQLite's own shell).

mod books;
mod content;
mod deletes;
mod environment;
mod failures;
mod identity;
mod looks;
mod manners;
mod refusals;
mod remarks;
mod swaps;
mod together;
mod unreadable;
mod wakes;

use super::*;
use crate::model::{Budget, Fingerprint, Flow, Look, RowKey, RowMark, Start};
use crate::ports::{DeleteGroup, DeleteOrder, JournalError, Source, SourceError};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) const SCHEMA: &str =
    "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId TEXT, eventType TEXT, payload TEXT);";

/// The application: a process of its own with one connection, which stays open.
pub(super) struct App {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    marks: u32,
}

impl App {
    pub fn start(database: &Path) -> App {
        let mut child = Command::new("sh")
            .args(["-c", "exec sqlite3 \"$0\" 2>&1"])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sqlite3 shell is needed for these tests");
        let input = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        App { child, input, output, marks: 0 }
    }

    /// Runs SQL to its end and returns what was printed, errors included.
    pub fn run(&mut self, sql: &str) -> String {
        self.marks += 1;
        let mark = format!("--done {}--", self.marks);
        writeln!(self.input, "{sql}\n.print '{mark}'").unwrap();
        self.input.flush().unwrap();
        let mut all = String::new();
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).unwrap();
            assert!(read > 0, "the application ended while running {sql}: {all}");
            if line.trim_end() == mark {
                return all.trim_end().to_owned();
            }
            all.push_str(&line);
        }
    }

    /// As `run`, for SQL that must print nothing.
    pub fn exec(&mut self, sql: &str) {
        let printed = self.run(sql);
        assert_eq!(printed, "", "{sql}");
    }

    pub fn count(&mut self) -> i64 {
        self.run("SELECT count(*) FROM users_outbox;").parse().unwrap()
    }

    /// kill -9.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn close(mut self) {
        drop(self.input);
        self.child.wait().unwrap();
    }
}

pub(super) struct World {
    pub directory: tempfile::TempDir,
    pub path: std::path::PathBuf,
}

impl World {
    pub fn new() -> World {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db.sqlite");
        World { directory, path }
    }

    /// A database in a journal mode with a schema, and its application connected.
    pub fn with(mode: &str, schema: &str) -> (World, App) {
        let world = World::new();
        let mut app = App::start(&world.path);
        app.run(&format!("PRAGMA journal_mode={mode};"));
        app.exec(schema);
        (world, app)
    }

    pub fn options(&self) -> DatabaseOptions {
        DatabaseOptions {
            path: self.path.clone(),
            durability: Durability::PowerLoss,
            foreign_keys: false,
            secure_delete: false,
            bookkeeping: false,
        }
    }

    pub fn database(&self) -> Database {
        Database::new(self.options(), vec![spec("users_outbox")])
    }
}

pub(super) fn spec(table: &str) -> OutboxSpec {
    let name = |name: &str| Some(name.to_owned());
    OutboxSpec {
        name: table.to_owned(),
        table: table.to_owned(),
        fields: vec![name("id"), name("aggregateId"), name("eventType"), name("payload"), name("aggregateId"), None],
    }
}

pub(super) const OUTBOX: crate::model::OutboxIx = crate::model::OutboxIx(0);

pub(super) fn budget(rows: usize) -> Budget {
    Budget { rows, time: Duration::from_secs(60), before: None }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub rowid: i64,
    pub print: Fingerprint,
    pub fields: Vec<Option<Vec<u8>>>,
}

pub(super) fn look_in(
    database: &mut Database,
    outbox: crate::model::OutboxIx,
    start: Start,
    budget: Budget,
) -> Result<(Look, Vec<Seen>), SourceError> {
    let mut seen = Vec::new();
    let look = database.look(outbox, start, budget, &mut |row| {
        let fields = row.fields.iter().map(|field| field.map(<[u8]>::to_vec)).collect();
        seen.push(Seen { rowid: row.rowid, print: row.print, fields });
        Flow::Continue
    })?;
    Ok((look, seen))
}

pub(super) fn look(database: &mut Database, start: Start, rows: usize) -> Result<(Look, Vec<Seen>), SourceError> {
    look_in(database, OUTBOX, start, budget(rows))
}

/// All rows of the first outbox.
pub(super) fn all(database: &mut Database) -> Vec<Seen> {
    let (mut end, mut seen) = look(database, Start::Lowest, 1_000_000).unwrap();
    while let crate::model::LookEnd::Budget { .. } = end.end {
        let (next, more) = look(database, Start::After(mark(seen.last().unwrap())), 1_000_000).unwrap();
        seen.extend(more);
        end = next;
    }
    seen
}

pub(super) fn group_of(outbox: crate::model::OutboxIx, seen: &[Seen]) -> DeleteGroup {
    DeleteGroup::Rows(seen.iter().map(|row| (RowKey { outbox, rowid: row.rowid }, row.print)).collect())
}

pub(super) fn group(seen: &[Seen]) -> DeleteGroup {
    group_of(OUTBOX, seen)
}

/// As the relay begins: others go first.
pub(super) fn order(groups: &[DeleteGroup]) -> DeleteOrder<'_> {
    DeleteOrder { number: 1, groups, booked: &[], yields: true, commit_patience: Duration::from_millis(20) }
}

/// As the relay goes on when others have gone first for long enough.
pub(super) fn insistent(groups: &[DeleteGroup]) -> DeleteOrder<'_> {
    DeleteOrder { yields: false, ..order(groups) }
}

pub(super) fn delete(database: &mut Database, seen: &[Seen]) -> Result<crate::model::Deletion, SourceError> {
    database.delete(&order(&[group(seen)]), &mut |_| Ok(()))
}

pub(super) fn rowids(seen: &[Seen]) -> Vec<i64> {
    seen.iter().map(|row| row.rowid).collect()
}

pub(super) fn key(rowid: i64) -> RowKey {
    RowKey { outbox: OUTBOX, rowid }
}

pub(super) fn mark(row: &Seen) -> RowMark {
    RowMark { rowid: row.rowid, print: row.print }
}

/// Waits for a condition; a deadline is a failure.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

pub(super) fn journal_error() -> JournalError {
    JournalError { path: "state.db".to_owned(), text: "full".to_owned(), busy: false }
}

pub(super) const MODES: [&str; 4] = ["WAL", "DELETE", "TRUNCATE", "PERSIST"];
