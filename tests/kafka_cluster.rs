//! The daemon on three real brokers, one of which is killed, leaves, or stands still while it leads.
//!
//! The tests share one cluster and take turns: each hurts it and waits until it is whole again.

mod support;

mod real_kafka_cluster {
    use super::support::wait::{self, SECOND};
    use super::support::{Broker, Config, Scene, broker, scene};
    use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

    /// A leader that is gone is noticed within three seconds instead of nine.
    const SET: [&str; 3] =
        ["broker.session.timeout.ms=3000", "broker.heartbeat.interval.ms=500", "replica.lag.time.max.ms=3000"];

    type Cluster = Option<Arc<Broker>>;

    fn cluster() -> Option<(Arc<Broker>, MutexGuard<'static, Cluster>)> {
        static CLUSTER: Mutex<Cluster> = Mutex::new(None);
        let mut turn = CLUSTER.lock().unwrap_or_else(PoisonError::into_inner);
        if turn.is_none() {
            *turn = Some(broker::own("4.3.0", 3, &SET)?);
        }
        let kafka = Arc::clone(turn.as_ref()?);
        Some((kafka, turn))
    }

    #[test]
    fn leader_killed() {
        with_its_leader("leader-killed", |kafka, leader, published| {
            kafka.kill(leader);
            published(3000);
            kafka.restart(leader);
        });
    }

    /// It answers what it has already appended with NOT_LEADER_OR_FOLLOWER.
    #[test]
    fn leader_shut_down() {
        with_its_leader("leader-left", |kafka, leader, published| {
            kafka.shut_down(leader);
            published(3000);
            kafka.restart(leader);
        });
    }

    /// When it thaws, it still believes that it leads.
    #[test]
    fn leader_frozen() {
        with_its_leader("leader-frozen", |kafka, leader, published| {
            kafka.freeze(leader);
            published(3000);
            kafka.thaw(leader);
            published(1000);
        });
    }

    /// Writers, a daemon, and a topic whose partition 0 loses its leader meanwhile.
    fn with_its_leader(name: &str, hurt: impl FnOnce(&Broker, u32, &dyn Fn(i64))) {
        let Some((kafka, _turn)) = cluster() else { return };
        let scene = Scene::new(name, Some(Arc::clone(&kafka)));
        let topic = scene.topic_with(3, &["min.insync.replicas=2"]);
        let database = scene.database("");
        let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic);
        let daemon = scene.daemon(&config);
        let enough = scene.path("enough");
        let write = format!("write --transactions 0 --until {} --rate 250 --events 2", enough.display());
        let mut writers: Vec<_> =
            (0..3).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
        let reader = scene::look(&database);
        let now = || {
            let left = scene::rows(&reader, "users_outbox")?;
            Some(scene::committed(&writers.iter().collect::<Vec<_>>()) as i64 - left)
        };
        let published = |more: i64| {
            let before = wait::some(10 * SECOND, "the table can be read", now);
            wait::until(90 * SECOND, "the daemon publishes", || now().is_some_and(|n| n >= before + more));
        };
        published(2000);
        let (leader, _) = kafka.leader(&topic, 0);
        hurt(&kafka, leader as u32, &published);
        published(1000);
        std::fs::write(&enough, "").unwrap();
        for writer in &mut writers {
            writer.done(30 * SECOND);
        }
        scene::wait_until_empty(&database, 120 * SECOND);
        daemon.drain();
        wait::until(60 * SECOND, "all replicas are in sync again", || {
            (0..3).all(|partition| kafka.leader(&topic, partition).1.len() == 3)
        });
        scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
    }
}
