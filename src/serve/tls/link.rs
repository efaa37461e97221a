//! The channel by which workers hand connections to skd-tls.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use skd_tls_protocol::{MAX_REQUEST, Request};

use crate::sys::packets;

/// The sending end of the request channel, which all workers share. It doesn't block: if skd-tls is behind,
/// or not there, workers try again later.
#[derive(Debug)]
pub(in crate::serve) struct TlsLink {
    requests: OwnedFd,
}

impl TlsLink {
    /// That of a sending end that doesn't block.
    pub(in crate::serve) fn new(requests: OwnedFd) -> Self {
        Self { requests }
    }

    /// Passes a connection, and skd-tls's end of its plain side: one system call. The caller closes both
    /// then. `EAGAIN` or `ETOOMANYREFS` if skd-tls is behind.
    pub(in crate::serve) fn pass(
        &self,
        request: &Request<'_>,
        connection: impl AsFd,
        plain: impl AsFd,
    ) -> Result<(), Errno> {
        let mut bytes = [0; MAX_REQUEST];
        let length = request.write(&mut bytes).ok_or(Errno::EMSGSIZE)?;
        let descriptors = [Some(connection.as_fd()), Some(plain.as_fd())];
        packets::send(&self.requests, [&bytes[..length], b""], descriptors)
    }
}
