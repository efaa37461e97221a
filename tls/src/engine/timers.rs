//! When connections have to be looked at though nothing has happened.
//!
//! A connection's deadline moves with each byte. So it is only compared when the earliest noted one is
//! reached, and noted again then: a byte costs no more than to remember the time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use super::slab::Key;

/// How many notes are kept in any case.
const SPARE: usize = 1024;

/// The noted deadlines of a thread's connections.
#[derive(Debug, Default)]
pub(super) struct Timers {
    noted: BinaryHeap<Reverse<(Instant, Key)>>,
}

impl Timers {
    /// Notes that this connection has to be looked at.
    pub(super) fn note(&mut self, at: Instant, key: Key) {
        self.noted.push(Reverse((at, key)));
    }

    /// Forgets what was noted of connections that aren't there, if that is most of it: where connections are short
    /// and may be idle for long, it would be much.
    pub(super) fn forget(&mut self, live: usize, mut is_live: impl FnMut(Key) -> bool) {
        if self.noted.len() > 2 * live + SPARE {
            self.noted.retain(|Reverse((_, key))| is_live(*key));
        }
    }

    /// Returns how long there is nothing to look at, in whole milliseconds, rounded up.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let Reverse((at, _)) = self.noted.peek()?;
        let left = at.saturating_duration_since(now);
        Some(Duration::from_millis(
            u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX),
        ))
    }

    /// Returns a connection that has to be looked at now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Key> {
        let Reverse((at, _)) = self.noted.peek()?;
        if *at > now {
            return None;
        }
        self.noted.pop().map(|Reverse((_, key))| key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slab::Slab;

    #[test]
    fn what_is_noted_comes_in_time_and_in_order() {
        let mut slab = Slab::default();
        let keys = ['a', 'b', 'c'].map(|it| slab.insert(Box::new(it)).unwrap());
        let mut timers = Timers::default();
        let begin = Instant::now();
        let at = |milliseconds| begin + Duration::from_millis(milliseconds);
        assert_eq!(timers.wait(begin), None);
        for (key, milliseconds) in keys.into_iter().zip([30, 10, 20]) {
            timers.note(at(milliseconds), key);
        }
        assert_eq!(timers.wait(begin), Some(Duration::from_millis(10)));
        let soon = begin + Duration::from_micros(9_100);
        assert_eq!(timers.wait(soon), Some(Duration::from_millis(1)));
        assert_eq!(timers.next(soon), None);
        assert_eq!(timers.next(at(20)), Some(keys[1]));
        assert_eq!(timers.next(at(20)), Some(keys[2]));
        assert_eq!(timers.next(at(20)), None);
        assert_eq!(timers.wait(at(40)), Some(Duration::ZERO));
    }

    #[test]
    fn what_is_gone_is_forgotten_when_it_is_most() {
        let mut slab = Slab::default();
        let live = slab.insert(Box::new(())).unwrap();
        let gone = slab.insert(Box::new(())).unwrap();
        slab.remove(gone);
        let mut timers = Timers::default();
        let at = Instant::now();
        timers.note(at, live);
        for _ in 0..SPARE + 1 {
            timers.forget(1, |_| panic!("it isn't most of it yet"));
            timers.note(at, gone);
        }
        timers.note(at, gone);
        timers.forget(1, |key| slab.get(key).is_some());
        assert_eq!(timers.noted.len(), 1);
    }
}
