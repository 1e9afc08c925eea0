//! Rows that are sent again although they may have been published: counted, and said.
//!
//! Promises: one line for each reason, however many batches have it, before anything is sent or recorded. Does not know: reasons.

use crate::ports::{Clock, Journal, Sink, Source};
use crate::relay::Relay;
use std::sync::atomic::Ordering::Relaxed;

/// What is to be said of rows that are sent again for one reason.
#[derive(Debug, Default)]
pub(in crate::relay) struct Unsure {
    /// Whose they are: of several the first.
    subject: String,
    times: usize,
    rows: usize,
}

impl<S: Source, J: Journal, K: Sink, C: Clock> Relay<S, J, K, C> {
    pub(in crate::relay) fn count_unsure(&mut self, subject: &str, rows: usize, why: &str) {
        if rows == 0 {
            return;
        }
        let said = self
            .unsure
            .entry(why.to_owned())
            .or_insert_with(|| Unsure { subject: subject.to_owned(), ..Unsure::default() });
        said.times += 1;
        said.rows += rows;
        self.add_unsure(rows);
    }

    /// One line for each reason, however many batches have it. Before anything is sent.
    pub(in crate::relay) fn say_unsure(&mut self) {
        for (why, Unsure { subject, times, rows }) in std::mem::take(&mut self.unsure) {
            let others = if times > 1 { format!(" and {} more", times - 1) } else { String::new() };
            log::warn!("{subject}{others}: {rows} rows are sent again and may be there twice (unsure): {why}");
        }
    }

    pub(in crate::relay) fn add_unsure(&mut self, rows: usize) {
        self.figures.unsure_rows.fetch_add(rows as u64, Relaxed);
        self.summary.unsure += rows as u64;
    }

    pub(in crate::relay) fn count_unlike(&mut self, rows: usize) {
        let why =
            "their table has lost a column, and what was sent of them can't be compared; their message ids are new";
        self.count_unsure(&self.figures.database.clone(), rows, why);
    }

    pub(in crate::relay) fn count_kept(&mut self, rows: usize) {
        let why = "they could not be deleted, and file, table or columns are others; their message ids are new";
        self.count_unsure(&self.figures.database.clone(), rows, why);
    }
}
