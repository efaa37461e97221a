//! Looking up the addresses to bind.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

use crate::config::{BoundAddress, Endpoint, Host, Listen, ListenerName, decimal};
use crate::error::Error;

/// A listener of the command line, with the addresses that its name resolves to.
#[derive(Debug)]
pub struct Resolved<'a> {
    pub(super) listen: &'a Listen,
    pub(super) addresses: Vec<SocketAddr>,
}

impl<'a> Resolved<'a> {
    /// Looks up the name of the listener, if it has one.
    pub fn of(listen: &'a Listen) -> Result<Self, Error> {
        let addresses = match &listen.endpoint {
            Endpoint::Inet { host, port, .. } => resolve(&listen.option, host, *port)?,
            Endpoint::Unix { .. } | Endpoint::Inherited { .. } => Vec::new(),
        };
        Ok(Self { listen, addresses })
    }

    /// The listener with addresses that another process has looked up.
    pub fn known(listen: &'a Listen, addresses: Vec<SocketAddr>) -> Self {
        Self { listen, addresses }
    }

    /// Returns its addresses, if it has a name that was looked up.
    pub fn looked_up(&self) -> Option<&[SocketAddr]> {
        match &self.listen.endpoint {
            Endpoint::Inet {
                host: Host::Name(_),
                ..
            } => Some(&self.addresses),
            _ => None,
        }
    }

    /// Returns the names of its sockets in messages.
    pub fn names(&self) -> Vec<String> {
        let Some(style) = self.listen.endpoint.style() else {
            return Vec::new();
        };
        let bound_addresses = match &self.listen.endpoint {
            Endpoint::Unix { address, .. } => vec![BoundAddress::Unix(address.clone())],
            Endpoint::Inherited { .. } => Vec::new(),
            Endpoint::Inet { .. } => self
                .addresses
                .iter()
                .copied()
                .map(BoundAddress::Inet)
                .collect(),
        };
        let name = |address: &BoundAddress| ListenerName(style, address).to_string();
        bound_addresses.iter().map(name).collect()
    }
}

/// Looks up the names of all listeners, before anything is bound.
pub fn resolve_all(wanted: &[Listen]) -> Result<Vec<Resolved<'_>>, Error> {
    wanted.iter().map(Resolved::of).collect()
}

/// Returns the addresses of a host, in the order in which they are bound.
///
/// The system's resolver may take long to look up a name. The process is still in the foreground
/// then, and has neither bound nor created anything.
fn resolve(option: &str, host: &Host, port: u16) -> Result<Vec<SocketAddr>, Error> {
    match host {
        // Two sockets, not a dual-stack one, so that an IPv4 client has an IPv4 address everywhere.
        Host::Any => Ok(vec![
            (Ipv4Addr::UNSPECIFIED, port).into(),
            (Ipv6Addr::UNSPECIFIED, port).into(),
        ]),
        Host::Address(IpAddr::V6(address), Some(zone)) => {
            let scope = interface(zone).map_err(|reason| {
                Error::start(
                    format!("{option}: can't use the interface '{zone}'"),
                    reason,
                )
            })?;
            Ok(vec![SocketAddrV6::new(*address, port, 0, scope).into()])
        }
        Host::Address(address, _) => Ok(vec![(*address, port).into()]),
        Host::Name(name) => {
            let found = (name.as_str(), port).to_socket_addrs().map_err(|reason| {
                let device = match interface(name) {
                    Ok(_) => format!("; for that interface, write --device {name} and the port"),
                    Err(_) => String::new(),
                };
                Error::Start(format!(
                    "{option}: can't resolve '{name}': {}{device}",
                    resolver_words(&reason)
                ))
            })?;
            let mut addresses: Vec<SocketAddr> = Vec::new();
            for address in found {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
            if addresses.is_empty() {
                return Err(Error::Start(format!("{option}: '{name}' has no address")));
            }
            Ok(addresses)
        }
    }
}

fn interface(zone: &str) -> nix::Result<u32> {
    match decimal(zone.as_ref()) {
        Some(index) => Ok(index),
        None => nix::net::if_::if_nametoindex(zone),
    }
}

/// Returns the resolver's reason, without the prefix that the standard library puts before it.
fn resolver_words(error: &io::Error) -> String {
    let text = error.to_string();
    let prefix = "failed to lookup address information: ";
    text.strip_prefix(prefix)
        .map_or(text.clone(), str::to_owned)
}
