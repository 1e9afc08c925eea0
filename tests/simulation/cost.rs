//! What a relay costs: turns of its loop, looks, rows and bytes read, deletes. While nothing can be done it does next to nothing.

use crate::Run;
use std::ops::Sub;
use std::time::Duration;

/// Counted since the world began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    pub turns: u64,
    pub looks: u64,
    pub rows: u64,
    pub bytes: u64,
    pub deletes: u64,
}

impl Meter {
    /// A look has given a row with so many bytes.
    pub fn row(&mut self, bytes: usize) {
        self.rows += 1;
        self.bytes += bytes as u64;
    }
}

impl Sub for Meter {
    type Output = Meter;

    fn sub(self, before: Meter) -> Meter {
        Meter {
            turns: self.turns - before.turns,
            looks: self.looks - before.looks,
            rows: self.rows - before.rows,
            bytes: self.bytes - before.bytes,
            deletes: self.deletes - before.deletes,
        }
    }
}

/// What is allowed.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub turns: u64,
    pub looks: u64,
    pub rows: u64,
    pub bytes: u64,
    pub deletes: u64,
}

/// Nothing changes: the net, the figures and the quarantine, once a second each.
pub const AT_REST: Bounds = Bounds { turns: 200, looks: 4, rows: 20, bytes: 4_000, deletes: 0 };

/// Batches are with a sink that does not answer, thousands of rows wait, others commit ten times a second: as many looks, and no row
/// is read twice a minute.
pub const HUNG: Bounds = Bounds { turns: 5_000, looks: 1_500, rows: 3_000, bytes: 400_000, deletes: 0 };
/// One row a second, beside a process that never stops to read: a turn every 2 ms, half a thousandth of a core.
pub const BESIDE_A_READER: Bounds = Bounds { turns: 30_000, looks: 1_500, rows: 600, bytes: 60_000, deletes: 120 };

impl Run {
    pub fn meter(&self) -> Meter {
        self.world.borrow().meter
    }

    /// Lets so many minutes pass, each of which may cost so much.
    pub fn minutes(&mut self, count: u32, bounds: Bounds) {
        for minute in 1..=count {
            let before = self.meter();
            let end = self.world.borrow().elapsed + Duration::from_secs(60);
            self.until(end);
            self.within(&format!("minute {minute} at rest"), before, bounds);
        }
    }

    /// What has happened since `before` cost no more than this.
    pub fn within(&self, what: &str, before: Meter, bounds: Bounds) {
        let cost = self.meter() - before;
        let within = cost.turns <= bounds.turns
            && cost.looks <= bounds.looks
            && cost.rows <= bounds.rows
            && cost.bytes <= bounds.bytes
            && cost.deletes <= bounds.deletes;
        assert!(within, "{what} cost {cost:?}, more than {bounds:?} (seed {})", self.seed);
    }
}
