//! Reading what a broker has compressed, or another producer.
//!
//! Promises: never panics; never holds more than the bound it is given, beside a codec's own few hundred kilobytes. Does not know:
//! records, batches.

use super::{Compression, snappy};
use std::io::Read;

/// Why a records section can't be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum DecompressError {
    #[error("it is not {0}")]
    Corrupt(Compression),
    #[error("it would be larger than {max} bytes")]
    TooLarge { max: usize },
    #[error("{0} is not built into this program")]
    NotBuiltIn(Compression),
    #[error("no codec has the number {0}")]
    Unknown(i16),
}

/// Puts the bytes that were compressed into `out`, instead of what is there; at most `max` of them.
pub fn decompress(
    compression: Compression,
    bytes: &[u8],
    max: usize,
    out: &mut Vec<u8>,
) -> Result<(), DecompressError> {
    out.clear();
    let done = match compression {
        Compression::None if bytes.len() > max => Err(DecompressError::TooLarge { max }),
        Compression::None => {
            out.extend_from_slice(bytes);
            Ok(())
        }
        Compression::Gzip => stream(flate2::read::MultiGzDecoder::new(bytes), compression, max, out),
        Compression::Snappy => snappy::decompress(bytes, max, out),
        Compression::Lz4 => stream(lz4_flex::frame::FrameDecoder::new(bytes), compression, max, out),
        #[cfg(feature = "zstd")]
        Compression::Zstd => super::zstd::decompress(bytes, max, out),
        #[cfg(not(feature = "zstd"))]
        Compression::Zstd => Err(DecompressError::NotBuiltIn(compression)),
    };
    if done.is_err() {
        *out = Vec::new();
    }
    done
}

fn stream(decoder: impl Read, compression: Compression, max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    // One more tells that there is more.
    let read = decoder.take(max as u64 + 1).read_to_end(out).map_err(|_| DecompressError::Corrupt(compression))?;
    if read > max { Err(DecompressError::TooLarge { max }) } else { Ok(()) }
}
