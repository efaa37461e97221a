//! Formats of figures and dates.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::stats::Summary;

/// Formats with commas between thousands: 12,345.
pub(super) fn thousands(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::new();
    if figure <= -0.5 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats the median, with the least and the most in brackets if they differ.
pub(super) fn spread(summary: Option<Summary>, figure: impl Fn(f64) -> String) -> String {
    let Some(Summary { median, min, max }) = summary else {
        return NOTHING.to_owned();
    };
    if min == max {
        figure(median)
    } else {
        format!("{} ({}–{})", figure(median), figure(min), figure(max))
    }
}

pub(super) fn median(summary: Option<Summary>, figure: impl Fn(f64) -> String) -> String {
    summary.map_or_else(|| NOTHING.to_owned(), |summary| figure(summary.median))
}

pub(super) const NOTHING: &str = "–";

/// Formats microseconds, from 10 ms on as milliseconds.
pub(super) fn micros(figure: f64) -> String {
    if figure < 10_000.0 {
        format!("{} µs", thousands(figure))
    } else {
        format!("{} ms", thousands(figure / 1000.0))
    }
}

pub(super) fn ratio(figure: f64) -> String {
    format!("{figure:.2}")
}

pub(super) fn percent(figure: f64) -> String {
    format!("{:.0} %", figure * 100.0)
}

/// Returns the date in UTC, in ISO 8601 format.
pub(crate) fn today() -> String {
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Returns year, month and day of a number of days since 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_parted() {
        let cases = [
            (0.0, "0"),
            (999.4, "999"),
            (1000.0, "1,000"),
            (1_234_567.0, "1,234,567"),
        ];
        for (figure, text) in cases {
            assert_eq!(thousands(figure), text);
        }
        assert_eq!(thousands(-1234.0), "-1,234");
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_088), (2024, 12, 31));
    }

    #[test]
    fn a_single_round_has_no_spread() {
        assert_eq!(spread(Summary::of([5.0]), thousands), "5");
        assert_eq!(spread(Summary::of([4.0, 6.0]), thousands), "5 (4–6)");
        assert_eq!(spread(None, thousands), "–");
    }
}
