//! Where log lines go: stderr, with the journal's priorities when the journal reads it.
//!
//! Promises: `RUST_LOG` decides what is said, `info` unless set; a stderr that nobody reads costs lines, which are counted, and
//! never the thread that speaks. Does not know: who says it.

use env_logger::{Target, WriteStyle};
use log::Level;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// How long a reader that does not keep up is waited for. Once, until it reads again: a relay would stand still that long for
/// every line.
const PATIENCE: Duration = Duration::from_millis(250);
/// A pipe that is ready for writing takes so many bytes without waiting (POSIX: PIPE_BUF).
const READY_BYTES: usize = 4_096;

/// Once, from `main`'s side of the house.
pub fn start() {
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    let journal = stderr_is_the_journal();
    builder.target(Target::Pipe(Box::new(Stderr { journal, ..Stderr::default() })));
    if io::stderr().is_terminal() && ["NO_COLOR", "RUST_LOG_STYLE"].iter().all(|name| std::env::var_os(name).is_none())
    {
        builder.write_style(WriteStyle::Always);
    }
    if journal {
        // systemd reads the priority from the start of each line (sd-daemon(3)); the journal has a clock of its own.
        builder.format(|out, record| {
            let priority = priority(record.level());
            let text = record.args().to_string();
            text.lines().try_for_each(|line| writeln!(out, "<{priority}>{line}"))
        });
    } else {
        builder.format_target(false).format_timestamp_millis();
    }
    // A second start, as in tests of one process, keeps the first.
    let _ = builder.try_init();
}

/// What a command that fails says last, not in the log's form. Nothing is left to be done when nobody reads it.
pub fn report(text: &str) {
    let _ = Stderr::default().write_all(text.as_bytes());
}

/// stderr, but for what it does not take.
#[derive(Debug, Default)]
struct Stderr {
    journal: bool,
    /// Since it last took something.
    lost: u64,
}

impl Stderr {
    fn takes_more(&self) -> bool {
        let patience = if self.lost > 0 { Duration::ZERO } else { PATIENCE };
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(patience.subsec_nanos()) };
        let stderr = io::stderr();
        let mut descriptors = [PollFd::new(&stderr, PollFlags::OUT)];
        loop {
            match poll(&mut descriptors, Some(&timeout)) {
                Err(Errno::INTR) => {}
                // What can't be asked is written to; so is what nobody can read any more, which is an error and no wait.
                result => return result != Ok(0),
            }
        }
    }

    /// False: not to its end.
    fn put(&mut self, bytes: &[u8]) -> io::Result<bool> {
        for part in bytes.chunks(READY_BYTES) {
            if !self.takes_more() {
                return Ok(false);
            }
            io::stderr().write_all(part)?;
        }
        Ok(true)
    }
}

impl Write for Stderr {
    /// One record, as `env_logger` hands them over.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        if self.lost > 0 {
            let priority = if self.journal { "<4>" } else { "" };
            let note = format!("{priority}{} records are missing here: nobody read stderr\n", self.lost);
            if self.put(note.as_bytes())? {
                self.lost = 0;
            }
        }
        if self.lost > 0 || !self.put(record)? {
            self.lost += 1;
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// syslog(3): err, warning, info, debug.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// `$JOURNAL_STREAM` is inherited by children whose stderr goes elsewhere, so it names device and inode (systemd.exec(5)).
fn stderr_is_the_journal() -> bool {
    let Some(stream) = std::env::var_os("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(std::io::stderr())
        .is_ok_and(|stat| stream.to_str() == Some(format!("{}:{}", stat.st_dev, stat.st_ino).as_str()))
}
