//! A waker that shuttle sees: it doesn't see the kernel's.

use super::sync::{Mutex, PoisonError};
use shuttle::sync::Condvar;

#[derive(Debug, Default)]
pub struct Waker {
    woken: Mutex<bool>,
    changed: Condvar,
}

impl Waker {
    pub fn wake(&self) {
        *self.woken.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Waits for a wake-up, and clears it.
    pub fn wait(&self) {
        let woken = self.woken.lock().unwrap_or_else(PoisonError::into_inner);
        let woken = self.changed.wait_while(woken, |woken| !*woken);
        *woken.unwrap_or_else(PoisonError::into_inner) = false;
    }
}
