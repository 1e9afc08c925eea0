//! Certificates made on the spot: by rcgen, and by openssl what that does not make.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tempfile::TempDir;

/// One who signs, with its certificate in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
    pub folder: TempDir,
}

/// A certificate with its key.
pub struct Signed {
    pub certificate: CertificateDer<'static>,
    pub pem: String,
    pub key_pem: String,
}

impl Signed {
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).unwrap()
    }

    pub fn certified(&self) -> CertifiedKey {
        let key = rustls::crypto::ring::sign::any_supported_type(&self.key()).unwrap();
        CertifiedKey::new(vec![self.certificate.clone()], key)
    }
}

/// For the address that servers of tests have.
pub fn params() -> CertificateParams {
    CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap()
}

impl Authority {
    pub fn new() -> Authority {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        Authority::named(&format!("outboxd test CA {}", COUNT.fetch_add(1, Relaxed)))
    }

    pub fn named(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        Authority::of(params)
    }

    pub fn of(params: CertificateParams) -> Authority {
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let folder = tempfile::Builder::new().prefix("outboxd-tls-").tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("ca.key"), key.serialize_pem()).unwrap();
        Authority {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            issuer: Issuer::new(params, key),
            folder,
        }
    }

    pub fn sign(&self, params: &CertificateParams) -> Signed {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Signed { certificate: certificate.der().clone(), pem: certificate.pem(), key_pem: key.serialize_pem() }
    }

    /// A good one for the address that servers of tests have.
    pub fn server(&self) -> Signed {
        self.sign(&params())
    }

    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// Runs openssl in the authority's folder.
    pub fn openssl(&self, arguments: &str) {
        openssl(self.folder.path(), arguments);
    }

    /// A certificate signed by openssl with these lines as its extensions; without any it is of version 1.
    pub fn sign_by_openssl(&self, name: &str, key: &str, extensions: Option<&str>) -> Signed {
        self.openssl(&format!("req -newkey {key} -nodes -subj /CN=127.0.0.1 -keyout {name}.key -out {name}.csr"));
        let extensions = match extensions {
            Some(lines) => {
                self.write(&format!("{name}.ext"), lines);
                format!("-extfile {name}.ext")
            }
            None => String::new(),
        };
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 30 {extensions} -out {name}.pem"
        ));
        let read = |end: &str| std::fs::read_to_string(self.path(&format!("{name}.{end}"))).unwrap();
        let (pem, key_pem) = (read("pem"), read("key"));
        Signed { certificate: CertificateDer::from_pem_slice(pem.as_bytes()).unwrap(), pem, key_pem }
    }
}

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "openssl {arguments}:\n{}", String::from_utf8_lossy(&output.stderr));
}
