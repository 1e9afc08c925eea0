//! What a row costs to look at and to delete, and how many bytes of WAL a deleted row leaves.
//!
//! `cargo bench --bench scan_delete`. The rows are of about 200 bytes, the database is in WAL mode on the temporary directory's
//! file system; the application is not running.

use outboxd::model::{Budget, Flow, LookEnd, OutboxIx, RowKey, RowMark, RowMeta, Span, Start};
use outboxd::ports::{DeleteGroup, DeleteOrder, Source};
use outboxd::source::{Database, DatabaseOptions, Durability, OutboxSpec};
use std::path::PathBuf;
use std::time::Duration;

const ROWS: usize = 100_000;
const BATCH: usize = 5_000;
const SMALL_BATCH: usize = 20;

fn main() {
    println!("per item = per row; {ROWS} rows of 200 B, deleted in batches of {BATCH}");
    for key in ["INTEGER PRIMARY KEY", "TEXT PRIMARY KEY"] {
        let world = World::new(key);
        let mut database = world.database();
        let metas = world.scan(&mut database);
        let before = world.wal_size_bytes();
        let longest = World::delete(&mut database, &metas);
        let grown = world.wal_size_bytes() - before;
        println!("{key}: {} bytes of WAL per deleted row, longest write lock {longest:?}", grown / ROWS as u64);
    }
    for bookkeeping in [false, true] {
        let world = World::new("INTEGER PRIMARY KEY");
        let mut database = world.database_that_books(bookkeeping);
        let metas = world.scan(&mut database);
        let before = world.wal_size_bytes();
        let mut held = World::delete_by(&mut database, &metas, SMALL_BATCH);
        held.sort_unstable();
        let deletes = held.len() as u64;
        println!(
            "{SMALL_BATCH} rows at a time, bookkeeping {bookkeeping}: {} bytes of WAL and {:?} of write lock (median) a delete",
            (world.wal_size_bytes() - before) / deletes,
            held[held.len() / 2],
        );
    }
    divan::main();
}

struct World {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl World {
    fn new(key: &str) -> World {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("db.sqlite");
        let application = rusqlite::Connection::open(&path).expect("a database");
        let id = if key.starts_with("TEXT") { "lower(hex(randomblob(16)))" } else { "i" };
        application
            .execute_batch(&format!(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;
                 CREATE TABLE users_outbox (id {key}, aggregateId TEXT, eventType TEXT, payload TEXT);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{ROWS})
                 INSERT INTO users_outbox SELECT {id}, 'user-'||(i%1000), 'UserCreated', hex(zeroblob(80))||i FROM n;
                 PRAGMA wal_checkpoint(TRUNCATE);"
            ))
            .expect("rows");
        World { _directory: directory, path }
    }

    fn database(&self) -> Database {
        self.database_that_books(false)
    }

    fn database_that_books(&self, bookkeeping: bool) -> Database {
        let name = |name: &str| Some(name.to_owned());
        let mut database = Database::new(
            DatabaseOptions {
                path: self.path.clone(),
                durability: Durability::Commit,
                foreign_keys: false,
                secure_delete: false,
                bookkeeping,
            },
            vec![OutboxSpec {
                name: "users_outbox".to_owned(),
                table: "users_outbox".to_owned(),
                fields: vec![
                    name("id"),
                    name("aggregateId"),
                    name("eventType"),
                    name("payload"),
                    name("aggregateId"),
                    None,
                ],
            }],
        );
        database.keep_books(1);
        database
    }

    fn scan(&self, database: &mut Database) -> Vec<RowMeta> {
        let mut metas = Vec::with_capacity(ROWS);
        let mut start = Start::Lowest;
        loop {
            let budget = Budget { rows: BATCH, time: Duration::from_secs(10), before: None };
            let look = database
                .look(OutboxIx(0), start, budget, &mut |row| {
                    metas.push(RowMeta {
                        key: RowKey { outbox: OutboxIx(0), rowid: row.rowid },
                        print: row.print,
                        record: Span::default(),
                        message: 0,
                        event_id: Span::default(),
                    });
                    Flow::Continue
                })
                .unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
            match (look.end, metas.last()) {
                (LookEnd::Budget { last }, Some(row)) => {
                    start = Start::After(RowMark { rowid: last, print: row.print });
                }
                _ => return metas,
            }
        }
    }

    fn delete(database: &mut Database, metas: &[RowMeta]) -> Duration {
        World::delete_by(database, metas, BATCH).into_iter().max().unwrap_or_default()
    }

    /// How long the write lock was held, each time.
    fn delete_by(database: &mut Database, metas: &[RowMeta], batch: usize) -> Vec<Duration> {
        let mut held = Vec::new();
        for metas in metas.chunks(batch) {
            let rows = metas.iter().map(|meta| (meta.key, meta.print)).collect();
            let groups = [DeleteGroup::Rows(rows)];
            let order = DeleteOrder {
                number: 1,
                groups: &groups,
                booked: &[],
                yields: true,
                commit_patience: Duration::from_millis(20),
            };
            let deletion = database.delete(&order, &mut |_| Ok(())).expect("a delete");
            assert_eq!(deletion.deleted, metas.len());
            held.push(deletion.held);
        }
        held
    }

    fn wal_size_bytes(&self) -> u64 {
        let mut name = self.path.clone().into_os_string();
        name.push("-wal");
        std::fs::metadata(name).map_or(0, |metadata| metadata.len())
    }
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn scan(bencher: divan::Bencher<'_, '_>) {
    let world = World::new("INTEGER PRIMARY KEY");
    let mut database = world.database();
    world.scan(&mut database);
    bencher.counter(divan::counter::ItemsCount::new(ROWS)).bench_local(|| world.scan(&mut database).len());
}

/// What SQLite itself takes for the same rows: stepping, and every column's pointer and length. `scan` minus this is ours.
#[divan::bench(sample_count = 10, sample_size = 1)]
fn scan_bare(bencher: divan::Bencher<'_, '_>) {
    let world = World::new("INTEGER PRIMARY KEY");
    let connection = rusqlite::Connection::open(&world.path).expect("a connection");
    bencher.counter(divan::counter::ItemsCount::new(ROWS)).bench_local(|| {
        let mut statement = connection
            .prepare_cached(
                "SELECT rowid, id, aggregateId, eventType, payload FROM users_outbox NOT INDEXED ORDER BY rowid",
            )
            .expect("a statement");
        let mut rows = statement.raw_query();
        let mut sum = 0;
        while let Some(row) = rows.next().expect("a row") {
            sum += row.get::<_, i64>(0).expect("a rowid") as usize;
            for column in 1..5 {
                if let Ok(rusqlite::types::ValueRef::Text(text)) = row.get_ref(column) {
                    sum += text.len();
                }
            }
        }
        sum
    });
}

#[divan::bench(args = ["INTEGER PRIMARY KEY", "TEXT PRIMARY KEY"], sample_count = 5, sample_size = 1)]
fn delete(bencher: divan::Bencher<'_, '_>, key: &str) {
    bencher
        .counter(divan::counter::ItemsCount::new(ROWS))
        .with_inputs(|| {
            let world = World::new(key);
            let mut database = world.database();
            let metas = world.scan(&mut database);
            (world, database, metas)
        })
        .bench_local_values(|(world, mut database, metas)| {
            World::delete(&mut database, &metas);
            (world, database)
        });
}

/// Five hundred outboxes in one database, a commit to another table before each round: a look at each, or a glance at all.
#[divan::bench(args = ["looks", "glance"], sample_count = 20, sample_size = 1)]
fn five_hundred_outboxes(bencher: divan::Bencher<'_, '_>, how: &str) {
    const OUTBOXES: u16 = 500;
    let world = World::new("INTEGER PRIMARY KEY");
    let application = rusqlite::Connection::open(&world.path).expect("a connection");
    application.execute_batch("CREATE TABLE elsewhere (x)").expect("a table");
    let fields: Vec<_> = ["id", "aggregateId", "eventType", "payload", "aggregateId"]
        .map(|name| Some(name.to_owned()))
        .into_iter()
        .chain([None])
        .collect();
    let mut specs = Vec::new();
    for number in 0..OUTBOXES {
        let table = format!("t{number}");
        let columns = "id INTEGER PRIMARY KEY AUTOINCREMENT, aggregateId TEXT, eventType TEXT, payload TEXT";
        application.execute_batch(&format!("CREATE TABLE {table} ({columns})")).expect("a table");
        specs.push(OutboxSpec { name: table.clone(), table, fields: fields.clone() });
    }
    let options = DatabaseOptions {
        path: world.path.clone(),
        durability: Durability::Commit,
        foreign_keys: false,
        secure_delete: false,
        bookkeeping: false,
    };
    let mut database = Database::new(options, specs);
    let starts: Vec<_> = (0..OUTBOXES).map(|at| (OutboxIx(at), Start::Lowest)).collect();
    let time = Duration::from_secs(10);
    let mut round = |how: &str| {
        if how == "glance" {
            assert!(database.glance(&starts, time).expect("a glance").stirred.is_empty());
            return;
        }
        for (outbox, start) in &starts {
            let budget = Budget { rows: BATCH, time, before: None };
            database.look(*outbox, *start, budget, &mut |_| Flow::Continue).expect("a look");
        }
    };
    round(how);
    bencher
        .with_inputs(|| application.execute_batch("INSERT INTO elsewhere VALUES (1)").expect("a commit"))
        .bench_local_values(|()| round(how));
}
