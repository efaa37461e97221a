//! Which system calls a program may make before it has a client, and at which one it is parked.
//!
//! It may do whatever comes out the same with a placeholder on 0 and 1, and what a process that goes on
//! later, or a copy of one, has as well. Whatever isn't known not to be about a descriptor counts as
//! being about it, if its argument could mean 0 or 1.

use libc::c_long;

use crate::sys::trace::{Call, Fault, Tracee};

/// Who is to go on from where a program is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// Itself.
    Itself,
    /// Copies of it. What it makes in memory and has given up again doesn't concern them.
    Copies,
    /// Copies of one that was found to keep what each of them should have for itself: it is parked
    /// before it makes the first such thing.
    CarefulCopies,
}

/// Whether a program is to be parked at the entry of this call.
pub(super) fn parks(tracee: &Tracee, call: &Call, successor: Successor) -> Result<bool, Fault> {
    let copies = successor != Successor::Itself;
    let careful = successor == Successor::CarefulCopies;
    let [first, second, third, fourth, ..] = call.arguments;
    let is_client = |argument: u64| argument as u32 <= 1;
    let masks = |mask: u64, flags: libc::c_int| mask as i32 & flags == flags;
    Ok(match call.number {
        // What a process has to itself, and neither shares with a copy nor leaves to it; what has
        // to do with time, or with others that it would wait for; and what would bar the way back.
        libc::SYS_clone
        | libc::SYS_clone3
        | libc::SYS_fork
        | libc::SYS_vfork
        | libc::SYS_setsid
        | libc::SYS_setpgid
        | libc::SYS_ptrace
        | libc::SYS_seccomp
        | libc::SYS_unshare
        | libc::SYS_setns
        | libc::SYS_alarm
        | libc::SYS_setitimer
        | libc::SYS_timer_create
        | libc::SYS_mlock
        | libc::SYS_mlock2
        | libc::SYS_mlockall
        | libc::SYS_io_uring_setup
        | libc::SYS_io_uring_enter
        | libc::SYS_sendmmsg => true,
        libc::SYS_prctl => PROCESS_CONTROLS.contains(&(first as libc::c_int)),

        // What would be one thing for all copies, where each should have its own; and can't be seen
        // afterwards, or can.
        libc::SYS_socketpair
        | libc::SYS_shmget
        | libc::SYS_flock
        | libc::SYS_io_setup
        | libc::SYS_sched_setscheduler
        | libc::SYS_sched_setattr
            if copies =>
        {
            true
        }
        libc::SYS_madvise if copies => NOT_COPIED.contains(&(third as libc::c_int)),
        libc::SYS_pipe
        | libc::SYS_pipe2
        | libc::SYS_epoll_create
        | libc::SYS_epoll_create1
        | libc::SYS_eventfd
        | libc::SYS_eventfd2
        | libc::SYS_timerfd_create
        | libc::SYS_inotify_init
        | libc::SYS_inotify_init1
        | libc::SYS_memfd_create
        | libc::SYS_signalfd
        | libc::SYS_signalfd4
        | libc::SYS_fanotify_init
        | libc::SYS_perf_event_open
        | libc::SYS_userfaultfd
        | libc::SYS_creat
        | libc::SYS_openat2
            if careful =>
        {
            true
        }
        libc::SYS_open if careful => creates(second),
        libc::SYS_openat if careful => creates(third),
        libc::SYS_mmap if copies => masks(fourth, libc::MAP_SHARED | libc::MAP_ANONYMOUS),

        // What says of a client's socket what it says of any.
        libc::SYS_fstat | libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_lseek => false,
        libc::SYS_ioctl => is_client(first) && !TERMINALS.contains(&(second as u32)),
        libc::SYS_fcntl => {
            let command = second as libc::c_int;
            // Whatever stands on 0 and 1 later stays open at an exec.
            let same = matches!(command, libc::F_GETFD | libc::F_GETFL)
                || command == libc::F_SETFD && third == 0;
            LOCKS.contains(&command) || is_client(first) && !same
        }

        // What is about descriptors that it finds in memory.
        libc::SYS_poll | libc::SYS_ppoll => polls(tracee, first, second)?,
        libc::SYS_select | libc::SYS_pselect6 => selects(tracee, [second, third, fourth])?,
        libc::SYS_sendmsg => is_client(first) || passes_descriptors(tracee, second)?,

        libc::SYS_dup2 | libc::SYS_dup3 | libc::SYS_sendfile | libc::SYS_tee => {
            is_client(first) || is_client(second)
        }
        libc::SYS_splice | libc::SYS_copy_file_range => is_client(first) || is_client(third),
        libc::SYS_epoll_ctl => is_client(third),
        libc::SYS_close_range => first <= 1,
        number => ABOUT_FIRST.contains(&number) && is_client(first),
    })
}

/// Whether a file may come from this: flags of open(2).
fn creates(flags: u64) -> bool {
    flags as i32 & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) != 0
}

/// Calls whose first argument is a descriptor, and which do something with it.
const ABOUT_FIRST: [c_long; 43] = [
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_sendto,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_dup,
    libc::SYS_close,
    libc::SYS_flock,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_fchmod,
    libc::SYS_fchown,
    libc::SYS_fstatfs,
    libc::SYS_fchdir,
    libc::SYS_getdents64,
    libc::SYS_vmsplice,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_flistxattr,
];

/// What isatty(3) and the like ask, which a socket has no answer to.
const TERMINALS: [u32; 4] = [
    libc::TCGETS as u32,
    libc::TIOCGWINSZ as u32,
    libc::TIOCGPGRP as u32,
    // TCGETS2, for which the C library has no name.
    0x802c_542a,
];

/// Locks of fcntl(2), which belong to a process and not to a copy of it.
const LOCKS: [libc::c_int; 4] = [
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
];

/// prctl(2) operations that a copy wouldn't have, or that keep others away.
const PROCESS_CONTROLS: [libc::c_int; 5] = [
    libc::PR_SET_SECCOMP,
    libc::PR_SET_PDEATHSIG,
    libc::PR_SET_DUMPABLE,
    libc::PR_SET_CHILD_SUBREAPER,
    // PR_SET_SYSCALL_USER_DISPATCH, for which not every C library has a name.
    59,
];

/// What madvise(2) can be told that leaves memory out of copies.
const NOT_COPIED: [libc::c_int; 2] = [libc::MADV_DONTFORK, libc::MADV_WIPEONFORK];

/// How many descriptors are looked through that a program waits for.
const MOST_POLLED: u64 = 256;

/// Whether one of these is the client: `struct pollfd`, whose first half is the descriptor.
fn polls(tracee: &Tracee, list: u64, count: u64) -> Result<bool, Fault> {
    if count > MOST_POLLED {
        return Ok(true);
    }
    for entry in 0..count {
        let mut polled = [0; 8];
        tracee.read(list.wrapping_add(entry * 8), &mut polled)?;
        let [a, b, c, d, ..] = polled;
        if i32::from_ne_bytes([a, b, c, d]) & !1 == 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the client is in one of these sets: `fd_set`, whose first bits are 0 and 1.
fn selects(tracee: &Tracee, sets: [u64; 3]) -> Result<bool, Fault> {
    for set in sets.into_iter().filter(|&set| set != 0) {
        let mut first = [0; 8];
        tracee.read(set, &mut first)?;
        if first[0] & 0b11 != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a message has anything besides bytes: `struct msghdr`, `msg_controllen`.
fn passes_descriptors(tracee: &Tracee, message: u64) -> Result<bool, Fault> {
    const LENGTH: u64 = std::mem::offset_of!(libc::msghdr, msg_controllen) as u64;
    let mut length = [0; 8];
    tracee.read(message.wrapping_add(LENGTH), &mut length)?;
    Ok(u64::from_ne_bytes(length) != 0)
}
