//! The steps of a child's preparation, each one system call.

use std::ffi::{CString, c_int};
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::SigSet;

use crate::sys::result::check;

/// One system call of a child's preparation, its arguments ready.
#[derive(Clone, Debug)]
pub enum Step {
    /// Lead a process group of its own: setpgid(2).
    LeadGroup,
    /// Make that group the terminal's foreground one: tcsetpgrp(3) on descriptor 0.
    TakeTerminal,
    /// umask(2).
    Umask(libc::mode_t),
    /// Make the second number refer to what the first one does: dup2(2). They differ.
    Descriptor(RawFd, RawFd),
    /// setpriority(2) of this process.
    Nice(c_int),
    /// setrlimit(2).
    Limit(Resource, libc::rlimit),
    /// chdir(2).
    ChangeDirectory(CString),
    /// fchdir(2) to an open directory.
    EnterDirectory(RawFd),
    /// prctl(2), `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// sigprocmask(2). The last of all: from then on signals arrive.
    SignalMask(SigSet),
}

/// A resource as setrlimit(2) numbers them.
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
/// A resource as setrlimit(2) numbers them.
#[cfg(not(target_env = "gnu"))]
pub type Resource = c_int;

/// The part of a child's preparation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taking its own copy of the descriptors, or putting the connection on 0 and 1.
    Descriptors,
    /// The step with this index.
    Step(usize),
    /// Asking to be traced.
    Trace,
    /// The exec of the program.
    Exec,
}

/// Runs the steps in order, in a child or in this process. The error names the step that failed.
pub fn prepare(steps: &[Step]) -> Result<(), (Stage, Errno)> {
    for (index, step) in steps.iter().enumerate() {
        perform(step).map_err(|errno| (Stage::Step(index), errno))?;
    }
    Ok(())
}

/// Makes one system call. None of them is a call that the C library makes in all threads of a
/// process: a child that shares memory has none of those threads.
fn perform(step: &Step) -> Result<(), Errno> {
    // SAFETY: each call gets integers, or pointers to memory of the right type that the
    // step owns; none changes memory that this process shares with the child.
    let result = unsafe {
        match step {
            Step::LeadGroup => libc::setpgid(0, 0),
            Step::TakeTerminal => libc::tcsetpgrp(0, libc::getpid()),
            Step::Umask(mask) => {
                libc::umask(*mask);
                0
            }
            Step::Descriptor(from, to) => libc::dup2(*from, *to),
            Step::Nice(value) => libc::setpriority(libc::PRIO_PROCESS, 0, *value),
            Step::Limit(resource, limit) => libc::setrlimit(*resource, limit),
            Step::ChangeDirectory(path) => libc::chdir(path.as_ptr()),
            Step::EnterDirectory(directory) => libc::fchdir(*directory),
            Step::NoNewPrivileges => libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            Step::SignalMask(mask) => {
                libc::sigprocmask(libc::SIG_SETMASK, mask.as_ref(), ptr::null_mut())
            }
        }
    };
    check(result).map(drop)
}
