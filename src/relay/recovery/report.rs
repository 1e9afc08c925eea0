//! What the log says of the batches that an earlier run left.
//!
//! Promises: a bounded number of lines, whatever was left. Does not know: what follows from a verdict.

use super::findings::Findings;
use super::verdict::Verdict;
use crate::model::{LeftPlan, PlanState};

/// Batches that are named one by one in the log.
const NAMED_MAX: usize = 20;

/// What is said of the batches an earlier run left: one line for all of them, and one for each whose outcome is not plain.
#[derive(Debug, Default)]
pub(in crate::relay) struct Report {
    named: usize,
    batches: usize,
    rows: usize,
    forgotten: usize,
    deleted: usize,
    anew: usize,
    asked: usize,
    waiting: usize,
}

impl Report {
    pub(in crate::relay) fn note(&mut self, database: &str, plan: &LeftPlan, findings: &Findings, verdict: Verdict) {
        self.batches += 1;
        self.rows += plan.rows.len();
        let (count, follows) = match verdict {
            Verdict::Forget => (&mut self.forgotten, "deleted already; what is in the table now is new"),
            Verdict::Delete => (&mut self.deleted, "stored by Kafka, deleted now"),
            Verdict::SendAnew => (&mut self.anew, "sent again with the same message ids"),
            Verdict::Wait => {
                (&mut self.waiting, "whether it was deleted is not known, and it waits for a delete that goes well")
            }
            Verdict::Ask(_) => (&mut self.asked, "its partition's leader is asked"),
        };
        *count += 1;
        let state = match plan.state {
            PlanState::Planned => "planned",
            PlanState::Acknowledged { .. } => "acknowledged",
            PlanState::Deleting { .. } => "deleting",
        };
        let plain = matches!(verdict, Verdict::Forget | Verdict::Delete) && state != "deleting";
        self.named += usize::from(!plain);
        let level = if plain || self.named > NAMED_MAX { log::Level::Debug } else { log::Level::Info };
        log::log!(
            level,
            "{database}: batch {} for {} (producer id {}, epoch {}, sequence {}), {state}, {} of its {} rows as they were: {follows}",
            plan.id.0,
            plan.target,
            plan.triple.producer_id,
            plan.triple.epoch,
            plan.triple.first_sequence,
            findings.there.len(),
            plan.rows.len(),
        );
    }

    /// `again`: it was this run that left them.
    pub(in crate::relay) fn end(&self, database: &str, again: bool) {
        if self.batches == 0 {
            return;
        }
        let (level, whose) =
            if again { (log::Level::Info, "there are") } else { (log::Level::Warn, "an earlier run left") };
        log::log!(
            level,
            "{database}: {whose} {} batches with {} rows in flight: {} stored and deleted now, {} deleted already, {} asked of \
             Kafka, {} sent again",
            self.batches,
            self.rows,
            self.deleted,
            self.forgotten,
            self.asked,
            self.anew
        );
    }
}
