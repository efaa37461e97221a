//! Multicast groups: which listeners hear them, and joining them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use socket2::{InterfaceIndexOrAddress, Socket};

use crate::config::{BoundAddress, Group, SocketOption};
use crate::error::Error;

/// Whether a socket with this address is sent what is sent to the group.
pub(super) fn hears(address: SocketAddr, group: &Group) -> bool {
    let (own, group) = (address.ip(), group.address);
    own.is_ipv4() == group.is_ipv4() && (own.is_unspecified() || own == group)
}

/// Joins a group, and has a socket hear no other: on Linux it would hear every group that any
/// program of this machine has joined. The kernel forgets the membership when the socket is closed,
/// and no sooner.
pub(super) fn join(socket: &Socket, group: &Group) -> io::Result<()> {
    let interface = group.interface.as_deref().map(index).transpose()?;
    // Any, as the routes have it.
    let interface = interface.unwrap_or(0);
    match group.address {
        IpAddr::V4(address) => {
            socket.set_multicast_all_v4(false)?;
            socket.join_multicast_v4_n(&address, &InterfaceIndexOrAddress::Index(interface))
        }
        IpAddr::V6(address) => {
            match socket.set_multicast_all_v6(false) {
                // Before Linux 4.20.
                Err(reason) if reason.raw_os_error() == Some(libc::ENOPROTOOPT) => {}
                result => result?,
            }
            socket.join_multicast_v6(&address, interface)
        }
    }
}

fn index(interface: &str) -> Result<u32, Errno> {
    if_nametoindex(interface)
}

/// Why a group can't be joined: what helps.
pub(super) fn hint(errno: Option<Errno>, group: &Group) -> String {
    match (errno, &group.interface) {
        (Some(Errno::ENODEV), Some(interface)) if index(interface).is_err() => {
            format!("; there is no interface '{interface}' (see ip link)")
        }
        (Some(Errno::ENODEV | Errno::EADDRNOTAVAIL), None) => {
            format!("; no route leads there, so say by which interface it comes: {group}%IF")
        }
        (Some(Errno::EADDRINUSE), _) => "; it is joined there already".into(),
        (Some(Errno::ENOBUFS), _) if group.address.is_ipv4() => {
            "; net.ipv4.igmp_max_memberships is how many one socket may join".into()
        }
        (Some(Errno::EINVAL), Some(interface)) => {
            format!("; '{interface}' has no IP of that version, perhaps")
        }
        _ => String::new(),
    }
}

/// Why a group that none of these UDP addresses hears can't be joined.
pub(super) fn unheard(group: &Group, addresses: &[SocketAddr]) -> Option<Error> {
    if addresses.iter().any(|address| hears(*address, group)) {
        return None;
    }
    let own = BoundAddress::Inet((group.address, 5353).into());
    let version = if group.address.is_ipv4() { 4 } else { 6 };
    Some(Error::Start(format!(
        "--multicast {group}: no UDP listener hears it; one on all addresses of IPv{version} does, \
         like --udp 5353, or one on its own, like --udp {own}"
    )))
}

/// The groups among these options.
pub(super) fn groups(options: &[SocketOption]) -> impl Iterator<Item = &Group> {
    options.iter().filter_map(|option| match option {
        SocketOption::Multicast(group) => Some(group),
        _ => None,
    })
}

/// Why a group can't be joined by the interface that it names: there is none.
pub(super) fn check_interface(group: &Group) -> Result<(), Error> {
    match group.interface.as_deref().map(index) {
        Some(Err(errno)) => Err(Error::Start(format!(
            "--multicast {group} can't be joined: {}{}",
            errno.desc(),
            hint(Some(errno), group)
        ))),
        _ => Ok(()),
    }
}
