//! How Kafka is connected to: the keys and flags of `security_protocol`, which belong together or not at all.
//!
//! Promises: what would have no effect is an error that names both lines; a secret is in no message. Does not know: what is in the files
//! that are named.

use super::document::{Found, Section, nearest};
use super::{ConfigError, Place, file};
use outboxd_kafka::security::{
    Mechanism, SaslSettings, Secret, SecretSource, SecurityProtocol, SecuritySettings, TlsSettings,
};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// What was written, wherever that was.
#[derive(Default)]
pub struct Written {
    pub protocol: Option<Found<String>>,
    pub ca: Option<Found<String>>,
    pub certificate: Option<Found<String>>,
    pub key: Option<Found<String>>,
    pub mechanism: Option<Found<String>>,
    pub username: Option<Found<String>>,
    pub password: Option<Found<String>>,
    pub password_file: Option<Found<String>>,
    pub password_env: Option<Found<String>>,
    pub token_file: Option<Found<String>>,
    pub extensions: Option<Found<String>>,
}

/// The variables of the process, or of a test.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<OsString>;

impl Written {
    pub fn in_section(section: &Section<'_>) -> Result<Written, ConfigError> {
        // Empty is as not written, so that the example can show every key.
        let text = |key| Ok(section.string(key)?.filter(|found| !found.value.is_empty()));
        Ok(Written {
            protocol: section.string("security_protocol")?,
            ca: text("ssl_ca_location")?,
            certificate: text("ssl_certificate_location")?,
            key: text("ssl_key_location")?,
            mechanism: text("sasl_mechanism")?,
            username: text("sasl_username")?,
            password: text("sasl_password")?,
            password_file: text("sasl_password_file")?,
            password_env: text("sasl_password_env")?,
            token_file: text("sasl_oauthbearer_token_file")?,
            extensions: text("sasl_oauthbearer_extensions")?,
        })
    }

    /// The settings, or which two things that were written don't fit each other.
    pub fn settings(self, environment: Environment<'_>) -> Result<SecuritySettings, ConfigError> {
        let protocol = self.protocol.as_ref().map(protocol).transpose()?.unwrap_or_default();
        let says = Says { protocol, written: self.protocol.as_ref() };
        let tls = if protocol.has_tls() {
            self.tls()?
        } else {
            says.unused([&self.ca, &self.certificate, &self.key], "TLS", SecurityProtocol::has_tls)?;
            TlsSettings::default()
        };
        let sasl = if protocol.has_sasl() {
            Some(self.sasl(&says, environment)?)
        } else {
            says.unused(self.of_sasl(), "SASL", SecurityProtocol::has_sasl)?;
            None
        };
        Ok(SecuritySettings { protocol, tls, sasl })
    }

    fn of_sasl(&self) -> [&Option<Found<String>>; 7] {
        [
            &self.mechanism,
            &self.username,
            &self.password,
            &self.password_file,
            &self.password_env,
            &self.token_file,
            &self.extensions,
        ]
    }

    fn tls(&self) -> Result<TlsSettings, ConfigError> {
        match (&self.certificate, &self.key) {
            (Some(certificate), None) => Err(ConfigError::new(
                certificate.place.clone(),
                "a certificate is of no use without its key",
                "add: ssl_key_location = \"/path/key.pem\"; a new pair is made by: openssl req -new -newkey rsa:2048 -nodes \
                 -keyout key.pem -out request.csr",
            )),
            (None, Some(key)) => Err(ConfigError::new(
                key.place.clone(),
                "a key is of no use without its certificate",
                format!(
                    "add: ssl_certificate_location = \"/path/certificate.pem\"; a request for one is made by: openssl req -new \
                     -key {} -out request.csr",
                    key.value
                ),
            )),
            _ => Ok(TlsSettings {
                ca: self.ca.as_ref().map(path).transpose()?,
                certificate: self.certificate.as_ref().map(path).transpose()?,
                key: self.key.as_ref().map(path).transpose()?,
            }),
        }
    }

    fn sasl(&self, says: &Says<'_>, environment: Environment<'_>) -> Result<SaslSettings, ConfigError> {
        let Some(written) = &self.mechanism else {
            let hint = "add: sasl_mechanism = \"SCRAM-SHA-512\" (or PLAIN, SCRAM-SHA-256, OAUTHBEARER)";
            return Err(says.missing("sasl_mechanism", hint));
        };
        let mechanism = mechanism(written)?;
        let with = |found: &Found<String>, what: &str, mechanism: Mechanism| {
            let text = format!("{what}, and sasl_mechanism is {mechanism}{}", at(&written.place));
            Err(ConfigError::new(found.place.clone(), text, "write another sasl_mechanism, or leave this out"))
        };
        if !mechanism.has_password() {
            let unused = [&self.username, &self.password, &self.password_file, &self.password_env];
            if let Some(found) = unused.into_iter().flatten().next() {
                return with(found, "this belongs to mechanisms with a password", mechanism);
            }
            let Some(file) = &self.token_file else {
                let text = format!("sasl_mechanism is {mechanism}, and there is no token");
                let hint = "add: sasl_oauthbearer_token_file = \"/path/token\"";
                return Err(ConfigError::new(written.place.clone(), text, hint));
            };
            let secret = SecretSource::File(secret_file(file, environment)?);
            let extensions = self.extensions.as_ref().map(extensions).transpose()?.unwrap_or_default();
            return Ok(SaslSettings { mechanism, username: String::new(), secret, extensions });
        }
        if let Some(found) = [&self.token_file, &self.extensions].into_iter().flatten().next() {
            return with(found, "this belongs to OAUTHBEARER", mechanism);
        }
        let Some(username) = &self.username else {
            let text = format!("sasl_mechanism is {mechanism}, and there is no user");
            return Err(ConfigError::new(
                written.place.clone(),
                text,
                "add: sasl_username = \"NAME\" (flag: --username)",
            ));
        };
        let secret = self.password(written, mechanism, environment)?;
        Ok(SaslSettings { mechanism, username: username.value.clone(), secret, extensions: Vec::new() })
    }

    fn password(
        &self,
        mechanism_written: &Found<String>,
        mechanism: Mechanism,
        environment: Environment<'_>,
    ) -> Result<SecretSource, ConfigError> {
        let sources = [&self.password, &self.password_file, &self.password_env];
        let mut given = sources.into_iter().flatten();
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            let text = format!("the password is given a second time; the first is {}", first.place);
            return Err(ConfigError::new(second.place.clone(), text, "leave one of the two out"));
        }
        if let Some(found) = &self.password {
            readable_by_others(found)?;
            return Ok(SecretSource::Given(Secret::new(found.value.clone())));
        }
        if let Some(found) = &self.password_file {
            return Ok(SecretSource::File(secret_file(found, environment)?));
        }
        if let Some(found) = &self.password_env {
            // The password itself, put here by mistake, is not repeated.
            let is_name =
                found.value.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
            let name = if is_name { found.value.as_str() } else { "NAME" };
            let wrong = |text: &str| {
                let hint = format!("set it where outboxd is started, for example: {name}=... outboxd run");
                Err(ConfigError::new(found.place.clone(), format!("the variable of this name {text}"), hint))
            };
            return match environment(&found.value).map(OsString::into_string) {
                None => wrong("is not set"),
                Some(Err(_)) => wrong("is not UTF-8 text"),
                Some(Ok(text)) if text.is_empty() => wrong("is empty"),
                Some(Ok(text)) => Ok(SecretSource::Given(Secret::new(without_newline(&text)))),
            };
        }
        let text = format!("sasl_mechanism is {mechanism}, and there is no password");
        let hint =
            "add: sasl_password_file = \"/path/password\" (flag: --password-file); or sasl_password_env = \"VARIABLE\"";
        Err(ConfigError::new(mechanism_written.place.clone(), text, hint))
    }
}

/// What the protocol is and where that stands.
struct Says<'w> {
    protocol: SecurityProtocol,
    written: Option<&'w Found<String>>,
}

impl Says<'_> {
    /// Whatever of these was written would have no effect.
    fn unused<const N: usize>(
        &self,
        keys: [&Option<Found<String>>; N],
        belongs_to: &str,
        fits: fn(SecurityProtocol) -> bool,
    ) -> Result<(), ConfigError> {
        let Some(found) = keys.into_iter().flatten().next() else { return Ok(()) };
        let where_written = self.written.map_or(", the default".to_owned(), |found| at(&found.place));
        let fitting = SecurityProtocol::ALL.iter().filter(|protocol| fits(**protocol));
        let fitting: Vec<String> = fitting.map(|protocol| format!("\"{protocol}\"")).collect();
        Err(ConfigError::new(
            found.place.clone(),
            format!("this belongs to {belongs_to}, and security_protocol is {}{where_written}", self.protocol),
            format!("write security_protocol = {}; or leave this out", fitting.join(" or ")),
        ))
    }

    fn missing(&self, key: &str, hint: &str) -> ConfigError {
        let place = self.written.map_or(Place::Flag("--security-protocol"), |found| found.place.clone());
        ConfigError::new(place, format!("{} needs {key}, which is missing", self.protocol), hint)
    }
}

/// ` (line 7)`, where there is one.
fn at(place: &Place) -> String {
    match place {
        Place::File { line: Some(line), .. } => format!(" (line {line})"),
        Place::File { line: None, .. } | Place::Flag(_) => String::new(),
    }
}

fn protocol(found: &Found<String>) -> Result<SecurityProtocol, ConfigError> {
    found.value.parse().map_err(|_| {
        let known: Vec<&str> = SecurityProtocol::ALL.iter().map(|protocol| protocol.name()).collect();
        // TLS is what everyone but Kafka calls it.
        let meant = found.value.to_ascii_uppercase().replace("TLS", "SSL").replace('-', "_");
        unknown(found, "security protocol", &meant, &known)
    })
}

fn mechanism(found: &Found<String>) -> Result<Mechanism, ConfigError> {
    found.value.parse().map_err(|_| {
        let known: Vec<&str> = Mechanism::ALL.iter().map(|mechanism| mechanism.name()).collect();
        let meant = found.value.to_ascii_uppercase().replace('_', "-");
        unknown(found, "SASL mechanism", &meant, &known)
    })
}

fn unknown(found: &Found<String>, what: &str, meant: &str, known: &[&str]) -> ConfigError {
    let lower: Vec<String> = known.iter().map(|name| name.to_ascii_lowercase()).collect();
    let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
    let near = nearest(meant, &lower).and_then(|near| known.iter().find(|name| name.eq_ignore_ascii_case(near)));
    let hint = match known.iter().find(|name| **name == meant).or(near) {
        Some(near) => format!("write \"{near}\"; there are {}", known.join(", ")),
        None => format!("there are {}", known.join(", ")),
    };
    ConfigError::new(found.place.clone(), format!("`{}` is no {what}", found.value), hint)
}

/// `name=value`, separated by commas.
fn extensions(found: &Found<String>) -> Result<Vec<(String, String)>, ConfigError> {
    let pairs = found.value.split(',').map(|pair| {
        let (name, value) = pair.trim().split_once('=').unwrap_or_default();
        // RFC 7628, section 3.1: a name is letters, a value is printable.
        let good = !name.is_empty()
            && name != "auth"
            && name.bytes().all(|byte| byte.is_ascii_alphabetic())
            && !value.is_empty()
            && value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        good.then(|| (name.to_owned(), value.to_owned()))
    });
    pairs.collect::<Option<_>>().ok_or_else(|| {
        ConfigError::new(
            found.place.clone(),
            "these are no extensions: letters, `=` and a printable value, separated by commas",
            "write for example: sasl_oauthbearer_extensions = \"logicalCluster=lkc-1,identityPoolId=pool-1\"",
        )
    })
}

fn path(found: &Found<String>) -> Result<PathBuf, ConfigError> {
    file::absolute(Path::new(&found.value), &found.place)
}

/// A name without a slash is one of systemd's credentials.
fn secret_file(found: &Found<String>, environment: Environment<'_>) -> Result<PathBuf, ConfigError> {
    if found.value.contains('/') {
        return path(found);
    }
    match environment("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty()) {
        Some(directory) => Ok(Path::new(&directory).join(&found.value)),
        None => Err(ConfigError::new(
            found.place.clone(),
            // Not repeated: it may be the secret itself, put here by mistake.
            "a name without a slash is one of systemd's credentials, and $CREDENTIALS_DIRECTORY is not set",
            "write \"./NAME\" for a file in this folder; or LoadCredential=NAME:/path in the unit",
        )),
    }
}

/// A password in a file that every user of the machine can read is no secret.
fn readable_by_others(found: &Found<String>) -> Result<(), ConfigError> {
    use std::os::unix::fs::PermissionsExt;
    let Place::File { path, .. } = &found.place else { return Ok(()) };
    let Ok(metadata) = std::fs::metadata(path) else { return Ok(()) };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o004 == 0 {
        return Ok(());
    }
    Err(ConfigError::new(
        found.place.clone(),
        format!("a password stands here, and others can read the file (mode {mode:04o})"),
        format!(
            "chmod 600 {}; or keep it in a file of its own: sasl_password_file = \"/path/password\"",
            path.display()
        ),
    ))
}

fn without_newline(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}
