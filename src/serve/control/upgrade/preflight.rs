//! A preflight: a child executes the new binary with the state, and says whether it could go on.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::state::Written;
use super::words::{self, Purpose, Word};
use crate::child::Method;
use crate::serve::handlers::token::Token;
use crate::sys::events::{Interest, Poller};
use crate::sys::pipe::pipe;
use crate::sys::process::{self, Ended, Fork, Target, Wait};
use crate::sys::signals::{Signal, kill};

/// How long a new binary may take to say that it can go on.
pub(in crate::serve) const LIMIT: Duration = Duration::from_secs(10);

/// How long a preflight that was killed may take to be dead.
pub(in crate::serve) const DEAD: Duration = Duration::from_secs(1);

/// A new binary that a child tries, or the same binary with new files.
#[derive(Debug)]
pub(in crate::serve) struct Preflight {
    pub(in crate::serve) purpose: Purpose,
    /// Where it writes what it has read.
    pub(in crate::serve) findings: File,
    pub(in crate::serve) pid: Pid,
    /// Tells of its end, where the kernel has such.
    pidfd: Option<OwnedFd>,
    /// Why it couldn't be executed, if it couldn't: the errno.
    failure: File,
    pub(in crate::serve) next: OwnedFd,
    /// What it was told, and the length of that.
    state: File,
    length: u64,
    /// How long it may take.
    pub(in crate::serve) limit: Duration,
    /// When to look at it, even if nothing tells of its end.
    pub(in crate::serve) due: Instant,
    /// Whether it was killed, and that told.
    pub(in crate::serve) killed: bool,
}

/// What came of a preflight.
#[derive(Debug)]
pub(in crate::serve) enum Verdict {
    /// The new binary has said that it can go on.
    Accepted,
    /// It has run and said nothing of the kind.
    Refused(Ended),
    /// It couldn't be executed.
    NotExecuted(Errno),
}

impl Preflight {
    /// Starts one, on the program in an open file.
    pub(in crate::serve) fn start(
        purpose: Purpose,
        next: OwnedFd,
        (state, findings): (Written, File),
        method: Method,
        poller: &Poller,
        limit: Duration,
    ) -> io::Result<Self> {
        let arguments = words::arguments(state.memory, Word::Preflight, &["--check"]);
        let (failure, mut writer) = pipe()?;
        match process::fork()? {
            Fork::Child => {
                // It must not outlive the daemon whose listeners it has.
                let _ = process::end_with_parent();
                let errno = state.exec_file(&next, &arguments);
                let _ = writer.write_all(&(errno as i32).to_ne_bytes());
                process::exit_now(1)
            }
            Fork::Parent(pid) => {
                let pidfd = method.pidfd_of(pid);
                if let Some(pidfd) = &pidfd {
                    let _ = poller.add(pidfd, Interest::Readable, Token::Preflight.into());
                }
                Ok(Self {
                    purpose,
                    findings,
                    pid,
                    pidfd,
                    failure,
                    next,
                    state: state.file,
                    length: state.length,
                    limit,
                    due: Instant::now() + limit,
                    killed: false,
                })
            }
        }
    }

    /// Stops watching it.
    pub(in crate::serve) fn unwatch(&self, poller: &Poller) {
        if let Some(pidfd) = &self.pidfd {
            // Before it is closed: see `sys::child`.
            let _ = poller.remove(pidfd);
        }
    }

    /// Ends it, and waits a moment until it has.
    pub(in crate::serve) fn end(self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let deadline = Instant::now() + DEAD;
        let lives = || {
            matches!(
                process::wait(Target::Process(self.pid), Wait::NOW),
                Ok(None)
            )
        };
        while lives() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Judges how it ended.
    pub(in crate::serve) fn judge(&mut self, ended: Ended) -> Verdict {
        let mut errno = [0; 4];
        if self.failure.read_exact(&mut errno).is_ok() {
            return Verdict::NotExecuted(Errno::from_raw(i32::from_ne_bytes(errno)));
        }
        let state = self.state.metadata();
        let accepted = state.is_ok_and(|state| state.len() > self.length);
        match ended {
            Ended::Exited(0) if accepted => Verdict::Accepted,
            ended => Verdict::Refused(ended),
        }
    }
}
