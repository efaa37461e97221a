//! What the kernel reports of the sockets of a process. The harness learns from it that a program listens
//! without connecting to it, which would run a handler.

use super::process::try_descriptors;
use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    Tcp,
    Udp,
    UnixStream,
    UnixSeqpacket,
    UnixDatagram,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Tcp,
        Self::Udp,
        Self::UnixStream,
        Self::UnixSeqpacket,
        Self::UnixDatagram,
    ];
}

/// A bound socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Socket {
    pub kind: Kind,
    /// Of TCP and UDP.
    pub address: Option<SocketAddr>,
    /// Of unix sockets; an abstract one begins with `@`.
    pub path: Option<String>,
    pub inode: u64,
    /// Whether it takes connections; always false for datagrams.
    pub listening: bool,
    /// Owner, of TCP and UDP.
    pub uid: Option<u32>,
}

impl Socket {
    /// Whether a client that comes now is served: stream sockets must listen.
    pub fn is_open(&self) -> bool {
        self.listening || matches!(self.kind, Kind::Udp | Kind::UnixDatagram)
    }
}

/// The bound sockets that `pid` holds, connections among them, in its own network namespace. Where its
/// descriptors can't be seen (another user's process), all the sockets of that namespace.
pub fn sockets(pid: i32) -> Vec<Socket> {
    sockets_of(pid, &Kind::ALL)
}

/// Those of these kinds. The kernel takes a millisecond or more for the table of a kind, which a look every other
/// millisecond better does without.
pub(super) fn sockets_of(pid: i32, kinds: &[Kind]) -> Vec<Socket> {
    let mut found = Vec::new();
    for (table, kind) in [
        ("tcp", Kind::Tcp),
        ("tcp6", Kind::Tcp),
        ("udp", Kind::Udp),
        ("udp6", Kind::Udp),
    ] {
        if !kinds.contains(&kind) {
            continue;
        }
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| internet(kind, line)));
    }
    let text = fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let unix = text.lines().skip(1).filter_map(unix);
    found.extend(unix.filter(|socket| kinds.contains(&socket.kind)));
    if let Some(descriptors) = try_descriptors(pid) {
        let held: HashSet<&str> = descriptors.values().map(String::as_str).collect();
        found.retain(|socket| held.contains(format!("socket:[{}]", socket.inode).as_str()));
    }
    found
}

fn internet(kind: Kind, line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (ip, port) = words.get(1)?.split_once(':')?;
    let ip = address(ip)?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(Socket {
        kind,
        address: Some(SocketAddr::new(ip, port)),
        path: None,
        inode: words.get(9)?.parse().ok()?,
        // TCP_LISTEN of include/net/tcp_states.h.
        listening: kind == Kind::Tcp && *words.get(3)? == "0A",
        uid: words.get(7)?.parse().ok(),
    })
}

/// Words of 32 bits, each printed as a number of this machine's byte order.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        Some(
            u32::from_str_radix(hex.get(at..at + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        )
    };
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes = [word(0)?, word(8)?, word(16)?, word(24)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

fn unix(line: &str) -> Option<Socket> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
    let inode = words.get(6)?;
    // The path is all that follows the inode number, blanks included.
    let path = *words.get(7)?;
    let before = line.find(&format!(" {inode} "))? + inode.len() + 2;
    let path = line.get(before..).unwrap_or(path);
    Some(Socket {
        kind: match *words.get(4)? {
            "0001" => Kind::UnixStream,
            "0002" => Kind::UnixDatagram,
            "0005" => Kind::UnixSeqpacket,
            _ => return None,
        },
        address: None,
        path: Some(path.to_owned()),
        inode: inode.parse().ok()?,
        // __SO_ACCEPTCON of include/linux/net.h.
        listening: flags & 0x1_0000 != 0,
        uid: None,
    })
}
