//! The order of a process's system calls, as `strace -f -yy` wrote it.
//!
//! Promises: each call with the place of its begin and of its end in the one order of the file, calls that strace split in two
//! put together again. Does not know: which order is right.

use std::collections::HashMap;
use std::path::Path;

#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// Everything between the parentheses; for a split call both halves.
    pub arguments: String,
    /// Line numbers in the trace.
    pub begun: usize,
    pub ended: usize,
}

impl Call {
    /// What `-yy` says about the first argument: a path or a socket's addresses.
    pub fn descriptor(&self) -> &str {
        let Some((_, rest)) = self.arguments.split_once('<') else { return "" };
        // A socket's description contains "->".
        let end = rest.find(">,").or_else(|| rest.rfind('>')).unwrap_or(rest.len());
        &rest[..end]
    }
}

pub const STRACE: [&str; 8] = [
    "strace",
    "-f",
    "-yy",
    "--seccomp-bpf",
    "-s",
    "200000",
    "-e",
    "trace=pread64,read,write,writev,sendto,sendmsg,fdatasync,fsync",
];

pub fn parse(trace: &Path) -> Vec<Call> {
    let text = String::from_utf8_lossy(&std::fs::read(trace).unwrap()).into_owned();
    let mut calls = Vec::new();
    let mut open: HashMap<&str, Call> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(mut call) = open.remove(pid) else { continue };
            if let Some((_, tail)) = resumed.split_once("resumed>") {
                call.arguments.push_str(tail);
            }
            call.ended = number;
            calls.push(call);
        } else if let Some((name, arguments)) = rest.split_once('(') {
            if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                continue;
            }
            let mut call = Call { name: name.into(), arguments: arguments.into(), begun: number, ended: number };
            if let Some(first) = call.arguments.strip_suffix("<unfinished ...>") {
                call.arguments = first.into();
                open.insert(pid, call);
            } else {
                calls.push(call);
            }
        }
    }
    calls.sort_by_key(|call| call.begun);
    calls
}
