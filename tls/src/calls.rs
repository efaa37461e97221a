//! The system calls that the process makes which skd starts. All others kill it.

use std::collections::BTreeMap;

use libc::c_long;
use nix::sys::resource::Resource;
use skd::sys::seccomp::{Action, Case, Rules, Test, Verdict};

/// Calls that are always allowed. They use memory, descriptors that are there, and time, or ask for
/// something.
const ALLOWED: &[c_long] = &[
    // Memory. With PROT_EXEC in mind, see below for the others.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mlock,
    libc::SYS_munlock,
    // Descriptors.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_pread64,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_lseek,
    libc::SYS_fstat,
    // The standard library looks at the size of a file by these, with an empty path. There is no other path.
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_getpeername,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    libc::SYS_ppoll,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_eventfd2,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    // Threads, and what they begin and end with.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_time,
    libc::SYS_restart_syscall,
    // Random numbers, and how much memory there is: qsort(3) asks for that.
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
];

/// Calls that C libraries try, and go on without: there is no file.
const NO_FILE: &[c_long] = &[
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_open,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_access,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
];

/// A case in which a call is allowed: this argument is this value.
macro_rules! allowed_with {
    ($argument:literal: $($value:expr),+ $(,)?) => {
        &[$(Case {
            tests: &[Test { argument: $argument, mask: u32::MAX, value: $value as u32 }],
            action: Action::Allow,
        }),+]
    };
}

/// The same for options of sockets: level and name.
macro_rules! allowed_options {
    ($($level:expr, $name:expr);+ $(;)?) => {
        &[$(Case {
            tests: &[
                Test { argument: 1, mask: u32::MAX, value: $level as u32 },
                Test { argument: 2, mask: u32::MAX, value: $name as u32 },
            ],
            action: Action::Allow,
        }),+]
    };
}

/// Memory that isn't executed: the third argument has no `PROT_EXEC`.
const NOT_EXECUTABLE: &[Case] = &[Case {
    tests: &[Test {
        argument: 2,
        mask: libc::PROT_EXEC as u32,
        value: 0,
    }],
    action: Action::Allow,
}];

/// A thread: what every one has, and no namespace of its own.
const THREAD: &[Case] = &[Case {
    tests: &[Test {
        argument: 0,
        mask: THREAD_FLAGS | NAMESPACES,
        value: THREAD_FLAGS,
    }],
    action: Action::Allow,
}];
const THREAD_FLAGS: u32 = (libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD) as u32;
const NAMESPACES: u32 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32;

/// What is asked or set of descriptors. Not who gets a signal about them.
const FCNTL: &[Case] = allowed_with!(1:
    libc::F_GETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC, libc::F_SETLK);

/// How much is unread or unsent.
const IOCTL: &[Case] = allowed_with!(1: libc::FIONREAD, libc::TIOCOUTQ, libc::FIONBIO);

/// The process's own limit of open files: how many connections it can have.
const LIMITS: &[Case] = &[Case {
    tests: &[
        Test {
            argument: 0,
            mask: u32::MAX,
            value: 0,
        },
        Test {
            argument: 1,
            mask: u32::MAX,
            value: Resource::RLIMIT_NOFILE as u32,
        },
    ],
    action: Action::Allow,
}];

/// The names of threads and of memory.
const PRCTL: &[Case] = allowed_with!(0: libc::PR_SET_NAME, libc::PR_SET_VMA);

/// Options of connections. Not SO_LINGER: a close by skd could wait for what was passed to it then.
const OPTIONS: &[Case] = allowed_options!(
    libc::IPPROTO_TCP, libc::TCP_NODELAY;
);

/// Returns the verdict about each call.
pub(crate) fn rules() -> Rules {
    let mut calls = BTreeMap::new();
    let mut add = |number: c_long, verdict: Verdict| calls.insert(number as u32, verdict);
    for number in ALLOWED {
        add(*number, Action::Allow.into());
    }
    for number in NO_FILE {
        add(*number, Action::Fail(libc::ENOENT as u16).into());
    }
    // Threads are made by clone(2) then, whose flags a filter sees.
    add(libc::SYS_clone3, Action::Fail(libc::ENOSYS as u16).into());
    let cases = [
        (libc::SYS_mmap, NOT_EXECUTABLE),
        (libc::SYS_mprotect, NOT_EXECUTABLE),
        (libc::SYS_clone, THREAD),
        (libc::SYS_fcntl, FCNTL),
        (libc::SYS_ioctl, IOCTL),
        (libc::SYS_prctl, PRCTL),
        (libc::SYS_prlimit64, LIMITS),
        (libc::SYS_setsockopt, OPTIONS),
        (libc::SYS_tgkill, own_abort()),
    ];
    for (number, cases) in cases {
        let otherwise = Action::Kill;
        add(number, Verdict { cases, otherwise });
    }
    Rules {
        calls,
        others: Action::Kill,
        only_log: false,
        fits_jailer: false,
    }
}

/// abort(3), so that a panic is a panic for skd, which looks at the end of this process. Made once: it is kept
/// for the life of the process.
fn own_abort() -> &'static [Case] {
    let tests = [
        Test {
            argument: 0,
            mask: u32::MAX,
            value: std::process::id(),
        },
        Test {
            argument: 2,
            mask: u32::MAX,
            value: libc::SIGABRT as u32,
        },
    ];
    let cases = [Case {
        tests: Box::leak(Box::new(tests)),
        action: Action::Allow,
    }];
    Box::leak(Box::new(cases))
}
