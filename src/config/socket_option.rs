//! What is set on sockets beside where they are bound: socket(7), ip(7), tcp(7).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::{Refused, Style};

/// One option of the command line's listeners, and of their connections, which inherit it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SocketOption {
    /// TCP_NODELAY.
    NoDelay,
    /// SO_KEEPALIVE; at the kernel's times, if not said.
    KeepAlive(Option<Probes>),
    /// TCP_USER_TIMEOUT, in milliseconds.
    UserTimeout(i32),
    /// TCP_DEFER_ACCEPT, in seconds.
    DeferAccept(i32),
    /// TCP_FASTOPEN: how many may wait.
    FastOpen(i32),
    /// SO_REUSEPORT.
    ReusePort,
    /// IP_FREEBIND, IPV6_FREEBIND.
    FreeBind,
    /// SO_BINDTODEVICE: an interface's name.
    Device(String),
    /// IP_TOS, IPV6_TCLASS.
    TypeOfService(u8),
    /// SO_MARK.
    Mark(u32),
    /// SO_SNDBUF, in bytes.
    SendBuffer(i32),
    /// SO_RCVBUF, in bytes.
    ReceiveBuffer(i32),
    /// IP_ADD_MEMBERSHIP, IPV6_JOIN_GROUP.
    Multicast(Group),
}

/// A multicast group that is joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its address.
    pub address: IpAddr,
    /// The interface by which it comes; the one that the routes say, if not said.
    pub interface: Option<String>,
}

impl FromStr for Group {
    type Err = Refused;

    /// Reads `GROUP[%IF]`.
    fn from_str(text: &str) -> Result<Self, Refused> {
        let (address, interface) = match text.split_once('%') {
            Some((address, interface)) => (address, Some(interface)),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| Refused::because("it takes an address like 239.1.2.3 or ff02::fb%eth0"))?;
        if !address.is_multicast() {
            return Err(Refused::because(
                "it is no multicast address: those begin with 224 to 239, or with ff in IPv6",
            ));
        }
        if interface.is_some_and(|name| !is_interface(name)) {
            return Err(Refused::because(
                "after '%' stands the name of a network interface, of 1 to 15 bytes",
            ));
        }
        Ok(Self {
            address,
            interface: interface.map(str::to_owned),
        })
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        match &self.interface {
            Some(interface) => write!(f, "%{interface}"),
            None => Ok(()),
        }
    }
}

/// Whether the kernel could have given an interface this name (dev_valid_name of
/// net/core/dev.c); it would cut a longer one.
pub fn is_interface(name: &str) -> bool {
    let fits = |byte: u8| !byte.is_ascii_whitespace() && !b"/:\0\x0b".contains(&byte);
    (1..libc::IFNAMSIZ).contains(&name.len()) && name.bytes().all(fits)
}

/// When a silent peer is asked whether it is still there (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probes {
    /// TCP_KEEPIDLE: seconds of silence before the first probe.
    pub time: i32,
    /// TCP_KEEPINTVL: seconds between two.
    pub interval: i32,
    /// TCP_KEEPCNT: how many.
    pub count: i32,
}

/// The sockets that an option is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TCP and UDP.
    Inet,
    /// TCP and UDP, as long as they aren't bound.
    Unbound,
    /// What sends with the listener's own buffer: not a unix stream or seqpacket socket,
    /// whose connections have the kernel's default.
    Sending,
}

impl SocketOption {
    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoDelay => "nodelay",
            Self::KeepAlive(_) => "keepalive",
            Self::UserTimeout(_) => "user-timeout",
            Self::DeferAccept(_) => "defer-accept",
            Self::FastOpen(_) => "fast-open",
            Self::ReusePort => "reuse-port",
            Self::FreeBind => "freebind",
            Self::Device(_) => "device",
            Self::TypeOfService(_) => "tos",
            Self::Mark(_) => "mark",
            Self::SendBuffer(_) => "send-buffer",
            Self::ReceiveBuffer(_) => "receive-buffer",
            Self::Multicast(_) => "multicast",
        }
    }

    /// What it is for.
    pub fn scope(&self) -> Scope {
        match self {
            Self::NoDelay
            | Self::KeepAlive(_)
            | Self::UserTimeout(_)
            | Self::DeferAccept(_)
            | Self::FastOpen(_) => Scope::Tcp,
            Self::ReusePort | Self::FreeBind | Self::Device(_) => Scope::Unbound,
            Self::TypeOfService(_) | Self::Mark(_) | Self::ReceiveBuffer(_) => Scope::Inet,
            Self::SendBuffer(_) => Scope::Sending,
            Self::Multicast(_) => Scope::Udp,
        }
    }
}

impl Scope {
    /// Whether such a socket, not yet bound, is among them.
    pub fn has(self, inet: bool, style: Style) -> bool {
        match self {
            Self::Tcp => inet && style == Style::Stream,
            Self::Udp => inet && style == Style::Datagram,
            Self::Inet | Self::Unbound => inet,
            Self::Sending => inet || style == Style::Datagram,
        }
    }
}
