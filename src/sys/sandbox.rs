//! Rights that a process takes from itself for good: new privileges, system calls (seccomp(2)) and
//! files (landlock(7)).
//!
//! Plain numbers for the kernel, because that is all there is to it: a comparison for each call, and
//! three calls for files. The crates for both would bring six others along.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

use super::result::check;

/// A system call that stays allowed.
#[derive(Clone, Copy, Debug)]
pub enum Call {
    /// With any arguments.
    Any(libc::c_long),
    /// With this value as its first argument, of which 32 bits are compared.
    First(libc::c_long, u32),
}

/// The architecture as the filter sees it (`AUDIT_ARCH_*`), where its numbers are known here.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURE: Option<u32> = None;

/// Keeps this process from gaining privileges by an exec (`PR_SET_NO_NEW_PRIVS`).
pub fn forbid_new_privileges() -> Result<(), Errno> {
    nix::sys::prctl::set_no_new_privs()
}

/// Lets only these system calls through from now on, in this thread and its children. Others fail
/// with ENOSYS: a C library then takes the older call that it was written for first. A call of
/// another architecture ends the process.
///
/// New privileges must be forbidden.
pub fn allow_calls(calls: &[Call]) -> Result<(), Errno> {
    let Some(architecture) = ARCHITECTURE else {
        return Err(Errno::ENOSYS);
    };
    let filter = program(architecture, calls);
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::EINVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to the instructions, which the kernel copies and doesn't change.
    let set = unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    };
    check(set).map(drop)
}

fn program(architecture: u32, calls: &[Call]) -> Vec<libc::sock_filter> {
    // Offsets in struct seccomp_data: the number, the architecture, the first argument.
    const NUMBER: u32 = 0;
    const KIND: u32 = 4;
    const FIRST: u32 = 16;
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUALS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    let of = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let refused = of(RETURN, 0, 0, libc::SECCOMP_RET_ERRNO | Errno::ENOSYS as u32);
    let allowed = of(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW);
    let mut all = vec![
        of(LOAD, 0, 0, KIND),
        of(EQUALS, 1, 0, architecture),
        of(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        of(LOAD, 0, 0, NUMBER),
    ];
    for call in calls {
        match *call {
            Call::Any(number) => all.extend([of(EQUALS, 0, 1, number as u32), allowed]),
            Call::First(number, value) => all.extend([
                of(EQUALS, 0, 4, number as u32),
                of(LOAD, 0, 0, FIRST),
                of(EQUALS, 0, 1, value),
                allowed,
                refused,
            ]),
        }
    }
    all.push(refused);
    all
}

/// Rights to files beneath a directory (`LANDLOCK_ACCESS_FS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u64);

impl Access {
    /// To open files for writing, empty them, and make regular ones.
    pub const WRITE: Self = Self(1 << 1 | 1 << 8 | 1 << 14);
    /// To open files and directories, and to remove files.
    pub const CLEAN_UP: Self = Self(1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 14);
    /// All rights that this program knows.
    const ALL: u64 = (1 << 16) - 1;
}

/// Leaves this process no right to open, make or remove a file but these, none to TCP ports, and
/// none to processes and abstract sockets of others, as far as the kernel knows such rights.
/// Descriptors stay as they are.
///
/// New privileges must be forbidden.
pub fn allow_files(allowed: &[(BorrowedFd<'_>, Access)]) -> Result<(), Errno> {
    const VERSION: libc::c_uint = 1;
    const BENEATH: libc::c_int = 1;
    let none: *const Ruleset = std::ptr::null();
    // SAFETY: the call takes a null pointer and integers, and returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    let version = Errno::result(version)?;
    let known = match version {
        ..=1 => (1 << 13) - 1,
        2 => (1 << 14) - 1,
        3 | 4 => (1 << 15) - 1,
        5.. => Access::ALL,
    };
    let ruleset = Ruleset {
        files: known,
        ports: if version >= 4 { 0b11 } else { 0 },
        scopes: if version >= 6 { 0b11 } else { 0 },
    };
    let length = match version {
        ..=3 => 8,
        4 | 5 => 16,
        6.. => 24_usize,
    };
    // SAFETY: the ruleset is as long as the kernel is told, or longer.
    let made = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            &raw const ruleset,
            length,
            0,
        )
    };
    let made = Errno::result(made)?;
    // SAFETY: the kernel has just opened it for the caller.
    let rules = unsafe { OwnedFd::from_raw_fd(made as i32) };
    for (directory, access) in allowed {
        let rule = PathBeneath {
            access: access.0 & known,
            directory: directory.as_raw_fd(),
        };
        // SAFETY: the rule has the layout of its kind, and is only read.
        let added = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                rules.as_raw_fd(),
                BENEATH,
                &raw const rule,
                0,
            )
        };
        Errno::result(added)?;
    }
    // SAFETY: the call takes integers.
    let set = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), 0) };
    Errno::result(set).map(drop)
}

/// `struct landlock_ruleset_attr` (<linux/landlock.h>), version 6.
#[repr(C)]
struct Ruleset {
    files: u64,
    ports: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    access: u64,
    directory: i32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter returns for a call, as the kernel would run it.
    fn run(program: &[libc::sock_filter], number: u32, kind: u32, first: u32) -> u32 {
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = program[at];
            at += 1;
            match u32::from(step.code) & 7 {
                libc::BPF_LD => {
                    loaded = match step.k {
                        0 => number,
                        4 => kind,
                        16 => first,
                        other => panic!("offset {other}"),
                    };
                }
                libc::BPF_JMP => {
                    at += usize::from(if loaded == step.k { step.jt } else { step.jf });
                }
                libc::BPF_RET => return step.k,
                other => panic!("code {other}"),
            }
        }
    }

    #[test]
    fn the_filter_lets_through_what_is_listed_and_nothing_else() {
        let (kind, other) = (7, 8);
        let filter = program(kind, &[Call::Any(3), Call::First(4, 1), Call::Any(5)]);
        let allow = libc::SECCOMP_RET_ALLOW;
        let refuse = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;
        for first in [0, 1, 2, u32::MAX] {
            assert_eq!(run(&filter, 3, kind, first), allow);
            let expected = if first == 1 { allow } else { refuse };
            assert_eq!(run(&filter, 4, kind, first), expected);
            assert_eq!(run(&filter, 5, kind, first), allow);
            for number in [0, 1, 2, 6, 0x4000_0003, u32::MAX] {
                assert_eq!(run(&filter, number, kind, first), refuse, "{number}");
            }
            assert_eq!(
                run(&filter, 3, other, first),
                libc::SECCOMP_RET_KILL_PROCESS
            );
        }
    }
}
