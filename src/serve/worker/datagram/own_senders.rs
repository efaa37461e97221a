//! Datagrams that claim to come from skd's own sockets (CVE-2024-2169). Two services that answer
//! everything would answer each other for ever, and a service would answer itself.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::net::check::own_addresses;
use crate::sys::datagrams::Route;

/// How long the addresses of this machine are believed.
const AGE: Duration = Duration::from_secs(10);

/// Recognises datagrams from skd's own sockets, in one thread.
#[derive(Debug)]
pub(super) struct OwnSenders {
    /// The bound addresses of all UDP sockets of this skd.
    bound: Vec<SocketAddr>,
    /// The addresses of this machine, and when they were asked for. Asked for at most once in
    /// [`AGE`], and only for senders with the port of a socket that is bound to all addresses.
    addresses: Vec<IpAddr>,
    asked: Option<Instant>,
}

impl OwnSenders {
    pub(super) fn new(bound: &[SocketAddr]) -> Self {
        Self {
            bound: bound.to_vec(),
            addresses: Vec::new(),
            asked: None,
        }
    }

    /// Whether the sender of a datagram is one of skd's own sockets. Makes no system call for
    /// senders with other ports.
    pub(super) fn has_sent(&mut self, route: &Route) -> bool {
        let Some(sender) = route.sender() else {
            return false;
        };
        let ip = sender.ip().to_canonical();
        let mut to_all = false;
        for bound in &self.bound {
            if bound.port() == sender.port() {
                if bound.ip().to_canonical() == ip {
                    return true;
                }
                to_all |= bound.ip().is_unspecified();
            }
        }
        let local = || route.local().map(|local| local.ip().to_canonical());
        to_all && (ip.is_loopback() || local() == Some(ip) || self.is_of_this_machine(ip))
    }

    fn is_of_this_machine(&mut self, ip: IpAddr) -> bool {
        let now = Instant::now();
        if self.asked.is_none_or(|asked| now - asked >= AGE) {
            self.addresses = own_addresses();
            self.asked = Some(now);
        }
        self.addresses.contains(&ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram from this address to that one.
    fn from(sender: &str, local: &str) -> Route {
        let sender: SocketAddr = sender.parse().unwrap();
        let address = socket2::SockAddr::from(sender);
        Route::new(&address_bytes(&address), Some(local.parse().unwrap())).unwrap()
    }

    fn address_bytes(address: &socket2::SockAddr) -> Vec<u8> {
        let family = address.family().to_ne_bytes();
        match address.as_socket().unwrap() {
            SocketAddr::V4(v4) => [
                &family[..],
                &v4.port().to_be_bytes(),
                &v4.ip().octets(),
                &[0; 8],
            ]
            .concat(),
            SocketAddr::V6(v6) => [
                &family[..],
                &v6.port().to_be_bytes(),
                &[0; 4],
                &v6.ip().octets(),
                &[0; 4],
            ]
            .concat(),
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "getifaddrs(3)")]
    fn a_sender_is_known_by_address_and_port() {
        let bound = ["192.0.2.1:7", "[2001:db8::1]:7", "0.0.0.0:19", "[::]:19"];
        let bound = bound.map(|text| text.parse().unwrap());
        let mut own = OwnSenders::new(&bound);
        for (sender, local, expected) in [
            ("192.0.2.1:7", "192.0.2.9:0", true),
            ("[::ffff:192.0.2.1]:7", "192.0.2.9:0", true),
            ("192.0.2.2:7", "192.0.2.2:0", false),
            ("192.0.2.1:8", "192.0.2.1:0", false),
            ("[2001:db8::1]:7", "[2001:db8::2]:0", true),
            ("192.0.2.2:19", "192.0.2.2:0", true),
            ("[2001:db8::2]:19", "[2001:db8::2]:0", true),
            ("127.0.0.1:19", "192.0.2.2:0", true),
            ("[::1]:19", "[2001:db8::2]:0", true),
            ("192.0.2.3:19", "192.0.2.2:0", false),
            ("127.0.0.1:20", "127.0.0.1:0", false),
        ] {
            let found = own.has_sent(&from(sender, local));
            assert_eq!(found, expected, "{sender} to {local}");
        }
    }
}
