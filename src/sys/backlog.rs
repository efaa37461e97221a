//! How many connections wait in a listening socket to be accepted.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::sys::stat::fstat;

/// What is needed to ask the kernel.
#[derive(Debug)]
pub struct Backlog {
    /// For unix sockets (sock_diag(7)); where the kernel lacks it, `None`.
    diagnosis: Option<OwnedFd>,
}

impl Default for Backlog {
    fn default() -> Self {
        Self::new()
    }
}

impl Backlog {
    /// Makes ready to ask.
    pub fn new() -> Self {
        let diagnosis = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        );
        Self {
            diagnosis: diagnosis.ok(),
        }
    }

    /// How many connections wait there, if the kernel says.
    pub fn length(&self, listener: impl AsFd) -> Option<u32> {
        tcp(&listener).or_else(|| unix(self.diagnosis.as_ref()?, &listener))
    }
}

/// tcp(7), `TCP_INFO`: of a listening socket, `tcpi_unacked` is the length of its queue.
fn tcp(listener: impl AsFd) -> Option<u32> {
    /// Eight bytes of flags, then words: rto, ato, snd_mss, rcv_mss, unacked.
    const UNACKED: usize = 6;
    let mut info = [0_u32; UNACKED + 1];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes to memory that has as many.
    let result = unsafe {
        libc::getsockopt(
            listener.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result).ok()?;
    (length as usize == size_of_val(&info)).then(|| info[UNACKED])
}

// linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
const NLM_F_REQUEST: u16 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_RQLEN: u32 = 1 << 4;
const UNIX_DIAG_RQLEN: u16 = 4;
const HEADER: usize = 16;
const REQUEST: usize = 24;
const MESSAGE: usize = 16;

/// Asks for one unix socket, by its inode number.
fn unix(diagnosis: &OwnedFd, listener: impl AsFd) -> Option<u32> {
    let inode = u32::try_from(fstat(listener).ok()?.st_ino).ok()?;
    let mut request = Vec::with_capacity(HEADER + REQUEST);
    // struct nlmsghdr
    request.extend(((HEADER + REQUEST) as u32).to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    // struct unix_diag_req: family, protocol, padding; states; inode; what to show; no cookie.
    request.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(inode.to_ne_bytes());
    request.extend(UDIAG_SHOW_RQLEN.to_ne_bytes());
    request.extend([0xff; 8]);
    let socket = diagnosis.as_raw_fd();
    sendto(socket, &request, &NetlinkAddr::new(0, 0), MsgFlags::empty()).ok()?;
    // The kernel has answered by the time the request is sent.
    let mut room = [0; 512];
    let length = recv(socket, &mut room, MsgFlags::MSG_DONTWAIT).ok()?;
    queue_length(room.get(..length)?)
}

/// Finds the queue's length in the kernel's answer.
fn queue_length(answer: &[u8]) -> Option<u32> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(answer.get(at..at + 4)?.try_into().ok()?));
    // Otherwise it says what is wrong with the request.
    if half(4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut at = HEADER + MESSAGE;
    loop {
        // struct nlattr, and then its payload, padded to words.
        let (length, kind) = (half(at)?, half(at + 2)?);
        if kind == UNIX_DIAG_RQLEN {
            return word(at + 4);
        }
        at += usize::from(length).max(4).next_multiple_of(4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    fn those_who_wait_are_counted_until_they_are_accepted() {
        let backlog = Backlog::new();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        assert_eq!(backlog.length(&unix), Some(0));
        let _clients = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        assert_eq!(backlog.length(&unix), Some(3));
        unix.accept().unwrap();
        assert_eq!(backlog.length(&unix), Some(2));

        assert_eq!(backlog.length(&tcp), Some(0));
        let address = tcp.local_addr().unwrap();
        let _clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        assert_eq!(backlog.length(&tcp), Some(2));
        tcp.accept().unwrap();
        assert_eq!(backlog.length(&tcp), Some(1));
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(answer in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = queue_length(&answer);
            let mut likely = answer;
            if likely.len() > 6 {
                likely[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
            }
            let _ = queue_length(&likely);
        }
    }
}
