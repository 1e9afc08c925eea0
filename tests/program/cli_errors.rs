//! What a person reads who made a mistake: whole texts and exit codes of the real binary.

use crate::common::{OUTBOX, Place, Running, closed_port, flags, leave_a_plan, outboxd, run};

/// A config file whose lines of interest are given.
fn config(place: &Place, lines: &str) -> String {
    place.write("c.toml", lines)
}

fn minimal(database: &str, more: &str) -> String {
    format!(
        "[[outbox]]\ndatabase = \"{database}\"\ntable = \"users_outbox\"\ntopic = \"users\"\n{more}\n[kafka]\nbootstrap_servers = [\"127.0.0.1:{}\"]\n",
        closed_port()
    )
}

#[test]
fn the_config_file_is_missing_or_unreadable() {
    let place = Place::new();
    run(&["run", "--config", &place.text("none.toml")]).expect(
        2,
        &place,
        "Error: DIR/none.toml: the config file can't be read
Caused by: No such file or directory (os error 2)
Hint: name the file with `outboxd run --config FILE`, or do without one: `outboxd run --database FILE --table TABLE --topic TOPIC --bootstrap-servers HOST:PORT`
",
    );
    run(&["run", "--config", &place.text("")]).expect(
        2,
        &place,
        "Error: DIR/: the config file can't be read
Caused by: Is a directory (os error 21)
Hint: see what is there: ls -l DIR/
",
    );
}

#[test]
fn keys_and_values_of_the_config_are_judged() {
    let place = Place::new();
    let of = |text: String| run(&["run", "--config", &config(&place, &text)]);
    of(minimal("/x/db", "tabel = 1")).expect(
        2,
        &place,
        "Error: DIR/c.toml:5: outbox.tabel: unknown key\nHint: did you mean `table`?\n",
    );
    of(minimal("/x/db", "foreign_keys = 1")).expect(
        2,
        &place,
        "Error: DIR/c.toml:5: outbox.foreign_keys: true or false is wanted here, not an integer
Hint: write: foreign_keys = true
",
    );
    of(minimal("/x/db", "[outbox.columns]\nid = 7")).expect(
        2,
        &place,
        "Error: DIR/c.toml:6: outbox.columns.id: text is wanted here, not an integer\nHint: write: id = \"7\"\n",
    );
    of("outbox".into()).expect(
        2,
        &place,
        "Error: DIR/c.toml:1: this is not TOML: key with no value, expected `=`
Hint: see https://toml.io for how it is written; text values need quotes
",
    );
    of("[kafka]\nbootstrap_servers = [\"k:9092\"]".into()).expect(
        2,
        &place,
        "Error: DIR/c.toml: outbox: there is no outbox to relay
Hint: add a line [[outbox]], and below it: database = \"/path/to/db.sqlite\", table = \"users_outbox\", topic = \"users\"
",
    );
}

#[test]
fn two_entries_for_one_table_are_refused_through_a_symlink_too() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    std::os::unix::fs::symlink(&database, place.path("link")).unwrap();
    let second =
        format!("[[outbox]]\ndatabase = \"{}\"\ntable = \"users_outbox\"\ntopic = \"other\"", place.text("link"));
    run(&["run", "--config", &config(&place, &minimal(&database, &second))]).expect(
        2,
        &place,
        "Error: DIR/c.toml: outbox[2].table: `users_outbox` of DIR/link is already relayed by outbox[1] (DIR/link and DIR/db are one file)
Hint: remove one of the two: a row goes to one topic
",
    );
}

#[test]
fn flags_are_judged_like_the_file() {
    let place = Place::new();
    let of = |topic: &str, server: &str| {
        let database = place.text("db");
        let arguments =
            ["run", "--database", &database, "--table", "t", "--topic", topic, "--bootstrap-servers", server];
        run(&arguments)
    };
    of("", "k:9092").expect(
        2,
        &place,
        "Error: --topic: a topic's name can't be empty
Hint: a topic is 1 to 249 of the characters a-z A-Z 0-9 . _ - and may contain columns, for example: topic = \"users.{eventType}\"
",
    );
    of("users/new", "k:9092").expect(
        2,
        &place,
        "Error: --topic: `users/new` has '/' in it, which Kafka does not allow in a topic's name
Hint: a topic is 1 to 249 of the characters a-z A-Z 0-9 . _ - and may contain columns, for example: topic = \"users.{eventType}\"
",
    );
    of("users", "kafka1").expect(
        2,
        &place,
        "Error: --bootstrap-servers: `kafka1` has no port\nHint: write host and port, for example \"kafka1:9092\"\n",
    );
    run(&["run", "--database", &place.text("db"), "--table", "t", "--topic", "t"]).expect(
        2,
        &place,
        "Error: --bootstrap-servers: this flag is missing
Hint: add `--bootstrap-servers localhost:9092`, or `--stdout` to see the records without a Kafka
",
    );
}

#[test]
fn usage_errors_exit_with_2() {
    let place = Place::new();
    run(&["run", "--database", "db"]).expect(
        2,
        &place,
        "error: the following required arguments were not provided:
  --table <TABLE>
  --topic <TOPIC>

Usage: outboxd run --database <FILE> --table <TABLE> --topic <TOPIC>

For more information, try '--help'.
",
    );
    run(&["rum"]).expect(
        2,
        &place,
        "error: unrecognized subcommand 'rum'

  tip: a similar subcommand exists: 'run'

Usage: outboxd <COMMAND>

For more information, try '--help'.
",
    );
    for arguments in [
        &["run", "--config", "c", "--database", "d"][..],
        &["run", "--stdout", "--dry-run"],
        &["run", "--frob"],
        &["demo", "--topic", "t"],
        &[],
    ] {
        let finished = run(arguments);
        assert_eq!(finished.status.code(), Some(2), "{}", finished.everything());
    }
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    assert_eq!(run(&["--version"]).stdout, format!("outboxd {}\n", env!("CARGO_PKG_VERSION")));
}

/// `run` in flags that could start, were it not for the thing under test.
#[test]
fn a_second_daemon_names_the_first() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    std::os::unix::fs::symlink(&database, place.path("link")).unwrap();
    let server = format!("127.0.0.1:{}", closed_port());
    let mut first = Running::start(outboxd(&flags(&database, &["--bootstrap-servers", &server])));
    first.wait_until("the start", |first| first.stderr().contains("state file: "));
    let pid = first.pid();

    let link = place.text("link");
    let second = run(&flags(&link, &["--stdout"]));
    second.expect(
        4,
        &place,
        &format!("Error: DIR/link is held by another outboxd (PID {pid})\nHint: let it do the work, or stop it first: kill {pid} (it drains)\n"),
    );
    // Another database, the same state file.
    let other = place.database("other", OUTBOX);
    let state = place.text("db-outboxd");
    run(&flags(&other, &["--bootstrap-servers", &server, "--state", &state])).expect(
        4,
        &place,
        &format!("Error: another outboxd (PID {pid}) works with the state file DIR/db-outboxd\nHint: let it do the work, or stop it first: kill {pid} (it drains)\n"),
    );

    first.signal(rustix::process::Signal::TERM);
    let first = first.finish();
    assert_eq!(first.status.code(), Some(0), "{}", first.everything());
    assert!(first.stderr.trim_end().ends_with("left in the tables: 0 rows"), "{}", first.everything());
}

#[test]
fn state_files_that_cannot_be_used() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let server = format!("127.0.0.1:{}", closed_port());
    let state = place.database("app.db", "CREATE TABLE t (x)");
    let with = |state: &str| run(&flags(&database, &["--bootstrap-servers", &server, "--state", state]));
    with(&state).expect(
        2,
        &place,
        "Error: DIR/app.db is a database, but not a state file of outboxd
Hint: name another file with [state] path, or with `--state FILE`; it is made when it is not there
",
    );
    let newer = place.text("newer");
    drop(outboxd::state::StateFile::open(newer.as_ref(), outboxd::model::RunId(1)).unwrap());
    place.database("newer", "PRAGMA user_version = 99");
    with(&newer).expect(
        2,
        &place,
        "Error: the state file DIR/newer was written by a newer outboxd: its version is 99, this one knows up to 3
Hint: run that newer outboxd; or, if events sent twice are no harm, move it away: mv DIR/newer DIR/newer.old
",
    );
    with(&place.text("none/state.db")).expect(
        2,
        &place,
        "Error: the state file DIR/none/state.db can't be opened
Caused by: No such file or directory (os error 2)
Hint: this user must be able to write in its directory: ls -ld DIR/none
",
    );
}

#[test]
fn stdout_refuses_while_plans_are_open() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let state = outboxd::state::StateFile::open(&place.path("db-outboxd"), outboxd::model::RunId(1)).unwrap();
    leave_a_plan(&place, &state, "db", 1);
    drop(state);
    run(&flags(&database, &["--stdout"])).expect(
        2,
        &place,
        "Error: DIR/db-outboxd: 1 batches with 1 rows are open in it, and --stdout keeps no plans
Hint: run once with Kafka, so that what was in flight is settled: leave out --stdout and name the --bootstrap-servers
",
    );
}

#[test]
fn an_address_in_use() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port();
    let text = minimal(&database, &format!("[http]\nlisten = \"{address}\""));
    run(&["run", "--config", &config(&place, &text)]).expect(
        2,
        &place,
        &format!(
            "Error: the address {address} of [http] listen can't be listened on
Caused by: Address already in use (os error 98)
Hint: see who has it: ss -ltnp 'sport = :{port}'; or choose another under [http]: listen = \"127.0.0.1:9465\"
"
        ),
    );
}

#[test]
fn what_is_there_and_cannot_be_an_outbox() {
    let place = Place::new();
    let columns = "(id INTEGER PRIMARY KEY, aggregateId, eventType, payload)";
    place.write("garbage", &"not a database ".repeat(400));
    std::fs::create_dir(place.path("folder")).unwrap();
    place.database("view", &format!("CREATE TABLE t {columns}; CREATE VIEW users_outbox AS SELECT * FROM t"));
    place.database("column", "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType)");
    place.database("keyless", "CREATE TABLE users_outbox (id, aggregateId, eventType, payload)");
    place.database("rowless", &format!("CREATE TABLE users_outbox {columns} WITHOUT ROWID"));
    place.database(
        "trigger",
        &format!(
            "CREATE TABLE users_outbox {columns}; CREATE TABLE log (x);
             CREATE TRIGGER t AFTER DELETE ON users_outbox BEGIN INSERT INTO log VALUES (app_function(old.id)); END"
        ),
    );
    for (name, report) in [
        (
            "garbage",
            "Error: DIR/garbage is not an SQLite database, or an encrypted one
Hint: outboxd reads plain SQLite files; see what it is with: file PATH
",
        ),
        ("folder", "Error: DIR/folder is a directory\nHint: name the application's SQLite file\n"),
        (
            "view",
            "Error: DIR/view: users_outbox is a view; an outbox must be a table, its rows are deleted
Hint: name the table behind the view
",
        ),
        (
            "keyless",
            "Error: DIR/keyless: users_outbox has neither an INTEGER PRIMARY KEY nor a unique column: after a VACUUM its rows could not be told apart
Hint: add one, best: id INTEGER PRIMARY KEY AUTOINCREMENT
",
        ),
        (
            "rowless",
            "Error: DIR/rowless: users_outbox is a WITHOUT ROWID table; hooks don't report its deletes
Hint: create it without the words WITHOUT ROWID
",
        ),
        (
            "trigger",
            "Error: DIR/trigger: users_outbox can't be read and deleted from by outboxd: no such function: app_function (SQLite error 1)
Hint: a trigger, index, generated column or collation needs what only the application defines; make it use SQLite's own functions
",
        ),
    ] {
        let database = place.text(name);
        run(&flags(&database, &["--stdout"])).expect(2, &place, report);
        run(&flags(&database, &["--dry-run"])).expect(2, &place, report);
    }
}

#[test]
fn files_of_tls_and_sasl_are_judged_at_the_start() {
    let place = Place::new();
    let database = place.database("db", OUTBOX);
    let of = |lines: &str| {
        let text = minimal(&database, "") + lines;
        run(&["run", "--config", &config(&place, &text)])
    };
    place.write("ca.der", "no certificate");
    of(&format!("security_protocol = \"SSL\"\nssl_ca_location = \"{}\"", place.text("ca.der"))).expect(
        2,
        &place,
        "Error: Kafka's producer can't be started
Caused by: ssl_ca_location: DIR/ca.der: there is no certificate in it
Hint: a PEM file is wanted, with -----BEGIN CERTIFICATE----- in it; see what this one is: file DIR/ca.der
",
    );
    let sasl = "security_protocol = \"SASL_PLAINTEXT\"\nsasl_mechanism = \"SCRAM-SHA-256\"\nsasl_username = \"u\"";
    of(&format!("{sasl}\nsasl_password_file = \"{}\"", place.text("none"))).expect(
        2,
        &place,
        "Error: Kafka's producer can't be started
Caused by: sasl_password_file: DIR/none: the file can't be read
Caused by: No such file or directory (os error 2)
Hint: see whether the path is right
",
    );
    of("security_protocol = \"TLS\"").expect(
        2,
        &place,
        "Error: DIR/c.toml:8: kafka.security_protocol: `TLS` is no security protocol
Hint: write \"SSL\"; there are PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL
",
    );
}
