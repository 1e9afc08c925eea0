//! Where log lines go: stderr, with the journal's priorities when the journal reads it.
//!
//! Promises: `RUST_LOG` decides what is said, `info` unless set. Does not know: who says it.

use log::Level;
use std::io::Write;

/// Once, from `main`'s side of the house.
pub fn start() {
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info"));
    if stderr_is_the_journal() {
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
