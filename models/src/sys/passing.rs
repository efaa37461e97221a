//! Connections that are handed to processes of the model.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use crate::kernel;

/// Hands a connection to the process at the other end.
pub fn send_descriptor(control: &OwnedFd, connection: BorrowedFd<'_>) -> Result<(), Errno> {
    let (control, connection) = (control.as_raw_fd(), connection.as_raw_fd());
    kernel::with(|kernel| kernel.hand(kernel.owners[&control], connection))
}
