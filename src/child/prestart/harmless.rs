//! The system calls that a program may make before it has a client: those that are known to leave
//! nothing outside its own private memory. It is parked at any other call.
//!
//! The table is a part of the manual.

use std::cell::Cell;

use libc::{c_int, c_long};

use super::arguments::{ClientDescriptors, word};
use super::kinds::{Kind, Kinds};
use super::look;
use crate::sys::seccomp::call_name;
use crate::sys::trace::{Call, Tracee};

/// Calls that a program may make.
#[derive(Debug)]
pub struct HarmlessCalls {
    calls: &'static [c_long],
    when: When,
    /// Why nothing remains of them.
    pub reason: &'static str,
}

/// A condition, in words and as code.
type Condition = (&'static str, fn(&Attempt<'_>) -> bool);

/// Which calls are allowed.
#[derive(Debug)]
enum When {
    /// All.
    Always,
    /// Those of a process that goes on itself: its copies would share the answer.
    Alone,
    /// Those for which this holds.
    If(Condition),
    /// The same. They make something of this kind, which must be gone when copies are made.
    Makes(Kind, Condition),
}

/// A call that a program is about to make.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    pub(super) tracee: &'a Tracee,
    pub(super) call: Call,
    /// Whether copies of the program will go on.
    pub(super) copies: bool,
    /// The kinds of what the program was found to keep: it mustn't make anything of these.
    pub(super) without: Kinds,
    pub(super) client: ClientDescriptors,
    /// What it has done since its exec.
    pub(super) so_far: &'a SoFar,
}

/// What a program has done since its exec that it may do only so often.
#[derive(Debug, Default)]
pub(super) struct SoFar {
    /// It has registered its thread.
    registered: Cell<bool>,
    /// It has drawn random bytes for its allocator.
    drawn: Cell<bool>,
    /// How often it has read from a random device.
    reads: Cell<u8>,
}

impl HarmlessCalls {
    /// The names of the calls.
    pub fn calls(&self) -> impl Iterator<Item = String> {
        self.calls.iter().map(|&number| call_name(number))
    }

    /// Which of them; empty if it is all.
    pub fn when(&self) -> &'static str {
        match self.when {
            When::Always => "",
            When::Alone => "with --warm",
            When::If((text, _)) | When::Makes(_, (text, _)) => text,
        }
    }
}

/// The table.
pub fn harmless_calls() -> &'static [HarmlessCalls] {
    TABLE
}

/// Whether a call is harmless.
pub(super) fn is_harmless(attempt: &Attempt<'_>) -> bool {
    let mut table = TABLE.iter();
    let Some(calls) = table.find(|calls| calls.calls.contains(&attempt.call.number)) else {
        return false;
    };
    match calls.when {
        When::Always => true,
        When::Alone => !attempt.copies,
        When::If((_, holds)) => holds(attempt),
        When::Makes(kind, (_, holds)) => {
            let may = !attempt.copies || !attempt.without.meet(kind.into());
            may && holds(attempt)
        }
    }
}

const fn allowed(calls: &'static [c_long], when: When, reason: &'static str) -> HarmlessCalls {
    HarmlessCalls {
        calls,
        when,
        reason,
    }
}

const TABLE: &[HarmlessCalls] = &[
    // Memory.
    allowed(
        &[
            libc::SYS_brk,
            libc::SYS_munmap,
            libc::SYS_mremap,
            libc::SYS_mprotect,
            libc::SYS_mincore,
        ],
        When::Always,
        "its own memory",
    ),
    allowed(
        &[libc::SYS_mmap],
        When::If((
            "private, or of a file that is open for reading alone; not locked, nor of huge pages",
            maps,
        )),
        "the same: what is mapped shared can't be written",
    ),
    allowed(
        &[libc::SYS_madvise],
        When::If((
            "NORMAL, RANDOM, SEQUENTIAL, WILLNEED, DONTNEED, FREE, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP",
            advises,
        )),
        "the same; copies inherit it",
    ),
    // The thread.
    allowed(
        &[libc::SYS_arch_prctl],
        When::If((
            "ARCH_SET_FS, ARCH_GET_FS, ARCH_SET_GS, ARCH_GET_GS, ARCH_CET_STATUS",
            sets_thread,
        )),
        "its registers",
    ),
    allowed(
        &[
            libc::SYS_set_robust_list,
            libc::SYS_get_robust_list,
            libc::SYS_rseq,
        ],
        When::Always,
        "addresses in its memory; registered anew in copies",
    ),
    allowed(
        &[libc::SYS_set_tid_address],
        When::If((
            "with --warm; otherwise once, by the C library",
            registers_thread,
        )),
        "the same; the thread id that it returns is changed in copies",
    ),
    allowed(
        &[libc::SYS_futex],
        When::If(("FUTEX_WAKE of a private futex", wakes)),
        "it has no other thread that could wait",
    ),
    allowed(
        &[
            libc::SYS_sched_yield,
            libc::SYS_nanosleep,
            libc::SYS_restart_syscall,
        ],
        When::Always,
        "only time passes",
    ),
    allowed(
        &[libc::SYS_clock_nanosleep],
        When::If(("of a clock of the system", is_clock_of_system)),
        "the same",
    ),
    // Signals.
    allowed(
        &[
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_rt_sigreturn,
            libc::SYS_rt_sigpending,
            libc::SYS_sigaltstack,
        ],
        When::Always,
        "its own dispositions, mask and stack, which copies inherit",
    ),
    // Another program.
    allowed(
        &[libc::SYS_execve, libc::SYS_execveat],
        When::Always,
        "the new program has as little outside",
    ),
    // Questions.
    allowed(
        &[
            libc::SYS_getuid,
            libc::SYS_geteuid,
            libc::SYS_getgid,
            libc::SYS_getegid,
            libc::SYS_getresuid,
            libc::SYS_getresgid,
            libc::SYS_getgroups,
            libc::SYS_capget,
            libc::SYS_getppid,
            libc::SYS_uname,
            libc::SYS_sysinfo,
            libc::SYS_getcpu,
            libc::SYS_getpriority,
            libc::SYS_sched_getaffinity,
            libc::SYS_sched_getparam,
            libc::SYS_sched_getscheduler,
            libc::SYS_sched_get_priority_max,
            libc::SYS_sched_get_priority_min,
        ],
        When::Always,
        "questions with the same answer in a copy",
    ),
    allowed(
        &[libc::SYS_clock_gettime, libc::SYS_clock_getres],
        When::If(("of a clock of the system", is_clock_of_system)),
        "the same; of the start, as for all that a program does before its client comes",
    ),
    allowed(
        &[libc::SYS_getpid, libc::SYS_getpgid, libc::SYS_getsid],
        When::Alone,
        "copies have other ids",
    ),
    allowed(
        &[libc::SYS_gettid],
        When::If((
            "with --warm, or by Python, for which it is a detail",
            asks_for_thread,
        )),
        "the same; what Go keeps of it would be wrong in copies",
    ),
    allowed(
        &[libc::SYS_getrusage, libc::SYS_times, libc::SYS_getitimer],
        When::Alone,
        "copies have used no processor time, and have no timer",
    ),
    allowed(
        &[libc::SYS_prlimit64],
        When::If(("of this process", limits)),
        "its own limits, which copies inherit",
    ),
    allowed(
        &[libc::SYS_prctl],
        When::If((
            "those that ask; PR_SET_NAME, PR_SET_VMA, PR_SET_THP_DISABLE; PR_SET_TIMERSLACK with --warm; \
             not PR_GET_PDEATHSIG",
            controls,
        )),
        "the same; copies would take the timer slack for their default",
    ),
    allowed(
        &[libc::SYS_personality],
        When::If(("0xffffffff", asks_for_personality)),
        "a question",
    ),
    allowed(
        &[libc::SYS_getrandom],
        When::If((
            "with --warm; otherwise with GRND_NONBLOCK, 8 bytes once, as glibc for its allocator, and 24 \
             bytes by Python for its hash tables",
            draws,
        )),
        "copies share these bytes, which are no secrets",
    ),
    // Files.
    allowed(
        &[libc::SYS_openat, libc::SYS_openat2],
        When::If((
            "for reading: regular files and directories, but in /proc, /sys and the like only \
             /proc/self/maps, /proc/cpuinfo, filesystems and meminfo, \
             /proc/sys/kernel/cap_last_cap and ngroups_max, /proc/sys/vm/overcommit_memory and \
             /sys/devices/system/cpu/online, if they are closed again with --fork-server; \
             /dev/null, zero, full, random and urandom; for writing, /dev/null, and /dev/tty where \
             there is none",
            opens,
        )),
        "nothing is made, and no device or pipe notices",
    ),
    allowed(
        &[
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_pread64,
            libc::SYS_preadv,
            libc::SYS_preadv2,
        ],
        When::If((
            "of such files that are open for reading alone; of /dev/null, zero and full; of random and \
             urandom with --warm, or otherwise 4 bytes twice, by Perl for its hash tables",
            reads,
        )),
        "copies open the files anew, at the same position",
    ),
    allowed(
        &[
            libc::SYS_getdents64,
            libc::SYS_fadvise64,
            libc::SYS_readahead,
        ],
        When::If(("of such files, and directories", is_own_file)),
        "the same",
    ),
    allowed(
        &[
            libc::SYS_fstat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_faccessat,
            libc::SYS_faccessat2,
            libc::SYS_statfs,
            libc::SYS_getcwd,
            libc::SYS_getxattr,
            libc::SYS_lgetxattr,
        ],
        When::Always,
        "questions; 0 and 1 are a socket, as later",
    ),
    allowed(
        &[libc::SYS_readlinkat],
        When::If(("not in /proc, but for /proc/self/exe", reads_link)),
        "a question; other links in /proc have the process id in them",
    ),
    allowed(
        &[libc::SYS_lseek],
        When::If((
            "SEEK_CUR by 0; of 0 and 1; of such files and directories",
            seeks,
        )),
        "fails for a socket, as later; copies have their own positions",
    ),
    allowed(
        &[
            libc::SYS_close,
            libc::SYS_dup,
            libc::SYS_fstatfs,
            libc::SYS_fchdir,
        ],
        When::If(("not of 0 and 1", is_not_client)),
        "its own table of descriptors, and directory",
    ),
    allowed(
        &[libc::SYS_dup3],
        When::If(("not of or to 0 and 1", copies_other)),
        "the same",
    ),
    allowed(
        &[libc::SYS_close_range],
        When::If(("from 2 up", closes_others)),
        "the same",
    ),
    allowed(
        &[libc::SYS_chdir],
        When::If(("of directories, not in /proc or /sys", enters)),
        "its own, which copies inherit; those in /proc may be about the process",
    ),
    allowed(
        &[libc::SYS_umask],
        When::Always,
        "its own, which copies inherit",
    ),
    allowed(
        &[libc::SYS_fcntl],
        When::If((
            "F_GETFD, F_GETFL; F_SETFD, not to close 0 and 1 at an exec; not of 0 and 1, F_DUPFD, \
             F_DUPFD_CLOEXEC; of regular files, F_SETFL without O_ASYNC",
            controls_descriptor,
        )),
        "the same",
    ),
    allowed(
        &[libc::SYS_ioctl],
        When::If((
            "the questions of isatty(3) and the like; not of 0 and 1, FIOCLEX and FIONCLEX",
            asks_terminal,
        )),
        "fails for a socket, as later",
    ),
    // What is often made for a moment.
    allowed(
        &[libc::SYS_pipe2],
        When::Makes(
            Kind::Pipe,
            ("if it is closed again, with --fork-server", always),
        ),
        "proved from /proc",
    ),
    allowed(
        &[libc::SYS_socket, libc::SYS_socketpair],
        When::Makes(
            Kind::Socket,
            ("the same, of unix(7), ip(7) and ipv6(7)", is_usual_socket),
        ),
        "the same",
    ),
    allowed(
        &[libc::SYS_connect],
        When::If((
            "to a unix socket that isn't there: nscd's, where that doesn't run",
            connects_to_nothing,
        )),
        "it fails",
    ),
    allowed(
        &[
            libc::SYS_epoll_create1,
            libc::SYS_eventfd2,
            libc::SYS_timerfd_create,
            libc::SYS_inotify_init1,
        ],
        When::Makes(Kind::Anonymous, ("the same", always)),
        "the same",
    ),
    allowed(
        &[libc::SYS_memfd_create],
        When::Makes(Kind::Memory, ("the same", always)),
        "the same",
    ),
];

fn always(_: &Attempt<'_>) -> bool {
    true
}

fn maps(attempt: &Attempt<'_>) -> bool {
    let [_, _, _, flags, descriptor, _] = attempt.call.arguments;
    let flags = flags as c_int;
    // Locks aren't inherited. A copy of huge pages may find none left, which ends it.
    if flags & (libc::MAP_LOCKED | libc::MAP_HUGETLB) != 0 {
        return false;
    }
    let anonymous = flags & libc::MAP_ANONYMOUS != 0;
    let of_file = || look::is_read_file(attempt.tracee.pid(), descriptor as u32);
    match flags & libc::MAP_TYPE {
        // Without the right to write the file, the mapping can't become writable either.
        libc::MAP_SHARED | libc::MAP_SHARED_VALIDATE => !anonymous && of_file(),
        libc::MAP_PRIVATE => {
            anonymous || of_file() || look::is_stateless(attempt.tracee.pid(), descriptor as u32)
        }
        _ => false,
    }
}

fn advises(attempt: &Attempt<'_>) -> bool {
    let advice = attempt.call.arguments[2] as c_int;
    [
        libc::MADV_NORMAL,
        libc::MADV_RANDOM,
        libc::MADV_SEQUENTIAL,
        libc::MADV_WILLNEED,
        libc::MADV_DONTNEED,
        libc::MADV_FREE,
        libc::MADV_HUGEPAGE,
        libc::MADV_NOHUGEPAGE,
        libc::MADV_DONTDUMP,
        libc::MADV_DODUMP,
    ]
    .contains(&advice)
}

fn sets_thread(attempt: &Attempt<'_>) -> bool {
    // ARCH_SET_GS, ARCH_SET_FS, ARCH_GET_FS and ARCH_GET_GS (arch_prctl(2)). The dynamic linker of
    // some distributions asks with ARCH_CET_STATUS, which kernels don't know.
    let operation = attempt.call.arguments[0];
    (0x1001..=0x1004).contains(&operation) || operation == 0x3001
}

fn wakes(attempt: &Attempt<'_>) -> bool {
    let wake = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
    attempt.call.arguments[1] as c_int == wake
}

fn is_clock_of_system(attempt: &Attempt<'_>) -> bool {
    let clock = attempt.call.arguments[0] as libc::clockid_t;
    [
        libc::CLOCK_REALTIME,
        libc::CLOCK_MONOTONIC,
        libc::CLOCK_MONOTONIC_RAW,
        libc::CLOCK_REALTIME_COARSE,
        libc::CLOCK_MONOTONIC_COARSE,
        libc::CLOCK_BOOTTIME,
        libc::CLOCK_TAI,
    ]
    .contains(&clock)
}

fn registers_thread(attempt: &Attempt<'_>) -> bool {
    // A copy has its own id where the C library keeps it, and nowhere else.
    !attempt.so_far.registered.replace(true) || !attempt.copies
}

fn asks_for_thread(attempt: &Attempt<'_>) -> bool {
    !attempt.copies || look::is_python(attempt.tracee.pid())
}

fn limits(attempt: &Attempt<'_>) -> bool {
    attempt.call.arguments[0] == 0
}

fn controls(attempt: &Attempt<'_>) -> bool {
    // PR_SET_VMA, for which not every C library has a name.
    const SET_VMA: c_int = 0x5356_4d41;
    let [option, what, ..] = attempt.call.arguments;
    let option = option as c_int;
    if option == libc::PR_SET_TIMERSLACK {
        return !attempt.copies;
    }
    // As libcap-ng asks, for example in sshd.
    let asks_ambient =
        option == libc::PR_CAP_AMBIENT && what as c_int == libc::PR_CAP_AMBIENT_IS_SET;
    // Not PR_GET_PDEATHSIG: a process that is traced here ends with its tracer.
    let harmless = [
        libc::PR_GET_DUMPABLE,
        libc::PR_GET_KEEPCAPS,
        libc::PR_SET_NAME,
        libc::PR_GET_NAME,
        libc::PR_GET_SECCOMP,
        libc::PR_CAPBSET_READ,
        libc::PR_GET_TSC,
        libc::PR_GET_SECUREBITS,
        libc::PR_GET_TIMERSLACK,
        libc::PR_MCE_KILL_GET,
        libc::PR_GET_CHILD_SUBREAPER,
        libc::PR_GET_NO_NEW_PRIVS,
        libc::PR_GET_THP_DISABLE,
        libc::PR_SET_THP_DISABLE,
        SET_VMA,
    ];
    asks_ambient || harmless.contains(&option)
}

fn asks_for_personality(attempt: &Attempt<'_>) -> bool {
    attempt.call.arguments[0] as u32 == u32::MAX
}

fn draws(attempt: &Attempt<'_>) -> bool {
    // Other lengths may be for secrets: 16 bytes are an UUID, or a seed of Ruby's generator.
    const ALLOCATOR: u64 = 8;
    const HASHES: u64 = 24;
    let [_, length, flags, ..] = attempt.call.arguments;
    if !attempt.copies {
        return true;
    }
    flags as u32 == libc::GRND_NONBLOCK
        && match length {
            ALLOCATOR => !attempt.so_far.drawn.replace(true),
            HASHES => look::is_python(attempt.tracee.pid()),
            _ => false,
        }
}

fn opens(attempt: &Attempt<'_>) -> bool {
    let [directory, name, flags, ..] = attempt.call.arguments;
    let flags = match attempt.call.number {
        // The flags come first in `struct open_how`.
        libc::SYS_openat2 => match word(attempt.tracee, flags) {
            Ok(flags) => flags,
            Err(_) => return false,
        },
        _ => u64::from(flags as u32),
    };
    let tracee = attempt.tracee;
    // Copies mustn't have a file of /proc open.
    let may_ask = !attempt.copies || !attempt.without.meet(Kind::Special.into());
    look::opens_quietly(tracee, directory as c_int, name, flags)
        || may_ask && look::opens_answer(tracee, name, flags)
}

fn reads(attempt: &Attempt<'_>) -> bool {
    /// How many bytes Perl reads at a time, and how often.
    const SEED: (u64, u8) = (4, 2);
    let [descriptor, _, length, ..] = attempt.call.arguments;
    if attempt.client.have(descriptor) {
        return false;
    }
    let pid = attempt.tracee.pid();
    let descriptor = descriptor as u32;
    if look::is_random(pid, descriptor) {
        if !attempt.copies {
            return true;
        }
        let few = attempt.call.number == libc::SYS_read && length <= SEED.0;
        let reads = attempt.so_far.reads.get();
        attempt.so_far.reads.set(reads.saturating_add(1));
        return few && reads < SEED.1 && look::is_perl(pid);
    }
    look::is_read_file(pid, descriptor)
        || look::is_stateless(pid, descriptor)
        || look::is_answer(pid, descriptor)
}

fn is_own_file(attempt: &Attempt<'_>) -> bool {
    let descriptor = attempt.call.arguments[0];
    !attempt.client.have(descriptor) && look::is_read_file(attempt.tracee.pid(), descriptor as u32)
}

fn reads_link(attempt: &Attempt<'_>) -> bool {
    let [directory, name, ..] = attempt.call.arguments;
    look::links_quietly(attempt.tracee, directory as c_int, name)
}

fn enters(attempt: &Attempt<'_>) -> bool {
    look::enters_quietly(attempt.tracee, attempt.call.arguments[0])
}

fn seeks(attempt: &Attempt<'_>) -> bool {
    let [descriptor, offset, whence, ..] = attempt.call.arguments;
    let asks = offset == 0 && whence as c_int == libc::SEEK_CUR;
    let is_answer = || look::is_answer(attempt.tracee.pid(), descriptor as u32);
    asks || attempt.client.have(descriptor) || is_own_file(attempt) || is_answer()
}

fn is_not_client(attempt: &Attempt<'_>) -> bool {
    !attempt.client.have(attempt.call.arguments[0])
}

fn copies_other(attempt: &Attempt<'_>) -> bool {
    let [from, to, ..] = attempt.call.arguments;
    !attempt.client.have(from) && !attempt.client.have(to)
}

fn closes_others(attempt: &Attempt<'_>) -> bool {
    !attempt.client.have(attempt.call.arguments[0])
}

fn controls_descriptor(attempt: &Attempt<'_>) -> bool {
    let [descriptor, command, argument, ..] = attempt.call.arguments;
    match command as c_int {
        libc::F_GETFD | libc::F_GETFL => true,
        // The client stays open at an exec too.
        libc::F_SETFD => !attempt.client.have(descriptor) || argument == 0,
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => !attempt.client.have(descriptor),
        libc::F_SETFL => {
            let asynchronous = argument as c_int & libc::O_ASYNC != 0;
            let is_own = || look::is_read_file(attempt.tracee.pid(), descriptor as u32);
            !attempt.client.have(descriptor) && !asynchronous && is_own()
        }
        _ => false,
    }
}

fn asks_terminal(attempt: &Attempt<'_>) -> bool {
    // TCGETS2, for which the C library has no name.
    const GET_ATTRIBUTES_2: u32 = 0x802c_542a;
    let [descriptor, request, ..] = attempt.call.arguments;
    match request as u32 {
        GET_ATTRIBUTES_2 => true,
        request if request == libc::TCGETS as u32 => true,
        request if request == libc::TIOCGWINSZ as u32 => true,
        request if request == libc::TIOCGPGRP as u32 => true,
        request if request == libc::FIOCLEX as u32 || request == libc::FIONCLEX as u32 => {
            !attempt.client.have(descriptor)
        }
        _ => false,
    }
}

fn connects_to_nothing(attempt: &Attempt<'_>) -> bool {
    let [descriptor, address, length, ..] = attempt.call.arguments;
    let tracee = attempt.tracee;
    // `struct sockaddr_un`: the family is in two bytes before the path.
    let is_unix = || {
        word(tracee, address).is_ok_and(|word| {
            let [a, b, ..] = word.to_ne_bytes();
            c_int::from(u16::from_ne_bytes([a, b])) == libc::AF_UNIX
        })
    };
    !attempt.client.have(descriptor)
        && (10..=size_of::<libc::sockaddr_un>() as u64).contains(&length)
        && is_unix()
        && look::is_missing(tracee, address + 2, length - 2)
}

fn is_usual_socket(attempt: &Attempt<'_>) -> bool {
    let [family, kind, ..] = attempt.call.arguments;
    let usual = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].contains(&(family as c_int));
    let kind = kind as c_int & !(libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK);
    usual && [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET].contains(&kind)
}
