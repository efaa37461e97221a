//! Token buckets in the state of an upgrade: those that aren't full, with the times at which they will
//! be. Otherwise each upgrade or reload would give every client a burst.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::pending::Pending;
use super::policy::Policy;
use super::token_bucket::{Clock, Pace};
use crate::config::Source;

/// The buckets of a service that aren't full. MonotonicClock are nanoseconds of the monotonic clock.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedRates {
    /// That of all clients together.
    all: Option<u64>,
    /// Those of sources.
    sources: Vec<(String, u64)>,
}

/// Converts times of a [`Clock`], which no other process understands.
#[derive(Clone, Copy, Debug)]
struct MonotonicClock {
    now: u64,
    monotonic: u64,
}

impl MonotonicClock {
    fn new(clock: Clock) -> Self {
        let monotonic = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Into::into);
        Self {
            now: clock.read(Instant::now()),
            monotonic: u64::try_from(monotonic.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// `None` for a bucket that is full.
    fn save(self, full: u64) -> Option<u64> {
        let left = full.checked_sub(self.now).filter(|left| *left > 0)?;
        Some(self.monotonic.saturating_add(left))
    }

    fn restore(self, saved: u64) -> Option<u64> {
        let left = saved.checked_sub(self.monotonic).filter(|left| *left > 0)?;
        Some(self.now.saturating_add(left))
    }
}

impl Policy {
    /// Saves the buckets. Pending clients of the service begin again in the next process, so what
    /// they have taken is given back.
    pub(in crate::serve) fn save_rates<'a>(
        &self,
        pending: impl Iterator<Item = &'a Pending>,
        clock: Clock,
    ) -> SavedRates {
        let times = MonotonicClock::new(clock);
        let mut tokens = Vec::new();
        let mut slots: HashMap<Source, Vec<(Pace, u64)>> = HashMap::new();
        for client in pending {
            tokens.extend(client.token);
            if let Some(taken) = &client.source_slot {
                let rate = taken.limits.rate.map(|rate| (rate.into(), taken.at));
                slots.entry(client.source).or_default().extend(rate);
            }
        }
        let bucket = self.bucket.as_ref();
        let all = bucket.map(|bucket| bucket.full(tokens.into_iter(), times.now));
        let sources = self.sources.as_ref();
        let sources = sources.map(|sources| sources.buckets(times.now));
        let sources = sources.into_iter().flatten();
        let saved = sources.filter_map(|(source, full)| {
            let taken = slots.get(&source).into_iter().flatten();
            let full = taken.fold(full, |full, (pace, at)| {
                pace.give_back(full, *at, times.now)
            });
            Some((source.save(), times.save(full)?))
        });
        SavedRates {
            all: all.and_then(|full| times.save(full)),
            sources: saved.collect(),
        }
    }

    /// Restores the buckets, as far as there are such limits still. Before the handlers of sources are
    /// counted.
    pub(in crate::serve) fn restore_rates(&self, saved: &SavedRates, clock: Clock) {
        let times = MonotonicClock::new(clock);
        if let (Some(bucket), Some(full)) = (&self.bucket, saved.all) {
            bucket.set_full(times.restore(full).unwrap_or_default(), times.now);
        }
        let Some(sources) = &self.sources else {
            return;
        };
        for (source, full) in &saved.sources {
            if let (Some(source), Some(full)) = (Source::restore(source), times.restore(*full)) {
                sources.set_bucket(source, full, times.now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_next_process_and_never_sooner() {
        let before = MonotonicClock {
            now: 5_000,
            monotonic: 1_000_000,
        };
        let after = MonotonicClock {
            now: 10,
            monotonic: 1_000_300,
        };
        assert_eq!(before.save(5_000), None);
        let saved = before.save(6_000).unwrap();
        assert_eq!(after.restore(saved), Some(10 + 700));
        let late = MonotonicClock {
            now: 20,
            monotonic: 1_002_000,
        };
        assert_eq!(late.restore(saved), None);
        before.save(u64::MAX);
        after.restore(u64::MAX);
    }
}
