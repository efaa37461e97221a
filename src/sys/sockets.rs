//! Sockets: peers, options, and what waits in them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    MsgFlags, SockaddrIn, SockaddrIn6, SockaddrLike, getsockopt, recv, send, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::descriptors;
use super::process::{self, Fork, Target, Wait};
use super::signals::{self, Signal};
use super::thread::Thread;
use super::users::unknown_ids;

/// The peer of a unix socket (unix(7), `SO_PEERCRED`). The pid is 0 for a process outside of this
/// process's namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Process id.
    pub pid: i32,
    /// Effective user id, if it is known in this user namespace.
    pub uid: Option<u32>,
    /// Effective group id, if it is known in this user namespace.
    pub gid: Option<u32>,
}

/// Returns the credentials of the peer of a connected unix socket.
pub fn peer_credentials(socket: impl AsFd) -> Result<Credentials, Errno> {
    let peer = getsockopt(&socket, sockopt::PeerCredentials)?;
    let unknown = unknown_ids();
    Ok(Credentials {
        pid: peer.pid(),
        uid: unknown.user(peer.uid()),
        gid: unknown.group(peer.gid()),
    })
}

/// Opens the file that a unix socket is bound to, only to name it (unix(7), `SIOCUNIXFILE`). This takes
/// `CAP_NET_ADMIN`, but no path.
pub fn bound_file(socket: impl AsFd) -> Result<OwnedFd, Errno> {
    // linux/un.h, linux/sockios.h: SIOCPROTOPRIVATE + 0
    const SIOCUNIXFILE: u16 = 0x89e0;
    // SAFETY: the request has no argument.
    let file = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), SIOCUNIXFILE.into(), 0) };
    // SAFETY: the kernel has just made it for the caller, close-on-exec.
    Errno::result(file).map(|file| unsafe { OwnedFd::from_raw_fd(file) })
}

/// Replaces `groups` by the supplementary groups of the peer of a connected unix socket
/// (`SO_PEERGROUPS`, Linux 4.13). Allocates only if there are more than ever before.
pub fn peer_groups(socket: impl AsFd, groups: &mut Vec<u32>) -> Result<(), Errno> {
    groups.clear();
    loop {
        let mut length = size_of::<u32>() * groups.capacity();
        let room = groups.spare_capacity_mut().as_mut_ptr();
        let mut found = length as libc::socklen_t;
        // SAFETY: the kernel writes at most as many bytes as there is room for.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                room.cast(),
                &raw mut found,
            )
        };
        length = length.min(found as usize);
        match Errno::result(result) {
            Ok(_) => {
                // SAFETY: the kernel has written so many.
                unsafe { groups.set_len(length / size_of::<u32>()) };
                return Ok(());
            }
            Err(Errno::ERANGE) => groups.reserve(found as usize / size_of::<u32>()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Makes a TCP listener drop the SYNs of new clients (socket(7), `SO_ATTACH_FILTER`). They try
/// again, and are refused after it is closed. Handshakes under way are finished, and connections
/// that wait can be accepted.
pub fn ignore_new(listener: impl AsFd) -> io::Result<()> {
    // For a TCP socket the filter's data begins with the TCP header; its flags are byte 13.
    const SYN: u32 = 0x02;
    let mut program = [
        (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, 13),
        (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, SYN),
        (libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        (libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ]
    .map(|(code, jt, jf, k)| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    });
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the filter and its instructions, which outlive the call.
    let result = unsafe {
        libc::setsockopt(
            listener.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of_val(&filter) as libc::socklen_t,
        )
    };
    Ok(Errno::result(result).map(drop)?)
}

/// Has a TCP listener take new connections again, after [`ignore_new`].
pub fn serve_new(listener: impl AsFd) -> io::Result<()> {
    match set_number(listener, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, 0) {
        // It has no filter.
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// The result of [`drain_input`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// All that has come so far is drained.
    All,
    /// `most` bytes are drained; there may be more.
    Some,
    /// Nothing more can come: the end was read, or the connection is broken.
    End,
}

/// What a read counts at the least: the memory that the kernel takes for the shortest packet.
const PACKET: usize = 512;

/// Receives what has come, without waiting even if the socket is blocking (recv(2),
/// `MSG_DONTWAIT`). It can't be interrupted.
pub fn receive_now(
    connection: impl AsFd,
    buffer: &mut [u8],
    flags: MsgFlags,
) -> Result<usize, Errno> {
    loop {
        let flags = flags | MsgFlags::MSG_DONTWAIT;
        match recv(connection.as_fd().as_raw_fd(), buffer, flags) {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}

/// Reads what has come on a connection and drops it, without waiting: `most` bytes, or a little
/// more.
pub fn drain_input(connection: impl AsFd, most: usize) -> Drained {
    let mut buffer = [0; 16 * 1024];
    let mut drained = 0;
    // A TCP socket copies nothing (tcp(7)); others ignore the flag, hence the buffer.
    while drained < most {
        match receive_now(&connection, &mut buffer, MsgFlags::MSG_TRUNC) {
            // An empty packet reads the same, without an end.
            Ok(0) if is_shut_down(&connection) => return Drained::End,
            Ok(length) => drained += length.max(PACKET),
            Err(Errno::EAGAIN) => return Drained::All,
            Err(_) => return Drained::End,
        }
    }
    Drained::Some
}

/// Receives what has come on a unix socket without waiting, and never closes what is passed along: if
/// that is a descriptor, `EPROTO` is returned, and all stays where it is (unix(7), `SCM_RIGHTS`). For
/// a socket that no other process receives from.
pub fn receive_bytes(socket: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let length = peek_bytes(&socket, buffer)?;
    // A peek and a read end at the same byte: before the next descriptor, or after what came.
    receive_now(socket, &mut buffer[..length], MsgFlags::empty())
}

/// Peeks at what has come, without waiting. If a descriptor is passed along with it, this fails with
/// `EPROTO`. The peek doesn't close it, since the socket still has it.
pub fn peek_bytes(socket: impl AsFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero is a valid value: no address, no control data.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    loop {
        // SAFETY: the header points to one part, the buffer, which outlives the call.
        let result = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
        return match Errno::result(result) {
            // There is control data, for which there is no space.
            Ok(_) if message.msg_flags & libc::MSG_CTRUNC != 0 => Err(Errno::EPROTO),
            Ok(length) => Ok(length as usize),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno),
        };
    }
}

/// Drops the first datagram of a unix socket in a process of its own, which is killed if that takes
/// long. Returns within 100 ms: receiving a datagram closes the descriptors that were passed along.
/// While too many of these processes haven't ended, this fails with `EAGAIN`.
pub fn discard_elsewhere(socket: impl AsFd) -> Result<(), Errno> {
    const USUAL: Duration = Duration::from_millis(20);
    const KILLED: Duration = Duration::from_millis(80);
    discard_within(socket, [USUAL, KILLED])
}

fn discard_within(socket: impl AsFd, [usual, killed]: [Duration; 2]) -> Result<(), Errno> {
    if ABANDONED.load(Ordering::Relaxed) >= MOST_ABANDONED {
        return Err(Errno::EAGAIN);
    }
    let child = match process::fork()? {
        Fork::Parent(child) => child,
        Fork::Child => {
            // Others wait for the end of what this process has copies of.
            descriptors::keep_only(&[socket.as_fd()]);
            let _ = receive_now(&socket, &mut [0], MsgFlags::MSG_TRUNC);
            process::exit_now(0);
        }
    };
    let ends = |limit: Duration| {
        let deadline = Instant::now() + limit;
        loop {
            match process::wait(Target::Process(child), Wait::NOW) {
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_micros(200));
                }
                Ok(None) => return false,
                // The main thread may have reaped it.
                Ok(Some(_)) | Err(_) => return true,
            }
        }
    };
    if !ends(usual) {
        let _ = signals::kill(child, Signal::SIGKILL);
        if !ends(killed) {
            abandon(child);
        }
    }
    Ok(())
}

/// How many killed children may end later.
const MOST_ABANDONED: usize = 8;

static ABANDONED: AtomicUsize = AtomicUsize::new(0);

/// Has a thread wait for the end of a killed child, which may be late on a busy machine or for a dead
/// file server. The main thread alone doesn't see it where handlers are traced.
fn abandon(child: Pid) {
    ABANDONED.fetch_add(1, Ordering::Relaxed);
    let reap = move || {
        let _ = process::wait(Target::Process(child), Wait::UNTIL_END);
        ABANDONED.fetch_sub(1, Ordering::Relaxed);
    };
    if Thread::start_brief(c"reaping".into(), 64 * 1024, reap).is_err() {
        // Without a thread for it, here.
        reap();
    }
}

/// The number of bytes that wait to be read (ioctl(2), `FIONREAD`).
pub fn unread(socket: impl AsFd) -> usize {
    queued(socket, libc::FIONREAD as _)
}

/// The number of bytes that the peer of a unix socket hasn't read yet, or the peer of a TCP socket
/// hasn't acknowledged (`SIOCOUTQ`).
pub fn unsent(socket: impl AsFd) -> usize {
    queued(socket, libc::TIOCOUTQ as _)
}

fn queued(socket: impl AsFd, request: libc::Ioctl) -> usize {
    let mut count: libc::c_int = 0;
    // SAFETY: the kernel writes one int, which outlives the call.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), request, &raw mut count) };
    Errno::result(result).map_or(0, |_| count.max(0) as usize)
}

/// The first words of what the kernel tells of a TCP socket (tcp(7), `TCP_INFO`), if it has as many.
pub fn tcp_info<const WORDS: usize>(socket: impl AsFd) -> Option<[u32; WORDS]> {
    let mut info = [0_u32; WORDS];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` bytes to memory that has as many.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result).ok()?;
    (length as usize == size_of_val(&info)).then_some(info)
}

/// Writes to a connection without waiting and without a signal (`MSG_DONTWAIT`, `MSG_NOSIGNAL`).
/// Returns the number of bytes written.
pub fn tell(connection: impl AsFd, text: &[u8]) -> Result<usize, Errno> {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    send(connection.as_fd().as_raw_fd(), text, flags)
}

/// Whether the close of a TCP connection will reset it: a handler may have set that (socket(7),
/// `SO_LINGER` with a time of 0).
pub fn resets_at_close(connection: impl AsFd) -> bool {
    let linger = getsockopt(&connection, sockopt::Linger);
    linger.is_ok_and(|linger| linger.l_onoff != 0 && linger.l_linger == 0)
}

/// Whether the close of a TCP connection may wait: a handler may have set that (socket(7), `SO_LINGER`).
pub fn lingers_at_close(connection: impl AsFd) -> bool {
    let linger = getsockopt(&connection, sockopt::Linger);
    linger.is_ok_and(|linger| linger.l_onoff != 0)
}

/// Has the last close of a TCP socket not wait (socket(7), `SO_LINGER`). Connections that are made from
/// now on inherit it from their listener.
pub fn clear_linger(socket: impl AsFd) -> Result<(), Errno> {
    let none = libc::linger {
        l_onoff: 0,
        l_linger: 0,
    };
    setsockopt(&socket, sockopt::Linger, &none)
}

/// Turns the kernel's receive time on or off (socket(7), `SO_TIMESTAMPNS`).
pub fn set_receive_time(socket: impl AsFd, on: bool) -> Result<(), Errno> {
    setsockopt(&socket, sockopt::ReceiveTimestampns, &on)
}

/// A datagram that waits in a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The sender, if it is an internet address.
    pub sender: Option<SocketAddr>,
    /// When the kernel received it. This tells two equal datagrams apart.
    pub received: Option<TimeSpec>,
    /// Its whole length in bytes.
    pub length: usize,
}

/// Peeks at the first datagram, if there is one (recvmsg(2), `MSG_PEEK`).
pub fn peek_datagram(socket: impl AsFd) -> Result<Option<Datagram>, Errno> {
    receive(socket, libc::MSG_PEEK)
}

/// Drops the first datagram, if there is one, and returns what it was.
pub fn discard_datagram(socket: impl AsFd) -> Result<Option<Datagram>, Errno> {
    receive(socket, 0)
}

fn receive(socket: impl AsFd, flags: libc::c_int) -> Result<Option<Datagram>, Errno> {
    // MSG_TRUNC makes the kernel return the whole length for a buffer of any size, so no payload is
    // copied.
    let flags = flags | libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: all-zero is a valid value of these: no address, no parts, no control data.
    let (mut sender, mut message): (libc::sockaddr_storage, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let mut control = Control([0; CONTROL_LENGTH]);
    loop {
        message.msg_name = (&raw mut sender).cast();
        message.msg_namelen = size_of_val(&sender) as libc::socklen_t;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = CONTROL_LENGTH as _;
        // SAFETY: the header points to an address and to control data of the lengths that it
        // says, both of which outlive the call.
        let result = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) };
        return match Errno::result(result) {
            Ok(length) => Ok(Some(Datagram {
                sender: internet_address(&sender),
                received: receive_time(&message),
                length: length as usize,
            })),
            Err(Errno::EAGAIN) => Ok(None),
            Err(Errno::EINTR) => continue,
            Err(errno) => Err(errno),
        };
    }
}

/// Control data for the receive time only, aligned for cmsg(3). The time comes first, whatever
/// options a handler has set. In a larger buffer the kernel would install descriptors that a client
/// of a unix socket sent.
#[repr(C, align(8))]
struct Control([u8; CONTROL_LENGTH]);

// SAFETY: it computes a length.
const CONTROL_LENGTH: usize =
    unsafe { libc::CMSG_SPACE(size_of::<libc::timespec>() as u32) as usize };

fn receive_time(message: &libc::msghdr) -> Option<TimeSpec> {
    // SAFETY: the kernel has filled in the control data, and its length in the header; the macros
    // stay within it, and the time is read unaligned from as many bytes as it has.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(message).as_ref()?;
        let is_time = header.cmsg_level == libc::SOL_SOCKET
            && header.cmsg_type == libc::SCM_TIMESTAMPNS
            && header.cmsg_len as usize
                >= libc::CMSG_LEN(size_of::<libc::timespec>() as u32) as usize;
        is_time.then(|| {
            let time = libc::CMSG_DATA(header)
                .cast::<libc::timespec>()
                .read_unaligned();
            TimeSpec::from(time)
        })
    }
}

pub(super) fn internet_address(address: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let pointer = (&raw const *address).cast::<libc::sockaddr>();
    match libc::c_int::from(address.ss_family) {
        libc::AF_INET => {
            // SAFETY: the storage is large enough for any address, and this is one of IPv4.
            let v4 = unsafe { SockaddrIn::from_raw(pointer, None) }?;
            Some(SocketAddr::V4(v4.into()))
        }
        libc::AF_INET6 => {
            // SAFETY: as above, of IPv6.
            let v6 = unsafe { SockaddrIn6::from_raw(pointer, None) }?;
            Some(SocketAddr::V6(v6.into()))
        }
        _ => None,
    }
}

/// Whether the socket was shut down (shutdown(2)), so that nothing more can be received or
/// accepted. Unlike an empty one, such a socket is always readable.
pub fn is_shut_down(socket: impl AsFd) -> bool {
    let mut fd = libc::pollfd {
        fd: socket.as_fd().as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };
    // SAFETY: one pollfd, which outlives the call. nix's has no POLLRDHUP.
    let found = unsafe { libc::poll(&raw mut fd, 1, 0) };
    found == 1 && fd.revents & (libc::POLLRDHUP | libc::POLLHUP) != 0
}

/// `SO_PASSRIGHTS` of asm-generic/socket.h (Linux 6.16).
const PASS_RIGHTS: libc::c_int = 83;

/// Has the kernel refuse descriptors that are passed to this unix socket, with EPERM for the sender
/// (unix(7), `SCM_RIGHTS`). Connections inherit it from their listener. Fails before Linux 6.16.
pub fn refuse_descriptors(socket: impl AsFd) -> Result<(), Errno> {
    set_number(socket, libc::SOL_SOCKET, PASS_RIGHTS, 0)
}

/// Whether the kernel refuses descriptors that are passed to this unix socket from now on.
pub fn refuses_descriptors(socket: impl AsFd) -> bool {
    let mut accepts: libc::c_int = 1;
    let mut length = size_of_val(&accepts) as libc::socklen_t;
    // SAFETY: the kernel writes no more than one int, which outlives the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            PASS_RIGHTS,
            (&raw mut accepts).cast(),
            &raw mut length,
        )
    };
    result == 0 && accepts == 0
}

/// Sets an option whose value is an int (setsockopt(2)): nix and socket2 lack some.
pub fn set_number(
    socket: impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> Result<(), Errno> {
    // SAFETY: the kernel reads one int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    Errno::result(result).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;

    /// The children of this process that nothing has reaped.
    fn zombies() -> Vec<String> {
        let own = format!(" Z {} ", std::process::id());
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let stats = processes
            .filter_map(|process| std::fs::read_to_string(process.path().join("stat")).ok());
        stats.filter(|stat| stat.contains(&own)).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_child_that_ends_late_is_reaped() {
        let (receiver, sender) = UnixDatagram::pair().unwrap();
        sender.send(b"x").unwrap();
        // Late, since it isn't waited for at all.
        discard_within(&receiver, [Duration::ZERO; 2]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while ABANDONED.load(Ordering::Relaxed) > 0 || !zombies().is_empty() {
            assert!(Instant::now() < deadline, "{:?}", zombies());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
