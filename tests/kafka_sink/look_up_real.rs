//! What became of a batch, asked of a real Apache Kafka.
