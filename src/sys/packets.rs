//! Messages with descriptors between two processes, on a pair of unix sockets (unix(7),
//! `SOCK_SEQPACKET`, `SCM_RIGHTS`).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::events;

/// How many descriptors a message has at most.
const MOST: usize = 2;

/// How many parts the bytes of a message have at most.
const PARTS: usize = 2;

/// The descriptors of a message that was received.
pub type Received = [Option<OwnedFd>; MOST];

/// Room for the descriptors of a message.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    numbers: [RawFd; MOST],
}

/// Makes a pair, close-on-exec.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
}

/// Has a [`receive`] on this socket wait so long at most, and then fail with `EAGAIN`.
pub fn limit_wait(socket: impl AsFd, time: Duration) -> Result<(), Errno> {
    let time = TimeVal::milliseconds(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    setsockopt(&socket, sockopt::ReceiveTimeout, &time)
}

/// Sends a message of these bytes, not none, and at most two descriptors, without a signal.
pub fn send(
    socket: impl AsFd,
    bytes: [&[u8]; PARTS],
    descriptors: [Option<BorrowedFd<'_>>; MOST],
) -> Result<(), Errno> {
    let mut parts = bytes.map(|part| libc::iovec {
        iov_base: part.as_ptr().cast_mut().cast(),
        iov_len: part.len(),
    });
    // SAFETY: zeroes are a value of each of these, and those that count are set below.
    let (mut rights, mut message): (Rights, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut count = 0;
    for fd in descriptors.into_iter().flatten() {
        rights.numbers[count] = fd.as_raw_fd();
        count += 1;
    }
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = PARTS as _;
    if count > 0 {
        let length = std::mem::offset_of!(Rights, numbers) + count * size_of::<RawFd>();
        rights.header.cmsg_len = length as _;
        rights.header.cmsg_level = libc::SOL_SOCKET;
        rights.header.cmsg_type = libc::SCM_RIGHTS;
        message.msg_control = (&raw mut rights).cast();
        message.msg_controllen = length as _;
    }
    loop {
        let flags = libc::MSG_NOSIGNAL;
        // SAFETY: the message and its parts outlive the call, which only reads them.
        let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, flags) };
        match Errno::result(sent) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Waits until a message, or the end, is on one of two sockets, but no longer than this. Returns whether
/// it is on the first one, or `ETIMEDOUT`.
pub fn wait_for_either(first: impl AsFd, second: impl AsFd, time: Duration) -> Result<bool, Errno> {
    let deadline = Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events::wait_readable([first.as_fd(), second.as_fd()], Some(left)) {
            [false, false] if left.is_zero() => return Err(Errno::ETIMEDOUT),
            // A signal came, or memory was short.
            [false, false] => {}
            [is_first, _] => return Ok(is_first),
        }
    }
}

/// Receives a message, and its descriptors, close-on-exec. Returns how long it is: 0 at the end of
/// all. A message that is longer than the buffer is an error (`EMSGSIZE`).
///
/// The end of a process that has left something unread is told before what it has sent (`ECONNRESET`), once. It is
/// an end like others, after all that.
pub fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Received), Errno> {
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
        let flags = libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the message and its parts outlive the call, which writes to them alone.
        let got = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
        match Errno::result(got) {
            Ok(length) => break length as usize,
            Err(Errno::EINTR | Errno::ECONNRESET) => {}
            Err(errno) => return Err(errno),
        }
    };
    let mut received = Received::default();
    let begin = std::mem::offset_of!(Rights, numbers);
    let has_rights = message.msg_controllen >= begin as _
        && rights.header.cmsg_level == libc::SOL_SOCKET
        && rights.header.cmsg_type == libc::SCM_RIGHTS;
    if has_rights {
        let length: usize = rights.header.cmsg_len as _;
        let count = length.saturating_sub(begin) / size_of::<RawFd>();
        for (descriptor, number) in received.iter_mut().zip(rights.numbers).take(count) {
            // SAFETY: the kernel has just made it for the caller.
            *descriptor = Some(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
    match message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) {
        0 => Ok((length, received)),
        _ => Err(Errno::EMSGSIZE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::{pipe, write};
    use std::io::Read;

    #[test]
    fn bytes_and_descriptors_arrive_together() {
        let (one, other) = pair().unwrap();
        let (reader, writer) = pipe().unwrap();
        let mut buffer = [0; 16];
        for (count, sent) in [
            (0, [None, None]),
            (1, [Some(writer.as_fd()), None]),
            (2, [Some(writer.as_fd()), Some(reader.as_fd())]),
        ] {
            send(&one, [b"ab", b"c"], sent).unwrap();
            let (length, received) = receive(&other, &mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"abc");
            assert_eq!(received.iter().flatten().count(), count);
            if let [Some(writer), Some(reader)] = received {
                write(&writer, b"x").unwrap();
                let mut byte = [0];
                std::fs::File::from(reader).read_exact(&mut byte).unwrap();
                assert_eq!(byte, *b"x");
            }
        }
        send(&one, [&[0; 17], b""], [None, None]).unwrap();
        let too_long = receive(&other, &mut buffer);
        assert_eq!(too_long.unwrap_err(), Errno::EMSGSIZE);
        limit_wait(&other, Duration::from_millis(1)).unwrap();
        assert_eq!(receive(&other, &mut buffer).unwrap_err(), Errno::EAGAIN);
        drop(one);
        assert_eq!(receive(&other, &mut buffer).unwrap().0, 0);
        // An end with something unread hides nothing.
        let (one, other) = pair().unwrap();
        send(&other, [b"unread", b""], [None, None]).unwrap();
        send(&one, [b"last", b""], [None, None]).unwrap();
        drop(one);
        assert_eq!(receive(&other, &mut buffer).unwrap().0, 4);
        assert_eq!(receive(&other, &mut buffer).unwrap().0, 0);
    }
}
