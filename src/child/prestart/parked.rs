//! A parked process, and how it gets a connection.
//!
//! The connection goes to it on a control socket, and the id of the process that goes on with it
//! comes back. A process that goes on itself answers before it does, and ends if the answer can't
//! be sent. The kernel notes the id of a copy, in memory that skd can read, before the copy runs.
//! So without an answer, and when there can be none any more, skd knows whether to hand the
//! connection to another.

use std::cell::Cell;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

use crate::child::cgroups::Cgroup;
use crate::sys::descriptors::memory_file;
use crate::sys::passing::send_descriptor;
use crate::sys::process::{self, Target, Wait};
use crate::sys::sockets::receive_now;

/// How long skd waits for an answer. It takes a clone(2) or a dozen other calls: after so much
/// more time the process has been stopped, or never answers.
pub(super) const ANSWER_TIMEOUT: TimeVal = TimeVal::new(0, 500_000);

/// A process that waits for connections, or for its only one.
#[derive(Debug)]
pub(super) struct Parked {
    pid: Pid,
    pidfd: OwnedFd,
    control: OwnedFd,
    /// Its control group, if it has one of its own.
    cgroup: Option<Cgroup>,
    /// The kernel's note of its last copy, if copies of it go on.
    copies: Option<File>,
    /// The last copy that was answered.
    last: Cell<i32>,
    /// Whether it hasn't answered in time. It may have made a copy all the same.
    silent: Cell<bool>,
    /// Whether it has been asked for a copy since the keeper has last looked.
    used: Cell<bool>,
}

/// Why no process has gone on with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Something is short for a copy; the process waits for the next connection.
    Short,
    /// The process has ended.
    Lost,
    /// The process didn't answer in time, and was ended.
    Silent,
}

/// The id of a process, or an errno below 0.
const ANSWER: usize = size_of::<i64>();

/// Makes the file, of a page, in which the kernel notes copies.
pub(super) fn note_of_copies() -> Result<File, Errno> {
    let file = memory_file()?;
    nix::unistd::ftruncate(&file, 4096)?;
    Ok(file)
}

impl Parked {
    /// Takes over a process that was parked. `control` has [`ANSWER_TIMEOUT`] on receiving.
    pub(super) fn new(pid: Pid, pidfd: OwnedFd, control: OwnedFd, copies: Option<File>) -> Self {
        Self {
            pid,
            pidfd,
            control,
            cgroup: None,
            copies,
            last: Cell::new(0),
            silent: Cell::new(false),
            used: Cell::new(false),
        }
    }

    /// The same in a control group of its own.
    pub(super) fn inside(self, cgroup: Option<Cgroup>) -> Self {
        Self { cgroup, ..self }
    }

    /// Takes over a process that an earlier binary of this process has parked: with the note of
    /// copies, and the last that was answered.
    pub(super) fn restored(
        pid: Pid,
        pidfd: OwnedFd,
        control: OwnedFd,
        copies: Option<(File, i32)>,
    ) -> Self {
        let (copies, last) = copies.unzip();
        let restored = Self::new(pid, pidfd, control, copies);
        restored.last.set(last.unwrap_or_default());
        restored
    }

    /// What [`Self::restored`] takes over, but for the pidfd.
    pub(super) fn parts(&self) -> (Pid, &OwnedFd, Option<(&File, i32)>) {
        let copies = self.copies.as_ref().map(|note| (note, self.last.get()));
        (self.pid, &self.control, copies)
    }

    /// Whether copies of it go on.
    pub(super) fn makes_copies(&self) -> bool {
        self.copies.is_some()
    }

    /// Its process id.
    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pidfd.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Whether it was ended, since it hadn't answered in time.
    pub(super) fn is_silent(&self) -> bool {
        self.silent.get()
    }

    /// Notes that it is used.
    pub(super) fn set_used(&self) {
        self.used.set(true);
    }

    /// Whether it was used since the last call of this.
    pub(super) fn take_used(&self) -> bool {
        self.used.take()
    }

    /// Gives it a connection, and returns the process that goes on with that.
    ///
    /// This waits for another process, but not for a client: no longer than the start of a handler
    /// takes, or [`ANSWER_TIMEOUT`] if the process is stopped.
    pub(super) fn give(&self, connection: BorrowedFd<'_>) -> Result<Pid, Refusal> {
        self.set_used();
        send_descriptor(&self.control, connection).map_err(|errno| match errno {
            // Here, not there.
            Errno::ETOOMANYREFS | Errno::ENOBUFS | Errno::ENOMEM => Refusal::Short,
            _ => Refusal::Lost,
        })?;
        let mut answer = [0; ANSWER];
        let received = loop {
            match recv(self.control.as_raw_fd(), &mut answer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => break received,
            }
        };
        let successor = match received {
            Ok(ANSWER) => understand(answer),
            Err(Errno::EAGAIN) => {
                self.silent.set(true);
                self.settle(Refusal::Silent)
            }
            _ => self.settle(Refusal::Lost),
        };
        if let Ok(pid) = successor {
            self.last.set(pid.as_raw());
        }
        successor
    }

    /// Finds out what became of a connection without an answer, and ends the process.
    fn settle(&self, otherwise: Refusal) -> Result<Pid, Refusal> {
        // A process that would go on itself can't answer any more, and ends.
        let _ = shutdown(self.control.as_raw_fd(), Shutdown::Both);
        if self.copies.is_some() {
            // The signal ends what a clone(2) or a recvmsg(2) sleeps in. When the process has
            // ended, it makes no copies.
            self.kill();
        }
        let mut answer = [0; ANSWER];
        if let Ok(ANSWER) = receive_now(&self.control, &mut answer, MsgFlags::empty()) {
            return understand(answer);
        }
        let mut noted = [0; size_of::<i32>()];
        let note = self.copies.as_ref();
        let read = note.is_some_and(|file| file.read_exact_at(&mut noted, 0).is_ok());
        let copy = i32::from_ne_bytes(noted);
        if read && copy != self.last.get() {
            return Ok(Pid::from_raw(copy));
        }
        Err(otherwise)
    }

    /// Keeps the pidfd and the control group of a process that has gone on itself.
    pub(super) fn into_parts(self) -> (OwnedFd, Option<Cgroup>) {
        (self.pidfd, self.cgroup)
    }

    /// Ends and reaps it.
    pub(super) fn end(self) {
        self.kill();
    }

    fn kill(&self) {
        let _ = process::signal_by_pidfd(&self.pidfd, Signal::SIGKILL);
        // Fails if it has been reaped.
        let _ = process::wait(Target::Descriptor(self.pidfd.as_fd()), Wait::UNTIL_END);
    }
}

fn understand(answer: [u8; ANSWER]) -> Result<Pid, Refusal> {
    match i32::try_from(i64::from_ne_bytes(answer)) {
        Ok(pid @ 1..) => Ok(Pid::from_raw(pid)),
        Ok(_) => Err(Refusal::Short),
        Err(_) => Err(Refusal::Lost),
    }
}
