//! One outbox of the database, and what is known of its table.
//!
//! Promises: at most so many rows are set aside. Does not know: lanes, topics.

use crate::model::{Guard, RowMark, TableTraits, Version};
use crate::relay::ledger::{Aside, Ledger, Obstacle};
use crate::relay::route::Route;
use crate::telemetry::trouble::{Flood, Trouble};
use std::collections::BTreeMap;
use std::time::Instant;

/// Whether there may be rows that no look has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behind {
    No,
    /// Yes, and they can be read now.
    Ready,
    /// Yes, and no lane could take any that it has not left before.
    Unwanted,
    /// Yes, and this was in the way of the next one.
    Stopped(Obstacle),
}

/// One outbox of the database.
#[allow(clippy::struct_excessive_bools)] // independent facts
#[derive(Debug)]
pub struct Outbox {
    pub route: Route,
    pub ledger: Ledger,
    /// What may lie above the cursor.
    pub more: Behind,
    /// What the last look ran under.
    pub version: Option<Version>,
    /// The news is not of this one: a glance has just found that.
    pub unstirred: bool,
    /// Rows may have been inserted below the cursor since it was last swept.
    pub unswept: bool,
    /// Not looked at before this, because of `trouble`.
    pub retry_at: Option<Instant>,
    pub trouble: Trouble,
    /// Lines about rows that go into quarantine.
    pub quarantined: Flood,
    /// Set-aside rows have reached their limit; nothing is taken until there are fewer.
    pub paused: bool,
    /// What an earlier run left of it was judged: what the table is to what that one noted does not matter any more.
    pub recovered: bool,
    /// What the state file knows of the table.
    pub noted: Option<TableTraits>,
    /// What the fingerprints are made of that are held, and that the state file has.
    pub made_of: Option<Guard>,
    /// When the oldest row that is still in the table and not held was noticed.
    pub behind_since: Option<Instant>,
    pub topics: usize,
}

impl Outbox {
    pub fn new(route: Route) -> Self {
        Outbox {
            trouble: Trouble::new(format!("outbox {}", route.name)),
            route,
            ledger: Ledger::default(),
            more: Behind::Ready,
            version: None,
            unstirred: false,
            unswept: false,
            retry_at: None,
            quarantined: Flood::default(),
            paused: false,
            recovered: false,
            noted: None,
            made_of: None,
            behind_since: None,
            topics: 0,
        }
    }

    /// Only these rows are held and set aside, and the table is looked at from the start.
    pub fn restart(&mut self, held: Vec<RowMark>, aside: BTreeMap<i64, Aside>) {
        self.ledger.restart(held, aside);
        self.more = Behind::Ready;
    }

    /// Somebody may have inserted rows above the cursor, or it has fallen below some.
    pub fn may_have_more(&mut self) {
        if self.more == Behind::No {
            self.more = Behind::Ready;
        }
    }

    /// The row stays in the table, whatever the reason. At the limit the outbox pauses: memory, state file and log have one.
    pub fn set_aside(&mut self, mark: RowMark, published: bool) {
        self.ledger.set_aside(mark, published);
        self.pause_if_full();
    }

    pub fn pause_if_full(&mut self) {
        if self.ledger.is_full() && !self.paused {
            self.paused = true;
            log::error!(
                "outbox {}: {} rows are in quarantine, the most there may be; it pauses until some are retried, discarded or removed: \
                 outboxd dead list --outbox {}",
                self.route.name,
                self.ledger.set_aside_rows(),
                self.route.name
            );
        } else if self.paused && !self.ledger.is_full() {
            self.paused = false;
            self.more = Behind::Ready;
            log::info!("outbox {}: goes on, the quarantine has room again", self.route.name);
        }
    }
}
