//! Parsing rates: `10/s`, `300/m:20`.

use std::ffi::OsStr;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Refused, decimal};

/// The rate and size of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The time until a token is added, not zero.
    pub interval: Duration,
    /// The maximum number of tokens, not zero.
    pub burst: u32,
}

/// The units, in nanoseconds.
const UNITS: [(&str, u64); 4] = [
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
];

/// The maximum of each number, so that no interval is zero and a formatted rate can be parsed.
const MOST: u32 = 1_000_000;

impl FromStr for Rate {
    type Err = Refused;

    fn from_str(text: &str) -> Result<Self, Refused> {
        read(text).ok_or_else(|| {
            Refused(format!(
                "it takes a number of connections and a time, like 10/s, 300/m, 1000/h or 5000/d, \
                 and optionally a burst, like 10/s:50; each number is from 1 to {MOST}"
            ))
        })
    }
}

fn read(text: &str) -> Option<Rate> {
    let number =
        |text: &str| decimal::<u32>(OsStr::new(text)).filter(|number| (1..=MOST).contains(number));
    let (rate, burst) = match text.split_once(':') {
        Some((rate, burst)) => (rate, Some(number(burst)?)),
        None => (text, None),
    };
    let (count, unit) = rate.split_once('/')?;
    let count = number(count)?;
    let (_, nanoseconds) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some(Rate {
        interval: Duration::from_nanos(nanoseconds / u64::from(count)),
        burst: burst.unwrap_or(count),
    })
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let interval = self.interval.as_nanos().max(1);
        // The first unit that gives exactly this interval.
        let exact = UNITS.iter().find_map(|(unit, nanoseconds)| {
            let nanoseconds = u128::from(*nanoseconds);
            let count = nanoseconds / interval;
            (count > 0 && nanoseconds / count == interval).then_some((count, unit))
        });
        let (count, unit) = exact.unwrap_or((1, &"d"));
        write!(f, "{count}/{unit}")?;
        if count != u128::from(self.burst) {
            write!(f, ":{}", self.burst)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, milliseconds, burst) in [
            ("10/s", 100, 10),
            ("300/m", 200, 300),
            ("300/m:20", 200, 20),
            ("1/h:5", 3_600_000, 5),
            ("2/d", 43_200_000, 2),
        ] {
            let expected = Rate {
                interval: Duration::from_millis(milliseconds),
                burst,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in [
            "",
            "10",
            "/s",
            "0/s",
            "10/",
            "10/s:",
            "10/s:0",
            "10/sec",
            "10/S",
            "1.5/s",
            "-1/s",
            "+1/s",
            " 1/s",
            "1/s ",
            "1000001/s",
            "1/s:1000001",
            "1/s:1:1",
            "1/2s",
        ] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            count in 1..=MOST,
            unit in prop::sample::select(vec!["s", "m", "h", "d"]),
            burst in prop::option::of(1..=MOST),
        ) {
            let burst = burst.map(|burst| format!(":{burst}")).unwrap_or_default();
            let rate: Rate = format!("{count}/{unit}{burst}").parse().unwrap();
            prop_assert!(!rate.interval.is_zero() && rate.burst > 0);
            prop_assert_eq!(rate.to_string().parse(), Ok(rate), "{}", rate);
        }

        #[test]
        fn what_is_read_reads_the_same_when_written_out(
            text in "[0-9]{1,7}/[smhd](:[0-9]{1,7})?|[0-9/:smhd]{0,8}|.{0,8}",
        ) {
            if let Ok(rate) = text.parse::<Rate>() {
                prop_assert_eq!(rate.to_string().parse(), Ok(rate));
            }
        }
    }
}
