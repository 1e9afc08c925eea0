//! A repeated failure is one line, then a count, then one line when it is over.

use std::time::{Duration, Instant};

/// How often a failure that goes on is mentioned again.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// One thing that can go wrong again and again, and what was said of it.
#[derive(Debug)]
pub struct Trouble {
    subject: String,
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    text: String,
    since: Instant,
    last: Instant,
    unsaid: u64,
    total: u64,
}

impl Trouble {
    /// `subject` opens every line, for example `topic users`.
    pub fn new(subject: impl Into<String>) -> Self {
        Trouble { subject: subject.into(), said: None }
    }

    /// Logs `text` the first time, when it differs from the last, and once a minute with a count.
    pub fn happened(&mut self, now: Instant, text: &str) {
        match &mut self.said {
            Some(said) if said.text == text => {
                said.unsaid += 1;
                said.total += 1;
                if now.duration_since(said.last) >= REMIND_EVERY {
                    log::warn!(
                        "{}: still: {text} ({} times more, for {} s)",
                        self.subject,
                        said.unsaid,
                        now.duration_since(said.since).as_secs()
                    );
                    said.unsaid = 0;
                    said.last = now;
                }
            }
            other => {
                log::warn!("{}: {text}", self.subject);
                let (since, total) = other.as_ref().map_or((now, 0), |said| (said.since, said.total));
                *other = Some(Said { text: text.to_owned(), since, last: now, unsaid: 0, total: total + 1 });
            }
        }
    }

    /// Logs that it is over, if it was going on.
    pub fn over(&mut self, now: Instant) {
        if let Some(said) = self.said.take() {
            log::info!(
                "{}: well again after {} failure{} in {:.1} s",
                self.subject,
                said.total,
                if said.total == 1 { "" } else { "s" },
                now.duration_since(said.since).as_secs_f64()
            );
        }
    }

    pub fn going_on(&self) -> bool {
        self.said.is_some()
    }
}
