//! Control sockets: real ones, at whose other end is a process of the model.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::kernel;

pub use skd::sys::sockets::receive_now;

/// A pair of which neither end blocks: an answer is there by now, or comes too late.
pub fn control() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}

/// Hands a connection to the process at the other end.
pub fn send_descriptor(control: &OwnedFd, connection: BorrowedFd<'_>) -> Result<(), Errno> {
    let (control, connection) = (control.as_raw_fd(), connection.as_raw_fd());
    kernel::with(|kernel| kernel.hand(kernel.owners[&control], connection))
}
