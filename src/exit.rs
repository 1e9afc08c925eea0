//! The exit codes of the contract, for scripts and for systemd's `RestartPreventExitStatus`.
//!
//! Promises: they don't change. Does not know: who exits. 0 is fine or drained; 3 belongs to a `check` that found a problem.

/// Failed while running; also after a second signal.
pub const FAILED: u8 = 1;
/// The arguments, the configuration, or what they name can't be used.
pub const CONFIGURATION: u8 = 2;
/// Another instance has the database or the state file.
pub const HELD: u8 = 4;
