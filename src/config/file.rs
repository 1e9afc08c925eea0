//! From the file to a [`Config`]: the known keys, their ranges and defaults.
//!
//! Promises: a key is either read here and listed in [`KEYS`], or an error. Does not know: the flags.

use super::document::{Document, Found, Section, nearest};
use super::{
    Bookkeeping, Columns, Config, ConfigError, Daemon, Durability, Http, Kafka, MAX_ATTEMPTS, Outbox, Place, State,
    TOPICS_MAX, TopicTemplate, security,
};
use outboxd_kafka::compression::{Compression, GZIP_LEVELS, Settings, ZSTD_LEVELS};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &[&str] = &["outbox", "kafka", "state", "daemon", "http"];
const OUTBOX: &[&str] = &[
    "database",
    "table",
    "topic",
    "topics_max",
    "name",
    "durability",
    "bookkeeping",
    "foreign_keys",
    "secure_delete",
    "max_attempts",
    "columns",
    "headers",
];
const COLUMNS: &[&str] = &["id", "aggregate_id", "event_type", "payload", "key", "event_id"];
const KAFKA: &[&str] = &[
    "bootstrap_servers",
    "client_id",
    "max_request_size",
    "compression_type",
    "compression_gzip_level",
    "compression_zstd_level",
    "request_timeout_ms",
    "retry_backoff_ms",
    "retry_backoff_max_ms",
    "reconnect_backoff_ms",
    "reconnect_backoff_max_ms",
    "metadata_max_age_ms",
    "connections_max_idle_ms",
    "socket_connection_setup_timeout_ms",
    "senders_per_broker",
    "security_protocol",
    "ssl_ca_location",
    "ssl_certificate_location",
    "ssl_key_location",
    "sasl_mechanism",
    "sasl_username",
    "sasl_password",
    "sasl_password_file",
    "sasl_password_env",
    "sasl_oauthbearer_token_file",
    "sasl_oauthbearer_extensions",
];
const STATE: &[&str] = &["path"];
const DAEMON: &[&str] = &["drain_timeout_ms"];
const HTTP: &[&str] = &["listen"];

/// Every section with its keys. `config.example.toml` shows each of them.
pub const KEYS: &[(&str, &[&str])] = &[
    ("", ROOT),
    ("outbox", OUTBOX),
    ("outbox.columns", COLUMNS),
    ("kafka", KAFKA),
    ("state", STATE),
    ("daemon", DAEMON),
    ("http", HTTP),
];

/// A day: no wait of this daemon is meant to be longer.
const WAIT_MAX_MS: u64 = 86_400_000;
const WAIT_MS: RangeInclusive<u64> = 1..=WAIT_MAX_MS;

pub fn read(path: &Path, text: &str, needs_servers: bool) -> Result<Config, ConfigError> {
    let document = Document::parse(path, text)?;
    let root = document.root(ROOT)?;
    let outboxes = root.sections("outbox", OUTBOX)?.iter().map(outbox).collect::<Result<Vec<_>, _>>()?;
    if outboxes.is_empty() {
        return Err(ConfigError::new(
            Place::File { path: path.to_owned(), line: None, key: Some("outbox".into()) },
            "there is no outbox to relay",
            "add a line [[outbox]], and below it: database = \"/path/to/db.sqlite\", table = \"users_outbox\", \
             topic = \"users\"",
        ));
    }
    let state = root.section("state", STATE)?;
    let daemon = root.section("daemon", DAEMON)?;
    let http = root.section("http", HTTP)?;
    Ok(Config {
        outboxes,
        kafka: kafka(&root.section("kafka", KAFKA)?, needs_servers)?,
        state: State {
            path: match state.string("path")?.filter(|path| !path.value.is_empty()) {
                Some(path) => Some(absolute(Path::new(&path.value), &path.place)?),
                None => None,
            },
        },
        daemon: Daemon {
            drain_timeout: millis(&daemon, "drain_timeout_ms", 0..=WAIT_MAX_MS, Daemon::default().drain_timeout)?,
        },
        http: Http {
            listen: match http.string("listen")?.filter(|listen| !listen.value.is_empty()) {
                Some(listen) => Some(address(listen, ("127.0.0.1", 9464), 0)?),
                None => None,
            },
        },
    })
}

fn outbox(section: &Section<'_>) -> Result<Outbox, ConfigError> {
    let database = required(section, "database", "\"/path/to/db.sqlite\"")?;
    let table = required(section, "table", "\"users_outbox\"")?;
    let written = required(section, "topic", "\"users\"")?;
    let topic = topic(&written.value, written.place)?;
    let durability = match section.string("durability")? {
        None => Durability::PowerLoss,
        Some(found) => durability(&found)?,
    };
    let bookkeeping = match section.string("bookkeeping")? {
        None => Bookkeeping::None,
        Some(found) => bookkeeping(&found)?,
    };
    Ok(Outbox {
        database: self::database(Path::new(&database.value), &database.place)?,
        topic,
        topics_max: section
            .integer("topics_max", 1..=100_000, TOPICS_MAX as u64)?
            .map_or(TOPICS_MAX, |found| found.value as usize),
        name: section
            .string("name")?
            .map(|found| found.value)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| table.value.clone()),
        table: table.value,
        durability,
        bookkeeping,
        foreign_keys: section.bool("foreign_keys")?.is_some_and(|found| found.value),
        secure_delete: section.bool("secure_delete")?.is_some_and(|found| found.value),
        max_attempts: section
            .integer("max_attempts", 1..=100, MAX_ATTEMPTS.into())?
            .map_or(MAX_ATTEMPTS, |found| found.value as u32),
        columns: columns(&section.section("columns", COLUMNS)?)?,
        headers: headers(section)?,
    })
}

fn durability(found: &Found<String>) -> Result<Durability, ConfigError> {
    match found.value.as_str() {
        "power-loss" => Ok(Durability::PowerLoss),
        "commit" => Ok(Durability::Commit),
        other => Err(ConfigError::new(
            found.place.clone(),
            format!("`{other}` is no kind of durability"),
            "write \"power-loss\" (an event is published once its commit is on disk) or \"commit\" (once it is visible)",
        )),
    }
}

fn bookkeeping(found: &Found<String>) -> Result<Bookkeeping, ConfigError> {
    match found.value.as_str() {
        "none" => Ok(Bookkeeping::None),
        "table" => Ok(Bookkeeping::Table),
        other => Err(ConfigError::new(
            found.place.clone(),
            format!("`{other}` is no kind of bookkeeping"),
            "write \"none\" or \"table\" (each delete is booked in a table _outboxd of the same database)",
        )),
    }
}

fn columns(section: &Section<'_>) -> Result<Columns, ConfigError> {
    let default = Columns::default();
    let column = |key: &'static str, default: String| match section.string(key)? {
        None => Ok(default),
        Some(found) if found.value.is_empty() => Err(ConfigError::new(
            found.place,
            "a column's name can't be empty",
            format!("leave the line out for the default: {key} = \"{default}\""),
        )),
        Some(found) => Ok(found.value),
    };
    let aggregate_id = column("aggregate_id", default.aggregate_id)?;
    Ok(Columns {
        id: column("id", default.id)?,
        event_type: column("event_type", default.event_type)?,
        payload: column("payload", default.payload)?,
        key: column("key", aggregate_id.clone())?,
        event_id: section.string("event_id")?.map(|found| found.value).filter(|name| !name.is_empty()),
        aggregate_id,
    })
}

/// The headers that every record has anyway.
const OWN_HEADERS: [&str; 3] = ["id", "eventType", "aggregateId"];

fn headers(section: &Section<'_>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut headers = Vec::new();
    for (name, column) in section.free("headers")? {
        if OWN_HEADERS.contains(&name.as_str()) {
            return Err(ConfigError::new(
                column.place,
                "every record has this header already",
                format!("choose another name, for example: app_{name} = \"{}\"", column.value),
            ));
        }
        if name.is_empty() || column.value.is_empty() {
            return Err(ConfigError::new(
                column.place,
                "neither a header's name nor its column can be empty",
                "write: header_name = \"column_name\"",
            ));
        }
        headers.push((name, column.value));
    }
    Ok(headers)
}

fn kafka(section: &Section<'_>, needs_servers: bool) -> Result<Kafka, ConfigError> {
    const EXAMPLE: &str = "[\"localhost:9092\"]";
    let default = Kafka::default();
    let mut bootstrap_servers = Vec::new();
    let given = section.strings("bootstrap_servers", EXAMPLE)?;
    for server in given.into_iter().flatten() {
        bootstrap_servers.push(address(server, ("localhost", 9092), 1)?);
    }
    if bootstrap_servers.is_empty() && needs_servers {
        return Err(section.missing("bootstrap_servers", EXAMPLE));
    }
    let wait = |key, default| millis(section, key, WAIT_MS, default);
    let kafka = Kafka {
        bootstrap_servers,
        client_id: match section.string("client_id")? {
            None => default.client_id,
            Some(found) if found.value.len() > 255 => {
                return Err(ConfigError::new(
                    found.place,
                    format!("{} bytes are too long for a client id", found.value.len()),
                    "use at most 255 bytes, for example: client_id = \"outboxd\"",
                ));
            }
            Some(found) => found.value,
        },
        max_request_size: section
            .integer("max_request_size", 1_024..=1 << 30, default.max_request_size as u64)?
            .map_or(default.max_request_size, |found| found.value as usize),
        compression: compression(section)?,
        request_timeout: wait("request_timeout_ms", default.request_timeout)?,
        retry_backoff: wait("retry_backoff_ms", default.retry_backoff)?,
        retry_backoff_max: wait("retry_backoff_max_ms", default.retry_backoff_max)?,
        reconnect_backoff: wait("reconnect_backoff_ms", default.reconnect_backoff)?,
        reconnect_backoff_max: wait("reconnect_backoff_max_ms", default.reconnect_backoff_max)?,
        metadata_max_age: wait("metadata_max_age_ms", default.metadata_max_age)?,
        connections_max_idle: wait("connections_max_idle_ms", default.connections_max_idle)?,
        socket_connection_setup_timeout: wait(
            "socket_connection_setup_timeout_ms",
            default.socket_connection_setup_timeout,
        )?,
        senders_per_broker: section
            .integer("senders_per_broker", 1..=64, default.senders_per_broker as u64)?
            .map_or(default.senders_per_broker, |found| found.value as usize),
        security: security::Written::in_section(section)?.settings(&|name| std::env::var_os(name))?,
    };
    for (low, high, from, to) in [
        ("retry_backoff_ms", "retry_backoff_max_ms", kafka.retry_backoff, kafka.retry_backoff_max),
        ("reconnect_backoff_ms", "reconnect_backoff_max_ms", kafka.reconnect_backoff, kafka.reconnect_backoff_max),
    ] {
        if from > to {
            return Err(ConfigError::new(
                section.place(),
                format!("{low} ({} ms) is longer than {high} ({} ms)", from.as_millis(), to.as_millis()),
                format!("raise the limit: {high} = {}", from.as_millis()),
            ));
        }
    }
    Ok(kafka)
}

fn compression(section: &Section<'_>) -> Result<Settings, ConfigError> {
    let default = Settings::default();
    let compression = match section.string("compression_type")? {
        None => default.compression,
        Some(found) => compression_type(found)?,
    };
    let gzip = section.signed("compression_gzip_level", GZIP_LEVELS, default.gzip_level)?;
    let zstd = section.signed("compression_zstd_level", ZSTD_LEVELS, default.zstd_level)?;
    for (codec, level, usual) in
        [(Compression::Gzip, &gzip, default.gzip_level), (Compression::Zstd, &zstd, default.zstd_level)]
    {
        let Some(found) = level.as_ref().filter(|_| compression != codec) else { continue };
        // As the example file shows it.
        if compression == Compression::None && found.value == usual {
            continue;
        }
        return Err(ConfigError::new(
            found.place.clone(),
            format!("this is a level of {codec}, and compression_type is \"{compression}\""),
            format!("remove the line, or write: compression_type = \"{codec}\""),
        ));
    }
    Ok(Settings {
        compression,
        gzip_level: gzip.map_or(default.gzip_level, |found| found.value),
        zstd_level: zstd.map_or(default.zstd_level, |found| found.value),
    })
}

fn compression_type(found: Found<String>) -> Result<Compression, ConfigError> {
    let Found { value, place } = found;
    let names = Compression::ALL.map(Compression::name);
    match Compression::named(&value) {
        Some(compression) if compression.is_built_in() => Ok(compression),
        Some(compression) => Err(ConfigError::new(
            place,
            format!("{compression} is not built into this outboxd"),
            format!(
                "write \"gzip\", \"snappy\", \"lz4\" or \"none\", or build it with: cargo build --release --features {compression}"
            ),
        )),
        None => {
            let hint = match nearest(&value, &names) {
                Some(near) => format!("did you mean: compression_type = \"{near}\"?"),
                None => format!("write one of \"{}\"", names.join("\", \"")),
            };
            Err(ConfigError::new(place, format!("`{value}` is no compression type of Kafka's"), hint))
        }
    }
}

fn required(section: &Section<'_>, key: &'static str, example: &str) -> Result<Found<String>, ConfigError> {
    match section.string(key)? {
        None => Err(section.missing(key, example)),
        // An empty topic has an error of its own.
        Some(found) if found.value.is_empty() && key != "topic" => {
            Err(ConfigError::new(found.place, "this can't be empty", format!("write for example: {key} = {example}")))
        }
        Some(found) => Ok(found),
    }
}

fn millis(
    section: &Section<'_>,
    key: &'static str,
    range: RangeInclusive<u64>,
    default: Duration,
) -> Result<Duration, ConfigError> {
    let found = section.integer(key, range, default.as_millis() as u64)?;
    Ok(found.map_or(default, |found| Duration::from_millis(found.value)))
}

pub(super) fn topic(written: &str, place: Place) -> Result<TopicTemplate, ConfigError> {
    TopicTemplate::parse(written).map_err(|text| {
        ConfigError::new(
            place,
            text,
            "a topic is 1 to 249 of the characters a-z A-Z 0-9 . _ - and may contain columns, for example: \
             topic = \"users.{eventType}\"",
        )
    })
}

/// The application's file: a path, and none of the spellings that drivers and frameworks have for one.
pub(super) fn database(path: &Path, place: &Place) -> Result<PathBuf, ConfigError> {
    // No URL has other bytes than ASCII.
    let Some(written) = path.to_str() else { return absolute(path, place) };
    // SQLAlchemy, Rails, Prisma, JDBC; and SQLite's own URIs.
    let schemes = ["jdbc:sqlite:", "sqlite+pysqlite:", "sqlite3:", "sqlite:", "file:"];
    let Some(rest) = schemes.iter().find_map(|scheme| written.strip_prefix(scheme)) else {
        return absolute(path, place);
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    // sqlite:///relative.db and sqlite:////absolute.db; file:///absolute.db.
    let plain = match rest.strip_prefix("///") {
        Some(rest) if !written.starts_with("file:") => rest.to_owned(),
        Some(rest) => format!("/{rest}"),
        None => rest.trim_start_matches("//").to_owned(),
    };
    let plain = if plain.is_empty() { "/var/lib/app/db.sqlite" } else { &plain };
    Err(ConfigError::new(
        place.clone(),
        format!("`{written}` is a URL, not a path"),
        format!("write the file's path alone: \"{plain}\""),
    ))
}

/// Relative paths are meant from the current directory, as on a command line.
pub(super) fn absolute(path: &Path, place: &Place) -> Result<PathBuf, ConfigError> {
    std::path::absolute(path).map_err(|error| ConfigError {
        place: place.clone(),
        text: format!("`{}` can't be made an absolute path", path.display()),
        hint: "write the whole path, starting with /".into(),
        source: Some(error),
    })
}

/// `host:port`, `1.2.3.4:port` or `[v6]:port`; whether the host exists is weather. Port 0 (any that is free) is only for
/// listening.
pub(super) fn address(found: Found<String>, example: (&str, u16), port_min: u16) -> Result<String, ConfigError> {
    let (example_host, example_port) = example;
    let Found { value, place } = found;
    let wrong = |text: String, hint: String| Err(ConfigError::new(place, text, hint));
    if let Some((scheme, rest)) = value.split_once("://") {
        return wrong(format!("`{value}` is a URL, not an address"), format!("leave out `{scheme}://`: \"{rest}\""));
    }
    if let Some((first, rest)) = value.split_once(',') {
        let rest: Vec<String> = rest.split(',').map(|one| format!("\"{}\"", one.trim())).collect();
        return wrong(
            format!("`{value}` are several addresses in one text"),
            format!("write each for itself: \"{}\", {}", first.trim(), rest.join(", ")),
        );
    }
    let example = |host: &str| format!("write host and port, for example \"{host}:{example_port}\"");
    let Some((host, port)) = value.rsplit_once(':') else {
        let host = if value.is_empty() { example_host } else { &value };
        return wrong(format!("`{value}` has no port"), example(host));
    };
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    if bare_v6 {
        return wrong(
            format!("`{value}` is ambiguous: is its last part a port?"),
            format!("put an IPv6 address in brackets, for example \"[::1]:{example_port}\""),
        );
    }
    if host.is_empty() || host.contains([' ', ',', '/']) {
        return wrong(format!("`{value}` has no usable host"), example(example_host));
    }
    match port.parse::<u16>() {
        Ok(port) if port >= port_min => Ok(value),
        _ => wrong(format!("`{port}` is not a port: {port_min} to 65535 is possible"), example(host)),
    }
}
