//! The errors of binding, as far as they can be predicted without binding.
//!
//! A port or path in use is no error: the daemon may be running while its next command line is
//! checked.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, Socket, Type};

use super::open::{
    self, cannot_bind, cannot_bind_twice, cannot_listen_twice, first_free_port, lacks_interface,
};
use super::resolve::Resolved;
use super::{multicast, options, unix};
use crate::config::{
    BoundAddress, Endpoint, Listen, ListenerName, SocketOption, Style, UnixAddress,
};
use crate::error::Error;
use crate::sys::capabilities::{Capability, has_capability};

/// More files than skd has open besides its listeners, where those are many.
const OTHERS: u64 = 128;

/// So many listeners are few: what else is open matters more.
const FEW: usize = 64;

/// Returns an error if more files than may be open are needed for the listeners of these services.
pub fn files<'a>(services: impl IntoIterator<Item = &'a [Listen]>) -> Result<(), Error> {
    let listeners: usize = services.into_iter().map(<[Listen]>::len).sum();
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, u64::MAX));
    let needed = listeners as u64 + OTHERS;
    if listeners <= FEW || needed <= limit {
        return Ok(());
    }
    Err(Error::Start(format!(
        "{listeners} listeners need {needed} open files at least, and the hard limit is {limit}: raise it \
         (LimitNOFILE= in a unit, or ulimit -Hn), or run some services by another skd"
    )))
}

/// Returns all reasons why a listener can't be bound, and notes about possible problems.
pub fn check(wanted: &Resolved<'_>) -> (Vec<Error>, Vec<String>) {
    let Resolved { listen, addresses } = wanted;
    let mut faults = Vec::new();
    let mut notes = Vec::new();
    if let Endpoint::Unix {
        address: UnixAddress::Path(path),
        owner,
        ..
    } = &listen.endpoint
    {
        match unix::check(&listen.option, path, *owner) {
            Ok(note) => notes.extend(note),
            Err(fault) => faults.push(fault),
        }
    }
    if let Endpoint::Inherited { .. } = listen.endpoint {
        notes.push(format!(
            "{}: inherited sockets can't be checked before the start",
            listen.option
        ));
    }
    if let Endpoint::Inet { style, .. } = listen.endpoint {
        // What fails for one address of a name fails for the others.
        let tried = addresses.iter().map(|it| try_options(listen, *it, style));
        faults.extend(tried.max_by_key(Vec::len).unwrap_or_default());
    }
    let device = |option: &SocketOption| matches!(option, SocketOption::Device(_));
    let bound_to_device = listen.options.iter().any(device);
    let refused = |address: &SocketAddr| match address {
        _ if is_forbidden(address.port()) => Some(Errno::EACCES),
        SocketAddr::V6(address) if lacks_interface(address) && !bound_to_device => {
            Some(Errno::EINVAL)
        }
        _ => None,
    };
    let refused = addresses
        .iter()
        .find_map(|address| Some((address, refused(address)?)));
    if let Some((address, errno)) = refused {
        faults.push(cannot_bind(listen, Some(*address), &errno.into()));
        return (faults, notes);
    }
    // A missing address among several is skipped.
    let missing = |address: &SocketAddr| is_missing(address.ip());
    let free = listen.options.contains(&SocketOption::FreeBind);
    if !free && !addresses.is_empty() && addresses.iter().all(missing) {
        notes.push(format!(
            "{}: this machine doesn't have the address {} at present; with --freebind it can be \
             bound before",
            listen.option,
            addresses[0].ip()
        ));
    }
    (faults, notes)
}

/// Sets each option on a temporary socket, to see whether the kernel allows it.
fn try_options(listen: &Listen, address: SocketAddr, style: Style) -> Vec<Error> {
    // An address family that the kernel lacks is no fault of the options.
    let Ok(socket) = open::inet(address, style) else {
        return Vec::new();
    };
    let bound_address = BoundAddress::Inet(address);
    // To join a group, even for a moment, sends packets to the network.
    let tried = |option: &&SocketOption| !matches!(option, SocketOption::Multicast(_));
    let tried = listen.options.iter().filter(tried);
    let name = ListenerName(style, &bound_address);
    let set = |option| options::set(&socket, std::slice::from_ref(option), &name).err();
    tried.filter_map(set).collect()
}

/// Returns an error for each multicast group that can't be joined, as far as that can be predicted.
pub fn groups(wanted: &[Resolved<'_>]) -> Vec<Error> {
    // All listeners have the same options.
    let Some(first) = wanted.first() else {
        return Vec::new();
    };
    let style = |it: &Resolved<'_>| it.listen.endpoint.style();
    // An inherited socket may receive it.
    let known = wanted.iter().all(|it| style(it).is_some());
    let udp = wanted
        .iter()
        .filter(|it| style(it) == Some(Style::Datagram));
    let udp: Vec<_> = udp.flat_map(|it| it.addresses.iter().copied()).collect();
    let error = |group| {
        let no_listener = multicast::check_listeners(group, &udp).filter(|_| known);
        no_listener.or(multicast::check_interface(group).err())
    };
    multicast::groups(&first.listen.options)
        .filter_map(error)
        .collect()
}

/// Returns a note for each socket buffer whose size the kernel changes.
pub fn changed_buffers(wanted: &[SocketOption]) -> Vec<String> {
    let Ok(socket) = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None) else {
        return Vec::new();
    };
    let changed = |option| options::changed_buffer(&socket, option);
    wanted.iter().filter_map(changed).collect()
}

/// Whether this process may not bind the port, since it is privileged (ip(7)).
fn is_forbidden(port: u16) -> bool {
    port != 0 && port < first_free_port() && !has_capability(Capability::BindService)
}

/// Whether no interface has the address, as far as interfaces list their addresses.
fn is_missing(address: IpAddr) -> bool {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return false;
    }
    let has = |interface: InterfaceAddress| {
        let (own, mask) = (ip(interface.address), ip(interface.netmask));
        own == Some(address)
            || ip(interface.broadcast) == Some(address)
            // The loopback interface has all addresses of its network.
            || match (own, mask, address) {
                (Some(IpAddr::V4(own)), Some(IpAddr::V4(mask)), IpAddr::V4(address)) => {
                    interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
                        && own & mask == address & mask
                }
                _ => false,
            }
    };
    getifaddrs().is_ok_and(|mut interfaces| !interfaces.any(has))
}

fn ip(address: Option<SockaddrStorage>) -> Option<IpAddr> {
    let address = address?;
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
}

/// Returns the addresses of this machine's interfaces; none if the kernel doesn't tell them.
pub fn own_addresses() -> Vec<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| ip(interface.address))
        .collect()
}

/// Returns an error for each address of this style that conflicts with an earlier one of the same
/// command line.
pub fn conflicts(wanted: &[Resolved<'_>], style: Style) -> Vec<Error> {
    let wanted = wanted
        .iter()
        .filter(|it| it.listen.endpoint.style() == Some(style));
    let sockets = wanted.flat_map(|Resolved { listen, addresses }| {
        addresses.iter().map(move |address| (*listen, *address))
    });
    let mut found = Vec::new();
    // By port, since there may be thousands.
    let mut earlier: HashMap<u16, Vec<(&Listen, SocketAddr)>> = HashMap::new();
    for (listen, address) in sockets {
        let others = earlier.entry(address.port()).or_default();
        let conflicts = others.iter().any(|(other, earlier)| {
            let share = |listen: &Listen| listen.options.contains(&SocketOption::ReusePort);
            overlap(*earlier, address) && *other != listen && !(share(other) && share(listen))
        });
        if conflicts {
            found.push(match style.has_connections() {
                // TCP sockets can be bound to the same port as long as none listens.
                true => cannot_listen_twice(ListenerName(style, &BoundAddress::Inet(address))),
                false => cannot_bind_twice(listen, address),
            });
        }
        if address.port() != 0 {
            others.push((listen, address));
        }
    }
    found
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (any || one == other)
}
