//! `flock` on a file, who holds which lock, as /proc tells it, and whether that is worth waiting for.
//!
//! Promises: best effort, blind across PID namespaces; nobody is waited for who lives. Does not know: what is locked, or why.

use crate::model::FileId;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Why a file is not locked.
pub enum Refused {
    /// Another process has it, that with this PID if it can be seen.
    Held(Option<u32>),
    Failed(Errno),
}

/// Takes the `flock` on an open file, and waits only for a holder that is ending.
pub fn take(descriptor: impl AsFd, file: FileId, patience: &mut Patience) -> Result<(), Refused> {
    while let Err(error) = flock(&descriptor, FlockOperation::NonBlockingLockExclusive) {
        if error != Errno::WOULDBLOCK {
            return Err(Refused::Failed(error));
        }
        let holder = holder(file);
        if !patience.waits_for(holder) {
            return Err(Refused::Held(holder));
        }
    }
    Ok(())
}

/// The process that holds the `flock` on a file.
fn holder(file: FileId) -> Option<u32> {
    // The list is read in parts, and may lack an entry while others come and go.
    (0..3).find_map(|_| listed(file, |lock| (lock[0] == "FLOCK").then(|| lock[3].parse().ok()).flatten()))
}

/// Looks through /proc/locks for what is held on a file: kind, advisory or mandatory, READ or WRITE, PID, file, first byte, last byte.
pub fn listed<T>(file: FileId, pick: impl Fn(&[&str]) -> Option<T>) -> Option<T> {
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    let wanted =
        format!("{:02x}:{:02x}:{}", rustix::fs::major(file.device), rustix::fs::minor(file.device), file.inode);
    let held = |matches: &dyn Fn(&str) -> bool| {
        locks.lines().find_map(|line| {
            // "3: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF"; one that is waited for has an arrow behind its number.
            let words: Vec<&str> = line.split_whitespace().skip(1).collect();
            (words.len() == 7 && matches(words[4])).then(|| pick(&words)).flatten()
        })
    };
    // Layered file systems answer `stat` with another device than the one the kernel lists locks under.
    let inode = format!(":{}", file.inode);
    held(&|place| place == wanted).or_else(|| held(&|place| place.ends_with(&inode)))
}

/// With a holder that is ending: one that was killed gives its locks up when the kernel has taken it apart, some milliseconds later.
pub struct Patience {
    until: Option<Instant>,
    is_ending: Box<dyn FnMut(Option<u32>) -> bool>,
}

impl Patience {
    const FOR: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(5);

    /// Of a start.
    pub fn new() -> Patience {
        Patience { until: None, is_ending: Box::new(is_ending) }
    }

    /// None at all.
    pub fn none() -> Patience {
        Patience { until: None, is_ending: Box::new(|_| false) }
    }

    /// Whoever holds it is asked about in another way.
    #[cfg(test)]
    pub fn asking(is_ending: impl FnMut(Option<u32>) -> bool + 'static) -> Patience {
        Patience { until: None, is_ending: Box::new(is_ending) }
    }

    /// Waits a moment, after which the lock may be free. False: whoever holds it lives, or has been ending for too long.
    fn waits_for(&mut self, holder: Option<u32>) -> bool {
        let now = Instant::now();
        let until = *self.until.get_or_insert(now + Self::FOR);
        let waits = now < until && (self.is_ending)(holder);
        if waits {
            std::thread::sleep(Self::STEP);
        }
        waits
    }
}

/// One that can't be seen may be on its way out as well: its locks are listed under no PID once it has none.
fn is_ending(holder: Option<u32>) -> bool {
    let Some(pid) = holder else { return true };
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    let (Ok(stat), Ok(status)) = (read("stat"), read("status")) else { return true };
    is_dead(&stat) || is_killed(&status)
}

/// By proc(5): the state behind the name in brackets, which may have blanks and brackets in it; the flags are the seventh of what follows.
fn is_dead(stat: &str) -> bool {
    /// `PF_EXITING` of the kernel's `sched.h`.
    const EXITING: u64 = 0x4;
    let Some((_, rest)) = stat.rsplit_once(')') else { return false };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let flags = words.get(6).and_then(|flags| flags.parse::<u64>().ok()).unwrap_or(0);
    words.first().is_some_and(|state| ["Z", "X", "x"].contains(state)) || flags & EXITING != 0
}

/// SIGKILL is on its way: signal n is bit n - 1 of these masks.
fn is_killed(status: &str) -> bool {
    const KILL: u64 = 1 << 8;
    let masks = status.lines().filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")));
    masks.filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok()).any(|mask| mask & KILL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn who_lives_is_not_waited_for() {
        assert!(!Patience::new().waits_for(Some(std::process::id())));
        assert!(!Patience::none().waits_for(None));
    }

    #[test]
    fn who_is_ending_is_waited_for_and_not_for_ever() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let mut patience = Patience::new();
        assert!(!patience.waits_for(Some(child.id())));
        child.kill().unwrap();
        // Whatever has become of it by now: nobody has asked for its end.
        assert!(patience.waits_for(Some(child.id())));
        child.wait().unwrap();
        assert!(patience.waits_for(Some(child.id())), "it is gone");
        assert!(patience.waits_for(None));
        patience.until = Some(Instant::now());
        assert!(!patience.waits_for(None));
    }

    #[test]
    fn the_end_of_a_process_is_read_as_the_kernel_writes_it() {
        let stat = |state: &str, flags: u64| format!("7 (a b) (c) {state} 1 7 7 0 -1 {flags} 100 0");
        assert!(!is_dead(&stat("S", 0x40_0000)) && !is_dead("") && !is_dead("7 (a"));
        assert!(is_dead(&stat("Z", 0)) && is_dead(&stat("R", 0x40_0004)));
        assert!(is_killed("Name:\tx\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100\n"));
        assert!(!is_killed("SigPnd:\t0000000000000000\nShdPnd:\t0000000000004000\n"), "SIGTERM drains");
    }
}
