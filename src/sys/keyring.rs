//! The session keyring (session-keyring(7)), which processes inherit.

use nix::errno::Errno;

/// Leaves the session keyring that this process was started with for one of its own, to which
/// nothing can be added and in which nothing is found: handlers inherit it, and leave nothing in it
/// for each other (keyctl(2)). They can join another.
///
/// A filter that refuses the call refuses it to handlers as well, and a kernel without keyrings has
/// none: neither is an error.
pub fn leave_session() -> Result<(), Errno> {
    const SESSION_KEYRING: libc::c_long = -3;
    /// For processes of its owner: to see that it is there.
    const USER_VIEW: libc::c_long = 0x0001_0000;
    let joined = call(JOIN_SESSION_KEYRING, 0, 0);
    match joined.and_then(|()| call(SET_PERMISSIONS, SESSION_KEYRING, USER_VIEW)) {
        Err(Errno::EPERM | Errno::ENOSYS) => Ok(()),
        result => result,
    }
}

/// Operations of keyctl(2) (<linux/keyctl.h>).
const JOIN_SESSION_KEYRING: libc::c_long = 1;
const SET_PERMISSIONS: libc::c_long = 5;

fn call(operation: libc::c_long, first: libc::c_long, second: libc::c_long) -> Result<(), Errno> {
    // SAFETY: the arguments are integers, and one null pointer: a keyring without a name.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, operation, first, second, 0, 0) };
    Errno::result(result).map(drop)
}
