//! What skd knows a client by that skd-tls has: the token of its request.
//!
//! skd-tls sends it back in reports. An intruder in skd-tls can send anything, and gets a line in the
//! log at most, about a client that wasn't there.

use std::fmt::{self, Write};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use skd_tls_protocol::MAX_TOKEN;

use crate::config::{ListenerName, Peer, plain};
use crate::sys::sockets::Credentials;

/// The token of a client: its listener, and what log lines have of its address.
///
/// ```text
/// listener (4) │ kind (1) │ IP (16), port (2), interface (4)    or
///              │          │ pid (4), user id (4), group id (4)
/// ```
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct ClientToken {
    bytes: [u8; MAX_TOKEN],
    length: usize,
}

/// A listener in a token: a number made from its name, which it has after an upgrade too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) struct ListenerMark(u32);

/// The kinds of clients.
const LOCAL: u8 = 0;
const KNOWN: u8 = 1;
const INET: u8 = 2;

/// Stands for an id that isn't known.
const UNKNOWN: u32 = u32::MAX;

impl ListenerMark {
    /// Stands for a listener that isn't known.
    pub(in crate::serve) const NONE: Self = Self(0);

    /// That of a listener with this name.
    pub(in crate::serve) fn of(name: ListenerName<'_>) -> Self {
        /// FNV-1a: few names are told apart, and none by an attacker.
        struct Hash(u32);
        impl Write for Hash {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for byte in text.bytes() {
                    self.0 = (self.0 ^ u32::from(byte)).wrapping_mul(0x0100_0193);
                }
                Ok(())
            }
        }
        let mut hash = Hash(0x811c_9dc5);
        let _ = write!(hash, "{name}");
        Self(hash.0)
    }
}

impl ClientToken {
    /// That of a client that has come to this listener.
    pub(in crate::serve) fn new(listener: ListenerMark, peer: &Peer) -> Self {
        let mut token = Self {
            bytes: [0; MAX_TOKEN],
            length: 0,
        };
        token.put(&listener.0.to_be_bytes());
        match (peer.address(), peer) {
            (Some(address), _) => {
                let (ip, scope) = match address {
                    SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
                    SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
                };
                token.put(&[INET]);
                token.put(&ip.octets());
                token.put(&address.port().to_be_bytes());
                token.put(&scope.to_be_bytes());
            }
            (None, Peer::UnixStream(Some(Credentials { pid, uid, gid }))) => {
                token.put(&[KNOWN]);
                token.put(&pid.to_be_bytes());
                token.put(&uid.unwrap_or(UNKNOWN).to_be_bytes());
                token.put(&gid.unwrap_or(UNKNOWN).to_be_bytes());
            }
            (None, _) => token.put(&[LOCAL]),
        }
        token
    }

    /// Its bytes.
    pub(in crate::serve) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Reads a token in hexadecimal digits. Returns the client as log lines have it: if a proxy has
    /// named it, it is one of TCP.
    pub(in crate::serve) fn read(digits: &str) -> Option<(ListenerMark, Peer)> {
        let mut bytes = [0; MAX_TOKEN];
        let digits = digits.as_bytes();
        let bytes = bytes.get_mut(..digits.len() / 2)?;
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let [high, low] = pair else { return None };
            *byte = (digit(*high)? << 4) | digit(*low)?;
        }
        if digits.len() % 2 != 0 {
            return None;
        }
        let (listener, rest) = bytes.split_first_chunk()?;
        let (kind, rest) = rest.split_first()?;
        let peer = match *kind {
            INET => {
                let (ip, rest) = rest.split_first_chunk::<16>()?;
                let (port, rest) = rest.split_first_chunk()?;
                let scope: [u8; 4] = rest.try_into().ok()?;
                let port = u16::from_be_bytes(*port);
                let scope = u32::from_be_bytes(scope);
                let address = SocketAddrV6::new(Ipv6Addr::from(*ip), port, 0, scope);
                Peer::Tcp {
                    remote: plain(address.into()),
                    local: None,
                }
            }
            KNOWN => {
                let (pid, rest) = rest.split_first_chunk()?;
                let (uid, rest) = rest.split_first_chunk()?;
                let gid: [u8; 4] = rest.try_into().ok()?;
                let known = |id| Some(u32::from_be_bytes(id)).filter(|id| *id != UNKNOWN);
                Peer::UnixStream(Some(Credentials {
                    pid: i32::from_be_bytes(*pid),
                    uid: known(*uid),
                    gid: known(gid),
                }))
            }
            LOCAL if rest.is_empty() => Peer::UnixStream(None),
            _ => return None,
        };
        Some((ListenerMark(u32::from_be_bytes(*listener)), peer))
    }

    fn put(&mut self, bytes: &[u8]) {
        // The longest has 27 bytes.
        let end = self.length + bytes.len();
        if let Some(free) = self.bytes.get_mut(self.length..end) {
            free.copy_from_slice(bytes);
            self.length = end;
        }
    }
}

fn digit(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::proxy_header::Header;
    use crate::config::{BoundAddress, Style};
    use proptest::prelude::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn tcp(remote: &str) -> Peer {
        Peer::Tcp {
            remote: remote.parse().unwrap(),
            local: None,
        }
    }

    #[test]
    fn a_client_is_shown_as_in_other_lines() {
        let known = Credentials {
            pid: 7,
            uid: Some(1000),
            gid: None,
        };
        let proxied = tcp("[::1]:1").brings(Header::Inet {
            source: "198.51.100.3:50000".parse().unwrap(),
            destination: "192.0.2.1:443".parse().unwrap(),
        });
        let address = BoundAddress::Inet("[::1]:443".parse().unwrap());
        let mark = ListenerMark::of(ListenerName(Style::Stream, &address));
        assert_ne!(mark, ListenerMark::NONE);
        for peer in [
            tcp("192.0.2.7:4000"),
            tcp("[2001:db8::1]:65535"),
            tcp("[fe80::1%1]:1"),
            proxied,
            Peer::UnixStream(Some(known)),
            Peer::UnixStream(None),
        ] {
            let token = ClientToken::new(mark, &peer);
            let (at, read) = ClientToken::read(&hex(token.bytes())).unwrap();
            assert_eq!(at, mark);
            assert_eq!(read.to_string(), peer.to_string());
        }
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_is_some_client(text in "[0-9a-fA-F]{0,140}|.{0,80}") {
            if let Some((mark, peer)) = ClientToken::read(&text) {
                let token = ClientToken::new(mark, &peer);
                // IPv4 in its mapped form reads the same; an interface is one of IPv6.
                let (again, shown) = ClientToken::read(&hex(token.bytes())).unwrap();
                prop_assert_eq!(again, mark);
                prop_assert_eq!(shown.to_string(), peer.to_string());
            }
        }

        #[test]
        fn a_token_is_read_only_whole(ip in any::<[u8; 16]>(), port in any::<u16>(), cut in 0..54_usize) {
            let peer = Peer::Tcp {
                remote: (Ipv6Addr::from(ip), port).into(),
                local: None,
            };
            let text = hex(ClientToken::new(ListenerMark::NONE, &peer).bytes());
            prop_assert!(ClientToken::read(&text).is_some());
            prop_assert!(ClientToken::read(&text[..cut]).is_none());
            let longer = text + "00";
            prop_assert!(ClientToken::read(&longer).is_none());
        }
    }
}
