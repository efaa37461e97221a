//! Parsing durations as skd does: `30s`, `5m`, `1h30m`, `250ms`.

use std::time::Duration;

/// The units in milliseconds, the longest first.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The longest duration, ten years.
const LONGEST: u64 = 3_650 * 86_400_000;

/// Parses a duration.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    read(text)
        .map(Duration::from_millis)
        .ok_or_else(|| "it takes a duration like 30s, 5m, 1h30m or 250ms, ten years at most".into())
}

/// Parses pairs of a number and a unit, each unit shorter than the one before, and returns
/// milliseconds.
fn read(text: &str) -> Option<u64> {
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut total: u64 = 0;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(letters);
        let (_, milliseconds) = units.find(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(*milliseconds)?;
        total = total.checked_add(part).filter(|total| *total <= LONGEST)?;
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_by_skd() {
        let read = |text| parse(text).ok().map(|duration| duration.as_millis());
        assert_eq!(read("30s"), Some(30_000));
        assert_eq!(read("1h30m"), Some(5_400_000));
        assert_eq!(read("250ms"), Some(250));
        for text in ["", "30", "s", "1s1s", "1s1h", "-1s", "1.5s", "1 s", "4000d"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
