//! What lets the calls of a jailer, and of its children before their exec, through the filter that
//! they have already: a number in an argument that these calls don't have, which only this process's
//! memory knows. An exec takes that away.

use std::sync::atomic::{AtomicU64, Ordering};

use libc::c_long;
use nix::errno::Errno;

/// The calls that are let through: to make a child, its mounts, and to tie it to its parent.
pub(super) const CALLS: [c_long; 3] = [libc::SYS_mount, libc::SYS_clone3, libc::SYS_prctl];

/// The argument that none of them has, from 0.
pub(super) const ARGUMENT: u8 = 5;

/// None, where no filter asks for it.
static KEY: AtomicU64 = AtomicU64::new(0);

/// Returns what these calls give as their sixth argument. The kernel doesn't look at it.
pub fn key() -> u64 {
    KEY.load(Ordering::Relaxed)
}

/// Makes the key of this process and its children.
pub(super) fn make() -> Result<u64, Errno> {
    let mut key = [0_u8; 8];
    // SAFETY: the call gets the address and the length of a live local.
    let length = unsafe { libc::getrandom(key.as_mut_ptr().cast(), key.len(), 0) };
    if Errno::result(length)? != key.len() as isize {
        return Err(Errno::EIO);
    }
    let key = u64::from_ne_bytes(key);
    KEY.store(key, Ordering::Relaxed);
    Ok(key)
}
