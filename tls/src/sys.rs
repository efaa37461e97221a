//! Every unsafe line.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// The maximum number of descriptors beside a packet.
pub const MAX_DESCRIPTORS: usize = 2;

/// A packet of a `SOCK_SEQPACKET` socket.
#[derive(Debug)]
pub struct Packet {
    /// Its length in bytes; 0 at the end of all packets.
    pub length: usize,
    /// Descriptors that came with it, close-on-exec.
    pub descriptors: [Option<OwnedFd>; MAX_DESCRIPTORS],
    /// Whether it was longer than the buffer.
    pub is_cut: bool,
    /// Whether more descriptors were beside it: too many, or no number was free for them. They are closed.
    pub lacks_descriptors: bool,
}

/// The control message of descriptors, as cmsg(3) lays it out.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    numbers: [RawFd; MAX_DESCRIPTORS],
}

/// Receives a packet, if one is there: doesn't wait (`EAGAIN`). nix's wrapper loses the descriptors of a packet
/// that had too many.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<Packet, Errno> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: zeroes are a value of each of these.
    let (mut rights, mut message): (Rights, libc::msghdr) = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut rights).cast();
    message.msg_controllen = size_of::<Rights>() as _;
    let length = loop {
        let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
        // SAFETY: the message and its parts outlive the call, which writes to them alone.
        let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
        match Errno::result(got) {
            Ok(length) => break length as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    let mut descriptors = [None, None];
    let begin = std::mem::offset_of!(Rights, numbers);
    let has_rights = message.msg_controllen >= begin as _
        && rights.header.cmsg_level == libc::SOL_SOCKET
        && rights.header.cmsg_type == libc::SCM_RIGHTS;
    if has_rights {
        let length: usize = rights.header.cmsg_len as _;
        let count = length.saturating_sub(begin) / size_of::<RawFd>();
        for (descriptor, number) in descriptors.iter_mut().zip(rights.numbers).take(count) {
            // SAFETY: the kernel has just made it for the caller.
            *descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    Ok(Packet {
        length,
        descriptors,
        is_cut: message.msg_flags & libc::MSG_TRUNC != 0,
        lacks_descriptors: message.msg_flags & libc::MSG_CTRUNC != 0,
    })
}

/// How many descriptors can be beside bytes (`SCM_MAX_FD`).
const MOST_BESIDE: usize = 253;

/// The same as [`Rights`], with room for all that can come.
#[repr(C)]
struct AllRights {
    header: libc::cmsghdr,
    numbers: [RawFd; MOST_BESIDE],
}

/// Receives bytes of a stream, if some are there: doesn't wait (`EAGAIN`). Descriptors beside them are handed to
/// `beside`: with recv(2) the kernel would close them, in this thread, and that may wait.
pub fn receive_bytes(
    socket: impl AsFd,
    buffer: &mut [u8],
    beside: impl FnOnce(Vec<OwnedFd>),
) -> Result<usize, Errno> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut rights = std::mem::MaybeUninit::<AllRights>::uninit();
    // SAFETY: zeroes are a value of it.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = rights.as_mut_ptr().cast();
    message.msg_controllen = size_of::<AllRights>() as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the message and its parts outlive the call, which writes to them alone.
    let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
    let length = Errno::result(got)? as usize;
    let begin = std::mem::offset_of!(AllRights, numbers);
    if message.msg_controllen > begin as _ {
        // SAFETY: the kernel has written a header, and behind it what its length says.
        let header = unsafe { (&raw const (*rights.as_ptr()).header).read() };
        if header.cmsg_level == libc::SOL_SOCKET && header.cmsg_type == libc::SCM_RIGHTS {
            let length: usize = header.cmsg_len as _;
            let count = length.saturating_sub(begin) / size_of::<RawFd>();
            // SAFETY: so many numbers follow the header, of descriptors that were just made for the caller.
            let owned = (0..count.min(MOST_BESIDE)).map(|index| unsafe {
                let number = (&raw const (*rights.as_ptr()).numbers[index]).read();
                OwnedFd::from_raw_fd(number)
            });
            beside(owned.collect());
        }
    }
    Ok(length)
}

/// A descriptor that a function closes when it is dropped, if there is a function.
#[derive(Debug)]
pub struct ClosedBy {
    fd: ManuallyDrop<OwnedFd>,
    /// The function.
    pub to: Option<fn(OwnedFd)>,
}

impl ClosedBy {
    /// Returns a descriptor that this function closes.
    pub fn new(fd: OwnedFd, to: Option<fn(OwnedFd)>) -> Self {
        let fd = ManuallyDrop::new(fd);
        Self { fd, to }
    }
}

impl Drop for ClosedBy {
    fn drop(&mut self) {
        // SAFETY: taken once, since nothing has this value after it.
        let fd = unsafe { ManuallyDrop::take(&mut self.fd) };
        match self.to {
            Some(to) => to(fd),
            None => drop(fd),
        }
    }
}

impl AsFd for ClosedBy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
