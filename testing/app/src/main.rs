//! The application of the acceptance tests, in a process of its own: it commits events and knows nothing of outboxd.
//!
//! Promises: what a ledger names was committed, in that order for each aggregate, with exactly those bytes; what it does not
//! name was not. Does not know: Kafka, the daemon, the tests' judgement.

mod args;
mod bench;
mod ledger;
mod payload;
mod rewrite;
mod schema;
mod write;

use args::{Args, Command};
use clap::Parser;
use std::process::ExitCode;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = match Args::parse().command {
        Command::Create(options) => schema::create(&options),
        Command::Write(options) => write::run(&options, write::Thinking::None),
        Command::Lockstep(options) => write::run(&options.write, write::Thinking::Micros(options.think_us)),
        Command::Rewrite(options) => rewrite::run(&options),
        Command::Update(options) => rewrite::update_all(&options),
        Command::Same(options) => rewrite::same_id(&options),
        Command::Bench(options) => bench::run(&options),
        Command::Foreign(options) => bench::foreign(&options),
        Command::Fill(options) => bench::fill(&options),
    };
    match done {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("outbox-app: {error}");
            ExitCode::FAILURE
        }
    }
}
