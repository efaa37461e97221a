//! What happens while skd runs, as data.

use std::ffi::OsStr;
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use skd_control::{ListenerStatus, ServiceStatus, Status};
use skd_tls_protocol::Session;

use super::reason::Reason;
use super::reject_counts::RejectCounts;
use super::trouble::Trouble;
use crate::config::{ListenerId, ListenerName, Peer, ServiceId, Source, Span};
use crate::sys::process::{Ended, Usage};

/// Where a program is parked that is prestarted.
#[derive(Clone, Copy, Debug)]
pub struct ParkedAt<'a> {
    /// The program.
    pub program: &'a OsStr,
    /// The call that it is parked at, or its entry.
    pub at: &'a str,
    /// How long that took.
    pub after: Duration,
    /// How much of its start that was.
    pub extent: Extent,
}

/// How much of a program's start is done where it is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All: it waits for input of its client.
    Whole,
    /// All that it does before it uses its client in some way.
    BeforeClient,
    /// What came before another call. How much more there is isn't known.
    Part,
}

/// A client of a service.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The service.
    pub service: ServiceId,
    /// The listener that it has come to.
    pub listener: ListenerId,
    /// Its address.
    pub peer: &'a Peer,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A connection was admitted, or a datagram for which a handler is started.
    Accepted(Client<'a>),
    /// A connection or datagram was rejected, for this reason.
    Rejected(Client<'a>, Reason<'a>),
    /// So many more connections were rejected, from this source or from all others.
    RejectedConnections(ServiceId, &'a RejectCounts, Option<Source>),
    /// So many more datagrams were rejected, from this source or from all others.
    RejectedDatagrams(ServiceId, &'a RejectCounts, Option<Source>),
    /// A datagram was dropped. Only counted: [`Self::Dropped`] is written.
    DatagramDropped(ServiceId, ListenerId, DropReason),
    /// This many datagrams were dropped in a second, for this reason.
    Dropped(ServiceId, u64, DropReason),
    /// Datagrams were received, so many. Only counted.
    DatagramsReceived(ListenerId, u64),
    /// Datagrams were sent for handlers, so many. Only counted.
    DatagramsSent(ListenerId, u64),
    /// A handler in wait mode is about to start. Only counted, as if a client was accepted:
    /// [`Self::Received`] is written.
    WaitModeStart(Client<'a>),
    /// A TLS session is established for a client, after so long.
    TlsEstablished(Client<'a>, &'a Session<'a>, Duration),
    /// A client with a TLS session has closed its connection without saying that this was all
    /// (`close_notify`): what it has sent may be cut.
    TlsTruncated(Client<'a>),
    /// What skd-tls has done for a service since it reported that last. Only counted.
    TlsFigures(ServiceId, TlsFigures),
    /// The gate with this process id has let a client through, after so long.
    GatePassed(Client<'a>, i32, Duration),
    /// The gate with this process id, which was told to end, has not, and is killed.
    KillingGate(Client<'a>, i32),
    /// A handler was started. Only counted: [`Self::Slots`] is written.
    HandlerStarted(ServiceId, Start),
    /// No handler could be started for a client. Only counted: [`Self::Trouble`] is written.
    HandlerNotStarted(ServiceId, StartFailure),
    /// A datagram or connection is there, for which a handler will be started on the listener.
    Received(Client<'a>),
    /// A handler of a connection ended.
    Closed(Client<'a>, Outcome),
    /// A handler of datagrams, or of a listener in wait mode, ended.
    Finished(Client<'a>, Outcome),
    /// This many slots are taken, of this many if they are limited.
    Slots(ServiceId, usize, Option<usize>),
    /// Clients wait, since all slots, this many, are taken.
    Full(ServiceId, usize),
    /// Clients wait, since the rate of the service is used up.
    Fast(ServiceId),
    /// A socket listens.
    Listening(ListenerName<'a>),
    /// A socket with this name would listen, if skd were not only to check its command line.
    WouldListen(&'a str),
    /// A socket was closed.
    ClosedListener(ListenerName<'a>),
    /// An address of a host name was passed over.
    PassedOver(ListenerName<'a>, Errno),
    /// A supervised program was started.
    Started(&'a OsStr),
    /// A supervised program ended.
    Ended(&'a OsStr, Ended),
    /// A supervised program will be started again.
    Restarting(&'a OsStr, Duration),
    /// A supervised program is told to end: it had no client for this time.
    Idle(&'a OsStr, Duration),
    /// A datagram that its handlers did not read was discarded. Not throttled: there are few, and
    /// each is a datagram lost.
    ReadAway {
        /// The service.
        service: ServiceId,
        /// The sender.
        peer: &'a Peer,
        /// Its length in bytes.
        length: usize,
        /// The listener.
        listener: ListenerName<'a>,
        /// The program of the handlers.
        program: &'a OsStr,
        /// The number of handlers.
        starts: u32,
    },
    /// Connections wait, and handlers in wait mode accepted none. Not throttled either.
    LeftWaiting {
        /// The service.
        service: ServiceId,
        /// The listener.
        listener: ListenerName<'a>,
        /// The program of the handlers.
        program: &'a OsStr,
        /// The number of handlers.
        starts: u32,
    },
    /// This process has taken over from this version of skd.
    Upgraded(&'a str),
    /// Files were read again, and this is the difference.
    Reloaded(Difference),
    /// The handler of a peer, with this process id, is told to end, being late, or killed where nothing
    /// less would end it.
    Late(Client<'a>, i32, Late, bool),
    /// A handler that was told to end has not, and is killed.
    KillingHandler(Client<'a>, i32),
    /// A handler, or a process that it has started, has made a system call that is logged.
    CallLogged(ServiceId, FilteredCall<'a>),
    /// Such a process was killed for a system call.
    CallKilled(ServiceId, FilteredCall<'a>),
    /// The handler with this process id has ended and has left so many processes behind, as far as
    /// that is known, which are told to end.
    LeftBehind(Client<'a>, i32, usize),
    /// A supervised program has not ended in time, and is killed.
    Killing(&'a OsStr),
    /// skd waits for this many handlers to end, for this time at most.
    Draining(usize, Span),
    /// This many handlers have not ended in time.
    Overdue(usize, Overdue),
    /// This many rules were reloaded.
    ReadRules(ServiceId, usize),
    /// skd-tls has loaded this many files again.
    TlsLoaded(usize),
    /// skd-tls was started again, with this process id.
    TlsStarted(i32),
    /// There is something to say about a certificate of a service. Not throttled: each is looked at once a day.
    TlsCertificate(ServiceId, &'a str),
    /// It became known how far a program gets before its client comes.
    Parked(ServiceId, ParkedAt<'a>),
    /// A handler of this program, with this process id, is prestarted.
    Ready(ServiceId, &'a OsStr, i32),
    /// A reload or an upgrade is over; why, if it failed. Only counted.
    Attempted(Attempt, Option<&'a str>),
    /// What the process has counted. Asked for, so written at any verbosity.
    ProcessFigures(&'a Status),
    /// What a service has counted, likewise.
    ServiceFigures(ServiceId, &'a ServiceStatus),
    /// What one of several listeners of a service has counted, likewise.
    ListenerFigures(ServiceId, &'a ListenerStatus),
    /// Something went wrong.
    Trouble(Trouble<'a>),
}

impl Event<'_> {
    /// Returns the service that it is about, if it is about one.
    pub fn service(&self) -> Option<ServiceId> {
        match self {
            Self::Accepted(client)
            | Self::Rejected(client, _)
            | Self::Received(client)
            | Self::Closed(client, _)
            | Self::Finished(client, _)
            | Self::WaitModeStart(client)
            | Self::TlsEstablished(client, ..)
            | Self::TlsTruncated(client)
            | Self::GatePassed(client, ..)
            | Self::KillingGate(client, _)
            | Self::Late(client, ..)
            | Self::LeftBehind(client, ..)
            | Self::KillingHandler(client, _) => Some(client.service),
            Self::RejectedConnections(service, ..)
            | Self::RejectedDatagrams(service, ..)
            | Self::DatagramDropped(service, ..)
            | Self::Dropped(service, ..)
            | Self::HandlerStarted(service, ..)
            | Self::HandlerNotStarted(service, ..)
            | Self::ServiceFigures(service, ..)
            | Self::TlsFigures(service, ..)
            | Self::ListenerFigures(service, ..)
            | Self::Slots(service, ..)
            | Self::Full(service, ..)
            | Self::Fast(service)
            | Self::ReadAway { service, .. }
            | Self::LeftWaiting { service, .. }
            | Self::ReadRules(service, ..)
            | Self::TlsCertificate(service, _)
            | Self::CallLogged(service, _)
            | Self::CallKilled(service, _)
            | Self::Parked(service, ..)
            | Self::Ready(service, ..) => Some(*service),
            Self::Trouble(trouble) => trouble.service(),
            Self::Listening(_)
            | Self::WouldListen(_)
            | Self::ClosedListener(_)
            | Self::PassedOver(..)
            | Self::Started(_)
            | Self::Ended(..)
            | Self::Restarting(..)
            | Self::Idle(..)
            | Self::Upgraded(_)
            | Self::Reloaded(_)
            | Self::TlsLoaded(_)
            | Self::TlsStarted(_)
            | Self::DatagramsReceived(..)
            | Self::DatagramsSent(..)
            | Self::Attempted(..)
            | Self::ProcessFigures(_)
            | Self::Killing(_)
            | Self::Draining(..)
            | Self::Overdue(..) => None,
        }
    }
}

/// What skd-tls has done for a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TlsFigures {
    /// Bytes that clients have sent, without TLS.
    pub received: u64,
    /// Bytes that were sent to clients, without TLS.
    pub sent: u64,
    /// Connections that clients have ended without `close_notify`.
    pub truncated: u64,
}

/// How many services a reload has added, removed, changed and left as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Those that are new.
    pub added: usize,
    /// Those that are gone.
    pub removed: usize,
    /// Services with another text, user or address.
    pub changed: usize,
    /// The others.
    pub unchanged: usize,
}

/// What is done about handlers that have not ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// They are sent TERM.
    Terminated,
    /// They are sent KILL.
    Killed,
    /// skd ends without them.
    Abandoned,
}

/// A system call that a filter doesn't simply allow.
#[derive(Clone, Copy, Debug)]
pub struct FilteredCall<'a> {
    /// The id of the thread.
    pub pid: i32,
    /// The name of the call.
    pub name: &'a str,
    /// Its first arguments.
    pub arguments: [u64; 4],
}

/// What a handler has done for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It has run.
    Running(Span),
    /// Its connection has been idle.
    Idle(Span),
}

impl Late {
    /// Returns why such a handler is told to end.
    pub fn told(self) -> Told {
        match self {
            Self::Running(_) => Told::Timeout,
            Self::Idle(_) => Told::Idle,
        }
    }
}

/// The start of a handler.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// Its process id.
    pub pid: i32,
    /// How it was started.
    pub way: Way,
    /// The time from the moment that its client was accepted, if it was.
    pub latency: Option<Duration>,
}

/// How a handler is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Way {
    /// A new process executes the program.
    Exec,
    /// A prestarted handler gets the client.
    Pool,
    /// A copy of the template gets the client.
    Copy,
}

impl Way {
    /// All ways.
    pub const ALL: [Self; Self::COUNT] = [Self::Exec, Self::Pool, Self::Copy];

    /// The number of ways.
    pub const COUNT: usize = Self::Copy as usize + 1;

    /// Returns its label in counters and JSON lines. Labels stay.
    pub fn label(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Pool => "pool",
            Self::Copy => "copy",
        }
    }
}

/// Why no handler could be started for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum StartFailure {
    /// There was no process, memory or descriptor for it, and no time to wait.
    Shortage,
    /// The client's user is none that a handler becomes.
    AsPeer,
    /// The descriptors of the child couldn't be set.
    Descriptors,
    /// A step of its preparation failed.
    Preparation,
    /// The program couldn't be executed.
    Exec,
    /// One child after the other was killed before its exec.
    Killed,
}

impl StartFailure {
    /// All of them.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Shortage,
        Self::AsPeer,
        Self::Descriptors,
        Self::Preparation,
        Self::Exec,
        Self::Killed,
    ];

    /// How many there are.
    pub const COUNT: usize = Self::Killed as usize + 1;

    /// Returns its label in counters and JSON lines. Labels stay.
    pub fn label(self) -> &'static str {
        match self {
            Self::Shortage => "shortage",
            Self::AsPeer => "as-peer",
            Self::Descriptors => "descriptors",
            Self::Preparation => "preparation",
            Self::Exec => "exec",
            Self::Killed => "killed",
        }
    }
}

/// What skd tries at the request of an administrator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Attempt {
    /// To read files or rules again.
    Reload,
    /// To go on with another binary.
    Upgrade,
}

impl Attempt {
    /// How many kinds there are.
    pub const COUNT: usize = Self::Upgrade as usize + 1;
}

/// How a handler ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Its process id.
    pub pid: i32,
    /// Its status or signal.
    pub ended: Ended,
    /// Why skd has told it to end, if it has.
    pub told: Option<Told>,
    /// Whether the kernel has killed it for want of memory.
    pub out_of_memory: bool,
    /// How long it ran.
    pub after: Duration,
    /// What it has used, with its children that it has waited for.
    pub usage: Usage,
}

impl Outcome {
    /// Returns what the end is counted as. Why skd has told the handler to end matters more than how
    /// it did.
    pub fn result(&self) -> EndResult {
        match (self.told, self.ended) {
            (Some(Told::Timeout), _) => EndResult::Timeout,
            (Some(Told::Idle), _) => EndResult::IdleTimeout,
            (Some(Told::Drain), _) => EndResult::Drain,
            (Some(Told::Killed), _) => EndResult::Killed,
            (None, _) if self.out_of_memory => EndResult::Memory,
            (None, Ended::Exited(0)) => EndResult::Success,
            (None, Ended::Exited(_)) => EndResult::Failure,
            (None, Ended::Killed(_)) => EndResult::Signal,
        }
    }
}

/// What the end of a handler is counted as: each as one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum EndResult {
    /// It exited with status 0.
    Success,
    /// It exited with another status.
    Failure,
    /// A signal that skd hasn't sent ended it.
    Signal,
    /// skd told it to end at `--timeout`.
    Timeout,
    /// The same at `--idle-timeout`.
    IdleTimeout,
    /// The same because skd or its service ended.
    Drain,
    /// The same for an administrator.
    Killed,
    /// The kernel has killed it for want of memory: it was at `--memory-max`, or its service was.
    Memory,
}

impl EndResult {
    /// All results.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Success,
        Self::Failure,
        Self::Signal,
        Self::Timeout,
        Self::IdleTimeout,
        Self::Drain,
        Self::Killed,
        Self::Memory,
    ];

    /// The number of results.
    pub const COUNT: usize = Self::Memory as usize + 1;

    /// Returns its label in counters and JSON lines. Labels stay.
    pub fn label(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Signal => "signal",
            Self::Timeout => "timeout",
            Self::IdleTimeout => "idle-timeout",
            Self::Drain => "drain",
            Self::Killed => "killed",
            Self::Memory => "memory",
        }
    }
}

/// Why skd has told a handler to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Told {
    /// It had run for `--timeout`.
    Timeout,
    /// Its connection had been idle for `--idle-timeout`.
    Idle,
    /// skd or its service ended.
    Drain,
    /// An administrator wanted it.
    Killed,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// Its handler has not read the datagrams before it.
    Overflow,
    /// It has no bytes, which its handler would take for the end.
    Empty,
    /// It has more bytes than a UDP datagram can have.
    TooLong,
    /// There was no handler for it, because of a shortage.
    Short,
    /// skd drains, or the service is gone, and its sender has no handler.
    Closed,
    /// It is an answer to a sender without an address.
    NoAddress,
    /// It is an answer that couldn't be sent.
    NotSent,
    /// Its sender is one of skd's own sockets, so it is forged, or an answer to a forged one.
    Own,
    /// Its sender has passed descriptors along.
    Descriptors,
    /// The service is disabled, and its sender has no handler.
    Disabled,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Overflow,
        Self::Empty,
        Self::TooLong,
        Self::Short,
        Self::Closed,
        Self::NoAddress,
        Self::NotSent,
        Self::Own,
        Self::Descriptors,
        Self::Disabled,
    ];

    /// The number of reasons.
    pub const COUNT: usize = Self::Disabled as usize + 1;

    /// Returns its label in counters and JSON lines. Labels stay.
    pub fn label(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::Empty => "empty",
            Self::TooLong => "too-long",
            Self::Short => "shortage",
            Self::Closed => "closed",
            Self::NoAddress => "no-address",
            Self::NotSent => "not-sent",
            Self::Own => "own",
            Self::Descriptors => "descriptors",
            Self::Disabled => "disabled",
        }
    }
}
