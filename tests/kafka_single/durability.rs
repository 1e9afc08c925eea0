//! `durability = "power-loss"`: the order of the daemon's system calls under load.

use super::on_shared;
use super::support::wait::SECOND;
use super::support::{self, Config, scene};

pub fn durable_before_sent_wal(version: &str) {
    durable_before_sent(version, "wal", &|name, what| name == "fdatasync" && what.ends_with("app.db-wal"));
}

pub fn durable_before_sent_delete(version: &str) {
    // The commit of a DELETE journal is the removal of its name: the folder is what must be on disk, also when the application's
    // next transaction has put another journal there meanwhile.
    durable_before_sent(version, "delete", &|name, what| name == "fsync" && !what.contains("app.db"));
}

pub fn durable_before_sent_truncate(version: &str) {
    durable_before_sent(version, "truncate", &|name, what| {
        // The daemon's own deletes may remove the journal; then that is what must last.
        (name == "fdatasync" && what.ends_with("app.db-journal")) || (name == "fsync" && !what.contains("app.db"))
    });
}

/// Between the read that brought a row in and the request that carries it out, what the row's commit stands on was synced.
fn durable_before_sent(version: &str, journal: &str, is_sync: &dyn Fn(&str, &str) -> bool) {
    let scene = some_or_skip!(on_shared(&format!("durable-{journal}"), version));
    let topic = scene.topic(2);
    let database = scene.database(&format!("--journal {journal}"));
    let trace = scene.path("trace");
    let mut strace: Vec<String> = support::syscalls::STRACE.iter().map(ToString::to_string).collect();
    strace.extend(["-o".into(), trace.to_str().unwrap().to_owned(), "--".into()]);
    let config = Config::new(scene.bootstrap()).outbox(&database, "users_outbox", &topic);
    let mut daemon = scene.daemon_under(&config, &strace);
    let write = "write --transactions 300 --rate 150 --size 200";
    let mut writers: Vec<_> =
        (0..2).map(|writer| scene.writer(&database, &format!("{write} --writer {writer}"))).collect();
    for writer in &mut writers {
        writer.done(60 * SECOND);
    }
    scene::wait_until_empty(&database, 60 * SECOND);
    // strace passes a signal on to nobody: the daemon is its child.
    let child = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", daemon.process.pid())).unwrap();
    let child: i32 = child.split_whitespace().next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), rustix::process::Signal::TERM)
        .unwrap();
    assert_eq!(daemon.exit_code(), Some(0));

    let ledger = scene::ledgers(&writers.iter().collect::<Vec<_>>());
    let calls = support::syscalls::parse(&trace);
    let syncs: Vec<_> = calls.iter().filter(|call| is_sync(&call.name, call.descriptor())).collect();
    assert!(!syncs.is_empty(), "no sync at all in {}", trace.display());
    let mut seen = 0;
    for entry in &ledger {
        let aggregate = String::from_utf8(entry.aggregate.clone().unwrap()).unwrap();
        let mark = format!("{aggregate}\\\",\\\"sequence\\\":{},", entry.sequence);
        let first = |names: &[&str], place: &dyn Fn(&str) -> bool| {
            calls.iter().find(|call| {
                names.contains(&call.name.as_str()) && place(call.descriptor()) && call.arguments.contains(&mark)
            })
        };
        let read = first(&["pread64", "read"], &|what| what.contains("app.db"));
        let sent = first(&["write", "writev", "sendto", "sendmsg"], &|what| what.starts_with("TCP"));
        let sent = sent.unwrap_or_else(|| panic!("{mark} was never sent, says {}", trace.display()));
        let read = read.unwrap_or_else(|| panic!("{mark} was never read, says {}", trace.display()));
        assert!(
            syncs.iter().any(|sync| sync.begun > read.ended && sync.ended < sent.begun),
            "{mark} was read at line {} and sent at line {} of {} without a sync between",
            read.ended + 1,
            sent.begun + 1,
            trace.display()
        );
        seen += 1;
    }
    assert_eq!(seen, 600);
}
