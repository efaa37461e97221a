//! What the kernel says of sockets, this process's or not (sock_diag(7)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::sys::stat::fstat;

// linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h, linux/inet_diag.h
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_MULTI: u16 = 2;
const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_RQLEN: u32 = 1 << 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_RQLEN: u16 = 4;
/// The length of struct nlmsghdr.
const HEADER: usize = 16;
/// The length of struct unix_diag_msg, behind which attributes stand.
const UNIX_MESSAGE: usize = 16;

/// States of TCP (net/tcp_states.h), of which a unix socket has two.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// A line to the kernel's knowledge of sockets.
#[derive(Debug)]
pub struct Diagnosis {
    socket: OwnedFd,
    /// The number of the last question, which its answers bear.
    question: u32,
}

impl Diagnosis {
    /// Opens it.
    pub fn new() -> Result<Self, Errno> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        let question = 0;
        Ok(Self { socket, question })
    }

    /// How many connections wait in a listening unix socket of this network namespace.
    pub fn unix_backlog(&mut self, listener: impl AsFd) -> Result<u32, Errno> {
        let inode = inode(listener)?;
        let mut length = None;
        self.ask(
            NLM_F_REQUEST,
            &unix(u32::MAX, inode, UDIAG_SHOW_RQLEN),
            |answer| {
                let attribute = attribute(answer, UNIX_DIAG_RQLEN);
                length = attribute.and_then(|bytes| word(bytes, 0));
            },
        )?;
        length.ok_or(Errno::ENOENT)
    }

    /// Calls `each` with the name, as in `sun_path`, of each unix connection that has one and
    /// was accepted: that of the listener which it came to.
    pub fn unix_connections(&mut self, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        let request = unix(1 << ESTABLISHED, 0, UDIAG_SHOW_NAME);
        self.ask(NLM_F_REQUEST | NLM_F_DUMP, &request, |answer| {
            attribute(answer, UNIX_DIAG_NAME).map(&mut each);
        })
    }

    /// Calls `each` with this side's address of each TCP connection that somebody holds, or
    /// that waits to be accepted.
    pub fn tcp_connections(&mut self, mut each: impl FnMut(SocketAddr)) -> Result<(), Errno> {
        let closing = 1 << FIN_WAIT1 | 1 << FIN_WAIT2 | 1 << CLOSE_WAIT;
        self.tcp(1 << ESTABLISHED | closing, |answer| {
            // Those that are closing may be nobody's any more: then they have no inode.
            if answer.state == ESTABLISHED || answer.inode != 0 {
                each(answer.local);
            }
        })
    }

    /// Whether a listening TCP socket is known here: it isn't if it belongs to another network
    /// namespace, or is of another kind.
    pub fn knows_tcp(&mut self, listener: impl AsFd) -> Result<bool, Errno> {
        let inode = inode(listener)?;
        let mut found = false;
        self.tcp(1 << LISTEN, |answer| found |= answer.inode == inode)?;
        Ok(found)
    }

    fn tcp(&mut self, states: u32, mut each: impl FnMut(Tcp)) -> Result<(), Errno> {
        for family in [libc::AF_INET, libc::AF_INET6] {
            // struct inet_diag_req_v2: family, protocol, extensions, padding; states; and which
            // socket, in 48 bytes.
            let mut request = vec![family as u8, libc::IPPROTO_TCP as u8, 0, 0];
            request.extend(states.to_ne_bytes());
            request.extend([0; 48]);
            self.ask(NLM_F_REQUEST | NLM_F_DUMP, &request, |answer| {
                Tcp::read(answer).map(&mut each);
            })?;
        }
        Ok(())
    }

    /// Asks, and calls `each` with the payload of each answer.
    fn ask(
        &mut self,
        flags: u16,
        request: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        self.question = self.question.wrapping_add(1);
        let mut message = Vec::with_capacity(HEADER + request.len());
        // struct nlmsghdr: length, type, flags, number, port.
        message.extend(((HEADER + request.len()) as u32).to_ne_bytes());
        message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.question.to_ne_bytes());
        message.extend([0; 4]);
        message.extend(request);
        let socket = self.socket.as_raw_fd();
        sendto(socket, &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut room = vec![0; 32 * 1024];
        loop {
            // The kernel has the next part ready whenever it is asked for: no waiting.
            let length = recv(socket, &mut room, MsgFlags::MSG_DONTWAIT)?;
            let mut rest = room.get(..length).unwrap_or_default();
            while !rest.is_empty() {
                let answer = Answer::read(rest).ok_or(Errno::EBADMSG)?;
                rest = rest.get(answer.length..).unwrap_or_default();
                if answer.question != self.question {
                    continue;
                }
                match answer.kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let errno = word(answer.payload, 0).unwrap_or_default() as i32;
                        return Err(Errno::from_raw(errno.wrapping_neg()));
                    }
                    _ => each(answer.payload),
                }
                if answer.flags & NLM_F_MULTI == 0 {
                    return Ok(());
                }
            }
        }
    }
}

/// struct unix_diag_req: family, protocol, padding; states; inode; what to show; no cookie.
fn unix(states: u32, inode: u32, show: u32) -> Vec<u8> {
    let mut request = vec![libc::AF_UNIX as u8, 0, 0, 0];
    for word in [states, inode, show, u32::MAX, u32::MAX] {
        request.extend(word.to_ne_bytes());
    }
    request
}

fn inode(socket: impl AsFd) -> Result<u32, Errno> {
    u32::try_from(fstat(socket)?.st_ino).map_err(|_| Errno::ENOENT)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// One of the messages that the kernel answers with.
struct Answer<'a> {
    /// To where the next one begins.
    length: usize,
    kind: u16,
    flags: u16,
    question: u32,
    payload: &'a [u8],
}

impl<'a> Answer<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let length = word(bytes, 0)? as usize;
        Some(Self {
            length: length.next_multiple_of(4),
            kind: half(bytes, 4)?,
            flags: half(bytes, 6)?,
            question: word(bytes, 8)?,
            payload: bytes.get(HEADER..length)?,
        })
    }
}

/// The payload of an attribute (struct nlattr) behind a struct unix_diag_msg.
fn attribute(answer: &[u8], wanted: u16) -> Option<&[u8]> {
    let mut at = UNIX_MESSAGE;
    loop {
        let (length, kind) = (usize::from(half(answer, at)?), half(answer, at + 2)?);
        if kind == wanted {
            return answer.get(at + 4..at + length);
        }
        at += length.max(4).next_multiple_of(4);
    }
}

/// What is wanted of struct inet_diag_msg.
struct Tcp {
    state: u8,
    local: SocketAddr,
    inode: u32,
}

impl Tcp {
    fn read(answer: &[u8]) -> Option<Self> {
        let port = u16::from_be_bytes(answer.get(4..6)?.try_into().ok()?);
        let v6: [u8; 16] = answer.get(8..24)?.try_into().ok()?;
        let [a, b, c, d, ..] = v6;
        let address = if i32::from(*answer.first()?) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(Ipv6Addr::from(v6)).to_canonical()
        };
        Some(Self {
            state: *answer.get(1)?,
            local: (address, port).into(),
            inode: word(answer, 68)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn tcp_connections_are_known_by_the_address_that_they_came_to() {
        let mut diagnosis = Diagnosis::new().unwrap();
        for host in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            assert!(diagnosis.knows_tcp(&listener).unwrap());
            let address = listener.local_addr().unwrap();
            let known = SocketAddr::new(address.ip().to_canonical(), address.port());
            let mut count = || {
                let mut count = 0;
                let each = |local| count += usize::from(local == known);
                diagnosis.tcp_connections(each).unwrap();
                count
            };
            assert_eq!(count(), 0);
            let client = TcpStream::connect(address).unwrap();
            assert_eq!(count(), 1, "before it is accepted");
            let (server, _) = listener.accept().unwrap();
            assert_eq!(count(), 1);
            drop(client);
            assert_eq!(count(), 1, "while the server holds it");
            drop(server);
            assert_eq!(count(), 0);
        }
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!diagnosis.knows_tcp(udp).unwrap());
    }

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn unix_connections_are_known_by_the_name_that_they_came_to() {
        let mut diagnosis = Diagnosis::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let mut count = || {
            let mut count = 0;
            let each = |name: &[u8]| {
                count += usize::from(name.strip_suffix(b"\0") == Some(path.as_os_str().as_bytes()));
            };
            diagnosis.unix_connections(each).unwrap();
            count
        };
        let _client = UnixStream::connect(&path).unwrap();
        let (server, _) = listener.accept().unwrap();
        assert_eq!(count(), 1);
        drop(server);
        assert_eq!(count(), 0);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_a_panic(answer in proptest::collection::vec(any::<u8>(), 0..96)) {
            let _ = Answer::read(&answer).map(|answer| answer.payload.len());
            let _ = Tcp::read(&answer).map(|tcp| tcp.local);
            let _ = attribute(&answer, UNIX_DIAG_NAME);
        }
    }
}
