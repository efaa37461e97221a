//! The system calls that park a program for `--fork-server=shared`, which makes all others.
//!
//! It may make calls that have the same result with a placeholder on 0 and 1, and whose effect is
//! kept until a copy of it goes on. A call whose first argument may be a descriptor counts as using
//! it, unless it is known not to.

use libc::c_long;

use super::arguments::{ClientDescriptors, word};
use super::kinds::{Kind, Kinds};
use super::look::is_read_only;
use super::verdict::Verdict;
use crate::report::Extent;
use crate::sys::trace::{Call, Fault, Tracee};

/// What a call does that matters before there is a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    /// It reads, or changes memory, registers or credentials: private to a process, and the same in
    /// a copy of it.
    Private,
    /// It concerns the client, another process, or what a copy neither shares nor inherits.
    Parks,
    /// It makes or uses what all copies would share, and what may leave no trace in /proc.
    Shared,
    /// It makes what all copies would share, for as long as that exists.
    Makes(Kinds),
    /// It makes, changes or takes a name: what outlives the process, and others may find meanwhile.
    Names,
    /// It makes a file if there is none.
    Files,
}

/// Whether a call parks the program that enters it.
///
/// `without` has the kinds that the program was found to keep. It is parked before it makes
/// anything of these. What else it makes and gives up again doesn't matter.
pub(super) fn judge(
    tracee: &Tracee,
    call: &Call,
    without: Kinds,
    client: ClientDescriptors,
) -> Result<Verdict, Fault> {
    Ok(match effect(tracee, call, without, client)? {
        Effect::Private => Verdict::GoesOn,
        Effect::Makes(kinds) if !kinds.meet(without) => Verdict::GoesOn,
        Effect::Parks | Effect::Shared | Effect::Makes(_) => Verdict::Parked,
        Effect::Names | Effect::Files => Verdict::ParkedForNow,
    })
}

fn effect(
    tracee: &Tracee,
    call: &Call,
    without: Kinds,
    client: ClientDescriptors,
) -> Result<Effect, Fault> {
    use Effect::{Makes, Names, Parks, Private, Shared};
    let [first, second, third, fourth, fifth, ..] = call.arguments;
    let parks_if = |parks: bool| if parks { Parks } else { Private };
    Ok(match call.number {
        // State of one process, which a copy neither shares nor inherits; time; what another
        // process would wait for while this one waits for its client; what outlives it, if it is
        // ended without a client; and what would keep skd from parking it later.
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
        | libc::SYS_flock
        | libc::SYS_semtimedop
        | libc::SYS_shmget
        | libc::SYS_msgget
        | libc::SYS_semget
        | libc::SYS_mq_open
        | libc::SYS_mq_unlink
        | libc::SYS_sendmmsg => Parks,
        libc::SYS_prctl => parks_if(!INHERITED_CONTROLS.contains(&(first as libc::c_int))),
        // A signal to itself may become pending, which a copy doesn't inherit. 0 is no signal.
        libc::SYS_kill | libc::SYS_tkill | libc::SYS_rt_sigqueueinfo
        | libc::SYS_pidfd_send_signal => parks_if(second != 0),
        libc::SYS_tgkill | libc::SYS_rt_tgsigqueueinfo => parks_if(third != 0),

        // Memory.
        libc::SYS_mmap => maps(tracee, fourth, fifth),
        libc::SYS_madvise if NOT_COPIED.contains(&(third as libc::c_int)) => Shared,
        libc::SYS_remap_file_pages | libc::SYS_memfd_secret | libc::SYS_shmat => Shared,
        libc::SYS_memfd_create => Makes(Kind::Memory.into()),

        // Queues, semaphores, rings, keys: without a descriptor, or with memory behind one.
        libc::SYS_shmctl
        | libc::SYS_msgsnd
        | libc::SYS_msgrcv
        | libc::SYS_msgctl
        | libc::SYS_semctl
        | libc::SYS_io_setup
        | libc::SYS_perf_event_open
        | libc::SYS_bpf
        | libc::SYS_userfaultfd
        | libc::SYS_add_key
        | libc::SYS_request_key
        | libc::SYS_keyctl
        | libc::SYS_pidfd_getfd
        | libc::SYS_open_by_handle_at
        // The kernel can be told to reset it in copies.
        | libc::SYS_sched_setscheduler
        | libc::SYS_sched_setattr => Shared,

        // Descriptors.
        libc::SYS_pipe2 => Makes(Kind::Pipe.into()),
        libc::SYS_socket | libc::SYS_socketpair => Makes(Kind::Socket.into()),
        libc::SYS_accept | libc::SYS_accept4 if !client.have(first) => Makes(Kind::Socket.into()),
        libc::SYS_epoll_create1
        | libc::SYS_eventfd2
        | libc::SYS_timerfd_create
        | libc::SYS_signalfd4
        | libc::SYS_inotify_init1
        | libc::SYS_fanotify_init
        | libc::SYS_pidfd_open
        | libc::SYS_landlock_create_ruleset
        | libc::SYS_fsopen
        | libc::SYS_fspick => Makes(Kind::Anonymous.into()),

        // Names.
        libc::SYS_openat => opens(tracee, second, third, without),
        // The flags come first in `struct open_how`.
        libc::SYS_openat2 => match word(tracee, third) {
            Ok(flags) => opens(tracee, second, flags, without),
            Err(_) => Private,
        },
        libc::SYS_bind if !client.have(first) => binds(tracee, second, third),
        libc::SYS_mkdirat
        | libc::SYS_mknodat
        | libc::SYS_linkat
        | libc::SYS_symlinkat
        | libc::SYS_renameat2
        | libc::SYS_unlinkat => Names,

        // The result is the same for any socket.
        libc::SYS_fstat | libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_lseek => Private,
        libc::SYS_ioctl => parks_if(client.have(first) && !TERMINALS.contains(&(second as u32))),
        libc::SYS_fcntl => {
            parks_if(!controls((client, first), second as libc::c_int, third))
        },

        libc::SYS_sendmsg => parks_if(client.have(first) || passes_descriptors(tracee, second)?),

        libc::SYS_close_range => parks_if(client.have(first)),
        _ => parks_if(uses_client(tracee, call, client)?),
    })
}

/// How much of a program's start is done at this call.
pub(super) fn extent(tracee: &Tracee, call: &Call, client: ClientDescriptors) -> Extent {
    match uses_client(tracee, call, client) {
        Ok(true) if INPUT.contains(&call.number) => Extent::Whole,
        Ok(true) => Extent::BeforeClient,
        Ok(false) | Err(_) => Extent::Part,
    }
}

/// Calls that wait for input.
const INPUT: [c_long; 10] = [
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
];

/// Whether a call is about the client, and not only a question with the same answer for any socket.
fn uses_client(tracee: &Tracee, call: &Call, client: ClientDescriptors) -> Result<bool, Fault> {
    let [first, second, third, fourth, ..] = call.arguments;
    Ok(match call.number {
        libc::SYS_ppoll => polls(tracee, client, first, second)?,
        libc::SYS_pselect6 => selects(tracee, client, [second, third, fourth])?,
        libc::SYS_dup3 | libc::SYS_sendfile | libc::SYS_tee => {
            client.have(first) || client.have(second)
        }
        libc::SYS_splice | libc::SYS_copy_file_range => client.have(first) || client.have(third),
        libc::SYS_epoll_ctl => client.have(third),
        number => ABOUT_FIRST.contains(&number) && client.have(first),
    })
}

/// The effect of a mapping (mmap(2)) with these flags, of this descriptor.
fn maps(tracee: &Tracee, flags: u64, descriptor: u64) -> Effect {
    let flags = flags as libc::c_int;
    // Locks aren't inherited. A copy of huge pages may find none left, which ends it.
    if flags & (libc::MAP_LOCKED | libc::MAP_HUGETLB) != 0 {
        return Effect::Shared;
    }
    let kind = flags & libc::MAP_TYPE;
    let shared = kind == libc::MAP_SHARED || kind == libc::MAP_SHARED_VALIDATE;
    if !shared {
        return Effect::Private;
    }
    if flags & libc::MAP_ANONYMOUS != 0 || !is_read_only(tracee.pid(), descriptor as u32) {
        return Effect::Shared;
    }
    // Without the right to write the file, the mapping can't become writable either.
    Effect::Private
}

/// The effect of opening the file with this name (open(2)).
fn opens(tracee: &Tracee, name: u64, flags: u64, without: Kinds) -> Effect {
    const UNNAMED: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
    let flags = flags as i32;
    let has = |flag| flags & flag != 0;
    if has(libc::O_TRUNC) || has(libc::O_CREAT) && has(libc::O_EXCL) {
        Effect::Names
    } else if has(libc::O_CREAT) {
        Effect::Files
    } else if has(UNNAMED) {
        Effect::Makes(Kind::Unnamed.into())
    } else if without.meet(Kind::Special.into()) && is_special(tracee, name) {
        // Names are looked at only where it matters: that takes a call.
        Effect::Makes(Kind::Special.into())
    } else {
        Effect::Private
    }
}

/// Whether this is the name of a file in /dev or /proc.
///
/// A name that can't be read isn't: opening it fails, or what is open is found later.
fn is_special(tracee: &Tracee, name: u64) -> bool {
    word(tracee, name).is_ok_and(|word| {
        let beginning = word.to_ne_bytes();
        beginning.starts_with(b"/dev/") || beginning.starts_with(b"/proc/")
    })
}

/// The effect of binding a socket to this address: no other socket can have it then.
fn binds(tracee: &Tracee, address: u64, length: u64) -> Effect {
    let [a, b, c, d, ..] = word(tracee, address).unwrap_or_default().to_ne_bytes();
    let port = u16::from_be_bytes([c, d]);
    match libc::c_int::from(u16::from_ne_bytes([a, b])) {
        // An address of no more than a family lets the kernel choose one, as does port 0.
        libc::AF_UNIX if length > 2 => Effect::Names,
        libc::AF_INET | libc::AF_INET6 if port != 0 => Effect::Names,
        _ => Effect::Private,
    }
}

/// Whether this operation of fcntl(2) has the same result for any socket, or doesn't concern the
/// client and leaves nothing that a copy doesn't inherit or that others would wait for.
fn controls(
    (client, descriptor): (ClientDescriptors, u64),
    command: libc::c_int,
    argument: u64,
) -> bool {
    match command {
        libc::F_GETFD | libc::F_GETFL => true,
        // The client stays open at an exec too.
        libc::F_SETFD => !client.have(descriptor) || argument == 0,
        libc::F_SETFL => !client.have(descriptor) && argument as i32 & libc::O_ASYNC == 0,
        libc::F_DUPFD
        | libc::F_DUPFD_CLOEXEC
        | libc::F_GETLK
        | libc::F_OFD_GETLK
        | libc::F_GETPIPE_SZ
        | libc::F_SETPIPE_SZ
        | libc::F_GET_SEALS
        | libc::F_ADD_SEALS => !client.have(descriptor),
        // Locks and leases; signals to its own process id.
        _ => false,
    }
}

/// Calls that use the descriptor in their first argument.
const ABOUT_FIRST: [c_long; 45] = [
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
    libc::SYS_sendmsg,
    libc::SYS_fcntl,
    libc::SYS_ioctl,
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

/// Operations of prctl(2) that ask, or whose effect a copy inherits.
const INHERITED_CONTROLS: [libc::c_int; 23] = [
    libc::PR_GET_PDEATHSIG,
    libc::PR_GET_DUMPABLE,
    libc::PR_GET_KEEPCAPS,
    libc::PR_SET_KEEPCAPS,
    libc::PR_SET_NAME,
    libc::PR_GET_NAME,
    libc::PR_GET_SECCOMP,
    libc::PR_CAPBSET_READ,
    libc::PR_CAPBSET_DROP,
    libc::PR_GET_TSC,
    libc::PR_GET_SECUREBITS,
    libc::PR_SET_SECUREBITS,
    libc::PR_GET_TIMERSLACK,
    libc::PR_SET_TIMERSLACK,
    libc::PR_MCE_KILL_GET,
    libc::PR_GET_CHILD_SUBREAPER,
    libc::PR_SET_NO_NEW_PRIVS,
    libc::PR_GET_NO_NEW_PRIVS,
    libc::PR_GET_TID_ADDRESS,
    libc::PR_SET_THP_DISABLE,
    libc::PR_GET_THP_DISABLE,
    libc::PR_CAP_AMBIENT,
    // PR_SET_VMA, for which not every C library has a name.
    0x5356_4d41,
];

/// Advice of madvise(2) that keeps memory from copies.
const NOT_COPIED: [libc::c_int; 2] = [libc::MADV_DONTFORK, libc::MADV_WIPEONFORK];

/// How many entries of poll(2) are searched; with more, the program is parked.
const MOST_POLLED: u64 = 256;

/// Whether the client is in a list for poll(2): `struct pollfd`, whose first half is the
/// descriptor.
fn polls(tracee: &Tracee, client: ClientDescriptors, list: u64, count: u64) -> Result<bool, Fault> {
    if count > MOST_POLLED {
        return Ok(true);
    }
    for entry in 0..count {
        let [a, b, c, d, ..] = word(tracee, list.wrapping_add(entry * 8))?.to_ne_bytes();
        if client.have(u32::from_ne_bytes([a, b, c, d]).into()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the client is in one of these sets: `fd_set`, whose first bits are 0, 1 and 2.
fn selects(tracee: &Tracee, client: ClientDescriptors, sets: [u64; 3]) -> Result<bool, Fault> {
    for set in sets.into_iter().filter(|&set| set != 0) {
        let [first, ..] = word(tracee, set)?.to_ne_bytes();
        if first & client.bits() != 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a message has more than bytes: `struct msghdr`, `msg_controllen`.
fn passes_descriptors(tracee: &Tracee, message: u64) -> Result<bool, Fault> {
    const LENGTH: u64 = std::mem::offset_of!(libc::msghdr, msg_controllen) as u64;
    Ok(word(tracee, message.wrapping_add(LENGTH))? != 0)
}
