//! One test's stage: a folder, topics, databases, applications and daemons, and a report when the test fails.
//!
//! Promises: nothing is left behind by a test that passed; a test that failed keeps its folder and prints the commands, the
//! daemons' last log lines and the seed. Does not know: what is tested.

use super::app::{self, Entry};
use super::broker::Broker;
use super::check;
use super::daemon::{Config, Daemon};
use super::process::{Process, run, show, tail};
use super::reader::{self, Record};
use super::wait::{self, SECOND};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub struct Scene {
    pub dir: PathBuf,
    pub kafka: Option<Arc<Broker>>,
    pub seed: u64,
    name: String,
    numbers: AtomicU32,
    commands: Mutex<Vec<String>>,
    logs: Mutex<Vec<PathBuf>>,
}

impl Scene {
    pub fn new(name: &str, kafka: Option<Arc<Broker>>) -> Scene {
        let dir = tempfile::Builder::new().prefix(&format!("outboxd-{name}-")).tempdir().unwrap().keep();
        let seed = std::env::var("OUTBOXD_TEST_SEED").ok().and_then(|text| text.parse().ok());
        Scene {
            dir,
            kafka,
            seed: seed.unwrap_or_else(|| fastrand::u64(1..1 << 31)),
            name: name.to_owned(),
            numbers: AtomicU32::new(0),
            commands: Mutex::default(),
            logs: Mutex::default(),
        }
    }

    fn number(&self) -> u32 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn kafka(&self) -> &Broker {
        self.kafka.as_deref().expect("a scene with Kafka")
    }

    pub fn bootstrap(&self) -> &str {
        &self.kafka().bootstrap
    }

    /// A topic that no other test uses.
    pub fn topic(&self, partitions: u32) -> String {
        self.topic_with(partitions, &[])
    }

    pub fn topic_with(&self, partitions: u32, configs: &[&str]) -> String {
        let name = self.topic_name();
        self.kafka().create_topic(&name, partitions, configs);
        name
    }

    pub fn topic_name(&self) -> String {
        // Two scenes of one name share a broker.
        static TOPICS: AtomicU32 = AtomicU32::new(0);
        format!("{}-{}-{}", self.name, std::process::id(), TOPICS.fetch_add(1, Ordering::Relaxed))
    }

    fn note(&self, command: &str) {
        self.commands.lock().unwrap().push(command.to_owned());
    }

    // --- the application ---

    /// `outbox-app create` with further options, such as `--journal delete`.
    /// In a folder of its own: the daemon watches it, and logs and traces beside it would wake it for ever.
    #[track_caller]
    pub fn database(&self, options: &str) -> PathBuf {
        let path = self.path(&format!("data-{}/app.db", self.number()));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let mut command = Command::new(app::binary());
        command.arg("create").arg("--db").arg(&path).args(options.split_whitespace());
        self.note(&show(&command));
        run(command);
        path
    }

    /// Starts the application; `options` is its command line after `--db`, verb first.
    #[track_caller]
    pub fn app(&self, database: &Path, options: &str) -> App {
        let mut words = options.split_whitespace();
        let mut command = Command::new(app::binary());
        command.arg(words.next().unwrap()).arg("--db").arg(database).args(words);
        self.started(command)
    }

    /// An application that keeps a ledger.
    #[track_caller]
    pub fn writer(&self, database: &Path, options: &str) -> App {
        let number = self.number();
        let ledger = self.path(&format!("ledger-{number}"));
        let mut words = options.split_whitespace();
        let mut command = Command::new(app::binary());
        command.arg(words.next().unwrap()).arg("--db").arg(database).args(words);
        command.arg("--ledger").arg(&ledger).args(["--seed", &(self.seed + u64::from(number)).to_string()]);
        let mut app = self.started(command);
        app.ledger = Some(ledger);
        app
    }

    fn started(&self, command: Command) -> App {
        let process = Process::start(command, &self.path(&format!("app-{}", self.number())));
        self.note(&process.command);
        App { process, ledger: None }
    }

    // --- the daemon ---

    #[track_caller]
    pub fn daemon(&self, config: &Config) -> Daemon {
        self.daemon_under(config, &[])
    }

    /// Under another program, such as strace.
    #[track_caller]
    pub fn daemon_under(&self, config: &Config, wrapped: &[String]) -> Daemon {
        let base = self.path(&format!("daemon-{}", self.number()));
        let file = base.with_extension("toml");
        std::fs::write(&file, config.text()).unwrap();
        let daemon = Daemon::start(&file, &base, wrapped);
        self.note(&daemon.process.command);
        self.logs.lock().unwrap().push(daemon.process.stderr.clone());
        daemon
    }

    // --- what came of it ---

    pub fn read(&self, topic: &str) -> Vec<Record> {
        reader::read(self.bootstrap(), topic)
    }

    /// The tables are empty, and the topics hold what the applications committed, exactly once.
    #[track_caller]
    pub fn check(&self, topics: &[&str], apps: &[&App]) {
        let records: Vec<Record> = topics.iter().flat_map(|topic| self.read(topic)).collect();
        check::exactly_once(&records, &ledgers(apps));
    }
}

#[track_caller]
pub fn wait_until_empty(database: &Path, deadline: Duration) {
    wait_until_empty_table(database, "users_outbox", deadline);
}

#[track_caller]
pub fn wait_until_empty_table(database: &Path, table: &str, deadline: Duration) {
    let reader = look(database);
    let mut left = -1;
    let what = format!("{table} of {} is empty", database.display());
    let end = std::time::Instant::now() + deadline;
    wait::until(deadline + SECOND, &what, || {
        left = rows(&reader, table).unwrap_or(left);
        assert!(left == 0 || std::time::Instant::now() < end, "not within {deadline:?}: {what}; {left} rows are left");
        left == 0
    });
}

pub fn ledgers(apps: &[&App]) -> Vec<Entry> {
    apps.iter().flat_map(|app| app::ledger(app.ledger.as_ref().unwrap())).collect()
}

pub fn committed(apps: &[&App]) -> usize {
    apps.iter().map(|app| app::ledger_lines(app.ledger.as_ref().unwrap())).sum()
}

/// A connection that only looks, as an administrator's shell would.
pub fn look(database: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader = Connection::open_with_flags(database, flags).unwrap();
    reader.busy_timeout(5 * SECOND).unwrap();
    reader
}

/// Rows in a table; `None` when the database is busy.
pub fn rows(reader: &Connection, table: &str) -> Option<i64> {
    reader.query_row(&format!("SELECT count(*) FROM \"{table}\""), [], |row| row.get(0)).ok()
}

pub struct App {
    pub process: Process,
    pub ledger: Option<PathBuf>,
}

impl App {
    /// Its report, once it has ended well.
    #[track_caller]
    pub fn done(&mut self, deadline: Duration) -> serde_json::Value {
        let status = self.process.exit(deadline);
        assert!(status.success(), "{}: {status}\n{}", self.process.command, self.process.stderr_text());
        serde_json::from_str(&self.process.stdout_text()).unwrap()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
            return;
        }
        let version = self.kafka.as_ref().map_or("none", |kafka| kafka.version.as_str());
        eprintln!(
            "--- {} failed; Kafka {version}; OUTBOXD_TEST_SEED={}; kept: {}",
            self.name,
            self.seed,
            self.dir.display()
        );
        for command in self.commands.lock().unwrap().iter() {
            eprintln!("$ {command}");
        }
        let logs = self.logs.lock().unwrap();
        for log in logs.iter().rev().take(3).rev() {
            eprintln!("--- {}\n{}", log.display(), tail(log, 40));
        }
    }
}
