//! What a delete costs: a fixed part (the syncs of a COMMIT, 17 ms on a slow disk in a rollback mode) and a part for each row.
//!
//! Promises: pure. Only the rows' part is bounded by the size of a delete: charged to the rows, a dear fixed part would make deletes
//! small, small ones dear for each row, and so on down to 60 rows. Does not know: what is done with it.

use std::time::Duration;

/// Of a row, in nanoseconds, before it was measured.
const ROW_NS: f64 = 1_000.0;
const ROW_NS_MIN: f64 = 50.0;
/// Deletes of fewer rows tell of the fixed part alone.
const ROWS_MIN: f64 = 64.0;
/// A delete that others interrupted says nothing of its cost: up slowly, down at once.
const UP: f64 = 1.3;
/// With a dear fixed part fewer and larger deletes are the polite ones: the rows may take this share of it too, up to so much.
const OF_FIXED: f64 = 0.25;
const OF_FIXED_NS_MAX: f64 = 10e6;
/// One delete of so many takes only a part of the rows, or nothing would be known of smaller ones any more.
const PROBE_EVERY: usize = 32;
const PROBE_PART: usize = 8;

/// A delete of about so many rows: how many, and nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Sample {
    rows: f64,
    ns: f64,
}

/// By the power of two of its rows, what a delete takes when nobody interrupts it. The cost is a line through the smallest and the
/// one measured last, or, where those are close, the next: what is known of the largest may be old.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    samples: [Option<Sample>; 32],
    last: usize,
    count: usize,
}

impl Cost {
    pub(super) fn measured(&mut self, rows: usize, took: Duration) {
        if rows == 0 {
            return;
        }
        let (at, rows, mut ns) = (rows.ilog2().min(31) as usize, rows as f64, took.as_nanos() as f64);
        if let Some(known) = self.samples[at] {
            ns = ns.min(UP * known.ns * (rows / known.rows).max(1.0));
        }
        self.samples[at] = Some(Sample { rows, ns });
        self.last = at;
        self.count += 1;
        // What is known of other sizes may be old: more rows take no less time, and no more than in proportion.
        for (other, sample) in self.samples.iter_mut().enumerate() {
            let Some(sample) = sample else { continue };
            let in_proportion = ns * sample.rows / rows;
            if other < at {
                sample.ns = sample.ns.min(ns).max(in_proportion);
            } else if other > at {
                sample.ns = sample.ns.max(ns).min(in_proportion);
            }
        }
    }

    /// The fixed part and that of a row, in nanoseconds.
    fn parts(&self) -> (f64, f64) {
        let mut known = self.samples.iter().flatten();
        let Some(small) = known.next() else { return (0.0, ROW_NS) };
        // Of few rows the noise is larger than what they cost.
        let enough = |sample: &&Sample| sample.rows >= (2.0 * small.rows).max(ROWS_MIN);
        let last = self.samples[self.last].as_ref().filter(enough);
        let next = known.clone().find(enough);
        let large = last.or(next).or(known.next_back()).unwrap_or(small);
        if large.rows < ROWS_MIN {
            return ((large.ns - ROW_NS * large.rows).max(0.0), ROW_NS);
        }
        if large.rows <= small.rows {
            // One size says nothing of the fixed part: the rows are charged with all of it, get fewer, and then it shows.
            return (0.0, (large.ns / large.rows).max(ROW_NS_MIN));
        }
        let row = ((large.ns - small.ns) / (large.rows - small.rows)).max(ROW_NS_MIN);
        ((small.ns - row * small.rows).max(0.0), row)
    }

    /// How many rows the next delete may take: as many as [`Cost::rows_in`] says, most of the time.
    pub(super) fn next_rows(&self, time: Duration) -> usize {
        let part = if self.count % PROBE_EVERY == PROBE_EVERY - 1 { PROBE_PART } else { 1 };
        (self.rows_in(time) / part).max(1)
    }

    /// How many rows fit into one delete whose rows may take this time.
    pub(super) fn rows_in(&self, time: Duration) -> usize {
        let (fixed, row) = self.parts();
        let ns = (time.as_nanos() as f64).max((fixed * OF_FIXED).min(OF_FIXED_NS_MAX));
        (ns / row).max(1.0) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(2);
    const WAITING: usize = 5_000;

    /// A disk, and a relay that has always enough to delete.
    struct Disk {
        fixed_us: f64,
        row_us: f64,
        random: fastrand::Rng,
    }

    impl Disk {
        fn new(fixed_us: f64, row_us: f64) -> Disk {
            Disk { fixed_us, row_us, random: fastrand::Rng::with_seed(1) }
        }

        fn delete(&mut self, cost: &mut Cost, rows: usize) {
            let us = (self.fixed_us + self.row_us * rows as f64) * (1.0 + 0.1 * self.random.f64());
            cost.measured(rows, Duration::from_nanos((us * 1e3) as u64));
        }

        /// How many rows each delete takes, those aside that only look what fewer cost.
        fn deletes(&mut self, cost: &mut Cost, count: usize) -> Vec<usize> {
            let one = |_| {
                let (rows, most) = (cost.next_rows(BUDGET), cost.rows_in(BUDGET));
                self.delete(cost, rows.min(WAITING));
                (rows == most).then_some(rows.min(WAITING))
            };
            (0..count).filter_map(one).collect()
        }
    }

    #[test]
    fn a_dear_fixed_part_makes_no_small_deletes() {
        for fixed_us in [17_000.0, 100_000.0] {
            let mut cost = Cost::default();
            let rows = Disk::new(fixed_us, 1.0).deletes(&mut cost, 60);
            assert!(rows[5..].iter().all(|rows| *rows >= 1_500), "{fixed_us}: {rows:?}");
            let (fixed, row) = cost.parts();
            assert!((fixed / 1e3 - fixed_us).abs() < 0.2 * fixed_us && row < 5_000.0, "{fixed_us}: {fixed} {row}");
        }
    }

    #[test]
    fn dear_rows_make_small_deletes() {
        for (row_us, most) in [(8.5, 300), (200.0, 15)] {
            let mut cost = Cost::default();
            let rows = Disk::new(60.0, row_us).deletes(&mut cost, 60);
            assert!(rows[2..].iter().all(|rows| *rows <= most && *rows > most / 3), "{row_us}: {rows:?}");
        }
    }

    #[test]
    fn single_rows_tell_of_the_fixed_part_alone() {
        let (mut cost, mut disk) = (Cost::default(), Disk::new(17_000.0, 1.0));
        (0..50).for_each(|_| disk.delete(&mut cost, 1));
        let rows = disk.deletes(&mut cost, 30);
        assert!(rows.iter().all(|rows| *rows >= 1_000), "{rows:?}");
    }

    #[test]
    fn one_bad_moment_changes_little_and_is_forgotten() {
        let (mut cost, mut disk) = (Cost::default(), Disk::new(60.0, 0.3));
        disk.deletes(&mut cost, 20);
        cost.measured(WAITING, Duration::from_millis(30));
        let rows = disk.deletes(&mut cost, 20);
        assert!(rows.iter().all(|rows| *rows >= 2_000) && rows[18] >= 4_000, "{rows:?}");
    }

    #[test]
    fn a_disk_that_changes_is_noticed() {
        let (mut cost, mut disk) = (Cost::default(), Disk::new(17_000.0, 1.0));
        disk.deletes(&mut cost, 40);
        (disk.fixed_us, disk.row_us) = (60.0, 0.3);
        assert!(disk.deletes(&mut cost, 40)[20..].iter().all(|rows| *rows >= 2_000), "fast");
        (disk.fixed_us, disk.row_us) = (60.0, 8.5);
        assert!(disk.deletes(&mut cost, 60)[40..].iter().all(|rows| *rows <= 800), "dear rows");
        (disk.fixed_us, disk.row_us) = (17_000.0, 1.0);
        assert!(disk.deletes(&mut cost, 80)[60..].iter().all(|rows| *rows >= 1_500), "slow");
    }
}
