//! The TLS library's verification of a broker's certificate, with words of our own for what it refuses.
//!
//! Promises: accepts what the library accepts, and nothing else. Does not know: where certificates are kept.

use super::certificate::Certificate;
use super::refusal::TlsError;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Verifier(pub(super) Arc<WebPkiServerVerifier>);

/// The library's refusal, or the same refusal with more to say.
fn explained(error: Error, leaf: &[u8], wanted: Option<&ServerName<'_>>, now: UnixTime) -> Error {
    let more = Certificate::read(leaf).and_then(|leaf| TlsError::of_certificate(&error, &leaf, wanted, now));
    match more {
        Some(more) => Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(more)))),
        None => error,
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| explained(error, end_entity, Some(server_name), now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.0.verify_tls12_signature(message, cert, dss);
        verified.map_err(|error| explained(error, cert, None, UnixTime::now()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let verified = self.0.verify_tls13_signature(message, cert, dss);
        verified.map_err(|error| explained(error, cert, None, UnixTime::now()))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
