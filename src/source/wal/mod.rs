//! SQLite's write-ahead log: bytes in, commits out (<https://www.sqlite.org/fileformat2.html>, section 4).
//!
//! Promises: every value is checked before it is used, in the order in which things can be trusted, and what is refused says with
//! which numbers. Does not know: files, threads, what pages mean.

mod checksum;
mod follow;
mod header;
#[cfg(test)]
mod tests;

pub use checksum::{ByteOrder, Checksum};
pub use follow::{Follower, News, ReadAt};
pub use header::{FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, HeaderError, Salts, WalHeader};

/// A transaction's last frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Counted from 1.
    pub frame: u32,
    /// How many frames the transaction wrote.
    pub frames: u32,
    /// The database's size after it.
    pub database_pages: u32,
}

/// Why the log ends where it does. Only the first two are what a log in good order ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOfLog {
    /// The file ends with a whole frame (or right after the header).
    EndOfFile { frames: u32 },
    /// The frame is left from before the log was restarted.
    StaleSalt { frame: u32, salts: Salts, expected: Salts },
    /// A file of 0 bytes: nothing was written since it was made or truncated.
    Empty,
    /// No log can be read behind such a header.
    Header(HeaderError),
    /// The file ends inside a frame.
    ShortFrame { frame: u32, have_bytes: usize, need_bytes: usize },
    /// No frame has page number 0.
    PageZero { frame: u32 },
    /// A torn write, or left over from a transaction that was rolled back and overwritten in part.
    BadChecksum { frame: u32, stored: Checksum, computed: Checksum },
}

/// Whether frames' checksums are computed. Without it a frame counts by its salts alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verify {
    Checksums,
    SaltsOnly,
}

/// The commits of a log, and why it ends. Frames after the last commit belong to no transaction (yet).
pub fn commits(log: &[u8], verify: Verify) -> (Vec<Commit>, EndOfLog) {
    let mut commits = Vec::new();
    if log.is_empty() {
        return (commits, EndOfLog::Empty);
    }
    let header = match WalHeader::parse(log) {
        Ok(header) => header,
        Err(error) => return (commits, EndOfLog::Header(error)),
    };
    let frame_size = header.frame_size();
    let mut running = header.checksum;
    let mut last_commit = 0;
    let mut rest = &log[HEADER_SIZE..];
    for frame in 1u32.. {
        if rest.is_empty() {
            return (commits, EndOfLog::EndOfFile { frames: frame - 1 });
        }
        // The frame header first: a stale or short frame behind the last commit is normal, whatever its length.
        let Some((bytes, _)) = rest.split_first_chunk::<FRAME_HEADER_SIZE>() else {
            return (commits, EndOfLog::ShortFrame { frame, have_bytes: rest.len(), need_bytes: frame_size });
        };
        let frame_header = FrameHeader::parse(bytes);
        if frame_header.salts != header.salts {
            return (commits, EndOfLog::StaleSalt { frame, salts: frame_header.salts, expected: header.salts });
        }
        if frame_header.page == 0 {
            return (commits, EndOfLog::PageZero { frame });
        }
        if rest.len() < frame_size {
            return (commits, EndOfLog::ShortFrame { frame, have_bytes: rest.len(), need_bytes: frame_size });
        }
        if verify == Verify::Checksums {
            running =
                running.update(header.order, &rest[..8]).update(header.order, &rest[FRAME_HEADER_SIZE..frame_size]);
            if running != frame_header.checksum {
                return (commits, EndOfLog::BadChecksum { frame, stored: frame_header.checksum, computed: running });
            }
        }
        if frame_header.is_commit() {
            let database_pages = frame_header.database_pages;
            commits.push(Commit { frame, frames: frame - last_commit, database_pages });
            last_commit = frame;
        }
        rest = &rest[frame_size..];
    }
    unreachable!("a log has fewer than 2^32 frames of 512 bytes and more in memory")
}
