//! Activity that lasts as long as a closure runs.

use super::Instance;
use nix::sys::signal::Signal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Sets a flag however its scope is left, so that no thread waits for it in vain.
pub struct Over<'a>(pub &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Sends signals over and over as long as `body` takes.
pub fn in_a_storm(skd: &Instance, signals: &[Signal], body: impl FnOnce()) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                signals.iter().for_each(|signal| skd.signal(*signal));
                // Nearly as fast as they can be handled one by one.
                thread::sleep(Duration::from_micros(50));
            }
        });
        let _over = Over(&over);
        body();
    });
}
