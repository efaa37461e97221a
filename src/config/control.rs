//! The control socket.

use std::path::PathBuf;

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use super::{Endpoint, Listen, Style, UnixAddress};

/// The mode of the control socket: only its owner may connect, and root.
const MODE: u32 = 0o600;

/// The same where a group may ask.
const MODE_WITH_READERS: u32 = 0o660;

/// The control socket, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// The path of its file.
    pub path: PathBuf,
    /// The mode of the file, if it was set.
    pub mode: Option<u32>,
    /// The user who owns it, and its group, if they were set.
    pub owner: Option<(u32, Option<u32>)>,
    /// The group whose members may ask.
    pub readers: Option<u32>,
}

impl Control {
    /// Returns the socket to bind. Without an owner of its own, its file is the caller's.
    pub fn listen(&self) -> Listen {
        let uid = self
            .owner
            .map_or_else(Uid::effective, |(uid, _)| uid.into());
        let gid = self.owner.and_then(|(_, gid)| gid).or(self.readers);
        let changes = self.owner.is_some() || gid.is_some();
        let mode = match self.readers {
            Some(_) => MODE_WITH_READERS,
            None => MODE,
        };
        Listen {
            option: format!("--control {}", self.path.display()),
            endpoint: Endpoint::Unix {
                style: Style::Stream,
                address: UnixAddress::Path(self.path.clone()),
                mode: Some(self.mode.unwrap_or(mode)),
                owner: changes.then(|| (uid, gid.map(Gid::from_raw))),
            },
            backlog: None,
            options: Vec::new(),
        }
    }
}
