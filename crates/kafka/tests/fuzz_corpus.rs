//! The inputs in `fuzz/corpus/`, through what the fuzz targets do with theirs.

#[path = "../fuzz/src/lib.rs"]
mod bodies;
#[allow(dead_code)] // the tests of the wire use the rest
#[path = "wire/samples.rs"]
mod samples;

use fuzz_corpus::Corpus;
use kafka_protocol::compression::{Compressor, Gzip, Lz4, Snappy, Zstd};
use kafka_protocol::messages::{self, create_topics_response::CreatableTopicResult};
use outboxd_kafka::compression::Compression;
use outboxd_kafka::protocol::header::is_flexible;
use outboxd_kafka::protocol::{ApiKey, SPOKEN};
use outboxd_kafka::record_batch::{BatchFields, RecordHeader, append_record, encode_header};
use samples::{encoded, text, topic};
use std::collections::BTreeSet;

const CORPUS: Corpus<'_> =
    Corpus { manifest_dir: env!("CARGO_MANIFEST_DIR"), library: "outboxd_kafka_fuzz", targets: &bodies::TARGETS };

#[test]
fn nothing_in_the_corpus_makes_a_decoder_break_its_word() {
    CORPUS.assert_no_decoder_breaks_its_word();
}

#[test]
fn every_target_has_a_corpus_with_good_and_bad_inputs() {
    CORPUS.assert_good_and_bad_inputs();
}

#[test]
fn bodies_and_targets_and_corpora_have_the_same_names() {
    CORPUS.assert_same_names();
}

#[test]
fn every_answer_we_read_is_in_the_corpus() {
    let accepted: BTreeSet<(u8, u8)> = CORPUS
        .inputs("kafka_answers")
        .iter()
        .filter(|(_, input)| bodies::kafka_answers(input))
        .map(|(_, input)| (input[0], input[1]))
        .collect();
    let spoken: BTreeSet<(u8, u8)> = SPOKEN
        .iter()
        .flat_map(|line| (line.versions.min..=line.versions.max).map(|version| (line.api as u8, version as u8)))
        .collect();
    assert_eq!(accepted, spoken, "(API, version); add a seed for what is missing: {MAKE_SEEDS}");
}

const MAKE_SEEDS: &str = "cargo test -p outboxd-kafka --test fuzz_corpus make_seeds -- --ignored";

/// What a fuzzer starts from, by encoders that are not the decoders' own. Only what is not there is made.
#[test]
#[ignore = "writes into fuzz/corpus"]
fn make_seeds() {
    for (name, input) in answer_seeds() {
        CORPUS.write_seed("kafka_answers", &name, &input);
    }
    for (name, input) in batch_seeds() {
        CORPUS.write_seed("record_batches", name, &input);
    }
    for (name, input) in compressed_seeds() {
        CORPUS.write_seed("compressed_records", &name, &input);
    }
}

/// Each as `kafka_answers` wants it: API, version, and what follows an answer's length prefix.
fn answer_seeds() -> Vec<(String, Vec<u8>)> {
    let records = batch_seeds().swap_remove(0).1;
    SPOKEN
        .iter()
        .flat_map(|line| (line.versions.min..=line.versions.max).map(|version| (line.api, version)))
        .flat_map(|(api, version)| {
            let (full, empty) = match api {
                ApiKey::Produce => (
                    encoded(&samples::produce(version), version),
                    encoded(&messages::ProduceResponse::default(), version),
                ),
                ApiKey::Fetch => (
                    encoded(&samples::fetch_in(version, records.clone()), version),
                    encoded(&messages::FetchResponse::default(), version),
                ),
                ApiKey::ListOffsets => (
                    encoded(&samples::list_offsets_in(version), version),
                    encoded(&messages::ListOffsetsResponse::default(), version),
                ),
                ApiKey::Metadata => {
                    (encoded(&samples::metadata(), version), encoded(&messages::MetadataResponse::default(), version))
                }
                ApiKey::ApiVersions => (
                    encoded(&samples::api_versions(), version),
                    encoded(&messages::ApiVersionsResponse::default(), version),
                ),
                ApiKey::CreateTopics => {
                    (encoded(&created_topics(), version), encoded(&messages::CreateTopicsResponse::default(), version))
                }
                ApiKey::InitProducerId => (
                    encoded(&samples::init_producer_id(), version),
                    encoded(&messages::InitProducerIdResponse::default(), version),
                ),
                ApiKey::SaslHandshake => (
                    encoded(&samples::sasl_handshake(), version),
                    encoded(&messages::SaslHandshakeResponse::default(), version),
                ),
                ApiKey::SaslAuthenticate => (
                    encoded(&samples::sasl_authenticate(version), version),
                    encoded(&messages::SaslAuthenticateResponse::default(), version),
                ),
                ApiKey::DescribeProducers => (
                    encoded(&samples::describe_producers(), version),
                    encoded(&messages::DescribeProducersResponse::default(), version),
                ),
            };
            let mut head = vec![api as u8, version as u8, 0, 0, 0, 42];
            if is_flexible(api, version) && api != ApiKey::ApiVersions {
                head.push(0);
            }
            let name = format!("{api}-{version}");
            let cut = full[..full.len() - 1].to_vec();
            [("", full), ("-cut", cut), ("-empty", empty)]
                .map(|(what, body)| (format!("{name}{what}"), [&head[..], &body].concat()))
        })
        .chain([("long-topic".to_owned(), long_topic())])
        .collect()
}

/// A name that no topic can have, and many partitions that are next to nothing.
fn long_topic() -> Vec<u8> {
    use messages::describe_producers_response::{PartitionResponse, TopicResponse};
    let partitions = (0..170).map(|index| PartitionResponse::default().with_partition_index(index)).collect();
    let users = TopicResponse::default().with_name(topic(&"x".repeat(1_500))).with_partitions(partitions);
    let answer = messages::DescribeProducersResponse::default().with_topics(vec![users]);
    [&[ApiKey::DescribeProducers as u8, 0, 0, 0, 0, 42, 0], &encoded(&answer, 0)[..]].concat()
}

fn created_topics() -> messages::CreateTopicsResponse {
    let there = CreatableTopicResult::default()
        .with_name(topic("users"))
        .with_error_code(36)
        .with_error_message(Some(text("it is there")));
    let made = CreatableTopicResult::default().with_name(topic("made")).with_error_message(None);
    messages::CreateTopicsResponse::default().with_throttle_time_ms(7).with_topics(vec![there, made])
}

/// What each codec makes of a few records, whole, cut and damaged, and of more than may be opened. By the codecs of `kafka-protocol`.
fn compressed_seeds() -> Vec<(String, Vec<u8>)> {
    let few: Vec<u8> = (0..40u8).flat_map(|at| [b"a record of many, number ", &[at, b';'][..]].concat()).collect();
    let mut seeds = vec![("none".to_owned(), [&[0], &few[..]].concat())];
    for (number, codec) in [(1, "gzip"), (2, "snappy"), (3, "lz4"), (4, "zstd")] {
        let compressed = |records: &[u8]| {
            let mut out = bytes::BytesMut::new();
            let put = |buffer: &mut dyn bytes::BufMut| {
                buffer.put_slice(records);
                Ok(())
            };
            match number {
                1 => Gzip::compress(&mut out, |buffer| put(buffer)),
                2 => Snappy::compress(&mut out, |buffer| put(buffer)),
                3 => Lz4::compress(&mut out, |buffer| put(buffer)),
                _ => Zstd::compress(&mut out, |buffer| put(buffer)),
            }
            .unwrap();
            [&[number], &out[..]].concat()
        };
        let whole = compressed(&few);
        let mut damaged = whole.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        seeds.push((codec.to_owned(), whole.clone()));
        seeds.push((format!("{codec}-cut"), whole[..whole.len() - 9].to_vec()));
        seeds.push((format!("{codec}-damaged"), damaged));
        seeds.push((format!("{codec}-bomb"), compressed(&vec![0; 300 << 10])));
    }
    seeds.push(("snappy-raw".to_owned(), b"\x02\x14\x0crecordJ\x06\0".to_vec()));
    seeds.push(("snappy-claim".to_owned(), b"\x02\xff\xff\xff\xff\x0f\0".to_vec()));
    seeds
}

fn batch_seeds() -> Vec<(&'static str, Vec<u8>)> {
    let batch = |base_offset: i64, values: &[Option<&[u8]>]| {
        let headers = [RecordHeader { key: b"id", value: Some(b"run-1") }, RecordHeader { key: b"", value: None }];
        let mut records = Vec::new();
        for (place, value) in (0u32..).zip(values) {
            let headers = &headers[..place as usize % 3];
            append_record(&mut records, place, value.is_some().then_some(b"key"), *value, headers);
        }
        let record_count = values.len() as i32;
        let fields = BatchFields {
            producer_id: 7,
            producer_epoch: 2,
            base_sequence: 5,
            timestamp_ms: 9,
            record_count,
            compression: Compression::None,
        };
        let mut bytes = [&encode_header(&fields, &records)[..], &records].concat();
        bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
        bytes
    };
    let three = batch(100, &[Some(b"one"), None, Some(&[b'x'; 70])]);
    let mut compressed = three.clone();
    compressed[22] = 1;
    let mut backwards = three.clone();
    backwards[23..27].copy_from_slice(&(-2i32).to_be_bytes());
    let mut fewer = three.clone();
    fewer[60] = 2;
    let mut control = three.clone();
    control[22] = 0x30 | 0x08;
    // Offset, length, checksum, magic 1, attributes, timestamp, null key, value.
    let older: Vec<u8> = [
        &41i64.to_be_bytes()[..],
        &23i32.to_be_bytes(),
        &[0, 0, 0, 0, 1, 0],
        &1i64.to_be_bytes(),
        &(-1i32).to_be_bytes(),
        &1i32.to_be_bytes(),
        b"x",
    ]
    .concat();
    vec![
        ("three", three.clone()),
        ("two-batches", [three.clone(), batch(103, &[Some(b"")])].concat()),
        ("cut", [&three[..], &three[..three.len() - 1]].concat()),
        ("cut-in-header", [&three[..], &three[..30]].concat()),
        ("compressed", compressed),
        ("control", control),
        ("backwards", backwards),
        ("fewer-than-there-are", fewer),
        ("older", [older, three].concat()),
    ]
}
