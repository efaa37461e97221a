//! System calls that fail: each one that skd makes, with the errnos that its manual page allows.
//!
//! [`TABLE`] says what must happen then, and [`NEEDLESS`] which calls need no row, and why. A call that is in
//! neither fails a test. strace(1) makes the calls fail: a whole start runs under it, or it is attached to a
//! daemon that serves.

use crate::harness::{
    Directory, Running, Skd, connect, connect_unix, cpu_ticks, descriptors, echo, ids, is_zombie,
    poll_for, receive, requires_command, requires_root, stat_field, status_field, talk, threads,
    wait_for, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt::Debug;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use Phase::{Ending, Newborn, Reopening, Serving, Start, Upgrading};
use Then::{Closed, Either, Emptied, Ends, Kept, Refused, Served, Serves, Unreaped, Waits};

/// Where a call is made.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Phase {
    /// From the first line of skd's own to the first client, in all processes and threads of the start.
    Start,
    /// By skd while it serves.
    Serving,
    /// By a handler to be, up to its exec.
    Newborn,
    /// By skd at a HUP.
    Reopening,
    /// By the main thread from a USR2 on, whichever image that is; the trial has no faults.
    Upgrading,
    /// By skd from a TERM on.
    Ending,
}

/// What must happen.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    /// The start fails: not with 0, with one line on stderr, with nothing left behind.
    Refused,
    /// It serves, and with no more rights than it was told to keep.
    Serves,
    /// One or the other: the call is made for several purposes.
    Either,
    /// Clients are served meanwhile.
    Served,
    /// Clients wait, in peace, and are served when the fault is over.
    Waits,
    /// The client's connection is closed, one line says why, and nothing is exec'd.
    Closed,
    /// As [`Served`]; but a child that somebody else has reaped isn't there to be reaped.
    Unreaped,
    /// The log, or the image of skd, stays the old one, and says so.
    Kept,
    /// skd ends with 0.
    Ends,
    /// The same; what can't be removed stays, the pid file empty, and is no hindrance to the next start.
    Emptied,
}

/// What fails, how, and what then.
#[derive(Clone, Copy, Debug)]
struct Row {
    phase: Phase,
    /// One call, or several names for one, which the C library chooses from. With `@log`, only on the log file.
    calls: &'static str,
    errnos: &'static str,
    /// Which times, in each thread since the fault began, as strace(1) counts them; [`EACH`] one alone in turn.
    when: &'static str,
    then: Then,
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
const TABLE: &[Row] = &[
    // Descriptors and memory.
    row(Start, "openat", "EACCES EMFILE ENFILE ENOENT ENOMEM EIO", EACH, Either),
    row(Start, "fcntl", "EMFILE EINVAL", EACH, Either),
    row(Start, "dup2", "EMFILE EBUSY EINTR", EACH, Refused),
    row(Start, "close_range", "ENOMEM EMFILE EINVAL ENOSYS", EACH, Either),
    row(Start, "pipe2", "EMFILE ENFILE", EACH, Refused),
    row(Start, "prlimit64", "EPERM EINVAL", EACH, Either),
    row(Start, "mmap", "ENOMEM EAGAIN", EACH, Refused),
    row(Start, "mprotect", "ENOMEM", EACH, Refused),
    row(Start, "brk,mremap", "ENOMEM", EACH, Serves),
    // Files.
    row(Start, "newfstatat,fstat", "EACCES ENOMEM", EACH, Either),
    row(Start, "statx", "EACCES EIO ENOMEM", EACH, Either),
    row(Start, "faccessat2,faccessat", "EACCES EIO ENOMEM", EACH, Either),
    row(Start, "read", "EINTR EIO", EACH, Either),
    row(Start, "pread64", "EINTR EIO", EACH, Serves),
    row(Start, "lseek", "ESPIPE", EACH, Serves),
    row(Start, "flock", "EINTR ENOLCK", EACH, Refused),
    row(Start, "pwrite64", "ENOSPC EDQUOT EIO", EACH, Refused),
    row(Start, "ftruncate", "EIO EPERM", EACH, Refused),
    row(Start, "write", "EPIPE ENOSPC EIO EAGAIN EINTR", EACH, Either),
    // Sockets.
    row(Start, "socket", "EMFILE ENFILE ENOBUFS ENOMEM EACCES", EACH, Refused),
    row(Start, "setsockopt", "ENOMEM ENOPROTOOPT", EACH, Refused),
    row(Start, "fchmod", "EIO EPERM", EACH, Refused),
    row(Start, "bind", "EACCES ENOMEM EADDRNOTAVAIL EROFS", EACH, Refused),
    // Of a port that was left to the kernel there are others.
    row(Start, "bind", "EADDRINUSE", EACH, Either),
    row(Start, "getsockname", "ENOBUFS", EACH, Refused),
    row(Start, "listen", "EADDRINUSE", EACH, Refused),
    // Processes and threads.
    row(Start, "clone", "EAGAIN ENOMEM", EACH, Either),
    row(Start, "clone3", "EAGAIN ENOMEM", EACH, Refused),
    row(Start, "setsid", "EPERM", EACH, Refused),
    row(Start, "waitid", "EINTR ECHILD", EACH, Serves),
    row(Start, "prctl", "EINVAL EPERM", EACH, Either),
    row(Start, "sched_getaffinity", "EFAULT", EACH, Serves),
    // What a handler does too, which is tried at the start.
    row(Start, "setpgid", "EACCES EPERM", EACH, Refused),
    row(Start, "chdir", "EACCES EIO ENOENT", EACH, Refused),
    row(Start, "setpriority", "EACCES EPERM", EACH, Refused),
    // Privileges.
    row(Start, "setgroups", "EPERM ENOMEM", EACH, Refused),
    row(Start, "setresgid", "EPERM EAGAIN", EACH, Refused),
    row(Start, "setresuid", "EPERM EAGAIN", EACH, Refused),
    row(Start, "capset", "EPERM", EACH, Refused),
    row(Start, "getgroups", "EFAULT", EACH, Refused),
    // A group more since they were counted.
    row(Start, "getgroups", "EINVAL", EACH, Either),
    row(Start, "getresgid", "EFAULT", EACH, Refused),
    row(Start, "getresuid", "EFAULT", EACH, Refused),
    row(Start, "capget", "EPERM EFAULT", EACH, Refused),
    // These are tried because they must fail.
    row(Start, "setgid", "EPERM", EACH, Serves),
    row(Start, "setuid", "EPERM EAGAIN", EACH, Serves),
    // Waiting.
    row(Start, "epoll_create1", "EMFILE ENFILE ENOMEM", EACH, Refused),
    row(Start, "eventfd2", "EMFILE ENFILE ENODEV ENOMEM", EACH, Refused),
    row(Start, "signalfd4", "EMFILE ENFILE ENODEV ENOMEM", EACH, Refused),
    row(Start, "epoll_ctl", "ENOMEM ENOSPC", EACH, Refused),
    row(Start, "epoll_wait", "EINTR", EACH, Serves),
    // A client who has gone or a signal; nothing is taken from the backlog by a fault of strace's.
    row(Serving, "accept4", "ECONNABORTED EPROTO EINTR ENETDOWN ETIMEDOUT", "1..3", Served),
    row(Serving, "accept4", "EMFILE ENFILE ENOBUFS ENOMEM EPERM", "1+", Waits),
    row(Serving, "getsockname", "ENOBUFS", "1+", Served),
    row(Serving, "getsockopt", "ENOPROTOOPT", "1+", Served),
    row(Serving, "dup3", "EMFILE EBUSY EINTR", "1+", Waits),
    // The connection is left in the slot until the next one comes.
    row(Serving, "dup3", "EMFILE EBUSY EINTR", "2", Served),
    row(Serving, "clone", "EAGAIN ENOMEM EMFILE ENFILE", "1+", Waits),
    row(Serving, "epoll_ctl", "ENOMEM ENOSPC", "1+", Served),
    row(Serving, "epoll_wait", "EINTR", "1..3", Served),
    row(Serving, "epoll_wait", "EFAULT", "1+", Waits),
    row(Serving, "read", "EINTR EAGAIN", "1..3", Served),
    row(Serving, "waitid", "EINTR", "1..3", Served),
    row(Serving, "waitid", "ECHILD", "1", Unreaped),
    row(Serving, "write@log", "EAGAIN EPIPE ENOSPC EDQUOT EFBIG EIO", "1+", Served),
    row(Serving, "write@log", "EINTR", "1..3", Served),
    // The first gives a child its own table, the second empties that.
    row(Newborn, "close_range", "ENOMEM EMFILE", "1", Waits),
    row(Newborn, "close_range", "ENOMEM EMFILE", "2", Waits),
    row(Newborn, "dup2", "EMFILE", "1", Waits),
    row(Newborn, "dup2", "EBUSY EINTR", "1", Closed),
    row(Newborn, "dup2", "EBUSY EINTR", "2", Closed),
    row(Newborn, "setpgid", "EACCES EPERM", "1", Closed),
    row(Newborn, "chdir", "EACCES EIO ELOOP ENAMETOOLONG ENOENT ENOMEM ENOTDIR", "1", Closed),
    row(Newborn, "setpriority", "EACCES EPERM", "1", Closed),
    row(Newborn, "prlimit64", "EINVAL EPERM", "1", Closed),
    row(Newborn, "prctl", "EINVAL", "1", Closed),
    row(Newborn, "rt_sigprocmask", "EINVAL", "1", Closed),
    row(Newborn, "execve", "EAGAIN EMFILE ENFILE ENOMEM", "1+", Waits),
    row(Newborn, "execve", "E2BIG EACCES EINVAL EIO EISDIR ELIBBAD ELOOP", "1+", Closed),
    row(Newborn, "execve", "ENAMETOOLONG ENOENT ENOEXEC ENOTDIR EPERM ETXTBSY", "1+", Closed),
    row(Reopening, "openat", "EACCES EIO ELOOP EMFILE ENFILE ENOENT ENOSPC EROFS", "1+", Kept),
    row(Reopening, "fcntl", "EPERM", "1+", Kept),
    row(Reopening, "dup2", "EMFILE EBUSY EINTR", "1+", Kept),
    // Then it is taken for a plain file.
    row(Reopening, "newfstatat,fstat", "ENOMEM", "1+", Served),
    // By the old image, to try the new one; and when that has said yes.
    row(Upgrading, "openat", "EACCES EMFILE ENFILE ENOENT ENOMEM ESTALE ETXTBSY", "1", Kept),
    row(Upgrading, "memfd_create", "EMFILE ENFILE ENOMEM ENOSYS", "1", Kept),
    row(Upgrading, "fcntl", "EMFILE EINVAL", "1+", Kept),
    row(Upgrading, "write", "ENOSPC EIO ENOMEM", "1", Kept),
    row(Upgrading, "pipe2", "EMFILE ENFILE", "1", Kept),
    row(Upgrading, "clone", "EAGAIN ENOMEM", "1", Kept),
    row(Upgrading, "memfd_create", "EMFILE ENFILE ENOMEM", "2", Kept),
    row(Upgrading, "execveat", "EACCES E2BIG EAGAIN ENOENT ENOEXEC ENOMEM EPERM", "1+", Kept),
    // By the new one, which then becomes the old one again.
    row(Upgrading, "epoll_create1", "EMFILE ENFILE ENOMEM", "1", Kept),
    row(Upgrading, "eventfd2", "EMFILE ENFILE ENOMEM", "1", Kept),
    row(Upgrading, "signalfd4", "EMFILE ENFILE ENOMEM", "1", Kept),
    row(Upgrading, "epoll_ctl", "ENOMEM ENOSPC", "5", Kept),
    // Of one alone it takes that this kernel can't make pidfds with it.
    row(Upgrading, "clone", "EAGAIN ENOMEM", "2..3", Kept),
    row(Upgrading, "clone3", "EAGAIN ENOMEM", "1", Kept),
    row(Ending, "unlinkat", "EACCES EBUSY EIO EPERM EROFS", "1+", Emptied),
    row(Ending, "newfstatat,fstat", "EACCES ENOMEM", "1+", Emptied),
    row(Ending, "ftruncate,unlinkat", "EIO EPERM", "1+", Ends),
    row(Ending, "read", "EINTR EAGAIN", "1..2", Ends),
    row(Ending, "write", "EAGAIN", "1+", Ends),
];

/// Calls that need no row, and why.
#[rustfmt::skip] // As above.
const NEEDLESS: &[(&str, &str)] = &[
    ("close", "an error says nothing: the number is free; and strace would keep it open"),
    ("fcntl", "besides its rows: before every close, in builds with assertions"),
    ("rt_sigaction rt_sigprocmask sigaltstack", "fail for wrong arguments alone"),
    ("set_robust_list rseq", "what the C library does for a new thread, likewise"),
    ("umask getpid gettid getuid geteuid getgid getegid sched_yield", "can't fail"),
    ("munmap madvise", "give back; nothing depends on it"),
    ("futex clock_nanosleep", "the standard library's, which goes on waiting"),
    ("exit exit_group", "don't come back"),
];

fn rows(phase: Phase) -> Vec<Row> {
    let rows = TABLE.iter().filter(|row| row.phase == phase);
    rows.copied().collect()
}

impl Row {
    fn calls(&self) -> impl Iterator<Item = &'static str> {
        self.calls.trim_end_matches("@log").split(',')
    }

    fn errnos(&self) -> impl Iterator<Item = &'static str> {
        self.errnos.split(' ')
    }
}

/// Runs a test of each of these, several at once because each mostly waits, and tells all that failed.
fn on_each<T: Debug + Sync>(items: &[T], test: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if catch_unwind(AssertUnwindSafe(|| test(item))).is_err() {
                        failed.lock().unwrap().push(item);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:#?}",
        failed.len(),
        items.len()
    );
}

const NOBODY: u32 = 65_534;

/// A command line whose start is tried.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Setting {
    /// No more than a port.
    Plain,
    /// All that makes further calls.
    Foreground,
    /// The same, and root is given up.
    Dropping,
    /// The same in the background.
    Background,
}

const SETTINGS: [Setting; 4] = [
    Setting::Plain,
    Setting::Foreground,
    Setting::Dropping,
    Setting::Background,
];

impl Setting {
    fn skd(self, directory: &Directory) -> Skd {
        let skd = match self {
            Self::Plain => return Skd::new(["-t", "127.0.0.1:0"]),
            Self::Foreground => Skd::new([""; 0]),
            Self::Dropping => Skd::new(["-U"]),
            Self::Background => Skd::new(["-U", "-B"]),
        };
        skd.args(elaborate(directory))
            .args(["-P", &directory.name("pid")])
            .env("UID", NOBODY.to_string())
            .env("GID", NOBODY.to_string())
            // The tests' own may name directories that are closed to others.
            .env("PATH", "/bin:/usr/bin")
    }

    fn drops(self) -> bool {
        matches!(self, Self::Dropping | Self::Background)
    }
}

/// Options with which skd makes more calls, at the start and for a connection.
fn elaborate(directory: &Directory) -> Vec<String> {
    let log = format!(">{}", directory.name("log"));
    let socket = directory.name("socket");
    let words = [
        "--threads",
        "1",
        "-vv",
        "-t",
        "0.0.0.0:0",
        "-l",
        &socket,
        "-L",
        &log,
    ];
    let more = [
        "--unix-mode",
        "666",
        "--chdir",
        "/",
        "--umask",
        "22",
        "--nice",
        "1",
    ];
    let rest = ["--limit", "core=0:0", "--no-new-privs"];
    let all = words.into_iter().chain(more).chain(rest);
    all.map(str::to_owned).collect()
}

/// The process that serves.
fn service(skd: &Running, directory: &Directory) -> i32 {
    directory.read("pid").trim().parse().unwrap_or(skd.pid())
}

/// Waits until the first client of a start is served, or it has ended without.
fn first_client(skd: &Running) -> Option<TcpStream> {
    let mut waiting: Option<TcpStream> = None;
    wait_for("the end of the start, or a client who is served", || {
        if skd.try_wait(Duration::ZERO).is_some() {
            return Some(None);
        }
        if waiting.is_none() {
            let port: u16 = skd.stdout_lines().first()?.parse().expect("a port");
            assert_ne!(port, 0, "no port was left to the kernel");
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
            stream.set_nonblocking(true).unwrap();
            stream.write_all(b"k").ok()?;
            waiting = Some(stream);
        }
        match waiting.as_mut()?.read(&mut [0]) {
            Ok(1) => {
                let served = waiting.take()?;
                served.set_nonblocking(false).unwrap();
                Some(Some(served))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            // The start has failed with this one in the backlog.
            Ok(_) | Err(_) => {
                waiting = None;
                None
            }
        }
    })
}

/// Every live handler is nobody.
fn expect_nobody(service: i32) {
    let mut handlers = crate::harness::children(service);
    handlers.retain(|&pid| crate::harness::exists(pid));
    assert!(!handlers.is_empty());
    for pid in handlers {
        let all = vec![NOBODY; 4];
        assert_eq!(ids(pid), (all.clone(), all, vec![NOBODY]), "{pid}");
    }
}

/// A call as strace tells it.
#[derive(Debug)]
struct Call {
    thread: i32,
    name: String,
    text: String,
}

impl Call {
    /// Whether it can't fail: it wakes a thread, by a write to an eventfd whose counter is nowhere near full; or it
    /// is an assertion about a descriptor that is to be closed.
    fn is_safe(&self) -> bool {
        let wakes = r#"\1\0\0\0\0\0\0\0", 8"#;
        self.text.contains(wakes) || self.text.contains("F_GETFD")
    }
}

/// The calls of skd and of its children up to their exec, as they begin.
fn calls(trace: &str) -> Vec<Call> {
    let mut found: Vec<Call> = Vec::new();
    let mut others = HashSet::new();
    for line in trace.lines() {
        let (thread, text) = line.split_once(' ').expect("a thread and a call");
        let (thread, text) = (thread.parse().expect("a number"), text.trim_start());
        if others.contains(&thread) {
            continue;
        }
        let resumed = text.strip_prefix("<... ");
        let name: String = resumed
            .unwrap_or(text)
            .chars()
            .take_while(|&letter| letter.is_ascii_alphanumeric() || letter == '_')
            .collect();
        // The first of all is that of skd itself.
        if name == "execve" && text.ends_with("= 0") && !found.is_empty() {
            others.insert(thread);
        }
        if resumed.is_none() && !name.is_empty() {
            let text = text.to_owned();
            found.push(Call { thread, name, text });
        }
    }
    found
}

/// A plain run: all calls, and where in it begin skd's own, serving, and ending.
#[derive(Debug)]
struct Record {
    setting: Setting,
    calls: Vec<Call>,
    begin: usize,
    serving: usize,
    ending: usize,
}

fn record(setting: Setting) -> Record {
    requires_root();
    requires_command("strace");
    let (own, directory) = (Directory::new(), Directory::public());
    let skd = setting
        .skd(&directory)
        .wrapper(["strace", "-f", "-qq", "-o", &own.name("trace")])
        .start("cat");
    let mut client = first_client(&skd).expect("a client who is served");
    echo(&mut client, b"served");
    assert_eq!(talk(client, b""), b"");
    let service = service(&skd, &directory);
    if setting != Setting::Plain {
        assert_eq!(
            talk(connect_unix(directory.join("socket")), b"unix"),
            b"unix"
        );
        fs::rename(directory.join("log"), directory.join("old")).unwrap();
        kill(Pid::from_raw(service), Signal::SIGHUP).unwrap();
        skd.wait_until("there is a new log, or nobody may make one", || {
            directory.join("log").exists() || directory.read("old").contains("opened again")
        });
    }
    let waits = |(thread, _): (i32, String)| {
        let call = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap_or_default();
        call.split(' ').next() == Some(&libc::SYS_epoll_wait.to_string())
    };
    skd.wait_until("all are reaped, and all threads wait", || {
        crate::harness::children(service).is_empty() && threads(service).into_iter().all(waits)
    });
    kill(Pid::from_raw(service), Signal::SIGTERM).unwrap();
    assert_eq!(skd.wait().code(), Some(0));

    let calls = calls(&own.read("trace"));
    let find = |what: &str, wanted: &dyn Fn(&Call) -> bool| {
        let found = calls.iter().position(wanted);
        found.unwrap_or_else(|| panic!("no {what} in {}", own.read("trace")))
    };
    let begin = find("beginning", &|call| call.name == "rt_sigprocmask");
    let port = find("port", &|call| call.text.starts_with("write(1, \""));
    let waits = |call: &Call| call.thread == calls[port].thread && call.name == "epoll_wait";
    let serving = port + calls[port..].iter().position(waits).expect("serving");
    // When it comes back from the last time.
    let last = calls.iter().rposition(waits).expect("waiting for the end");
    let goes_on = |call: &Call| call.thread == calls[port].thread;
    let ending = last
        + 1
        + calls[last + 1..]
            .iter()
            .position(goes_on)
            .expect("an ending");
    Record {
        setting,
        begin,
        serving,
        ending,
        calls,
    }
}

fn records() -> &'static [Record] {
    static RECORDS: OnceLock<Vec<Record>> = OnceLock::new();
    RECORDS.get_or_init(|| SETTINGS.map(record).into())
}

impl Record {
    /// What was called in which phase. What the main thread does for a HUP counts as serving.
    fn phases(&self) -> BTreeSet<(Phase, &str)> {
        let all = self.calls.iter().enumerate().skip(self.begin);
        all.map(|(index, call)| {
            let phase = match index {
                _ if self.is_newborn(call.thread) => Newborn,
                _ if self.is_of_start(index) => Start,
                _ if index < self.ending => Serving,
                _ => Ending,
            };
            (phase, call.name.as_str())
        })
        .collect()
    }

    fn is_newborn(&self, thread: i32) -> bool {
        let execs = |call: &Call| call.thread == thread && call.name == "execve";
        thread != self.calls[0].thread && self.calls.iter().any(execs)
    }

    /// The start of a thread ends when it waits, which may be when others serve already.
    fn is_of_start(&self, index: usize) -> bool {
        let thread = self.calls[index].thread;
        let waits = |call: &Call| call.thread == thread && call.name == "epoll_wait";
        match self.calls.iter().position(waits) {
            Some(wait) => index <= wait,
            None => index < self.serving && !self.is_newborn(thread),
        }
    }

    /// The calls of the start, each as a name and its number among those of that name in its thread. One in the
    /// midst of a row of its like is like the others, and left out. So are the loader's, and those up to where
    /// the run differs from another.
    fn places(&self, others: &[Self]) -> BTreeSet<(&str, usize)> {
        let like = |other: &Self| {
            let pairs = self.calls.iter().zip(&other.calls);
            pairs.take_while(|(own, its)| own.name == its.name).count()
        };
        let known_to = others
            .iter()
            .map(like)
            .chain([self.begin])
            .max()
            .unwrap_or(0);
        let mut threads: BTreeMap<i32, Vec<&Call>> = BTreeMap::new();
        for (index, call) in self.calls.iter().enumerate() {
            if self.is_of_start(index) {
                threads.entry(call.thread).or_default().push(call);
            }
        }
        // strace counts in each thread, so those would fail as well.
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for call in &self.calls[..known_to] {
            *known.entry(&call.name).or_default() += 1;
        }
        let mut places = BTreeSet::new();
        for calls in threads.values() {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for (at, call) in calls.iter().enumerate() {
                let name = call.name.as_str();
                let count = counts.entry(name).or_default();
                *count += 1;
                let like = |other: usize| calls.get(other).is_some_and(|it| it.name == name);
                let midst = at > 0 && like(at - 1) && like(at + 1);
                if !midst && !call.is_safe() && *count > known.get(name).copied().unwrap_or(0) {
                    places.insert((name, *count));
                }
            }
        }
        places
    }
}

#[test]
fn every_call_has_a_row_or_a_reason_for_having_none() {
    let needless: HashSet<&str> = NEEDLESS
        .iter()
        .flat_map(|(calls, _)| calls.split(' '))
        .collect();
    let mut missing = BTreeSet::new();
    for record in records() {
        for (phase, call) in record.phases() {
            let told = |row: &Row| {
                (row.phase == phase || (row.phase, phase) == (Reopening, Serving))
                    && row.calls().any(|name| name == call)
            };
            if !needless.contains(call) && !TABLE.iter().any(told) {
                missing.insert((phase, call));
            }
        }
    }
    assert!(
        missing.is_empty(),
        "neither in TABLE nor in NEEDLESS: {missing:?}"
    );
}

/// Options of strace with which these calls fail, and an exec is told.
fn injection(calls: &str, errno: &str, when: &str) -> [String; 4] {
    [
        "-e".to_owned(),
        format!("trace={calls},execve"),
        "-e".to_owned(),
        format!("inject={calls}:error={errno}:when={when}"),
    ]
}

/// A start in which one call fails.
#[derive(Debug)]
struct Fault {
    setting: Setting,
    call: &'static str,
    place: usize,
    errno: &'static str,
    then: Then,
}

/// Each row with each place where the call is made, and with each errno.
fn faults() -> Vec<Fault> {
    let mut faults = Vec::new();
    for row in rows(Start) {
        let mut places = Vec::new();
        for (index, record) in records().iter().enumerate() {
            for (name, place) in record.places(&records()[..index]) {
                if row.calls().any(|call| call == name) {
                    places.push((record.setting, name, place));
                }
            }
        }
        assert!(!places.is_empty(), "no start makes this call: {row:?}");
        for (setting, call, place) in places {
            faults.extend(row.errnos().map(|errno| Fault {
                setting,
                call,
                place,
                errno,
                then: row.then,
            }));
        }
    }
    faults
}

#[test]
fn a_start_in_which_a_call_fails_is_refused_and_leaves_nothing_or_serves() {
    let faults = faults();
    println!("{} faults", faults.len());
    // One or the other place may not be come to: what a thread allocates depends on who came first.
    let made = Mutex::new(HashSet::new());
    on_each(&faults, |fault| {
        let own = Directory::new();
        if start_with(fault, &own) {
            made.lock().unwrap().insert(fault.call);
        }
    });
    let made = made.into_inner().unwrap();
    let never = faults.iter().find(|fault| !made.contains(fault.call));
    assert!(never.is_none(), "it wasn't made: {never:?}");
}

/// Says whether the call was made.
fn start_with(fault: &Fault, own: &Directory) -> bool {
    let Fault {
        setting,
        call,
        place,
        errno,
        then,
    } = fault;
    let directory = Directory::public();
    let strace = ["strace", "-f", "-qq", "-o", &own.name("trace")].map(str::to_owned);
    let injection = injection(call, errno, &place.to_string());
    let skd = setting
        .skd(&directory)
        .wrapper(strace.into_iter().chain(injection))
        .start("cat");
    let client = first_client(&skd);
    let is_served = client.is_some();
    if is_served {
        let service = service(&skd, &directory);
        if setting.drops() {
            expect_nobody(service);
        }
        drop(client);
        kill(Pid::from_raw(service), Signal::SIGTERM).unwrap();
        assert_eq!(skd.wait().code(), Some(0));
        assert_eq!(directory.read("pid"), "");
    } else {
        let output = skd.wait_with_output();
        assert!(output.code().is_some_and(|code| code > 0), "{output:#?}");
        let lines: Vec<_> = output.stderr.lines().collect();
        let one = lines.len() == 1 && lines[0].starts_with("skd: ");
        assert!(one, "{output:#?}");
        skd.wait_until("no process is left", || skd.processes().is_empty());
        assert_eq!(directory.names(), [""; 0]);
        // That of skd itself.
        assert_eq!(own.read("trace").matches("execve(").count(), 1);
    }
    let is_made = own.read("trace").contains("(INJECTED)");
    let right = match then {
        Serves => is_served,
        Refused => is_served != is_made,
        _ => true,
    };
    assert!(right, "served: {is_served}");
    is_made
}

/// A strace(1) attached to all threads of a process, in which it makes calls fail until it is dropped.
struct Tampering {
    strace: Child,
    own: Directory,
}

impl Tampering {
    /// Returns when strace has the process in its hands.
    fn with(pid: i32, row: &Row, errno: &str, log: &Directory) -> Self {
        let own = Directory::new();
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", &own.name("trace")]);
        let calls: Vec<&str> = row.calls().collect();
        command.args(injection(&calls.join(","), errno, row.when));
        if row.calls.ends_with("@log") {
            command.args(["-P", &log.name("log")]);
        }
        let threads: Vec<i32> = threads(pid).into_iter().map(|(thread, _)| thread).collect();
        if row.phase == Newborn {
            // All threads, and their children.
            command.args(["-f", "-p", &pid.to_string()]);
        } else {
            for thread in &threads {
                command.args(["-p", &thread.to_string()]);
            }
        }
        let mut tampering = Self {
            strace: command.spawn().unwrap(),
            own,
        };
        let strace = i32::try_from(tampering.strace.id()).unwrap();
        wait_until("strace has attached to it and waits", || {
            let ended = tampering.strace.try_wait().unwrap();
            assert_eq!(ended, None, "strace can't attach");
            let held =
                |&thread: &i32| status_field(thread, "TracerPid") == Some(strace.to_string());
            threads.iter().all(held) && stat_field(strace, 3).is_some_and(|state| state == "S")
        });
        tampering
    }

    fn count(&self) -> usize {
        self.own.read("trace").matches("(INJECTED)").count()
    }

    fn wait_for_fault(&self) {
        wait_until("a call fails", || self.count() > 0);
    }

    /// Lets go when the next call of this kind has just failed, if there is one soon: in the midst of it, strace
    /// would leave it with ENOSYS.
    fn end(self) -> String {
        let before = self.count();
        poll_for(Duration::from_millis(150), || {
            (self.count() > before).then_some(())
        });
        self.own.read("trace")
    }
}

impl Drop for Tampering {
    fn drop(&mut self) {
        // Its threads are let go with it.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// A daemon in a directory of the test's.
fn daemon(directory: &Directory) -> Running {
    Skd::new(elaborate(directory))
        .args(["-P", &directory.name("pid")])
        .run("cat")
}

/// Watches for a second what a lasting fault costs.
fn expect_calm(skd: &Running, tampering: &Tampering) {
    let (begin, ticks, faults) = (Instant::now(), cpu_ticks(skd.pid()), tampering.count());
    assert_eq!(skd.try_wait(Duration::from_secs(1)), None);
    let (ticks, faults) = (cpu_ticks(skd.pid()) - ticks, tampering.count() - faults);
    let (time, seconds) = (begin.elapsed(), begin.elapsed().as_secs() + 1);
    // A thread that spins takes a hundred ticks a second, or, where strace slows it down, fails thousands of times.
    assert!(ticks < 25 * seconds, "{ticks} ticks in {time:?}");
    assert!(
        faults < 50 * seconds as usize,
        "{faults} faults in {time:?}"
    );
}

/// Whether nothing came before the connection's end.
fn is_closed(mut stream: impl Read) -> bool {
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        // What was sent had not been read.
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// A daemon of nobody's while calls of it, or of its handlers to be, fail.
fn serve_with(row: &Row) {
    let directory = Directory::public();
    let user = format!("{NOBODY}:{NOBODY}");
    let skd = Skd::new(elaborate(&directory))
        .args(["--user", &user])
        .env("PATH", "/bin:/usr/bin")
        .run("cat");
    let socket = directory.join("socket");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, skd.port()));
    let idle = || skd.wait_until("all are reaped", || skd.children().is_empty());
    assert_eq!(talk(connect(address), b"before"), b"before");
    assert_eq!(talk(connect_unix(&socket), b"before"), b"before");
    idle();
    let before = descriptors(skd.pid());

    for (turn, errno) in row.errnos().enumerate() {
        println!("{errno}");
        let mut earlier = connect(address);
        echo(&mut earlier, b"earlier");
        let tampering = Tampering::with(skd.pid(), row, errno, &directory);
        drop(earlier);
        // It means nothing.
        skd.signal(Signal::SIGUSR1);
        let (mut tcp, mut unix) = (connect(address), connect_unix(&socket));
        // It may be closed already.
        let _ = (tcp.write_all(b"t"), unix.write_all(b"u"));
        tampering.wait_for_fault();
        if turn == 0 && row.then != Served && row.then != Unreaped {
            skd.wait_until("it is told", || {
                directory
                    .read("log")
                    .lines()
                    .any(|line| line.starts_with("skd: "))
            });
        }
        if turn == 0 && row.then != Closed {
            expect_calm(&skd, &tampering);
        }
        let mut tampering = Some(tampering);
        if row.then == Waits {
            tampering.take().map(Tampering::end);
        }
        if row.then == Closed {
            assert!(is_closed(tcp) && is_closed(unix));
            let trace = tampering.take().map(Tampering::end).unwrap();
            let execs = trace
                .lines()
                .any(|line| line.contains("execve") && line.ends_with("= 0"));
            assert!(!execs, "{trace}");
        } else {
            assert_eq!(receive(&mut tcp, 1), b"t");
            assert_eq!(receive(&mut unix, 1), b"u");
            expect_nobody(skd.pid());
            drop((tcp, unix));
        }
        drop(tampering);
        assert_eq!(talk(connect(address), b"after"), b"after");
        assert_eq!(talk(connect_unix(&socket), b"after"), b"after");
        if row.then == Unreaped {
            skd.wait_until("all have ended", || {
                skd.children().into_iter().all(is_zombie)
            });
        } else {
            idle();
        }
        skd.wait_until("no descriptor is lost", || {
            descriptors(skd.pid()).len() == before.len()
        });
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_daemon_whose_calls_fail_goes_on() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Serving), serve_with);
}

#[test]
fn a_handler_whose_preparation_fails_is_not_run() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Newborn), serve_with);
}

#[test]
fn a_log_that_cannot_be_opened_again_is_kept() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Reopening), |row| {
        let directory = Directory::public();
        let skd = daemon(&directory);
        let before = descriptors(skd.pid());
        let serve = |name: &str| {
            let count = || {
                directory
                    .read(name)
                    .matches("Closed local connection")
                    .count()
            };
            let before = count();
            assert_eq!(talk(skd.connect_unix(), b"served"), b"served");
            skd.wait_until("it is told", || count() > before);
        };
        for (turn, errno) in row.errnos().enumerate() {
            println!("{errno}");
            let tampering = Tampering::with(skd.pid(), row, errno, &directory);
            skd.signal(Signal::SIGHUP);
            tampering.wait_for_fault();
            if row.then == Kept && turn == 0 {
                skd.wait_until("it is told", || {
                    directory
                        .read("log")
                        .contains("skd: the log file can't be opened again: ")
                });
            }
            serve("log");
            drop(tampering);
            fs::rename(directory.join("log"), directory.join("old")).unwrap();
            skd.signal(Signal::SIGHUP);
            skd.wait_until("there is a new one", || directory.join("log").exists());
            serve("log");
            assert_eq!(descriptors(skd.pid()).len(), before.len());
        }
        assert_eq!(skd.stop().code(), Some(0));
    });
}

#[test]
fn an_upgrade_in_which_a_call_fails_is_none() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Upgrading), |row| {
        let directory = Directory::public();
        let skd = daemon(&directory);
        let upgrades = || directory.read("log").matches("Upgraded from").count();
        let mut client = connect_unix(directory.join("socket"));
        echo(&mut client, b"before");
        let handlers = skd.wait_for_children(1);
        let before = descriptors(skd.pid());
        for errno in row.errnos() {
            println!("{errno}");
            let earlier = upgrades();
            let tampering = Tampering::with(skd.pid(), row, errno, &directory);
            skd.signal(Signal::SIGUSR2);
            tampering.wait_for_fault();
            assert_eq!(talk(connect_unix(directory.join("socket")), b"new"), b"new");
            echo(&mut client, b"during");
            wait_until("it is told", || {
                directory.read("log").contains("skd: no upgrade: ")
            });
            drop(tampering);
            assert_eq!(upgrades(), earlier);
            assert_eq!(skd.wait_for_children(1), handlers);
            skd.wait_until("no descriptor is lost", || {
                descriptors(skd.pid()).len() == before.len()
            });
            skd.signal(Signal::SIGUSR2);
            wait_until("it succeeds", || upgrades() > earlier);
            echo(&mut client, b"after");
        }
        drop(client);
        assert_eq!(skd.stop().code(), Some(0));
    });
}

#[test]
fn an_end_in_which_calls_fail_is_an_end() {
    requires_root();
    requires_command("strace");
    on_each(&rows(Ending), |row| {
        let directory = Directory::public();
        for errno in row.errnos() {
            println!("{errno}");
            // In the same directory as the one before.
            let skd = daemon(&directory);
            assert_eq!(talk(skd.connect_unix(), b"served"), b"served");
            let tampering = Tampering::with(skd.pid(), row, errno, &directory);
            assert_eq!(skd.stop().code(), Some(0));
            tampering.wait_for_fault();
            if row.then == Emptied {
                assert_eq!(directory.names(), ["log", "pid", "socket"]);
                assert_eq!(directory.read("pid"), "");
            }
        }
        assert_eq!(daemon(&directory).stop().code(), Some(0));
        assert_eq!(directory.names(), ["log"]);
    });
}
