//! A records section that somebody else has compressed.
//!
//! Promises: asks that opening one never takes more than its bound, and that what was opened is the same after it was compressed again.
//! Does not know: batches, records.

use outboxd_kafka::compression::{Compression, Compressor, DecompressError, Settings, decompress};

/// Small, so that a fuzzer finds what is beyond it.
const MAX: usize = 256 << 10;

/// The first byte is the codec's number, the rest what is compressed. Accepted: it can be opened.
pub fn compressed_records(input: &[u8]) -> bool {
    let [number, section @ ..] = input else { return false };
    let Some(compression) = Compression::numbered(i16::from(*number)) else { return false };
    let mut out = Vec::new();
    match decompress(compression, section, MAX, &mut out) {
        Ok(()) => {}
        Err(error) => {
            assert!(out.capacity() == 0, "{} bytes are kept after an error", out.capacity());
            let named = match error {
                DecompressError::Corrupt(codec) | DecompressError::NotBuiltIn(codec) => codec == compression,
                DecompressError::TooLarge { max } => max == MAX,
                DecompressError::Unknown(_) => false,
            };
            assert!(named, "{compression}: {error}");
            return false;
        }
    }
    assert!(out.len() <= MAX && out.capacity() <= 4 * MAX, "{} bytes in {}", out.len(), out.capacity());
    if let Some(again) = Compressor::new(Settings { compression, ..Settings::default() }).compress(&out) {
        assert!(again.len() < out.len());
        let mut opened = Vec::new();
        assert_eq!(decompress(compression, &again, out.len(), &mut opened), Ok(()));
        assert!(opened == out, "{compression}: other bytes after compressing them again");
        if let Some(less) = out.len().checked_sub(1) {
            let too_large = Err(DecompressError::TooLarge { max: less });
            assert_eq!(decompress(compression, &again, less, &mut opened), too_large);
        }
    }
    true
}
