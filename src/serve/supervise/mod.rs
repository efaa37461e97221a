//! One program, run again whenever it exits, with signals passed on. Sockets that it is
//! handed stay open here, so that no client is refused in between.

pub mod sockets;

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgrp, tcsetpgrp};

use crate::child::Plan;
use crate::config::KILL_AFTER;
use crate::error::Error;
use crate::report::{self, Event, Trouble};
use crate::setup::{Log, Ready};
use crate::sys::child::{self, Born, Descriptors, ExecTarget, Launch, Stage};
use crate::sys::events::wait_readable;
use crate::sys::memory::Stack;
use crate::sys::process::{self, Change, Ended, Target, Wait};
use crate::sys::signals::{Inherited, Signal, Signals, kill, killpg, signal_group};
use sockets::Sockets;

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
/// `ready` is told when the program has been executed for the first time, and until then a
/// program that can't be is an error; or it is told at once, where the program waits for a
/// client.
pub fn run(
    plan: &Plan,
    sockets: Option<Sockets<'_>>,
    kill_after: Option<Duration>,
    terminal: bool,
    inherited: &Inherited,
    log: Log,
    ready: &mut Option<Ready>,
) -> Result<u8, Error> {
    let failed = |what| move |errno| Error::start(what, errno);
    let signals = Signals::new(&SIGNALS).map_err(failed("no descriptor for signals"))?;
    let mut supervisor = Supervisor {
        plan,
        sockets,
        kill_after,
        kill_at: None,
        terminal,
        log,
        signals,
        stack: stack()?,
        adopts: process::adopts_orphans(),
        passes_hangup: !inherited.ignored(Signal::SIGHUP),
        ending: false,
    };
    supervisor.take_terminal();
    // Before the first one writes to it.
    supervisor.log.empty()?;
    let mut delay = FIRST_DELAY;
    loop {
        if supervisor.on_demand().is_some() {
            supervisor.begin(ready)?;
            supervisor.await_client();
            if supervisor.ending {
                return Ok(0);
            }
        }
        let started = Instant::now();
        let mut client = supervisor.client_waits();
        let ended = match supervisor.start() {
            Ok(pid) => {
                if let Err(error) = supervisor.begin(ready) {
                    let _ = killpg(pid, Signal::SIGTERM);
                    return Err(error);
                }
                report::event(Event::Started(plan.name()));
                let ended = supervisor.watch(pid)?;
                // Before anybody hears of the end, and comes because of it.
                client = supervisor.client_waits();
                report::event(Event::Ended(plan.name(), ended));
                ended
            }
            Err(error) if ready.is_some() => return Err(error),
            Err(error) => {
                report::event(Event::Trouble(Trouble::NotStarted(&error)));
                Ended::Exited(error.status())
            }
        };
        if supervisor.ending {
            return Ok(status(ended));
        }
        // One that is run on demand ends when it has nothing more to do.
        let stopped = supervisor.kill_at.take().is_some();
        let done = stopped || client == Some(false) && ended == Ended::Exited(0);
        let pause = if done || started.elapsed() >= GOOD_RUN {
            delay = FIRST_DELAY;
            Duration::ZERO
        } else {
            delay
        };
        if client != Some(false) {
            report::event(Event::Restarting(plan.name(), pause));
        }
        supervisor.pause(pause);
        if supervisor.ending {
            return Ok(0);
        }
        if !pause.is_zero() {
            delay = (2 * delay).min(LONGEST_DELAY);
        }
    }
}

/// Makes a child that does all that the program's would but become it: what must fail for
/// every run fails here.
pub fn rehearse(plan: &Plan) -> Result<(), Error> {
    let Born { pid, failure, .. } = launch(plan, &mut stack()?, None)?;
    let _ = process::wait(Target::Process(pid), Wait::UNTIL_END);
    match failure {
        None => Ok(()),
        Some((stage, errno)) => Err(Error::Start(plan.explain(stage, errno).to_string())),
    }
}

fn stack() -> Result<Stack, Error> {
    Stack::new().map_err(|errno| Error::start("no memory for the stack of a newborn child", errno))
}

fn launch(plan: &Plan, stack: &mut Stack, image: Option<&ExecTarget>) -> Result<Born, Error> {
    let mut environment = plan.environment();
    let launch = Launch {
        descriptors: Descriptors::Inherit,
        connection: None,
        steps: plan.steps(),
        target: image,
        environment: environment.finish(),
        // One child: CHLD tells of its end as well, and of its stops besides.
        want_pidfd: false,
        traced: false,
    };
    child::spawn(stack, launch)
        .map_err(|errno| Error::start(format!("no process for '{}'", plan.name().display()), errno))
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
    sockets: Option<Sockets<'a>>,
    /// How long a program that was told to end may go on, if that was said; and until when
    /// that is.
    kill_after: Option<Duration>,
    kill_at: Option<Instant>,
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
}

impl<'a> Supervisor<'a> {
    /// The sockets, if the program is started when a client comes.
    fn on_demand(&self) -> Option<&Sockets<'_>> {
        let sockets = self.sockets.as_ref();
        sockets.filter(|sockets| sockets.demand().is_some())
    }

    /// Whether a client waits for a program that is started when one comes.
    fn client_waits(&self) -> Option<bool> {
        self.on_demand().map(Sockets::client_waits)
    }

    /// Says that the start has succeeded, the first time.
    fn begin(&mut self, ready: &mut Option<Ready>) -> Result<(), Error> {
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

    fn start(&mut self) -> Result<Pid, Error> {
        if let Some(sockets) = &mut self.sockets {
            sockets.prepare()?;
        }
        let image = Some(self.plan.target());
        let Born { pid, failure, .. } = launch(self.plan, &mut self.stack, image)?;
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
                    let due = self.kill_at;
                    let due = due.or_else(|| self.stoppable()?.look_at());
                    let limit = due.map(|due| due.saturating_duration_since(Instant::now()));
                    self.wait(limit, false);
                    while let Some(signal) = self.signals.next() {
                        self.pass_on(signal, Some(pid));
                    }
                    self.see_to_end(pid);
                }
                Err(errno) => return Err(Error::start("the program was lost sight of", errno)),
            }
        }
    }

    /// Ends a program that has been without clients for so long as was said, and kills one that
    /// was told to end and hasn't.
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

    /// The sockets of a program that may be stopped for want of clients: not of one that was
    /// told to end already, and has perhaps as long for that as it likes.
    fn stoppable(&mut self) -> Option<&mut Sockets<'a>> {
        self.sockets.as_mut().filter(|_| !self.ending)
    }

    /// Waits for a client, unless a signal ends skd.
    fn await_client(&mut self) {
        while !self.ending && !self.on_demand().is_none_or(Sockets::client_waits) {
            self.wait(None, true);
            while let Some(signal) = self.signals.next() {
                self.pass_on(signal, None);
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
            self.wait(Some(left), false);
        }
    }

    fn pass_on(&mut self, signal: Signal, program: Option<Pid>) {
        if matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT) {
            self.ending = true;
            // The first of them counts.
            let due = || Some(Instant::now() + self.kill_after?);
            self.kill_at = self.kill_at.or_else(due);
            if let Some(sockets) = &mut self.sockets {
                sockets.stopping();
            }
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
            && let Err(errno) = self.log.reopen()
        {
            report::event(Event::Trouble(Trouble::LogNotReopened(errno)));
        }
    }

    /// Waits for a signal, or for a client if that is wanted, and keeps the relay to syslog
    /// alive and the service manager informed.
    fn wait(&mut self, limit: Option<Duration>, client: bool) {
        let tell_at = self.sockets.as_ref().and_then(Sockets::tell_at);
        let until = |due: Instant| due.saturating_duration_since(Instant::now());
        let limit = limit.into_iter().chain(tell_at.map(until)).min();
        let signals = self.signals.as_fd();
        let relay = self.log.relay_end();
        let demand = self.sockets.as_ref().filter(|_| client);
        let demand = demand.and_then(Sockets::demand);
        // In the place of what there isn't stands another that is waited for in any case.
        let wanted = [signals, relay.unwrap_or(signals), demand.unwrap_or(signals)];
        let [_, ended, _] = wait_readable(wanted, limit);
        if relay.is_some() && ended {
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

    fn take_terminal(&self) {
        if self.terminal {
            let _ = tcsetpgrp(io::stdin(), getpgrp());
        }
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
