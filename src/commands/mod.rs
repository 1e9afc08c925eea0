//! One file for each subcommand, and how one fails.
//!
//! Promises: every failure has an exit code and, where there is one, a next thing to type. Does not know: how it is printed.

pub mod demo;
pub mod dry_run;
pub mod run;

use crate::config::ConfigError;
use crate::daemon::DaemonError;
use crate::state::StateError;
use std::error::Error;

/// Failed while running.
pub const FAILED: u8 = 1;
/// The arguments, the configuration, or what they name can't be used.
pub const CONFIGURATION: u8 = 2;
/// Another instance has the database or the state file.
pub const HELD: u8 = 4;

/// Why a command failed, and with which exit code.
#[derive(Debug)]
pub struct CommandError {
    pub code: u8,
    pub error: Box<dyn Error + Send + Sync>,
    /// Empty when there is nothing to add.
    pub hint: String,
}

impl CommandError {
    pub fn new(code: u8, error: impl Into<Box<dyn Error + Send + Sync>>, hint: impl Into<String>) -> Self {
        CommandError { code, error: error.into(), hint: hint.into() }
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint.clone();
        CommandError::new(CONFIGURATION, error, hint)
    }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> Self {
        let code = match &error {
            StateError::Locked { .. } => HELD,
            StateError::Newer { .. } | StateError::Foreign { .. } | StateError::Io { .. } => CONFIGURATION,
            StateError::Sqlite { .. } => FAILED,
        };
        let hint = error.hint();
        CommandError::new(code, error, hint)
    }
}

impl From<DaemonError> for CommandError {
    fn from(error: DaemonError) -> Self {
        match error {
            DaemonError::State(error) => error.into(),
            error => {
                let (code, hint) = (error.code(), error.hint());
                CommandError::new(code, error, hint)
            }
        }
    }
}
