//! Applications that touch their events again: rewriting them on their way, using one id again and again.
//!
//! Promises: the ledger names each committed version of an event, in order. Does not know: which versions were published.

use crate::Result;
use crate::args::{Rewrite, Same, Update};
use crate::ledger::{Entry, Ledger};
use crate::schema;
use crate::write::is_busy;
use rusqlite::{Connection, Params};
use serde_json::json;
use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const BUSY_TIMEOUT_MS: u64 = 20_000;

pub fn run(options: &Rewrite) -> Result<serde_json::Value> {
    let db = schema::open(&options.db, BUSY_TIMEOUT_MS, "NORMAL")?;
    let mut ledger = Ledger::append_to(&options.ledger)?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    let (mut rewritten, mut too_late) = (0u64, 0u64);
    for event in 0..options.events {
        let aggregate = format!("e{event}");
        let mut version = 0;
        let mut payload = format!("{aggregate} version {version}");
        execute(
            &db,
            "INSERT INTO users_outbox (aggregateId, eventType, payload) VALUES (?1, 'Written', ?2)",
            (&aggregate, &payload),
        )?;
        ledger.add(&[entry(&aggregate, version, &payload)])?;
        for _ in 0..random.u32(0..=options.versions) {
            std::thread::sleep(Duration::from_micros(random.u64(0..3000)));
            version += 1;
            payload = format!("{aggregate} version {version}");
            // By aggregate, never by id: the id may belong to another event by now.
            let changed =
                execute(&db, "UPDATE users_outbox SET payload = ?2 WHERE aggregateId = ?1", (&aggregate, &payload))?;
            if changed == 0 {
                too_late += 1;
                break;
            }
            rewritten += 1;
            ledger.add(&[entry(&aggregate, version, &payload)])?;
        }
    }
    Ok(json!({ "events": options.events, "rewritten": rewritten, "too_late": too_late }))
}

pub fn update_all(options: &Update) -> Result<serde_json::Value> {
    let db = schema::open(&options.db, BUSY_TIMEOUT_MS, "NORMAL")?;
    let changed = execute(&db, "UPDATE users_outbox SET payload = ?1 || payload", [&options.mark])?;
    Ok(json!({ "changed": changed }))
}

pub fn same_id(options: &Same) -> Result<serde_json::Value> {
    const INSERT: &str = "WITH RECURSIVE ids (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < ?1) \
         INSERT INTO users_outbox (id, aggregateId, eventType, payload) SELECT id, '1', 'UserCreated', 'the same' FROM ids";
    let db = schema::open(&options.db, BUSY_TIMEOUT_MS, "NORMAL")?;
    let mut ledger = String::new();
    let (mut times, mut inserted) = (0, 0);
    while times < options.times || options.until.as_deref().is_some_and(|file| !file.exists()) {
        // So that no two transactions share a millisecond.
        std::thread::sleep(Duration::from_millis(2));
        let at = now_ms()?;
        inserted += execute(&db, INSERT, (options.rows,))?;
        times += 1;
        let begun = Instant::now();
        while db.query_row("SELECT EXISTS (SELECT 1 FROM users_outbox)", [], |row| row.get::<_, bool>(0))? {
            if begun.elapsed() > Duration::from_secs(options.patience_s) {
                return Err(format!("insert {times}: the table was not emptied within {} s", options.patience_s).into());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        writeln!(ledger, "{at} {} {}", now_ms()?, options.rows)?;
        if options.pause_every.is_some_and(|every| times.is_multiple_of(every)) {
            std::thread::sleep(Duration::from_millis(options.pause_ms));
        }
    }
    if let Some(path) = &options.ledger {
        std::fs::write(path, ledger)?;
    }
    Ok(json!({ "inserted": inserted }))
}

fn now_ms() -> Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())
}

/// One statement, one transaction; BUSY is tried again for ever.
fn execute(db: &Connection, statement: &str, values: impl Params + Copy) -> Result<usize> {
    loop {
        match db.prepare_cached(statement)?.execute(values) {
            Ok(changed) => return Ok(changed),
            Err(error) if is_busy(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn entry(aggregate: &str, version: u64, payload: &str) -> Entry {
    Entry {
        aggregate: Some(aggregate.into()),
        sequence: version,
        event_type: Some(b"Written".to_vec()),
        payload: Some(payload.into()),
    }
}
