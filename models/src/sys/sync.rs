//! What shuttle sees, in the place of `src/sys/sync.rs`.

pub use shuttle::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::ops::{Add, Sub};
use std::time::Duration;

use crate::kernel;

/// A point at which another thread may run.
fn switch() {
    shuttle::thread::sleep(Duration::ZERO);
}

pub mod atomic {
    pub use shuttle::sync::atomic::*;

    /// shuttle's has no address for the kernel.
    #[derive(Debug)]
    pub struct AtomicI32(std::sync::atomic::AtomicI32);

    impl AtomicI32 {
        pub const fn new(value: i32) -> Self {
            Self(std::sync::atomic::AtomicI32::new(value))
        }

        pub fn load(&self, order: Ordering) -> i32 {
            super::switch();
            self.0.load(order)
        }

        pub fn store(&self, value: i32, order: Ordering) {
            super::switch();
            self.0.store(value, order);
        }

        pub const fn as_ptr(&self) -> *mut i32 {
            self.0.as_ptr()
        }
    }
}

/// shuttle has none.
#[derive(Debug, Default)]
pub struct OnceLock<T>(std::sync::OnceLock<T>);

impl<T> OnceLock<T> {
    pub const fn new() -> Self {
        Self(std::sync::OnceLock::new())
    }

    pub fn set(&self, value: T) -> Result<(), T> {
        switch();
        self.0.set(value)
    }

    pub fn get(&self) -> Option<&T> {
        switch();
        self.0.get()
    }
}

pub mod thread {
    use std::time::Duration;

    use crate::kernel;

    /// The only thread that parks itself.
    #[derive(Debug)]
    pub struct Thread;

    pub fn current() -> Thread {
        Thread
    }

    impl Thread {
        pub fn unpark(&self) {
            kernel::with(|kernel| kernel.token = true);
        }
    }

    pub fn park() {
        kernel::sleep_until(|kernel| std::mem::take(&mut kernel.token).then_some(()));
    }

    /// Lets others run.
    pub fn sleep(_: Duration) {
        shuttle::thread::yield_now();
    }
}

/// A time of the model's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(Duration);

impl Instant {
    pub fn now() -> Self {
        Self(kernel::read(|kernel| kernel.clock))
    }

    pub fn elapsed(self) -> Duration {
        Self::now() - self
    }

    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, other: Self) -> Duration {
        self.0.saturating_sub(other.0)
    }
}
