//! The steps of a child's preparation, each one system call.

use std::ffi::{CString, c_int};
use std::os::fd::RawFd;
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::SigSet;

use crate::sys::capabilities;
use crate::sys::credentials::SETGROUPS;
use crate::sys::mounts::{self, FileSystem};
use crate::sys::result::check;
use crate::sys::sandbox;
use crate::sys::seccomp::{self, Filter, Listening};

/// One system call of a child's preparation, its arguments ready.
#[derive(Clone, Debug)]
pub enum Step {
    /// Lead a session of its own, without a terminal, and its process group: setsid(2).
    LeadSession,
    /// Lead a process group of its own in this session: setpgid(2).
    LeadGroup,
    /// Make that group the terminal's foreground one: tcsetpgrp(3) on descriptor 0.
    TakeTerminal,
    /// Mount a file system in a mount namespace of its own: mount(2).
    Mount(FileSystem),
    /// Mount what is at the first path at the second one too: mount(2), `MS_BIND`.
    Bind(CString, CString),
    /// mkdir(2).
    MakeDirectory(CString),
    /// Make an empty file: mknod(2).
    MakeFile(CString),
    /// umask(2).
    Umask(libc::mode_t),
    /// Make the second number refer to what the first one does: dup2(2). They differ.
    Descriptor(RawFd, RawFd),
    /// setpriority(2) of this process.
    Nice(c_int),
    /// setrlimit(2).
    Limit(Resource, libc::rlimit),
    /// chdir(2).
    ChangeDirectory(CString),
    /// fchdir(2) to an open directory.
    EnterDirectory(RawFd),
    /// The supplementary groups: setgroups(2).
    Groups(Vec<libc::gid_t>),
    /// All group ids: setresgid(2).
    Group(libc::gid_t),
    /// The user id that paths are looked up with: setfsuid(2), which tells of no failure.
    FileUser(libc::uid_t),
    /// fchdir(2) to an open directory, for the next step.
    EnterRoot(RawFd),
    /// Make the working directory the root directory: chroot(2).
    ChangeRoot,
    /// All user ids: setresuid(2).
    User(libc::uid_t),
    /// Keep other processes of the user out of the memory that is still shared: prctl(2),
    /// `PR_SET_DUMPABLE`.
    ForbidDumping,
    /// capset(2) to none.
    DropCapabilities,
    /// prctl(2), `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// Keep only the rights of these rules: landlock_restrict_self(2). After the step before.
    Restrict(RawFd),
    /// Be killed when the parent ends: prctl(2), `PR_SET_PDEATHSIG`. After all changes of ids, which
    /// end that.
    EndWithParent,
    /// Say on this socket that a tracer may come, and wait there until it has: a byte, which is 0 or
    /// an errno.
    AwaitTracer(RawFd),
    /// seccomp(2): filter system calls, those of the steps behind it too. Then sendmsg(2): send the
    /// filter's listener, if it has one.
    Filter(Filter, Option<Listening>),
    /// sigprocmask(2). The last of all: from then on signals arrive.
    SignalMask(SigSet),
}

/// Whether processes dump their memory after a change of user, a parameter of the kernel
/// (proc_sys_fs(5)).
pub const SUID_DUMPABLE: &str = "fs/suid_dumpable";

/// A resource as setrlimit(2) numbers them.
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
/// A resource as setrlimit(2) numbers them.
#[cfg(not(target_env = "gnu"))]
pub type Resource = c_int;

/// The part of a child's preparation that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Taking its own copy of the descriptors, or putting the connection on 0 and 1.
    Descriptors,
    /// The step with this index.
    Step(usize),
    /// Asking to be traced.
    Trace,
    /// The exec of the program.
    Exec,
}

/// Runs the steps in order, in a child or in this process. The error names the step that failed.
pub fn prepare(steps: &[Step]) -> Result<(), (Stage, Errno)> {
    for (index, step) in steps.iter().enumerate() {
        perform(step).map_err(|errno| (Stage::Step(index), errno))?;
    }
    Ok(())
}

impl Step {
    /// Whether this gives up or changes rights: user, groups, root directory, capabilities.
    pub fn changes_rights(&self) -> bool {
        matches!(
            self,
            Self::Groups(_)
                | Self::Group(_)
                | Self::FileUser(_)
                | Self::EnterRoot(_)
                | Self::ChangeRoot
                | Self::User(_)
                | Self::ForbidDumping
                | Self::DropCapabilities
        )
    }
}

/// The calls that take ids of 32 bits. The C library's functions of these names call all threads of
/// the process together.
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SETRESGID: libc::c_long = libc::SYS_setresgid32;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SETRESUID: libc::c_long = libc::SYS_setresuid32;
#[cfg(any(target_arch = "x86", target_arch = "arm"))]
const SETFSUID: libc::c_long = libc::SYS_setfsuid32;
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SETRESGID: libc::c_long = libc::SYS_setresgid;
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SETRESUID: libc::c_long = libc::SYS_setresuid;
#[cfg(not(any(target_arch = "x86", target_arch = "arm")))]
const SETFSUID: libc::c_long = libc::SYS_setfsuid;

/// The result of a call that returns 0 or -1.
fn raw(result: libc::c_long) -> c_int {
    if result < 0 { -1 } else { 0 }
}

fn await_tracer(socket: RawFd) -> Result<(), Errno> {
    let mut byte = 0_u8;
    // SAFETY: both calls get the address of one byte that outlives them.
    let read = unsafe {
        let byte = (&raw mut byte).cast();
        Errno::result(libc::write(socket, byte, 1))?;
        Errno::result(libc::read(socket, byte, 1))?
    };
    match (read, byte) {
        (1, 0) => Ok(()),
        (1, errno) => Err(Errno::from_raw(errno.into())),
        // There is no tracer any more.
        _ => Err(Errno::ESRCH),
    }
}

/// Makes one system call. None of them is a call that the C library makes in all threads of a
/// process: a child that shares memory has none of those threads.
fn perform(step: &Step) -> Result<(), Errno> {
    // SAFETY: each call gets integers, or pointers to memory of the right type that the
    // step owns; none changes memory that this process shares with the child.
    let result = unsafe {
        match step {
            Step::LeadSession => libc::setsid().min(0),
            Step::LeadGroup => libc::setpgid(0, 0),
            Step::TakeTerminal => libc::tcsetpgrp(0, libc::getpid()),
            Step::Mount(system) => return system.mount(),
            Step::Bind(from, to) => return mounts::bind(from, to),
            Step::MakeDirectory(path) => libc::mkdir(path.as_ptr(), 0o755),
            Step::MakeFile(path) => libc::mknod(path.as_ptr(), libc::S_IFREG | 0o444, 0),
            Step::Umask(mask) => {
                libc::umask(*mask);
                0
            }
            Step::Descriptor(from, to) => libc::dup2(*from, *to),
            Step::Nice(value) => libc::setpriority(libc::PRIO_PROCESS, 0, *value),
            Step::Limit(resource, limit) => libc::setrlimit(*resource, limit),
            Step::ChangeDirectory(path) => libc::chdir(path.as_ptr()),
            Step::EnterDirectory(directory) => libc::fchdir(*directory),
            Step::Groups(groups) => raw(libc::syscall(SETGROUPS, groups.len(), groups.as_ptr())),
            Step::Group(id) => raw(libc::syscall(SETRESGID, *id, *id, *id)),
            Step::FileUser(id) => {
                libc::syscall(SETFSUID, *id);
                0
            }
            Step::EnterRoot(directory) => libc::fchdir(*directory),
            Step::ChangeRoot => libc::chroot(c".".as_ptr()),
            Step::User(id) => raw(libc::syscall(SETRESUID, *id, *id, *id)),
            Step::ForbidDumping => libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0),
            Step::DropCapabilities => return capabilities::drop_all(),
            Step::NoNewPrivileges => libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            Step::Restrict(rules) => return sandbox::enforce(*rules),
            Step::EndWithParent => raw(libc::syscall(
                libc::SYS_prctl,
                libc::PR_SET_PDEATHSIG as libc::c_long,
                libc::SIGKILL as libc::c_long,
                0_u64,
                0_u64,
                0_u64,
                seccomp::key(),
            )),
            Step::AwaitTracer(socket) => return await_tracer(*socket),
            Step::Filter(filter, None) => return filter.load(),
            Step::Filter(filter, Some(to)) => return filter.load_listened(*to),
            Step::SignalMask(mask) => {
                libc::sigprocmask(libc::SIG_SETMASK, mask.as_ref(), ptr::null_mut())
            }
        }
    };
    check(result).map(drop)
}
