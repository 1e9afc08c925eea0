//! What a certificate says of itself, for texts and warnings: RFC 5280's outer fields, read from DER.
//!
//! Promises: never panics; lengths are checked against what is there; nothing is believed because it stands here. Does not know:
//! signatures and chains, which are the TLS library's affair.

use super::utc;
use core::net::{Ipv4Addr, Ipv6Addr};

/// Names that are kept of a certificate: they are printed.
const NAMES_MAX: usize = 8;

/// The fields of a certificate that people are told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// 1 or 3.
    pub(crate) version: u8,
    /// Seconds since 1970.
    pub(crate) not_before: u64,
    /// Seconds since 1970.
    pub(crate) not_after: u64,
    /// The subject's name in DER, to compare.
    pub(crate) subject: Vec<u8>,
    /// Of an RSA key: the bits of its modulus.
    pub(crate) rsa_bits: Option<usize>,
    /// The basic constraints say CA:TRUE.
    pub(crate) is_ca: bool,
    /// DNS names and IP addresses of the subjectAltName, the first few.
    pub(crate) names: Vec<String>,
    /// How many there are.
    pub(crate) names_count: usize,
}

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];

impl Certificate {
    /// `None`: this is no certificate.
    pub(crate) fn read(der: &[u8]) -> Option<Certificate> {
        let mut whole = Der(der);
        let mut certificate = Der(whole.take(SEQUENCE)?);
        let mut fields = Der(certificate.take(SEQUENCE)?);
        let mut out = Certificate { version: 1, ..Certificate::default() };
        if fields.next_is(VERSION) {
            out.version = Der(fields.take(VERSION)?).take(INTEGER)?.last()?.checked_add(1)?;
        }
        fields.take(INTEGER)?; // serial number
        fields.take(SEQUENCE)?; // signature algorithm
        fields.take(SEQUENCE)?; // issuer
        let mut validity = Der(fields.take(SEQUENCE)?);
        out.not_before = validity.time()?;
        out.not_after = validity.time()?;
        out.subject = fields.take(SEQUENCE)?.to_vec();
        out.rsa_bits = rsa_bits(fields.take(SEQUENCE)?);
        while !fields.0.is_empty() {
            let (tag, content) = fields.element()?;
            if tag == EXTENSIONS {
                out.extensions(content)?;
            }
        }
        Some(out)
    }

    fn extensions(&mut self, content: &[u8]) -> Option<()> {
        let mut list = Der(Der(content).take(SEQUENCE)?);
        while !list.0.is_empty() {
            let mut extension = Der(list.take(SEQUENCE)?);
            let id = extension.take(OBJECT_IDENTIFIER)?;
            if extension.next_is(BOOLEAN) {
                extension.take(BOOLEAN)?; // critical
            }
            let value = extension.take(OCTET_STRING)?;
            if id == BASIC_CONSTRAINTS {
                let mut constraints = Der(Der(value).take(SEQUENCE)?);
                self.is_ca = constraints.next_is(BOOLEAN) && constraints.take(BOOLEAN)? == [0xff];
            } else if id == SUBJECT_ALT_NAME {
                let mut names = Der(Der(value).take(SEQUENCE)?);
                while !names.0.is_empty() {
                    let (tag, content) = names.element()?;
                    if let Some(name) = name(tag, content) {
                        self.names_count += 1;
                        if self.names.len() < NAMES_MAX {
                            self.names.push(name);
                        }
                    }
                }
            }
        }
        Some(())
    }
}

fn name(tag: u8, content: &[u8]) -> Option<String> {
    match tag {
        DNS_NAME => std::str::from_utf8(content).ok().map(str::to_owned),
        IP_ADDRESS => match content.len() {
            4 => <[u8; 4]>::try_from(content).ok().map(|bytes| Ipv4Addr::from(bytes).to_string()),
            16 => <[u8; 16]>::try_from(content).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Of a SubjectPublicKeyInfo.
fn rsa_bits(info: &[u8]) -> Option<usize> {
    let mut info = Der(info);
    if Der(info.take(SEQUENCE)?).take(OBJECT_IDENTIFIER)? != RSA_ENCRYPTION {
        return None;
    }
    let (_unused_bits, key) = info.take(BIT_STRING)?.split_first()?;
    let modulus = Der(Der(key).take(SEQUENCE)?).take(INTEGER)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    Some((modulus.len() - first) * 8 - modulus[first].leading_zeros() as usize)
}

/// Elements of DER, read from the front.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next_is(&self, tag: u8) -> bool {
        self.0.first() == Some(&tag)
    }

    /// The content of the next element, which has this tag.
    fn take(&mut self, wanted: u8) -> Option<&'a [u8]> {
        let (tag, content) = self.element()?;
        (tag == wanted).then_some(content)
    }

    /// Tag and content. Tags of several bytes and lengths beyond 2^32 are in no certificate.
    fn element(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (bytes.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`. A date before 1970 counts as 1970.
    fn time(&mut self) -> Option<u64> {
        let (tag, content) = self.element()?;
        let (year, rest) = match tag {
            UTC_TIME => {
                let two = number(content.get(..2)?)?;
                (if two < 50 { 2000 + two } else { 1900 + two }, content.get(2..)?)
            }
            GENERALIZED_TIME => (number(content.get(..4)?)?, content.get(4..)?),
            _ => return None,
        };
        let part = |at: usize| number(rest.get(at..at + 2)?);
        let of_day = part(4)? * 3_600 + part(6)? * 60 + part(8)?;
        Some(utc::seconds(year, part(0)?, part(2)?, of_day).unwrap_or(0))
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0u64, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    #[test]
    fn a_certificate_is_read_and_no_cut_of_it_is_taken_for_one() {
        let mut params =
            CertificateParams::new(["kafka-1.example".to_owned(), "10.1.2.3".into(), "::1".into()]).unwrap();
        params.not_before = date_time_ymd(2020, 2, 29);
        params.not_after = date_time_ymd(2051, 1, 1);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let read = Certificate::read(&der).unwrap();
        assert_eq!(read.names, ["kafka-1.example", "10.1.2.3", "::1"]);
        assert_eq!((read.version, read.is_ca, read.rsa_bits, read.names_count), (3, true, None, 3));
        assert_eq!(utc::time(read.not_before), "2020-02-29T00:00:00Z");
        assert_eq!(utc::time(read.not_after), "2051-01-01T00:00:00Z");
        for bytes in 0..der.len() {
            assert_eq!(Certificate::read(&der[..bytes]), None, "{bytes}");
        }
    }

    #[test]
    fn damaged_bytes_are_never_a_panic() {
        let params = CertificateParams::new(["a".to_owned()]).unwrap();
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        for at in 0..der.len() {
            for value in [0, 1, 0x7f, 0x80, 0x84, 0xff] {
                let mut damaged = der.clone();
                damaged[at] = value;
                let _ = Certificate::read(&damaged);
            }
        }
    }
}
