//! Values: what an event carries, made from writer, aggregate and sequence alone.
//!
//! Promises: the same arguments give the same bytes; two events of one writer never carry the same plain payload.
//! Does not know: SQL, ledgers.

use rusqlite::types::Value;

/// A value as it is bound, and the SQL expression that takes it (a cast makes text that is not UTF-8).
pub struct Bound {
    pub value: Value,
    pub cast_to_text: bool,
}

impl From<Value> for Bound {
    fn from(value: Value) -> Self {
        Bound { value, cast_to_text: false }
    }
}

/// `{"writer":1,"aggregate":"w1-a2","sequence":3,"fill":"..."}` of exactly `size` bytes, or as small as it can be.
pub fn plain(writer: u32, aggregate: &str, sequence: u64, size: usize) -> String {
    let head = format!("{{\"writer\":{writer},\"aggregate\":\"{aggregate}\",\"sequence\":{sequence},\"fill\":\"");
    let mut text = head;
    let fill = size.saturating_sub(text.len() + 2);
    let mut state = (u64::from(writer) << 40) ^ sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    text.reserve(fill + 2);
    for _ in 0..fill {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text.push(char::from(b'a' + (state >> 32) as u8 % 26));
    }
    text.push_str("\"}");
    text
}

/// The size of an event's payload: half to one and a half of `mean`, every `large_every`-th 100 kB.
pub fn size(random: &mut fastrand::Rng, sequence: u64, mean: usize, large_every: Option<u64>) -> usize {
    match large_every {
        Some(every) if sequence.is_multiple_of(every) => 100_000,
        _ => random.usize(mean / 2..=mean + mean / 2),
    }
}

const UNICODE: &str = "Grüße, Ελλάδα, 漢字, 👩‍👩‍👧‍👦, \u{FEFF}, \u{10FFFF}";

/// An odd payload; the sequence chooses which.
pub fn odd(writer: u32, aggregate: &str, sequence: u64, utf8: bool) -> Bound {
    let every_byte = || (0..=255u8).cycle().take(700).map(|byte| byte ^ sequence as u8).collect::<Vec<u8>>();
    match sequence % 13 {
        0 => Value::Null.into(),
        1 => Value::Blob(every_byte()).into(),
        2 => Value::Text(format!("{UNICODE} {sequence}")).into(),
        3 => Value::Text(format!("before\0after {sequence}\0")).into(),
        4 => Value::Integer(i64::MIN + sequence as i64).into(),
        5 => Value::Real(sequence as f64 + 0.1).into(),
        6 => Value::Text(String::new()).into(),
        7 => Value::Blob(Vec::new()).into(),
        8 => Value::Integer(0).into(),
        9 => Value::Real(-1.0e300 / sequence as f64).into(),
        // Text that is not UTF-8 exists only where the database does not convert it.
        10 if utf8 => Bound { value: Value::Blob(vec![0xFF, b'x', 0xC3, 0x28]), cast_to_text: true },
        11 => Value::Text("\n\r\t\"\\'`, = %s {}\u{1}\u{1b}".to_owned()).into(),
        _ => Value::Text(plain(writer, aggregate, sequence, 200)).into(),
    }
}

/// Aggregate ids of every type; each writer has its own set. No two of them read alike as bytes.
pub fn odd_aggregate(writer: u32, index: u32) -> Value {
    let number = i64::from(writer) * 1000 + i64::from(index);
    match index % 9 {
        0 => Value::Null,
        1 => Value::Integer(number),
        2 => Value::Real(number as f64 + 0.5),
        3 => Value::Text(format!("Öl-{number}-😀")),
        4 => Value::Text(format!("nul\0{number}")),
        5 => Value::Blob(vec![0, 0xFF, 0x80, writer as u8, index as u8]),
        6 => Value::Text(format!("w{writer} a{index} {}", "long ".repeat(100))),
        7 => Value::Integer(-number),
        _ => Value::Text(format!("w{writer}-a{index}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_plain_payload_has_the_size_asked_for_and_is_never_repeated() {
        assert_eq!(plain(1, "w1-a2", 3, 200).len(), 200);
        assert_eq!(plain(1, "w1-a2", 3, 100_000).len(), 100_000);
        assert_eq!(plain(1, "w1-a2", 3, 200), plain(1, "w1-a2", 3, 200));
        let mut seen = HashSet::new();
        for writer in 0..4 {
            for sequence in 1..100 {
                assert!(seen.insert(plain(writer, &format!("w{writer}-a0"), sequence, 0)));
            }
        }
    }

    #[test]
    fn no_two_odd_aggregates_read_alike() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        let mut seen = HashSet::new();
        for writer in 0..4 {
            for index in (0..9).filter(|index| index % 9 != 0) {
                let bytes = crate::write::expected(&db, &odd_aggregate(writer, index)).unwrap();
                assert!(seen.insert(bytes.clone()), "writer {writer} index {index}: {bytes:?}");
            }
        }
    }

    #[test]
    fn odd_payloads_cover_every_storage_class() {
        let kinds: HashSet<_> =
            (0..13).map(|sequence| std::mem::discriminant(&odd(0, "a", sequence, true).value)).collect();
        assert_eq!(kinds.len(), 5);
        assert!((0..13).any(|sequence| odd(0, "a", sequence, true).cast_to_text));
        assert!(!(0..13).any(|sequence| odd(0, "a", sequence, false).cast_to_text));
    }
}
