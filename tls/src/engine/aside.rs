//! Closing what may wait, in a thread of its own.
//!
//! A handler, or a client of a unix socket, can send descriptors along (unix(7), `SCM_RIGHTS`), and the last close of
//! such a descriptor can wait for as long as its owner likes: of a TCP socket with unsent data and `SO_LINGER`
//! (socket(7)), or of a file whose server doesn't answer. A thread that closed it would serve nobody meanwhile.

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::{Mutex, PoisonError};

/// How many threads close at a time. Each that waits has one descriptor; the others go on.
const MOST: usize = 32;

/// What is to be closed yet.
static WAITING: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());
static CLOSING: AtomicUsize = AtomicUsize::new(0);

/// Closes descriptors without waiting for that. If so many threads wait that there is no other one, the descriptors
/// stay open until one of them goes on.
pub(super) fn close(descriptors: impl IntoIterator<Item = OwnedFd>) {
    waiting(|all| all.extend(descriptors));
    let is_free = CLOSING.fetch_add(1, AcqRel) < MOST;
    let close_all = || {
        while let Some(next) = waiting(Vec::pop) {
            drop(next);
        }
        CLOSING.fetch_sub(1, AcqRel);
    };
    let name = || std::thread::Builder::new().name("close".into());
    if !is_free || name().spawn(close_all).is_err() {
        CLOSING.fetch_sub(1, AcqRel);
    }
}

fn waiting<T>(act: impl FnOnce(&mut Vec<OwnedFd>) -> T) -> T {
    act(&mut WAITING.lock().unwrap_or_else(PoisonError::into_inner))
}
