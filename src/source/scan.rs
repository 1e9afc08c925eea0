//! Rows as bytes: one scratch buffer, the fingerprint over it, the fields as slices of it.
//!
//! Promises: no allocation per row once the buffers have grown; a large value is not copied. Does not know: what the bytes are for.

use super::schema::Table;
use crate::model::{Fingerprint, Guard};
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Result, Row};
use std::ops::Range;
use xxhash_rust::xxh3::{Xxh3, xxh3_64, xxh3_128};

/// A row larger than this does not keep its buffer.
const SCRATCH_KEPT_BYTES: usize = 1 << 20;

/// A larger value is a large one: its size is asked before it is read, and it is not copied.
pub(super) const LARGE_BYTES: usize = 1 << 20;

/// SQLite's type codes; part of the fingerprint's format, which the state file keeps.
mod kind {
    pub const INTEGER: u8 = 1;
    pub const REAL: u8 = 2;
    pub const TEXT: u8 = 3;
    pub const BLOB: u8 = 4;
    pub const NULL: u8 = 5;
    /// Of a value that was not read: its size stands for it.
    pub const UNREAD: u8 = 128;

    /// `by_value`: what makes the same bytes in a record is the same. A REAL is not its text here, which is not exact.
    pub fn of(kind: u8, by_value: bool) -> u8 {
        if by_value && (kind == INTEGER || kind == BLOB) { TEXT } else { kind }
    }
}

#[derive(Debug, Default)]
pub(super) struct Gather {
    /// For each stored column in order: type (1 byte), length (8 bytes, little endian), bytes. Behind it what only fields need.
    scratch: Vec<u8>,
    cells: Vec<Cell>,
    /// Some of the cells were left where they are.
    has_large: bool,
    /// Bytes of the stored values alone.
    content_bytes: usize,
}

#[derive(Clone, Copy, Debug)]
struct Cell {
    kind: u8,
    place: Place,
    len: usize,
}

/// Where a cell's bytes are.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// In the scratch buffer, from there on.
    Scratch(usize),
    /// In SQLite's memory: the row's column.
    Row(usize),
}

impl Gather {
    /// Takes the row's stored columns in, and with `fields` what the table's fields need beyond them. Column 0 is the rowid.
    ///
    /// INTEGER goes into the fingerprint as its decimal text, REAL as its eight bytes (its text is not exact), TEXT as UTF-8
    /// whatever the database's encoding.
    pub fn row(&mut self, row: &Row<'_>, table: &Table, fields: Option<&Connection>) -> Result<Fingerprint> {
        self.scratch.clear();
        self.cells.clear();
        self.has_large = false;
        self.content_bytes = 0;
        let Guard { columns, sent, by_value } = &table.traits.guard;
        let (guarded, sent) = (columns.len(), *sent);
        let mut cut = 0;
        for column in 0..guarded {
            self.cell_as(row.get_ref(column + 1)?, column + 1, *by_value && column < sent);
            if column + 1 == sent {
                cut = self.scratch.len();
            }
        }
        let print = if self.has_large {
            let others = if sent < guarded { self.hash_in_parts(row, sent..guarded, false)?.digest() } else { 0 };
            Fingerprint::of(self.hash_in_parts(row, 0..sent, *by_value)?.digest128(), others)
        } else {
            let others = if sent < guarded { xxh3_64(&self.scratch[cut..]) } else { 0 };
            Fingerprint::of(xxh3_128(&self.scratch[..cut]), others)
        };
        if let Some(connection) = fields {
            for column in guarded..table.columns {
                self.cell(row.get_ref(column + 1)?, column + 1);
            }
            for column in table.fields.iter().flatten() {
                if self.cells[*column].kind == kind::REAL {
                    self.real_as_text(connection, *column)?;
                }
            }
        }
        Ok(print)
    }

    /// Of some cells, as if all of them were in the scratch buffer.
    fn hash_in_parts(&self, row: &Row<'_>, cells: Range<usize>, by_value: bool) -> Result<Xxh3> {
        let mut hash = Xxh3::new();
        for cell in &self.cells[cells] {
            hash.update(&[kind::of(cell.kind, by_value)]);
            hash.update(&(cell.len as u64).to_le_bytes());
            hash.update(self.bytes(row, *cell)?);
        }
        Ok(hash)
    }

    fn bytes<'a>(&'a self, row: &'a Row<'_>, cell: Cell) -> Result<&'a [u8]> {
        match cell.place {
            Place::Scratch(start) => Ok(&self.scratch[start..start + cell.len]),
            Place::Row(column) => match row.get_ref(column)? {
                ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Ok(bytes),
                _ => Ok(&[]),
            },
        }
    }

    fn cell(&mut self, value: ValueRef<'_>, column: usize) {
        self.cell_as(value, column, false);
    }

    fn cell_as(&mut self, value: ValueRef<'_>, column: usize, by_value: bool) {
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
        self.content_bytes += bytes.len();
        if bytes.len() > LARGE_BYTES {
            self.has_large = true;
            self.cells.push(Cell { kind, place: Place::Row(column), len: bytes.len() });
            return;
        }
        self.scratch.push(kind::of(kind, by_value));
        self.scratch.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        let place = Place::Scratch(self.scratch.len());
        self.scratch.extend_from_slice(bytes);
        self.cells.push(Cell { kind, place, len: bytes.len() });
    }

    /// SQLite's own text of a REAL: nothing else formats it the same in every digit.
    fn real_as_text(&mut self, connection: &Connection, column: usize) -> Result<()> {
        let Place::Scratch(start) = self.cells[column].place else { return Ok(()) };
        let mut bits = [0u8; 8];
        bits.copy_from_slice(&self.scratch[start..start + 8]);
        let mut cast = connection.prepare_cached("SELECT CAST(?1 AS TEXT)")?;
        let mut rows = cast.query([f64::from_bits(u64::from_le_bytes(bits))])?;
        let start = self.scratch.len();
        if let Some(row) = rows.next()?
            && let ValueRef::Text(text) = row.get_ref(0)?
        {
            self.scratch.extend_from_slice(text);
        }
        // Marked as text, so that a second field on the same column finds it done.
        self.cells[column] = Cell { kind: kind::TEXT, place: Place::Scratch(start), len: self.scratch.len() - start };
        Ok(())
    }

    /// What stands for a row that can't be read as others are, from what `Table::apart` gives: its size in bytes, and a fingerprint, both
    /// of the columns that are wanted; and a fingerprint of all.
    pub fn apart(&mut self, row: &Row<'_>, table: &Table) -> Result<Apart> {
        let (mut wanted, mut all) = (Xxh3::new(), Xxh3::new());
        let mut bytes = 0;
        for (at, is_wanted) in table.apart_wanted.iter().enumerate() {
            let size: Option<u64> = row.get::<_, Option<i64>>(3 * at + 1)?.map(|size| size as u64);
            let unread = size.is_some_and(|size| size > LARGE_BYTES as u64);
            self.scratch.clear();
            self.cell(row.get_ref(3 * at + 2)?, 3 * at + 2);
            if unread {
                self.scratch.clear();
                self.scratch.push(kind::UNREAD);
                self.scratch.extend_from_slice(row.get_ref(3 * at)?.as_bytes()?);
                self.scratch.extend_from_slice(&size.unwrap_or_default().to_le_bytes());
            }
            all.update(&self.scratch);
            if *is_wanted {
                wanted.update(&self.scratch);
                bytes += size.unwrap_or_default();
            }
        }
        self.cells.clear();
        Ok(Apart { bytes, wanted: Fingerprint(wanted.digest128()), all: Fingerprint(all.digest128()) })
    }

    /// The fields of the row last taken in, into `fields`.
    pub fn fields<'a>(&'a self, row: &'a Row<'_>, table: &Table, fields: &mut Vec<Option<&'a [u8]>>) {
        fields.extend(table.fields.iter().map(|column| {
            let cell = self.cells[(*column)?];
            if cell.kind == kind::NULL { None } else { self.bytes(row, cell).ok() }
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

/// See [`Gather::apart`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Apart {
    pub bytes: u64,
    pub wanted: Fingerprint,
    pub all: Fingerprint,
}

/// What a row is like, without its large values; `None` when it is not there.
pub(super) fn apart(
    connection: &Connection,
    gather: &mut Gather,
    table: &Table,
    rowid: i64,
) -> rusqlite::Result<Option<Apart>> {
    let mut statement = connection.prepare_cached(&table.apart)?;
    let mut rows = statement.query([rowid])?;
    rows.next()?.map(|row| gather.apart(row, table)).transpose()
}

/// While it lives, a large value is an error of its row: nothing of it is read.
pub(super) struct WithoutLarge<'a>(&'a Connection);

impl<'a> WithoutLarge<'a> {
    pub fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, LARGE_BYTES as i32)?;
        Ok(WithoutLarge(connection))
    }
}

impl Drop for WithoutLarge<'_> {
    fn drop(&mut self) {
        // More than SQLite can: it takes its own limit.
        let _ = self.0.set_limit(Limit::SQLITE_LIMIT_LENGTH, i32::MAX);
    }
}

/// An empty list of fields for another row, in the allocation of the last one: the types differ in lifetime only, and
/// collecting a mapped `IntoIter` works in place.
pub(super) fn recycle<'b>(mut fields: Vec<Option<&[u8]>>) -> Vec<Option<&'b [u8]>> {
    fields.clear();
    fields.into_iter().map(|_| None).collect()
}
