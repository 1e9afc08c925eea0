//! Saying who we are on a connection, at its beginning and again before the broker's patience ends (KIP-368).
//!
//! Promises: ends by the setup's deadline; with nothing in flight; a broker that can't prove what SCRAM has it prove is refused; no secret
//! stays in a buffer. Does not know: when a connection is needed.

use super::deadline::Deadline;
use super::opening::{is_timeout, patience};
use super::{Address, Connection};
use crate::error::{CallError, ConnectError, ErrorCode};
use crate::peer_text::printable;
use crate::protocol::{SaslAuthenticateRequest, SaslAuthenticateResponse, SaslHandshakeRequest};
use crate::security::{Mechanism, Refusal, Sasl, Scram, ScramError, Secret};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use secrecy::zeroize::Zeroize;
use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Random bytes in a nonce: as many as make chance no matter.
const NONCE_BYTES: usize = 24;

/// How much of a session is used before it is made anew: the rest is for the exchange itself, and clocks that differ.
const SESSION_USED_PERCENT: u32 = 85;

/// How long the broker believes what was said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    began: Instant,
    lifetime: Duration,
}

impl Session {
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= self.lifetime
    }

    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= self.lifetime.saturating_mul(SESSION_USED_PERCENT) / 100
    }
}

/// What a new connection is going to say.
pub(super) struct Proof<'s> {
    sasl: &'s Sasl,
    secret: Secret,
    digest: Vec<u8>,
}

impl<'s> Proof<'s> {
    /// Before a broker is connected to: one that has just refused the same secret is left in peace.
    pub(super) fn new(sasl: &'s Sasl, address: &Address) -> Result<Proof<'s>, ConnectError> {
        let secret = sasl.secret();
        let digest = sasl.digest(&secret);
        sasl.gate.open(&address.to_string(), &digest, Instant::now()).map_err(ConnectError::Held)?;
        Ok(Proof { sasl, secret, digest })
    }
}

impl Connection {
    /// Whether the connection can take a request, as [`Connection::alive`] says; before that, if the broker's belief in who we are is
    /// about to end, it is told again, which takes two exchanges and `setup_timeout` at most. Better here than before a request.
    pub fn ready(&mut self) -> bool {
        self.alive() && self.keep_session(self.setup_timeout).is_ok()
    }

    /// Says again who we are, if that is due. Nothing is in flight: a connection has one call at a time.
    pub(super) fn keep_session(&mut self, patience: Duration) -> Result<(), ConnectError> {
        if !self.session.is_some_and(|session| session.is_due(Instant::now())) {
            return Ok(());
        }
        let security = self.security.clone();
        let Some(sasl) = security.sasl() else { return Ok(()) };
        let result = self.exchange_proofs(sasl, &sasl.secret(), Deadline::after(patience.min(self.setup_timeout)));
        if let Err(error) = &result {
            // A new connection says it from the beginning, and counts what is refused.
            log::debug!("kafka: {}: not authenticated anew, so it is closed: {error}", self.peer);
            self.close();
        }
        result
    }

    /// Says who we are on a new connection.
    pub(super) fn authenticate(&mut self, proof: &Proof<'_>, setup: Deadline) -> Result<(), ConnectError> {
        let Proof { sasl, secret, digest } = proof;
        let broker = self.peer.address.to_string();
        let result = self.exchange_proofs(sasl, secret, setup);
        match &result {
            Ok(()) => sasl.gate.taken(&broker, digest),
            Err(error) if error.is_about_who_we_are() => {
                let refusal = Refusal { text: error.to_string().into(), hint: error.hint().unwrap_or_default().into() };
                sasl.gate.refused(&broker, digest, refusal, Instant::now());
            }
            Err(_) => {}
        }
        result
    }

    fn exchange_proofs(&mut self, sasl: &Sasl, secret: &Secret, setup: Deadline) -> Result<(), ConnectError> {
        let mechanism = sasl.settings.mechanism;
        let began = Instant::now();
        let shake = SaslHandshakeRequest { mechanism: mechanism.name() };
        let answer = self.call(&shake, patience(setup)).map_err(|source| self.broken_proof(setup, source))?;
        let address = self.peer.address.clone();
        match answer.error {
            ErrorCode::NONE => {}
            ErrorCode::UNSUPPORTED_SASL_MECHANISM => {
                let enabled = printable(&answer.mechanisms.join(", "));
                return Err(ConnectError::SaslMechanism { address, mechanism: mechanism.name(), enabled });
            }
            ErrorCode::ILLEGAL_SASL_STATE => return Err(ConnectError::NoSasl { address, tls: self.has_tls() }),
            error => {
                let said = error.to_string();
                return Err(ConnectError::Authentication { address, who: who(sasl), said, token: false });
            }
        }
        let username = sasl.settings.username.as_str();
        let last = if let Some(hash) = mechanism.scram() {
            let scram = Scram::new(hash, username, secret.clone(), nonce(&address)?);
            let first = self.prove(sasl, scram.first().into_bytes(), setup)?;
            let (proof, expected) = scram.last(&first.auth_bytes).map_err(|why| unproven(&address, &why))?;
            let last = self.prove(sasl, proof.into_bytes(), setup)?;
            expected.check(&last.auth_bytes).map_err(|why| unproven(&address, &why))?;
            last
        } else if mechanism == Mechanism::Plain {
            self.prove(sasl, format!("\0{username}\0{}", secret.expose()).into_bytes(), setup)?
        } else {
            let mut message = format!("n,,\x01auth=Bearer {}\x01", secret.expose());
            for (name, value) in &sasl.settings.extensions {
                let _ = write!(message, "{name}={value}\x01");
            }
            message.push('\x01');
            let answer = self.prove(sasl, message.into_bytes(), setup)?;
            if !answer.auth_bytes.is_empty() {
                // What is wrong with the token; with this byte the client lets the broker say so again, as an error (RFC 7628, 3.2.3).
                let said = printable(&String::from_utf8_lossy(&answer.auth_bytes));
                self.prove(sasl, vec![1], setup)?;
                return Err(ConnectError::Authentication { address, who: who(sasl), said, token: true });
            }
            answer
        };
        // From before it was asked for: the broker's clock began later.
        self.session = last.session_lifetime.map(|lifetime| Session { began, lifetime });
        Ok(())
    }

    /// One message of the mechanism and the broker's answer to it, which is no error.
    fn prove(
        &mut self,
        sasl: &Sasl,
        mut auth_bytes: Vec<u8>,
        setup: Deadline,
    ) -> Result<SaslAuthenticateResponse, ConnectError> {
        let result = self.call(&SaslAuthenticateRequest { auth_bytes: &auth_bytes }, patience(setup));
        auth_bytes.zeroize();
        self.send.zeroize();
        let answer = result.map_err(|source| self.broken_proof(setup, source))?;
        if answer.error.is_ok() {
            return Ok(answer);
        }
        let words = answer.error_message.as_deref().map(printable).filter(|words| !words.is_empty());
        let said = match words {
            Some(words) => format!("{words}, {}", answer.error),
            None => answer.error.to_string(),
        };
        let token = !sasl.settings.mechanism.has_password();
        Err(ConnectError::Authentication { address: self.peer.address.clone(), who: who(sasl), said, token })
    }

    fn broken_proof(&self, setup: Deadline, source: CallError) -> ConnectError {
        let address = self.peer.address.clone();
        if is_timeout(&source) {
            return ConnectError::Silent { address, waited: setup.elapsed() };
        }
        self.about_tls(source).unwrap_or_else(|source| ConnectError::Broken { address, source })
    }
}

fn who(sasl: &Sasl) -> String {
    if sasl.settings.mechanism.has_password() {
        format!("user {} ({})", sasl.settings.username, sasl.settings.mechanism)
    } else {
        "the token of OAUTHBEARER".to_owned()
    }
}

fn nonce(address: &Address) -> Result<String, ConnectError> {
    let mut bytes = [0; NONCE_BYTES];
    let random = SystemRandom::new().fill(&mut bytes);
    random
        .map_err(|_| ConnectError::Unproven { address: address.clone(), why: "there are no random numbers".into() })?;
    Ok(BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn unproven(address: &Address, why: &ScramError) -> ConnectError {
    ConnectError::Unproven { address: address.clone(), why: Arc::from(why.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_made_anew_before_it_is_over() {
        let began = Instant::now();
        let session = Session { began, lifetime: Duration::from_secs(100) };
        let at = |seconds: u64| began + Duration::from_secs(seconds);
        let seen =
            [0, 84, 85, 99, 100, 1_000].map(|seconds| (session.is_due(at(seconds)), session.is_over(at(seconds))));
        assert_eq!(seen, [(false, false), (false, false), (true, false), (true, false), (true, true), (true, true)]);
        // The longest that a broker can say.
        let forever = Session { began, lifetime: Duration::from_millis(i64::MAX as u64) };
        assert!(!forever.is_due(at(1_000_000)));
    }
}
