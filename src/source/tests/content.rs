//! The same file with another content: overwritten in place, truncated, its log taken away; and what looks like it and is not.

use super::*;
use crate::model::Another;

const ROW: &str = "INSERT INTO users_outbox VALUES (1,'a','t','p');";

/// The bytes of a database that an application has closed.
fn content(mode: &str, sql: &str) -> Vec<u8> {
    let (world, mut app) = World::with(mode, SCHEMA);
    app.exec(sql);
    app.close();
    std::fs::read(&world.path).unwrap()
}

fn log_of(world: &World) -> std::path::PathBuf {
    world.path.with_extension("sqlite-wal")
}

/// A database that has been looked at, its application gone; `commits` more than the one of the row.
fn read_and_left(mode: &str, commits: usize) -> (World, Database, Vec<Seen>) {
    let (world, mut app) = World::with(mode, SCHEMA);
    app.exec("CREATE TABLE counted (x);");
    for _ in 0..commits {
        app.exec("INSERT INTO counted VALUES (1);");
    }
    app.exec(ROW);
    if mode == "WAL" {
        app.run("PRAGMA wal_checkpoint(TRUNCATE);");
        app.exec("INSERT INTO counted VALUES (1);");
    }
    let mut database = world.database();
    let seen = all(&mut database);
    app.close();
    (world, database, seen)
}

fn overwrite(world: &World, bytes: &[u8]) {
    let before = file_id(&world.path).unwrap();
    std::fs::write(&world.path, bytes).unwrap();
    assert_eq!(file_id(&world.path).unwrap(), before, "the same file");
}

fn is_another(result: &Result<crate::model::Deletion, SourceError>) -> bool {
    matches!(result, Err(SourceError::Replaced { another: Another::All, .. }))
}

#[test]
fn what_goes_back_is_another_content() {
    for mode in ["WAL", "DELETE"] {
        let alike = content(mode, ROW);
        for first in ["delete", "look", "version", "let go"] {
            let (world, mut database, seen) = read_and_left(mode, 20);
            overwrite(&world, &alike);
            let result = match first {
                "delete" => delete(&mut database, &seen),
                "look" => look(&mut database, Start::Lowest, 9).map(|_| crate::model::Deletion::default()),
                "version" if mode == "WAL" => database.version().map(|_| crate::model::Deletion::default()),
                "version" => continue,
                _ => {
                    database.let_go();
                    delete(&mut database, &seen)
                }
            };
            assert!(is_another(&result), "{mode} {first}: {result:?}");
            assert_eq!(std::fs::read(&world.path).unwrap(), alike, "{mode} {first}: untouched");
            // Its own log would be laid over it by whoever opens it next; that is the one who copied's to know.
            let _ = std::fs::remove_file(log_of(&world));
            let seen = all(&mut database);
            assert_eq!(rowids(&seen), [1], "{mode} {first}: said once, and read");
            assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1, "{mode} {first}");
        }
    }
}

#[test]
fn what_a_checkpoint_did_not_write_takes_no_delete_and_no_checkpoint() {
    // Its counters are higher, so that nothing but the log tells.
    let mut sql = ROW.to_owned();
    for _ in 0..40 {
        sql.push_str("CREATE TABLE t (x); DROP TABLE t;");
    }
    let alike = content("WAL", &sql);
    for (log_removed, ends) in [(false, "time"), (true, "time"), (false, "let go"), (true, "let go"), (true, "drop")] {
        let (world, mut database, seen) = read_and_left("WAL", 0);
        if log_removed {
            std::fs::remove_file(log_of(&world)).unwrap();
        }
        overwrite(&world, &alike);
        let result = delete(&mut database, &seen);
        assert!(matches!(result, Err(SourceError::Busy(_))), "{ends}: {result:?}");
        match ends {
            "time" if !log_removed => {
                database.known.as_mut().unwrap().age(Duration::from_secs(11));
                let result = delete(&mut database, &seen);
                assert!(is_another(&result), "{result:?}");
            }
            "let go" if !log_removed => {
                database.let_go();
                let result = delete(&mut database, &seen);
                assert!(is_another(&result), "{result:?}");
            }
            "drop" => drop(database),
            _ => {}
        }
        assert_eq!(std::fs::read(&world.path).unwrap(), alike, "{log_removed} {ends}: untouched");
        assert_eq!(content_says(&alike), content_says(&std::fs::read(&world.path).unwrap()));
    }
}

/// Its sync may take any time. Played by one that waits for a reader, and by what it would have written.
#[test]
fn a_checkpoint_that_takes_minutes_is_no_overwriting() {
    for ends in ["delete", "let go"] {
        let (world, mut database, seen) = read_and_left("WAL", 0);
        let mut reader = App::start(&world.path);
        reader.run("BEGIN; SELECT count(*) FROM users_outbox;");
        let mut writer = App::start(&world.path);
        writer.exec("INSERT INTO counted VALUES (1);");
        let shm = file_id(&world.path.with_extension("sqlite-shm")).unwrap().unwrap();
        let checkpoint = std::thread::spawn(move || writer.run(".timeout 60000\nPRAGMA wal_checkpoint(FULL);"));
        wait_until("a checkpoint", || lock::is_checkpointed(shm));
        all(&mut database);
        // Another header, as of a file that grows.
        let mut bytes = std::fs::read(&world.path).unwrap();
        bytes[27] += 1;
        let write = Command::new("dd")
            .args(["conv=notrunc", "status=none", &format!("of={}", world.path.display())])
            .stdin(Stdio::piped())
            .spawn();
        let mut write = write.unwrap();
        write.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(write.wait().unwrap().success());
        assert!(matches!(delete(&mut database, &seen), Err(SourceError::Busy(_))), "{ends}");
        let known = database.known.as_mut().unwrap();
        assert!(known.is_doubtful() && !known.looks_alike(), "{ends}");
        known.age(Duration::from_secs(11));
        if ends == "let go" {
            database.let_go();
        } else {
            assert!(matches!(delete(&mut database, &seen), Err(SourceError::Busy(_))), "{ends}: it goes on");
        }
        reader.exec("COMMIT;");
        assert!(checkpoint.join().unwrap().starts_with("0|"));
        wait_until("the delete", || match delete(&mut database, &seen) {
            Ok(deletion) => deletion.deleted == 1,
            Err(SourceError::Busy(_)) => false,
            other => panic!("{ends}: {other:?}"),
        });
    }
}

fn content_says(bytes: &[u8]) -> String {
    let world = World::new();
    std::fs::write(&world.path, bytes).unwrap();
    App::start(&world.path).run("PRAGMA integrity_check; SELECT * FROM users_outbox;")
}

#[test]
fn in_journal_mode_the_cache_is_not_believed_when_the_file_was_written_to() {
    // The 16 bytes that SQLite looks at are the same; so is all of the header in the first case.
    for (sql, another) in [
        ("INSERT INTO users_outbox VALUES (1,'a','t','q');", false),
        ("BEGIN; INSERT INTO users_outbox VALUES (1,'a','t','p'); PRAGMA user_version = 7; COMMIT;", true),
    ] {
        let bytes = content("DELETE", sql);
        let (world, mut app) = World::with("DELETE", SCHEMA);
        app.exec(ROW);
        app.close();
        let mut database = world.database();
        let seen = all(&mut database);
        overwrite(&world, &bytes);
        let result = delete(&mut database, &seen);
        assert!(
            if another { is_another(&result) } else { matches!(result, Err(SourceError::Busy(_))) },
            "{sql}: {result:?}"
        );
        assert_eq!(std::fs::read(&world.path).unwrap(), bytes, "untouched");
        if !another {
            assert_eq!(delete(&mut database, &seen).unwrap().changed, [key(1)], "opened anew, and compared");
            assert_eq!(std::fs::read(&world.path).unwrap(), bytes, "untouched");
        }
    }
}

#[test]
fn a_file_truncated_to_nothing_is_waited_for_and_what_comes_is_another() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut database, seen) = read_and_left(mode, 3);
        overwrite(&world, b"");
        let result = delete(&mut database, &seen);
        assert!(is_another(&result), "{mode}: {result:?}");
        let _ = std::fs::remove_file(log_of(&world));
        assert!(matches!(look(&mut database, Start::Lowest, 9), Err(SourceError::NotThere(_))), "{mode}");
        assert_eq!(std::fs::metadata(&world.path).unwrap().len(), 0, "{mode}: untouched");
        let mut app = App::start(&world.path);
        app.exec(SCHEMA);
        app.exec(ROW);
        assert_eq!(rowids(&all(&mut database)), [1], "{mode}");
    }
}

#[test]
fn a_log_that_was_taken_away_takes_no_deletes() {
    for when in ["before", "inside"] {
        let (world, mut app) = World::with("WAL", SCHEMA);
        app.exec(ROW);
        app.run("PRAGMA wal_checkpoint(TRUNCATE);");
        let mut database = world.database();
        let seen = all(&mut database);
        app.close();
        if when == "before" {
            std::fs::remove_file(log_of(&world)).unwrap();
        }
        let result = database.delete(&order(&[group(&seen)]), &mut |_| {
            std::fs::remove_file(log_of(&world)).unwrap();
            Ok(())
        });
        assert!(matches!(result, Err(SourceError::Busy(_))), "{when}: {result:?}");
        let again = all(&mut database);
        assert_eq!(again, seen, "{when}: opened anew");
        assert_eq!(delete(&mut database, &again).unwrap().deleted, 1);
        drop(database);
        assert_eq!(App::start(&world.path).run("SELECT count(*) FROM users_outbox;"), "0", "{when}: and there for all");
    }
}

#[test]
fn checkpoints_are_no_overwriting() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    let mut database = world.database();
    let kinds = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
    for round in 0..80 {
        app.exec("INSERT INTO users_outbox (payload) VALUES (hex(randomblob(3000)));");
        let seen = all(&mut database);
        if round % 3 == 0 {
            app.run(&format!("PRAGMA wal_checkpoint({});", kinds[round / 3 % 4]));
        }
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 1, "{round}");
        if round % 5 == 0 {
            app.run(&format!("PRAGMA wal_checkpoint({});", kinds[round / 5 % 4]));
        }
        if round % 17 == 0 {
            database.let_go();
        }
    }
    app.exec("VACUUM;");
    assert_eq!(all(&mut database), []);
}

#[test]
fn asking_how_far_a_checkpoint_came_makes_none() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec(ROW);
    let before = std::fs::read(&world.path).unwrap();
    let mut database = world.database();
    for _ in 0..3 {
        let seen = all(&mut database);
        delete(&mut database, &seen).unwrap();
        app.exec(ROW);
    }
    assert_eq!(std::fs::read(&world.path).unwrap(), before);
}

#[test]
fn a_large_transaction_that_is_rolled_back_is_no_overwriting() {
    for mode in ["DELETE", "TRUNCATE", "PERSIST"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000) INSERT INTO users_outbox SELECT i,'a','t',hex(zeroblob(100)) FROM n;");
        let mut database = world.database();
        let seen = all(&mut database);
        let before = std::fs::metadata(&world.path).unwrap().modified().unwrap();
        app.exec("PRAGMA cache_size = 2; BEGIN; UPDATE users_outbox SET payload = hex(randomblob(100)); ROLLBACK;");
        assert_ne!(std::fs::metadata(&world.path).unwrap().modified().unwrap(), before, "it was spilled");
        let result = delete(&mut database, &seen[..10]);
        assert!(matches!(result, Err(SourceError::Busy(_))), "{mode}: {result:?}");
        assert_eq!(delete(&mut database, &seen[..10]).unwrap().deleted, 10, "{mode}");
        assert_eq!(all(&mut database), seen[10..]);
    }
}

#[test]
fn a_backup_restored_by_sqlite_itself_is_an_ordinary_commit() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p');");
        let backup = world.directory.path().join("backup.sqlite");
        app.run(&format!(".backup {}", backup.display()));
        let mut database = world.database();
        let seen = all(&mut database);
        assert_eq!(delete(&mut database, &seen).unwrap().deleted, 2);
        app.exec("INSERT INTO users_outbox VALUES (1,'a','t','new');");
        let new = all(&mut database);
        app.run(&format!(".restore {}", backup.display()));
        // The rows of the backup are back, and what was on its way is compared as always.
        let deletion = delete(&mut database, &new).unwrap();
        assert_eq!((deletion.deleted, deletion.changed), (0, vec![key(1)]), "{mode}");
        assert_eq!(all(&mut database), seen, "{mode}");
    }
}

/// By another process: a descriptor of ours would take SQLite's locks along when it is closed.
fn touch(path: &Path, arguments: &[&str]) {
    assert!(Command::new("touch").args(arguments).arg(path).status().unwrap().success());
}

#[test]
fn a_touch_is_no_overwriting() {
    for mode in ["WAL", "DELETE"] {
        for first in ["delete", "look", "let go"] {
            for with_application in [true, false] {
                let what = format!("{mode} {first} {with_application}");
                let (world, mut database, seen) = read_and_left(mode, 3);
                let app = with_application.then(|| {
                    let mut app = App::start(&world.path);
                    assert_eq!(app.count(), 1);
                    app
                });
                touch(&world.path, &["-d", "2026-01-01 00:00:00"]);
                if first == "let go" {
                    database.let_go();
                }
                wait_until(&what, || {
                    let result = match first {
                        "look" => look(&mut database, Start::Lowest, 9).map(|_| crate::model::Deletion::default()),
                        _ => delete(&mut database, &seen),
                    };
                    if let Some(known) = &mut database.known
                        && known.is_doubtful()
                    {
                        known.age(Duration::from_secs(2));
                    }
                    match result {
                        Ok(deletion) => {
                            deletion.deleted == 1
                                || first == "look" && database.known.as_ref().is_none_or(|known| !known.is_doubtful())
                        }
                        Err(SourceError::Busy(_)) => false,
                        other => panic!("{what}: {other:?}"),
                    }
                });
                assert_eq!(delete(&mut database, &seen).unwrap().deleted, usize::from(first == "look"), "{what}");
                drop(app);
            }
        }
    }
}

#[test]
fn a_touch_before_letting_go_leaves_no_log_for_long() {
    let (world, mut database, _) = read_and_left("WAL", 3);
    touch(&world.path, &[]);
    database.let_go();
    wait_until("no log", || {
        if database.stirred() {
            all(&mut database);
            database.let_go();
        }
        !log_of(&world).exists()
    });
}

#[test]
fn a_copy_that_is_alike_but_for_its_rows_is_read_anew() {
    let (world, mut database, seen) = read_and_left("WAL", 3);
    let mut bytes = std::fs::read(&world.path).unwrap();
    let at = bytes.windows(3).rposition(|window| window == b"atp").unwrap();
    bytes[at + 2] = b'q';
    overwrite(&world, &bytes);
    assert!(matches!(delete(&mut database, &seen), Err(SourceError::Busy(_))), "the log has not moved on");
    database.known.as_mut().unwrap().age(Duration::from_secs(2));
    assert!(matches!(delete(&mut database, &seen), Err(SourceError::Busy(_))), "opened anew");
    assert_eq!(delete(&mut database, &seen).unwrap().changed, [key(1)], "compared with what is there");
    assert_eq!(std::fs::read(&world.path).unwrap(), bytes, "untouched");
}

#[test]
fn an_mtime_that_is_still_to_come_is_no_sign_of_life_and_hides_none() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut database, _) = read_and_left(mode, 3);
        database.let_go();
        touch(&world.path, &["-d", "2100-01-01"]);
        wait_until("rest", || {
            all(&mut database);
            database.let_go();
            !database.stirred()
        });
        let mut app = App::start(&world.path);
        app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
        assert!(database.stirred(), "{mode}");
        assert_eq!(rowids(&all(&mut database)), [1, 2], "{mode}");
    }
}
