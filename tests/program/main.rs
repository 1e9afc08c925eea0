//! The daemon and the other commands as a person and a machine meet them: the real binary, SQL as applications write it, HTTP, and
//! brokers over real TCP that are as sly as the real ones.

mod bad_servers;
mod cli_errors;
mod common;
mod daemon;
mod daemon_kafka;
mod dead;
mod http;
mod migrations;
#[cfg(feature = "testing")]
mod moves;
