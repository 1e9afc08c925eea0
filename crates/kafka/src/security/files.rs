//! Files with certificates, keys and secrets: the one place of the crate that opens any.
//!
//! Promises: reads small ordinary files only; a file of another kind than is wanted is called what it is, with the command that
//! converts it; nothing of a file's content is in an error. Does not know: TLS, brokers.

use super::SecurityError;
use super::certificate::Certificate;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The system's own bundle of CAs has 220 KB.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The whole of a file. `setting`: the key that named it.
pub(super) fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>, SecurityError> {
    let failed = |source: io::Error| {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => "see whether the path is right".to_owned(),
            io::ErrorKind::PermissionDenied => format!("let outboxd's user read it: ls -l {}", path.display()),
            _ => format!("see what is there: ls -l {}", path.display()),
        };
        SecurityError { source: Some(source), ..SecurityError::of_file(setting, path, "the file can't be read", hint) }
    };
    // A pipe that nobody writes to would be waited for when it is opened.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        let text = "this is not an ordinary file";
        return Err(SecurityError::of_file(
            setting,
            path,
            text,
            format!("see what is there: ls -ld {}", path.display()),
        ));
    }
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let text = format!("this file has more than {FILE_BYTES_MAX} bytes");
        return Err(SecurityError::of_file(setting, path, text, "name a file with what is needed and nothing else"));
    }
    Ok(bytes)
}

/// All certificates of a PEM file: one at least.
pub(super) fn certificates(
    setting: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<CertificateDer<'static>>, SecurityError> {
    let mut found = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        let certificate = certificate.map_err(|_| damaged(setting, path, "certificate"))?;
        if Certificate::read(&certificate).is_none() {
            return Err(damaged(setting, path, "certificate"));
        }
        found.push(certificate);
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let shown = path.display();
    let kind = kind(bytes);
    if let Some(error) = not_pem(kind, setting, path, "certificate", "-nokeys -out ca.pem") {
        return Err(error);
    }
    let (text, hint) = match kind {
        Kind::DerCertificate => (
            "this is a certificate in DER; a PEM file is wanted",
            format!("convert it: openssl x509 -inform DER -in {shown} -out ca.pem"),
        ),
        Kind::PemKey | Kind::EncryptedKey => (
            "there is a private key in it and no certificate",
            "name the file with -----BEGIN CERTIFICATE----- in it".to_owned(),
        ),
        _ => (
            "there is no certificate in it",
            format!("a PEM file is wanted, with -----BEGIN CERTIFICATE----- in it; see what this one is: file {shown}"),
        ),
    };
    Err(SecurityError::of_file(setting, path, text, hint))
}

/// The first private key of a PEM file: PKCS#8, PKCS#1 or SEC1.
pub(super) fn private_key(
    setting: &'static str,
    path: &Path,
    bytes: &[u8],
) -> Result<PrivateKeyDer<'static>, SecurityError> {
    let shown = path.display();
    let kind = kind(bytes);
    if kind == Kind::EncryptedKey {
        return Err(SecurityError::of_file(
            setting,
            path,
            "the key in it is encrypted",
            format!(
                "decrypt it, and let only outboxd's user read it: openssl pkey -in {shown} -out key.pem; chmod 600 key.pem"
            ),
        ));
    }
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(not_pem(
            kind,
            setting,
            path,
            "private key",
            "-nodes -nocerts -out key.pem",
        )
        .unwrap_or_else(|| {
            let hint = format!(
                "a PEM file is wanted; a key in DER is converted by: openssl pkey -inform DER -in {shown} -out key.pem"
            );
            SecurityError::of_file(setting, path, "there is no private key in it", hint)
        })),
        Err(_) => Err(damaged(setting, path, "key")),
    }
}

/// Of a file that holds nothing, or holds it in a store: the rest of the command that takes `what` out of one is `out`.
fn not_pem(kind: Kind, setting: &'static str, path: &Path, what: &str, out: &str) -> Option<SecurityError> {
    let shown = path.display();
    let (text, hint) = match kind {
        Kind::Jks => (
            "this is a Java keystore (JKS); a PEM file is wanted",
            format!(
                "convert it: keytool -importkeystore -srckeystore {shown} -destkeystore /tmp/store.p12 -deststoretype PKCS12, \
                 then: openssl pkcs12 -in /tmp/store.p12 {out}"
            ),
        ),
        Kind::Pkcs12 => {
            ("this is a PKCS#12 store; a PEM file is wanted", format!("convert it: openssl pkcs12 -in {shown} {out}"))
        }
        Kind::Empty => ("the file is empty", format!("put the {what} there, in PEM")),
        _ => return None,
    };
    Some(SecurityError::of_file(setting, path, text, hint))
}

fn damaged(setting: &'static str, path: &Path, what: &str) -> SecurityError {
    let command = if what == "key" { "pkey -noout" } else { "x509 -noout -text" };
    let hint = format!("see what is wrong with it: openssl {command} -in {}", path.display());
    SecurityError::of_file(setting, path, format!("a {what} in it is damaged"), hint)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Jks,
    Pkcs12,
    DerCertificate,
    PemKey,
    EncryptedKey,
    Empty,
    Other,
}

/// What a file is, by its first bytes or the headers of its PEM.
fn kind(bytes: &[u8]) -> Kind {
    let has = |what: &str| bytes.windows(what.len()).any(|window| window == what.as_bytes());
    // SEQUENCE with a length of two bytes, and in it INTEGER 3: the version of a PFX.
    let is_pfx = |bytes: &[u8]| matches!(bytes, [0x30, 0x82, _, _, 2, 1, 3, ..] | [0x30, 0x80, 2, 1, 3, ..]);
    match bytes {
        [] => Kind::Empty,
        [0xfe, 0xed, 0xfe, 0xed, ..] => Kind::Jks,
        bytes if is_pfx(bytes) => Kind::Pkcs12,
        bytes if Certificate::read(bytes).is_some() => Kind::DerCertificate,
        _ if has("-----BEGIN ENCRYPTED PRIVATE KEY-----") || has("Proc-Type: 4,ENCRYPTED") => Kind::EncryptedKey,
        _ if has("PRIVATE KEY-----") => Kind::PemKey,
        _ => Kind::Other,
    }
}
