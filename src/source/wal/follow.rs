//! Following a log that others append to: where its last commit is, and whether that is news.
//!
//! Promises: when a foreign commit was added, says so or says that it is uncertain; reads frame headers only, few of them twice. Does not
//! know: how it learns that there may be something to read.

use super::Checksum;
use super::header::{FRAME_HEADER_SIZE, FrameHeader, HEADER_SIZE, WalHeader};
use std::io;

/// How many frame headers one call reads at most: a backlog is read in several.
const FRAMES_PER_CALL: u32 = 4096;

/// So many frames behind the last commit are read again at each call. Only a transaction with more is followed by its first and
/// last frame, which can be deceived by what an earlier, longer one left there; `News::uncertain` says so.
const FRAMES_READ_AGAIN: u32 = 64;

/// A log at any offset. Returns fewer bytes than asked for only at its end.
pub trait ReadAt {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
}

impl ReadAt for [u8] {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or(&[]);
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

/// What one call found.
#[allow(clippy::struct_excessive_bools)] // four facts, each may hold without the others
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Someone else committed, or the log was restarted or truncated, which may hide that.
    pub foreign: bool,
    /// We committed.
    pub own: bool,
    /// There are frames behind the last commit, or there is no readable header: it can't be excluded that a commit is overlooked.
    pub uncertain: bool,
    /// The call's limit was reached; there may be more.
    pub more: bool,
}

/// A place in a log.
#[derive(Clone, Debug, Default)]
pub struct Follower {
    header: Option<WalHeader>,
    last_commit: u32,
    /// Frames after the last commit that were read and are none.
    scanned: u32,
    /// Of the first and the last of those: when either changes, they were written anew.
    pending: Option<(Checksum, Checksum)>,
    /// How far the last jump went: the next one tries that first.
    stride: u32,
}

impl Follower {
    /// Frame number of the last commit seen, 0 for none.
    pub fn last_commit(&self) -> u32 {
        self.last_commit
    }

    /// The log's header, if it could be read.
    pub fn header(&self) -> Option<&WalHeader> {
        self.header.as_ref()
    }

    /// Reads on. `is_own(salt1, frame)`: whether that commit is ours.
    pub fn follow<L: ReadAt + ?Sized>(&mut self, log: &L, is_own: impl Fn(u32, u32) -> bool) -> io::Result<News> {
        let mut news = News::default();
        let mut bytes = [0u8; HEADER_SIZE];
        let length = log.read_at(0, &mut bytes)?;
        let Ok(header) = WalHeader::parse(&bytes[..length]) else {
            // Empty: truncated by a checkpoint, perhaps right after a commit. Anything else: caught while being written.
            news.foreign = self.header.is_some();
            news.uncertain = true;
            *self = Follower::default();
            return Ok(news);
        };
        if self.header != Some(header) {
            // The frames of earlier generations that were not read yet are gone; they may have been commits.
            news.foreign = true;
            *self = Follower { header: Some(header), ..Follower::default() };
        }
        self.check_pending(log, &header)?;
        self.read_on(log, &header, &is_own, &mut news)?;
        news.uncertain = self.scanned > self.last_commit;
        Ok(news)
    }

    /// Frames behind the last commit belong to a transaction that is still being written, or are left over from one that was
    /// rolled back; those are overwritten by the next, from the first on.
    fn check_pending<L: ReadAt + ?Sized>(&mut self, log: &L, header: &WalHeader) -> io::Result<()> {
        if self.scanned - self.last_commit <= FRAMES_READ_AGAIN {
            self.scanned = self.last_commit;
            self.pending = None;
        }
        if let Some((first, last)) = self.pending {
            let now = |frame| Ok::<_, io::Error>(frame_header(log, header, frame)?.map(|frame| frame.checksum));
            if now(self.last_commit + 1)? != Some(first) || now(self.scanned)? != Some(last) {
                self.scanned = self.last_commit;
                self.pending = None;
            }
        }
        Ok(())
    }

    fn read_on<L: ReadAt + ?Sized>(
        &mut self,
        log: &L,
        header: &WalHeader,
        is_own: &impl Fn(u32, u32) -> bool,
        news: &mut News,
    ) -> io::Result<()> {
        let mut jumped = false;
        for _ in 0..FRAMES_PER_CALL {
            // Which of the others were foreign no longer matters once one was.
            if news.foreign && !jumped {
                jumped = true;
                if self.jump(log, header)? {
                    return Ok(());
                }
            }
            let next = self.scanned + 1;
            let Some(frame) = frame_header(log, header, next)? else { return Ok(()) };
            self.scanned = next;
            if frame.is_commit() {
                self.last_commit = next;
                self.pending = None;
                if is_own(header.salts.0, next) {
                    news.own = true;
                } else {
                    news.foreign = true;
                }
            } else {
                let first = self.pending.map_or(frame.checksum, |(first, _)| first);
                self.pending = Some((first, frame.checksum));
            }
        }
        news.more = true;
        Ok(())
    }

    /// To the end of the log by doubling, from where the last jump ended at first, and then by halves: the frames with the log's
    /// salts lie together. True: the last of them is a commit, and there is nothing more to read. Otherwise it is read on from
    /// the last commit that was come across: one with the log's salts was committed, whatever lies before it, so it is as
    /// good as one reached step by step.
    fn jump<L: ReadAt + ?Sized>(&mut self, log: &L, header: &WalHeader) -> io::Result<bool> {
        let start = self.scanned;
        let mut low = start;
        let mut last = None;
        let mut high = None;
        let mut step = 1;
        loop {
            let frame = match high {
                None if low == start => start.saturating_add(self.stride.max(1)),
                None => low.saturating_add(step),
                Some(high) if high - low > 1 => low + (high - low) / 2,
                Some(_) => break,
            };
            match frame_header(log, header, frame)? {
                Some(found) => {
                    step = if low == start { 1 } else { step.saturating_mul(2) };
                    low = frame;
                    if found.is_commit() {
                        last = Some(frame);
                    }
                }
                None => high = Some(frame),
            }
        }
        self.stride = low - start;
        if let Some(last) = last {
            self.last_commit = last;
            self.scanned = last;
            self.pending = None;
        }
        Ok(last.unwrap_or(self.last_commit) == low)
    }
}

/// The frame's header, if the frame begins in the file and is of this generation.
fn frame_header<L: ReadAt + ?Sized>(log: &L, header: &WalHeader, frame: u32) -> io::Result<Option<FrameHeader>> {
    let mut bytes = [0u8; FRAME_HEADER_SIZE];
    if log.read_at(header.frame_offset(frame), &mut bytes)? < bytes.len() {
        return Ok(None);
    }
    let frame = FrameHeader::parse(&bytes);
    Ok((frame.salts == header.salts && frame.page != 0).then_some(frame))
}
