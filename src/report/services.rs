//! The names of services and of their listeners.
//!
//! They are statics, as the sink is: any code can report. A process has one daemon, so they are set
//! once.

use std::fmt;
use std::sync::OnceLock;

use crate::config::{BoundAddress, ListenerId, ListenerName, ServiceId, scoped};

static SERVICES: OnceLock<Box<[Box<str>]>> = OnceLock::new();
static LISTENERS: OnceLock<Box<[NamedListener]>> = OnceLock::new();

/// A listener, as reports have it.
#[derive(Debug)]
pub(super) struct NamedListener {
    /// As in messages: `TCP [::1]:80`.
    name: Box<str>,
    /// Its IP address; a path, or an abstract name after `@`.
    pub(super) address: Box<str>,
    pub(super) port: Option<u16>,
    /// Whether its service has others.
    is_one_of_several: bool,
}

/// Sets the names of all services, and of all listeners in the order of their ids, each with its
/// service.
pub(super) fn set(services: &[&str], listeners: &[(ServiceId, ListenerName<'_>)]) {
    let _ = SERVICES.set(services.iter().map(|name| (*name).into()).collect());
    // Those of a service are side by side.
    let by_service = listeners.chunk_by(|(one, _), (next, _)| one == next);
    let named = by_service.flat_map(|own| {
        let several = own.iter().any(|(_, it)| are_apart(&own[0].1, it));
        own.iter().map(move |(_, listener)| {
            let (address, port) = address(listener.1);
            NamedListener {
                name: listener.to_string().into(),
                address: address.to_string().into(),
                port,
                is_one_of_several: several,
            }
        })
    });
    let _ = LISTENERS.set(named.collect());
}

/// Whether two listeners of a service are more than the sockets for IPv4 and IPv6 of one port.
fn are_apart(one: &ListenerName<'_>, other: &ListenerName<'_>) -> bool {
    match (one.1, other.1) {
        (BoundAddress::Inet(a), BoundAddress::Inet(b)) if a.is_ipv4() != b.is_ipv4() => {
            one.0 != other.0 || a.port() != b.port()
        }
        _ => one != other,
    }
}

/// Returns the name of a service.
pub(super) fn name(service: ServiceId) -> Option<&'static str> {
    let names = SERVICES.get()?;
    names.get(service.index()).map(|name| &**name)
}

/// Whether lines say which service they are about.
pub(super) fn are_several() -> bool {
    SERVICES.get().is_some_and(|names| names.len() > 1)
}

/// Returns a listener.
pub(super) fn listener(id: ListenerId) -> Option<&'static NamedListener> {
    LISTENERS.get()?.get(id.index())
}

/// Displays, after a client, the listener that it has come to: nothing if its service has only one.
pub(super) fn at(id: ListenerId) -> impl fmt::Display {
    let listener = listener(id).filter(|listener| listener.is_one_of_several);
    AtListener(listener.map(|listener| &*listener.name))
}

/// Returns the address of a listener without its port, and the port.
pub(super) fn address(bound: &BoundAddress) -> (impl fmt::Display, Option<u16>) {
    let port = match bound {
        BoundAddress::Inet(address) => Some(address.port()),
        BoundAddress::Unix(_) => None,
    };
    (Address(bound), port)
}

struct Address<'a>(&'a BoundAddress);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            BoundAddress::Inet(address) => scoped(*address).fmt(f),
            BoundAddress::Unix(address) => address.fmt(f),
        }
    }
}

struct AtListener(Option<&'static str>);

impl fmt::Display for AtListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, " on {name}"),
            None => Ok(()),
        }
    }
}
