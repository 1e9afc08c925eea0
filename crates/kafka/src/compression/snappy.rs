//! snappy as Kafka has it: the frame of the Java library by xerial around raw blocks.
//!
//! Promises: as its parent. Does not know: where the bytes go.
//!
//! A head of 16 bytes (a magic of 8, then a version and the oldest version that reads it, both 1, as 32-bit numbers), then for each block
//! its length in 32 bits, and the block in snappy's raw format. All numbers are big-endian. Kafka's reader takes what has not this head
//! for one raw block (`SnappyInputStream` and `SnappyOutputStream` of <https://github.com/xerial/snappy-java>).

use super::DecompressError;
use snap::raw;

const HEAD: [u8; 16] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1];
const MAGIC_BYTES: usize = 8;
/// What the Java library makes by default; readers take any.
const BLOCK_BYTES: usize = 32 << 10;

pub(super) struct Encoder(raw::Encoder);

impl Encoder {
    pub(super) fn new() -> Self {
        Encoder(raw::Encoder::new())
    }

    /// False when it does not become smaller.
    pub(super) fn compress(&mut self, records: &[u8], out: &mut Vec<u8>) -> bool {
        out.extend_from_slice(&HEAD);
        for block in records.chunks(BLOCK_BYTES) {
            let length_at = out.len();
            let block_at = length_at + 4;
            out.resize(block_at + raw::max_compress_len(block.len()), 0);
            let Ok(bytes) = self.0.compress(block, &mut out[block_at..]) else { return false };
            out[length_at..block_at].copy_from_slice(&(bytes as u32).to_be_bytes());
            out.truncate(block_at + bytes);
            if out.len() >= records.len() {
                return false;
            }
        }
        true
    }
}

/// Appends what is in `bytes`, at most `max` bytes.
pub(super) fn decompress(bytes: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let corrupt = DecompressError::Corrupt(super::Compression::Snappy);
    let mut decoder = raw::Decoder::new();
    if bytes.get(..MAGIC_BYTES) != Some(&HEAD[..MAGIC_BYTES]) {
        return block(&mut decoder, bytes, max, out);
    }
    let mut rest = bytes.get(HEAD.len()..).ok_or(corrupt)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk::<4>().ok_or(corrupt)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (compressed, after) = after.split_at_checked(length).ok_or(corrupt)?;
        block(&mut decoder, compressed, max, out)?;
        rest = after;
    }
    Ok(())
}

fn block(decoder: &mut raw::Decoder, bytes: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let corrupt = |_| DecompressError::Corrupt(super::Compression::Snappy);
    // What the block itself says, up to 4 GB.
    let length = raw::decompress_len(bytes).map_err(corrupt)?;
    let at = out.len();
    if length > max.saturating_sub(at) {
        return Err(DecompressError::TooLarge { max });
    }
    out.resize(at + length, 0);
    let done = decoder.decompress(bytes, &mut out[at..]).map_err(corrupt)?;
    out.truncate(at + done);
    Ok(())
}
