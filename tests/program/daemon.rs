//! The daemon and the demo as processes: what is printed, what is left, how they end.

use crate::common::{self, OUTBOX, Place, Running, asker, closed_port, flags, leave_a_plan, names, outboxd, run};
use fake_kafka::{FakeKafka, Fault};
use rustix::process::Signal;
use std::io::{Read, Write};

fn stdout_run(database: &str) -> Running {
    Running::start(outboxd(&flags(database, &["--stdout"])))
}

fn rows(place: &Place, database: &str) -> i64 {
    let connection = rusqlite::Connection::open(place.path(database)).unwrap();
    connection.busy_timeout(common::PATIENCE).unwrap();
    connection.query_row("SELECT count(*) FROM users_outbox", [], |row| row.get(0)).unwrap()
}

#[test]
fn stdout_prints_each_record_and_deletes_it() {
    for mode in ["WAL", "DELETE"] {
        let place = Place::new();
        let insert = "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (7, 'Made', x'00ff'), (NULL, 'ü', 'text');";
        let database = place.database("db", &format!("PRAGMA journal_mode = {mode}; {OUTBOX} {insert}"));
        let mut daemon = stdout_run(&database);
        daemon.wait_until("two lines", |daemon| daemon.stdout().lines().count() == 2);
        place.database("db", "INSERT INTO users_outbox (aggregateId) VALUES ('later')");
        daemon.wait_until("a third line", |daemon| daemon.stdout().lines().count() == 3);
        daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
        daemon.signal(Signal::INT);
        let daemon = daemon.finish();
        assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
        let lines: Vec<serde_json::Value> =
            daemon.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["topic"], "users");
        assert_eq!(lines[0]["key"], "7");
        assert_eq!(lines[0]["value"], serde_json::json!({"base64": "AP8="}));
        assert_eq!(lines[1]["key"], serde_json::Value::Null);
        assert_eq!(lines[1]["value"], "text");
        assert_eq!(lines[2]["key"], "later");
        let last = daemon.stderr.lines().last().unwrap();
        assert!(
            last.ends_with("drained: published 3, deleted 3, left in the tables: 0 rows"),
            "{}",
            daemon.everything()
        );
        assert!(!place.path("db-outboxd").exists(), "--stdout keeps no state");
    }
}

#[test]
fn a_database_and_a_table_that_come_later_are_taken_up() {
    let place = Place::new();
    let mut daemon = stdout_run(&place.text("db"));
    daemon.wait_until("the start", |daemon| !daemon.stderr().is_empty());
    place.database("db", "CREATE TABLE users (id INTEGER PRIMARY KEY)");
    place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x')"));
    daemon.wait_until("a line", |daemon| daemon.stdout().lines().count() == 1);
}

#[test]
fn a_drain_without_kafka_is_quick_and_counts_what_is_left() {
    let place = Place::new();
    let database = place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x'), ('y')"));
    let server = format!("127.0.0.1:{}", closed_port());
    let mut daemon = Running::start(outboxd(&flags(&database, &["--bootstrap-servers", &server])));
    daemon.wait_until("the refused connection", |daemon| daemon.stderr().contains(&server));
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    let last = daemon.stderr.lines().last().unwrap();
    assert!(last.ends_with("drained: published 0, deleted 0, left in the tables: 2 rows"), "{}", daemon.everything());
    assert_eq!(rows(&place, "db"), 2);
}

#[test]
fn what_a_drain_leaves_in_flight_is_said_and_settled_by_the_next_start() {
    let kafka = FakeKafka::builder().topic("users", 1).start();
    // Stored, and never answered.
    kafka.fault("users", 0, Fault::AppendThenHang);
    let place = Place::new();
    let database = place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x'), ('y')"));
    let text = format!(
        "[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\n\
         [kafka]\nbootstrap_servers = [{:?}]\n[daemon]\ndrain_timeout_ms = 300",
        kafka.bootstrap()
    );
    let config = place.write("c.toml", &text);
    let mut daemon = Running::start(outboxd(&["run", "--config", &config]));
    daemon.wait_until("the records", |_| kafka.records("users", 0).len() == 2);
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    let last = daemon.stderr.lines().last().unwrap();
    assert!(
        last.ends_with(
            "drained: published 0, deleted 0, left in the tables: 2 rows; 2 rows are in flight, which the next start settles"
        ),
        "{}",
        daemon.everything()
    );
    let mut daemon = Running::start(outboxd(&["run", "--config", &config]));
    daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    let last = daemon.stderr.lines().last().unwrap();
    assert!(last.ends_with("drained: published 2, deleted 2, left in the tables: 0 rows"), "{}", daemon.everything());
    let said = daemon.stderr.matches("outbox users_outbox: goes to topic users, ").count();
    assert_eq!(said, 1, "{}", daemon.everything());
    assert_eq!(kafka.records("users", 0).len(), 2, "{}", daemon.everything());
    kafka.assert_no_complaints();
}

#[test]
fn a_drain_names_the_table_that_it_cannot_count() {
    let place = Place::new();
    let database = place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x'), ('y')"));
    let other = place.database("other", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('z')"));
    let server = format!("127.0.0.1:{}", closed_port());
    let outbox = |name: &str, database: &str| {
        format!("[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\nname = {name:?}\n")
    };
    let rest = format!("[kafka]\nbootstrap_servers = [{server:?}]\n[daemon]\ndrain_timeout_ms = 300");
    let text = [outbox("locked", &database), outbox("free", &other), rest].concat();
    let mut daemon = Running::start(outboxd(&["run", "--config", &place.write("c.toml", &text)]));
    daemon.wait_until("the refused connection", |daemon| daemon.stderr().contains(&server));
    let application = rusqlite::Connection::open(&database).unwrap();
    application.busy_timeout(common::PATIENCE).unwrap();
    application.execute_batch("BEGIN EXCLUSIVE").unwrap();
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    let last = daemon.stderr.lines().last().unwrap();
    assert!(
        place.neutral(last).ends_with(
            "drained: published 0, deleted 0, left in the tables: 1 row, and those of outbox locked, \
             which can't be counted now (DIR/db: locked by another process)"
        ),
        "{}",
        daemon.everything()
    );
}

#[test]
fn metrics_and_health_of_a_running_daemon() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let text = format!(
        "[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users.{{eventType}}\"\n[http]\nlisten = \"127.0.0.1:0\""
    );
    let config = place.write("c.toml", &text);
    let mut daemon = Running::start(outboxd(&["run", "--config", &config, "--stdout"]));
    daemon.wait_until("the address", |daemon| daemon.stderr().contains("listening on http://"));
    let ask = asker(&daemon);
    place.database("db", "INSERT INTO users_outbox (eventType) VALUES ('Made'), ('Gone')");
    let published = format!("outboxd_published_total{{database=\"{database}\",outbox=\"users_outbox\"}} 2\n");
    daemon.wait_until("the figures", |_| ask("/metrics").contains(&published));
    assert!(ask("/healthz").starts_with("HTTP/1.1 200 "), "{}", ask("/healthz"));
    daemon.wait_until("readiness", |_| ask("/readyz").starts_with("HTTP/1.1 200 "));
    let topics: Vec<String> = daemon
        .stdout()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["topic"].as_str().unwrap().to_owned())
        .collect();
    assert!(topics.contains(&"users.Made".to_owned()) && topics.contains(&"users.Gone".to_owned()), "{topics:?}");
}

#[test]
fn a_kafka_that_is_away_is_no_fault_of_the_database() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let kafka = format!("127.0.0.1:{}", closed_port());
    let text = format!(
        "[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\n[kafka]\nbootstrap_servers = [{kafka:?}]\n[http]\nlisten = \"127.0.0.1:0\""
    );
    let config = place.write("c.toml", &text);
    let mut daemon = Running::start(outboxd(&["run", "--config", &config]));
    daemon.wait_until("the address", |daemon| daemon.stderr().contains("listening on http://"));
    let ask = asker(&daemon);
    let says = format!("{database}: the sink has not answered yet\n");
    daemon.wait_until("what it waits for", |_| ask("/readyz").ends_with(&says));
}

/// In the command line, in the working directory, of the state file, of systemd's socket.
#[test]
fn paths_may_have_any_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    let folder = place.folder.path().join(OsStr::from_bytes(b"d\xff 100%?#"));
    std::fs::create_dir(&folder).unwrap();
    let path = folder.join(OsStr::from_bytes(b"db\xfe"));
    let sql = |sql: &str| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection.busy_timeout(common::PATIENCE).unwrap();
        connection.execute_batch(sql).unwrap();
        connection.query_row("SELECT count(*) FROM users_outbox", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    sql(&format!("PRAGMA journal_mode = WAL; {OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x')"));
    let socket = std::os::unix::net::UnixDatagram::bind(folder.join("notify")).unwrap();
    socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let run = |relative: bool, more: &[&str]| {
        let mut command = outboxd(&["run", "--table", "users_outbox", "--topic", "users"]);
        command.args(more).arg("--database").current_dir(&folder);
        if relative {
            command.arg(path.file_name().unwrap())
        } else {
            command.arg(&path)
        };
        command
    };
    for relative in [true, false] {
        let mut command = run(relative, &["--stdout"]);
        command.env("NOTIFY_SOCKET", folder.join("notify"));
        let mut daemon = Running::start(command);
        daemon.wait_until("a record", |daemon| daemon.stdout().lines().count() == 1);
        sql("INSERT INTO users_outbox (payload) VALUES ('y')");
        daemon.wait_until("another", |daemon| daemon.stdout().lines().count() == 2);
        daemon.wait_until("an empty table", |_| sql("SELECT 1") == 0);
        daemon.signal(Signal::TERM);
        let daemon = daemon.finish();
        assert!(daemon.stderr.ends_with("left in the tables: 0 rows\n"), "{}", daemon.everything());
        let mut said = [0; 4096];
        while !said.starts_with(b"READY=1") {
            said.fill(0);
            socket.recv(&mut said).unwrap();
        }
        sql("INSERT INTO users_outbox (payload) VALUES ('x')");
        let dry = Running::start(run(relative, &["--dry-run"])).finish();
        assert!(dry.stdout.contains("1 row is waiting"), "{}", dry.everything());
    }
    let kafka = FakeKafka::builder().topic("users", 1).start();
    let state = folder.join(OsStr::from_bytes(b"state\xfd"));
    let mut command = run(false, &["--bootstrap-servers", &kafka.bootstrap()]);
    command.arg("--state").arg(&state);
    let mut daemon = Running::start(command);
    daemon.wait_until("an empty table", |_| sql("SELECT 1") == 0);
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert!(daemon.status.success() && state.exists(), "{}", daemon.everything());
    assert_eq!(kafka.record_count("users"), 1);
    let mut list = outboxd(&["dead", "list", "--table", "users_outbox", "--state"]);
    list.arg(&state).arg("--database").arg(&path);
    let list = Running::start(list).finish();
    assert_eq!(list.stdout, "nothing is in quarantine\n", "{}", list.everything());
}

#[test]
fn what_is_to_be_said_of_a_table_is_said_once() {
    let place = Place::new();
    let insert = "INSERT INTO users_outbox (payload) VALUES ('x');";
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX} {insert}"));
    let mut daemon = stdout_run(&database);
    daemon.wait_until("a line", |daemon| daemon.stdout().lines().count() == 1);
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.stderr.matches("has no AUTOINCREMENT").count(), 1, "{}", daemon.everything());
}

#[test]
fn a_dry_run_shows_and_touches_nothing() {
    let place = Place::new();
    let values: Vec<String> = (1..=7).map(|n| format!("('u{n}', 'a b', 'xyz')")).collect();
    let insert = format!("INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES {};", values.join(","));
    let database = place.database("db", &format!("{OUTBOX} {insert}"));
    let before = std::fs::read(&database).unwrap();
    let dry =
        |topic: &str| run(&["run", "--database", &database, "--table", "users_outbox", "--topic", topic, "--dry-run"]);
    let finished = dry("users");
    assert_eq!(finished.status.code(), Some(0), "{}", finished.everything());
    let expected = "DIR/db users_outbox: 7 rows are waiting
  rowid 1: topic users, key \"u1\", 3 bytes
  rowid 2: topic users, key \"u2\", 3 bytes
  rowid 3: topic users, key \"u3\", 3 bytes
  rowid 4: topic users, key \"u4\", 3 bytes
  rowid 5: topic users, key \"u5\", 3 bytes
  ...
";
    assert_eq!(place.neutral(&finished.stdout), expected);
    let bad = dry("users.{eventType}");
    assert!(bad.stdout.contains("rowid 1: would be set aside: \"users.a b\" is no topic name"), "{}", bad.everything());
    assert_eq!(std::fs::read(&database).unwrap(), before);
    assert_eq!(names(place.folder.path()), ["db"]);

    // Beside a daemon, and where there is nothing yet.
    let mut daemon = stdout_run(&place.text("db"));
    daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
    let beside = dry("users");
    assert_eq!(place.neutral(&beside.stdout), "DIR/db users_outbox: nothing is waiting\n", "{}", beside.everything());
    let none = place.text("none");
    let finished = run(&["run", "--database", &none, "--table", "t", "--topic", "t", "--dry-run"]);
    assert_eq!(finished.status.code(), Some(0), "{}", finished.everything());
    assert!(finished.stdout.contains("not there yet"), "{}", finished.everything());
}

#[test]
fn a_second_signal_ends_at_once() {
    let place = Place::new();
    let database =
        place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES (zeroblob(300000))"));
    // A reader that does not read: the record can't be written, so the drain can't end by itself.
    let mut command = outboxd(&flags(&database, &["--stdout"]));
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    // One byte of it proves that the sink is writing.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    while !line.contains("draining") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "the log ended before the drain");
    }
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert_eq!(rows(&place, "db"), 1);
}

#[test]
fn a_signal_while_the_config_is_read_drains_too() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let config = place.path("c.toml");
    assert!(std::process::Command::new("mkfifo").arg(&config).status().unwrap().success());
    let daemon = Running::start(outboxd(&["run", "--config", &place.text("c.toml"), "--stdout"]));
    // Opens when the daemon has opened the other end: it reads, and nothing comes.
    let mut pipe = std::fs::File::options().write(true).open(&config).unwrap();
    daemon.signal(Signal::TERM);
    write!(pipe, "[[outbox]]\ndatabase = {database:?}\ntable = \"users_outbox\"\ntopic = \"users\"\n").unwrap();
    drop(pipe);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    assert!(daemon.stderr.contains("] drained: published 0"), "{}", daemon.everything());
}

#[test]
fn a_hangup_is_ignored_and_said() {
    let place = Place::new();
    let database = place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x')"));
    let mut daemon = stdout_run(&database);
    daemon.wait_until("a record", |daemon| daemon.stdout().lines().count() == 1);
    daemon.signal(Signal::HUP);
    daemon.wait_until("a line", |daemon| daemon.stderr().contains("SIGHUP is ignored"));
    place.database("db", "INSERT INTO users_outbox (payload) VALUES ('y')");
    daemon.wait_until("another", |daemon| daemon.stdout().lines().count() == 2);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().status.code(), Some(0));
}

/// The signal of a -shm that is gone; what takes it away is not to be had without ending whoever else maps it.
#[test]
fn a_sigbus_is_explained_before_it_ends_it() {
    use std::os::unix::process::ExitStatusExt;
    let place = Place::new();
    let database = place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x')"));
    let mut daemon = stdout_run(&database);
    daemon.wait_until("a record", |daemon| daemon.stdout().lines().count() == 1);
    daemon.signal(Signal::BUS);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.signal(), Some(Signal::BUS.as_raw()), "{}", daemon.everything());
    let says = "outboxd ends with SIGBUS: the database's -shm file was truncated or overwritten by another program (";
    assert_eq!(daemon.stderr.matches(says).count(), 1, "{}", daemon.everything());
}

#[test]
fn a_file_that_may_not_grow_is_an_error_and_no_end() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let place = Place::new();
    let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX}"));
    let application = rusqlite::Connection::open(&database).unwrap();
    let mut daemon = stdout_run(&database);
    application.execute("INSERT INTO users_outbox (payload) VALUES ('x')", []).unwrap();
    daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
    let pid = Pid::from_raw(daemon.pid().cast_signed()).unwrap();
    let before = prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(1), maximum: None }).unwrap();
    application.execute("INSERT INTO users_outbox (payload) VALUES ('y')", []).unwrap();
    daemon.wait_until("the failed delete", |daemon| daemon.stderr().contains("sent rows could not be deleted"));
    prlimit(Some(pid), Resource::Fsize, before).unwrap();
    daemon.wait_until("an empty table", |_| rows(&place, "db") == 0);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().status.code(), Some(0));
}

#[test]
fn the_limit_on_open_files_is_raised() {
    let place = Place::new();
    let database = place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x')"));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", "ulimit -Sn 256 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_outboxd"), "run", "--stdout"]);
    command.args(["--database", &database, "--table", "users_outbox", "--topic", "users"]).env_remove("RUST_LOG");
    let mut daemon = Running::start(command);
    daemon.wait_until("a record", |daemon| daemon.stdout().lines().count() == 1);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    assert!(words[3] != "256" && words[3] == words[4], "{line}");
}

/// A configuration with so many databases, each with a row, and their paths.
fn many_databases(place: &Place, count: usize) -> (String, Vec<String>) {
    place.database("0", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x')"));
    let paths: Vec<String> = (0..count).map(|number| place.text(&number.to_string())).collect();
    for path in &paths[1..] {
        std::fs::copy(&paths[0], path).unwrap();
    }
    let outbox = |path: &String| {
        format!("[[outbox]]\ndatabase = {path:?}\ntable = \"users_outbox\"\nname = {path:?}\ntopic = \"users\"\n")
    };
    let outboxes: Vec<String> = paths.iter().map(outbox).collect();
    (place.write("c.toml", &outboxes.concat()), paths)
}

fn with_open_files(limit: &str, config: &str) -> Running {
    let mut command = std::process::Command::new("sh");
    let script = format!("ulimit {limit} && exec \"$0\" \"$@\"");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_outboxd"), "run", "--stdout", "--config", config]);
    command.env_remove("RUST_LOG").env_remove("STATE_DIRECTORY").env_remove("NOTIFY_SOCKET");
    Running::start(command)
}

#[test]
fn two_hundred_databases_share_an_inotify_and_the_thread_that_reads_it() {
    let place = Place::new();
    let (config, databases) = many_databases(&place, 200);
    // systemd's soft limit.
    let mut daemon = with_open_files("-Sn 1024", &config);
    let lines = |daemon: &Running, wanted: usize| daemon.stdout().lines().count() == wanted;
    daemon.wait_until("a record of each", |daemon| lines(daemon, databases.len()));
    for path in &databases {
        let application = rusqlite::Connection::open(path).unwrap();
        application.busy_timeout(common::PATIENCE).unwrap();
        application.execute_batch("PRAGMA synchronous = OFF; INSERT INTO users_outbox (payload) VALUES ('y')").unwrap();
    }
    daemon.wait_until("another of each", |daemon| lines(daemon, 2 * databases.len()));
    let proc = format!("/proc/{}", daemon.pid());
    let files = std::fs::read_dir(format!("{proc}/fd")).unwrap();
    let leads_to_inotify =
        |file: &std::fs::DirEntry| std::fs::read_link(file.path()).is_ok_and(|to| to.ends_with("anon_inode:inotify"));
    assert_eq!(files.filter_map(Result::ok).filter(leads_to_inotify).count(), 1);
    let threads = std::fs::read_dir(format!("{proc}/task")).unwrap();
    let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm")).unwrap_or_default();
    let others: Vec<String> = threads.map(|thread| name(thread.unwrap())).filter(|name| name != "relay\n").collect();
    assert!(others.len() < 10, "beside a relay for each database: {others:?}");
    daemon.signal(Signal::TERM);
    let daemon = daemon.finish();
    assert_eq!(daemon.status.code(), Some(0), "{}", daemon.everything());
    for word in ["open files", "inotify", "watched"] {
        assert!(!daemon.stderr.contains(word), "{}", daemon.everything());
    }
}

#[test]
fn a_limit_on_open_files_that_is_too_low_is_named_before_it_is_met() {
    let (place, few) = (Place::new(), Place::new());
    let (config, _) = many_databases(&place, 60);
    let daemon = with_open_files("-n 100", &config).finish();
    assert_eq!(daemon.status.code(), Some(1), "{}", daemon.everything());
    let says = "this process may open 100 files, and 60 databases may need 424 (hint: LimitNOFILE=424 in the unit";
    assert!(daemon.stderr.contains(says), "{}", daemon.everything());
    assert!(daemon.stderr.contains("Too many open files (os error 24)"), "{}", daemon.everything());
    assert!(daemon.stderr.contains("Hint: raise the limit on open files: LimitNOFILE="), "{}", daemon.everything());
    // Said, and no reason not to try.
    let (config, databases) = many_databases(&few, 8);
    let mut daemon = with_open_files("-n 100", &config);
    daemon.wait_until("the records", |daemon| daemon.stdout().lines().count() == databases.len());
    assert!(daemon.stderr().contains("8 databases may need 112"), "{}", daemon.stderr());
}

/// As a user has 128 of them, and other programs too.
#[test]
fn without_an_inotify_instance_it_works_on_and_says_what_to_raise() {
    if std::env::var_os("OUTBOXD_SKIP_PTRACE").is_some() {
        let _ = writeln!(std::io::stderr(), "SKIPPED: needs strace (OUTBOXD_SKIP_PTRACE=1)");
        return;
    }
    for (call, errno, says) in [
        (
            "inotify_init1",
            "EMFILE",
            "no inotify, so commits are noticed once a second only, in all 3 databases: this user's",
        ),
        (
            "inotify_add_watch",
            "ENOSPC",
            "can't be watched, and those of 2 databases more; commits there are noticed once a second",
        ),
    ] {
        let place = Place::new();
        let (config, databases) = many_databases(&place, 3);
        let mut command = std::process::Command::new("strace");
        command.args(["-f", "-qq", "--seccomp-bpf", "-o", "/dev/null", "-e", &format!("trace={call}")]);
        command.args(["-e", &format!("inject={call}:error={errno}"), env!("CARGO_BIN_EXE_outboxd")]);
        command.args(["run", "--stdout", "--config", &config]).env_remove("RUST_LOG").env_remove("NOTIFY_SOCKET");
        let mut daemon = Running::start(command);
        let lines = |daemon: &Running, wanted: usize| daemon.stdout().lines().count() == wanted;
        daemon.wait_until("a record of each", |daemon| lines(daemon, 3));
        daemon.wait_until("a line", |daemon| daemon.stderr().contains(says));
        for path in &databases {
            place.database(path, "INSERT INTO users_outbox (payload) VALUES ('y')");
        }
        daemon.wait_until("another of each", |daemon| lines(daemon, 6));
        let said = daemon.stderr();
        assert_eq!(said.matches("sysctl -w fs.inotify.max_user_").count(), 1, "{said}");
        // strace passes a signal on to nobody, and the daemon is its child.
        let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
        let child = std::fs::read_to_string(children).unwrap().trim().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), Signal::TERM).unwrap();
        daemon.finish();
    }
}

#[test]
fn a_stderr_that_nobody_reads_stops_nothing() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let (mut log, mut full) = std::io::pipe().unwrap();
    rustix::io::ioctl_fionbio(&full, true).unwrap();
    while full.write(b"x\n").is_ok() {}
    rustix::io::ioctl_fionbio(&full, false).unwrap();
    let mut command = outboxd(&flags(&database, &["--stdout"]));
    command.env("RUST_LOG", "debug").stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(full);
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
    let (line, printed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        while std::io::BufRead::read_line(&mut out, &mut text).is_ok_and(|read| read > 0) {
            let _ = line.send(std::mem::take(&mut text));
        }
    });
    for _ in 0..3 {
        place.database("db", "INSERT INTO users_outbox (payload) VALUES ('x')");
        if let Err(error) = printed.recv_timeout(common::PATIENCE) {
            child.kill().unwrap();
            panic!("no record: {error}");
        }
    }
    // Somebody reads again.
    let (text, read) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut all = String::new();
        let _ = log.read_to_string(&mut all);
        let _ = text.send(all);
    });
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let all = read.recv_timeout(common::PATIENCE).unwrap();
    assert!(all.contains(" records are missing here: nobody read stderr\n"), "{}", all.replace("x\n", ""));
    assert!(all.contains("] drained: published 3"), "{}", all.replace("x\n", ""));
}

#[test]
fn a_reader_that_goes_away_ends_it() {
    let place = Place::new();
    let database = place.database("db", &format!("{OUTBOX} INSERT INTO users_outbox (payload) VALUES ('x')"));
    let mut command = outboxd(&flags(&database, &["--stdout"]));
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let mut log = String::new();
    child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{log}");
    let report = "Error: the records can't be written any more
Caused by: Broken pipe (os error 32)
Hint: the rest stays in the table; start it again with a reader that stays
";
    assert!(log.ends_with(report), "{log}");
    assert_eq!(rows(&place, "db"), 1);
}

#[test]
fn what_a_kill_left_is_told_and_other_databases_plans_are_kept() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let state = outboxd::state::StateFile::open(&place.path("db-outboxd"), outboxd::model::RunId(1)).unwrap();
    leave_a_plan(&place, &state, "db", 1);
    leave_a_plan(&place, &state, "other", 1);
    drop(state);
    let server = format!("127.0.0.1:{}", closed_port());
    let mut daemon = Running::start(outboxd(&flags(&database, &["--bootstrap-servers", &server])));
    daemon.wait_until("both notices", |daemon| daemon.stderr().contains("1 batches with 1 rows"));
    let log = place.neutral(&daemon.stderr());
    let ours = "DIR/db: an earlier run left 1 batches with 1 rows in flight: 0 stored and deleted now, 1 deleted already, 0 asked of Kafka, 0 sent again";
    let others = "DIR/other: an earlier run left 1 rows for users-2 in flight, and this database is no longer configured; the plan is kept";
    assert!(log.contains(ours) && log.contains(others), "{log}");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.finish().status.code(), Some(0));
    let state = outboxd::state::StateFile::open(&place.path("db-outboxd"), outboxd::model::RunId(2)).unwrap();
    let left: Vec<_> = state.open_plans().unwrap().into_iter().map(|plan| plan.database).collect();
    assert_eq!(left, [place.path("other")]);
}

#[test]
fn systemd_is_told_ready_watchdog_and_stopping() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let socket = std::os::unix::net::UnixDatagram::bind(place.path("notify")).unwrap();
    socket.set_read_timeout(Some(common::PATIENCE)).unwrap();
    let mut command = outboxd(&flags(&database, &["--stdout"]));
    command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "300000");
    let daemon = Running::start(command);
    let until = |what: &str| {
        let mut bytes = [0; 4096];
        loop {
            let length = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{what} was not told: {error}"));
            let said = String::from_utf8_lossy(&bytes[..length]).into_owned();
            if said.lines().any(|line| line == what) {
                return said;
            }
        }
    };
    let ready = until("READY=1");
    assert!(ready.contains("STATUS=published 0, waiting"), "{ready}");
    until("WATCHDOG=1");
    daemon.signal(Signal::TERM);
    until("STOPPING=1");
    assert_eq!(daemon.finish().status.code(), Some(0));
}

/// A sync that takes longer than a loop may stand still, played by a step inside of a delete, is no reason to be killed. A loop that
/// stands still for itself is.
#[cfg(feature = "testing")]
#[test]
fn the_watchdog_waits_for_a_disk_and_not_for_a_loop_that_hangs() {
    use std::sync::{Arc, Mutex};
    let watched = |label: &str, says: &str, is_fed: bool| {
        let place = Place::new();
        let insert = "INSERT INTO users_outbox (payload) VALUES ('x');";
        let database = place.database("db", &format!("PRAGMA journal_mode = WAL; {OUTBOX} {insert}"));
        let socket = std::os::unix::net::UnixDatagram::bind(place.path("notify")).unwrap();
        let mut command = outboxd(&flags(&database, &["--stdout"]));
        command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "300000");
        command.env("FAILPOINTS", format!("{label}=1*sleep(600000)"));
        let fed = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&fed);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length) = socket.recv(&mut bytes) {
                *counter.lock().unwrap() += String::from_utf8_lossy(&bytes[..length]).matches("WATCHDOG=1").count();
            }
        });
        let fed = || *fed.lock().unwrap();
        let mut daemon = Running::start(command);
        daemon.wait_until(says, |daemon| daemon.stderr().contains(says));
        let before = fed();
        assert!(before > 0, "{label}: fed while all was well");
        if is_fed {
            daemon.wait_until("more for the watchdog", |_| fed() > before + 3);
        } else {
            daemon.wait_until("more of it", |daemon| daemon.stderr().matches(says).count() > 3);
            assert!(fed() <= before + 1, "{label}: one may have been on its way");
        }
        daemon.signal(Signal::KILL);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| watched("deleting", "db: waiting for a disk for ", true));
        scope.spawn(|| watched("synced", "the watchdog is not fed: ", false));
    });
}

#[test]
fn the_journal_gets_priorities() {
    use std::os::unix::fs::MetadataExt;
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let log = std::fs::File::create(place.path("log")).unwrap();
    let meta = log.metadata().unwrap();
    let mut command = outboxd(&flags(&database, &["--stdout"]));
    command.env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino())).stderr(log);
    let mut child = command.spawn().unwrap();
    // Signals are listened for before anything else starts, and the database is locked after that.
    let until = std::time::Instant::now() + common::PATIENCE;
    while run(&["run", "--database", &database, "--table", "users_outbox", "--topic", "t", "--dry-run"])
        .status
        .success()
        && !std::fs::read_to_string("/proc/locks").unwrap().contains(&format!(" {} ", child.id()))
    {
        assert!(std::time::Instant::now() < until, "the database is not locked");
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let text = std::fs::read_to_string(place.path("log")).unwrap();
    assert!(text.contains("<6>SIGTERM\n"), "{text}");
    assert!(text.lines().all(|line| line.starts_with('<')), "{text}");
}

#[test]
fn the_demo_shows_the_way_and_leaves_nothing() {
    let place = Place::new();
    let mut command = outboxd(&["demo"]);
    command.env("TMPDIR", place.folder.path());
    let finished = Running::start(command).finish();
    assert_eq!(finished.status.code(), Some(0), "{}", finished.everything());
    assert_eq!(finished.stdout.matches("Received packet: ").count(), 10, "{}", finished.everything());
    let last = finished.stdout.lines().last().unwrap();
    assert_eq!(
        last,
        "10 users signed up, 10 packets received, 0 rows left in users_outbox.",
        "{}",
        finished.everything()
    );
    assert_eq!(names(place.folder.path()), [""; 0]);
}

#[test]
fn an_interrupted_demo_cleans_up() {
    let place = Place::new();
    let mut command = outboxd(&["demo"]);
    command.env("TMPDIR", place.folder.path());
    let mut demo = Running::start(command);
    demo.wait_until("a packet", |demo| demo.stdout().contains("Received packet: "));
    demo.signal(Signal::INT);
    let finished = demo.finish();
    assert_eq!(finished.status.code(), Some(0), "{}", finished.everything());
    assert_eq!(names(place.folder.path()), [""; 0]);
}

#[test]
fn the_unit_file_is_understood_by_systemd() {
    let unit = include_str!("../../systemd/outboxd.service");
    assert!(unit.contains("ExecStart=/usr/bin/outboxd run\n"));
    // It is started again however often it fails, with a right clock, and with descriptors for hundreds of databases.
    for line in ["StartLimitIntervalSec=0", "After=network-online.target time-sync.target", "LimitNOFILE=524288"] {
        assert!(unit.lines().any(|it| it == line), "{line}");
    }
    let place = Place::new();
    // systemd wants the program to be there.
    let path = place.write("outboxd.service", &unit.replace("/usr/bin/outboxd", "/bin/true"));
    let mut verify = std::process::Command::new("systemd-analyze");
    let verified =
        verify.args(["verify", "--man=no", &path]).output().expect("systemd-analyze is needed for this test");
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.is_empty(), "{}: {said}", verified.status);
}

/// As docs/operating.md says it: the application stopped, its -wal gone, outboxd running.
#[test]
fn a_database_replaced_while_the_application_is_stopped_keeps_its_contents() {
    const EVENT: &str = "INSERT INTO users_outbox (aggregateId, payload) VALUES";
    let place = Place::new();
    let users = |count: usize, name: &str| {
        format!(
            "CREATE TABLE users (name); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{count})
             INSERT INTO users SELECT '{name}' FROM n;"
        )
    };
    for mode in ["WAL", "DELETE"] {
        for way in ["rename", "symlink", "restore"] {
            let name = |kind: &str| format!("{kind}-{mode}-{way}");
            let make = |name: &str, count, label: &str| {
                place.database(name, &format!("PRAGMA journal_mode = {mode}; {OUTBOX} {}", users(count, label)))
            };
            let (old, new) = (make(&name("old"), 3_000, "old"), make(&name("new"), 9_000, "new"));
            place.database(&name("new"), &format!("{EVENT} (1, '{way} first'), (2, '{way} second')"));
            let database = if way == "symlink" { place.text(&name("link")) } else { old.clone() };
            if way == "symlink" {
                std::os::unix::fs::symlink(&old, &database).unwrap();
            }
            place.database(&name("old"), &format!("{EVENT} (6, 'first of all')"));
            let mut daemon = stdout_run(&database);
            daemon.wait_until("the first event", |daemon| daemon.stdout().contains("first of all"));
            place.database(&name("old"), &format!("INSERT INTO users VALUES ('old'); {EVENT} (7, 'before')"));
            daemon.wait_until("its event", |daemon| daemon.stdout().contains("before"));
            let log = place.path(&format!("{}-wal", name("old")));
            daemon.wait_until("no -wal", |_| !log.exists());
            match way {
                "rename" => std::fs::rename(&new, &old).unwrap(),
                "symlink" => {
                    std::os::unix::fs::symlink(&new, place.path("turned")).unwrap();
                    std::fs::rename(place.path("turned"), &database).unwrap();
                }
                _ => {
                    let restore = format!(".restore {new}");
                    let shell = std::process::Command::new("sqlite3").args([&old, ".timeout 30000", &restore]).output();
                    assert!(shell.as_ref().is_ok_and(|output| output.status.success()), "{shell:?}");
                }
            }
            let connection = rusqlite::Connection::open(&database).unwrap();
            connection.busy_timeout(common::PATIENCE).unwrap();
            let text = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
            assert_eq!(text("PRAGMA integrity_check"), "ok", "{mode} {way}");
            assert_eq!(text("SELECT count(*) || ' ' || min(name) || ' ' || max(name) FROM users"), "9000 new new");
            daemon.wait_until("the new one's events", |daemon| {
                daemon.stdout().contains(&format!("{way} first")) && daemon.stdout().contains(&format!("{way} second"))
            });
            daemon.wait_until("their deletes", |_| text("SELECT count(*) || '' FROM users_outbox") == "0");
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.finish().status.code(), Some(0));
        }
    }
}
