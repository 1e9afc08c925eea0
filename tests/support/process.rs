//! Child processes with their output in files, so that no pipe ever fills and a failure can show it.
//!
//! Promises: a child ends with its handle, by its own pid. Does not know: what it runs.

use super::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

pub struct Process {
    child: Child,
    pub command: String,
    pub stdout: PathBuf,
    pub stderr: PathBuf,
    exited: Option<ExitStatus>,
}

impl Process {
    /// `base`: the files `base.stdout` and `base.stderr` are made anew.
    #[track_caller]
    pub fn start(mut command: Command, base: &Path) -> Process {
        let stdout = base.with_extension("stdout");
        let stderr = base.with_extension("stderr");
        command.stdin(Stdio::null()).stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let text = show(&command);
        let child = command.spawn().unwrap_or_else(|error| panic!("{text}: {error}"));
        Process { child, command: text, stdout, stderr, exited: None }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        assert!(self.exited.is_none(), "signal to a process that was already waited for: {}", self.command);
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().unwrap();
        }
        self.exited
    }

    #[track_caller]
    pub fn exit(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.command);
        wait::some(deadline, &what, || self.try_exit())
    }

    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stdout).unwrap_or_default()).into_owned()
    }

    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs to the end and returns stdout; anything but success is a panic with both outputs.
#[track_caller]
pub fn run(mut command: Command) -> Vec<u8> {
    let text = show(&command);
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{text}: {error}"));
    assert!(
        output.status.success(),
        "{text}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

pub fn show(command: &Command) -> String {
    let mut text = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

/// The last lines of a file, for a failure's report.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    let from = all.len().saturating_sub(lines);
    let mut shown = if from > 0 { format!("  ({from} lines before)\n") } else { String::new() };
    for line in &all[from..] {
        shown.push_str("  ");
        shown.push_str(line);
        shown.push('\n');
    }
    shown
}
