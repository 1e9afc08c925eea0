//! The real binary under test: run it, watch it, and when something fails show everything there is to see.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of its own, gone with the value.
pub struct Place {
    pub folder: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.text(name)
    }

    /// Makes or opens a database and runs `sql` on it.
    pub fn database(&self, name: &str, sql: &str) -> String {
        rusqlite::Connection::open(self.path(name)).unwrap().execute_batch(sql).unwrap();
        self.text(name)
    }

    /// The folder's own path is replaced by `DIR`, so that texts can be compared whole.
    pub fn neutral(&self, text: &str) -> String {
        text.replace(&self.folder.path().display().to_string(), "DIR")
    }
}

/// The outbox of the pattern's demo.
pub const OUTBOX: &str = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload);";

pub struct Finished {
    pub command: String,
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Finished {
    /// Everything a failed comparison should show.
    pub fn everything(&self) -> String {
        format!("$ {}\n{}\n--- stdout\n{}--- stderr\n{}", self.command, self.status, self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn expect(&self, code: i32, place: &Place, stderr: &str) {
        let found = place.neutral(&self.stderr);
        assert!(
            self.status.code() == Some(code) && found == stderr,
            "expected exit code {code} and on stderr:\n{stderr}\nbut:\n{}",
            self.everything()
        );
    }
}

/// A process that is watched while it runs; killed with the value.
pub struct Running {
    command: String,
    child: Child,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
    readers: Vec<std::thread::JoinHandle<()>>,
}

pub fn outboxd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_outboxd"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("STATE_DIRECTORY").env_remove("NOTIFY_SOCKET");
    command.env("RUST_BACKTRACE", "0");
    command
}

/// `run` for the outbox of [`OUTBOX`] in this database.
pub fn flags<'a>(database: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["run", "--database", database, "--table", "users_outbox", "--topic", "users"];
    arguments.extend(more);
    arguments
}

/// Runs to the end with logs off: stderr is what the command itself has to say.
pub fn run(arguments: &[&str]) -> Finished {
    let mut command = outboxd(arguments);
    command.env("RUST_LOG", "off");
    Running::start(command).finish()
}

impl Running {
    pub fn start(mut command: Command) -> Running {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (stdout, stderr) = (Arc::default(), Arc::default());
        let readers = vec![
            collect(child.stdout.take().unwrap(), Arc::clone(&stdout)),
            collect(child.stderr.take().unwrap(), Arc::clone(&stderr)),
        ];
        Running { command: format!("{command:?}"), child, stdout, stderr, readers }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    #[track_caller]
    pub fn wait_until(&mut self, what: &str, mut condition: impl FnMut(&Running) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition(self) {
            let over = self.child.try_wait().unwrap();
            assert!(
                over.is_none() && Instant::now() < until,
                "{what} did not happen\n$ {}\n{over:?}\n--- stdout\n{}--- stderr\n{}",
                self.command,
                self.stdout(),
                self.stderr()
            );
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Ends a daemon that has nothing left to do: the number of records in `users`, of different message ids, and what it said.
    #[track_caller]
    pub fn drained(mut self, kafka: &fake_kafka::FakeKafka) -> (usize, usize, String) {
        // It may have had nothing to do from the start.
        self.wait_until("the start", |daemon| daemon.stderr().contains("state file: "));
        self.signal(rustix::process::Signal::TERM);
        let daemon = self.finish();
        assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
        let records = kafka.all_records("users");
        let ids: std::collections::BTreeSet<_> =
            records.iter().map(|record| record.header("id").unwrap().to_vec()).collect();
        (records.len(), ids.len(), daemon.everything())
    }

    /// Waits for its end.
    #[track_caller]
    pub fn finish(mut self) -> Finished {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < until,
                "it does not end\n$ {}\n--- stdout\n{}--- stderr\n{}",
                self.command,
                self.stdout(),
                self.stderr()
            );
            std::thread::park_timeout(Duration::from_millis(2));
        };
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        Finished { command: self.command.clone(), status, stdout: self.stdout(), stderr: self.stderr() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn collect(stream: impl Read + Send + 'static, into: Arc<Mutex<String>>) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let mut text = into.lock().unwrap();
            text.push_str(&String::from_utf8_lossy(&line));
            text.push('\n');
        }
    })
}

/// Asks the daemon's HTTP listener for a path.
pub fn asker(daemon: &Running) -> impl Fn(&str) -> String + use<> {
    let log = daemon.stderr();
    let address = log.split("listening on http://").nth(1).unwrap().split('/').next().unwrap().to_owned();
    move |path| {
        let mut stream = std::net::TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// The application: a process of its own with one connection, which stays open, and a busy timeout of 0.
pub struct Shell {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Shell {
    pub fn on(database: &Path) -> Shell {
        let mut child = Command::new("sh")
            .args(["-c", "exec sqlite3 \"$0\" 2>&1"])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the sqlite3 shell is needed for this test");
        let output = BufReader::new(child.stdout.take().unwrap());
        Shell { child, output }
    }

    /// Runs SQL to its end and returns what was printed, errors included.
    pub fn run(&mut self, sql: &str) -> String {
        const MARK: &str = "--done--";
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "{sql}\n.print '{MARK}'").unwrap();
        let mut all = String::new();
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the shell ended: {sql}: {all}");
            if line.trim_end() == MARK {
                return all.trim_end().to_owned();
            }
            all.push_str(&line);
        }
    }

    pub fn close(mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// A port where nobody listens: bound and let go again.
pub fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A plan as a killed daemon leaves it.
pub fn leave_a_plan(place: &Place, state: &outboxd::state::StateFile, database: &str, number: u64) {
    use outboxd::model::{
        Fingerprint, OutboxIx, Plan, PlanId, RowKey, RowMeta, Rows, RunId, SentForm, Span, Target, Triple,
    };
    use outboxd::ports::{Change, Journal};
    let row = RowMeta {
        key: RowKey { outbox: OutboxIx(0), rowid: 1 },
        print: Fingerprint(1),
        record: Span::default(),
        message: 1,
        event_id: Span::default(),
    };
    let plan = Plan {
        id: PlanId(number),
        target: Target { topic: "users".into(), partition: 2 },
        triple: Triple { producer_id: 4711, epoch: 0, first_sequence: 17 },
        run: RunId(1),
        noted_offset: 0,
        leader_epoch: 0,
        cluster: None,
        first_attempt: std::time::SystemTime::now(),
        rows: Rows { bytes: Vec::new(), meta: vec![row] }.into(),
        sent_form: SentForm::default(),
    };
    let mut journal = state.journal(&place.path(database), &["users_outbox"]).unwrap();
    journal.record(&[Change::Planned(&plan)], true).unwrap();
}
