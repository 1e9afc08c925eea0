//! Why a TLS connection did not come about, in words, and what to do.
//!
//! Promises: what the peer says is escaped; the same failure has the same text each time, so that it is logged once. Does not know:
//! sockets, brokers' addresses.

use super::certificate::Certificate;
use super::utc;
use crate::peer_text::printable;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{AlertDescription, CertificateError, PeerIncompatible};
use std::fmt::Write;
use std::sync::Arc;

/// Why TLS with a broker failed. [`TlsError::hint`] says what to do.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)] // each variant's message says what it is
pub enum TlsError {
    #[error("its certificate is signed by nobody whom {roots} would vouch for")]
    UnknownIssuer { roots: Arc<str> },
    #[error("its certificate is signed with another key than that of {roots}, though by the same name")]
    OtherIssuerKey { roots: Arc<str> },
    #[error(
        "{} expired at {}; this machine's clock says {}",
        whose(*.own), utc::time(*.not_after), utc::hour(*.now)
    )]
    Expired { own: bool, not_after: u64, now: u64 },
    #[error(
        "{} is valid only from {} on; this machine's clock says {}",
        whose(*.own), utc::time(*.not_before), utc::hour(*.now)
    )]
    NotYetValid { own: bool, not_before: u64, now: u64 },
    #[error("its certificate is for {names}, not for {wanted}")]
    OtherName { wanted: String, names: String },
    #[error("its certificate has no subjectAltName, so it is nobody's; the common name does not count")]
    NoNames,
    #[error("its certificate is of X.509 version 1, which can't say what it is for")]
    VersionOne,
    #[error("it shows the certificate of a certificate authority (CA:TRUE) as its own")]
    AuthorityAsServer,
    #[error("its certificate has an RSA key of {bits} bits, at least 2048 are wanted")]
    WeakKey { bits: usize },
    #[error("it speaks no version of TLS that is safe: 1.2 and 1.3 are")]
    NoCommonVersion,
    #[error("it and this client have no way to encrypt in common ({0})")]
    Incompatible(String),
    #[error("what it answers is not TLS")]
    NotTls,
    /// Before it had said anything.
    #[error("it closed the connection at the first message of TLS")]
    Closed,
    #[error("it closed the connection in the middle of the TLS handshake")]
    ClosedInHandshake,
    #[error("it ended TLS with the alert {0}")]
    Alert(String),
    #[error("{0:?} is a name that no certificate can be for")]
    BadName(String),
    #[error("{0}")]
    Other(String),
}

fn whose(own: bool) -> &'static str {
    if own { "its certificate" } else { "a certificate that vouches for its certificate" }
}

impl TlsError {
    /// What is probably the matter, and what to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            TlsError::UnknownIssuer { .. } => {
                "name the file with the CA's certificate: ssl_ca_location = \"/path/ca.pem\". See who signed it: \
                 openssl s_client -connect HOST:PORT -showcerts </dev/null"
            }
            TlsError::OtherIssuerKey { .. } => {
                "the CA was made anew: name its present certificate in ssl_ca_location, beside the old one while both are in use"
            }
            TlsError::Expired { .. } => "renew the certificate, or set the clock: compare `date -u` here and there",
            TlsError::NotYetValid { .. } => "set the clock that is wrong: compare `date -u` here and there",
            TlsError::OtherName { .. } => {
                "use one of those names in bootstrap_servers and the brokers' advertised.listeners, or have a certificate made \
                 that names this one: subjectAltName=DNS:NAME,IP:ADDRESS"
            }
            TlsError::NoNames | TlsError::VersionOne => {
                "have one made with names: printf 'subjectAltName=DNS:NAME,IP:ADDRESS' >san; openssl x509 -req -in server.csr \
                 -CA ca.pem -CAkey ca.key -CAcreateserial -extfile san -out server.pem"
            }
            TlsError::AuthorityAsServer => {
                "have the CA sign one for the broker: openssl req -new -newkey rsa:2048 -nodes -subj /CN=NAME -keyout \
                 server.key -out server.csr; printf 'subjectAltName=DNS:NAME' >san; openssl x509 -req -in server.csr -CA ca.pem \
                 -CAkey ca.key -CAcreateserial -extfile san -out server.pem"
            }
            TlsError::WeakKey { .. } => {
                "have one made with a stronger key: openssl req -new -newkey rsa:2048 -nodes ..."
            }
            TlsError::NoCommonVersion => "allow one of them at the broker: ssl.enabled.protocols=TLSv1.2,TLSv1.3",
            TlsError::NotTls | TlsError::Closed => {
                "this is probably a listener without TLS: write security_protocol = \"PLAINTEXT\" (or \"SASL_PLAINTEXT\"), or \
                 use the port of an SSL listener"
            }
            TlsError::BadName(_) => "use a DNS name or an IP address in bootstrap_servers and advertised.listeners",
            TlsError::Incompatible(_) => "see ssl.cipher.suites and the kind of key at the broker",
            TlsError::ClosedInHandshake | TlsError::Alert(_) => "the broker's log says why it does not go on with TLS",
            TlsError::Other(_) => return None,
        })
    }

    /// From what the library says. `roots`: who would have been believed; `leaf`: the peer's certificate, if it has come.
    pub(super) fn of(error: &rustls::Error, roots: &Arc<str>) -> TlsError {
        use rustls::Error;
        match error {
            Error::InvalidCertificate(CertificateError::Other(other)) => {
                other.0.downcast_ref().cloned().unwrap_or_else(|| TlsError::Other(printable(&error.to_string())))
            }
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                TlsError::UnknownIssuer { roots: Arc::clone(roots) }
            }
            Error::InvalidCertificate(CertificateError::BadSignature) => {
                TlsError::OtherIssuerKey { roots: Arc::clone(roots) }
            }
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
            ) => TlsError::NoCommonVersion,
            Error::PeerIncompatible(why) => TlsError::Incompatible(format!("{why:?}")),
            Error::InvalidMessage(_) => TlsError::NotTls,
            Error::AlertReceived(alert) => TlsError::Alert(format!("{alert:?}")),
            other => TlsError::Other(printable(&other.to_string())),
        }
    }

    /// What a verifier's refusal of a certificate means, where the library's own words are too few; else `None`.
    pub(super) fn of_certificate(
        error: &rustls::Error,
        leaf: &Certificate,
        wanted: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Option<TlsError> {
        let rustls::Error::InvalidCertificate(error) = error else { return None };
        let now = now.as_secs();
        Some(match error {
            CertificateError::ExpiredContext { not_after, .. } => {
                TlsError::Expired { own: not_after.as_secs() == leaf.not_after, not_after: not_after.as_secs(), now }
            }
            CertificateError::NotValidYetContext { not_before, .. } => TlsError::NotYetValid {
                own: not_before.as_secs() == leaf.not_before,
                not_before: not_before.as_secs(),
                now,
            },
            _ if leaf.version == 1 => TlsError::VersionOne,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                if leaf.names.is_empty() {
                    TlsError::NoNames
                } else {
                    let wanted = wanted.map(ServerName::to_str).unwrap_or_default().into_owned();
                    TlsError::OtherName { wanted, names: names(leaf) }
                }
            }
            CertificateError::UnknownIssuer => return None,
            _ if leaf.rsa_bits.is_some_and(|bits| bits < 2048) => {
                TlsError::WeakKey { bits: leaf.rsa_bits.unwrap_or_default() }
            }
            CertificateError::Other(_) if leaf.is_ca => TlsError::AuthorityAsServer,
            _ => return None,
        })
    }
}

/// The alerts by which a peer says that it does not like a client's certificate, or that there is none.
pub(super) fn is_about_client_certificate(error: &rustls::Error) -> bool {
    matches!(
        error,
        rustls::Error::AlertReceived(
            AlertDescription::BadCertificate
                | AlertDescription::CertificateRequired
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::UnknownCA
                | AlertDescription::NoCertificate
                | AlertDescription::AccessDenied
                // Its signature is not of the key of the authority that has the name.
                | AlertDescription::DecryptError
        )
    )
}

fn names(leaf: &Certificate) -> String {
    let mut names = printable(&leaf.names.join(", "));
    if leaf.names_count > leaf.names.len() {
        let _ = write!(names, " and {} more", leaf.names_count - leaf.names.len());
    }
    names
}
