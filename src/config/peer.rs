//! The peer of a connection or datagram, for the environment of its handler and for the log.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use serde::{Deserialize, Serialize};

use super::bound_address::{plain, scoped};
use super::proxy_header::Header;
use super::rule::Trusted;
use crate::sys::sockets::Credentials;

/// The other end of a connection, or the sender of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A TCP client.
    Tcp {
        /// Its address.
        remote: SocketAddr,
        /// The address of this machine that it called, if the listener is bound to all addresses.
        local: Option<SocketAddr>,
    },
    /// A client of a unix stream or seqpacket socket, with its credentials if the kernel has them.
    UnixStream(Option<Credentials>),
    /// The sender of a UDP datagram.
    Udp(SocketAddr),
    /// The sender of a UDP datagram that skd has received itself.
    Datagram(Datagram),
    /// The sender of a unix datagram.
    LocalDatagram,
    /// A client that the handler itself will accept, with the bound address of an internet
    /// listener.
    Unaccepted(Option<SocketAddr>),
    /// A client that a proxy has named in a PROXY protocol header.
    Proxied(Proxied),
}

/// A client and its proxy. Compact, since every handler's entry has a [`Peer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxied {
    /// The addresses of an internet client and of its destination.
    client: Option<(Compact, Compact)>,
    /// The address of an internet proxy, and the interface of a link-local one.
    proxy: Option<(Compact, [u8; 4])>,
}

/// The sender of a datagram and its destination without the port, as far as the kernel tells it;
/// each with its interface. As compact as [`Proxied`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    remote: (Compact, [u8; 4]),
    local: Option<(Compact, [u8; 4])>,
}

/// An internet address, IPv4 in its mapped form. Bytes need no alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Compact {
    ip: [u8; 16],
    port: [u8; 2],
}

impl Peer {
    /// Returns the sender of a UDP datagram that its handler receives.
    pub(crate) fn udp(remote: SocketAddr) -> Self {
        Self::Udp(plain(remote))
    }

    /// Returns the sender of a datagram that skd has received, on a UDP socket or another.
    pub fn datagram(remote: Option<SocketAddr>, local: Option<SocketAddr>) -> Self {
        match remote {
            Some(remote) => Self::Datagram(Datagram {
                remote: with_interface(remote),
                local: local.map(with_interface),
            }),
            None => Self::LocalDatagram,
        }
    }

    /// Whether it is a trusted proxy. Only the connection's own peer can be one, not the client
    /// that a header names.
    pub fn is_trusted(&self, proxies: &[Trusted]) -> bool {
        proxies.iter().any(|trusted| match (trusted, self) {
            (Trusted::Net(prefix), Self::Tcp { remote, .. }) => prefix.contains(remote.ip()),
            (Trusted::Unix, Self::UnixStream(_)) => true,
            _ => false,
        })
    }

    /// Returns the client that this proxy has named in a header.
    #[must_use]
    pub fn brings(self, header: Header) -> Self {
        let client = match header {
            Header::Own => return self,
            Header::Inet {
                source,
                destination,
            } => Some((source.into(), destination.into())),
            Header::Unix => None,
        };
        Self::Proxied(Proxied {
            client,
            proxy: match self {
                Self::Tcp { remote, .. } => Some(with_interface(remote)),
                _ => None,
            },
        })
    }

    /// Returns the address of an internet client.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { remote, .. } | Self::Udp(remote) => Some(*remote),
            Self::Datagram(datagram) => Some(datagram.remote()),
            Self::Proxied(Proxied { client, .. }) => client.map(|(source, _)| source.into()),
            Self::UnixStream(_) | Self::LocalDatagram | Self::Unaccepted(_) => None,
        }
    }

    /// Returns the addresses of its own TCP connection, the remote one and the local one if that is
    /// known. A PROXY header has no say in it.
    pub fn connection(&self) -> Option<(SocketAddr, Option<SocketAddr>)> {
        match self {
            Self::Tcp { remote, local } => Some((*remote, *local)),
            Self::Proxied(Proxied { proxy, .. }) => {
                let (proxy, scope) = (*proxy)?;
                Some((proxy.with_scope(u32::from_ne_bytes(scope)), None))
            }
            _ => None,
        }
    }

    /// Returns what it has, in one word: a connection or a datagram.
    pub fn noun(&self) -> &'static str {
        match self {
            Self::Tcp { .. } | Self::UnixStream(_) | Self::Unaccepted(_) | Self::Proxied(_) => {
                "connection"
            }
            Self::Udp(_) | Self::Datagram(_) | Self::LocalDatagram => "datagram",
        }
    }

    /// Calls `set` with the name and value of each variable that depends on the peer. Unknown
    /// values are left out.
    pub fn variables(&self, mut set: impl FnMut(&str, fmt::Arguments<'_>)) {
        match self {
            Self::Tcp { remote, local } => {
                if let Some(local) = local {
                    set("TCPLOCALIP", format_args!("{}", scoped(*local)));
                }
                let (address, port) = (scoped(*remote), remote.port());
                set("TCPREMOTEIP", format_args!("{address}"));
                set("TCPREMOTEPORT", format_args!("{port}"));
                set("REMOTE_ADDR", format_args!("{address}"));
                set("REMOTE_PORT", format_args!("{port}"));
            }
            Self::Datagram(datagram) => {
                if let Some(local) = datagram.local() {
                    set("UDPLOCALIP", format_args!("{}", scoped(local)));
                }
                Self::Udp(datagram.remote()).variables(set);
            }
            Self::Udp(remote) => {
                let (address, port) = (scoped(*remote), remote.port());
                set("UDPREMOTEIP", format_args!("{address}"));
                set("UDPREMOTEPORT", format_args!("{port}"));
                set("REMOTE_ADDR", format_args!("{address}"));
                set("REMOTE_PORT", format_args!("{port}"));
            }
            Self::UnixStream(Some(Credentials { pid, uid, gid })) => {
                if *pid > 0 {
                    set("PEERPID", format_args!("{pid}"));
                    set("UNIXREMOTEPID", format_args!("{pid}"));
                }
                if let Some(uid) = uid {
                    set("PEERUID", format_args!("{uid}"));
                    set("UNIXREMOTEEUID", format_args!("{uid}"));
                }
                if let Some(gid) = gid {
                    set("PEERGID", format_args!("{gid}"));
                    set("UNIXREMOTEEGID", format_args!("{gid}"));
                }
            }
            Self::Proxied(proxied) => proxied.variables(set),
            Self::UnixStream(None) | Self::LocalDatagram | Self::Unaccepted(_) => {}
        }
    }
}

impl Proxied {
    /// Sets the variables of the listener too, since the client called an address of the proxy.
    /// The credentials of a proxy on a unix socket are left out: they could be taken for the
    /// client's.
    fn variables(&self, mut set: impl FnMut(&str, fmt::Arguments<'_>)) {
        match self.client {
            Some((source, destination)) => {
                let (source, destination) =
                    (SocketAddr::from(source), SocketAddr::from(destination));
                set("PROTO", format_args!("TCP"));
                set("TCPLOCALIP", format_args!("{}", destination.ip()));
                set("TCPLOCALPORT", format_args!("{}", destination.port()));
                set("TCPREMOTEIP", format_args!("{}", source.ip()));
                set("TCPREMOTEPORT", format_args!("{}", source.port()));
                set("REMOTE_ADDR", format_args!("{}", source.ip()));
                set("REMOTE_PORT", format_args!("{}", source.port()));
            }
            None => set("PROTO", format_args!("UNIX-STREAM")),
        }
        if let Some((proxy, scope)) = self.proxy {
            let proxy = proxy.with_scope(u32::from_ne_bytes(scope));
            set("SKD_PROXYIP", format_args!("{}", scoped(proxy)));
            set("SKD_PROXYPORT", format_args!("{}", proxy.port()));
        }
    }
}

impl Datagram {
    fn remote(&self) -> SocketAddr {
        let (remote, scope) = self.remote;
        remote.with_scope(u32::from_ne_bytes(scope))
    }

    fn local(&self) -> Option<SocketAddr> {
        let (local, scope) = self.local?;
        Some(local.with_scope(u32::from_ne_bytes(scope)))
    }
}

fn with_interface(address: SocketAddr) -> (Compact, [u8; 4]) {
    (address.into(), scope(address).to_ne_bytes())
}

impl Compact {
    fn with_scope(self, scope: u32) -> SocketAddr {
        let (ip, port) = (Ipv6Addr::from(self.ip), u16::from_ne_bytes(self.port));
        plain(SocketAddrV6::new(ip, port, 0, scope).into())
    }
}

impl From<SocketAddr> for Compact {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self {
            ip: ip.octets(),
            port: address.port().to_ne_bytes(),
        }
    }
}

impl From<Compact> for SocketAddr {
    fn from(address: Compact) -> Self {
        address.with_scope(0)
    }
}

fn scope(address: SocketAddr) -> u32 {
    match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { remote, .. } => {
                write!(f, "connection from [{}]:{}", scoped(*remote), remote.port())
            }
            Self::Datagram(datagram) => Self::Udp(datagram.remote()).fmt(f),
            Self::Udp(remote) => {
                write!(f, "datagram from [{}]:{}", scoped(*remote), remote.port())
            }
            Self::UnixStream(Some(Credentials { pid, uid, gid })) => {
                let (uid, gid) = (OrUnknown(*uid), OrUnknown(*gid));
                write!(
                    f,
                    "local connection from pid {pid} (uid = {uid}, gid = {gid})"
                )
            }
            Self::Unaccepted(Some(local)) => {
                write!(f, "connection to [{}]:{}", scoped(*local), local.port())
            }
            Self::Proxied(Proxied {
                client: Some((source, _)),
                ..
            }) => {
                let source = SocketAddr::from(*source);
                write!(f, "connection from [{}]:{}", source.ip(), source.port())
            }
            Self::UnixStream(None) | Self::Unaccepted(None) | Self::Proxied(_) => {
                f.write_str("local connection")
            }
            Self::LocalDatagram => f.write_str("local datagram"),
        }
    }
}

/// Formats an id, or that it isn't known.
struct OrUnknown(Option<u32>);

impl fmt::Display for OrUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(id) => id.fmt(f),
            None => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    use crate::config::is_reserved_variable;

    fn variables(peer: Peer) -> Vec<String> {
        let mut found = Vec::new();
        peer.variables(|name, value| found.push(format!("{name}={value}")));
        found
    }

    #[test]
    fn an_ipv4_client_of_a_dual_stack_socket_is_plain_ipv4() {
        let remote = plain("[::ffff:192.0.2.7]:1234".parse().unwrap());
        assert_eq!(remote, "192.0.2.7:1234".parse().unwrap());
        let peer = Peer::Udp(remote);
        assert_eq!(peer.to_string(), "datagram from [192.0.2.7]:1234");
    }

    #[test]
    #[cfg_attr(miri, ignore = "if_indextoname(3)")]
    fn a_link_local_client_has_its_interface() {
        let remote = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 80, 0, 1));
        let peer = Peer::Tcp {
            remote,
            local: None,
        };
        assert_eq!(peer.to_string(), "connection from [fe80::1%lo]:80");
        assert!(variables(peer).contains(&"TCPREMOTEIP=fe80::1%lo".into()));
    }

    #[test]
    fn unknown_values_are_unset() {
        assert!(variables(Peer::UnixStream(None)).is_empty());
        let unseen = |uid| {
            Peer::UnixStream(Some(Credentials {
                pid: 0,
                uid,
                gid: Some(8),
            }))
        };
        let found = variables(unseen(Some(7)));
        assert!(!found.iter().any(|line| line.contains("PID")), "{found:?}");
        assert!(found.contains(&"PEERUID=7".into()));
        let found = variables(unseen(None));
        assert_eq!(found, ["PEERGID=8", "UNIXREMOTEEGID=8"]);
        assert_eq!(
            unseen(None).to_string(),
            "local connection from pid 0 (uid = ?, gid = 8)"
        );
    }

    fn tcp(remote: &str) -> Peer {
        Peer::Tcp {
            remote: plain(remote.parse().unwrap()),
            local: None,
        }
    }

    const UNIX: Peer = Peer::UnixStream(Some(Credentials {
        pid: 1,
        uid: Some(2),
        gid: Some(3),
    }));

    #[test]
    fn a_proxy_is_trusted_by_its_own_address() {
        let trusts = |proxies: &str, peer: Peer| {
            let proxies: Vec<Trusted> =
                proxies.split(' ').map(|one| one.parse().unwrap()).collect();
            peer.is_trusted(&proxies)
        };
        let nets = "192.0.2.0/28 2001:db8::/32";
        assert!(trusts(nets, tcp("192.0.2.15:1")));
        assert!(trusts(nets, tcp("[::ffff:192.0.2.15]:1")));
        assert!(trusts(nets, tcp("[2001:db8::1]:1")));
        assert!(!trusts(nets, tcp("192.0.2.16:1")));
        assert!(!trusts(nets, UNIX));
        assert!(trusts("unix", UNIX));
        assert!(trusts("192.0.2.1 unix", Peer::UnixStream(None)));
        assert!(!trusts("unix", tcp("192.0.2.1:1")));
        assert!(!UNIX.is_trusted(&[]));
        // Not for what it says of another.
        let named = Header::Inet {
            source: "192.0.2.1:1".parse().unwrap(),
            destination: "192.0.2.1:1".parse().unwrap(),
        };
        assert!(!trusts(nets, tcp("198.51.100.1:1").brings(named)));
    }

    #[test]
    fn a_proxied_client_is_named_and_the_proxy_has_variables_of_its_own() {
        let named = Header::Inet {
            source: "[2001:db8::1]:1234".parse().unwrap(),
            destination: "192.0.2.2:80".parse().unwrap(),
        };
        let client = [
            "PROTO=TCP",
            "TCPLOCALIP=192.0.2.2",
            "TCPLOCALPORT=80",
            "TCPREMOTEIP=2001:db8::1",
            "TCPREMOTEPORT=1234",
            "REMOTE_ADDR=2001:db8::1",
            "REMOTE_PORT=1234",
        ];
        let proxy = ["SKD_PROXYIP=192.0.2.9", "SKD_PROXYPORT=9"];
        let brought = tcp("192.0.2.9:9").brings(named);
        assert_eq!(variables(brought), [&client[..], &proxy].concat());
        assert_eq!(brought.to_string(), "connection from [2001:db8::1]:1234");
        assert_eq!(
            brought.address(),
            Some("[2001:db8::1]:1234".parse().unwrap())
        );

        let brought = UNIX.brings(named);
        assert_eq!(variables(brought), client);

        // Nothing of the proxy is taken for the client's.
        for (proxy, more) in [(UNIX, &[][..]), (tcp("192.0.2.9:9"), &proxy)] {
            let brought = proxy.brings(Header::Unix);
            assert_eq!(variables(brought), [&["PROTO=UNIX-STREAM"], more].concat());
            assert_eq!(brought.to_string(), "local connection");
            assert_eq!(brought.address(), None);
            assert_eq!(proxy.brings(Header::Own), proxy);
        }
    }

    #[test]
    fn a_client_behind_a_proxy_takes_no_more_room_than_one_before() {
        assert_eq!(size_of::<Peer>(), 2 * size_of::<SocketAddr>());
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "if_indextoname(3)")]
        fn any_address_is_written_so_that_it_reads_the_same(
            remote in any::<SocketAddr>(),
            local in any::<SocketAddr>(),
        ) {
            let remote = plain(remote);
            prop_assert_eq!(remote.ip().to_canonical(), remote.ip());
            let without_scope = |text: &str| text.split('%').next().unwrap().parse::<IpAddr>();
            for (peer, name) in [
                (Peer::Udp(remote), "UDPREMOTEIP"),
                (Peer::Tcp { remote, local: Some(local) }, "TCPREMOTEIP"),
            ] {
                let mut ip = None;
                peer.variables(|variable, value| {
                    assert!(is_reserved_variable(variable.as_ref()), "{variable}");
                    if variable == name {
                        ip = Some(value.to_string());
                    }
                });
                let ip = ip.unwrap();
                prop_assert_eq!(without_scope(&ip), Ok(remote.ip()));
                let end = format!("from [{ip}]:{}", remote.port());
                prop_assert!(peer.to_string().ends_with(&end), "{}", peer);
            }
        }

        #[test]
        #[cfg_attr(miri, ignore = "if_indextoname(3)")]
        fn a_client_behind_a_proxy_is_as_the_header_says_also_after_an_upgrade(
            remote in any::<SocketAddr>(),
            source in any::<(IpAddr, u16)>(),
            destination in any::<(IpAddr, u16)>(),
        ) {
            let (source, destination) = (plain(source.into()), plain(destination.into()));
            let direct = |remote| Peer::Tcp { remote: plain(remote), local: Some(destination) };
            let proxy = direct(remote);
            let brought = proxy.brings(Header::Inet { source, destination });
            prop_assert_eq!(brought.address(), Some(source));
            prop_assert_eq!(brought.to_string(), direct(source).to_string());
            let found = variables(brought);
            for line in variables(direct(source)) {
                prop_assert!(found.contains(&line), "{}", line);
            }
            let same = |line: &str| line.replace("TCPREMOTE", "SKD_PROXY");
            let proxy: Vec<String> = variables(proxy)
                .iter()
                .filter(|line| line.starts_with("TCPREMOTE"))
                .map(|line| same(line))
                .collect();
            prop_assert_eq!(&found[found.len() - 2..], proxy);
            let text = serde_json::to_string(&brought).unwrap();
            prop_assert_eq!(serde_json::from_str::<Peer>(&text).unwrap(), brought);
        }
    }
}
