//! The peers of connections, as the kernel names them.

use std::net::SocketAddr;

use socket2::Socket;

use crate::config::{Peer, plain};
use crate::sys::sockets::peer_credentials;

/// Returns the client of an accepted TCP connection.
pub(super) fn tcp(connection: &Socket, listener: SocketAddr, remote: SocketAddr) -> Peer {
    // Only a listener on all addresses needs this system call.
    let local = if listener.ip().is_unspecified() {
        let name = connection
            .local_addr()
            .ok()
            .and_then(|name| name.as_socket());
        name.map(plain)
    } else {
        None
    };
    Peer::Tcp {
        remote: plain(remote),
        local,
    }
}

/// Returns the client of an accepted unix connection.
pub(super) fn unix_stream(connection: &Socket) -> Peer {
    Peer::UnixStream(peer_credentials(connection).ok())
}
