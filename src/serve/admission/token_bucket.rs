//! Token buckets, each of them one number: the time at which it will be full again (the
//! *theoretical arrival time* of the generic cell rate algorithm). A token is an interval of
//! that time; what is in the past is a full bucket, and so is zero.
//!
//! Times are nanoseconds of a [`Clock`]. Nothing here reads one: `now` is passed in, and may be
//! a little older in one thread than in another.

use std::time::{Duration, Instant};

use crate::config::Rate;
use crate::sys::sync::atomic::{AtomicU64, Ordering};

/// A clock in nanoseconds since a start, which fit into 64 bits for five hundred years.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Clock(Instant);

impl Clock {
    /// A clock that starts at this time, before which nothing happens.
    pub(in crate::serve) fn new(start: Instant) -> Self {
        Self(start)
    }

    /// Returns this time in nanoseconds.
    pub(in crate::serve) fn read(self, time: Instant) -> u64 {
        nanoseconds(time.saturating_duration_since(self.0))
    }

    /// Returns the time that so many nanoseconds are.
    pub(in crate::serve) fn instant(self, nanoseconds: u64) -> Instant {
        self.0 + Duration::from_nanos(nanoseconds.min(LONGEST))
    }
}

/// The longest that a bucket takes to fill, 146 years: no sum of three of them overflows.
const LONGEST: u64 = u64::MAX / 4;

/// A rate in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) struct Pace {
    /// What a token takes to come back.
    interval: u64,
    /// What all but one of them take.
    tolerance: u64,
}

impl From<Rate> for Pace {
    fn from(rate: Rate) -> Self {
        let interval = nanoseconds(rate.interval).clamp(1, LONGEST);
        let others = u64::from(rate.burst.saturating_sub(1));
        Self {
            interval,
            tolerance: interval.saturating_mul(others).min(LONGEST),
        }
    }
}

impl Pace {
    /// Takes a token from a bucket that will be full at `full`. Returns when it will be full then,
    /// or, if there is no token, when there will be one.
    pub(in crate::serve) fn take(self, full: u64, now: u64) -> Result<u64, u64> {
        // Not later than an empty one, which matters when it was emptied at another rate.
        let full = full.clamp(now, self.empty(now));
        if full - now <= self.tolerance {
            Ok(full.saturating_add(self.interval))
        } else {
            Err(full - self.tolerance)
        }
    }

    /// Returns how many tokens are in a bucket that will be full at `full`.
    pub(in crate::serve) fn left(self, full: u64, now: u64) -> u64 {
        self.empty(now).saturating_sub(full.max(now)) / self.interval
    }

    /// Returns when a bucket that is empty now will be full.
    pub(in crate::serve) fn empty(self, now: u64) -> u64 {
        now.saturating_add(self.tolerance + self.interval)
    }

    /// Gives back a token that was taken at the time `taken`: as much of it as the rate hasn't
    /// restored. With more, a bucket that was full meanwhile would hold a token too many:
    /// like this, what isn't given back keeps to the rate in every window of time.
    pub(in crate::serve) fn give_back(self, full: u64, taken: u64, now: u64) -> u64 {
        let rest = self.interval.saturating_sub(now.saturating_sub(taken));
        full.saturating_sub(rest)
    }
}

/// A bucket that threads share.
#[derive(Debug)]
pub(in crate::serve) struct Bucket {
    pace: Pace,
    /// When it will be full. Nothing else is ordered by it.
    full: AtomicU64,
}

impl Bucket {
    /// A full one.
    pub(in crate::serve) fn new(rate: Rate) -> Self {
        Self {
            pace: rate.into(),
            full: AtomicU64::new(0),
        }
    }

    /// Takes a token. If there is none, returns when there may be one for the first that asks.
    pub(in crate::serve) fn take(&self, now: u64) -> Result<(), u64> {
        let mut full = self.full.load(Ordering::Relaxed);
        loop {
            let then = self.pace.take(full, now)?;
            match self.exchange(full, then) {
                Ok(_) => return Ok(()),
                Err(changed) => full = changed,
            }
        }
    }

    /// Gives back a token that was taken at the time `taken` for a client that was rejected, or
    /// wasn't there at all.
    pub(in crate::serve) fn give_back(&self, taken: u64, now: u64) {
        let mut full = self.full.load(Ordering::Relaxed);
        while let Err(changed) = self.exchange(full, self.pace.give_back(full, taken, now)) {
            full = changed;
        }
    }

    /// Returns when it will be full, after these tokens are given back. They were taken at these times.
    pub(super) fn full(&self, given_back: impl Iterator<Item = u64>, now: u64) -> u64 {
        let full = self.full.load(Ordering::Relaxed);
        given_back.fold(full, |full, taken| self.pace.give_back(full, taken, now))
    }

    /// Has it be full at this time, or when an empty one would be.
    pub(super) fn set_full(&self, full: u64, now: u64) {
        let full = full.min(self.pace.empty(now));
        self.full.store(full, Ordering::Relaxed);
    }

    /// Returns when there is a token: now, or later.
    pub(in crate::serve) fn next(&self, now: u64) -> u64 {
        let full = self.full.load(Ordering::Relaxed);
        self.pace.take(full, now).err().unwrap_or(now)
    }

    /// Returns how many tokens there are.
    pub(in crate::serve) fn left(&self, now: u64) -> u64 {
        self.pace.left(self.full.load(Ordering::Relaxed), now)
    }

    fn exchange(&self, old: u64, new: u64) -> Result<u64, u64> {
        self.full
            .compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(interval: u64, burst: u32) -> Rate {
        Rate {
            interval: Duration::from_nanos(interval),
            burst,
        }
    }

    #[test]
    fn a_burst_and_then_one_an_interval() {
        let bucket = Bucket::new(rate(SECOND, 3));
        let now = 5 * SECOND;
        for taken in 0..3 {
            assert_eq!(bucket.left(now), 3 - taken);
            assert_eq!(bucket.next(now), now);
            assert_eq!(bucket.take(now), Ok(()));
        }
        assert_eq!(bucket.left(now), 0);
        assert_eq!(bucket.take(now), Err(now + SECOND));
        assert_eq!(bucket.next(now), now + SECOND);
        assert_eq!(bucket.take(now + SECOND - 1), Err(now + SECOND));
        assert_eq!(bucket.take(now + SECOND), Ok(()));
        assert_eq!(bucket.take(now + SECOND), Err(now + 2 * SECOND));
    }

    #[test]
    fn a_token_given_back_at_once_was_never_taken() {
        let bucket = Bucket::new(rate(SECOND, 1));
        for _ in 0..5 {
            assert_eq!(bucket.take(7), Ok(()));
            bucket.give_back(7, 7);
        }
        assert_eq!(bucket.take(7), Ok(()));
        // It has come back meanwhile, so there is nothing to be given back.
        assert_eq!(bucket.take(7 + SECOND), Ok(()));
        bucket.give_back(7, 7 + SECOND);
        assert_eq!(bucket.take(7 + SECOND), Err(7 + 2 * SECOND));
    }

    #[test]
    fn a_bucket_emptied_at_another_rate_is_at_most_empty() {
        let (slow, fast) = (
            Pace::from(rate(3600 * SECOND, 10)),
            Pace::from(rate(SECOND, 2)),
        );
        let mut full = 0;
        while let Ok(then) = slow.take(full, 1) {
            full = then;
        }
        assert_eq!(fast.take(full, 1), Err(1 + SECOND));
    }

    #[test]
    fn the_slowest_and_largest_overflow_nothing() {
        for pace in [rate(u64::MAX, u32::MAX), rate(0, 0), rate(1, u32::MAX)].map(Pace::from) {
            for now in [0, LONGEST, u64::MAX] {
                let full = pace.take(0, now).unwrap();
                pace.take(u64::MAX, now).ok();
                pace.give_back(full, 0, now);
                pace.give_back(0, now, 0);
            }
        }
        let clock = Clock::new(Instant::now());
        assert_eq!(clock.read(clock.instant(SECOND)), SECOND);
        clock.instant(u64::MAX);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Pass(u64),
        Take,
        /// Of those that were taken and not given back, which one.
        GiveBack(proptest::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..40_u64).prop_map(Step::Pass),
            Just(Step::Take),
            Just(Step::Take),
            any::<proptest::sample::Index>().prop_map(Step::GiveBack),
        ];
        prop::collection::vec(step, 1..if cfg!(miri) { 20 } else { 200 })
    }

    /// Whether these times keep to the rate, in every window that begins and ends with one.
    fn keeps_to(rate: Rate, timeouts: &[u64]) -> bool {
        (0..timeouts.len()).all(|first| {
            (first..timeouts.len()).all(|last| {
                let most = u64::from(rate.burst)
                    + (timeouts[last] - timeouts[first]) / nanoseconds(rate.interval);
                (last - first + 1) as u64 <= most
            })
        })
    }

    proptest! {
        #[test]
        fn it_is_what_counting_tokens_would_be(
            interval in 1..30_u64,
            burst in 1..6_u32,
            start in 0..100_u64,
            steps in steps(),
        ) {
            let rate = rate(interval, burst);
            let bucket = Bucket::new(rate);
            let most = interval * u64::from(burst);
            // Parts of tokens, as many to a token as the interval has nanoseconds.
            let (mut now, mut parts) = (start, most);
            let mut granted = Vec::new();
            for step in steps {
                prop_assert_eq!(bucket.left(now), parts / interval);
                match step {
                    Step::Pass(time) => {
                        now += time;
                        parts = most.min(parts + time);
                    }
                    Step::GiveBack(_) => {}
                    Step::Take if parts >= interval => {
                        prop_assert_eq!(bucket.next(now), now);
                        prop_assert_eq!(bucket.take(now), Ok(()));
                        parts -= interval;
                        granted.push(now);
                    }
                    Step::Take => {
                        let when = now + interval - parts;
                        prop_assert_eq!(bucket.take(now), Err(when));
                        prop_assert_eq!(bucket.next(now), when);
                    }
                }
            }
            prop_assert!(keeps_to(rate, &granted));
        }

        #[test]
        fn what_is_not_given_back_keeps_to_the_rate(
            interval in 1..30_u64,
            burst in 1..6_u32,
            steps in steps(),
        ) {
            let rate = rate(interval, burst);
            let bucket = Bucket::new(rate);
            let (mut now, mut kept) = (0, Vec::new());
            for step in steps {
                match step {
                    Step::Pass(time) => now += time,
                    Step::Take => kept.extend(bucket.take(now).ok().map(|()| now)),
                    Step::GiveBack(which) if !kept.is_empty() => {
                        bucket.give_back(kept.remove(which.index(kept.len())), now);
                    }
                    Step::GiveBack(_) => {}
                }
            }
            prop_assert!(keeps_to(rate, &kept), "{:?}", kept);
        }
    }

    #[test]
    fn threads_together_take_no_more_than_one_could() {
        const INTERVAL: u64 = 7;
        let turns = if cfg!(miri) { 50 } else { 20_000 };
        let bucket = Bucket::new(rate(INTERVAL, 10));
        let (clock, taken) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..turns {
                        let now = clock.fetch_add(1, Ordering::Relaxed);
                        if bucket.take(now).is_err() {
                            continue;
                        }
                        if turn % 3 == 0 {
                            bucket.give_back(now, now);
                        } else {
                            taken.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        let (elapsed, taken) = (clock.into_inner(), taken.into_inner());
        assert!(taken <= 10 + elapsed / INTERVAL, "{taken} in {elapsed}");
        assert!(taken >= 10, "{taken}");
    }
}
