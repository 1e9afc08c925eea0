//! The Kafka room seen from outside: against an independent codec, against peers that misbehave, on real brokers.

mod against_codec;
mod batches;
mod connection;
mod error_codes;
mod peer;
mod real;
mod samples;
mod sasl;
mod tls;
