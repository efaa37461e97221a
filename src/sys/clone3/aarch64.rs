//! clone3(2) on AArch64 (AAPCS64).

use std::arch::asm;
use std::ffi::c_void;

use super::arguments::{Arguments, Run};

/// Whether there is code for it.
pub(super) const IS_SUPPORTED: bool = true;

/// Returns the child's id, or an errno below 0, in the parent alone. The child calls `run` and
/// ends.
///
/// # Safety
///
/// As for clone3(2) with a stack: see the caller.
pub(super) unsafe fn clone3(
    arguments: &Arguments,
    run: Run,
    argument: *mut c_void,
    key: u64,
) -> i64 {
    let result: i64;
    // SAFETY: as the caller has promised. A system call leaves all registers but x0 as they were,
    // in both processes. The child never leaves this block; its stack is empty, and aligned as a
    // call needs it.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            // The outermost frame.
            "mov x29, xzr",
            "mov x30, xzr",
            "mov x0, x3",
            "blr x2",
            "mov x8, {exit}",
            "svc #0",
            "brk #1",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("x0") std::ptr::from_ref(arguments) => result,
            in("x1") size_of::<Arguments>(),
            in("x2") run,
            in("x3") argument,
            // The sixth argument.
            in("x5") key,
            in("x8") libc::SYS_clone3,
        );
    }
    result
}
