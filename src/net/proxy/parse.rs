//! Finding the version of a PROXY protocol header; `v1` and `v2` parse it.

use super::{v1, v2};
use crate::config::proxy_header::{Fault, Header};

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
