//! Multicast groups: joining them, and which listeners receive them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use socket2::{InterfaceIndexOrAddress, Socket};

use crate::config::{BoundAddress, Group, SocketOption};
use crate::error::Error;

/// Whether a socket with this bound address receives datagrams to the group.
pub(super) fn receives(address: SocketAddr, group: &Group) -> bool {
    let (own, group) = (address.ip(), group.address);
    own.is_ipv4() == group.is_ipv4() && (own.is_unspecified() || own == group)
}

/// Joins a group. The membership ends when the socket is closed.
///
/// The socket receives no other groups: by default on Linux, it would receive every group that any
/// program of this machine has joined.
pub(super) fn join(socket: &Socket, group: &Group) -> io::Result<()> {
    let interface = group.interface.as_deref().map(index).transpose()?;
    // By default, the routes decide (0).
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

/// Returns a hint for the error of joining a group.
pub(super) fn hint(errno: Option<Errno>, group: &Group) -> String {
    match (errno, &group.interface) {
        (Some(Errno::ENODEV), Some(interface)) if index(interface).is_err() => {
            format!("; there is no interface '{interface}' (see ip link)")
        }
        (Some(Errno::ENODEV | Errno::EADDRNOTAVAIL), None) => {
            format!("; no route leads there; name the interface, like {group}%IF")
        }
        (Some(Errno::EADDRINUSE), _) => "; the socket has joined it already".into(),
        (Some(Errno::ENOBUFS), _) if group.address.is_ipv4() => {
            "; net.ipv4.igmp_max_memberships limits the groups of one socket".into()
        }
        (Some(Errno::EINVAL), Some(interface)) => {
            format!("; '{interface}' may lack this version of IP")
        }
        _ => String::new(),
    }
}

/// Returns an error if none of these UDP addresses receives the group.
pub(super) fn check_listeners(group: &Group, addresses: &[SocketAddr]) -> Option<Error> {
    if addresses.iter().any(|address| receives(*address, group)) {
        return None;
    }
    let own = BoundAddress::Inet((group.address, 5353).into());
    let version = if group.address.is_ipv4() { 4 } else { 6 };
    Some(Error::Start(format!(
        "--multicast {group}: no UDP listener receives it; add one on all addresses of \
         IPv{version}, like --udp 5353, or one on its own address, like --udp {own}"
    )))
}

/// Returns the groups among these options.
pub(super) fn groups(options: &[SocketOption]) -> impl Iterator<Item = &Group> {
    options.iter().filter_map(|option| match option {
        SocketOption::Multicast(group) => Some(group),
        _ => None,
    })
}

/// Returns an error if the interface of a group doesn't exist.
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
