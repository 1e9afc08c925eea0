//! The application, in processes of its own, and the ledger of what it committed.
//!
//! Does not know: what arrived.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// One committed event, or one committed version of it, with the bytes that a consumer must receive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub aggregate: Option<Vec<u8>>,
    pub sequence: u64,
    pub event_type: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

/// The application's binary. It belongs to another workspace member, so Cargo does not name it to this one: it is built beside
/// the daemon, which costs nothing when it is there.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_outboxd")).parent().unwrap();
        let target = folder.parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "-p", "outbox-app"]);
        build.arg("--target-dir").arg(target);
        match folder.file_name().and_then(|name| name.to_str()) {
            Some("debug") => {}
            Some(profile) => {
                build.args(["--profile", profile]);
            }
            None => unreachable!("a target folder has a name"),
        }
        super::process::run(build);
        folder.join("outbox-app")
    })
}

pub fn ledger(path: &Path) -> Vec<Entry> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut entries = Vec::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [aggregate, sequence, event_type, payload] = fields[..] else { panic!("ledger line {line:?}") };
        entries.push(Entry {
            aggregate: unhex(aggregate),
            sequence: sequence.parse().unwrap(),
            event_type: unhex(event_type),
            payload: unhex(payload),
        });
    }
    entries
}

/// Committed events so far, while the application still runs.
pub fn ledger_lines(path: &Path) -> usize {
    std::fs::read(path).map_or(0, |bytes| bytes.split(|byte| *byte == b'\n').count() - 1)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    match text {
        "-" => None,
        "=" => Some(Vec::new()),
        _ => Some((0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()),
    }
}
