//! What TLS needs from files: whom to believe, who we are; read again whenever a connection is made.
//!
//! Promises: the one place where the cryptography is chosen; a certificate that is renewed is used by the next connection, and one that is
//! damaged meanwhile is warned of and the old one kept; nothing turns verification off. Does not know: sockets.

use super::certificate::Certificate;
use super::expiry::Expiry;
use super::files;
use super::refusal::{TlsError, is_about_client_certificate};
use super::verifier::Verifier;
use super::{Complaint, SecurityError};
use crate::producer::lock;
use ring::digest::{Digest, SHA256, digest};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, SignatureScheme};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const CA: &str = "ssl_ca_location";
const CERTIFICATE: &str = "ssl_certificate_location";
const KEY: &str = "ssl_key_location";

/// The system's CAs are some hundred files: looked at again after this.
const SYSTEM_ROOTS_AGE_MAX: Duration = Duration::from_secs(60);

/// Files of TLS, all in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// `ssl_ca_location`: the only CAs that are believed; `None`: those that the system trusts.
    pub ca: Option<PathBuf>,
    /// `ssl_certificate_location`: our own certificate, and after it those that vouch for it.
    pub certificate: Option<PathBuf>,
    /// `ssl_key_location`: the key of our own certificate.
    pub key: Option<PathBuf>,
}

/// Makes what a TLS connection starts from. Shared by all threads.
#[derive(Debug)]
pub(crate) struct Tls {
    settings: TlsSettings,
    loaded: Mutex<Loaded>,
    expiry: Expiry,
}

/// What the files held when they were last read and good.
#[derive(Debug)]
struct Loaded {
    config: Arc<ClientConfig>,
    own: Option<Arc<CertifiedKey>>,
    /// Who is believed, in words.
    roots: Arc<str>,
    /// Of the CA's file, if there is one.
    authorities: Vec<CertificateDer<'static>>,
    stamp: Stamp,
    at: Instant,
    /// About the files since then.
    complaint: Complaint,
}

/// By which a change of the files is seen, without keeping a key's bytes.
type Stamp = Vec<Vec<u8>>;

/// The cryptography behind TLS. Nothing else in the crate names a provider.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

impl Tls {
    /// Reads the files; whatever is wrong with them is an error here.
    pub(crate) fn new(settings: &TlsSettings) -> Result<Tls, SecurityError> {
        let loaded = load(settings, &Read::all(settings)?)?;
        Ok(Tls { settings: settings.clone(), loaded: Mutex::new(loaded), expiry: Expiry::default() })
    }

    /// For one connection.
    pub(crate) fn client(&self) -> TlsClient {
        self.reload();
        let loaded = lock(&self.loaded);
        let asked = Arc::new(AtomicBool::new(false));
        let mut config = ClientConfig::clone(&loaded.config);
        config.client_auth_cert_resolver = Arc::new(Own { key: loaded.own.clone(), asked: Arc::clone(&asked) });
        let client = TlsClient {
            config: Arc::new(config),
            roots: Arc::clone(&loaded.roots),
            asked,
            given: loaded.own.is_some(),
        };
        self.warn(&loaded);
        client
    }

    fn reload(&self) {
        let read = Read::all(&self.settings);
        let mut loaded = lock(&self.loaded);
        let fresh = loaded.at.elapsed() < SYSTEM_ROOTS_AGE_MAX;
        let result = match read {
            Ok(read) if read.stamp() == loaded.stamp && (fresh || self.settings.ca.is_some()) => {
                loaded.complaint.clear();
                return;
            }
            Ok(read) => load(&self.settings, &read),
            Err(error) => Err(error),
        };
        match result {
            Ok(new) => *loaded = new,
            Err(error) => loaded.complaint.say(&error),
        }
    }

    /// Says which of the files' certificates are about to expire.
    fn warn(&self, loaded: &Loaded) {
        if let Some(own) = loaded.own.as_ref().and_then(|own| own.cert.first()) {
            self.warn_of(&format!("the certificate of {CERTIFICATE}"), own);
        }
        let authorities: Vec<_> =
            loaded.authorities.iter().map(|der| (der, Certificate::read(der).unwrap_or_default())).collect();
        for (der, authority) in &authorities {
            // A renewed one stands beside the old one until the last broker has changed.
            let renewed = authorities
                .iter()
                .any(|(_, other)| other.subject == authority.subject && other.not_after > authority.not_after);
            if !renewed {
                self.warn_of(&format!("a CA's certificate in {CA}"), der);
            }
        }
    }

    /// Says if a certificate is about to expire.
    pub(crate) fn warn_of(&self, whose: &str, certificate: &[u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if let Some(warning) = self.expiry.warning(whose, certificate, now) {
            log::warn!("kafka: {warning}");
        }
    }
}

/// What one connection starts from.
#[derive(Debug)]
pub(crate) struct TlsClient {
    pub(crate) config: Arc<ClientConfig>,
    roots: Arc<str>,
    asked: Arc<AtomicBool>,
    given: bool,
}

impl TlsClient {
    /// In words, what the library refused.
    pub(crate) fn explained(&self, error: &rustls::Error) -> TlsError {
        TlsError::of(error, &self.roots)
    }

    /// Whether the broker asked who we are: then a connection that it ends without a word ends for that.
    pub(crate) fn was_asked_for_certificate(&self) -> bool {
        self.asked.load(SeqCst)
    }

    /// Whether the broker ended the connection because of our certificate, or because there is none.
    pub(crate) fn is_about_certificate(error: &rustls::Error) -> bool {
        is_about_client_certificate(error)
    }

    /// Whether we have a certificate to show.
    pub(crate) fn has_certificate(&self) -> bool {
        self.given
    }
}

/// Our own certificate, for one connection; notes that it was asked for.
#[derive(Debug)]
struct Own {
    key: Option<Arc<CertifiedKey>>,
    asked: Arc<AtomicBool>,
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, SeqCst);
        self.key.clone()
    }

    /// `true` also without one, or the library would not say that it was asked for.
    fn has_certs(&self) -> bool {
        true
    }
}

/// The files' bytes.
struct Read {
    ca: Option<Vec<u8>>,
    certificate: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
}

impl Read {
    fn all(settings: &TlsSettings) -> Result<Read, SecurityError> {
        let read = |setting, path: &Option<PathBuf>| path.as_ref().map(|path| files::read(setting, path)).transpose();
        Ok(Read {
            ca: read(CA, &settings.ca)?,
            certificate: read(CERTIFICATE, &settings.certificate)?,
            key: read(KEY, &settings.key)?,
        })
    }

    fn stamp(&self) -> Stamp {
        let all = [&self.ca, &self.certificate, &self.key].into_iter().flatten();
        all.map(|bytes| Digest::as_ref(&digest(&SHA256, bytes)).to_vec()).collect()
    }
}

fn load(settings: &TlsSettings, read: &Read) -> Result<Loaded, SecurityError> {
    let provider = provider();
    let mut store = RootCertStore::empty();
    let (roots, authorities) = if let (Some(path), Some(bytes)) = (&settings.ca, &read.ca) {
        let authorities = files::certificates(CA, path, bytes)?;
        for authority in &authorities {
            store.add(authority.clone()).map_err(|error| {
                let hint = format!("see what is in it: openssl x509 -noout -text -in {}", path.display());
                SecurityError::of_file(CA, path, format!("a certificate in it can't be used: {error}"), hint)
            })?;
        }
        (format!("{CA} ({})", path.display()), authorities)
    } else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if store.is_empty() {
            return Err(SecurityError {
                setting: CA,
                path: None,
                text: "this system trusts no certificate authority, and none is named".to_owned(),
                hint: "name the brokers' CA: ssl_ca_location = \"/path/ca.pem\"; or install the usual ones: apt-get install \
                       ca-certificates"
                    .to_owned(),
                source: None,
            });
        }
        ("the system's list of authorities".to_owned(), Vec::new())
    };
    let own = own(settings, read, &provider)?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(&provider)).build();
    let unusable = |error: &dyn std::fmt::Display| SecurityError {
        setting: CA,
        path: settings.ca.clone(),
        text: format!("the certificates can't be used: {error}"),
        hint: String::new(),
        source: None,
    };
    let verifier = verifier.map_err(|error| unusable(&error))?;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| unusable(&error))?
        // Not a way around verification: it asks the library's own verifier, and explains what that refuses.
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier(verifier)))
        .with_no_client_auth();
    // Connections are few and live long; without it each one's certificate is verified.
    config.resumption = Resumption::disabled();
    let stamp = read.stamp();
    Ok(Loaded {
        config: Arc::new(config),
        own,
        roots: roots.into(),
        authorities,
        stamp,
        at: Instant::now(),
        complaint: Complaint::default(),
    })
}

fn own(
    settings: &TlsSettings,
    read: &Read,
    provider: &CryptoProvider,
) -> Result<Option<Arc<CertifiedKey>>, SecurityError> {
    let (certificate, key) = match (&settings.certificate, &settings.key) {
        (None, None) => return Ok(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(path), None) => {
            let hint = "name its key too: ssl_key_location = \"/path/key.pem\"; a new pair is made by: openssl req -new -newkey \
                        rsa:2048 -nodes -keyout key.pem -out request.csr";
            return Err(SecurityError::of_file(CERTIFICATE, path, "there is a certificate and no key", hint));
        }
        (None, Some(path)) => {
            let hint = "name its certificate too: ssl_certificate_location = \"/path/certificate.pem\"; a request for one is made \
                        by: openssl req -new -key KEY -out request.csr";
            return Err(SecurityError::of_file(KEY, path, "there is a key and no certificate", hint));
        }
    };
    let bytes = |bytes: &Option<Vec<u8>>| bytes.clone().unwrap_or_default();
    let chain = files::certificates(CERTIFICATE, certificate, &bytes(&read.certificate))?;
    let private = files::private_key(KEY, key, &bytes(&read.key))?;
    CertifiedKey::from_der(chain, private, provider).map(|own| Some(Arc::new(own))).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let hint = format!(
                "compare them: openssl x509 -in {} -noout -pubkey; openssl pkey -in {} -pubout",
                certificate.display(),
                key.display()
            );
            SecurityError::of_file(KEY, key, "this key belongs to another certificate", hint)
        }
        error => {
            let hint = format!("see what it is: openssl pkey -noout -text_pub -in {}", key.display());
            SecurityError::of_file(KEY, key, format!("this key can't be used: {error}"), hint)
        }
    })
}
