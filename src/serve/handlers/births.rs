//! Births: whether a thread is between making a handler and entering it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How many births of a thread have begun and ended: an odd number during one.
#[derive(Debug, Default)]
pub(in crate::serve) struct Births(AtomicU32);

/// A birth, which ends when this is dropped.
#[derive(Debug)]
pub(super) struct Birth<'a>(&'a Births);

impl Births {
    pub(super) fn begin(&self) -> Birth<'_> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Birth(self)
    }

    fn count(&self) -> u32 {
        self.0.load(Ordering::SeqCst)
    }

    /// Returns whether a handler is being made.
    pub(in crate::serve) fn under_way(&self) -> bool {
        self.count() % 2 == 1
    }

    /// Waits until no birth is under way that was at the call, or until the deadline. Returns
    /// whether there is none.
    pub(super) fn settle(&self, deadline: Instant) -> bool {
        let before = self.count();
        while before % 2 == 1 && self.count() == before {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(50));
        }
        true
    }
}

impl Drop for Birth<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}
