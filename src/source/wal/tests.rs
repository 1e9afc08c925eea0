//! On logs that SQLite wrote, on the same logs damaged, and on made-up histories for the follower.

use super::*;
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs a script in SQLite's shell, which copies the log aside with `.shell` while the connection is open.
fn sqlite(directory: &Path, script: &str) -> String {
    use std::io::Write;
    let mut child = Command::new("sqlite3")
        .arg("db")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the sqlite3 shell is needed for these tests");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn log_of(page_size: u32, script: &str) -> (tempfile::TempDir, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    sqlite(
        directory.path(),
        &format!(
            "PRAGMA page_size={page_size}; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0;
             CREATE TABLE t (x); {script}\n.shell cp db-wal log; cp db base\n"
        ),
    );
    let log = std::fs::read(directory.path().join("log")).unwrap();
    (directory, log)
}

const THREE: &str = "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); INSERT INTO t VALUES (zeroblob(20000));";

#[test]
fn commits_of_every_page_size_are_found() {
    for page_size in [512, 1024, 4096, 32768, 65536] {
        let (_directory, log) = log_of(page_size, THREE);
        assert_eq!(WalHeader::parse(&log).unwrap().page_size, page_size);
        let (found, end) = commits(&log, Verify::Checksums);
        assert_eq!(found.len(), 4, "CREATE and three INSERT");
        let last = found.last().unwrap();
        assert_eq!(end, EndOfLog::EndOfFile { frames: last.frame });
        assert_eq!(found.iter().map(|commit| commit.frames).sum::<u32>(), last.frame);
        assert_eq!(commits(&log, Verify::SaltsOnly), (found, end));
    }
}

#[test]
fn frames_of_a_rollback_are_no_commit() {
    // A cache of two pages spills what is then rolled back.
    let (_directory, log) = log_of(
        1024,
        "PRAGMA cache_size=2; INSERT INTO t VALUES (1);
         BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) INSERT INTO t SELECT zeroblob(300) FROM n; ROLLBACK;",
    );
    let (found, end) = commits(&log, Verify::Checksums);
    assert_eq!(found.len(), 2);
    // SQLite writes a page that it spills twice to the same frame again, and puts the checksums right at the COMMIT only.
    let (EndOfLog::EndOfFile { frames: at } | EndOfLog::BadChecksum { frame: at, .. }) = end else { panic!("{end:?}") };
    assert!(at > found[1].frame + 1, "spilled frames follow: {end:?}");
    assert_eq!(commits(&log, Verify::SaltsOnly).0, found);
}

#[test]
fn a_commit_over_the_frames_of_a_rollback_ends_before_the_rest_of_them() {
    let (_directory, log) = log_of(
        1024,
        "PRAGMA cache_size=2; INSERT INTO t VALUES (1);
         BEGIN; WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<500) INSERT INTO t SELECT zeroblob(300) FROM n; ROLLBACK;
         INSERT INTO t VALUES (2);",
    );
    let (found, end) = commits(&log, Verify::Checksums);
    assert_eq!(found.len(), 3);
    assert_eq!(end, {
        let EndOfLog::BadChecksum { frame, stored, computed } = end else { panic!("{end:?}") };
        assert_eq!(frame, found[2].frame + 1);
        EndOfLog::BadChecksum { frame, stored, computed }
    });
    assert_eq!(commits(&log, Verify::SaltsOnly).0, found, "leftovers of a rollback have no commit frame");
}

#[test]
fn after_a_restart_older_frames_are_stale() {
    let (_directory, log) = log_of(4096, &format!("{THREE} PRAGMA wal_checkpoint(RESTART); INSERT INTO t VALUES (9);"));
    let (found, end) = commits(&log, Verify::Checksums);
    assert_eq!(found.len(), 1);
    let EndOfLog::StaleSalt { frame, salts, expected } = end else { panic!("{end:?}") };
    assert_eq!(frame, found[0].frame + 1);
    assert_eq!(expected.0, salts.0.wrapping_add(1), "the first salt counts restarts");
    let (_directory, log) = log_of(4096, "PRAGMA wal_checkpoint(TRUNCATE);");
    assert_eq!(commits(&log, Verify::Checksums), (vec![], EndOfLog::Empty));
}

/// The same log as a machine of the other byte order would have summed it.
fn other_byte_order(log: &[u8]) -> Vec<u8> {
    let header = WalHeader::parse(log).unwrap();
    let order = match header.order {
        ByteOrder::Little => ByteOrder::Big,
        ByteOrder::Big => ByteOrder::Little,
    };
    let mut log = log.to_vec();
    log[3] ^= 1;
    let mut put = |at: usize, sum: Checksum| {
        log[at..at + 4].copy_from_slice(&sum.0.to_be_bytes());
        log[at + 4..at + 8].copy_from_slice(&sum.1.to_be_bytes());
        log.clone()
    };
    let mut current = put(24, Checksum::default());
    let mut sum = Checksum::default().update(order, &current[..24]);
    current = put(24, sum);
    let mut at = HEADER_SIZE;
    while at < current.len() {
        let end = at + header.frame_size();
        sum = sum.update(order, &current[at..at + 8]).update(order, &current[at + FRAME_HEADER_SIZE..end]);
        current = put(at + 16, sum);
        at = end;
    }
    current
}

#[test]
fn both_byte_orders_are_read_and_sqlite_agrees() {
    let (directory, log) = log_of(1024, THREE);
    let swapped = other_byte_order(&log);
    assert_ne!(WalHeader::parse(&log).unwrap().order, WalHeader::parse(&swapped).unwrap().order);
    assert_eq!(commits(&swapped, Verify::Checksums), commits(&log, Verify::Checksums));
    // SQLite recovers the database from the log we summed.
    for name in ["db-wal", "db-shm"] {
        let _ = std::fs::remove_file(directory.path().join(name));
    }
    std::fs::copy(directory.path().join("base"), directory.path().join("db")).unwrap();
    std::fs::write(directory.path().join("db-wal"), &swapped).unwrap();
    assert_eq!(sqlite(directory.path(), "SELECT count(*) FROM t;"), "3\n");
}

#[test]
fn every_truncation_leaves_the_commits_before_it() {
    let (_directory, log) = log_of(512, THREE);
    let header = WalHeader::parse(&log).unwrap();
    let (whole, _) = commits(&log, Verify::Checksums);
    for length in 0..log.len() {
        let (found, end) = commits(&log[..length], Verify::Checksums);
        let expected: Vec<Commit> =
            whole.iter().filter(|commit| header.frame_offset(commit.frame + 1) <= length as u64).copied().collect();
        assert_eq!(found, expected, "{length} bytes");
        match end {
            EndOfLog::Empty => assert_eq!(length, 0),
            EndOfLog::Header(HeaderError::Short { have_bytes }) => {
                assert!(length < HEADER_SIZE);
                assert_eq!(have_bytes, length);
            }
            EndOfLog::ShortFrame { frame, have_bytes, need_bytes } => {
                assert_eq!(header.frame_offset(frame) as usize + have_bytes, length);
                assert!(have_bytes < need_bytes);
            }
            EndOfLog::EndOfFile { frames } => assert_eq!(header.frame_offset(frames + 1) as usize, length),
            other => panic!("{length} bytes: {other:?}"),
        }
    }
}

#[test]
fn every_flipped_bit_ends_the_log_before_its_frame() {
    let (_directory, log) = log_of(512, "INSERT INTO t VALUES (1); INSERT INTO t VALUES (2);");
    let header = WalHeader::parse(&log).unwrap();
    let (whole, _) = commits(&log, Verify::Checksums);
    for bit in 0..log.len() * 8 {
        let mut damaged = log.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let (found, end) = commits(&damaged, Verify::Checksums);
        if bit / 8 < HEADER_SIZE {
            assert!(matches!(end, EndOfLog::Header(_)), "bit {bit}: {end:?}");
            assert!(found.is_empty());
            continue;
        }
        let frame = ((bit / 8 - HEADER_SIZE) / header.frame_size()) as u32 + 1;
        let expected: Vec<Commit> = whole.iter().filter(|commit| commit.frame < frame).copied().collect();
        assert_eq!(found, expected, "bit {bit}");
        match end {
            EndOfLog::BadChecksum { frame: at, stored, computed } => {
                assert_eq!(at, frame);
                assert_ne!(stored, computed);
            }
            EndOfLog::StaleSalt { frame: at, .. } | EndOfLog::PageZero { frame: at } => assert_eq!(at, frame),
            other => panic!("bit {bit}: {other:?}"),
        }
    }
}

#[test]
fn headers_are_refused_with_their_numbers() {
    let (_directory, log) = log_of(512, "");
    let resummed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = log[..HEADER_SIZE].to_vec();
        change(&mut bytes);
        let sum = Checksum::default().update(WalHeader::parse(&log).unwrap().order, &bytes[..24]);
        bytes[24..28].copy_from_slice(&sum.0.to_be_bytes());
        bytes[28..32].copy_from_slice(&sum.1.to_be_bytes());
        WalHeader::parse(&bytes)
    };
    assert_eq!(resummed(&|bytes| bytes[7] += 1), Err(HeaderError::Version { found: 3_007_001 }));
    assert_eq!(resummed(&|bytes| bytes[8..12].fill(0)), Err(HeaderError::PageSize { found: 0 }));
    for page_size in [1u32, 256, 513, 131_072] {
        let found = resummed(&|bytes| bytes[8..12].copy_from_slice(&page_size.to_be_bytes()));
        assert_eq!(found, Err(HeaderError::PageSize { found: page_size }));
    }
    assert_eq!(WalHeader::parse(&[0; 40]), Err(HeaderError::Magic { found: 0 }));
    assert!(HeaderError::PageSize { found: 7 }.to_string().contains("page size 7"));
}

/// A log as the follower sees it: frames without pages' contents.
struct MadeUp {
    bytes: Vec<u8>,
    salt: u32,
    written: u32,
    last_commit: u32,
    counter: u32,
}

const PAGE_SIZE: u32 = 512;

impl MadeUp {
    fn new() -> Self {
        let mut log = MadeUp { bytes: Vec::new(), salt: 7, written: 0, last_commit: 0, counter: 0 };
        log.restart();
        log
    }

    fn restart(&mut self) {
        self.salt = self.salt.wrapping_add(1);
        let mut header = Vec::new();
        for word in [0x377f_0682, 3_007_000, PAGE_SIZE, self.salt, self.salt, 99] {
            header.extend_from_slice(&u32::to_be_bytes(word));
        }
        let sum = Checksum::default().update(ByteOrder::Little, &header);
        header.extend_from_slice(&sum.0.to_be_bytes());
        header.extend_from_slice(&sum.1.to_be_bytes());
        if self.bytes.len() < HEADER_SIZE {
            self.bytes.resize(HEADER_SIZE, 0);
        }
        self.bytes[..HEADER_SIZE].copy_from_slice(&header);
        self.written = 0;
        self.last_commit = 0;
    }

    fn truncate(&mut self) {
        self.restart();
        self.bytes.clear();
    }

    fn frame(&mut self, commit: bool) {
        if self.bytes.is_empty() {
            self.restart();
        }
        self.counter += 1;
        let frame_size = FRAME_HEADER_SIZE + PAGE_SIZE as usize;
        let at = HEADER_SIZE + self.written as usize * frame_size;
        if self.bytes.len() < at + frame_size {
            self.bytes.resize(at + frame_size, 0);
        }
        for (index, word) in [2, u32::from(commit) * 5, self.salt, 99, self.counter, 1].into_iter().enumerate() {
            self.bytes[at + index * 4..at + index * 4 + 4].copy_from_slice(&u32::to_be_bytes(word));
        }
        self.written += 1;
        if commit {
            self.last_commit = self.written;
        }
    }

    fn roll_back(&mut self) {
        self.written = self.last_commit;
    }
}

#[test]
fn the_follower_misses_no_foreign_commit() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for _ in 0..300 {
        let mut log = MadeUp::new();
        let mut follower = Follower::default();
        let mut own = std::collections::HashSet::new();
        let (mut foreign, mut ours) = (false, false);
        follower.follow(log.bytes.as_slice(), |_, _| false).unwrap();
        for _ in 0..200 {
            match random.u32(0..20) {
                0..8 => {
                    for _ in 0..random.u32(0..4) {
                        log.frame(false);
                    }
                    log.frame(true);
                    if random.bool() {
                        own.insert((log.salt, log.written));
                        ours = true;
                    } else {
                        foreign = true;
                    }
                }
                8..11 => log.frame(false),
                11..13 => log.roll_back(),
                13 if random.u32(0..4) == 0 => log.restart(),
                14 if random.u32(0..4) == 0 => log.truncate(),
                _ => {
                    let news =
                        follower.follow(log.bytes.as_slice(), |salt, frame| own.contains(&(salt, frame))).unwrap();
                    let may_be = news.foreign || (log.bytes.is_empty() && news.uncertain);
                    assert!(may_be || !foreign, "seed {seed}: {news:?}");
                    assert!(!news.own || ours, "seed {seed}: {news:?}");
                    assert!(!news.more);
                    if !log.bytes.is_empty() {
                        assert_eq!(follower.last_commit(), log.last_commit, "seed {seed}");
                    }
                    (foreign, ours) = (false, false);
                    let again = follower.follow(log.bytes.as_slice(), |_, _| false).unwrap();
                    assert!(!again.foreign && !again.own, "seed {seed}: nothing happened: {again:?}");
                }
            }
        }
    }
}

#[test]
fn a_long_log_is_read_by_jumps_to_its_last_commit() {
    let mut log = MadeUp::new();
    let mut follower = Follower::default();
    for at in 0..5000 {
        log.frame(at % 3 == 2);
    }
    let mut calls = 0;
    loop {
        calls += 1;
        let news = follower.follow(log.bytes.as_slice(), |_, _| false).unwrap();
        if !news.more {
            break;
        }
    }
    assert!(calls <= 3);
    assert_eq!(follower.last_commit(), log.last_commit);
}

/// Counts what is read.
struct Counted<'a>(&'a [u8], std::cell::Cell<u32>);

impl ReadAt for Counted<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1.set(self.1.get() + 1);
        self.0.read_at(offset, buffer)
    }
}

#[test]
fn many_commits_are_followed_with_few_reads() {
    let mut log = MadeUp::new();
    let mut follower = Follower::default();
    for (commits, reads_max) in [(1, 4), (1, 5), (12, 11), (12, 8), (14, 10), (9, 10), (1, 8), (1000, 24), (1000, 24)] {
        for _ in 0..commits {
            log.frame(true);
        }
        let counted = Counted(log.bytes.as_slice(), std::cell::Cell::new(0));
        let news = follower.follow(&counted, |_, _| false).unwrap();
        assert!(news.foreign && !news.uncertain && !news.more, "{news:?}");
        assert_eq!(follower.last_commit(), log.last_commit);
        assert!(counted.1.get() <= reads_max, "{commits} commits: {} reads", counted.1.get());
    }
}

#[test]
fn a_header_that_can_not_be_read_is_uncertain() {
    let mut follower = Follower::default();
    let nothing: &[u8] = &[];
    assert!(follower.follow(nothing, |_, _| false).unwrap().uncertain);
    let news = follower.follow([1u8; 100].as_slice(), |_, _| false).unwrap();
    assert!(news.uncertain && !news.foreign);
}
