//! The log's header and its frames' headers.
//!
//! Promises: a `WalHeader` exists only with a checksum that is right. Does not know: where in the file a frame lies.

use super::checksum::{ByteOrder, Checksum};
use std::fmt;

pub const HEADER_SIZE: usize = 32;
pub const FRAME_HEADER_SIZE: usize = 24;

/// The lowest bit says in which byte order the checksums' words are read.
const MAGIC: u32 = 0x377f_0682;
const FORMAT_VERSION: u32 = 3_007_000;

/// Two numbers that tell one generation of the log from the next: the first rises by one with each restart, the second is random.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salts(pub u32, pub u32);

/// A checked header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalHeader {
    pub order: ByteOrder,
    pub page_size: u32,
    /// Counts the log's restarts.
    pub checkpoint_sequence: u32,
    pub salts: Salts,
    /// Of the header; the frames' checksums go on from it.
    pub checksum: Checksum,
}

/// Why bytes are no log header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    Short { have_bytes: usize },
    Magic { found: u32 },
    Checksum { stored: Checksum, computed: Checksum },
    Version { found: u32 },
    PageSize { found: u32 },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Short { have_bytes } => write!(f, "{have_bytes} bytes, a log's header has {HEADER_SIZE}"),
            HeaderError::Magic { found } => {
                write!(f, "magic number {found:#010x}, a log's is {MAGIC:#010x} or {:#010x}", MAGIC | 1)
            }
            HeaderError::Checksum { stored, computed } => write!(
                f,
                "header checksum {:08x} {:08x}, computed {:08x} {:08x}",
                stored.0, stored.1, computed.0, computed.1
            ),
            HeaderError::Version { found } => write!(f, "format version {found}, known is {FORMAT_VERSION}"),
            HeaderError::PageSize { found } => {
                write!(f, "page size {found}, possible are powers of two from 512 to 65536")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

impl WalHeader {
    /// The first 32 bytes of a log.
    pub fn parse(bytes: &[u8]) -> Result<WalHeader, HeaderError> {
        let Some((bytes, _)) = bytes.split_first_chunk::<HEADER_SIZE>() else {
            return Err(HeaderError::Short { have_bytes: bytes.len() });
        };
        let magic = word(bytes, 0);
        let order = match magic {
            MAGIC => ByteOrder::Little,
            big if big == MAGIC | 1 => ByteOrder::Big,
            found => return Err(HeaderError::Magic { found }),
        };
        // Before the values it protects: a header caught half written must not be taken at its word.
        let checksum = Checksum(word(bytes, 24), word(bytes, 28));
        let computed = Checksum::default().update(order, &bytes[..24]);
        if computed != checksum {
            return Err(HeaderError::Checksum { stored: checksum, computed });
        }
        let version = word(bytes, 4);
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version { found: version });
        }
        // 32 bits: 65536 is written out here, unlike in the database's own header.
        let page_size = word(bytes, 8);
        if !page_size.is_power_of_two() || !(512..=65536).contains(&page_size) {
            return Err(HeaderError::PageSize { found: page_size });
        }
        Ok(WalHeader {
            order,
            page_size,
            checkpoint_sequence: word(bytes, 12),
            salts: Salts(word(bytes, 16), word(bytes, 20)),
            checksum,
        })
    }

    /// Header and page.
    pub fn frame_size(&self) -> usize {
        FRAME_HEADER_SIZE + self.page_size as usize
    }

    /// Where a frame begins; frames are counted from 1.
    pub fn frame_offset(&self, frame: u32) -> u64 {
        HEADER_SIZE as u64 + u64::from(frame - 1) * self.frame_size() as u64
    }
}

/// A frame's header as it stands there: valid only if its salts are the log's and its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub page: u32,
    /// The database's size after the commit; 0 in all frames but a transaction's last.
    pub database_pages: u32,
    pub salts: Salts,
    pub checksum: Checksum,
}

impl FrameHeader {
    pub fn parse(bytes: &[u8; FRAME_HEADER_SIZE]) -> FrameHeader {
        FrameHeader {
            page: word(bytes, 0),
            database_pages: word(bytes, 4),
            salts: Salts(word(bytes, 8), word(bytes, 12)),
            checksum: Checksum(word(bytes, 16), word(bytes, 20)),
        }
    }

    pub fn is_commit(&self) -> bool {
        self.database_pages != 0
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
