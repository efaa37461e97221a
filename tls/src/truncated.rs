//! Reports of connections that were cut off, on their way from the threads that see it to the main
//! thread, which speaks with skd.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::errno::Errno;
use skd::sys::events::Waker;

use crate::engine::Truncated;

/// How many wait at most.
const MOST: usize = 1024;

/// The end for the threads of the engine. It never waits.
#[derive(Debug)]
pub(crate) struct Reporter {
    sender: SyncSender<Truncated>,
    shared: Arc<Shared>,
}

/// The end for the main thread. It is readable when there is something.
#[derive(Debug)]
pub(crate) struct Truncations {
    receiver: Receiver<Truncated>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    waker: Waker,
    dropped: AtomicU64,
}

/// Returns both ends.
pub(crate) fn queue() -> Result<(Truncations, Reporter), Errno> {
    let (sender, receiver) = sync_channel(MOST);
    let shared = Arc::new(Shared {
        waker: Waker::new()?,
        dropped: AtomicU64::new(0),
    });
    let reporter = Reporter {
        sender,
        shared: Arc::clone(&shared),
    };
    Ok((Truncations { receiver, shared }, reporter))
}

impl Reporter {
    /// Adds one, or counts it if there are too many.
    pub(crate) fn add(&self, truncated: Truncated) {
        match self.sender.try_send(truncated) {
            Ok(()) => self.shared.waker.wake(),
            Err(_) => drop(self.shared.dropped.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

impl Truncations {
    /// Clears the wake-up. To be called before [`Self::next`], so that none is missed.
    pub(crate) fn clear(&self) {
        self.shared.waker.clear();
    }

    /// Returns the next one.
    pub(crate) fn next(&self) -> Option<Truncated> {
        self.receiver.try_recv().ok()
    }

    /// Returns how many were dropped since it was asked last, if some were.
    pub(crate) fn dropped(&self) -> Option<u64> {
        Some(self.shared.dropped.swap(0, Ordering::Relaxed)).filter(|count| *count > 0)
    }
}

impl AsFd for Truncations {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.waker.as_fd()
    }
}
