//! Whether this machine's clock can be believed. Every record is stamped with it, and Kafka deletes by stamps: what a board writes that
//! thinks it is 1971 is gone within seconds of our delete.
//!
//! Promises: pure; nothing is sent by a clock that is surely wrong, and none that is right is disbelieved for ever. Does not know: what
//! is sent.

use super::flight::CLOCK_BACK_MAX;
use std::time::{Duration, Instant, SystemTime};

/// A machine that has been up for so long has had its time from a server: if it is still behind the last stamp, that one was wrong. Without
/// such an end a clock that once was years ahead would stop everything for years.
const BELIEVED_AFTER: Duration = Duration::from_secs(60 * 60);

/// See the module's words.
#[derive(Debug)]
pub(super) struct Wall {
    /// It can't be earlier than this: when this program was made.
    floor: SystemTime,
    /// The last record's.
    newest: Option<SystemTime>,
    /// Since when it has been behind that.
    behind_since: Option<Instant>,
    right: bool,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// It says a time before this program was made.
    BeforeFloor,
    /// It is behind the last record's stamp.
    Behind,
}

impl Wall {
    pub(super) fn new(floor: SystemTime, newest: Option<SystemTime>) -> Self {
        Wall { floor, newest, behind_since: None, right: true }
    }

    /// What was found when it was last looked at.
    pub(super) fn is_right(&self) -> bool {
        self.right
    }

    /// A record bears this stamp.
    pub(super) fn stamped(&mut self, at: SystemTime) {
        self.newest = Some(at);
    }

    pub(super) fn judge(&mut self, wall: SystemTime, now: Instant) -> Result<(), Wrong> {
        let judged = self.is_wrong(wall, now);
        self.right = judged.is_none();
        judged.map_or(Ok(()), Err)
    }

    fn is_wrong(&mut self, wall: SystemTime, now: Instant) -> Option<Wrong> {
        if wall < self.floor {
            return Some(Wrong::BeforeFloor);
        }
        if self.newest.is_none_or(|newest| newest.duration_since(wall).unwrap_or_default() <= CLOCK_BACK_MAX) {
            self.behind_since = None;
            return None;
        }
        let since = *self.behind_since.get_or_insert(now);
        if now.duration_since(since) < BELIEVED_AFTER {
            return Some(Wrong::Behind);
        }
        self.behind_since = None;
        self.newest = Some(wall);
        None
    }
}

impl Wrong {
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Wrong::BeforeFloor => {
                "this machine's clock says a time before this outboxd was made. Nothing is sent: Kafka deletes records by their stamps, \
                 and such ones at once. It goes on by itself when the clock is right (hint: see `date -u` and `timedatectl`)"
            }
            Wrong::Behind => {
                "this machine's clock is behind the stamp of what was sent last. Nothing is sent: Kafka deletes records by their stamps. \
                 It goes on by itself when the clock is right, or has stayed as it is for an hour (hint: see `date -u` and `timedatectl`. \
                 If it is right now and was ahead before: stop outboxd, `sqlite3 STATE_FILE 'UPDATE relay SET stamp_ms = NULL'`, start it)"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn a_clock_before_the_floor_is_never_believed() {
        let (now, floor) = (Instant::now(), SystemTime::UNIX_EPOCH + 100 * DAY);
        let mut wall = Wall::new(floor, None);
        for hours in 0..100 {
            let now = now + Duration::from_secs(hours * 3_600);
            assert_eq!(wall.judge(floor - Duration::from_secs(1), now), Err(Wrong::BeforeFloor));
        }
        assert!(!wall.is_right());
        assert_eq!(wall.judge(floor, now), Ok(()));
        assert!(wall.is_right());
    }

    #[test]
    fn a_clock_behind_the_last_stamp_is_believed_when_it_stays_so() {
        let now = Instant::now();
        let newest = SystemTime::UNIX_EPOCH + 4_000 * DAY;
        let mut wall = Wall::new(SystemTime::UNIX_EPOCH, Some(newest));
        assert_eq!(wall.judge(newest - CLOCK_BACK_MAX, now), Ok(()), "a small step is none");
        let back = newest - 3_000 * DAY;
        assert_eq!(wall.judge(back, now), Err(Wrong::Behind));
        let almost = now + BELIEVED_AFTER.saturating_sub(Duration::from_secs(1));
        assert_eq!(wall.judge(back, almost), Err(Wrong::Behind));
        assert_eq!(wall.judge(newest, almost), Ok(()), "it was put right");
        assert_eq!(wall.judge(back, almost), Err(Wrong::Behind), "and wrong again: from now on it counts");
        assert_eq!(wall.judge(back, almost + BELIEVED_AFTER), Ok(()));
        assert_eq!(wall.judge(back + DAY, almost + BELIEVED_AFTER), Ok(()), "the last stamp was the wrong one");
    }
}
