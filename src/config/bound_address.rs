//! The address that a socket is bound to, and the name of a listener in messages.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};

use super::Style;
use super::address::UnixAddress;
use crate::sys::names;

/// The bound address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BoundAddress {
    /// An address and port.
    Inet(SocketAddr),
    /// A path or name.
    Unix(UnixAddress),
}

/// The name of a listener in messages: `TCP [::1]:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenerName<'a>(pub Style, pub &'a BoundAddress);

impl fmt::Display for BoundAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "[{}]:{}", scoped(*address), address.port()),
            Self::Unix(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for ListenerName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match (self.0, self.1) {
            (Style::Datagram, BoundAddress::Inet(_)) => "UDP",
            (_, BoundAddress::Inet(_)) => "TCP",
            (Style::Stream, BoundAddress::Unix(_)) => "unix stream",
            (Style::Seqpacket, BoundAddress::Unix(_)) => "unix seqpacket",
            (Style::Datagram, BoundAddress::Unix(_)) => "unix datagram",
        };
        write!(f, "{protocol} {}", self.1)
    }
}

/// Returns the IPv4 address of an IPv4 peer of a dual-stack socket; other addresses unchanged.
pub(crate) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddrV4::new(v4, v6.port()).into(),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// Formats an address without its port, but with the interface of a link-local address.
pub(crate) fn scoped(address: SocketAddr) -> impl fmt::Display {
    Scoped(address)
}

struct Scoped(SocketAddr);

impl fmt::Display for Scoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                let mut buffer = [0; libc::IF_NAMESIZE];
                match names::interface_name(v6.scope_id(), &mut buffer) {
                    Some(name) => write!(f, "{}%{name}", v6.ip()),
                    None => write!(f, "{}%{}", v6.ip(), v6.scope_id()),
                }
            }
            address => write!(f, "{}", address.ip()),
        }
    }
}
