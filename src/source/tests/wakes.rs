use super::*;
use crossbeam_channel::{Receiver, bounded};
use std::sync::Arc;

const PATIENCE: Duration = Duration::from_secs(20);
/// Long enough for a wake that should not come to come, in most runs; a test that passes by luck hides nothing for ever.
const QUIET: Duration = Duration::from_millis(60);

fn watch(path: &Path, own: Arc<OwnCommits>) -> (Watch, Receiver<crate::model::Wake>) {
    let (sender, receiver) = bounded(1);
    let watch = Watches::start().unwrap().watch(path, sender, own);
    receiver.recv_timeout(PATIENCE).expect("the first wake comes at once");
    (watch, receiver)
}

/// No wake is under way.
fn quiet(wakes: &Receiver<crate::model::Wake>) {
    let deadline = Instant::now() + PATIENCE;
    while wakes.recv_timeout(QUIET).is_ok() {
        assert!(Instant::now() < deadline, "wakes without end");
    }
}

#[test]
fn a_commit_wakes_in_every_journal_mode() {
    for mode in ["WAL", "DELETE", "TRUNCATE", "PERSIST", "MEMORY", "OFF"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        let (watch, wakes) = watch(&world.path, Arc::default());
        for round in 0..5 {
            quiet(&wakes);
            app.exec(&format!("INSERT INTO users_outbox VALUES ({round},'a','t','p');"));
            wakes.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{mode}: round {round}"));
        }
        drop(watch);
    }
}

#[test]
fn a_commit_after_a_wake_was_taken_has_another_however_long_it_waited() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, SCHEMA);
        app.run("PRAGMA busy_timeout = 10000;"); // for rollback-journal modes, where a look can be in its way
        let mut database = world.database();
        let (_watch, wakes) = watch(&world.path, Arc::default());
        quiet(&wakes);
        let rounds = 40;
        let (committed, news) = bounded(1);
        let writer = std::thread::spawn(move || {
            for rowid in 1..=rounds * 4 {
                app.exec(&format!("INSERT INTO users_outbox VALUES ({rowid},'a','t','p');"));
                if rowid % 4 == 0 {
                    // The reader goes on only when it has seen this row, and the next ones come while its wakes wait.
                    committed.send(rowid).unwrap();
                }
            }
            app
        });
        let mut seen = 0;
        for round in 0..rounds {
            let last = news.recv_timeout(PATIENCE).unwrap();
            // Untaken for a while: from nothing to longer than the watch's longest rest.
            std::thread::park_timeout(Duration::from_micros(u64::try_from(round % 8).unwrap() * 900));
            while seen < last {
                wakes.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{mode}: row {last} has no wake"));
                wait_until("a look", || match look(&mut database, Start::From(last), 1000) {
                    Ok((_, rows)) => {
                        seen = rows.last().map_or(seen, |row| row.rowid);
                        true
                    }
                    Err(SourceError::Busy(_)) => false,
                    Err(error) => panic!("{error}"),
                });
            }
        }
        writer.join().unwrap();
    }
}

#[test]
fn our_own_deletes_do_not_wake_in_wal_mode() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p'),(2,'a','t','p');");
    let mut database = world.database();
    let seen = all(&mut database);
    let (_watch, wakes) = watch(&world.path, database.own_commits());
    quiet(&wakes);
    delete(&mut database, &seen[..1]).unwrap();
    // The watch may read the frame before it is told whose it is: then it wakes once, and there is no second.
    let _ = wakes.recv_timeout(QUIET);
    assert!(wakes.recv_timeout(QUIET).is_err());
    app.exec("INSERT INTO users_outbox VALUES (3,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    // A checkpoint and a restart of the log hide nothing.
    app.run("PRAGMA wal_checkpoint(RESTART);");
    app.exec("INSERT INTO users_outbox VALUES (4,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    app.run("PRAGMA wal_checkpoint(TRUNCATE);");
    app.exec("INSERT INTO users_outbox VALUES (5,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
}

/// Between our COMMIT and the naming of it the log may begin anew, and another's commit lie where ours was.
#[test]
fn a_commit_in_a_log_that_began_anew_is_not_named_ours() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let mut database = world.database();
    all(&mut database);
    let own = database.own_commits();
    let salt1 = |salts: [u8; 8]| u32::from_be_bytes(*salts.first_chunk().unwrap());
    let before = database.log_begun().unwrap();
    app.run("PRAGMA wal_checkpoint(RESTART);");
    app.exec("INSERT INTO users_outbox VALUES (2,'a','t','p');");
    let after = database.log_begun().unwrap();
    assert_ne!(before, after);
    database.name_own_commit(1, before);
    assert!(!own.is_own_frame(salt1(after), 1), "it is the application's");
    database.name_own_commit(2, after);
    assert!(own.is_own_frame(salt1(after), 2));
}

#[test]
fn an_uncommitted_spill_does_not_hide_the_commit() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    let (_watch, wakes) = watch(&world.path, Arc::default());
    quiet(&wakes);
    app.exec(
        "PRAGMA cache_size=2; BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000)
         INSERT INTO users_outbox SELECT i,'a','t',hex(zeroblob(50)) FROM n;",
    );
    quiet(&wakes);
    app.exec("COMMIT;");
    wakes.recv_timeout(PATIENCE).unwrap();
    app.exec("BEGIN; UPDATE users_outbox SET payload = 'x'; ROLLBACK;");
    quiet(&wakes);
    app.exec("INSERT INTO users_outbox VALUES (-1,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_database_that_comes_later_wakes_also_with_its_directory() {
    let world = World::new();
    let directory = world.directory.path().join("deep").join("down");
    let path = directory.join("db.sqlite");
    let (_watch, wakes) = watch(&path, Arc::default());
    quiet(&wakes);
    std::fs::create_dir_all(&directory).unwrap();
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    let mut app = App::start(&path);
    app.run("PRAGMA journal_mode=WAL;");
    app.exec(SCHEMA);
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
    app.close();
    quiet(&wakes);
    std::fs::remove_dir_all(&directory).unwrap();
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    std::fs::create_dir_all(&directory).unwrap();
    let mut app = App::start(&path);
    app.exec(SCHEMA);
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_symlink_is_followed_to_the_real_directory() {
    let (world, mut app) = World::with("WAL", SCHEMA);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("link.db");
    std::os::unix::fs::symlink(&world.path, &link).unwrap();
    let (_watch, wakes) = watch(&link, Arc::default());
    quiet(&wakes);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    let (second, mut other) = World::with("DELETE", SCHEMA);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(&second.path, &link).unwrap();
    wakes.recv_timeout(PATIENCE).unwrap();
    quiet(&wakes);
    other.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    wakes.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_file_renamed_into_place_wakes() {
    let (world, mut app) = World::with("DELETE", SCHEMA);
    let (next, _next_app) = World::with("DELETE", SCHEMA);
    app.exec("INSERT INTO users_outbox VALUES (1,'a','t','p');");
    let (_watch, wakes) = watch(&world.path, Arc::default());
    quiet(&wakes);
    let aside = world.directory.path().join("copy");
    std::fs::copy(&next.path, &aside).unwrap();
    quiet(&wakes);
    std::fs::rename(&aside, &world.path).unwrap();
    wakes.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn databases_that_are_watched_together_are_told_apart() {
    let place = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let watches = Watches::start().unwrap();
    // The second one's name begins as the first one's does, and so do those of its files.
    let paths = [place.path().join("db"), place.path().join("db-wal2"), elsewhere.path().join("db")];
    let mut all: Vec<_> = paths
        .iter()
        .map(|path| {
            let mut app = App::start(path);
            app.run("PRAGMA journal_mode=WAL;");
            app.exec(SCHEMA);
            let (sender, wakes) = bounded(1);
            let watch = watches.watch(path, sender, Arc::default());
            wakes.recv_timeout(PATIENCE).expect("the first wake comes at once");
            (app, watch, wakes)
        })
        .collect();
    let commit = |app: &mut App| app.exec("INSERT INTO users_outbox (payload) VALUES ('p');");
    for (_, _, wakes) in &all {
        quiet(wakes);
    }
    for at in 0..all.len() {
        commit(&mut all[at].0);
        all[at].2.recv_timeout(PATIENCE).unwrap();
        for (other, (_, _, wakes)) in all.iter().enumerate() {
            quiet(wakes);
            assert!(wakes.is_empty(), "a commit to {at} woke {other}");
        }
    }
    // Wakes that nobody takes, and commits without a pause, are the affair of one of them.
    let (mut noisy, _noisy, _untaken) = all.remove(0);
    let writer = std::thread::spawn(move || (0..2_000).for_each(|_| commit(&mut noisy)));
    while !writer.is_finished() {
        for (app, _, wakes) in &mut all {
            commit(app);
            wakes.recv_timeout(PATIENCE).unwrap();
        }
    }
    writer.join().unwrap();
    // The directory is watched as long as somebody needs it.
    let (mut app, _watch, wakes) = all.remove(0);
    quiet(&wakes);
    commit(&mut app);
    wakes.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn a_directory_that_is_replaced_wakes_all_that_lie_there() {
    let world = World::new();
    let directory = world.directory.path().join("shared");
    std::fs::create_dir(&directory).unwrap();
    let watches = Watches::start().unwrap();
    let watched: Vec<_> = ["a", "b"]
        .iter()
        .map(|name| {
            let (sender, wakes) = bounded(1);
            let path = directory.join(name);
            let watch = watches.watch(&path, sender, Arc::default());
            wakes.recv_timeout(PATIENCE).expect("the first wake comes at once");
            (path, watch, wakes)
        })
        .collect();
    for (_, _, wakes) in &watched {
        quiet(wakes);
    }
    std::fs::rename(&directory, world.directory.path().join("aside")).unwrap();
    for (_, _, wakes) in &watched {
        wakes.recv_timeout(PATIENCE).unwrap();
        quiet(wakes);
    }
    std::fs::create_dir(&directory).unwrap();
    for (path, _, wakes) in &watched {
        wakes.recv_timeout(PATIENCE).unwrap();
        quiet(wakes);
        App::start(path).exec(SCHEMA);
        wakes.recv_timeout(PATIENCE).unwrap();
    }
}
