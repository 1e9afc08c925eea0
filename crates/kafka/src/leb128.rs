//! Whole numbers in as few bytes as they need: base 128, least significant group first, and zig-zag for those below 0.
//!
//! Promises: pure; at most ten bytes are read. Does not know: what is counted.

/// Why bytes are not a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The bytes end before the number does.
    Short,
    /// The number does not end where it must, or is larger than 64 bits.
    Endless,
}

/// Appends a number.
#[inline]
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// How many bytes [`put`] appends.
#[inline]
pub fn bytes(value: u64) -> usize {
    // One byte for every seven bits, at least one.
    ((70 - (value | 1).leading_zeros()) / 7) as usize
}

/// Takes a number of at most `bytes_max` bytes from the front.
#[inline]
pub fn take(from: &mut &[u8], bytes_max: usize) -> Result<u64, Malformed> {
    let mut value = 0;
    for (at, byte) in from.iter().take(bytes_max).enumerate() {
        // The tenth byte has room for one bit only.
        if at > 9 || (at == 9 && *byte > 1) {
            break;
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if *byte < 0x80 {
            *from = &from[at + 1..];
            return Ok(value);
        }
    }
    Err(if from.len() < bytes_max.min(10) { Malformed::Short } else { Malformed::Endless })
}

/// Small numbers of either sign as small ones without.
#[inline]
pub fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The number that [`zigzag`] was given.
#[inline]
pub fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_as_many_bytes_as_they_are_said_to_take() {
        let edges = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]).chain([u64::MAX]);
        for value in edges {
            let mut out = vec![7];
            put(&mut out, value);
            assert_eq!(out.len() - 1, bytes(value), "{value}");
            for cut in 1..out.len() {
                assert_eq!(take(&mut &out[1..cut], 10), Err(Malformed::Short), "{value} cut at {cut}");
            }
            assert_eq!(take(&mut &out[1..], bytes(value) - 1), Err(Malformed::Endless), "{value}");
            out.push(9);
            let mut rest = &out[1..];
            assert_eq!((take(&mut rest, 10), rest), (Ok(value), &[9][..]));
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX, i64::from(i32::MIN)] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
        assert_eq!((zigzag(-1), zigzag(1), zigzag(i64::MIN)), (1, 2, u64::MAX));
    }

    #[test]
    fn what_does_not_end_or_does_not_fit_is_refused() {
        assert_eq!(take(&mut &[0x80; 20][..], 10), Err(Malformed::Endless));
        assert_eq!(take(&mut &[0x80; 20][..], 5), Err(Malformed::Endless));
        assert_eq!(take(&mut &[0x80; 4][..], 5), Err(Malformed::Short));
        let wide = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03];
        assert_eq!(take(&mut &wide[..], 10), Err(Malformed::Endless));
    }
}
