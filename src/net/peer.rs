//! Who called: for the handler's environment and for the log.

use std::fmt;
use std::net::{SocketAddr, SocketAddrV4};

use serde::{Deserialize, Serialize};
use socket2::Socket;

use crate::sys::names;
use crate::sys::sockets::{Credentials, peer_credentials};

/// The other end of a connection, or the sender of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Peer {
    /// A TCP client, and the address of this machine that it called, where the listener's
    /// own doesn't say.
    Tcp {
        /// The client.
        remote: SocketAddr,
        /// What it called.
        local: Option<SocketAddr>,
    },
    /// A client of a unix stream socket, as far as the kernel says who it is.
    UnixStream(Option<Credentials>),
    /// The sender of a UDP datagram.
    Udp(SocketAddr),
    /// The sender of a unix datagram.
    LocalDatagram,
    /// Somebody whom the handler itself will accept, at this address of the listener's if it
    /// is one of the internet.
    Unaccepted(Option<SocketAddr>),
}

impl Peer {
    /// The client of an accepted TCP connection.
    pub(super) fn tcp(connection: &Socket, listener: SocketAddr, remote: SocketAddr) -> Self {
        // One system call for those listeners alone whose own address doesn't say it.
        let local = if listener.ip().is_unspecified() {
            let name = connection
                .local_addr()
                .ok()
                .and_then(|name| name.as_socket());
            name.map(plain)
        } else {
            None
        };
        Self::Tcp {
            remote: plain(remote),
            local,
        }
    }

    /// The client of an accepted unix connection.
    pub(super) fn unix_stream(connection: &Socket) -> Self {
        Self::UnixStream(peer_credentials(connection).ok())
    }

    /// The sender of a UDP datagram.
    pub(super) fn udp(remote: SocketAddr) -> Self {
        Self::Udp(plain(remote))
    }

    /// Calls `set` with the name and value of each variable that depends on the peer. What
    /// is unknown is left out.
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
                set("PEERUID", format_args!("{uid}"));
                set("PEERGID", format_args!("{gid}"));
                set("UNIXREMOTEEUID", format_args!("{uid}"));
                set("UNIXREMOTEEGID", format_args!("{gid}"));
            }
            Self::UnixStream(None) | Self::LocalDatagram | Self::Unaccepted(_) => {}
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { remote, .. } => {
                write!(f, "connection from [{}]:{}", scoped(*remote), remote.port())
            }
            Self::Udp(remote) => {
                write!(f, "datagram from [{}]:{}", scoped(*remote), remote.port())
            }
            Self::UnixStream(Some(Credentials { pid, uid, gid })) => {
                write!(
                    f,
                    "local connection from pid {pid} (uid = {uid}, gid = {gid})"
                )
            }
            Self::Unaccepted(Some(local)) => {
                write!(f, "connection to [{}]:{}", scoped(*local), local.port())
            }
            Self::UnixStream(None) | Self::Unaccepted(None) => f.write_str("local connection"),
            Self::LocalDatagram => f.write_str("local datagram"),
        }
    }
}

/// An IPv4 peer of a dual-stack socket as the IPv4 peer that it is.
pub(super) fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddrV4::new(v4, v6.port()).into(),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// An address without its port, but with the interface of a link-local one.
pub(super) fn scoped(address: SocketAddr) -> impl fmt::Display {
    fmt::from_fn(move |f| match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            let mut buffer = [0; libc::IF_NAMESIZE];
            match names::interface_name(v6.scope_id(), &mut buffer) {
                Some(name) => write!(f, "{}%{name}", v6.ip()),
                None => write!(f, "{}%{}", v6.ip(), v6.scope_id()),
            }
        }
        _ => write!(f, "{}", address.ip()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::IpAddr;

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
        let remote = SocketAddr::V6(std::net::SocketAddrV6::new(
            "fe80::1".parse().unwrap(),
            80,
            0,
            1,
        ));
        let peer = Peer::Tcp {
            remote,
            local: None,
        };
        assert_eq!(peer.to_string(), "connection from [fe80::1%lo]:80");
        assert!(variables(peer).contains(&"TCPREMOTEIP=fe80::1%lo".into()));
    }

    #[test]
    fn what_is_unknown_is_unset() {
        assert!(variables(Peer::UnixStream(None)).is_empty());
        let unseen = Credentials {
            pid: 0,
            uid: 7,
            gid: 8,
        };
        let found = variables(Peer::UnixStream(Some(unseen)));
        assert!(!found.iter().any(|line| line.contains("PID")), "{found:?}");
        assert!(found.contains(&"PEERUID=7".into()));
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
    }
}
