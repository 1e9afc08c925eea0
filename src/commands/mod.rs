//! One file for each subcommand, and how one fails.
//!
//! Promises: every failure has an exit code and, where there is one, a next thing to type. Does not know: how it is printed.

pub mod dead;
pub mod demo;
pub mod dry_run;
pub mod run;

use crate::cli::SecurityArgs;
use crate::config::{ConfigError, SecurityFlags};
use crate::daemon::DaemonError;
use crate::exit::CONFIGURATION;
use std::error::Error;

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

impl From<DaemonError> for CommandError {
    fn from(error: DaemonError) -> Self {
        let (code, hint) = (error.code(), error.hint());
        CommandError::new(code, error, hint)
    }
}

impl From<&SecurityArgs> for SecurityFlags {
    fn from(arguments: &SecurityArgs) -> Self {
        let SecurityArgs { security_protocol, ca, sasl_mechanism, username, password_file } = arguments.clone();
        SecurityFlags { security_protocol, ca, sasl_mechanism, username, password_file }
    }
}
