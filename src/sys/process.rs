//! Processes: making them, waiting for them, their rights.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Pid, Uid, setfsgid, setfsuid};

use super::credentials::SETGROUPS;

/// How a process ended (waitid(2), `si_code` and `si_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status, 0 to 255.
    Exited(u8),
    /// By this signal. A number, since real-time signals have no name.
    Killed(i32),
}

/// The change that a wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The process ended.
    Ended(Ended),
    /// The process was stopped by a signal of job control.
    Stopped,
}

/// The process to wait for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'fd> {
    /// The process of a pidfd (`P_PIDFD`). The cost doesn't depend on the number of children.
    Descriptor(BorrowedFd<'fd>),
    /// The child with this id (`P_PID`).
    Process(Pid),
    /// Any child (`P_ALL`): the kernel walks the list of all of them.
    Any,
}

/// Whether a wait reaps the child that it finds, and whether it waits at all.
#[derive(Clone, Copy, Debug)]
pub struct Wait(libc::c_int);

impl Wait {
    /// Waits until the child ends, and reaps it.
    pub const UNTIL_END: Self = Self(libc::WEXITED);
    /// Reaps the child if it has ended.
    pub const NOW: Self = Self(libc::WEXITED | libc::WNOHANG);
    /// Finds a child that has ended, without reaping it.
    pub const PEEK: Self = Self(libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
    /// Finds a child that is stopped, and finds it again until it is continued.
    pub const PEEK_STOPPED: Self = Self(libc::WSTOPPED | libc::WNOHANG | libc::WNOWAIT);
    /// Reaps the child if it has ended, or finds that it was stopped.
    pub const NOW_OR_STOPPED: Self = Self(libc::WEXITED | libc::WSTOPPED | libc::WNOHANG);
}

/// Waits for a child (waitid(2)). Returns `None` if there is no change and `how` doesn't wait.
///
/// Interrupted waits go on. nix's wrapper isn't used: for a child that a real-time signal ended it
/// fails, after reaping it.
pub fn wait(target: Target<'_>, how: Wait) -> Result<Option<(Pid, Change)>, Errno> {
    waitid(target, how, None)
}

/// What a process has used, with its children that it has waited for (getrusage(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// The time that it ran in user mode.
    pub user: Duration,
    /// The time that it ran in the kernel.
    pub system: Duration,
    /// The most memory that it, or a child, has had resident at once, in bytes.
    pub max_rss: u64,
}

impl Usage {
    fn of(usage: &libc::rusage) -> Self {
        let time = |time: libc::timeval| {
            let micros = u32::try_from(time.tv_usec).unwrap_or_default();
            Duration::new(
                u64::try_from(time.tv_sec).unwrap_or_default(),
                micros.saturating_mul(1000),
            )
        };
        Self {
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
            // In kilobytes.
            max_rss: u64::try_from(usage.ru_maxrss).unwrap_or_default() * 1024,
        }
    }
}

/// Does the same, and says what a child that has ended has used. The kernel's own call tells, though
/// the function of C libraries doesn't (waitid(2), "C library/kernel differences").
pub fn wait_with_usage(
    target: Target<'_>,
    how: Wait,
) -> Result<Option<(Pid, Change, Usage)>, Errno> {
    // SAFETY: all zeroes are a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let found = waitid(target, how, Some(&mut usage))?;
    Ok(found.map(|(pid, change)| (pid, change, Usage::of(&usage))))
}

fn waitid(
    target: Target<'_>,
    how: Wait,
    usage: Option<&mut libc::rusage>,
) -> Result<Option<(Pid, Change)>, Errno> {
    let usage = usage.map_or(std::ptr::null_mut(), std::ptr::from_mut);
    let (kind, id) = match target {
        Target::Descriptor(pidfd) => (libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t),
        Target::Process(pid) => (libc::P_PID, pid.as_raw() as libc::id_t),
        Target::Any => (libc::P_ALL, 0),
    };
    // SAFETY: an all-zero siginfo_t is a valid value, and the value that waitid leaves when
    // there is no change.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the kernel writes one siginfo_t to memory of that type, and one rusage to memory of
        // its type, or none to a null pointer.
        let result =
            unsafe { libc::syscall(libc::SYS_waitid, kind, id, &raw mut info, how.0, usage) };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid filled in the child's part of the union, or left it zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    let change = match info.si_code {
        libc::CLD_EXITED => Change::Ended(Ended::Exited(status as u8)),
        libc::CLD_STOPPED | libc::CLD_TRAPPED => Change::Stopped,
        _ => Change::Ended(Ended::Killed(status)),
    };
    Ok(Some((Pid::from_raw(pid), change)))
}

/// Opens a pidfd of the process with this id (pidfd_open(2), Linux 5.3).
///
/// The caller knows that the id is still that process's: it is a child that wasn't reaped.
pub fn open_pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just opened it for the caller; it is close-on-exec by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to the process of a pidfd, which may have been reaped
/// (pidfd_send_signal(2), Linux 5.1).
pub fn signal_by_pidfd(pidfd: impl AsFd, signal: Signal) -> Result<(), Errno> {
    let fd = pidfd.as_fd().as_raw_fd();
    let nothing: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: without a siginfo_t the kernel makes its own, as kill(2) does.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd,
            signal as libc::c_int,
            nothing,
            0,
        )
    };
    Errno::result(sent).map(drop)
}

/// Whether two descriptors of a process refer to one open file (kcmp(2), `KCMP_FILE`).
pub fn same_open_file(process: Pid, one: u32, other: u32) -> Result<bool, Errno> {
    const FILE: libc::c_int = 0;
    let pid = process.as_raw();
    // SAFETY: the call takes integers.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, FILE, one, other) };
    Errno::result(order).map(|order| order == 0)
}

/// Whether an exec of this file can add capabilities (capabilities(7), File capabilities).
pub fn grants_capabilities(file: &CStr) -> bool {
    let name = c"security.capability";
    // SAFETY: path and name end in NUL, and nothing is written to a buffer of no length.
    let length = unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    length > 0
}

/// Whether this process becomes the parent of orphans: it is process 1 of its namespace, or a
/// subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub fn adopts_orphans() -> bool {
    is_first() || is_subreaper()
}

/// Whether this process has become a subreaper.
pub fn is_subreaper() -> bool {
    nix::sys::prctl::get_child_subreaper() == Ok(true)
}

/// Has orphans among the descendants of this process come to it (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub fn adopt_orphans() -> Result<(), Errno> {
    nix::sys::prctl::set_child_subreaper(true)
}

/// Returns the children of the main thread, to which orphans come (proc_pid_task_tid_children(5)).
/// Fails where /proc doesn't tell.
pub fn children_of_main_thread() -> std::io::Result<Vec<Pid>> {
    let id = std::process::id();
    let text = std::fs::read_to_string(format!("/proc/self/task/{id}/children"))?;
    let ids = text
        .split_ascii_whitespace()
        .filter_map(|id| id.parse().ok());
    Ok(ids.map(Pid::from_raw).collect())
}

/// Whether this is process 1 of its namespace (pid_namespaces(7)). Its end is that of all others,
/// and the kernel drops signals to it that have no handler, unless they are blocked.
pub fn is_first() -> bool {
    std::process::id() == 1
}

/// The two sides of [`fork`].
#[derive(Debug)]
pub enum Fork {
    /// In the parent: the child's id.
    Parent(Pid),
    /// In the child.
    Child,
}

/// Forks (fork(2)). The child has only the calling thread.
///
/// The child has a copy of the memory, so that is sound whatever other threads do. But a lock that
/// another thread held is held for ever in the child. So start-up calls this while there is one
/// thread. Later callers continue with code that takes no lock of the standard library; the C
/// library releases the allocator's in the child.
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: see above; nothing in the child runs handlers or locks of other threads.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Forks a child of this process's parent (clone(2), `CLONE_PARENT`). As for [`fork`]; this process has
/// one thread.
pub fn fork_sibling() -> Result<Fork, Errno> {
    let nothing: usize = 0;
    // SAFETY: no memory is shared, and there is no other thread. The child goes on with the caller's
    // stack, a copy. The C library's own state of the process is of no use to either.
    let pid = unsafe {
        let flags = libc::CLONE_PARENT;
        libc::syscall(libc::SYS_clone, flags, nothing, nothing, nothing, nothing)
    };
    match Errno::result(pid)? {
        0 => Ok(Fork::Child),
        pid => Ok(Fork::Parent(Pid::from_raw(pid as i32))),
    }
}

/// Ends the process at once (_exit(2)). No destructor runs, so what it shares with its parent stays
/// as it is.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit ends the process and touches no memory of it.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Makes the calling thread access files as this user with these groups (credentials(7), filesystem
/// ids), and no other thread. All other ids stay as they are, so that user can neither signal nor
/// trace the process. Fails if the kernel refuses any of it.
pub fn access_files_as(uid: Uid, gid: Gid, groups: &[libc::gid_t]) -> Result<(), Errno> {
    // SAFETY: the kernel reads so many groups from memory that has them.
    let set = unsafe { libc::syscall(SETGROUPS, groups.len(), groups.as_ptr()) };
    Errno::result(set)?;
    setfsgid(gid);
    setfsuid(uid);
    // They return the earlier id, whether or not they changed it; an id that can't be changes none.
    let nothing = u32::MAX;
    let now = (setfsgid(nothing.into()), setfsuid(nothing.into()));
    match now == (gid, uid) {
        true => Ok(()),
        false => Err(Errno::EPERM),
    }
}

/// Makes the calling thread, and no other, access files as this user until the value is dropped. Without the right to
/// become it nothing changes. Capabilities other than those about files stay.
#[derive(Debug)]
pub struct FilesAs {
    former: Uid,
}

impl FilesAs {
    /// See [`Self`].
    pub fn user(uid: Uid) -> Self {
        let former = setfsuid(uid);
        Self { former }
    }
}

impl Drop for FilesAs {
    fn drop(&mut self) {
        setfsuid(self.former);
    }
}

/// Makes the kernel kill this process when its parent ends (prctl(2), `PR_SET_PDEATHSIG`), unless
/// it execs a set-user-id program.
pub fn end_with_parent() -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
}

/// Whether other processes of the same user may read and trace this one (prctl(2),
/// `PR_GET_DUMPABLE`). After a change of ids they may not, until it execs another program.
pub fn is_dumpable() -> bool {
    // SAFETY: the call takes and returns integers.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) == 1 }
}

/// Lets other processes of the user do that, and this one open its own files in /proc
/// (`PR_SET_DUMPABLE`).
pub fn allow_dumping() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(true)
}

/// Keeps them from it (`PR_SET_DUMPABLE`).
pub fn forbid_dumping() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

/// The soft and hard limit of this process, by the number of the resource (getrlimit(2)).
pub fn limit_of_this_process(resource: super::child::Resource) -> Option<(u64, u64)> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes one rlimit to memory of that type.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    (result == 0).then_some((limit.rlim_cur, limit.rlim_max))
}

/// The nice value of this process (getpriority(2)).
pub fn own_nice() -> i32 {
    // SAFETY: the call takes integers. It fails only for processes that aren't there.
    unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) }
}
