//! skd's end of the pair of sockets that it has with a handler of datagrams.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::aside::Aside;
use crate::sys::sockets::refuse_descriptors;

/// skd's end of an exchange, which is closed without waiting. No other process has it.
#[derive(Debug)]
pub(super) enum Ours {
    /// The kernel refuses descriptors.
    Refusing(OwnedFd),
    /// Its handler could have passed descriptors to it, which to receive or to close could wait for.
    Guarded(Aside),
}

impl Ours {
    /// The end of a new pair, whose handler isn't started yet. The kernel refuses descriptors, where
    /// it knows how. For this, each handler costs a system call.
    pub(super) fn new(socket: OwnedFd) -> Self {
        match refuse_descriptors(&socket) {
            Ok(()) => Self::Refusing(socket),
            Err(_) => Self::restored(socket),
        }
    }

    /// An end that an earlier binary has made.
    pub(super) fn restored(socket: OwnedFd) -> Self {
        Self::Guarded(socket.into())
    }

    /// Whether its handler could have passed descriptors to it.
    pub(super) fn is_guarded(&self) -> bool {
        matches!(self, Self::Guarded(_))
    }

    /// The descriptor.
    pub(super) fn into_inner(self) -> OwnedFd {
        match self {
            Self::Refusing(socket) => socket,
            Self::Guarded(socket) => socket.into_inner(),
        }
    }
}

impl AsFd for Ours {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Refusing(socket) => socket.as_fd(),
            Self::Guarded(socket) => socket.as_fd(),
        }
    }
}
