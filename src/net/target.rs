//! The resolution of addresses to connect to, for skd-forward and skd-tls.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs};

use crate::config::{Host, InetAddress, Port, decimal};
use crate::sys::names::service_port;
use nix::net::if_::if_nametoindex;

/// Returns all addresses of a host, in the resolver's order. An error is a clause for a message.
pub fn addresses_of(address: &InetAddress, protocol: &str) -> Result<Vec<SocketAddr>, String> {
    let port = match &address.port {
        Port::Number(number) => *number,
        Port::Service(name) => service_port(name, protocol)
            .ok_or_else(|| format!("services(5) has no service '{name}' for {protocol}"))?,
    };
    match &address.host {
        Host::Address(IpAddr::V6(ip), Some(zone)) => {
            let index = match decimal(zone.as_ref()) {
                Some(index) => index,
                None => if_nametoindex(zone.as_str()).map_err(|errno| {
                    format!("can't use the interface '{zone}': {}", errno.desc())
                })?,
            };
            Ok(vec![SocketAddrV6::new(*ip, port, 0, index).into()])
        }
        Host::Address(ip, _) => Ok(vec![(*ip, port).into()]),
        Host::Name(name) => {
            let found = (name.as_str(), port).to_socket_addrs();
            let found: Vec<_> = found
                .map_err(|error| resolver_words(name, &error))?
                .collect();
            if found.is_empty() {
                return Err(format!("'{name}' has no address"));
            }
            Ok(found)
        }
        // The parser has refused it.
        Host::Any => Err("the host is missing".to_owned()),
    }
}

/// Returns the resolver's reason, without what the standard library puts before it.
fn resolver_words(name: &str, error: &io::Error) -> String {
    let text = error.to_string();
    let prefix = "failed to lookup address information: ";
    format!(
        "can't resolve '{name}': {}",
        text.strip_prefix(prefix).unwrap_or(&text)
    )
}
