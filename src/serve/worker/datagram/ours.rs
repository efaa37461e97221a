//! skd's end of the pair of sockets that it has with a handler of datagrams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::aside::Aside;
use crate::sys::sockets::refuse_descriptors;

/// skd's end of an exchange. No other process has it.
#[derive(Debug)]
pub(super) struct Ours {
    socket: OwnedFd,
    /// Whether its handler could have passed descriptors to it, which to receive or to close could
    /// wait for.
    pub(super) guarded: bool,
}

impl Ours {
    /// The end of a new pair, whose handler isn't started yet. The kernel refuses descriptors, where
    /// it knows how. For this, each handler costs a system call.
    pub(super) fn new(socket: OwnedFd) -> Self {
        let guarded = refuse_descriptors(&socket).is_err();
        Self { socket, guarded }
    }

    /// An end that an earlier binary has made.
    pub(super) fn restored(socket: OwnedFd) -> Self {
        let guarded = true;
        Self { socket, guarded }
    }

    /// Closes it without waiting.
    pub(super) fn close(self) {
        if self.guarded {
            drop(Aside::from(self.socket));
        }
    }

    /// The descriptor.
    pub(super) fn into_inner(self) -> OwnedFd {
        self.socket
    }
}

impl AsFd for Ours {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
