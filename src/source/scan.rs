//! Rows as bytes: one scratch buffer, the fingerprint over it, the fields as slices of it.
//!
//! Promises: no allocation per row once the buffers have grown. Does not know: what the bytes are for.

use super::schema::Table;
use crate::model::Fingerprint;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result, Row};
use xxhash_rust::xxh3::xxh3_128;

/// A row larger than this does not keep its buffer.
const SCRATCH_KEPT_BYTES: usize = 1 << 20;

/// SQLite's type codes; part of the fingerprint's format, which the state file keeps.
mod kind {
    pub const INTEGER: u8 = 1;
    pub const REAL: u8 = 2;
    pub const TEXT: u8 = 3;
    pub const BLOB: u8 = 4;
    pub const NULL: u8 = 5;
}

#[derive(Debug, Default)]
pub(super) struct Gather {
    /// For each stored column in order: type (1 byte), length (8 bytes, little endian), bytes. Behind it what only fields need.
    scratch: Vec<u8>,
    cells: Vec<Cell>,
    /// Bytes of the stored values alone.
    content_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    kind: u8,
    start: usize,
    len: usize,
}

impl Gather {
    /// Takes the row's stored columns in, and with `fields` what the table's fields need beyond them. Column 0 is the rowid.
    ///
    /// INTEGER goes into the fingerprint as its decimal text, REAL as its eight bytes (its text is not exact), TEXT as UTF-8
    /// whatever the database's encoding.
    pub fn row(&mut self, row: &Row<'_>, table: &Table, fields: Option<&Connection>) -> Result<Fingerprint> {
        self.scratch.clear();
        self.cells.clear();
        self.content_bytes = 0;
        let stored = table.traits.columns.len();
        for column in 0..stored {
            self.cell(row.get_ref(column + 1)?);
        }
        let print = Fingerprint(xxh3_128(&self.scratch));
        if let Some(connection) = fields {
            for column in stored..table.columns {
                self.cell(row.get_ref(column + 1)?);
            }
            for column in table.fields.iter().flatten() {
                if self.cells[*column].kind == kind::REAL {
                    self.real_as_text(connection, *column)?;
                }
            }
        }
        Ok(print)
    }

    fn cell(&mut self, value: ValueRef<'_>) {
        let mut digits = itoa::Buffer::new();
        let bits;
        let (kind, bytes): (u8, &[u8]) = match value {
            ValueRef::Null => (kind::NULL, &[]),
            ValueRef::Integer(number) => (kind::INTEGER, digits.format(number).as_bytes()),
            ValueRef::Real(number) => {
                bits = number.to_bits().to_le_bytes();
                (kind::REAL, &bits)
            }
            ValueRef::Text(text) => (kind::TEXT, text),
            ValueRef::Blob(blob) => (kind::BLOB, blob),
        };
        self.scratch.push(kind);
        self.scratch.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        let start = self.scratch.len();
        self.scratch.extend_from_slice(bytes);
        self.cells.push(Cell { kind, start, len: bytes.len() });
        self.content_bytes += bytes.len();
    }

    /// SQLite's own text of a REAL: nothing else formats it the same in every digit.
    fn real_as_text(&mut self, connection: &Connection, column: usize) -> Result<()> {
        let cell = self.cells[column];
        let mut bits = [0u8; 8];
        bits.copy_from_slice(&self.scratch[cell.start..cell.start + cell.len]);
        let mut cast = connection.prepare_cached("SELECT CAST(?1 AS TEXT)")?;
        let mut rows = cast.query([f64::from_bits(u64::from_le_bytes(bits))])?;
        let start = self.scratch.len();
        if let Some(row) = rows.next()?
            && let ValueRef::Text(text) = row.get_ref(0)?
        {
            self.scratch.extend_from_slice(text);
        }
        // Marked as text, so that a second field on the same column finds it done.
        self.cells[column] = Cell { kind: kind::TEXT, start, len: self.scratch.len() - start };
        Ok(())
    }

    /// The fields of the row last taken in, into `fields`.
    pub fn fields<'a>(&'a self, table: &Table, fields: &mut Vec<Option<&'a [u8]>>) {
        fields.extend(table.fields.iter().map(|column| {
            let cell = self.cells[(*column)?];
            (cell.kind != kind::NULL).then(|| &self.scratch[cell.start..cell.start + cell.len])
        }));
    }

    /// About how many bytes of a leaf page the row last taken in occupies: record header, values, cell header and pointer.
    pub fn cell_size_bytes(&self) -> usize {
        // A type code of one byte, or two from 58 bytes of text on; record header size 1, payload size and rowid 2 to 4 each,
        // cell pointer 2. An INTEGER is stored in fewer bytes than its text has digits; half is near enough.
        self.cells.iter().fold(9, |sum, cell| {
            sum + match cell.kind {
                kind::INTEGER => 1 + cell.len / 2,
                kind::NULL => 1,
                kind::REAL => 9,
                _ => cell.len + 1 + usize::from(cell.len > 57),
            }
        })
    }

    /// Bytes of the values of the row last taken in.
    pub fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// After a look: gives back what one giant row made the buffer grow to.
    pub fn shrink(&mut self) {
        if self.scratch.capacity() > SCRATCH_KEPT_BYTES {
            self.scratch = Vec::new();
        }
    }
}

/// An empty list of fields for another row, in the allocation of the last one: the types differ in lifetime only, and
/// collecting a mapped `IntoIter` works in place.
pub(super) fn recycle<'b>(mut fields: Vec<Option<&[u8]>>) -> Vec<Option<&'b [u8]>> {
    fields.clear();
    fields.into_iter().map(|_| None).collect()
}
