//! Wakers and pollers that shuttle sees: it doesn't see the kernel's.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::process::State;
use super::sync::{Mutex, PoisonError, thread};
use crate::kernel::{self, Kernel};

/// A longer wait than this is one for ever. A shorter one may end at once: the clock goes on then.
const EVER: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub struct Waker(usize);

impl Default for Waker {
    fn default() -> Self {
        kernel::with(|kernel| {
            kernel.wakers.push(false);
            Self(kernel.wakers.len() - 1)
        })
    }
}

impl Waker {
    pub fn new() -> Result<Self, Errno> {
        Ok(Self::default())
    }

    pub fn wake(&self) {
        kernel::with(|kernel| kernel.wakers[self.0] = true);
    }

    pub fn clear(&self) {
        kernel::with(|kernel| kernel.wakers[self.0] = false);
    }

    /// Waits for a wake-up, and clears it.
    pub fn wait(&self) {
        kernel::until(|kernel| std::mem::take(&mut kernel.wakers[self.0]).then_some(()));
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Readable,
}

/// What a poller watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    Waker(usize),
    Process(usize),
}

impl Watched {
    fn is_ready(self, kernel: &Kernel) -> bool {
        match self {
            Self::Waker(waker) => kernel.wakers[waker],
            Self::Process(index) => {
                matches!(kernel.processes[index].state, State::Ended | State::Reaped)
            }
        }
    }
}

impl From<&Waker> for Watched {
    fn from(waker: &Waker) -> Self {
        Self::Waker(waker.0)
    }
}

impl From<BorrowedFd<'_>> for Watched {
    fn from(pidfd: BorrowedFd<'_>) -> Self {
        Self::Process(kernel::read(|kernel| kernel.owners[&pidfd.as_raw_fd()]))
    }
}

#[derive(Debug)]
pub struct Poller {
    watched: Mutex<Vec<(Watched, u64)>>,
}

pub fn no_events() -> Vec<u64> {
    Vec::new()
}

impl Poller {
    pub fn new() -> Result<Self, Errno> {
        let watched = Mutex::default();
        Ok(Self { watched })
    }

    pub fn add(&self, what: impl Into<Watched>, _: Interest, key: u64) -> Result<(), Errno> {
        let what = what.into();
        self.change(|watched| watched.push((what, key)));
        Ok(())
    }

    pub fn remove(&self, what: impl Into<Watched>) -> Result<(), Errno> {
        let what = what.into();
        self.change(|watched| watched.retain(|(other, _)| *other != what));
        Ok(())
    }

    fn change(&self, change: impl FnOnce(&mut Vec<(Watched, u64)>)) {
        change(&mut self.watched.lock().unwrap_or_else(PoisonError::into_inner));
        // A thread that waits sees it.
        kernel::with(|_| ());
    }

    pub fn wait<'buffer>(
        &self,
        buffer: &'buffer mut Vec<u64>,
        limit: Option<Duration>,
    ) -> Result<impl Iterator<Item = u64> + use<'buffer>, Errno> {
        let mut ready = |kernel: &Kernel| {
            let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            let ready = watched.iter().filter(|(what, _)| what.is_ready(kernel));
            buffer.extend(ready.map(|(_, key)| *key));
            (!buffer.is_empty()).then_some(())
        };
        match limit.filter(|limit| *limit < EVER) {
            None => {
                kernel::sleep_until(|kernel| ready(kernel));
                // A process that has ended may be another thread's by now, which has yet to say so.
                thread::sleep(Duration::ZERO);
            }
            Some(limit) => {
                thread::sleep(limit);
                kernel::with(|kernel| {
                    if ready(kernel).is_none() {
                        kernel.clock += limit;
                    }
                });
            }
        }
        Ok(buffer.drain(..))
    }

    /// Which processes are watched.
    pub fn processes(&self) -> usize {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let processes = watched.iter().filter(|(what, _)| match what {
            Watched::Process(_) => true,
            Watched::Waker(_) => false,
        });
        processes.count()
    }
}
