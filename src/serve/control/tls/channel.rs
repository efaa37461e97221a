//! What all processes of skd-tls have that are started one after the other: the request channel, and the
//! memory with the keys of session tickets.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::serve::tls::TlsLink;
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::packets;

/// The user id and group id that skd-tls becomes. Only root can have it become another.
pub type TlsUser = (u32, u32);

/// What all processes of skd-tls have in common.
#[derive(Debug)]
pub(super) struct Channel {
    /// Where workers send requests. It doesn't block.
    sending: OwnedFd,
    /// Where skd-tls receives them. It is open here too, so that what is unread waits for the next process.
    receiving: OwnedFd,
    /// The keys of session tickets, which skd doesn't look into.
    tickets: OwnedFd,
}

/// The channel in the state of an upgrade.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedChannel {
    sending: i32,
    receiving: i32,
    tickets: i32,
}

impl Channel {
    pub(super) fn new() -> Result<Self, Errno> {
        let (sending, receiving) = packets::pair()?;
        descriptors::set_blocking(&sending, false)?;
        Ok(Self {
            sending,
            receiving,
            tickets: File::into(descriptors::memory_file()?),
        })
    }

    /// Returns what workers send requests with.
    pub(super) fn link(&self) -> Result<TlsLink, Errno> {
        let sending = self.sending.try_clone();
        sending.map(TlsLink::new).map_err(|_| Errno::EMFILE)
    }

    /// Returns what each process gets.
    pub(super) fn parts(&self) -> [BorrowedFd<'_>; 2] {
        [self.receiving.as_fd(), self.tickets.as_fd()]
    }

    pub(super) fn save(&self, to: &mut SavedDescriptors) -> Result<SavedChannel, Errno> {
        Ok(SavedChannel {
            sending: to.pass(&self.sending)?,
            receiving: to.pass(&self.receiving)?,
            tickets: to.pass(&self.tickets)?,
        })
    }

    pub(super) fn restore(saved: &SavedChannel) -> Result<Self, Errno> {
        Ok(Self {
            sending: descriptors::claim(saved.sending)?,
            receiving: descriptors::claim(saved.receiving)?,
            tickets: descriptors::claim(saved.tickets)?,
        })
    }
}
