//! The birth of a child: a vfork-style clone that runs prepared steps and then execs.
//!
//! The child shares this process's memory (`CLONE_VM`) and stops the thread that made it
//! (`CLONE_VFORK`) until it has exec'd or ended, so it runs on a stack of its own and
//! neither allocates, formats, locks nor panics: every argument is ready beforehand.
//!
//! Descriptors come in three ways, see [`Descriptors`]. With [`Descriptors::Unshare`] the
//! child starts on this process's own table (`CLONE_FILES`), so that the kernel needn't
//! copy thousands of descriptors, and then takes a copy of the [`Low`] ones alone.
//! Until that has succeeded it works on a table that other threads use: if it fails, the
//! child does nothing but end. And since a child not yet unshared keeps an open file alive
//! that its parent has closed, a pidfd must be removed from an epoll set before it is
//! closed.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::unistd::Pid;

use super::descriptors::{self, Low};
use super::environment::Finished;
use super::memory::Stack;

/// Where a child's descriptors come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// 0 and 1 are a connection that stands in a low number, 2 is ours, and no other:
    /// by a shared table and close_range(2) with `CLOSE_RANGE_UNSHARE`.
    Unshare(Low),
    /// The same where that call is missing: by a copied table and close(2).
    Copy(Low),
    /// All those of this process that aren't close-on-exec.
    Inherit,
}

/// One system call of a child's preparation, its arguments ready.
#[derive(Clone, Debug)]
pub enum Step {
    /// Lead a process group of its own: setpgid(2).
    LeadGroup,
    /// Make that group the terminal's foreground one: tcsetpgrp(3) on descriptor 0.
    TakeTerminal,
    /// umask(2).
    Umask(libc::mode_t),
    /// Have the second number stand for what the first one does: dup2(2). They differ.
    Descriptor(RawFd, RawFd),
    /// setpriority(2) of this process.
    Nice(c_int),
    /// setrlimit(2).
    Limit(Resource, libc::rlimit),
    /// chdir(2).
    ChangeDirectory(CString),
    /// prctl(2), `PR_SET_NO_NEW_PRIVS`.
    NoNewPrivileges,
    /// sigprocmask(2). The last of all: from then on signals arrive.
    SignalMask(SigSet),
}

/// A resource as setrlimit(2) numbers them.
#[cfg(target_env = "gnu")]
pub type Resource = libc::__rlimit_resource_t;
/// A resource as setrlimit(2) numbers them.
#[cfg(not(target_env = "gnu"))]
pub type Resource = c_int;

/// A program ready to be exec'd: pointers that execve(2) takes as they are.
#[derive(Debug)]
pub struct ExecTarget {
    path: CString,
    arguments: Vec<CString>,
    argv: Vec<*const c_char>,
    /// `/bin/sh PATH ARGS`, for a file that the kernel can't execute by itself.
    shell_argv: Vec<*const c_char>,
}

const SHELL: &CStr = c"/bin/sh";

impl ExecTarget {
    /// The program at `path`; `arguments` begin with its name.
    pub fn new(path: CString, arguments: Vec<CString>) -> Self {
        let end = [ptr::null()];
        let argv = pointers(&arguments).chain(end).collect();
        let shell_argv = [SHELL.as_ptr(), path.as_ptr()]
            .into_iter()
            .chain(pointers(arguments.get(1..).unwrap_or_default()))
            .chain(end)
            .collect();
        Self {
            path,
            arguments,
            argv,
            shell_argv,
        }
    }

    /// Where the program is.
    pub fn path(&self) -> &CStr {
        &self.path
    }

    /// What it is called with.
    pub fn arguments(&self) -> &[CString] {
        &self.arguments
    }

    /// Becomes the program (execve(2)), in a child or in this very process; comes back only
    /// with the reason why not.
    ///
    /// A file without a format that the kernel knows is handed to the shell, as execvp(3)
    /// does.
    pub fn exec(&self, environment: Finished<'_>) -> Errno {
        // SAFETY: path, argv and environment end in NUL or null, and their owners outlive
        // the call: this value, and the one that the environment is borrowed from.
        unsafe {
            libc::execve(self.path.as_ptr(), self.argv.as_ptr(), environment.as_ptr());
            if Errno::last() == Errno::ENOEXEC {
                libc::execve(
                    SHELL.as_ptr(),
                    self.shell_argv.as_ptr(),
                    environment.as_ptr(),
                );
            }
        }
        Errno::last()
    }
}

fn pointers(strings: &[CString]) -> impl Iterator<Item = *const c_char> {
    strings.iter().map(|string| string.as_ptr())
}

// SAFETY: the pointers point into CStrings of the same value, on the heap, which nobody
// changes; threads only read them.
unsafe impl Send for ExecTarget {}
// SAFETY: as for Send.
unsafe impl Sync for ExecTarget {}

/// Everything that a newborn child needs.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// Where its descriptors come from.
    pub descriptors: Descriptors,
    /// What becomes its 0 and 1, unless those are inherited: a low number.
    pub connection: Option<BorrowedFd<'a>>,
    /// What it does before it execs.
    pub steps: &'a [Step],
    /// What it becomes; `None` for a rehearsal that stops before the exec.
    pub target: Option<&'a ExecTarget>,
    /// Its environment.
    pub environment: Finished<'a>,
    /// Whether to ask for a pidfd with the clone (`CLONE_PIDFD`, Linux 5.2).
    pub want_pidfd: bool,
    /// Whether the thread that makes it traces it from its exec on (ptrace(2), `PTRACE_TRACEME`).
    pub traced: bool,
}

/// What a child could not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Take its own copy of the descriptors, or put the connection on 0 and 1.
    Descriptors,
    /// The step with this index.
    Step(usize),
    /// Be traced.
    Trace,
    /// Exec the program.
    Exec,
}

/// A child that has exec'd, or ended without.
#[derive(Debug)]
pub struct Born {
    /// Its process id.
    pub pid: Pid,
    /// Its pidfd, if one was asked for and given.
    pub pidfd: Option<OwnedFd>,
    /// Why it didn't exec, if it didn't; it has then ended and waits to be reaped.
    pub failure: Option<(Stage, Errno)>,
}

/// Makes a child and returns when it has exec'd or ended (clone(2)).
///
/// The error is the clone's own: no process, no memory, no descriptor for the pidfd.
pub fn spawn(stack: &mut Stack, launch: Launch<'_>) -> Result<Born, Errno> {
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    if matches!(launch.descriptors, Descriptors::Unshare(_)) {
        flags |= libc::CLONE_FILES;
    }
    if launch.want_pidfd {
        flags |= libc::CLONE_PIDFD;
    }
    let mut pidfd: RawFd = -1;
    let mut birth = Birth {
        launch,
        failure: None,
    };
    // SAFETY: the child runs `child` on a stack that nobody else uses, mapped and guarded;
    // CLONE_VFORK suspends this thread until the child has exec'd or ended, so `birth` and
    // everything it borrows live that long and are written by one process at a time. The
    // pidfd goes to memory of its type.
    let pid = unsafe {
        libc::clone(
            child,
            stack.top(),
            flags,
            (&raw mut birth).cast::<c_void>(),
            &raw mut pidfd,
        )
    };
    let pid = super::check(pid)?;
    // The child wrote through a pointer that the compiler saw only as an argument.
    // SAFETY: `birth` is a live local; reading it once more in full is what makes sure that
    // the child's writing is seen.
    let failure = unsafe { ptr::read_volatile(&raw const birth.failure) };
    // SAFETY: the kernel wrote a descriptor that it opened for this process, or nothing, as
    // kernels before Linux 5.2 do.
    let pidfd = (pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    Ok(Born {
        pid: Pid::from_raw(pid),
        pidfd,
        failure,
    })
}

/// Runs the steps, in order, in a child or in this very process; says which one failed.
pub fn prepare(steps: &[Step]) -> Result<(), (Stage, Errno)> {
    for (index, step) in steps.iter().enumerate() {
        perform(step).map_err(|errno| (Stage::Step(index), errno))?;
    }
    Ok(())
}

struct Birth<'a> {
    launch: Launch<'a>,
    failure: Option<(Stage, Errno)>,
}

extern "C" fn child(birth: *mut c_void) -> c_int {
    // SAFETY: spawn passes its own live Birth and is suspended while this runs.
    let birth = unsafe { &mut *birth.cast::<Birth<'_>>() };
    match run(&birth.launch) {
        Ok(()) => 0,
        Err(failure) => {
            birth.failure = Some(failure);
            1
        }
    }
    // Returning ends the child with this status by the exit system call: no destructor and
    // no atexit function runs.
}

fn run(launch: &Launch<'_>) -> Result<(), (Stage, Errno)> {
    take_descriptors(launch).map_err(|errno| (Stage::Descriptors, errno))?;
    prepare(launch.steps)?;
    match launch.target {
        None => Ok(()),
        Some(target) => {
            // The last of all: a child that stops before its exec stops its parent for good.
            if launch.traced {
                be_traced().map_err(|errno| (Stage::Trace, errno))?;
            }
            launch.environment.tell_own_id(std::process::id);
            Err((Stage::Exec, target.exec(launch.environment)))
        }
    }
}

/// Asks to be traced by the thread that has made this process, and not to outlive it: whoever traces
/// says so too (`PTRACE_O_EXITKILL`), but only after the exec.
fn be_traced() -> Result<(), Errno> {
    // SAFETY: neither has arguments other than integers.
    super::check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // SAFETY: as above.
    let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    Errno::result(traced).map(drop)
}

fn take_descriptors(launch: &Launch<'_>) -> Result<(), Errno> {
    // Nothing may come before this: until then, the table is the parent's.
    if let Descriptors::Unshare(low) = launch.descriptors {
        descriptors::unshare_below(low)?;
    }
    if let Some(connection) = launch.connection {
        for target in [0, 1] {
            // SAFETY: the table is the child's own by now, by unsharing or by copying, so
            // no owner of 0 or 1 in the parent is affected.
            super::check(unsafe { libc::dup2(connection.as_raw_fd(), target) })?;
        }
    }
    // Now and not at exec: a copy of another thread's connection would keep its client from
    // seeing the end for as long as this child's steps take.
    match launch.descriptors {
        Descriptors::Unshare(_) => descriptors::close_from(3),
        Descriptors::Copy(Low(end)) => {
            for number in 3..end {
                // SAFETY: as above; all above the low ones are close-on-exec.
                unsafe { libc::close(number as c_int) };
            }
            Ok(())
        }
        Descriptors::Inherit => Ok(()),
    }
}

/// One system call each. Among those of the C library that it also makes in other threads,
/// which a child of this kind has none of, there is none here.
fn perform(step: &Step) -> Result<(), Errno> {
    // SAFETY: each call gets integers, or pointers to memory of the right type that the
    // step owns; none changes memory that this process shares with the child.
    let result = unsafe {
        match step {
            Step::LeadGroup => libc::setpgid(0, 0),
            Step::TakeTerminal => libc::tcsetpgrp(0, libc::getpid()),
            Step::Umask(mask) => {
                libc::umask(*mask);
                0
            }
            Step::Descriptor(from, to) => libc::dup2(*from, *to),
            Step::Nice(value) => libc::setpriority(libc::PRIO_PROCESS, 0, *value),
            Step::Limit(resource, limit) => libc::setrlimit(*resource, limit),
            Step::ChangeDirectory(path) => libc::chdir(path.as_ptr()),
            Step::NoNewPrivileges => libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
            Step::SignalMask(mask) => {
                libc::sigprocmask(libc::SIG_SETMASK, mask.as_ref(), ptr::null_mut())
            }
        }
    };
    super::check(result).map(drop)
}
