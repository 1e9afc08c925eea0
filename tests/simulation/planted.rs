//! The simulation must find each bug that a relay like this could have. One that it does not find would go unseen.
#![cfg(feature = "testing")]

use crate::crashes::crash_and_recover;
use crate::episodes::one_fault_at_a_time;
use crate::liveness::{nothing_waits_that_is_told_of, rows_below_are_found};
use crate::schedule_count;
use outboxd::relay::planted::{self, Bug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

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
        broken(crash_and_recover)
            || broken(crate::run)
            || broken(one_fault_at_a_time)
            || broken(nothing_waits_that_is_told_of)
            || broken(rows_below_are_found)
    });
    planted::plant(None);
    found
}

fn quietly(test: impl FnOnce()) {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    test();
    std::panic::set_hook(quiet);
}

#[test]
fn every_planted_bug_is_found() {
    let only = std::env::var("OUTBOXD_BUG").ok();
    let mut missed = Vec::new();
    quietly(|| {
        for bug in Bug::ALL.iter().filter(|bug| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"))) {
            let base = BEGINNINGS.iter().find(|(known, _)| known == bug).map_or(1, |(_, base)| *base);
            match found_by(*bug, base) {
                Some(seed) => println!("{bug:?}: found by schedule {seed}"),
                None => missed.push(*bug),
            }
        }
    });
    assert!(missed.is_empty(), "not found in {SCHEDULES_MAX} schedules each: {missed:?}");
}

/// What gives a signal to whoever decides when to look: each must be given at every place where it is.
const SIGNALS: &[&str] = &[".look_soon(now)", ".revisit("];
/// Schedules in which one is forgotten, until one stands still.
const FORGOTTEN_MAX: u64 = 40;

/// Those whose omission the schedules find, and where the search begins: a schedule that finds it. Of the others another signal
/// follows within the time that is allowed (an answer, a delete, the sweep), or no schedule comes there: `OUTBOXD_BUG=all` tries them.
const FOUND_BY: &[(&str, u64)] =
    &[("ledger release_aside 1", 16), ("reading/mod look_for_news 1", 1), ("reading/mod ask_version 1", 1)];

/// A place in the relay where a signal is given: as the compiler names it, and as people do.
#[derive(Debug)]
struct Place {
    file: &'static str,
    line: u32,
    /// The file, the function, and which signal of that function it is.
    name: String,
}

fn places() -> Vec<Place> {
    let (mut folders, mut places) = (vec![PathBuf::from("src/relay")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("tests run in the package's folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                places.extend(places_in(&path));
            }
        }
    }
    places.sort_by_key(|place| (place.file, place.line));
    places
}

fn places_in(path: &Path) -> Vec<Place> {
    let text = std::fs::read_to_string(path).expect("source text");
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let file: &'static str = Box::leak(path.to_string_lossy().into_owned().into_boxed_str());
    let short = file.trim_start_matches("src/relay/").trim_end_matches(".rs");
    let (mut places, mut function, mut count) = (Vec::new(), "", 0);
    for (line, text) in (1..).zip(code.lines()) {
        if let Some((_, after)) = text.split_once("fn ") {
            (function, count) = (after.split(['(', '<']).next().unwrap_or_default(), 0);
        } else if SIGNALS.iter().any(|signal| text.contains(signal)) {
            count += 1;
            places.push(Place { file, line, name: format!("{short} {function} {count}") });
        }
    }
    places
}

#[test]
fn every_forgotten_signal_is_found() {
    let only = std::env::var("OUTBOXD_BUG").ok();
    let places = places();
    let known = |name: &str| FOUND_BY.iter().find(|(known, _)| *known == name).map(|(_, seed)| *seed);
    assert!(
        FOUND_BY.iter().all(|(known, _)| places.iter().any(|place| place.name == *known)),
        "there are only these: {places:#?}"
    );
    let mut missed = Vec::new();
    quietly(|| {
        for Place { file, line, name } in places {
            let wanted = only.as_ref().map_or(known(&name).is_some(), |only| *only == name || only == "all");
            if !wanted {
                continue;
            }
            let base = known(&name).unwrap_or(1);
            let max = if only.is_some() { schedule_count() } else { FORGOTTEN_MAX };
            match (base..base + max).find(|seed| forgotten_is_found(file, line, *seed)) {
                Some(seed) => println!("{name}: found by schedule {seed}"),
                None => missed.push(name),
            }
        }
    });
    assert!(missed.is_empty(), "forgotten and not found in {FORGOTTEN_MAX} schedules each: {missed:#?}");
}

fn forgotten_is_found(file: &'static str, line: u32, seed: u64) -> bool {
    planted::plant(Some(Bug::Forgotten { file, line }));
    let broken = |run: fn(u64)| catch_unwind(AssertUnwindSafe(|| run(seed))).is_err();
    let found = broken(nothing_waits_that_is_told_of) || broken(one_fault_at_a_time);
    planted::plant(None);
    found
}
