//! From the config's words to those of the rooms.
//!
//! Promises: translates and nothing else. Does not know: threads.

use crate::config::{self, Part};
use crate::model::{RunId, field};
use crate::relay::Limits;
use crate::relay::route::{Route, TemplatePart, TopicTemplate};
use crate::sink::kafka::KafkaOptions;
use crate::source::{DatabaseOptions, Durability, OutboxSpec};
use crate::telemetry::figures::Figures;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub fn database_options(database: &config::Database) -> DatabaseOptions {
    DatabaseOptions {
        path: database.path.clone(),
        durability: match database.durability {
            config::Durability::PowerLoss => Durability::PowerLoss,
            config::Durability::Commit => Durability::Commit,
        },
        foreign_keys: database.foreign_keys,
        secure_delete: database.secure_delete,
        bookkeeping: database.bookkeeping == config::Bookkeeping::Table,
    }
}

pub fn outbox_specs(database: &config::Database) -> Vec<OutboxSpec> {
    database.outboxes.iter().map(outbox_spec).collect()
}

/// The columns in the places of [`field`]: the fixed ones, the headers', the template's.
fn outbox_spec(outbox: &config::Outbox) -> OutboxSpec {
    let columns = &outbox.columns;
    let fixed = [&columns.id, &columns.aggregate_id, &columns.event_type, &columns.payload, &columns.key];
    let mut fields: Vec<Option<String>> = fixed.into_iter().cloned().map(Some).collect();
    fields.push(columns.event_id.clone());
    assert_eq!(fields.len(), field::EXTRA, "every fixed column has its place");
    fields.extend(outbox.headers.iter().map(|(_, column)| Some(column.clone())));
    fields.extend(outbox.topic.columns().map(|column| Some(column.to_owned())));
    OutboxSpec { name: outbox.name.clone(), table: outbox.table.clone(), fields }
}

pub fn routes(database: &config::Database) -> Vec<Route> {
    database.outboxes.iter().map(route).collect()
}

fn route(outbox: &config::Outbox) -> Route {
    let mut places = field::EXTRA + outbox.headers.len()..;
    let topic = match outbox.topic.literal() {
        Some(name) => TopicTemplate::Literal(name.to_owned()),
        None => TopicTemplate::Parts(
            outbox
                .topic
                .parts()
                .iter()
                .map(|part| match part {
                    Part::Literal(text) => TemplatePart::Text(text.clone()),
                    Part::Column(name) => TemplatePart::Column {
                        field: places.next().expect("an open range does not end"),
                        name: name.clone(),
                    },
                })
                .collect(),
        ),
    };
    Route {
        name: outbox.name.clone(),
        topic,
        headers: outbox.headers.iter().map(|(name, _)| name.clone()).collect(),
        event_id: outbox.columns.event_id.is_some(),
        topics_max: outbox.topics_max,
        max_attempts: outbox.max_attempts,
    }
}

pub fn limits(kafka: &config::Kafka, database: &config::Database) -> Limits {
    Limits {
        record_bytes_max: kafka.record_bytes_max(),
        compression: kafka.compression,
        retry_backoff: kafka.retry_backoff,
        retry_backoff_max: kafka.retry_backoff_max,
        power_loss: database.durability == config::Durability::PowerLoss,
        ..Limits::default()
    }
}

pub fn kafka_options(kafka: &config::Kafka) -> KafkaOptions {
    let ms = |duration: Duration| duration.as_millis() as u64;
    KafkaOptions {
        bootstrap_servers: kafka.bootstrap_servers.clone(),
        client_id: kafka.client_id.clone(),
        max_request_size: kafka.max_request_size,
        compression_type: kafka.compression.compression,
        compression_gzip_level: kafka.compression.gzip_level,
        compression_zstd_level: kafka.compression.zstd_level,
        request_timeout_ms: ms(kafka.request_timeout),
        retry_backoff_ms: ms(kafka.retry_backoff),
        retry_backoff_max_ms: ms(kafka.retry_backoff_max),
        reconnect_backoff_ms: ms(kafka.reconnect_backoff),
        reconnect_backoff_max_ms: ms(kafka.reconnect_backoff_max),
        metadata_max_age_ms: ms(kafka.metadata_max_age),
        connections_max_idle_ms: ms(kafka.connections_max_idle),
        socket_connection_setup_timeout_ms: ms(kafka.socket_connection_setup_timeout),
        senders_per_broker: kafka.senders_per_broker,
        security: kafka.security.clone(),
    }
}

pub fn figures(database: &config::Database) -> Arc<Figures> {
    let names = database.outboxes.iter().map(|outbox| outbox.name.clone()).collect();
    Arc::new(Figures::new(database.path.display().to_string(), names))
}

pub fn run_id() -> Result<RunId, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(RunId(u128::from_be_bytes(bytes)))
}

/// When this program was made, or a time before that: no clock that is right says an earlier one.
pub fn made() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(MADE_UNIX_SECONDS)
}

/// What packagers of reproducible builds set, usually their newest changelog entry's date; else a date that moves with the releases
/// (a test sees to it).
const MADE_UNIX_SECONDS: u64 = match option_env!("SOURCE_DATE_EPOCH") {
    Some(text) => match u64::from_str_radix(text, 10) {
        Ok(seconds) => seconds,
        Err(_) => RELEASED_UNIX_SECONDS,
    },
    None => RELEASED_UNIX_SECONDS,
};
/// 2026-11-01T00:00:00Z.
const RELEASED_UNIX_SECONDS: u64 = 1_793_491_200;

#[cfg(test)]
mod made_tests {
    use super::*;

    /// The older it is, the longer ago a wrong clock may set out and be believed.
    #[test]
    fn the_date_of_the_program_is_not_much_older_than_its_last_change() {
        let log = std::process::Command::new("git")
            .args(["log", "-1", "--format=%ct"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        // Unpacked from an archive: there is nothing to compare with.
        let Ok(log) = log else { return };
        let Ok(changed) = String::from_utf8_lossy(&log.stdout).trim().parse::<u64>() else { return };
        let half_a_year = 183 * 86_400;
        assert!(
            changed.saturating_sub(RELEASED_UNIX_SECONDS) < half_a_year,
            "set RELEASED_UNIX_SECONDS to the date of the last change, {changed}"
        );
        assert!(RELEASED_UNIX_SECONDS <= changed, "the program was not made before its last change");
    }
}
