//! Compressing, with state and buffers that are kept from one batch to the next.
//!
//! Promises: the same records become the same bytes, whatever was compressed before; what does not shrink is not compressed; no more
//! memory is kept than an ordinary batch needs. Does not know: threads, batches.

use super::{Compression, Settings, gzip, lz4, snappy};

/// What the buffer may keep after an unusually large batch: an ordinary one has 1 MB.
const KEPT_BYTES_MAX: usize = 2 << 20;
/// The same of a codec's state. zstd has some megabytes for an ordinary batch, at its highest levels some twenty.
const STATE_BYTES_MAX: usize = 24 << 20;

/// One thread's compressor. It takes memory when it is used first.
#[derive(Debug)]
pub struct Compressor {
    settings: Settings,
    codec: Option<Codec>,
    out: Vec<u8>,
}

// Each thread has one.
#[allow(clippy::large_enum_variant)]
enum Codec {
    Gzip(gzip::Encoder),
    Snappy(snappy::Encoder),
    Lz4(lz4::Encoder),
    #[cfg(feature = "zstd")]
    Zstd(super::zstd::Encoder),
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Codec")
    }
}

impl Compressor {
    /// With these settings. A codec that is not built in compresses nothing; the producer refuses it before it comes to this.
    pub fn new(settings: Settings) -> Self {
        Compressor { settings, codec: None, out: Vec::new() }
    }

    /// The codec that it is for.
    pub fn compression(&self) -> Compression {
        self.settings.compression
    }

    /// The records in compressed form; `None` where that is not smaller.
    pub fn compress(&mut self, records: &[u8]) -> Option<Box<[u8]>> {
        let done = self.fill(records);
        let compressed = done.then(|| Box::from(&*self.out));
        self.let_go();
        compressed
    }

    /// How many bytes the records take as they are sent.
    pub fn sent_bytes(&mut self, records: &[u8]) -> usize {
        let bytes = if self.fill(records) { self.out.len() } else { records.len() };
        self.let_go();
        bytes
    }

    /// What is kept for the next batch, as far as it can grow.
    #[cfg(test)]
    pub(super) fn kept_bytes(&self) -> usize {
        self.out.capacity() + self.codec.as_ref().map_or(0, Codec::bytes)
    }

    /// Compresses into `out`. False: it is not smaller.
    fn fill(&mut self, records: &[u8]) -> bool {
        if self.codec.is_none() {
            self.codec = Codec::new(self.settings);
        }
        let Some(codec) = self.codec.as_mut().filter(|_| !records.is_empty()) else { return false };
        self.out.clear();
        // Whatever does not fit into so many bytes did not shrink.
        self.out.reserve(records.len());
        let done = match codec {
            Codec::Gzip(encoder) => encoder.compress(records, &mut self.out),
            Codec::Snappy(encoder) => encoder.compress(records, &mut self.out),
            Codec::Lz4(encoder) => encoder.compress(records, &mut self.out),
            #[cfg(feature = "zstd")]
            Codec::Zstd(encoder) => encoder.compress(records, &mut self.out),
        };
        done && self.out.len() < records.len()
    }

    /// Gives back what an unusually large batch took.
    fn let_go(&mut self) {
        if self.out.capacity() > KEPT_BYTES_MAX {
            self.out = Vec::new();
        }
        if self.codec.as_ref().is_some_and(|codec| codec.bytes() > STATE_BYTES_MAX) {
            self.codec = None;
        }
    }
}

impl Codec {
    fn new(settings: Settings) -> Option<Codec> {
        match settings.compression {
            Compression::None => None,
            Compression::Gzip => Some(Codec::Gzip(gzip::Encoder::new(settings.gzip_level))),
            Compression::Snappy => Some(Codec::Snappy(snappy::Encoder::new())),
            Compression::Lz4 => Some(Codec::Lz4(lz4::Encoder::new())),
            #[cfg(feature = "zstd")]
            Compression::Zstd => Some(Codec::Zstd(super::zstd::Encoder::new(settings.zstd_level))),
            #[cfg(not(feature = "zstd"))]
            Compression::Zstd => None,
        }
    }

    /// Of what a codec's state can grow to; the others' states have one size.
    fn bytes(&self) -> usize {
        match self {
            #[cfg(feature = "zstd")]
            Codec::Zstd(encoder) => encoder.bytes(),
            _ => 0,
        }
    }
}
