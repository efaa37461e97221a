//! The listeners of a service: sockets to bind or to inherit.

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::{Host, SocketOption, Style, UnixAddress};

/// A socket to bind, or one or more to inherit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The option that asked for it, for messages: `--tcp 80`.
    pub option: String,
    /// The address to bind, or the source to inherit from.
    pub endpoint: Endpoint,
    /// The maximum length of the backlog. If unset, the kernel's maximum.
    pub backlog: Option<i32>,
    /// The options to set on it. Options that such a socket doesn't have are ignored.
    pub options: Vec<SocketOption>,
}

/// The address of a socket to bind, or the source of an inherited one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// TCP or UDP.
    Inet {
        /// TCP (stream) or UDP (datagram).
        style: Style,
        /// The host.
        host: Host,
        /// The port. 0 lets the kernel choose one, which skd prints.
        port: u16,
    },
    /// Unix-domain.
    Unix {
        /// Any style.
        style: Style,
        /// A path or abstract name.
        address: UnixAddress,
        /// The mode of the socket file. If unset, 0777 less the umask.
        mode: Option<u32>,
        /// The owner of the socket file, and its group if set.
        owner: Option<(Uid, Option<Gid>)>,
    },
    /// Made and bound by another program. The socket itself tells its style and address.
    Inherited {
        /// How this process got it.
        source: SocketSource,
    },
}

/// The source of inherited sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SocketSource {
    /// One descriptor with this number.
    Number(i32),
    /// All sockets that a service manager passes, as for sd_listen_fds(3).
    Systemd,
}

impl Endpoint {
    /// Returns the style, if the command line tells it.
    pub fn style(&self) -> Option<Style> {
        match self {
            Self::Inet { style, .. } | Self::Unix { style, .. } => Some(*style),
            Self::Inherited { .. } => None,
        }
    }

    /// Returns what no other listener may have, whatever the mode and owner of its file.
    pub fn address(&self) -> Self {
        let mut bare = self.clone();
        if let Self::Unix { mode, owner, .. } = &mut bare {
            (*mode, *owner) = (None, None);
        }
        bare
    }

    /// Whether the same option may be given twice: then each socket gets a free port.
    pub fn may_be_repeated(&self) -> bool {
        matches!(self, Self::Inet { port: 0, .. })
    }
}
