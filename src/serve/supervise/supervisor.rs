//! What is seen to while a supervised program runs, and while it doesn't.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgrp, tcsetpgrp};

use super::launch::launch;
use super::sockets::Sockets;
use crate::child::Plan;
use crate::config::KILL_AFTER;
use crate::error::Error;
use crate::report::{self, Event, Trouble};
use crate::setup::{Log, Ready, Said, Senders};
use crate::sys::child::{Born, ChildStack, CloneCall, Stage};
use crate::sys::events::wait_readable;
use crate::sys::process::{self, Change, Ended, Target, Wait};
use crate::sys::signals::{Arrived, Inherited, Signal, Signals, kill, killpg, signal_group};

/// The signals that are passed on, and CHLD, which tells of the program's end.
pub(in crate::serve) const SIGNALS: [Signal; 10] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGCHLD,
];

/// Returns whether standard input is a terminal that the program can have: skd's own, with skd in
/// its foreground.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && nix::unistd::tcgetpgrp(io::stdin()) == Ok(getpgrp())
}

/// The signals that are obeyed, and passed on.
#[derive(Debug)]
pub struct Obeyed {
    senders: Senders,
    /// Whether HUP is passed on: not under nohup(1).
    passes_hangup: bool,
}

impl Obeyed {
    /// The signals of these senders, in a process that has inherited this state.
    pub fn new(senders: Senders, inherited: &Inherited) -> Self {
        Self {
            senders,
            passes_hangup: !inherited.ignored(Signal::SIGHUP),
        }
    }

    /// Whether a signal is obeyed. CHLD, CONT and WINCH tell of something that can be seen
    /// otherwise, and end nothing.
    fn accepts(&self, arrived: Arrived) -> bool {
        let Arrived { signal, sender } = arrived;
        let harmless = [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGWINCH];
        let accepted = harmless.contains(&signal) || self.senders.accept(sender);
        if !accepted {
            report::event(Event::Trouble(Trouble::SignalRefused(signal, sender)));
        }
        accepted
    }
}

/// The supervisor of one program.
pub(in crate::serve) struct Supervisor<'a> {
    pub(in crate::serve) plan: &'a Plan,
    pub(in crate::serve) sockets: Option<Sockets<'a>>,
    /// How long a program that was told to end may go on, if that was said.
    pub(in crate::serve) kill_after: Option<Duration>,
    /// When it is killed: it was told to end.
    pub(in crate::serve) kill_at: Option<Instant>,
    pub(in crate::serve) terminal: bool,
    pub(in crate::serve) log: Log,
    pub(in crate::serve) signals: Signals,
    pub(in crate::serve) call: CloneCall,
    pub(in crate::serve) stack: ChildStack,
    pub(in crate::serve) obeyed: Obeyed,
    /// Whether the program isn't to be run again.
    pub(in crate::serve) ending: bool,
}

impl<'a> Supervisor<'a> {
    /// The sockets, if the program is started when a client comes.
    pub(in crate::serve) fn on_demand(&self) -> Option<&Sockets<'_>> {
        let sockets = self.sockets.as_ref();
        sockets.filter(|sockets| sockets.demand().is_some())
    }

    /// Whether a client waits for a program that is started when one comes.
    pub(in crate::serve) fn client_waits(&self) -> Option<bool> {
        self.on_demand().map(Sockets::client_waits)
    }

    /// Says that the start has succeeded, the first time.
    pub(in crate::serve) fn begin(&mut self, ready: &mut Option<Ready>) -> Result<(), Error> {
        if let Some(ready) = ready {
            ready.serving()?;
            if let Some(sockets) = &mut self.sockets {
                sockets.ready();
            }
            let listeners = self.sockets.iter().flat_map(Sockets::listeners);
            listeners
                .for_each(|listener| report::event(Event::Listening(listener.listener_name())));
        }
        *ready = None;
        self.log.keep();
        Ok(())
    }

    pub(in crate::serve) fn start(&mut self) -> Result<Pid, Error> {
        if let Some(sockets) = &mut self.sockets {
            sockets.prepare()?;
        }
        let target = Some(self.plan.target());
        let Born { pid, failure, .. } = launch(self.plan, self.call, &mut self.stack, target)?;
        let Some((stage, errno)) = failure else {
            return Ok(pid);
        };
        let _ = process::wait(Target::Process(pid), Wait::UNTIL_END);
        self.take_terminal();
        let text = self.plan.explain(stage, errno).to_string();
        Err(match stage {
            Stage::Exec => Error::NotRunnable(text),
            _ => Error::Start(text),
        })
    }

    /// Passes signals on until the program has ended.
    pub(in crate::serve) fn watch(&mut self, pid: Pid) -> Result<Ended, Error> {
        loop {
            match process::wait(Target::Process(pid), Wait::NOW_OR_STOPPED) {
                Ok(Some((_, Change::Ended(ended)))) => {
                    self.take_terminal();
                    bury_strangers(None);
                    // Interrupted from the terminal, which we have given away, it was all
                    // of us that was interrupted.
                    let interrupted = [Signal::SIGINT, Signal::SIGQUIT]
                        .map(|signal| Ended::Killed(signal as i32))
                        .contains(&ended);
                    self.ending |= self.terminal && interrupted;
                    return Ok(ended);
                }
                Ok(Some((_, Change::Stopped))) => self.stop_too(pid),
                Ok(None) => {
                    let due = self.kill_at;
                    let due = due.or_else(|| self.stoppable()?.look_at());
                    let limit = due.map(|due| due.saturating_duration_since(Instant::now()));
                    self.wait(limit, false);
                    while let Some(arrived) = self.signals.next() {
                        self.pass_on(arrived, Some(pid));
                    }
                    self.see_to_end(pid);
                }
                Err(errno) => return Err(Error::start("the program was lost sight of", errno)),
            }
        }
    }

    /// Ends a program that has been without clients for so long as was said, and kills a program
    /// that was told to end and hasn't.
    fn see_to_end(&mut self, pid: Pid) {
        let now = Instant::now();
        if let Some(kill_at) = self.kill_at {
            if now >= kill_at {
                report::event(Event::Killing(self.plan.name()));
                signal_group(pid, Signal::SIGKILL);
                // Which may take a while to show.
                self.kill_at = Some(now + Duration::from(KILL_AFTER));
            }
        } else if let Some(span) = self.stoppable().and_then(Sockets::idle) {
            report::event(Event::Idle(self.plan.name(), span));
            signal_group(pid, Signal::SIGTERM);
            self.kill_at = Some(now + self.kill_after.unwrap_or(KILL_AFTER.into()));
        }
    }

    /// The sockets of a program that may be stopped for want of clients: not of a program that was
    /// told to end already, and has perhaps as long for that as it likes.
    fn stoppable(&mut self) -> Option<&mut Sockets<'a>> {
        self.sockets.as_mut().filter(|_| !self.ending)
    }

    /// Waits for a client, unless a signal ends skd.
    pub(in crate::serve) fn await_client(&mut self) {
        while !self.ending && !self.on_demand().is_none_or(Sockets::client_waits) {
            self.wait(None, true);
            while let Some(arrived) = self.signals.next() {
                self.pass_on(arrived, None);
            }
        }
    }

    /// Waits before the next start, unless a signal ends skd.
    pub(in crate::serve) fn pause(&mut self, pause: Duration) {
        let due = Instant::now() + pause;
        while !self.ending {
            while let Some(arrived) = self.signals.next() {
                self.pass_on(arrived, None);
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.wait(Some(left), false);
        }
    }

    fn pass_on(&mut self, arrived: Arrived, program: Option<Pid>) {
        if !self.obeyed.accepts(arrived) {
            return;
        }
        let signal = arrived.signal;
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) {
            self.ending = true;
            // The first of them counts.
            let due = || Some(Instant::now() + self.kill_after?);
            self.kill_at = self.kill_at.or_else(due);
            if let Some(sockets) = &mut self.sockets {
                sockets.stopping();
            }
        }
        if signal == Signal::SIGCHLD {
            bury_strangers(program);
        }
        let passed_on = match signal {
            Signal::SIGCHLD => false,
            Signal::SIGHUP => self.obeyed.passes_hangup,
            _ => true,
        };
        if let Some(pid) = program.filter(|_| passed_on) {
            signal_group(pid, signal);
        }
        if signal == Signal::SIGHUP {
            self.log.reopen();
        }
    }

    /// Waits for a signal, or for a client if that is wanted, and keeps the relay of the log
    /// alive and the service manager informed.
    fn wait(&mut self, limit: Option<Duration>, client: bool) {
        let tell_at = self.sockets.as_ref().and_then(Sockets::tell_at);
        let until = |due: Instant| due.saturating_duration_since(Instant::now());
        let limit = limit.into_iter().chain(tell_at.map(until)).min();
        let signals = self.signals.as_fd();
        let relay = self.log.relay_end();
        let demand = self.sockets.as_ref().filter(|_| client);
        let demand = demand.and_then(Sockets::demand);
        // What there isn't is replaced by the signals, which are waited for in any case.
        let wanted = [signals, relay.unwrap_or(signals), demand.unwrap_or(signals)];
        let [_, ended, _] = wait_readable(wanted, limit);
        if relay.is_some() && ended && self.log.listen() == Said::Ended {
            let pause = self
                .log
                .relay_due()
                .saturating_duration_since(Instant::now());
            let [signal] = wait_readable([self.signals.as_fd()], Some(pause));
            if !signal || pause.is_zero() {
                self.log.restart_relay();
            }
        }
        if let Some(sockets) = &mut self.sockets {
            sockets.keep_told();
        }
    }

    /// The program was stopped from the terminal: so that the shell sees it, skd stops too,
    /// and both go on together.
    fn stop_too(&mut self, pid: Pid) {
        if !self.terminal {
            return;
        }
        self.take_terminal();
        // Not STOP: where there is no shell to continue us, the kernel ignores this one.
        let _ = kill(Pid::this(), Signal::SIGTSTP);
        if has_terminal() {
            let _ = tcsetpgrp(io::stdin(), pid);
        }
        let _ = killpg(pid, Signal::SIGCONT);
    }

    pub(in crate::serve) fn take_terminal(&self) {
        if self.terminal {
            let _ = tcsetpgrp(io::stdin(), getpgrp());
        }
    }
}

/// Reaps every child that has ended but the program, whose end is looked at elsewhere. These are
/// orphans, or the program has made them this process's children (`CLONE_PARENT`).
fn bury_strangers(program: Option<Pid>) {
    while let Ok(Some((pid, Change::Ended(_)))) = process::wait(Target::Any, Wait::PEEK) {
        if Some(pid) == program {
            return;
        }
        let _ = process::wait(Target::Process(pid), Wait::NOW);
    }
}
