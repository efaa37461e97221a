//! The header of the PROXY protocol that tells the target about the client:
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::sys::socket::{SockType, SockaddrStorage, getpeername, getsockname, getsockopt, sockopt};

use crate::end::Kind;
use crate::options::Version;
use crate::sys;

/// The client, as far as it is known.
#[derive(Debug, PartialEq, Eq)]
enum Peer {
    /// An internet client. `of_datagrams` is true for UDP.
    Inet {
        source: SocketAddr,
        destination: SocketAddr,
        of_datagrams: bool,
    },
    /// A client of a unix stream socket, with both names as in `sun_path`.
    Unix {
        source: Vec<u8>,
        destination: Vec<u8>,
    },
    /// A client of another kind of socket.
    Unknown,
    /// No client: standard input isn't a socket.
    Local,
}

/// Returns the header of the client on standard input.
///
/// skd's environment comes first: it has the client that a proxy in front of skd named, and the sender
/// of datagrams. Prestarted handlers have no such variables, and ask the socket.
pub(crate) fn header(version: Version, target: Kind) -> Result<Vec<u8>, String> {
    if version == Version::V1 && target == Kind::Datagram {
        let text = "--send-proxy v1 is for streams; a target of datagrams needs v2";
        return Err(text.to_owned());
    }
    let peer = from_environment(|name| std::env::var(name).ok()).unwrap_or_else(from_socket);
    Ok(match version {
        Version::V1 => text(&peer).into_bytes(),
        Version::V2 => binary(&peer),
    })
}

/// Reads the variables that skd sets for a handler that wasn't prestarted.
fn from_environment(variable: impl Fn(&str) -> Option<String>) -> Option<Peer> {
    let protocol = variable("PROTO")?;
    let of_datagrams = match protocol.as_str() {
        "TCP" => false,
        "UDP" => true,
        // The proxy's client came to a unix socket of the proxy, which has a name of its own.
        "UNIX-STREAM" if variable("UNIXLOCALPATH").is_none() => return Some(Peer::Unknown),
        _ => return None,
    };
    let address = |side: &str| {
        let ip = variable(&format!("{protocol}{side}IP"))?;
        // The interface of a link-local address means nothing elsewhere.
        let ip: IpAddr = ip.split('%').next()?.parse().ok()?;
        let port = variable(&format!("{protocol}{side}PORT"))?.parse().ok()?;
        Some(SocketAddr::new(ip, port))
    };
    Some(Peer::Inet {
        source: address("REMOTE")?,
        destination: address("LOCAL")?,
        of_datagrams,
    })
}

fn from_socket() -> Peer {
    let [input, _] = sys::standard();
    let Ok(kind) = getsockopt(&input, sockopt::SockType) else {
        return Peer::Local;
    };
    let names = getpeername::<SockaddrStorage>(input.as_raw_fd())
        .and_then(|peer| Ok((peer, getsockname::<SockaddrStorage>(input.as_raw_fd())?)));
    let Ok((source, destination)) = names else {
        return Peer::Unknown;
    };
    let of_datagrams = kind == SockType::Datagram;
    if let (Some(source), Some(destination)) = (inet(&source), inet(&destination)) {
        return Peer::Inet {
            source,
            destination,
            of_datagrams,
        };
    }
    match (unix(&source), unix(&destination)) {
        (Some(source), Some(destination)) if kind == SockType::Stream => Peer::Unix {
            source,
            destination,
        },
        _ => Peer::Unknown,
    }
}

fn inet(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address
        .as_sockaddr_in()
        .map(|v4| SocketAddrV4::from(*v4).into());
    v4.or_else(|| {
        address
            .as_sockaddr_in6()
            .map(|v6| SocketAddrV6::from(*v6).into())
    })
}

fn unix(address: &SockaddrStorage) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt;

    let address = address.as_unix_addr()?;
    if let Some(name) = address.as_abstract() {
        return Some([&[0], name].concat());
    }
    let path = address
        .path()
        .map(|path| path.as_os_str().as_bytes().to_vec());
    Some(path.unwrap_or_default())
}

/// Returns both addresses in one family. IPv4 addresses in IPv6 form are IPv4 addresses.
fn in_one_family(source: SocketAddr, destination: SocketAddr) -> [SocketAddr; 2] {
    let both = [source, destination]
        .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()));
    if both[0].is_ipv4() == both[1].is_ipv4() {
        return both;
    }
    both.map(|address| match address.ip() {
        IpAddr::V4(ip) => (ip.to_ipv6_mapped(), address.port()).into(),
        IpAddr::V6(_) => address,
    })
}

/// Version 1.
fn text(peer: &Peer) -> String {
    match peer {
        Peer::Inet {
            source,
            destination,
            of_datagrams: false,
        } => {
            let [source, destination] = in_one_family(*source, *destination);
            format!(
                "PROXY TCP{} {} {} {} {}\r\n",
                if source.is_ipv4() { 4 } else { 6 },
                source.ip(),
                destination.ip(),
                source.port(),
                destination.port()
            )
        }
        _ => "PROXY UNKNOWN\r\n".to_owned(),
    }
}

/// The bytes that begin a header of version 2.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Version 2.
fn binary(peer: &Peer) -> Vec<u8> {
    let (command, family, addresses) = match peer {
        Peer::Inet {
            source,
            destination,
            of_datagrams,
        } => {
            let both = in_one_family(*source, *destination);
            let family = if both[0].is_ipv4() { 0x10 } else { 0x20 };
            let mut bytes: Vec<u8> = Vec::new();
            for address in &both {
                match address.ip() {
                    IpAddr::V4(ip) => bytes.extend(ip.octets()),
                    IpAddr::V6(ip) => bytes.extend(Ipv6Addr::octets(&ip)),
                }
            }
            for address in &both {
                bytes.extend(address.port().to_be_bytes());
            }
            (0x21, family + 1 + u8::from(*of_datagrams), bytes)
        }
        Peer::Unix {
            source,
            destination,
        } => {
            let mut bytes = source.clone();
            bytes.resize(108, 0);
            bytes.extend(destination);
            bytes.resize(216, 0);
            (0x21, 0x31, bytes)
        }
        Peer::Unknown => (0x21, 0, Vec::new()),
        Peer::Local => (0x20, 0, Vec::new()),
    };
    let length = u16::try_from(addresses.len()).unwrap_or(u16::MAX);
    [
        SIGNATURE,
        &[command, family],
        &length.to_be_bytes(),
        &addresses,
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(source: &str, destination: &str, of_datagrams: bool) -> Peer {
        Peer::Inet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            of_datagrams,
        }
    }

    #[test]
    fn version_1_is_a_line() {
        for (peer, line) in [
            (
                peer("192.0.2.1:1", "192.0.2.2:65535", false),
                "PROXY TCP4 192.0.2.1 192.0.2.2 1 65535\r\n",
            ),
            (
                peer("[2001:db8::1]:1", "[::1]:2", false),
                "PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
            ),
            (
                peer("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2", false),
                "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
            ),
            (
                peer("[2001:db8::1]:1", "192.0.2.2:2", false),
                "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.2 1 2\r\n",
            ),
            (
                peer("192.0.2.1:1", "192.0.2.2:2", true),
                "PROXY UNKNOWN\r\n",
            ),
            (Peer::Unknown, "PROXY UNKNOWN\r\n"),
            (Peer::Local, "PROXY UNKNOWN\r\n"),
        ] {
            assert_eq!(text(&peer), line);
        }
    }

    #[test]
    fn version_2_has_the_addresses_of_its_family() {
        let v4 = binary(&peer("192.0.2.1:1234", "192.0.2.2:80", false));
        assert_eq!(&v4[..12], SIGNATURE);
        assert_eq!(v4[12..16], [0x21, 0x11, 0, 12]);
        assert_eq!(v4[16..], [192, 0, 2, 1, 192, 0, 2, 2, 0x04, 0xd2, 0, 80]);
        let udp = binary(&peer("192.0.2.1:1234", "192.0.2.2:80", true));
        assert_eq!(udp[13], 0x12);
        let v6 = binary(&peer("[::1]:1", "[::2]:2", false));
        assert_eq!((v6[13], v6[15], v6.len()), (0x21, 36, 52));
        let unix = Peer::Unix {
            source: Vec::new(),
            destination: b"/run/x".to_vec(),
        };
        let unix = binary(&unix);
        assert_eq!((unix[13], unix[15], unix.len()), (0x31, 216, 232));
        assert_eq!(&unix[16 + 108..16 + 115], b"/run/x\0");
        assert_eq!(binary(&Peer::Unknown)[12..], [0x21, 0, 0, 0]);
        assert_eq!(binary(&Peer::Local)[12..], [0x20, 0, 0, 0]);
    }

    #[test]
    fn variables_name_the_client_where_skd_has_set_them() {
        let look = |set: &'static [(&str, &str)]| {
            from_environment(move |name| {
                let found = set.iter().find(|(one, _)| *one == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let all: &[_] = &[
            ("PROTO", "TCP"),
            ("TCPREMOTEIP", "fe80::1%eth0"),
            ("TCPREMOTEPORT", "1"),
            ("TCPLOCALIP", "fe80::2%eth0"),
            ("TCPLOCALPORT", "2"),
        ];
        assert_eq!(look(all), Some(peer("[fe80::1]:1", "[fe80::2]:2", false)));
        // Prestarted.
        assert_eq!(look(&[("PROTO", "TCP"), ("TCPLOCALPORT", "2")]), None);
        assert_eq!(
            look(&[("PROTO", "UNIX-STREAM"), ("UNIXLOCALPATH", "/x")]),
            None
        );
        assert_eq!(look(&[("PROTO", "UNIX-STREAM")]), Some(Peer::Unknown));
        assert_eq!(look(&[]), None);
    }
}
