//! Takes records out of the records section of a batch (format v2, uncompressed).
//!
//! It promises every byte as it was sent, repeated header names included, and an error for anything a broker would refuse as a
//! malformed record. It does not know what a batch header says beyond the count, nor any compression.
//!
//! `kafka-protocol`'s own decoder is not used for this: it puts headers into a map, so a repeated name would be lost and a test could
//! not see a producer that loses it. The crate's tests hold the two against each other where both can tell.

/// A record as its bytes say, before a broker gave it an offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In the order sent; names may repeat, values may be null.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// Why the records section is not `count` records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let (head, tail) = self.rest.split_at_checked(count).ok_or(Malformed("cut short"))?;
        self.rest = tail;
        Ok(head)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.take(1)?[0])
    }

    /// A zig-zag varint of at most ten bytes.
    fn varlong(&mut self) -> Result<i64, Malformed> {
        let mut raw = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            if shift == 63 && byte > 1 {
                return Err(Malformed("a varint beyond 64 bits"));
            }
            raw |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((raw >> 1) as i64 ^ -((raw & 1) as i64));
            }
        }
        Err(Malformed("a varint without an end"))
    }

    fn varint(&mut self) -> Result<i32, Malformed> {
        i32::try_from(self.varlong()?).map_err(|_| Malformed("a varint beyond 32 bits"))
    }

    /// A length, then as many bytes; -1 is null.
    fn nullable_bytes(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        match self.varint()? {
            -1 => Ok(None),
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed("a length below -1"))?;
                self.take(length).map(Some)
            }
        }
    }
}

/// The `count` records that `bytes` must hold exactly: no fewer, and nothing left over.
pub fn decode(bytes: &[u8], count: i32) -> Result<Vec<Record>, Malformed> {
    Ok(split(bytes, count)?.into_iter().map(|(_, record)| record).collect())
}

/// The same, each with its own bytes, length included.
pub fn split(bytes: &[u8], count: i32) -> Result<Vec<(&[u8], Record)>, Malformed> {
    let mut cursor = Cursor { rest: bytes };
    let mut records = Vec::new();
    for _ in 0..count {
        let begun = cursor.rest;
        let length = usize::try_from(cursor.varint()?).map_err(|_| Malformed("a record of negative length"))?;
        let mut body = Cursor { rest: cursor.take(length)? };
        records.push((&begun[..begun.len() - cursor.rest.len()], decode_one(&mut body)?));
        if !body.rest.is_empty() {
            return Err(Malformed("a record longer than its fields"));
        }
    }
    if cursor.rest.is_empty() { Ok(records) } else { Err(Malformed("bytes after the last record")) }
}

fn decode_one(body: &mut Cursor<'_>) -> Result<Record, Malformed> {
    let _attributes = body.byte()?;
    let timestamp_delta = body.varlong()?;
    let offset_delta = body.varint()?;
    let key = body.nullable_bytes()?.map(<[u8]>::to_vec);
    let value = body.nullable_bytes()?.map(<[u8]>::to_vec);
    let header_count = body.varint()?;
    if header_count < 0 {
        return Err(Malformed("a negative count of headers"));
    }
    let mut headers = Vec::new();
    for _ in 0..header_count {
        let name = body.nullable_bytes()?.ok_or(Malformed("a header without a name"))?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| Malformed("a header name that is not UTF-8"))?;
        headers.push((name, body.nullable_bytes()?.map(<[u8]>::to_vec)));
    }
    Ok(Record { timestamp_delta, offset_delta, key, value, headers })
}
