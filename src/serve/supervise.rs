//! One program without a listener, run again whenever it exits, with signals passed on.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgrp, tcsetpgrp};

use crate::child::{Method, Plan};
use crate::error::Error;
use crate::report::{self, Cause, Event};
use crate::setup::{Log, Ready};
use crate::sys::child::{self, Born, Descriptors, Launch, Stage};
use crate::sys::descriptors::Low;
use crate::sys::events::wait_readable;
use crate::sys::memory::Stack;
use crate::sys::process::{self, Change, Ended, Target, Wait};
use crate::sys::signals::{Inherited, Signal, Signals, kill, killpg};

/// A run of this length or more is followed by another at once.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// The delay after the first short run, and the longest one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// What is passed on, and CHLD, which tells of the program's end.
const SIGNALS: [Signal; 10] = [
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

/// Whether standard input is a terminal that the program can have: ours, with us in its
/// foreground.
pub fn has_terminal() -> bool {
    io::stdin().is_terminal() && nix::unistd::tcgetpgrp(io::stdin()) == Ok(getpgrp())
}

/// Runs the program until a signal ends skd; gives the status to leave with.
///
/// `ready` is told when the program has been executed for the first time. Until then a
/// program that can't be is an error. So long after a signal that ends both has been passed
/// on, if said, what is left of the program is killed.
pub fn run(
    plan: &Plan,
    terminal: bool,
    kill_after: Option<Duration>,
    inherited: &Inherited,
    log: Log,
    ready: &mut Option<Ready>,
) -> Result<u8, Error> {
    let failed = |what| move |errno| Error::start(what, errno);
    let signals = Signals::new(&SIGNALS).map_err(failed("no descriptor for signals"))?;
    let stack = Stack::new().map_err(failed("no memory for the stack of a newborn child"))?;
    let mut supervisor = Supervisor {
        plan,
        terminal,
        log,
        signals,
        stack,
        adopts: process::adopts_orphans(),
        passes_hangup: !inherited.ignored(Signal::SIGHUP),
        ending: false,
        kill_after,
        kill_at: None,
    };
    // What would fail for every run fails here, and the log is emptied before the first one
    // writes to it.
    Method::probe(plan, Low::STANDARD)?;
    supervisor.take_terminal();
    supervisor.log.empty()?;
    let mut delay = FIRST_DELAY;
    loop {
        let started = Instant::now();
        let ended = match supervisor.start() {
            Ok(pid) => {
                if let Some(ready) = ready
                    && let Err(error) = ready.serving()
                {
                    let _ = killpg(pid, Signal::SIGTERM);
                    return Err(error);
                }
                *ready = None;
                supervisor.log.keep();
                report::event(Event::Started(&plan.name()));
                let ended = supervisor.watch(pid)?;
                report::event(Event::Ended(&plan.name(), ended));
                ended
            }
            Err(error) if ready.is_some() => return Err(error),
            Err(error) => {
                report::event(Event::Trouble(Cause::Exec, &error));
                Ended::Exited(error.status())
            }
        };
        if supervisor.ending {
            return Ok(status(ended));
        }
        let pause = if started.elapsed() >= GOOD_RUN {
            delay = FIRST_DELAY;
            Duration::ZERO
        } else {
            delay
        };
        report::event(Event::Restarting(&plan.name(), pause));
        supervisor.pause(pause);
        if supervisor.ending {
            return Ok(0);
        }
        if !pause.is_zero() {
            delay = (2 * delay).min(LONGEST_DELAY);
        }
    }
}

/// As a shell says it: 128 and the signal's number.
fn status(ended: Ended) -> u8 {
    match ended {
        Ended::Exited(status) => status,
        Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
    }
}

struct Supervisor<'a> {
    plan: &'a Plan,
    terminal: bool,
    log: Log,
    signals: Signals,
    stack: Stack,
    /// Whether strangers become this process's children, and are to be reaped.
    adopts: bool,
    /// Whether HUP is passed on: not under nohup(1).
    passes_hangup: bool,
    /// Whether the program isn't to be run again.
    ending: bool,
    kill_after: Option<Duration>,
    /// When the program is to be killed.
    kill_at: Option<Instant>,
}

impl Supervisor<'_> {
    fn start(&mut self) -> Result<Pid, Error> {
        let mut environment = self.plan.environment();
        let launch = Launch {
            descriptors: Descriptors::Inherit,
            connection: None,
            steps: self.plan.steps(),
            image: Some(self.plan.image()),
            environment: environment.finish(),
            // One child: CHLD tells of its end as well, and of its stops besides.
            want_pidfd: false,
        };
        let name = self.plan.name();
        let Born { pid, failure, .. } = child::spawn(&mut self.stack, launch)
            .map_err(|errno| Error::start(format!("no process for '{name}'"), errno))?;
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
    fn watch(&mut self, pid: Pid) -> Result<Ended, Error> {
        loop {
            match process::wait(Target::Process(pid), Wait::NOW_OR_STOPPED) {
                Ok(Some((_, Change::Ended(ended)))) => {
                    self.take_terminal();
                    if self.adopts {
                        bury_strangers(None);
                    }
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
                    let now = Instant::now();
                    if self.kill_at.is_some_and(|due| due <= now) {
                        self.kill_at = None;
                        report::event(Event::Killing(&self.plan.name()));
                        signal_group(pid, Signal::SIGKILL);
                    }
                    self.wait(self.kill_at.map(|due| due.saturating_duration_since(now)));
                    while let Some(signal) = self.signals.next() {
                        self.pass_on(signal, Some(pid));
                    }
                }
                Err(errno) => return Err(Error::start("the program was lost sight of", errno)),
            }
        }
    }

    /// Waits before the next start, unless a signal ends skd.
    fn pause(&mut self, pause: Duration) {
        let due = Instant::now() + pause;
        while !self.ending {
            while let Some(signal) = self.signals.next() {
                self.pass_on(signal, None);
            }
            let left = due.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.wait(Some(left));
        }
    }

    fn pass_on(&mut self, signal: Signal, program: Option<Pid>) {
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) {
            self.ending = true;
            // The first of them counts.
            let due = || Some(Instant::now() + self.kill_after?);
            self.kill_at = self.kill_at.or_else(due);
        }
        if signal == Signal::SIGCHLD && self.adopts {
            bury_strangers(program);
        }
        let passed_on = match signal {
            Signal::SIGCHLD => false,
            Signal::SIGHUP => self.passes_hangup,
            _ => true,
        };
        if let Some(pid) = program
            && passed_on
        {
            signal_group(pid, signal);
        }
        if signal == Signal::SIGHUP
            && let Err(text) = self.log.reopen()
        {
            report::event(Event::Trouble(Cause::Log, &text));
        }
    }

    /// Waits for a signal, and keeps the relay to syslog alive.
    fn wait(&mut self, limit: Option<Duration>) {
        let Some(relay) = self.log.relay_end() else {
            wait_readable([self.signals.as_fd()], limit);
            return;
        };
        let [_, ended] = wait_readable([self.signals.as_fd(), relay], limit);
        if ended {
            let pause = self
                .log
                .relay_due()
                .saturating_duration_since(Instant::now());
            let [signal] = wait_readable([self.signals.as_fd()], Some(pause));
            if !signal || pause.is_zero() {
                self.log.restart_relay();
            }
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

    fn take_terminal(&self) {
        if self.terminal {
            let _ = tcsetpgrp(io::stdin(), getpgrp());
        }
    }
}

/// One that has left its group isn't spared.
fn signal_group(pid: Pid, signal: Signal) {
    if killpg(pid, signal).is_err() {
        let _ = kill(pid, signal);
    }
}

/// Reaps every child that has ended but the program, whose end is looked at elsewhere.
fn bury_strangers(program: Option<Pid>) {
    while let Ok(Some((pid, Change::Ended(_)))) = process::wait(Target::Any, Wait::PEEK) {
        if Some(pid) == program {
            return;
        }
        let _ = process::wait(Target::Process(pid), Wait::NOW);
    }
}
