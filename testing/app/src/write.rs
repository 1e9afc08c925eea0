//! The ordinary application: one business row and some events in each transaction.
//!
//! Promises: the ledger names an event only after its COMMIT returned OK; a failed or rolled back transaction uses up no
//! sequence number. Does not know: who else writes.

use crate::Result;
use crate::args::Write;
use crate::ledger::{Entry, Ledger};
use crate::payload::{self, Bound};
use crate::schema::{self, Shape};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, ErrorCode};
use serde_json::json;
use std::time::{Duration, Instant};

#[derive(Clone, Copy)]
pub enum Thinking {
    None,
    /// Read, wait about so long, then write.
    Micros(u64),
}

struct Aggregate {
    name: String,
    value: Value,
    sequence: u64,
}

pub fn run(options: &Write, thinking: Thinking) -> Result<serde_json::Value> {
    let db = schema::open(&options.db, options.busy_timeout_ms, &options.synchronous)?;
    let mut app = App {
        shape: schema::shape(&db, &options.table)?,
        utf8: db.query_row("PRAGMA encoding", [], |row| row.get::<_, String>(0))? == "UTF-8",
        ledger: Ledger::append_to(&options.ledger)?,
        random: fastrand::Rng::with_seed(options.seed ^ u64::from(options.writer) << 32),
        aggregates: (0..options.aggregates).map(|index| aggregate(options, index)).collect(),
        options,
        thinking,
    };
    let begun = Instant::now();
    let (mut committed, mut events, mut busy, mut rolled_back) = (0u64, 0u64, 0u64, 0u64);
    while committed < options.transactions || wanted_longer(options, begun) {
        if let Some(rate) = options.rate {
            pace(begun, committed, rate);
        }
        let attempt = committed + rolled_back + 1;
        let roll_back = options.rollback_every.is_some_and(|every| attempt.is_multiple_of(every));
        match app.transaction(&db, roll_back) {
            Ok(added) if roll_back => {
                debug_assert!(added > 0);
                rolled_back += 1;
            }
            Ok(added) => {
                committed += 1;
                events += added;
                if options.pause_every.is_some_and(|every| committed.is_multiple_of(every)) {
                    std::thread::sleep(Duration::from_millis(options.pause_ms));
                }
            }
            Err(error) if is_busy(error.as_ref()) => busy += 1,
            Err(error) => return Err(error),
        }
    }
    Ok(json!({
        "transactions": committed, "events": events, "busy": busy, "rolled_back": rolled_back,
        "seconds": begun.elapsed().as_secs_f64(),
    }))
}

fn wanted_longer(options: &Write, begun: Instant) -> bool {
    options.seconds.is_some_and(|seconds| begun.elapsed().as_secs_f64() < seconds)
        || options.until.as_deref().is_some_and(|file| !file.exists())
}

/// Waits until transaction number `done` is due at `rate` a second.
pub fn pace(begun: Instant, done: u64, rate: f64) {
    let due = begun + Duration::from_secs_f64(done as f64 / rate);
    let now = Instant::now();
    if due > now {
        std::thread::sleep(due - now);
    }
}

pub fn is_busy(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref::<rusqlite::Error>().and_then(rusqlite::Error::sqlite_error_code),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked)
    )
}

fn aggregate(options: &Write, index: u32) -> Aggregate {
    let name = format!("w{}-a{index}", options.writer);
    let value = if options.odd { payload::odd_aggregate(options.writer, index) } else { Value::Text(name.clone()) };
    Aggregate { name, value, sequence: 0 }
}

struct App<'a> {
    options: &'a Write,
    thinking: Thinking,
    shape: Shape,
    utf8: bool,
    ledger: Ledger,
    random: fastrand::Rng,
    aggregates: Vec<Aggregate>,
}

impl App<'_> {
    /// One transaction; after any error nothing of it remains, in the database or in the sequence numbers.
    fn transaction(&mut self, db: &Connection, roll_back: bool) -> Result<u64> {
        let sequences: Vec<u64> = self.aggregates.iter().map(|aggregate| aggregate.sequence).collect();
        let done = self.attempt(db, roll_back);
        if done.is_err() || roll_back {
            if !db.is_autocommit() {
                db.execute_batch("ROLLBACK")?;
            }
            for (aggregate, sequence) in self.aggregates.iter_mut().zip(sequences) {
                aggregate.sequence = sequence;
            }
        }
        done
    }

    fn attempt(&mut self, db: &Connection, roll_back: bool) -> Result<u64> {
        let deferred = self.options.deferred || matches!(self.thinking, Thinking::Micros(_));
        db.execute_batch(if deferred { "BEGIN DEFERRED" } else { "BEGIN IMMEDIATE" })?;
        if let Thinking::Micros(micros) = self.thinking {
            db.query_row("SELECT count(*) FROM users", [], |row| row.get::<_, i64>(0))?;
            std::thread::sleep(Duration::from_micros(micros / 2 + self.random.u64(0..=micros)));
        }
        let user = i64::from(self.options.writer) * 1_000_000 + self.random.i64(0..1000);
        db.prepare_cached(
            "INSERT INTO users (id, name) VALUES (?1, 'user ' || ?1) ON CONFLICT DO UPDATE SET changes = changes + 1",
        )?
        .execute([user])?;
        let mut entries = Vec::with_capacity(self.options.events as usize);
        for _ in 0..self.options.events {
            entries.push(self.event(db)?);
        }
        if !roll_back {
            db.execute_batch("COMMIT")?;
            self.ledger.add(&entries)?;
        }
        Ok(entries.len() as u64)
    }

    fn event(&mut self, db: &Connection) -> Result<Entry> {
        let options = self.options;
        let chosen = self.random.usize(0..self.aggregates.len());
        let event_type = ["UserCreated", "UserRenamed", "UserÄnderung"][self.random.usize(0..3)];
        let aggregate = &mut self.aggregates[chosen];
        aggregate.sequence += 1;
        let (name, sequence) = (aggregate.name.as_str(), aggregate.sequence);
        let payload: Bound = if options.odd {
            payload::odd(options.writer, name, sequence, self.utf8)
        } else {
            let size = payload::size(&mut self.random, sequence, options.size, options.large_every);
            Value::Text(payload::plain(options.writer, name, sequence, size)).into()
        };
        insert(db, options, &self.shape, &mut self.random, &aggregate.value, event_type, &payload)?;
        Ok(Entry {
            aggregate: expected(db, &aggregate.value)?,
            sequence,
            event_type: Some(event_type.as_bytes().to_vec()),
            payload: expected(db, &payload.value)?,
        })
    }
}

fn insert(
    db: &Connection,
    options: &Write,
    shape: &Shape,
    random: &mut fastrand::Rng,
    aggregate: &Value,
    event_type: &str,
    payload: &Bound,
) -> Result<()> {
    let mut columns = String::from("aggregateId, eventType, payload");
    let mut places = format!("?1, ?2, {}", if payload.cast_to_text { "CAST(?3 AS TEXT)" } else { "?3" });
    if shape.text_id {
        columns.push_str(", id");
        places.push_str(", ?4");
    }
    if shape.event_id {
        columns.push_str(", eventId");
        places.push_str(", ?4");
    }
    let statement = format!("INSERT INTO \"{}\" ({columns}) VALUES ({places})", options.table);
    let mut statement = db.prepare_cached(&statement)?;
    if shape.text_id || shape.event_id {
        let unique = uuid(random, options.writer);
        statement.execute(rusqlite::params![aggregate, event_type, payload.value, unique])?;
    } else {
        statement.execute(rusqlite::params![aggregate, event_type, payload.value])?;
    }
    Ok(())
}

/// Version 4 in shape, so that the keys scatter as they do in applications.
fn uuid(random: &mut fastrand::Rng, writer: u32) -> String {
    let low = random.u64(..) & 0x0000_FFFF_FFFF_FFFF;
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        random.u32(..) ^ writer,
        random.u16(..),
        random.u16(..) & 0xFFF,
        (random.u16(..) & 0x3FFF) | 0x8000,
        low
    )
}

/// The bytes that a consumer must receive for a value: numbers as SQLite's own text of them, asked from SQLite.
pub fn expected(db: &Connection, value: &Value) -> Result<Option<Vec<u8>>> {
    Ok(match value {
        Value::Null => None,
        Value::Text(text) => Some(text.clone().into_bytes()),
        Value::Blob(bytes) => Some(bytes.clone()),
        number => db.prepare_cached("SELECT CAST(?1 AS TEXT)")?.query_row([number], |row| match row.get_ref(0)? {
            ValueRef::Text(text) => Ok(Some(text.to_vec())),
            _ => Ok(None),
        })?,
    })
}
