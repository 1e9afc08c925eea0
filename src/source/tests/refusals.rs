use super::*;
use crate::model::Why;
use std::os::unix::fs::PermissionsExt;

/// Why the only outbox is refused at start; the same is said when it is found later.
fn refused(world: &World, mut database: Database) -> Why {
    let Err(OpenError::NotAnOutbox { outbox, why }) = database.check() else {
        panic!("{} was accepted", world.path.display())
    };
    assert_eq!(outbox, OUTBOX);
    let later = look(&mut database, Start::Lowest, 1);
    assert!(matches!(later, Err(SourceError::NotAnOutbox { .. })), "{later:?}");
    assert!(!why.hint.is_empty(), "{why}");
    why
}

fn refused_schema(schema: &str) -> Why {
    let (world, _app) = World::with("WAL", schema);
    refused(&world, world.database())
}

const COLUMNS: &str = "aggregateId, eventType, payload";

#[test]
fn what_is_no_ordinary_table_is_refused() {
    for (schema, says) in [
        (
            format!("CREATE TABLE t (id INTEGER PRIMARY KEY, {COLUMNS}); CREATE VIEW users_outbox AS SELECT * FROM t;"),
            "view",
        ),
        (format!("CREATE TABLE users_outbox (id TEXT PRIMARY KEY, {COLUMNS}) WITHOUT ROWID;"), "WITHOUT ROWID"),
        (format!("CREATE VIRTUAL TABLE users_outbox USING fts5(id, {COLUMNS});"), "virtual"),
    ] {
        let why = refused_schema(&schema);
        assert!(why.text.contains(says), "{why}");
    }
}

#[test]
fn a_table_without_any_key_is_refused() {
    for schema in [
        format!("CREATE TABLE users_outbox (id INTEGER, {COLUMNS});"),
        format!(
            "CREATE TABLE users_outbox (id INTEGER, {COLUMNS}); CREATE UNIQUE INDEX i ON users_outbox(id) WHERE id > 0;"
        ),
    ] {
        assert!(refused_schema(&schema).text.contains("unique"));
    }
    for schema in [
        format!("CREATE TABLE users_outbox (id INT PRIMARY KEY, {COLUMNS});"),
        format!("CREATE TABLE users_outbox (id INTEGER PRIMARY KEY DESC, {COLUMNS});"),
        format!("CREATE TABLE users_outbox (id BIGINT UNIQUE, {COLUMNS});"),
        format!("CREATE TABLE users_outbox (id UUID, {COLUMNS}); CREATE UNIQUE INDEX i ON users_outbox(id);"),
        format!("CREATE TABLE users_outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, {COLUMNS});"),
        format!("CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, rowid, oid, _rowid_, {COLUMNS});"),
        format!("CREATE TABLE users_outbox (id TEXT PRIMARY KEY, rowid, oid, {COLUMNS});"),
        format!("CREATE TABLE \"Users_Outbox\" (\"ID\" INTEGER PRIMARY KEY, {COLUMNS});"),
    ] {
        let (world, mut app) = World::with("WAL", &schema);
        app.exec("INSERT INTO users_outbox (id, aggregateId, eventType, payload) VALUES (7,'a','t','p');");
        let mut database = world.database();
        database.check().unwrap();
        let seen = all(&mut database);
        assert_eq!(seen[0].fields[0].as_deref(), Some(&b"7"[..]), "{schema}");
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1, "{schema}");
    }
    let why =
        refused_schema(&format!("CREATE TABLE users_outbox (id TEXT PRIMARY KEY, rowid, oid, _rowid_, {COLUMNS});"));
    assert!(why.text.contains("_rowid_"));
}

#[test]
fn a_missing_column_is_named_with_the_nearest_and_all() {
    let schema = "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregate_id, eventType, payload);";
    let (world, mut app) = World::with("WAL", schema);
    let mut database = world.database();
    database.check().unwrap();
    let Err(SourceError::NotThere(why)) = look(&mut database, Start::Lowest, 9) else { panic!() };
    assert_eq!(why.text, "users_outbox has no column aggregateId yet");
    assert_eq!(
        why.hint,
        "did you mean aggregate_id? waiting for the application to add it; its columns are id, aggregate_id, eventType, \
         payload; another one is named by outbox.columns.aggregate_id"
    );
    app.exec("ALTER TABLE users_outbox ADD COLUMN aggregateId; INSERT INTO users_outbox (aggregateId) VALUES ('a');");
    assert_eq!(rowids(&all(&mut database)), [1]);
}

#[test]
fn a_trigger_that_only_the_application_can_run_is_found_before_anything_is_published() {
    let why = refused_schema(&format!(
        "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, {COLUMNS}); CREATE TABLE log (x);
         CREATE TRIGGER k AFTER DELETE ON users_outbox BEGIN INSERT INTO log VALUES (app_function(old.id)); END;"
    ));
    assert!(why.text.contains("app_function"), "{why}");
}

#[test]
fn a_virtual_generated_column_can_be_a_field() {
    let (world, mut app) = World::with(
        "WAL",
        "CREATE TABLE users_outbox (id INTEGER PRIMARY KEY, aggregateId, eventType, raw, payload AS ('<' || raw || '>') VIRTUAL, price AS (1.5) VIRTUAL);",
    );
    app.exec("INSERT INTO users_outbox (aggregateId, eventType, raw) VALUES ('a','t','x');");
    let mut columns = spec("users_outbox");
    columns.fields.push(Some("price".to_owned()));
    let mut database = Database::new(world.options(), vec![columns]);
    let seen = all(&mut database);
    assert_eq!(seen[0].fields[3].as_deref(), Some(&b"<x>"[..]));
    assert_eq!(seen[0].fields[6].as_deref(), Some(&b"1.5"[..]));
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1);
}

#[test]
fn what_is_no_database_is_refused_and_left_as_it_is() {
    for bytes in [vec![b'x'; 8192], b"short".to_vec(), vec![0; 4096]] {
        let world = World::new();
        std::fs::write(&world.path, &bytes).unwrap();
        let why = refused(&world, world.database());
        assert!(why.text.contains("not an SQLite database"), "{why}");
        assert_eq!(std::fs::read(&world.path).unwrap(), bytes);
    }
    let world = World::new();
    std::fs::create_dir(&world.path).unwrap();
    assert!(refused(&world, world.database()).text.contains("directory"));
    let world = World::new();
    assert!(Command::new("mkfifo").arg(&world.path).status().unwrap().success());
    assert!(refused(&world, world.database()).text.contains("not a regular file"));
}

#[test]
fn one_table_twice_is_refused() {
    let (world, _app) = World::with("WAL", SCHEMA);
    let mut database = Database::new(world.options(), vec![spec("users_outbox"), spec("USERS_OUTBOX")]);
    let error = database.check().unwrap_err();
    assert!(matches!(error, OpenError::SameTable { .. }), "{error}");
}

#[test]
fn one_unfit_outbox_does_not_stop_the_others() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'); CREATE TABLE other AS SELECT * FROM users_outbox;");
    let mut database = Database::new(world.options(), vec![spec("users_outbox"), spec("other"), spec("third")]);
    let seen = all(&mut database);
    let second = look_in(&mut database, crate::model::OutboxIx(1), Start::Lowest, budget(1));
    assert!(matches!(second, Err(SourceError::NotAnOutbox { outbox: crate::model::OutboxIx(1), .. })));
    let third = look_in(&mut database, crate::model::OutboxIx(2), Start::Lowest, budget(1));
    assert!(matches!(third, Err(SourceError::NotThere(_))));
    let groups = [group_of(crate::model::OutboxIx(1), &seen), group_of(crate::model::OutboxIx(2), &seen), group(&seen)];
    let deletion = database.delete(&order(&groups), &mut |_| Ok(())).unwrap();
    assert_eq!((deletion.deleted, deletion.changed.len(), deletion.gone.len()), (1, 0, 0));
    assert_eq!(deletion.left_out.iter().map(|left| left.group).collect::<Vec<_>>(), [0, 1]);
}

/// Runs one test of this binary again in a process of its own, under a shell's settings.
pub(super) fn rerun(test: &str, prepare: &str, variables: &[(&str, &str)]) -> std::process::Output {
    rerun_as(&[], test, prepare, variables)
}

/// As `rerun`, the shell started by another program.
pub(super) fn rerun_as(by: &[&str], test: &str, prepare: &str, variables: &[(&str, &str)]) -> std::process::Output {
    let binary = std::env::current_exe().unwrap();
    let mut words = by.iter().copied().chain(["sh"]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words);
    command.args(["-c", &format!("{prepare} exec \"$0\" --exact {test} --nocapture --test-threads=1")]).arg(binary);
    command.envs(variables.iter().copied());
    command.output().unwrap()
}

const DESCRIPTORS: &str = "OUTBOXD_TEST_DESCRIPTORS";

#[test]
fn a_lack_of_descriptors_is_called_that_and_is_over_when_it_is() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const NAME: &str = "source::tests::refusals::a_lack_of_descriptors_is_called_that_and_is_over_when_it_is";
    if std::env::var_os(DESCRIPTORS).is_none() {
        // The limit is the process's, so in one of its own.
        let output = rerun(NAME, "", &[(DESCRIPTORS, "1")]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("all of it was said"), "{output:?}");
        return;
    }
    let (world, app) = World::with("DELETE", SCHEMA);
    app.close();
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), ..getrlimit(Resource::Nofile) }).unwrap();
    // None for the lock, or none for SQLite.
    for free in 0..2 {
        let mut database = Database::new(world.options(), vec![spec("users_outbox")]);
        let mut taken: Vec<std::fs::File> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        taken.truncate(taken.len() - free);
        let Err(OpenError::Failed(why)) = database.check() else { panic!("with {free} descriptors") };
        assert!(why.text.ends_with("Too many open files (os error 24)"), "{why}");
        assert!(why.hint.contains("LimitNOFILE="), "{why}");
        drop(taken);
        database.check().unwrap();
    }
    println!("all of it was said");
}

const READ_ONLY: &str = "OUTBOXD_TEST_READ_ONLY";
const SAYS: &str = "OUTBOXD_TEST_SAYS";

#[test]
fn a_file_without_the_rights_to_it_is_refused() {
    if let Ok(path) = std::env::var(READ_ONLY) {
        // In a process without the right to write.
        let options = DatabaseOptions { path: path.into(), ..World::new().options() };
        let says = match Database::new(options, vec![spec("users_outbox")]).check() {
            Err(OpenError::NotAnOutbox { why, .. } | OpenError::Forbidden(why)) => why,
            other => panic!("{other:?}"),
        };
        assert!(says.text.contains(&std::env::var(SAYS).unwrap()), "{says}");
        println!("refused as it should be");
        return;
    }
    let (world, app) = World::with("DELETE", SCHEMA);
    app.close();
    let copy = world.directory.path().join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    for (file, directory, says) in [
        (0o444, 0o777, "only be opened for reading"),
        (0o666, 0o755, "no files can be made in its directory"),
        (0o000, 0o777, "ermission denied"),
    ] {
        std::fs::set_permissions(&world.path, std::fs::Permissions::from_mode(file)).unwrap();
        std::fs::set_permissions(world.directory.path(), std::fs::Permissions::from_mode(directory)).unwrap();
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
            command
        } else if directory == 0o777 {
            Command::new(&copy)
        } else {
            continue; // the owner may write to the directory whatever its group may
        };
        let output = command
            .args(["--exact", "source::tests::refusals::a_file_without_the_rights_to_it_is_refused", "--nocapture"])
            .env(READ_ONLY, &world.path)
            .env(SAYS, says)
            .current_dir(world.directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("refused as it should be"), "{output:?}");
    }
}

const SHARED: &str = "OUTBOXD_TEST_SHARED";

#[test]
fn files_that_would_lock_the_application_out_are_never_made() {
    if let Ok(path) = std::env::var(SHARED) {
        let options = DatabaseOptions { path: path.into(), ..World::new().options() };
        match Database::new(options, vec![spec("users_outbox")]).check() {
            Ok(()) => println!("accepted"),
            Err(OpenError::NotAnOutbox { why, .. }) => println!("refused: {why}"),
            other => panic!("{other:?}"),
        }
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can be others");
        return;
    }
    let (world, app) = World::with("WAL", SCHEMA);
    app.close();
    let directory = world.directory.path();
    let copy = directory.join("test");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
    for path in [directory, &world.path] {
        std::os::unix::fs::chown(path, Some(2000), Some(2000)).unwrap();
    }
    for (user, group, file, folder, accepted) in [
        (2001, 2001, 0o660, 0o770, false),
        // The owner, somebody of its group, a folder that gives its group, a file that is anybody's.
        (2000, 2001, 0o660, 0o770, true),
        (2001, 2000, 0o660, 0o770, true),
        (2001, 2001, 0o660, 0o2770, true),
        (2001, 2001, 0o666, 0o770, true),
    ] {
        std::fs::set_permissions(&world.path, std::fs::Permissions::from_mode(file)).unwrap();
        std::fs::set_permissions(directory, std::fs::Permissions::from_mode(folder)).unwrap();
        let output = Command::new("setpriv")
            .args([&format!("--reuid={user}"), &format!("--regid={group}"), "--groups=2000"])
            .arg(&copy)
            .args(["--exact", "source::tests::refusals::files_that_would_lock_the_application_out_are_never_made"])
            .arg("--nocapture")
            .env(SHARED, &world.path)
            .current_dir(directory)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let case = format!("{user}:{group}, {file:o}, {folder:o}: {output:?}");
        assert!(output.status.success(), "{case}");
        if accepted {
            assert!(said.contains("accepted"), "{case}");
        } else {
            assert!(said.contains("refused:") && said.contains("shared through group 2000"), "{case}");
            assert!(said.contains("chmod g+s"), "{case}");
            assert!(!directory.join("db.sqlite-wal").exists(), "{case}");
        }
        for suffix in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(directory.join(format!("db.sqlite{suffix}")));
        }
    }
}
