//! A repeated failure is one line, then a count, then one line when it is over.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// How often a failure that goes on is mentioned again.
const REMIND_EVERY: Duration = Duration::from_secs(60);

/// How many different failures are said within that time. Beyond, they are only counted.
const CAUSES_MAX: usize = 20;

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

/// Things that happen one after the other and are worth a line each, until they are many: the others are only counted.
#[derive(Debug, Default)]
pub struct Flood {
    /// Since when they are counted, and how many were said.
    window: Option<(Instant, usize)>,
    unsaid: u64,
}

impl Flood {
    /// One more has happened. Whether it is to be said.
    pub fn says(&mut self, now: Instant) -> bool {
        let (since, said) = self.window.get_or_insert((now, 0));
        if now.duration_since(*since) >= REMIND_EVERY {
            (*since, *said) = (now, 0);
        }
        let says = *said < CAUSES_MAX;
        if says {
            *said += 1;
        } else {
            self.unsaid += 1;
        }
        says
    }

    /// How many were not said, at the end of a minute or at once; they are said by whoever asks.
    pub fn unsaid(&mut self, now: Instant, at_once: bool) -> Option<u64> {
        self.window.take_if(|(since, _)| at_once || now.duration_since(*since) >= REMIND_EVERY)?;
        Some(std::mem::take(&mut self.unsaid)).filter(|unsaid| *unsaid > 0)
    }
}

/// Many things that can go wrong each by itself, and often do together: what is said is said of the cause.
#[derive(Debug)]
pub struct Troubles<K> {
    causes: HashMap<String, Cause<K>>,
    /// The cause that each of them suffers from.
    of: HashMap<K, String>,
    /// New causes.
    flood: Flood,
}

#[derive(Debug)]
struct Cause<K> {
    /// Who met it first.
    name: String,
    parties: HashSet<K>,
    most: usize,
    since: Instant,
    /// When a line was last written about it; `None`: never.
    said: Option<Instant>,
    /// Its beginning was said, so its end is.
    open: bool,
    unsaid: u64,
    total: u64,
}

impl<K> Default for Troubles<K> {
    fn default() -> Self {
        Troubles { causes: HashMap::new(), of: HashMap::new(), flood: Flood::default() }
    }
}

impl<K: Copy + Eq + Hash> Troubles<K> {
    /// Something went wrong for `who`. `cause`: the same words for all who suffer from it, so they name nobody; `hint` is said with it.
    /// Logs a cause the first time, and once a minute with a count.
    pub fn happened(&mut self, now: Instant, who: K, name: &dyn Display, cause: &str, hint: &str) {
        if self.of.get(&who).is_none_or(|known| known != cause) {
            self.forget(who);
            self.of.insert(who, cause.to_owned());
        }
        if !self.causes.contains_key(cause) {
            self.make_room(now);
            let new = Cause {
                name: name.to_string(),
                parties: HashSet::new(),
                most: 0,
                since: now,
                said: None,
                open: false,
                unsaid: 0,
                total: 0,
            };
            self.causes.insert(cause.to_owned(), new);
        }
        if let Some(beyond) = self.flood.unsaid(now, false) {
            log::warn!("Kafka: {beyond} failures more, of other kinds, in the last {} s", REMIND_EVERY.as_secs());
        }
        let Some(known) = self.causes.get_mut(cause) else { return };
        if known.parties.is_empty() && !known.open {
            (known.since, known.total) = (now, 0);
        }
        known.parties.insert(who);
        known.most = known.most.max(known.parties.len());
        known.total += 1;
        let hint = if hint.is_empty() { String::new() } else { format!(" (hint: {hint})") };
        match known.said {
            Some(said) if now.duration_since(said) < REMIND_EVERY => known.unsaid += 1,
            Some(_) => {
                let others = match known.parties.len() {
                    1 => String::new(),
                    many => format!(", {many} topics and partitions"),
                };
                log::warn!(
                    "{}: still: {cause}{hint} ({} times more, for {} s{others})",
                    known.name,
                    known.unsaid + 1,
                    now.duration_since(known.since).as_secs()
                );
                (known.said, known.unsaid, known.open) = (Some(now), 0, true);
            }
            None if self.flood.says(now) => {
                log::warn!("{name}: {cause}{hint}");
                (known.said, known.open) = (Some(now), true);
            }
            None => known.unsaid += 1,
        }
    }

    /// It is well again. Logs that when it was the last of its cause.
    pub fn over(&mut self, now: Instant, who: K) {
        let Some(cause) = self.of.remove(&who) else { return };
        let Some(known) = self.causes.get_mut(&cause) else { return };
        known.parties.remove(&who);
        if !known.parties.is_empty() || !std::mem::take(&mut known.open) {
            return;
        }
        let others = if known.most > 1 { format!(" and {} more", known.most - 1) } else { String::new() };
        log::info!(
            "{}{others}: well again after {} failure{} in {:.1} s",
            known.name,
            known.total,
            if known.total == 1 { "" } else { "s" },
            now.duration_since(known.since).as_secs_f64()
        );
        known.most = 0;
    }

    /// It has another trouble, or is no more: that is no end of what it suffered from.
    pub fn forget(&mut self, who: K) {
        if let Some(known) = self.of.remove(&who).and_then(|cause| self.causes.get_mut(&cause)) {
            known.parties.remove(&who);
        }
    }

    /// Causes that nobody suffers from are remembered for as long as they would be repeated.
    fn make_room(&mut self, now: Instant) {
        self.causes.retain(|_, cause| {
            !cause.parties.is_empty() || cause.said.is_some_and(|said| now.duration_since(said) < REMIND_EVERY)
        });
    }

    #[cfg(test)]
    fn said(&self) -> usize {
        self.causes.values().filter(|cause| cause.said.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_flood_the_first_ones_are_said_and_the_others_once_a_minute() {
        let now = Instant::now();
        let mut flood = Flood::default();
        let said = (0..500).filter(|_| flood.says(now)).count();
        assert_eq!((said, flood.unsaid(now, false)), (CAUSES_MAX, None));
        assert_eq!(flood.unsaid(now + REMIND_EVERY, false), Some(500 - CAUSES_MAX as u64));
        assert_eq!(flood.unsaid(now + 2 * REMIND_EVERY, false), None);
        assert!(flood.says(now + 2 * REMIND_EVERY));
        assert_eq!(flood.unsaid(now + 2 * REMIND_EVERY, true), None, "all were said");
    }

    #[test]
    fn one_cause_is_said_once_however_many_suffer_from_it() {
        let now = Instant::now();
        let mut troubles = Troubles::default();
        for round in 0..100 {
            for lane in 0..150 {
                troubles.happened(now + Duration::from_millis(round), lane, &lane, "the broker is away", "start it");
            }
        }
        assert_eq!((troubles.causes.len(), troubles.said(), troubles.of.len()), (1, 1, 150));
        assert_eq!(troubles.causes["the broker is away"].unsaid, 100 * 150 - 1);
        for lane in 0..149 {
            troubles.over(now, lane);
        }
        assert!(troubles.causes["the broker is away"].open, "one still suffers");
        troubles.over(now, 149);
        assert!(!troubles.causes["the broker is away"].open);
        // Again within a minute: neither the beginning nor the end is said.
        troubles.happened(now, 7, &7, "the broker is away", "");
        assert!(!troubles.causes["the broker is away"].open);
        troubles.happened(now + REMIND_EVERY, 7, &7, "the broker is away", "");
        assert!(troubles.causes["the broker is away"].open, "and then it is");
    }

    #[test]
    fn another_trouble_is_no_end_of_the_first() {
        let now = Instant::now();
        let mut troubles = Troubles::default();
        for _ in 0..10 {
            troubles.happened(now, 1, &1, "a", "");
            troubles.happened(now, 1, &1, "b", "");
        }
        assert_eq!((troubles.causes.len(), troubles.said()), (2, 2), "each once");
        assert_eq!(troubles.of[&1], "b");
    }

    #[test]
    fn a_thousand_causes_are_not_a_thousand_lines() {
        let now = Instant::now();
        let mut troubles = Troubles::default();
        for topic in 0..1_000 {
            troubles.happened(now, topic, &topic, &format!("topic {topic} does not exist"), "");
        }
        assert_eq!((troubles.said(), troubles.flood.unsaid), (CAUSES_MAX, 1_000 - CAUSES_MAX as u64));
        for topic in 0..1_000 {
            troubles.over(now, topic);
        }
        troubles.happened(now + 2 * REMIND_EVERY, 0, &0, "another", "");
        assert_eq!(troubles.causes.len(), 1, "and they are forgotten");
    }
}
