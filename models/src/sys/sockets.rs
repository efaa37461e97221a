//! Control sockets: real ones, at whose other end is a process of the model.

use std::os::fd::OwnedFd;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

pub use skd::sys::sockets::receive_now;

/// A pair of which neither end blocks: an answer is there by now, or comes too late.
pub fn control() -> (OwnedFd, OwnedFd) {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap()
}
