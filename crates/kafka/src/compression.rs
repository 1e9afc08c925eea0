//! Compressed records: which codecs there are, by Kafka's names and numbers, and what Kafka makes of their formats.
//!
//! Promises: what is compressed is what Kafka's own clients and brokers read; reading never takes more memory than its bound. Does not
//! know: batches' headers, connections, who keeps what was compressed.
//!
//! Of a record batch v2 only the records section is compressed, in one piece, and the header's attributes name the codec
//! (<https://kafka.apache.org/documentation/#recordbatch>). The formats:
//! - gzip: RFC 1952, one member.
//! - snappy: blocks of the [raw format](https://github.com/google/snappy/blob/main/format_description.txt), framed as the Java library
//!   by xerial frames them (see `compression/snappy.rs`), not as snappy's own framing format.
//! - lz4: the [frame format](https://github.com/lz4/lz4/blob/dev/doc/lz4_Frame_format.md) with independent blocks of 64 KB and without
//!   checksums of the content: others trouble some readers (KIP-57).
//! - zstd: RFC 8878, one frame. Since Kafka 2.1 (KIP-110), in Produce 7 and Fetch 10, which are the oldest that are spoken here.

mod compressor;
mod decompress;
mod gzip;
mod lz4;
mod snappy;
#[cfg(feature = "zstd")]
mod zstd;

pub use compressor::Compressor;
pub use decompress::{DecompressError, decompress};

use std::fmt;
use std::ops::RangeInclusive;

/// How a batch's records are compressed: Kafka's `compression.type`.
#[allow(missing_docs)] // the codecs' own names
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Compression {
    /// All of them, by their numbers.
    pub const ALL: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    /// Kafka's name of it, as in `compression.type`.
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Gzip => "gzip",
            Compression::Snappy => "snappy",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Compression> {
        Compression::ALL.into_iter().find(|compression| compression.name() == name)
    }

    /// The number in a batch's attributes.
    pub fn number(self) -> i16 {
        self as i16
    }

    /// The one of this number; `None`: no Kafka has given it out yet.
    pub fn numbered(number: i16) -> Option<Compression> {
        Compression::ALL.into_iter().find(|compression| compression.number() == number)
    }

    /// Whether this build has the codec: zstd is a feature of this crate.
    pub fn is_built_in(self) -> bool {
        self != Compression::Zstd || cfg!(feature = "zstd")
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `compression.gzip.level`.
pub const GZIP_LEVELS: RangeInclusive<i32> = 1..=9;
/// What Kafka's gzip has without a level.
pub const GZIP_LEVEL: i32 = 6;
/// `compression.zstd.level`. libzstd goes lower; below -7 hardly anything is left of the compression.
pub const ZSTD_LEVELS: RangeInclusive<i32> = -7..=22;
/// What libzstd has without a level, and Kafka.
pub const ZSTD_LEVEL: i32 = 3;

/// A codec and the levels of those that have some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The codec.
    pub compression: Compression,
    /// Of gzip: 1 (fast) to 9 (small).
    pub gzip_level: i32,
    /// Of zstd: -7 (fast) to 22 (small).
    pub zstd_level: i32,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { compression: Compression::None, gzip_level: GZIP_LEVEL, zstd_level: ZSTD_LEVEL }
    }
}

#[cfg(test)]
mod tests;
