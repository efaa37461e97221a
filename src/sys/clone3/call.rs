//! The call, whatever the architecture.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

#[cfg(target_arch = "aarch64")]
use super::aarch64 as arch;
use super::arguments::{Arguments, Run};
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
use super::unsupported as arch;
#[cfg(target_arch = "x86_64")]
use super::x86_64 as arch;
use crate::sys::memory::Stack;
use crate::sys::seccomp;

/// Whether the kernel has the call (Linux 5.3), no filter refuses it, and there is code for it
/// here.
///
/// A kernel that has it reads the arguments first, and here there are none to be read: EFAULT.
/// Other errors come from a kernel without it, or from a filter: ENOSYS, EPERM, EINVAL.
pub(in crate::sys) fn is_available() -> bool {
    let nothing: *const Arguments = ptr::null();
    // SAFETY: the kernel makes no process from arguments that it can't read.
    let result = unsafe { libc::syscall(libc::SYS_clone3, nothing, size_of::<Arguments>()) };
    arch::IS_SUPPORTED && Errno::result(result) == Err(Errno::EFAULT)
}

/// `CLONE_INTO_CGROUP` (Linux 5.7).
const INTO_CGROUP: u64 = 1 << 33;

/// Makes a child that runs `run` with `argument` on `stack`, and whose end SIGCHLD reports.
///
/// Returns its id: with `CLONE_VFORK` after its exec or end. With `CLONE_PIDFD` its pidfd is
/// written to the first address, with `CLONE_PARENT_SETTID` its id to the second, and with
/// `CLONE_CHILD_SETTID` its id in its own PID namespace to the third. It begins in the
/// control group of this directory, or in that of its parent.
///
/// # Safety
///
/// As for clone(2): while the child runs on the stack, nothing else uses it. Whatever `run` and
/// `argument` refer to stays valid for as long as the child shares this process's memory.
pub(in crate::sys) unsafe fn clone3(
    stack: &mut Stack,
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    run: Run,
    argument: *mut c_void,
    (pidfd, parent_tid, child_tid): (*mut RawFd, *mut i32, *mut i32),
) -> Result<c_int, Errno> {
    let (lowest, length) = stack.usable();
    let arguments = Arguments {
        flags: flags | if cgroup.is_some() { INTO_CGROUP } else { 0 },
        // Of a child of its parent, that is as it has for this process.
        exit_signal: match flags & libc::CLONE_PARENT as u64 {
            0 => libc::SIGCHLD as u64,
            _ => 0,
        },
        pidfd: pidfd as u64,
        parent_tid: parent_tid as u64,
        child_tid: child_tid as u64,
        stack: lowest as u64,
        stack_size: length as u64,
        cgroup: cgroup.map_or(0, |directory| directory.as_raw_fd() as u64),
        ..Arguments::default()
    };
    // SAFETY: as the caller has promised; the arguments are a live local, and what they point to
    // is of the types that the call takes.
    let result = unsafe { arch::clone3(&arguments, run, argument, seccomp::key()) };
    match i32::try_from(result) {
        Ok(errno @ ..0) => Err(Errno::from_raw(-errno)),
        Ok(pid) => Ok(pid),
        Err(_) => Err(Errno::EOVERFLOW),
    }
}
