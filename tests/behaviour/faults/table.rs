//! What must happen when a call fails.

use Phase::{
    Ending, Newborn, Receiving, Relaying, Relighting, Reopening, Serving, Start, Supervising,
    Upgrading,
};
use Then::{
    Closed, Dropped, Either, Emptied, Ends, Kept, Refused, Relit, Served, Serves, Unreaped, Waits,
};

/// The phase in which a call is made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Phase {
    /// From the first instruction of skd to the first client, in all processes and threads of the start.
    Start,
    /// By skd while it serves streams.
    Serving,
    /// By skd while it serves datagrams.
    Receiving,
    /// By skd while it supervises a program.
    Supervising,
    /// By the relay to syslog from its first instruction on.
    Relaying,
    /// By skd when the relay has ended.
    Relighting,
    /// By a future handler, up to its exec.
    Newborn,
    /// By the relay at a HUP.
    Reopening,
    /// By the main thread from a USR2 on, in the old and the new process; the preflight has no faults.
    Upgrading,
    /// By skd from a TERM on.
    Ending,
}

/// The required result.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Then {
    /// The start fails: not with 0, with one line on stderr, with nothing left behind.
    Refused,
    /// It serves, and with no more rights than it was told to keep.
    Serves,
    /// Either of them: the call is made for several purposes.
    Either,
    /// Clients are served meanwhile.
    Served,
    /// Clients wait, without load, and are served when the fault is over.
    Waits,
    /// The client's connection is closed, one line says why, and nothing is exec'd.
    Closed,
    /// As [`Served`]; but a child that another process has reaped isn't there to be reaped.
    Unreaped,
    /// Clients are served meanwhile; lines of the log are lost, and the log says so later.
    Dropped,
    /// The same, and no line is lost but what the relay had read; there is another relay afterwards.
    Relit,
    /// The log, or the binary of skd, stays the old one, and a line says so.
    Kept,
    /// skd ends with 0.
    Ends,
    /// The same; what can't be removed stays, the pid file empty, and is no hindrance to the next start.
    Emptied,
}

/// A call, how it fails, and the required result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) phase: Phase,
    /// One call, or several names for one, of which the C library chooses. With `@log`, only on the log file.
    pub(super) calls: &'static str,
    pub(super) errnos: &'static str,
    /// Which times, in each thread since the fault began, as strace(1) counts them; [`EACH`] one alone in turn.
    pub(super) when: &'static str,
    pub(super) then: Then,
}

const EACH: &str = "each";

const fn row(
    phase: Phase,
    calls: &'static str,
    errnos: &'static str,
    when: &'static str,
    then: Then,
) -> Row {
    Row {
        phase,
        calls,
        errnos,
        when,
        then,
    }
}

#[rustfmt::skip] // A row a line.
pub(super) const TABLE: &[Row] = &[
    // Descriptors and memory.
    row(Start, "openat", "EACCES EMFILE ENFILE ENOENT ENOMEM EIO", EACH, Either),
    row(Start, "fcntl", "EMFILE EINVAL", EACH, Either),
    row(Start, "dup2", "EMFILE EBUSY EINTR", EACH, Refused),
    row(Start, "close_range", "ENOMEM EMFILE EINVAL ENOSYS", EACH, Either),
    row(Start, "pipe2", "EMFILE ENFILE", EACH, Refused),
    row(Start, "prlimit64", "EPERM EINVAL", EACH, Either),
    // Some memory is only taken in advance.
    row(Start, "mmap", "ENOMEM EAGAIN", EACH, Either),
    // Hash tables are keyed at random; /dev/urandom has random bytes too.
    row(Start, "getrandom", "ENOSYS EPERM", EACH, Serves),
    // A thread that can't have more of its own takes that of another.
    row(Start, "mprotect", "ENOMEM", EACH, Either),
    row(Start, "brk,mremap", "ENOMEM", EACH, Serves),
    // Files.
    row(Start, "newfstatat,fstat", "EACCES ENOMEM", EACH, Either),
    row(Start, "statx", "EACCES EIO ENOMEM", EACH, Either),
    row(Start, "faccessat2,faccessat", "EACCES EIO ENOMEM", EACH, Either),
    row(Start, "read", "EINTR EIO", EACH, Either),
    row(Start, "pread64", "EINTR EIO", EACH, Serves),
    row(Start, "lseek", "ESPIPE", EACH, Serves),
    // A directory may have an access control list.
    row(Start, "fgetxattr", "EIO ENOMEM", EACH, Either),
    row(Start, "flock", "EINTR ENOLCK", EACH, Refused),
    row(Start, "pwrite64", "ENOSPC EDQUOT EIO", EACH, Refused),
    row(Start, "ftruncate", "EIO EPERM", EACH, Refused),
    row(Start, "write", "EPIPE ENOSPC EIO EAGAIN EINTR", EACH, Either),
    // Sockets.
    row(Start, "socket", "EMFILE ENFILE ENOBUFS ENOMEM EACCES", EACH, Either),
    // A kernel may not know how to refuse descriptors.
    row(Start, "setsockopt", "ENOMEM ENOPROTOOPT", EACH, Either),
    row(Start, "fchmod", "EIO EPERM", EACH, Refused),
    row(Start, "bind", "EACCES ENOMEM EADDRNOTAVAIL EROFS", EACH, Refused),
    // Other ports exist, if the kernel was to choose one.
    row(Start, "bind", "EADDRINUSE", EACH, Either),
    row(Start, "getsockname", "ENOBUFS", EACH, Refused),
    row(Start, "listen", "EADDRINUSE", EACH, Refused),
    // Processes and threads.
    row(Start, "clone", "EAGAIN ENOMEM", EACH, Either),
    // The first call only finds out whether the kernel has it.
    row(Start, "clone3", "EAGAIN ENOMEM", EACH, Either),
    // The relay to syslog continues without it.
    row(Start, "setsid", "EPERM", EACH, Either),
    row(Start, "setpgid", "EPERM", EACH, Either),
    // The relay to syslog isn't known to have been started.
    row(Start, "waitid", "EINTR ECHILD", EACH, Either),
    row(Start, "prctl", "EINVAL EPERM", EACH, Either),
    row(Start, "sched_getaffinity", "EFAULT", EACH, Serves),
    // What a handler does too, which is attempted at the start.
    row(Start, "chdir", "EACCES EIO ENOENT", EACH, Refused),
    row(Start, "setpriority", "EACCES EPERM", EACH, Refused),
    // In place. In the foreground, files that the user may not remove are left, the pid file empty.
    row(Start, "execve", "E2BIG EACCES EAGAIN EINVAL EIO EISDIR ELIBBAD ELOOP EMFILE", EACH, Refused),
    row(Start, "execve", "ENAMETOOLONG ENFILE ENOENT ENOMEM ENOTDIR EPERM ETXTBSY", EACH, Refused),
    // Privileges.
    row(Start, "chroot", "EACCES EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR EPERM", EACH, Refused),
    row(Start, "keyctl", "EDQUOT ENOMEM", EACH, Refused),
    // A filter that handlers have too, or a kernel without keyrings.
    row(Start, "keyctl", "EPERM ENOSYS", EACH, Serves),
    row(Start, "setgroups", "EPERM ENOMEM", EACH, Refused),
    row(Start, "setresgid", "EPERM EAGAIN", EACH, Refused),
    row(Start, "setresuid", "EPERM EAGAIN", EACH, Refused),
    // A relay that can't give up its rights ends, and is started again.
    row(Start, "capset", "EPERM", EACH, Either),
    // The first call asks whether skd may become the user; the others prove that it has.
    row(Start, "getgroups", "EFAULT", EACH, Either),
    row(Start, "getgroups", "EFAULT", "2+", Refused),
    // One more group since they were counted.
    row(Start, "getgroups", "EINVAL", EACH, Either),
    row(Start, "getresgid", "EFAULT", EACH, Either),
    row(Start, "getresgid", "EFAULT", "2+", Refused),
    row(Start, "getresuid", "EFAULT", EACH, Either),
    row(Start, "getresuid", "EFAULT", "2+", Refused),
    row(Start, "capget", "EPERM EFAULT", EACH, Either),
    // These are called because they must fail.
    row(Start, "setgid", "EPERM", EACH, Serves),
    row(Start, "setuid", "EPERM EAGAIN", EACH, Serves),
    // The thread that closes connections closes them itself.
    row(Start, "pidfd_getfd,pidfd_open", "EPERM ENOSYS EMFILE", EACH, Serves),
    // What the launcher and the relay to syslog give up, if they can.
    row(Start, "landlock_create_ruleset", "ENOSYS EOPNOTSUPP EINVAL EMFILE ENOMEM", EACH, Serves),
    row(Start, "landlock_add_rule", "EINVAL ENOMEM", EACH, Serves),
    row(Start, "landlock_restrict_self", "E2BIG EPERM", EACH, Serves),
    // Waiting.
    row(Start, "epoll_create1", "EMFILE ENFILE ENOMEM", EACH, Refused),
    row(Start, "eventfd2", "EMFILE ENFILE ENODEV ENOMEM", EACH, Refused),
    // The second one only changes which signals are received.
    row(Start, "signalfd4", "EMFILE ENFILE ENODEV ENOMEM", EACH, Either),
    row(Start, "epoll_ctl", "ENOMEM ENOSPC", EACH, Refused),
    row(Start, "epoll_wait", "EINTR", EACH, Serves),
    // A file that isn't a terminal is left alone.
    row(Start, "ioctl", "ENOTTY EIO", EACH, Serves),
    // The relay to syslog; it may try once more.
    row(Start, "fchdir", "EACCES EIO", EACH, Serves),
    row(Start, "connect", "ECONNREFUSED ENOENT EACCES EAGAIN", EACH, Serves),
    row(Start, "sendto", "EINTR EAGAIN ENOBUFS ECONNREFUSED EACCES EMSGSIZE", EACH, Either),
    row(Start, "socketpair", "EMFILE ENFILE ENOBUFS", EACH, Refused),
    // skd-tls: the settings, and what it is told. A packet that isn't taken is sent again; the end is the end.
    row(Start, "memfd_create", "EMFILE ENFILE ENOMEM", EACH, Refused),
    row(Start, "execveat", "EACCES ENOENT ENOMEM ETXTBSY", EACH, Refused),
    row(Start, "sendmsg", "EAGAIN ENOBUFS EPIPE EPERM", EACH, Either),
    row(Start, "recvmsg", "EAGAIN ENOBUFS ECONNRESET EPERM", EACH, Either),
    row(Start, "poll", "EINTR ENOMEM", EACH, Serves),
    // A client that has gone or a signal; a fault of strace takes nothing from the backlog.
    row(Serving, "accept4", "ECONNABORTED EPROTO EINTR ENETDOWN ETIMEDOUT", "1..3", Served),
    row(Serving, "accept4", "EMFILE ENFILE ENOBUFS ENOMEM EPERM", "1+", Waits),
    row(Serving, "getsockname", "ENOBUFS", "1+", Served),
    row(Serving, "getsockopt", "ENOPROTOOPT", "1+", Served),
    row(Serving, "dup3", "EMFILE EBUSY EINTR", "1+", Waits),
    // The connection is left in the slot until the thread waits, or, if another comes, as long as that takes.
    row(Serving, "dup3", "EMFILE EBUSY EINTR", "2", Served),
    row(Serving, "clone3", "EAGAIN ENOMEM EMFILE ENFILE", "1+", Waits),
    row(Serving, "epoll_ctl", "ENOMEM ENOSPC", "1+", Served),
    row(Serving, "epoll_wait", "EINTR", "1..3", Served),
    row(Serving, "epoll_wait", "EFAULT", "1+", Waits),
    row(Serving, "read", "EINTR EAGAIN", "1..3", Served),
    row(Serving, "waitid", "EINTR", "1..3", Served),
    row(Serving, "kill", "EPERM ESRCH", "1+", Served),
    row(Serving, "ioctl", "EINVAL", "1+", Served),
    row(Serving, "waitid", "ECHILD", "1", Unreaped),
    row(Serving, "write@log", "EAGAIN EPIPE ENOSPC EDQUOT EFBIG EIO", "1+", Served),
    row(Serving, "write@log", "EINTR", "1..3", Served),
    // A datagram is peeked at.
    row(Receiving, "recvmsg", "EINTR EAGAIN", "1..3", Served),
    row(Receiving, "recvmsg", "ENOMEM ENOBUFS ECONNREFUSED ENETDOWN", "1+", Waits),
    // Without its timestamp it is taken for the one before.
    row(Receiving, "setsockopt", "ENOMEM ENOPROTOOPT", "1+", Served),
    row(Receiving, "fcntl", "EPERM EINVAL", "1+", Waits),
    row(Receiving, "dup3", "EMFILE EBUSY EINTR", "1+", Waits),
    row(Receiving, "dup3", "EMFILE EBUSY EINTR", "2", Served),
    row(Receiving, "clone3", "EAGAIN ENOMEM EMFILE ENFILE", "1+", Waits),
    row(Receiving, "epoll_ctl", "ENOMEM ENOSPC", "1+", Served),
    row(Receiving, "epoll_wait", "EINTR", "1..3", Served),
    row(Receiving, "epoll_wait", "EFAULT", "1+", Waits),
    row(Receiving, "read", "EINTR EAGAIN", "1..3", Served),
    row(Receiving, "waitid", "EINTR", "1..3", Served),
    row(Receiving, "waitid", "ECHILD", "1", Unreaped),
    row(Receiving, "write@log", "EAGAIN EPIPE ENOSPC EDQUOT EFBIG EIO", "1+", Served),
    row(Receiving, "write@log", "EINTR", "1..3", Served),
    row(Supervising, "poll", "EINTR", "1..3", Served),
    row(Supervising, "poll", "ENOMEM", "1+", Served),
    row(Supervising, "read", "EINTR EAGAIN", "1..3", Served),
    // ECHILD would mean that another process has reaped the program: then skd ends rather than run two.
    row(Supervising, "waitid", "EINTR", "1..3", Served),
    row(Supervising, "clone3", "EAGAIN ENOMEM", "1+", Waits),
    // A signal isn't passed on.
    row(Supervising, "kill", "EPERM ESRCH", "1+", Served),
    row(Supervising, "write@log", "EAGAIN EPIPE ENOSPC EDQUOT EFBIG EIO", "1+", Served),
    row(Supervising, "write@log", "EINTR", "1..3", Served),
    row(Relaying, "read", "EINTR", "1..3", Served),
    row(Relaying, "read", "EIO ENOMEM", "1", Relit),
    row(Relaying, "sendto", "EINTR EAGAIN ENOBUFS", "1..3", Served),
    row(Relaying, "sendto", "ECONNREFUSED ECONNRESET ENOTCONN EPIPE", "1..3", Served),
    row(Relaying, "sendto", "EAGAIN ENOBUFS ENOMEM EACCES EMSGSIZE ECONNREFUSED", "1+", Dropped),
    row(Relaying, "sendto,poll", "ENOMEM EINVAL", "1+", Dropped),
    row(Relaying, "sendto,socket", "ENOBUFS ENOMEM EMFILE ENFILE EACCES", "1+", Dropped),
    row(Relaying, "sendto,connect", "ECONNREFUSED EACCES ENOENT EAGAIN EPROTOTYPE", "1+", Dropped),
    row(Relighting, "socketpair", "EMFILE ENFILE", "1+", Relit),
    row(Relighting, "pipe2", "EMFILE ENFILE", "1+", Relit),
    row(Relighting, "clone", "EAGAIN ENOMEM", "1+", Relit),
    row(Relighting, "recvfrom", "EINTR ENOMEM", "1..3", Relit),
    row(Relighting, "waitid", "EINTR", "1..3", Relit),
    // It lives, unwatched, and there is no second one beside it.
    // (The first call only reaps the old one.)
    row(Relighting, "epoll_ctl", "ENOMEM ENOSPC", "2+", Relit),
    // The first gives a child its own table, the second empties that.
    row(Newborn, "close_range", "ENOMEM EMFILE", "1", Waits),
    row(Newborn, "close_range", "ENOMEM EMFILE", "2", Waits),
    row(Newborn, "dup2", "EMFILE", "1", Waits),
    row(Newborn, "dup2", "EBUSY EINTR", "1", Closed),
    row(Newborn, "dup2", "EBUSY EINTR", "2", Closed),
    row(Newborn, "setpgid", "EPERM", "1", Closed),
    row(Newborn, "setsid", "EPERM", "1", Closed),
    row(Newborn, "setgroups", "EPERM", "1", Closed),
    row(Newborn, "setresgid", "EPERM", "1", Closed),
    row(Newborn, "setresuid", "EPERM", "1", Closed),
    row(Newborn, "setresuid", "EAGAIN", "1", Waits),
    row(Newborn, "chdir", "EACCES EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR", "1", Closed),
    row(Newborn, "setpriority", "EACCES EPERM", "1", Closed),
    row(Newborn, "prlimit64", "EINVAL EPERM", "1", Closed),
    row(Newborn, "prctl", "EINVAL", "1", Closed),
    row(Newborn, "execve", "EAGAIN EMFILE ENFILE ENOMEM", "1+", Waits),
    row(Newborn, "execve", "E2BIG EACCES EINVAL EIO EISDIR ELIBBAD ELOOP", "1+", Closed),
    row(Newborn, "execve", "ENAMETOOLONG ENOENT ENOEXEC ENOTDIR EPERM ETXTBSY", "1+", Closed),
    row(Reopening, "openat", "EACCES EIO ELOOP EMFILE ENFILE ENOENT ENOSPC EROFS", "1+", Kept),
    row(Reopening, "fcntl", "EPERM", "1+", Kept),
    row(Reopening, "newfstatat,fstat", "ENOMEM", "1+", Kept),
    // By the old process, to test the new binary; and when that has succeeded.
    row(Upgrading, "openat", "EACCES EMFILE ENFILE ENOENT ENOMEM ESTALE ETXTBSY", "1", Kept),
    row(Upgrading, "memfd_create", "EMFILE ENFILE ENOMEM ENOSYS", "1", Kept),
    row(Upgrading, "fcntl", "EMFILE EINVAL", "1+", Kept),
    row(Upgrading, "write", "ENOSPC EIO ENOMEM", "1", Kept),
    row(Upgrading, "pipe2", "EMFILE ENFILE", "1", Kept),
    row(Upgrading, "clone", "EAGAIN ENOMEM", "1", Kept),
    row(Upgrading, "memfd_create", "EMFILE ENFILE ENOMEM", "2", Kept),
    row(Upgrading, "execveat", "EACCES E2BIG EAGAIN ENOENT ENOEXEC ENOMEM EPERM", "1+", Kept),
    // By the new process, which then returns to the old binary.
    row(Upgrading, "epoll_create1", "EMFILE ENFILE ENOMEM", "1", Kept),
    row(Upgrading, "eventfd2", "EMFILE ENFILE ENOMEM", "1", Kept),
    row(Upgrading, "signalfd4", "EMFILE ENFILE ENOMEM", "1", Kept),
    row(Upgrading, "epoll_ctl", "ENOMEM ENOSPC", "5", Kept),
    // The first makes the thread that watches births. After a failure of the second skd takes the call for missing. The
    // third makes a child, the fourth a thread.
    row(Upgrading, "clone3", "EAGAIN ENOMEM", "1", Kept),
    row(Upgrading, "clone3", "EAGAIN ENOMEM", "3", Kept),
    row(Upgrading, "clone3", "EAGAIN ENOMEM", "4", Kept),
    row(Ending, "unlinkat", "EACCES EBUSY EIO EPERM EROFS", "1+", Emptied),
    row(Ending, "newfstatat,fstat", "EACCES ENOMEM", "1+", Emptied),
    row(Ending, "ftruncate,unlinkat", "EIO EPERM", "1+", Ends),
    row(Ending, "read", "EINTR EAGAIN", "1..2", Ends),
    row(Ending, "write", "EAGAIN", "1+", Ends),
    row(Ending, "kill", "EPERM ESRCH", "1+", Ends),
    row(Ending, "waitid", "EINTR", "1..3", Ends),
];

/// Calls that need no row, and why.
#[rustfmt::skip] // As above.
pub(super) const NEEDLESS: &[(&str, &str)] = &[
    ("close", "an error says nothing: the number is free; and strace would keep it open"),
    ("brk", "besides its row: in the relay, where the C library takes mmap instead"),
    ("fcntl", "besides its rows: before every close, in builds with assertions"),
    ("rt_sigaction rt_sigprocmask rt_sigpending sigaltstack", "fail for wrong arguments alone"),
    ("set_robust_list rseq", "what the C library does for a new thread, likewise"),
    ("umask getpid gettid getuid geteuid getgid getegid sched_yield", "can't fail"),
    ("munmap madvise", "give back; nothing depends on it"),
    ("futex clock_nanosleep", "the standard library's, which goes on waiting"),
    ("prctl landlock_create_ruleset landlock_restrict_self seccomp", "besides their rows: the relay goes on without"),
    ("exit exit_group", "don't come back"),
    ("poll recvfrom", "besides their rows: in the relay, which is asked by a socket; they are tried again"),
    ("sendto", "besides its rows: a last request to the relay, without which skd ends at once"),
    ("setfsuid setfsgid", "can't fail; what they did is looked at"),
    ("openat2 readlinkat", "of links on the way to a file; the errors are those of opening it"),
    ("clone3 mmap mprotect", "besides their rows: for a thread that closes descriptors, which is tried again"),
    ("dup3", "besides its rows: of a listener that is closed at the end, which the exit closes"),
    ("kill unlinkat", "besides their rows: at the end, before skd waits for handlers"),
    ("clone", "besides its rows: of a process that discards a datagram, which is tried again"),
    ("shutdown", "of a connection that is over: the error says no more"),
    ("signalfd4", "besides its rows: which signals are received; without the change the old ones are"),
    ("sendmsg", "besides its row: to skd-tls, which is told again what it can't take; a client is rejected"),
    ("epoll_ctl", "besides its rows: of skd-tls, which is waited for at the end without it"),
    ("getrandom", "besides its row: for a hash table that is made later, likewise"),
    ("recvmsg", "besides its rows: of skd-tls, likewise; and of a client that may have closed by then: any error is its end"),
    ("recvfrom", "of a client that may have closed by then: any error is the end of its connection"),
    ("tgkill", "asks for a thread that may be there for ever"),
];

pub(super) fn rows(phase: Phase) -> Vec<Row> {
    let rows = TABLE.iter().filter(|row| row.phase == phase);
    rows.copied().collect()
}

impl Row {
    pub(super) fn calls(&self) -> impl Iterator<Item = &'static str> {
        self.calls.trim_end_matches("@log").split(',')
    }

    pub(super) fn errnos(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.errnos.split(' ')
    }
}
