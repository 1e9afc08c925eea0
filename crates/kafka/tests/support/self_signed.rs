//! A TLS server whose certificate vouches for itself, for tests of what happens inside TLS.
//!
//! Promises: a client that believes the file `ca` takes it for the host that it was made for. Does not know: sockets.

use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use std::path::PathBuf;
use std::sync::Arc;

pub struct SelfSigned {
    /// The certificate, in PEM.
    pub ca: PathBuf,
    pub config: Arc<ServerConfig>,
    _folder: tempfile::TempDir,
}

impl SelfSigned {
    pub fn of(host: &str) -> SelfSigned {
        let signed = rcgen::generate_simple_self_signed([host.to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        std::fs::write(&ca, signed.cert.pem()).unwrap();
        let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![signed.cert.der().clone()], key)
            .unwrap();
        SelfSigned { ca, config: Arc::new(config), _folder: folder }
    }
}
