//! What a look at a wait-mode socket has found.

use nix::errno::Errno;

use crate::config::Peer;

/// After how many starts for the same it is discarded, or reported.
pub(super) const STARTS: u32 = 8;

/// What a look at a wait-mode socket has found.
pub(super) enum Found {
    Nothing,
    /// A datagram or a connection, for which a handler was started so often already.
    Arrival {
        peer: Peer,
        new: bool,
        starts: u32,
    },
    /// The socket is of no use any more.
    ShutDown,
    Trouble(Errno),
}
