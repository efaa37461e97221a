//! What a PROXY protocol header says, and what can be wrong with it.

use std::fmt;
use std::net::SocketAddr;

use nix::errno::Errno;

/// What a header of the PROXY protocol says of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// Nothing: the client is the proxy. The proxy calls by itself, as for a check of health, or
    /// doesn't know the client (`LOCAL`, `UNKNOWN`, `UNSPEC`, and datagrams, of which a stream
    /// can't be made).
    Own,
    /// An internet client.
    Inet {
        /// The client's address.
        source: SocketAddr,
        /// The address that the client called, as far as the proxy knows it.
        destination: SocketAddr,
    },
    /// A client of a unix socket of the proxy. Its name, if it has one, is one of another
    /// machine.
    Unix,
}

/// Why there is no valid header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The input is no header, for this reason.
    Malformed(&'static str),
    /// The connection has ended before or within it.
    Ended,
    /// The connection has failed.
    Failed(Errno),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "no PROXY header: {why}"),
            Self::Ended => f.write_str("it ended before its PROXY header did"),
            Self::Failed(errno) => {
                write!(f, "its PROXY header can't be read: {}", errno.desc())
            }
        }
    }
}
