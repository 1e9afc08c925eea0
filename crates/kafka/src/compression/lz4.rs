//! lz4: one frame of independent blocks of 64 KB, without checksums and without the content's size.
//!
//! Promises: as its parent. Does not know: where the bytes go.

use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
use std::io::Write;

pub(super) struct Encoder(FrameEncoder<Vec<u8>>);

impl Encoder {
    pub(super) fn new() -> Self {
        let info = FrameInfo::new().block_mode(BlockMode::Independent).block_size(BlockSize::Max64KB);
        Encoder(FrameEncoder::with_frame_info(info, Vec::new()))
    }

    pub(super) fn compress(&mut self, records: &[u8], out: &mut Vec<u8>) -> bool {
        std::mem::swap(self.0.get_mut(), out);
        // A frame that was finished is followed by another one.
        let done = self.0.write_all(records).is_ok() && self.0.try_finish().is_ok();
        std::mem::swap(self.0.get_mut(), out);
        if !done {
            *self = Encoder::new();
        }
        done
    }
}
