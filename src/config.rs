//! What the operator wrote: the config file's shape, its defaults, and what is wrong with it.
//!
//! Promises: a [`Config`] that exists is valid in itself, and every error names the place, the culprit and what to type.
//! Does not know: threads, sockets, or what is inside a database (it only asks the file system which paths are one file).

mod document;
mod error;
mod file;
mod flags;
mod group;
mod security;
mod topic;

pub use error::{ConfigError, Place};
pub use file::KEYS;
pub use flags::{Flags, SecurityFlags};
pub use group::{Database, resolve};
pub use topic::{Part, TopicTemplate};

use outboxd_kafka::compression::{self, Compression};
use outboxd_kafka::security::SecuritySettings;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where `outboxd run` looks when it is told nothing.
pub const DEFAULT_PATH: &str = "/etc/outboxd/config.toml";

/// A valid configuration, whether it came from a file or from flags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// At least one; in the file's order.
    pub outboxes: Vec<Outbox>,
    pub kafka: Kafka,
    pub state: State,
    pub daemon: Daemon,
    pub http: Http,
}

/// One `[[outbox]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    /// Absolute; symlinks not resolved.
    pub database: PathBuf,
    pub table: String,
    pub topic: TopicTemplate,
    /// How many topics a template may open, each of which costs lanes and metadata. Rows beyond it are set aside.
    pub topics_max: usize,
    /// Label in logs and metrics; unique within its database.
    pub name: String,
    pub durability: Durability,
    pub bookkeeping: Bookkeeping,
    /// Whether the connection that deletes enforces foreign keys, for an application that relies on cascades.
    pub foreign_keys: bool,
    pub secure_delete: bool,
    /// How often a record is rejected for its own fault before its row is quarantined.
    pub max_attempts: u32,
    pub columns: Columns,
    /// Header name and the column it comes from, sorted by name.
    pub headers: Vec<(String, String)>,
}

/// What an event must survive before it may be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The application's commit is on disk.
    PowerLoss,
    /// The application's commit is visible.
    Commit,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Durability::PowerLoss => "power-loss",
            Durability::Commit => "commit",
        })
    }
}

/// Where deletes are booked beside the state file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bookkeeping {
    /// Nowhere.
    None,
    /// In a table `_outboxd` of the application's database.
    Table,
}

impl fmt::Display for Bookkeeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Bookkeeping::None => "none",
            Bookkeeping::Table => "table",
        })
    }
}

/// `[outbox.columns]`: the defaults are the pattern's demo schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Columns {
    pub id: String,
    pub aggregate_id: String,
    pub event_type: String,
    pub payload: String,
    /// The record's key; the aggregate id unless configured.
    pub key: String,
    /// A never-reused unique column of the application's own that becomes the message id.
    pub event_id: Option<String>,
}

impl Default for Columns {
    fn default() -> Self {
        Columns {
            id: "id".into(),
            aggregate_id: "aggregateId".into(),
            event_type: "eventType".into(),
            payload: "payload".into(),
            key: "aggregateId".into(),
            event_id: None,
        }
    }
}

/// `[kafka]`: the producer properties of Kafka's own client, with its defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kafka {
    /// `host:port` each. Empty only where no broker will be asked.
    pub bootstrap_servers: Vec<String>,
    pub client_id: String,
    /// The largest record that is handed to a broker at all, in bytes as it is sent; a larger row is set aside.
    pub max_request_size: usize,
    pub compression: compression::Settings,
    pub request_timeout: Duration,
    pub retry_backoff: Duration,
    pub retry_backoff_max: Duration,
    pub reconnect_backoff: Duration,
    pub reconnect_backoff_max: Duration,
    pub metadata_max_age: Duration,
    pub connections_max_idle: Duration,
    pub socket_connection_setup_timeout: Duration,
    /// Threads, and connections, for each broker that leads a lane.
    pub senders_per_broker: usize,
    /// `security_protocol` and what belongs to it.
    pub security: SecuritySettings,
}

impl Default for Kafka {
    fn default() -> Self {
        Kafka {
            bootstrap_servers: Vec::new(),
            client_id: "outboxd".into(),
            max_request_size: RECORD_BYTES_MAX,
            compression: compression::Settings::default(),
            request_timeout: Duration::from_secs(30),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            reconnect_backoff: Duration::from_millis(50),
            reconnect_backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(300),
            connections_max_idle: Duration::from_secs(540),
            socket_connection_setup_timeout: Duration::from_secs(10),
            senders_per_broker: 2,
            security: SecuritySettings::default(),
        }
    }
}

/// The largest record by default, and what one may have at least before it is compressed.
const RECORD_BYTES_MAX: usize = 64 << 20;

impl Kafka {
    /// The largest record that is made of a row. `max_request_size` counts what is sent: how much that is of a record that will be
    /// compressed turns out when it has been, and this is what is held in memory for it.
    pub fn record_bytes_max(&self) -> usize {
        match self.compression.compression {
            Compression::None => self.max_request_size,
            _ => self.max_request_size.max(RECORD_BYTES_MAX),
        }
    }
}

/// `[state]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Absolute. `None`: see [`Config::state_path`].
    pub path: Option<PathBuf>,
}

/// `[daemon]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// How long a drain may take, acknowledged or not.
    pub drain_timeout: Duration,
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon { drain_timeout: Duration::from_secs(8) }
    }
}

/// `[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// `host:port`; off when `None`.
    pub listen: Option<String>,
}

/// Of a template: how many topics it may open.
const TOPICS_MAX: usize = 1_000;
const MAX_ATTEMPTS: u32 = 1;

impl Config {
    /// Reads and validates a file. `needs_servers`: whether a broker is going to be asked, so that addresses are required.
    pub fn load(path: &Path, needs_servers: bool) -> Result<Config, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::unreadable(path, error))?;
        Config::parse(path, &text, needs_servers)
    }

    /// The same for a text that is already there; `path` is only for messages.
    pub fn parse(path: &Path, text: &str, needs_servers: bool) -> Result<Config, ConfigError> {
        let config = file::read(path, text, needs_servers)?;
        group::check(&config.outboxes, Some(path))?;
        Ok(config)
    }

    /// The config that the flags of `outboxd run` describe, with every other key at its default.
    pub fn from_flags(flags: &Flags, needs_servers: bool) -> Result<Config, ConfigError> {
        flags::read(flags, needs_servers)
    }

    /// The outboxes by the database they are in: two paths to one file are one database.
    pub fn databases(&self) -> Vec<Database> {
        group::databases(&self.outboxes)
    }

    /// Where outboxd's own memory lives: the configured path, else `state.db` in systemd's state directory
    /// (`state_directory`, from `$STATE_DIRECTORY`; the first of several), else beside the first database.
    pub fn state_path(&self, state_directory: Option<&std::ffi::OsStr>) -> PathBuf {
        if let Some(path) = &self.state.path {
            return path.clone();
        }
        if let Some(list) = state_directory
            && let Some(first) = std::env::split_paths(list).find(|path| !path.as_os_str().is_empty())
        {
            return first.join("state.db");
        }
        let mut beside = self.outboxes[0].database.clone().into_os_string();
        beside.push("-outboxd");
        beside.into()
    }
}

#[cfg(test)]
mod tests;
