//! What is to be deleted: the rows of an acknowledged plan, or those that an operator named.
//!
//! Promises: nothing of an operator's is taken for a plan of the state file's. Does not know: when it is deleted.

use crate::model::{Fingerprint, Plan, RowKey};
use crate::ports::DeleteGroup;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Rows that are deleted because an operator asked for it.
#[derive(Clone, Debug)]
pub(in crate::relay) struct Errand {
    pub request: i64,
    pub rows: Arc<[(RowKey, Fingerprint)]>,
    /// Which of them were published.
    pub published: BTreeSet<RowKey>,
}

/// Rows to be deleted.
#[derive(Debug)]
pub(super) struct Entry {
    pub wish: Wish,
    pub at: Instant,
    /// The last delete that was to take it left it out.
    pub left_out: Option<Retry>,
    /// Whether its rows were deleted already is not known: it waits ([`super::Doubts`]).
    pub in_doubt: bool,
}

/// Why rows are to be deleted.
#[derive(Debug)]
pub(super) enum Wish {
    Acknowledged {
        plan: Arc<Plan>,
        offset: i64,
        /// The state file knows.
        recorded: bool,
    },
    Asked(Errand),
}

impl Entry {
    pub fn rows(&self) -> usize {
        match &self.wish {
            Wish::Acknowledged { plan, .. } => plan.rows.len(),
            Wish::Asked(errand) => errand.rows.len(),
        }
    }

    pub fn plan(&self) -> Option<&Arc<Plan>> {
        match &self.wish {
            Wish::Acknowledged { plan, .. } => Some(plan),
            Wish::Asked(_) => None,
        }
    }

    pub fn group(&self) -> DeleteGroup {
        match &self.wish {
            Wish::Acknowledged { plan, .. } => DeleteGroup::Plan(plan.clone()),
            Wish::Asked(errand) => DeleteGroup::Rows(errand.rows.clone()),
        }
    }

    /// It is not to be deleted with the others for now.
    pub fn waits(&self) -> bool {
        self.left_out.is_some() || self.in_doubt
    }

    pub fn is_unrecorded(&self) -> bool {
        matches!(self.wish, Wish::Acknowledged { recorded: false, .. })
    }
}

/// When an entry that was left out of a delete is tried again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    pub at: Instant,
    pub pause: Duration,
}
