//! Seconds since 1970 as people read them, and back from what certificates write.
//!
//! Promises: pure; the proleptic Gregorian calendar, UTC, whole seconds. Does not know: time zones, the clock.

use jiff::SignedDuration;
use jiff::civil::DateTime;

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// The date of a point in time; one after the year 9999 counts as that year's end. (A calendar's date, not a `Timestamp`: those end
/// hours before the date that certificates without an end bear, 9999-12-31T23:59:59Z.)
fn date(seconds: u64) -> DateTime {
    EPOCH.saturating_add(SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)))
}

/// `2026-12-01T09:30:00Z`.
pub(crate) fn time(seconds: u64) -> String {
    format!("{:.0}Z", date(seconds))
}

/// `2026-12-01 09 h UTC`: for texts by which a failure that goes on is recognised, which must not change every second.
pub(crate) fn hour(seconds: u64) -> String {
    let date = date(seconds);
    format!("{} {:02} h UTC", date.date(), date.hour())
}

/// Seconds since 1970 of a date; `None` for one that does not exist or is before 1970.
pub(crate) fn seconds(year: u64, month: u64, day: u64, of_day: u64) -> Option<u64> {
    let narrow = |value: u64| i8::try_from(value).ok();
    let (hour, minute, second) = (narrow(of_day / 3_600)?, narrow(of_day / 60 % 60)?, narrow(of_day % 60)?);
    let date = DateTime::new(i16::try_from(year).ok()?, narrow(month)?, narrow(day)?, hour, minute, second, 0).ok()?;
    u64::try_from(date.duration_since(EPOCH).as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_793_491_200, "2026-11-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(time(unix), text);
            let part = |from: usize, to: usize| text[from..to].parse::<u64>().unwrap();
            let of_day = part(11, 13) * 3_600 + part(14, 16) * 60 + part(17, 19);
            assert_eq!(seconds(part(0, 4), part(5, 7), part(8, 10), of_day), Some(unix), "{text}");
        }
        assert_eq!(hour(951_782_399), "2000-02-28 23 h UTC");
        assert_eq!(seconds(1969, 12, 31, 0), None);
        assert_eq!(seconds(2026, 13, 1, 0), None);
        assert_eq!(seconds(2026, 2, 29, 0), None);
        assert_eq!(seconds(2026, 2, 28, 86_400), None);
        assert_eq!(time(u64::MAX), "9999-12-31T23:59:59Z");
    }
}
