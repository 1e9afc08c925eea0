//! What the relay's buffers may take together: a pot for lanes that are well, one for lanes that wait for their broker, and with
//! each a place for one row larger than a pot.
//!
//! Promises: bounded, whatever the rows' sizes and however many lanes are stuck; what stuck lanes hold takes nothing from the others.
//! Does not know: lanes, rows.

/// A lane's batch may always have so many rows, however many the lanes that wait for their broker hold.
const BATCH_ROWS_MIN: usize = 32;

/// See the module's words. A buffer belongs to a pot by its size alone, unless it is set apart.
#[derive(Debug)]
pub struct Memory {
    pot_bytes: usize,
    pot_rows: usize,
    bytes: usize,
    /// Of the one row that is larger than a pot.
    large_bytes: usize,
    apart_bytes: usize,
    apart_large_bytes: usize,
    rows: usize,
    apart_rows: usize,
}

impl Memory {
    pub fn new(pot_rows: usize, pot_bytes: usize) -> Self {
        Memory {
            pot_bytes,
            pot_rows,
            bytes: 0,
            large_bytes: 0,
            apart_bytes: 0,
            apart_large_bytes: 0,
            rows: 0,
            apart_rows: 0,
        }
    }

    /// Bytes of all there is.
    pub fn bytes(&self) -> usize {
        self.bytes + self.large_bytes + self.apart_bytes + self.apart_large_bytes
    }

    /// All rows held.
    pub fn rows(&self) -> usize {
        self.rows + self.apart_rows
    }

    pub fn is_large(&self, bytes: usize) -> bool {
        bytes > self.pot_bytes
    }

    /// What lanes that are well may still take.
    pub fn free(&self) -> usize {
        self.pot_bytes.saturating_sub(self.bytes)
    }

    pub fn has_rows_left(&self) -> bool {
        self.rows < self.pot_rows
    }

    /// Whether a row of this size can be taken, by whomever.
    pub fn admits(&self, bytes: usize) -> bool {
        if self.is_large(bytes) { self.large_bytes == 0 } else { bytes <= self.free() }
    }

    /// How many rows a batch may have, by what waits for a broker: rows that are planned can't be given back.
    pub fn batch_rows_max(&self) -> usize {
        (self.pot_rows.saturating_sub(self.apart_rows) / 4).max(BATCH_ROWS_MIN)
    }

    fn pot(&mut self, bytes: usize) -> &mut usize {
        if self.is_large(bytes) { &mut self.large_bytes } else { &mut self.bytes }
    }

    pub fn take(&mut self, rows: usize, bytes: usize) {
        self.rows += rows;
        *self.pot(bytes) += bytes;
    }

    pub fn give(&mut self, rows: usize, bytes: usize) {
        self.rows -= rows;
        *self.pot(bytes) -= bytes;
    }

    /// Whether bytes that are read again for a lane that waits find room.
    pub fn admits_apart(&self, bytes: usize) -> bool {
        self.admits_apart_without(0, bytes)
    }

    /// The same once so many bytes of batches of its kind (large or not) are given back.
    pub fn admits_apart_without(&self, given: usize, bytes: usize) -> bool {
        if self.is_large(bytes) {
            self.apart_large_bytes <= given
        } else {
            self.apart_bytes.saturating_sub(given) + bytes <= self.pot_bytes
        }
    }

    /// A batch's lane waits for its broker. False: there is no room for its bytes with the others that wait.
    pub fn set_apart(&mut self, rows: usize, bytes: usize) -> bool {
        if !self.admits_apart(bytes) {
            return false;
        }
        self.give(rows, bytes);
        self.take_apart(rows, bytes);
        true
    }

    /// The same of one whose bytes were not counted.
    pub fn take_apart(&mut self, rows: usize, bytes: usize) {
        self.apart_rows += rows;
        if self.is_large(bytes) {
            self.apart_large_bytes += bytes;
        } else {
            self.apart_bytes += bytes;
        }
    }

    pub fn give_apart(&mut self, rows: usize, bytes: usize) {
        self.apart_rows -= rows;
        if self.is_large(bytes) {
            self.apart_large_bytes -= bytes;
        } else {
            self.apart_bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_apart_takes_nothing_from_the_others() {
        let mut memory = Memory::new(100, 1_000);
        memory.take(10, 900);
        assert!(!memory.admits(200));
        assert!(memory.set_apart(10, 900));
        assert!(memory.admits(1_000));
        memory.take(1, 1_000);
        assert!(!memory.set_apart(1, 1_000), "there is no room with the others that wait");
        assert_eq!((memory.rows(), memory.bytes()), (11, 1_900));
        memory.give_apart(10, 900);
        assert!(memory.set_apart(1, 1_000));
    }

    #[test]
    fn one_row_larger_than_a_pot_has_a_place_of_its_own() {
        let mut memory = Memory::new(100, 1_000);
        memory.take(1, 1_000);
        assert!(memory.admits(5_000));
        memory.take(1, 5_000);
        assert!(!memory.admits(5_000));
        memory.give(1, 1_000);
        assert!(memory.admits(1_000));
        assert!(memory.set_apart(1, 5_000));
        assert!(memory.admits(5_000), "whoever waits has a place of its own");
        assert!(!memory.admits_apart(5_000));
        memory.give_apart(1, 5_000);
        assert_eq!((memory.rows(), memory.bytes()), (0, 0));
    }
}
