//! A parked process, and how it gets a connection.
//!
//! The connection goes to it on a control socket. Who goes on with it says so there before it
//! does anything else, and ends if nobody hears it. So whoever has heard nothing, and hears nothing
//! any more, may give the connection to another.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use crate::sys::process::{self, Target, Wait};
use crate::sys::sockets::{receive_now, send_descriptor};

/// How long an answer is waited for. It takes a clone(2) and a dozen other calls: one that takes so
/// much longer comes from a process that was stopped, or never.
pub(super) const PATIENCE: TimeVal = TimeVal::new(2, 0);

/// A process that waits for connections, or for its only one.
#[derive(Debug)]
pub(super) struct Parked {
    pid: Pid,
    pidfd: OwnedFd,
    control: OwnedFd,
}

/// Why nobody has gone on with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Something is short for a copy; the process waits for the next connection.
    Short,
    /// The process has ended: it gets no more connections.
    Lost,
    /// The same, for it hasn't answered in time.
    Silent,
}

/// Errno below 0, or 0; and the id of the process.
const ANSWER: usize = 16;

impl Parked {
    /// `control` has a limit of [`PATIENCE`] on receiving.
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, control: OwnedFd) -> Self {
        Self {
            pid,
            pidfd,
            control,
        }
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pidfd.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Gives it a connection, and says which process has gone on with that.
    ///
    /// This waits for another process, though not for a client: no longer than the start of a handler
    /// takes, or [`PATIENCE`] where somebody has stopped it.
    pub(super) fn give(&self, connection: BorrowedFd<'_>) -> Result<Pid, Refusal> {
        send_descriptor(&self.control, connection).map_err(|_| Refusal::Lost)?;
        let mut answer = [0; ANSWER];
        let heard = loop {
            match recv(self.control.as_raw_fd(), &mut answer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                heard => break heard,
            }
        };
        match heard {
            Ok(ANSWER) => understand(answer),
            Ok(_) => Err(Refusal::Lost),
            Err(errno) => {
                let refusal = match errno {
                    Errno::EAGAIN => Refusal::Silent,
                    _ => Refusal::Lost,
                };
                // From now on whoever answers isn't heard, and ends; who has answered was heard.
                let _ = shutdown(self.control.as_raw_fd(), Shutdown::Both);
                match receive_now(&self.control, &mut answer, MsgFlags::empty()) {
                    Ok(ANSWER) => understand(answer),
                    _ => Err(refusal),
                }
            }
        }
    }

    /// Lets go of what is left of it when it has gone on itself.
    pub(super) fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    /// Ends and reaps it.
    pub(super) fn end(self) {
        let _ = process::signal_by_pidfd(&self.pidfd, Signal::SIGKILL);
        // Fails if somebody else has reaped it.
        let _ = process::wait(Target::Descriptor(self.pidfd.as_fd()), Wait::UNTIL_END);
    }
}

fn understand(answer: [u8; ANSWER]) -> Result<Pid, Refusal> {
    let (errno, pid) = answer.split_at(ANSWER / 2);
    let word = |bytes: &[u8]| bytes.try_into().map_or(-1, i64::from_ne_bytes);
    let pid = i32::try_from(word(pid))
        .ok()
        .filter(|&pid| pid > 0)
        .map(Pid::from_raw);
    match (word(errno), pid) {
        (0, Some(pid)) => Ok(pid),
        (0, None) => Err(Refusal::Lost),
        (_, Some(pid)) => {
            // A copy that could not go on, and ends.
            let _ = process::wait(Target::Process(pid), Wait::UNTIL_END);
            Err(Refusal::Short)
        }
        (_, None) => Err(Refusal::Short),
    }
}
