//! The daemon: its configuration file, its process, its end.
//!
//! Does not know: Kafka, databases beyond their paths.

use super::process::Process;
use super::wait::SECOND;
use rustix::process::Signal;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

/// Above the default `drain_timeout_ms` of 8,000.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(15);

/// A configuration file in the making.
#[derive(Clone, Debug, Default)]
pub struct Config {
    outboxes: String,
    kafka: String,
    rest: String,
}

impl Config {
    pub fn new(bootstrap: &str) -> Config {
        let servers: Vec<String> = bootstrap.split(',').map(|server| format!("\"{server}\"")).collect();
        Config { kafka: format!("[kafka]\nbootstrap_servers = [{}]\n", servers.join(", ")), ..Config::default() }
    }

    #[must_use]
    pub fn outbox(self, database: &Path, table: &str, topic: &str) -> Config {
        self.outbox_with(database, table, topic, "")
    }

    /// `more`: further lines of the `[[outbox]]` entry, tables of its own included.
    #[must_use]
    pub fn outbox_with(mut self, database: &Path, table: &str, topic: &str, more: &str) -> Config {
        writeln!(
            self.outboxes,
            "[[outbox]]\ndatabase = {:?}\ntable = {table:?}\ntopic = {topic:?}\n{more}",
            database.to_str().unwrap()
        )
        .unwrap();
        self
    }

    /// A line of `[kafka]`.
    #[must_use]
    pub fn kafka(mut self, line: &str) -> Config {
        writeln!(self.kafka, "{line}").unwrap();
        self
    }

    #[must_use]
    pub fn state(mut self, path: &Path) -> Config {
        writeln!(self.rest, "[state]\npath = {:?}", path.to_str().unwrap()).unwrap();
        self
    }

    pub fn text(&self) -> String {
        format!("{}\n{}\n{}", self.outboxes, self.kafka, self.rest)
    }
}

pub struct Daemon {
    pub process: Process,
}

impl Daemon {
    #[track_caller]
    pub fn start(config: &Path, base: &Path, wrapped: &[String]) -> Daemon {
        let mut command = match wrapped.split_first() {
            None => Command::new(binary()),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(binary());
                command
            }
        };
        command.arg("run").arg("--config").arg(config);
        command.env("RUST_LOG", std::env::var("OUTBOXD_TEST_LOG").unwrap_or_else(|_| "info".to_owned()));
        command.env_remove("NOTIFY_SOCKET").env_remove("STATE_DIRECTORY");
        Daemon { process: Process::start(command, base) }
    }

    #[track_caller]
    pub fn still_runs(&mut self) {
        if let Some(status) = self.process.try_exit() {
            panic!("the daemon ended by itself: {status}");
        }
    }

    /// SIGTERM, and what came of it.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.still_runs();
        self.process.signal(Signal::TERM);
        self.process.exit(DRAIN_DEADLINE)
    }

    /// SIGTERM must end it with exit code 0, and with a last line that says what was done.
    #[track_caller]
    pub fn drain_at_work(mut self) -> Goodbye {
        let status = self.terminate();
        let said = self.process.stderr_text();
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}\n{said}");
        let last = said.lines().last().unwrap_or_default();
        Goodbye::parse(last).unwrap_or_else(|| panic!("the last line is no goodbye:\n{said}"))
    }

    /// The same for one whose tables are empty, which it must know.
    #[track_caller]
    pub fn drain(self) -> Goodbye {
        let goodbye = self.drain_at_work();
        // Rows that were rewritten on their way are published more often than deleted.
        assert!(goodbye.left == "0 rows" && goodbye.published >= goodbye.deleted, "{goodbye:?}");
        goodbye
    }

    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        self.process.exit(30 * SECOND).code()
    }
}

/// The last line of a drain.
#[derive(Debug)]
pub struct Goodbye {
    pub published: u64,
    pub deleted: u64,
    /// As it is said to people.
    pub left: String,
}

impl Goodbye {
    fn parse(line: &str) -> Option<Goodbye> {
        let (_, said) = line.split_once("] drained: published ")?;
        let (published, said) = said.split_once(", deleted ")?;
        let (deleted, left) = said.split_once(", left in the tables: ")?;
        // Doubts of this run that are settled: nothing is left of them.
        let left = left.split_once("; unsure: ").map_or(left, |(left, _)| left);
        Some(Goodbye { published: published.parse().ok()?, deleted: deleted.parse().ok()?, left: left.to_owned() })
    }
}

pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_outboxd"))
}
