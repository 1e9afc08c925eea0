//! Under load, the daemon is asked to end, and the broker ends or stands still.

use super::support::wait::{self, SECOND};
use super::support::{Config, Scene, scene};
use super::{on_own, on_shared};

pub fn twenty_drains_under_load(version: &str) {
    let scene = some_or_skip!(on_shared("drains", version));
    let topic = scene.topic(4);
    let database = scene.database("");
    let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic);
    let enough = scene.path("enough");
    let write = format!("write --transactions 0 --until {} --rate 400 --events 2 --large-every 400", enough.display());
    let mut writers: Vec<_> =
        (0..3).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
    let reader = scene::look(&database);
    let mut random = fastrand::Rng::with_seed(scene.seed);
    // What the last lines say.
    let (mut said_published, mut said_deleted) = (0, 0);
    for _ in 0..20 {
        let published = || {
            let left = scene::rows(&reader, "users_outbox")?;
            Some(scene::committed(&writers.iter().collect::<Vec<_>>()) as i64 - left)
        };
        let before = wait::some(10 * SECOND, "the table can be read", published);
        let mut daemon = scene.daemon(&config);
        let wanted = before + random.i64(1..1500);
        wait::until(60 * SECOND, "the daemon publishes", || {
            daemon.still_runs();
            published().is_some_and(|now| now >= wanted)
        });
        let goodbye = daemon.drain_at_work();
        said_published += goodbye.published;
        said_deleted += goodbye.deleted;
    }
    std::fs::write(&enough, "").unwrap();
    for writer in &mut writers {
        writer.done(30 * SECOND);
    }
    let daemon = scene.daemon(&config);
    scene::wait_until_empty(&database, 60 * SECOND);
    // What an earlier one had no time to delete it has deleted.
    let goodbye = daemon.drain_at_work();
    assert_eq!(goodbye.left, "0 rows");
    let writers: Vec<_> = writers.iter().collect();
    let committed = scene::committed(&writers) as u64;
    assert_eq!((said_published + goodbye.published, said_deleted + goodbye.deleted), (committed, committed));
    scene.check(&[&topic], &writers);
}

pub fn broker_killed(version: &str) {
    let (scene, kafka) = some_or_skip!(on_own("killed", version));
    under_load(&scene, "", |progress| {
        kafka.kill(1);
        progress.committed(2000);
        kafka.restart(1);
        progress.published(2000);
        // Now with a goodbye, which hands nothing over: there is nobody else.
        kafka.shut_down(1);
        progress.committed(500);
        kafka.restart(1);
        progress.published(500);
    });
}

/// Twice at once: with the default timeout the daemon waits, with a short one it is unsure and asks again and again.
pub fn broker_frozen(version: &str) {
    let (scene, kafka) = some_or_skip!(on_own("frozen", version));
    under_load(&scene, "request_timeout_ms = 2000", |progress| {
        kafka.freeze(1);
        wait::let_pass(10 * SECOND);
        kafka.thaw(1);
        progress.published(1000);
    });
}

struct Progress<'a> {
    committed: &'a dyn Fn() -> i64,
    published: &'a dyn Fn() -> Option<i64>,
}

impl Progress<'_> {
    fn committed(&self, more: i64) {
        let wanted = (self.committed)() + more;
        wait::until(60 * SECOND, "the application commits", || (self.committed)() >= wanted);
    }

    fn published(&self, more: i64) {
        let before = wait::some(10 * SECOND, "the table can be read", self.published);
        wait::until(90 * SECOND, "the daemon publishes", || (self.published)().is_some_and(|now| now >= before + more));
    }
}

/// Two databases, each with two writers and a daemon of its own, the second with the further line of `[kafka]`; something is
/// done to the broker meanwhile; in the end everything arrived exactly once.
fn under_load(scene: &Scene, second_kafka: &str, hurt: impl FnOnce(&Progress<'_>)) {
    let enough = scene.path("enough");
    let write = format!("write --transactions 0 --until {} --rate 250 --events 2", enough.display());
    let mut sides = Vec::new();
    for kafka_line in ["", second_kafka] {
        let topic = scene.topic(4);
        let database = scene.database("");
        let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic).kafka(kafka_line);
        let daemon = scene.daemon(&config);
        let writers: Vec<_> =
            (0..2).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
        sides.push((topic, database, daemon, writers));
    }
    let committed = || sides.iter().map(|side| scene::committed(&side.3.iter().collect::<Vec<_>>()) as i64).sum();
    let published = || {
        let left: Option<i64> = sides.iter().map(|side| scene::rows(&scene::look(&side.1), "users_outbox")).sum();
        Some(committed() - left?)
    };
    let progress = Progress { committed: &committed, published: &published };
    progress.published(1000);
    hurt(&progress);
    std::fs::write(&enough, "").unwrap();
    for (topic, database, daemon, mut writers) in sides {
        for writer in &mut writers {
            writer.done(30 * SECOND);
        }
        scene::wait_until_empty(&database, 90 * SECOND);
        daemon.drain();
        scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
    }
}
