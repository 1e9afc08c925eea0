//! One cluster, and then another one at its address.

use super::on_own;
use super::support::reader::read;
use super::support::wait::{self, SECOND};
use super::support::{Config, scene};
use rustix::process::Signal;
use std::collections::BTreeSet;

/// What is in flight to a cluster that is gone goes to the next one after a restart, and only then.
pub fn another_cluster(version: &str) {
    let (scene, first) = some_or_skip!(on_own("clusters", version));
    let topic = scene.topic(1);
    let database = scene.database("");
    let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic);
    let mut number = 0;
    let mut write = |events: u32| {
        number += 1;
        scene.writer(&database, &format!("write --transactions {events} --writer {number}")).done(30 * SECOND);
    };
    let values = || -> BTreeSet<_> {
        let records = read(scene.bootstrap(), &topic);
        let values: BTreeSet<_> = records.iter().map(|record| record.value.clone()).collect();
        assert_eq!(values.len(), records.len(), "each once");
        values
    };

    // 20 events, then 30 that are sent to a broker which does not answer.
    let mut daemon = scene.daemon(&config);
    write(20);
    scene::wait_until_empty(&database, 60 * SECOND);
    first.freeze(1);
    let before = first.unread_bytes(1);
    write(30);
    wait::until(60 * SECOND, "a batch is on its way", || first.unread_bytes(1) > before);
    daemon.process.signal(Signal::KILL);
    daemon.process.exit(30 * SECOND);

    let second = first.succeeded();
    second.create_topic(&topic, 1, &[]);
    let daemon = scene.daemon(&config);
    scene::wait_until_empty(&database, 60 * SECOND);
    let said = daemon.process.stderr_text();
    assert_eq!(said.matches("and an earlier run sent to cluster ").count(), 1, "{said}");
    assert_eq!(values().len(), 30);

    // While it runs: nothing goes to the third one before a restart.
    let third = second.succeeded();
    third.create_topic(&topic, 1, &[]);
    write(10);
    wait::until(60 * SECOND, "it is said", || {
        daemon.process.stderr_text().contains("If the change is meant, restart outboxd")
    });
    assert_eq!((values().len(), scene::rows(&scene::look(&database), "users_outbox")), (0, Some(10)));
    daemon.drain_at_work();
    let daemon = scene.daemon(&config);
    scene::wait_until_empty(&database, 60 * SECOND);
    daemon.drain();
    assert_eq!(values().len(), 10);
}
