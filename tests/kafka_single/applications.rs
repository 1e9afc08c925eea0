//! Applications that make it hard: they read before they write, use one id for ever, rewrite what is on its way.

use super::support::wait::{self, SECOND};
use super::support::{Config, check, scene};
use super::{on_own, on_shared};

pub fn lock_step(version: &str) {
    let scene = some_or_skip!(on_shared("lockstep", version));
    let topic = scene.topic(4);
    let database = scene.database("");
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
    let mut writers = [
        scene.writer(&database, "lockstep --transactions 2000 --think-us 500 --writer 0"),
        scene.writer(&database, "write --transactions 500 --rate 250 --writer 1"),
    ];
    for writer in &mut writers {
        writer.done(120 * SECOND);
    }
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();
    scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
}

/// The application cannot tell its 300 events apart, and neither can anyone else: only their number says what happened.
pub fn one_id_used_300_times(version: &str) {
    for journal in ["wal", "delete"] {
        let scene = some_or_skip!(on_shared("same-id", version));
        let topic = scene.topic(1);
        let database = scene.database(&format!("--journal {journal}"));
        let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
        scene.app(&database, "same --times 300").done(180 * SECOND);
        daemon.drain();
        let records = scene.read(&topic);
        assert_eq!(records.len(), 300);
        assert!(records.iter().all(|record| record.value.as_deref() == Some(b"the same")));
        let ids: std::collections::HashSet<_> = records.iter().map(|record| record.header("id")).collect();
        assert_eq!(ids.len(), 300, "300 events have 300 message ids");
    }
}

pub fn rewritten_rows(version: &str) {
    for journal in ["wal", "delete"] {
        let scene = some_or_skip!(on_shared("rewrite", version));
        let topic = scene.topic(4);
        let database = scene.database(&format!("--journal {journal}"));
        let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
        let mut writer = scene.writer(&database, "rewrite --events 1500");
        writer.done(120 * SECOND);
        scene::wait_until_empty(&database, 60 * SECOND);
        daemon.drain();
        check::each_last_version(&scene.read(&topic), &scene::ledgers(&[&writer]));
    }
}

/// With the broker standing still, the rows are on their way for certain when the application rewrites them.
pub fn rewritten_while_sent(version: &str) {
    let (scene, kafka) = some_or_skip!(on_own("rewrite-sent", version));
    let topic = scene.topic(1);
    let database = scene.database("");
    let daemon = scene.daemon(&Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic));
    scene.writer(&database, "write --transactions 10").done(30 * SECOND);
    scene::wait_until_empty(&database, 30 * SECOND);

    kafka.freeze(1);
    let before = kafka.unread_bytes(1);
    let mut writer = scene.writer(&database, "write --transactions 1 --events 20 --size 1000 --writer 1");
    writer.done(30 * SECOND);
    wait::until(30 * SECOND, "the batch lies in the frozen broker's socket", || {
        kafka.unread_bytes(1) >= before + 20 * 500
    });
    let changed = scene.app(&database, "update --mark second").done(30 * SECOND);
    assert_eq!(changed["changed"], 20);
    kafka.thaw(1);
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();

    let mut values: Vec<Vec<u8>> = scene.read(&topic).into_iter().skip(10).map(|r| r.value.unwrap()).collect();
    let first: Vec<Vec<u8>> = scene::ledgers(&[&writer]).into_iter().map(|entry| entry.payload.unwrap()).collect();
    let mut both: Vec<Vec<u8>> = first.iter().map(|payload| [b"second", payload.as_slice()].concat()).collect();
    both.extend(first);
    both.sort();
    values.sort();
    assert_eq!(values, both, "each row twice: as it was sent first, and as it was rewritten");
}
