//! Opening sockets, and the errors of binding them and listening on them.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::config::{BoundAddress, Listen, Style};
use crate::error::{Error, Reason};

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

/// Opens an unbound unix-domain socket for a listener.
pub(super) fn unix(listen: &Listen, style: Style) -> Result<Socket, Error> {
    Socket::new(Domain::UNIX, kind(style), None)
        .map_err(|reason| Error::start(format!("{}: can't open a socket", listen.option), reason))
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
    let option = &listen.option;
    let bound_address = address
        .map(|address| format!(" {}", BoundAddress::Inet(address)))
        .unwrap_or_default();
    let hint = match reason.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) if address.is_some() => {
            "; another program has the port, or a handler of an earlier daemon still holds it"
        }
        Some(Errno::EACCES) if address.is_some_and(|address| address.port() < 1024) => {
            "; ports below 1024 need root or CAP_NET_BIND_SERVICE"
        }
        _ => "",
    };
    Error::Start(format!(
        "{option}: can't bind{bound_address}: {}{hint}",
        reason.reason()
    ))
}

/// Returns the error of a failed listen(2).
pub(super) fn cannot_listen(listener: impl fmt::Display, reason: &io::Error) -> Error {
    let hint = match reason.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRINUSE) => {
            "; another program listens there, or another listener of this command line"
        }
        _ => "",
    };
    let why = reason.reason();
    Error::Start(format!("can't listen on {listener}: {why}{hint}"))
}
