//! Processes: making, waiting, leaving.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

/// How a process ended (waitid(2), `si_code` and `si_status`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It left with this status, 0 to 255.
    Exited(u8),
    /// This signal ended it. A number, for real-time signals have no name.
    Killed(i32),
}

/// What a wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The process ended.
    Ended(Ended),
    /// The process was stopped by a signal of job control.
    Stopped,
}

/// Whom to wait for.
#[derive(Clone, Copy, Debug)]
pub enum Target<'fd> {
    /// The process behind a pidfd (`P_PIDFD`): costs the same however many children there are.
    Descriptor(BorrowedFd<'fd>),
    /// The child with this id (`P_PID`).
    Process(Pid),
    /// Any child (`P_ALL`): the kernel walks the list of all of them.
    Any,
}

/// Whether a wait takes what it finds away, and whether it waits at all.
#[derive(Clone, Copy, Debug)]
pub struct Wait(libc::c_int);

impl Wait {
    /// Waits until the child ends, and reaps it.
    pub const UNTIL_END: Self = Self(libc::WEXITED);
    /// Reaps the child if it has ended.
    pub const NOW: Self = Self(libc::WEXITED | libc::WNOHANG);
    /// Looks at a child that has ended and leaves it to be reaped.
    pub const PEEK: Self = Self(libc::WEXITED | libc::WNOHANG | libc::WNOWAIT);
    /// The same, of children of this thread and of no other.
    pub const PEEK_OWN: Self = Self(Self::PEEK.0 | libc::__WNOTHREAD);
    /// Reaps the child if it has ended, or says that it was stopped.
    pub const NOW_OR_STOPPED: Self = Self(libc::WEXITED | libc::WSTOPPED | libc::WNOHANG);
}

/// Waits for a child (waitid(2)); `None` if there was nothing to tell without waiting.
///
/// Interrupted waits go on. nix's wrapper isn't used: it fails, the child already reaped,
/// when a real-time signal ended it.
pub fn wait(target: Target<'_>, how: Wait) -> Result<Option<(Pid, Change)>, Errno> {
    let (kind, id) = match target {
        Target::Descriptor(pidfd) => (libc::P_PIDFD, pidfd.as_raw_fd() as libc::id_t),
        Target::Process(pid) => (libc::P_PID, pid.as_raw() as libc::id_t),
        Target::Any => (libc::P_ALL, 0),
    };
    // SAFETY: an all-zero siginfo_t is a valid value, and the one that waitid leaves when
    // there is nothing to tell.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the kernel writes one siginfo_t to memory of that type.
        let result = unsafe { libc::waitid(kind, id, &raw mut info, how.0) };
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

/// A descriptor for the process with this id (pidfd_open(2), Linux 5.3).
///
/// The caller knows that the id can't have been given to another: it is a child not yet
/// reaped.
pub fn open_pidfd(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two integers.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = Errno::result(fd)?;
    // SAFETY: the kernel has just opened it for the caller; it is close-on-exec by itself.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Sends a signal to the process behind a pidfd, which may have been reaped
/// (pidfd_send_signal(2), Linux 5.1).
pub fn signal_by_pidfd(pidfd: impl AsFd, signal: Signal) -> Result<(), Errno> {
    let fd = pidfd.as_fd().as_raw_fd();
    let nothing: *const libc::siginfo_t = std::ptr::null();
    // SAFETY: without an information the kernel makes its own, as kill(2) does.
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

/// Whether two descriptors of a process are of one open file (kcmp(2), `KCMP_FILE`).
pub fn same_open_file(process: Pid, one: u32, other: u32) -> Result<bool, Errno> {
    const FILE: libc::c_int = 0;
    let pid = process.as_raw();
    // SAFETY: the call takes integers.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, pid, pid, FILE, one, other) };
    Errno::result(order).map(|order| order == 0)
}

/// Whether whoever executes this file gains capabilities by it (capabilities(7), File capabilities).
pub fn grants_capabilities(file: &CStr) -> bool {
    let name = c"security.capability";
    // SAFETY: path and name end in NUL, and nothing is written to a buffer of no length.
    let length = unsafe { libc::getxattr(file.as_ptr(), name.as_ptr(), std::ptr::null_mut(), 0) };
    length > 0
}

/// Whether this process inherits the children of others that have ended: it is process 1
/// of its namespace, or a subreaper (prctl(2), `PR_SET_CHILD_SUBREAPER`).
pub fn adopts_orphans() -> bool {
    is_first() || nix::sys::prctl::get_child_subreaper() == Ok(true)
}

/// Whether this is process 1 of its namespace (pid_namespaces(7)): its end is that of all
/// others, and signals without a handler pass it by unless they are blocked.
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
/// Memory stays sound whatever other threads do, since the child has a copy, but a lock
/// that another thread held is held for ever in the child. So start-up calls this while
/// there is one thread; the one later caller, who starts the syslog relay again, goes
/// straight into code that takes no lock of the standard library (the allocator's are
/// made good in the child by the C library).
pub fn fork() -> Result<Fork, Errno> {
    // SAFETY: see above; nothing in the child runs handlers or locks of other threads.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        nix::unistd::ForkResult::Child => Ok(Fork::Child),
    }
}

/// Ends the process at once (_exit(2)): no destructor runs, so what the process holds in
/// common with the one it was forked from is left alone.
pub fn exit_now(status: u8) -> ! {
    // SAFETY: _exit ends the process and touches no memory of it.
    unsafe { libc::_exit(i32::from(status)) }
}

/// Gives up whatever capabilities are left: effective, permitted, inheritable and, with
/// them, ambient (capset(2)). Those of the calling thread, so while there is one.
pub fn drop_capabilities() -> Result<(), Errno> {
    let mut header = CapabilityHeader::this_thread();
    let none = [CapabilitySets::default(); 2];
    // SAFETY: the header and the two sets have the layout of version 3 (linux/capability.h).
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, none.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Says whether the calling thread has any capability left (capget(2)).
pub fn has_capabilities() -> Result<bool, Errno> {
    let mut header = CapabilityHeader::this_thread();
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: as for capset; the kernel writes two sets to room for two.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(result)?;
    Ok(sets
        .iter()
        .any(|set| set.effective | set.permitted | set.inheritable != 0))
}

/// A right that root has and others may be given (capabilities(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// To give a file to somebody else.
    ChangeOwner = 0,
    /// To do with files of others what their owners may.
    Owner = 3,
    /// To bind low ports.
    BindService = 10,
    /// To do most things; more processes than the limit among them.
    Administrator = 21,
    /// To go beyond limits, that of processes among them.
    Resource = 24,
}

/// Whether the calling thread has a capability in effect (capget(2)).
pub fn has_capability(capability: Capability) -> bool {
    let mut header = CapabilityHeader::this_thread();
    let mut sets = [CapabilitySets::default(); 2];
    // SAFETY: as for capset; the kernel writes two sets to room for two.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    result == 0 && sets[0].effective & 1 << capability as u32 != 0
}

/// Has this process killed when its parent ends (prctl(2), `PR_SET_PDEATHSIG`), unless it executes
/// a set-user-id program.
pub fn end_with_parent() -> Result<(), Errno> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
}

/// Whether others of the same user may look into this process, and trace it (prctl(2),
/// `PR_GET_DUMPABLE`): not after a change of ids, until it executes another program.
pub fn is_dumpable() -> bool {
    // SAFETY: the call takes and gives integers.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) == 1 }
}

/// Forbids them to (`PR_SET_DUMPABLE`).
pub fn forbid_dumping() -> Result<(), Errno> {
    nix::sys::prctl::set_dumpable(false)
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

impl CapabilityHeader {
    /// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities in two words each.
    fn this_thread() -> Self {
        Self {
            version: 0x2008_0522,
            pid: 0,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilitySets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}
