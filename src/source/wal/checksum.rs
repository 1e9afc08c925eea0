//! The log's checksum: two 32-bit sums over pairs of words.
//!
//! Promises: the same numbers as SQLite, on any machine. Does not know: what is summed.

/// How the words that are summed are read. Not how the sums are stored: that is always big endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteOrder {
    Little,
    Big,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksum(pub u32, pub u32);

impl Checksum {
    /// Goes on summing. `bytes` is a multiple of eight; what is beyond it is not summed.
    #[must_use]
    pub fn update(self, order: ByteOrder, bytes: &[u8]) -> Checksum {
        let word = |bytes: [u8; 4]| match order {
            ByteOrder::Little => u32::from_le_bytes(bytes),
            ByteOrder::Big => u32::from_be_bytes(bytes),
        };
        let Checksum(mut first, mut second) = self;
        for pair in bytes.as_chunks::<4>().0.chunks_exact(2) {
            first = first.wrapping_add(word(pair[0])).wrapping_add(second);
            second = second.wrapping_add(word(pair[1])).wrapping_add(first);
        }
        Checksum(first, second)
    }
}
