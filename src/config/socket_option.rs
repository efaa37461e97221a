//! Options of sockets: socket(7), ip(7), tcp(7).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Refused, Style};

/// An option of listeners. Their connections inherit it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketOption {
    /// TCP_NODELAY.
    NoDelay,
    /// SO_KEEPALIVE, with the kernel's default times if unset.
    KeepAlive(Option<Probes>),
    /// TCP_USER_TIMEOUT, in milliseconds.
    UserTimeout(i32),
    /// TCP_DEFER_ACCEPT, in seconds.
    DeferAccept(i32),
    /// TCP_FASTOPEN: the maximum length of the queue.
    FastOpen(i32),
    /// SO_REUSEPORT.
    ReusePort,
    /// IP_FREEBIND, IPV6_FREEBIND.
    FreeBind,
    /// SO_BINDTODEVICE: the name of an interface.
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
    /// SO_PASSRIGHTS stays on: clients may pass descriptors to handlers.
    AcceptDescriptors,
}

/// A multicast group to join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Its address.
    pub address: IpAddr,
    /// The name of the interface. If unset, the routes decide.
    pub interface: Option<String>,
}

impl FromStr for Group {
    type Err = Refused;

    /// Parses `GROUP[%IF]`.
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
                "it isn't a multicast address; those begin with 224 to 239, or with ff in IPv6",
            ));
        }
        if interface.is_some_and(|name| !is_interface(name)) {
            return Err(Refused::because(
                "after '%' comes the name of a network interface, of 1 to 15 bytes",
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

/// Whether a network interface can have this name (dev_valid_name in net/core/dev.c). The kernel
/// would truncate a longer one.
pub fn is_interface(name: &str) -> bool {
    let fits = |byte: u8| !byte.is_ascii_whitespace() && !b"/:\0\x0b".contains(&byte);
    (1..libc::IFNAMSIZ).contains(&name.len()) && name.bytes().all(fits)
}

/// The keepalive probes of a connection (tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probes {
    /// TCP_KEEPIDLE: seconds of silence before the first probe.
    pub time: i32,
    /// TCP_KEEPINTVL: seconds between two probes.
    pub interval: i32,
    /// TCP_KEEPCNT: the number of probes.
    pub count: i32,
}

/// The sockets that have an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// TCP and UDP.
    Inet,
    /// TCP and UDP, before they are bound.
    Unbound,
    /// Sockets whose connections inherit the send buffer: all but unix stream and seqpacket
    /// sockets.
    Sending,
    /// Unix sockets.
    Unix,
}

impl SocketOption {
    /// Returns its name on the command line.
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
            Self::AcceptDescriptors => "accept-descriptors",
        }
    }

    /// Returns the sockets that have it.
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
            Self::AcceptDescriptors => Scope::Unix,
        }
    }
}

impl Scope {
    /// Whether an unbound socket of this kind and style is among them.
    pub fn has(self, inet: bool, style: Style) -> bool {
        match self {
            Self::Tcp => inet && style == Style::Stream,
            Self::Udp => inet && style == Style::Datagram,
            Self::Inet | Self::Unbound => inet,
            Self::Sending => inet || style == Style::Datagram,
            Self::Unix => !inet,
        }
    }
}
