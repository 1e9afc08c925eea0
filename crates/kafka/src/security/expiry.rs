//! Certificates that are about to expire: named in time, and not too often.
//!
//! Promises: each is warned of at most once a day, and memory stays bounded. Does not know: where certificates come from.

use super::certificate::Certificate;
use super::utc;
use crate::producer::lock;
use ring::digest::{SHA256, digest};
use std::collections::HashMap;
use std::sync::Mutex;

/// Renewal is usually automatic 30 days before: what is left after 16 of them is not.
const WARNED_BEFORE_S: u64 = 14 * 86_400;
const WARNED_AGAIN_S: u64 = 86_400;
/// Certificates that are remembered as warned of. A cluster has a few for each broker.
const REMEMBERED_MAX: usize = 1_000;

/// When which certificate was warned of: seconds since 1970 by its SHA-256.
#[derive(Debug, Default)]
pub(super) struct Expiry(Mutex<HashMap<Vec<u8>, u64>>);

impl Expiry {
    /// What there is to say of a certificate, if it was not said today.
    pub(super) fn warning(&self, whose: &str, der: &[u8], now: u64) -> Option<String> {
        let certificate = Certificate::read(der)?;
        let left = certificate.not_after.saturating_sub(now);
        if left > WARNED_BEFORE_S {
            return None;
        }
        let mut warned = lock(&self.0);
        let key = digest(&SHA256, der).as_ref().to_vec();
        if warned.get(&key).is_some_and(|last| now < last + WARNED_AGAIN_S) {
            return None;
        }
        if warned.len() >= REMEMBERED_MAX {
            warned.clear();
        }
        warned.insert(key, now);
        let at = utc::time(certificate.not_after);
        Some(match (left, left / 86_400) {
            (0, _) => format!("{whose} expired at {at}; renew it"),
            (_, 0) => format!("{whose} expires within a day, at {at}; renew it"),
            (_, days) => format!("{whose} expires in {days} days, at {at}; renew it"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    #[test]
    fn a_certificate_is_warned_of_once_a_day_in_its_last_fortnight() {
        let der = |day: u8| {
            let mut params = CertificateParams::new(["kafka".to_owned()]).unwrap();
            params.not_after = date_time_ymd(2030, 6, day);
            params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
        };
        let (one, other) = (der(20), der(21));
        let expiry = Expiry::default();
        let day = |number: u64| utc::seconds(2030, 6, number, 3_600).unwrap();
        assert_eq!(expiry.warning("it", &one, day(5)), None);
        let said = expiry.warning("it", &one, day(7)).unwrap();
        assert_eq!(said, "it expires in 12 days, at 2030-06-20T00:00:00Z; renew it");
        assert_eq!(expiry.warning("it", &one, day(7) + 80_000), None, "it was said today");
        assert!(expiry.warning("it", &other, day(8)).is_some(), "another certificate");
        assert!(expiry.warning("it", &one, day(8)).is_some(), "a day later");
        assert_eq!(
            expiry.warning("it", &one, day(21)).as_deref(),
            Some("it expired at 2030-06-20T00:00:00Z; renew it")
        );
        assert_eq!(expiry.warning("it", b"no certificate", day(21)), None);
    }
}
