//! How much is reported. It is a static, since any code can report.

use std::sync::atomic::{AtomicU8, Ordering};

use super::throttle;

static VERBOSITY: AtomicU8 = AtomicU8::new(0);

/// Sets how much is reported: 0 troubles, 1 connections, 2 all.
pub fn set_verbosity(verbosity: u8) {
    throttle::read();
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Returns how much is reported.
pub fn verbosity() -> u8 {
    VERBOSITY.load(Ordering::Relaxed)
}

/// Whether events of this verbosity are reported.
pub fn wants(verbosity: u8) -> bool {
    self::verbosity() >= verbosity
}
