//! The simulation must find each bug that a relay like this could have. One that it does not find would go unseen.
#![cfg(feature = "testing")]

use crate::crashes::crash_and_recover;
use outboxd::relay::planted::{self, Bug};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Schedules with a bug planted, until one breaks a promise.
const SCHEDULES_MAX: u64 = 600;

/// Where the search begins for bugs that show rarely: a schedule that finds them.
const BEGINNINGS: &[(Bug, u64)] = &[(Bug::ReusedRowidUnderTheTriple, 459)];

/// The first schedule from `base` on that finds the bug.
fn found_by(bug: Bug, base: u64) -> Option<u64> {
    planted::plant(Some(bug));
    let found = (base..base + SCHEDULES_MAX).find(|seed| {
        // Each is cheap when it fails, and a death of the daemon does not hide a bug of its life.
        let broken = |run: fn(u64)| catch_unwind(AssertUnwindSafe(|| run(*seed))).is_err();
        broken(crash_and_recover) || broken(crate::run)
    });
    planted::plant(None);
    found
}

#[test]
fn every_planted_bug_is_found() {
    let quiet = std::panic::take_hook();
    let only = std::env::var("OUTBOXD_BUG").ok();
    std::panic::set_hook(Box::new(|_| {}));
    let mut missed = Vec::new();
    for bug in Bug::ALL.iter().filter(|bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"))) {
        let base = BEGINNINGS.iter().find(|(known, _)| known == bug).map_or(1, |(_, base)| *base);
        match found_by(*bug, base) {
            Some(seed) => println!("{bug:?}: found by schedule {seed}"),
            None => missed.push(*bug),
        }
    }
    std::panic::set_hook(quiet);
    assert!(missed.is_empty(), "not found in {SCHEDULES_MAX} schedules each: {missed:?}");
}
