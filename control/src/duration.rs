//! Durations as people write them: `30s`, `5m`, `1h30m`, `250ms`.

/// The units in milliseconds, the longest first.
pub const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// The longest duration in milliseconds, ten years. Longer ones are mistakes, and this one overflows
/// no clock.
pub const LONGEST: u64 = 3_650 * 86_400_000;

/// What is said of a text that is no duration.
pub const EXPECTED: &str = "it takes a duration like 30s, 5m, 1h30m or 250ms, ten years at most";

/// Parses pairs of a number and a unit, each unit shorter than the one before, and returns
/// milliseconds. Returns `None` if the text is no duration, or if that is too long.
pub fn milliseconds(text: &str) -> Option<u64> {
    let mut units = UNITS.iter();
    let mut rest = text;
    let mut total: u64 = 0;
    loop {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let letters = after.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, after) = after.split_at(letters);
        let (_, length) = units.find(|(name, _)| *name == unit)?;
        let part = number.parse::<u64>().ok()?.checked_mul(*length)?;
        total = total.checked_add(part).filter(|total| *total <= LONGEST)?;
        if after.is_empty() {
            return Some(total);
        }
        rest = after;
    }
}
