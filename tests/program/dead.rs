//! `outboxd dead` as an operator uses it: the real binary, on state files that a daemon could have left, or that one works with.

use crate::common::{self, Finished, Place, closed_port, run};
use outboxd::model::{
    Action, Budget, Fault, Fingerprint, Flow, Guard, Origin, OutboxIx, Quarantined, RowKey, RunId, Start,
    TableIdentity, Why,
};
use outboxd::ports::{Change, Journal, Source};
use outboxd::source::{Database, DatabaseOptions, Durability, OutboxSpec};
use outboxd::state::StateFile;
use std::path::Path;
use std::time::{Duration, SystemTime};

const TABLES: [&str; 2] = ["users_outbox", "orders_outbox"];
const SCHEMA: &str = "
    CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload);
    CREATE TABLE orders_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, payload);
    INSERT INTO users_outbox VALUES (1, 'a', 'created', '{}'), (2, 'b', NULL, 'x''x'), (3, 'c', 'created', NULL);
    INSERT INTO orders_outbox VALUES (2, 'o', 'ordered', 'two'), (-7, 'o', 'ordered', 'minus seven');";

/// A database with rows, and a state file in which some are quarantined.
struct Scene {
    place: Place,
    database: String,
}

impl Scene {
    fn new() -> Scene {
        let place = Place::new();
        let database = place.database("db", SCHEMA);
        let scene = Scene { place, database };
        let state = scene.open();
        let rows = [
            scene.dead(0, 1, Fault::Rejected, "users-0: the record is too large"),
            scene.dead(0, 2, Fault::Unroutable, "column eventType is NULL and the topic is made from it"),
            scene.dead(1, 2, Fault::Rejected, "orders-3: bad\nrecord"),
            scene.dead(1, -7, Fault::Undeletable, "a trigger keeps it"),
        ];
        let columns = ["id", "aggregateId", "eventType", "payload"].map(str::to_owned).to_vec();
        let guard = Guard { columns, sent: 4, by_value: true };
        let mut changes: Vec<_> = rows.iter().map(Change::Quarantined).collect();
        let identities = TABLES.map(|table| seen(&scene.database, table, i64::MIN).1);
        let tables = identities.iter().zip(0..);
        changes.extend(tables.map(|(identity, ix)| Change::Table { outbox: OutboxIx(ix), guard: &guard, identity }));
        state.journal(&scene.resolved(), &TABLES).unwrap().record(&changes, true).unwrap();
        scene
    }

    fn resolved(&self) -> std::path::PathBuf {
        Path::new(&self.database).canonicalize().unwrap()
    }

    fn open(&self) -> StateFile {
        StateFile::open(&self.place.path("db-outboxd"), RunId(1)).unwrap()
    }

    /// With the fingerprint of the row as it is now.
    fn dead(&self, outbox: u16, rowid: i64, fault: Fault, text: &str) -> Quarantined {
        let first = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let why = Why::new(text);
        let why = if fault == Fault::Rejected { why.code(10).hint("raise max.message.bytes") } else { why };
        Quarantined {
            key: RowKey { outbox: OutboxIx(outbox), rowid },
            print: seen(&self.database, TABLES[usize::from(outbox)], rowid).0,
            fault,
            why,
            attempts: 3,
            first,
            last: first + Duration::from_secs(61),
        }
    }

    fn config(&self, more: &str) -> String {
        let outbox = |table: &str, more: &str| {
            format!("[[outbox]]\ndatabase = \"{}\"\ntable = \"{table}\"\ntopic = \"t\"\n{more}\n", self.database)
        };
        let text = format!(
            "{}{}[kafka]\nbootstrap_servers = [\"127.0.0.1:{}\"]\n",
            outbox("users_outbox", &format!("name = \"users\"\n{more}")),
            outbox("orders_outbox", more),
            closed_port()
        );
        self.place.write("c.toml", &text)
    }

    fn state(&self) -> String {
        self.place.text("db-outboxd")
    }

    /// (table, rowid) of what is in quarantine, by table and rowid.
    fn left(&self) -> Vec<(String, i64)> {
        let visitor = outboxd::state::Visitor::reading(&self.place.path("db-outboxd")).unwrap();
        visitor.quarantine().unwrap().into_iter().map(|entry| (entry.table, entry.rowid)).collect()
    }

    fn rows(&self, table: &str) -> Vec<i64> {
        let connection = rusqlite::Connection::open(&self.database).unwrap();
        let mut statement = connection.prepare(&format!("SELECT id FROM {table} ORDER BY id")).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn expect(&self, finished: &Finished, code: i32, stdout: &str, stderr: &str) {
        let (found_out, found) = (self.place.neutral(&finished.stdout), self.place.neutral(&finished.stderr));
        assert!(
            (finished.status.code(), found_out.as_str(), found.as_str()) == (Some(code), stdout, stderr),
            "expected exit code {code}, on stdout:\n{stdout}\non stderr:\n{stderr}\nbut:\n{}",
            finished.everything()
        );
    }
}

/// The first row from this rowid on, and its table.
fn seen(database: &str, table: &str, rowid: i64) -> (Fingerprint, TableIdentity) {
    let options = DatabaseOptions {
        path: database.into(),
        durability: Durability::Commit,
        foreign_keys: false,
        secure_delete: false,
        bookkeeping: false,
    };
    let names = ["id", "aggregateId", "eventType", "payload", "aggregateId"];
    let mut fields: Vec<Option<String>> = names.into_iter().map(|name| Some(name.to_owned())).collect();
    fields.push(None);
    let spec = OutboxSpec { name: table.into(), table: table.into(), fields };
    let mut source = Database::open_read_only(options, vec![spec]);
    let mut print = None;
    let budget = Budget { rows: 1, time: Duration::from_secs(1), before: None };
    source
        .look(OutboxIx(0), Start::From(rowid), budget, &mut |row| {
            print = Some(row.print);
            Flow::Continue
        })
        .unwrap();
    (print.unwrap(), source.traits(OutboxIx(0)).unwrap().identity)
}

const NOTHING: &str = "nothing is in quarantine\n";

#[test]
fn what_is_there_is_listed() {
    let scene = Scene::new();
    let config = scene.config("");
    scene.expect(
        &run(&["dead", "list", "--config", &config]),
        0,
        "OUTBOX         ROWID  ATTEMPTS  FIRST                 LAST                  REASON
orders_outbox     -7         3  2023-11-14T22:13:20Z  2023-11-14T22:14:21Z  undeletable: a trigger keeps it
orders_outbox      2         3  2023-11-14T22:13:20Z  2023-11-14T22:14:21Z  rejected: orders-3: bad record
users              1         3  2023-11-14T22:13:20Z  2023-11-14T22:14:21Z  rejected: users-0: the record is too large
users              2         3  2023-11-14T22:13:20Z  2023-11-14T22:14:21Z  unroutable: column eventType is NULL and the topic is made from it
",
        "",
    );
    let json = run(&["dead", "list", "--json", "--outbox", "users", "--config", &config]);
    let lines: Vec<serde_json::Value> =
        json.stdout.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(lines.len(), 2, "{}", json.everything());
    let expected = serde_json::json!({
        "outbox": "users", "database": scene.resolved().display().to_string(), "table": "users_outbox", "rowid": 1,
        "fault": "rejected", "reason": "users-0: the record is too large", "hint": "raise max.message.bytes", "code": 10,
        "attempts": 3, "first": "2023-11-14T22:13:20Z", "last": "2023-11-14T22:14:21Z",
    });
    assert_eq!(lines[0], expected);
    assert_eq!(lines[1]["code"], serde_json::Value::Null);
    // By the flags of `run`, and by the state file alone: the names are then the tables'.
    let by_flags = run(&["dead", "list", "--database", &scene.database, "--table", "users_outbox"]);
    let by_state = run(&["dead", "list", "--state", &scene.state()]);
    assert_eq!(by_flags.stdout, by_state.stdout, "{}", by_flags.everything());
    assert!(by_state.stdout.contains("\nusers_outbox       1 "), "{}", by_state.everything());
    assert_eq!(common::names(scene.place.folder.path()), ["c.toml", "db", "db-outboxd"], "looking makes no file");
}

#[test]
fn a_database_behind_a_turned_symlink_keeps_its_names() {
    let scene = Scene::new();
    let (next, link) = (scene.place.database("next", SCHEMA), scene.place.path("link"));
    // As a daemon leaves it that has found `db` at its start, and followed the link.
    let file = outboxd::source::file_id(Path::new(&next)).unwrap().unwrap();
    let state = scene.open();
    let mut journal = state.journal(&scene.resolved(), &TABLES).unwrap();
    journal.reads_from(Some(Origin { file, log: None }));
    journal.record(&[], false).unwrap();
    drop((journal, state));
    std::os::unix::fs::symlink(&next, &link).unwrap();
    let scene = Scene { database: link.display().to_string(), ..scene };
    let (config, state) = (scene.config(""), scene.state());
    let dead =
        |arguments: &[&str]| run(&[&["dead"][..], arguments, &["--config", &config, "--state", &state]].concat());
    let listed = dead(&["list"]);
    assert!(listed.stdout.contains("\nusers              1 "), "{}", listed.everything());
    // The row that is shown and deleted is that of the file that is there now.
    let shown = dead(&["show", "1", "--outbox", "users"]);
    assert!(shown.stdout.contains("is there, as it was quarantined"), "{}", shown.everything());
    let discarded = dead(&["discard", "1", "--outbox", "users"]);
    assert_eq!(discarded.stdout, "users rowid 1: is deleted\n", "{}", discarded.everything());
    assert_eq!(scene.rows("users_outbox"), [2, 3]);
}

#[test]
fn a_state_file_of_the_first_version_has_nothing_in_quarantine() {
    let place = Place::new();
    let state = place.database(
        "old",
        "CREATE TABLE meta (id INTEGER PRIMARY KEY); PRAGMA application_id = 0x6f757462; PRAGMA user_version = 1;",
    );
    let listed = run(&["dead", "list", "--state", &state]);
    assert_eq!((listed.status.code(), listed.stdout.as_str()), (Some(0), NOTHING), "{}", listed.everything());
}

#[test]
fn one_is_shown_with_the_row_as_it_is() {
    let scene = Scene::new();
    let config = scene.config("");
    let show = |rowid: &str, outbox: &str| run(&["dead", "show", rowid, "--outbox", outbox, "--config", &config]);
    scene.expect(
        &show("1", "users"),
        0,
        "outbox        users
database      DIR/db
table         users_outbox
rowid         1
fault         rejected
reason        users-0: the record is too large
Kafka's code  10
hint          raise max.message.bytes
attempts      3
first         2023-11-14T22:13:20Z
last          2023-11-14T22:14:21Z
row           is there, as it was quarantined
key           a
event type    created
payload       2 bytes: {}
",
        "",
    );
    scene.place.database("db", "UPDATE orders_outbox SET payload = printf('%.*c', 5000, 'x') WHERE id = -7; DELETE FROM users_outbox WHERE id = 2");
    let changed = show("-7", "orders_outbox").stdout;
    let payload = format!("payload       5000 bytes: {}...\n", "x".repeat(200));
    assert!(
        changed.contains("not what was quarantined: as it is now it is sent\n") && changed.ends_with(&payload),
        "{changed}"
    );
    let gone = show("2", "users").stdout;
    assert!(gone.ends_with("\nrow           is gone\n"), "{gone}");
    // Columns that came later change no fingerprint.
    scene.place.database("db", "ALTER TABLE users_outbox ADD COLUMN later DEFAULT 7");
    let widened = show("1", "users").stdout;
    assert!(widened.contains("row           is there, as it was quarantined\n"), "{widened}");
    // Without a config, by the state file.
    let alone = run(&["dead", "show", "1", "--state", &scene.state()]);
    assert!(alone.stdout.contains("payload       2 bytes: {}\n"), "{}", alone.everything());
    std::fs::remove_file(&scene.database).unwrap();
    let without = show("1", "users").stdout;
    assert!(
        without.contains(
            "\nrow           is gone: DIR/db does not exist yet\n"
                .replace("DIR", &scene.place.folder.path().display().to_string())
                .as_str()
        ),
        "{without}"
    );
}

#[test]
fn mistakes_are_named() {
    let scene = Scene::new();
    let config = scene.config("");
    let before = (scene.left(), scene.rows("users_outbox"));
    let there = "there are: of orders_outbox: -7, 2; of users: 1, 2";
    for command in [&["show", "9"][..], &["retry", "1", "9"], &["discard", "9"]] {
        let arguments: Vec<&str> = [&["dead"], command, &["--config", &config]].concat();
        scene.expect(&run(&arguments), 2, "", &format!("Error: no row with rowid 9 is in quarantine\nHint: {there}\n"));
    }
    scene.expect(
        &run(&["dead", "retry", "2", "--config", &config]),
        2,
        "",
        "Error: rows with rowid 2 of several outboxes are in quarantine: orders_outbox, users\nHint: say which: --outbox \"orders_outbox\"\n",
    );
    scene.expect(
        &run(&["dead", "list", "--outbox", "users2", "--config", &config]),
        2,
        "",
        &format!("Error: no row of outbox users2 is in quarantine\nHint: {there}\n"),
    );
    let state = scene.place.text("none");
    scene.expect(
        &run(&["dead", "retry", "--all", "--state", &state]),
        2,
        "",
        "Error: there is no state file DIR/none\nHint: outboxd makes it at its first start; that of the systemd service is named with `--state /var/lib/outboxd/state.db`\n",
    );
    assert!(!scene.place.path("none").exists());
    scene.expect(
        &run(&["dead", "discard", "1", "--state", &scene.state()]),
        2,
        "",
        "Error: no outboxd runs, and how rows are deleted is in the configuration\nHint: name it: --config FILE, or --database DIR/db --table users_outbox\n",
    );
    let database = scene.place.database("other", SCHEMA);
    scene.expect(
        &run(&["dead", "discard", "1", "--database", &database, "--table", "users_outbox", "--state", &scene.state()]),
        2,
        "",
        "Error: users_outbox of DIR/db is not in the configuration, which says how its rows are deleted\nHint: name it: --config FILE, or --database DIR/db --table users_outbox\n",
    );
    scene.expect(
        &run(&["dead", "list", "--state", &database]),
        2,
        "",
        "Error: DIR/other is a database, but not a state file of outboxd\nHint: name another file with [state] path, or with `--state FILE`; it is made when it is not there\n",
    );
    for arguments in [&["dead"][..], &["dead", "retry"], &["dead", "retry", "1", "--all"], &["dead", "show"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    assert_eq!((scene.left(), scene.rows("users_outbox")), before, "nothing was done");
}

#[test]
fn without_a_daemon_a_retry_takes_the_entry_away() {
    let scene = Scene::new();
    let config = scene.config("");
    scene.expect(
        &run(&["dead", "retry", "1", "1", "--config", &config]),
        0,
        "users rowid 1: is sent again when outboxd starts\n",
        "",
    );
    assert_eq!(scene.left(), [("orders_outbox".into(), -7), ("orders_outbox".into(), 2), ("users_outbox".into(), 2)]);
    assert_eq!(scene.rows("users_outbox"), [1, 2, 3]);
    // By the state file alone, all of one outbox.
    scene.expect(
        &run(&["dead", "retry", "--all", "--outbox", "users_outbox", "--state", &scene.state()]),
        0,
        "users_outbox rowid 2: is sent again when outboxd starts\n",
        "",
    );
    // A published row is not made ready to be sent again.
    scene.expect(
        &run(&["dead", "retry", "--all", "--config", &config]),
        0,
        "orders_outbox rowid -7: is deleted\norders_outbox rowid 2: is sent again when outboxd starts\n",
        "",
    );
    assert_eq!((scene.left(), scene.rows("orders_outbox")), (Vec::new(), vec![2]));
    scene.expect(&run(&["dead", "retry", "--all", "--config", &config]), 0, NOTHING, "");
}

#[test]
fn without_a_daemon_a_discard_deletes_the_row() {
    for mode in ["WAL", "DELETE"] {
        let scene = Scene::new();
        scene.place.database("db", &format!("PRAGMA journal_mode = {mode}"));
        let config = scene.config("");
        scene.expect(&run(&["dead", "discard", "1", "--config", &config]), 0, "users rowid 1: is deleted\n", "");
        assert_eq!(scene.rows("users_outbox"), [2, 3]);
        scene.place.database(
            "db",
            "UPDATE users_outbox SET payload = 'new' WHERE id = 2; DELETE FROM orders_outbox WHERE id = 2;
             CREATE TRIGGER keep BEFORE DELETE ON orders_outbox BEGIN SELECT RAISE(IGNORE); END;",
        );
        scene.expect(
            &run(&["dead", "discard", "--all", "--config", &config]),
            1,
            "orders_outbox rowid 2: was gone already
orders_outbox rowid -7: a trigger or a constraint keeps it from being deleted
users rowid 2: is not what was quarantined any more; as it is now it is sent when outboxd starts
",
            "Error: discard: 2 of 3 could not be done\nHint: see how they are now: outboxd dead list\n",
        );
        assert_eq!(scene.left(), [("orders_outbox".into(), -7)], "{mode}: published and still there");
        assert_eq!((scene.rows("users_outbox"), scene.rows("orders_outbox")), (vec![2, 3], vec![-7]));
        scene.expect(
            &run(&["dead", "retry", "-7", "--config", &config]),
            1,
            "",
            "Error: orders_outbox rowid -7: a trigger or a constraint keeps it from being deleted\nHint: see how it is now: outboxd dead list\n",
        );
        scene.place.database("db", "DROP TRIGGER keep");
        scene.expect(
            &run(&["dead", "discard", "-7", "--config", &config]),
            0,
            "orders_outbox rowid -7: is deleted\n",
            "",
        );
        assert_eq!((scene.left(), scene.rows("orders_outbox")), (Vec::new(), Vec::new()));
    }
}

#[test]
fn a_database_that_another_outboxd_holds_is_left_alone() {
    let scene = Scene::new();
    let config = scene.config("");
    // The same database, another state file.
    let server = format!("127.0.0.1:{}", closed_port());
    let other = scene.place.text("other-state");
    let arguments =
        ["run", "--database", &scene.database, "--table", "users_outbox", "--topic", "t", "--state", &other];
    let mut daemon =
        common::Running::start(common::outboxd(&[&arguments[..], &["--bootstrap-servers", &server]].concat()));
    daemon.wait_until("the start", |daemon| daemon.stderr().contains("state file: "));
    let pid = daemon.pid();
    scene.expect(
        &run(&["dead", "discard", "1", "--config", &config]),
        4,
        "",
        &format!("Error: DIR/db is held by another outboxd (PID {pid})\nHint: let it do the work, or stop it first: kill {pid} (it drains)\n"),
    );
    assert_eq!((scene.left().len(), scene.rows("users_outbox")), (4, vec![1, 2, 3]));
    scene.expect(
        &run(&["dead", "retry", "1", "--config", &config]),
        0,
        "users rowid 1: is sent again when outboxd starts\n",
        "",
    );
}

#[test]
fn a_discard_keeps_the_books() {
    let scene = Scene::new();
    let config = scene.config("bookkeeping = \"table\"");
    let state = scene.open();
    let (id, first) = (state.id(), state.journal(&scene.resolved(), &TABLES).unwrap().first_plan().0);
    drop(state);
    let booked = || -> (Vec<u8>, i64) {
        let connection = rusqlite::Connection::open(&scene.database).unwrap();
        connection.query_row("SELECT state, highest FROM _outboxd", [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap()
    };
    scene.expect(&run(&["dead", "discard", "1", "--config", &config]), 0, "users rowid 1: is deleted\n", "");
    assert_eq!(booked(), (id.to_be_bytes().to_vec(), 0), "rows of no plan are booked under none");
    let state = scene.open();
    let next = state.journal(&scene.resolved(), &TABLES).unwrap().first_plan().0;
    assert_eq!(next, first + 1, "each start takes one number, a discard none");
    assert!(state.same_boot());
}

/// The state file as a daemon would have it, with a relay's half played by the test.
fn with_daemon(
    scene: &Scene,
    arguments: &[&str],
    answer: impl Fn(&outboxd::model::Request) -> Option<(bool, String)> + Send,
) -> Finished {
    let state = scene.open();
    let mut journal = state.journal(&scene.resolved(), &TABLES).unwrap();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.recv_timeout(Duration::from_millis(5)) == Err(crossbeam_channel::RecvTimeoutError::Timeout) {
                for request in journal.requests().unwrap() {
                    if let Some((failed, text)) = answer(&request) {
                        journal
                            .record(&[Change::Answered { request: request.id, failed, text: &text }], false)
                            .unwrap();
                    }
                }
            }
        });
        let finished = run(arguments);
        drop(stop);
        finished
    })
}

#[test]
fn a_running_daemon_is_asked() {
    let scene = Scene::new();
    let config = scene.config("");
    let rowids = ["-7", "1"];
    let finished = with_daemon(&scene, &["dead", "retry", rowids[0], rowids[1], "--config", &config], |request| {
        assert_eq!(request.action, Action::Retry);
        let text = format!("outbox {} row {:?}", request.outbox.0, request.rowid);
        Some((request.rowid == Some(-7), text))
    });
    scene.expect(
        &finished,
        1,
        "users rowid 1: outbox 0 row Some(1)\n",
        "Error: orders_outbox rowid -7: outbox 1 row Some(-7)\nHint: see how it is now: outboxd dead list\n",
    );
    let finished = with_daemon(&scene, &["dead", "discard", "--all", "--config", &config], |request| {
        Some((false, format!("{:?} {:?} of {}", request.action, request.rowid, request.outbox.0)))
    });
    scene.expect(&finished, 0, "orders_outbox: Discard None of 1\nusers: Discard None of 0\n", "");
    assert_eq!((scene.left().len(), scene.rows("users_outbox").len()), (4, 3), "nothing was done but to ask");
}

#[test]
fn a_daemon_that_does_not_answer_is_not_waited_for() {
    let scene = Scene::new();
    let config = scene.config("");
    let finished = with_daemon(&scene, &["dead", "retry", "1", "--config", &config], |_| None);
    scene.expect(
        &finished,
        1,
        "",
        &format!(
            "Error: the running outboxd (PID {}) did not answer within 5 s for rowid 1 of users; what was asked is withdrawn
Hint: it may be waiting for its database, or not serve this outbox: look at its log, then at `outboxd dead list`
",
            std::process::id()
        ),
    );
    let connection = rusqlite::Connection::open(scene.state()).unwrap();
    let left: i64 = connection.query_row("SELECT count(*) FROM request", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn a_daemon_that_ends_meanwhile_needs_no_answer() {
    let scene = Scene::new();
    let config = scene.config("");
    let state = scene.open();
    let mut journal = state.journal(&scene.resolved(), &TABLES).unwrap();
    let command = common::outboxd(&["dead", "discard", "1", "--config", &config]);
    let mut asking = common::Running::start(command);
    asking.wait_until("the request", |_| !journal.requests().unwrap().is_empty());
    drop((journal, state));
    scene.expect(&asking.finish(), 0, "users rowid 1: is deleted\n", "");
    assert_eq!(scene.rows("users_outbox"), [2, 3]);
}
