//! What the models have in the place of the kernel: wakers, processes and a clock.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::time::Duration;

use shuttle::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::sys::process::Process;

#[derive(Default)]
pub struct Kernel {
    /// For each waker whether it was woken.
    pub wakers: Vec<bool>,
    /// All processes that there were.
    pub processes: Vec<Process>,
    /// Whose pidfd, or whose control socket, a descriptor is.
    pub owners: HashMap<RawFd, usize>,
    /// The connections that a process goes on with.
    pub served: Vec<RawFd>,
    /// Whether the thread that parks itself was unparked.
    pub token: bool,
    /// How many threads were started that end with the model.
    pub threads: usize,
    /// Whether the thread that sees to things has nothing to do.
    pub asleep: bool,
    pub clock: Duration,
    /// The version of the program's files.
    pub version: u32,
    /// How many processes were ready for a client.
    pub ready: usize,
    /// How many of the next starts fail, and how many get less far than another may.
    pub failures: usize,
    pub early: usize,
    /// Whether prestarted processes may misbehave.
    pub trouble: bool,
}

#[derive(Default)]
struct Shared {
    kernel: Mutex<Kernel>,
    changed: Condvar,
}

shuttle::lazy_static! {
    static ref SHARED: Shared = Shared::default();
}

fn lock() -> MutexGuard<'static, Kernel> {
    let shared: &'static Shared = &SHARED;
    shared.kernel.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads something.
pub fn read<T>(read: impl FnOnce(&Kernel) -> T) -> T {
    read(&lock())
}

/// Changes something, which others may wait for.
pub fn with<T>(change: impl FnOnce(&mut Kernel) -> T) -> T {
    let mut kernel = lock();
    kernel.asleep = false;
    let result = change(&mut kernel);
    drop(kernel);
    SHARED.changed.notify_all();
    result
}

/// Waits for something.
pub fn until<T>(mut found: impl FnMut(&mut Kernel) -> Option<T>) -> T {
    let mut kernel = lock();
    loop {
        if let Some(result) = found(&mut kernel) {
            return result;
        }
        let waited = SHARED.changed.wait(kernel);
        kernel = waited.unwrap_or_else(PoisonError::into_inner);
    }
}

/// Waits for something, asleep.
pub fn sleep_until<T>(mut found: impl FnMut(&mut Kernel) -> Option<T>) -> T {
    until(|kernel| {
        let result = found(kernel);
        if result.is_none() && !kernel.asleep {
            kernel.asleep = true;
            SHARED.changed.notify_all();
        }
        result
    })
}

/// Waits until the thread that sees to things sleeps.
pub fn wait_for_sleep() {
    until(|kernel| kernel.asleep.then_some(()));
}
