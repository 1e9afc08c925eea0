//! The daemon on a real Apache Kafka of one node, with applications in other processes and kcat as the judge's eye.
//!
//! `cargo test real_kafka_4_3_0`, `cargo test real_kafka_3_9_1`: one version. Each module is the list of what runs on it.

#[path = "../support/mod.rs"]
mod support;

macro_rules! some_or_skip {
    ($broker:expr) => {
        match $broker {
            Some(broker) => broker,
            None => return,
        }
    };
}

mod applications;
mod clusters;
mod compression;
mod durability;
mod ends;
mod events;
mod secure;

use applications::*;
use clusters::*;
use compression::*;
use durability::*;
use ends::*;
use events::*;
use secure::*;
use std::sync::Arc;
use support::{Broker, Scene, broker};

macro_rules! on {
    ($module:ident, $version:literal: $($test:ident),* $(,)?) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    super::$test($version);
                }
            )*
        }
    };
}

on!(real_kafka_4_3_0, "4.3.0":
    four_writers_wal, four_writers_delete, four_writers_truncate, four_writers_persist,
    odd_values, odd_values_utf16, keys_of_every_kind, lock_step, partitions_are_those_of_other_clients,
    one_id_used_300_times, rewritten_rows, rewritten_while_sent,
    two_outboxes_and_two_databases, topic_by_template, rows_too_large_for_their_topic,
    killed_while_it_compresses, what_fits_compressed_is_published,
    twenty_drains_under_load, broker_killed, broker_frozen, another_cluster,
    durable_before_sent_wal, durable_before_sent_delete, durable_before_sent_truncate,
    sasl_ssl_with_a_password_that_changes,
);

on!(real_kafka_3_9_1, "3.9.1":
    four_writers_wal, four_writers_delete, odd_values, keys_of_every_kind,
    one_id_used_300_times, rewritten_while_sent, what_fits_compressed_is_published, two_outboxes_and_two_databases, broker_killed, broker_frozen,
);

fn on_shared(name: &str, version: &str) -> Option<Scene> {
    Some(Scene::new(name, Some(broker::shared(version)?)))
}

fn on_own(name: &str, version: &str) -> Option<(Scene, Arc<Broker>)> {
    let kafka = broker::own(version, 1, &[])?;
    Some((Scene::new(name, Some(Arc::clone(&kafka))), kafka))
}
