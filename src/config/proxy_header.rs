//! The content of a PROXY protocol header, and the faults of one.

use std::fmt;
use std::net::SocketAddr;

use nix::errno::Errno;

/// The client in a PROXY protocol header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The proxy itself is the client, as for a health check, or it doesn't know the client. This
    /// is `LOCAL`, `UNKNOWN`, `UNSPEC`, or a client that sends datagrams.
    Own,
    /// An internet client.
    Inet {
        /// The client's address.
        source: SocketAddr,
        /// The address that the client called, as far as the proxy knows it.
        destination: SocketAddr,
    },
    /// A client of a unix socket of the proxy. Its path is ignored, since it may be on another
    /// machine.
    Unix,
}

/// Why a connection has no valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are not a header, for this reason.
    Malformed(&'static str),
    /// The connection ended before the end of the header.
    Ended,
    /// The connection failed.
    Failed(Errno),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "no PROXY header: {why}"),
            Self::Ended => f.write_str("the connection ended before the end of its PROXY header"),
            Self::Failed(errno) => {
                write!(f, "can't read its PROXY header: {}", errno.desc())
            }
        }
    }
}
