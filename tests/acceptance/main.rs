//! The daemon with applications in other processes, judged by what arrives: by itself, and killed at each of its steps.

#[cfg(feature = "testing")]
mod crash_points;
mod demands;
mod harness;
#[path = "../support/mod.rs"]
mod support;
