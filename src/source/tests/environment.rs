//! What a database's surroundings do to it: full and read-only file systems, lost permissions, directories that move. It says so,
//! deletes nothing, and goes on by itself when it is over.

use super::refusals::rerun_as;
use super::*;
use std::os::unix::fs::PermissionsExt;

const ROWS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<900)
    INSERT INTO users_outbox SELECT i,'a','t',hex(zeroblob(100)) FROM n;";
const PLACE: &str = "OUTBOXD_TEST_PLACE";

/// Every third row, so that every page is written.
fn thirds(seen: &[Seen]) -> Vec<Seen> {
    seen.iter().filter(|row| row.rowid % 3 == 0).cloned().collect()
}

fn placed(place: &Path, mode: &str) -> (std::path::PathBuf, Database, App) {
    let path = place.join(format!("{mode}.sqlite"));
    let mut app = App::start(&path);
    app.run(&format!("PRAGMA journal_mode={mode};"));
    app.exec(SCHEMA);
    app.exec(ROWS);
    app.run("PRAGMA wal_checkpoint(TRUNCATE);");
    let options = DatabaseOptions { path: path.clone(), ..World::new().options() };
    (path, Database::new(options, vec![spec("users_outbox")]), app)
}

/// In a mount namespace of its own, so that the mount goes with the process. False: not possible here.
fn in_a_mount(test: &str) -> bool {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let prepare = format!("mount -t tmpfs -o size=1500k,mode=777 none {place} || exit 77;");
    let output = rerun_as(&["unshare", "--mount"], test, &prepare, &[(PLACE, place)]);
    let said = String::from_utf8_lossy(&output.stdout);
    if !said.contains("running 1 test") {
        println!(
            "SKIPPED {test}: no file system can be mounted here: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        return false;
    }
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    true
}

/// Takes all that is left.
fn fill(place: &Path) -> std::path::PathBuf {
    let path = place.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    while file.write_all(&[0; 512]).is_ok() {}
    path
}

#[test]
fn a_full_disk_keeps_the_rows_until_there_is_room() {
    let Ok(place) = std::env::var(PLACE) else {
        in_a_mount("source::tests::environment::a_full_disk_keeps_the_rows_until_there_is_room");
        return;
    };
    let place = Path::new(&place);
    for mode in ["WAL", "DELETE"] {
        for bookkeeping in [false, true] {
            let (path, mut database, mut app) = placed(place, mode);
            database.options.bookkeeping = bookkeeping;
            let seen = all(&mut database);
            let filler = fill(place);
            for _ in 0..2 {
                let result = delete(&mut database, &thirds(&seen));
                match result {
                    Err(SourceError::Failed(why)) => assert!(why.hint.contains("space"), "{mode}: {why}"),
                    Err(SourceError::CommitUnknown(_)) => {}
                    other => panic!("{mode}: {other:?}"),
                }
                assert_eq!(app.count(), 900, "{mode}");
            }
            std::fs::remove_file(filler).unwrap();
            assert_eq!(all(&mut database), seen, "{mode}: looked at again");
            assert_eq!(delete(&mut database, &thirds(&seen)).unwrap().deleted, 300, "{mode}");
            assert_eq!(app.run("SELECT count(*) FROM users_outbox; PRAGMA integrity_check;"), "600\nok");
            drop((app, database));
            for suffix in ["", "-wal", "-shm", "-journal"] {
                let _ = std::fs::remove_file(path.with_extension(format!("sqlite{suffix}")));
            }
        }
    }
}

#[test]
fn a_file_system_that_becomes_read_only_is_waited_for() {
    let Ok(place) = std::env::var(PLACE) else {
        in_a_mount("source::tests::environment::a_file_system_that_becomes_read_only_is_waited_for");
        return;
    };
    let remount = |how: &str| {
        let status = Command::new("mount").args(["-o", &format!("remount,{how}"), &place]).status().unwrap();
        assert!(status.success(), "{how}");
    };
    for mode in ["WAL", "DELETE"] {
        let (path, mut database, app) = placed(Path::new(&place), mode);
        let seen = all(&mut database);
        app.close();
        database.let_go();
        remount("ro");
        for _ in 0..2 {
            let result = delete(&mut database, &thirds(&seen));
            let Err(SourceError::Failed(why) | SourceError::NotAnOutbox { why, .. }) = result else {
                panic!("{mode}: {result:?}")
            };
            assert!(!why.hint.is_empty(), "{mode}: {why}");
        }
        remount("rw");
        assert_eq!(all(&mut database), seen, "{mode}");
        assert_eq!(delete(&mut database, &thirds(&seen)).unwrap().deleted, 300, "{mode}");
        drop(database);
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn lost_permissions_are_said_and_their_return_is_noticed() {
    let Ok(place) = std::env::var(PLACE) else {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let copy = directory.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
        // Nothing is forbidden to root.
        let mut command = if rustix::process::geteuid().is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
            command
        } else {
            Command::new(&copy)
        };
        let output = command
            .args(["--exact", "source::tests::environment::lost_permissions_are_said_and_their_return_is_noticed"])
            .arg("--nocapture")
            .env(PLACE, directory.path())
            .current_dir(directory.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{output:?}");
        return;
    };
    let place = Path::new(&place);
    let place = tempfile::tempdir_in(place).unwrap();
    let set = |path: &Path, mode: u32| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    for mode in ["WAL", "DELETE"] {
        let (path, mut database, mut app) = placed(place.path(), mode);
        let seen = all(&mut database);
        // The directory alone: a journal can't be made; with the log there already nothing is missing.
        set(place.path(), 0o555);
        let result = delete(&mut database, &seen[..1]);
        match (mode, result) {
            ("WAL", Ok(deletion)) => assert_eq!(deletion.deleted, 1),
            ("DELETE", Err(SourceError::Failed(why))) => assert!(why.hint.contains("directory"), "{why}"),
            (_, other) => panic!("{mode}: {other:?}"),
        }
        set(place.path(), 0o755);
        assert!(delete(&mut database, &seen[..2]).unwrap().deleted > 0, "{mode}");
        // It takes files and shows none: SQLite does without, but what was committed can't be made durable.
        set(place.path(), 0o333);
        all(&mut database);
        let result = database.make_durable();
        let Err(SourceError::Failed(why)) = result else { panic!("{mode}: {result:?}") };
        assert!(why.hint.contains("read"), "{mode}: {why}");
        database.let_go();
        let result = look(&mut database, Start::Lowest, 9);
        let Err(SourceError::Failed(why)) = result else { panic!("{mode}: {result:?}") };
        assert!(why.hint.contains("chmod ug+r"), "{mode}: {why}");
        set(place.path(), 0o755);
        all(&mut database);
        database.make_durable().unwrap();
        // The file: what is open stays open, and opening it again says so.
        set(&path, 0o444);
        database.let_go();
        for _ in 0..2 {
            let result = delete(&mut database, &seen[2..]);
            let Err(SourceError::Failed(why) | SourceError::NotAnOutbox { why, .. }) = result else {
                panic!("{mode}: {result:?}")
            };
            assert!(why.hint.contains("user or group"), "{mode}: {why}");
        }
        set(&path, 0o000);
        let result = look(&mut database, Start::Lowest, 9);
        assert!(matches!(result, Err(SourceError::Failed(_) | SourceError::NotAnOutbox { .. })), "{mode}: {result:?}");
        // The way to it.
        set(place.path(), 0o000);
        let result = look(&mut database, Start::Lowest, 9);
        let Err(SourceError::Failed(why)) = result else { panic!("{mode}: {result:?}") };
        assert!(why.hint.contains("user or group"), "{mode}: {why}");
        set(place.path(), 0o755);
        set(&path, 0o644);
        assert_eq!(delete(&mut database, &seen[2..]).unwrap().deleted, 898, "{mode}: by itself");
        assert_eq!(app.count(), 0);
    }
}

#[test]
fn a_directory_that_is_renamed_takes_its_database_along_and_back() {
    for mode in ["WAL", "DELETE"] {
        for first in ["delete", "look"] {
            let world = World::new();
            let place = world.directory.path().join("place");
            let aside = world.directory.path().join("aside");
            std::fs::create_dir(&place).unwrap();
            let (path, mut database, mut app) = placed(&place, mode);
            let seen = all(&mut database);
            std::fs::rename(&place, &aside).unwrap();
            if first == "delete" {
                let result = delete(&mut database, &seen);
                assert!(matches!(result, Err(SourceError::NotThere(_))), "{mode}: {result:?}");
            }
            let result = look(&mut database, Start::Lowest, 9);
            assert!(matches!(result, Err(SourceError::NotThere(_))), "{mode}: {result:?}");
            std::fs::rename(&aside, &place).unwrap();
            assert_eq!(all(&mut database), seen, "{mode}: the same file is back");
            assert_eq!(delete(&mut database, &seen[..1]).unwrap().deleted, 1);
            // Another directory of that name, with a database that looks alike.
            std::fs::rename(&place, &aside).unwrap();
            std::fs::create_dir(&place).unwrap();
            let (_, other, mut next) = placed(&place, mode);
            drop(other);
            let result = delete(&mut database, &seen);
            assert!(
                matches!(result, Err(SourceError::Replaced { another: crate::model::Another::All, .. })),
                "{mode}: {result:?}"
            );
            assert_eq!((next.count(), app.count()), (900, 899), "{mode} {first}");
            assert!(path.exists());
        }
    }
}
