//! Disks that fill up and syncs, in processes of their own where a limit is needed.

use super::refusals::rerun;
use super::*;

const NO_SPACE: &str = "OUTBOXD_TEST_NO_SPACE";
const FROM: &str = "OUTBOXD_TEST_FROM";
const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
    INSERT INTO users_outbox SELECT i,'a','t',hex(zeroblob(100)) FROM n;";

/// Every third row is deleted, so that every page is written: nothing of the cheap order helps.
fn no_space(path: &str) {
    let from: i64 = std::env::var(FROM).unwrap().parse().unwrap();
    let options = DatabaseOptions { path: path.into(), ..World::new().options() };
    let mut database = Database::new(options, vec![spec("users_outbox")]);
    let seen: Vec<Seen> =
        all(&mut database).into_iter().filter(|row| row.rowid >= from && row.rowid % 3 == 0).collect();
    let mut asked = 0;
    let result = database.delete(&order(&[group(&seen)]), &mut |_| {
        asked += 1;
        Ok(())
    });
    match result {
        Err(SourceError::CommitUnknown(text)) => {
            assert!(!database.is_open(), "the connection is not to be trusted");
            assert_eq!(asked, 1);
            println!("unknown: {text}");
        }
        Err(SourceError::Failed(why)) => println!("failed: {why}"),
        other => panic!("{other:?}"),
    }
    match look(&mut database, Start::Lowest, 9) {
        Ok((first, _)) => assert!(first.rows > 0 && all(&mut database).len() == 3000, "a new connection's look tells"),
        // The journal is hot, and to roll it back takes the same writes.
        Err(error) => assert!(from > 1 && matches!(error, SourceError::Failed(_)), "{error}"),
    }
}

#[test]
fn a_commit_without_space_is_unknown_and_a_look_tells() {
    if let Ok(path) = std::env::var(NO_SPACE) {
        return no_space(&path);
    }
    // A limit in blocks of 512 bytes, for every file the child writes. The last: the journal fits, the pages lie beyond.
    let cases = [("WAL", 100, 1, "unknown:"), ("DELETE", 8, 1, "failed:"), ("DELETE", 700, 2900, "unknown:")];
    for (mode, limit, from, says) in cases {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec(ROWS);
        app.run("PRAGMA wal_checkpoint(TRUNCATE);");
        let output = rerun(
            "source::tests::failures::a_commit_without_space_is_unknown_and_a_look_tells",
            &format!("trap '' XFSZ; ulimit -f {limit};"),
            &[(NO_SPACE, world.path.to_str().unwrap()), (FROM, &from.to_string())],
        );
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains(says), "{mode} {limit}: {output:?}");
        assert_eq!(app.count(), 3000, "{mode} {limit}");
        assert_eq!(app.run("PRAGMA integrity_check;"), "ok");
        let mut database = world.database();
        let seen = all(&mut database);
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 3000, "{mode} {limit}");
    }
}

const FULL: &str = "OUTBOXD_TEST_FULL";

/// Deletes beside a file that fills the disk, then without it.
fn on_a_full_disk(path: &str) {
    let ballast = Path::new(path).with_file_name("ballast");
    let options = DatabaseOptions { path: path.into(), ..World::new().options() };
    let mut database = Database::new(options, vec![spec("users_outbox")]);
    // Every page is written: nothing of the cheap order helps.
    let seen: Vec<Seen> = all(&mut database).into_iter().filter(|row| row.rowid % 3 == 0).collect();
    for chunk in [1usize << 16, 1 << 12] {
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&ballast).unwrap();
        while file.write_all(&vec![0; chunk]).is_ok() {}
    }
    let mut asked = 0;
    for _ in 0..5 {
        let result = database.delete(&insistent(&[group(&seen)]), &mut |_| {
            asked += 1;
            Ok(())
        });
        let Err(SourceError::Failed(why)) = result else { panic!("{result:?}") };
        assert!(why.hint.contains("free space"), "{why}");
    }
    assert_eq!(asked, 5, "it is the COMMIT that fails");
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(delete(&mut database, &seen).unwrap().deleted, seen.len());
    println!("deleted once there was space");
}

/// A file system of its own, which needs the right to mount.
#[test]
fn a_commit_on_a_full_disk_is_known_not_to_have_happened() {
    if let Ok(path) = std::env::var(FULL) {
        return on_a_full_disk(&path);
    }
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROWS);
    app.close();
    let small = world.directory.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = format!(
        "mount -t tmpfs -o size=3m tmpfs {small} && cp {from} {small}/db || {{ echo may not mount; exit 0; }};",
        small = small.display(),
        from = world.path.display()
    );
    let test = "source::tests::failures::a_commit_on_a_full_disk_is_known_not_to_have_happened";
    let path = small.join("db");
    let output = super::refusals::rerun_as(
        &["unshare", "--map-root-user", "--mount"],
        test,
        &mounted,
        &[(FULL, path.to_str().unwrap())],
    );
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("may not mount") || String::from_utf8_lossy(&output.stderr).contains("unshare") {
        println!("skipped: no file system can be mounted here");
        return;
    }
    assert!(output.status.success() && said.contains("deleted once there was space"), "{output:?}");
}

const PANICS: &str = "OUTBOXD_TEST_PANICS";

/// The connection is closed with the transaction open, or the memory of the hooks is used after it was freed.
#[test]
fn a_panic_inside_a_delete_is_a_panic_and_deletes_nothing() {
    if let Ok(path) = std::env::var(PANICS) {
        let options = DatabaseOptions { path: path.into(), ..World::new().options() };
        let mut database = Database::new(options, vec![spec("users_outbox")]);
        let seen = all(&mut database);
        let _ = database.delete(&insistent(&[group(&seen)]), &mut |_| panic!("as it was meant to be"));
        return;
    }
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec(ROWS);
        let output = rerun(
            "source::tests::failures::a_panic_inside_a_delete_is_a_panic_and_deletes_nothing",
            "",
            &[(PANICS, world.path.to_str().unwrap())],
        );
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(101), "{mode}: {output:?}");
        assert!(said.contains("as it was meant to be"), "{mode}: {said}");
        assert_eq!(app.count(), 3000, "{mode}");
        app.exec("INSERT INTO users_outbox VALUES (4000,'a','t','p');");
    }
}

#[test]
fn what_was_read_or_deleted_is_made_durable_once() {
    for mode in MODES {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
        let mut database = world.database();
        database.make_durable().unwrap();
        let seen = all(&mut database);
        assert!(database.unsynced, "{mode}");
        database.make_durable().unwrap();
        assert!(!database.unsynced);
        assert_eq!(look(&mut database, Start::From(2), 9).unwrap().0.rows, 0);
        assert!(!database.unsynced, "nothing was read");
        delete(&mut database, &seen).unwrap();
        assert!(database.unsynced);
        app.close();
        database.let_go();
        database.make_durable().unwrap();
        assert!(!database.unsynced, "{mode}: also when the log is gone");
    }
}

#[test]
fn a_database_can_be_handed_to_another_thread() {
    fn is_send<T: Send>(_: &T) {}
    is_send(&World::new().database());
}
