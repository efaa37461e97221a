//! Signals: the inherited state, and signals that arrive as data.
//!
//! Signals come through a signalfd(2), never through handlers: a handler would run in a newborn
//! child too, on this process's own memory. Every signal used is blocked in all threads with its
//! disposition default, and a child's plan restores the mask.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
pub use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signal::{SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

/// Whether SIGPIPE was ignored when the program was started.
static PIPE_WAS_IGNORED: AtomicBool = AtomicBool::new(false);

/// Runs before `main`: there Rust's runtime ignores SIGPIPE, after which the inherited disposition
/// is lost. (Miri knows no such system call.)
#[used]
#[cfg_attr(not(miri), unsafe(link_section = ".init_array"))]
static LOOK_AT_PIPE: extern "C" fn() = {
    extern "C" fn look() {
        PIPE_WAS_IGNORED.store(is_ignored(libc::SIGPIPE), Ordering::Relaxed);
    }
    look
};

/// The mask and the ignored signals that this process was started with.
#[derive(Clone, Debug)]
pub struct Inherited {
    mask: SigSet,
    ignored: Vec<libc::c_int>,
}

impl Inherited {
    /// Notes what was inherited, then empties the mask and makes every ignored signal default: an
    /// ignored CHLD would reap handlers unseen, and handlers would inherit all of it.
    ///
    /// Three are blocked at once: PIPE and XFSZ, since a write to a closed pipe or beyond the limit
    /// of a file's size is an error like others; and HUP if it was ignored, since it mustn't end
    /// the start.
    ///
    /// With `keep_mask` the mask stays as well: after an upgrade it has what the earlier program
    /// blocked, and signals that have arrived since must stay pending.
    pub fn sanitise(keep_mask: bool) -> Self {
        let mut mask = SigSet::empty();
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, None, Some(&mut mask));
        let mut blocked: SigSet = [Signal::SIGPIPE, Signal::SIGXFSZ].into_iter().collect();
        if is_ignored(libc::SIGHUP) {
            blocked.add(Signal::SIGHUP);
        }
        let how = if keep_mask {
            SigmaskHow::SIG_BLOCK
        } else {
            SigmaskHow::SIG_SETMASK
        };
        let _ = sigprocmask(how, Some(&blocked), None);
        let mut ignored = Vec::new();
        for signal in 1..=libc::SIGRTMAX() {
            // Rust's runtime has ignored PIPE before this could be called.
            let was_ignored = if signal == libc::SIGPIPE {
                PIPE_WAS_IGNORED.load(Ordering::Relaxed)
            } else {
                is_ignored(signal)
            };
            if was_ignored {
                ignored.push(signal);
            }
            if was_ignored || signal == libc::SIGPIPE {
                set_disposition(signal, libc::SIG_DFL);
            }
        }
        Self { mask, ignored }
    }

    /// Whether this signal was ignored, as nohup(1) does with HUP.
    pub fn ignored(&self, signal: Signal) -> bool {
        self.ignored.contains(&(signal as libc::c_int))
    }

    /// A pending signal that will end the process after [`Self::restore`] (sigpending(2)).
    pub fn awaits_end(&self) -> Option<Signal> {
        let mut pending = SigSet::empty();
        let mut raw = *pending.as_ref();
        // SAFETY: the set is valid memory for the call to write to.
        if unsafe { libc::sigpending(&raw mut raw) } == 0 {
            // SAFETY: the call has filled the set in.
            pending = unsafe { SigSet::from_sigset_t_unchecked(raw) };
        }
        let ends = [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGQUIT,
            Signal::SIGHUP,
        ];
        ends.into_iter().find(|signal| {
            pending.contains(*signal) && !self.mask.contains(*signal) && !self.ignored(*signal)
        })
    }

    /// Restores mask and dispositions, for a program that replaces this one.
    pub fn restore(&self) {
        for &signal in &self.ignored {
            set_disposition(signal, libc::SIG_IGN);
        }
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.mask), None);
    }
}

fn is_ignored(signal: libc::c_int) -> bool {
    let mut action = [0; ACTION];
    // SAFETY: with a null new action the call only writes the old one, to memory that is
    // large enough and may have any value.
    let result = unsafe {
        let none = std::ptr::null::<usize>();
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            none,
            action.as_mut_ptr(),
            SET,
        )
    };
    result == 0 && action[0] == libc::SIG_IGN
}

fn set_disposition(signal: libc::c_int, disposition: libc::sighandler_t) {
    let mut action: [usize; ACTION] = [0; ACTION];
    action[0] = disposition;
    // SAFETY: the action is one of the kernel's, with no flags and an empty mask; SIG_DFL and
    // SIG_IGN run no code of this process. KILL and STOP are refused, which is all right.
    unsafe {
        let none = std::ptr::null_mut::<usize>();
        libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), none, SET);
    }
}

/// The kernel's own `struct sigaction` (rt_sigaction(2)), in words, more than there are, and the
/// size of its signal set. Its first word is the disposition, except on MIPS.
///
/// The C library's function refuses two signals, which can be inherited ignored like others.
const ACTION: usize = 8;
const SET: usize = 8;

/// What is sent to end skd, or comes of a pipe without a reader: a process that outlives skd, to see to its
/// last lines or groups, ignores these.
pub const ENDING: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGPIPE,
];

/// Ignores these signals, in a process that was forked for that.
pub fn ignore(signals: &[Signal]) {
    for &signal in signals {
        set_disposition(signal as libc::c_int, libc::SIG_IGN);
    }
}

/// The signals that skd uses from the time on when it may have something to remove, and those that
/// mustn't end or stop it. PIPE and XFSZ come from writing to a log; TTOU comes from writing to a
/// terminal in the background, and from setting its foreground group.
const USED: [Signal; 13] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
    Signal::SIGCONT,
    Signal::SIGPIPE,
    Signal::SIGXFSZ,
    Signal::SIGTTOU,
];

/// Blocks the signals used, in this thread and in those that it will make.
pub fn block() {
    let _ = USED.into_iter().collect::<SigSet>().thread_block();
}

/// Ends the process by this signal, whose disposition is default.
pub fn end_by(signal: Signal) {
    let _ = [signal].into_iter().collect::<SigSet>().thread_unblock();
    let _ = nix::sys::signal::raise(signal);
}

/// Sends a signal to the process group of which a child was made the leader, or to the child alone
/// if there is no such group.
pub fn signal_group(leader: Pid, signal: Signal) {
    if killpg(leader, signal).is_err() {
        let _ = kill(leader, signal);
    }
}

/// Whether the process group of a reaped leader has a process, living or not yet reaped.
pub fn has_group(leader: Pid) -> bool {
    // EPERM means that there is one.
    killpg(leader, None) != Err(Errno::ESRCH)
}

/// Whether this process has a thread with this id (tgkill(2)).
pub(super) fn thread_exists(thread: Pid) -> bool {
    // SAFETY: the call takes integers; signal 0 is sent to no thread.
    let result = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread.as_raw(), 0) };
    Errno::result(result) != Err(Errno::ESRCH)
}

/// Unblocks the signals that end a process, in a process that waits for another.
pub fn allow_ending() {
    let _ = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT]
        .into_iter()
        .collect::<SigSet>()
        .thread_unblock();
}

/// A signal that has arrived, and its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived {
    /// The signal.
    pub signal: Signal,
    /// The sender.
    pub sender: Sender,
}

/// The sender of a signal, as far as the kernel knows it (`si_code` of sigaction(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel itself: a key of the terminal, its end, a timer.
    Kernel,
    /// A process of an enclosing PID namespace, such as the runtime of a container.
    Outside,
    /// A process that the kernel has identified by its real user id.
    Process {
        /// Its process id.
        pid: u32,
        /// Its real user id.
        uid: u32,
    },
    /// A process that has filled in its ids itself (rt_sigqueueinfo(2)), or one whose ids aren't
    /// known.
    Unverified {
        /// The process id that it claims.
        pid: u32,
        /// The user id that it claims.
        uid: u32,
    },
}

impl Sender {
    /// Reads what the kernel says of it. A process can't send a code of 0 or more to another
    /// process, nor [`Self::TKILL`], except by the calls that fill in the ids. Any other code
    /// carries ids that the sender has made up, or none at all: a handler can have the kernel send
    /// TERM when a descriptor is ready (fcntl(2), `F_SETSIG`).
    fn of(code: i32, pid: u32, uid: u32) -> Self {
        match code {
            Self::KERNEL => Self::Kernel,
            Self::USER if pid == 0 => Self::Outside,
            Self::USER | Self::TKILL => Self::Process { pid, uid },
            _ => Self::Unverified { pid, uid },
        }
    }

    /// `SI_KERNEL`.
    const KERNEL: i32 = 0x80;
    /// `SI_USER`: kill(2), or pidfd_send_signal(2) without details.
    const USER: i32 = 0;
    /// `SI_TKILL`: tgkill(2).
    const TKILL: i32 = -6;
}

/// Signals as data (signalfd(2)). The caller has blocked them with [`block`].
#[derive(Debug)]
pub struct Signals {
    source: SignalFd,
}

impl Signals {
    /// Receives these signals.
    pub fn new(signals: &[Signal]) -> Result<Self, Errno> {
        let mask = signals.iter().copied().collect();
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            source: SignalFd::with_flags(&mask, flags)?,
        })
    }

    /// Receives these signals instead, from now on.
    pub fn set(&self, signals: &[Signal]) -> Result<(), Errno> {
        self.source.set_mask(&signals.iter().copied().collect())
    }

    /// Takes the next signal that has arrived, if there is one.
    pub fn next(&self) -> Option<Arrived> {
        let info = self.source.read_signal().ok().flatten()?;
        let signal = Signal::try_from(info.ssi_signo as i32).ok()?;
        let sender = Sender::of(info.ssi_code, info.ssi_pid, info.ssi_uid);
        Some(Arrived { signal, sender })
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_no_process_can_forge_identify_a_sender() {
        let (pid, uid) = (7, 1000);
        assert_eq!(Sender::of(0x80, 0, 0), Sender::Kernel);
        assert_eq!(Sender::of(0, 0, uid), Sender::Outside);
        for code in [0, -6] {
            assert_eq!(Sender::of(code, pid, uid), Sender::Process { pid, uid });
        }
        // SI_QUEUE, SI_TIMER, SI_MESGQ, SI_ASYNCIO, SI_SIGIO, SI_DETHREAD, POLL_IN, CLD_EXITED.
        for code in [-1, -2, -3, -4, -5, -7, 1, 2, 0x81, i32::MIN] {
            assert_eq!(Sender::of(code, pid, uid), Sender::Unverified { pid, uid });
            assert_eq!(
                Sender::of(code, 0, 0),
                Sender::Unverified { pid: 0, uid: 0 }
            );
        }
    }
}
