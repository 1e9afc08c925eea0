//! The command line of the test application.
//!
//! Promises: every option is used by the command that takes it. Does not know: what the commands do.

use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Parser)]
#[command(about = "Commits events into an outbox, as an application would")]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make the database and its tables.
    Create(Create),
    /// Commit transactions of one business row and some events each.
    Write(Write),
    /// The same with deferred transactions that read, think, and then write.
    Lockstep(Lockstep),
    /// Commit events and rewrite each of them while it may be on its way.
    Rewrite(Rewrite),
    /// Rewrite every event that is still in the table, once.
    Update(Update),
    /// Insert the same ids with identical content, wait until the table is empty, again and again.
    Same(Same),
    /// Commit at a rate or as fast as possible and measure.
    Bench(Bench),
    /// Commit into another table at a rate.
    Foreign(Foreign),
    /// Fill the outbox with a backlog in a few large transactions.
    Fill(Fill),
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Journal {
    Wal,
    Delete,
    Truncate,
    Persist,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Schema {
    /// `id INTEGER PRIMARY KEY`: ids are used again.
    Bare,
    Autoincrement,
    /// `id TEXT PRIMARY KEY`, random.
    Uuid,
    /// `id INTEGER PRIMARY KEY` and a unique, never used again `eventId`.
    EventId,
    /// Columns without a type: values keep the type they are given.
    Untyped,
}

#[derive(clap::Args)]
pub struct Create {
    #[arg(long)]
    pub db: PathBuf,
    #[arg(long, value_enum, default_value = "wal")]
    pub journal: Journal,
    #[arg(long, value_enum, default_value = "bare")]
    pub schema: Schema,
    #[arg(long, default_value = "users_outbox")]
    pub table: Vec<String>,
    /// UTF-8, UTF-16le or UTF-16be.
    #[arg(long, default_value = "UTF-8")]
    pub encoding: String,
    #[arg(long)]
    pub page_size: Option<u32>,
}

#[derive(clap::Args, Clone)]
pub struct Write {
    #[arg(long)]
    pub db: PathBuf,
    #[arg(long, default_value = "users_outbox")]
    pub table: String,
    /// Names this writer's aggregates: no two writers share one.
    #[arg(long, default_value_t = 0)]
    pub writer: u32,
    /// How many transactions are committed.
    #[arg(long, default_value_t = 1000)]
    pub transactions: u64,
    /// Commit at least until this many seconds have passed.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Commit at least until this file exists.
    #[arg(long)]
    pub until: Option<PathBuf>,
    #[arg(long, default_value_t = 1)]
    pub events: u32,
    #[arg(long, default_value_t = 16)]
    pub aggregates: u32,
    /// Bytes of a payload; it varies by half around this.
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    /// Every n-th event is 100 kB.
    #[arg(long)]
    pub large_every: Option<u64>,
    /// NULL, BLOB, numbers, text with NUL and so on instead of plain payloads and aggregate ids.
    #[arg(long)]
    pub odd: bool,
    /// Every n-th transaction is rolled back (and another one takes its place).
    #[arg(long)]
    pub rollback_every: Option<u64>,
    /// Transactions per second; without it as fast as possible.
    #[arg(long)]
    pub rate: Option<f64>,
    /// After every n-th transaction nothing is committed for `--pause-ms`; with a rate, what was missed is made up for at once.
    /// Only in such a pause does a table become empty, and only then are its ids used again.
    #[arg(long)]
    pub pause_every: Option<u64>,
    #[arg(long, default_value_t = 300)]
    pub pause_ms: u64,
    #[arg(long, default_value_t = 20_000)]
    pub busy_timeout_ms: u64,
    /// BEGIN DEFERRED instead of BEGIN IMMEDIATE.
    #[arg(long)]
    pub deferred: bool,
    #[arg(long, default_value = "NORMAL")]
    pub synchronous: String,
    #[arg(long)]
    pub ledger: PathBuf,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(clap::Args)]
pub struct Lockstep {
    #[command(flatten)]
    pub write: Write,
    #[arg(long, default_value_t = 1000)]
    pub think_us: u64,
}

#[derive(clap::Args)]
pub struct Rewrite {
    #[arg(long)]
    pub db: PathBuf,
    #[arg(long, default_value_t = 500)]
    pub events: u64,
    /// At most this many rewrites of an event follow its insert.
    #[arg(long, default_value_t = 3)]
    pub versions: u32,
    #[arg(long)]
    pub ledger: PathBuf,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(clap::Args)]
pub struct Update {
    #[arg(long)]
    pub db: PathBuf,
    /// Put in front of each payload.
    #[arg(long)]
    pub mark: String,
}

#[derive(clap::Args)]
pub struct Same {
    #[arg(long)]
    pub db: PathBuf,
    /// How many transactions are committed.
    #[arg(long, default_value_t = 300)]
    pub times: u64,
    /// Commit at least until this file exists.
    #[arg(long)]
    pub until: Option<PathBuf>,
    /// After every n-th transaction nothing is committed for `--pause-ms`.
    #[arg(long)]
    pub pause_every: Option<u64>,
    #[arg(long, default_value_t = 300)]
    pub pause_ms: u64,
    /// Rows of a transaction, with the ids from 1.
    #[arg(long, default_value_t = 1)]
    pub rows: u32,
    /// A line for each transaction: milliseconds since 1970 just before it and once the table was empty, and its rows. In between
    /// each of these rows must have been published, and no other.
    #[arg(long)]
    pub ledger: Option<PathBuf>,
    /// Gives up when the table was not emptied for so long.
    #[arg(long, default_value_t = 30)]
    pub patience_s: u64,
}

#[derive(clap::Args)]
pub struct Bench {
    #[arg(long)]
    pub db: PathBuf,
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    #[arg(long)]
    pub rate: Option<f64>,
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    #[arg(long, default_value_t = 5_000)]
    pub busy_timeout_ms: u64,
    #[arg(long, default_value = "NORMAL")]
    pub synchronous: String,
    /// Deferred transactions that read and think this long before they write.
    #[arg(long)]
    pub think_us: Option<u64>,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

#[derive(clap::Args)]
pub struct Foreign {
    #[arg(long)]
    pub db: PathBuf,
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    #[arg(long, default_value_t = 20_000.0)]
    pub rate: f64,
}

#[derive(clap::Args)]
pub struct Fill {
    #[arg(long)]
    pub db: PathBuf,
    #[arg(long, default_value = "users_outbox")]
    pub table: String,
    #[arg(long, default_value_t = 500_000)]
    pub rows: u64,
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    #[arg(long, default_value_t = 1000)]
    pub aggregates: u64,
}
