//! The kernel's information about any socket, of this process or not (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::sys::stat::{fstat, makedev};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::netlink::{
    Answer, HEADER, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR, Written, attribute, word,
};
use super::traffic::Counts;

// linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h, linux/inet_diag.h
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP: u16 = 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_NAME: u32 = 1;
const UDIAG_SHOW_VFS: u32 = 1 << 1;
const UDIAG_SHOW_RQLEN: u32 = 1 << 4;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_VFS: u16 = 1;
const UNIX_DIAG_RQLEN: u16 = 4;
const INET_DIAG_INFO: u16 = 2;
/// The lengths of struct unix_diag_msg and struct inet_diag_msg, which attributes follow.
const UNIX_MESSAGE: usize = 16;
const INET_MESSAGE: usize = 72;
/// The length of the longest question, struct inet_diag_req_v2.
const QUESTION: usize = 56;
/// The sizes of the buffers for the answers to a dump, and for the answer about one socket.
const DUMP: usize = 32 * 1024;
const ONE: usize = 2 * 1024;

/// States of TCP (net/tcp_states.h), of which a unix socket has two.
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;
const LISTEN: u8 = 10;

/// A netlink socket for questions about sockets.
#[derive(Debug)]
pub struct Diagnosis {
    socket: OwnedFd,
    /// The sequence number of the last question, which its answers have too.
    question: u32,
}

impl Diagnosis {
    /// Opens the netlink socket.
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

    /// The number of connections that wait in a listening unix socket of this network namespace.
    pub fn unix_backlog(&mut self, listener: impl AsFd) -> Result<u32, Errno> {
        let inode = inode(listener)?;
        let mut length = None;
        self.ask(
            NLM_F_REQUEST,
            &unix(u32::MAX, inode, UDIAG_SHOW_RQLEN),
            &mut [0; ONE],
            |answer| length = backlog(answer),
        )?;
        length.ok_or(Errno::ENOENT)
    }

    /// Whether a unix socket of this network namespace is bound to a file with these numbers.
    ///
    /// The kernel has 32 bits of the inode's number, and the device of the file system, which isn't
    /// always that of its files. So a socket's own file can be denied, but no other is affirmed.
    pub fn is_unix_file(
        &mut self,
        socket: impl AsFd,
        (device, inode): (u64, u64),
    ) -> Result<bool, Errno> {
        let number = self::inode(socket)?;
        let mut found = None;
        self.ask(
            NLM_F_REQUEST,
            &unix(u32::MAX, number, UDIAG_SHOW_VFS),
            &mut [0; ONE],
            |answer| {
                let attribute = attribute(answer, UNIX_MESSAGE, UNIX_DIAG_VFS);
                found = attribute.and_then(|bytes| Some((word(bytes, 0)?, word(bytes, 4)?)));
            },
        )?;
        // struct unix_diag_vfs: the device has 20 bits of its minor number, as in the kernel.
        let (low, of) = found.ok_or(Errno::ENOENT)?;
        let of = makedev((of >> 20).into(), (of & 0xf_ffff).into());
        Ok(low == inode as u32 && of == device)
    }

    /// Calls `each` with the name, as in `sun_path`, of each accepted unix connection that has one.
    /// It is the name of its listener.
    pub fn unix_connections(&mut self, mut each: impl FnMut(&[u8])) -> Result<(), Errno> {
        let request = unix(1 << ESTABLISHED, 0, UDIAG_SHOW_NAME);
        let buffer = &mut vec![0; DUMP];
        self.ask(NLM_F_REQUEST | NLM_F_DUMP, &request, buffer, |answer| {
            attribute(answer, UNIX_MESSAGE, UNIX_DIAG_NAME).map(&mut each);
        })
    }

    /// Calls `each` with the local address of each TCP connection that a process holds, or that
    /// waits to be accepted.
    pub fn tcp_connections(&mut self, mut each: impl FnMut(SocketAddr)) -> Result<(), Errno> {
        let closing = 1 << FIN_WAIT1 | 1 << FIN_WAIT2 | 1 << CLOSE_WAIT;
        self.tcp(1 << ESTABLISHED | closing, |answer| {
            // Without a process that holds it, a closing connection has no inode.
            if answer.state == ESTABLISHED || answer.inode != 0 {
                each(answer.local);
            }
        })
    }

    /// Whether the kernel finds this listening TCP socket. It doesn't find those of another network
    /// namespace or of another kind.
    pub fn knows_tcp(&mut self, listener: impl AsFd) -> Result<bool, Errno> {
        let inode = inode(listener)?;
        let mut found = false;
        self.tcp(1 << LISTEN, |answer| found |= answer.inode == inode)?;
        Ok(found)
    }

    /// The time since the last byte was sent or received; `None` if no process holds the connection
    /// any more, or it is over.
    ///
    /// Asks for this one socket: the cost doesn't depend on how many there are, and nothing is
    /// allocated. It takes neither a privilege nor a descriptor of the connection.
    pub fn quiet_time(&mut self, connection: &SocketId) -> Result<Option<Duration>, Errno> {
        self.one(connection, |answer| {
            // A closed connection with data left to send has no inode.
            let held = Inet::read(answer).is_some_and(|tcp| tcp.inode != 0);
            held.then(|| quiet_time(answer)).flatten()
        })
    }

    /// What has passed over a connection; `None` if it is over. The cost is that of
    /// [`Self::quiet_time`].
    pub fn counts(&mut self, connection: &SocketId) -> Result<Option<Counts>, Errno> {
        self.one(connection, |answer| {
            // Without a cookie, a listener is found where the connection is over.
            Inet::read(answer).filter(|tcp| tcp.state != LISTEN)?;
            Counts::read(attribute(answer, INET_MESSAGE, INET_DIAG_INFO)?)
        })
    }

    /// Asks about one connection. Returns what `read` finds in the answer.
    fn one<T>(
        &mut self,
        connection: &SocketId,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, Errno> {
        let mut found = None;
        let request = connection.question();
        let asked = self.ask(NLM_F_REQUEST, &request, &mut [0; ONE], |answer| {
            found = read(answer);
        });
        match asked {
            Ok(()) => Ok(found),
            // There is no such socket, or a later one.
            Err(Errno::ENOENT | Errno::ESTALE) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Fails if the kernel has no information about TCP sockets.
    pub fn tells_of_tcp(&mut self) -> Result<(), Errno> {
        self.tcp(1 << LISTEN, |_| ())
    }

    /// Calls `each` with every UDP socket that is bound, or every TCP socket that listens.
    pub fn bound_sockets(
        &mut self,
        tcp: bool,
        mut each: impl FnMut(BoundSocket),
    ) -> Result<(), Errno> {
        let (protocol, states) = match tcp {
            true => (libc::IPPROTO_TCP, 1 << LISTEN),
            false => (libc::IPPROTO_UDP, u32::MAX),
        };
        self.inet(protocol, states, |answer| {
            each(BoundSocket {
                local: answer.local,
                uid: answer.uid,
                inode: answer.inode,
            });
        })
    }

    fn tcp(&mut self, states: u32, each: impl FnMut(Inet)) -> Result<(), Errno> {
        self.inet(libc::IPPROTO_TCP, states, each)
    }

    fn inet(
        &mut self,
        protocol: i32,
        states: u32,
        mut each: impl FnMut(Inet),
    ) -> Result<(), Errno> {
        let buffer = &mut vec![0; DUMP];
        for family in [libc::AF_INET, libc::AF_INET6] {
            // struct inet_diag_req_v2: family, protocol, extensions, padding; states; 48 bytes that
            // name a socket.
            let mut request = vec![family as u8, protocol as u8, 0, 0];
            request.extend(states.to_ne_bytes());
            request.extend([0; 48]);
            self.ask(NLM_F_REQUEST | NLM_F_DUMP, &request, buffer, |answer| {
                Inet::read(answer).map(&mut each);
            })?;
        }
        Ok(())
    }

    /// Asks, and calls `each` with the payload of each answer. `buffer` holds a part of the answers
    /// at a time.
    fn ask(
        &mut self,
        flags: u16,
        request: &[u8],
        buffer: &mut [u8],
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Errno> {
        self.question = self.question.wrapping_add(1);
        let mut message = Written::<{ HEADER + QUESTION }>::new();
        // struct nlmsghdr: length, type, flags, number, port.
        message.write(&((HEADER + request.len()) as u32).to_ne_bytes());
        message.write(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        message.write(&flags.to_ne_bytes());
        message.write(&self.question.to_ne_bytes());
        message.write(&[0; 4]);
        message.write(request);
        let socket = self.socket.as_raw_fd();
        let message = message.bytes();
        sendto(socket, message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        loop {
            // The next part is always ready: no waiting.
            let length = recv(socket, buffer, MsgFlags::MSG_DONTWAIT)?;
            let part = buffer.get(..length).unwrap_or_default();
            if answers(part, self.question, &mut each)? {
                return Ok(());
            }
        }
    }
}

/// A socket that has a port.
#[derive(Clone, Copy, Debug)]
pub struct BoundSocket {
    /// Its address.
    pub local: SocketAddr,
    /// The user of the process that made it.
    pub uid: u32,
    /// Its inode.
    pub inode: u32,
}

/// Calls `each` with the payload of each answer to this question in a part of the answers. Returns
/// whether that was the last part.
pub fn answers(part: &[u8], question: u32, mut each: impl FnMut(&[u8])) -> Result<bool, Errno> {
    let mut rest = part;
    while !rest.is_empty() {
        let answer = Answer::read(rest).ok_or(Errno::EBADMSG)?;
        rest = rest.get(answer.length..).unwrap_or_default();
        if answer.question != question {
            continue;
        }
        match answer.kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = word(answer.payload, 0).unwrap_or_default() as i32;
                return Err(Errno::from_raw(errno.wrapping_neg()));
            }
            _ => each(answer.payload),
        }
        if answer.flags & NLM_F_MULTI == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What an answer says, each part if it has it.
#[derive(Debug)]
pub struct Told<'a> {
    /// The name of a unix socket.
    pub name: Option<&'a [u8]>,
    /// The number of connections that wait in a unix socket.
    pub backlog: Option<u32>,
    /// The local address of a TCP socket.
    pub local: Option<SocketAddr>,
    /// The time since it was used.
    pub quiet: Option<Duration>,
}

impl<'a> Told<'a> {
    /// Reads all that an answer may say.
    pub fn read(answer: &'a [u8]) -> Self {
        Self {
            name: attribute(answer, UNIX_MESSAGE, UNIX_DIAG_NAME),
            backlog: backlog(answer),
            local: Inet::read(answer).map(|socket| socket.local),
            quiet: quiet_time(answer),
        }
    }
}

fn backlog(answer: &[u8]) -> Option<u32> {
    word(attribute(answer, UNIX_MESSAGE, UNIX_DIAG_RQLEN)?, 0)
}

/// The identity of a TCP connection: its addresses, and the kernel's cookie, which is never used
/// again. The kernel can be asked about it without a descriptor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketId {
    local: SocketAddr,
    remote: SocketAddr,
    /// The interface that it is bound to, or 0.
    interface: u32,
    cookie: u64,
}

impl SocketId {
    /// Returns the identity of an accepted connection. Fails if it isn't one of TCP, or if its
    /// client has already reset it.
    pub fn of(connection: impl AsFd) -> io::Result<Self> {
        let socket = SockRef::from(&connection);
        let internet = |address: socket2::SockAddr| {
            let address = address.as_socket().ok_or(Errno::EAFNOSUPPORT)?;
            Ok::<_, io::Error>(address)
        };
        let (local, remote) = (
            internet(socket.local_addr()?)?,
            internet(socket.peer_addr()?)?,
        );
        // A connection of a listener with --device, or to a link-local address, is bound to the
        // interface, and the kernel finds it only with that.
        let interface = bound_interface(&connection).unwrap_or(match remote {
            SocketAddr::V6(remote) => remote.scope_id(),
            SocketAddr::V4(_) => 0,
        });
        Ok(Self {
            local,
            remote,
            interface,
            cookie: socket.cookie()?,
        })
    }

    /// Returns the connection that is between these addresses, whichever it is, of a listener that is
    /// bound to this interface or to none (0).
    pub fn between(local: SocketAddr, remote: SocketAddr, interface: u32) -> Self {
        let scope = match remote {
            SocketAddr::V6(remote) => remote.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Self {
            local,
            remote,
            interface: if interface == 0 { scope } else { interface },
            // INET_DIAG_NOCOOKIE
            cookie: u64::MAX,
        }
    }

    /// struct inet_diag_req_v2: family, protocol, extensions, padding; states; and struct
    /// inet_diag_sockid: ports and addresses, the local ones first, interface, cookie.
    fn question(&self) -> [u8; QUESTION] {
        let (local, remote) = (self.local.ip(), self.remote.ip());
        // The kernel has an IPv4 client of a dual-stack socket among those of IPv4.
        let ends = [local.to_canonical(), remote.to_canonical()];
        let family = match ends[0] {
            IpAddr::V4(_) => libc::AF_INET,
            IpAddr::V6(_) => libc::AF_INET6,
        };
        let mut question = Written::new();
        let info = 1 << (INET_DIAG_INFO - 1);
        question.write(&[family as u8, libc::IPPROTO_TCP as u8, info, 0]);
        question.write(&u32::MAX.to_ne_bytes());
        question.write(&self.local.port().to_be_bytes());
        question.write(&self.remote.port().to_be_bytes());
        for end in ends {
            let mut bytes = [0; 16];
            match end {
                IpAddr::V4(v4) => bytes[..4].copy_from_slice(&v4.octets()),
                IpAddr::V6(v6) => bytes = v6.octets(),
            }
            question.write(&bytes);
        }
        question.write(&self.interface.to_ne_bytes());
        // Two words, the low one first.
        question.write(&(self.cookie as u32).to_ne_bytes());
        question.write(&((self.cookie >> 32) as u32).to_ne_bytes());
        question.bytes
    }
}

/// Returns the interface that a socket is bound to, or 0: socket(7), `SO_BINDTOIFINDEX` (Linux 5.0).
pub fn bound_interface(socket: impl AsFd) -> Option<u32> {
    let mut index: libc::c_int = 0;
    let mut length = size_of_val(&index) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes to memory that has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw mut index).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).ok()?;
    u32::try_from(index).ok()
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

/// The shorter of two times of struct tcp_info: since data were last sent, and since data were last
/// received. Acknowledgements and keepalive probes aren't data.
fn quiet_time(answer: &[u8]) -> Option<Duration> {
    /// Eight bytes, then words; in milliseconds.
    const RETRANSMITS: usize = 2;
    const LAST_DATA_SENT: usize = 8 + 9 * 4;
    const LAST_DATA_RECEIVED: usize = 8 + 11 * 4;
    const LAST_ACK_RECEIVED: usize = 8 + 12 * 4;
    let info = attribute(answer, INET_MESSAGE, INET_DIAG_INFO)?;
    // Data that are sent again to a vanished client don't count as sent; that would go on for a
    // quarter of an hour. Then the last acknowledgement counts.
    let sent = match *info.get(RETRANSMITS)? {
        0 => word(info, LAST_DATA_SENT)?,
        _ => word(info, LAST_ACK_RECEIVED)?,
    };
    let received = word(info, LAST_DATA_RECEIVED)?;
    Some(Duration::from_millis(sent.min(received).into()))
}

/// The part of struct inet_diag_msg that is used.
struct Inet {
    state: u8,
    local: SocketAddr,
    uid: u32,
    inode: u32,
}

impl Inet {
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
            uid: word(answer, 64)?,
            inode: word(answer, 68)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{UnixListener, UnixStream};

    const SEEDS: [&[u8]; 3] = [
        include_bytes!("../../fuzz/seeds/sockets/unix"),
        include_bytes!("../../fuzz/seeds/sockets/tcp"),
        include_bytes!("../../fuzz/seeds/sockets/error"),
    ];

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
            seed in prop::sample::select(&SEEDS[..]),
            end in any::<prop::sample::Index>(),
        ) {
            let mut part = seed.to_vec();
            for (at, byte) in &change {
                let at = at.index(part.len());
                part[at] = *byte;
            }
            part.truncate(end.index(part.len() + 1));
            let mut total = 0;
            let _ = answers(&part, 1, |answer| {
                total += answer.len();
                Told::read(answer);
            });
            prop_assert!(total <= part.len());
        }
    }

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

    /// A connection, from its client's end and from the other.
    fn connection(host: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(host).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    /// Waits until no byte has come or gone for so long, as the kernel has it.
    fn wait_for_quiet(diagnosis: &mut Diagnosis, id: &SocketId, least: Duration) {
        let begin = std::time::Instant::now();
        while diagnosis.quiet_time(id).unwrap().unwrap() < least {
            assert!(begin.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn it_is_known_since_when_a_connection_is_quiet_and_either_direction_ends_that() {
        const QUIET: Duration = Duration::from_millis(200);
        let mut diagnosis = Diagnosis::new().unwrap();
        for host in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let (mut client, mut server) = connection(host);
            let id = SocketId::of(&server).unwrap();
            for sender in [&mut client, &mut server] {
                wait_for_quiet(&mut diagnosis, &id, QUIET);
                // The later of two looks: a byte takes its time even here, but not from before.
                let before = std::time::Instant::now();
                sender.write_all(b".").unwrap();
                let came = loop {
                    let quiet = diagnosis.quiet_time(&id).unwrap().unwrap();
                    // The kernel counts in ticks, of which there may be a hundred a second.
                    if quiet <= before.elapsed() + Duration::from_millis(20) {
                        break true;
                    }
                    if before.elapsed() > Duration::from_secs(20) {
                        break false;
                    }
                };
                assert!(came, "{host}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn what_is_sent_again_to_a_client_that_has_vanished_does_not_count() {
        let mut diagnosis = Diagnosis::new().unwrap();
        let (client, mut server) = connection("127.0.0.1:0");
        let id = SocketId::of(&server).unwrap();
        // It sees nothing from now on, and acknowledges nothing.
        let drop_all = socket2::SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
        SockRef::from(&client).attach_filter(&[drop_all]).unwrap();
        server.write_all(b"hello").unwrap();
        let begin = std::time::Instant::now();
        let mut last = Duration::ZERO;
        // It is sent again after 0.2, 0.6 and 1.4 seconds, perhaps once more before.
        while begin.elapsed() < Duration::from_secs(2) {
            let quiet = diagnosis.quiet_time(&id).unwrap().unwrap();
            if begin.elapsed() > Duration::from_millis(450) {
                assert!(quiet >= last, "{quiet:?} after {last:?}");
                last = quiet;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(last > Duration::from_secs(1), "{last:?}");
    }

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn a_connection_is_known_as_long_as_a_process_holds_it() {
        let mut diagnosis = Diagnosis::new().unwrap();
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let (client, server) = connection(host);
            let id = SocketId::of(&server).unwrap();
            let other = server.try_clone().unwrap();
            drop(server);
            assert!(diagnosis.quiet_time(&id).unwrap().is_some());
            drop(client);
            assert!(diagnosis.quiet_time(&id).unwrap().is_some());
            drop(other);
            assert_eq!(diagnosis.quiet_time(&id), Ok(None));

            // Closed on this side alone: the kernel has it still.
            let (client, server) = connection(host);
            let id = SocketId::of(&server).unwrap();
            drop(server);
            assert_eq!(diagnosis.quiet_time(&id), Ok(None));
            drop(client);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn what_has_passed_is_known_by_the_addresses_alone() {
        let mut diagnosis = Diagnosis::new().unwrap();
        for host in ["127.0.0.1:0", "[::1]:0", "[::ffff:127.0.0.1]:0"] {
            let listener = TcpListener::bind(host).unwrap();
            let address = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(address).unwrap();
            let (mut server, remote) = listener.accept().unwrap();
            let id = SocketId::between(server.local_addr().unwrap(), remote, 0);
            client.write_all(&[7; 1000]).unwrap();
            server.write_all(&[7; 70]).unwrap();
            let mut wait_for = |received, acknowledged| {
                let wanted = Some(Counts {
                    received,
                    acknowledged,
                });
                let begin = std::time::Instant::now();
                while diagnosis.counts(&id).unwrap() != wanted {
                    assert!(begin.elapsed() < Duration::from_secs(20), "{host}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            wait_for(1000, 70);
            client.shutdown(std::net::Shutdown::Write).unwrap();
            wait_for(1000, 70);
            drop((client, server));
            // The listener is not taken for it.
            assert_eq!(diagnosis.counts(&id), Ok(None), "{host}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn another_connection_between_the_same_addresses_is_not_the_same() {
        let mut diagnosis = Diagnosis::new().unwrap();
        let (_client, server) = connection("127.0.0.1:0");
        let id = SocketId::of(&server).unwrap();
        let cookie = id.cookie.wrapping_add(1);
        let other = SocketId { cookie, ..id };
        assert_eq!(diagnosis.quiet_time(&other), Ok(None));
    }

    #[test]
    #[cfg_attr(miri, ignore = "unix sockets")]
    fn what_is_not_a_connection_of_tcp_has_no_such_id() {
        let (unix, _other) = UnixStream::pair().unwrap();
        assert!(SocketId::of(&unix).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "netlink(7)")]
    fn a_unix_socket_is_known_by_its_file() {
        let mut diagnosis = Diagnosis::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
        let sockets = [&first, &second].map(|path| UnixListener::bind(path).unwrap());
        let numbers = |path: &std::path::Path| {
            let found = nix::sys::stat::stat(path).unwrap();
            (found.st_dev, found.st_ino)
        };
        let [first, second] = [numbers(&first), numbers(&second)];
        assert_eq!(diagnosis.is_unix_file(&sockets[0], first), Ok(true));
        assert_eq!(diagnosis.is_unix_file(&sockets[0], second), Ok(false));
        assert_eq!(diagnosis.is_unix_file(&sockets[1], second), Ok(true));
        let other = (first.0 ^ 1, first.1);
        assert_eq!(diagnosis.is_unix_file(&sockets[0], other), Ok(false));
        let unbound = UnixStream::pair().unwrap().0;
        let answer = diagnosis.is_unix_file(unbound, first);
        assert_eq!(answer, Err(Errno::ENOENT));
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
        fn any_answer_is_read_without_a_panic(answer in proptest::collection::vec(any::<u8>(), 0..160)) {
            let _ = Answer::read(&answer).map(|answer| answer.payload.len());
            let _ = Inet::read(&answer).map(|socket| socket.local);
            let _ = attribute(&answer, UNIX_MESSAGE, UNIX_DIAG_NAME);
            let _ = quiet_time(&answer);
            let _ = Counts::read(&answer);
        }
    }
}
