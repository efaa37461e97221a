//! The time at the beginning of a line: RFC 3339, UTC, microseconds.

use std::fmt::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A moment. Displayed as `2026-11-22T08:05:00.042123Z`. Reading the clock is no system call, and
/// formatting takes no allocation and no time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(Duration);

const DAY: u64 = 24 * 60 * 60;

impl Time {
    /// The number of characters that it is displayed with, until the year 9999.
    pub const LENGTH: usize = "2026-11-22T08:05:00.042123Z".len();

    /// The present time.
    pub fn now() -> Self {
        // A clock before 1970 isn't set.
        Self(
            SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        )
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date(self.0.as_secs() / DAY);
        let second = self.0.as_secs() % DAY;
        let micros = self.0.subsec_micros();
        digits(f, year, 4)?;
        for (before, number) in [
            ('-', month),
            ('-', day),
            ('T', second / 3600),
            (':', second / 60 % 60),
            (':', second % 60),
        ] {
            f.write_char(before)?;
            digits(f, number, 2)?;
        }
        f.write_char('.')?;
        digits(f, micros.into(), 6)?;
        f.write_char('Z')
    }
}

/// Writes a number with this many digits at least. Each line has seven of them, and the general
/// formatting takes four times as long.
fn digits(f: &mut fmt::Formatter<'_>, number: u64, least: usize) -> fmt::Result {
    let mut bytes = [b'0'; 20];
    let (mut at, mut rest) = (bytes.len(), number);
    while rest > 0 {
        at -= 1;
        bytes[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    let start = at.min(bytes.len() - least);
    f.write_str(std::str::from_utf8(&bytes[start..]).unwrap_or_default())
}

/// Returns year, month and day of a day, counted from 1 January 1970.
fn date(day: u64) -> (u64, u64, u64) {
    // Years that begin in March have their leap day last. 1 March of the year 0 was 719,468 days
    // before 1970, and 400 years have 146,097 days.
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // From March on, five months have 153 days, again and again.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments_are_displayed_as_in_rfc_3339() {
        for (seconds, micros, expected) in [
            (0, 0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, 7, "2000-02-29T00:00:00.000007Z"),
            (951_868_799, 999_999, "2000-02-29T23:59:59.999999Z"),
            (951_868_800, 0, "2000-03-01T00:00:00.000000Z"),
            (1_795_334_700, 42_123, "2026-11-22T08:05:00.042123Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59.000000Z"),
        ] {
            let text = Time(Duration::from_secs(seconds) + Duration::from_micros(micros));
            assert_eq!(text.to_string(), expected);
            assert_eq!(text.to_string().len(), Time::LENGTH);
        }
        Time(Duration::MAX).to_string();
    }

    fn is_leap(year: u64) -> bool {
        year % 4 == 0 && year % 100 != 0 || year % 400 == 0
    }

    /// The number of days in a month.
    fn length(year: u64, month: u64) -> u64 {
        match month {
            2 => 28 + u64::from(is_leap(year)),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        }
    }

    proptest! {
        #[test]
        fn each_day_follows_the_one_before(day in 0_u64..4_000_000) {
            let (year, month, last) = date(day);
            let next = match (month, last == length(year, month)) {
                (_, false) => (year, month, last + 1),
                (12, true) => (year + 1, 1, 1),
                (_, true) => (year, month + 1, 1),
            };
            prop_assert_eq!(date(day + 1), next);
        }
    }
}
