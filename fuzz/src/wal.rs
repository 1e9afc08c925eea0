//! SQLite's log: as bytes, and as a history that is followed.
//!
//! Promises: asks that every commit lies inside the bytes, that cut bytes give the commits before the cut and no other, and that the
//! follower misses no foreign commit. Does not know: files.

use super::cuts;
use outboxd::source::wal::{
    ByteOrder, Checksum, Commit, EndOfLog, FRAME_HEADER_SIZE, Follower, FrameHeader, HEADER_SIZE, ReadAt, Verify,
    WalHeader, commits,
};
use std::collections::HashSet;
use std::io;

const MAGIC: u32 = 0x377f_0682;
const FORMAT_VERSION: u32 = 3_007_000;

/// The input is how many frames to put right, the kinds of repair, and then a log: no fuzzer guesses a checksum.
///
/// Accepted: a log with a commit.
pub fn wal_frames(input: &[u8]) -> bool {
    let [frames, repairs, log @ ..] = input else { return false };
    let mut log = log.to_vec();
    repair(&mut log, *repairs, u32::from(*frames));
    let log = log.as_slice();

    let (found, end) = commits(log, Verify::Checksums);
    let (by_salts, salts_end) = commits(log, Verify::SaltsOnly);
    assert!(by_salts.starts_with(&found), "{found:?} {by_salts:?}");
    let header = WalHeader::parse(log);
    check_end(log, &found, &end, header.ok().as_ref());
    check_end(log, &by_salts, &salts_end, header.ok().as_ref());
    let Ok(header) = header else { return false };

    for cut in cuts(log.len()) {
        let inside = |commit: &&Commit| header.frame_offset(commit.frame + 1) <= cut as u64;
        let part: Vec<Commit> = found.iter().filter(inside).copied().collect();
        assert_eq!(commits(&log[..cut], Verify::Checksums).0, part, "cut at {cut}");
    }
    // A changed byte of a frame ends the log before it.
    for frame in (1..=found.last().map_or(0, |commit| commit.frame)).take(8) {
        let mut damaged = log.to_vec();
        damaged[header.frame_offset(frame + 1) as usize - 1] ^= 1;
        let part: Vec<Commit> = found.iter().filter(|commit| commit.frame < frame).copied().collect();
        assert_eq!(commits(&damaged, Verify::Checksums).0, part, "frame {frame} is damaged");
    }
    follow_bytes(log, &header);
    !found.is_empty()
}

/// By bit: the header's fields, its page size and its checksum; frames' salts; frames' checksums; the other byte order.
fn repair(log: &mut [u8], repairs: u8, frames: u32) {
    let put = |log: &mut [u8], at: usize, value: u32| log[at..at + 4].copy_from_slice(&value.to_be_bytes());
    if repairs & 1 != 0 && log.len() >= HEADER_SIZE {
        put(log, 0, MAGIC | u32::from(repairs >> 3 & 1));
        put(log, 4, FORMAT_VERSION);
        let size = u32::from_be_bytes([log[8], log[9], log[10], log[11]]);
        if !size.is_power_of_two() || !(512..=65_536).contains(&size) {
            put(log, 8, 512 << (size % 8));
        }
        let order = if log[3] & 1 == 0 { ByteOrder::Little } else { ByteOrder::Big };
        let sum = Checksum::default().update(order, &log[..24]);
        put(log, 24, sum.0);
        put(log, 28, sum.1);
    }
    let Ok(header) = WalHeader::parse(log) else { return };
    let mut sum = header.checksum;
    for frame in log[HEADER_SIZE..].chunks_exact_mut(header.frame_size()).take(frames as usize) {
        if repairs & 2 != 0 {
            put(frame, 8, header.salts.0);
            put(frame, 12, header.salts.1);
        }
        sum = sum.update(header.order, &frame[..8]).update(header.order, &frame[FRAME_HEADER_SIZE..]);
        if repairs & 4 != 0 {
            put(frame, 16, sum.0);
            put(frame, 20, sum.1);
        }
    }
}

fn check_end(log: &[u8], found: &[Commit], end: &EndOfLog, header: Option<&WalHeader>) {
    let Some(header) = header else {
        assert!(found.is_empty() && matches!(end, EndOfLog::Header(_) | EndOfLog::Empty), "{end:?}");
        assert_eq!(*end == EndOfLog::Empty, log.is_empty());
        return;
    };
    let mut last = 0;
    for commit in found {
        assert!(commit.frames > 0 && commit.database_pages > 0, "{commit:?}");
        assert_eq!(commit.frame, last + commit.frames, "{found:?}");
        assert!(header.frame_offset(commit.frame + 1) <= log.len() as u64, "{commit:?} in {} bytes", log.len());
        last = commit.frame;
    }
    match *end {
        EndOfLog::EndOfFile { frames } => {
            assert!(frames >= last);
            assert_eq!(header.frame_offset(frames + 1), log.len() as u64);
        }
        EndOfLog::ShortFrame { frame, have_bytes, need_bytes } => {
            assert!(frame > last && 0 < have_bytes && have_bytes < need_bytes);
            assert_eq!(header.frame_offset(frame) + have_bytes as u64, log.len() as u64);
        }
        EndOfLog::StaleSalt { frame, salts, expected } => {
            assert!(frame > last && salts != expected && expected == header.salts);
            assert!(header.frame_offset(frame) + FRAME_HEADER_SIZE as u64 <= log.len() as u64);
        }
        EndOfLog::PageZero { frame } => {
            assert!(frame > last && header.frame_offset(frame) + FRAME_HEADER_SIZE as u64 <= log.len() as u64);
        }
        EndOfLog::BadChecksum { frame, stored, computed } => {
            assert!(frame > last && stored != computed);
            assert!(header.frame_offset(frame + 1) <= log.len() as u64);
        }
        EndOfLog::Empty | EndOfLog::Header(_) => panic!("{end:?} behind a header that is one"),
    }
}

/// The follower on a log of anybody's making: it ends, and stands at a commit.
fn follow_bytes(log: &[u8], header: &WalHeader) {
    let frame_at = |frame: u32| {
        let at = usize::try_from(header.frame_offset(frame)).ok()?;
        let found = FrameHeader::parse(log.get(at..at + FRAME_HEADER_SIZE)?.try_into().expect("as long as it is cut"));
        (found.salts == header.salts && found.page != 0).then_some(found)
    };
    let frames = (log.len() / header.frame_size()) as u32 + 1;
    let mut follower = Follower::default();
    let news = follower.follow(log, |_, _| false).expect("memory can be read");
    assert!(news.foreign && !news.own, "a first look can't tell what it missed: {news:?}");
    assert!(!news.more, "{frames} frames are few");
    assert_eq!(follower.header(), Some(header));
    let last = follower.last_commit();
    assert!(last <= frames);
    assert!(last == 0 || frame_at(last).is_some_and(|frame| frame.is_commit()));
    // Where the frames lie together, which is how SQLite writes them, it is the last of them.
    let together = (1..=frames).take_while(|frame| frame_at(*frame).is_some()).last().unwrap_or(0);
    if (together + 1..=frames).all(|frame| frame_at(frame).is_none()) {
        let expected = (1..=together).rev().find(|frame| frame_at(*frame).is_some_and(|frame| frame.is_commit()));
        assert_eq!(last, expected.unwrap_or(0));
    }
    let again = follower.follow(log, |_, _| false).expect("memory can be read");
    assert!(!again.foreign && !again.own, "nothing happened: {again:?}");
}

/// The input is a history: what writers do to a log, and when it is looked at. A byte is one step, its upper bits how much.
///
/// Accepted: a history with commits of our own, at whose end there is a commit to stand at.
pub fn wal_follower(input: &[u8]) -> bool {
    let mut log = Log::new();
    let mut follower = Follower::default();
    let mut since = Since::default();
    let mut own = HashSet::new();
    look(&log, &mut follower, &own, &mut since);
    for byte in input.iter().take(STEPS_MAX) {
        let much = u32::from(byte >> 3);
        log.settle();
        match byte & 7 {
            kind @ (0 | 1) => {
                log.write(much);
                log.commit();
                if kind == 0 {
                    since.foreign = true;
                } else {
                    own.insert((log.salt, log.written));
                    since.own = true;
                }
            }
            2 => log.write(much * 8),
            3 => log.roll_back(),
            4 => {
                if much < 16 {
                    log.restart();
                } else {
                    log.empty();
                }
                // Another header: whatever the follower believed, it begins anew.
                since = Since { foreign: true, long: false, ..since };
            }
            5 => log.half_written = Half::Frame(much as usize % FRAME_HEADER_SIZE),
            6 => log.half_written = Half::Header,
            _ => {}
        }
        since.long |= log.is_long();
        if byte & 7 >= 5 {
            look(&log, &mut follower, &own, &mut since);
        }
    }
    log.settle();
    look(&log, &mut follower, &own, &mut since);
    follower.last_commit() > 0 && !own.is_empty()
}

/// More than the follower reads in one call, but not much: time is better spent on other histories.
const FRAMES_MAX: u32 = 4_500;
const STEPS_MAX: usize = 200;
/// `Follower` reads so many frames behind the last commit again at each look; of more it may be deceived, and says so.
const FRAMES_READ_AGAIN: u32 = 64;

/// What happened since the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    foreign: bool,
    own: bool,
    /// A transaction was so long that the follower may have been deceived, and may not have found back yet.
    long: bool,
}

fn look(log: &Log, follower: &mut Follower, own: &HashSet<(u32, u32)>, since: &mut Since) {
    let (mut foreign, mut ours, mut calls) = (false, false, 0);
    let had_header = follower.header().is_some();
    let news = loop {
        calls += 1;
        assert!(calls < 20, "it does not come to an end");
        let news = follower.follow(log, |salt, frame| own.contains(&(salt, frame))).expect("memory can be read");
        foreign |= news.foreign;
        ours |= news.own;
        if !news.more {
            break news;
        }
    };
    let unreadable = log.frames.is_none() || log.half_written == Half::Header;
    assert_eq!(follower.header().is_none(), unreadable);
    assert!(!unreadable || news.uncertain, "{news:?}");
    let may_miss = news.uncertain && (since.long || (unreadable && !had_header));
    assert!(foreign || !since.foreign || may_miss, "missed: {news:?} {since:?}");
    assert!(!ours || since.own || since.long, "none of ours: {news:?} {since:?}");
    if !unreadable && !since.long {
        assert_eq!(follower.last_commit(), log.last_commit, "{news:?}");
        assert_eq!(news.uncertain, log.reached > log.last_commit, "{news:?}");
    }
    let again = follower.follow(log, |_, _| false).expect("memory can be read");
    assert!(!again.foreign && !again.own && !again.more, "nothing happened: {again:?}");
    *since = Since {
        foreign: false,
        // It begins anew when the header can be read again.
        own: unreadable && !own.is_empty(),
        long: log.is_long() || (since.long && !unreadable && follower.last_commit() != log.last_commit),
    };
}

/// A log of 512-byte pages, of which only the headers are kept.
struct Log {
    header: [u8; HEADER_SIZE],
    salt: u32,
    /// As they lie in the file, older generations' and rolled back ones' behind those that were written. `None`: no byte in it.
    frames: Option<Vec<[u8; FRAME_HEADER_SIZE]>>,
    written: u32,
    /// How many frames have the log's salts: those of a transaction that was rolled back, too.
    reached: u32,
    last_commit: u32,
    /// Makes every frame another.
    counter: u32,
    half_written: Half,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    Nothing,
    /// So many bytes of a frame's header behind the last frame, if there is none from before.
    Frame(usize),
    Header,
}

const PAGE_SIZE: u32 = 512;
const FRAME_SIZE: u64 = FRAME_HEADER_SIZE as u64 + PAGE_SIZE as u64;

impl Log {
    fn new() -> Self {
        let mut log = Log {
            header: [0; HEADER_SIZE],
            salt: 7,
            frames: None,
            written: 0,
            reached: 0,
            last_commit: 0,
            counter: 0,
            half_written: Half::Nothing,
        };
        log.restart();
        log.frames = None;
        log
    }

    fn restart(&mut self) {
        self.salt = self.salt.wrapping_add(1);
        let words = [MAGIC, FORMAT_VERSION, PAGE_SIZE, self.salt, self.salt, !self.salt];
        let mut bytes = words.map(u32::to_be_bytes).concat();
        let sum = Checksum::default().update(ByteOrder::Little, &bytes);
        bytes.extend([sum.0, sum.1].map(u32::to_be_bytes).concat());
        self.header.copy_from_slice(&bytes);
        self.frames.get_or_insert_default();
        self.written = 0;
        self.reached = 0;
        self.last_commit = 0;
    }

    fn empty(&mut self) {
        self.restart();
        self.frames = None;
    }

    fn write(&mut self, frames: u32) {
        if self.written + frames < FRAMES_MAX {
            (0..frames).for_each(|_| self.frame(false));
        }
    }

    fn commit(&mut self) {
        self.frame(true);
        self.last_commit = self.written;
    }

    fn frame(&mut self, commit: bool) {
        self.counter += 1;
        let words = [2, if commit { 5 } else { 0 }, self.salt, !self.salt, self.counter, 1];
        let mut bytes = [0; FRAME_HEADER_SIZE];
        bytes.as_chunks_mut().0.copy_from_slice(&words.map(u32::to_be_bytes));
        let frames = self.frames.get_or_insert_default();
        match frames.get_mut(self.written as usize) {
            Some(older) => *older = bytes,
            None => frames.push(bytes),
        }
        self.written += 1;
        self.reached = self.reached.max(self.written);
    }

    fn roll_back(&mut self) {
        self.written = self.last_commit;
    }

    /// What was half written gets whole, or is overwritten.
    fn settle(&mut self) {
        self.half_written = Half::Nothing;
    }

    fn is_long(&self) -> bool {
        self.reached - self.last_commit > FRAMES_READ_AGAIN
    }
}

impl ReadAt for Log {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(frames) = &self.frames else { return Ok(0) };
        if offset == 0 {
            buffer.copy_from_slice(&self.header);
            if self.half_written == Half::Header {
                buffer[HEADER_SIZE / 2..].fill(0);
            }
            return Ok(HEADER_SIZE);
        }
        let index = (offset - HEADER_SIZE as u64) / FRAME_SIZE;
        assert_eq!((offset - HEADER_SIZE as u64) % FRAME_SIZE, 0, "only frames' headers are of interest");
        assert_eq!(buffer.len(), FRAME_HEADER_SIZE, "only frames' headers are of interest");
        match (frames.get(index as usize), self.half_written) {
            (Some(frame), _) => {
                buffer.copy_from_slice(frame);
                Ok(FRAME_HEADER_SIZE)
            }
            (None, Half::Frame(bytes)) if index == frames.len() as u64 => Ok(bytes),
            (None, _) => Ok(0),
        }
    }
}
