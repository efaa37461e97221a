//! Locks on files.

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;

/// Locks a file exclusively without blocking (flock(2)). Returns whether it was free. The lock
/// belongs to the open file and ends with its last descriptor.
pub fn try_lock(file: &File) -> Result<bool, Errno> {
    // SAFETY: flock(2) accesses no memory, and the descriptor is open.
    let result = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    match Errno::result(result) {
        Ok(_) => Ok(true),
        Err(Errno::EWOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno),
    }
}
