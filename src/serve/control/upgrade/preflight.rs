//! Before an upgrade: a child tries the new image on what it would get, and the acceptors are
//! parked, for a child between clone and exec would be unknown to it.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::super::Daemon;
use super::{refuse, words};
use crate::child::{Pool, program};
use crate::error::Reason;
use crate::report::NoUpgrade;
use crate::serve::handlers::token::Token;
use crate::serve::worker::Phase;
use crate::setup::executable::Executable;
use crate::sys::events::Interest;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::signals::{Signal, kill};

/// How long a new image may take to say that it can take over.
const TRIAL: Duration = Duration::from_secs(10);

/// How long one that was killed may take to be dead.
const DEAD: Duration = Duration::from_secs(1);

/// How long an acceptor may take to be done with its connection.
const PARKING: Duration = Duration::from_secs(5);

/// A new image that a child tries.
#[derive(Debug)]
pub(in crate::serve) struct Preflight {
    pid: Pid,
    /// Tells of its end, where the kernel has such.
    pidfd: Option<OwnedFd>,
    /// Why it couldn't be executed, if it couldn't: the errno.
    failure: PipeReader,
    next: OwnedFd,
    /// What it was told, and the length of that.
    state: File,
    length: u64,
    /// When to look at it, even if nothing tells of its end.
    pub(in crate::serve) due: Instant,
    /// Whether it was killed, and that told.
    killed: bool,
}

impl Daemon {
    /// USR2: tries the program that stands where this one came from.
    pub(in crate::serve) fn begin_upgrade(&mut self) {
        if self.preflight.is_some() {
            return refuse(NoUpgrade::Running);
        }
        if self.drain.is_some() {
            return refuse(NoUpgrade::Ending);
        }
        match self.start_preflight() {
            Ok(preflight) => self.preflight = Some(preflight),
            Err(why) => refuse(NoUpgrade::Failed(&why)),
        }
    }

    fn start_preflight(&self) -> Result<Preflight, String> {
        let Some(executable) = &self.origin.executable else {
            return Err("where skd was started from couldn't be found out".into());
        };
        let path = executable.path().display();
        let next = executable
            .next()
            .map_err(|errno| format!("{path} can't be opened: {}", errno.desc()))?;
        let state = self
            .write_state(&next, false)
            .map_err(|reason| format!("its state can't be written down: {}", reason.reason()))?;
        let words = words(state.memory, "trial", &["--check"]);
        let failed = |reason: io::Error| format!("no process to try {path}: {}", reason.reason());
        let (failure, mut writer) = pipe().map_err(failed)?;
        match process::fork().map_err(|errno| failed(errno.into()))? {
            Fork::Child => {
                // It must not outlive those whose listeners it has.
                let _ = process::end_with_parent();
                let errno = state.exec_file(&next, &words);
                let _ = writer.write_all(&(errno as i32).to_ne_bytes());
                process::exit_now(1)
            }
            Fork::Parent(pid) => {
                let pidfd = self.method.pidfd_of(pid);
                if let Some(pidfd) = &pidfd {
                    let poller = self.shared.handlers.main_poller();
                    let _ = poller.add(pidfd, Interest::Readable, Token::Preflight.into());
                }
                Ok(Preflight {
                    pid,
                    pidfd,
                    failure,
                    next,
                    state: state.file,
                    length: state.length,
                    due: Instant::now() + TRIAL,
                    killed: false,
                })
            }
        }
    }

    /// Looks whether the trial is over.
    pub(in crate::serve) fn look_at_preflight(&mut self) {
        let Some(preflight) = &mut self.preflight else {
            return;
        };
        let found = process::wait(Target::Process(preflight.pid), Wait::NOW);
        match found {
            Ok(Some((pid, Change::Ended(ended)))) => self.end_preflight(pid, ended),
            // Nobody else reaps in this process.
            Err(_) => drop(self.forget_preflight()),
            Ok(_) if Instant::now() < preflight.due => {}
            Ok(_) => {
                let _ = kill(preflight.pid, Signal::SIGKILL);
                // Its end isn't waited for: on a dead file server it may take long.
                preflight.due = Instant::now() + DEAD;
                if !std::mem::replace(&mut preflight.killed, true) {
                    refuse(NoUpgrade::Late(TRIAL));
                }
            }
        }
    }

    /// Ends a trial that may still go on, and has the lock of the pid file too.
    pub(in crate::serve) fn abandon_preflight(&mut self) {
        let Some(preflight) = self.forget_preflight() else {
            return;
        };
        let _ = kill(preflight.pid, Signal::SIGKILL);
        let deadline = Instant::now() + DEAD;
        while let Ok(None) = process::wait(Target::Process(preflight.pid), Wait::NOW)
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn forget_preflight(&mut self) -> Option<Preflight> {
        let preflight = self.preflight.take()?;
        if let Some(pidfd) = &preflight.pidfd {
            // Before it is closed: see `sys::child`.
            let _ = self.shared.handlers.main_poller().remove(pidfd);
        }
        Some(preflight)
    }

    /// A child has ended that is no handler: it may be the trial.
    pub(in crate::serve) fn end_preflight(&mut self, pid: Pid, ended: Ended) {
        if self
            .preflight
            .as_ref()
            .is_none_or(|preflight| preflight.pid != pid)
        {
            return;
        }
        let Some(mut preflight) = self.forget_preflight() else {
            return;
        };
        if preflight.killed {
            return;
        }
        let accepted = preflight.state.metadata();
        let accepted = accepted.is_ok_and(|state| state.len() > preflight.length);
        let mut errno = [0; 4];
        if preflight.failure.read_exact(&mut errno).is_err() {
            // It has run, and has said why on standard error.
            return match ended {
                Ended::Exited(0) if accepted => {
                    let why = self.become_next(&preflight.next);
                    refuse(NoUpgrade::Failed(&why));
                }
                Ended::Exited(0) => {
                    refuse(NoUpgrade::NoAnswer);
                }
                Ended::Exited(status) => refuse(NoUpgrade::Status(status)),
                Ended::Killed(signal) => refuse(NoUpgrade::Signal(signal)),
            };
        }
        let executable = self.origin.executable.as_ref();
        let missing = executable
            .and_then(Executable::readable)
            .and_then(program::missing_interpreter_of);
        match missing {
            Some(interpreter) => refuse(NoUpgrade::Interpreter(&interpreter)),
            // See `write_state`.
            None if i32::from_ne_bytes(errno) == Errno::ENOENT as i32 => {
                refuse(NoUpgrade::Script);
            }
            None => {
                let errno = Errno::from_raw(i32::from_ne_bytes(errno));
                refuse(NoUpgrade::NotExecutable(errno));
            }
        }
    }

    /// Parks the acceptors and becomes the next image; comes back with the reason why not.
    fn become_next(&mut self, next: &OwnedFd) -> String {
        if self.drain.is_some() {
            return "it is about to end".into();
        }
        if !self.park_acceptors() {
            self.shared.enter_phase(Phase::Serving);
            return "a handler can't be started at the moment, or hangs before its exec; try again later".into();
        }
        self.status.reloading();
        // No acceptor is giving a connection to one of them now; and the next image starts its own,
        // with a thread that traces them as this image's can't any more.
        self.shared.pools().for_each(Pool::retire);
        let why = match self.write_state(next, true) {
            Ok(state) => {
                let words = words(state.memory, "resume", &[]);
                let errno = state.exec_file(next, &words);
                let _ = state.carried.survive(false);
                format!("the new program can't be executed: {}", errno.desc())
            }
            Err(reason) => format!("the state can't be written down: {}", reason.reason()),
        };
        self.shared.pools().for_each(Pool::refill);
        self.shared.enter_phase(Phase::Serving);
        self.status.ready(&self.shared);
        why
    }

    /// Has every acceptor wait where it has nothing in hand; says whether all do.
    fn park_acceptors(&self) -> bool {
        self.shared.enter_phase(Phase::Parked);
        let deadline = Instant::now() + PARKING;
        while self.shared.parked.load(Ordering::SeqCst) < self.acceptors.len() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }
}
