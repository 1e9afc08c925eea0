//! From the flags of `outboxd run` to the same [`Config`] a file gives.
//!
//! Promises: the same rules as the file's, with the flag as the place. Does not know: the command line's parser.

use super::document::Found;
use super::{
    Bookkeeping, Columns, Config, ConfigError, Daemon, Durability, Http, Kafka, MAX_ATTEMPTS, Outbox, Place, State,
    TOPICS_MAX, file, security,
};
use std::path::PathBuf;

/// One outbox on a command line.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub database: PathBuf,
    pub table: String,
    pub topic: String,
    pub bootstrap_servers: Vec<String>,
    pub state: Option<PathBuf>,
    pub security: SecurityFlags,
}

/// How Kafka is connected to, in flags.
#[derive(Clone, Debug, Default)]
pub struct SecurityFlags {
    pub security_protocol: Option<String>,
    pub ca: Option<String>,
    pub sasl_mechanism: Option<String>,
    pub username: Option<String>,
    pub password_file: Option<String>,
}

pub fn read(flags: &Flags, needs_servers: bool) -> Result<Config, ConfigError> {
    let database = flags.database.as_os_str();
    for (is_empty, flag) in [(database.is_empty(), "--database"), (flags.table.is_empty(), "--table")] {
        if is_empty {
            return Err(ConfigError::new(Place::Flag(flag), "this can't be empty", "see `outboxd run --help`"));
        }
    }
    let mut kafka = Kafka::default();
    for server in &flags.bootstrap_servers {
        let found = Found { value: server.clone(), place: Place::Flag("--bootstrap-servers") };
        kafka.bootstrap_servers.push(file::address(found, ("localhost", 9092), 1)?);
    }
    if kafka.bootstrap_servers.is_empty() && needs_servers {
        return Err(ConfigError::new(
            Place::Flag("--bootstrap-servers"),
            "this flag is missing",
            "add `--bootstrap-servers localhost:9092`, or `--stdout` to see the records without a Kafka",
        ));
    }
    let flag = |name, value: &Option<String>| {
        value.as_ref().map(|value| Found { value: value.clone(), place: Place::Flag(name) })
    };
    let written = security::Written {
        protocol: flag("--security-protocol", &flags.security.security_protocol),
        ca: flag("--ca", &flags.security.ca),
        mechanism: flag("--sasl-mechanism", &flags.security.sasl_mechanism),
        username: flag("--username", &flags.security.username),
        password_file: flag("--password-file", &flags.security.password_file),
        ..security::Written::default()
    };
    kafka.security = written.settings(&|name| std::env::var_os(name))?;
    let topic = file::topic(&flags.topic, Place::Flag("--topic"))?;
    let outbox = Outbox {
        database: file::database(&flags.database, &Place::Flag("--database"))?,
        table: flags.table.clone(),
        topic,
        topics_max: TOPICS_MAX,
        name: flags.table.clone(),
        durability: Durability::PowerLoss,
        bookkeeping: Bookkeeping::None,
        foreign_keys: false,
        secure_delete: false,
        max_attempts: MAX_ATTEMPTS,
        columns: Columns::default(),
        headers: Vec::new(),
    };
    let state = match flags.state.as_deref() {
        None => None,
        Some(path) if path.as_os_str().is_empty() => {
            return Err(ConfigError::new(
                Place::Flag("--state"),
                "this can't be empty",
                "leave it out: the state file is then the database's path with `-outboxd` added",
            ));
        }
        Some(path) => Some(file::absolute(path, &Place::Flag("--state"))?),
    };
    Ok(Config {
        outboxes: vec![outbox],
        kafka,
        state: State { path: state },
        daemon: Daemon::default(),
        http: Http::default(),
    })
}
