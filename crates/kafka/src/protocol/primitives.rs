//! Kafka's primitive types: numbers, strings, bytes, arrays, varints; classic and compact ("flexible") encodings.
//!
//! Promises: a [`Reader`] never panics, and checks every length and count against the bytes left before anything is allocated.
//! Does not know: any message.

use crate::leb128::{self, Malformed};

/// Why bytes are not what they should be. `at` is the offset in the answer after its length prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("{need} bytes needed at byte {at}, {left} are left")]
    Short { at: usize, need: usize, left: usize },
    #[error("impossible length {length} at byte {at}")]
    Length { at: usize, length: i64 },
    #[error("{count} elements of at least {element_bytes} bytes claimed at byte {at}, {left} bytes are left")]
    Count { at: usize, count: u64, element_bytes: usize, left: usize },
    #[error("null at byte {at} where the protocol has none")]
    Null { at: usize },
    #[error("text at byte {at} is not UTF-8")]
    Utf8 { at: usize },
    #[error("a varint at byte {at} does not end")]
    Varint { at: usize },
    #[error("record format {magic} at byte {at} is not known")]
    Magic { at: usize, magic: i8 },
    #[error("{bytes} bytes are left over after byte {at}")]
    Leftover { at: usize, bytes: usize },
}

/// An array's vector starts no larger than this many elements, so that a dense claim of tiny elements costs memory only as they
/// are really decoded.
const PREALLOCATED_ELEMENTS_MAX: usize = 256;

/// Bytes of an answer, read from the front.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes, at: 0 }
    }

    /// Offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Everything must have been read: a surplus means that we and the broker disagree on the format, and then nothing of what
    /// was decoded can be believed.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Leftover { at: self.at, bytes: self.rest.len() }) }
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let Some((head, rest)) = self.rest.split_at_checked(count) else {
            return Err(DecodeError::Short { at: self.at, need: count, left: self.rest.len() });
        };
        self.rest = rest;
        self.at += count;
        Ok(head)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let Some((head, rest)) = self.rest.split_first_chunk::<N>() else {
            return Err(DecodeError::Short { at: self.at, need: N, left: self.rest.len() });
        };
        self.rest = rest;
        self.at += N;
        Ok(*head)
    }

    pub fn i8(&mut self) -> Result<i8, DecodeError> {
        self.fixed().map(i8::from_be_bytes)
    }

    pub fn i16(&mut self) -> Result<i16, DecodeError> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub fn i32(&mut self) -> Result<i32, DecodeError> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.fixed().map(u32::from_be_bytes)
    }

    pub fn i64(&mut self) -> Result<i64, DecodeError> {
        self.fixed().map(i64::from_be_bytes)
    }

    pub fn bool(&mut self) -> Result<bool, DecodeError> {
        self.i8().map(|byte| byte != 0)
    }

    /// Base 128, least significant group first; at most 32 bits.
    pub fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let at = self.at;
        u32::try_from(self.varint_bits(5)?).map_err(|_| DecodeError::Varint { at })
    }

    /// Zig-zag, 32 bits.
    pub fn varint(&mut self) -> Result<i32, DecodeError> {
        self.unsigned_varint().map(|bits| leb128::unzigzag(bits.into()) as i32)
    }

    /// Zig-zag, 64 bits.
    pub fn varlong(&mut self) -> Result<i64, DecodeError> {
        self.varint_bits(10).map(leb128::unzigzag)
    }

    fn varint_bits(&mut self, bytes_max: usize) -> Result<u64, DecodeError> {
        let (at, mut rest) = (self.at, self.rest);
        match leb128::take(&mut rest, bytes_max) {
            Ok(bits) => {
                self.at += self.rest.len() - rest.len();
                self.rest = rest;
                Ok(bits)
            }
            Err(Malformed::Short) => Err(DecodeError::Short { at: at + self.rest.len(), need: 1, left: 0 }),
            Err(Malformed::Endless) => Err(DecodeError::Varint { at }),
        }
    }

    fn text(&mut self, bytes: usize) -> Result<&'a str, DecodeError> {
        let at = self.at;
        std::str::from_utf8(self.take(bytes)?).map_err(|_| DecodeError::Utf8 { at })
    }

    /// STRING.
    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let at = self.at;
        self.nullable_string()?.ok_or(DecodeError::Null { at })
    }

    /// NULLABLE_STRING: length -1 is null.
    pub fn nullable_string(&mut self) -> Result<Option<&'a str>, DecodeError> {
        let at = self.at;
        match self.i16()? {
            -1 => Ok(None),
            length => {
                let bytes = usize::try_from(length).map_err(|_| DecodeError::Length { at, length: length.into() })?;
                self.text(bytes).map(Some)
            }
        }
    }

    /// NULLABLE_BYTES: length -1 is null.
    pub fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        let at = self.at;
        match self.i32()? {
            -1 => Ok(None),
            length => {
                let bytes = usize::try_from(length).map_err(|_| DecodeError::Length { at, length: length.into() })?;
                self.take(bytes).map(Some)
            }
        }
    }

    /// ARRAY. `element_bytes` is the least one element takes; the count is refused when that many can't follow.
    pub fn array<T>(
        &mut self,
        element_bytes: usize,
        element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let at = self.at;
        self.nullable_array(element_bytes, element)?.ok_or(DecodeError::Null { at })
    }

    /// ARRAY whose count may be -1: null.
    pub fn nullable_array<T>(
        &mut self,
        element_bytes: usize,
        element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<Vec<T>>, DecodeError> {
        let at = self.at;
        match self.i32()? {
            -1 => Ok(None),
            count => {
                let count = u32::try_from(count).map_err(|_| DecodeError::Length { at, length: count.into() })?;
                self.elements(at, count, element_bytes, element).map(Some)
            }
        }
    }

    /// COMPACT_STRING.
    pub fn compact_string(&mut self) -> Result<&'a str, DecodeError> {
        let at = self.at;
        self.compact_nullable_string()?.ok_or(DecodeError::Null { at })
    }

    /// COMPACT_NULLABLE_STRING: the length plus one, 0 is null.
    pub fn compact_nullable_string(&mut self) -> Result<Option<&'a str>, DecodeError> {
        match self.unsigned_varint()?.checked_sub(1) {
            None => Ok(None),
            Some(bytes) => self.text(bytes as usize).map(Some),
        }
    }

    /// COMPACT_NULLABLE_BYTES: the length plus one, 0 is null.
    pub fn compact_nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, DecodeError> {
        match self.unsigned_varint()?.checked_sub(1) {
            None => Ok(None),
            Some(bytes) => self.take(bytes as usize).map(Some),
        }
    }

    /// COMPACT_ARRAY that is never null.
    pub fn compact_array<T>(
        &mut self,
        element_bytes: usize,
        element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        let at = self.at;
        let count = self.unsigned_varint()?.checked_sub(1).ok_or(DecodeError::Null { at })?;
        self.elements(at, count, element_bytes, element)
    }

    /// The tagged fields that end every flexible structure; we know none, so all are skipped.
    pub fn tagged_fields(&mut self) -> Result<(), DecodeError> {
        for _ in 0..self.unsigned_varint()? {
            let _tag = self.unsigned_varint()?;
            let bytes = self.unsigned_varint()?;
            self.take(bytes as usize)?;
        }
        Ok(())
    }

    fn elements<T>(
        &mut self,
        at: usize,
        count: u32,
        element_bytes: usize,
        mut element: impl FnMut(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Vec<T>, DecodeError> {
        assert!(element_bytes > 0, "an array's elements take at least a byte each, or a count alone would cost memory");
        let claimed = u64::from(count);
        if claimed.saturating_mul(element_bytes as u64) > self.rest.len() as u64 {
            return Err(DecodeError::Count { at, count: claimed, element_bytes, left: self.rest.len() });
        }
        let mut elements = Vec::with_capacity((count as usize).min(PREALLOCATED_ELEMENTS_MAX));
        for _ in 0..count {
            elements.push(element(self)?);
        }
        Ok(elements)
    }
}

/// Appends Kafka's types to a buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out }
    }

    /// Bytes in the buffer so far.
    pub fn position(&self) -> usize {
        self.out.len()
    }

    pub fn raw(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn i8(&mut self, value: i8) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i16(&mut self, value: i16) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i32(&mut self, value: i32) {
        self.raw(&value.to_be_bytes());
    }

    pub fn i64(&mut self, value: i64) {
        self.raw(&value.to_be_bytes());
    }

    pub fn bool(&mut self, value: bool) {
        self.i8(value.into());
    }

    pub fn unsigned_varint(&mut self, value: u32) {
        leb128::put(self.out, value.into());
    }

    /// STRING. Panics above 32,767 bytes: names are checked where they enter (`topic_name::check`, `Connection::open`).
    pub fn string(&mut self, value: &str) {
        self.i16(i16::try_from(value.len()).expect("a STRING has at most 32,767 bytes"));
        self.raw(value.as_bytes());
    }

    /// NULLABLE_STRING.
    pub fn nullable_string(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.string(value),
            None => self.i16(-1),
        }
    }

    /// The count that opens an ARRAY.
    pub fn count(&mut self, count: usize) {
        self.i32(i32::try_from(count).expect("an ARRAY has at most 2^31-1 elements"));
    }

    /// COMPACT_STRING.
    pub fn compact_string(&mut self, value: &str) {
        self.compact_count(value.len());
        self.raw(value.as_bytes());
    }

    /// The count that opens a COMPACT_ARRAY.
    pub fn compact_count(&mut self, count: usize) {
        self.unsigned_varint(u32::try_from(count + 1).expect("a COMPACT_ARRAY has at most 2^32-2 elements"));
    }

    /// The end of a flexible structure without tagged fields.
    pub fn no_tagged_fields(&mut self) {
        self.out.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_read_as_they_are_written_elsewhere() {
        for (bytes, value) in [
            (&[0x00][..], 0),
            (&[0x01], -1),
            (&[0x02], 1),
            (&[0x80, 0x01], 64),
            (&[0xfe, 0xff, 0xff, 0xff, 0x0f], i32::MAX),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f], i32::MIN),
        ] {
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.varint(), Ok(value), "{bytes:x?}");
            assert_eq!(reader.finish(), Ok(()));
            assert_eq!(Reader::new(bytes).varlong(), Ok(i64::from(value)), "{bytes:x?}");
        }
        let least = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(Reader::new(&least).varlong(), Ok(i64::MIN));
    }

    #[test]
    fn varints_that_do_not_end_or_do_not_fit_are_refused() {
        assert_eq!(Reader::new(&[0x80; 20]).unsigned_varint(), Err(DecodeError::Varint { at: 0 }));
        assert_eq!(Reader::new(&[0x80; 20]).varlong(), Err(DecodeError::Varint { at: 0 }));
        // Bit 32 and above.
        assert_eq!(Reader::new(&[0xff, 0xff, 0xff, 0xff, 0x1f]).unsigned_varint(), Err(DecodeError::Varint { at: 0 }));
        let wide = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x03];
        assert_eq!(Reader::new(&wide).varlong(), Err(DecodeError::Varint { at: 0 }));
        assert_eq!(Reader::new(&[0x80]).varint(), Err(DecodeError::Short { at: 1, need: 1, left: 0 }));
    }

    #[test]
    fn lengths_and_counts_are_checked_before_anything_is_allocated() {
        let huge = i32::MAX.to_be_bytes();
        assert!(matches!(Reader::new(&huge).nullable_bytes(), Err(DecodeError::Short { left: 0, .. })));
        assert!(matches!(
            Reader::new(&huge).array(1, Reader::i8),
            Err(DecodeError::Count { at: 0, count: 0x7fff_ffff, left: 0, .. })
        ));
        assert_eq!(
            Reader::new(&(-2i32).to_be_bytes()).array(1, Reader::i8),
            Err(DecodeError::Length { at: 0, length: -2 })
        );
        assert_eq!(Reader::new(&(-1i32).to_be_bytes()).array(1, Reader::i8), Err(DecodeError::Null { at: 0 }));
        assert_eq!(Reader::new(&(-2i16).to_be_bytes()).string(), Err(DecodeError::Length { at: 0, length: -2 }));
        let compact_huge = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert!(matches!(Reader::new(&compact_huge).compact_array(1, Reader::i8), Err(DecodeError::Count { .. })));
        assert!(matches!(Reader::new(&compact_huge).compact_string(), Err(DecodeError::Short { .. })));
        // 2^32-1 tagged fields claimed: ends at the first that is missing.
        assert!(matches!(Reader::new(&compact_huge).tagged_fields(), Err(DecodeError::Short { .. })));
    }

    #[test]
    fn text_must_be_utf8_and_leftovers_are_named() {
        assert_eq!(Reader::new(&[0, 1, 0xff]).string(), Err(DecodeError::Utf8 { at: 2 }));
        let mut reader = Reader::new(&[0, 1, b'a', 9, 9]);
        assert_eq!(reader.string(), Ok("a"));
        assert_eq!(reader.finish(), Err(DecodeError::Leftover { at: 3, bytes: 2 }));
    }
}
