//! The ledger: one line for each committed event, written after its COMMIT returned.
//!
//! Line: aggregate, sequence, event type, payload, each `-` for NULL, `=` for empty or its bytes in hex, separated by spaces. The bytes are
//! those a consumer must receive. Promises: in commit order, flushed line by line. Does not know: tables.

use crate::Result;
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub aggregate: Option<Vec<u8>>,
    pub sequence: u64,
    pub event_type: Option<Vec<u8>>,
    pub payload: Option<Vec<u8>>,
}

pub struct Ledger {
    file: File,
    line: String,
}

impl Ledger {
    pub fn append_to(path: &Path) -> Result<Self> {
        Ok(Ledger { file: OpenOptions::new().create(true).append(true).open(path)?, line: String::new() })
    }

    /// One `write` for a transaction's events: whoever reads sees all of them or none.
    pub fn add(&mut self, entries: &[Entry]) -> Result<()> {
        self.line.clear();
        for entry in entries {
            hex(&mut self.line, entry.aggregate.as_deref());
            write!(self.line, " {} ", entry.sequence)?;
            hex(&mut self.line, entry.event_type.as_deref());
            self.line.push(' ');
            hex(&mut self.line, entry.payload.as_deref());
            self.line.push('\n');
        }
        Ok(self.file.write_all(self.line.as_bytes())?)
    }
}

fn hex(line: &mut String, bytes: Option<&[u8]>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    match bytes {
        None => line.push('-'),
        // An empty value must differ from a missing one and from the separator.
        Some([]) => line.push('='),
        Some(bytes) => {
            for byte in bytes {
                line.push(char::from(DIGITS[usize::from(byte >> 4)]));
                line.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
    }
}
