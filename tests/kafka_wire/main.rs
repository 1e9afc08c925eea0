//! The Kafka room seen from outside: against an independent codec, against peers that misbehave.

mod against_codec;
mod connection;
mod samples;
