//! clone3(2) on x86-64 (System V ABI, AMD64 supplement).

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
    let mut result = libc::SYS_clone3;
    // SAFETY: as the caller has promised. A system call leaves all registers but rax, rcx and r11
    // as they were, in both processes. The child never leaves this block; its stack is empty, and
    // aligned as a call needs it.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            // The outermost frame.
            "xor ebp, ebp",
            "mov rdi, r10",
            "call r8",
            "mov edi, eax",
            "mov eax, {exit}",
            "syscall",
            "ud2",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") result,
            in("rdi") std::ptr::from_ref(arguments),
            in("rsi") size_of::<Arguments>(),
            in("r8") run,
            in("r10") argument,
            // The sixth argument.
            in("r9") key,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}
