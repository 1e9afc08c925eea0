//! Times as the file keeps them: milliseconds since the Unix epoch.
//!
//! Promises: never panics, whatever the file says or the clock shows. Does not know: time zones.

use std::time::{Duration, SystemTime};

pub fn of_time(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

pub fn to_time(ms: i64) -> SystemTime {
    let since = Duration::from_millis(ms.max(0) as u64);
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

pub fn now() -> i64 {
    of_time(SystemTime::now())
}
