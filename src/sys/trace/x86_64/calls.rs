//! System calls of 64-bit Linux (System V ABI, AMD64 supplement, A.2.1).

use libc::c_long;

use crate::sys::trace::call::Call;

/// The architecture that calls must have (`AUDIT_ARCH_X86_64`).
pub(in crate::sys::trace) const ARCHITECTURE: u32 = 0xc000_003e;

/// The instruction that makes a call: `syscall`.
pub(in crate::sys::trace) const INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// How long an instruction that sets a call's number and the instruction that makes the call are.
pub(in crate::sys::trace) const CALL_WITH_NUMBER: usize = 7;

/// Whether this is `mov eax, NUMBER; syscall`, by which no other call is made.
pub(in crate::sys::trace) fn makes_call(code: &[u8; 8], number: c_long) -> bool {
    const SET_NUMBER: u8 = 0xb8;
    let [set, a, b, c, d, instruction @ .., _] = *code;
    set == SET_NUMBER
        && c_long::from(u32::from_le_bytes([a, b, c, d])) == number
        && instruction == INSTRUCTION
}

/// The instruction that stops a traced process: `int3`.
pub(in crate::sys::trace) const BREAKPOINT: [u8; 1] = [0xcc];

/// The call that newer architectures have instead of this one.
///
/// Its arguments are those that say which files, descriptors and processes it is about: the others
/// may be missing.
pub(in crate::sys::trace) fn latest(call: Call) -> Call {
    let [first, second, ..] = call.arguments;
    let here = libc::AT_FDCWD as u64;
    let same = call.arguments;
    let (number, arguments): (c_long, _) = match call.number {
        libc::SYS_fork | libc::SYS_vfork => (libc::SYS_clone, [0; 6]),
        libc::SYS_alarm => (libc::SYS_setitimer, [0; 6]),
        libc::SYS_pipe => (libc::SYS_pipe2, same),
        libc::SYS_epoll_create => (libc::SYS_epoll_create1, [0; 6]),
        libc::SYS_eventfd => (libc::SYS_eventfd2, same),
        libc::SYS_inotify_init => (libc::SYS_inotify_init1, [0; 6]),
        libc::SYS_signalfd => (libc::SYS_signalfd4, same),
        libc::SYS_open => (libc::SYS_openat, [here, first, second, 0, 0, 0]),
        libc::SYS_creat => {
            let flags = libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC;
            (libc::SYS_openat, [here, first, flags as u64, second, 0, 0])
        }
        libc::SYS_poll => (libc::SYS_ppoll, same),
        libc::SYS_select => (libc::SYS_pselect6, same),
        libc::SYS_dup2 => (libc::SYS_dup3, same),
        libc::SYS_mkdir => (libc::SYS_mkdirat, [here, first, second, 0, 0, 0]),
        libc::SYS_mknod => (libc::SYS_mknodat, [here, first, second, 0, 0, 0]),
        libc::SYS_unlink | libc::SYS_rmdir => (libc::SYS_unlinkat, [here, first, 0, 0, 0, 0]),
        libc::SYS_symlink => (libc::SYS_symlinkat, [first, here, second, 0, 0, 0]),
        libc::SYS_link => (libc::SYS_linkat, [here, first, here, second, 0, 0]),
        libc::SYS_rename => (libc::SYS_renameat2, [here, first, here, second, 0, 0]),
        libc::SYS_renameat => (libc::SYS_renameat2, same),
        libc::SYS_semop => (libc::SYS_semtimedop, same),
        libc::SYS_stat | libc::SYS_lstat => (libc::SYS_newfstatat, [here, first, second, 0, 0, 0]),
        libc::SYS_access => (libc::SYS_faccessat, [here, first, second, 0, 0, 0]),
        libc::SYS_readlink => (libc::SYS_readlinkat, [here, first, second, 0, 0, 0]),
        libc::SYS_getdents => (libc::SYS_getdents64, same),
        libc::SYS_getrlimit => (libc::SYS_prlimit64, [0, first, 0, second, 0, 0]),
        libc::SYS_setrlimit => (libc::SYS_prlimit64, [0, first, second, 0, 0, 0]),
        libc::SYS_getpgrp => (libc::SYS_getpgid, [0; 6]),
        libc::SYS_time | libc::SYS_gettimeofday => (libc::SYS_clock_gettime, [0; 6]),
        number => (number, same),
    };
    Call { number, arguments }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_makes_one_call_if_its_number_is_set_before() {
        let close = [0xb8, 3, 0, 0, 0, 0x0f, 0x05, 0x48];
        assert!(makes_call(&close, libc::SYS_close));
        assert!(!makes_call(&close, libc::SYS_open));
        // syscall(2) takes the number from a register: mov rax, rdi.
        assert!(!makes_call(
            &[0x48, 0x89, 0xf8, 0, 0, 0x0f, 0x05, 0x48],
            libc::SYS_close
        ));
        assert!(!makes_call(
            &[0xb8, 3, 0, 0, 0, 0xcd, 0x80, 0x48],
            libc::SYS_close
        ));
    }

    #[test]
    fn an_old_call_is_taken_for_its_successor() {
        let call = |number, arguments| Call { number, arguments };
        let here = libc::AT_FDCWD as u64;
        let flags = (libc::O_CREAT | libc::O_WRONLY | libc::O_TRUNC) as u64;
        for (old, new) in [
            (
                call(libc::SYS_open, [7, libc::O_RDWR as u64, 3, 0, 0, 0]),
                call(libc::SYS_openat, [here, 7, libc::O_RDWR as u64, 0, 0, 0]),
            ),
            (
                call(libc::SYS_creat, [7, 0o644, 0, 0, 0, 0]),
                call(libc::SYS_openat, [here, 7, flags, 0o644, 0, 0]),
            ),
            (
                call(libc::SYS_dup2, [4, 1, 0, 0, 0, 0]),
                call(libc::SYS_dup3, [4, 1, 0, 0, 0, 0]),
            ),
            (
                call(libc::SYS_poll, [7, 2, 100, 0, 0, 0]),
                call(libc::SYS_ppoll, [7, 2, 100, 0, 0, 0]),
            ),
        ] {
            assert_eq!(latest(old), new);
            assert_eq!(latest(new), new);
        }
    }
}
