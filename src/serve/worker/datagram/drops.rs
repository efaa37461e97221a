//! Datagrams that were dropped: each is counted, and once a second lines report how many.

use std::time::{Duration, Instant};

use crate::config::{ListenerId, ServiceId};
use crate::report::throttle::{self, Limiter};
use crate::report::{self, DropReason, Event};

/// The time between the first drop and the lines.
const PAUSE: Duration = Duration::from_secs(1);

/// How many were dropped since the last lines.
#[derive(Debug)]
pub(in crate::serve) struct Drops {
    service: ServiceId,
    counts: [u64; DropReason::COUNT],
    /// Open when the lines are due.
    limiter: Limiter,
}

impl Drops {
    /// None so far.
    pub(in crate::serve) fn new(service: ServiceId) -> Self {
        Self {
            service,
            counts: [0; DropReason::COUNT],
            limiter: Limiter::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.counts == [0; DropReason::COUNT]
    }

    /// Counts one, and begins a second if it is the first.
    pub(in crate::serve) fn note(&mut self, listener: ListenerId, reason: DropReason) {
        report::event(Event::DatagramDropped(self.service, listener, reason));
        if self.is_empty() {
            self.limiter.close(throttle::now(), report::throttle(PAUSE));
        }
        self.counts[reason as usize] += 1;
    }

    /// Returns when the lines are due, if there are any.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| throttle::instant(self.limiter.opens_at()))
    }

    /// Writes the lines if they are due, or `now`.
    pub(in crate::serve) fn flush(&mut self, now: bool) {
        for (reason, count) in DropReason::ALL.into_iter().zip(self.take(now)) {
            if count > 0 {
                report::event(Event::Dropped(self.service, count, reason));
            }
        }
    }

    /// Takes what the lines report, by [`DropReason`]: nothing if they aren't due.
    fn take(&mut self, now: bool) -> [u64; DropReason::COUNT] {
        // Mostly there are none, and the time isn't needed.
        if self.is_empty() || !now && !self.limiter.is_open(throttle::now()) {
            return [0; DropReason::COUNT];
        }
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::counters;

    const NONE: [u64; DropReason::COUNT] = [0; DropReason::COUNT];

    /// None so far, of a service of its own.
    fn drops(service: usize) -> Drops {
        report::set_test_services();
        Drops::new(ServiceId::new(service))
    }

    fn counts(of: &[(DropReason, u64)]) -> [u64; DropReason::COUNT] {
        let mut counts = NONE;
        for (reason, count) in of {
            counts[*reason as usize] = *count;
        }
        counts
    }

    #[test]
    fn each_is_counted_when_it_is_dropped() {
        let mut drops = drops(5);
        let listener = ListenerId::new(5);
        let counted = || DropReason::ALL.map(|why| counters::listener(listener).dropped(why));
        assert_eq!(counted(), NONE);
        drops.note(listener, DropReason::Empty);
        drops.note(listener, DropReason::NotSent);
        drops.note(listener, DropReason::Empty);
        let expected = counts(&[(DropReason::Empty, 2), (DropReason::NotSent, 1)]);
        assert_eq!(counted(), expected);
        drops.flush(true);
        assert_eq!(counted(), expected);
    }

    #[test]
    fn an_interval_after_the_first_one_line_reports_those_of_a_reason() {
        let mut drops = drops(6);
        assert_eq!(drops.due(), None);
        let earliest = Instant::now() + PAUSE;
        drops.note(ListenerId::NONE, DropReason::Overflow);
        let due = drops.due();
        let latest = Instant::now() + PAUSE;
        assert!(due.is_some_and(|due| earliest <= due && due <= latest));
        drops.note(ListenerId::NONE, DropReason::Overflow);
        drops.note(ListenerId::NONE, DropReason::Short);
        // Not one interval after the last.
        assert_eq!(drops.due(), due);
        assert_eq!(drops.take(false), NONE);

        // As time does.
        drops.limiter.open();
        let expected = counts(&[(DropReason::Overflow, 2), (DropReason::Short, 1)]);
        assert_eq!(drops.take(false), expected);
        assert_eq!((drops.due(), drops.take(false)), (None, NONE));

        // The next begins an interval.
        drops.note(ListenerId::NONE, DropReason::Short);
        assert_eq!(drops.take(false), NONE);
        assert!(drops.due() > due);
    }

    #[test]
    fn the_last_ones_do_not_wait_for_the_end_of_the_interval() {
        let mut drops = drops(7);
        drops.note(ListenerId::NONE, DropReason::TooLong);
        assert_eq!(drops.take(false), NONE);
        assert_eq!(drops.take(true), counts(&[(DropReason::TooLong, 1)]));
        drops.note(ListenerId::NONE, DropReason::TooLong);
        drops.flush(true);
        assert_eq!((drops.due(), drops.take(true)), (None, NONE));
    }
}
