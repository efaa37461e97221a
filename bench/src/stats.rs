//! Medians over rounds and percentiles over connections.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The median, the least and the most of a figure that was measured once a round.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f64; 3]", into = "[f64; 3]")]
pub(crate) struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// Summarises finite figures to six digits. Returns `None` without such figures.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut figures: Vec<f64> = figures.into_iter().filter(|f| f.is_finite()).collect();
        figures.sort_by(f64::total_cmp);
        let (min, max) = (*figures.first()?, *figures.last()?);
        let middle = figures.len() / 2;
        let median = if figures.len() % 2 == 1 {
            figures[middle]
        } else {
            (figures[middle - 1] + figures[middle]) / 2.0
        };
        Some(Self {
            median: six_digits(median),
            min: six_digits(min),
            max: six_digits(max),
        })
    }

    /// The same figures as ratios the other way round.
    pub(crate) fn inverse(self) -> Self {
        Self {
            median: six_digits(1.0 / self.median),
            min: six_digits(1.0 / self.max),
            max: six_digits(1.0 / self.min),
        }
    }
}

/// Rounds a figure to six digits: more than any measurement supports.
fn six_digits(figure: f64) -> f64 {
    format!("{figure:.5e}").parse().unwrap_or(figure)
}

impl From<[f64; 3]> for Summary {
    fn from([median, min, max]: [f64; 3]) -> Self {
        Self { median, min, max }
    }
}

impl From<Summary> for [f64; 3] {
    fn from(summary: Summary) -> Self {
        [summary.median, summary.min, summary.max]
    }
}

/// The percentiles of the latency plots.
pub(crate) const PERCENTILES: [f64; 10] =
    [10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99];

/// Latencies of many connections, in microseconds with three significant digits.
///
/// Latencies above [`Latencies::CEILING`] count as that.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    const CEILING: u64 = 120_000_000;

    pub(crate) fn new() -> Self {
        #[expect(clippy::expect_used, reason = "constants, and a test makes one")]
        let histogram = Histogram::new_with_bounds(1, Self::CEILING, 3).expect("valid bounds");
        Self(histogram)
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(Self::CEILING);
        self.0.saturating_record(micros.clamp(1, Self::CEILING));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0 += &other.0;
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.len()
    }

    /// Returns the latency in microseconds at a percentile; `None` without connections.
    pub(crate) fn percentile(&self, percent: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_percentile(percent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(figures: &[f64]) -> Option<(f64, f64, f64)> {
        Summary::of(figures.iter().copied()).map(|s| (s.median, s.min, s.max))
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(summary(&[3.0, 1.0, 2.0]), Some((2.0, 1.0, 3.0)));
        assert_eq!(summary(&[4.0, 1.0, 3.0, 2.0]), Some((2.5, 1.0, 4.0)));
        assert_eq!(summary(&[7.0]), Some((7.0, 7.0, 7.0)));
    }

    #[test]
    fn nothing_has_no_summary_and_infinities_do_not_count() {
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[f64::NAN, f64::INFINITY]), None);
        assert_eq!(summary(&[f64::NAN, 5.0]), Some((5.0, 5.0, 5.0)));
    }

    #[test]
    fn percentiles_of_a_thousand_even_steps() {
        let mut latencies = Latencies::new();
        for micros in 1..=1000 {
            latencies.record(Duration::from_micros(micros));
        }
        assert_eq!(latencies.len(), 1000);
        for (percent, expected) in [(50.0, 500), (99.0, 990), (99.9, 999)] {
            // Three digits, and one connection more or less.
            let found = latencies.percentile(percent).unwrap_or(0);
            assert!(found.abs_diff(expected) <= 1, "{percent} %: {found}");
        }
    }

    #[test]
    fn percentiles_survive_merging_and_extremes() {
        let (mut slow, mut fast) = (Latencies::new(), Latencies::new());
        assert_eq!(slow.percentile(50.0), None);
        slow.record(Duration::from_secs(100_000));
        for _ in 0..99 {
            fast.record(Duration::ZERO);
        }
        fast.merge(&slow);
        assert_eq!(fast.percentile(99.0), Some(1));
        let highest = fast.percentile(100.0).unwrap_or(0) as f64;
        assert!((highest / Latencies::CEILING as f64 - 1.0).abs() < 0.002);
    }
}
