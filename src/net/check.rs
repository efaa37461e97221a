//! What binding would fail with, as far as that shows without binding.
//!
//! A port or a path that is in use doesn't count: whoever checks a command line may do so
//! while the daemon that it is for still runs.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, Socket, Type};

use super::listener::{Resolved, cannot_bind, cannot_listen, open};
use super::{multicast, options, unix};
use crate::config::{
    BoundAddress, Endpoint, Listen, ListenerName, SocketOption, Style, UnixAddress,
};
use crate::error::Error;
use crate::sys::names::kernel_parameter;
use crate::sys::process::{Capability, has_capability};

/// Says why this can't be bound; or gives notes about what may be in its way.
pub fn check(wanted: &Resolved<'_>) -> Result<Vec<String>, Error> {
    let Resolved { listen, addresses } = wanted;
    let mut notes = Vec::new();
    if let Endpoint::Unix {
        address: UnixAddress::Path(path),
        owner,
        ..
    } = &listen.endpoint
    {
        notes.extend(unix::check(&listen.option, path, *owner)?);
    }
    if let Endpoint::Inherited { .. } = listen.endpoint {
        notes.push(format!(
            "{}: what is handed over at the start can't be looked at before",
            listen.option
        ));
    }
    if let Endpoint::Inet { style, .. } = listen.endpoint {
        for address in addresses {
            try_options(listen, *address, style)?;
        }
    }
    if let Some(address) = addresses
        .iter()
        .find(|address| is_forbidden(address.port()))
    {
        let reason = io::Error::from(Errno::EACCES);
        return Err(cannot_bind(listen, Some(*address), &reason));
    }
    // One that is missing among several is passed over.
    let missing = |address: &SocketAddr| is_missing(address.ip());
    let free = listen.options.contains(&SocketOption::FreeBind);
    if !free && !addresses.is_empty() && addresses.iter().all(missing) {
        notes.push(format!(
            "{}: {} is no address of this machine at present",
            listen.option,
            addresses[0].ip()
        ));
    }
    Ok(notes)
}

/// Sets the options on a socket that is then thrown away: what the kernel allows, it says best
/// itself.
fn try_options(listen: &Listen, address: SocketAddr, style: Style) -> Result<(), Error> {
    // One of a family that the kernel lacks is another matter.
    let Ok(socket) = open(address, style) else {
        return Ok(());
    };
    let bound_address = BoundAddress::Inet(address);
    // A group would be joined for a moment, which the network hears of.
    let tried = |option: &&SocketOption| !matches!(option, SocketOption::Multicast(_));
    let tried: Vec<_> = listen.options.iter().filter(tried).cloned().collect();
    options::set(&socket, &tried, &ListenerName(style, &bound_address))
}

/// The groups that can't be joined, as far as that shows.
pub fn groups(wanted: &[Resolved<'_>]) -> Vec<Error> {
    // The same for all.
    let Some(first) = wanted.first() else {
        return Vec::new();
    };
    let style = |it: &Resolved<'_>| it.listen.endpoint.style();
    // One of those that are handed over may hear it.
    let known = wanted.iter().all(|it| style(it).is_some());
    let udp = wanted
        .iter()
        .filter(|it| style(it) == Some(Style::Datagram));
    let udp: Vec<_> = udp.flat_map(|it| it.addresses.iter().copied()).collect();
    let fault = |group| {
        let unheard = multicast::unheard(group, &udp).filter(|_| known);
        unheard.or(multicast::check_interface(group).err())
    };
    multicast::groups(&first.listen.options)
        .filter_map(fault)
        .collect()
}

/// What the kernel makes of buffers that aren't as it would have them: notes.
pub fn changed_buffers(wanted: &[SocketOption]) -> Vec<String> {
    let Ok(socket) = Socket::new(Domain::UNIX, Type::DGRAM.cloexec(), None) else {
        return Vec::new();
    };
    let changed = |option| options::changed_buffer(&socket, option);
    wanted.iter().filter_map(changed).collect()
}

/// Whether ports below the first free one are not for this process (ip(7)).
fn is_forbidden(port: u16) -> bool {
    let first_free = kernel_parameter("net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
    port != 0 && u64::from(port) < first_free && !has_capability(Capability::BindService)
}

/// Whether no interface has the address, as far as interfaces are known to say so.
fn is_missing(address: IpAddr) -> bool {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        return false;
    }
    let plain = |inherited: Option<SockaddrStorage>| {
        let inherited = inherited?;
        let v4 = inherited.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| inherited.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    };
    let has = |interface: InterfaceAddress| {
        let (own, mask) = (plain(interface.address), plain(interface.netmask));
        own == Some(address)
            || plain(interface.broadcast) == Some(address)
            // Of lo, all addresses of a network are this machine's.
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

/// The listeners of this style of one command line that are in each other's way.
pub fn clashes(wanted: &[Resolved<'_>], style: Style) -> Vec<Error> {
    let wanted = wanted
        .iter()
        .filter(|it| it.listen.endpoint.style() == Some(style));
    let sockets = wanted.flat_map(|Resolved { listen, addresses }| {
        addresses.iter().map(move |address| (*listen, *address))
    });
    let sockets: Vec<_> = sockets.collect();
    let reason = || io::Error::from(Errno::EADDRINUSE);
    let mut found = Vec::new();
    for (index, (listen, address)) in sockets.iter().enumerate() {
        let clashes = sockets[..index].iter().any(|(other, earlier)| {
            let share = |listen: &Listen| listen.options.contains(&SocketOption::ReusePort);
            other != listen && overlap(*earlier, *address) && !(share(other) && share(listen))
        });
        if clashes {
            found.push(match style.has_connections() {
                // TCP sockets can be bound to the same port, until one listens.
                true => cannot_listen(
                    ListenerName(style, &BoundAddress::Inet(*address)),
                    &reason(),
                ),
                false => cannot_bind(listen, Some(*address), &reason()),
            });
        }
    }
    found
}

fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.port() != 0
        && one.is_ipv4() == other.is_ipv4()
        && (any || one == other)
}

impl Resolved<'_> {
    /// What would listen, each as it is called in reports.
    pub fn names(&self) -> Vec<String> {
        let Some(style) = self.listen.endpoint.style() else {
            return Vec::new();
        };
        let bound_address = match &self.listen.endpoint {
            Endpoint::Unix { address, .. } => vec![BoundAddress::Unix(address.clone())],
            Endpoint::Inherited { .. } => Vec::new(),
            Endpoint::Inet { .. } => self
                .addresses
                .iter()
                .copied()
                .map(BoundAddress::Inet)
                .collect(),
        };
        let name = |bound_address: &BoundAddress| ListenerName(style, bound_address).to_string();
        bound_address.iter().map(name).collect()
    }
}
