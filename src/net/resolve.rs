//! From the address that was asked for to those that can be bound.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

use crate::config::Host;
use crate::error::Error;

/// The addresses behind a host, in the order in which they are bound.
///
/// A name goes to the system's resolver, which may take its time: the program is still in
/// the foreground, with nothing bound or created.
pub(super) fn resolve(option: &str, host: &Host, port: u16) -> Result<Vec<SocketAddr>, Error> {
    match host {
        // Two sockets and not one that takes both, so that an IPv4 client has an IPv4
        // address everywhere.
        Host::Any => Ok(vec![
            (Ipv4Addr::UNSPECIFIED, port).into(),
            (Ipv6Addr::UNSPECIFIED, port).into(),
        ]),
        Host::Address(IpAddr::V6(address), Some(zone)) => {
            let scope = interface(zone).map_err(|reason| {
                Error::start(
                    format!("{option}: the interface '{zone}' can't be used"),
                    reason,
                )
            })?;
            Ok(vec![SocketAddrV6::new(*address, port, 0, scope).into()])
        }
        Host::Address(address, _) => Ok(vec![(*address, port).into()]),
        Host::Name(name) => {
            let found = (name.as_str(), port).to_socket_addrs().map_err(|reason| {
                Error::Start(format!(
                    "{option}: '{name}' can't be resolved: {}",
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
    if zone.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(index) = zone.parse()
    {
        return Ok(index);
    }
    nix::net::if_::if_nametoindex(zone)
}

/// The resolver's reason, without the standard library's preface.
fn resolver_words(error: &io::Error) -> String {
    let text = error.to_string();
    let preface = "failed to lookup address information: ";
    text.strip_prefix(preface)
        .map_or(text.clone(), str::to_owned)
}
