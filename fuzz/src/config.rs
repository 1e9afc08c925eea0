//! A config file's text.
//!
//! Promises: asks that an error has a place in the file and a hint, that a config that was read keeps its ranges, and that it is read
//! the same after it was written out in full. Does not know: the flags.

use outboxd::config::{Config, ConfigError, Place};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

/// The input is the text. Accepted: with or without addresses of brokers.
pub fn config_file(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let path = Path::new("fuzzed.toml");
    let config = match Config::parse(path, text, false) {
        Ok(config) => config,
        Err(error) => {
            check_error(&error, path, text);
            assert!(Config::parse(path, text, true).is_err(), "it is valid only with addresses: {text:?}");
            return false;
        }
    };
    match Config::parse(path, text, true) {
        Ok(same) => {
            assert!(!same.kafka.bootstrap_servers.is_empty());
            assert_eq!(same, config);
        }
        Err(error) => {
            assert!(config.kafka.bootstrap_servers.is_empty(), "{error}");
            check_error(&error, path, text);
        }
    }
    check_config(&config);
    let again = written_out(&config);
    match Config::parse(path, &again, false) {
        Ok(same) => assert_eq!(same, config, "{again}"),
        Err(error) => panic!("{error}\n{again}"),
    }
    true
}

fn check_error(error: &ConfigError, path: &Path, text: &str) {
    assert!(!error.text.is_empty() && !error.hint.is_empty(), "{error}");
    assert!(error.to_string().starts_with("fuzzed.toml"), "{error}");
    let Place::File { path: named, line, .. } = &error.place else { panic!("{error}: there are no flags") };
    assert_eq!(named, path);
    assert!(line.is_none_or(|line| (1..=text.split('\n').count()).contains(&line)), "{error}");
}

fn check_config(config: &Config) {
    assert!(!config.outboxes.is_empty());
    for outbox in &config.outboxes {
        assert!(outbox.database.is_absolute(), "{outbox:?}");
        assert!(!outbox.table.is_empty() && !outbox.name.is_empty(), "{outbox:?}");
        assert!((1..=100_000).contains(&outbox.topics_max), "{outbox:?}");
        assert!(outbox.headers.is_sorted_by(|a, b| a.0 < b.0), "{outbox:?}");
        assert_eq!(outbox.topic.literal().is_some(), outbox.topic.columns().next().is_none(), "{outbox:?}");
    }
    let databases = config.databases();
    assert_eq!(databases.iter().map(|it| it.outboxes.len()).sum::<usize>(), config.outboxes.len());
    for database in &databases {
        let tables: BTreeSet<_> = database.outboxes.iter().map(|it| it.table.to_ascii_lowercase()).collect();
        let names: BTreeSet<_> = database.outboxes.iter().map(|it| &it.name).collect();
        assert_eq!((tables.len(), names.len()), (database.outboxes.len(), database.outboxes.len()), "{database:?}");
    }
    let kafka = &config.kafka;
    assert!(kafka.retry_backoff <= kafka.retry_backoff_max && kafka.reconnect_backoff <= kafka.reconnect_backoff_max);
    assert!(kafka.senders_per_broker > 0 && kafka.max_request_size >= 1_024);
    assert!(config.state_path(None).is_absolute());
}

/// Every key, so that nothing is left to a default.
fn written_out(config: &Config) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| writeln!(text, "{key} = {value}").expect("into memory");
    for outbox in &config.outboxes {
        line("[[outbox]]\ndatabase", &path_text(&outbox.database));
        line("table", &quoted(&outbox.table));
        line("topic", &quoted(&outbox.topic.to_string()));
        line("topics_max", &outbox.topics_max);
        line("name", &quoted(&outbox.name));
        line("durability", &quoted(&outbox.durability.to_string()));
        line("foreign_keys", &outbox.foreign_keys);
        line("secure_delete", &outbox.secure_delete);
        let headers = outbox.headers.iter().map(|(name, column)| format!("{} = {}", quoted(name), quoted(column)));
        line("headers", &format!("{{ {} }}", headers.collect::<Vec<_>>().join(", ")));
        line("[outbox.columns]\nid", &quoted(&outbox.columns.id));
        line("aggregate_id", &quoted(&outbox.columns.aggregate_id));
        line("event_type", &quoted(&outbox.columns.event_type));
        line("payload", &quoted(&outbox.columns.payload));
        line("key", &quoted(&outbox.columns.key));
        line("event_id", &quoted(outbox.columns.event_id.as_deref().unwrap_or_default()));
    }
    let kafka = &config.kafka;
    let servers: Vec<String> = kafka.bootstrap_servers.iter().map(|server| quoted(server)).collect();
    line("[kafka]\nbootstrap_servers", &format!("[{}]", servers.join(", ")));
    line("client_id", &quoted(&kafka.client_id));
    line("max_request_size", &kafka.max_request_size);
    let compression = kafka.compression;
    line("compression_type", &quoted(compression.compression.name()));
    match compression.compression.name() {
        "gzip" => line("compression_gzip_level", &compression.gzip_level),
        "zstd" => line("compression_zstd_level", &compression.zstd_level),
        _ => {}
    }
    line("request_timeout_ms", &kafka.request_timeout.as_millis());
    line("retry_backoff_ms", &kafka.retry_backoff.as_millis());
    line("retry_backoff_max_ms", &kafka.retry_backoff_max.as_millis());
    line("reconnect_backoff_ms", &kafka.reconnect_backoff.as_millis());
    line("reconnect_backoff_max_ms", &kafka.reconnect_backoff_max.as_millis());
    line("metadata_max_age_ms", &kafka.metadata_max_age.as_millis());
    line("connections_max_idle_ms", &kafka.connections_max_idle.as_millis());
    line("socket_connection_setup_timeout_ms", &kafka.socket_connection_setup_timeout.as_millis());
    line("senders_per_broker", &kafka.senders_per_broker);
    line("[state]\npath", &config.state.path.as_deref().map_or_else(|| quoted(""), path_text));
    line("[daemon]\ndrain_timeout_ms", &config.daemon.drain_timeout.as_millis());
    line("[http]\nlisten", &quoted(config.http.listen.as_deref().unwrap_or_default()));
    text
}

fn path_text(path: &Path) -> String {
    quoted(path.to_str().expect("it was made from text"))
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => write!(out, "\\U{:08X}", u32::from(c)).expect("into memory"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
