//! Connecting to the first address that answers.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, connect,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use skd::config::{Target, UnixAddress};
use skd::net::addresses_of;

/// Connects to the addresses in turn, until the deadline. The error has a line for each that failed.
///
/// Each gets an equal share of the time that is left, and so does each address of a name. Looking up a name
/// isn't part of it: the C library has timeouts of its own (resolv.conf(5)).
pub(super) fn first(targets: &[Target], timeout: Duration) -> Result<OwnedFd, String> {
    let mut left = timeout;
    let mut failures = Vec::new();
    for (index, target) in targets.iter().enumerate() {
        let share = part(left, targets.len() - index);
        match any_of(target, share, &mut failures) {
            (Some(socket), _) => return Ok(socket),
            (None, taken) => left = left.saturating_sub(taken),
        }
    }
    Err(failures.join("\n"))
}

/// Connects to one of what a target stands for. Returns how long that took.
fn any_of(
    target: &Target,
    share: Duration,
    failures: &mut Vec<String>,
) -> (Option<OwnedFd>, Duration) {
    let mut taken = Duration::ZERO;
    let mut fail = |address: &dyn std::fmt::Display, why: &str| {
        failures.push(format!("can't connect to {address}: {why}"));
    };
    match target {
        Target::Unix(path) => {
            let name = match path {
                UnixAddress::Path(path) => UnixAddr::new(path),
                UnixAddress::Abstract(name) => UnixAddr::new_abstract(name),
            };
            match name.and_then(|name| attempt(&name, share, &mut taken)) {
                Ok(socket) => return (Some(socket), taken),
                Err(errno) => fail(target, &reason(errno, share)),
            }
        }
        Target::Tcp(inet) => {
            let found = match addresses_of(inet, "tcp") {
                Ok(found) => found,
                Err(why) => {
                    fail(target, &why);
                    return (None, taken);
                }
            };
            for (index, address) in found.iter().enumerate() {
                let time = part(share.saturating_sub(taken), found.len() - index);
                match attempt(&SockaddrStorage::from(*address), time, &mut taken) {
                    Ok(socket) => {
                        // A record that waits for the acknowledgement of another would only be late.
                        let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
                        return (Some(socket), taken);
                    }
                    Err(errno) => fail(&named(target, address), &reason(errno, time)),
                }
            }
        }
        // The options don't take it.
        Target::Udp(_) => fail(target, "it is for datagrams"),
    }
    (None, taken)
}

fn part(whole: Duration, count: usize) -> Duration {
    whole / u32::try_from(count.max(1)).unwrap_or(u32::MAX)
}

/// The address as it was written, with its number if that is another text.
fn named(target: &Target, address: &SocketAddr) -> String {
    let (name, number) = (target.to_string(), address.to_string());
    match name.ends_with(&number) {
        true => name,
        false => format!("{name} ({number})"),
    }
}

/// Makes one attempt of at most `time`. The socket blocks and has a timeout of sending, which connect(2) keeps
/// to (socket(7)), for a full backlog of a unix socket too. The caller makes it nonblocking.
fn attempt(
    address: &dyn SockaddrLike,
    time: Duration,
    taken: &mut Duration,
) -> Result<OwnedFd, Errno> {
    let family = address.family().unwrap_or(AddressFamily::Unspec);
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // Zero would be no limit.
    let milliseconds = i64::try_from(time.as_millis()).unwrap_or(i64::MAX).max(1);
    let limit = TimeVal::milliseconds(milliseconds);
    setsockopt(&socket, sockopt::SendTimeout, &limit)?;
    let start = Instant::now();
    let connected = loop {
        match connect(socket.as_raw_fd(), address) {
            // The process was stopped and goes on. A second call waits for the same connection.
            Err(Errno::EINTR) => {}
            Err(Errno::EISCONN) => break Ok(()),
            result => break result,
        }
    };
    *taken += start.elapsed();
    connected.map(|()| socket)
}

/// Why connecting failed, for a message.
fn reason(errno: Errno, time: Duration) -> String {
    let time = Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    match errno {
        Errno::EINPROGRESS | Errno::EALREADY => format!("no answer within {time:?}"),
        Errno::EAGAIN => format!("its backlog was full for {time:?}"),
        Errno::ECONNREFUSED => "the connection was refused: no program listens there".to_owned(),
        Errno::ENOENT => "there is no such socket".to_owned(),
        Errno::EPROTOTYPE => "it isn't a socket for streams of bytes".to_owned(),
        errno => errno.desc().to_owned(),
    }
}
