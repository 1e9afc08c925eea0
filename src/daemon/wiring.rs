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

pub fn database_options(database: &config::Database) -> DatabaseOptions {
    DatabaseOptions {
        path: database.path.clone(),
        durability: match database.durability {
            config::Durability::PowerLoss => Durability::PowerLoss,
            config::Durability::Commit => Durability::Commit,
        },
        foreign_keys: database.foreign_keys,
        secure_delete: database.secure_delete,
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
        max_attempts: 1,
    }
}

pub fn limits(kafka: &config::Kafka, database: &config::Database) -> Limits {
    Limits {
        record_bytes_max: kafka.max_request_size,
        retry_backoff: kafka.retry_backoff,
        retry_backoff_max: kafka.retry_backoff_max,
        power_loss: database.durability == config::Durability::PowerLoss,
        ..Limits::default()
    }
}

pub fn kafka_options(kafka: &config::Kafka) -> KafkaOptions {
    let ms = |duration: std::time::Duration| duration.as_millis() as u64;
    KafkaOptions {
        bootstrap_servers: kafka.bootstrap_servers.clone(),
        client_id: kafka.client_id.clone(),
        max_request_size: kafka.max_request_size,
        request_timeout_ms: ms(kafka.request_timeout),
        retry_backoff_ms: ms(kafka.retry_backoff),
        retry_backoff_max_ms: ms(kafka.retry_backoff_max),
        reconnect_backoff_ms: ms(kafka.reconnect_backoff),
        reconnect_backoff_max_ms: ms(kafka.reconnect_backoff_max),
        metadata_max_age_ms: ms(kafka.metadata_max_age),
        connections_max_idle_ms: ms(kafka.connections_max_idle),
        socket_connection_setup_timeout_ms: ms(kafka.socket_connection_setup_timeout),
        senders_per_broker: kafka.senders_per_broker,
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
