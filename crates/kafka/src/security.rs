//! How connections are protected: TLS, authentication, and the files they need.
//!
//! Promises: settings are checked before a thread starts, and every complaint names the key, the file and the next command; files are read
//! again whenever a connection is made; secrets are in no text. Does not know: sockets, requests.

mod certificate;
mod expiry;
mod files;
mod refusal;
mod sasl;
mod tls;
mod utc;
mod verifier;

pub use refusal::TlsError;
pub(crate) use sasl::Sasl;
pub(crate) use sasl::scram::{Scram, ScramError};
pub use sasl::{Mechanism, Refusal, SaslSettings, Secret, SecretSource, UnknownMechanism};
pub use tls::TlsSettings;
pub(crate) use tls::{Tls, TlsClient};

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Kafka's `security.protocol`: whether there is TLS, and whether clients say who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityProtocol {
    /// Neither.
    #[default]
    Plaintext,
    /// TLS; a client is known by its certificate, if at all.
    Ssl,
    /// Who we are is said in the clear.
    SaslPlaintext,
    /// TLS, and in it who we are.
    SaslSsl,
}

impl SecurityProtocol {
    /// All that are spoken.
    pub const ALL: &[SecurityProtocol] = &[
        SecurityProtocol::Plaintext,
        SecurityProtocol::Ssl,
        SecurityProtocol::SaslPlaintext,
        SecurityProtocol::SaslSsl,
    ];

    /// Whether bytes travel in TLS.
    pub fn has_tls(self) -> bool {
        matches!(self, SecurityProtocol::Ssl | SecurityProtocol::SaslSsl)
    }

    /// Whether clients say who they are.
    pub fn has_sasl(self) -> bool {
        matches!(self, SecurityProtocol::SaslPlaintext | SecurityProtocol::SaslSsl)
    }

    /// Kafka's own name.
    pub fn name(self) -> &'static str {
        match self {
            SecurityProtocol::Plaintext => "PLAINTEXT",
            SecurityProtocol::Ssl => "SSL",
            SecurityProtocol::SaslPlaintext => "SASL_PLAINTEXT",
            SecurityProtocol::SaslSsl => "SASL_SSL",
        }
    }
}

impl fmt::Display for SecurityProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No security protocol has this name, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the security protocols are {}", SecurityProtocol::ALL.iter().map(|it| it.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownProtocol;

impl FromStr for SecurityProtocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        SecurityProtocol::ALL.iter().copied().find(|protocol| protocol.name() == text).ok_or(UnknownProtocol)
    }
}

/// How to protect connections, as it is configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecuritySettings {
    /// `security_protocol`.
    pub protocol: SecurityProtocol,
    /// Looked at if the protocol has TLS.
    pub tls: TlsSettings,
    /// There if, and only if, the protocol has SASL.
    pub sasl: Option<SaslSettings>,
}

/// The same, checked and ready for use. Clones share what was read.
#[derive(Clone, Debug, Default)]
pub struct Security {
    tls: Option<Arc<Tls>>,
    sasl: Option<Arc<Sasl>>,
}

impl Security {
    /// Reads every file that is named, and checks what is in them.
    pub fn new(settings: &SecuritySettings) -> Result<Security, SecurityError> {
        let protocol = settings.protocol;
        let tls = protocol.has_tls().then(|| Tls::new(&settings.tls).map(Arc::new)).transpose()?;
        let sasl = match (&settings.sasl, protocol.has_sasl()) {
            (Some(sasl), true) => Some(Arc::new(Sasl::new(sasl)?)),
            (None, false) => None,
            (None, true) => {
                let text = format!("security_protocol is {protocol}, and nothing says who we are");
                return Err(SecurityError::of_setting(
                    "sasl_mechanism",
                    text,
                    "name one: sasl_mechanism = \"SCRAM-SHA-512\"",
                ));
            }
            (Some(_), false) => {
                let text = format!("security_protocol is {protocol}, which asks nobody who they are");
                return Err(SecurityError::of_setting(
                    "sasl_mechanism",
                    text,
                    "write security_protocol = \"SASL_SSL\"",
                ));
            }
        };
        if !protocol.has_tls() && sasl.as_ref().is_some_and(|sasl| sasl.settings.mechanism.scram().is_none()) {
            log::warn!(
                "kafka: the secret of {} goes through the network in the clear: use SASL_SSL, or SCRAM",
                settings.sasl.as_ref().map_or("SASL", |sasl| sasl.mechanism.name())
            );
        }
        Ok(Security { tls, sasl })
    }

    pub(crate) fn tls(&self) -> Option<&Tls> {
        self.tls.as_deref()
    }

    pub(crate) fn sasl(&self) -> Option<&Sasl> {
        self.sasl.as_deref()
    }
}

/// What is wrong with a setting, or with the file that it names.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {}{text}", path.as_ref().map(|path| format!("{}: ", path.display())).unwrap_or_default())]
pub struct SecurityError {
    setting: &'static str,
    path: Option<PathBuf>,
    text: String,
    hint: String,
    source: Option<std::io::Error>,
}

impl SecurityError {
    fn of_file(setting: &'static str, path: &Path, text: impl Into<String>, hint: impl Into<String>) -> Self {
        SecurityError { setting, path: Some(path.to_owned()), text: text.into(), hint: hint.into(), source: None }
    }

    fn of_setting(setting: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        SecurityError { setting, path: None, text: text.into(), hint: hint.into(), source: None }
    }

    /// What to type next.
    pub fn hint(&self) -> &str {
        &self.hint
    }

    fn with_cause(&self) -> String {
        match &self.source {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// The complaint about a file that was good before, whose last good content is used on: said once, until it is another one.
#[derive(Debug, Default)]
struct Complaint(Option<String>);

impl Complaint {
    fn say(&mut self, error: &SecurityError) {
        let complaint = error.with_cause();
        if self.0.as_ref() != Some(&complaint) {
            log::warn!("kafka: {complaint}; what was there before is used on ({})", error.hint);
            self.0 = Some(complaint);
        }
    }

    /// The file is good again.
    fn clear(&mut self) {
        self.0 = None;
    }
}
