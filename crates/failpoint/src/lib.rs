//! Labelled steps at which a build for tests can be killed: what a crash leaves behind is then no matter of luck.
//!
//! Promises: nothing at all in a build without the feature `testing`. Does not know: what happens at a step.
//!
//! `FAILPOINTS='acked=3*off->return'` kills the process the fourth time it comes to the step `acked` (the syntax is that of the
//! crate `fail`). Other actions of that crate (`sleep(50)`, `pause`) work too.

#![forbid(unsafe_code)]

/// Every label, in the order of an event's life. `scripts/crash-matrix` and the tests go through this list.
pub const LABELS: &[&str] = &[
    "seen",
    "routed",
    "synced",
    "planned",
    "sent",
    "written",
    "acked",
    "acknowledged",
    "deleting",
    "committing",
    "committed",
    "deleted",
    "durable",
    "settled",
];

/// Reads `FAILPOINTS`. To be called once, before the first step.
pub fn arm() {
    #[cfg(feature = "testing")]
    {
        // For the life of the process: its end would take the failpoints away.
        std::mem::forget(fail::FailScenario::setup());
    }
}

/// The process has come to this step.
#[inline]
pub fn hit(label: &'static str) {
    #[cfg(feature = "testing")]
    {
        debug_assert!(LABELS.contains(&label), "{label} is not in the list");
        fail::fail_point!(label, |_| kill());
    }
    #[cfg(not(feature = "testing"))]
    let _ = label;
}

/// As `kill -9` from outside: no destructor, no buffer, no farewell.
#[cfg(feature = "testing")]
fn kill() {
    use rustix::process::{Signal, getpid, kill_process};
    let _ = kill_process(getpid(), Signal::KILL);
    loop {
        std::thread::park();
    }
}
