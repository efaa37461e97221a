//! What sockets say about their peers and their datagrams.

use std::io::IoSliceMut;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrStorage, getsockopt, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;

/// Who connected to a unix socket (unix(7), `SO_PEERCRED`). Ids as the kernel gives them:
/// a pid of 0 is one that this process's namespace can't see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// The credentials of the peer of a connected unix socket.
pub fn peer_credentials(socket: impl AsFd) -> Result<Credentials, Errno> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    Ok(Credentials {
        pid: peer.pid(),
        uid: peer.uid(),
        gid: peer.gid(),
    })
}

/// Turns the kernel's receive time on or off (socket(7), `SO_TIMESTAMPNS`).
pub fn set_receive_time(socket: impl AsFd, on: bool) -> Result<(), Errno> {
    setsockopt(&socket, sockopt::ReceiveTimestampns, &on)
}

/// The first datagram that waits in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it, if an internet address.
    pub sender: Option<SocketAddr>,
    /// When the kernel received it: what tells two equal datagrams apart.
    pub received: Option<TimeSpec>,
    /// Its whole length in bytes.
    pub length: usize,
}

/// Looks at the first datagram and leaves it there (recvmsg(2), `MSG_PEEK`); `None` if
/// there is none.
pub fn peek_datagram(socket: impl AsFd) -> Result<Option<Datagram>, Errno> {
    receive(socket, MsgFlags::MSG_PEEK)
}

/// Takes the first datagram away and says what it was.
pub fn discard_datagram(socket: impl AsFd) -> Result<Option<Datagram>, Errno> {
    receive(socket, MsgFlags::empty())
}

fn receive(socket: impl AsFd, flags: MsgFlags) -> Result<Option<Datagram>, Errno> {
    // MSG_TRUNC makes the kernel give the whole length for any room offered, so no payload
    // is copied.
    let flags = flags | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let mut room = [];
    let mut parts = [IoSliceMut::new(&mut room)];
    let mut control = nix::cmsg_space!(TimeSpec);
    let fd = socket.as_fd().as_raw_fd();
    loop {
        return match recvmsg::<SockaddrStorage>(fd, &mut parts, Some(&mut control), flags) {
            Ok(message) => {
                let received = message.cmsgs().ok().and_then(|mut all| {
                    all.find_map(|one| match one {
                        ControlMessageOwned::ScmTimestampns(time) => Some(time),
                        _ => None,
                    })
                });
                Ok(Some(Datagram {
                    sender: message.address.and_then(internet_address),
                    received,
                    length: message.bytes,
                }))
            }
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno),
        };
    }
}

fn internet_address(address: SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::V4((*v4).into()));
    }
    address
        .as_sockaddr_in6()
        .map(|v6| SocketAddr::V6((*v6).into()))
}
