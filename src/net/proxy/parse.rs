//! Parsing the beginning of a connection as a PROXY protocol header of either version.

use std::fmt;

use nix::errno::Errno;

use super::{v1, v2};
use crate::config::Header;

/// Why a connection has no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are not a header, for this reason.
    Malformed(&'static str),
    /// The connection ended before the end of the header.
    Ended,
    /// The connection failed.
    Failed(Errno),
}

/// Parses the beginning of a connection. Returns the header and its length in bytes, or `None` if
/// more bytes are needed.
pub fn parse(bytes: &[u8]) -> Result<Option<(Header, usize)>, Fault> {
    let agrees = |with: &[u8]| bytes.iter().zip(with).all(|(one, other)| one == other);
    let parsed = if agrees(v2::SIGNATURE) {
        v2::parse(bytes)
    } else if agrees(v1::PREFIX) {
        v1::parse(bytes)
    } else {
        Err("it begins like neither version")
    };
    parsed.map_err(Fault::Malformed)
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
