//! `outboxd run`: from arguments to a running daemon.
//!
//! Promises: signals are listened for before anything else. Does not know: how a daemon is made.

use super::{CommandError, dry_run};
use crate::cli::RunArgs;
use crate::config::{Config, ConfigError, DEFAULT_PATH, Flags};
use crate::daemon::{self, Output, signals};
use crate::exit::FAILED;
use crate::failpoint;
use std::io;
use std::path::Path;

pub fn run(arguments: &RunArgs) -> Result<(), CommandError> {
    if arguments.dry_run {
        return dry_run::run(&config(arguments)?, &mut io::stdout().lock());
    }
    // Before the config is read: a SIGTERM that comes meanwhile drains too.
    let stop = signals::install().map_err(|error| {
        CommandError::new(FAILED, error, "signals can't be listened for; see the limits: ulimit -a")
    })?;
    let config = config(arguments)?;
    failpoint::arm();
    let output = if arguments.stdout { Output::Lines(Box::new(io::stdout())) } else { Output::Kafka };
    daemon::run(&config, output, &stop)?;
    Ok(())
}

fn config(arguments: &RunArgs) -> Result<Config, ConfigError> {
    let needs_servers = !arguments.stdout && !arguments.dry_run;
    let Some(database) = &arguments.database else {
        let path = arguments.config.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
        return Config::load(path, needs_servers);
    };
    let flags = Flags {
        database: database.clone(),
        table: arguments.table.clone().unwrap_or_default(),
        topic: arguments.topic.clone().unwrap_or_default(),
        bootstrap_servers: arguments.bootstrap_servers.clone(),
        state: arguments.state.clone(),
        security: (&arguments.security).into(),
    };
    Config::from_flags(&flags, needs_servers)
}
