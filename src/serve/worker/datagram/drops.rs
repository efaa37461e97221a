//! Datagrams that were dropped: each is counted, and once a second lines report how many.

use std::time::{Duration, Instant};

use crate::config::ServiceId;
use crate::report::throttle::{self, Gate};
use crate::report::{self, Event};

pub(in crate::serve) use crate::report::DropReason as Why;

const PAUSE: Duration = Duration::from_secs(1);

/// How many were dropped since the last lines.
#[derive(Debug)]
pub(in crate::serve) struct Drops {
    service: ServiceId,
    counts: [u64; Why::COUNT],
    /// Open when the lines are due.
    gate: Gate,
}

impl Drops {
    /// None so far.
    pub(in crate::serve) fn new(service: ServiceId) -> Self {
        Self {
            service,
            counts: [0; Why::COUNT],
            gate: Gate::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.counts == [0; Why::COUNT]
    }

    /// Counts one, and begins a second if it is the first.
    pub(in crate::serve) fn note(&mut self, why: Why) {
        report::event(Event::DatagramDropped(self.service, why));
        if self.is_empty() {
            self.gate.close(throttle::now(), report::throttle(PAUSE));
        }
        self.counts[why as usize] += 1;
    }

    /// Returns when the lines are due, if there are any.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        (!self.is_empty()).then(|| throttle::instant(self.gate.opens_at()))
    }

    /// Writes the lines if they are due, or `now`.
    pub(in crate::serve) fn flush(&mut self, now: bool) {
        if self.is_empty() || !now && !self.gate.is_open(throttle::now()) {
            return;
        }
        for why in Why::ALL {
            let count = std::mem::take(&mut self.counts[why as usize]);
            if count > 0 {
                report::event(Event::Dropped(self.service, count, why));
            }
        }
    }
}
