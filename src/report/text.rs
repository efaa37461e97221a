//! Events in words. Lines that skd 1.2 wrote too keep its text, since scripts may read
//! them.

use std::fmt;
use std::time::Duration;

use super::{Event, Late, Outcome};
use crate::sys::process::Ended;

impl Event<'_> {
    /// From which verbosity on it is reported.
    pub(super) fn verbosity(&self) -> u8 {
        match self {
            Self::Trouble(..)
            | Self::Full(_)
            | Self::Fast
            | Self::ReadAway { .. }
            | Self::LeftWaiting { .. }
            | Self::Killing(_)
            | Self::Overdue(..) => 0,
            Self::Accepted(_)
            | Self::Refused(..)
            | Self::RefusedMore(..)
            | Self::RefusedDatagrams(..)
            | Self::Dropped(..)
            | Self::Received(_)
            | Self::Closed(..)
            | Self::Finished(..)
            | Self::PassedOver(..)
            | Self::WouldListen(_)
            | Self::Started(_)
            | Self::Ended(..)
            | Self::Restarting(..)
            | Self::Upgraded(_)
            | Self::Idle(..)
            | Self::Late(..)
            | Self::KillingHandler(..)
            | Self::ReadRules(_)
            | Self::Draining(..) => 1,
            Self::Places(..) | Self::Ready(..) | Self::Listening(_) | Self::ClosedListener(_) => 2,
        }
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(peer) => write!(f, "Accepted {peer}"),
            Self::Refused(peer, why) => write!(f, "Refused {peer}: {why}"),
            Self::RefusedMore(count, whom) => {
                write!(f, "Refused {count} more connections from {whom}")
            }
            Self::RefusedDatagrams(count, whom) => {
                write!(f, "Refused {count} more datagrams from {whom}")
            }
            Self::Dropped(count, why) => write!(f, "Dropped {count} datagrams: {why}"),
            Self::Received(peer) => write!(f, "Received initial {peer}"),
            Self::Closed(peer, outcome) => write!(f, "Closed {peer}: {outcome}"),
            Self::Finished(peer, outcome) => write!(f, "Finished {peer}: {outcome}"),
            Self::Places(taken, None) => write!(f, "Running {taken} handlers"),
            Self::Places(taken, Some(limit)) => write!(f, "Running {taken} of {limit} handlers"),
            Self::Full(limit) => write!(f, "skd: all {limit} places are taken; clients wait"),
            Self::Fast => f.write_str("skd: connections come faster than --rate; clients wait"),
            Self::Listening(listener) => write!(f, "Listening on {listener}"),
            Self::WouldListen(listener) => write!(f, "Would listen on {listener}"),
            Self::ClosedListener(listener) => write!(f, "Closed {listener}"),
            Self::PassedOver(listener, why) => write!(f, "Passed over {listener}: {why}"),
            Self::Started(program) => write!(f, "Started {program}"),
            Self::Ended(program, Ended::Exited(0)) => write!(f, "{program} exited"),
            Self::Ended(program, Ended::Exited(status)) => {
                write!(f, "{program} exited abnormally with status {status}")
            }
            Self::Ended(program, Ended::Killed(signal)) => {
                write!(f, "{program} was terminated by signal {signal}")
            }
            Self::Restarting(program, Duration::ZERO) => write!(f, "Restarting {program} at once"),
            Self::Restarting(program, delay) => {
                write!(f, "Restarting {program} in {:.1}s", delay.as_secs_f64())
            }
            Self::Upgraded(version) => write!(
                f,
                "Upgraded from skd {version} to skd {}",
                env!("CARGO_PKG_VERSION")
            ),
            Self::Idle(program, span) => {
                write!(
                    f,
                    "Stopping {program}: no client for {:.1}s",
                    span.as_secs_f64()
                )
            }
            Self::ReadAway {
                peer,
                length,
                listener,
                program,
                starts,
            } => write!(
                f,
                "skd: '{program}' was tried {starts} times on {listener} and left a {peer} \
                 unread, {length} bytes; it was read away"
            ),
            Self::LeftWaiting {
                listener,
                program,
                starts,
            } => write!(
                f,
                "skd: '{program}' was tried {starts} times on {listener} and accepted nothing; \
                 clients wait, and it is tried again every second"
            ),
            Self::Late(peer, pid, Late::Running(span)) => write!(
                f,
                "skd: handler {pid} of {peer} has run for {span}: TERM is sent to it"
            ),
            Self::Late(peer, pid, Late::Idle(span)) => write!(
                f,
                "skd: handler {pid} of {peer} has been idle for {span}: TERM is sent to it"
            ),
            Self::KillingHandler(peer, pid) => write!(
                f,
                "skd: handler {pid} of {peer} has not ended: KILL is sent to it"
            ),
            Self::Killing(program) => {
                write!(f, "skd: '{program}' has not ended: KILL is sent to it")
            }
            Self::Draining(count, time) => {
                write!(f, "Draining: {count} handlers have {time} to end")
            }
            Self::Overdue(count, then) => {
                write!(f, "skd: {count} handlers have not ended: {then}")
            }
            Self::ReadRules(1) => f.write_str("Read 1 rule again"),
            Self::ReadRules(count) => write!(f, "Read {count} rules again"),
            Self::Ready(program, pid) => {
                write!(f, "Ready: pid {pid} of '{program}' awaits a client")
            }
            Self::Trouble(_, what) => write!(f, "skd: {what}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, ended, after } = self;
        let seconds = after.as_secs_f64();
        match ended {
            Ended::Exited(status) => {
                write!(
                    f,
                    "pid {pid} exited with status {status} after {seconds:.3}s"
                )
            }
            Ended::Killed(signal) => {
                write!(
                    f,
                    "pid {pid} was terminated by signal {signal} after {seconds:.3}s"
                )
            }
        }
    }
}
