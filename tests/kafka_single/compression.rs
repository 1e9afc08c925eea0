//! Compressed batches on the whole way: kills in the middle, and limits that only compressed rows are below.

use super::on_shared;
use super::support::wait::{self, SECOND};
use super::support::{Config, scene};
use rustix::process::Signal;

pub fn killed_while_it_compresses(version: &str) {
    for compression in ["zstd", "lz4"] {
        let scene = some_or_skip!(on_shared(&format!("killed-{compression}"), version));
        let topic = scene.topic(4);
        let database = scene.database("");
        let config = Config::new(scene.bootstrap())
            .outbox(&database, "users_outbox", &topic)
            .kafka(&format!("compression_type = \"{compression}\""));
        let write = "write --transactions 4000 --rate 800 --events 2 --size 300";
        let mut writers: Vec<_> =
            (0..2).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
        let reader = scene::look(&database);
        let mut random = fastrand::Rng::with_seed(scene.seed);
        for _ in 0..5 {
            let published = || {
                let left = scene::rows(&reader, "users_outbox")?;
                Some(scene::committed(&writers.iter().collect::<Vec<_>>()) as i64 - left)
            };
            let before = wait::some(10 * SECOND, "the table can be read", published);
            let mut daemon = scene.daemon(&config);
            let wanted = before + random.i64(1..1000);
            wait::until(60 * SECOND, "the daemon publishes", || {
                daemon.still_runs();
                published().is_some_and(|now| now >= wanted)
            });
            daemon.process.signal(Signal::KILL);
            daemon.process.exit(10 * SECOND);
        }
        let daemon = scene.daemon(&config);
        for writer in &mut writers {
            writer.done(60 * SECOND);
        }
        scene::wait_until_empty(&database, 60 * SECOND);
        assert_eq!(daemon.drain_at_work().left, "0 rows");
        scene.check(&[&topic], &writers.iter().collect::<Vec<_>>());
    }
}

/// Rows ten times as large as their topic takes, all of which fit once they are compressed, and some that don't.
pub fn what_fits_compressed_is_published(version: &str) {
    const NOISY: usize = 14;
    let scene = some_or_skip!(on_shared("compressed-limit", version));
    let topic = scene.topic_with(2, &["max.message.bytes=100000"]);
    let database = scene.database("");
    let mut random = fastrand::Rng::with_seed(scene.seed);
    let mut keys: std::collections::BTreeMap<String, Vec<usize>> = std::collections::BTreeMap::new();
    {
        let mut app = rusqlite::Connection::open(&database).unwrap();
        let transaction = app.transaction().unwrap();
        let insert = "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (?1, 'grown', ?2)";
        let mut insert = transaction.prepare(insert).unwrap();
        for at in 0..300 + NOISY {
            // In a row, so that the topic is stopped for them; behind each other's keys, so that order is at stake.
            let noisy = (100..100 + NOISY).contains(&at);
            let payload: String = if noisy {
                (0..150_000).map(|_| random.alphanumeric()).collect()
            } else {
                format!("{at} {}", "x".repeat([20, 40_000, 1_200_000][at % 3]))
            };
            let key = if noisy { format!("noise-{at}") } else { format!("k{}", at % 7) };
            insert.execute((&key, &payload)).unwrap();
            if !noisy {
                keys.entry(key).or_default().push(at);
            }
        }
        drop(insert);
        transaction.commit().unwrap();
    }
    let config = Config::new(scene.bootstrap())
        .outbox(&database, "users_outbox", &topic)
        .kafka("compression_type = \"zstd\"")
        .kafka("max_request_size = 200000");
    let daemon = scene.daemon(&config);
    let stderr = daemon.process.stderr.clone();
    let in_quarantine = || std::fs::read_to_string(&stderr).unwrap().matches(" is in quarantine: ").count();
    wait::until(180 * SECOND, "all noisy rows are in quarantine", || in_quarantine() == NOISY);
    let reader = scene::look(&database);
    wait::until(120 * SECOND, "all others are published", || {
        scene::rows(&reader, "users_outbox") == Some(NOISY as i64)
    });
    daemon.drain_at_work();
    assert_eq!(in_quarantine(), NOISY);
    let mut read: std::collections::BTreeMap<String, Vec<usize>> = std::collections::BTreeMap::new();
    for record in scene.read(&topic) {
        let value = String::from_utf8(record.value.unwrap()).unwrap();
        let at = value.split(' ').next().unwrap().parse().unwrap();
        read.entry(String::from_utf8(record.key.unwrap()).unwrap()).or_default().push(at);
    }
    assert_eq!(read, keys, "each once, in its key's order");
}
