//! Events in words. Scripts may read these lines: those that skd 1.2 wrote keep its text.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use skd_tls_protocol::Session;

use super::event::{
    Client, Difference, DropReason, Event, Extent, FilteredCall, Late, Outcome, Overdue, ParkedAt,
};
use super::figures;
use super::reason::Reason;
use super::verbosity::wants;
use super::{mask, services};
use crate::config::{Count, Source};
use crate::sys::process::{Ended, Usage};

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
            | Self::CallLogged(..)
            | Self::CallKilled(..)
            | Self::ProcessFigures(_)
            | Self::ServiceFigures(..)
            | Self::ListenerFigures(..)
            | Self::TlsCertificate(..)
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
            | Self::Reloaded(_)
            | Self::Idle(..)
            | Self::Late(..)
            | Self::KillingHandler(..)
            | Self::TlsTruncated(..)
            | Self::GatePassed(..)
            | Self::KillingGate(..)
            | Self::LeftBehind(..)
            | Self::ReadRules(..)
            | Self::TlsLoaded(_)
            | Self::TlsStarted(_)
            | Self::Parked(..)
            | Self::Draining(..) => 1,
            // There is one for each connection, beside the lines of its beginning and its end.
            Self::TlsEstablished(..)
            | Self::Slots(..)
            | Self::Ready(..)
            | Self::Listening(_)
            | Self::ClosedListener(_) => 2,
            Self::HandlerStarted(..)
            | Self::HandlerNotStarted(..)
            | Self::WaitModeStart(_)
            | Self::DatagramsReceived(..)
            | Self::DatagramsSent(..)
            | Self::DatagramDropped(..)
            | Self::TlsFigures(..)
            | Self::Attempted(..) => return None,
        })
    }
}

/// A TLS session: `TLSv1.3, TLS_AES_256_GCM_SHA384, name example.org, resumed`.
struct InWords<'a>(&'a Session<'a>);

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Session {
            protocol,
            cipher,
            server_name,
            alpn,
            resumed,
            verified,
            peer_hash: _,
            peer_subject,
            peer_common_name: _,
        } = self.0;
        write!(f, "{protocol}, {cipher}")?;
        if !server_name.is_empty() {
            write!(f, ", name {server_name}")?;
        }
        if !alpn.is_empty() {
            write!(f, ", protocol {alpn}")?;
        }
        if *verified {
            write!(f, ", client {peer_subject}")?;
        }
        if *resumed {
            f.write_str(", resumed")?;
        }
        Ok(())
    }
}

/// A system call, and who has made it.
struct Made<'a>(&'a FilteredCall<'a>);

impl fmt::Display for Made<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FilteredCall {
            pid,
            name,
            arguments: [a, b, c, d],
        } = self.0;
        write!(
            f,
            "system call {name}({a:#x}, {b:#x}, {c:#x}, {d:#x}) of pid {pid}"
        )
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(client) => write!(f, "Accepted {}", Of(client)),
            Self::Rejected(client, why) => write!(f, "Refused {}: {why}", Of(client)),
            Self::RejectedConnections(_, counts, source) => {
                let count = Count(counts.total(), "more connection", "more connections");
                write!(f, "Refused {count} from {}: {counts}", Sources(source))
            }
            Self::RejectedDatagrams(_, counts, source) => {
                let count = Count(counts.total(), "more datagram", "more datagrams");
                write!(f, "Refused {count} from {}: {counts}", Sources(source))
            }
            Self::DatagramDropped(_, _, why) => {
                write!(f, "Dropped 1 datagram: {}", dropped(*why, true))
            }
            Self::HandlerStarted(_, start) => write!(f, "Started pid {}", start.pid),
            Self::HandlerNotStarted(_, why) => write!(f, "No handler: {}", why.label()),
            Self::WaitModeStart(client) => write!(f, "Starting a handler for {}", Of(client)),
            Self::DatagramsReceived(_, count) => {
                write!(f, "Received {}", Count(*count, "datagram", "datagrams"))
            }
            Self::DatagramsSent(_, count) => {
                write!(f, "Sent {}", Count(*count, "datagram", "datagrams"))
            }
            Self::Attempted(attempt, fault) => {
                write!(f, "{attempt:?}: {}", fault.unwrap_or("done"))
            }
            Self::ProcessFigures(status) => figures::process(status, f),
            Self::ServiceFigures(_, service) => figures::service(service, f),
            Self::ListenerFigures(_, listener) => figures::listener(listener, f),
            Self::Dropped(_, count, why) => {
                let why = dropped(*why, *count == 1);
                write!(
                    f,
                    "Dropped {}: {why}",
                    Count(*count, "datagram", "datagrams")
                )
            }
            Self::Received(client) => write!(f, "Received initial {}", Of(client)),
            Self::Closed(client, outcome) => write!(f, "Closed {}: {outcome}", Of(client)),
            Self::Finished(client, outcome) => write!(f, "Finished {}: {outcome}", Of(client)),
            Self::Slots(_, taken, None) => write!(f, "Running {}", handlers(*taken)),
            Self::Slots(_, taken, Some(limit)) => {
                write!(f, "Running {taken} of {}", handlers(*limit))
            }
            Self::Full(_, limit) => write!(f, "skd: {}; clients wait", Reason::Max(*limit)),
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
            Self::Upgraded(version) if *version == env!("SKD_VERSION") => {
                write!(f, "Upgraded from skd {version} to the same version")
            }
            Self::Upgraded(version) => write!(
                f,
                "Upgraded from skd {version} to skd {}",
                env!("SKD_VERSION")
            ),
            Self::Reloaded(difference) => {
                let Difference {
                    added,
                    removed,
                    changed,
                    unchanged,
                } = difference;
                let added = Count(*added, "service", "services");
                write!(
                    f,
                    "Reloaded: {added} added, {removed} removed, {changed} changed, {unchanged} \
                     unchanged"
                )
            }
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
                "skd: '{}' was tried {} on {listener} and left a {} unread, \
                 {}; it was read away",
                Path::new(program).display(),
                tries(*starts),
                mask::peer(peer),
                Count(*length, "byte", "bytes")
            ),
            Self::LeftWaiting {
                service: _,
                listener,
                program,
                starts,
            } => write!(
                f,
                "skd: '{}' was tried {} on {listener} and accepted nothing; clients \
                 wait, and it is tried again every second",
                Path::new(program).display(),
                tries(*starts)
            ),
            Self::LeftBehind(client, pid, count) => {
                write!(
                    f,
                    "skd: handler {pid} of {} has ended and has left ",
                    Of(client)
                )?;
                match count {
                    0 => f.write_str("processes behind: TERM is sent to them"),
                    _ => Count(
                        *count,
                        "process behind: TERM is sent to it",
                        "processes behind: TERM is sent to them",
                    )
                    .fmt(f),
                }
            }
            Self::Late(client, pid, late, is_killed) => {
                let (what, span) = match late {
                    Late::Running(span) => ("run", span),
                    Late::Idle(span) => ("been idle", span),
                };
                write!(
                    f,
                    "skd: handler {pid} of {} has {what} for {span}: {} is sent to it",
                    Of(client),
                    if *is_killed { "KILL" } else { "TERM" }
                )
            }
            Self::CallLogged(_, call) => write!(f, "Allowed {}", Made(call)),
            Self::CallKilled(_, call) => write!(f, "Killed at {}", Made(call)),
            Self::KillingHandler(client, pid) => write!(
                f,
                "skd: handler {pid} of {} has not ended: KILL is sent to it",
                Of(client)
            ),
            Self::TlsEstablished(client, session, _) => {
                write!(f, "TLS session of {}: {}", Of(client), InWords(session))
            }
            Self::TlsTruncated(client) => {
                write!(f, "Truncated {}: it ended without close_notify", Of(client))
            }
            Self::TlsFigures(_, figures) => write!(
                f,
                "TLS: {} received, {} sent, {} truncated",
                Count(figures.received, "byte", "bytes"),
                Count(figures.sent, "byte", "bytes"),
                Count(figures.truncated, "connection", "connections")
            ),
            Self::GatePassed(client, _, after) => {
                write!(
                    f,
                    "Gate passed {} after {} ms",
                    Of(client),
                    after.as_millis()
                )
            }
            Self::KillingGate(client, pid) => write!(
                f,
                "skd: gate {pid} of {} has not ended: KILL is sent to it",
                Of(client)
            ),
            Self::Killing(program) => {
                let program = Path::new(program).display();
                write!(f, "skd: '{program}' has not ended: KILL is sent to it")
            }
            Self::Draining(count, time) => {
                let count = Count(*count, "handler has", "handlers have");
                write!(f, "Draining: {count} {time} to end")
            }
            Self::Overdue(count, then) => {
                let then = match (then, *count == 1) {
                    (Overdue::Terminated, true) => "TERM is sent to it",
                    (Overdue::Terminated, false) => "TERM is sent to them",
                    (Overdue::Killed, true) => "KILL is sent to it",
                    (Overdue::Killed, false) => "KILL is sent to them",
                    (Overdue::Abandoned, true) => "KILL didn't help; it is left behind",
                    (Overdue::Abandoned, false) => "KILL didn't help; they are left behind",
                };
                let count = Count(*count, "handler has", "handlers have");
                write!(f, "skd: {count} not ended: {then}")
            }
            Self::ReadRules(_, count) => {
                write!(f, "Read {} again", Count(*count, "rule", "rules"))
            }
            Self::TlsLoaded(count) => {
                write!(f, "Read {} of TLS again", Count(*count, "file", "files"))
            }
            Self::TlsStarted(pid) => write!(f, "Started skd-tls again as pid {pid}"),
            Self::TlsCertificate(_, text) => write!(f, "skd: {text}"),
            Self::Parked(_, parked) => write!(f, "skd: {parked}"),
            Self::Ready(_, program, pid) => {
                let program = Path::new(program).display();
                write!(f, "Ready: pid {pid} of '{program}' awaits a client")
            }
            Self::Trouble(trouble) => write!(f, "skd: {trouble}"),
        }
    }
}

impl fmt::Display for ParkedAt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = Path::new(self.program).display();
        let after = self.after.as_secs_f64() * 1000.0;
        let extent = match self.extent {
            Extent::Whole => "all of its start",
            Extent::BeforeClient => "its first use of the client",
            Extent::Part => "the rest of its start is for each client",
        };
        write!(
            f,
            "'{program}' is parked at {}, after {after:.1} ms: {extent}",
            self.at
        )
    }
}

fn handlers(count: usize) -> Count<usize> {
    Count(count, "handler", "handlers")
}

fn tries(starts: u32) -> Count<u32> {
    Count(starts, "time", "times")
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            pid, ended, after, ..
        } = self;
        match ended {
            Ended::Exited(status) => write!(f, "pid {pid} exited with status {status}")?,
            Ended::Killed(signal) => write!(f, "pid {pid} was terminated by signal {signal}")?,
        }
        if self.out_of_memory {
            f.write_str(", being out of memory,")?;
        }
        write!(f, " after {:.3}s", after.as_secs_f64())?;
        if !wants(2) {
            return Ok(());
        }
        let Usage {
            user,
            system,
            max_rss,
        } = self.usage;
        let cpu = user.saturating_add(system).as_secs_f64();
        let peak = Grouped(max_rss / 1024);
        write!(f, " (cpu {cpu:.3}s, peak {peak} KiB)")
    }
}

/// A number with a comma before each three digits.
struct Grouped(u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..=999 => write!(f, "{}", self.0),
            number => write!(f, "{},{:03}", Self(number / 1000), number % 1000),
        }
    }
}

/// Why one datagram was dropped, or why several were.
fn dropped(why: DropReason, one: bool) -> &'static str {
    match (why, one) {
        (DropReason::Overflow, true) => "its handler has not read those before",
        (DropReason::Overflow, false) => "their handlers have not read those before",
        (DropReason::Empty, true) => "it is empty, which a handler would take for the end",
        (DropReason::Empty, false) => "they are empty, which a handler would take for the end",
        (DropReason::TooLong, true) => "it is longer than 65,507 bytes",
        (DropReason::TooLong, false) => "they are longer than 65,507 bytes",
        (DropReason::Short, true) => "no handler could be made for it",
        (DropReason::Short, false) => "no handler could be made for them",
        (DropReason::Closed, true) => "no new sender is served any more",
        (DropReason::Closed, false) => "no new senders are served any more",
        (DropReason::NoAddress, true) => "it answers a sender that has no address",
        (DropReason::NoAddress, false) => "they answer senders that have no address",
        (DropReason::NotSent, true) => "it is an answer that could not be sent",
        (DropReason::NotSent, false) => "they are answers that could not be sent",
        (DropReason::Disabled, _) => "the service is disabled",
        (DropReason::Own, true) => "it claims to come from skd's own sockets",
        (DropReason::Own, false) => "they claim to come from skd's own sockets",
        (DropReason::Descriptors, true) => "its sender has passed descriptors along",
        (DropReason::Descriptors, false) => "their senders have passed descriptors along",
    }
}

/// A client, and the listener that it has come to if its service has several.
struct Of<'a>(&'a Client<'a>);

impl fmt::Display for Of<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Client { peer, listener, .. } = *self.0;
        write!(f, "{}{}", mask::peer(peer), services::at(listener))
    }
}

/// A source, or all others.
struct Sources<'a>(&'a Option<Source>);

impl fmt::Display for Sources<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(source) => mask::source(*source).fmt(f),
            None => f.write_str("others"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ServiceId;
    use crate::report::{RejectCause, RejectCounts};

    /// All events that have a number, with this one.
    fn texts(number: usize) -> Vec<String> {
        let service = ServiceId::new(0);
        let count = number as u64;
        let mut counts = RejectCounts::default();
        for _ in 0..number {
            counts.count(RejectCause::from(&Reason::Rate));
        }
        let mut events = vec![
            Event::RejectedConnections(service, &counts, None),
            Event::RejectedDatagrams(service, &counts, None),
            Event::Slots(service, number, None),
            Event::Slots(service, 1, Some(number)),
            Event::Full(service, number),
            Event::Draining(number, "1s".parse().unwrap()),
            Event::ReadRules(service, number),
        ];
        events.extend(DropReason::ALL.map(|why| Event::Dropped(service, count, why)));
        let overdue = [Overdue::Terminated, Overdue::Killed, Overdue::Abandoned];
        events.extend(overdue.map(|then| Event::Overdue(number, then)));
        events.iter().map(Event::to_string).collect()
    }

    #[test]
    fn long_numbers_are_grouped() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_204_056, "1,204,056"),
        ] {
            assert_eq!(Grouped(number).to_string(), text);
        }
    }

    #[test]
    fn words_agree_with_their_numbers() {
        let plural = [
            "1 handlers",
            "1 datagrams",
            "1 more datagrams",
            "1 more connections",
            "1 slots",
            "1 rules",
            " them",
            "they ",
            "their ",
            "handlers have",
            " are ",
        ];
        for text in texts(1) {
            let wrong = plural.iter().find(|words| text.contains(**words));
            assert_eq!(wrong, None, "{text}");
        }
        let singular = [
            "connection ",
            "datagram:",
            "handler",
            "slot ",
            "rule ",
            " it ",
            " its ",
        ];
        for text in texts(2) {
            let text = text
                .replace("handlers", "")
                .replace("a handler would", "")
                .replace("no handler could", "");
            let wrong = singular.iter().find(|words| text.contains(**words));
            assert_eq!(wrong, None, "{text}");
        }
    }
}
