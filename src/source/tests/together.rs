//! Several applications and a relay of sorts at once: every row is seen, deleted and confirmed exactly once.

use super::*;
use crate::model::LookEnd;
use std::collections::HashMap;
use std::fmt::Write as _;

const APPS: usize = 3;
const EVENTS_EACH: usize = 400;

/// An application that inserts its events one transaction each, some rolled back, and waits for locks as applications do.
fn writer(path: &Path, mode: &str, app: usize) -> Child {
    let mut child = Command::new("sqlite3")
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the sqlite3 shell is needed for these tests");
    // Every connection has a journal mode of its own, WAL excepted.
    let mut script = format!(".timeout 60000\nPRAGMA journal_mode={mode};\n");
    for event in 0..EVENTS_EACH {
        let values = format!("('{app}','t','{event}')");
        writeln!(script, "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES {values};").unwrap();
        if event % 10 == 0 {
            script.push_str("BEGIN IMMEDIATE; INSERT INTO users_outbox (payload) VALUES ('undone'); ROLLBACK;\n");
        }
    }
    let mut input = child.stdin.take().unwrap();
    std::thread::spawn(move || input.write_all(script.as_bytes()));
    child
}

fn drain(mode: &str) {
    let (world, mut app) = World::with(mode, SCHEMA);
    let mut writers: Vec<Child> = (0..APPS).map(|app| writer(&world.path, mode, app)).collect();
    let mut database = world.database();
    let mut published: HashMap<String, Vec<usize>> = HashMap::new();
    let mut busy = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        assert!(Instant::now() < deadline, "{mode}: {busy} busy");
        let finished = writers.iter_mut().all(|writer| writer.try_wait().unwrap().is_some());
        let (found, seen) = match look(&mut database, Start::Lowest, 100) {
            Ok(looked) => looked,
            Err(SourceError::Busy(_)) => {
                busy += 1;
                std::thread::park_timeout(Duration::from_micros(200));
                continue;
            }
            Err(error) => panic!("{mode}: {error}"),
        };
        if seen.is_empty() {
            if finished && found.end == LookEnd::End {
                break;
            }
            std::thread::park_timeout(Duration::from_micros(500));
            continue;
        }
        for row in &seen {
            let text = |field: usize| String::from_utf8(row.fields[field].clone().unwrap()).unwrap();
            published.entry(text(1)).or_default().push(text(3).parse().expect("nothing that was undone"));
        }
        database.make_durable().unwrap();
        let groups = [group(&seen)];
        for attempt in 0.. {
            // As the relay: the others first, but not for ever.
            let order = if attempt % 8 == 7 { insistent(&groups) } else { order(&groups) };
            match database.delete(&order, &mut |_| Ok(())) {
                Ok(deletion) => {
                    assert_eq!(deletion.deleted, seen.len(), "{mode}: {deletion:?}");
                    break;
                }
                Err(SourceError::Busy(_) | SourceError::Yielded) => busy += 1,
                Err(error) => panic!("{mode}: {error}"),
            }
            assert!(Instant::now() < deadline, "{mode}: {busy} busy");
            std::thread::park_timeout(Duration::from_micros(500));
        }
    }
    assert_eq!(app.count(), 0);
    assert_eq!(app.run("PRAGMA integrity_check;"), "ok");
    assert_eq!(published.len(), APPS);
    for (app, events) in published {
        assert_eq!(events, (0..EVENTS_EACH).collect::<Vec<_>>(), "{mode}: app {app}");
    }
}

#[test]
fn every_row_once_and_in_order_in_wal_mode() {
    drain("WAL");
}

#[test]
fn every_row_once_and_in_order_in_delete_mode() {
    drain("DELETE");
}

#[test]
fn every_row_once_and_in_order_in_truncate_mode() {
    drain("TRUNCATE");
}

#[test]
fn every_row_once_and_in_order_in_persist_mode() {
    drain("PERSIST");
}

/// 500 tables of one database, a commit a moment: what is not of it must cost next to nothing.
#[test]
fn outboxes_without_news_are_told_apart_in_one_read_transaction() {
    for mode in ["WAL", "DELETE"] {
        let (world, mut app) = World::with(mode, "CREATE TABLE other (x);");
        let tables: Vec<String> = (0..500).map(|number| format!("t{number}")).collect();
        let schema: Vec<String> = tables.iter().map(|table| SCHEMA.replace("users_outbox", table)).collect();
        app.exec(&format!("BEGIN; {} COMMIT;", schema.join(";\n")));
        let specs = tables.iter().map(|table| spec(table)).collect();
        let mut database = Database::new(world.options(), specs);
        database.check().unwrap();
        let mut starts: Vec<(OutboxIx, Start)> = (0..500).map(|at| (OutboxIx(at), Start::Lowest)).collect();
        let ask = |database: &mut Database, starts: &[(OutboxIx, Start)]| {
            let before = database.reads;
            let (mut stirred, mut done, mut calls) = (Vec::new(), 0, 0);
            while done < starts.len() {
                let glance = database.glance(&starts[done..], Duration::from_secs(60)).unwrap();
                assert!(glance.done > 0);
                done += glance.done;
                calls += 1;
                stirred.extend(glance.stirred.iter().map(|outbox| outbox.0));
            }
            assert_eq!(database.reads - before, calls);
            if mode == "WAL" {
                assert_eq!(calls, 1);
            }
            stirred
        };
        app.exec("INSERT INTO other VALUES (1);");
        assert_eq!(ask(&mut database, &starts), [0u16; 0], "{mode}");
        app.exec("INSERT INTO t300 VALUES (1,'a','t','p'); INSERT INTO t7 VALUES (5,'a','t','p');");
        assert_eq!(ask(&mut database, &starts), [7, 300], "{mode}");
        // Behind the rows that were taken.
        for outbox in [7, 300] {
            let (_, seen) = look_in(&mut database, OutboxIx(outbox), Start::Lowest, budget(10)).unwrap();
            starts[usize::from(outbox)].1 = Start::After(mark(&seen[0]));
        }
        assert_eq!(ask(&mut database, &starts), [0u16; 0], "{mode}");
        app.exec("INSERT INTO t300 VALUES (2,'a','t','p');");
        assert_eq!(ask(&mut database, &starts), [300], "{mode}");
        // The row that the next look starts from: rewritten, removed.
        app.exec("DELETE FROM t300 WHERE id = 2; UPDATE t7 SET payload = 'other'; DELETE FROM t300;");
        assert_eq!(ask(&mut database, &starts), [7, 300], "{mode}");
        app.exec("DROP TABLE t7; DROP TABLE t9;");
        assert_eq!(ask(&mut database, &starts), [7, 9, 300], "{mode}");
        let hurried = database.glance(&starts, Duration::ZERO).unwrap();
        assert_eq!(hurried.done, 1, "{mode}: time ends it, and it goes on");
    }
}
