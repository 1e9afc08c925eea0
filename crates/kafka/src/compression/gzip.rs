//! gzip: one member of RFC 1952.
//!
//! Promises: as its parent. Does not know: where the bytes go.

use flate2::{Compress, Compression as Level, FlushCompress, Status};

/// The largest window there is, as zlib has by default.
const WINDOW_BITS: u8 = 15;

pub(super) struct Encoder(Compress);

impl Encoder {
    pub(super) fn new(level: i32) -> Self {
        Encoder(Compress::new_gzip(Level::new(level.unsigned_abs()), WINDOW_BITS))
    }

    /// Into the room that `out` has; false when it is too little.
    pub(super) fn compress(&mut self, records: &[u8], out: &mut Vec<u8>) -> bool {
        self.0.reset();
        matches!(self.0.compress_vec(records, out, FlushCompress::Finish), Ok(Status::StreamEnd))
    }
}
