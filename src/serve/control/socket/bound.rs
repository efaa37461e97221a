//! The control socket before it is served: bound by a start, or left by another binary.

use nix::errno::Errno;

use super::permissions::Permissions;
use super::saved::{SavedClient, SavedControl};
use crate::config::{Control, DatagramMode};
use crate::error::Error;
use crate::net::{self, KeptListeners, Listener, Resolved};

/// A control socket that is bound, or restored, and not served yet.
#[derive(Debug)]
pub struct BoundControl {
    pub(super) listener: Listener,
    pub(super) permissions: Permissions,
    /// The number of the next client, if there have been some.
    pub(super) next: Option<u64>,
    pub(super) clients: Vec<SavedClient>,
}

impl BoundControl {
    /// Binds the socket, with the rights that its path and its owner take.
    pub fn bind(control: &Control) -> Result<Self, Error> {
        let listen = control.listen();
        let wanted = [Resolved::of(&listen)?];
        let datagrams = DatagramMode::Wait;
        let mut bound = net::bind_all(&wanted, Vec::new(), datagrams, net::LOCK_TIMEOUT)?;
        let listener = bound.pop().ok_or(Errno::EADDRNOTAVAIL);
        Ok(Self {
            listener: listener.map_err(|why| Error::start("--control can't be bound", why))?,
            permissions: Permissions::of(control),
            next: None,
            clients: Vec::new(),
        })
    }

    /// Restores what another binary of this process has left. `owns` says whether the file is this
    /// one's already: no other is left to remove it.
    pub fn restore(saved: SavedControl, owns: bool) -> Result<Self, Error> {
        let mut kept = KeptListeners::default();
        kept.add(0, vec![saved.listener], saved.file.into_iter().collect());
        let listener = kept.take_all_of(0, owns)?.pop().ok_or(Errno::EBADF);
        Ok(Self {
            listener: listener.map_err(|why| Error::start("the control socket is missing", why))?,
            permissions: saved.permissions,
            next: Some(saved.next),
            clients: saved.clients,
        })
    }

    /// Starts to listen.
    pub fn listen(&self) -> Result<(), Error> {
        self.listener.listen()
    }

    /// Returns the socket alone, to be closed.
    pub fn into_listener(self) -> Listener {
        self.listener
    }
}
