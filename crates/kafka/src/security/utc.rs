//! Seconds since 1970 as people read them, and back from what certificates write.
//!
//! Promises: pure; the proleptic Gregorian calendar, UTC, whole seconds. Does not know: time zones, the clock.

/// Year, month and day from days since 1970-01-01 (Howard Hinnant's `civil_from_days`, for days after that).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// `2026-12-01T09:30:00Z`.
pub(crate) fn time(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    let (hour, minute, second) = (of_day / 3_600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `2026-12-01 09 h UTC`: for texts by which a failure that goes on is recognised, which must not change every second.
pub(crate) fn hour(seconds: u64) -> String {
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02} {:02} h UTC", seconds / 3_600 % 24)
}

/// Seconds since 1970 of a date; `None` for one that does not exist or is before 1970.
pub(crate) fn seconds(year: u64, month: u64, day: u64, of_day: u64) -> Option<u64> {
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) || of_day >= 86_400 {
        return None;
    }
    // Days from civil: the inverse of the above.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    let of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year;
    (era * 146_097 + of_era).checked_sub(719_468).map(|days| days * 86_400 + of_day)
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
    }
}
