//! Dates in messages.

use std::time::{SystemTime, UNIX_EPOCH};

use x509_parser::time::ASN1Time;

/// The seconds of a day.
pub(super) const DAY: i64 = 24 * 60 * 60;

/// Returns the time, in seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX))
}

/// Returns the date of a time, as in `2026-12-31`.
pub(crate) fn date(time: i64) -> String {
    ASN1Time::from_timestamp(time).map_or_else(
        |_| "an impossible date".into(),
        |it| {
            let it = it.to_datetime();
            format!(
                "{:04}-{:02}-{:02}",
                it.year(),
                u8::from(it.month()),
                it.day()
            )
        },
    )
}

/// Returns how many days there are between two times, as in `12 days`.
pub(super) fn days(from: i64, to: i64) -> String {
    match to.saturating_sub(from) / DAY {
        0 => "less than a day".into(),
        1 => "1 day".into(),
        several => format!("{several} days"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(1_798_761_599), "2026-12-31");
        assert_eq!(date(i64::MAX), "an impossible date");
        assert_eq!(days(0, DAY - 1), "less than a day");
        assert_eq!(days(0, DAY), "1 day");
        assert_eq!(days(DAY, 20 * DAY), "19 days");
        assert!(now() > 1_700_000_000);
    }
}
