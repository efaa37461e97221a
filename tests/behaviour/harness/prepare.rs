//! What a child does between fork and exec, and the system calls that no library wraps safely.

#![allow(unsafe_code)]

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

/// What a child is given beside what [`Command`] can give it. Everything in it is ready to use, because in
/// the child nothing may be allocated.
#[derive(Debug, Default)]
pub(super) struct Preparation {
    /// Namespaces to join, in this order; they are left at `directory`.
    pub namespaces: Option<Arc<Vec<OwnedFd>>>,
    pub directory: Option<CString>,
    pub new_session: bool,
    pub controlling_terminal: Option<OwnedFd>,
    pub umask: Option<u32>,
    pub limits: Vec<(Resource, u64, u64)>,
    pub user: Option<User>,
    pub ignored: Vec<Signal>,
    pub blocked: SigSetOrNone,
    /// Standard descriptors to close.
    pub closed: Vec<RawFd>,
    /// Descriptors to pass on, each under a number.
    pub passed: Vec<(OwnedFd, RawFd)>,
}

type SigSetOrNone = Option<SigSet>;

#[derive(Debug)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Makes the children of `command` do all of `preparation`.
pub(super) fn prepare(command: &mut Command, preparation: Preparation) {
    // SAFETY: the closure runs in a child forked from a threaded process, where only async-signal-safe
    // functions may be called and no lock be taken. `apply` makes system calls with arguments that were
    // ready before the fork; its vectors are read in place, and an error is a number, not an allocation.
    unsafe {
        command.pre_exec(move || preparation.apply());
    }
}

impl Preparation {
    fn apply(&self) -> io::Result<()> {
        if self.new_session {
            nix::unistd::setsid()?;
        } else {
            // A group of its own, so that what it sends to its group doesn't meet the tests.
            nix::unistd::setpgid(nix::unistd::Pid::from_raw(0), nix::unistd::Pid::from_raw(0))?;
        }
        if let Some(terminal) = &self.controlling_terminal {
            // SAFETY: TIOCSCTTY takes a number, and the descriptor is open as long as `self` lives.
            check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
        }
        for namespace in self.namespaces.iter().flat_map(|all| all.iter()) {
            nix::sched::setns(namespace, nix::sched::CloneFlags::empty())?;
        }
        if let Some(directory) = &self.directory {
            nix::unistd::chdir(directory.as_c_str())?;
        }
        self.descriptors()?;
        if let Some(mask) = self.umask {
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(mask));
        }
        for &(resource, soft, hard) in &self.limits {
            setrlimit(resource, soft, hard)?;
        }
        if let Some(user) = &self.user {
            // SAFETY: the pointer and the length are those of one vector, which setgroups only reads.
            check(unsafe { libc::setgroups(user.groups.len(), user.groups.as_ptr()) })?;
            // SAFETY: plain numbers; the process has one thread.
            check(unsafe { libc::setresgid(user.gid, user.gid, user.gid) })?;
            // SAFETY: as before.
            check(unsafe { libc::setresuid(user.uid, user.uid, user.uid) })?;
        }
        self.signals()
    }

    /// Leaves the child with 0, 1 and 2 and what is passed on, whatever the tests were started with.
    fn descriptors(&self) -> io::Result<()> {
        let everything = libc::c_uint::MAX;
        // SAFETY: plain numbers. With CLOEXEC nothing is closed that this child still needs, such as the
        // pipe on which a failed exec is reported.
        check(unsafe { libc::close_range(3, everything, libc::CLOSE_RANGE_CLOEXEC as i32) })?;
        // First out of the way, as the number of one may be the place of another.
        const HIGH: RawFd = 700;
        const MOST: usize = 32;
        let mut high = [-1; MOST];
        if self.passed.len() > MOST {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        for (index, (descriptor, _)) in self.passed.iter().enumerate() {
            // SAFETY: the descriptor is open as long as `self` lives.
            high[index] =
                check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_DUPFD_CLOEXEC, HIGH) })?;
        }
        for (index, (_, number)) in self.passed.iter().enumerate() {
            // SAFETY: plain numbers. Where `number` is in use, it is by a descriptor that ends at exec:
            // at worst the pipe that would tell of a failed exec, and then the test sees a child that is gone.
            check(unsafe { libc::dup2(high[index], *number) })?;
        }
        for &number in &self.closed {
            // SAFETY: a standard descriptor that nothing in this child uses any more.
            check(unsafe { libc::close(number) })?;
        }
        Ok(())
    }

    /// Default dispositions and an empty mask but for what the test asks for, whatever it inherited itself.
    fn signals(&self) -> io::Result<()> {
        for number in 1..=libc::SIGRTMAX() {
            // SAFETY: SIG_DFL is a valid disposition. KILL, STOP and those that libc keeps for itself are
            // refused with EINVAL, which is as good.
            unsafe { libc::signal(number, libc::SIG_DFL) };
        }
        for &signal in &self.ignored {
            // SAFETY: SIG_IGN is a valid disposition for every signal that can be named here.
            if unsafe { libc::signal(signal as i32, libc::SIG_IGN) } == libc::SIG_ERR {
                return Err(io::Error::last_os_error());
            }
        }
        let blocked = self.blocked.unwrap_or_else(SigSet::empty);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
        Ok(())
    }
}

/// A descriptor for the process `pid`, which keeps meaning that process (pidfd_open(2)). `None` when it is
/// gone.
pub(super) fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: plain numbers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = RawFd::try_from(descriptor).ok().filter(|&it| it >= 0)?;
    // SAFETY: the kernel has just made it, and nobody else knows of it.
    Some(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Sends a signal to exactly that process (pidfd_send_signal(2)).
pub(super) fn pidfd_send_signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and a null siginfo_t is allowed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal as i32,
            no_info,
            0,
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
