//! The style of a socket.

use serde::{Deserialize, Serialize};

/// The style of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Style {
    /// A stream connection for each client.
    Stream,
    /// A connection for each client that keeps the boundaries of messages. Unix sockets only.
    Seqpacket,
    /// Datagrams from any sender.
    Datagram,
}

impl Style {
    /// Whether clients make connections, which have to be accepted.
    pub fn has_connections(self) -> bool {
        self != Self::Datagram
    }
}
