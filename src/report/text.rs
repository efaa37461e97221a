//! Events in words. Scripts may read these lines: those that skd 1.2 wrote keep its text.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::event::{DropReason, Event, Late, Outcome, Overdue};
use crate::config::Source;
use crate::sys::process::Ended;

impl Event<'_> {
    /// Returns the verbosity from which on it is written; none if it is only counted.
    pub(super) fn verbosity(&self) -> Option<u8> {
        Some(match self {
            Self::Trouble(_)
            | Self::Full(..)
            | Self::Fast(_)
            | Self::ReadAway { .. }
            | Self::LeftWaiting { .. }
            | Self::Killing(_)
            | Self::Overdue(..) => 0,
            Self::Accepted(..)
            | Self::Rejected(..)
            | Self::RejectedConnections(..)
            | Self::RejectedDatagrams(..)
            | Self::Dropped(..)
            | Self::Received(..)
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
            | Self::ReadRules(..)
            | Self::Draining(..) => 1,
            Self::Slots(..) | Self::Ready(..) | Self::Listening(_) | Self::ClosedListener(_) => 2,
            Self::HandlerStarted(..) | Self::DatagramDropped(..) => return None,
        })
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(_, peer) => write!(f, "Accepted {peer}"),
            Self::Rejected(_, peer, why) => write!(f, "Refused {peer}: {why}"),
            Self::RejectedConnections(_, count, source) => {
                write!(
                    f,
                    "Refused {count} more connections from {}",
                    Sources(source)
                )
            }
            Self::RejectedDatagrams(_, count, source) => {
                write!(f, "Refused {count} more datagrams from {}", Sources(source))
            }
            Self::DatagramDropped(_, why) => write!(f, "Dropped 1 datagram: {why}"),
            Self::HandlerStarted(_, pid) => write!(f, "Started pid {pid}"),
            Self::Dropped(_, count, why) => write!(f, "Dropped {count} datagrams: {why}"),
            Self::Received(_, peer) => write!(f, "Received initial {peer}"),
            Self::Closed(_, peer, outcome) => write!(f, "Closed {peer}: {outcome}"),
            Self::Finished(_, peer, outcome) => write!(f, "Finished {peer}: {outcome}"),
            Self::Slots(_, taken, None) => write!(f, "Running {taken} handlers"),
            Self::Slots(_, taken, Some(limit)) => write!(f, "Running {taken} of {limit} handlers"),
            Self::Full(_, limit) => write!(f, "skd: all {limit} slots are taken; clients wait"),
            Self::Fast(_) => f.write_str("skd: connections come faster than --rate; clients wait"),
            Self::Listening(listener) => write!(f, "Listening on {listener}"),
            Self::WouldListen(listener) => write!(f, "Would listen on {listener}"),
            Self::ClosedListener(listener) => write!(f, "Closed {listener}"),
            Self::PassedOver(listener, errno) => {
                write!(f, "Passed over {listener}: {}", errno.desc())
            }
            Self::Started(program) => write!(f, "Started {}", Path::new(program).display()),
            Self::Ended(program, ended) => {
                let program = Path::new(program).display();
                match ended {
                    Ended::Exited(0) => write!(f, "{program} exited"),
                    Ended::Exited(status) => {
                        write!(f, "{program} exited abnormally with status {status}")
                    }
                    Ended::Killed(signal) => {
                        write!(f, "{program} was terminated by signal {signal}")
                    }
                }
            }
            Self::Restarting(program, delay) => {
                let program = Path::new(program).display();
                match *delay {
                    Duration::ZERO => write!(f, "Restarting {program} at once"),
                    delay => write!(f, "Restarting {program} in {:.1}s", delay.as_secs_f64()),
                }
            }
            Self::Upgraded(version) => write!(
                f,
                "Upgraded from skd {version} to skd {}",
                env!("CARGO_PKG_VERSION")
            ),
            Self::Idle(program, span) => {
                write!(
                    f,
                    "Stopping {}: no client for {:.1}s",
                    Path::new(program).display(),
                    span.as_secs_f64()
                )
            }
            Self::ReadAway {
                service: _,
                peer,
                length,
                listener,
                program,
                starts,
            } => write!(
                f,
                "skd: '{}' was tried {starts} times on {listener} and left a {peer} unread, \
                 {length} bytes; it was read away",
                Path::new(program).display()
            ),
            Self::LeftWaiting {
                service: _,
                listener,
                program,
                starts,
            } => write!(
                f,
                "skd: '{}' was tried {starts} times on {listener} and accepted nothing; clients \
                 wait, and it is tried again every second",
                Path::new(program).display()
            ),
            Self::Late(_, peer, pid, Late::Running(span)) => write!(
                f,
                "skd: handler {pid} of {peer} has run for {span}: TERM is sent to it"
            ),
            Self::Late(_, peer, pid, Late::Idle(span)) => write!(
                f,
                "skd: handler {pid} of {peer} has been idle for {span}: TERM is sent to it"
            ),
            Self::KillingHandler(_, peer, pid) => write!(
                f,
                "skd: handler {pid} of {peer} has not ended: KILL is sent to it"
            ),
            Self::Killing(program) => {
                let program = Path::new(program).display();
                write!(f, "skd: '{program}' has not ended: KILL is sent to it")
            }
            Self::Draining(count, time) => {
                write!(f, "Draining: {count} handlers have {time} to end")
            }
            Self::Overdue(count, then) => {
                write!(f, "skd: {count} handlers have not ended: {then}")
            }
            Self::ReadRules(_, 1) => f.write_str("Read 1 rule again"),
            Self::ReadRules(_, count) => write!(f, "Read {count} rules again"),
            Self::Ready(_, program, pid) => {
                let program = Path::new(program).display();
                write!(f, "Ready: pid {pid} of '{program}' awaits a client")
            }
            Self::Trouble(trouble) => write!(f, "skd: {trouble}"),
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

impl fmt::Display for Overdue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminated => "TERM is sent to them",
            Self::Killed => "KILL is sent to them",
            Self::Abandoned => "KILL didn't help; they are left behind",
        })
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Overflow => "their handlers have not read those before",
            Self::Empty => "they are empty, which a handler would take for the end",
            Self::TooLong => "they are longer than 65,507 bytes",
            Self::Short => "no handler could be made for them",
            Self::Closed => "skd is ending, and they are from new senders",
            Self::NoAddress => "they answer senders that have no address",
            Self::NotSent => "they are answers that could not be sent",
        })
    }
}

/// A source, or all others.
struct Sources<'a>(&'a Option<Source>);

impl fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(source) => source.fmt(f),
            None => f.write_str("others"),
        }
    }
}
