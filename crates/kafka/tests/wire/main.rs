//! The Kafka room seen from outside: against an independent codec, against peers that misbehave, on real brokers.

mod against_codec;
mod connection;
mod real;
mod samples;
