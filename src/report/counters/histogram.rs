//! Histograms of times: how many are in each of a few fixed ranges, and their sum.

use std::time::Duration;

/// The upper bounds of the ranges of a histogram but the last, in nanoseconds, each inclusive, and
/// how they are saved.
pub(super) type Bounds<const N: usize> = [(u64, &'static str); N];

const MICROSECOND: u64 = 1_000;
const MILLISECOND: u64 = 1_000 * MICROSECOND;
const SECOND: u64 = 1_000 * MILLISECOND;

/// How long handlers run.
pub(super) const DURATIONS: Bounds<12> = [
    (MILLISECOND, "1ms"),
    (5 * MILLISECOND, "5ms"),
    (10 * MILLISECOND, "10ms"),
    (50 * MILLISECOND, "50ms"),
    (100 * MILLISECOND, "100ms"),
    (500 * MILLISECOND, "500ms"),
    (SECOND, "1s"),
    (5 * SECOND, "5s"),
    (10 * SECOND, "10s"),
    (60 * SECOND, "60s"),
    (300 * SECOND, "300s"),
    (3600 * SECOND, "3600s"),
];

/// How long clients wait for their handlers.
pub(super) const LATENCIES: Bounds<13> = [
    (50 * MICROSECOND, "50us"),
    (100 * MICROSECOND, "100us"),
    (250 * MICROSECOND, "250us"),
    (500 * MICROSECOND, "500us"),
    (MILLISECOND, "1ms"),
    (2_500 * MICROSECOND, "2500us"),
    (5 * MILLISECOND, "5ms"),
    (10 * MILLISECOND, "10ms"),
    (50 * MILLISECOND, "50ms"),
    (100 * MILLISECOND, "100ms"),
    (500 * MILLISECOND, "500ms"),
    (SECOND, "1s"),
    (10 * SECOND, "10s"),
];

/// How many counters a histogram with so many bounds has: one for each range, and the sum.
pub(super) const fn counters(bounds: usize) -> usize {
    bounds + 2
}

/// Returns the range of a time.
pub(super) fn range(bounds: &[(u64, &str)], time: u64) -> usize {
    bounds.partition_point(|(bound, _)| *bound < time)
}

/// A time in nanoseconds.
pub(super) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// What a histogram has counted.
#[derive(Clone, Copy, Debug)]
pub struct HistogramCounts<'a> {
    bounds: &'static [(u64, &'static str)],
    /// One for each range, and the sum.
    counters: &'a [u64],
}

impl<'a> HistogramCounts<'a> {
    /// What these counters say.
    pub(super) fn new(bounds: &'static [(u64, &'static str)], counters: &'a [u64]) -> Self {
        Self { bounds, counters }
    }

    /// Returns the upper bounds of the ranges but the last, each inclusive.
    pub fn bounds(self) -> impl Iterator<Item = Duration> {
        let bounds = self.bounds.iter();
        bounds.map(|(bound, _)| Duration::from_nanos(*bound))
    }

    /// Returns how many times are in each range, one range more than bounds.
    pub fn counts(self) -> &'a [u64] {
        self.counters.split_last().map_or(&[], |(_, counts)| counts)
    }

    /// Returns the sum of all times.
    pub fn sum(self) -> Duration {
        Duration::from_nanos(self.counters.last().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_in_its_range_and_what_is_above_all_is_in_the_last() {
        for bounds in [&DURATIONS[..], &LATENCIES[..]] {
            assert!(bounds.is_sorted());
            for (index, (bound, _)) in bounds.iter().enumerate() {
                assert_eq!(range(bounds, *bound), index);
                assert_eq!(range(bounds, *bound + 1), index + 1);
            }
            assert_eq!(range(bounds, 0), 0);
        }
    }
}
