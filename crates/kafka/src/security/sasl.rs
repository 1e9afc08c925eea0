//! Who we say we are, and how: the mechanisms of SASL, the secret behind them, and when it may be tried.
//!
//! Promises: a secret in a file is read again whenever a connection is made, and the last good one is kept while the file is damaged; one
//! that was refused is not tried on and on. Does not know: requests, sockets.

mod gate;
pub(crate) mod scram;
mod secret;

pub(crate) use gate::Gate;
pub use gate::Refusal;
pub use secret::{Secret, SecretSource};

use super::{Complaint, SecurityError, files};
use crate::producer::lock;
use ring::digest::{SHA256, digest};
use scram::Hash;
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Mutex;

/// `sasl_mechanism`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password itself, which the broker compares.
    Plain,
    /// A proof that we know the password, and one that the broker does.
    ScramSha256,
    /// The same with the longer hash.
    ScramSha512,
    /// A token that somebody else has signed.
    OauthBearer,
}

impl Mechanism {
    /// All that are spoken.
    pub const ALL: &[Mechanism] =
        &[Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512, Mechanism::OauthBearer];

    /// Kafka's own name.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
            Mechanism::OauthBearer => "OAUTHBEARER",
        }
    }

    /// Whether it wants a user's name and a password; else a token.
    pub fn has_password(self) -> bool {
        self != Mechanism::OauthBearer
    }

    pub(crate) fn scram(self) -> Option<Hash> {
        match self {
            Mechanism::ScramSha256 => Some(Hash::Sha256),
            Mechanism::ScramSha512 => Some(Hash::Sha512),
            Mechanism::Plain | Mechanism::OauthBearer => None,
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No mechanism has this name, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the SASL mechanisms are {}", Mechanism::ALL.iter().map(|it| it.name()).collect::<Vec<_>>().join(", "))]
pub struct UnknownMechanism;

impl FromStr for Mechanism {
    type Err = UnknownMechanism;

    fn from_str(text: &str) -> Result<Self, UnknownMechanism> {
        Mechanism::ALL.iter().copied().find(|mechanism| mechanism.name() == text).ok_or(UnknownMechanism)
    }
}

/// Who we say we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaslSettings {
    /// `sasl_mechanism`.
    pub mechanism: Mechanism,
    /// `sasl_username`; empty for a token.
    pub username: String,
    /// The password or the token.
    pub secret: SecretSource,
    /// `sasl_oauthbearer_extensions`: names and values that go with a token (KIP-342).
    pub extensions: Vec<(String, String)>,
}

impl SaslSettings {
    /// The key that names the secret's file.
    fn file_setting(&self) -> &'static str {
        if self.mechanism.has_password() { "sasl_password_file" } else { "sasl_oauthbearer_token_file" }
    }
}

/// The same, checked. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Sasl {
    pub(crate) settings: SaslSettings,
    pub(crate) gate: Gate,
    held: Mutex<Held>,
}

#[derive(Debug)]
struct Held {
    secret: Secret,
    /// About its file since it was read.
    complaint: Complaint,
}

impl Sasl {
    pub(crate) fn new(settings: &SaslSettings) -> Result<Sasl, SecurityError> {
        if settings.username.contains('\0') {
            return Err(SecurityError::of_setting(
                "sasl_username",
                "there is a byte 0 in it",
                "no user's name has one",
            ));
        }
        let secret = read(settings)?;
        let held = Mutex::new(Held { secret, complaint: Complaint::default() });
        Ok(Sasl { settings: settings.clone(), gate: Gate::default(), held })
    }

    /// For one authentication.
    pub(crate) fn secret(&self) -> Secret {
        let read = read(&self.settings);
        let mut held = lock(&self.held);
        match read {
            Ok(secret) => *held = Held { secret, complaint: Complaint::default() },
            Err(error) => held.complaint.say(&error),
        }
        held.secret.clone()
    }

    /// By which one secret is told from another without keeping either.
    pub(crate) fn digest(&self, secret: &Secret) -> Vec<u8> {
        digest(&SHA256, format!("{}\0{}", self.settings.username, secret.expose()).as_bytes()).as_ref().to_vec()
    }
}

fn read(settings: &SaslSettings) -> Result<Secret, SecurityError> {
    let (secret, setting, path) = match &settings.secret {
        SecretSource::Given(secret) => (secret.clone(), "sasl_password", None),
        SecretSource::File(path) => {
            let setting = settings.file_setting();
            (of_file(setting, path)?, setting, Some(path))
        }
    };
    match fault(secret.expose(), settings.mechanism) {
        None => Ok(secret),
        Some((text, hint)) => {
            Err(SecurityError { path: path.cloned(), ..SecurityError::of_setting(setting, text, hint) })
        }
    }
}

/// What is wrong with a secret, and what to do.
fn fault(text: &str, mechanism: Mechanism) -> Option<(&'static str, &'static str)> {
    if text.is_empty() {
        return Some(("the secret is empty", "put the password or the token there, in one line"));
    }
    if text.contains('\0') {
        return Some(("there is a byte 0 in it", "a secret is text: is it the right file?"));
    }
    if mechanism.has_password() {
        return None;
    }
    if text.contains('\n') {
        return Some(("a token is one line, and there are more", "put the token there alone"));
    }
    let strange = text.contains(|c: char| !c.is_ascii_graphic());
    strange.then_some(("there is a character in it that no token has", "put the token there alone"))
}

fn of_file(setting: &'static str, path: &Path) -> Result<Secret, SecurityError> {
    let bytes = files::read(setting, path)?;
    let mut text = String::from_utf8(bytes).map_err(|_| {
        SecurityError::of_file(setting, path, "this is not UTF-8 text", "put the secret there as text, in one line")
    })?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(Secret::new(text))
}
