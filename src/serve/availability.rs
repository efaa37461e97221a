//! Whether a service takes new clients, as an administrator wants it.

use std::sync::atomic::{AtomicU8, Ordering};

use serde::{Deserialize, Serialize};

/// Whether a service takes new clients. Those that it has accepted go on in any case: pending
/// connections get their handlers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Availability {
    /// It does.
    #[default]
    Serving,
    /// They wait in the backlog, and datagrams in their socket.
    Disabled,
    /// They are rejected, and their datagrams dropped.
    Refusing,
    /// They wait as with [`Self::Disabled`], and an administrator waits for the ends of its handlers.
    Draining,
}

impl Availability {
    const ALL: [Self; 4] = [
        Self::Serving,
        Self::Disabled,
        Self::Refusing,
        Self::Draining,
    ];

    /// Returns whether new clients are left where the kernel has them.
    pub(in crate::serve) fn leaves_waiting(self) -> bool {
        matches!(self, Self::Disabled | Self::Draining)
    }
}

/// The availability of a service, which the main thread changes. It then wakes all workers.
#[derive(Debug)]
pub(in crate::serve) struct AvailabilityCell(AtomicU8);

impl AvailabilityCell {
    pub(in crate::serve) fn new(availability: Availability) -> Self {
        Self(AtomicU8::new(availability as u8))
    }

    /// Reads it. Relaxed, and so no more than a load: a worker that reads the old value finds the
    /// new one when it is woken.
    pub(in crate::serve) fn get(&self) -> Availability {
        let value = self.0.load(Ordering::Relaxed);
        let all = Availability::ALL.into_iter();
        let mut found = all.filter(|availability| *availability as u8 == value);
        found.next().unwrap_or_default()
    }

    pub(in crate::serve) fn set(&self, availability: Availability) {
        self.0.store(availability as u8, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_availability_is_read_as_it_was_set() {
        let cell = AvailabilityCell::new(Availability::Draining);
        assert_eq!(cell.get(), Availability::Draining);
        for availability in Availability::ALL {
            cell.set(availability);
            assert_eq!(cell.get(), availability);
        }
    }
}
