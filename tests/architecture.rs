//! The borders between the rooms of the house, as docs/architecture.md draws them: every path that a file names is looked at. A crate
//! of the workspace is a room like those under src/: what it may depend on Cargo sees to, and here is what its parts may know.
//!
//! Code only for tests (`#[cfg(test)]` modules, `tests.rs`, `tests/`) may do what it likes. Comments and strings don't count.

#[path = "architecture/dependencies.rs"]
mod dependencies;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the code of one room may name, and what not. The most specific room of a file is the one that counts.
struct Room {
    /// Below src/ or crates/: a folder (with the file of the same name) or a file.
    path: &'static str,
    /// Prefixes of paths in this workspace, outside the room.
    knows: &'static [&'static str],
    /// Lists of prefixes of other crates' paths.
    without: &'static [&'static [&'static str]],
}

/// The crates whose parts have rules: the room, and what its library is called.
const CRATES: &[(&str, &str)] = &[("failpoint", "failpoint"), ("kafka", "outboxd_kafka")];

const FILES: &[&str] = &["std::fs", "std::os", "rustix::fs", "tempfile"];
const FILES_BUT_TEMPORARY: &[&str] = &["std::fs", "std::os", "rustix::fs"];
const SOCKETS: &[&str] = &["std::net", "rustix::net"];
const STREAMS: &[&str] = &["std::io", "rustix::io"];
const THREADS: &[&str] = &["std::thread"];
const CHANNELS: &[&str] = &["crossbeam_channel"];
const PROCESSES: &[&str] = &["std::process", "rustix::process"];
const SQL: &[&str] = &["rusqlite", "libsqlite3_sys"];
/// A clock that the relay is not given is one that the simulation can't turn.
const CLOCKS: &[&str] = &[
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "Instant::now",
    "SystemTime::now",
    "jiff::Timestamp::now",
    "jiff::Zoned::now",
];

/// Data, and functions of their arguments.
const PURE: &[&[&str]] = &[FILES, SOCKETS, STREAMS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS];

/// One line for each line of the table in docs/architecture.md, and for some of their parts.
const ROOMS: &[Room] = &[
    Room { path: "main.rs", knows: &[], without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL] },
    Room { path: "lib.rs", knows: &["failpoint"], without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES] },
    Room { path: "exit.rs", knows: &[], without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES] },
    Room {
        path: "cli.rs",
        knows: &["commands", "exit", "telemetry::logging"],
        without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL],
    },
    Room {
        path: "commands",
        knows: &["cli", "config", "daemon", "exit", "failpoint", "model", "ports", "relay::route", "source", "state"],
        without: &[FILES, SOCKETS, CHANNELS, SQL, PROCESSES],
    },
    // The demo plays the application and the consumer as well: the one has SQLite, the other Kafka.
    Room {
        path: "commands/demo",
        knows: &["cli", "commands", "config", "daemon", "exit", "kafka"],
        without: &[FILES_BUT_TEMPORARY, SOCKETS],
    },
    Room {
        path: "config",
        knows: &["kafka::compression", "kafka::security", "kafka::topic_name"],
        without: &[SOCKETS, THREADS, CHANNELS, SQL, PROCESSES],
    },
    Room {
        path: "daemon",
        knows: &["config", "exit", "model", "ports", "relay", "sink", "source", "state", "telemetry"],
        without: &[FILES, SOCKETS, SQL, PROCESSES],
    },
    // The limits of the process itself.
    Room { path: "daemon/limits.rs", knows: &[], without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL] },
    Room {
        path: "model.rs",
        knows: &["kafka::outcome"],
        without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS],
    },
    Room {
        path: "ports.rs",
        knows: &["kafka::outcome", "model"],
        without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES],
    },
    Room { path: "uri.rs", knows: &[], without: &[SOCKETS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS] },
    Room { path: "locks.rs", knows: &["model"], without: &[SOCKETS, CHANNELS, SQL, PROCESSES] },
    Room { path: "source", knows: &["failpoint", "locks", "model", "ports", "uri"], without: &[SOCKETS, PROCESSES] },
    Room {
        path: "source/books.rs",
        knows: &["kafka::leb128", "model", "ports", "source"],
        without: &[SOCKETS, PROCESSES],
    },
    // What SQLite has locked, and whose the files would be that we make: questions about users and processes.
    Room { path: "source/lock.rs", knows: &["locks", "model", "source"], without: &[SOCKETS] },
    Room { path: "source/wal", knows: &[], without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS] },
    Room {
        path: "relay",
        knows: &[
            "failpoint",
            "kafka::backoff",
            "kafka::compression",
            "kafka::partitioner",
            "kafka::record_batch",
            "kafka::topic_name",
            "model",
            "ports",
            "telemetry",
        ],
        without: &[FILES, SOCKETS, STREAMS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS],
    },
    // The one place where the relay's thread waits.
    Room {
        path: "relay/run.rs",
        knows: &["model", "ports", "relay"],
        without: &[FILES, SOCKETS, STREAMS, THREADS, SQL, PROCESSES, CLOCKS],
    },
    Room {
        path: "state",
        knows: &["failpoint", "kafka::leb128", "locks", "model", "ports", "uri"],
        without: &[SOCKETS, THREADS, CHANNELS, PROCESSES],
    },
    Room { path: "sink", knows: &["kafka", "model", "ports"], without: &[FILES, SOCKETS, SQL, PROCESSES] },
    Room { path: "failpoint", knows: &[], without: &[FILES, SOCKETS, CHANNELS, SQL] },
    Room { path: "kafka", knows: &["failpoint"], without: &[FILES, PROCESSES] },
    Room {
        path: "kafka/protocol",
        knows: &["kafka::compression", "kafka::error", "kafka::leb128", "kafka::record_batch", "kafka::topic_name"],
        without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS],
    },
    Room {
        path: "kafka/record_batch",
        knows: &["kafka::compression", "kafka::error", "kafka::leb128", "kafka::protocol"],
        without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS],
    },
    // Settings, files and what to say; the sockets are the connection's.
    Room {
        path: "kafka/security",
        knows: &["kafka::peer_text", "kafka::producer::lock"],
        without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES],
    },
    Room {
        path: "kafka/security/files.rs",
        knows: &["kafka::security"],
        without: &[SOCKETS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS],
    },
    Room { path: "kafka/security/utc.rs", knows: &[], without: PURE },
    Room { path: "kafka/peer_text.rs", knows: &[], without: PURE },
    Room { path: "kafka/backoff.rs", knows: &[], without: PURE },
    // The codecs' own interfaces are streams, over bytes in memory.
    Room {
        path: "kafka/compression",
        knows: &[],
        without: &[FILES, SOCKETS, THREADS, CHANNELS, SQL, PROCESSES, CLOCKS],
    },
    Room { path: "kafka/leb128.rs", knows: &[], without: PURE },
    Room { path: "kafka/outcome.rs", knows: &["kafka::compression"], without: PURE },
    Room { path: "kafka/partitioner.rs", knows: &[], without: PURE },
    Room { path: "kafka/topic_name.rs", knows: &[], without: PURE },
    Room { path: "telemetry", knows: &[], without: &[SQL, PROCESSES] },
];

/// What only the named files may do, wherever they are.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("unsafe", &["source/handle.rs"]),
    ("std::process::exit", &["main.rs"]),
    ("std::process::abort", &[]),
    ("rustls::crypto::ring", &["kafka/security/tls.rs"]),
];

#[test]
fn no_room_knows_what_it_must_not_know() {
    let files = sources();
    assert!(files.len() > 60, "only {} files: looked at the wrong place?", files.len());
    let complaints: Vec<String> = files.iter().flat_map(|(path, text)| complaints(path, text)).collect();
    assert!(
        complaints.is_empty(),
        "docs/architecture.md says what each room must not know:\n{}",
        complaints.join("\n")
    );
}

#[test]
fn every_room_has_its_rules_and_every_rule_its_room() {
    for name in top_level_rooms() {
        assert!(ROOMS.iter().any(|room| stem(room.path) == stem(&name)), "src/{name} has no rules in this test");
    }
    for room in ROOMS {
        let at = root().join(place(room.path));
        assert!(at.exists() || at.with_extension("rs").exists(), "{} is gone: remove its rules", at.display());
    }
}

#[test]
fn the_map_names_every_room_and_no_other() {
    let map = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    let named: BTreeSet<String> = map
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split(" | ").next())
        .flat_map(|cell| backticked(&format!("`{cell}")))
        .collect();
    let crates = fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().file_name());
    let crates = crates.map(|name| format!("crates/{}", name.into_string().unwrap()));
    let there: BTreeSet<String> = top_level_rooms().iter().map(|name| format!("src/{name}")).chain(crates).collect();
    let rooms: BTreeSet<&str> = named.iter().map(|path| path.trim_end_matches('/')).collect();
    for room in &there {
        assert!(rooms.contains(room.as_str()), "docs/architecture.md has no line for `{room}`; it has {rooms:?}");
    }
    for path in named {
        assert!(root().join(&path).exists(), "docs/architecture.md has a line for `{path}`, which does not exist");
    }
}

/// A path in backticks in a document, or a document named in a comment, leads somewhere.
#[test]
fn what_documents_and_comments_point_at_exists() {
    for (document, text) in documents() {
        for line in text.lines().filter(|line| !line.starts_with("```")) {
            // One that goes on in the next line would be looked at by nobody here.
            assert!(line.matches('`').count() % 2 == 0, "{document}: code between backticks ends in its line: {line}");
        }
        for path in backticked(&text) {
            let is_ours =
                ["src/", "crates/", "docs/", "tests/", "testing/", "benches/", "fuzz/", "systemd/", "scripts/", ".ci/"];
            let first = path.split_whitespace().next().unwrap_or_default();
            if is_ours.iter().any(|prefix| first.starts_with(prefix)) && !first.contains(['*', '<']) {
                assert!(root().join(first).exists(), "{document} points at `{first}`, which does not exist");
            }
        }
    }
    for (path, text) in sources() {
        for (at, _) in text.match_indices("docs/") {
            let name: String =
                text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || "/._-".contains(*c)).collect();
            let name = name.trim_end_matches('.');
            assert!(root().join(name).exists(), "{} points at {name}, which does not exist", place(&path));
        }
    }
}

/// A link between documents leads to a file, and behind the `#` to a heading of it.
#[test]
fn links_of_documents_lead_somewhere() {
    let documents = documents();
    let mut followed = 0;
    for (document, text) in &documents {
        let folder = Path::new(document).parent().unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (path, heading) = link.split_once('#').map_or((link, None), |(path, heading)| (path, Some(heading)));
            let target = if path.is_empty() { root().join(document) } else { root().join(folder).join(path) };
            let text = fs::read_to_string(&target)
                .unwrap_or_else(|error| panic!("{document} links to {link}: {}: {error}", target.display()));
            if let Some(heading) = heading {
                let there = text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading);
                assert!(there, "{document} links to {link}: no heading makes this anchor");
            }
            followed += 1;
        }
    }
    assert!(followed > 20, "only {followed} links in {} documents", documents.len());
}

/// Who wants to know whether outboxd is for them reads README as a whole; the rest is in docs/.
#[test]
fn readme_is_short_and_names_every_document() {
    let documents = documents();
    let readme = &documents["README.md"];
    assert!(readme.lines().count() <= 150, "README has {} lines", readme.lines().count());
    for document in documents.keys().filter(|document| *document != "README.md") {
        assert!(readme.contains(&format!("]({document})")), "README has no link to {document}");
    }
}

/// Who upgrades must know what becomes of the state file.
#[test]
fn the_changelog_has_every_version_of_the_state_file() {
    let schema = fs::read_to_string(root().join("src/state/schema.rs")).unwrap();
    let steps: Vec<&str> =
        schema.lines().filter_map(|line| line.trim().strip_prefix("// ")?.split_once(" -> ")).map(|it| it.1).collect();
    assert!(steps.len() > 2, "{steps:?}");
    let changelog = &documents()["CHANGELOG.md"];
    for version in steps {
        assert!(changelog.contains(&format!("\n| {version} | ")), "CHANGELOG.md does not tell of version {version}");
    }
}

/// docs/operating.md promises names that dashboards and alerts are built on, and leaves out none.
#[test]
fn the_metrics_in_the_documents_are_those_there_are() {
    let metrics = fs::read_to_string(root().join("src/telemetry/metrics.rs")).unwrap();
    let documents = documents();
    let of = |text: &str| -> BTreeSet<String> {
        backticked(text).into_iter().filter(|name| name.starts_with("outboxd_")).collect()
    };
    for (document, text) in &documents {
        for name in of(text) {
            let short = name.trim_start_matches("outboxd_");
            let there = [format!("\"{short}\""), format!("\"{name}\"")].iter().any(|quoted| metrics.contains(quoted));
            assert!(there, "{document} names the metric {name}; src/telemetry/metrics.rs does not");
        }
    }
    let named = of(&documents["docs/operating.md"]);
    let there: BTreeSet<String> = metrics
        .lines()
        .filter_map(|line| line.split_once("\", \"counter\",").or_else(|| line.split_once("\", \"gauge\",")))
        .filter_map(|(before, _)| before.rsplit('"').next())
        .filter(|name| !name.starts_with("process_"))
        .map(|name| format!("outboxd_{}", name.trim_start_matches("outboxd_")))
        .collect();
    assert!(there.len() > 20, "{there:?}");
    let missing: Vec<&String> = there.difference(&named).collect();
    assert!(missing.is_empty(), "docs/operating.md does not name the metrics {missing:?}");
}

/// The guards above, on code that breaks each kind of rule.
#[test]
fn a_breach_is_seen() {
    let breaches = [
        ("relay/route.rs", "use crate::{model::Rows, source::Database};", "crate::source::Database"),
        ("relay/route.rs", "fn f() -> crate::state::StateFile { todo!() }", "crate::state::StateFile"),
        ("relay/route.rs", "use super::super::sink;", "crate::sink"),
        ("relay/route.rs", "use outboxd_kafka::producer::Producer;", "crate::kafka::producer::Producer"),
        ("relay/mod.rs", "pub(crate) use std::{fmt, thread::{self, sleep}};", "std::thread"),
        ("relay/reading.rs", "use std::time::Instant; fn f() { Instant::now(); }", "Instant::now"),
        ("relay/reading.rs", "use crossbeam_channel::Receiver;", "crossbeam_channel::Receiver"),
        ("sink/kafka.rs", "use rusqlite as sql;", "rusqlite"),
        ("kafka/partitioner.rs", "use crate::connection::Connection;", "crate::kafka::connection::Connection"),
        ("kafka/lib.rs", "use std::fs;", "std::fs"),
        ("kafka/protocol/fetch.rs", "fn f(_: &std::net::TcpStream) {}", "std::net::TcpStream"),
        ("source/wal/mod.rs", "use std::fs::File;", "std::fs::File"),
        ("source/wal.rs", "use super::database::Database;", "crate::source::database::Database"),
        ("source/scan.rs", "fn f() { unsafe { g() } }", "unsafe"),
        ("commands/run.rs", "fn f() { std::process::exit(1) }", "std::process::exit"),
        ("config/file.rs", "use std::net::TcpStream;", "std::net::TcpStream"),
        ("model.rs", "use crate::ports::Sink;", "crate::ports::Sink"),
    ];
    for (path, code, culprit) in breaches {
        let seen = complaints(path, code);
        assert!(seen.iter().any(|line| line.contains(&format!("names {culprit}"))), "{path}: {code}\n{seen:?}");
    }
    let fine = [
        ("relay/route.rs", "use outboxd_kafka::record_batch::{self, RecordHeader};"),
        ("relay/route.rs", "// use rusqlite::Connection;\nconst A: &str = \"std::fs::read\"; /* unsafe */"),
        ("relay/route.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { if true { } }\n}\n"),
        ("relay/run.rs", "use crossbeam_channel::select;"),
        ("kafka/protocol/fetch.rs", "use crate::error::ErrorCode; use super::{Reader, Writer};"),
        ("source/wal/header.rs", "use super::checksum; use crate::source::wal::Frame;"),
        ("source/handle.rs", "fn f() { unsafe { g() } }"),
        ("main.rs", "use std::process::ExitCode;"),
    ];
    for (path, code) in fine {
        assert_eq!(complaints(path, code), Vec::<String>::new(), "{path}: {code}");
    }
}

/// What one file does that its room must not.
fn complaints(path: &str, text: &str) -> Vec<String> {
    let within = ROOMS.iter().filter(|room| is_within(path, room.path));
    let Some(room) = within.max_by_key(|room| room.path.len()) else {
        return vec![format!("{} is in no room that this test has rules for", place(path))];
    };
    let tokens = without_tests(&tokens(text));
    let own = format!("crate::{}", stem(room.path).replace('/', "::"));
    let at = place(path);
    let mut out = Vec::new();
    for named in paths(&tokens, &module_of(path)) {
        if let Some(inside) = named.strip_prefix("crate::") {
            let known = starts_with_path(&named, &own) || room.knows.iter().any(|it| starts_with_path(inside, it));
            if !known {
                out.push(format!("{at} names {named}; {} may know {:?}", room.path, room.knows));
            }
        }
        for it in room.without.iter().copied().flatten().filter(|it| starts_with_path(&named, it)) {
            out.push(format!("{at} names {named}; nothing of {it} belongs there"));
        }
        for (what, files) in ONLY_IN {
            if starts_with_path(&named, what) && !files.contains(&path) {
                out.push(format!("{at} names {what}; only {files:?} may"));
            }
        }
    }
    out
}

fn starts_with_path(named: &str, prefix: &str) -> bool {
    named == prefix || named.strip_prefix(prefix).is_some_and(|rest| rest.starts_with("::"))
}

/// Whether a file belongs to the room: the file itself, the folder's file, or anything in the folder.
fn is_within(path: &str, room: &str) -> bool {
    path == room || stem(path) == room || path.strip_prefix(room).is_some_and(|rest| rest.starts_with('/'))
}

/// Where a file or a room lies.
fn place(path: &str) -> String {
    match path.split_once('/').unwrap_or((path, "")) {
        (room, "") if library(room).is_some() => format!("crates/{room}/src"),
        (room, within) if library(room).is_some() => format!("crates/{room}/src/{within}"),
        _ => format!("src/{path}"),
    }
}

/// What the crate that is this room calls its library.
fn library(room: &str) -> Option<&'static str> {
    CRATES.iter().find(|(name, _)| *name == room).map(|(_, library)| *library)
}

fn stem(path: &str) -> &str {
    path.strip_suffix(".rs").unwrap_or(path)
}

/// `["relay", "route"]` of `relay/route.rs`, `["relay"]` of `relay/mod.rs`.
fn module_of(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = stem(path).split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| ["mod", "lib", "main"].contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// Words, `::` and single signs; comments, strings, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::new();
    let mut at = 0;
    let starts = |at: usize, what: &str| what.chars().enumerate().all(|(i, c)| chars.get(at + i) == Some(&c));
    while at < chars.len() {
        let c = chars[at];
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            while at < chars.len() && !starts(at, "*/") {
                at += 1;
            }
            at += 2;
        } else if c == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if c == '\'' {
            // 'x', '\n', '\u{1f600}', or a lifetime.
            if chars.get(at + 1) == Some(&'\\') {
                at += 3;
                while at < chars.len() && chars[at] != '\'' {
                    at += 1;
                }
                at += 1;
            } else if chars.get(at + 2) == Some(&'\'') {
                at += 3;
            } else {
                at += 1;
            }
        } else if c.is_alphanumeric() || c == '_' {
            let start = at;
            while at < chars.len() && (chars[at].is_alphanumeric() || chars[at] == '_') {
                at += 1;
            }
            let word: String = chars[start..at].iter().collect();
            let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
            if ["r", "br", "cr"].contains(&word.as_str()) && chars.get(at + hashes) == Some(&'"') {
                let end = format!("\"{}", "#".repeat(hashes));
                at += hashes + 1;
                while at < chars.len() && !starts(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else {
                out.push(word);
            }
        } else if starts(at, "::") {
            out.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                out.push(c.to_string());
            }
            at += 1;
        }
    }
    out
}

/// Leaves out modules and functions that are compiled for tests only.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut out = Vec::with_capacity(tokens.len());
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at..].len() >= MARK.len() && MARK.iter().zip(&tokens[at..]).all(|(mark, token)| mark == token) {
            at += MARK.len();
            let mut depth = 0;
            while at < tokens.len() {
                match tokens[at].as_str() {
                    "{" => depth += 1,
                    "}" => depth -= 1,
                    _ => {}
                }
                let over = depth == 0 && matches!(tokens[at].as_str(), "}" | ";");
                at += 1;
                if over {
                    break;
                }
            }
        } else {
            out.push(tokens[at].clone());
            at += 1;
        }
    }
    out
}

/// Every path in the code, in `use` lines or elsewhere, from `crate::` where it leads into this workspace; `unsafe` as itself.
fn paths(tokens: &[String], module: &[String]) -> BTreeSet<String> {
    let mut out = BTreeSet::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            at = tree(tokens, at + 1, &[], module, &mut out);
            continue;
        }
        if !is_word(&tokens[at]) {
            at += 1;
            continue;
        }
        let mut path = vec![tokens[at].clone()];
        at += 1;
        while tokens.get(at).is_some_and(|token| token == "::") && tokens.get(at + 1).is_some_and(|next| is_word(next))
        {
            path.push(tokens[at + 1].clone());
            at += 2;
        }
        if path.len() > 1 || path[0] == "unsafe" {
            out.insert(resolve(&path, module));
        }
    }
    out
}

/// One tree of a `use`: adds its leaves, answers where it ends.
fn tree(tokens: &[String], mut at: usize, above: &[String], module: &[String], out: &mut BTreeSet<String>) -> usize {
    let mut path = above.to_vec();
    while at < tokens.len() {
        match tokens[at].as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = tree(tokens, at, &path, module, out);
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            "as" => at += 2,
            word if is_word(word) || word == "*" => {
                if word != "self" || path.is_empty() {
                    path.push(word.to_owned());
                }
                at += 1;
            }
            _ => break,
        }
    }
    if !path.is_empty() {
        out.insert(resolve(&path, module));
    }
    at
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

fn resolve(path: &[String], module: &[String]) -> String {
    let mut rest = path;
    let mut base: Option<Vec<String>> = None;
    while let Some((first, more)) = rest.split_first() {
        match first.as_str() {
            "crate" => base = Some(module.iter().take(1).filter(|room| library(room).is_some()).cloned().collect()),
            "self" => base = Some(base.unwrap_or_else(|| module.to_vec())),
            "super" => {
                let mut up = base.unwrap_or_else(|| module.to_vec());
                up.pop();
                base = Some(up);
            }
            other => match CRATES.iter().find(|(_, library)| *library == other) {
                Some((room, _)) if base.is_none() => base = Some(vec![(*room).to_owned()]),
                _ => break,
            },
        }
        rest = more;
    }
    let rest = rest.join("::");
    match base {
        None => rest,
        Some(mut base) => {
            base.insert(0, "crate".to_owned());
            if !rest.is_empty() {
                base.push(rest);
            }
            base.join("::")
        }
    }
}

/// What people read, by its path: the documents at the top and in docs/.
fn documents() -> BTreeMap<String, String> {
    ["", "docs/"]
        .iter()
        .flat_map(|folder| {
            let entries = fs::read_dir(root().join(folder)).unwrap();
            entries.map(move |entry| format!("{folder}{}", entry.unwrap().file_name().to_str().unwrap()))
        })
        .filter(|path| Path::new(path).extension().is_some_and(|ending| ending == "md"))
        .map(|path| (path.clone(), fs::read_to_string(root().join(&path)).unwrap()))
        .collect()
}

/// What a heading is linked to by, as the usual renderers make it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What is between single backticks, a line at a time.
fn backticked(text: &str) -> Vec<String> {
    text.lines().flat_map(|line| line.split('`').skip(1).step_by(2).map(str::to_owned)).collect()
}

/// Folders with a slash, files that have no folder of their own with their ending.
fn top_level_rooms() -> Vec<String> {
    let names: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            if entry.path().is_dir() { format!("{name}/") } else { name }
        })
        .collect();
    let is_folders_file = |name: &String| names.contains(&format!("{}/", stem(name)));
    names.iter().filter(|name| !is_folders_file(name)).map(|name| name.trim_end_matches('/').to_owned()).collect()
}

/// The code of the product by its path below src/ or its room's name; files of tests are left out.
fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, below: &str, out: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let below = format!("{below}{name}");
            if path.is_dir() {
                if name != "tests" {
                    walk(&path, &format!("{below}/"), out);
                }
            } else if Path::new(name).extension().is_some_and(|ending| ending == "rs") && name != "tests.rs" {
                out.insert(below, fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(&root().join("src"), "", &mut out);
    for (room, _) in CRATES {
        walk(&root().join(place(room)), &format!("{room}/"), &mut out);
    }
    out
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
