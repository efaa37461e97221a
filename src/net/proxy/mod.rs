//! The PROXY protocol, versions 1 and 2, as haproxy's doc/proxy-protocol.txt defines it: at the
//! beginning of a connection, a proxy sends a header that names its client.
//!
//! A header is read without removing it (recv(2), `MSG_PEEK`) and without waiting. As soon as it is
//! complete, exactly the header is removed: what follows is for the handler. So the whole header
//! has to fit into the receive buffer. A header that doesn't fit ends in the timeout, like an
//! incomplete one.

mod checksum;
mod parse;
mod receive;
#[cfg(test)]
mod tests;
mod v1;
mod v2;

pub use crate::config::proxy_header::{Fault, Header};
pub use parse::parse;
pub use receive::{Received, receive};
