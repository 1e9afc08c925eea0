//! What is wrong with a configuration, for people.
//!
//! Promises: place, culprit and what to type, in fields of their own. Does not know: how it is printed.

use std::fmt;
use std::path::{Path, PathBuf};

/// Where a wrong thing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A file, the line where known (from 1), and the dotted path of the key where there is one.
    File { path: PathBuf, line: Option<usize>, key: Option<String> },
    /// A flag of the command line, with its dashes.
    Flag(&'static str),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Flag(flag) => f.write_str(flag),
            Place::File { path, line, key } => {
                write!(f, "{}", path.display())?;
                if let Some(line) = line {
                    write!(f, ":{line}")?;
                }
                if let Some(key) = key {
                    write!(f, ": {key}")?;
                }
                Ok(())
            }
        }
    }
}

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {text}")]
pub struct ConfigError {
    pub place: Place,
    pub text: String,
    /// What to type; never empty.
    pub hint: String,
    #[source]
    pub source: Option<std::io::Error>,
}

impl ConfigError {
    pub fn new(place: Place, text: impl Into<String>, hint: impl Into<String>) -> Self {
        ConfigError { place, text: text.into(), hint: hint.into(), source: None }
    }

    pub(super) fn unreadable(path: &Path, error: std::io::Error) -> Self {
        let hint = match error.kind() {
            std::io::ErrorKind::NotFound => {
                "name the file with `outboxd run --config FILE`, or do without one: `outboxd run --database FILE \
                 --table TABLE --topic TOPIC --bootstrap-servers HOST:PORT`"
                    .to_owned()
            }
            std::io::ErrorKind::PermissionDenied => {
                format!("let this user read it, for example: sudo chmod o+r {}", path.display())
            }
            std::io::ErrorKind::InvalidData => "save it as UTF-8 text".to_owned(),
            _ => format!("see what is there: ls -l {}", path.display()),
        };
        ConfigError {
            place: Place::File { path: path.to_owned(), line: None, key: None },
            text: "the config file can't be read".into(),
            hint,
            source: Some(error),
        }
    }
}
