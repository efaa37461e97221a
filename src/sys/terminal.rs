//! The terminal of this process's session.

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

/// Whether a child in this process's session could open a terminal by `/dev/tty` (tty(4)), or that
/// isn't known.
///
/// Without a terminal, only the leader of the session can give it one, which a child isn't.
pub fn may_be_reached() -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    !matches!(open("/dev/tty", flags, Mode::empty()), Err(Errno::ENXIO))
}
