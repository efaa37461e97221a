//! What is set on sockets beside where they are bound: socket(7), ip(7), tcp(7).

use super::Style;

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
    /// TCP and UDP.
    Inet,
    /// TCP and UDP, as long as they aren't bound.
    Unbound,
    /// What sends with the listener's own buffer: not a unix stream, whose connections have
    /// the kernel's default.
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
        }
    }
}

impl Scope {
    /// Whether such a socket, not yet bound, is among them.
    pub fn has(self, inet: bool, style: Style) -> bool {
        match self {
            Self::Tcp => inet && style == Style::Stream,
            Self::Inet | Self::Unbound => inet,
            Self::Sending => inet || style == Style::Datagram,
        }
    }
}
