//! What clone3(2) takes.

use std::ffi::{c_int, c_void};

/// `struct clone_args` (<linux/sched.h>) as of Linux 5.7. Earlier kernels take it as long as the
/// last fields are 0.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    /// The directory of the child's cgroup (`CLONE_INTO_CGROUP`).
    pub(super) cgroup: u64,
}

/// What a child runs; it ends with the status that this returns.
pub(super) type Run = extern "C" fn(*mut c_void) -> c_int;
