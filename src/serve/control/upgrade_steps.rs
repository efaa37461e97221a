//! An upgrade, step by step: the preflight, the workers parked, the exec.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::daemon::Daemon;
use super::filter_calls::FilterCalls;
use super::socket::ControlSocket;
use super::upgrade::findings::Findings;
use super::upgrade::preflight::{DEAD, LIMIT, Preflight, Verdict};
use super::upgrade::save::write_state;
use super::upgrade::words::{self, Purpose, Word};
use crate::child::{Pool, program};
use crate::error::Reason;
use crate::report::NoUpgrade;
use crate::serve::worker::Phase;
use crate::setup::executable::Executable;
use crate::sys::aside;
use crate::sys::capabilities;
use crate::sys::descriptors;
use crate::sys::process::{self, Change, Ended, Target, Wait};
use crate::sys::signals::{Signal, kill};

/// How long a worker may take to be done with its connection.
const PARKING: Duration = Duration::from_secs(5);

/// How much longer a preflight may take for each service.
const LIMIT_PER_SERVICE: Duration = Duration::from_millis(20);

/// How long to wait until no descriptor is left that other threads close.
const ASIDE: Duration = Duration::from_secs(1);

impl Daemon {
    /// USR2: tries the program that stands where this one came from.
    pub(in crate::serve) fn begin_upgrade(&mut self) {
        self.begin_preflight(Purpose::Upgrade);
    }

    /// HUP, where services come from files: tries what they say by now, with the program that runs,
    /// even if another is at its path.
    ///
    /// During a preflight it is noted, and done afterwards.
    pub(in crate::serve) fn begin_reload(&mut self) {
        match self.preflight.is_some() {
            true => self.reload_again = true,
            false => self.begin_preflight(Purpose::Reload),
        }
    }

    fn begin_preflight(&mut self, purpose: Purpose) {
        if self.preflight.is_some() {
            return self.refuse(purpose, NoUpgrade::Running, &[]);
        }
        if self.drain.is_some() {
            return self.refuse(purpose, NoUpgrade::Ending, &[]);
        }
        match self.start_preflight(purpose) {
            Ok(preflight) => self.preflight = Some(preflight),
            Err(why) => self.refuse(purpose, NoUpgrade::Failed(&why), &[]),
        }
    }

    fn start_preflight(&self, purpose: Purpose) -> Result<Preflight, String> {
        let Some(executable) = &self.origin.executable else {
            return Err("where skd was started from couldn't be found out".into());
        };
        let path = executable.path().display();
        let next = match purpose {
            Purpose::Upgrade => executable
                .next()
                .map_err(|why| format!("{path} can't be opened: {why}"))?,
            Purpose::Reload => executable
                .running()
                .try_clone_to_owned()
                .map_err(|why| format!("no descriptor of the running program: {why}"))?,
        };
        let not_written =
            |why: io::Error| format!("its state can't be written down: {}", why.reason());
        let findings = descriptors::memory_file().map_err(|errno| not_written(errno.into()))?;
        let state = write_state(self, &next, (purpose, &findings), false).map_err(not_written)?;
        let poller = self.shared.handlers.main_poller();
        let more = LIMIT_PER_SERVICE.saturating_mul(self.services.len() as u32);
        let to = (state, findings);
        Preflight::start(purpose, next, to, self.method, poller, LIMIT + more)
            .map_err(|reason| format!("no process to try {path}: {}", reason.reason()))
    }

    /// Looks whether the preflight is over.
    pub(in crate::serve) fn look_at_preflight(&mut self) {
        let Some(preflight) = &mut self.preflight else {
            return;
        };
        let found = process::wait(Target::Process(preflight.pid), Wait::NOW);
        match found {
            Ok(Some((pid, Change::Ended(ended)))) => self.end_preflight(pid, ended),
            // No other thread reaps it.
            Err(_) => {
                if let Some(preflight) = self.forget_preflight() {
                    self.refuse(preflight.purpose, NoUpgrade::NoAnswer, &[]);
                }
                self.after_preflight();
            }
            Ok(_) if Instant::now() < preflight.due => {}
            Ok(_) => {
                let _ = kill(preflight.pid, Signal::SIGKILL);
                // Its end isn't waited for: on a dead file server it may take long.
                preflight.due = Instant::now() + DEAD;
                if !std::mem::replace(&mut preflight.killed, true) {
                    let (purpose, limit) = (preflight.purpose, preflight.limit);
                    self.refuse(purpose, NoUpgrade::Late(limit), &[]);
                }
            }
        }
    }

    /// Ends a preflight that may still go on, and has the lock of the pid file too.
    pub(in crate::serve) fn abandon_preflight(&mut self) {
        if let Some(preflight) = self.forget_preflight() {
            preflight.end();
        }
    }

    fn forget_preflight(&mut self) -> Option<Preflight> {
        let preflight = self.preflight.take()?;
        preflight.unwatch(self.shared.handlers.main_poller());
        Some(preflight)
    }

    /// A child has ended that is no handler: it may be the preflight.
    pub(in crate::serve) fn end_preflight(&mut self, pid: Pid, ended: Ended) {
        let is_it = |preflight: &Preflight| preflight.pid == pid;
        if !self.preflight.as_ref().is_some_and(is_it) {
            return;
        }
        let Some(mut preflight) = self.forget_preflight() else {
            return;
        };
        if !preflight.killed {
            self.act_on(preflight.judge(ended), &preflight);
        }
        self.after_preflight();
    }

    fn act_on(&mut self, verdict: Verdict, preflight: &Preflight) {
        let purpose = preflight.purpose;
        let faults = || Findings::faults(&preflight.findings);
        match verdict {
            Verdict::Accepted => {
                let why = self.become_next(preflight);
                self.refuse(purpose, NoUpgrade::Failed(&why), &[]);
            }
            // It has run, and has said why on standard error.
            Verdict::Refused(Ended::Exited(0)) => {
                self.refuse(purpose, NoUpgrade::NoAnswer, &[]);
            }
            Verdict::Refused(Ended::Exited(status)) => {
                self.refuse(purpose, NoUpgrade::Status(status), &faults());
            }
            Verdict::Refused(Ended::Killed(signal)) => {
                self.refuse(purpose, NoUpgrade::Signal(signal), &[]);
            }
            Verdict::NotExecuted(errno) => self.explain_exec(errno, purpose),
        }
    }

    /// After a preflight that came to nothing: HUP during it is obeyed now.
    fn after_preflight(&mut self) {
        if std::mem::take(&mut self.reload_again) && self.drain.is_none() {
            self.begin_reload();
        }
        self.ready_if_reloaded();
    }

    fn explain_exec(&mut self, errno: Errno, purpose: Purpose) {
        let executable = self.origin.executable.as_ref();
        let missing = executable
            .and_then(Executable::readable)
            .and_then(|file| program::missing_interpreter_of(None, file));
        let why = match &missing {
            Some(interpreter) => NoUpgrade::Interpreter(interpreter),
            // See `write_state`.
            None if errno == Errno::ENOENT => NoUpgrade::Script,
            None => NoUpgrade::NotExecutable(errno),
        };
        self.refuse(purpose, why, &[]);
    }

    /// Parks all threads and becomes the next binary. Returns with the reason why not.
    fn become_next(&mut self, preflight: &Preflight) -> String {
        if self.drain.is_some() {
            return "it is about to end".into();
        }
        let control = self.control.as_ref();
        if !control.is_none_or(|control| control.park(PARKING)) {
            return "the control socket has an answer to make that takes long; try again later"
                .into();
        }
        let why = self.park_and_exec(preflight);
        self.control.iter().for_each(ControlSocket::unpark);
        why
    }

    fn park_and_exec(&mut self, preflight: &Preflight) -> String {
        if !self.park_workers() {
            self.shared.enter_phase(Phase::Serving);
            return "a handler can't be started at the moment, or hangs before its exec; try again later".into();
        }
        if preflight.purpose == Purpose::Upgrade {
            self.status.reloading();
        }
        // No worker is handing a connection to a prestarted handler now. Those that are parked are
        // children like handlers; what a thread of this program traces would end with it.
        self.shared.pools().for_each(Pool::suspend);
        let calls = self.filter_calls.as_ref();
        calls.into_iter().for_each(FilterCalls::park);
        let next = &preflight.next;
        let kind = (preflight.purpose, &preflight.findings);
        let why = match write_state(self, next, kind, true) {
            Ok(state) => {
                // The exec would close the others in this thread, which could wait for them.
                aside::settle(ASIDE);
                let arguments = words::arguments(state.memory, Word::Upgrade, &[]);
                let errno = state.exec_file(next, &arguments);
                let _ = state.carried.survive(false);
                capabilities::end_passing_on();
                format!("the new program can't be executed: {}", errno.desc())
            }
            Err(reason) => format!("the state can't be written down: {}", reason.reason()),
        };
        calls.into_iter().for_each(FilterCalls::unpark);
        self.shared.pools().for_each(Pool::refill);
        self.shared.enter_phase(Phase::Serving);
        why
    }

    /// Has every worker wait where it has nothing in hand. Returns whether all do.
    fn park_workers(&self) -> bool {
        self.shared.enter_phase(Phase::Parked);
        let deadline = Instant::now() + PARKING;
        while self.shared.parked.load(Ordering::SeqCst) < self.workers.len() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        true
    }
}
