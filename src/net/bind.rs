//! Binding all listeners of a service, or none of them.

use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use socket2::{SockAddr, Socket};

use super::inherited::InheritedListener;
use super::listener::Listener;
use super::open::{self, cannot_bind};
use super::resolve::Resolved;
use super::{multicast, options, unix};
use crate::config::{
    BoundAddress, DatagramMode, Endpoint, Listen, ListenerName, SocketOption, Style, UnixAddress,
};
use crate::error::Error;
use crate::report::{self, Event};

/// Binds all listeners, in the order of the command line. If one fails, the others are closed and
/// their files removed. Inherited listeners come at the position of their option.
///
/// `datagrams` is the mode of their service: in some, skd receives the datagrams itself. For so long
/// this waits for another start that replaces the same stale socket.
pub fn bind_all(
    wanted: &[Resolved<'_>],
    mut inherited: Vec<InheritedListener>,
    datagrams: DatagramMode,
    lock_timeout: Duration,
) -> Result<Vec<Listener>, Error> {
    let mut listeners = Vec::new();
    for Resolved { listen, addresses } in wanted {
        match &listen.endpoint {
            Endpoint::Inherited { source } => {
                let (these, others): (Vec<_>, _) =
                    inherited.into_iter().partition(|it| it.source == *source);
                inherited = others;
                listeners.extend(these.into_iter().map(|it| it.listener));
            }
            _ => listeners.extend(bind(listen, addresses, datagrams, (lock_timeout, false))?),
        }
    }
    check_groups(wanted, &listeners)?;
    Ok(listeners)
}

/// Binds what an option asks for, at these addresses if it has some. `others` says whether another
/// of its addresses is bound already.
pub(super) fn bind(
    listen: &Listen,
    addresses: &[SocketAddr],
    datagrams: DatagramMode,
    (lock_timeout, others): (Duration, bool),
) -> Result<Vec<Listener>, Error> {
    match &listen.endpoint {
        Endpoint::Inherited { .. } => Ok(Vec::new()),
        Endpoint::Inet { style, .. } => bind_inet(listen, addresses, others, *style, datagrams),
        Endpoint::Unix {
            style,
            address,
            mode,
            owner,
        } => {
            let socket = open::unix(listen, *style, datagrams)?;
            let bound_address = BoundAddress::Unix(address.clone());
            let name = ListenerName(*style, &bound_address);
            options::set(&socket, &listen.options, &name)?;
            let file = match address {
                UnixAddress::Path(path) => {
                    let option = &listen.option;
                    let file = unix::bind(option, &socket, path, *mode, *owner, lock_timeout);
                    Some(file?)
                }
                UnixAddress::Abstract(name) => {
                    bind_abstract(&socket, name)
                        .map_err(|reason| cannot_bind(listen, None, &reason))?;
                    None
                }
            };
            let listener = Listener::new(listen, socket, *style, bound_address, file);
            Ok(vec![listener])
        }
    }
}

/// Fails if a multicast group is to be joined and no listener receives it.
pub(super) fn check_groups(wanted: &[Resolved<'_>], listeners: &[Listener]) -> Result<(), Error> {
    let udp = |listener: &Listener| match listener.bound_address() {
        BoundAddress::Inet(address) if listener.style() == Style::Datagram => Some(*address),
        _ => None,
    };
    let udp: Vec<_> = listeners.iter().filter_map(udp).collect();
    // All listeners have the same options.
    let options = wanted.first().map_or(&[][..], |it| &it.listen.options);
    match multicast::groups(options).find_map(|group| multicast::check_listeners(group, &udp)) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// How many free ports are tried until one is free at all addresses of an option.
const PORT_TRIES: u32 = 64;

fn bind_inet(
    listen: &Listen,
    addresses: &[SocketAddr],
    others: bool,
    style: Style,
    datagrams: DatagramMode,
) -> Result<Vec<Listener>, Error> {
    let any_port = addresses.iter().all(|address| address.port() == 0);
    let mut tries = if any_port { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        match bind_addresses(listen, addresses, others, style, datagrams) {
            Err((Errno::EADDRINUSE, _)) if tries > 0 => {}
            result => return result.map_err(|(_, error)| error),
        }
    }
}

/// Binds every address, or skips addresses that this machine lacks if at least one can be bound.
fn bind_addresses(
    listen: &Listen,
    addresses: &[SocketAddr],
    others: bool,
    style: Style,
    datagrams: DatagramMode,
) -> Result<Vec<Listener>, (Errno, Error)> {
    let mut bound: Vec<Listener> = Vec::new();
    let mut skipped = Vec::new();
    let mut chosen_port = None;
    let any_port = addresses.iter().any(|address| address.port() == 0);
    for address in addresses {
        let mut address = *address;
        if let Some(port) = chosen_port {
            address.set_port(port);
        }
        let bound_socket = bind_address(listen, address, any_port, style, datagrams);
        let (socket, address) = match bound_socket {
            Ok(bound) => bound,
            Err((errno @ (Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT), error)) => {
                skipped.push((address, errno, error));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        let announced = addresses[0].port() == 0 && chosen_port.is_none();
        chosen_port = Some(address.port());
        let bound_address = BoundAddress::Inet(address);
        let mut listener = Listener::new(listen, socket, style, bound_address, None);
        if announced {
            listener.announce_port();
        }
        bound.push(listener);
    }
    if bound.is_empty() && !others {
        return match skipped.into_iter().next() {
            Some((_, errno, error)) => Err((errno, error)),
            None => Err((
                Errno::EADDRNOTAVAIL,
                Error::Start(format!("{}: there is no address to bind", listen.option)),
            )),
        };
    }
    for (address, errno, _) in skipped {
        let bound_address = BoundAddress::Inet(address);
        let listener = ListenerName(style, &bound_address);
        report::event(Event::PassedOver(listener, errno));
    }
    Ok(bound)
}

/// Binds one address, and returns it with the port that the kernel chose. `any_port` says whether
/// the option leaves the port to the kernel.
fn bind_address(
    listen: &Listen,
    address: SocketAddr,
    any_port: bool,
    style: Style,
    datagrams: DatagramMode,
) -> Result<(Socket, SocketAddr), (Errno, Error)> {
    let failed = |reason: io::Error| {
        let errno = reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
        (errno, cannot_bind(listen, Some(address), &reason))
    };
    let socket = open::inet(address, style).map_err(failed)?;
    let bound_address = BoundAddress::Inet(address);
    let name = ListenerName(style, &bound_address);
    // Another address or port would not help.
    let fatal = |error| (Errno::UnknownErrno, error);
    let set = |options: &[SocketOption]| options::set(&socket, options, &name).map_err(fatal);
    // If SO_REUSEPORT is set, the kernel's choice of a free UDP port includes ports that other
    // sockets share.
    let (later, first): (Vec<_>, Vec<_>) = listen.options.iter().cloned().partition(|option| {
        any_port && style == Style::Datagram && *option == SocketOption::ReusePort
    });
    set(&first)?;
    if style == Style::Datagram && datagrams != DatagramMode::Wait {
        // A datagram that arrives between bind(2) and this would have no destination.
        options::report_destinations(&socket, &name).map_err(fatal)?;
    }
    socket.bind(&address.into()).map_err(failed)?;
    set(&later)?;
    let local = socket.local_addr().map_err(failed)?.as_socket();
    Ok((socket, local.unwrap_or(address)))
}

fn bind_abstract(socket: &Socket, name: &[u8]) -> io::Result<()> {
    // socket2 takes a path that begins with NUL for an abstract name.
    let mut path = vec![0];
    path.extend_from_slice(name);
    socket.bind(&SockAddr::unix(OsStr::from_bytes(&path))?)
}
