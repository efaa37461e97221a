//! Results of system calls.

use nix::errno::Errno;

/// The value of a system call that returns -1 when it fails, or the errno.
pub(super) fn check(result: libc::c_int) -> Result<libc::c_int, Errno> {
    Errno::result(result)
}
