//! SCRAM-SHA-256 and SCRAM-SHA-512 (RFC 5802, RFC 7677), the client's side, without channel binding.
//!
//! Promises: pure; the password never leaves; the server must prove that it knows it too, over the nonce that we made; no more work is done
//! than a million iterations. Does not know: Kafka, where the bytes travel. As Kafka does it, names and passwords are not prepared (SASLprep).

use super::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::{digest, hmac, pbkdf2};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;

/// Fewer are refused by Kafka too (ScramMechanism.minIterations), more are an attack on our time.
const ITERATIONS: RangeInclusive<u32> = 4_096..=1_000_000;

/// The base64 of "n,,": no channel binding, no other identity.
const GS2_HEADER: &str = "n,,";
const GS2_HEADER_BASE64: &str = "biws";

/// The hash of a SCRAM mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    fn hmac(self) -> hmac::Algorithm {
        match self {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    fn digest(self) -> &'static digest::Algorithm {
        match self {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha512 => &digest::SHA512,
        }
    }

    fn pbkdf2(self) -> pbkdf2::Algorithm {
        match self {
            Hash::Sha256 => pbkdf2::PBKDF2_HMAC_SHA256,
            Hash::Sha512 => pbkdf2::PBKDF2_HMAC_SHA512,
        }
    }
}

/// Why a server is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScramError {
    #[error("its message can't be understood")]
    Malformed,
    #[error("its answer is not to our nonce")]
    Nonce,
    #[error("it wants {0} iterations, {min} to {max} are accepted", min = ITERATIONS.start(), max = ITERATIONS.end())]
    Iterations(u64),
    #[error("its signature is wrong")]
    Signature,
    #[error("it says {0}")]
    Said(String),
}

/// One authentication, from its first message on.
pub(crate) struct Scram {
    hash: Hash,
    password: Secret,
    nonce: String,
    first_bare: String,
}

/// What the server has to send for its own proof.
pub(crate) struct Expected(hmac::Tag);

impl Scram {
    /// `nonce`: printable, without a comma, and never used before.
    pub(crate) fn new(hash: Hash, username: &str, password: Secret, nonce: String) -> Scram {
        let name = username.replace('=', "=3D").replace(',', "=2C");
        let first_bare = format!("n={name},r={nonce}");
        Scram { hash, password, nonce, first_bare }
    }

    /// The client's first message.
    pub(crate) fn first(&self) -> String {
        format!("{GS2_HEADER}{}", self.first_bare)
    }

    /// The client's last message, which proves that it knows the password.
    pub(crate) fn last(&self, server_first: &[u8]) -> Result<(String, Expected), ScramError> {
        let text = std::str::from_utf8(server_first).map_err(|_| ScramError::Malformed)?;
        let mut fields = text.split(',');
        let mut field =
            |name: &str| fields.next().and_then(|field| field.strip_prefix(name)).ok_or(ScramError::Malformed);
        // A first field of another name would be an extension that must be understood.
        let nonce = field("r=")?;
        let salt = BASE64_STANDARD.decode(field("s=")?).map_err(|_| ScramError::Malformed)?;
        let iterations: u64 = field("i=")?.parse().map_err(|_| ScramError::Malformed)?;
        if !nonce.starts_with(&self.nonce) || nonce.len() == self.nonce.len() {
            return Err(ScramError::Nonce);
        }
        let iterations = u32::try_from(iterations)
            .ok()
            .filter(|count| ITERATIONS.contains(count))
            .and_then(NonZeroU32::new)
            .ok_or(ScramError::Iterations(iterations))?;
        let bytes = self.hash.digest().output_len();
        let mut salted = [0; digest::MAX_OUTPUT_LEN];
        let salted = &mut salted[..bytes];
        pbkdf2::derive(self.hash.pbkdf2(), iterations, &salt, self.password.expose().as_bytes(), salted);
        let salted_key = hmac::Key::new(self.hash.hmac(), salted);
        let client_key = hmac::sign(&salted_key, b"Client Key");
        let stored_key = digest::digest(self.hash.digest(), client_key.as_ref());
        let without_proof = format!("c={GS2_HEADER_BASE64},r={nonce}");
        let signed = format!("{},{text},{without_proof}", self.first_bare);
        let signature = hmac::sign(&hmac::Key::new(self.hash.hmac(), stored_key.as_ref()), signed.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let server_key = hmac::sign(&salted_key, b"Server Key");
        let expected = hmac::sign(&hmac::Key::new(self.hash.hmac(), server_key.as_ref()), signed.as_bytes());
        Ok((format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)), Expected(expected)))
    }
}

impl Expected {
    /// Whether the server's last message proves that it knows the password.
    pub(crate) fn check(&self, server_last: &[u8]) -> Result<(), ScramError> {
        let text = std::str::from_utf8(server_last).map_err(|_| ScramError::Malformed)?;
        let first = text.split(',').next().unwrap_or_default();
        if let Some(error) = first.strip_prefix("e=") {
            return Err(ScramError::Said(crate::peer_text::printable(error)));
        }
        let signature = first.strip_prefix("v=").ok_or(ScramError::Malformed)?;
        let signature = BASE64_STANDARD.decode(signature).map_err(|_| ScramError::Malformed)?;
        // The server knows what it should be: nothing is learned from how long a comparison takes.
        if signature == self.0.as_ref() { Ok(()) } else { Err(ScramError::Signature) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn scram(hash: Hash) -> Scram {
        Scram::new(hash, "user", Secret::new("pencil"), "rOprNGfwEbeRWgbNEkqO".to_owned())
    }

    /// RFC 7677, section 3.
    #[test]
    fn the_rfcs_exchange_is_reproduced() {
        let scram = scram(Hash::Sha256);
        assert_eq!(scram.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
        let (last, expected) = scram.last(FIRST.as_bytes()).unwrap();
        assert_eq!(
            last,
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        );
        assert_eq!(expected.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Ok(()));
        assert_eq!(expected.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G5="), Err(ScramError::Malformed));
        assert_eq!(expected.check(b"v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Err(ScramError::Signature));
        assert_eq!(expected.check(b"v="), Err(ScramError::Signature));
        assert_eq!(expected.check(b"e=other-error\x07"), Err(ScramError::Said("other-error\\u{7}".into())));
        for malformed in [&b""[..], b"v", b"x=1", b"v=?", b"\xff"] {
            assert_eq!(expected.check(malformed), Err(ScramError::Malformed), "{malformed:?}");
        }
    }

    #[test]
    fn the_longer_hash_is_another() {
        let (last, expected) = scram(Hash::Sha512).last(FIRST.as_bytes()).unwrap();
        let proof = last.rsplit_once(",p=").unwrap().1;
        assert_eq!(BASE64_STANDARD.decode(proof).unwrap().len(), 64);
        assert_eq!(expected.check(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="), Err(ScramError::Signature));
    }

    #[test]
    fn names_are_escaped_and_nothing_is_prepared() {
        let scram = Scram::new(Hash::Sha256, "a=b,c\u{ad}", Secret::new("x"), "N".to_owned());
        assert_eq!(scram.first(), "n,,n=a=3Db=2Cc\u{ad},r=N");
    }

    #[test]
    fn a_server_that_plays_false_is_refused() {
        let of = |text: &str| scram(Hash::Sha256).last(text.as_bytes()).err();
        let nonce = "rOprNGfwEbeRWgbNEkqO";
        assert_eq!(of(&format!("r={nonce},s=AAAA,i=4096")), Some(ScramError::Nonce), "nothing of its own");
        assert_eq!(of("r=other,s=AAAA,i=4096"), Some(ScramError::Nonce));
        for count in [0, 1, 4_095, 1_000_001, 2_147_483_647, u64::MAX] {
            assert_eq!(of(&format!("r={nonce}x,s=AAAA,i={count}")), Some(ScramError::Iterations(count)));
        }
        assert_eq!(of(&format!("r={nonce}x,s=AAAA,i=4096,x=what follows is ignored")), None);
        for malformed in [
            "",
            "r",
            "m=ext,r=x,s=AAAA,i=4096",
            "s=AAAA,r=x,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=?,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=-1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=AAAA,i=99999999999999999999999",
        ] {
            assert_eq!(of(malformed), Some(ScramError::Malformed), "{malformed}");
        }
    }
}
