//! The clone itself, and what the child does up to its exec.

use std::ffi::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::AtomicI32;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::newborn::{ChildStack, Newborn};
use super::step::{Stage, Step, prepare};
use super::target::ExecTarget;
use crate::sys::clone3;
use crate::sys::descriptors::{self, Low};
use crate::sys::environment::Finished;
use crate::sys::process::{self, Target, Wait};
use crate::sys::result::check;

/// The system call that makes children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloneCall {
    /// clone3(2).
    Clone3,
    /// clone(2): on kernels before Linux 5.3, under a filter that refuses the other, and on
    /// architectures for which this program has no code for it.
    Clone,
}

impl CloneCall {
    /// Finds out which one can be made here. One system call, which makes no child.
    pub fn find() -> Self {
        if clone3::is_available() {
            Self::Clone3
        } else {
            Self::Clone
        }
    }
}

/// The source of a child's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// 0 and 1 are a connection with a low number, 2 is that of this process, and there is no
    /// other: by a shared table and close_range(2) with `CLOSE_RANGE_UNSHARE`.
    Unshare(Low),
    /// The same where that call is missing: by a copied table and close(2).
    Copy(Low),
    /// All those of this process that aren't close-on-exec.
    Inherit,
}

/// Everything that a newborn child needs.
#[derive(Clone, Copy, Debug)]
pub struct Launch<'a> {
    /// The call that makes it.
    pub call: CloneCall,
    /// The source of its descriptors.
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
    /// What it has of its own besides: `CLONE_NEW*` and `CLONE_PARENT` flags.
    pub namespaces: c_int,
    /// The directory of the control group that it begins in, if that isn't this process's (Linux
    /// 5.7). Needs [`CloneCall::Clone3`].
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Where its id is written before it runs, if the pidfd isn't wanted.
    pub pid_to: Option<&'a AtomicI32>,
    /// Whether the calling thread traces it from its exec on (ptrace(2), `PTRACE_TRACEME`).
    pub traced: bool,
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
    /// Whether a signal has killed it before its exec; it then waits to be reaped too. A child that
    /// is killed while the kernel executes the program counts as a
    /// handler.
    pub killed: bool,
}

/// How many children are made for a client, if each is killed before its exec. Any process of the
/// handlers' user may do that.
const TRIES: usize = 16;

/// Makes a child and returns when it has exec'd or ended (clone3(2), clone(2)).
///
/// The error is the clone's own: no process, no memory, no descriptor for the pidfd. A child that
/// is killed before its exec is replaced by another, some times. A child of this process's parent
/// (`CLONE_PARENT`) is left to that in any case.
pub fn spawn(stack: &mut ChildStack, launch: Launch<'_>) -> Result<Born, Errno> {
    let mut tries = 1;
    loop {
        let born = spawn_one(stack, launch)?;
        let is_own = launch.namespaces & libc::CLONE_PARENT == 0;
        if !born.killed || tries >= TRIES || !is_own {
            return Ok(born);
        }
        let _ = process::wait(Target::Process(born.pid), Wait::UNTIL_END);
        tries += 1;
    }
}

fn spawn_one(stack: &mut ChildStack, launch: Launch<'_>) -> Result<Born, Errno> {
    let ChildStack { stack, newborn } = stack;
    // The kernel writes the id before the child can be stopped. `CLONE_PARENT_SETTID` would do so
    // earlier, but clone(2) has one address for that and the pidfd.
    let mut flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_CHILD_SETTID;
    flags |= launch.namespaces;
    if matches!(launch.descriptors, Descriptors::Unshare(_)) {
        flags |= libc::CLONE_FILES;
    }
    if launch.want_pidfd {
        flags |= libc::CLONE_PIDFD;
    }
    // clone(2) has one address for the pidfd and this.
    let pid_to = launch.pid_to.filter(|_| !launch.want_pidfd);
    if pid_to.is_some() {
        flags |= libc::CLONE_PARENT_SETTID;
    }
    let pid_to = pid_to.map_or(ptr::null_mut(), AtomicI32::as_ptr);
    let mut pidfd: RawFd = -1;
    let mut birth = Birth {
        launch,
        newborn,
        tracer: launch.traced.then(nix::unistd::getpid),
        failure: None,
    };
    let argument = (&raw mut birth).cast::<c_void>();
    let id = newborn.pid_address();
    newborn.begin();
    // SAFETY: the child runs `child` on a stack that nothing else uses, mapped and guarded;
    // CLONE_VFORK suspends this thread until the child has exec'd or ended, so `birth` and
    // everything it borrows live that long and are written by one process at a time. The
    // pidfd and the id go to memory of their types.
    let made = unsafe {
        match launch.call {
            CloneCall::Clone3 => {
                let cgroup = launch.cgroup;
                // Flags are bits, whatever their sign.
                let flags = u64::from(flags as u32);
                let addresses = (&raw mut pidfd, pid_to, id);
                clone3::clone3(stack, flags, cgroup, child, argument, addresses)
            }
            CloneCall::Clone => check(libc::clone(
                child,
                stack.top(),
                flags | libc::SIGCHLD,
                argument,
                match pid_to.is_null() {
                    true => &raw mut pidfd,
                    false => pid_to,
                },
                ptr::null_mut::<c_void>(),
                id,
            )),
        }
    };
    let is_done = newborn.end();
    let pid = made?;
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
        killed: failure.is_none() && !is_done,
    })
}

struct Birth<'a> {
    launch: Launch<'a>,
    newborn: &'a Newborn,
    /// This process, if it traces the child.
    tracer: Option<Pid>,
    failure: Option<(Stage, Errno)>,
}

extern "C" fn child(birth: *mut c_void) -> c_int {
    // SAFETY: spawn passes its own live Birth and is suspended while this runs.
    let birth = unsafe { &mut *birth.cast::<Birth<'_>>() };
    match run(&birth.launch, birth.newborn, birth.tracer) {
        Ok(()) => 0,
        Err(failure) => {
            birth.failure = Some(failure);
            1
        }
    }
    // Returning ends the child with this status by the exit system call: no destructor and
    // no atexit function runs.
}

fn run(launch: &Launch<'_>, newborn: &Newborn, tracer: Option<Pid>) -> Result<(), (Stage, Errno)> {
    take_descriptors(launch).map_err(|errno| (Stage::Descriptors, errno))?;
    let (steps, filter) = match (tracer, launch.steps) {
        (Some(_), [steps @ .., filter @ Step::Filter(..)]) => (steps, Some(filter)),
        (_, steps) => (steps, None),
    };
    prepare(steps)?;
    match launch.target {
        None => {
            newborn.note_done();
            Ok(())
        }
        Some(target) => {
            // The last but a filter: a child that stops before its exec suspends its parent for good.
            if let Some(tracer) = tracer {
                be_traced(tracer).map_err(|errno| (Stage::Trace, errno))?;
            }
            if let Some(filter) = filter {
                let loaded = prepare(std::slice::from_ref(filter));
                loaded.map_err(|(_, errno)| (Stage::Step(steps.len()), errno))?;
            }
            launch.environment.write_own_id(std::process::id);
            newborn.note_done();
            Err((Stage::Exec, target.exec(launch.environment)))
        }
    }
}

/// Asks to be traced by the thread that made this process, and to be killed with it. The tracer
/// asks for the second too (`PTRACE_O_EXITKILL`), but only after the exec.
fn be_traced(tracer: Pid) -> Result<(), Errno> {
    // SAFETY: neither call has arguments other than integers.
    check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
    // It may have ended before that. Process 1 would then be asked to trace, and would leave the
    // child stopped for ever.
    if nix::unistd::getppid() != tracer {
        return Err(Errno::ESRCH);
    }
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
            check(unsafe { libc::dup2(connection.as_raw_fd(), target) })?;
        }
    }
    // Now and not at the exec: a copy of another thread's connection would keep its client from
    // seeing the end for as long as this child's steps take. Descriptors that plans own stay open
    // for the steps: they are close-on-exec, and no client waits for their end.
    match launch.descriptors {
        Descriptors::Unshare(low) => descriptors::close_from(low.first_unowned()),
        Descriptors::Copy(low) => {
            for number in low.unowned() {
                // SAFETY: as above; all above the low ones are close-on-exec.
                unsafe { libc::close(number) };
            }
            Ok(())
        }
        Descriptors::Inherit => Ok(()),
    }
}
