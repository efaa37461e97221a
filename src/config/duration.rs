//! Parsing durations: `30s`, `5m`, `1h30m`, `250ms`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use skd_control::duration;

use super::Refused;

/// A duration in whole milliseconds. It is formatted in the form in which it is parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span(u64);

impl Span {
    /// The empty duration.
    pub const ZERO: Self = Self(0);

    /// Returns a duration of this many seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds * 1_000)
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Self::from_millis(span.0)
    }
}

impl FromStr for Span {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        let read = duration::milliseconds(text).map(Self);
        read.ok_or_else(|| Refused(duration::EXPECTED.into()))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        if rest == 0 {
            return f.write_str("0s");
        }
        for (unit, milliseconds) in duration::UNITS {
            if rest >= milliseconds {
                write!(f, "{}{unit}", rest / milliseconds)?;
                rest %= milliseconds;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use skd_control::duration::LONGEST;

    #[test]
    fn durations_are_read() {
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("250ms", 250),
            ("1m250ms", 60_250),
            ("90s", 90_000),
            ("0s", 0),
            ("2d", 172_800_000),
            ("3650d", LONGEST),
        ] {
            assert_eq!(text.parse(), Ok(Span(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "5",
            "s",
            "5 s",
            "-5s",
            "+5s",
            "5S",
            "1.5s",
            "5s5",
            "30m1h",
            "1s1s",
            "5sec",
            "5s ",
            "3651d",
            "99999999999999999999s",
            "18446744073709551615d",
            "٣s",
            "5µs",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(milliseconds in 0..=LONGEST) {
            let span = Span(milliseconds);
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn what_is_read_reads_the_same_when_written_out(
            text in "([0-9]{1,3}d)?([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,9}s)?([0-9]{1,9}ms)?|.{0,8}",
        ) {
            if let Ok(span) = text.parse::<Span>() {
                prop_assert_eq!(span.to_string().parse(), Ok(span));
            }
        }
    }
}
