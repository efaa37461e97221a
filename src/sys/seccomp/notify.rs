//! The listener of a filter: it is told of calls, and decides about them (seccomp_unotify(2)).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::sys::descriptors::can_unshare;
use crate::sys::passing::receive_descriptor;
use crate::sys::process::{open_pidfd, signal_by_pidfd};
use crate::sys::signals::Signal;

/// Whether a listener is told when all processes with its filter have ended (Linux 5.9).
///
/// First called while there is one thread.
pub fn can_listen() -> bool {
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the call reads one integer.
    let known = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0,
            &raw const action,
        )
    };
    // A call that came with the same version.
    known == 0 && can_unshare()
}

/// The listener of a filter.
#[derive(Debug)]
pub struct Listener(OwnedFd);

/// A call that waits for a decision.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    id: u64,
    /// The thread that makes the call.
    pub thread: Pid,
    /// The number of the call.
    pub number: u32,
    /// Its arguments.
    pub arguments: [u64; 6],
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// More than any kernel writes so far.
#[repr(C, align(8))]
struct Received([u8; 512]);

impl Listener {
    /// Takes the next call. Doesn't wait after the listener was reported as readable: it fails with
    /// ENOENT if the thread has been killed meanwhile.
    pub fn receive(&self) -> Result<Asked, Errno> {
        let mut received = Received([0; 512]);
        // SAFETY: the kernel writes a structure that is shorter, into zeroes, as it demands.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut received,
            )
        };
        Errno::result(result)?;
        // SAFETY: integers, which the kernel has written, at an address with their alignment.
        let found = unsafe { (&raw const received).cast::<libc::seccomp_notif>().read() };
        Ok(Asked {
            id: found.id,
            thread: Pid::from_raw(found.pid as i32),
            number: found.data.nr as u32,
            arguments: found.data.args,
        })
    }

    /// Has the call be made.
    pub fn let_go(&self, asked: &Asked) {
        self.answer(asked, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32);
    }

    /// Kills the process that makes the call, which isn't made.
    pub fn kill(&self, asked: &Asked) {
        let killed = open_pidfd(asked.thread).and_then(|process| {
            // The id of the process is its own as long as the call waits.
            if self.waits(asked) {
                signal_by_pidfd(process, Signal::SIGKILL)?;
            }
            Ok(())
        });
        // Before Linux 6.9 other threads than the first have no pidfd.
        if killed.is_err() && self.waits(asked) {
            let _ = nix::sys::signal::kill(asked.thread, Signal::SIGKILL);
        }
        // It never sees this, unless it can't be killed.
        self.answer(asked, -libc::EPERM, 0);
    }

    fn waits(&self, asked: &Asked) -> bool {
        // SAFETY: the kernel reads one integer.
        let result = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_ID_VALID,
                &raw const asked.id,
            )
        };
        result == 0
    }

    /// A thread that is gone by now needs no answer.
    fn answer(&self, asked: &Asked, error: i32, flags: u32) {
        let answer = libc::seccomp_notif_resp {
            id: asked.id,
            val: 0,
            error,
            flags,
        };
        // SAFETY: the kernel reads the structure.
        let _ = unsafe {
            libc::ioctl(
                self.0.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                &raw const answer,
            )
        };
    }
}

/// Receives the next listener that a child has sent with a number, if there is one: none at a shortage of
/// descriptors.
pub fn receive_listener(socket: impl AsFd) -> Result<(u32, Option<Listener>), Errno> {
    let (number, listener) = receive_descriptor(socket)?;
    Ok((number, listener.map(Listener)))
}
