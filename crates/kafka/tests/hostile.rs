//! Bytes that no honest broker sends: every truncation, damaged counts and lengths, noise. Errors are wanted, no panic, and no
//! memory beyond what the bytes themselves justify.

#[path = "wire/samples.rs"]
mod samples;

use outboxd_kafka::compression::Compression;
use outboxd_kafka::protocol::{
    ApiVersionsRequest, DecodeError, DescribeProducersRequest, FetchRequest, InitProducerIdRequest, ListOffsetsRequest,
    MetadataRequest, SaslAuthenticateRequest, SaslHandshakeRequest,
};
use outboxd_kafka::record_batch::{BatchFields, BatchReader, HEADER_BYTES, Piece, append_record, encode_header};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Once;

/// What all tests of this process may use together; they are in a process of their own because of it. Beyond, an allocation fails
/// and aborts, which is also what it would do to the daemon.
const MEMORY_MAX_BYTES: u64 = 192 * 1024 * 1024;

fn limit_memory() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let size_kib: u64 = size.trim().trim_end_matches(" kB").parse().unwrap();
        let current = Some(size_kib * 1024 + MEMORY_MAX_BYTES);
        setrlimit(Resource::As, Rlimit { current, maximum: getrlimit(Resource::As).maximum }).unwrap();
    });
}

/// Decodes with nothing left over; only whether it worked is of interest.
type Decoder = fn(&[u8]) -> Result<(), DecodeError>;

struct Sample {
    name: &'static str,
    bytes: Vec<u8>,
    decode: Decoder,
}

fn samples() -> Vec<Sample> {
    vec![
        Sample {
            name: "ApiVersions 0",
            bytes: samples::encoded(&samples::api_versions(), 0),
            decode: |bytes| samples::decode::<ApiVersionsRequest>(0, bytes).map(drop),
        },
        Sample {
            name: "ApiVersions 3",
            bytes: samples::encoded(&samples::api_versions(), 3),
            decode: |bytes| samples::decode::<ApiVersionsRequest>(3, bytes).map(drop),
        },
        Sample {
            name: "Fetch 4",
            bytes: samples::encoded(&samples::fetch_in(4, vec![7; 100]), 4),
            decode: |bytes| samples::decode::<FetchRequest>(4, bytes).map(drop),
        },
        Sample {
            name: "ListOffsets 1",
            bytes: samples::encoded(&samples::list_offsets_in(1), 1),
            decode: |bytes| samples::decode::<ListOffsetsRequest>(1, bytes).map(drop),
        },
        Sample {
            name: "Metadata 5",
            bytes: samples::encoded(&samples::metadata(), 5),
            decode: |bytes| samples::decode::<MetadataRequest>(5, bytes).map(drop),
        },
        Sample {
            name: "Metadata 7",
            bytes: samples::encoded(&samples::metadata(), 7),
            decode: |bytes| samples::decode::<MetadataRequest>(7, bytes).map(drop),
        },
        Sample {
            name: "InitProducerId 1",
            bytes: samples::encoded(&samples::init_producer_id(), 1),
            decode: |bytes| samples::decode::<InitProducerIdRequest>(1, bytes).map(drop),
        },
        Sample {
            name: "SaslHandshake 1",
            bytes: samples::encoded(&samples::sasl_handshake(), 1),
            decode: |bytes| samples::decode::<SaslHandshakeRequest<'_>>(1, bytes).map(drop),
        },
        Sample {
            name: "SaslAuthenticate 1",
            bytes: samples::encoded(&samples::sasl_authenticate(1), 1),
            decode: |bytes| samples::decode::<SaslAuthenticateRequest<'_>>(1, bytes).map(drop),
        },
        Sample {
            name: "SaslAuthenticate 2",
            bytes: samples::encoded(&samples::sasl_authenticate(2), 2),
            decode: |bytes| samples::decode::<SaslAuthenticateRequest<'_>>(2, bytes).map(drop),
        },
        Sample {
            name: "ListOffsets 4",
            bytes: samples::encoded(&samples::list_offsets(), 4),
            decode: |bytes| samples::decode::<ListOffsetsRequest>(4, bytes).map(drop),
        },
        Sample {
            name: "Fetch 10",
            bytes: samples::encoded(&samples::fetch(vec![7; 100]), 10),
            decode: |bytes| samples::decode::<FetchRequest>(10, bytes).map(drop),
        },
        Sample {
            name: "DescribeProducers 0",
            bytes: samples::encoded(&samples::describe_producers(), 0),
            decode: |bytes| samples::decode::<DescribeProducersRequest>(0, bytes).map(drop),
        },
        Sample {
            name: "Produce 7",
            bytes: samples::encoded(&samples::produce(7), 7),
            decode: |bytes| samples::decode_produce(7, bytes).map(drop),
        },
        Sample {
            name: "Produce 8",
            bytes: samples::encoded(&samples::produce(8), 8),
            decode: |bytes| samples::decode_produce(8, bytes).map(drop),
        },
    ]
}

fn seed() -> u64 {
    let seed =
        std::env::var("OUTBOXD_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    // Shown when the test fails.
    println!("OUTBOXD_TEST_SEED={seed}");
    seed
}

#[test]
fn every_truncation_and_every_surplus_is_an_error() {
    limit_memory();
    for sample in samples() {
        (sample.decode)(&sample.bytes).unwrap_or_else(|error| panic!("{}: {error}", sample.name));
        for length in 0..sample.bytes.len() {
            assert!((sample.decode)(&sample.bytes[..length]).is_err(), "{} cut to {length} bytes", sample.name);
        }
        let mut longer = sample.bytes.clone();
        longer.push(0);
        assert!((sample.decode)(&longer).is_err(), "{} with a byte more", sample.name);
    }
}

#[test]
fn huge_counts_and_lengths_cost_no_memory() {
    limit_memory();
    // Wherever the count or length is: every position gets the value once.
    let values: [&[u8]; 6] = [
        &i32::MAX.to_be_bytes(),
        &i32::MIN.to_be_bytes(),
        &0x0100_0000i32.to_be_bytes(),
        &i16::MAX.to_be_bytes(),
        &(-2i16).to_be_bytes(),
        &[0xff, 0xff, 0xff, 0xff, 0x0f],
    ];
    for sample in samples() {
        for value in values {
            for position in 0..sample.bytes.len().saturating_sub(value.len()) {
                let mut bytes = sample.bytes.clone();
                bytes[position..position + value.len()].copy_from_slice(value);
                let _ = (sample.decode)(&bytes);
            }
        }
    }
}

#[test]
fn noise_is_an_error_or_an_answer_but_never_a_panic() {
    limit_memory();
    let mut random = fastrand::Rng::with_seed(seed());
    let samples = samples();
    for _ in 0..200_000 {
        let sample = &samples[random.usize(..samples.len())];
        let mut bytes = if random.bool() {
            sample.bytes.clone()
        } else {
            (0..random.usize(..200)).map(|_| if random.u8(..4) == 0 { random.u8(..) } else { 0 }).collect()
        };
        for _ in 0..random.usize(..4) {
            if !bytes.is_empty() {
                let position = random.usize(..bytes.len());
                bytes[position] = random.u8(..);
            }
        }
        let _ = (sample.decode)(&bytes);
    }
}

/// Two batches as a Fetch answer has them, the second at offset 3.
fn two_batches() -> Vec<u8> {
    let mut answer = Vec::new();
    for (base_offset, count) in [(0i64, 3u32), (3, 2)] {
        let mut records = Vec::new();
        for delta in 0..count {
            append_record(&mut records, delta, Some(b"key"), Some(b"some value"), &[]);
        }
        let fields = BatchFields {
            producer_id: 5,
            producer_epoch: 1,
            base_sequence: base_offset as i32,
            timestamp_ms: 1,
            record_count: count as i32,
            compression: Compression::None,
        };
        let mut header = encode_header(&fields, &records);
        header[..8].copy_from_slice(&base_offset.to_be_bytes());
        answer.extend_from_slice(&header);
        answer.extend_from_slice(&records);
    }
    answer
}

/// Reads everything there is to read.
fn read_through(bytes: &[u8]) {
    for piece in BatchReader::new(bytes) {
        if let Ok(Piece::Batch(batch)) = piece {
            let _ = (batch.checksum_matches(), batch.header.next_offset(), batch.header.last_sequence());
            if let Some(records) = batch.records() {
                records.for_each(drop);
            }
        }
    }
}

#[test]
fn a_cut_last_batch_is_reported_as_cut_wherever_the_cut_is() {
    limit_memory();
    let answer = two_batches();
    let BatchReaderEnds { first_end } = BatchReaderEnds::of(&answer);
    for length in 1..answer.len() {
        let pieces: Vec<_> = BatchReader::new(&answer[..length]).collect::<Result<_, _>>().unwrap();
        let whole = usize::from(length >= first_end);
        let batches = pieces.iter().filter(|piece| matches!(piece, Piece::Batch(_))).count();
        assert_eq!(batches, whole, "{length} bytes");
        if length == first_end {
            assert_eq!(pieces.len(), 1);
            continue;
        }
        let Some(Piece::Cut { header }) = pieces.last() else { panic!("{length} bytes: {pieces:?}") };
        let start = if whole == 1 { first_end } else { 0 };
        assert_eq!(header.is_some(), length - start >= HEADER_BYTES, "{length} bytes");
        if let Some(header) = header {
            assert_eq!((header.producer_id, header.producer_epoch), (5, 1));
            assert_eq!(header.base_offset, if whole == 1 { 3 } else { 0 });
        }
    }
    assert_eq!(BatchReader::new(&[]).count(), 0);
}

struct BatchReaderEnds {
    first_end: usize,
}

impl BatchReaderEnds {
    fn of(answer: &[u8]) -> Self {
        match BatchReader::new(answer).next() {
            Some(Ok(Piece::Batch(batch))) => BatchReaderEnds { first_end: batch.header.batch_bytes },
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn damaged_batches_are_errors_or_fail_their_checksum() {
    limit_memory();
    let mut random = fastrand::Rng::with_seed(seed());
    let answer = two_batches();
    let BatchReaderEnds { first_end } = BatchReaderEnds::of(&answer);
    for position in 0..first_end {
        for bit in 0..8 {
            let mut damaged = answer[..first_end].to_vec();
            damaged[position] ^= 1 << bit;
            read_through(&damaged);
            // Base offset, length, leader epoch and magic are outside of the checksum.
            if position >= 17
                && let Some(Ok(Piece::Batch(batch))) = BatchReader::new(&damaged).next()
            {
                assert!(!batch.checksum_matches(), "bit {bit} of byte {position}");
            }
        }
    }
    for _ in 0..100_000 {
        let mut bytes = answer.clone();
        for _ in 0..random.usize(1..6) {
            let position = random.usize(..bytes.len());
            bytes[position] = random.u8(..);
        }
        read_through(&bytes);
    }
}
