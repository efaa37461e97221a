//! Sizes and times, short enough for a table.

/// Returns a size: `512 B`, `1.5 KiB`, `12 MiB`.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if size < 1024 {
        return format!("{size} B");
    }
    let mut value = size as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024 is 1.0 of the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 9.95);
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Returns a duration with the two largest of its units: `0.42s`, `12s`, `3m05s`, `2h07m`, `12d03h`.
pub(crate) fn age(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    if seconds < 9.995 {
        return format!("{seconds:.2}s");
    }
    // A float is cut to what fits.
    let whole = seconds as u64;
    let (days, hours) = (whole / 86_400, whole / 3_600 % 24);
    let (minutes, rest) = (whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest}s"),
        (0, 0, _) => format!("{minutes}m{rest:02}s"),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// Returns a time that may be very short: `350 µs`, `12 ms`, `1.50 s`, and from a minute on as an
/// age.
pub(crate) fn seconds(time: f64) -> String {
    match time {
        time if time < 0.000_999_5 => format!("{:.0} µs", time * 1e6),
        time if time < 0.009_995 => format!("{:.1} ms", time * 1e3),
        time if time < 0.999_5 => format!("{:.0} ms", time * 1e3),
        time if time < 60.0 => format!("{time:.2} s"),
        time => age(time),
    }
}

/// Returns the day, of UTC, of a time in seconds since 1970: `2027-01-31`.
pub(crate) fn day(seconds: i64) -> String {
    // Years that begin in March have their leap day last. 1 March of the year 0 was 719,468 days before
    // 1970, and 400 years have 146,097 days.
    let days = seconds.div_euclid(86_400) + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Of five months, the days of all but the last begin every 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

/// Returns a share as a percentage: `0.4 %`, `12 %`.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let digits = usize::from(percent < 9.95);
    format!("{percent:.digits$} %")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (951_782_399, "2000-02-28"),
            (951_782_400, "2000-02-29"),
            (951_868_800, "2000-03-01"),
            (1_801_439_999, "2027-01-31"),
            (4_107_542_400, "2100-03-01"),
            (253_402_300_799, "9999-12-31"),
        ] {
            assert_eq!(day(seconds), text);
        }
        // Whatever a certificate says.
        day(i64::MAX);
        day(i64::MIN);
    }

    #[test]
    fn sizes_have_three_digits_at_most() {
        let sizes = [
            0,
            1023,
            1024,
            1536,
            10_188,
            10_240,
            1_048_000,
            1_048_576,
            u64::MAX,
        ];
        assert_eq!(
            sizes.map(bytes),
            [
                "0 B",
                "1023 B",
                "1.0 KiB",
                "1.5 KiB",
                "9.9 KiB",
                "10 KiB",
                "1023 KiB",
                "1.0 MiB",
                "16384 PiB"
            ]
        );
    }

    #[test]
    fn ages_have_two_units() {
        let ages = [
            -1.0, 0.0, 0.417, 9.999, 12.9, 59.0, 60.0, 185.0, 3_600.0, 90_061.0, 1e30,
        ];
        assert_eq!(
            ages.map(age)[..10],
            [
                "0.00s", "0.00s", "0.42s", "9s", "12s", "59s", "1m00s", "3m05s", "1h00m", "1d01h"
            ]
        );
        age(f64::NAN);
        age(f64::INFINITY);
    }

    #[test]
    fn times_have_the_unit_that_fits() {
        let times = [0.0, 0.000_35, 0.001_5, 0.012, 0.999, 1.5, 61.0];
        assert_eq!(
            times.map(seconds),
            [
                "0 µs", "350 µs", "1.5 ms", "12 ms", "999 ms", "1.50 s", "1m01s"
            ]
        );
    }

    #[test]
    fn shares_are_percentages() {
        let texts = [0.0, 0.004, 0.12, 1.5].map(percent);
        assert_eq!(texts, ["0.0 %", "0.4 %", "12 %", "150 %"]);
    }
}
