//! What a tracee is held at.

use nix::errno::Errno;

use crate::sys::process::Ended;

/// What a tracee is held at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The entry of a system call.
    Entry(Call),
    /// The exit of one, with its result: an errno below 0.
    Exit(i64),
    /// The first instruction of another program.
    Exec,
    /// A signal that is about to arrive. It arrives if the tracee goes on with it.
    Signal(i32),
    /// It has ended, and was reaped.
    Ended(Ended),
}

/// A system call: its number and arguments. Where an architecture has several calls for one
/// purpose, it is the latest of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// As in <sys/syscall.h>.
    pub number: libc::c_long,
    /// As far as it has that many.
    pub arguments: [u64; 6],
}

/// Why a tracee is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It has ended, and was reaped.
    Ended(Ended),
    /// A request of ptrace(2), or a call that it was made to make, failed.
    Failed(&'static str, Errno),
    /// It has another architecture than this program.
    Foreign,
}

/// Whether this is the result of a call that was interrupted, and that the kernel makes again or
/// fails (<linux/errno.h>).
pub fn is_interruption(result: i64) -> bool {
    const RESTARTS: [i64; 4] = [512, 513, 514, 516];
    RESTARTS.contains(&-result) || result == -i64::from(libc::EINTR)
}
