//! Load for measurements: at a rate or as fast as possible, into the outbox or beside it.
//!
//! Promises: what is reported was committed; failures with BUSY are counted, not hidden. Does not know: limits.

use crate::Result;
use crate::args::{Bench, Fill, Foreign};
use crate::payload;
use crate::schema;
use crate::write::{is_busy, pace};
use rusqlite::Connection;
use serde_json::json;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub fn run(options: &Bench) -> Result<serde_json::Value> {
    let db = schema::open(&options.db, options.busy_timeout_ms, &options.synchronous)?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    let fill = payload::plain(0, "bench", options.seed, options.size);
    let begun = Instant::now();
    let (mut committed, mut busy) = (0u64, 0u64);
    let mut micros: Vec<u32> = Vec::new();
    while begun.elapsed().as_secs_f64() < options.seconds {
        if let Some(rate) = options.rate {
            // A transaction that failed was one: it is not made up for.
            pace(begun, committed + busy, rate);
        }
        let started = Instant::now();
        match transaction(&db, options, &mut random, &fill) {
            Ok(()) => {
                committed += 1;
                micros.push(started.elapsed().as_micros().try_into().unwrap_or(u32::MAX));
            }
            Err(error) if is_busy(error.as_ref()) => {
                busy += 1;
                if !db.is_autocommit() {
                    db.execute_batch("ROLLBACK")?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    micros.sort_unstable();
    let at = |share: f64| micros.get(((micros.len() as f64 * share) as usize).min(micros.len().saturating_sub(1)));
    Ok(json!({
        "transactions": committed, "busy": busy, "seconds": seconds, "per_second": committed as f64 / seconds,
        "p50_us": at(0.5), "p99_us": at(0.99), "p999_us": at(0.999), "max_us": micros.last(),
    }))
}

/// The payload begins with the time just before COMMIT, so that whoever receives it knows its age.
fn transaction(db: &Connection, options: &Bench, random: &mut fastrand::Rng, fill: &str) -> Result<()> {
    db.prepare_cached(if options.think_us.is_some() { "BEGIN DEFERRED" } else { "BEGIN IMMEDIATE" })?.execute([])?;
    if let Some(micros) = options.think_us {
        db.prepare_cached("SELECT max(id) FROM users")?.query_row([], |row| row.get::<_, Option<i64>>(0))?;
        std::thread::sleep(Duration::from_micros(micros));
    }
    db.prepare_cached(
        "INSERT INTO users (id, name) VALUES (?1, 'user ' || ?1) ON CONFLICT DO UPDATE SET changes = changes + 1",
    )?
    .execute([random.i64(0..1000)])?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let mut payload = format!("{now} {fill}");
    payload.truncate(options.size.max(20));
    db.prepare_cached("INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (?1, 'UserChanged', ?2)")?
        .execute((random.u32(0..1000).to_string(), payload))?;
    db.prepare_cached("COMMIT")?.execute([])?;
    Ok(())
}

pub fn foreign(options: &Foreign) -> Result<serde_json::Value> {
    let db = schema::open(&options.db, 5_000, "OFF")?;
    db.execute("INSERT OR IGNORE INTO users (id, name) VALUES (1, 'nobody''s event')", [])?;
    let mut update = db.prepare("UPDATE users SET changes = changes + 1 WHERE id = 1")?;
    let begun = Instant::now();
    let (mut committed, mut busy) = (0u64, 0u64);
    while begun.elapsed().as_secs_f64() < options.seconds {
        pace(begun, committed, options.rate);
        match update.execute([]) {
            Ok(_) => committed += 1,
            Err(error) if is_busy(&error) => busy += 1,
            Err(error) => return Err(error.into()),
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(json!({ "transactions": committed, "busy": busy, "seconds": seconds, "per_second": committed as f64 / seconds }))
}

pub fn fill(options: &Fill) -> Result<serde_json::Value> {
    const ROWS_PER_TRANSACTION: u64 = 20_000;
    let mut db = schema::open(&options.db, 20_000, "NORMAL")?;
    let begun = Instant::now();
    let mut filled = 0;
    while filled < options.rows {
        let end = options.rows.min(filled + ROWS_PER_TRANSACTION);
        let transaction = db.transaction()?;
        {
            let statement = format!(
                "INSERT INTO \"{}\" (aggregateId, eventType, payload) VALUES (?1, 'Backlog', ?2)",
                options.table
            );
            let mut insert = transaction.prepare(&statement)?;
            for row in filled..end {
                let aggregate = (row % options.aggregates).to_string();
                insert.execute((&aggregate, payload::plain(0, &aggregate, row, options.size)))?;
            }
        }
        transaction.commit()?;
        filled = end;
    }
    // In WAL mode into the database file, so that a measurement begins with an empty log; elsewhere this does nothing.
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
    Ok(json!({ "rows": filled, "seconds": begun.elapsed().as_secs_f64() }))
}
