//! Opening sockets, and the errors of binding them and listening on them.

use std::fmt;
use std::io;
use std::net::{SocketAddr, SocketAddrV6};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use super::holder;
use crate::config::{BoundAddress, DatagramMode, Listen, SocketOption, Style};
use crate::error::{Error, Reason};
use crate::sys::names::kernel_parameter;
use crate::sys::sockets::refuse_descriptors;

/// Opens an unbound TCP or UDP socket for an address.
pub(super) fn inet(address: SocketAddr, style: Style) -> io::Result<Socket> {
    let protocol = match style.has_connections() {
        true => Protocol::TCP,
        false => Protocol::UDP,
    };
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, kind(style), Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if style.has_connections() {
        // Not for UDP, where it would let two daemons share the port.
        socket.set_reuse_address(true)?;
    }
    Ok(socket)
}

/// Opens an unbound unix-domain socket for a listener. `datagrams` is the mode of its service.
pub(super) fn unix(
    listen: &Listen,
    style: Style,
    datagrams: DatagramMode,
) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::UNIX, kind(style), None).map_err(|reason| {
        Error::start(format!("{}: can't open a socket", listen.option), reason)
    })?;
    // Handlers don't get what comes with a datagram that skd receives.
    let received = style == Style::Datagram && datagrams != DatagramMode::Wait;
    if received || !listen.options.contains(&SocketOption::AcceptDescriptors) {
        // Before it is bound: no client may be earlier. What if this fails, the listener knows.
        let _ = refuse_descriptors(&socket);
    }
    Ok(socket)
}

/// Returns the type of a listener's socket.
///
/// Sockets with connections are nonblocking: several threads are woken, and one of them gets the
/// connection. Datagram sockets block, since handlers use them directly.
fn kind(style: Style) -> Type {
    match style {
        Style::Stream => Type::STREAM.cloexec().nonblocking(),
        Style::Seqpacket => Type::SEQPACKET.cloexec().nonblocking(),
        Style::Datagram => Type::DGRAM.cloexec(),
    }
}

/// Returns the error of a failed bind(2), with the address of an internet socket.
pub(super) fn cannot_bind(
    listen: &Listen,
    address: Option<SocketAddr>,
    reason: &io::Error,
) -> Error {
    let hint = match (reason.raw_os_error().map(Errno::from_raw), address) {
        (Some(Errno::EADDRINUSE), Some(address)) => {
            let style = listen.endpoint.style().unwrap_or(Style::Stream);
            holder::of(address, style).unwrap_or_else(|| {
                "; another program has the port, or a handler of an earlier daemon still holds it"
                    .into()
            })
        }
        (Some(errno), Some(address)) => needs(address, errno),
        _ => String::new(),
    };
    not_bound(listen, address, reason, &hint)
}

/// Returns the error of an address that another listener of the command line has.
pub(super) fn cannot_bind_twice(listen: &Listen, address: SocketAddr) -> Error {
    let reason = io::Error::from(Errno::EADDRINUSE);
    not_bound(listen, Some(address), &reason, holder::OWN)
}

fn not_bound(
    listen: &Listen,
    address: Option<SocketAddr>,
    reason: &io::Error,
    hint: &str,
) -> Error {
    let option = &listen.option;
    let bound_address = address
        .map(|address| format!(" {}", BoundAddress::Inet(address)))
        .unwrap_or_default();
    Error::Start(format!(
        "{option}: can't bind{bound_address}: {}{hint}",
        reason.reason()
    ))
}

/// Returns what binding an address needs, if that is why it failed.
fn needs(address: SocketAddr, errno: Errno) -> String {
    match (errno, address) {
        (Errno::EACCES, _) if address.port() < first_free_port() => format!(
            "; ports below {0} need root, the capability CAP_NET_BIND_SERVICE, or a lower \
             net.ipv4.ip_unprivileged_port_start",
            first_free_port()
        ),
        (Errno::EADDRNOTAVAIL, _) => "; this machine doesn't have the address: use one that it \
             has, a port alone for all, or --freebind to bind it before it is there"
            .into(),
        (Errno::EINVAL, SocketAddr::V6(address)) if lacks_interface(&address) => format!(
            "; a link-local address needs its interface, as in [{}%eth0]:{}",
            address.ip(),
            address.port()
        ),
        _ => String::new(),
    }
}

/// Whether an address is on a link, but it isn't known on which.
pub(super) fn lacks_interface(address: &SocketAddrV6) -> bool {
    address.ip().is_unicast_link_local() && address.scope_id() == 0
}

/// Returns the first port that needs no privilege (ip(7)).
pub(super) fn first_free_port() -> u16 {
    let parameter = kernel_parameter("net/ipv4/ip_unprivileged_port_start");
    parameter.map_or(1024, |port| u16::try_from(port).unwrap_or(u16::MAX))
}

/// Returns the error of a failed listen(2) on a socket with this name and, for TCP, this address.
pub(super) fn cannot_listen(
    listener: impl fmt::Display,
    address: Option<SocketAddr>,
    reason: &io::Error,
) -> Error {
    let hint = match reason.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            let known = address.and_then(|address| holder::of(address, Style::Stream));
            known.unwrap_or_else(|| {
                "; another program listens there, or another listener of this command line".into()
            })
        }
        _ => String::new(),
    };
    not_listening(listener, reason, &hint)
}

/// Returns the error of a listener whose address another listener of the command line has.
pub(super) fn cannot_listen_twice(listener: impl fmt::Display) -> Error {
    not_listening(listener, &Errno::EADDRINUSE.into(), holder::OWN)
}

fn not_listening(listener: impl fmt::Display, reason: &io::Error, hint: &str) -> Error {
    let why = reason.reason();
    Error::Start(format!("can't listen on {listener}: {why}{hint}"))
}
