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
    /// Numbers, since not every signal has a name.
    pub ignored: Vec<i32>,
    pub blocked: SigSetOrNone,
    /// Standard descriptors to close.
    pub closed: Vec<RawFd>,
    /// Descriptors to pass on, each under a number.
    pub passed: Vec<(OwnedFd, RawFd)>,
    /// System calls that fail, for this child and all that it starts.
    pub refused: Vec<Refusal>,
}

/// A system call that fails as if the kernel didn't have it, or a container's filter forbade it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refusal {
    pub call: libc::c_long,
    /// Only if the argument of this index, from 0, has one of these bits.
    pub bits: Option<(u32, u32)>,
    pub errno: nix::errno::Errno,
}

impl Refusal {
    /// The part of a filter (seccomp(2)) that makes the call fail; goes on behind it otherwise.
    fn instructions(self) -> Vec<libc::sock_filter> {
        // Offsets in struct seccomp_data: the number, and the low half of an argument.
        const NUMBER: u32 = 0;
        let low = if cfg!(target_endian = "big") { 4 } else { 0 };
        let load = |offset| instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
        let fail = libc::SECCOMP_RET_ERRNO | self.errno as u32;
        let fail = instruction(libc::BPF_RET | libc::BPF_K, 0, 0, fail);
        let call = u32::try_from(self.call).expect("the number of a system call");
        let is_call =
            |skip| instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, call);
        match self.bits {
            None => vec![load(NUMBER), is_call(1), fail],
            Some((argument, bits)) => vec![
                load(NUMBER),
                is_call(3),
                load(16 + 8 * argument + low),
                instruction(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, bits),
                fail,
            ],
        }
    }
}

fn instruction(code: u32, yes: u8, no: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt: yes,
        jf: no,
        k,
    }
}

/// A filter of system calls, ready to be installed.
fn filter(refused: &[Refusal]) -> Vec<libc::sock_filter> {
    let mut filter: Vec<_> = refused.iter().flat_map(|it| it.instructions()).collect();
    if !filter.is_empty() {
        let allow = libc::SECCOMP_RET_ALLOW;
        filter.push(instruction(libc::BPF_RET | libc::BPF_K, 0, 0, allow));
    }
    filter
}

type SigSetOrNone = Option<SigSet>;

#[derive(Debug)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Whether the kernel has close_range(2), which may be refused here as on an old one.
pub fn has_close_range() -> bool {
    // SAFETY: plain numbers, and no descriptor has such a number.
    unsafe { libc::close_range(libc::c_uint::MAX, libc::c_uint::MAX, 0) == 0 }
}

/// Makes the children of `command` do all of `preparation`.
pub(super) fn prepare(command: &mut Command, preparation: Preparation) {
    let filter = filter(&preparation.refused);
    // SAFETY: the closure runs in a child forked from a threaded process, where only async-signal-safe
    // functions may be called and no lock be taken. `apply` makes system calls with arguments that were
    // ready before the fork; its vectors are read in place, and an error is a number, not an allocation.
    unsafe {
        command.pre_exec(move || {
            preparation.apply()?;
            install(&filter)
        });
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
        let closed =
            check(unsafe { libc::close_range(3, everything, libc::CLOSE_RANGE_CLOEXEC as i32) });
        match closed {
            // On an old kernel, one by one, as far as tests have any.
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {
                (3..10_000).for_each(|number| {
                    // SAFETY: plain numbers; those that aren't open are refused.
                    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
                })
            }
            closed => drop(closed?),
        }
        // To high numbers first, as the number of one may be the target of another.
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
            // SAFETY: plain numbers. If `number` is in use, it is by a descriptor that ends at exec:
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
            // Not through libc, which refuses to touch the two that it keeps for itself: posix_spawn(3) of
            // some programs, cargo among them, starts its children with those ignored.
            let default = [0_u64; 4];
            let none = std::ptr::null_mut::<u64>();
            // SAFETY: a kernel sigaction of zeros, which is SIG_DFL without flags or mask, and no larger than
            // this; with a null old action nothing is written. KILL and STOP are refused, which is as good.
            unsafe { libc::syscall(libc::SYS_rt_sigaction, number, default.as_ptr(), none, 8) };
        }
        for &number in &self.ignored {
            let ignore = [libc::SIG_IGN as u64, 0, 0, 0];
            let none = std::ptr::null_mut::<u64>();
            // SAFETY: as above, with the first word SIG_IGN.
            let result =
                unsafe { libc::syscall(libc::SYS_rt_sigaction, number, ignore.as_ptr(), none, 8) };
            check(result as i32)?;
        }
        let blocked = self.blocked.unwrap_or_else(SigSet::empty);
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
        Ok(())
    }
}

/// Installs a filter of system calls, for good.
fn install(filter: &[libc::sock_filter]) -> io::Result<()> {
    if filter.is_empty() {
        return Ok(());
    }
    let program = libc::sock_fprog {
        len: filter.len() as libc::c_ushort,
        filter: filter.as_ptr().cast_mut(),
    };
    // Without it only root may filter; and a program of another user could be fooled.
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program points to the instructions, which the kernel copies.
    check(unsafe {
        libc::prctl(
            libc::PR_SET_SECCOMP,
            libc::SECCOMP_MODE_FILTER,
            &raw const program,
        )
    })?;
    Ok(())
}

/// A descriptor for the process `pid`, which keeps meaning that process (pidfd_open(2)). `None` when it is
/// gone.
pub(super) fn pidfd_open(pid: i32) -> Option<OwnedFd> {
    // SAFETY: plain numbers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = RawFd::try_from(descriptor).ok().filter(|&it| it >= 0)?;
    // SAFETY: the kernel has just made it, and no other code knows of it.
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

/// Sends a signal with a value, so that the kernel doesn't fill in the sender (sigqueue(3)).
pub fn queue_signal(pid: i32, signal: Signal) {
    let value = libc::sigval {
        sival_ptr: std::ptr::null_mut(),
    };
    // SAFETY: the value is passed on and not looked at.
    check(unsafe { libc::sigqueue(pid, signal as i32, value) }).expect("sigqueue");
}

fn check(result: i32) -> io::Result<i32> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}
