//! The table of system calls: which a program may make before it has a client, and which park it.
//!
//! It may make calls that have the same result with a placeholder on 0 and 1, and whose effect is
//! kept until the process, or a copy of it, goes on. A call whose first argument may be a
//! descriptor counts as using it, unless it is known not to; 0 and 1 are the client.

use libc::c_long;

use crate::sys::trace::{Call, Fault, Tracee};

/// What goes on from where a program is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// Itself.
    Itself,
    /// Copies of it. Descriptors that it has closed again don't matter to them.
    Copies,
    /// Copies of a program that was found to keep what each of them must have for itself: it is
    /// parked before it makes the first of these.
    CarefulCopies,
}

/// Whether this call parks the program that enters it.
pub(super) fn parks(tracee: &Tracee, call: &Call, successor: Successor) -> Result<bool, Fault> {
    let copies = successor != Successor::Itself;
    let careful = successor == Successor::CarefulCopies;
    let [first, second, third, fourth, ..] = call.arguments;
    let is_client = |argument: u64| argument as u32 <= 1;
    let masks = |mask: u64, flags: libc::c_int| mask as i32 & flags == flags;
    Ok(match call.number {
        // State of one process, which a copy neither shares nor inherits; time; other processes,
        // for which it would wait; and what would keep skd from parking it later.
        libc::SYS_clone
        | libc::SYS_clone3
        | libc::SYS_setsid
        | libc::SYS_setpgid
        | libc::SYS_ptrace
        | libc::SYS_seccomp
        | libc::SYS_unshare
        | libc::SYS_setns
        | libc::SYS_setitimer
        | libc::SYS_timer_create
        | libc::SYS_mlock
        | libc::SYS_mlock2
        | libc::SYS_mlockall
        | libc::SYS_io_uring_setup
        | libc::SYS_io_uring_enter
        | libc::SYS_sendmmsg => true,
        libc::SYS_prctl => PROCESS_CONTROLS.contains(&(first as libc::c_int)),

        // What all copies would share, where each must have its own. The first ones leave no trace
        // in /proc.
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
        libc::SYS_pipe2
        | libc::SYS_epoll_create1
        | libc::SYS_eventfd2
        | libc::SYS_timerfd_create
        | libc::SYS_inotify_init1
        | libc::SYS_memfd_create
        | libc::SYS_signalfd4
        | libc::SYS_fanotify_init
        | libc::SYS_perf_event_open
        | libc::SYS_userfaultfd
        | libc::SYS_openat2
            if careful =>
        {
            true
        }
        libc::SYS_openat if careful => creates(third),
        libc::SYS_mmap if copies => masks(fourth, libc::MAP_SHARED | libc::MAP_ANONYMOUS),

        // The result is the same for any socket.
        libc::SYS_fstat | libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_lseek => false,
        libc::SYS_ioctl => is_client(first) && !TERMINALS.contains(&(second as u32)),
        libc::SYS_fcntl => {
            let command = second as libc::c_int;
            // The client's 0 and 1 stay open at an exec too.
            let same = matches!(command, libc::F_GETFD | libc::F_GETFL)
                || command == libc::F_SETFD && third == 0;
            LOCKS.contains(&command) || is_client(first) && !same
        }

        // Descriptors in memory.
        libc::SYS_ppoll => polls(tracee, first, second)?,
        libc::SYS_pselect6 => selects(tracee, [second, third, fourth])?,
        libc::SYS_sendmsg => is_client(first) || passes_descriptors(tracee, second)?,

        libc::SYS_dup3 | libc::SYS_sendfile | libc::SYS_tee => {
            is_client(first) || is_client(second)
        }
        libc::SYS_splice | libc::SYS_copy_file_range => is_client(first) || is_client(third),
        libc::SYS_epoll_ctl => is_client(third),
        libc::SYS_close_range => first <= 1,
        number => ABOUT_FIRST.contains(&number) && is_client(first),
    })
}

/// Whether these flags of open(2) may make a file.
fn creates(flags: u64) -> bool {
    flags as i32 & (libc::O_CREAT | libc::O_TMPFILE & !libc::O_DIRECTORY) != 0
}

/// Calls that use the descriptor in their first argument.
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

/// Requests of isatty(3) and the like, which fail for any socket.
const TERMINALS: [u32; 4] = [
    libc::TCGETS as u32,
    libc::TIOCGWINSZ as u32,
    libc::TIOCGPGRP as u32,
    // TCGETS2, for which the C library has no name.
    0x802c_542a,
];

/// Locks of fcntl(2): a copy doesn't inherit them.
const LOCKS: [libc::c_int; 4] = [
    libc::F_SETLK,
    libc::F_SETLKW,
    libc::F_OFD_SETLK,
    libc::F_OFD_SETLKW,
];

/// Operations of prctl(2) that a copy wouldn't inherit, or that keep a tracer away.
const PROCESS_CONTROLS: [libc::c_int; 5] = [
    libc::PR_SET_SECCOMP,
    libc::PR_SET_PDEATHSIG,
    libc::PR_SET_DUMPABLE,
    libc::PR_SET_CHILD_SUBREAPER,
    // PR_SET_SYSCALL_USER_DISPATCH, for which not every C library has a name.
    59,
];

/// Advice of madvise(2) that keeps memory from copies.
const NOT_COPIED: [libc::c_int; 2] = [libc::MADV_DONTFORK, libc::MADV_WIPEONFORK];

/// How many entries of poll(2) are searched; with more, the program is parked.
const MOST_POLLED: u64 = 256;

/// Whether the client is in a list for poll(2): `struct pollfd`, whose first half is the
/// descriptor.
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

/// Whether a message has more than bytes: `struct msghdr`, `msg_controllen`.
fn passes_descriptors(tracee: &Tracee, message: u64) -> Result<bool, Fault> {
    const LENGTH: u64 = std::mem::offset_of!(libc::msghdr, msg_controllen) as u64;
    let mut length = [0; 8];
    tracee.read(message.wrapping_add(LENGTH), &mut length)?;
    Ok(u64::from_ne_bytes(length) != 0)
}
