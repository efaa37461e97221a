//! Setting the options of sockets. They are set on the listener before it listens. On Linux,
//! connections inherit them, without a system call for each.

use std::io;
use std::os::fd::AsFd;

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET, c_int};
use nix::errno::Errno;
use socket2::{Domain, Socket};

use super::multicast;
use crate::config::{BoundAddress, ListenerName, Scope, SocketOption, Style};
use crate::error::{Error, Reason};
use crate::sys::datagrams;
use crate::sys::sockets::set_number;

/// Sets the options that a socket of this style and address has, before it is bound.
pub(super) fn set(
    socket: &Socket,
    options: &[SocketOption],
    listener: &ListenerName<'_>,
) -> Result<(), Error> {
    for option in of(options, listener) {
        set_one(socket, &option).map_err(|reason| cannot_set(&option, listener, &reason))?;
    }
    Ok(())
}

/// Has the kernel report the destination of each datagram that an internet socket receives from
/// now on. Other sockets don't have destinations.
pub(super) fn report_destinations(
    socket: impl AsFd,
    listener: &ListenerName<'_>,
) -> Result<(), Error> {
    let ListenerName(_, bound_address) = *listener;
    let BoundAddress::Inet(address) = bound_address else {
        return Ok(());
    };
    datagrams::tell_destination(socket, address.is_ipv6()).map_err(|errno| {
        let what = format!("{listener}: can't have the kernel report destinations");
        Error::start(what, errno)
    })
}

/// Whether the option is for a socket with this bound address.
fn is_for(option: &SocketOption, bound_address: &BoundAddress) -> bool {
    match (option, bound_address) {
        (SocketOption::Multicast(group), BoundAddress::Inet(address)) => {
            multicast::receives(*address, group)
        }
        _ => true,
    }
}

/// Returns the options to set on an inherited socket, which is bound already.
pub(super) fn for_bound(options: &[SocketOption], style: Style, inet: bool) -> Vec<SocketOption> {
    let fitting = options.iter().filter(|option| {
        let scope = option.scope();
        scope != Scope::Unbound && scope.has(inet, style)
    });
    fitting.cloned().collect()
}

/// Sets the options on a connection that is older than those of its listener. Errors are ignored:
/// the connection may have ended, which the handler will notice.
pub(super) fn set_on_connection(connection: &Socket, options: &[SocketOption]) {
    for option in options {
        let _ = set_one(connection, option);
    }
}

fn set_one(socket: &Socket, option: &SocketOption) -> io::Result<()> {
    let tcp = |name, value| Ok(set_number(socket, IPPROTO_TCP, name, value)?);
    let general = |name, value| Ok(set_number(socket, SOL_SOCKET, name, value)?);
    let is_v6 = || Ok::<_, io::Error>(socket.domain()? == Domain::IPV6);
    match option {
        SocketOption::NoDelay => tcp(libc::TCP_NODELAY, 1),
        SocketOption::KeepAlive(probes) => {
            if let Some(probes) = probes {
                tcp(libc::TCP_KEEPIDLE, probes.time)?;
                tcp(libc::TCP_KEEPINTVL, probes.interval)?;
                tcp(libc::TCP_KEEPCNT, probes.count)?;
            }
            general(libc::SO_KEEPALIVE, 1)
        }
        SocketOption::UserTimeout(milliseconds) => tcp(libc::TCP_USER_TIMEOUT, *milliseconds),
        SocketOption::DeferAccept(seconds) => tcp(libc::TCP_DEFER_ACCEPT, *seconds),
        SocketOption::FastOpen(length) => tcp(libc::TCP_FASTOPEN, *length),
        SocketOption::ReusePort => general(libc::SO_REUSEPORT, 1),
        SocketOption::FreeBind => match is_v6()? {
            true => Ok(set_number(socket, IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?),
            false => Ok(set_number(socket, IPPROTO_IP, libc::IP_FREEBIND, 1)?),
        },
        SocketOption::Device(name) => socket.bind_device(Some(name.as_bytes())),
        SocketOption::TypeOfService(byte) => {
            let byte = c_int::from(*byte);
            if is_v6()? {
                set_number(socket, IPPROTO_IPV6, libc::IPV6_TCLASS, byte)?;
            }
            // Also for the IPv4 clients of an inherited dual-stack socket.
            Ok(set_number(socket, IPPROTO_IP, libc::IP_TOS, byte)?)
        }
        SocketOption::Mark(mark) => general(libc::SO_MARK, *mark as c_int),
        SocketOption::SendBuffer(size) => {
            buffer(socket, [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF], *size)
        }
        SocketOption::ReceiveBuffer(size) => {
            buffer(socket, [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF], *size)
        }
        SocketOption::Multicast(group) => multicast::join(socket, group),
        // It is what the kernel does unless it is told otherwise.
        SocketOption::AcceptDescriptors => Ok(()),
    }
}

/// Returns whether the option can be taken from a bound socket again: whether its value without the
/// option is known.
pub(super) fn can_be_unset(option: &SocketOption) -> bool {
    match option {
        SocketOption::NoDelay
        | SocketOption::KeepAlive(_)
        | SocketOption::UserTimeout(_)
        | SocketOption::DeferAccept(_)
        | SocketOption::FastOpen(_)
        | SocketOption::TypeOfService(_)
        | SocketOption::Mark(_) => true,
        SocketOption::ReusePort
        | SocketOption::FreeBind
        | SocketOption::Device(_)
        | SocketOption::SendBuffer(_)
        | SocketOption::ReceiveBuffer(_)
        | SocketOption::Multicast(_)
        | SocketOption::AcceptDescriptors => false,
    }
}

/// Takes the option from a bound socket, if that can be done. Its connections don't inherit it any
/// more.
pub(super) fn unset(socket: &Socket, option: &SocketOption) -> io::Result<()> {
    match option {
        SocketOption::KeepAlive(_) => Ok(set_number(socket, SOL_SOCKET, libc::SO_KEEPALIVE, 0)?),
        SocketOption::NoDelay => Ok(set_number(socket, IPPROTO_TCP, libc::TCP_NODELAY, 0)?),
        SocketOption::UserTimeout(_) => set_one(socket, &SocketOption::UserTimeout(0)),
        SocketOption::DeferAccept(_) => set_one(socket, &SocketOption::DeferAccept(0)),
        SocketOption::FastOpen(_) => set_one(socket, &SocketOption::FastOpen(0)),
        SocketOption::TypeOfService(_) => set_one(socket, &SocketOption::TypeOfService(0)),
        SocketOption::Mark(_) => set_one(socket, &SocketOption::Mark(0)),
        _ => Ok(()),
    }
}

/// Returns the options that a socket with this name has, of those that are asked for.
pub(super) fn of(options: &[SocketOption], listener: &ListenerName<'_>) -> Vec<SocketOption> {
    let ListenerName(style, bound_address) = *listener;
    let inet = matches!(bound_address, BoundAddress::Inet(_));
    let has =
        |option: &&SocketOption| option.scope().has(inet, style) && is_for(option, bound_address);
    options.iter().filter(has).cloned().collect()
}

/// Sets the size of a buffer, beyond the kernel's limit if that is permitted.
fn buffer(socket: &Socket, [force, ask]: [c_int; 2], size: i32) -> io::Result<()> {
    match set_number(socket, SOL_SOCKET, force, size) {
        Err(Errno::EPERM) => Ok(set_number(socket, SOL_SOCKET, ask, size)?),
        result => Ok(result?),
    }
}

/// Returns a note if the kernel changes the size of a buffer. `socket` may be any socket.
pub(super) fn changed_buffer(socket: &Socket, option: &SocketOption) -> Option<String> {
    let (size, got, limit) = match option {
        SocketOption::SendBuffer(size) => {
            set_one(socket, option).ok()?;
            (size, socket.send_buffer_size(), "wmem_max")
        }
        SocketOption::ReceiveBuffer(size) => {
            set_one(socket, option).ok()?;
            (size, socket.recv_buffer_size(), "rmem_max")
        }
        _ => return None,
    };
    // The kernel doubles the size, for its own bookkeeping (socket(7)).
    let (wanted, got) = (usize::try_from(*size).ok()?, got.ok()? / 2);
    let why = match got < wanted {
        true => format!("; net.core.{limit} is the limit without CAP_NET_ADMIN"),
        false => String::new(),
    };
    // The largest possible size is one byte less than requested.
    (got.abs_diff(wanted) > 1).then(|| {
        let name = option.name();
        format!("--{name} {size}: the kernel makes it {got}{why}")
    })
}

fn cannot_set(option: &SocketOption, listener: &ListenerName<'_>, reason: &io::Error) -> Error {
    let name = option.name();
    let errno = reason.raw_os_error().map(Errno::from_raw);
    if let SocketOption::Multicast(group) = option {
        let (why, hint) = (reason.reason(), multicast::hint(errno, group));
        return Error::Start(format!(
            "--{name} {group} can't be joined on {listener}: {why}{hint}"
        ));
    }
    let hint = match (errno, option) {
        (Some(Errno::ENODEV), SocketOption::Device(interface)) => {
            format!("; there is no interface '{interface}' (see ip link)")
        }
        (Some(Errno::EPERM), SocketOption::Mark(_)) => "; this needs CAP_NET_ADMIN".into(),
        (Some(Errno::EPERM), SocketOption::Device(_)) => {
            "; before Linux 5.7 this needs CAP_NET_RAW".into()
        }
        (Some(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP), _) => {
            "; the kernel doesn't have this option for such a socket".into()
        }
        _ => String::new(),
    };
    let why = reason.reason();
    Error::Start(format!("--{name} can't be set on {listener}: {why}{hint}"))
}
