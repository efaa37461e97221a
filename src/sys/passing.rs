//! Passing descriptors over unix sockets (unix(7), `SCM_RIGHTS`).

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::packets;

/// Sends a byte and a descriptor (unix(7), `SCM_RIGHTS`). nix's wrapper allocates.
pub fn send_descriptor(socket: impl AsFd, fd: impl AsFd) -> Result<(), Errno> {
    send_descriptor_with(socket, fd, &[0])
}

/// The same with these bytes, of which there is at least one. Neither allocates nor locks.
pub fn send_descriptor_with(socket: impl AsFd, fd: impl AsFd, bytes: &[u8]) -> Result<(), Errno> {
    packets::send(socket, [bytes, b""], [Some(fd.as_fd()), None])
}

/// Receives a number that came with a descriptor, if a message is there: without the descriptor, if no more may be
/// open. Doesn't wait.
pub fn receive_descriptor(socket: impl AsFd) -> Result<(u32, Option<OwnedFd>), Errno> {
    let mut number = 0_u32;
    let mut part = libc::iovec {
        iov_base: (&raw mut number).cast(),
        iov_len: size_of::<u32>(),
    };
    // SAFETY: zeroes are a value of each of these, and those that count are set below.
    let (mut rights, mut message): (Rights, libc::msghdr) = unsafe { std::mem::zeroed() };
    rights.fd = -1;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = size_of::<Rights>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the message and its parts outlive the call, which writes no more than their lengths.
    let length = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    if Errno::result(length)? == 0 {
        return Err(Errno::EPIPE);
    }
    // SAFETY: the kernel has written a descriptor that it opened for this process, or nothing.
    let fd = (rights.fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(rights.fd) });
    Ok((number, fd))
}

#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    fd: libc::c_int,
}
