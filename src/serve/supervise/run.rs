//! The life of a supervised program: one run after the other, with pauses between short ones.

use std::time::{Duration, Instant};

use super::launch::stack;
use super::sockets::Sockets;
use super::supervisor::{Obeyed, SIGNALS, Supervisor};
use crate::child::Plan;
use crate::error::Error;
use crate::report::{self, Event, Trouble};
use crate::setup::{Log, Ready};
use crate::sys::child::CloneCall;
use crate::sys::process::Ended;
use crate::sys::signals::{Signal, Signals, killpg};

/// A run of this length or more is followed by another at once.
const GOOD_RUN: Duration = Duration::from_secs(10);

/// The delay after the first short run, and the longest one.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Runs the program until a signal ends skd. Returns the exit status.
///
/// `ready` is told when the program has been executed for the first time. Until then a program that
/// can't be executed is an error. Where the program waits for a client, `ready` is told at once.
pub fn run(
    plan: &Plan,
    sockets: Option<Sockets<'_>>,
    kill_after: Option<Duration>,
    terminal: bool,
    obeyed: Obeyed,
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
        call: CloneCall::find(),
        stack: stack()?,
        obeyed,
        ending: false,
    };
    let result = keep_running(&mut supervisor, ready);
    supervisor.log.finish();
    result
}

fn keep_running(supervisor: &mut Supervisor<'_>, ready: &mut Option<Ready>) -> Result<u8, Error> {
    let plan = supervisor.plan;
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
                // Before any client hears of the end, and comes because of it.
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
        // A program that is run on demand ends when it has nothing more to do.
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

/// As a shell says it: 128 and the signal's number.
fn status(ended: Ended) -> u8 {
    match ended {
        Ended::Exited(status) => status,
        Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
    }
}
