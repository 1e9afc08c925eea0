//! zstd: one frame of RFC 8878, by libzstd.
//!
//! Promises: as its parent; whatever the level, the state of an encoder stays below some tens of megabytes. Does not know: where the
//! bytes go.

use super::{Compression, DecompressError};
use zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall;
use zstd_safe::{CCtx, CParameter, DCtx};

/// From this level on libzstd's own tables have windows of 8 MB and more, up to 128 MB, and search tables to match. A batch is 1 MB;
/// only one with a single large record would fill them.
const LARGE_FROM: i32 = 17;
/// 4 MB: what the levels below have.
const WINDOW_LOG: u32 = 22;

/// The first guess at how much more a batch is than its compressed form.
const RATIO: usize = 4;
const START_BYTES: usize = 64 << 10;

pub(super) struct Encoder(CCtx<'static>);

impl Encoder {
    pub(super) fn new(level: i32) -> Self {
        let mut context = CCtx::create();
        let mut set = |parameter| context.set_parameter(parameter).is_ok();
        let taken =
            set(CParameter::CompressionLevel(level)) && (level < LARGE_FROM || set(CParameter::WindowLog(WINDOW_LOG)));
        debug_assert!(taken, "libzstd does not take level {level}");
        Encoder(context)
    }

    /// Into the room that `out` has; false when it is too little.
    pub(super) fn compress(&mut self, records: &[u8], out: &mut Vec<u8>) -> bool {
        self.0.compress2(out, records).is_ok()
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.sizeof()
    }
}

/// Puts what is in `bytes` into `out`, at most `max` bytes.
///
/// In one go into one buffer, and again into one twice as large if need be: a stream would take the frame's window beside it, which
/// the frame itself chooses.
pub(super) fn decompress(bytes: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), DecompressError> {
    let mut context = DCtx::create();
    let mut room = bytes.len().saturating_mul(RATIO).max(START_BYTES).min(max);
    loop {
        *out = Vec::new();
        out.reserve_exact(room);
        let code = match context.decompress(out, bytes) {
            Ok(_) if out.len() <= max => return Ok(()),
            Ok(_) => return Err(DecompressError::TooLarge { max }),
            Err(code) => code,
        };
        if !zstd_safe::is_error_kind(code, ZSTD_error_dstSize_tooSmall) {
            return Err(DecompressError::Corrupt(Compression::Zstd));
        }
        if room >= max {
            return Err(DecompressError::TooLarge { max });
        }
        room = room.saturating_mul(2).min(max);
    }
}
