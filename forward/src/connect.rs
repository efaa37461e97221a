//! Connecting to the first address that answers.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, bind, connect,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use skd::config::{Target as Address, UnixAddress};
use skd::net::addresses_of;

use crate::end::{Kind, Target};
use crate::options::Options;

/// Connects to the addresses in turn. The error has a line for each that failed.
///
/// Each gets an equal share of the time that is left, and so does each address of a name. Looking up a
/// name isn't part of it: the C library has timeouts of its own (resolv.conf(5)).
pub(crate) fn first(options: &Options, client: Kind) -> Result<Target, String> {
    let mut left = options.connect_timeout;
    let mut failures = Vec::new();
    for (index, address) in options.targets.iter().enumerate() {
        let count = options.targets.len() - index;
        let mut share = left / u32::try_from(count).unwrap_or(u32::MAX);
        let before = share;
        match any_of(address, client, &mut share, &mut failures) {
            Some(target) => return Ok(target),
            None => left = left.saturating_sub(before - share),
        }
    }
    Err(failures.join("\n"))
}

/// Connects to one of what an address stands for, and takes the time for it from `left`.
fn any_of(
    address: &Address,
    client: Kind,
    left: &mut Duration,
    failures: &mut Vec<String>,
) -> Option<Target> {
    let (inet, kind, protocol) = match address {
        Address::Unix(path) => return unix(path, client, left, failures),
        Address::Tcp(inet) => (inet, Kind::Stream, "tcp"),
        Address::Udp(inet) => (inet, Kind::Datagram, "udp"),
    };
    let found = match addresses_of(inet, protocol) {
        Ok(found) => found,
        Err(why) => {
            failures.push(format!("can't connect to {address}: {why}"));
            return None;
        }
    };
    for (index, one) in found.iter().enumerate() {
        let time = *left / u32::try_from(found.len() - index).unwrap_or(u32::MAX);
        match attempt(&SockaddrStorage::from(*one), kind, time, left) {
            Ok(socket) => return Some(Target { socket, kind }),
            Err(errno) => {
                let why = reason(errno, time);
                let (name, number) = (address.to_string(), one.to_string());
                let by_name = !name.ends_with(&number);
                let number = if by_name {
                    format!(" ({number})")
                } else {
                    String::new()
                };
                failures.push(format!("can't connect to {name}{number}: {why}"));
            }
        }
    }
    None
}

/// Connects to a unix socket. A socket of another type refuses the connection (EPROTOTYPE), and is tried again with the
/// next type. That of the client comes first.
fn unix(
    address: &UnixAddress,
    client: Kind,
    left: &mut Duration,
    failures: &mut Vec<String>,
) -> Option<Target> {
    let kinds = match client {
        Kind::Stream | Kind::File => [Kind::Stream, Kind::Seqpacket, Kind::Datagram],
        Kind::Seqpacket | Kind::Datagram => [Kind::Seqpacket, Kind::Datagram, Kind::Stream],
    };
    let time = *left;
    let name = match address {
        UnixAddress::Path(path) => UnixAddr::new(path),
        UnixAddress::Abstract(name) => UnixAddr::new_abstract(name),
    };
    let mut failure = Errno::EPROTOTYPE;
    for kind in kinds {
        match name.and_then(|name| attempt(&name, kind, time, left)) {
            Ok(socket) => return Some(Target { socket, kind }),
            Err(errno) => failure = errno,
        }
        if failure != Errno::EPROTOTYPE {
            break;
        }
    }
    let why = match failure {
        Errno::ENOENT => "there is no such socket".to_owned(),
        Errno::ECONNREFUSED => "no program listens there".to_owned(),
        errno => reason(errno, time),
    };
    failures.push(format!("can't connect to {address}: {why}"));
    None
}

/// Makes one attempt of at most `time`, and takes its duration from `left`.
///
/// The socket blocks and has a timeout of sending, which connect(2) keeps to (socket(7)). That takes
/// fewer calls than waiting with poll(2), and waits for a full backlog of a unix socket too.
fn attempt(
    address: &dyn SockaddrLike,
    kind: Kind,
    time: Duration,
    left: &mut Duration,
) -> Result<OwnedFd, Errno> {
    let family = address.family().unwrap_or(AddressFamily::Unspec);
    let kind = match kind {
        Kind::Stream | Kind::File => SockType::Stream,
        Kind::Seqpacket => SockType::SeqPacket,
        Kind::Datagram => SockType::Datagram,
    };
    let mut socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if socket.as_raw_fd() <= 2 {
        // Standard error is closed. It mustn't become the target.
        let number = fcntl(&socket, FcntlArg::F_DUPFD_CLOEXEC(3))?;
        socket = crate::sys::owned(number);
    }
    if kind == SockType::Datagram && family == AddressFamily::Unix {
        // A name of the kernel's choice, for the answers (unix(7)).
        bind(socket.as_raw_fd(), &UnixAddr::new_unnamed())?;
    }
    if kind != SockType::Datagram {
        // Zero would be no limit.
        let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1);
        setsockopt(
            &socket,
            sockopt::SendTimeout,
            &TimeVal::milliseconds(milliseconds),
        )?;
    }
    let start = Instant::now();
    let connected = loop {
        match connect(socket.as_raw_fd(), address) {
            // The process was stopped and goes on. A second call waits for the same connection.
            Err(Errno::EINTR) => {}
            Err(Errno::EISCONN) => break Ok(()),
            result => break result,
        }
    };
    *left = left.saturating_sub(start.elapsed());
    connected.map(|()| socket)
}

/// Why connecting failed, for a message.
fn reason(errno: Errno, time: Duration) -> String {
    let time = Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    match errno {
        Errno::EINPROGRESS | Errno::EALREADY => format!("no answer within {time:?}"),
        Errno::EAGAIN => format!("its backlog was full for {time:?}"),
        errno => errno.desc().to_owned(),
    }
}
